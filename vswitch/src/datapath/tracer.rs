//! Traces a frame through the programs without forwarding it: BPF_PROG_TEST_RUN on a second copy of
//! the programs, which shares the live tables and only records its decision.

use std::fmt;
use std::io::ErrorKind;

use aya::Ebpf;
use aya::maps::{Array, MapData, ProgramArray};
use aya::programs::{Program, ProgramError, SchedClassifier, TestRun as _, TestRunOptions, Xdp as XdpProgram};
use vswitch_common::packet::TunnelKey;
use vswitch_common::tables::PortKind;
use vswitch_common::trace::{RECORDED, Trace};

use super::hooks::Hook;
use super::live::Stage;
use super::load::{Pins, load};
use super::programs::{TAIL_CALLS, load_apart};
use super::{Datapath, DatapathError};

/// A recording copy of the programs.
pub struct Tracer {
    ebpf: Ebpf,
    record: Array<MapData, Trace>,
    /// The tail-called programs, which are recording copies as well.
    tail_calls: ProgramArray<MapData>,
}

/// Length in bytes of the shortest frame that the kernel accepts in a test run: an Ethernet header.
pub const SHORTEST: usize = 14;

impl Datapath {
    /// Opens a recording copy of the programs on this instance's tables. Each program is loaded
    /// before its first run.
    ///
    /// # Errors
    /// Fails as [`Datapath::open`] does.
    pub fn tracer(&self) -> Result<Tracer, DatapathError> {
        let mut ebpf =
            load(&Pins(&self.options.directory), self.options.fdb_entries(), self.options.published_mark, Some(&1))?;
        let failed = |cause| DatapathError::Table { table: "TRACE", cause };
        let record = ebpf.take_map("TRACE").ok_or(aya::maps::MapError::InvalidName { name: "TRACE".to_owned() });
        let record = record.and_then(Array::try_from).map_err(failed)?;
        let tail_calls = super::tables::take(&mut ebpf, TAIL_CALLS)?;
        Ok(Tracer { ebpf, record, tail_calls })
    }
}

impl fmt::Debug for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracer").finish_non_exhaustive()
    }
}

