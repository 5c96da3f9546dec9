//! The FDB: its stations, what is asked about them, and what becomes of them.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::{IntoParams, ToSchema};

/// How a station came into the FDB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum StationKind {
    /// Written by the daemon: there for good.
    Static,
    /// Written by hand: stays at its port until it falls silent.
    Sticky,
    /// Learned from frames.
    Dynamic,
}

/// Which stations `fdb show` is about.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct FdbFilter {
    /// Of this network.
    pub network: Option<String>,
    /// Behind this port.
    pub port: Option<String>,
    /// Of this kind.
    pub kind: Option<StationKind>,
    /// In this VLAN, with an `s` before it for that of a service tag; 0 is untagged.
    pub vlan: Option<String>,
}

/// A station in the FDB.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StationView {
    /// Its address.
    pub mac: String,
    /// The name of the network.
    pub network: String,
    /// Its VLAN; 0 is untagged.
    pub vlan: u16,
    /// Whether the VLAN is that of an 802.1ad service tag, which are numbered for themselves.
    pub service_tag: bool,
    /// The port it is behind.
    pub port: String,
    /// How it came here.
    pub kind: StationKind,
    /// Seconds since it was heard; none if static.
    pub age: Option<u64>,
    /// How often it moved.
    pub moves: u32,
    /// Whether it moved too often, and is kept where it is for a while.
    pub held: bool,
}

/// What became of a station.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum FdbChangeKind {
    /// It is there, or there in another way.
    Add,
    /// It is there no more.
    Del,
    /// It is behind another port, or was for a moment.
    Move,
    /// It moved too often, and is kept where it is for a while.
    Held,
}

/// A change of the FDB.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FdbChange {
    /// When it was seen.
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub time: OffsetDateTime,
    /// What became of the station.
    pub change: FdbChangeKind,
    /// The station as it is now, or as it was.
    #[serde(flatten)]
    pub station: StationView,
    /// The port that it moved away from.
    pub from: Option<String>,
}

/// `fdb add`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct FdbStatic {
    /// Which station.
    #[serde(flatten)]
    pub key: FdbKeyRequest,
    /// The endpoint or device it is behind.
    pub port: String,
    /// Whether it is forgotten when it falls silent.
    #[serde(default)]
    pub sticky: bool,
}

/// A station: of `fdb add` and `fdb del`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct FdbKeyRequest {
    /// Its address.
    pub mac: String,
    /// The network.
    pub network: String,
    /// Its VLAN, with an `s` before it for that of a service tag; untagged if not given.
    pub vlan: Option<String>,
}

/// `fdb flush`: learned stations alone.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct FdbFlush {
    /// Of this network.
    pub network: Option<String>,
    /// Behind this port.
    pub port: Option<String>,
    /// In this VLAN, with an `s` before it for that of a service tag; 0 is untagged.
    pub vlan: Option<String>,
}

/// What `fdb flush` or `fdb del` removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FdbFlushed {
    /// How many stations.
    pub removed: usize,
}
