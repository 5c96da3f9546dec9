//! Plans: what must exist for an endpoint or a network, as steps in the order in which they are
//! made.
//!
//! A [`Kind`] of network writes plans; [`apply`] carries them out and undoes them. Planning is
//! pure: it reads records and facts, and touches nothing. A step names its devices, because their
//! indexes are known only once the devices exist.

pub mod apply;
mod bridge;
pub mod drift;
mod endpoint;
mod host_port;
pub mod ipam;
mod kind;
mod none;
mod overlay;
mod parent;
pub mod reconcile;
mod rules;
pub mod store;
#[cfg(test)]
mod testing;
mod uplink;

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use vswitch_common::Mac;
use vswitch_common::tables::{NetworkNumber, PortKind};

use crate::model::{Endpoint, Instance, Mode, Network, NetworkKind, PortRules, UplinkBefore, Xdp};
pub use kind::{Capabilities, Kind, parse};
pub use overlay::{tunnel, tunnels};
pub use parent::ParentNeeds;
pub use uplink::{InterfaceFacts, release_uplink, uplink_xdp};

/// Plans an endpoint of a network.
pub fn endpoint(instance: &Instance, network: &Network, endpoint: &Endpoint, facts: EndpointFacts) -> EndpointPlan {
    kind::of(network).endpoint(instance, network, endpoint, facts)
}

/// Plans the host port of a network: see [`Kind::host_port`].
pub fn host_port(instance: &Instance, network: &Network, mtu: u32, longest: u32) -> Vec<HostStep> {
    kind::of(network).host_port(instance, network, mtu, longest)
}

/// Returns the MAC address of the host's device in a network; `None` if the host has none there.
pub fn host_mac(network: &Network) -> Option<Mac> {
    match &network.kind {
        NetworkKind::Bridge(_) => Some(host_port::host_mac(&network.id)),
        NetworkKind::Overlay(options) => Some(host_port::host_mac(&overlay::seed_of(options.vni_number()))),
        NetworkKind::Macvlan(_) | NetworkKind::Ipvlan(_) | NetworkKind::Host | NetworkKind::None => None,
    }
}

/// Plans the port of a network's uplink or parent. `before` is the state in which the interface was
/// found, `needs` what all networks on the interface need of it.
pub fn interface(
    network: &Network,
    before: &UplinkBefore,
    facts: &InterfaceFacts,
    needs: ParentNeeds,
) -> Vec<HostStep> {
    kind::of(network).interface(network, before, facts, needs)
}

/// Facts besides the records that the plan of an endpoint depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointFacts {
    /// Hooks chosen by `up`.
    pub mode: Mode,
    /// XDP runs on an uplink of the network, and redirects into the endpoint.
    pub xdp_uplink: bool,
    /// The default route of the container leads through this endpoint.
    pub default_route: bool,
}

/// Plan of an endpoint, in two halves. Only [`apply::apply_endpoint`] carries it out, which takes
/// the container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointPlan {
    /// Steps in the daemon's namespace.
    pub host: Vec<HostStep>,
    /// Steps that need the container's namespace.
    pub inside: Vec<InsideStep>,
}

impl EndpointPlan {
    /// Keeps the steps for an interface that stays in the daemon's namespace, until an engine moves
    /// it: it is made and stays down.
    pub fn leave_here(&mut self) {
        self.inside.retain(|step| {
            matches!(
                step,
                InsideStep::CreateVeth { .. }
                    | InsideStep::NoArp { .. }
                    | InsideStep::Device(DeviceStep::Offloads { .. })
            )
        });
        self.host.retain(|step| !matches!(step, HostStep::Device(DeviceStep::CheckCarrier { .. })));
    }

    /// Leaves out the addresses and routes of the interface, which another program sets.
    pub fn leave_bare(&mut self) {
        self.inside.retain(|step| {
            !matches!(
                step,
                InsideStep::Device(DeviceStep::AddAddress { .. })
                    | InsideStep::DefaultRoute { .. }
                    | InsideStep::DefaultByDevice { .. }
            )
        });
    }
}

