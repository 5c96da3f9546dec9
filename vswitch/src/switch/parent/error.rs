//! What is wrong with a parent, or with an endpoint on its wire.

use std::net::IpAddr;

use vswitch_common::Mac;

use crate::model::{InterfaceName, InvalidVlan, NetworkName, VlanId};

/// Why a network cannot be on an interface, or an endpoint on its wire.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// No such interface, and no VLAN of one.
    #[error("no interface `{0}` to be the parent (`ip link` shows those there are)")]
    NotFound(InterfaceName),
    /// A VLAN of an interface, by a number that none has.
    #[error("no interface `{interface}` to be the parent, and {source}")]
    Vlan {
        /// The interface as given.
        interface: InterfaceName,
        /// What is wrong with the number.
        source: InvalidVlan,
    },
    /// Loopback.
    #[error("{0} is the loopback interface, and cannot be a parent (choose a physical interface)")]
    Loopback(InterfaceName),
    /// A device without Ethernet.
    #[error("{0} is not an Ethernet interface, and cannot be a parent (choose one that has a MAC address)")]
    NotEthernet(InterfaceName),
    /// A device of a switch.
    #[error("{0} is a port of vswitch already, and cannot be a parent (choose another interface)")]
    IsPort(InterfaceName),
    /// The uplink of a network.
    #[error("{interface} is the uplink of network {network}, and cannot be a parent (choose another interface)")]
    IsUplink {
        /// The interface.
        interface: InterfaceName,
        /// Whose uplink it is.
        network: NetworkName,
    },
    /// A parent, and to be an uplink.
    #[error("{interface} is the parent of network {network}, and cannot be an uplink (choose another interface)")]
    IsParent {
        /// The interface.
        interface: InterfaceName,
        /// The network on it.
        network: NetworkName,
    },
    /// Part of a bridge or bond.
    #[error(
        "{interface} belongs to {master}, and cannot be a parent (use {master}, or take it out: `ip link set {interface} nomaster`)"
    )]
    Enslaved {
        /// The interface.
        interface: InterfaceName,
        /// Its master.
        master: String,
    },
    /// A station of a wireless network.
    #[error("{0} is a wireless interface, whose access point takes no other MAC address than its own (use -d ipvlan)")]
    Wireless(InterfaceName),
    /// One endpoint has, or is to have, a parent to itself.
    #[error(
        "{interface} is the parent of network {network} (with macvlan_mode=passthru a parent has one network and no other)"
    )]
    Passthru {
        /// The interface.
        interface: InterfaceName,
        /// The network that is there.
        network: NetworkName,
    },
    /// The second endpoint of a passthru network.
    #[error(
        "endpoint {endpoint} has the parent of network {network} to itself (macvlan_mode=passthru; detach it first)"
    )]
    OnlyOne {
        /// The network.
        network: NetworkName,
        /// Who has it.
        endpoint: String,
    },
    /// Internal, and on a wire.
    #[error("a network on the wire of {0} cannot be internal (leave out --internal, or use -d bridge)")]
    Internal(InterfaceName),
    /// A VLAN of our own in which the host routes.
    #[error(
        "ipvlan_mode {mode} has the host route, which is in no VLAN {vlan} of {parent} (make an interface for it: `ip link add link {parent} name {parent}.{vlan} type vlan id {vlan}`)"
    )]
    RoutedVlan {
        /// The mode.
        mode: &'static str,
        /// The interface.
        parent: InterfaceName,
        /// The VLAN.
        vlan: VlanId,
    },
    /// No subnet is given, and none is on the parent.
    #[error("{parent} has no {family} address whose subnet the network could have (give one with --subnet)")]
    NoSubnet {
        /// The interface, and the VLAN of it, as given.
        parent: String,
        /// Of which family.
        family: &'static str,
    },
    /// A MAC address where all have the parent's.
    #[error("endpoints of network {network} have the MAC address of {parent} (leave out --mac)")]
    SharedMac {
        /// The network.
        network: NetworkName,
        /// The interface.
        parent: InterfaceName,
    },
    /// A VLAN of an endpoint.
    #[error(
        "endpoints of network {network} are in the VLAN of their network (leave out {option}; -o parent={parent}.VLAN puts a network into one)"
    )]
    EndpointVlan {
        /// The option.
        option: &'static str,
        /// The network.
        network: NetworkName,
        /// The interface.
        parent: InterfaceName,
    },
    /// The parent is not there now.
    #[error(
        "{parent}, the parent of network {network}, is not there (its endpoints come back with it; attach more then)"
    )]
    Gone {
        /// The interface.
        parent: InterfaceName,
        /// The network.
        network: NetworkName,
    },
    /// A machine on the wire has the address.
    #[error("address {address} is in use on the wire of {parent}, by {mac} (choose another, or leave it out)")]
    InUse {
        /// The address.
        address: IpAddr,
        /// Whose it is.
        mac: Mac,
        /// The interface.
        parent: InterfaceName,
    },
    /// Machines on the wire have one address after the other.
    #[error(
        "no free address: {parent} has machines at {tried} addresses in a row, {address} the last (give --ip-range a part that is free)"
    )]
    AllInUse {
        /// The interface.
        parent: InterfaceName,
        /// How many.
        tried: usize,
        /// The last.
        address: IpAddr,
    },
}

impl WireError {
    /// The name for programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "parent_not_found",
            Self::Vlan { .. } => "invalid_vlan",
            Self::Loopback(_) | Self::NotEthernet(_) | Self::Wireless(_) => "parent_unsuitable",
            Self::IsParent { .. }
            | Self::IsPort(_)
            | Self::IsUplink { .. }
            | Self::Enslaved { .. }
            | Self::Passthru { .. } => "parent_in_use",
            Self::OnlyOne { .. } => "passthru_in_use",
            Self::Internal(_) | Self::RoutedVlan { .. } | Self::SharedMac { .. } | Self::EndpointVlan { .. } => {
                "invalid_option"
            }
            Self::NoSubnet { .. } => "no_subnet",
            Self::Gone { .. } => "parent_gone",
            Self::InUse { .. } | Self::AllInUse { .. } => "address_in_use",
        }
    }

    /// Whether it would do if something else were otherwise.
    pub const fn is_conflict(&self) -> bool {
        matches!(self.code().as_bytes(), b"parent_in_use" | b"passthru_in_use" | b"parent_gone" | b"address_in_use")
    }
}
