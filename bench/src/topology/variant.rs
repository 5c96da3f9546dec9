//! The connections that are compared.

use clap::ValueEnum;

/// The connection between the two ends.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, ValueEnum)]
pub enum Variant {
    /// One veth pair and no switch, the upper limit; frames are injected at the container's own
    /// device
    Direct,
    /// The Linux bridge with default settings
    Bridge,
    /// The Linux bridge without netfilter calls
    BridgeAlone,
    /// The kernel's macvlan in bridge mode on one parent
    Macvlan,
    /// Docker's bridge network, for published ports
    Docker,
    /// vswitch with default settings
    Vswitch,
    /// vswitch without guards, storm control, ARP suppression and multicast snooping
    VswitchOpen,
    /// vswitch with many ports in other networks
    VswitchCrowd,
    /// vswitch with `--datapath xdp`
    VswitchXdp,
    /// vswitch with an uplink switched only in tcx (`-o xdp=off`)
    UplinkTcx,
    /// vswitch with an uplink switched in native XDP (`-o xdp=native`)
    UplinkXdp,
    /// The kernel's macvlan on a wire whose far end finishes checksums itself, as XDP on the near
    /// end requires
    MacvlanPlain,
    /// vswitch's macvlan switched only in tcx (`-o xdp=off`)
    MacvlanTcx,
    /// vswitch's macvlan switched in native XDP (`-o xdp=native`)
    MacvlanXdp,
    /// As `macvlan-tcx`, with programs at the far end that do nothing, to compare with the VLAN
    MacvlanUntagged,
    /// vswitch's macvlan on a VLAN, with tags set and removed at the far end
    MacvlanVlan,
    /// vswitch's ipvlan in mode l2, switched only in tcx
    IpvlanL2,
    /// Two hosts, each with the kernel's VXLAN device in a Linux bridge with default settings
    VxlanBridge,
    /// As `vxlan-bridge`, without the bridge's netfilter calls
    VxlanBridgeAlone,
    /// Two hosts, each with vswitch and an overlay network
    Overlay,
}

impl Variant {
    /// All variants.
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
    /// Variants of the connection between containers on two hosts.
    pub const OVERLAYS: [Self; 3] = [Self::VxlanBridge, Self::VxlanBridgeAlone, Self::Overlay];
    /// Variants of the connection between a wire and a container on it.
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
    /// Variants of a flood.
    pub const FLOODS: [Self; 4] = [Self::Bridge, Self::BridgeAlone, Self::Vswitch, Self::VswitchCrowd];
    /// Variants that learn stations from an uplink.
    pub const LEARNERS: [Self; 3] = [Self::Bridge, Self::UplinkTcx, Self::UplinkXdp];
    /// Variants of the connection from outside to a published port.
    pub const PUBLISHED: [Self; 3] = [Self::Direct, Self::Docker, Self::Vswitch];
    /// Variants of the connection between two containers.
    pub const PAIRS: [Self; 6] =
        [Self::Direct, Self::Bridge, Self::BridgeAlone, Self::Macvlan, Self::Vswitch, Self::VswitchXdp];
    /// Variants of the connection from an uplink to a container.
    pub const UPLINKS: [Self; 6] =
        [Self::Direct, Self::Bridge, Self::BridgeAlone, Self::Macvlan, Self::UplinkTcx, Self::UplinkXdp];

    /// Returns the key in JSON.
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

    /// Returns the label in tables and plots.
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

    /// Returns whether the variant requires a vswitch binary.
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
