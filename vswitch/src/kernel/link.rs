//! Links as the kernel reports them.

use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkXdp};
use vswitch_common::Mac;

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
    /// Switched on and with carrier (IFF_LOWER_UP).
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
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Address(bytes) => link.mac = bytes.as_slice().try_into().ok().map(Mac),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias.clone()),
                LinkAttribute::Link(index) => link.peer_index = Some(*index),
                LinkAttribute::LinkNetNsId(id) => link.peer_netnsid = Some(*id),
                LinkAttribute::Controller(index) => link.master = Some(*index),
                LinkAttribute::Xdp(entries) => {
                    link.xdp_program = entries.iter().find_map(|entry| match entry {
                        LinkXdp::ProgId(id) => Some(*id),
                        _ => None,
                    });
                }
                LinkAttribute::LinkInfo(entries) => {
                    link.kind = entries.iter().find_map(|entry| match entry {
                        LinkInfo::Kind(kind) => Some(kind_name(kind)),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        link
    }
}

/// The kernel's own word for a kind.
fn kind_name(kind: &InfoKind) -> String {
    kind.to_string()
}