impl Tracer {
    /// Returns the name of the program that [`Tracer::tc`] or [`Tracer::xdp`] runs.
    pub const fn program(stage: Stage, kind: PortKind) -> Option<&'static str> {
        match (stage, Hook::xdp(kind)) {
            (Stage::Tc, _) => Some(Hook::tc(kind).program()),
            (Stage::Xdp, Some(hook)) => Some(hook.program()),
            (Stage::Xdp, None) => None,
        }
    }

    /// Returns the decision of the tc program of this kind of port about a frame that the device
    /// `ifindex` received with `mark`.
    ///
    /// # Errors
    /// Returns [`DatapathError::TraceRefused`] if the kernel refuses the frame: the frame is
    /// shorter than [`SHORTEST`], shorter than the IP header that its EtherType announces (kernel
    /// 6.18), or longer than a page. Returns [`DatapathError::Trace`] for other failures.
    pub fn tc(&mut self, kind: PortKind, ifindex: u32, mark: u32, frame: &[u8]) -> Result<Trace, DatapathError> {
        self.classify(Hook::tc(kind), ifindex, 0, mark, [0; 5], frame)
    }

    /// Returns the decision of the tunnel program about a frame that came out of the tunnel device
    /// `ifindex` with the tunnel metadata `key`, and whose outer packet had `mark`.
    ///
    /// # Errors
    /// Fails as [`Tracer::tc`] does.
    pub fn out_of_tunnel(
        &mut self,
        ifindex: u32,
        key: &TunnelKey,
        mark: u32,
        frame: &[u8],
    ) -> Result<Trace, DatapathError> {
        self.classify(Hook::Tunnel, ifindex, 0, mark, key.to_words(), frame)
    }

    /// Returns the decision of the program on the WireGuard device about a packet without an
    /// Ethernet header.
    ///
    /// # Errors
    /// Fails as [`Tracer::tc`] does.
    pub fn out_of_wireguard(&mut self, packet: &[u8]) -> Result<Trace, DatapathError> {
        self.classify(Hook::Wireguard, 0, 0, 0, [0; 5], packet)
    }

    /// Returns the decision of the egress program of a parent about a frame that leaves through the
    /// parent, the device `ifindex`. The host sent the frame itself if `from` is 0, and otherwise
    /// received it on the device `from`.
    ///
    /// # Errors
    /// Fails as [`Tracer::tc`] does. Returns [`DatapathError::Trace`] also if the program passes
    /// the frame without a decision, as it does for the frame of a port.
    pub fn tc_out(&mut self, ifindex: u32, from: u32, mark: u32, frame: &[u8]) -> Result<Trace, DatapathError> {
        self.classify(Hook::ParentOut, ifindex, from, mark, [0; 5], frame)
    }

    fn classify(
        &mut self,
        hook: Hook,
        ifindex: u32,
        from: u32,
        mark: u32,
        control: [u32; 5],
        frame: &[u8],
    ) -> Result<Trace, DatapathError> {
        // struct __sk_buff (linux/bpf.h), 192 bytes: `mark` is the third word, `ingress_ifindex`
        // the tenth, `ifindex` the eleventh, and the control block starts at the thirteenth. Most
        // other fields must be zero.
        let mut context = [0_u8; 192];
        context[8..12].copy_from_slice(&mark.to_ne_bytes());
        context[36..40].copy_from_slice(&from.to_ne_bytes());
        context[40..44].copy_from_slice(&ifindex.to_ne_bytes());
        for (place, word) in context[48..].chunks_exact_mut(4).zip(control) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        let options = TestRunOptions { data_in: Some(frame), ctx_in: Some(&context), ..TestRunOptions::new() };
        load_apart(&mut self.ebpf, hook, &mut self.tail_calls)?;
        let ran = classifier(&mut self.ebpf, hook).test_run(options);
        self.recorded(hook, frame.len(), ran.map(|result| result.return_value))
    }

    /// Returns the decision of the XDP program of this kind of port about a frame that the device
    /// `ifindex` received. Returns `None` if that kind of port has no XDP program.
    ///
    /// # Errors
    /// Fails as [`Tracer::tc`] does.
    pub fn xdp(&mut self, kind: PortKind, ifindex: u32, frame: &[u8]) -> Result<Option<Trace>, DatapathError> {
        let Some(hook) = Hook::xdp(kind) else { return Ok(None) };
        // struct xdp_md (linux/bpf.h): data, data_end, data_meta, ingress_ifindex, rx_queue_index,
        // egress_ifindex.
        let mut context = [0_u8; 24];
        context[4..8].copy_from_slice(&(frame.len() as u32).to_ne_bytes());
        context[12..16].copy_from_slice(&ifindex.to_ne_bytes());
        let options = TestRunOptions { data_in: Some(frame), ctx_in: Some(&context), ..TestRunOptions::new() };
        load_apart(&mut self.ebpf, hook, &mut self.tail_calls)?;
        let ran = xdp(&mut self.ebpf, hook).test_run(options);
        self.recorded(hook, frame.len(), ran.map(|result| result.return_value)).map(Some)
    }

    fn recorded(&self, hook: Hook, length: usize, ran: Result<u32, ProgramError>) -> Result<Trace, DatapathError> {
        let program = hook.program();
        match ran {
            Ok(RECORDED) => self.record.get(&0, 0).map_err(|cause| DatapathError::Table { table: "TRACE", cause }),
            Ok(other) => Err(DatapathError::Trace { program, message: format!("it returned {other}, and no record") }),
            Err(ProgramError::SyscallError(error)) if error.io_error.kind() == ErrorKind::InvalidInput => {
                Err(DatapathError::TraceRefused { program, length })
            }
            Err(error) => Err(DatapathError::Trace { program, message: error.to_string() }),
        }
    }
}

/// Returns the classifier of a hook.
fn classifier(ebpf: &mut Ebpf, hook: Hook) -> &mut SchedClassifier {
    match ebpf.program_mut(hook.program()) {
        Some(Program::SchedClassifier(program)) => program,
        _ => unreachable!("{} is a classifier", hook.program()),
    }
}

/// Returns the XDP program of a hook.
fn xdp(ebpf: &mut Ebpf, hook: Hook) -> &mut XdpProgram {
    match ebpf.program_mut(hook.program()) {
        Some(Program::Xdp(program)) => program,
        _ => unreachable!("{} is an XDP program", hook.program()),
    }
}
