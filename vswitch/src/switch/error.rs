//! What can go wrong with a request, with a line for people.

mod kind;

use std::io;
use std::path::PathBuf;

use vswitch_common::tables::PortNumber;

use super::trace::TraceError;
use super::{OverlayError, WireError};
use crate::apply::{ApplyError, datapath_hint, netlink_hint};
use crate::cluster::ClusterError;
use crate::datapath::DatapathError;
use crate::ipam::IpamError;
use crate::kernel::netlink::NetlinkError;
use crate::kernel::netns::NetnsError;
use crate::model::{
    EndpointName, InterfaceName, InvalidDriver, InvalidInterfaceName, InvalidName, InvalidOption, InvalidPublish,
    InvalidStationMac, InvalidSubnet, InvalidVlan, NetworkName, Subnet,
};
use crate::outside::{OutsideError, ReserveError};
use crate::store::StoreError;
use crate::watching::WatchingError;
use crate::wireguard::{KeyFileError, WireguardError};

pub use kind::ErrorKind;

/// Why a request was refused or failed. What it may have begun has been taken back.
#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    /// A name that is none.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// An interface name that is none.
    #[error(transparent)]
    InterfaceName(#[from] InvalidInterfaceName),
    /// No MAC address of a station.
    #[error(transparent)]
    Mac(#[from] InvalidStationMac),
    /// No IP address, or one of the other family.
    #[error("invalid IP address `{0}` (as in 10.201.0.5 or fd00:1:2::5; IPv4 with --ip, IPv6 with --ip6)")]
    Address(String),
    /// A published port that is none.
    #[error(transparent)]
    Publish(#[from] InvalidPublish),
    /// No subnet.
    #[error(transparent)]
    Subnet(#[from] InvalidSubnet),
    /// No range.
    #[error("invalid range `{0}` (an address and a prefix length, as in 10.201.0.128/25)")]
    Range(String),
    /// No VLAN.
    #[error("invalid VLAN `{0}` (a number from 1 to 4094, for a service tag with an `s` before it)")]
    Vlan(String),
    /// No VLAN of an endpoint.
    #[error(transparent)]
    EndpointVlan(#[from] InvalidVlan),
    /// No driver.
    #[error(transparent)]
    Driver(#[from] InvalidDriver),
    /// A driver whose networks are there already.
    #[error("networks of driver {0} cannot be created (there is one already, with that name)")]
    PredefinedDriver(&'static str),
    /// No option.
    #[error(transparent)]
    Option(#[from] InvalidOption),
    /// A gateway, a range or an auxiliary address that lies in no subnet given.
    #[error("no matching subnet for {what} {of}{} (give the subnet that it lies in with --subnet)", outside(.subnets))]
    NoMatchingSubnet {
        /// The subnets that are given.
        subnets: Vec<Subnet>,
        /// What it is.
        what: &'static str,
        /// As it was given.
        of: String,
    },
    /// Two for one subnet.
    #[error("cannot configure multiple {what} for subnet {subnet} (leave out all but one)")]
    SeveralInSubnet {
        /// What there are two of.
        what: &'static str,
        /// The subnet.
        subnet: Subnet,
    },
    /// A network of the other kind of stack.
    #[error("network `{0}` has no interfaces to connect (choose a bridge network)")]
    NotConnectable(NetworkName),
    /// Disconnecting what is not connected.
    #[error(
        "endpoint {endpoint} is not connected to network {network} (`vswitch inspect {endpoint}` shows its networks)"
    )]
    NotConnected {
        /// The endpoint.
        endpoint: String,
        /// The network.
        network: NetworkName,
    },
    /// Published ports where they cannot be.
    #[error("port {ports} cannot be published on network {network}, {why} (leave -p out, or choose another network)")]
    CannotPublish {
        /// What was asked for.
        ports: String,
        /// The network.
        network: NetworkName,
        /// Why.
        why: &'static str,
    },
    /// A host port is not to be had.
    #[error(transparent)]
    Reserve(#[from] ReserveError),
    /// The way outside could not be made.
    #[error(transparent)]
    Outside(#[from] OutsideError),
    /// WireGuard, for encrypted networks.
    #[error(transparent)]
    Wireguard(#[from] WireguardError),
    /// This host's key for it.
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
    /// An overlay network or a peer.
    #[error(transparent)]
    Overlay(#[from] OverlayError),
    /// The cluster.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// A network of a cluster that this host is not in.
    #[error("network {0} is a cluster's, and this daemon is in none (start it with `up --cluster`)")]
    NoCluster(NetworkName),
    /// A path that is not absolute.
    #[error("{0} is not an absolute path (the daemon has another working directory)")]
    RelativePath(PathBuf),
    /// Nothing to trace.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// Nothing is named.
    #[error("nothing to detach is named (give an endpoint, or --netns)")]
    NothingNamed,

    /// No such network.
    #[error("no network `{0}` (`vswitch network ls` shows those there are)")]
    NetworkNotFound(String),
    /// No such endpoint.
    #[error("no endpoint `{0}` (`vswitch ps` shows those there are)")]
    EndpointNotFound(String),
    /// No such endpoint or network.
    #[error("no endpoint and no network `{0}` (`vswitch ps` and `vswitch network ls` show those there are)")]
    NothingFound(String),
    /// No such port.
    #[error("no port `{0}` (`vswitch stats` shows those there are)")]
    PortNotFound(String),
    /// An id that more than one begins with.
    #[error("more than one id begins with `{0}` (give more digits)")]
    Ambiguous(String),

    /// A network of that name is there.
    #[error("network with name {0} already exists (choose another name)")]
    NetworkExists(NetworkName),
    /// A subnet that is another network's.
    #[error(
        "Pool overlaps with other one on this address space: {subnet} overlaps {other} of network {network} (choose another subnet)"
    )]
    SubnetOverlap {
        /// The subnet.
        subnet: Subnet,
        /// What it overlaps.
        other: Subnet,
        /// Whose that is.
        network: NetworkName,
    },
    /// A network that stays.
    #[error("{0} is a pre-defined network and cannot be removed (it costs nothing)")]
    Predefined(NetworkName),
    /// A network in use.
    #[error("network {network} has active endpoints: {} (detach them first)", list(.endpoints))]
    ActiveEndpoints {
        /// The network.
        network: NetworkName,
        /// Their names.
        endpoints: Vec<EndpointName>,
    },
    /// No number is free.
    #[error("the switch has no room for another network (it has room for {limit}; remove one)")]
    NoFreeNetwork {
        /// How many it can have.
        limit: u32,
    },
    /// An uplink that is not there.
    #[error("no interface `{0}` to be the uplink (`ip link` shows those there are)")]
    UplinkNotFound(InterfaceName),
    /// Loopback.
    #[error("{0} is the loopback interface, and cannot be an uplink (choose a physical interface)")]
    UplinkLoopback(InterfaceName),
    /// A device without Ethernet.
    #[error("{0} is not an Ethernet interface, and cannot be an uplink (choose one that has a MAC address)")]
    UplinkNotEthernet(InterfaceName),
    /// A device of a switch.
    #[error("{0} is a port of vswitch already, and cannot be an uplink (choose another interface)")]
    UplinkIsPort(InterfaceName),
    /// An uplink of another network.
    #[error("{interface} is the uplink of network {network} already (an interface is bridged into one network)")]
    UplinkInUse {
        /// The interface.
        interface: InterfaceName,
        /// Whose uplink it is.
        network: NetworkName,
    },
    /// Part of a bridge or bond.
    #[error(
        "{interface} belongs to {master}, and cannot be an uplink (use {master}, or take it out: `ip link set {interface} nomaster`)"
    )]
    UplinkEnslaved {
        /// The interface.
        interface: InterfaceName,
        /// Its master.
        master: String,
    },

    /// No wire to be on.
    #[error(transparent)]
    Wire(#[from] WireError),

    /// No namespace at the path.
    #[error("{0} ({hint})", hint = netns_hint(.0))]
    Netns(#[from] NetnsError),
    /// The namespace that the switch itself serves.
    #[error("{0} is the host's own network namespace, which the switch itself is in (attach a container's)")]
    OwnNamespace(PathBuf),
    /// The path of a process that has gone.
    #[error("{0} leads to the namespace of another process by now (attach it anew if that is meant)")]
    AnotherProcess(PathBuf),
    /// The host's stack.
    #[error(
        "a namespace cannot be attached to network `{0}`, which is the host's own stack (choose a bridge network, or `none`)"
    )]
    HostNetwork(NetworkName),
    /// An interface for a network that has none.
    #[error("{option} is for an interface, and network `{network}` has {has} (leave it out)")]
    NoInterface {
        /// The option.
        option: &'static str,
        /// The network.
        network: NetworkName,
        /// What it has instead.
        has: &'static str,
    },
    /// The default name is no name.
    #[error("the last part of {path} is no name for an endpoint (give one with --name)")]
    NoDefaultName {
        /// The path.
        path: PathBuf,
    },
    /// An endpoint of that name is there.
    #[error("endpoint with name {0} already exists (choose another with --name, or detach it first)")]
    EndpointExists(EndpointName),
    /// Attached already.
    #[error("{path} is already attached to network {network}, as endpoint {endpoint} (detach it first)")]
    AlreadyAttached {
        /// The path.
        path: PathBuf,
        /// The network.
        network: NetworkName,
        /// The endpoint.
        endpoint: EndpointName,
    },
    /// No address, or not this one.
    #[error("network {network}: {source}")]
    Ipam {
        /// The network.
        network: NetworkName,
        /// Why not.
        source: IpamError,
    },
    /// An address that somebody holds.
    #[error("address {address} of network {network} is already in use by {holder} (choose another, or leave it out)")]
    AddressInUse {
        /// The address.
        address: std::net::IpAddr,
        /// The network.
        network: NetworkName,
        /// Who holds it.
        holder: String,
    },
    /// No subnet from the pools.
    #[error(transparent)]
    Pool(IpamError),
    /// A MAC address that somebody holds.
    #[error(
        "MAC address {mac} of network {network} is already in use by {holder} (choose another, or leave --mac out)"
    )]
    MacInUse {
        /// The address.
        mac: vswitch_common::Mac,
        /// The network.
        network: NetworkName,
        /// Who holds it.
        holder: String,
    },
    /// An entry that an endpoint needs.
    #[error("{mac} is the address of {holder} itself, and stays in the FDB as long as that does (detach it instead)")]
    OwnStation {
        /// The address.
        mac: vswitch_common::Mac,
        /// Whose it is.
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

    /// The kernel could not be changed; what had been is changed back.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The kernel could not be asked.
    #[error("{0} ({hint})", hint = netlink_hint(.0))]
    Netlink(#[from] NetlinkError),
    /// The switch in the kernel failed.
    #[error("{0} ({hint})", hint = datapath_hint(.0))]
    Datapath(#[from] DatapathError),
    /// Frames cannot be watched.
    #[error(transparent)]
    Watching(#[from] WatchingError),
    /// The record failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No random bytes.
    #[error("cannot read random bytes for an id from /dev/urandom: {0}")]
    Random(#[from] io::Error),
    /// A port went while it was looked at.
    #[error("port {} is gone (it was removed at this moment; try again)", (.0).0)]
    PortGone(PortNumber),
    /// The daemon ends.
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
