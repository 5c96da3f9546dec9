//! The tables that the core reads, and the layout of their keys and values, which kernel and daemon share.
//!
//! All types here are `repr(C)` without implicit padding, in host byte order; their sizes are asserted below.

mod counters;
mod fdb;
#[cfg(feature = "std")]
pub mod memory;
mod tunnels;

use core::ops::Deref;

pub use counters::{DROP_REASONS, PortCounters};
pub use fdb::{FdbEntry, FdbKey};
pub use tunnels::{TunnelEnd, Way};

use crate::mac::Mac;
use crate::packet::TunnelKey;
use crate::packet::address::Address;

/// The number of a port in the switch; an index into the port table. 0 is no port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct PortNumber(pub u32);

impl PortNumber {
    /// No port.
    pub const NONE: Self = Self(0);
}

/// The number of a network in the switch, chosen by the daemon. 0 is no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct NetworkNumber(pub u32);

/// The VLAN a frame belongs to, as the FDB keys it: 0 untagged or priority-tagged, 1 to 4094 an 802.1Q tag,
/// the same with [`VlanKey::SERVICE`] set an 802.1ad service tag. The two kinds are separate numberings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct VlanKey(pub u16);

impl VlanKey {
    /// Untagged.
    pub const NONE: Self = Self(0);
    /// Marks a service tag (802.1ad).
    pub const SERVICE: u16 = 0x1000;
}

/// What is behind a port. The numbers are shared with the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PortKind {
    /// An endpoint's veth.
    Container = 1,
    /// The host's own device in the network, `vsw-NETWORK`.
    Host = 2,
    /// A physical interface bridged into the network.
    Uplink = 3,
    /// The interface that macvlan and ipvlan networks are on: the host's own, at which their endpoints' frames are picked
    /// out.
    Parent = 4,
    /// An endpoint's veth in a macvlan or ipvlan network.
    Child = 5,
    /// A peer in an overlay network: another host, behind the tunnel.
    Tunnel = 6,
}

impl PortKind {
    /// The kind with this number.
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

/// A port of the switch. An all-zero entry is a free one. One cache line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Port {
    /// The device whose received frames enter the switch here.
    pub ifindex: u32,
    /// The device a frame leaves by: for a container its host-side veth, for the host `vsw-NETWORK` itself.
    pub egress_ifindex: u32,
    /// The network it belongs to.
    pub network: NetworkNumber,
    /// The next port of the same network, the end of the list being 0. Flooding follows it.
    pub next: PortNumber,
    /// The station's own address.
    pub mac: Mac,
    /// A [`PortKind`].
    pub kind: u8,
    /// 0.
    pub reserved: u8,
    /// Bits of [`Port::XDP_EGRESS`] and the like.
    pub flags: u32,
    /// The VLAN of the frames that come and go without a tag.
    pub vlan: VlanKey,
    /// The longest packet, Ethernet header and tag not counted, that goes out by it; 0 is no limit.
    pub mtu: u16,
    /// The station's own IPv4 address, its bytes in the order of the wire; 0 if it has none.
    pub ipv4: u32,
    /// Frames of one class (see [`StormClass`]) that it may flood in one [`tick`]; 0 is no limit.
    pub storm: u32,
    /// The station's own IPv6 address; `::` if it has none. Of a tunnel: the peer's address on the underlay.
    pub ipv6: Address,
    /// Stations that may be learned from it.
    pub fdb_limit: u32,
    /// Which of the addresses 01:80:c2:00:00:00 to 0f are forwarded like any group's: bit n is the one that ends in n.
    pub group_fwd_mask: u16,
    /// 0.
    pub reserved2: u16,
}

