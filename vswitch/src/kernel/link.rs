//! Parses link messages of the kernel and builds the messages that create and change links.

use std::os::fd::{AsFd as _, AsRawFd as _};

use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, InfoVxlan, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage, LinkXdp,
};
use vswitch_common::Mac;

use super::netns::Netns;

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index in its namespace.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// MAC address; `None` if the link-layer address is not an Ethernet address.
    pub mac: Option<Mac>,
    /// MTU in bytes, without the Ethernet header.
    pub mtu: u32,
    /// Kind of virtual device, for example "veth" or "bridge"; `None` for hardware.
    pub kind: Option<String>,
    /// Administratively up (IFF_UP).
    pub up: bool,
    /// Up and with carrier (IFF_LOWER_UP). Kernels from 6.8 on (commit facd15dfd691) pass frames
    /// when they report this flag. Older kernels may start to pass frames a little later.
    pub running: bool,
    /// Interface alias, which holds the mark of vswitch.
    pub alias: Option<String>,
    /// For a veth, the interface index of its peer in the peer's namespace.
    pub peer_index: Option<u32>,
    /// Id of the peer's namespace, if it is not in this one.
    pub peer_netnsid: Option<i32>,
    /// Promiscuous mode set by an administrator (IFF_PROMISC).
    pub promiscuous: bool,
    /// Id of the attached XDP program.
    pub xdp_program: Option<u32>,
    /// Whether this is the loopback device.
    pub loopback: bool,
    /// Interface index of the bridge or bond that the device belongs to.
    pub master: Option<u32>,
    /// For a VXLAN device, the UDP port that it listens on.
    pub vxlan_port: Option<u16>,
}

/// Description of a veth pair to create.
#[derive(Clone, Copy, Debug)]
pub struct VethSpec<'a> {
    /// Name of the first end, which is created in the connection's namespace.
    pub name: &'a str,
    /// MAC address of the first end; `None` lets the kernel choose.
    pub mac: Option<Mac>,
    /// MTU of both ends in bytes.
    pub mtu: u32,
    /// Alias of the first end.
    pub alias: Option<&'a str>,
    /// Name of the peer.
    pub peer_name: &'a str,
    /// MAC address of the peer; `None` lets the kernel choose.
    pub peer_mac: Option<Mac>,
    /// Namespace in which the peer is created; `None` means the connection's namespace.
    pub peer_netns: Option<&'a Netns>,
}

impl From<&LinkMessage> for Link {
    fn from(message: &LinkMessage) -> Self {
        let flags = message.header.flags;
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            mac: None,
            mtu: 0,
            kind: None,
            up: flags.contains(LinkFlags::Up),
            running: flags.contains(LinkFlags::LowerUp),
            alias: None,
            peer_index: None,
            peer_netnsid: None,
            promiscuous: flags.contains(LinkFlags::Promisc),
            xdp_program: None,
            loopback: flags.contains(LinkFlags::Loopback),
            master: None,
            vxlan_port: None,
        };
        let mut lower = None;
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Address(bytes) => link.mac = bytes.as_slice().try_into().ok().map(Mac),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias.clone()),
                LinkAttribute::Link(index) => lower = Some(*index),
                LinkAttribute::LinkNetNsId(id) => link.peer_netnsid = Some(*id),
                LinkAttribute::Controller(index) => link.master = Some(*index),
                LinkAttribute::Xdp(entries) => link.xdp_program = entries.iter().find_map(xdp_program),
                LinkAttribute::LinkInfo(entries) => {
                    link.kind = entries.iter().find_map(kind);
                    link.vxlan_port = entries.iter().find_map(vxlan_port);
                }
                _ => {}
            }
        }
        // For other kinds the attribute names the lower device.
        link.peer_index = lower.filter(|_| link.kind.as_deref() == Some("veth"));
        link
    }
}

fn xdp_program(entry: &LinkXdp) -> Option<u32> {
    match entry {
        LinkXdp::ProgId(id) if *id != 0 => Some(*id),
        _ => None,
    }
}

/// Returns the kind of the device, in the kernel's spelling.
fn kind(entry: &LinkInfo) -> Option<String> {
    match entry {
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    }
}

/// Returns the value of IFLA_VXLAN_PORT (linux/if_link.h).
fn vxlan_port(entry: &LinkInfo) -> Option<u16> {
    let LinkInfo::Data(InfoData::Vxlan(data)) = entry else { return None };
    data.iter().find_map(|entry| match entry {
        InfoVxlan::Port(port) => Some(*port),
        _ => None,
    })
}

/// Reports whether a message is about the device itself. Messages about its role as a bridge port
/// have the family AF_BRIDGE.
pub(super) fn is_about_device(message: &LinkMessage) -> bool {
    message.header.interface_family == AddressFamily::Unspec
}

pub(super) fn by_index(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}

/// Returns a query for links without their statistics, which would make up most of the answer.
pub(super) fn query_all() -> LinkMessage {
    with_attribute(LinkMessage::default(), LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]))
}

pub(super) fn query_by_index(index: u32) -> LinkMessage {
    let mut message = query_all();
    message.header.index = index;
    message
}

pub(super) fn query_by_name(name: &str) -> LinkMessage {
    with_attribute(query_all(), LinkAttribute::IfName(name.to_owned()))
}

