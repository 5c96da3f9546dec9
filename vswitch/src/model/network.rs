//! Networks.

mod record;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use vswitch_common::packet::ethernet;
use vswitch_common::tables::NetworkNumber;

use super::{
    BridgeOptions, DEFAULT_AGEING, Endpoint, EndpointOptions, EngineNetwork, GatewayMode, InterfaceName, NetworkId,
    NetworkName, OverlayOptions, ParentOptions, SubnetConfig, SwitchOptions, XdpChoice,
};
pub use record::InvalidRecord;
use record::NetworkRecord;

/// Minimum MTU in bytes of an interface with IPv6 (RFC 8200, 5).
pub const LEAST_IPV6: u32 = 1280;

/// Name of a network's kind in the command line and in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// A switch on this host.
    Bridge,
    /// Endpoints on the parent's segment, with MAC addresses of their own.
    Macvlan,
    /// Endpoints on the parent's segment, with the parent's MAC address.
    Ipvlan,
    /// A switch on each of several hosts, with tunnels between the hosts.
    Overlay,
    /// The host's own network stack.
    Host,
    /// Loopback only.
    None,
}

/// A string that names no driver.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown driver `{0}` (networks are made with bridge, macvlan, ipvlan or overlay)")]
pub struct InvalidDriver(pub String);

