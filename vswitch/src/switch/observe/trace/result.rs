//! The result of a trace.

use vswitch_common::verdict::DropReason;

/// The result of a trace.
#[derive(Clone, Debug)]
pub struct Trace {
    /// The name of the ingress port.
    pub from: String,
    /// The name of its network.
    pub network: String,
    /// The traced frame.
    pub frame: Vec<u8>,
    /// The frame in one line.
    pub summary: String,
    /// The steps of the decision.
    pub steps: Vec<TraceStep>,
    /// The verdict of the core.
    pub verdict: TraceVerdict,
    /// The name of the program that ran.
    pub program: String,
    /// The hook of the program.
    pub hook: &'static str,
    /// The verdict of the program, or why the kernel refused to run it.
    pub program_verdict: Result<TraceVerdict, String>,
    /// Whether program and core agree; `None` if the program did not run.
    pub agrees: Option<bool>,
}

/// A step of a decision.
#[derive(Clone, Debug)]
pub struct TraceStep {
    /// The hook.
    pub hook: &'static str,
    /// The lookup of the core, and the conclusion.
    pub text: String,
}

/// A verdict in words.
#[derive(Clone, Debug)]
pub struct TraceVerdict {
    /// The name of the action.
    pub action: &'static str,
    /// The name of the egress port, or of the port that the switch answers for.
    pub to: Option<String>,
    /// Whether the host's own stack receives the frame.
    pub to_host: bool,
    /// The change of the VLAN tag of a redirected frame.
    pub tag: Option<&'static str>,
    /// The reason of a drop.
    pub reason: Option<DropReason>,
    /// The verdict as a sentence.
    pub explanation: String,
    /// Whether the source address is learned.
    pub learns: bool,
    /// Whether the daemon receives a copy for multicast snooping.
    pub snoops: bool,
    /// The storm class that the frame counts against.
    pub storm: Option<&'static str>,
}
