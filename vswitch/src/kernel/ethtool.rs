//! Reads and sets the offloads of a device by the ethtool ioctl, in the namespace of the calling
//! thread.
//!
//! For another namespace, call the functions inside [`super::netns::Netns::enter`].

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// An offload: work that the device does in place of the network stack, or that the stack postpones
/// or batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Feature {
    /// Generic receive offload. On a veth it also enables NAPI, which XDP needs to redirect frames
    /// into the veth.
    Gro,
    /// Generic segmentation offload: the stack segments as late as possible.
    Gso,
    /// Checksums of received packets.
    RxChecksum,
    /// All checksums of sent packets.
    TxChecksum,
    /// TCP segmentation by the device.
    Tso,
    /// Insertion of VLAN tags into sent frames; the stack keeps the tag beside the frame.
    TxVlan,
    /// Removal of VLAN tags from received frames.
    RxVlan,
}

/// Error of reading or setting an offload.
#[derive(Debug, thiserror::Error)]
pub enum EthtoolError {
    /// The device does not exist.
    #[error("cannot {operation} of {device}: the device does not exist")]
    NotFound {
        /// Operation that failed.
        operation: &'static str,
        /// Name of the device.
        device: String,
    },
    /// The process lacks the permission.
    #[error("cannot {operation} of {device}: no permission")]
    PermissionDenied {
        /// Operation that failed.
        operation: &'static str,
        /// Name of the device.
        device: String,
    },
    /// The device does not support the offload, or cannot disable it.
    #[error("cannot switch {} {feature:?} of {device}: the device does not support this", if *.on { "on" } else { "off" })]
    Fixed {
        /// Name of the device.
        device: String,
        /// Offload that was to be changed.
        feature: Feature,
        /// Requested state.
        on: bool,
    },
    /// Any other error.
    #[error("cannot {operation} of {device}: {source}")]
    Io {
        /// Operation that failed.
        operation: &'static str,
        /// Name of the device.
        device: String,
        /// Error that the kernel returned.
        source: io::Error,
    },
}

/// Reports whether an offload is on.
///
/// # Errors
/// [`EthtoolError`] other than `Fixed`.
pub fn get(device: &str, feature: Feature) -> Result<bool, EthtoolError> {
    let bits = Channel::open(device)?.read_bits()?;
    Ok(bits.iter().any(|bit| bit.active && feature.covers(&bit.name)))
}

/// Returns the state of every offload; true means on.
///
/// # Errors
/// [`EthtoolError`] other than `Fixed`.
pub fn states(device: &str) -> Result<Vec<(Feature, bool)>, EthtoolError> {
    let bits = Channel::open(device)?.read_bits()?;
    let is_on = |feature: Feature| bits.iter().any(|bit| bit.active && feature.covers(&bit.name));
    Ok(Feature::ALL.map(|feature| (feature, is_on(feature))).to_vec())
}

/// Switches an offload on or off and returns its previous state.
///
/// # Errors
/// [`EthtoolError`]; `Fixed` if the device did not change to the requested state.
pub fn set(device: &str, feature: Feature, on: bool) -> Result<bool, EthtoolError> {
    let channel = Channel::open(device)?;
    let bits = channel.read_bits()?;
    let previous = bits.iter().any(|bit| bit.active && feature.covers(&bit.name));
    // The requested state of a bit is set as well as the active state. An offload that is requested
    // but not active would become active by itself as soon as another setting allows it.
    let changes: Vec<_> = bits
        .iter()
        .enumerate()
        .filter(|(_, bit)| feature.covers(&bit.name) && bit.available && !(on && bit.is_excluded()))
        .filter(|(_, bit)| bit.active != on || bit.requested != on)
        .map(|(number, _)| number)
        .collect();
    if !changes.is_empty() {
        channel.set_bits(&changes, bits.len(), on)?;
    }
    let after = channel.read_bits()?;
    let current = after.iter().any(|bit| bit.active && feature.covers(&bit.name));
    if current == on { Ok(previous) } else { Err(EthtoolError::Fixed { device: device.to_owned(), feature, on }) }
}