impl Driver {
    /// Returns the name in the command line and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Macvlan => "macvlan",
            Self::Ipvlan => "ipvlan",
            Self::Overlay => "overlay",
            Self::Host => "host",
            Self::None => "none",
        }
    }

    /// Returns whether users can create networks with this driver. The networks `host` and `none`
    /// exist once.
    pub const fn is_creatable(self) -> bool {
        !matches!(self, Self::Host | Self::None)
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Driver {
    type Err = InvalidDriver;

    fn from_str(text: &str) -> Result<Self, InvalidDriver> {
        match text {
            "bridge" => Ok(Self::Bridge),
            "macvlan" => Ok(Self::Macvlan),
            "ipvlan" => Ok(Self::Ipvlan),
            "overlay" => Ok(Self::Overlay),
            "host" => Ok(Self::Host),
            "none" => Ok(Self::None),
            _ => Err(InvalidDriver(text.to_owned())),
        }
    }
}

/// Returns the names and drivers of the networks that always exist.
pub const fn predefined() -> [(&'static str, Driver); 3] {
    [("bridge", Driver::Bridge), ("host", Driver::Host), ("none", Driver::None)]
}

/// Kind of a network, with the options of that kind. `plan::Kind` says what each can do and plans
/// it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkKind {
    /// A switch on this host.
    Bridge(BridgeOptions),
    /// Endpoints on the parent's segment, with MAC addresses of their own.
    Macvlan(ParentOptions),
    /// Endpoints on the parent's segment, with the parent's MAC address.
    Ipvlan(ParentOptions),
    /// A switch on each of several hosts, with tunnels between the hosts.
    Overlay(OverlayOptions),
    /// The host's own network stack.
    Host,
    /// Loopback only.
    None,
}

/// A network. Its stored form is separate from this type: see the module `record`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "NetworkRecord", into = "NetworkRecord")]
pub struct Network {
    /// Id of the network.
    pub id: NetworkId,
    /// Name, unique in the instance.
    pub name: NetworkName,
    /// Number in the datapath. Networks on one parent share a number; the networks `host` and
    /// `none` have an unused one.
    pub number: NetworkNumber,
    /// Kind, with its options.
    pub kind: NetworkKind,
    /// Subnets.
    pub subnets: Vec<SubnetConfig>,
    /// No packet leaves the network.
    pub internal: bool,
    /// Options as text, as the user gave them.
    pub options: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Time of creation.
    pub created: OffsetDateTime,
    /// State of the uplink or parent before the network changed it, to restore it later.
    pub uplink_before: Option<UplinkBefore>,
    /// Identity that an engine gave it; `None` if it was created by hand.
    pub engine: Option<EngineNetwork>,
}

impl Network {
    /// Returns the driver: the name of the network's kind.
    pub const fn driver(&self) -> Driver {
        match self.kind {
            NetworkKind::Bridge(_) => Driver::Bridge,
            NetworkKind::Macvlan(_) => Driver::Macvlan,
            NetworkKind::Ipvlan(_) => Driver::Ipvlan,
            NetworkKind::Overlay(_) => Driver::Overlay,
            NetworkKind::Host => Driver::Host,
            NetworkKind::None => Driver::None,
        }
    }

    /// Returns the options of the network's switch; `None` if the network is no switch on this
    /// host.
    pub const fn switch(&self) -> Option<&SwitchOptions> {
        match &self.kind {
            NetworkKind::Bridge(options) => Some(&options.switch),
            NetworkKind::Overlay(options) => Some(&options.switch),
            NetworkKind::Macvlan(_) | NetworkKind::Ipvlan(_) | NetworkKind::Host | NetworkKind::None => None,
        }
    }

    /// Returns what the host routes between the network and the outside, for one address family.
    /// Without the option `gateway_mode`, a network without masquerade is routed, and a network on
    /// an uplink is unprotected: the machines of the uplink's segment reach its endpoints anyway,
    /// and the host may be their router.
    pub fn gateway_mode(&self, ipv6: bool) -> GatewayMode {
        let Some(switch) = self.switch() else { return GatewayMode::Routed };
        let chosen = if ipv6 { switch.gateway_mode_ipv6 } else { switch.gateway_mode_ipv4 };
        chosen.unwrap_or(match (switch.masquerade, self.uplink()) {
            (false, _) => GatewayMode::Routed,
            (true, Some(_)) => GatewayMode::NatUnprotected,
            (true, None) => GatewayMode::Nat,
        })
    }

    /// Returns the options of a macvlan or ipvlan network.
    pub const fn parent(&self) -> Option<&ParentOptions> {
        match &self.kind {
            NetworkKind::Macvlan(options) | NetworkKind::Ipvlan(options) => Some(options),
            _ => None,
        }
    }

    /// Returns the options of a macvlan or ipvlan network, to change them.
    pub const fn parent_mut(&mut self) -> Option<&mut ParentOptions> {
        match &mut self.kind {
            NetworkKind::Macvlan(options) | NetworkKind::Ipvlan(options) => Some(options),
            _ => None,
        }
    }

    /// Returns the options of an overlay network.
    pub const fn overlay(&self) -> Option<&OverlayOptions> {
        if let NetworkKind::Overlay(options) = &self.kind { Some(options) } else { None }
    }

    /// Returns the options of an overlay network, to change them.
    pub const fn overlay_mut(&mut self) -> Option<&mut OverlayOptions> {
        if let NetworkKind::Overlay(options) = &mut self.kind { Some(options) } else { None }
    }

    /// Returns the uplink of a bridge network.
    pub fn uplink(&self) -> Option<&InterfaceName> {
        match &self.kind {
            NetworkKind::Bridge(options) => options.uplink.as_ref().map(|uplink| &uplink.interface),
            _ => None,
        }
    }

    /// Returns the host interface that the network uses: its uplink, or its parent.
    pub fn interface(&self) -> Option<&InterfaceName> {
        self.parent().map(|options| &options.parent).or_else(|| self.uplink())
    }

    /// Returns the choice of XDP on the network's uplink or parent.
    pub fn xdp(&self) -> XdpChoice {
        match &self.kind {
            NetworkKind::Bridge(BridgeOptions { uplink: Some(uplink), .. }) => uplink.xdp,
            NetworkKind::Macvlan(options) | NetworkKind::Ipvlan(options) => options.xdp,
            _ => XdpChoice::default(),
        }
    }

    /// Returns the MTU option in bytes; `None` if the MTU is detected.
    pub const fn mtu(&self) -> Option<u32> {
        match &self.kind {
            NetworkKind::Macvlan(options) | NetworkKind::Ipvlan(options) => options.mtu,
            NetworkKind::Bridge(BridgeOptions { switch, .. }) | NetworkKind::Overlay(OverlayOptions { switch, .. }) => {
                switch.mtu
            }
            NetworkKind::Host | NetworkKind::None => None,
        }
    }

    /// Returns the MTU in bytes on an interface with this MTU: the option, but never more than the
    /// interface passes.
    pub fn mtu_on(&self, interface: u32) -> u32 {
        self.mtu().map_or(interface, |option| option.min(interface))
    }

    /// Returns the seconds after which a learned station is removed from the FDB.
    pub fn ageing(&self) -> u32 {
        self.switch().map_or(DEFAULT_AGEING, |switch| switch.ageing)
    }

    /// Returns the subnet that contains an address.
    pub fn subnet_of(&self, address: IpAddr) -> Option<&SubnetConfig> {
        self.subnets.iter().find(|config| config.subnet.net().contains(&address))
    }

    /// Returns whether the network has a subnet of a family.
    pub fn has_family(&self, ipv6: bool) -> bool {
        self.subnets.iter().any(|config| config.subnet.is_ipv6() == ipv6)
    }

    /// Returns the subnets of a family.
    pub fn of_family(&self, ipv6: bool) -> Vec<SubnetConfig> {
        self.subnets.iter().filter(|config| config.subnet.is_ipv6() == ipv6).cloned().collect()
    }

    /// Returns the gateway of each subnet.
    pub fn gateways(&self) -> impl Iterator<Item = IpAddr> {
        self.subnets.iter().map(|config| config.gateway)
    }

    /// Returns the gateway of the subnet that contains an address: a router on the wire, or the
    /// host. `None` if the host routes packets of the device without a gateway address.
    pub fn gateway_of(&self, address: IpAddr) -> Option<IpAddr> {
        let routed = self.parent().is_some_and(ParentOptions::is_routed);
        self.subnet_of(address).map(|config| config.gateway).filter(|_| !routed)
    }

    /// Returns whether an endpoint sends packets to addresses outside of the network.
    pub fn has_way_out(&self, endpoint: &Endpoint) -> bool {
        self.parent().is_some() || !self.internal && endpoint.port.reaches_host()
    }

    /// Returns the MTU in bytes of an endpoint's interface in a network with this MTU. The VLAN tag
    /// that the endpoint's frames carry in tunnels reduces it, but not below the minimum of IPv6.
    pub fn endpoint_mtu(&self, port: &EndpointOptions, mtu: u32) -> u32 {
        mtu.saturating_sub(self.tag_room(port)).max(mtu.min(LEAST_IPV6))
    }

    /// Returns the bytes by which an endpoint's MTU is smaller than the network's, for the tag of
    /// its VLAN in tunnels.
    pub fn tag_room(&self, port: &EndpointOptions) -> u32 {
        if self.overlay().is_some() && port.is_tagged() { ethernet::TAG as u32 } else { 0 }
    }

    /// Returns the length in bytes of the longest packet that an endpoint sends and accepts,
    /// including the room for its tag; `None` for an endpoint without an address.
    pub fn longest_of(&self, endpoint: &Endpoint) -> Option<u32> {
        Some(endpoint.address.as_ref()?.mtu + self.tag_room(&endpoint.port))
    }

    /// Returns the name that the devices of the network have theirs from: the first one.
    pub fn device_name(&self) -> &NetworkName {
        self.engine.as_ref().and_then(|engine| engine.first_name.as_ref()).unwrap_or(&self.name)
    }

    /// Returns whether the network always exists and cannot be removed.
    pub fn is_predefined(&self) -> bool {
        predefined().iter().any(|(name, _)| *name == self.name.as_str())
    }
}

/// State of an interface before it became an uplink or parent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UplinkBefore {
    /// Name of the interface.
    pub interface: InterfaceName,
    /// Index of the interface. A device with the same name and another index is another device.
    pub index: u32,
    /// The interface was promiscuous.
    pub promiscuous: bool,
    /// The driver removed VLAN tags from received frames; `None` if the setting was not changed.
    pub rx_vlan_offload: Option<bool>,
}
