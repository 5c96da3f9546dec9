//! Enumerations that users give and see when they observe the switch.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The origin of an FDB entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum StationKind {
    /// Written by the daemon; never ages.
    Static,
    /// Written by an operator; stays at its port until it ages out.
    Sticky,
    /// Learned from frames.
    Dynamic,
}

/// The kind of a change of a station.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum FdbChangeKind {
    /// The entry was added or changed.
    Add,
    /// The entry was removed.
    Del,
    /// The station moved to another port, or moved and returned.
    Move,
    /// The station moved too often and is held at its port for a while.
    Held,
}

/// The direction of a frame, seen from the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// The frame came in by the port.
    Entering,
    /// The frame leaves by the port, after all changes.
    Leaving,
}

/// The protocol of a traced frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum TraceProtocol {
    /// The first segment of a TCP connection.
    Tcp,
    /// A UDP datagram.
    Udp,
    /// An ICMP echo request; for an IPv6 address an ICMPv6 echo request.
    Icmp,
    /// An ARP request; for an IPv6 address a neighbor solicitation.
    Arp,
}

/// The state of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PeerState {
    /// A frame came from the peer within the last minute.
    Up,
    /// No frame came from the peer within the last minute, or ever.
    Silent,
    /// This host has no route to the peer, or the route's device is down.
    NoRoute,
}

impl PeerState {
    /// Returns the state in words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Silent => "silent",
            Self::NoRoute => "no route",
        }
    }
}