/// Stage of an endpoint's plan in which a step runs. The halves alternate by stage: in each, the
/// steps of the host half come before those of the inside half, each half in its own order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// Devices are created.
    Create,
    /// Devices get their settings and addresses, while they are down.
    Configure,
    /// The port joins the switch. From here on frames are flooded to it, so everything that does
    /// not need the port comes before; but no frame of the container may arrive before the port's
    /// rules are in place, so its devices are still down.
    Join,
    /// Devices go up: the port's first, so that the interface comes up with carrier and its
    /// announcement goes out. Routes follow, which need a device that is up.
    Start,
    /// Devices are checked for carrier, which needs both ends up; and the host gets its routes to
    /// the endpoint.
    Check,
}

impl Stage {
    const ALL: [Self; 5] = [Self::Create, Self::Configure, Self::Join, Self::Start, Self::Check];
}

/// Work that a device can do for the network stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offload {
    /// Merging of received segments. On a veth it also makes NAPI run, which XDP redirects into it
    /// need.
    Gro,
    /// Checksums of sent packets.
    TxChecksum,
    /// Segmentation of sent packets.
    Tso,
    /// VLAN tags of sent frames, kept beside the frame.
    TxVlan,
    /// VLAN tags of received frames, taken off the frame.
    RxVlan,
}

/// A setting of a device, in either namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceStep {
    /// IPv6 on the device.
    Ipv6 {
        /// Name of the device.
        device: String,
        /// IPv6 is on or off; `None` for the default of the namespace.
        enable: Option<bool>,
        /// The device accepts router advertisements.
        accept_ra: bool,
    },
    /// Offloads that are on or off.
    Offloads {
        /// Name of the device.
        device: String,
        /// Offloads and their settings.
        settings: Vec<(Offload, bool)>,
    },
    /// The kernel announces the device's addresses to its neighbors when the device comes up.
    AnnounceAddresses {
        /// Name of the device.
        device: String,
    },
    /// An address on the device.
    AddAddress {
        /// Name of the device.
        device: String,
        /// Address with its prefix length.
        address: IpNet,
    },
    /// The device is up.
    SetUp {
        /// Name of the device.
        device: String,
    },
    /// The device passes frames: carrier is on, and the kernel has acted on it. This step only
    /// checks.
    CheckCarrier {
        /// Name of the device.
        device: String,
    },
}

/// A step in the daemon's namespace. Each can be undone, and each is complete already if its result
/// exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostStep {
    /// A setting of a device.
    Device(DeviceStep),
    /// A veth pair. Removing one end removes the other.
    CreateVeth {
        /// Name of one end.
        device: String,
        /// MAC address of that end; the kernel chooses one if `None`.
        mac: Option<Mac>,
        /// Alias of that end, which marks the pair as the instance's.
        mark: String,
        /// Name of the other end.
        peer: String,
        /// MTU of both ends in bytes.
        mtu: u32,
    },
    /// The device of all tunnels.
    CreateVxlan {
        /// Name of the device.
        device: String,
        /// UDP port of the tunnels.
        port: u16,
        /// Alias, which marks the device as the instance's.
        mark: String,
    },
    /// The tunnels' program on their device: no packet from a tunnel reaches the host's stack by
    /// itself.
    GuardTunnels {
        /// Name of the device.
        device: String,
    },
    /// IPv6 is off: the device must send no packet of its own.
    NoIpv6 {
        /// Name of the device.
        device: String,
    },
    /// Addresses of the device are usable at once, without duplicate address detection, also after
    /// the device was down.
    NoDad {
        /// Name of the device.
        device: String,
    },
    /// An interface of the host may be in the subnets of the device, too. The host's packets to
    /// other machines in the subnets leave by that interface, and the device answers only senders
    /// that the host reaches by the device.
    ShareSubnets {
        /// Name of the device.
        device: String,
        /// Addresses of the device, with their prefix lengths.
        addresses: Vec<IpNet>,
    },
    /// A port of the switch.
    AddPort(PortStep),
    /// The device receives all frames, or only its own.
    Promiscuous {
        /// Name of the device.
        device: String,
        /// The device receives all frames.
        on: bool,
    },
    /// The host's route to an endpoint through a device, and the endpoint's MAC address there.
    HostRoute {
        /// Name of the device: a parent, or the host device of a network.
        device: String,
        /// Address of the endpoint.
        address: IpAddr,
        /// MAC address of the endpoint.
        mac: Mac,
    },
}

