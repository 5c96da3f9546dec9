//! The ways two containers, or a wire and a container, can be connected; each owns all that it made.

mod bridge;
mod direct;
mod macvlan;
mod overlay;
mod published;
mod segment;
mod vswitch;
mod wire;

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::{
    bpf::Tagging,
    command,
    instance::Instance,
    namespaces::{Netns, NetnsName},
};

pub use bridge::{Netfilter, attach_by_ip, host_with_bridge};
pub use published::Published;
pub use segment::Segment;

/// What connects the two ends.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, ValueEnum)]
pub enum Variant {
    /// One veth pair, no switch: the limit. For frames: injected at the container's own device.
    Direct,
    /// The Linux bridge as the kernel makes it.
    Bridge,
    /// The Linux bridge with its calls into netfilter switched off.
    BridgeAlone,
    /// The kernel's macvlan in bridge mode, on one parent.
    Macvlan,
    /// Docker's bridge network, for published ports.
    Docker,
    /// vswitch as it comes.
    Vswitch,
    /// vswitch with its guards, storm control, ARP suppression and multicast snooping off.
    VswitchOpen,
    /// vswitch with many ports in other networks.
    VswitchCrowd,
    /// vswitch with `--datapath xdp`.
    VswitchXdp,
    /// vswitch with an uplink that is switched in tcx alone (`-o xdp=off`).
    UplinkTcx,
    /// vswitch with an uplink that is switched in native XDP (`-o xdp=native`).
    UplinkXdp,
    /// The kernel's macvlan on a wire whose far end finishes each frame itself, as XDP on the near end needs it.
    MacvlanPlain,
    /// vswitch's macvlan, switched in tcx alone (`-o xdp=off`).
    MacvlanTcx,
    /// vswitch's macvlan, switched in native XDP (`-o xdp=native`).
    MacvlanXdp,
    /// The first of these two with programs at the far end that do nothing: beside it stands the VLAN.
    MacvlanUntagged,
    /// vswitch's macvlan on a VLAN, tags set and taken off at the far end.
    MacvlanVlan,
    /// vswitch's ipvlan in its mode l2, switched in tcx alone.
    IpvlanL2,
    /// Two hosts, each with the kernel's VXLAN device in a Linux bridge, as the kernel makes them.
    VxlanBridge,
    /// The same with the bridge's calls into netfilter switched off.
    VxlanBridgeAlone,
    /// Two hosts, each with vswitch and an overlay network.
    Overlay,
}

impl Variant {
    /// All of them.
    pub const ALL: [Self; 20] = [
        Self::Direct,
        Self::Bridge,
        Self::BridgeAlone,
        Self::Macvlan,
        Self::Docker,
        Self::Vswitch,
        Self::VswitchOpen,
        Self::VswitchCrowd,
        Self::VswitchXdp,
        Self::UplinkTcx,
        Self::UplinkXdp,
        Self::MacvlanPlain,
        Self::MacvlanTcx,
        Self::MacvlanXdp,
        Self::MacvlanUntagged,
        Self::MacvlanVlan,
        Self::IpvlanL2,
        Self::VxlanBridge,
        Self::VxlanBridgeAlone,
        Self::Overlay,
    ];
    /// The ways from a container to one on another host.
    pub const OVERLAYS: [Self; 3] = [Self::VxlanBridge, Self::VxlanBridgeAlone, Self::Overlay];
    /// The ways from a wire to a container on it.
    pub const WIRES: [Self; 8] = [
        Self::Direct,
        Self::Macvlan,
        Self::MacvlanPlain,
        Self::MacvlanTcx,
        Self::MacvlanXdp,
        Self::MacvlanUntagged,
        Self::MacvlanVlan,
        Self::IpvlanL2,
    ];
    /// The ways of a flood.
    pub const FLOODS: [Self; 4] = [Self::Bridge, Self::BridgeAlone, Self::Vswitch, Self::VswitchCrowd];
    /// Who learns stations from an uplink.
    pub const LEARNERS: [Self; 3] = [Self::Bridge, Self::UplinkTcx, Self::UplinkXdp];
    /// The ways from outside to a port that a container publishes.
    pub const PUBLISHED: [Self; 3] = [Self::Direct, Self::Docker, Self::Vswitch];
    /// The ways from one container to another.
    pub const PAIRS: [Self; 6] =
        [Self::Direct, Self::Bridge, Self::BridgeAlone, Self::Macvlan, Self::Vswitch, Self::VswitchXdp];
    /// The ways from an uplink to a container.
    pub const UPLINKS: [Self; 6] =
        [Self::Direct, Self::Bridge, Self::BridgeAlone, Self::Macvlan, Self::UplinkTcx, Self::UplinkXdp];

