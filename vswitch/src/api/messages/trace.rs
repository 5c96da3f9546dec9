//! `trace`: a frame, and what becomes of it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `trace`: a frame that is given, or one that the sender would send to somebody.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct TraceRequest {
    /// Who sends it: an endpoint, an uplink's interface, a peer's address, `host`, or the host's device in a network.
    pub from: String,
    /// In which network, where it could be several: a name or an id.
    #[serde(default)]
    pub network: Option<String>,
    /// To whom: a MAC or an IP address.
    pub to: Option<String>,
    /// The frame itself, in hex.
    pub frame: Option<String>,
    /// What it carries.
    pub proto: Option<TraceProtocol>,
    /// The port it comes from.
    pub sport: Option<u16>,
    /// The port it goes to.
    pub dport: Option<u16>,
    /// Its VLAN tag, with an `s` before it a service tag.
    pub vlan: Option<String>,
}

/// What a traced frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum TraceProtocol {
    /// A connection's first segment.
    Tcp,
    /// A datagram.
    Udp,
    /// An echo request, of ICMPv6 for an IPv6 address.
    Icmp,
    /// An ARP request; for an IPv6 address a neighbor solicitation.
    Arp,
}

/// What becomes of a traced frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TraceView {
    /// The port that it comes in by.
    pub from: String,
    /// The name of its network.
    pub network: String,
    /// The frame.
    pub frame: TraceFrame,
    /// What was looked at, and what follows, in order.
    pub steps: Vec<TraceStep>,
    /// What the core decided.
    pub verdict: TraceVerdict,
    /// What the loaded program decided.
    pub program: TraceProgram,
    /// Whether program and core decided alike in everything; none if the kernel did not run the program on it.
    pub agrees: Option<bool>,
}

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TraceFrame {
    /// What it says of itself.
    pub summary: String,
    /// Its length.
    pub bytes: usize,
    /// Its bytes, in hex.
    pub hex: String,
}

/// One step of a decision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TraceStep {
    /// Where it is taken: `xdp` or `tc`.
    pub hook: String,
    /// In words.
    pub text: String,
}

/// A verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TraceVerdict {
    /// `redirect`, `flood_group`, `drop` and the like.
    pub action: String,
    /// The port that it goes to, or in whose name it is answered.
    pub to: Option<String>,
    /// Whether it enters the host's stack there.
    pub to_host: bool,
    /// What becomes of its tag on the way out: `keep`, `pop`, `push` or `number`.
    pub tag: Option<String>,
    /// Why it was dropped, by the name that `stats` has for it.
    pub reason: Option<String>,
    /// In words.
    pub explanation: String,
    /// Whether its sender would be learned, or heard again.
    pub learns: bool,
    /// Whether the daemon would be told.
    pub snoops: bool,
    /// As what it would be counted against what the port may flood.
    pub storm: Option<String>,
}

/// What the loaded program made of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TraceProgram {
    /// Its name.
    pub name: String,
    /// Where it runs: `xdp` or `tc`.
    pub hook: String,
    /// What it decided; none if the kernel did not run it on the frame.
    pub verdict: Option<TraceVerdict>,
    /// Why not.
    pub note: Option<String>,
}
