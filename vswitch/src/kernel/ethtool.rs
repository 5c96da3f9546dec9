//! Offloads of a device, by the ethtool ioctl, in the namespace of the calling thread.
//!
//! For another namespace: inside [`super::netns::Netns::enter`].

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// Work that a device can take off the network stack, or that the stack does for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Feature {
    /// Gathering received segments. On a veth it also makes NAPI run, without which XDP cannot redirect into it.
    Gro,
    /// Segmentation by the stack, as late as can be.
    Gso,
    /// Checksums of what is received.
    RxChecksum,
    /// All checksums of what is sent.
    TxChecksum,
    /// Segmentation of TCP by the device.
    Tso,
    /// VLAN tags of what is sent, kept beside the frame.
    TxVlan,
    /// VLAN tags of what is received, taken off the frame.
    RxVlan,
}

/// Why an offload could not be read or set.
#[derive(Debug, thiserror::Error)]
pub enum EthtoolError {
    /// No such device.
    #[error("cannot {operation} of {device}: there is no such device")]
    NotFound {
        /// What was tried.
        operation: &'static str,
        /// The device.
        device: String,
    },
    /// The kernel does not let this process.
    #[error("cannot {operation} of {device}: no permission")]
    PermissionDenied {
        /// What was tried.
        operation: &'static str,
        /// The device.
        device: String,
    },
    /// The device does not have it, or cannot do without.
    #[error("{device} cannot switch {} {feature:?}", if *.on { "on" } else { "off" })]
    Fixed {
        /// The device.
        device: String,
        /// The offload.
        feature: Feature,
        /// What was wanted.
        on: bool,
    },
    /// Anything else.
    #[error("cannot {operation} of {device}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The device.
        device: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Whether an offload is on.
///
/// # Errors
/// [`EthtoolError`], but for `Fixed`.
pub fn get(device: &str, feature: Feature) -> Result<bool, EthtoolError> {
    let bits = Channel::open(device)?.features()?;
    Ok(bits.iter().any(|bit| bit.active && feature.covers(&bit.name)))
}

/// Which offloads are on.
///
/// # Errors
/// [`EthtoolError`], but for `Fixed`.
pub fn states(device: &str) -> Result<Vec<(Feature, bool)>, EthtoolError> {
    let bits = Channel::open(device)?.features()?;
    let is_on = |feature: Feature| bits.iter().any(|bit| bit.active && feature.covers(&bit.name));
    Ok(Feature::ALL.map(|feature| (feature, is_on(feature))).to_vec())
}

/// Switches an offload on or off; returns whether it was on.
///
/// # Errors
/// [`EthtoolError`]; `Fixed` if the device then has it otherwise.
pub fn set(device: &str, feature: Feature, on: bool) -> Result<bool, EthtoolError> {
    let channel = Channel::open(device)?;
    let before = channel.features()?;
    let was = before.iter().any(|bit| bit.active && feature.covers(&bit.name));
    // What the user wants counts too: it comes back by itself once something else allows it.
    let changes: Vec<_> = before
        .iter()
        .enumerate()
        .filter(|(_, bit)| feature.covers(&bit.name) && bit.available && !(on && bit.never_wanted()))
        .filter(|(_, bit)| bit.active != on || bit.requested != on)
        .map(|(number, _)| number)
        .collect();
    if !changes.is_empty() {
        channel.request(&changes, before.len(), on)?;
    }
    let after = channel.features()?;
    let is = after.iter().any(|bit| bit.active && feature.covers(&bit.name));
    if is == on { Ok(was) } else { Err(EthtoolError::Fixed { device: device.to_owned(), feature, on }) }
}

/// The name of a device's driver: "veth", "virtio_net".
///
/// # Errors
/// [`EthtoolError`], but for `Fixed`; some devices have no driver that says.
pub fn driver(device: &str) -> Result<String, EthtoolError> {
    // struct ethtool_drvinfo: the command, the name in 32 bytes, and 160 bytes of versions and counts.
    let mut words = [0; 49];
    words[0] = ETHTOOL_GDRVINFO;
    Channel::open(device)?.command("read the driver", &mut words)?;
    let name: Vec<u8> = words[1..9].iter().flat_map(|word| word.to_ne_bytes()).collect();
    Ok(text(&name))
}

impl Feature {
    /// All that is looked at.
    pub const ALL: [Self; 7] =
        [Self::Gso, Self::Tso, Self::Gro, Self::TxChecksum, Self::RxChecksum, Self::TxVlan, Self::RxVlan];

    /// The name in JSON.
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

