//! The results of the use cases: records with what the kernel has of them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use time::OffsetDateTime;
use vswitch_common::tables::PortCounters;

use crate::cluster::{Health, Host};
use crate::datapath::{Hooks, Mode};
use crate::model::{Endpoint, EndpointAddress, EndpointName, Network, PeerState, StationMac};
use crate::nat::{FirewallStatus, ForwardingStatus};
use crate::switch::error::SwitchError;
use crate::wireguard::PublicKey;

/// An endpoint with its network.
#[derive(Clone, Debug)]
pub struct EndpointInfo {
    /// The record of the endpoint.
    pub endpoint: Endpoint,
    /// The record of its network.
    pub network: Network,
}

/// An endpoint in all its networks, with its port in the first.
#[derive(Clone, Debug)]
pub struct EndpointDetails {
    /// The endpoint in each network, the network with the default route first. Never empty.
    pub networks: Vec<EndpointInfo>,
    /// The host end of the veth pair in the first network.
    pub device: Option<String>,
    /// The hooks on that device.
    pub hooks: Option<String>,
    /// The counters of that port.
    pub counters: Option<PortCounters>,
}

/// Returns the DNS servers of an endpoint: the host's addresses in its subnets, IPv4 first.
pub fn nameservers(network: &Network, endpoint: &Endpoint) -> Vec<IpAddr> {
    let reaches_host = endpoint.port.reaches_host() && network.capabilities().names;
    let Some(address) = endpoint.address.as_ref().filter(|_| reaches_host) else { return Vec::new() };
    address.ips().filter_map(|own| network.subnet_of(own)).map(|config| config.gateway).collect()
}

/// Returns the gateway of an endpoint for one address family. Internal networks and endpoints in a
/// VLAN have none.
pub fn gateway(network: &Network, endpoint: &Endpoint, address: &EndpointAddress, ipv6: bool) -> Option<IpAddr> {
    let own = address.ips().find(|ip| ip.is_ipv6() == ipv6)?;
    network.gateway_of(own).filter(|_| network.has_way_out(endpoint))
}

/// A network.
#[derive(Clone, Debug)]
pub struct NetworkInfo {
    /// The record.
    pub network: Network,
    /// The number of its endpoints on this host.
    pub endpoints: usize,
}

/// A network with its devices and endpoints.
#[derive(Clone, Debug)]
pub struct NetworkDetails {
    /// The network.
    pub network: NetworkInfo,
    /// The MTU of its endpoints. `None` for a network without interfaces.
    pub mtu: Option<u32>,
    /// The host device, in a switched network.
    pub host_device: Option<String>,
    /// The uplink or the parent.
    pub interface: Option<InterfaceInfo>,
    /// The names of its endpoints on this host, sorted.
    pub attached: Vec<String>,
    /// The endpoints of the network on other hosts of the cluster, by name.
    pub elsewhere: Vec<RemoteEndpoint>,
}

/// An interface of the host that a network uses as uplink or parent.
#[derive(Clone, Debug)]
pub struct InterfaceInfo {
    /// The name.
    pub interface: String,
    /// Whether the interface exists and is a port.
    pub present: bool,
    /// The hooks on it, with the reason for a missing XDP hook.
    pub hooks: Option<String>,
}

/// An endpoint of another host of the cluster.
#[derive(Clone, Debug)]
pub struct RemoteEndpoint {
    /// The name of the endpoint.
    pub name: EndpointName,
    /// The name of its host, or the short id of an unknown host.
    pub host: String,
    /// The address of its host.
    pub address: Option<IpAddr>,
    /// The MAC address.
    pub mac: StationMac,
    /// The IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// The IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
}

/// The outcome of `network prune`.
#[derive(Debug, Default)]
pub struct Pruned {
    /// The names of the removed networks, sorted.
    pub deleted: Vec<String>,
    /// The networks that could not be removed, by name, with the reason.
    pub kept: Vec<(String, SwitchError)>,
}

