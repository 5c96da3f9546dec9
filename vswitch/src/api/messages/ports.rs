//! Ports: what went through them, and how they are.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use vswitch_common::tables::PortCounters;
use vswitch_common::verdict::DropReason;

/// What went through a port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Counters {
    /// Frames that came in by the port.
    pub rx_frames: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Frames handed to the port's device.
    pub tx_frames: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Of the frames in: sent to one endpoint or uplink.
    pub forwarded: u64,
    /// Of the frames in: flooded.
    pub flooded: u64,
    /// Of the frames in: sent to the host's port, or answered by the switch itself.
    pub to_host: u64,
    /// Of those: answered by the switch itself.
    #[serde(default)]
    pub answered: u64,
    /// Of the frames in: left to the host's stack on the device itself.
    pub passed: u64,
    /// Stations learned from the port.
    pub learned: u64,
    /// Stations not learned for want of room.
    pub learn_failed: u64,
    /// Frames for the port that the kernel could not deliver.
    pub tx_failed: u64,
    /// Of the frames in: dropped, by reason.
    pub drops: BTreeMap<String, u64>,
}

impl Counters {
    /// Adds another port's.
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

/// Which ports `stats` is about.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct StatsFilter {
    /// An endpoint or a network.
    pub of: Option<String>,
    /// Summed up by network.
    #[serde(default)]
    pub sum: bool,
}

/// A port with what went through it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PortView {
    /// The endpoint's name, or the device.
    pub port: String,
    /// `endpoint`, `host`, `uplink`, `parent` or `tunnel`; `network` for the sum of a network's ports.
    pub kind: String,
    /// The name of the network.
    pub network: String,
    /// What went through it.
    #[serde(flatten)]
    pub counters: Counters,
}

/// What `doctor` looks at of a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PortHealth {
    /// The endpoint's name, or the device.
    pub port: String,
    /// `endpoint`, `host` or `uplink`.
    pub kind: String,
    /// The name of the network.
    pub network: String,
    /// The device whose frames come in: an endpoint's own interface, the host's, the uplink.
    pub device: String,
    /// The namespace that it is in, if not in the daemon's.
    #[schema(value_type = Option<String>)]
    pub netns: Option<PathBuf>,
    /// The hooks on the port, with the reason where an uplink has no XDP.
    pub hooks: Option<String>,
    /// The MTU that the device has now; none if it is not there.
    pub mtu: Option<u32>,
    /// Bytes that it leaves beside its MTU for the tag of a VLAN, where that has to fit into a tunnel.
    #[serde(default)]
    pub tag_room: u32,
    /// Which offloads are on.
    pub offloads: BTreeMap<String, bool>,
    /// How those that matter to the path have to be.
    pub needs: BTreeMap<String, bool>,
    /// Why nobody could look.
    pub unseen: Option<String>,
}