impl Port {
    /// XDP may redirect frames into this port's veth: NAPI runs at the container's end.
    pub const XDP_EGRESS: u32 = 1;
    /// No frame passes between two isolated ports. Containers alone are isolated, never the host or an uplink.
    pub const ISOLATED: u32 = 1 << 1;
    /// Its frames have its own addresses as their sender's, in every header (`spoof_guard`).
    pub const SPOOF_GUARD: u32 = 1 << 2;
    /// Stations behind it are learned.
    pub const LEARN: u32 = 1 << 3;
    /// It takes and gets tagged frames, of the VLANs that are on its list ([`Tables::in_trunk`]).
    pub const TRUNK: u32 = 1 << 4;
    /// Frames for a station behind it that come from it go back out.
    pub const HAIRPIN: u32 = 1 << 5;
    /// It sends nothing that routers alone send: router advertisements, redirects, multicast queries.
    pub const RA_GUARD: u32 = 1 << 6;
    /// It sends no DHCP server's answers.
    pub const DHCP_GUARD: u32 = 1 << 7;
    /// It sends no BPDUs.
    pub const BPDU_GUARD: u32 = 1 << 8;
    /// What it asks by ARP and neighbor solicitation for known addresses is answered by the switch.
    pub const ARP_SUPPRESS: u32 = 1 << 9;
    /// Multicast that it sends goes to those who asked for it.
    pub const SNOOPING: u32 = 1 << 10;
    /// A multicast router is behind it: it gets all multicast. Uplinks always do.
    pub const ROUTER: u32 = 1 << 11;
    /// With [`Port::TRUNK`]: all VLANs are on its list.
    pub const ALL_VLANS: u32 = 1 << 12;
    /// Of a child: nothing passes between it and other children but by way of the wire.
    pub const APART: u32 = 1 << 13;
    /// Of a child that is [`Port::APART`]: it takes what other children sent out and a switch on the wire sent back (VEPA).
    pub const REFLECTED: u32 = 1 << 14;
    /// Found by its IP addresses: its MAC address is its parent's. Of a parent: some of its children are.
    pub const BY_ADDRESS: u32 = 1 << 15;
    /// It sends and gets IP packets to single stations alone, and the host finds their next hop.
    pub const ROUTED: u32 = 1 << 16;
    /// With [`Port::ROUTED`]: by way of the host's stack and its firewall, both ways.
    pub const STACK: u32 = 1 << 17;
    /// The host itself and this child reach each other.
    pub const HOST_ACCESS: u32 = 1 << 18;
    /// Of a parent and its one child: the child has it all.
    pub const PASSTHRU: u32 = 1 << 19;
    /// Of tunnels, and of the host in overlay networks: no frame passes between two of them. Every host has sent its copies to
    /// all others by itself (split horizon), and the gateway is each host's own.
    pub const SPLIT_HORIZON: u32 = 1 << 20;

    /// The kind, if the entry is in use.
    #[inline(always)]
    pub const fn kind(&self) -> Option<PortKind> {
        PortKind::from_number(self.kind)
    }

    /// Whether one of these bits is set.
    #[inline(always)]
    pub const fn has(&self, flags: u32) -> bool {
        self.flags & flags != 0
    }

    /// Whether no frame passes between a port with these flags and this one.
    #[inline(always)]
    pub const fn is_kept_from(&self, flags: u32) -> bool {
        self.flags & flags & (Self::ISOLATED | Self::SPLIT_HORIZON) != 0
    }
}

/// The classes of frames that storm control counts, each for itself and apart from known unicast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum StormClass {
    /// To ff:ff:ff:ff:ff:ff.
    Broadcast = 1,
    /// To another group.
    Multicast = 2,
    /// To a station that nobody has heard of.
    Unknown = 3,
}

/// What one class of frames of one port has used of its allowance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct StormWindow {
    /// The [`tick`] that it is about.
    pub tick: u32,
    /// Frames flooded in it.
    pub count: u32,
}

impl StormWindow {
    /// Beside the classes: frames that their sender was told of as too big.
    pub const TOO_BIG: u32 = 0;
    /// Entries of the table: room for all ports and classes.
    pub const ENTRIES: u32 = MAX_PORTS * 4;

    /// The place of a class of a port in the table.
    #[inline(always)]
    pub const fn index(port: PortNumber, class: u32) -> u32 {
        port.0 * 4 + (class & 3)
    }
}

