//! The tables that the core reads, and the layout of their keys and values, which kernel and daemon
//! share.
//!
//! All types here are `repr(C)` without implicit padding, in host byte order. Their sizes are
//! asserted below.

mod counters;
mod fdb;
#[cfg(any(test, feature = "std"))]
pub mod memory;
mod shares;
mod tunnels;

use core::ops::Deref;

pub use counters::{DROP_REASONS, PortCounters};
pub use fdb::{FdbEntry, FdbKey};
pub use shares::Shares;
pub use tunnels::{DirectRoute, TunnelEnd};

pub use crate::packet::VlanKey;

use crate::mac::Mac;
use crate::packet::TunnelKey;
use crate::packet::address::Address;

/// The number of a port in the switch, an index into the port table. 0 is no port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct PortNumber(pub u32);

impl PortNumber {
    /// No port. The entry with this number in the table of ports has no kind, and its addresses are
    /// the source addresses of this host's tunnels; those that the routes choose if it has none.
    pub const NONE: Self = Self(0);
}

/// The number of a network in the switch, chosen by the daemon. 0 is no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct NetworkNumber(pub u32);

/// What is behind a port. The numbers are shared with the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PortKind {
    /// The veth of an endpoint.
    Container = 1,
    /// The host port, whose device is `vsw-NETWORK`.
    Host = 2,
    /// A host interface bridged into the network.
    Uplink = 3,
    /// The host's interface under macvlan and ipvlan networks, where the frames of their endpoints
    /// are picked out.
    Parent = 4,
    /// The veth of an endpoint of a macvlan or ipvlan network.
    Child = 5,
    /// A peer of an overlay network: another host, behind a tunnel.
    Tunnel = 6,
}

impl PortKind {
    /// Returns the kind with this number.
    #[inline(always)]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Container),
            2 => Some(Self::Host),
            3 => Some(Self::Uplink),
            4 => Some(Self::Parent),
            5 => Some(Self::Child),
            6 => Some(Self::Tunnel),
            _ => None,
        }
    }
}

/// A port of the switch: one cache line. An entry of zeros is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Port {
    /// The device whose received frames enter the switch by this port.
    pub ifindex: u32,
    /// The device that frames leave by: the host-side veth of a container, `vsw-NETWORK` of the
    /// host port.
    pub egress_ifindex: u32,
    /// The network of the port.
    pub network: NetworkNumber,
    /// The next port of the same network in the list that flooding follows; 0 at its end.
    pub next: PortNumber,
    /// The station's MAC address.
    pub mac: Mac,
    /// A [`PortKind`].
    pub kind: u8,
    /// 0.
    pub reserved: u8,
    /// Bits of [`Port::XDP_EGRESS`] and the like.
    pub flags: u32,
    /// The VLAN of frames that come in and leave untagged.
    pub vlan: VlanKey,
    /// The longest packet that the port sends, in bytes without Ethernet header and tag; 0 is no
    /// limit.
    pub mtu: u16,
    /// The station's IPv4 address, in the byte order of the wire; 0 if it has none.
    pub ipv4: u32,
    /// Copies of frames of one class (see [`StormClass`]) that the port may flood in one [`tick`]; 0
    /// is no limit.
    pub storm: u32,
    /// The station's IPv6 address; `::` if it has none. Of a tunnel: the peer's address, see
    /// [`Port::peer`].
    pub ipv6: Address,
    /// The number of stations that may be learned from the port.
    pub fdb_limit: u32,
    /// The addresses of 01:80:c2:00:00:00 to 0f that are forwarded like other groups: bit n for the
    /// one that ends in n.
    pub group_fwd_mask: u16,
    /// 0.
    pub reserved2: u16,
}

