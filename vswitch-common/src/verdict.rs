//! What the core decides: one verdict for each frame, and the state to update with it.

use crate::mac::Mac;
use crate::tables::{FdbKey, NetworkNumber, PortKind, PortNumber, VlanKey};

/// What becomes of a frame, and which state to update with it.
///
/// Flat, `repr(C)`, without padding and with every field always set: it crosses from a traced run of the loaded
/// program to the host as it is, and the verifier finds no unset part of an enum in it. [`Decision::verdict`] and
/// [`Decision::learn`] are the readable views.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Decision {
    /// The action: one of the constants of [`action`].
    pub action: u32,
    /// For a drop the [`DropReason`]; else 0.
    pub reason: u32,
    /// For a redirect, to whom; for an answer, in whose name; else zeros.
    pub to: Delivery,
    /// The port it came in by; `PortNumber::NONE` if its device is no port.
    pub ingress: PortNumber,
    /// 1 if `station` is to be written into the FDB: it is new, moved, or not refreshed in this tick.
    pub learns: u8,
    /// 1 if the daemon is to see it: it says who listens to which multicast group, or asks for that.
    pub snoops: u8,
    /// For a flood that is counted against the port's allowance, its [`crate::tables::StormClass`]; else 0.
    pub storm: u16,
    /// The sender; no more than the network where the frame was refused before it was looked up, and zeros where its
    /// device is no port.
    pub station: FdbKey,
}

/// The actions of a [`Decision`].
pub mod action {
    /// Left to tcx: XDP takes no part of it.
    pub const LEAVE: u32 = 1;
    /// To one port.
    pub const REDIRECT: u32 = 2;
    /// A copy to every other port: broadcast or multicast.
    pub const FLOOD_GROUP: u32 = 3;
    /// A copy to every other port that may have unknown stations behind it.
    pub const FLOOD_UNKNOWN: u32 = 4;
    /// To the stack of the device it came from.
    pub const PASS: u32 = 5;
    /// Nowhere.
    pub const DROP: u32 = 6;
    /// A copy to every other port but the host's: broadcast or multicast that the host's stack must not get.
    pub const FLOOD_APART: u32 = 7;
    /// Back where it came from as an ARP reply, in the name of the port in `to`.
    pub const ANSWER_ARP: u32 = 8;
    /// Back where it came from as a neighbor advertisement, in the name of the port in `to`.
    pub const ANSWER_NEIGHBOR: u32 = 9;
    /// A copy to every other port that listens to the group, or has a multicast router behind it.
    pub const FLOOD_LISTENERS: u32 = 10;
    /// The same, but for the host's port.
    pub const FLOOD_LISTENERS_APART: u32 = 11;
    /// A copy to every other port that has a multicast router behind it: what listeners say.
    pub const FLOOD_ROUTERS: u32 = 12;
    /// What a child sent out and the wire sent back: a copy to every child but that one, `to`, which takes such frames.
    pub const FLOOD_REFLECTED: u32 = 13;
    /// What the host sends out by a parent to a group: a copy to every child that it reaches, before it goes on.
    pub const FLOOD_CHILDREN: u32 = 14;
    /// Nowhere, and its sender is told that it is longer than what may leave by the port in `to`, a tunnel.
    pub const ANSWER_TOO_BIG: u32 = 15;
}

/// What becomes of a frame's tag on the way out, as [`Delivery::tag`] has it.
pub mod tag {
    /// It goes as it came.
    pub const KEEP: u8 = 0;
    /// Its tag is taken off.
    pub const POP: u8 = 1;
    /// It gets the tag of its VLAN.
    pub const PUSH: u8 = 2;
    /// It came with a priority alone: its tag gets the number of its VLAN.
    pub const NUMBER: u8 = 3;
}

/// The one port that a frame goes to, with what the kernel needs to hand it over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Delivery {
    /// The port.
    pub port: PortNumber,
    /// The device it leaves by.
    pub ifindex: u32,
    /// The [`PortKind`] of what is behind it, which decides how the frame is handed over.
    pub kind: u8,
    /// 1 if XDP may redirect into it ([`crate::tables::Port::XDP_EGRESS`]).
    pub xdp: u8,
    /// How it is handed over: 0 as it is, or [`Delivery::LOCAL`] and the like. Below 8: three bits are kept for it where
    /// a packet is handed from one program to another.
    pub way: u8,
    /// What becomes of its tag, one of [`tag`].
    pub tag: u8,
}

/// What becomes of a frame, as an enum to match on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// XDP leaves it to tcx.
    Leave,
    /// To one port.
    Redirect(Delivery),
    /// A copy to every other port of the network.
    Flood(Flood),
    /// To the network stack of the device it came from: the host's own frame on an uplink.
    Pass,
    /// Answered in the name of a station behind another port.
    Answer(Answer, PortNumber),
    /// Nowhere.
    Drop(DropReason),
}

/// What the switch answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// An ARP request (RFC 826).
    Arp,
    /// A neighbor solicitation (RFC 4861).
    Neighbor,
    /// A packet that no tunnel takes (RFC 1191; RFC 4443, 3.2).
    TooBig,
}

