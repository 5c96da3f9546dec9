//! Ports: their counters and the state of their devices.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use vswitch_common::tables::PortCounters;
use vswitch_common::verdict::DropReason;

/// The counters of a port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Counters {
    /// Frames that came in by the port.
    pub rx_frames: u64,
    /// The bytes of these frames.
    pub rx_bytes: u64,
    /// Frames handed to the port's device.
    pub tx_frames: u64,
    /// The bytes of these frames.
    pub tx_bytes: u64,
    /// Received frames that were forwarded to one endpoint or uplink.
    pub forwarded: u64,
    /// Received frames that were flooded.
    pub flooded: u64,
    /// Received frames that were sent to the host port or answered by the switch.
    pub to_host: u64,
    /// The part of `to_host` that the switch answered.
    #[serde(default)]
    pub answered: u64,
    /// Received frames that were passed to the host's stack on the device itself.
    pub passed: u64,
    /// Stations learned from the port.
    pub learned: u64,
    /// Stations that were not learned because the FDB or the port's limit was full.
    pub learn_failed: u64,
    /// Frames for the port that the kernel could not deliver.
    pub tx_failed: u64,
    /// Received frames that were dropped, by reason.
    pub drops: BTreeMap<String, u64>,
}

impl Counters {
    /// Adds the counters of another port.
    pub fn add(&mut self, other: &Self) {
        self.rx_frames += other.rx_frames;
        self.rx_bytes += other.rx_bytes;
        self.tx_frames += other.tx_frames;
        self.tx_bytes += other.tx_bytes;
        self.forwarded += other.forwarded;
        self.flooded += other.flooded;
        self.to_host += other.to_host;
        self.answered += other.answered;
        self.passed += other.passed;
        self.learned += other.learned;
        self.learn_failed += other.learn_failed;
        self.tx_failed += other.tx_failed;
        for (reason, count) in &other.drops {
            *self.drops.entry(reason.clone()).or_default() += count;
        }
    }
}

impl From<&PortCounters> for Counters {
    fn from(counters: &PortCounters) -> Self {
        let drops = DropReason::ALL.iter().map(|reason| (reason.name().to_owned(), counters.drops[*reason as usize]));
        Self {
            rx_frames: counters.rx_frames,
            rx_bytes: counters.rx_bytes,
            tx_frames: counters.tx_frames,
            tx_bytes: counters.tx_bytes,
            forwarded: counters.forwarded,
            flooded: counters.flooded,
            to_host: counters.to_host,
            answered: counters.answered,
            passed: counters.passed,
            learned: counters.learned,
            learn_failed: counters.learn_failed,
            tx_failed: counters.tx_failed,
            drops: drops.collect(),
        }
    }
}

/// The ports that `stats` shows.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct StatsFilter {
    /// Only this endpoint, or the ports of this network.
    pub of: Option<String>,
    /// One sum per network.
    #[serde(default)]
    pub sum: bool,
}

/// A port with its counters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PortView {
    /// The endpoint's name, or the device.
    pub port: String,
    /// `endpoint`, `host`, `uplink`, `parent` or `tunnel`; `network` for the sum of a network's
    /// ports.
    pub kind: String,
    /// The name of the network.
    pub network: String,
    /// The counters.
    #[serde(flatten)]
    pub counters: Counters,
}

/// The state of a port that `doctor` checks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PortHealth {
    /// The endpoint's name, or the device.
    pub port: String,
    /// `endpoint`, `host` or `uplink`.
    pub kind: String,
    /// The name of the network.
    pub network: String,
    /// The device whose frames come in: an endpoint's own interface, the host's device, or the
    /// uplink.
    pub device: String,
    /// The namespace of the device, if it differs from the daemon's.
    #[schema(value_type = Option<String>)]
    pub netns: Option<PathBuf>,
    /// The hooks on the port, with the reason if an uplink has no XDP.
    pub hooks: Option<String>,
    /// The present MTU of the device; absent if the device does not exist.
    pub mtu: Option<u32>,
    /// Bytes that the device's MTU leaves free for a VLAN tag, if the tag has to fit into a tunnel.
    #[serde(default)]
    pub tag_room: u32,
    /// The present state of the offloads.
    pub offloads: BTreeMap<String, bool>,
    /// The required state of the offloads that affect the datapath.
    pub needs: BTreeMap<String, bool>,
    /// The reason why the device could not be examined.
    pub unseen: Option<String>,
}