/// Returns the name of a device's driver, for example "veth" or "virtio_net".
///
/// # Errors
/// [`EthtoolError`] other than `Fixed`. Some devices do not report a driver.
pub fn driver(device: &str) -> Result<String, EthtoolError> {
    // struct ethtool_drvinfo: the command, the driver's name in 32 bytes, and 160 bytes of versions
    // and counts.
    let mut words = [0; 49];
    words[0] = ETHTOOL_GDRVINFO;
    Channel::open(device)?.command("read the driver", &mut words)?;
    let name: Vec<u8> = words[1..9].iter().flat_map(|word| word.to_ne_bytes()).collect();
    Ok(string_from(&name))
}

impl Feature {
    /// All offloads, in the order of display.
    pub const ALL: [Self; 7] =
        [Self::Gso, Self::Tso, Self::Gro, Self::TxChecksum, Self::RxChecksum, Self::TxVlan, Self::RxVlan];

    /// Returns the name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gso => "gso",
            Self::Tso => "tso",
            Self::Gro => "gro",
            Self::TxChecksum => "tx_checksum",
            Self::RxChecksum => "rx_checksum",
            Self::TxVlan => "tx_vlan",
            Self::RxVlan => "rx_vlan",
        }
    }

    /// Reports whether a feature bit with this name belongs to the offload (netdev_features_strings
    /// in net/ethtool/common.c).
    fn covers(self, bit: &str) -> bool {
        match self {
            Self::Gso => bit == "tx-generic-segmentation",
            Self::RxChecksum => bit == "rx-checksum",
            Self::Gro => bit == "rx-gro",
            Self::TxChecksum => bit.starts_with("tx-checksum-"),
            Self::Tso => bit.starts_with("tx-tcp") && bit.ends_with("-segmentation"),
            Self::TxVlan => matches!(bit, "tx-vlan-hw-insert" | "tx-vlan-stag-hw-insert"),
            Self::RxVlan => matches!(bit, "rx-vlan-hw-parse" | "rx-vlan-stag-hw-parse"),
        }
    }
}

/// A feature bit of a device.
#[derive(Debug)]
struct Bit {
    name: String,
    available: bool,
    requested: bool,
    active: bool,
}

impl Bit {
    /// Reports whether the bit must not be switched on together with its group. This one breaks the
    /// IP identification field (commit cbc53e08a793), so it is enabled only on request.
    fn is_excluded(&self) -> bool {
        self.name == "tx-tcp-mangleid-segmentation"
    }
}

// Constants of linux/ethtool.h and linux/sockios.h.
const SIOCETHTOOL: libc::c_ulong = 0x8946;
const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GFEATURES: u32 = 0x3a;
const ETHTOOL_SFEATURES: u32 = 0x3b;
const ETH_SS_FEATURES: u32 = 4;
const ETH_GSTRING_LEN: usize = 32;

/// Socket for ioctls on one device. Commands are passed as arrays of 32-bit words, which fits all
/// structures of this interface.
struct Channel<'a> {
    socket: OwnedFd,
    device: &'a str,
    name: [libc::c_char; libc::IFNAMSIZ],
}

const READ_OFFLOADS: &str = "read the offloads";

