//! Sets the offloads of a device with the ethtool ioctl, because not every machine has the program
//! `ethtool`.

use std::os::fd::AsRawFd as _;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::Netns;

const ETHTOOL_SET_TX_CHECKSUMMING: u32 = 0x17;

/// `ETHTOOL_GFLAGS`, `ETHTOOL_SFLAGS`, and the flag for VLAN tag insertion by the device
/// (linux/ethtool.h).
const ETHTOOL_GET_FLAGS: u32 = 0x25;
const ETHTOOL_SET_FLAGS: u32 = 0x26;
const FLAG_TX_VLAN: u32 = 1 << 7;

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

/// Does what `ethtool -K IFNAME tx on|off` does. When off, every frame leaves the device with a
/// finished checksum and at most MTU bytes long, as on a real wire.
pub fn set_tx_checksumming(netns: &Netns, ifname: &str, on: bool) {
    ethtool(netns, ifname, ETHTOOL_SET_TX_CHECKSUMMING, on.into());
}

/// Does what `ethtool -K IFNAME txvlan on|off` does. When on, the tag of a frame is in the metadata
/// of the skb; when off, it is in the frame.
pub fn set_tx_vlan(netns: &Netns, ifname: &str, on: bool) {
    let flags = ethtool(netns, ifname, ETHTOOL_GET_FLAGS, 0);
    let wanted = if on { flags | FLAG_TX_VLAN } else { flags & !FLAG_TX_VLAN };
    ethtool(netns, ifname, ETHTOOL_SET_FLAGS, wanted);
    assert_eq!(ethtool(netns, ifname, ETHTOOL_GET_FLAGS, 0), wanted, "the flags of {ifname}");
}

/// Calls the ioctl, and returns the value that the kernel wrote back.
fn ethtool(netns: &Netns, ifname: &str, command: u32, data: u32) -> u32 {
    netns.inside(|| {
        let mut value = EthtoolValue { command, data };
        let mut request = InterfaceRequest { name: [0; libc::IFNAMSIZ], data: &raw mut value, rest: [0; 2] };
        request.name[..ifname.len()].copy_from_slice(ifname.as_bytes());
        let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
        // SAFETY: the request has the layout and size of an ifreq, and its data points to an
        // ethtool_value that outlives the call.
        let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
        assert_eq!(result, 0, "ethtool {command:#x} of {ifname}: {}", std::io::Error::last_os_error());
        value.data
    })
}
