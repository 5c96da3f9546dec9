//! The code and the kind of an error.

use crate::cluster::ClusterError;
use crate::kernel::netns::NetnsError;
use crate::model::InvalidVlan;
use crate::plan::apply::ApplyError;
use crate::plan::ipam::IpamError;
use crate::switch::error::SwitchError;
use crate::switch::overlay::OverlayError;
use crate::wireguard::WireguardError;

/// The kind of an error, as HTTP distinguishes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request is invalid in itself.
    Invalid,
    /// The request names an object that does not exist.
    NotFound,
    /// The request does not fit the existing objects.
    Conflict,
    /// The machine failed.
    Failed,
}

impl SwitchError {
    /// Returns the stable code of the error for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Name(_) => "invalid_name",
            Self::InterfaceName(_) => "invalid_interface_name",
            Self::Mac(_) => "invalid_mac",
            Self::Address(_) => "invalid_address",
            Self::Subnet(_) | Self::Range(_) | Self::NoMatchingSubnet { .. } | Self::SeveralInSubnet { .. } => {
                "invalid_subnet"
            }
            Self::Publish(_) => "invalid_publish",
            Self::CannotPublish { .. } => "cannot_publish",
            Self::Reserve(error) => error.code(),
            Self::Nat(error) => error.code(),
            Self::NotConnectable(_) => "not_connectable",
            Self::NotConnected { .. } => "not_connected",
            Self::Vlan(_) | Self::EndpointVlan(InvalidVlan::Id(_)) => "invalid_vlan",
            Self::EndpointVlan(InvalidVlan::Trunk(_)) => "invalid_trunk",
            Self::Driver(_) | Self::PredefinedDriver(_) => "invalid_driver",
            Self::Option(_) => "invalid_option",
            Self::Trace(error) => error.code(),
            Self::NothingNamed => "invalid_request",
            Self::RelativePath(_) => "relative_path",
            Self::NetworkNotFound(_) => "network_not_found",
            Self::EndpointNotFound(_) => "endpoint_not_found",
            Self::NothingFound(_) => "not_found",
            Self::PortNotFound(_) => "port_not_found",
            Self::Ambiguous { .. } => "ambiguous_id",
            Self::NetworkExists(_) => "network_exists",
            Self::SubnetOverlap { .. } | Self::SubnetOccupied { .. } => "subnet_overlap",
            Self::GatewayInUse { .. } => "address_in_use",
            Self::MtuOption { .. } | Self::MtuOfInterface { .. } => "mtu_too_small",
            Self::NoFamily | Self::Ipv4Subnet(_) => "invalid_subnet",
            Self::Predefined(_) => "predefined_network",
            Self::ActiveEndpoints { .. } => "active_endpoints",
            Self::NoFreeNetwork { .. } => "no_free_network",
            Self::UplinkNotFound(_) => "uplink_not_found",
            Self::UplinkLoopback(_) | Self::UplinkNotEthernet(_) => "uplink_unsuitable",
            Self::Parent(error) => error.code(),
            Self::Overlay(error) => error.code(),
            Self::Cluster(error) => error.code(),
            Self::NoCluster(_) => "no_cluster",
            Self::UplinkHasGateway { .. } => "address_in_use",
            Self::UplinkIsPort(_) | Self::UplinkInUse { .. } | Self::UplinkEnslaved { .. } => "uplink_in_use",
            Self::Netns(error) => netns_code(error),
            Self::OwnNamespace(_) => "own_namespace",
            Self::AnotherProcess(_) => "another_process",
            Self::InterfaceMoved { .. } => "interface_moved",
            Self::HostNetwork(_) => "host_network",
            Self::NoInterface { .. } => "no_interface",
            Self::NoDefaultName { .. } => "invalid_name",
            Self::EndpointExists(_) | Self::KeyExists(_) => "endpoint_exists",
            Self::Key(_) | Self::NoOwner(_) => "invalid_owner",
            Self::NotLeft(_) => "not_left_here",
            Self::OfEngine { .. } => "of_engine",
            Self::PoolNotFound(_) => "pool_not_found",
            Self::LeaseInUse { .. } => "address_in_use",
            Self::NotRenamable(_) => "not_renamable",
            Self::OfCluster { .. } => "of_cluster",
            Self::NotJoined(_) => "not_joined",
            Self::AlreadyAttached { .. } => "already_attached",
            Self::Ipam { source, .. } | Self::Pool(source) => ipam_code(source),
            Self::AddressInUse { .. } => "address_in_use",
            Self::MacInUse { .. } => "mac_in_use",
            Self::OwnStation { .. } => "own_station",
            Self::PortElsewhere { .. } => "port_elsewhere",
            Self::Apply(error) => error.code(),
            Self::Wireguard(WireguardError::Port { .. }) => "wireguard_port_in_use",
            Self::Wireguard(_) => "wireguard",
            Self::KeyFile(_) => "key_file",
            Self::Netlink(_) => "netlink",
            Self::Datapath(_) => "datapath",
            Self::Observer(_) => "watching",
            Self::Store(_) => "store",
            Self::Random(_) => "random",
            Self::PortGone(_) => "port_gone",
            Self::ShuttingDown => "shutting_down",
        }
    }

    /// Returns whether a network has no free address.
    pub const fn is_full(&self) -> bool {
        matches!(
            self,
            Self::Ipam { source: IpamError::Exhausted { .. }, .. } | Self::Cluster(ClusterError::Full { .. })
        )
    }

    /// Returns the kind of the error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Parent(error) if error.is_conflict() => ErrorKind::Conflict,
            Self::Overlay(error) if error.is_conflict() => ErrorKind::Conflict,
            Self::Cluster(error) if error.is_conflict() => ErrorKind::Conflict,
            Self::Cluster(ClusterError::NetworkNotFound(_) | ClusterError::NetworkGone(_)) => ErrorKind::NotFound,
            Self::Cluster(_) => ErrorKind::Failed,
            Self::Overlay(OverlayError::PeerNotFound(_)) => ErrorKind::NotFound,
            Self::NetworkNotFound(_)
            | Self::EndpointNotFound(_)
            | Self::NothingFound(_)
            | Self::PortNotFound(_)
            | Self::PoolNotFound(_)
            | Self::NotConnected { .. }
            | Self::PortGone(_) => ErrorKind::NotFound,
            Self::NetworkExists(_)
            | Self::SubnetOverlap { .. }
            | Self::SubnetOccupied { .. }
            | Self::GatewayInUse { .. }
            | Self::Predefined(_)
            | Self::ActiveEndpoints { .. }
            | Self::NoFreeNetwork { .. }
            | Self::UplinkIsPort(_)
            | Self::UplinkInUse { .. }
            | Self::UplinkHasGateway { .. }
            | Self::UplinkEnslaved { .. }
            | Self::EndpointExists(_)
            | Self::KeyExists(_)
            | Self::NotLeft(_)
            | Self::OfEngine { .. }
            | Self::LeaseInUse { .. }
            | Self::NotRenamable(_)
            | Self::NotJoined(_)
            | Self::AlreadyAttached { .. }
            | Self::AddressInUse { .. }
            | Self::MacInUse { .. }
            | Self::Ipam { .. }
            | Self::Pool(_)
            | Self::OwnStation { .. }
            | Self::CannotPublish { .. }
            | Self::Reserve(_)
            | Self::Wireguard(WireguardError::Port { .. } | WireguardError::Taken { .. })
            | Self::Apply(ApplyError::InterfaceTaken { .. }) => ErrorKind::Conflict,
            Self::Apply(_)
            | Self::Nat(_)
            | Self::Netlink(_)
            | Self::Wireguard(_)
            | Self::KeyFile(_)
            | Self::Datapath(_)
            | Self::Observer(_)
            | Self::Store(_)
            | Self::Random(_)
            | Self::ShuttingDown => ErrorKind::Failed,
            _ => ErrorKind::Invalid,
        }
    }
}

fn ipam_code(error: &IpamError) -> &'static str {
    match error {
        IpamError::Exhausted { .. } => "no_available_address",
        IpamError::InUse(_) => "address_in_use",
        IpamError::Outside { .. } | IpamError::NoFamily { .. } => "address_outside_subnet",
        IpamError::NoSubnet { .. } => "no_available_subnet",
    }
}

fn netns_code(error: &NetnsError) -> &'static str {
    match error {
        NetnsError::NotFound { .. } => "netns_not_found",
        NetnsError::NotNamespace { .. } | NetnsError::WrongKind { .. } => "not_a_network_namespace",
        NetnsError::UntrustedSymlink { .. } => "untrusted_symlink",
        _ => "netns_unusable",
    }
}