impl<'a> Channel<'a> {
    fn open(device: &'a str) -> Result<Self, EthtoolError> {
        let mut name = [0; libc::IFNAMSIZ];
        if device.len() >= name.len() {
            return Err(EthtoolError::NotFound { operation: READ_OFFLOADS, device: device.to_owned() });
        }
        for (to, from) in name.iter_mut().zip(device.bytes()) {
            *to = from.cast_signed();
        }
        let failed = |errno: Errno| error_from(READ_OFFLOADS, device, errno);
        let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).map_err(failed)?;
        Ok(Self { socket, device, name })
    }

    fn read_bits(&self) -> Result<Vec<Bit>, EthtoolError> {
        let names = self.bit_names()?;
        let blocks = names.len().div_ceil(32);
        // struct ethtool_gfeatures: for each block of 32 bits the words available, requested,
        // active and never_changed.
        let mut words = vec![0; 2 + 4 * blocks];
        words[..2].copy_from_slice(&[ETHTOOL_GFEATURES, blocks as u32]);
        self.command(READ_OFFLOADS, &mut words)?;
        let bit = |number: usize, column: usize| words[2 + 4 * (number / 32) + column] >> (number % 32) & 1 != 0;
        let bits = names.into_iter().enumerate().map(|(number, name)| Bit {
            name,
            available: bit(number, 0),
            requested: bit(number, 1),
            active: bit(number, 2),
        });
        Ok(bits.collect())
    }

    fn set_bits(&self, changes: &[usize], count: usize, on: bool) -> Result<(), EthtoolError> {
        let blocks = count.div_ceil(32);
        // struct ethtool_sfeatures: for each block of 32 bits the words valid and requested.
        let mut words = vec![0; 2 + 2 * blocks];
        words[..2].copy_from_slice(&[ETHTOOL_SFEATURES, blocks as u32]);
        for number in changes {
            words[2 + 2 * (number / 32)] |= 1 << (number % 32);
            words[3 + 2 * (number / 32)] |= u32::from(on) << (number % 32);
        }
        self.command("set the offloads", &mut words)
    }

    /// Returns the names of the feature bits in bit order, which depends on the kernel.
    fn bit_names(&self) -> Result<Vec<String>, EthtoolError> {
        // struct ethtool_sset_info: a 64-bit mask, then a count for each bit that is set in it.
        let mask = (1_u64 << ETH_SS_FEATURES).to_ne_bytes();
        let [low, high] = [0, 4].map(|at| u32::from_ne_bytes([mask[at], mask[at + 1], mask[at + 2], mask[at + 3]]));
        let mut words = [ETHTOOL_GSSET_INFO, 0, low, high, 0];
        self.command(READ_OFFLOADS, &mut words)?;
        let count = words[4] as usize;
        // struct ethtool_gstrings.
        let mut words = vec![0; 3 + count * ETH_GSTRING_LEN / 4];
        words[..3].copy_from_slice(&[ETHTOOL_GSTRINGS, ETH_SS_FEATURES, count as u32]);
        self.command(READ_OFFLOADS, &mut words)?;
        let bytes: Vec<u8> = words[3..].iter().flat_map(|word| word.to_ne_bytes()).collect();
        Ok(bytes.chunks_exact(ETH_GSTRING_LEN).map(string_from).collect())
    }

    /// Runs a command. `words` must be long enough for the data that the kernel writes back.
    fn command(&self, operation: &'static str, words: &mut [u32]) -> Result<(), EthtoolError> {
        let mut request = libc::ifreq {
            ifr_name: self.name,
            ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: words.as_mut_ptr().cast() },
        };
        // SAFETY: the request is initialized and points to `words`, whose length agrees with the
        // sizes in the command.
        let result = unsafe { libc::ioctl(self.socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
        Errno::result(result).map(drop).map_err(|errno| error_from(operation, self.device, errno))
    }
}

fn string_from(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn error_from(operation: &'static str, device: &str, errno: Errno) -> EthtoolError {
    let device = device.to_owned();
    match errno {
        Errno::ENODEV => EthtoolError::NotFound { operation, device },
        Errno::EPERM | Errno::EACCES => EthtoolError::PermissionDenied { operation, device },
        errno => EthtoolError::Io { operation, device, source: errno.into() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offloads_cover_their_feature_bits() {
        assert!(Feature::TxChecksum.covers("tx-checksum-ip-generic"));
        assert!(Feature::TxChecksum.covers("tx-checksum-sctp"));
        assert!(!Feature::TxChecksum.covers("rx-checksum"));
        assert!(Feature::Tso.covers("tx-tcp6-segmentation"));
        assert!(!Feature::Tso.covers("tx-udp-segmentation"));
        assert!(Feature::RxChecksum.covers("rx-checksum") && Feature::Gso.covers("tx-generic-segmentation"));
        assert!(Feature::Gro.covers("rx-gro"));
        assert!(!Feature::Gro.covers("rx-gro-hw"));
    }

    #[test]
    fn a_device_name_that_is_too_long_is_not_found() {
        assert!(matches!(get("sixteen-letters-", Feature::Gro), Err(EthtoolError::NotFound { .. })));
    }

    #[test]
    fn strings_end_at_the_first_zero_byte() {
        assert_eq!(string_from(b"rx-gro\0\0"), "rx-gro");
        assert_eq!(string_from(b"whole"), "whole");
    }
}
