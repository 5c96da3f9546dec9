//! Messages about peers.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::model::PeerState;

/// `peer add`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct PeerRequest {
    /// The address of the other host.
    pub address: String,
    /// The peer's public key for WireGuard, 44 characters of base64. Encrypted networks reach no
    /// peer without a key.
    pub public_key: Option<String>,
}

/// A peer: another host of overlay networks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PeerView {
    /// The peer's address on the underlay.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// The name of the cluster host with this address.
    pub host: Option<String>,
    /// The state of the peer.
    pub state: PeerState,
    /// The interface of the route to the peer.
    pub interface: Option<String>,
    /// Seconds since the last frame from the peer. The daemon checks every few seconds.
    pub last_seen_seconds: Option<u64>,
    /// Number of networks with a tunnel to the peer.
    pub networks: usize,
    /// The peer's public key for WireGuard, if known.
    pub public_key: Option<String>,
    /// Seconds since the last WireGuard handshake with the peer; absent if none took place.
    pub last_handshake_seconds: Option<u64>,
    /// Bytes of inner frames received from the peer.
    pub rx_bytes: u64,
    /// Bytes of inner frames sent to the peer.
    pub tx_bytes: u64,
    /// Inner frames received from the peer.
    pub rx_frames: u64,
    /// Inner frames sent to the peer.
    pub tx_frames: u64,
    /// Received inner frames that were dropped (`stats` shows the reasons).
    pub drops: u64,
    /// The time at which the peer was added.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub added: OffsetDateTime,
}