/// A step that needs the container's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InsideStep {
    /// A setting of a device of the container.
    Device(DeviceStep),
    /// A veth pair: the port's device in the daemon's namespace, and the interface, created
    /// directly in the container.
    CreateVeth {
        /// Name of the port's device.
        port: String,
        /// Alias of the port's device, which marks the pair as the instance's.
        mark: String,
        /// Name of the interface.
        interface: String,
        /// MAC address of the interface.
        mac: Mac,
        /// MTU of both ends in bytes.
        mtu: u32,
    },
    /// The link-local address of a device that shares its MAC address, from which others derive the
    /// same address.
    LinkLocal {
        /// Name of the device.
        device: String,
        /// Address.
        address: Ipv6Addr,
    },
    /// The MAC address of a device.
    Mac {
        /// Name of the device.
        device: String,
        /// Address.
        mac: Mac,
    },
    /// The device sends no ARP requests or neighbor solicitations.
    NoArp {
        /// Name of the device.
        device: String,
    },
    /// A default route through a gateway, unless the container has one of that family.
    DefaultRoute {
        /// Name of the device.
        device: String,
        /// Address of the gateway.
        via: IpAddr,
    },
    /// A default route through the device without a gateway, unless the container has one of that
    /// family.
    DefaultByDevice {
        /// Name of the device.
        device: String,
        /// The route is for IPv6, not for IPv4.
        ipv6: bool,
    },
}

/// A port whose devices have no indexes yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortStep {
    /// Device whose received frames enter the switch.
    pub device: String,
    /// Device through which frames leave.
    pub egress: String,
    /// Number of the network.
    pub network: NetworkNumber,
    /// Kind of the port.
    pub kind: PortKind,
    /// MAC address of the station.
    pub mac: Mac,
    /// Use of XDP on the device.
    pub xdp: Xdp,
    /// XDP programs may redirect frames into the port.
    pub xdp_egress: bool,
    /// IP addresses of the station.
    pub addresses: Vec<IpAddr>,
    /// Length in bytes of the longest IP packet that may leave by the port; 0 is no limit.
    pub mtu: u16,
    /// Rules of the port.
    pub rules: PortRules,
}

impl DeviceStep {
    const fn stage(&self) -> Stage {
        match self {
            Self::Ipv6 { .. } | Self::Offloads { .. } | Self::AnnounceAddresses { .. } | Self::AddAddress { .. } => {
                Stage::Configure
            }
            Self::SetUp { .. } => Stage::Start,
            Self::CheckCarrier { .. } => Stage::Check,
        }
    }
}

impl HostStep {
    const fn stage(&self) -> Stage {
        match self {
            Self::Device(step) => step.stage(),
            Self::CreateVeth { .. } | Self::CreateVxlan { .. } => Stage::Create,
            Self::NoIpv6 { .. } | Self::NoDad { .. } | Self::ShareSubnets { .. } => Stage::Configure,
            Self::AddPort(_) | Self::Promiscuous { .. } | Self::GuardTunnels { .. } => Stage::Join,
            Self::HostRoute { .. } => Stage::Check,
        }
    }
}

impl InsideStep {
    const fn stage(&self) -> Stage {
        match self {
            Self::Device(step) => step.stage(),
            Self::CreateVeth { .. } => Stage::Create,
            Self::LinkLocal { .. } | Self::Mac { .. } | Self::NoArp { .. } => Stage::Configure,
            Self::DefaultRoute { .. } | Self::DefaultByDevice { .. } => Stage::Start,
        }
    }
}