impl Port {
    /// XDP may redirect frames into the port's veth, because NAPI runs at the container's end.
    pub const XDP_EGRESS: u32 = 1;
    /// No frame passes between two isolated ports. Endpoints may be isolated and tunnels are; host
    /// ports and uplinks never are.
    pub const ISOLATED: u32 = 1 << 1;
    /// Its frames must have its own addresses as the sender's, in every header (`spoof_guard`).
    pub const SPOOF_GUARD: u32 = 1 << 2;
    /// Stations behind the port are learned.
    pub const LEARN: u32 = 1 << 3;
    /// The port sends and gets tagged frames of the VLANs on its list ([`Tables::in_trunk`]).
    pub const TRUNK: u32 = 1 << 4;
    /// Frames that come in by the port for a station behind it go back out.
    pub const HAIRPIN: u32 = 1 << 5;
    /// The port may not send what only routers send: router advertisements, redirects, multicast
    /// queries.
    pub const RA_GUARD: u32 = 1 << 6;
    /// The port may not send a DHCP server's answers.
    pub const DHCP_GUARD: u32 = 1 << 7;
    /// The port may not send BPDUs.
    pub const BPDU_GUARD: u32 = 1 << 8;
    /// The switch answers the port's ARP requests and neighbor solicitations for known addresses.
    pub const ARP_SUPPRESS: u32 = 1 << 9;
    /// Multicast that the port sends goes to listeners alone.
    pub const SNOOPING: u32 = 1 << 10;
    /// A multicast router is behind the port, which gets all multicast. Uplinks always do.
    pub const ROUTER: u32 = 1 << 11;
    /// With [`Port::TRUNK`]: all VLANs are on the port's list.
    pub const ALL_VLANS: u32 = 1 << 12;
    /// Of a child: frames between it and other children pass by way of the wire alone.
    pub const APART: u32 = 1 << 13;
    /// Of a child that is [`Port::APART`]: it gets frames of other children that a switch on the
    /// wire has sent back (VEPA).
    pub const REFLECTED: u32 = 1 << 14;
    /// Of a child: found by its IP addresses, as its MAC address is its parent's. Of a parent: it
    /// has such children.
    pub const BY_ADDRESS: u32 = 1 << 15;
    /// Of a child: it sends and gets unicast IP packets alone, and the host finds the next hop
    /// (l3).
    pub const ROUTED: u32 = 1 << 16;
    /// With [`Port::ROUTED`]: packets pass through the host's stack and its firewall in both
    /// directions (l3s).
    pub const STACK: u32 = 1 << 17;
    /// The host and this child reach each other. Of a parent: it has such children.
    pub const HOST_ACCESS: u32 = 1 << 18;
    /// Of a parent and its only child: the child gets every frame.
    pub const PASSTHRU: u32 = 1 << 19;
    /// Of tunnels, and of the host port in overlay networks: no frame passes between two of them.
    /// Every host sends copies to all other hosts itself (split horizon), and each host is its own
    /// gateway.
    pub const SPLIT_HORIZON: u32 = 1 << 20;
    /// Of an uplink: the host has stations on the interface besides the interface itself, such as
    /// macvlan devices of the kernel. Their link-local addresses are in the table of own addresses
    /// ([`Tables::owns`]).
    pub const HOST_STATIONS: u32 = 1 << 24;

    /// Of a tunnel: frames out of it must have [`MARK_UNDERLAY`], because the program at the underlay
    /// runs on the device that leads to the peer.
    pub const UNDERLAY: u32 = 1 << 21;

    /// Returns the kind, `None` if the entry is free.
    #[inline(always)]
    pub const fn kind(&self) -> Option<PortKind> {
        PortKind::from_number(self.kind)
    }

    /// Returns whether one of these flags is set.
    #[inline(always)]
    pub const fn has(&self, flags: u32) -> bool {
        self.flags & flags != 0
    }

    /// Returns the address of a tunnel's peer on the underlay, which is kept in the field of the
    /// station's IPv6 address.
    #[inline(always)]
    pub const fn peer(&self) -> Address {
        self.ipv6
    }

    /// Returns whether no frame passes between a port with these flags and this port.
    #[inline(always)]
    pub const fn is_isolated_from(&self, flags: u32) -> bool {
        self.flags & flags & (Self::ISOLATED | Self::SPLIT_HORIZON) != 0
    }
}

/// A class of frames of storm control. Each is counted by itself; known unicast is not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum StormClass {
    /// To ff:ff:ff:ff:ff:ff.
    Broadcast = 1,
    /// To any other group.
    Multicast = 2,
    /// To an unknown station.
    Unknown = 3,
}

