//! What can go wrong with overlay networks and peers.

use std::net::IpAddr;

use crate::model::{InvalidPeer, NetworkName, OverlayOptions, Subnet};
use crate::wireguard::{KeyError, PublicKey};

/// Why an overlay network or a peer was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OverlayError {
    /// No address of a peer.
    #[error(transparent)]
    Peer(#[from] InvalidPeer),
    /// The host itself.
    #[error(
        "{address} is this host's own address, on {device} (a peer is another host; `vswitch peer add` is done on both)"
    )]
    OwnAddress {
        /// The address.
        address: IpAddr,
        /// Where it is.
        device: String,
    },
    /// It is one already.
    #[error("{0} is a peer already (`vswitch peer ls` shows them)")]
    PeerExists(IpAddr),
    /// The cluster says who they are.
    #[error(
        "{0} cannot be added or removed as a peer: this host is in a cluster, whose hosts are each other's peers (start the other one with the same `up --cluster`, or this one without)"
    )]
    ClusterPeers(IpAddr),
    /// A subnet that would take an address from the tunnels.
    #[error(
        "subnet {subnet} cannot be network {network}'s: it holds {address}, {whose}, by which the tunnels to other hosts go (choose another subnet)"
    )]
    HoldsUnderlay {
        /// The subnet.
        subnet: Subnet,
        /// Whose it was to be.
        network: NetworkName,
        /// The address in it.
        address: IpAddr,
        /// Whose that is.
        whose: String,
    },
    /// A peer that a network of this host hides.
    #[error(
        "{address} cannot be a peer: it lies in {subnet} of network {network}, where it would be looked for (make that network anew with another subnet)"
    )]
    PeerInNetwork {
        /// The address.
        address: IpAddr,
        /// The subnet.
        subnet: Subnet,
        /// Whose that is.
        network: NetworkName,
    },
    /// There is none.
    #[error("no peer {0} (`vswitch peer ls` shows those there are)")]
    PeerNotFound(IpAddr),
    /// Nobody says which addresses the network has on the other hosts.
    #[error(
        "overlay network {0} has no IPv4 subnet (give the same on every host, and each a range of its own: --subnet 10.10.0.0/16 --ip-range 10.10.1.0/24)"
    )]
    NoSubnet(NetworkName),
    /// Another network has it.
    #[error(
        "VNI {vni} is network {network}'s (choose another with -o vni=N; without a cluster it has to be the same on every host)"
    )]
    VniInUse {
        /// The VNI.
        vni: u32,
        /// The network.
        network: NetworkName,
    },
    /// All are taken.
    #[error("no VNI is free (there are {}; remove a network)", OverlayOptions::LAST_VNI)]
    NoFreeVni,
    /// The tunnels' port is somebody else's.
    #[error(
        "UDP port {port} of the tunnels is in use (by a VXLAN device or a socket: `ss -lunp`, `ip -d link show type vxlan`; choose another with `up --vxlan-port`)"
    )]
    PortInUse {
        /// The port.
        port: u16,
    },
    /// No public key.
    #[error("{0} (`vswitch peer key` on the other host says its key)")]
    Key(#[from] KeyError),
    /// This host's.
    #[error("public key {0} is this host's own (`vswitch peer key` on the other host says its key)")]
    OwnKey(PublicKey),
    /// Another peer's.
    #[error("public key {key} is peer {peer}'s already (every host has its own: `vswitch peer key` there says it)")]
    KeyInUse {
        /// The key.
        key: PublicKey,
        /// The peer.
        peer: IpAddr,
    },
}

impl OverlayError {
    /// The name for programs.
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

    /// Whether it does not fit what is there; else it is wrong in itself.
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