    /// In JSON.
    pub fn key(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Bridge => "bridge",
            Self::BridgeAlone => "bridge_alone",
            Self::Macvlan => "macvlan",
            Self::Docker => "docker",
            Self::Vswitch => "vswitch",
            Self::VswitchOpen => "vswitch_open",
            Self::VswitchCrowd => "vswitch_crowd",
            Self::VswitchXdp => "vswitch_xdp",
            Self::UplinkTcx => "uplink_tcx",
            Self::UplinkXdp => "uplink_xdp",
            Self::MacvlanPlain => "macvlan_plain",
            Self::MacvlanTcx => "macvlan_tcx",
            Self::MacvlanXdp => "macvlan_xdp",
            Self::MacvlanUntagged => "macvlan_untagged",
            Self::MacvlanVlan => "macvlan_vlan",
            Self::IpvlanL2 => "ipvlan_l2",
            Self::VxlanBridge => "vxlan_bridge",
            Self::VxlanBridgeAlone => "vxlan_bridge_alone",
            Self::Overlay => "overlay",
        }
    }

    /// In tables and plots.
    pub fn label(self) -> &'static str {
        match self {
            Self::Direct => "direct veth",
            Self::Bridge => "Linux bridge",
            Self::BridgeAlone => "bridge, no netfilter",
            Self::Macvlan => "macvlan",
            Self::Docker => "Docker",
            Self::Vswitch => "vswitch",
            Self::VswitchOpen => "vswitch, guards off",
            Self::VswitchCrowd => "vswitch, 1,000 more ports",
            Self::VswitchXdp => "vswitch --datapath xdp",
            Self::UplinkTcx => "vswitch, uplink tcx",
            Self::UplinkXdp => "vswitch, uplink XDP",
            Self::MacvlanPlain => "macvlan, plain wire",
            Self::MacvlanTcx => "vswitch macvlan, tcx",
            Self::MacvlanXdp => "vswitch macvlan, XDP",
            Self::MacvlanUntagged => "vswitch macvlan, no tags",
            Self::MacvlanVlan => "vswitch macvlan, VLAN 30",
            Self::IpvlanL2 => "vswitch ipvlan l2",
            Self::VxlanBridge => "vxlan, Linux bridge",
            Self::VxlanBridgeAlone => "vxlan, no netfilter",
            Self::Overlay => "vswitch overlay",
        }
    }

    /// Whether it cannot be built without a vswitch binary.
    pub fn needs_vswitch(self) -> bool {
        !matches!(
            self,
            Self::Direct
                | Self::Bridge
                | Self::BridgeAlone
                | Self::Macvlan
                | Self::MacvlanPlain
                | Self::Docker
                | Self::VxlanBridge
                | Self::VxlanBridgeAlone
        )
    }
}

/// One end: a device with an address in a namespace.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Where the device is.
    pub netns: NetnsName,
    /// Its name there.
    pub ifname: String,
    /// Its address.
    pub ipv4: Ipv4Addr,
}

impl Endpoint {
    /// Gives a device that is already in the namespace its address, and brings it up.
    fn configure(netns: &NetnsName, ifname: &str, ipv4: Ipv4Addr) -> Result<Self> {
        netns.ip(&format!("address add {ipv4}/24 dev {ifname}"))?;
        netns.ip(&format!("link set {ifname} up"))?;
        Ok(Self { netns: netns.clone(), ifname: ifname.to_owned(), ipv4 })
    }

    /// Pings until the first answer, so that neighbors and FDBs are warm; fails when there is none.
    pub fn reach(&self, other: &Self) -> Result<()> {
        let mut ping = self.netns.command("ping");
        ping.args(["-n", "-q", "-c", "3", "-i", "0.2", "-W", "2"]).arg(other.ipv4.to_string());
        command::run(&mut ping).with_context(|| format!("{} does not reach {}", self.ipv4, other.ipv4))?;
        Ok(())
    }
}

/// Two containers that reach each other.
pub struct Pair {
    /// What connects them.
    pub variant: Variant,
    /// The end that sends.
    pub client: Endpoint,
    /// The end that receives.
    pub server: Endpoint,
    // Dropped in this order: the switch goes before the namespaces that it works on.
    pub(crate) instance: Option<Instance>,
    /// Those of two hosts.
    instances: Vec<Instance>,
    _namespaces: Vec<Netns>,
}