/// How many copies of frames of one class a port has flooded in a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct StormWindow {
    /// The [`tick`].
    pub tick: u32,
    /// Copies flooded in that tick. Those for the host do not count.
    pub count: u32,
}

impl StormWindow {
    /// The class of frames that were answered with "too big".
    pub const TOO_BIG: u32 = 0;
    /// Windows of each port: one for each [`StormClass`], and [`StormWindow::TOO_BIG`].
    pub const CLASSES: u32 = 4;
    /// Entries of the table: room for all ports and classes.
    pub const ENTRIES: u32 = MAX_PORTS * Self::CLASSES;

    /// Returns the index of a class of a port in the table.
    #[inline(always)]
    pub const fn index(port: PortNumber, class: u32) -> u32 {
        port.0 * Self::CLASSES + class % Self::CLASSES
    }

    /// Starts the window of the tick `now`, unless it is this one already.
    #[inline(always)]
    pub const fn begin(&mut self, now: u32) {
        if self.tick != now {
            *self = Self { tick: now, count: 0 };
        }
    }

    /// Returns whether `limit` frames have been counted in the tick `now`.
    #[inline(always)]
    pub const fn is_used_up(&self, limit: u32, now: u32) -> bool {
        self.tick == now && self.count >= limit
    }
}

/// The key of a known IP address: the address in a VLAN of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct NeighborKey {
    /// The address.
    pub address: Address,
    /// The network.
    pub network: NetworkNumber,
    /// The VLAN in the network.
    pub vlan: VlanKey,
    /// 0.
    pub reserved: u16,
}

/// The station that has an IP address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Neighbor {
    /// The port of the station.
    pub port: PortNumber,
    /// The MAC address of the station. It is read only if the port is a tunnel; other ports have
    /// one such station.
    pub mac: Mac,
    /// 0.
    pub reserved: u16,
}

/// An IP address that a port's station has in another network and may send from in this one: a
/// packet that came by one interface is answered by the other, if the default route leads there. Of
/// an uplink: the link-local address of another station of the host on the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct OwnKey {
    /// The address.
    pub address: Address,
    /// The port.
    pub port: PortNumber,
    /// 0.
    pub reserved: u32,
}

/// The key of a port that listens to a multicast group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct ListenerKey {
    /// The group's address.
    pub group: Address,
    /// The network.
    pub network: NetworkNumber,
    /// The port.
    pub port: PortNumber,
    /// The VLAN in the network.
    pub vlan: VlanKey,
    /// 0.
    pub reserved: [u16; 3],
}

/// Returns the key of a VLAN on the list of a trunk.
#[inline(always)]
pub const fn trunk_key(port: PortNumber, vlan: VlanKey) -> u32 {
    port.0 << 16 | vlan.0 as u32
}

/// A network: the list of its ports, and what applies to all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Network {
    /// The head of the list of ports; 0 if the network has none.
    pub first: PortNumber,
    /// Bits: [`Network::INTERNAL`] and the like.
    pub flags: u32,
    /// Of a macvlan or ipvlan network: the port of the parent; 0 while the parent does not exist.
    /// All networks on one parent are one network here, because they are one segment on the wire.
    pub parent: PortNumber,
    /// The port of the endpoint that has the parent to itself (passthru).
    pub only: PortNumber,
    /// The VNI of an overlay network, 24 bits; 0 of other networks.
    pub vni: u32,
}

impl Network {
    /// No IP packet enters or leaves the network by the host, except packets of the host's own
    /// address in the network.
    pub const INTERNAL: u32 = 1;

    /// Returns whether nothing is routed into the network or out of it.
    #[inline(always)]
    pub const fn is_internal(&self) -> bool {
        self.flags & Self::INTERNAL != 0
    }
}

/// The network of a range of IP addresses. An IPv4 address is looked up as the IPv6 address that
/// maps it, ::ffff:a.b.c.d, so that one table has both versions; a prefix of n bits is one of 96 +
/// n bits there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Subnet {
    /// The network.
    pub network: NetworkNumber,
    /// Bits: [`Subnet::GATEWAY`].
    pub flags: u32,
}