/// An IP address in a VLAN of a network, whose owner is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct NeighborKey {
    /// The address.
    pub address: Address,
    /// The network.
    pub network: NetworkNumber,
    /// The VLAN in it.
    pub vlan: VlanKey,
    /// 0.
    pub reserved: u16,
}

/// Whose an IP address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Neighbor {
    /// The port that the owner is behind.
    pub port: PortNumber,
    /// The owner's MAC address; looked at where the port is a tunnel: others have one station alone.
    pub mac: Mac,
    /// 0.
    pub reserved: u16,
}

/// An IP address that a port's station has in another network, and may speak from here, too: what came by one interface
/// is answered by way of the other, where the default route is.
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

/// A port that listens to a multicast group.
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

/// The key of a VLAN on the list of a trunk.
#[inline(always)]
pub const fn trunk_key(port: PortNumber, vlan: VlanKey) -> u32 {
    port.0 << 16 | vlan.0 as u32
}

/// A network: its first port, and what holds for all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Network {
    /// Head of the list of ports; 0 if it has none.
    pub first: PortNumber,
    /// Bits: [`Network::INTERNAL`] and the like.
    pub flags: u32,
    /// The port of the interface that it is on, if it is a macvlan or ipvlan network; 0 while that is not there. All
    /// networks on one interface are one here, as they are one segment on the wire.
    pub parent: PortNumber,
    /// The port of the endpoint that has that interface to itself (passthru).
    pub only: PortNumber,
    /// The VNI of an overlay network, 24 bits; 0 of others.
    pub vni: u32,
}

impl Network {
    /// No IP packet leaves it by the host or comes in by the host, but those of the host itself, at its address there.
    pub const INTERNAL: u32 = 1;

    /// Whether nothing is routed into it or out of it.
    #[inline(always)]
    pub const fn is_internal(&self) -> bool {
        self.flags & Self::INTERNAL != 0
    }
}

/// Whose a range of IP addresses is. An IPv4 address is looked up as the IPv6 address that maps it, ::ffff:a.b.c.d,
/// so that one table has both; a prefix of n bits is one of 96 + n there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Subnet {
    /// The network.
    pub network: NetworkNumber,
    /// Bits: [`Subnet::GATEWAY`].
    pub flags: u32,
}

impl Subnet {
    /// The host's own address in the network; written as a prefix of full length.
    pub const GATEWAY: u32 = 1;

    /// Whether it is the host's own address.
    #[inline(always)]
    pub const fn is_gateway(&self) -> bool {
        self.flags & Self::GATEWAY != 0
    }
}

/// The bit of a packet's mark (`skb->mark`) by which the host says that a connection to a published port may enter a
/// network from another one. A container cannot forge it: marks do not survive the change of namespace.
pub const MARK_PUBLISHED: u32 = 0x2000;

/// The bit of a packet's mark that tells the program at a parent interface that a child sends it to the host itself. The
/// program takes it off again.
pub const MARK_FROM_CHILD: u32 = 0x4000;

/// The bit of a packet's mark that says that it came by WireGuard, or is to go by it. The programs at its device put it on
/// what comes in, and let nothing out without it. Nobody can forge it who may not see and send all packets anyway: to set
/// a mark takes CAP_NET_RAW or CAP_NET_ADMIN, and marks do not survive the change of namespace.
pub const MARK_ENCRYPTED: u32 = 0x1000;

/// The FDB's clock: nanoseconds of CLOCK_MONOTONIC in units of 2^30, so that no division is needed. A tick is 1.07 s.
#[inline(always)]
pub const fn tick(nanoseconds: u64) -> u32 {
    (nanoseconds >> 30) as u32
}

/// A number of ticks in whole seconds, rounded down.
pub const fn ticks_to_seconds(ticks: u32) -> u64 {
    ((ticks as u64) << 30) / 1_000_000_000
}

/// The largest number of ports of a switch, and of networks.
pub const MAX_PORTS: u32 = 4096;

