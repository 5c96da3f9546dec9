//! `trace`: the decision of the switch on a frame, with its reasons. The frame is not sent.
//!
//! A recording copy of the loaded program decides on the live tables. The core decides on the same
//! tables, lookup by lookup, and thereby explains the decision. Every trace compares both.

mod build;
mod error;
mod result;
mod summary;
mod target;
mod words;

use std::collections::BTreeMap;
use std::sync::PoisonError;

use vswitch_common::packet::{Received, TunnelKey};
use vswitch_common::tables::{MARK_UNDERLAY, NetworkNumber, Port, PortKind, VlanKey};
use vswitch_common::verdict::{Decision, Verdict, action};

use crate::datapath::{Datapath, DatapathError, Reasoned, SHORTEST, Stage, Tracer};
use crate::model::{OverlayOptions, TraceProtocol};
use crate::switch::context::NamedPort;
use crate::switch::error::SwitchError;
use crate::switch::observe::Observe;
pub use error::TraceError;
pub use result::{Trace, TraceStep, TraceVerdict};
pub use target::Target;
use words::Names;

/// The most attempts if program and core disagree: a table may have changed between the two.
const ATTEMPTS: usize = 3;

/// A frame to trace.
#[derive(Clone, Debug)]
pub struct TraceQuery {
    /// The sender: name or id of an endpoint, the name of a port, or `host`.
    pub from: String,
    /// Name or id of the network.
    pub network: Option<String>,
    /// The frame.
    pub frame: TraceFrame,
}

/// The frame of a trace.
#[derive(Clone, Debug)]
pub enum TraceFrame {
    /// These bytes.
    Bytes(Vec<u8>),
    /// The frame that the sender's stack would build.
    Built(TraceContent),
}

/// The content of a frame that the switch builds.
#[derive(Clone, Debug)]
pub struct TraceContent {
    /// The destination.
    pub to: Target,
    /// The protocol; ICMP for `None`.
    pub protocol: Option<TraceProtocol>,
    /// The source port of TCP and UDP.
    pub source_port: Option<u16>,
    /// The destination port of TCP and UDP.
    pub destination_port: Option<u16>,
    /// The VLAN tag of the frame.
    pub vlan: Option<VlanKey>,
}

impl TraceFrame {
    /// Reads a frame from hex digits.
    ///
    /// # Errors
    /// [`TraceError::Frame`].
    pub fn from_hex(text: &str) -> Result<Self, TraceError> {
        let bytes = build::from_hex(text).filter(|frame| frame.len() >= SHORTEST);
        bytes.map(Self::Bytes).ok_or_else(|| TraceError::Frame(text.to_owned()))
    }
}

/// The decisions of program and core in one attempt.
struct Look {
    program: Result<Decision, DatapathError>,
    core: Reasoned,
    now: u32,
}

impl Look {
    fn agrees(&self) -> Option<bool> {
        self.program.as_ref().ok().map(|decision| *decision == self.core.decision)
    }
}

impl Observe {
    /// Returns the decision on a frame, step by step. Nothing changes.
    ///
    /// # Errors
    /// The port does not exist, the frame cannot be built, or the programs cannot run.
    pub fn trace(&self, query: &TraceQuery) -> Result<Trace, SwitchError> {
        let (port, frame) = self.wanted(query)?;
        let entry = self.context.datapath.ports()?.into_iter().find(|(number, _)| *number == port.number);
        let (_, entry) = entry.ok_or(SwitchError::PortGone(port.number))?;
        let kind = entry.kind().ok_or(SwitchError::PortGone(port.number))?;
        let has_xdp = self.context.datapath.port_hooks(port.number).is_some_and(|hooks| hooks.starts_with("xdp"));
        let names = Names {
            ports: self.context.ports_by_number(),
            networks: self.context.network_names(),
            overlays: self.overlays(),
        };
        let frame = received(&entry, names.overlays.get(&entry.network), &frame);
        let stages: &[Stage] = if has_xdp { &[Stage::Xdp, Stage::Tc] } else { &[Stage::Tc] };
        let (mut steps, mut agrees, mut last) = (Vec::new(), None, None);
        for stage in stages {
            let look = self.look_again(*stage, kind, &entry, frame)?;
            let decision = look.core.decision;
            let texts = look.core.lookups.iter().map(|lookup| names.lookup(lookup, look.now));
            let texts = texts.chain(names.consequences(&decision));
            let flood = matches!(decision.verdict(), Some(Verdict::Flood(_)));
            let copies = if flood { names.copies(&look.core.copies) } else { Vec::new() };
            let texts = texts.chain(copies);
            let leaves = (decision.action == action::DEFER).then(|| names.verdict(&decision).explanation);
            let hook = hook_name(*stage);
            steps.extend(texts.chain(leaves).map(|text| TraceStep { hook, text }));
            agrees = [agrees, look.agrees()].into_iter().flatten().reduce(|one, other| one && other);
            let disagrees = look.agrees() == Some(false);
            let decides = decision.action != action::DEFER;
            last = Some((*stage, look));
            if decides || disagrees {
                break;
            }
        }
        let Some((stage, look)) = last else { unreachable!("every port has tc") };
        let program_verdict = look.program.as_ref().map(|decision| names.verdict(decision));
        Ok(Trace {
            from: port.name,
            network: port.network_name,
            frame: frame.bytes.to_vec(),
            summary: summary::summary(frame.bytes),
            steps,
            verdict: names.verdict(&look.core.decision),
            program: Tracer::program(stage, kind).unwrap_or_default().to_owned(),
            hook: hook_name(stage),
            program_verdict: program_verdict.map_err(ToString::to_string),
            agrees,
        })
    }

