//! Offloads of a device, set with the ethtool ioctl: the program `ethtool` is not everywhere.

use std::os::fd::AsRawFd as _;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::Netns;

const ETHTOOL_SET_TX_CHECKSUMMING: u32 = 0x17;

/// `struct ethtool_value` of linux/ethtool.h.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// `struct ifreq` of linux/if.h, as far as SIOCETHTOOL reads it.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; libc::IFNAMSIZ],
    data: *mut EthtoolValue,
    rest: [u64; 2],
}

/// What `ethtool -K IFNAME tx on|off` does. Off, every frame leaves the device with its checksum done and at most MTU
/// long, as on a real wire.
pub fn set_tx_checksumming(netns: &Netns, ifname: &str, on: bool) {
    netns.inside(|| {
        let mut value = EthtoolValue { command: ETHTOOL_SET_TX_CHECKSUMMING, data: on.into() };
        let mut request = InterfaceRequest { name: [0; libc::IFNAMSIZ], data: &raw mut value, rest: [0; 2] };
        request.name[..ifname.len()].copy_from_slice(ifname.as_bytes());
        let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
        // SAFETY: the request is an ifreq with room for all of it, and its data points to an ethtool_value that lives on.
        let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
        assert_eq!(result, 0, "ethtool -K {ifname} tx: {}", std::io::Error::last_os_error());
    });
}