/// Returns a query for a link in another namespace, by the id that this namespace has for it.
pub(super) fn query_elsewhere(netnsid: i32, index: u32) -> LinkMessage {
    with_attribute(query_by_index(index), LinkAttribute::IfNetnsId(netnsid))
}

pub(super) fn set_alias(index: u32, alias: &str) -> LinkMessage {
    with_attribute(by_index(index), LinkAttribute::IfAlias(alias.to_owned()))
}

pub(super) fn set_name(index: u32, name: &str) -> LinkMessage {
    with_attribute(by_index(index), LinkAttribute::IfName(name.to_owned()))
}

pub(super) fn set_master(index: u32, master: u32) -> LinkMessage {
    with_attribute(by_index(index), LinkAttribute::Controller(master))
}

pub(super) fn set_mtu(index: u32, mtu: u32) -> LinkMessage {
    with_attribute(by_index(index), LinkAttribute::Mtu(mtu))
}

pub(super) fn set_mac(index: u32, mac: Mac) -> LinkMessage {
    with_attribute(by_index(index), LinkAttribute::Address(mac.0.to_vec()))
}

pub(super) fn set_flag(index: u32, flag: LinkFlags, on: bool) -> LinkMessage {
    let mut message = by_index(index);
    message.header.flags = if on { flag } else { LinkFlags::empty() };
    message.header.change_mask = flag;
    message
}

/// Returns the request that creates a veth pair. The peer is described in an attribute of the first
/// end.
pub(super) fn create_veth(spec: &VethSpec<'_>) -> LinkMessage {
    let mut peer = basic_link(spec.peer_name, spec.peer_mac, spec.mtu);
    if let Some(netns) = spec.peer_netns {
        peer = with_attribute(peer, LinkAttribute::NetNsFd(netns.as_fd().as_raw_fd()));
    }
    let pair = vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer)))];
    with_attribute(basic_link(spec.name, spec.mac, spec.mtu), LinkAttribute::LinkInfo(pair))
}

/// Returns the request that creates a VXLAN device in collect-metadata mode
/// (`ip link add type vxlan external`). The sender sets the tunnel destination for each packet, and received packets
/// carry their tunnel metadata. One device serves all tunnels on a UDP port. Learning is off.
pub(super) fn create_vxlan(name: &str, mac: Mac, port: u16) -> LinkMessage {
    let data = vec![
        InfoVxlan::CollectMetadata(true),
        InfoVxlan::Port(port),
        InfoVxlan::Learning(false),
        // Peers may send UDP over IPv6 with a zero checksum (RFC 6935).
        InfoVxlan::UDPZeroCsumRX(true),
    ];
    let info = vec![LinkInfo::Kind(InfoKind::Vxlan), LinkInfo::Data(InfoData::Vxlan(data))];
    let mut message = LinkMessage::default();
    let address = LinkAttribute::Address(mac.0.to_vec());
    message.attributes = vec![LinkAttribute::IfName(name.to_owned()), address, LinkAttribute::LinkInfo(info)];
    message
}

/// Returns the request that creates a WireGuard device without keys.
pub(super) fn create_wireguard(name: &str, mtu: u32) -> LinkMessage {
    with_attribute(basic_link(name, None, mtu), LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Wireguard)]))
}

fn basic_link(name: &str, mac: Option<Mac>, mtu: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::Mtu(mtu)];
    message.attributes.extend(mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
    message
}

fn with_attribute(mut message: LinkMessage, attribute: LinkAttribute) -> LinkMessage {
    message.attributes.push(attribute);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link_message(kind: InfoKind) -> LinkMessage {
        let mut message = by_index(7);
        message.header.flags = LinkFlags::Up | LinkFlags::LowerUp;
        message.attributes = vec![
            LinkAttribute::IfName("vp0".to_owned()),
            LinkAttribute::Address(vec![2, 0, 0, 0, 0, 1]),
            LinkAttribute::Link(3),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)]),
            LinkAttribute::Xdp(vec![LinkXdp::ProgId(0)]),
        ];
        message
    }

    #[test]
    fn a_veth_message_is_parsed() {
        let link = Link::from(&link_message(InfoKind::Veth));
        assert_eq!((link.index, link.name.as_str(), link.kind.as_deref()), (7, "vp0", Some("veth")));
        assert_eq!((link.mac, link.peer_index), (Some(Mac([2, 0, 0, 0, 0, 1])), Some(3)));
        assert!(link.up && link.running);
        assert_eq!(link.xdp_program, None);
    }

    #[test]
    fn the_udp_port_of_a_vxlan_device_is_parsed() {
        let mut message = create_vxlan("vx0", Mac([2, 0, 0, 0, 0, 1]), 4790);
        assert_eq!(Link::from(&message).vxlan_port, Some(4790));
        message.attributes.retain(|attribute| !matches!(attribute, LinkAttribute::LinkInfo(_)));
        assert_eq!(Link::from(&message).vxlan_port, None);
    }

    #[test]
    fn only_a_veth_has_a_peer() {
        assert_eq!(Link::from(&link_message(InfoKind::Vlan)).peer_index, None);
    }

    #[test]
    fn bridge_port_messages_are_not_about_the_device() {
        let mut port = link_message(InfoKind::Veth);
        assert!(is_about_device(&port));
        port.header.interface_family = AddressFamily::Bridge;
        assert!(!is_about_device(&port));
    }
}
