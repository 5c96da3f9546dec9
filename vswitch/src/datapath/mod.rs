//! The switch in the kernel: loads the eBPF programs, keeps their tables, and makes devices into ports.

mod error;
mod hooks;
mod load;
mod log;
mod networks;
mod ports;
mod tables;
mod tracer;

use std::path::PathBuf;

use vswitch_common::Mac;
use vswitch_common::tables::{NetworkNumber, PortKind};

pub use error::DatapathError;
pub use hooks::{Hooks, release_device};
pub use load::{Datapath, OBJECT};
pub use networks::NetworkSpec;
pub use tracer::{SHORTEST, Tracer};

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
    /// Room in the FDB, in stations.
    pub fdb_size: u32,
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
    /// The station's address; gets a static FDB entry.
    pub mac: Mac,
    /// Whether XDP is wanted on the device itself.
    pub xdp: Xdp,
    /// XDP may redirect into it: GRO is on at the container's end, so NAPI runs there (`ndo_xdp_xmit` needs it).
    pub xdp_egress: bool,
    /// Nothing passes between it and other isolated ports of its network. Of a container alone: the host and uplinks
    /// are there for all.
    pub isolated: bool,
}
