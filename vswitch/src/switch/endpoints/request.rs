//! The validated requests of `attach` and `network connect`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use crate::model::{
    Endpoint, EndpointName, EndpointOptions, EngineEndpoint, InterfaceName, LeftInterface, PublishSpec, Published,
    StationMac,
};

/// A namespace to attach, and the properties of its endpoint. The switch chooses a value for every
/// `None`.
#[derive(Clone, Debug)]
pub struct NewEndpoint {
    /// The path of the namespace.
    pub netns: PathBuf,
    /// Name or id of the network.
    pub network: String,
    /// The name of the endpoint.
    pub name: EndpointName,
    /// The interface in the namespace.
    pub ifname: Option<InterfaceName>,
    /// The IPv4 address.
    pub ip: Option<Ipv4Addr>,
    /// The IPv6 address.
    pub ip6: Option<Ipv6Addr>,
    /// The MAC address.
    pub mac: Option<StationMac>,
    /// The hostname in the namespace, a further DNS name.
    pub hostname: Option<String>,
    /// Further DNS names.
    pub aliases: Vec<String>,
    /// Host ports to publish.
    pub publish: Vec<PublishSpec>,
    /// Host ports that are reserved for the endpoint already, to be published again.
    pub waiting: Vec<Published>,
    /// The network with the highest priority has the default route.
    pub gw_priority: i32,
    /// Options as the user gave them.
    pub options: BTreeMap<String, String>,
    /// The same options parsed, with the VLANs of the port.
    pub port: EndpointOptions,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Identity that an engine gives it. With an interface that the engine moves, `netns` is empty.
    pub engine: Option<EngineEndpoint>,
    /// Another program sets the addresses and routes of the interface.
    pub bare: bool,
    /// Another process holds the host ports.
    pub unheld: bool,
}

impl NewEndpoint {
    /// Returns the interface that an engine moves, if it has one.
    pub fn left(&self) -> Option<&LeftInterface> {
        self.engine.as_ref()?.left.as_ref()
    }

    /// Returns whether the user requested this address.
    pub fn requests(&self, address: IpAddr) -> bool {
        self.ip.map(IpAddr::from) == Some(address) || self.ip6.map(IpAddr::from) == Some(address)
    }
}

/// A further network for an endpoint, and its properties there. The switch chooses a value for
/// every `None`.
#[derive(Clone, Debug)]
pub struct NewConnection {
    /// Name or id of the endpoint.
    pub endpoint: String,
    /// The interface in the namespace.
    pub ifname: Option<InterfaceName>,
    /// The IPv4 address.
    pub ip: Option<Ipv4Addr>,
    /// The IPv6 address.
    pub ip6: Option<Ipv6Addr>,
    /// The MAC address.
    pub mac: Option<StationMac>,
    /// Further DNS names in this network.
    pub aliases: Vec<String>,
    /// The network with the highest priority has the default route.
    pub gw_priority: i32,
    /// Options as the user gave them.
    pub options: BTreeMap<String, String>,
    /// The same options parsed, with the VLANs of the port.
    pub port: EndpointOptions,
}

impl NewConnection {
    /// Returns the request to attach the namespace of `endpoint` to a further network.
    /// `waiting` are the ports that wait for it there.
    pub fn to(self, network: String, endpoint: Endpoint, waiting: Vec<Published>) -> NewEndpoint {
        NewEndpoint {
            netns: endpoint.netns.path,
            network,
            name: endpoint.name,
            ifname: self.ifname,
            ip: self.ip,
            ip6: self.ip6,
            mac: self.mac,
            hostname: endpoint.hostname,
            aliases: self.aliases,
            publish: Vec::new(),
            waiting,
            gw_priority: self.gw_priority,
            options: self.options,
            port: self.port,
            labels: endpoint.labels,
            engine: endpoint.engine.map(|engine| *engine),
            bare: endpoint.bare,
            unheld: endpoint.unheld,
        }
    }
}