/// The largest number of subnets and addresses of the host in them, over all networks: two of each for every one.
pub const MAX_SUBNETS: u32 = 4 * MAX_PORTS;

/// The largest number of endpoints of other hosts of a cluster.
pub const MAX_REMOTES: u32 = 1 << 17;

/// The largest number of addresses whose owners are known: of each port, and of each endpoint of another host, one of each
/// kind, IPv4, IPv6 and link-local.
pub const MAX_NEIGHBORS: u32 = 4 * MAX_PORTS + 3 * MAX_REMOTES;

/// The largest number of addresses that stations have in other networks.
pub const MAX_OWNED: u32 = 4 * MAX_PORTS;

/// The largest number of VLANs on the lists of all trunks.
pub const MAX_TRUNK_VLANS: u32 = 1 << 20;

/// The largest number of tunnels: one a port, and one a VNI.
pub const MAX_TUNNELS: u32 = 2 * MAX_PORTS;

/// The largest number of addresses at which tunnels end.
pub const MAX_UNDERLAY: u32 = 1024;

/// The largest number of listeners to multicast groups.
pub const MAX_LISTENERS: u32 = 65536;

/// Devices with an ifindex below this are found in an array, the others, which a namespace comes to have only after as
/// many devices were made in it, in a hash: a lookup for every frame, and the array saves a tenth of the program's time.
pub const NEAR_DEVICES: u32 = 65536;

/// The tables, wherever they are: BPF maps in the kernel, hash maps in tests, the live maps read from the daemon.
pub trait Tables {
    /// The port that this device is, or `PortNumber::NONE`.
    fn port_of_device(&self, ifindex: u32) -> PortNumber;
    /// The entry of a port, unless it is free.
    fn port(&self, number: PortNumber) -> Option<impl Deref<Target = Port>>;
    /// Where a station is.
    fn fdb(&self, key: &FdbKey) -> Option<FdbEntry>;
    /// What holds for a network; looked up only where the host's stack is involved.
    fn network(&self, number: NetworkNumber) -> Network;
    /// Whose an IP address is, by the longest prefix; looked up only where the host's stack is involved.
    fn subnet(&self, address: Address) -> Option<Subnet>;
    /// The port whose station has an IP address, or `PortNumber::NONE`.
    fn neighbor(&self, key: &NeighborKey) -> PortNumber;
    /// Whether an IP address is the station's own in another network.
    fn owns(&self, key: &OwnKey) -> bool;
    /// Whether a VLAN is on the list of a trunk.
    fn in_trunk(&self, port: PortNumber, vlan: VlanKey) -> bool;
    /// Whether a port listens to a multicast group.
    fn listens(&self, key: &ListenerKey) -> bool;
    /// The port that a peer's frames come in by; `PortNumber::NONE` behind the key of all peers ([`TunnelKey::anybody`]),
    /// which is there if any network here has the VNI.
    fn tunnel(&self, key: &TunnelKey) -> Option<PortNumber>;
    /// How tunnels end at an address of this host.
    fn tunnel_end(&self, own: Address) -> TunnelEnd;
    /// What a class of a port's frames, a [`StormClass`], has used of its allowance.
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
    assert!(size_of::<Way>() == 12);
    assert!(size_of::<FdbKey>() == 12);
    assert!(size_of::<FdbEntry>() == 20);
    assert!(size_of::<PortCounters>() == 8 * (12 + DROP_REASONS));
};

#[cfg(feature = "user")]
mod user {
    //! SAFETY of all below: `repr(C)` or `repr(transparent)` over integers, no padding (sizes asserted above), any bit
    //! pattern is valid.
    #![expect(clippy::undocumented_unsafe_blocks, reason = "one argument for all, above")]
    use super::{
        Address, FdbEntry, FdbKey, ListenerKey, Neighbor, NeighborKey, Network, OwnKey, Port, PortCounters, PortNumber,
        StormWindow, Subnet, TunnelEnd, TunnelKey, Way,
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
    unsafe impl aya::Pod for Way {}
}
