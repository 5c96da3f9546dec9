//! The switch in the kernel: loads the eBPF programs, keeps their tables, and makes devices into ports.

mod batch;
mod entry;
mod error;
mod hooks;
mod live;
mod load;
mod log;
mod multicast;
mod networks;
mod ports;
mod programs;
mod remotes;
mod stations;
mod tables;
mod tracer;
mod tunnels;
mod underlay;
mod watch;
mod wireguard;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;

use vswitch_common::Mac;
use vswitch_common::tables::{NetworkNumber, PortKind};

pub use error::DatapathError;
pub use hooks::{Hooks, release_device, release_underlay};
pub use live::{Lookup, Reasoned, Stage};
pub use load::{Datapath, OBJECT};
pub use networks::NetworkSpec;
pub use remotes::Remote;
pub use tracer::{SHORTEST, Tracer};
pub use underlay::{Receiver, UnderlaySpec, WayOut};
pub use watch::Ring;

/// Which hooks `up --datapath` asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// tcx on container ports; XDP on uplinks that have it.
    #[default]
    Auto,
    /// tcx (or clsact) everywhere.
    Tc,
    /// Native XDP on container ports too.
    Xdp,
}

/// How to open the datapath.
#[derive(Clone, Debug)]
pub struct Options {
    /// The instance's bpffs, mounted already. Programs, links and maps are pinned in it.
    pub directory: PathBuf,
    /// Which hooks to use.
    pub mode: Mode,
    /// Room in the FDB, in learned stations. There is always room for the static ones of as many ports as can be.
    pub fdb_size: u32,
    /// Whether there is room for the endpoints of other hosts, too.
    pub cluster: bool,
}

/// Whether XDP is wanted on one port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Xdp {
    /// tcx alone.
    #[default]
    Off,
    /// Native XDP if the driver has it and nobody else uses it; `port_hooks` says why not.
    Auto,
    /// Native XDP, or an error.
    Native,
}

/// A device that is to become a port.
#[derive(Clone, Debug)]
pub struct PortSpec {
    /// The device whose received frames enter the switch.
    pub ifindex: u32,
    /// The device by which frames leave: the same, but for a host port `vsw-NETWORK`.
    pub egress_ifindex: u32,
    /// Name of the device with `ifindex`; links are pinned by its index, messages use the name.
    pub device: String,
    /// The network it joins.
    pub network: NetworkNumber,
    /// What is behind it.
    pub kind: PortKind,
    /// The station's address; gets a static FDB entry. All zeros for a tunnel, which has none.
    pub mac: Mac,
    /// The station's IP addresses; the first of each version, and the link-local address that goes with `mac` (RFC 4291,
    /// appendix A), are those that `spoof_guard` lets pass. Others are told who has them (`arp_suppress`). Of a tunnel: the
    /// peer's address on the underlay.
    pub addresses: Vec<IpAddr>,
    /// The longest IP packet that may leave by it; 0 is no limit.
    pub mtu: u16,
    /// Whether XDP is wanted on the device itself.
    pub xdp: Xdp,
    /// XDP may redirect into it: GRO is on at the container's end, so NAPI runs there (`ndo_xdp_xmit` needs it).
    pub xdp_egress: bool,
    /// What it may do.
    pub rules: PortRules,
}

/// What a port may do. The default is a port of a plain learning switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRules {
    /// Nothing passes between it and other isolated ports of its network. Of a container alone: the host and uplinks
    /// are there for all.
    pub isolated: bool,
    /// Frames for a station behind it that come from it go back out.
    pub hairpin: bool,
    /// Stations behind it are learned.
    pub learning: bool,
    /// How many of them at once.
    pub fdb_limit: u32,
    /// What it sends has its own addresses as the sender's. Of a container alone, like the three guards that follow.
    pub spoof_guard: bool,
    /// It sends nothing that routers alone send.
    pub ra_guard: bool,
    /// It sends no DHCP server's answers.
    pub dhcp_guard: bool,
    /// It sends no BPDUs.
    pub bpdu_guard: bool,
    /// Its questions for addresses that are known are answered by the switch.
    pub arp_suppress: bool,
    /// Multicast that it sends goes to those who listen.
    pub snooping: bool,
    /// A multicast router is behind it.
    pub router: bool,
    /// Broadcast, multicast and unknown unicast frames that it may flood in a second, each for itself; 0 is no limit.
    pub storm_pps: u32,
    /// Which link-local groups are forwarded: bit n is 01:80:c2:00:00:0n.
    pub group_fwd_mask: u16,
    /// The VLAN of its untagged frames; 0 is that of ports without VLANs.
    pub vlan: u16,
    /// The VLANs whose frames it sends and gets with a tag.
    pub trunk: Trunk,
    /// Where it is on the wire of a parent.
    pub place: Place,
    /// Of the host's port in an overlay network: nothing passes between it and tunnels.
    pub split_horizon: bool,
}

/// What a port of a macvlan or ipvlan network may do; of the parent, what some of its children may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Nothing passes between it and other children but by way of the wire.
    pub apart: bool,
    /// It takes what comes back from there.
    pub reflected: bool,
    /// It is found by its IP addresses.
    pub by_address: bool,
    /// IP packets to single stations alone, whose next hop the host finds.
    pub routed: bool,
    /// By way of the host's stack.
    pub stack: bool,
    /// The host itself and it reach each other.
    pub host_access: bool,
    /// It has its parent to itself.
    pub passthru: bool,
}

impl Default for PortRules {
    fn default() -> Self {
        Self {
            isolated: false,
            hairpin: false,
            learning: true,
            fdb_limit: u32::MAX,
            spoof_guard: false,
            ra_guard: false,
            dhcp_guard: false,
            bpdu_guard: false,
            arp_suppress: false,
            snooping: false,
            router: false,
            storm_pps: 0,
            group_fwd_mask: 0,
            vlan: 0,
            trunk: Trunk::None,
            place: Place::default(),
            split_horizon: false,
        }
    }
}

/// The VLANs of a trunk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Trunk {
    /// No trunk: tagged frames, but for priority tags, are dropped.
    #[default]
    None,
    /// These, 1 to 4094.
    Vlans(BTreeSet<u16>),
    /// All, and service tags too.
    All,
}
