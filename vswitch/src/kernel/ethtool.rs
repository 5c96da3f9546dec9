//! Offloads of a device, by the ethtool ioctl, in the namespace of the calling thread.
//!
//! The ioctl and not netlink: the older commands set all kinds of checksums at once, which is what is meant here.

use std::io;
use std::os::fd::AsRawFd as _;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// Work that a device takes off the network stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Feature {
    /// Gathering received segments. On a veth it also starts NAPI (commit d3256efd8e8b).
    Gro,
    /// Checksums of what is sent, of every protocol.
    TxChecksum,
    /// Segmentation of TCP that is sent.
    Tso,
    /// VLAN tags of what is sent, kept beside the frame.
    TxVlan,
    /// VLAN tags of what is received, taken off the frame.
    RxVlan,
}

/// An offload or a driver's name could not be read or set.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} of {device}: {source}")]
pub struct EthtoolError {
    action: String,
    device: String,
    source: io::Error,
}

// linux/sockios.h, linux/ethtool.h.
const SIOCETHTOOL: libc::c_ulong = 0x8946;
const GET_DRIVER: u32 = 0x03;
const GET_FLAGS: u32 = 0x25;
const SET_FLAGS: u32 = 0x26;
const FLAG_TX_VLAN: u32 = 1 << 7;
const FLAG_RX_VLAN: u32 = 1 << 8;

impl Feature {
    /// The commands that read and set it, and its bit where it shares them with others.
    const fn commands(self) -> (u32, u32, Option<u32>) {
        match self {
            Self::Gro => (0x2b, 0x2c, None),
            Self::TxChecksum => (0x16, 0x17, None),
            Self::Tso => (0x1e, 0x1f, None),
            Self::TxVlan => (GET_FLAGS, SET_FLAGS, Some(FLAG_TX_VLAN)),
            Self::RxVlan => (GET_FLAGS, SET_FLAGS, Some(FLAG_RX_VLAN)),
        }
    }
}

/// Whether a device has a feature switched on.
///
/// # Errors
/// No such device, or its driver does not say.
pub fn get(device: &str, feature: Feature) -> Result<bool, EthtoolError> {
    let (get, _, bit) = feature.commands();
    let value = value(device, get).map_err(|source| failed(&format!("read {feature:?}"), device, source))?;
    Ok(bit.map_or(value != 0, |bit| value & bit != 0))
}

/// Switches a feature on or off; returns how it was.
///
/// # Errors
/// No such device, or its driver cannot.
pub fn set(device: &str, feature: Feature, on: bool) -> Result<bool, EthtoolError> {
    let (get, set, bit) = feature.commands();
    let change = || {
        let before = value(device, get)?;
        let (was, wanted) = match bit {
            None => (before != 0, u32::from(on)),
            Some(bit) => (before & bit != 0, if on { before | bit } else { before & !bit }),
        };
        if was != on {
            let mut request = Value { command: set, data: wanted };
            call(device, (&raw mut request).cast())?;
        }
        Ok(was)
    };
    change().map_err(|source| failed(&format!("set {feature:?} {}", if on { "on" } else { "off" }), device, source))
}

/// The name of a device's driver: "veth", "virtio_net".
///
/// # Errors
/// No such device, or it has no driver that says.
pub fn driver(device: &str) -> Result<String, EthtoolError> {
    // struct ethtool_drvinfo: the command, the name in 32 bytes, and 160 bytes of versions and counts.
    let mut information = [0_u32; 49];
    information[0] = GET_DRIVER;
    call(device, information.as_mut_ptr().cast()).map_err(|source| failed("read the driver", device, source))?;
    let name = information[1..9].iter().flat_map(|word| word.to_ne_bytes()).take_while(|byte| *byte != 0).collect();
    Ok(String::from_utf8(name).unwrap_or_default())
}

fn failed(action: &str, device: &str, source: io::Error) -> EthtoolError {
    EthtoolError { action: action.to_owned(), device: device.to_owned(), source }
}

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

fn value(device: &str, command: u32) -> io::Result<u32> {
    let mut request = Value { command, data: 0 };
    call(device, (&raw mut request).cast())?;
    Ok(request.data)
}

/// Makes the ioctl; `request` points to the structure that its command asks for.
fn call(device: &str, request: *mut libc::c_char) -> io::Result<()> {
    // SAFETY: an all-zero ifreq is valid.
    let mut interface: libc::ifreq = unsafe { std::mem::zeroed() };
    if device.len() >= interface.ifr_name.len() {
        return Err(Errno::ENODEV.into());
    }
    for (to, from) in interface.ifr_name.iter_mut().zip(device.bytes()) {
        *to = from as libc::c_char;
    }
    interface.ifr_ifru.ifru_data = request;
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: the request names a device and points to a structure of the size that its command asks for.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut interface) };
    Errno::result(result).map(drop).map_err(io::Error::from)
}
