//! `trace`: a frame and the decision about it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::model::TraceProtocol;

/// `trace`: a given frame, or a frame from a sender to a destination.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct TraceRequest {
    /// The sender: an endpoint, an uplink's interface, a peer's address, `host`, or the host's
    /// device in a network.
    pub from: String,
    /// The network, by name or id, if the sender is in several.
    #[serde(default)]
    pub network: Option<String>,
    /// The destination: a MAC or an IP address.
    pub to: Option<String>,
    /// The frame in hex.
    pub frame: Option<String>,
    /// The protocol that the frame carries.
    pub proto: Option<TraceProtocol>,
    /// The source port.
    pub sport: Option<u16>,
    /// The destination port.
    pub dport: Option<u16>,
    /// The VLAN tag of the frame, with the prefix `s` for a service tag.
    pub vlan: Option<String>,
}

/// The result of a trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TraceView {
    /// The port by which the frame comes in.
    pub from: String,
    /// The name of the port's network.
    pub network: String,
    /// The frame.
    pub frame: TraceFrame,
    /// The lookups and conclusions, in order.
    pub steps: Vec<TraceStep>,
    /// The core's decision.
    pub verdict: TraceVerdict,
    /// The decision of the loaded program.
    pub program: TraceProgram,
    /// Whether program and core decided the same in every respect; absent if the kernel did not run
    /// the program on the frame.
    pub agrees: Option<bool>,
}

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TraceFrame {
    /// A summary of the frame's headers.
    pub summary: String,
    /// Length of the frame in bytes.
    pub bytes: usize,
    /// The bytes of the frame in hex.
    pub hex: String,
}

/// One step of a decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TraceStep {
    /// The hook: `xdp` or `tc`.
    pub hook: String,
    /// A description in words.
    pub text: String,
}

/// A verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TraceVerdict {
    /// The action: `redirect`, `flood_group`, `drop` and the like.
    pub action: String,
    /// The port that the frame goes to, or in whose name the switch answers.
    pub to: Option<String>,
    /// Whether the frame enters the host's stack at that port.
    pub to_host: bool,
    /// The change of the frame's tag on output: `keep`, `pop`, `push` or `number`.
    pub tag: Option<String>,
    /// The drop reason, by its name in `stats`.
    pub reason: Option<String>,
    /// A description in words.
    pub explanation: String,
    /// Whether the switch would learn the sender, or refresh its FDB entry.
    pub learns: bool,
    /// Whether the program would send the frame to the daemon.
    pub snoops: bool,
    /// The storm-control class that the frame would count in, if it is limited.
    pub storm: Option<String>,
}

/// The decision of the loaded program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TraceProgram {
    /// The program's name.
    pub name: String,
    /// The hook of the program: `xdp` or `tc`.
    pub hook: String,
    /// The decision; absent if the kernel did not run the program on the frame.
    pub verdict: Option<TraceVerdict>,
    /// The reason why the kernel did not run the program.
    pub note: Option<String>,
}