/// A peer and its traffic.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    /// The underlay address.
    pub address: IpAddr,
    /// The name of the host, in a cluster.
    pub host: Option<String>,
    /// Whether the peer is reachable and heard.
    pub state: PeerState,
    /// The interface with the route to the peer.
    pub interface: Option<String>,
    /// The time since a frame came from the peer.
    pub last_seen: Option<Duration>,
    /// The number of overlay networks with a tunnel to the peer.
    pub networks: usize,
    /// The WireGuard public key.
    pub public_key: Option<PublicKey>,
    /// The time since the last WireGuard handshake.
    pub last_handshake: Option<Duration>,
    /// The counters of all tunnels to the peer.
    pub counters: PortCounters,
    /// When the peer was added.
    pub added: OffsetDateTime,
}

/// The state of the whole switch.
#[derive(Clone, Debug)]
pub struct Status {
    /// The name of the instance.
    pub instance: String,
    /// The hooks that `up --datapath` requested.
    pub mode: Mode,
    /// The hooks of each kind of port.
    pub hooks: Hooks,
    /// The release of the kernel.
    pub kernel: String,
    /// The WireGuard public key of this host, if one exists.
    pub public_key: Option<PublicKey>,
    /// The number of networks.
    pub networks: usize,
    /// The number of attached endpoints.
    pub endpoints: usize,
    /// The number of FDB entries.
    pub fdb_entries: usize,
    /// The number of held FDB entries.
    pub held_stations: usize,
    /// The time since the daemon started.
    pub uptime: Duration,
    /// Whether the daemon took over the datapath of an earlier one.
    pub taken_over: bool,
    /// The nftables table of the instance.
    pub firewall_table: Option<String>,
    /// The forwarding settings that networks need.
    pub forwarding: Vec<ForwardingStatus>,
    /// What other firewalls do to the packets of networks.
    pub firewalls: Vec<FirewallStatus>,
    /// Notes for the operator.
    pub notes: Vec<String>,
    /// The uplinks and parents with the names of their networks, by interface.
    pub interfaces: Vec<(InterfaceInfo, Vec<String>)>,
    /// The cluster.
    pub cluster: Option<ClusterStatus>,
}

/// The state of the cluster, as this host sees it.
#[derive(Clone, Debug)]
pub struct ClusterStatus {
    /// This host.
    pub host: Host,
    /// The addresses of etcd.
    pub etcd: String,
    /// The health of the connection to etcd.
    pub health: Health,
    /// The number of hosts, this one included.
    pub hosts: usize,
    /// The number of endpoints on other hosts.
    pub endpoints: usize,
}

/// The counters of a port, or the sum of those of a network.
#[derive(Clone, Debug)]
pub struct PortStats {
    /// The name of the port.
    pub port: String,
    /// The kind of the port.
    pub kind: &'static str,
    /// The name of its network.
    pub network: String,
    /// The counters.
    pub counters: PortCounters,
}

/// Everything that is counted, at one moment.
#[derive(Clone, Debug, Default)]
pub struct Measurements {
    /// The name of the instance.
    pub instance: String,
    /// The release of the kernel.
    pub kernel: String,
    /// The hooks that `up --datapath` requested.
    pub mode: Mode,
    /// The time since the daemon started.
    pub uptime: Duration,
    /// The number of endpoints by network.
    pub endpoints: BTreeMap<String, usize>,
    /// The counters of every port.
    pub ports: Vec<PortStats>,
    /// The FDB entries by network.
    pub stations: BTreeMap<String, StationCounts>,
    /// The capacity of the FDB for learned entries.
    pub fdb_size: u32,
    /// The cluster.
    pub cluster: Option<ClusterStatus>,
}

/// The FDB entries of a network by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StationCounts {
    /// Static entries.
    pub fixed: usize,
    /// Sticky entries.
    pub sticky: usize,
    /// Learned entries.
    pub learned: usize,
    /// Held entries, which count as sticky or learned, too.
    pub held: usize,
}
