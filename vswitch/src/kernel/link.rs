//! Links: as the kernel reports them, and the messages that make and change them.

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
    /// Its number in its namespace.
    pub index: u32,
    /// Its name there.
    pub name: String,
    /// Its address, if it is one of Ethernet.
    pub mac: Option<Mac>,
    /// Its MTU in bytes, without the Ethernet header.
    pub mtu: u32,
    /// What makes it: "veth", "bridge"; nothing for hardware.
    pub kind: Option<String>,
    /// Switched on.
    pub up: bool,
    /// Switched on and with carrier (IFF_LOWER_UP). Kernels from 6.8 on have acted on it by then (facd15dfd691) and pass
    /// frames; older ones may still do so a little later.
    pub running: bool,
    /// Its alias, where our mark is.
    pub alias: Option<String>,
    /// For a veth, the number of its other end, in the other end's namespace.
    pub peer_index: Option<u32>,
    /// Which namespace the other end is in, if not in this one.
    pub peer_netnsid: Option<i32>,
    /// Takes in all frames (IFF_PROMISC, as set by an administrator).
    pub promiscuous: bool,
    /// The XDP program that is attached, by its id.
    pub xdp_program: Option<u32>,
    /// The loopback device.
    pub loopback: bool,
    /// The bridge or bond that it belongs to.
    pub master: Option<u32>,
    /// Of a VXLAN device, the UDP port that it listens on.
    pub vxlan_port: Option<u16>,
}

/// A pair of veth to be made.
#[derive(Clone, Copy, Debug)]
pub struct VethSpec<'a> {
    /// The end in the connection's namespace.
    pub name: &'a str,
    /// Its address; the kernel's choice if none.
    pub mac: Option<Mac>,
    /// The MTU of both.
    pub mtu: u32,
    /// The first end's alias.
    pub alias: Option<&'a str>,
    /// The other end's name.
    pub peer_name: &'a str,
    /// Its address; the kernel's choice if none.
    pub peer_mac: Option<Mac>,
    /// The namespace it is made in; the connection's own if none.
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
                LinkAttribute::Xdp(entries) => link.xdp_program = entries.iter().find_map(program),
                LinkAttribute::LinkInfo(entries) => {
                    link.kind = entries.iter().find_map(kind);
                    link.vxlan_port = entries.iter().find_map(vxlan_port);
                }
                _ => {}
            }
        }
        // Of other kinds this is the device below.
        link.peer_index = lower.filter(|_| link.kind.as_deref() == Some("veth"));
        link
    }
}

fn program(entry: &LinkXdp) -> Option<u32> {
    match entry {
        LinkXdp::ProgId(id) if *id != 0 => Some(*id),
        _ => None,
    }
}

/// The kernel's own word for a kind.
fn kind(entry: &LinkInfo) -> Option<String> {
    match entry {
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    }
}

/// IFLA_VXLAN_PORT (linux/if_link.h).
fn vxlan_port(entry: &LinkInfo) -> Option<u16> {
    let LinkInfo::Data(InfoData::Vxlan(data)) = entry else { return None };
    data.iter().find_map(|entry| match entry {
        InfoVxlan::Port(port) => Some(*port),
        _ => None,
    })
}

/// Whether a message is about a device itself, and not about its part in a bridge.
pub(super) fn is_of_device(message: &LinkMessage) -> bool {
    message.header.interface_family == AddressFamily::Unspec
}

pub(super) fn at(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}

/// Asks for links without their statistics, which are most of an answer.
pub(super) fn query() -> LinkMessage {
    with(LinkMessage::default(), LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]))
}

pub(super) fn query_index(index: u32) -> LinkMessage {
    let mut message = query();
    message.header.index = index;
    message
}

pub(super) fn query_name(name: &str) -> LinkMessage {
    with(query(), LinkAttribute::IfName(name.to_owned()))
}

pub(super) fn alias(index: u32, alias: &str) -> LinkMessage {
    with(at(index), LinkAttribute::IfAlias(alias.to_owned()))
}

pub(super) fn mtu(index: u32, mtu: u32) -> LinkMessage {
    with(at(index), LinkAttribute::Mtu(mtu))
}

pub(super) fn mac(index: u32, mac: Mac) -> LinkMessage {
    with(at(index), LinkAttribute::Address(mac.0.to_vec()))
}

pub(super) fn flag(index: u32, flag: LinkFlags, on: bool) -> LinkMessage {
    let mut message = at(index);
    message.header.flags = if on { flag } else { LinkFlags::empty() };
    message.header.change_mask = flag;
    message
}

/// The order for a pair: one end, with the other described inside.
pub(super) fn veth(spec: &VethSpec<'_>) -> LinkMessage {
    let mut peer = end(spec.peer_name, spec.peer_mac, spec.mtu);
    if let Some(netns) = spec.peer_netns {
        peer = with(peer, LinkAttribute::NetNsFd(netns.as_fd().as_raw_fd()));
    }
    let pair = vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer)))];
    with(end(spec.name, spec.mac, spec.mtu), LinkAttribute::LinkInfo(pair))
}

/// The order for a VXLAN device that is told for each packet where it goes, and tells where it came from
/// (`ip link add type vxlan external`): one for all tunnels, on a UDP port. It learns nothing by itself.
pub(super) fn vxlan(name: &str, port: u16) -> LinkMessage {
    let data = vec![
        InfoVxlan::CollectMetadata(true),
        InfoVxlan::Port(port),
        InfoVxlan::Learning(false),
        // Others may send so over IPv6, too (RFC 6935).
        InfoVxlan::UDPZeroCsumRX(true),
    ];
    let info = vec![LinkInfo::Kind(InfoKind::Vxlan), LinkInfo::Data(InfoData::Vxlan(data))];
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::LinkInfo(info)];
    message
}

/// The order for a WireGuard device, which has no keys yet.
pub(super) fn wireguard(name: &str, mtu: u32) -> LinkMessage {
    with(end(name, None, mtu), LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Wireguard)]))
}

fn end(name: &str, mac: Option<Mac>, mtu: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::Mtu(mtu)];
    message.attributes.extend(mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
    message
}

fn with(mut message: LinkMessage, attribute: LinkAttribute) -> LinkMessage {
    message.attributes.push(attribute);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(kind: InfoKind) -> LinkMessage {
        let mut message = at(7);
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
    fn a_veth_is_read() {
        let link = Link::from(&report(InfoKind::Veth));
        assert_eq!((link.index, link.name.as_str(), link.kind.as_deref()), (7, "vp0", Some("veth")));
        assert_eq!((link.mac, link.peer_index), (Some(Mac([2, 0, 0, 0, 0, 1])), Some(3)));
        assert!(link.up && link.running);
        assert_eq!(link.xdp_program, None);
    }

    #[test]
    fn the_port_of_a_vxlan_device_is_read() {
        let mut message = vxlan("vx0", 4790);
        assert_eq!(Link::from(&message).vxlan_port, Some(4790));
        message.attributes.retain(|attribute| !matches!(attribute, LinkAttribute::LinkInfo(_)));
        assert_eq!(Link::from(&message).vxlan_port, None);
    }

    #[test]
    fn only_a_veth_has_another_end() {
        assert_eq!(Link::from(&report(InfoKind::Vlan)).peer_index, None);
    }

    #[test]
    fn a_port_that_leaves_its_bridge_is_told_from_a_device_that_goes() {
        let mut port = report(InfoKind::Veth);
        assert!(is_of_device(&port));
        port.header.interface_family = AddressFamily::Bridge;
        assert!(!is_of_device(&port));
    }
}