    /// Whether a bit with this name belongs to it (netdev_features_strings in net/ethtool/common.c).
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

/// One of the kernel's feature bits of a device.
#[derive(Debug)]
struct Bit {
    name: String,
    available: bool,
    requested: bool,
    active: bool,
}

impl Bit {
    /// It breaks the IP identification (commit cbc53e08a793): only who asks for it by name wants it.
    fn never_wanted(&self) -> bool {
        self.name == "tx-tcp-mangleid-segmentation"
    }
}

// linux/ethtool.h and linux/sockios.h
const SIOCETHTOOL: libc::c_ulong = 0x8946;
const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GFEATURES: u32 = 0x3a;
const ETHTOOL_SFEATURES: u32 = 0x3b;
const ETH_SS_FEATURES: u32 = 4;
const ETH_GSTRING_LEN: usize = 32;

/// The ioctl, for one device. Commands are arrays of words: all structures of this interface can be seen so.
struct Channel<'a> {
    socket: OwnedFd,
    device: &'a str,
    name: [libc::c_char; libc::IFNAMSIZ],
}

const READ: &str = "read the offloads";

impl<'a> Channel<'a> {
    fn open(device: &'a str) -> Result<Self, EthtoolError> {
        let mut name = [0; libc::IFNAMSIZ];
        if device.len() >= name.len() {
            return Err(EthtoolError::NotFound { operation: READ, device: device.to_owned() });
        }
        for (to, from) in name.iter_mut().zip(device.bytes()) {
            *to = from.cast_signed();
        }
        let failed = |errno: Errno| error(READ, device, errno);
        let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).map_err(failed)?;
        Ok(Self { socket, device, name })
    }

    fn features(&self) -> Result<Vec<Bit>, EthtoolError> {
        let names = self.names()?;
        let blocks = names.len().div_ceil(32);
        // struct ethtool_gfeatures: per block the bits available, requested, active and never changed.
        let mut words = vec![0; 2 + 4 * blocks];
        words[..2].copy_from_slice(&[ETHTOOL_GFEATURES, blocks as u32]);
        self.command(READ, &mut words)?;
        let bit = |number: usize, column: usize| words[2 + 4 * (number / 32) + column] >> (number % 32) & 1 != 0;
        let bits = names.into_iter().enumerate().map(|(number, name)| Bit {
            name,
            available: bit(number, 0),
            requested: bit(number, 1),
            active: bit(number, 2),
        });
        Ok(bits.collect())
    }

    fn request(&self, changes: &[usize], count: usize, on: bool) -> Result<(), EthtoolError> {
        let blocks = count.div_ceil(32);
        // struct ethtool_sfeatures: per block the bits meant, and their values.
        let mut words = vec![0; 2 + 2 * blocks];
        words[..2].copy_from_slice(&[ETHTOOL_SFEATURES, blocks as u32]);
        for number in changes {
            words[2 + 2 * (number / 32)] |= 1 << (number % 32);
            words[3 + 2 * (number / 32)] |= u32::from(on) << (number % 32);
        }
        self.command("set the offloads", &mut words)
    }

    /// The names of the bits, in their order; kernels differ.
    fn names(&self) -> Result<Vec<String>, EthtoolError> {
        // struct ethtool_sset_info: a mask of 64 bits, then a count for each bit in it.
        let mask = (1_u64 << ETH_SS_FEATURES).to_ne_bytes();
        let [low, high] = [0, 4].map(|at| u32::from_ne_bytes([mask[at], mask[at + 1], mask[at + 2], mask[at + 3]]));
        let mut words = [ETHTOOL_GSSET_INFO, 0, low, high, 0];
        self.command(READ, &mut words)?;
        let count = words[4] as usize;
        // struct ethtool_gstrings.
        let mut words = vec![0; 3 + count * ETH_GSTRING_LEN / 4];
        words[..3].copy_from_slice(&[ETHTOOL_GSTRINGS, ETH_SS_FEATURES, count as u32]);
        self.command(READ, &mut words)?;
        let bytes: Vec<u8> = words[3..].iter().flat_map(|word| word.to_ne_bytes()).collect();
        Ok(bytes.chunks_exact(ETH_GSTRING_LEN).map(text).collect())
    }

    /// Runs a command, which is long enough for what the kernel writes back.
    fn command(&self, operation: &'static str, words: &mut [u32]) -> Result<(), EthtoolError> {
        let mut request = libc::ifreq {
            ifr_name: self.name,
            ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: words.as_mut_ptr().cast() },
        };
        // SAFETY: the request is whole and points at a command whose length in it is that of `words`.
        let result = unsafe { libc::ioctl(self.socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
        Errno::result(result).map(drop).map_err(|errno| error(operation, self.device, errno))
    }
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn error(operation: &'static str, device: &str, errno: Errno) -> EthtoolError {
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
    fn offloads_are_the_bits_that_ethtool_means_by_them() {
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
    fn a_name_too_long_is_no_device() {
        assert!(matches!(get("sixteen-letters-", Feature::Gro), Err(EthtoolError::NotFound { .. })));
    }

    #[test]
    fn strings_end_at_their_zero() {
        assert_eq!(text(b"rx-gro\0\0"), "rx-gro");
        assert_eq!(text(b"whole"), "whole");
    }
}
