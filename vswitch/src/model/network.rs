//! Networks.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use vswitch_common::packet::ethernet;
use vswitch_common::tables::NetworkNumber;

use super::{
    BridgeOptions, Endpoint, EndpointOptions, InterfaceName, NetworkId, NetworkName, OverlayOptions, SubnetConfig,
    WireOptions,
};

/// Bytes that a packet must be able to have for an interface to have IPv6 (RFC 8200, 5).
const LEAST_IPV6: u32 = 1280;

/// How a network is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// A switch of its own.
    Bridge,
    /// On the wire of an interface, with MAC addresses of their own.
    Macvlan,
    /// On the wire of an interface, with its MAC address.
    Ipvlan,
    /// A switch on each of several hosts, with tunnels between them.
    Overlay,
    /// The host's own stack.
    Host,
    /// Loopback alone.
    None,
}

/// A string that is no driver.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown driver `{0}` (networks are made with bridge, macvlan, ipvlan or overlay)")]
pub struct InvalidDriver(pub String);

impl Driver {
    /// The name in the command line and in JSON.
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
}

impl Driver {
    /// Whether its endpoints have interfaces of their own, with addresses.
    pub const fn has_interfaces(self) -> bool {
        matches!(self, Self::Bridge | Self::Macvlan | Self::Ipvlan | Self::Overlay)
    }

    /// Whether its networks are switches here, with a port of the host.
    pub const fn is_switched(self) -> bool {
        matches!(self, Self::Bridge | Self::Overlay)
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

/// The networks that are always there, with their drivers.
pub const fn predefined() -> [(&'static str, Driver); 3] {
    [("bridge", Driver::Bridge), ("host", Driver::Host), ("none", Driver::None)]
}

/// A network as it is recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its id.
    pub id: NetworkId,
    /// Its name; one in an instance.
    pub name: NetworkName,
    /// Its number in the switch. Networks of the host's own stack or of loopback alone have one all the same.
    #[serde(with = "number")]
    pub number: NetworkNumber,
    /// How it is made.
    pub driver: Driver,
    /// Its subnets.
    pub subnets: Vec<SubnetConfig>,
    /// Whether there is no way out of it.
    #[serde(default)]
    pub internal: bool,
    /// The options as they were given.
    pub options: BTreeMap<String, String>,
    /// What they mean for its ports.
    pub bridge: BridgeOptions,
    /// Where its endpoints are on the wire, of macvlan and ipvlan.
    #[serde(default)]
    pub wire: Option<WireOptions>,
    /// How it goes on on other hosts, of overlay.
    #[serde(default)]
    pub overlay: Option<OverlayOptions>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// When it was created.
    #[serde(with = "time::serde::rfc3339")]
    pub created: OffsetDateTime,
    /// How the uplink was found, to be restored; recorded before anything on it is changed.
    pub uplink_before: Option<UplinkBefore>,
}

impl Network {
    /// The subnet that an address lies in.
    pub fn subnet_of(&self, address: IpAddr) -> Option<&SubnetConfig> {
        self.subnets.iter().find(|config| config.subnet.net().contains(&address))
    }

    /// The host's own addresses in it.
    pub fn gateways(&self) -> impl Iterator<Item = IpAddr> {
        self.subnets.iter().map(|config| config.gateway)
    }

    /// The gateway of the subnet that an address lies in: a router on the wire, or the host; none where the host routes
    /// what comes by the device.
    pub fn gateway_of(&self, address: IpAddr) -> Option<IpAddr> {
        let routed = self.wire.as_ref().is_some_and(WireOptions::is_routed);
        self.subnet_of(address).map(|config| config.gateway).filter(|_| !routed)
    }

    /// The host's interface that it has: its uplink, or its parent.
    pub fn interface(&self) -> Option<&InterfaceName> {
        self.wire.as_ref().map(|wire| &wire.parent).or(self.bridge.uplink.as_ref())
    }

    /// Whether the host takes what an endpoint sends to the outside.
    pub fn has_way_out(&self, endpoint: &Endpoint) -> bool {
        self.wire.is_some() || !self.internal && endpoint.port.reaches_host()
    }

    /// The MTU of an endpoint's interface, where that of the network is `mtu`, in bytes: the tag that its frames have in tunnels
    /// takes its part, unless that cost it IPv6.
    pub fn endpoint_mtu(&self, port: &EndpointOptions, mtu: u32) -> u32 {
        mtu.saturating_sub(self.tag_room(port)).max(mtu.min(LEAST_IPV6))
    }

    /// Bytes that an endpoint has to leave for the tag of its VLAN, beside which others in the network need leave none.
    pub fn tag_room(&self, port: &EndpointOptions) -> u32 {
        if self.overlay.is_some() && port.is_tagged() { ethernet::TAG as u32 } else { 0 }
    }

    /// The longest packet that an endpoint sends and takes, in bytes, with the tag that it leaves room for; none without an address.
    pub fn longest_of(&self, endpoint: &Endpoint) -> Option<u32> {
        Some(endpoint.address.as_ref()?.mtu + self.tag_room(&endpoint.port))
    }

    /// Whether it cannot be removed.
    pub fn is_predefined(&self) -> bool {
        predefined().iter().any(|(name, _)| *name == self.name.as_str())
    }
}

/// How an uplink was before it became one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UplinkBefore {
    /// Which interface.
    pub interface: InterfaceName,
    /// Its index then: another device of the same name is another device.
    pub index: u32,
    /// Whether it was promiscuous.
    pub promiscuous: bool,
    /// Whether it took VLAN tags off by itself; `None` if that was left alone.
    pub rx_vlan_offload: Option<bool>,
}

mod number {
    use serde::{Deserialize as _, Deserializer, Serializer};
    use vswitch_common::tables::NetworkNumber;

    pub fn serialize<S: Serializer>(number: &NetworkNumber, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(number.0)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<NetworkNumber, D::Error> {
        u32::deserialize(deserializer).map(NetworkNumber)
    }
}
