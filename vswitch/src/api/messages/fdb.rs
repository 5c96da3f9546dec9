//! The FDB: its stations, the requests about them, and their changes.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};

use crate::model::{FdbChangeKind, StationKind};

/// The stations that `fdb show` lists.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct FdbFilter {
    /// Only stations of this network.
    pub network: Option<String>,
    /// Only stations behind this port.
    pub port: Option<String>,
    /// Only stations of this kind.
    pub kind: Option<StationKind>,
    /// Only stations in this VLAN, with the prefix `s` for a service tag; 0 is untagged.
    pub vlan: Option<String>,
}

/// A station in the FDB.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StationView {
    /// The station's MAC address.
    pub mac: String,
    /// The name of the network.
    pub network: String,
    /// The station's VLAN; 0 is untagged.
    pub vlan: u16,
    /// Whether the VLAN is that of an 802.1ad service tag. Service tags have a number space of
    /// their own.
    pub service_tag: bool,
    /// The port that the station is behind.
    pub port: String,
    /// The origin of the entry.
    pub kind: StationKind,
    /// Seconds since the last frame of the station; absent for a static entry.
    pub age: Option<u64>,
    /// Number of moves between ports.
    pub moves: u32,
    /// Whether the station moved too often and is held at its port for a while.
    pub held: bool,
}

/// A change of the FDB.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FdbChange {
    /// The time of the change.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub time: OffsetDateTime,
    /// The kind of change.
    pub change: FdbChangeKind,
    /// The station after the change, or before it if the station was removed.
    #[serde(flatten)]
    pub station: StationView,
    /// The port that the station moved away from.
    pub from: Option<String>,
}

/// `fdb add`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct FdbStatic {
    /// The station.
    #[serde(flatten)]
    pub key: FdbKeyRequest,
    /// The endpoint or device that the station is behind.
    pub port: String,
    /// Whether the entry ages like a learned one.
    #[serde(default)]
    pub sticky: bool,
}

/// The key of a station for `fdb add` and `fdb del`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct FdbKeyRequest {
    /// The station's MAC address.
    pub mac: String,
    /// The network.
    pub network: String,
    /// The station's VLAN, with the prefix `s` for a service tag; untagged by default.
    pub vlan: Option<String>,
}

/// `fdb flush`: removes learned stations only.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct FdbFlush {
    /// Only stations of this network.
    pub network: Option<String>,
    /// Only stations behind this port.
    pub port: Option<String>,
    /// Only stations in this VLAN, with the prefix `s` for a service tag; 0 is untagged.
    pub vlan: Option<String>,
}

/// The result of `fdb flush` or `fdb del`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FdbFlushed {
    /// Number of removed stations.
    pub removed: usize,
}