impl Subnet {
    /// The host's own address in the network, written as a prefix of full length.
    pub const GATEWAY: u32 = 1;

    /// Returns whether the entry is the host's own address.
    #[inline(always)]
    pub const fn is_gateway(&self) -> bool {
        self.flags & Self::GATEWAY != 0
    }
}

/// The bit of a packet's mark (`skb->mark`) that the host sets on a connection to a published port,
/// which may enter a network from another one, unless the operator chooses another bit. A container
/// cannot forge it, because marks do not survive a change of namespace. Decision 28 has the bits of
/// other programs.
pub const MARK_PUBLISHED: u32 = 0x800;

/// The bit of a packet's mark that tells the program at a parent that a child sends the packet to
/// the host itself. The program clears it.
pub const MARK_FROM_CHILD: u32 = 0x4000;

/// The bit of a packet's mark for packets that arrived by WireGuard or have to leave by it. The
/// programs at the WireGuard device set it on packets that come in, and let no packet out without
/// it. To set a mark takes CAP_NET_RAW or CAP_NET_ADMIN, with which a process may see and send all
/// packets anyway, and marks do not survive a change of namespace.
pub const MARK_ENCRYPTED: u32 = 0x1000;

/// The bit of a packet's mark for packets that arrived by the way to the peer that they name: it is
/// [`MARK_ENCRYPTED`] for peers inside WireGuard, and the program at the underlay sets it for all
/// others. A packet that a local process or a container sends to the port of the tunnels does not
/// have it. Both may be one bit, because no packet with an address inside WireGuard passes at the
/// underlay, and none without passes at the WireGuard device.
pub const MARK_UNDERLAY: u32 = MARK_ENCRYPTED;

/// Returns the tick of a time in nanoseconds of CLOCK_MONOTONIC. A tick is 2^30 ns (1.07 s), so
/// that no division is needed.
#[inline(always)]
pub const fn tick(nanoseconds: u64) -> u32 {
    (nanoseconds >> 30) as u32
}

/// Converts ticks to whole seconds, rounded down.
pub const fn ticks_to_seconds(ticks: u32) -> u64 {
    ((ticks as u64) << 30) / 1_000_000_000
}

/// The largest number of ports of a switch, and of networks.
pub const MAX_PORTS: u32 = 4096;

/// The largest number of subnets and of the host's addresses in them, over all networks: two of
/// each for every network.
pub const MAX_SUBNETS: u32 = 4 * MAX_PORTS;

/// The largest number of endpoints of other hosts of a cluster.
pub const MAX_REMOTES: u32 = 1 << 17;

/// The largest number of known IP addresses: for each endpoint of another host one IPv4, one IPv6
/// and one link-local address, and four for each port.
pub const MAX_NEIGHBORS: u32 = 4 * MAX_PORTS + 3 * MAX_REMOTES;

/// The largest number of addresses that stations have in other networks.
pub const MAX_OWNED: u32 = 4 * MAX_PORTS;

/// The largest number of VLANs on the lists of all trunks.
pub const MAX_TRUNK_VLANS: u32 = 1 << 20;

/// The largest number of tunnel keys: one for each port, and one for each VNI.
pub const MAX_TUNNELS: u32 = 2 * MAX_PORTS;

/// The largest number of addresses of this host at which tunnels end.
pub const MAX_UNDERLAY: u32 = 1024;

/// The largest number of listeners to multicast groups.
pub const MAX_LISTENERS: u32 = 65536;

/// Devices with an ifindex below this are found in an array, the others in a hash. A namespace has
/// the others only after as many devices were made in it. The lookup is made for every frame, and
/// the array saves a tenth of the program's time.
pub const NEAR_DEVICES: u32 = 65536;

