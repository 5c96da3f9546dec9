//! The errors of the use cases, each with a one-line message.

mod kind;

use std::io;
use std::path::PathBuf;

use vswitch_common::tables::PortNumber;

use crate::cluster::ClusterError;
use crate::datapath::DatapathError;
use crate::kernel::netlink::NetlinkError;
use crate::kernel::netns::NetnsError;
use crate::model::{
    EndpointName, EngineKey, InterfaceName, InvalidDriver, InvalidEngineKey, InvalidInterfaceName, InvalidName,
    InvalidOption, InvalidPublish, InvalidStationMac, InvalidSubnet, InvalidVlan, LEAST_IPV6, NetworkName, Subnet,
};
use crate::nat::{NatError, ReserveError};
use crate::observe::ObserveError;
use crate::plan::apply::{ApplyError, datapath_hint, netlink_hint};
use crate::plan::ipam::IpamError;
use crate::plan::store::StoreError;
use crate::switch::macvlan::ParentError;
use crate::switch::observe::TraceError;
use crate::switch::overlay::OverlayError;
use crate::wireguard::{KeyFileError, WireguardError};

pub use kind::ErrorKind;

/// The reason why a use case failed. Every change that the use case made is undone.
#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    /// An invalid name.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// An invalid interface name.
    #[error(transparent)]
    InterfaceName(#[from] InvalidInterfaceName),
    /// An invalid MAC address of a station.
    #[error(transparent)]
    Mac(#[from] InvalidStationMac),
    /// An invalid IP address, or one of the other family.
    #[error("invalid IP address `{0}` (as in 10.201.0.5 or fd00:1:2::5; IPv4 with --ip, IPv6 with --ip6)")]
    Address(String),
    /// An invalid published port.
    #[error(transparent)]
    Publish(#[from] InvalidPublish),
    /// An invalid subnet.
    #[error(transparent)]
    Subnet(#[from] InvalidSubnet),
    /// An invalid address range.
    #[error("invalid range `{0}` (an address and a prefix length, as in 10.201.0.128/25)")]
    Range(String),
    /// An invalid VLAN of an FDB entry or a frame.
    #[error("invalid VLAN `{0}` (a number from 1 to 4094, for a service tag with an `s` before it)")]
    Vlan(String),
    /// An invalid VLAN of an endpoint.
    #[error(transparent)]
    EndpointVlan(#[from] InvalidVlan),
    /// An unknown driver.
    #[error(transparent)]
    Driver(#[from] InvalidDriver),
    /// A driver of predefined networks only.
    #[error("networks of driver {0} cannot be created (there is one already, with that name)")]
    PredefinedDriver(&'static str),
    /// An invalid option.
    #[error(transparent)]
    Option(#[from] InvalidOption),
    /// A gateway, a range or an auxiliary address in none of the given subnets.
    #[error("no matching subnet for {what} {of}{} (give the subnet that it lies in with --subnet)", outside(.subnets))]
    NoMatchingSubnet {
        /// The given subnets.
        subnets: Vec<Subnet>,
        /// The kind of the value.
        what: &'static str,
        /// The value as given.
        of: String,
    },
    /// Several values of a kind for one subnet.
    #[error("cannot configure multiple {what} for subnet {subnet} (leave out all but one)")]
    SeveralInSubnet {
        /// The kind of the values.
        what: &'static str,
        /// The subnet.
        subnet: Subnet,
    },
    /// A network without interfaces.
    #[error("network `{0}` has no interfaces to connect (choose a bridge network)")]
    NotConnectable(NetworkName),
    /// An endpoint to disconnect from a network that it is not in.
    #[error(
        "endpoint {endpoint} is not connected to network {network} (`vswitch inspect {endpoint}` shows its networks)"
    )]
    NotConnected {
        /// The endpoint.
        endpoint: String,
        /// The network.
        network: NetworkName,
    },
    /// Published ports in a network that cannot publish.
    #[error("port {ports} cannot be published on network {network}, {why} (leave -p out, or choose another network)")]
    CannotPublish {
        /// The requested ports.
        ports: String,
        /// The network.
        network: NetworkName,
        /// The reason.
        why: &'static str,
    },
    /// A host port that cannot be reserved.
    #[error(transparent)]
    Reserve(#[from] ReserveError),
    /// The rules for masquerade and published ports failed.
    #[error(transparent)]
    Nat(#[from] NatError),
    /// WireGuard, for encrypted networks.
    #[error(transparent)]
    Wireguard(#[from] WireguardError),
    /// The WireGuard key file of this host.
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
    /// An overlay network or a peer.
    #[error(transparent)]
    Overlay(#[from] OverlayError),
    /// The cluster.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// A network of a cluster, on a host that is in none.
    #[error("network {0} is a cluster's, and this daemon is in none (start it with `up --cluster`)")]
    NoCluster(NetworkName),
    /// A relative path.
    #[error("{0} is not an absolute path (the daemon has another working directory)")]
    RelativePath(PathBuf),
    /// A frame that cannot be traced.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// A request without a selection.
    #[error("nothing to detach is named (give an endpoint, or --netns)")]
    NothingNamed,

    /// An unknown network.
    #[error("no network `{0}` (`vswitch network ls` shows those there are)")]
    NetworkNotFound(String),
    /// An unknown endpoint.
    #[error("no endpoint `{0}` (`vswitch ps` shows those there are)")]
    EndpointNotFound(String),
    /// A reference to neither an endpoint nor a network.
    #[error("no endpoint and no network `{0}` (`vswitch ps` and `vswitch network ls` show those there are)")]
    NothingFound(String),
    /// An unknown port.
    #[error("no port `{0}` (`vswitch stats` shows those there are)")]
    PortNotFound(String),
    /// The start of several ids.
    #[error("`{reference}` could mean {} (give the name, or more digits of the id)", .candidates.join(", "))]
    Ambiguous {
        /// The reference.
        reference: String,
        /// The objects whose ids begin with it.
        candidates: Vec<String>,
    },

    /// The name of an existing network.
    #[error("network with name {0} already exists (choose another name)")]
    NetworkExists(NetworkName),
    /// A subnet that overlaps that of another network.
    #[error(
        "Pool overlaps with other one on this address space: {subnet} overlaps {other} of network {network} (choose another subnet)"
    )]
    SubnetOverlap {
        /// The subnet.
        subnet: Subnet,
        /// The other subnet.
        other: Subnet,
        /// The other network.
        network: NetworkName,
    },
    /// A subnet that the host has or routes elsewhere.
    #[error("subnet {subnet} overlaps {by} (choose another with --subnet)")]
    SubnetOccupied {
        /// The subnet.
        subnet: Subnet,
        /// The address or route of the host.
        by: String,
    },
    /// A gateway address that a router has.
    #[error("gateway {gateway} is {holder} (give a free address of the subnet with --gateway)")]
    GatewayInUse {
        /// The gateway.
        gateway: std::net::IpAddr,
        /// The holder.
        holder: String,
    },
    /// An MTU option that is too small for IPv6.
    #[error("mtu {mtu} is too small for IPv6, which needs {LEAST_IPV6} bytes (choose a larger one, or leave IPv6 out)")]
    MtuOption {
        /// The MTU in bytes.
        mtu: u32,
    },
    /// An MTU of the interface that is too small for IPv6.
    #[error(
        "the MTU {mtu} of {interface} is too small for IPv6, which needs {LEAST_IPV6} bytes (raise it, or leave IPv6 out)"
    )]
    MtuOfInterface {
        /// The MTU in bytes.
        mtu: u32,
        /// The interface.
        interface: String,
    },
    /// A network of neither family.
    #[error("a network without IPv4 needs IPv6 (give --ipv6 or an IPv6 --subnet, or leave out --ipv4=false)")]
    NoFamily,
    /// An IPv4 subnet of a network without IPv4.
    #[error("subnet {0} is IPv4, and the network has none (leave it out, or leave out --ipv4=false)")]
    Ipv4Subnet(Subnet),
    /// A predefined network, which cannot be removed.
    #[error("{0} is a pre-defined network and cannot be removed (it costs nothing)")]
    Predefined(NetworkName),
    /// A network with endpoints, which cannot be removed.
    #[error("network {network} has active endpoints: {} (detach them first)", list(.endpoints))]
    ActiveEndpoints {
        /// The network.
        network: NetworkName,
        /// The names of its endpoints.
        endpoints: Vec<EndpointName>,
    },
    /// All network numbers are in use.
    #[error("the switch has no room for another network (it has room for {limit}; remove one)")]
    NoFreeNetwork {
        /// The most networks.
        limit: u32,
    },
    /// An unknown interface.
    #[error("no interface `{0}` to be the uplink (`ip link` shows those there are)")]
    UplinkNotFound(InterfaceName),
    /// A gateway that the uplink's interface has itself.
    #[error(
        "{gateway}, the gateway of network {network}, is an address of {interface} itself (give another one with --gateway; {interface} keeps its own)"
    )]
    UplinkHasGateway {
        /// The gateway.
        gateway: std::net::IpAddr,
        /// The network.
        network: NetworkName,
        /// The interface.
        interface: String,
    },
    /// The loopback interface.
    #[error("{0} is the loopback interface, and cannot be an uplink (choose a physical interface)")]
    UplinkLoopback(InterfaceName),
    /// A device that is not Ethernet.
    #[error("{0} is not an Ethernet interface, and cannot be an uplink (choose one that has a MAC address)")]
    UplinkNotEthernet(InterfaceName),
    /// A device that is a port already.
    #[error("{0} is a port of vswitch already, and cannot be an uplink (choose another interface)")]
    UplinkIsPort(InterfaceName),
    /// The uplink of another network.
    #[error("{interface} is the uplink of network {network} already (an interface is bridged into one network)")]
    UplinkInUse {
        /// The interface.
        interface: InterfaceName,
        /// The network of the uplink.
        network: NetworkName,
    },
    /// A port of a bridge or bond.
    #[error(
        "{interface} belongs to {master}, and cannot be an uplink (use {master}, or take it out: `ip link set {interface} nomaster`)"
    )]
    UplinkEnslaved {
        /// The interface.
        interface: InterfaceName,
        /// The bridge or bond.
        master: String,
    },

    /// An unusable parent, or an endpoint that cannot be on it.
    #[error(transparent)]
    Parent(#[from] ParentError),

    /// A path without a usable namespace.
    #[error("{0} ({hint})", hint = netns_hint(.0))]
    Netns(#[from] NetnsError),
    /// The namespace of the switch itself.
    #[error("{0} is the host's own network namespace, which the switch itself is in (attach a container's)")]
    OwnNamespace(PathBuf),
    /// The interface of an endpoint is not in the namespace that it was attached in.
    #[error("the interface is in {path} no more", path = path.display())]
    InterfaceMoved {
        /// The path of the namespace.
        path: PathBuf,
    },
    /// The path of a process id that another process has now.
    #[error("{0} leads to the namespace of another process by now (attach it anew if that is meant)")]
    AnotherProcess(PathBuf),
    /// A namespace for the host network.
    #[error(
        "a namespace cannot be attached to network `{0}`, which is the host's own stack (choose a bridge network, or `none`)"
    )]
    HostNetwork(NetworkName),
    /// An option of an interface in a network without interfaces.
    #[error("{option} is for an interface, and network `{network}` has {has} (leave it out)")]
    NoInterface {
        /// The option.
        option: &'static str,
        /// The network.
        network: NetworkName,
        /// The option or setting that the network has instead.
        has: &'static str,
    },
    /// A path whose last part is no valid endpoint name.
    #[error("the last part of {path} is no name for an endpoint (give one with --name)")]
    NoDefaultName {
        /// The path.
        path: PathBuf,
    },
    /// The name of an existing endpoint.
    #[error("endpoint with name {0} already exists (choose another with --name, or detach it first)")]
    EndpointExists(EndpointName),
    /// The key of an existing endpoint of an engine.
    #[error("endpoint {0} already exists (detach it first: `vswitch detach {0}`)")]
    KeyExists(EngineKey),
    /// An invalid owner or key.
    #[error(transparent)]
    Key(#[from] InvalidEngineKey),
    /// A request for an engine's endpoint without the engine.
    #[error("{0} needs an owner and a key (they are how an engine finds its endpoint again)")]
    NoOwner(&'static str),
    /// An endpoint whose interface no engine moves.
    #[error("endpoint {0} has no interface that an engine moves (attach it with leave_here)")]
    NotLeft(EndpointName),
    /// An endpoint of an engine, to be changed by hand.
    #[error("endpoint {endpoint} belongs to {owner} (connect and disconnect it with {owner}'s own command)")]
    OfEngine {
        /// The endpoint.
        endpoint: EndpointName,
        /// The engine.
        owner: String,
    },
    /// A network that no engine manages, to be renamed.
    #[error("network {0} cannot have another name (create one with that name)")]
    NotRenamable(NetworkName),
    /// An unknown address pool.
    #[error("no address pool `{0}` (request one first)")]
    PoolNotFound(String),
    /// An address of a pool in use.
    #[error("address {address} of {subnet} is already in use by {holder} (choose another, or leave it out)")]
    LeaseInUse {
        /// The address.
        address: std::net::IpAddr,
        /// The subnet.
        subnet: Subnet,
        /// The holder.
        holder: String,
    },
    /// An overlay network that an engine creates on a host of a cluster.
    #[error(
        "network {name}: {owner} does not tell other hosts of its overlay networks, and this host is in a cluster (create it with `vswitch network create -d overlay`; CNI takes its name at `network`)"
    )]
    OfCluster {
        /// The network.
        name: NetworkName,
        /// The engine.
        owner: String,
    },
    /// An interface that an engine never moved into a container.
    #[error("no container took the interface {0}, and it is gone (start the container again)")]
    NotJoined(InterfaceName),
    /// A namespace that is attached to the network already.
    #[error("{path} is already attached to network {network}, as endpoint {endpoint} (detach it first)")]
    AlreadyAttached {
        /// The path.
        path: PathBuf,
        /// The network.
        network: NetworkName,
        /// The endpoint.
        endpoint: EndpointName,
    },
    /// An address that cannot be allocated.
    #[error("network {network}: {source}")]
    Ipam {
        /// The network.
        network: NetworkName,
        /// The reason.
        source: IpamError,
    },
    /// An address in use.
    #[error("address {address} of network {network} is already in use by {holder} (choose another, or leave it out)")]
    AddressInUse {
        /// The address.
        address: std::net::IpAddr,
        /// The network.
        network: NetworkName,
        /// The holder.
        holder: String,
    },
    /// The pools have no free subnet.
    #[error(transparent)]
    Pool(IpamError),
    /// A MAC address in use.
    #[error(
        "MAC address {mac} of network {network} is already in use by {holder} (choose another, or leave --mac out)"
    )]
    MacInUse {
        /// The address.
        mac: vswitch_common::Mac,
        /// The network.
        network: NetworkName,
        /// The holder.
        holder: String,
    },
    /// The FDB entry of a port's own station.
    #[error("{mac} is the address of {holder} itself, and stays in the FDB as long as that does (detach it instead)")]
    OwnStation {
        /// The address.
        mac: vswitch_common::Mac,
        /// The port.
        holder: String,
    },
    /// A port of another network.
    #[error("{port} is not in network {network} (`vswitch stats {network}` shows the ports in it)")]
    PortElsewhere {
        /// The port.
        port: String,
        /// The network.
        network: NetworkName,
    },

    /// A plan could not be applied. Its steps are undone.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// An rtnetlink request failed.
    #[error("{0} ({hint})", hint = netlink_hint(.0))]
    Netlink(#[from] NetlinkError),
    /// A program or map failed.
    #[error("{0} ({hint})", hint = datapath_hint(.0))]
    Datapath(#[from] DatapathError),
    /// Frames cannot be observed.
    #[error(transparent)]
    Observer(#[from] ObserveError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Random bytes for an id cannot be read.
    #[error("cannot read random bytes for an id from /dev/urandom: {0}")]
    Random(#[from] io::Error),
    /// A port was removed while it was used.
    #[error("port {} is gone (it was removed at this moment; try again)", (.0).0)]
    PortGone(PortNumber),
    /// The daemon is shutting down.
    #[error("the daemon is shutting down (start it again with `vswitch up`)")]
    ShuttingDown,
}

fn netns_hint(error: &NetnsError) -> &'static str {
    match error {
        NetnsError::NotFound { .. } => "give /run/netns/NAME, /proc/PID/ns/net, or where it is mounted",
        NetnsError::UntrustedSymlink { .. } => "give the path that the symlink leads to",
        NetnsError::PermissionDenied { .. } => "the daemon must be able to open it",
        _ => "give the path of a network namespace, such as /run/netns/NAME",
    }
}

fn outside(subnets: &[Subnet]) -> String {
    let subnets: Vec<_> = subnets.iter().map(Subnet::to_string).collect();
    if subnets.is_empty() { String::new() } else { format!(": it lies outside of {}", subnets.join(", ")) }
}

fn list(names: &[EndpointName]) -> String {
    names.iter().map(EndpointName::as_str).collect::<Vec<_>>().join(", ")
}
