//! The errors of overlay networks and peers.

use std::net::IpAddr;

use crate::model::{InvalidPeer, NetworkName, Subnet, Vni};
use crate::wireguard::{KeyError, PublicKey};

/// The reason why an overlay network or a peer was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OverlayError {
    /// An invalid address of a peer.
    #[error(transparent)]
    Peer(#[from] InvalidPeer),
    /// An address of this host.
    #[error(
        "{address} is this host's own address, on {device} (a peer is another host; `vswitch peer add` is done on both)"
    )]
    OwnAddress {
        /// The address.
        address: IpAddr,
        /// The device with the address.
        device: String,
    },
    /// An existing peer.
    #[error("{0} is a peer already (`vswitch peer ls` shows them)")]
    PeerExists(IpAddr),
    /// A peer in a cluster, which the cluster adds and removes.
    #[error(
        "{0} cannot be added or removed as a peer: this host is in a cluster, whose hosts are each other's peers (start the other one with the same `up --cluster`, or this one without)"
    )]
    ClusterPeers(IpAddr),
    /// A subnet with an address of the underlay.
    #[error(
        "subnet {subnet} cannot be network {network}'s: it holds {address}, {whose}, by which the tunnels to other hosts go (choose another subnet)"
    )]
    HoldsUnderlay {
        /// The subnet.
        subnet: Subnet,
        /// The network.
        network: NetworkName,
        /// The address of the underlay.
        address: IpAddr,
        /// The owner.
        whose: String,
    },
    /// The address of a peer in a subnet of a network.
    #[error(
        "{address} cannot be a peer: it lies in {subnet} of network {network}, where it would be looked for (make that network anew with another subnet)"
    )]
    PeerInNetwork {
        /// The address.
        address: IpAddr,
        /// The subnet.
        subnet: Subnet,
        /// The network.
        network: NetworkName,
    },
    /// An unknown peer.
    #[error("no peer {0} (`vswitch peer ls` shows those there are)")]
    PeerNotFound(IpAddr),
    /// A network without a subnet. Without a cluster, every host would choose another.
    #[error(
        "overlay network {0} has no IPv4 subnet (give the same on every host, and each a range of its own: --subnet 10.10.0.0/16 --ip-range 10.10.1.0/24)"
    )]
    NoSubnet(NetworkName),
    /// The VNI of another network.
    #[error(
        "VNI {vni} is network {network}'s (choose another with -o vni=N; without a cluster it has to be the same on every host)"
    )]
    VniInUse {
        /// The VNI.
        vni: Vni,
        /// The network.
        network: NetworkName,
    },
    /// All VNIs are in use.
    #[error("no VNI is free (there are {}; remove a network)", Vni::LAST)]
    NoFreeVni,
    /// The UDP port of the tunnels is in use.
    #[error(
        "UDP port {port} of the tunnels is in use (by a VXLAN device or a socket: `ss -lunp`, `ip -d link show type vxlan`; choose another with `up --vxlan-port`)"
    )]
    PortInUse {
        /// The port.
        port: u16,
    },
    /// An invalid public key.
    #[error("{0} (`vswitch peer key` on the other host says its key)")]
    Key(#[from] KeyError),
    /// The public key of this host.
    #[error("public key {0} is this host's own (`vswitch peer key` on the other host says its key)")]
    OwnKey(PublicKey),
    /// The public key of another peer.
    #[error("public key {key} is peer {peer}'s already (every host has its own: `vswitch peer key` there says it)")]
    KeyInUse {
        /// The key.
        key: PublicKey,
        /// The peer.
        peer: IpAddr,
    },
}

impl OverlayError {
    /// Returns the stable code of the error for programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Peer(_) => "invalid_peer",
            Self::OwnAddress { .. } => "own_address",
            Self::PeerExists(_) => "peer_exists",
            Self::ClusterPeers(_) => "cluster_peers",
            Self::HoldsUnderlay { .. } => "subnet_of_underlay",
            Self::PeerInNetwork { .. } => "peer_in_network",
            Self::PeerNotFound(_) => "peer_not_found",
            Self::NoSubnet(_) => "invalid_subnet",
            Self::VniInUse { .. } => "vni_in_use",
            Self::NoFreeVni => "no_free_vni",
            Self::PortInUse { .. } => "tunnel_port_in_use",
            Self::Key(_) => "invalid_key",
            Self::OwnKey(_) => "own_key",
            Self::KeyInUse { .. } => "key_in_use",
        }
    }

    /// Returns whether the request does not fit existing objects; otherwise it is invalid in
    /// itself.
    pub const fn is_conflict(&self) -> bool {
        matches!(
            self,
            Self::PeerExists(_)
                | Self::ClusterPeers(_)
                | Self::HoldsUnderlay { .. }
                | Self::PeerInNetwork { .. }
                | Self::VniInUse { .. }
                | Self::NoFreeVni
                | Self::PortInUse { .. }
                | Self::KeyInUse { .. }
        )
    }
}
