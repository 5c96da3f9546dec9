//! The kernel datapath: loads the eBPF programs, maintains their tables, and turns devices into
//! ports.

mod batch;
mod entry;
mod error;
mod held;
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
pub use underlay::{DirectPath, Receiver, UnderlaySpec};
pub use watch::Ring;

pub use crate::model::{Mode, ParentRules, PortRules, Trunk, Xdp};

/// Parameters of [`Datapath::open`].
#[derive(Clone, Debug)]
pub struct Options {
    /// The instance's bpffs, already mounted. Programs, links and maps are pinned in it.
    pub directory: PathBuf,
    /// The hooks to use.
    pub mode: Mode,
    /// Capacity of the FDB for learned stations. The FDB has additional room for the static entries
    /// of the maximum number of ports.
    pub fdb_size: u32,
    /// Whether the FDB also has room for the endpoints of other hosts.
    pub cluster: bool,
    /// The bit of a packet's mark for connections to published ports.
    pub published_mark: u32,
}

/// A device and the port that [`Datapath::add_port`] makes of it.
#[derive(Clone, Debug)]
pub struct PortSpec {
    /// Index of the device whose received frames enter the switch.
    pub ifindex: u32,
    /// Index of the device through which frames leave: the same device, except for a host port
    /// `vsw-NETWORK`.
    pub egress_ifindex: u32,
    /// Name of the device with `ifindex`; links are pinned by its index, messages use the name.
    pub device: String,
    /// The network that the port joins.
    pub network: NetworkNumber,
    /// The kind of port.
    pub kind: PortKind,
    /// The station's MAC address, which gets a static FDB entry. All zeros for a tunnel, which has
    /// no station of its own.
    pub mac: Mac,
    /// The station's IP addresses. `spoof_guard` passes the first address of each IP version, and
    /// the link-local address that is derived from `mac` (RFC 4291, appendix A). `arp_suppress`
    /// answers requests of other stations for these addresses. For a tunnel: the peer's address on
    /// the underlay.
    pub addresses: Vec<IpAddr>,
    /// Length in bytes of the longest IP packet that may leave through the port; 0 means no limit.
    pub mtu: u16,
    /// Whether to attach an XDP program to the device itself.
    pub xdp: Xdp,
    /// Whether XDP may redirect frames to the device: GRO is enabled at the container's end, so
    /// NAPI runs there (required by `ndo_xdp_xmit`).
    pub xdp_egress: bool,
    /// The rules of the port.
    pub rules: PortRules,
}