/// Why a frame is flooded, which decides who gets a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flood {
    /// Broadcast or multicast: every port.
    Group,
    /// Unicast to a station nobody has heard of: every port that may have unknown stations behind it.
    UnknownUnicast,
    /// Broadcast or multicast that the host's stack must not get: every port but the host's.
    Apart,
    /// Multicast: those who listen to the group, and multicast routers.
    Listeners,
    /// The same, but for the host.
    ListenersApart,
    /// What listeners say: multicast routers.
    Routers,
    /// What the wire sent back: children that take it.
    Reflected,
    /// From the host: children that it reaches.
    Children,
}

impl Decision {
    /// A decision with this action, about a frame from this port; everything else zero.
    #[inline(always)]
    pub const fn new(action: u32, ingress: PortNumber) -> Self {
        let to = Delivery { port: PortNumber::NONE, ifindex: 0, kind: 0, xdp: 0, way: 0, tag: tag::KEEP };
        let station = FdbKey { network: NetworkNumber(0), vlan: VlanKey::NONE, mac: Mac::ZERO };
        Self { action, reason: 0, to, ingress, learns: 0, snoops: 0, storm: 0, station }
    }

    /// A drop.
    #[inline(always)]
    pub const fn drop(reason: DropReason, ingress: PortNumber) -> Self {
        Self { reason: reason as u32, ..Self::new(action::DROP, ingress) }
    }

    /// The verdict, or `None` if the numbers are none of a decision's.
    pub fn verdict(&self) -> Option<Verdict> {
        Some(match self.action {
            action::LEAVE => Verdict::Leave,
            action::REDIRECT => Verdict::Redirect(self.to),
            action::FLOOD_GROUP => Verdict::Flood(Flood::Group),
            action::FLOOD_UNKNOWN => Verdict::Flood(Flood::UnknownUnicast),
            action::FLOOD_APART => Verdict::Flood(Flood::Apart),
            action::FLOOD_LISTENERS => Verdict::Flood(Flood::Listeners),
            action::FLOOD_LISTENERS_APART => Verdict::Flood(Flood::ListenersApart),
            action::FLOOD_ROUTERS => Verdict::Flood(Flood::Routers),
            action::FLOOD_REFLECTED => Verdict::Flood(Flood::Reflected),
            action::FLOOD_CHILDREN => Verdict::Flood(Flood::Children),
            action::ANSWER_ARP => Verdict::Answer(Answer::Arp, self.to.port),
            action::ANSWER_NEIGHBOR => Verdict::Answer(Answer::Neighbor, self.to.port),
            action::ANSWER_TOO_BIG => Verdict::Answer(Answer::TooBig, self.to.port),
            action::PASS => Verdict::Pass,
            action::DROP => Verdict::Drop(*DropReason::ALL.get(self.reason as usize)?),
            _ => return None,
        })
    }

    /// The station to write into the FDB.
    pub fn learn(&self) -> Option<FdbKey> {
        (self.learns != 0).then_some(self.station)
    }
}

impl Delivery {
    /// To the device's own station: the frame enters the host's stack there and does not go out on the wire.
    pub const LOCAL: u8 = 1;
    /// Out by the device to the next hop, which the host's routes tell.
    pub const ROUTED: u8 = 2;
    /// From an egress hook, where only the front of a veth can be reached.
    pub const FRONT: u8 = 3;
    /// In [`action::FLOOD_REFLECTED`] alone: children that are not [`crate::tables::Port::APART`] get it, too, as none
    /// of their own has sent it to them.
    pub const ALL: u8 = 4;

    /// What is behind the port.
    #[inline(always)]
    pub const fn kind(&self) -> Option<PortKind> {
        PortKind::from_number(self.kind)
    }
}

const _: () = {
    assert!(size_of::<Delivery>() == 12);
    assert!(size_of::<Decision>() == 40);
};

// SAFETY: repr(C) over integers without padding (sizes asserted above); any bit pattern is valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Decision {}

