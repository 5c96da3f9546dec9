//! `trace`: what the switch would do with a frame, and why, without doing it.
//!
//! The loaded program decides, in a recording copy on the live tables; the core decides over the same tables, lookup by
//! lookup, and so explains it. That both decide alike is looked at every time.

mod build;
mod summary;
mod target;
mod words;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::PoisonError;

use vswitch_common::packet::{Received, TunnelKey};
use vswitch_common::tables::{MARK_ENCRYPTED, NetworkNumber, Port, PortKind};
use vswitch_common::verdict::{Decision, Verdict, action};

use super::views::NamedPort;
use super::{Switch, SwitchError};
use crate::api::{TraceFrame, TraceProgram, TraceRequest, TraceStep, TraceView};
use crate::datapath::{Datapath, DatapathError, Reasoned, SHORTEST, Stage, Tracer};
use crate::model::OverlayOptions;
use build::from_hex;
use words::Names;

/// How often a frame is looked at again where program and core disagree: a table may have changed between the two.
const ATTEMPTS: usize = 3;

/// Why there is nothing to trace.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// Not a frame.
    #[error("invalid frame `{0}` (hex digits, two a byte, at least {SHORTEST} bytes from the destination address on)")]
    Frame(String),
    /// Neither a frame nor where it goes.
    #[error("nothing to trace is named (give --to or --frame)")]
    Nothing,
    /// Not an address.
    #[error("`{0}` is neither a MAC address nor an IP address (as in 02:42:ac:11:00:02, 10.201.0.5 or fd00:1:2::5)")]
    Target(String),
    /// The sender could be in several networks.
    #[error("{from} is in several networks, and none of them is {target}'s (say which with --network)")]
    WhichNetwork {
        /// Who sends.
        from: String,
        /// To whom.
        target: String,
    },
    /// The sender has no address of that kind.
    #[error("{from} has no address to send to {target} from (choose a target of the other family, or give --frame)")]
    NoAddress {
        /// Who sends.
        from: String,
        /// To whom.
        target: IpAddr,
    },
    /// Nobody is known to have it.
    #[error("nobody is known to have the address {address} (ask for it with --proto arp, or give the MAC address)")]
    NoOwner {
        /// The address.
        address: IpAddr,
    },
    /// A station without a known address.
    #[error("no IP address of {0} is known (leave --proto out, or give the IP address)")]
    NoIp(vswitch_common::Mac),
    /// No way there.
    #[error("{from} has no route to {target} (it is in no subnet of the network, which has no way out for it)")]
    NoRoute {
        /// Who sends.
        from: String,
        /// To whom.
        target: IpAddr,
    },
}

impl TraceError {
    /// The name for programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Frame(_) => "invalid_frame",
            Self::Nothing => "invalid_request",
            Self::Target(_) => "invalid_target",
            Self::WhichNetwork { .. } => "ambiguous_network",
            Self::NoAddress { .. } => "no_address",
            Self::NoOwner { .. } | Self::NoIp(_) => "unknown_address",
            Self::NoRoute { .. } => "no_route",
        }
    }
}

/// What came of one look at a frame.
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

