//! Offloads and queueing disciplines of devices, through the kernel's own interfaces: `ethtool` and `tc` are not
//! everywhere.

use std::{collections::BTreeSet, os::fd::AsRawFd as _};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcMessage},
};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
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

/// The queueing disciplines in a namespace: index of the device, and kind. `clsact` is what switches without tcx hang on.
pub fn queueing_disciplines(netns: &Netns) -> BTreeSet<(i32, String)> {
    let socket = netns.inside(|| Socket::new(NETLINK_ROUTE)).expect("a netlink socket");
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_DUMP | NLM_F_REQUEST;
    let mut request = NetlinkMessage::new(
        header,
        NetlinkPayload::from(RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default())),
    );
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0).expect("asking the kernel");

    let mut found = BTreeSet::new();
    loop {
        let (answer, _) = socket.recv_from_full().expect("the kernel's answer");
        let mut rest = &answer[..];
        while !rest.is_empty() {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).expect("a netlink message");
            match message.payload {
                NetlinkPayload::Done(_) => return found,
                NetlinkPayload::Error(error) => panic!("listing queueing disciplines: {error}"),
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewQueueDiscipline(discipline)) => {
                    let kind = discipline.attributes.into_iter().find_map(|attribute| match attribute {
                        TcAttribute::Kind(kind) => Some(kind),
                        _ => None,
                    });
                    found.insert((discipline.header.index, kind.unwrap_or_default()));
                }
                _ => {}
            }
            // Messages begin at multiples of four (NLMSG_ALIGN).
            let length = (message.header.length as usize).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}