/// Why a frame was dropped. The numbers are indexes of counters and stay what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum DropReason {
    /// Shorter than its Ethernet header or VLAN tag; to or from the host's stack also than its IP addresses, or behind
    /// more tags than two.
    Truncated = 0,
    /// Source address with the group bit set (IEEE 802.3, 3.2.3).
    SourceMulticast = 1,
    /// Source address all zeros.
    SourceZero = 2,
    /// Destination 01:80:c2:00:00:00 to 0f: for this link only.
    LinkLocal = 3,
    /// Source address that belongs to another endpoint: forged, or our own frame coming back.
    SourceSpoofed = 4,
    /// Destination on the segment it came from.
    SamePort = 5,
    /// From a device that is no port of the switch: it is being attached or detached at this moment.
    UnknownPort = 6,
    /// The port to deliver to is gone or down, or the kernel had no memory for the copy.
    DeliveryFailed = 7,
    /// Destination address all zeros.
    DestinationZero = 8,
    /// From one isolated endpoint to another, straight or by way of the host; or from a tunnel to the host.
    Isolated = 9,
    /// An IP packet that the host would route from one network into another.
    OtherNetwork = 10,
    /// An IP packet into or out of an internal network.
    Internal = 11,
    /// A loopback address on its way to the host's stack (RFC 1122, 3.2.1.3 (g); RFC 4291, 2.5.3).
    Martian = 12,
    /// An IP packet from an endpoint under an address that is not its own.
    IpSpoofed = 13,
    /// An ARP packet from an endpoint that speaks for another.
    ArpSpoofed = 14,
    /// A neighbor solicitation or advertisement from an endpoint that speaks for another.
    NeighborSpoofed = 15,
    /// A router advertisement, a redirect or a multicast query from an endpoint: only routers send them.
    RouterAdvertisement = 16,
    /// A DHCP server's answer from an endpoint.
    DhcpServer = 17,
    /// A BPDU from an endpoint, to whichever address.
    Bpdu = 18,
    /// Of a VLAN that the port is not in.
    VlanNotAllowed = 19,
    /// More broadcast, multicast or unknown unicast than the port may send in a second.
    Storm = 20,
    /// From a station that moved too often and is held at another port.
    StationHeld = 21,
    /// Longer than the port to deliver to may send.
    TooBig = 22,
    /// An IPv6 packet from an endpoint that hides its transport header behind more extension headers than are followed.
    HeaderChain = 23,
    /// IP or ARP from an endpoint behind an LLC and SNAP header, as nobody sends it on Ethernet.
    SnapEncapsulated = 24,
    /// The interface that the network is on is not there.
    ParentGone = 25,
    /// From an endpoint of a macvlan or ipvlan network to the host itself, without `host_access`.
    HostAccess = 26,
    /// Broadcast, multicast or anything but IP from an endpoint of a routed (l3) network.
    NotRouted = 27,
    /// Out of a tunnel, of a VNI that no network here has.
    UnknownVni = 28,
    /// Out of a tunnel, from a host that is no peer.
    UnknownPeer = 29,
    /// On its way to a tunnel, with a VXLAN header whose reserved bits are set or whose flag is not, or shorter than it says
    /// or than an inner frame (RFC 7348, 5).
    VxlanHeader = 30,
}

impl DropReason {
    /// Every reason, in the order of the counters.
    pub const ALL: [Self; 31] = [
        Self::Truncated,
        Self::SourceMulticast,
        Self::SourceZero,
        Self::LinkLocal,
        Self::SourceSpoofed,
        Self::SamePort,
        Self::UnknownPort,
        Self::DeliveryFailed,
        Self::DestinationZero,
        Self::Isolated,
        Self::OtherNetwork,
        Self::Internal,
        Self::Martian,
        Self::IpSpoofed,
        Self::ArpSpoofed,
        Self::NeighborSpoofed,
        Self::RouterAdvertisement,
        Self::DhcpServer,
        Self::Bpdu,
        Self::VlanNotAllowed,
        Self::Storm,
        Self::StationHeld,
        Self::TooBig,
        Self::HeaderChain,
        Self::SnapEncapsulated,
        Self::ParentGone,
        Self::HostAccess,
        Self::NotRouted,
        Self::UnknownVni,
        Self::UnknownPeer,
        Self::VxlanHeader,
    ];

    /// The name in `stats`, `monitor` and the metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::SourceMulticast => "source_multicast",
            Self::SourceZero => "source_zero",
            Self::LinkLocal => "link_local",
            Self::SourceSpoofed => "source_spoofed",
            Self::SamePort => "same_port",
            Self::UnknownPort => "unknown_port",
            Self::DeliveryFailed => "delivery_failed",
            Self::DestinationZero => "destination_zero",
            Self::Isolated => "isolated",
            Self::OtherNetwork => "other_network",
            Self::Internal => "internal",
            Self::Martian => "martian",
            Self::IpSpoofed => "ip_spoofed",
            Self::ArpSpoofed => "arp_spoofed",
            Self::NeighborSpoofed => "neighbor_spoofed",
            Self::RouterAdvertisement => "router_advertisement",
            Self::DhcpServer => "dhcp_server",
            Self::Bpdu => "bpdu",
            Self::VlanNotAllowed => "vlan_not_allowed",
            Self::Storm => "storm",
            Self::StationHeld => "station_held",
            Self::TooBig => "too_big",
            Self::HeaderChain => "header_chain",
            Self::SnapEncapsulated => "snap_encapsulated",
            Self::ParentGone => "parent_gone",
            Self::HostAccess => "host_access",
            Self::NotRouted => "not_routed",
            Self::UnknownVni => "unknown_vni",
            Self::UnknownPeer => "unknown_peer",
            Self::VxlanHeader => "vxlan_header",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_numbered_in_order_with_distinct_names() {
        let mut names = std::collections::HashSet::new();
        for (number, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, number);
            assert!(names.insert(reason.name()));
        }
        assert!(DropReason::ALL.len() <= crate::tables::DROP_REASONS);
    }
}