impl Pair {
    /// Builds it, and sees that the two ends reach each other.
    pub fn build(variant: Variant, vswitch: Option<&Path>) -> Result<Self> {
        let pair = match variant {
            Variant::Direct => direct::pair(),
            Variant::Bridge => bridge::pair(Netfilter::Default),
            Variant::BridgeAlone => bridge::pair(Netfilter::Off),
            Variant::Macvlan => macvlan::pair(),
            Variant::Docker => bail!("Docker is measured on published ports only"),
            Variant::MacvlanPlain
            | Variant::MacvlanTcx
            | Variant::MacvlanXdp
            | Variant::MacvlanUntagged
            | Variant::MacvlanVlan
            | Variant::IpvlanL2 => bail!("{} is measured from the wire only", variant.label()),
            Variant::VxlanBridge | Variant::VxlanBridgeAlone | Variant::Overlay => overlay::pair(variant, vswitch),
            Variant::Vswitch | Variant::VswitchCrowd | Variant::UplinkTcx | Variant::UplinkXdp => {
                vswitch::pair(variant, required(vswitch)?, &[])
            }
            Variant::VswitchOpen => vswitch::pair_without_guards(required(vswitch)?),
            Variant::VswitchXdp => vswitch::pair(variant, required(vswitch)?, &["--datapath", "xdp"]),
        };
        let pair = pair.with_context(|| format!("setting up {}", variant.label()))?;
        pair.client.reach(&pair.server).with_context(|| format!("through {}", variant.label()))?;
        Ok(pair)
    }

    fn without_switch(variant: Variant, client: Endpoint, server: Endpoint, namespaces: Vec<Netns>) -> Self {
        Self { variant, client, server, instance: None, instances: Vec::new(), _namespaces: namespaces }
    }
}

/// Which XDP program the frames meet where they are injected.
#[derive(Clone, Debug)]
pub enum Injection {
    /// One that passes everything on to the kernel's receive path, as a driver without XDP does.
    Pass,
    /// A program pinned by the switch.
    Pinned(PathBuf),
}

/// What a frame on the wire says, so that it reaches the container.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Addressed {
    /// The container's own MAC address.
    Mac,
    /// The same, in a VLAN.
    MacInVlan(u16),
    /// This MAC address, which several containers share, and the container's own IP address.
    Ip(String),
}

/// A device that frames arrive on, and a container behind it.
pub struct Uplink {
    /// What connects the two.
    pub variant: Variant,
    /// Where the device is.
    pub host: NetnsName,
    /// The device that frames arrive on.
    pub ifname: String,
    /// The program that they meet there.
    pub injection: Injection,
    /// MAC address of the far end of the wire, the frames' source.
    pub wire_mac: String,
    /// The machine at the far end of the wire.
    pub wire: Endpoint,
    /// The frames' destination.
    pub container: Endpoint,
    /// How a frame is made out to it.
    pub to: Addressed,
    pub(crate) instance: Option<Instance>,
    _tagging: Option<Tagging>,
    _namespaces: Vec<Netns>,
}

impl Uplink {
    /// Builds it, and sees that the far end of the wire reaches the container.
    pub fn build(variant: Variant, vswitch: Option<&Path>) -> Result<Self> {
        Self::build_with(variant, vswitch, &[])
    }

    /// The same, with options of `vswitch up`.
    pub fn build_with(variant: Variant, vswitch: Option<&Path>, options: &[&str]) -> Result<Self> {
        let uplink = match variant {
            Variant::Direct => direct::uplink(),
            Variant::Bridge => bridge::uplink(Netfilter::Default),
            Variant::BridgeAlone => bridge::uplink(Netfilter::Off),
            Variant::Macvlan | Variant::MacvlanPlain => macvlan::uplink(variant),
            Variant::MacvlanTcx
            | Variant::MacvlanXdp
            | Variant::MacvlanUntagged
            | Variant::MacvlanVlan
            | Variant::IpvlanL2 => wire::uplink(variant, required(vswitch)?, options),
            Variant::Docker => bail!("Docker is measured on published ports only"),
            Variant::UplinkXdp => vswitch::uplink(variant, required(vswitch)?, options),
            _ => vswitch::uplink(Variant::UplinkTcx, required(vswitch)?, options),
        };
        uplink.with_context(|| format!("setting up {}", variant.label()))
    }
}

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 3);
const WIRE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 250);

fn required(vswitch: Option<&Path>) -> Result<&Path> {
    vswitch.context("this variant needs --vswitch PATH")
}

/// Has the far end of a wire finish each frame itself. A veth hands over unfinished checksums, which XDP cannot finish; a
/// physical wire never does.
fn finish_frames(far: &NetnsName) -> Result<()> {
    command::run(far.command("ethtool").args(["-K", "wire0", "tx", "off"]))?;
    Ok(())
}

/// The far end of a wire whose near end, `ifname`, is left in `host`.
fn wire(host: &NetnsName, far: &NetnsName, ifname: &str) -> Result<Endpoint> {
    host.ip(&format!("link add {ifname} type veth peer name wire0 netns {far}"))?;
    host.ip(&format!("link set {ifname} up"))?;
    Endpoint::configure(far, "wire0", WIRE)
}