    /// Returns the options of overlay networks by network number.
    fn overlays(&self) -> BTreeMap<NetworkNumber, OverlayOptions> {
        let state = self.context.snapshot();
        let records = state.networks.values().map(|entry| &entry.record);
        records.filter_map(|record| Some((record.number, record.overlay()?.clone()))).collect()
    }

    /// Returns the ingress port and the bytes of the frame.
    fn wanted(&self, query: &TraceQuery) -> Result<(NamedPort, Vec<u8>), SwitchError> {
        match &query.frame {
            TraceFrame::Bytes(frame) => Ok((self.source_port(query, None)?, frame.clone())),
            TraceFrame::Built(content) => {
                let port = self.source_port(query, Some(content.to))?;
                let frame = self.built(&port, content)?;
                Ok((port, frame))
            }
        }
    }

    fn look_again(&self, stage: Stage, kind: PortKind, port: &Port, frame: Received<'_>) -> Result<Look, SwitchError> {
        let mut tracer = self.tracer.lock().unwrap_or_else(PoisonError::into_inner);
        let tracer = match &mut *tracer {
            Some(tracer) => tracer,
            // A second copy of the programs, loaded by the first trace and kept.
            none => none.insert(self.context.datapath.tracer()?),
        };
        let mut look = self.look(tracer, stage, kind, port, frame)?;
        for _ in 1..ATTEMPTS {
            if look.agrees() != Some(false) {
                break;
            }
            look = self.look(tracer, stage, kind, port, frame)?;
        }
        Ok(look)
    }

    fn look(
        &self,
        tracer: &mut Tracer,
        stage: Stage,
        kind: PortKind,
        port: &Port,
        frame: Received<'_>,
    ) -> Result<Look, SwitchError> {
        let ran = match (stage, &frame.tunnel) {
            (Stage::Tc, Some(key)) => tracer.out_of_tunnel(port.ifindex, key, frame.mark, frame.bytes).map(Some),
            (Stage::Tc, None) => tracer.tc(kind, port.ifindex, frame.mark, frame.bytes).map(Some),
            (Stage::Xdp, _) => tracer.xdp(kind, port.ifindex, frame.bytes),
        };
        let (program, now) = match ran {
            Ok(Some(trace)) => (Ok(trace.decision), trace.now),
            Ok(None) => unreachable!("a port of this kind has no XDP"),
            // The kernel's test run accepts fewer frames than its devices do; the core accepts all.
            Err(refused @ DatapathError::TraceRefused { .. }) => (Err(refused), Datapath::now()),
            Err(error) => return Err(error.into()),
        };
        let core = self.context.datapath.reason(stage, kind, port.ifindex, &frame, now)?;
        Ok(Look { program, core, now })
    }
}

/// Returns a frame as it arrives at a port; at a tunnel with the metadata that the peer's header
/// yields.
fn received<'a>(port: &Port, overlay: Option<&OverlayOptions>, bytes: &'a [u8]) -> Received<'a> {
    let overlay = overlay.filter(|_| port.kind() == Some(PortKind::Tunnel));
    let tunnel = overlay.map(|overlay| TunnelKey::new(port.peer(), overlay.vni_number()));
    let mark = if tunnel.is_some() { MARK_UNDERLAY } else { 0 };
    Received { bytes, mark, tunnel }
}

const fn hook_name(stage: Stage) -> &'static str {
    match stage {
        Stage::Xdp => "xdp",
        Stage::Tc => "tc",
    }
}