/// The tables that the core reads: BPF maps in the kernel, hash maps in tests, the live maps in the
/// daemon.
pub trait Tables {
    /// Returns the port of a device, `PortNumber::NONE` if it is no port.
    fn port_of_device(&self, ifindex: u32) -> PortNumber;
    /// Returns the entry of a port, `None` if it is free.
    fn port(&self, number: PortNumber) -> Option<impl Deref<Target = Port>>;
    /// Returns the FDB entry of a station.
    fn fdb(&self, key: &FdbKey) -> Option<FdbEntry>;
    /// Returns a network; read only for frames to or from the host's stack and for children.
    fn network(&self, number: NetworkNumber) -> Network;
    /// Returns the bit that marks connections to published ports.
    #[inline(always)]
    fn published_mark(&self) -> u32 {
        MARK_PUBLISHED
    }
    /// Returns the subnet of an IP address by the longest prefix; read only for frames to or from
    /// the host's stack.
    fn subnet(&self, address: Address) -> Option<Subnet>;
    /// Returns the port whose station has an IP address, `PortNumber::NONE` if it is unknown.
    fn neighbor(&self, key: &NeighborKey) -> PortNumber;
    /// Returns whether a port's station has an IP address in another network.
    fn owns(&self, key: &OwnKey) -> bool;
    /// Returns whether a VLAN is on the list of a trunk.
    fn in_trunk(&self, port: PortNumber, vlan: VlanKey) -> bool;
    /// Returns whether a port listens to a multicast group.
    fn listens(&self, key: &ListenerKey) -> bool;
    /// Returns the port of a peer's tunnel. The key of all peers ([`TunnelKey::any_peer`]) has the
    /// value `PortNumber::NONE`; it exists if some network here has the VNI.
    fn tunnel(&self, key: &TunnelKey) -> Option<PortNumber>;
    /// Returns how tunnels end at an address of this host.
    fn tunnel_end(&self, own: Address) -> TunnelEnd;
    /// Returns what a port has flooded of a class of frames, a [`StormClass`].
    fn storm(&self, port: PortNumber, class: u32) -> StormWindow;
}

const _: () = {
    assert!(size_of::<Port>() == 64);
    assert!(size_of::<NeighborKey>() == 24);
    assert!(size_of::<Neighbor>() == 12);
    assert!(size_of::<OwnKey>() == 24);
    assert!(size_of::<ListenerKey>() == 32);
    assert!(size_of::<StormWindow>() == 8);
    assert!(size_of::<Network>() == 20);
    assert!(size_of::<Subnet>() == 8);
    assert!(size_of::<TunnelEnd>() == 8);
    assert!(size_of::<DirectRoute>() == 12);
    assert!(size_of::<FdbKey>() == 12);
    assert!(size_of::<FdbEntry>() == 20);
    assert!(size_of::<PortCounters>() == 8 * (12 + DROP_REASONS));
};

#[cfg(feature = "user")]
mod user {
    //! SAFETY of all below: `repr(C)` or `repr(transparent)` over integers, no padding (sizes
    //! asserted above), any bit pattern is valid.
    #![expect(clippy::undocumented_unsafe_blocks, reason = "one argument for all, above")]
    use super::{
        Address, DirectRoute, FdbEntry, FdbKey, ListenerKey, Neighbor, NeighborKey, Network, OwnKey, Port,
        PortCounters, PortNumber, StormWindow, Subnet, TunnelEnd, TunnelKey,
    };

    unsafe impl aya::Pod for PortNumber {}
    unsafe impl aya::Pod for Port {}
    unsafe impl aya::Pod for Network {}
    unsafe impl aya::Pod for Subnet {}
    unsafe impl aya::Pod for Address {}
    unsafe impl aya::Pod for FdbKey {}
    unsafe impl aya::Pod for FdbEntry {}
    unsafe impl aya::Pod for PortCounters {}
    unsafe impl aya::Pod for NeighborKey {}
    unsafe impl aya::Pod for Neighbor {}
    unsafe impl aya::Pod for ListenerKey {}
    unsafe impl aya::Pod for OwnKey {}
    unsafe impl aya::Pod for StormWindow {}
    unsafe impl aya::Pod for TunnelKey {}
    unsafe impl aya::Pod for TunnelEnd {}
    unsafe impl aya::Pod for DirectRoute {}
}