impl Switch {
    /// What becomes of a frame, step by step. Nothing changes by it.
    ///
    /// # Errors
    /// There is no such port, the frame cannot be made, or the programs cannot be asked.
    pub fn trace(&self, request: &TraceRequest) -> Result<TraceView, SwitchError> {
        let (port, frame) = self.wanted(request)?;
        let entry = self.datapath.ports()?.into_iter().find(|(number, _)| *number == port.number);
        let (_, entry) = entry.ok_or(SwitchError::PortGone(port.number))?;
        let kind = entry.kind().ok_or(SwitchError::PortGone(port.number))?;
        let has_xdp = self.datapath.port_hooks(port.number).is_some_and(|hooks| hooks.starts_with("xdp"));
        let names = Names { ports: self.ports_by_number(), networks: self.network_names(), overlays: self.overlays() };
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
            let leaves = (decision.action == action::LEAVE).then(|| names.verdict(&decision).explanation);
            let hook = hook_name(*stage);
            steps.extend(texts.chain(leaves).map(|text| TraceStep { hook: hook.to_owned(), text }));
            agrees = [agrees, look.agrees()].into_iter().flatten().reduce(|one, other| one && other);
            let disagrees = look.agrees() == Some(false);
            let decides = decision.action != action::LEAVE;
            last = Some((*stage, look));
            if decides || disagrees {
                break;
            }
        }
        let Some((stage, look)) = last else { unreachable!("every port has tc") };
        let program = TraceProgram {
            name: Tracer::program(stage, kind).unwrap_or_default().to_owned(),
            hook: hook_name(stage).to_owned(),
            verdict: look.program.as_ref().ok().map(|decision| names.verdict(decision)),
            note: look.program.as_ref().err().map(ToString::to_string),
        };
        Ok(TraceView {
            from: port.name,
            network: port.network_name,
            frame: TraceFrame {
                summary: summary::summary(frame.bytes),
                bytes: frame.bytes.len(),
                hex: hex(frame.bytes),
            },
            steps,
            verdict: names.verdict(&look.core.decision),
            program,
            agrees,
        })
    }

    /// What makes networks overlays, by their number.
    fn overlays(&self) -> BTreeMap<NetworkNumber, OverlayOptions> {
        let state = self.state();
        let records = state.networks.values().map(|entry| &entry.record);
        records.filter_map(|record| Some((record.number, record.overlay?))).collect()
    }

    /// The port that the frame comes in by, and the frame.
    fn wanted(&self, request: &TraceRequest) -> Result<(NamedPort, Vec<u8>), SwitchError> {
        match (&request.frame, &request.to) {
            (Some(text), _) => {
                let invalid = || TraceError::Frame(text.clone());
                let frame = from_hex(text).filter(|frame| frame.len() >= SHORTEST).ok_or_else(invalid)?;
                Ok((self.source_port(request, None)?, frame))
            }
            (None, Some(to)) => {
                let target = target::parse(to)?;
                let port = self.source_port(request, Some(target))?;
                let frame = self.built(&port, target, request)?;
                Ok((port, frame))
            }
            (None, None) => Err(TraceError::Nothing.into()),
        }
    }

    fn look_again(&self, stage: Stage, kind: PortKind, port: &Port, frame: Received<'_>) -> Result<Look, SwitchError> {
        let mut tracer = self.tracer.lock().unwrap_or_else(PoisonError::into_inner);
        let tracer = match &mut *tracer {
            Some(tracer) => tracer,
            // A second copy of the programs: loaded by the first who asks, and kept.
            none => none.insert(self.datapath.tracer()?),
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
            // The kernel's test run takes fewer frames than its devices do; the core takes all.
            Err(refused @ DatapathError::TraceRefused { .. }) => (Err(refused), Datapath::now()),
            Err(error) => return Err(error.into()),
        };
        let core = self.datapath.reason(stage, kind, port.ifindex, &frame, now)?;
        Ok(Look { program, core, now })
    }
}

/// The frame as it comes in by a port: out of a tunnel, with what the peer's header says.
fn received<'a>(port: &Port, overlay: Option<&OverlayOptions>, bytes: &'a [u8]) -> Received<'a> {
    let overlay = overlay.filter(|_| port.kind() == Some(PortKind::Tunnel));
    let tunnel = overlay.map(|overlay| TunnelKey::new(port.ipv6, overlay.vni));
    let mark = if tunnel.is_some() && port.ipv6.is_inner() { MARK_ENCRYPTED } else { 0 };
    Received { bytes, mark, tunnel }
}

const fn hook_name(stage: Stage) -> &'static str {
    match stage {
        Stage::Xdp => "xdp",
        Stage::Tc => "tc",
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
