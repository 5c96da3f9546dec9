//! What goes over the socket about peers.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

/// `peer add`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct PeerRequest {
    /// The address of the other host.
    pub address: String,
    /// Its public key for WireGuard, 44 characters of base64. Encrypted networks reach no peer without.
    pub public_key: Option<String>,
}

/// How it stands with a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PeerState {
    /// Something came from it within the last minute.
    Up,
    /// Nothing did, or has ever come.
    Silent,
    /// This host has no way there, or none that is up.
    NoRoute,
}

impl PeerState {
    /// In words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Silent => "silent",
            Self::NoRoute => "no route",
        }
    }
}

/// Another host of overlay networks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PeerView {
    /// Its address on the underlay.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// The host of the cluster that it is.
    pub host: Option<String>,
    /// How it stands.
    pub state: PeerState,
    /// The interface by which the way there leads.
    pub interface: Option<String>,
    /// How long ago something came from it, as far as that was noticed: it is looked at every few seconds.
    pub last_seen_seconds: Option<u64>,
    /// How many networks have a tunnel to it.
    pub networks: usize,
    /// Its public key for WireGuard, if it was told.
    pub public_key: Option<String>,
    /// How long ago it and this host agreed on keys by WireGuard, if they ever did.
    pub last_handshake_seconds: Option<u64>,
    /// Bytes of inner frames that came from it.
    pub rx_bytes: u64,
    /// Bytes of inner frames that went to it.
    pub tx_bytes: u64,
    /// Inner frames that came from it.
    pub rx_frames: u64,
    /// Inner frames that went to it.
    pub tx_frames: u64,
    /// Of the frames that came, those that were dropped (`stats` says why).
    pub drops: u64,
    /// Since when it is a peer.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub added: OffsetDateTime,
}
