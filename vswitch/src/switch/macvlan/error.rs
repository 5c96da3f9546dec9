//! The errors of parents, and of endpoints on them.

use std::net::IpAddr;

use vswitch_common::Mac;

use crate::model::{InterfaceName, InvalidVlan, NetworkName, VlanId};

/// The reason why an interface cannot be a parent, or an endpoint cannot be on it.
#[derive(Debug, thiserror::Error)]
pub enum ParentError {
    /// The name is neither an interface nor a VLAN of one.
    #[error("no interface `{0}` to be the parent (`ip link` shows those there are)")]
    NotFound(InterfaceName),
    /// An invalid VLAN number of an interface.
    #[error("no interface `{interface}` to be the parent, and {source}")]
    Vlan {
        /// The interface as given.
        interface: InterfaceName,
        /// The error of the number.
        source: InvalidVlan,
    },
    /// The loopback interface.
    #[error("{0} is the loopback interface, and cannot be a parent (choose a physical interface)")]
    Loopback(InterfaceName),
    /// A device that is not Ethernet.
    #[error("{0} is not an Ethernet interface, and cannot be a parent (choose one that has a MAC address)")]
    NotEthernet(InterfaceName),
    /// A device that is a port of vswitch already.
    #[error("{0} is a port of vswitch already, and cannot be a parent (choose another interface)")]
    IsPort(InterfaceName),
    /// The uplink of a network.
    #[error("{interface} is the uplink of network {network}, and cannot be a parent (choose another interface)")]
    IsUplink {
        /// The interface.
        interface: InterfaceName,
        /// The network of the uplink.
        network: NetworkName,
    },
    /// The interface to become an uplink is a parent already.
    #[error("{interface} is the parent of network {network}, and cannot be an uplink (choose another interface)")]
    IsParent {
        /// The interface.
        interface: InterfaceName,
        /// The network on the interface.
        network: NetworkName,
    },
    /// A port of a bridge or bond.
    #[error(
        "{interface} belongs to {master}, and cannot be a parent (use {master}, or take it out: `ip link set {interface} nomaster`)"
    )]
    Enslaved {
        /// The interface.
        interface: InterfaceName,
        /// The bridge or bond.
        master: String,
    },
    /// A wireless interface, whose access point accepts no other MAC address.
    #[error("{0} is a wireless interface, whose access point takes no other MAC address than its own (use -d ipvlan)")]
    Wireless(InterfaceName),
    /// A passthru network shares its parent with no other network.
    #[error(
        "{interface} is the parent of network {network} (with macvlan_mode=passthru a parent has one network and no other)"
    )]
    Passthru {
        /// The interface.
        interface: InterfaceName,
        /// The network on the interface.
        network: NetworkName,
    },
    /// A passthru network has an endpoint already.
    #[error(
        "endpoint {endpoint} has the parent of network {network} to itself (macvlan_mode=passthru; detach it first)"
    )]
    OnlyOne {
        /// The network.
        network: NetworkName,
        /// The endpoint of the network.
        endpoint: String,
    },
    /// An internal network on an interface of the host.
    #[error("a network on the wire of {0} cannot be internal (leave out --internal, or use -d bridge)")]
    Internal(InterfaceName),
    /// A VLAN tagged by the switch, in a mode in which the host routes.
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
    /// No subnet was given, and the parent has none.
    #[error("{parent} has no {family} address whose subnet the network could have (give one with --subnet)")]
    NoSubnet {
        /// The interface with its VLAN, as given.
        parent: String,
        /// The address family.
        family: &'static str,
    },
    /// A requested MAC address in a network whose endpoints share the parent's.
    #[error("endpoints of network {network} have the MAC address of {parent} (leave out --mac)")]
    SharedMac {
        /// The network.
        network: NetworkName,
        /// The interface.
        parent: InterfaceName,
    },
    /// A VLAN option of an endpoint on a parent.
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
    /// The parent does not exist at present.
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
        /// The MAC address of that machine.
        mac: Mac,
        /// The interface.
        parent: InterfaceName,
    },
    /// Machines on the wire have all the addresses that were tried.
    #[error(
        "no free address: {parent} has machines at {tried} addresses in a row, {address} the last (give --ip-range a part that is free)"
    )]
    AllInUse {
        /// The interface.
        parent: InterfaceName,
        /// The number of addresses tried.
        tried: usize,
        /// The last address tried.
        address: IpAddr,
    },
}

impl ParentError {
    /// Returns the error code.
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

    /// Reports whether the request conflicts with the present state. The same request may succeed
    /// in another state.
    pub const fn is_conflict(&self) -> bool {
        matches!(self.code().as_bytes(), b"parent_in_use" | b"passthru_in_use" | b"parent_gone" | b"address_in_use")
    }
}
