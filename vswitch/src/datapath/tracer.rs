//! Asking the loaded programs what they would do with a frame, without doing it: BPF_PROG_TEST_RUN on a second copy of
//! them that shares the live tables and only records its decision.

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
use super::load::{Pins, load, set_carriers};
use super::{Datapath, DatapathError};

/// The recording copy of the programs.
pub struct Tracer {
    ebpf: Ebpf,
    record: Array<MapData, Trace>,
    /// What the programs call by their tails; emptied by the kernel when nobody holds it any more.
    _carriers: ProgramArray<MapData>,
}

/// The shortest frame that the kernel takes in a test run: an Ethernet header.
pub const SHORTEST: usize = 14;

impl Datapath {
    /// Loads a recording copy of the programs on this instance's tables.
    ///
    /// # Errors
    /// As for [`Datapath::open`].
    pub fn tracer(&self) -> Result<Tracer, DatapathError> {
        let mut ebpf = load(&Pins(&self.options.directory), self.options.fdb_entries(), Some(&1))?;
        let failed = |cause| DatapathError::Table { table: "TRACE", cause };
        let record = ebpf.take_map("TRACE").ok_or(aya::maps::MapError::InvalidName { name: "TRACE".to_owned() });
        let record = record.and_then(Array::try_from).map_err(failed)?;
        let mut carriers = super::tables::take(&mut ebpf, "CARRIERS")?;
        set_carriers(&ebpf, &mut carriers)?;
        Ok(Tracer { ebpf, record, _carriers: carriers })
    }
}

impl fmt::Debug for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracer").finish_non_exhaustive()
    }
}

impl Tracer {
    /// The name of the program that [`Tracer::tc`] or [`Tracer::xdp`] runs.
    pub const fn program(stage: Stage, kind: PortKind) -> Option<&'static str> {
        match (stage, Hook::xdp(kind)) {
            (Stage::Tc, _) => Some(Hook::tc(kind).program()),
            (Stage::Xdp, Some(hook)) => Some(hook.program()),
            (Stage::Xdp, None) => None,
        }
    }

    /// What the tc program of this kind of port decides about a frame that the device `ifindex` received with `mark`.
    ///
    /// # Errors
    /// [`DatapathError::TraceRefused`] if the kernel does not run it: the frame is shorter than [`SHORTEST`], or than
    /// the IP header that its EtherType announces (kernel 6.18), or longer than a page; [`DatapathError::Trace`] else.
    pub fn tc(&mut self, kind: PortKind, ifindex: u32, mark: u32, frame: &[u8]) -> Result<Trace, DatapathError> {
        self.classify(Hook::tc(kind), ifindex, 0, mark, [0; 5], frame)
    }

    /// What the program of tunnels decides about a frame of which a tunnel, the device `ifindex`, said `key`, and whose outer
    /// packet had `mark`.
    ///
    /// # Errors
    /// As for [`Tracer::tc`].
    pub fn out_of_tunnel(
        &mut self,
        ifindex: u32,
        key: &TunnelKey,
        mark: u32,
        frame: &[u8],
    ) -> Result<Trace, DatapathError> {
        let [a, b, c, d] = key.remote.words();
        self.classify(Hook::Tunnel, ifindex, 0, mark, [key.vni, a, b, c, d], frame)
    }

    /// What the program at the device of WireGuard decides about a packet, which has no Ethernet header.
    ///
    /// # Errors
    /// As for [`Tracer::tc`].
    pub fn out_of_wireguard(&mut self, packet: &[u8]) -> Result<Trace, DatapathError> {
        self.classify(Hook::Wireguard, 0, 0, 0, [0; 5], packet)
    }

    /// What the program at a parent decides about a frame that leaves by it, the device `ifindex`: one that the host sends
    /// itself, or has received by the device `from` if that is not 0.
    ///
    /// # Errors
    /// As for [`Tracer::tc`]; [`DatapathError::Trace`] also if it leaves the frame alone, as that of a port.
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
        // struct __sk_buff (linux/bpf.h), 192 bytes: the mark is its third word, ingress_ifindex its tenth, ifindex its
        // eleventh, and the control block from its thirteenth on. Most others have to be zero.
        let mut context = [0_u8; 192];
        context[8..12].copy_from_slice(&mark.to_ne_bytes());
        context[36..40].copy_from_slice(&from.to_ne_bytes());
        context[40..44].copy_from_slice(&ifindex.to_ne_bytes());
        for (place, word) in context[48..].chunks_exact_mut(4).zip(control) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        let options = TestRunOptions { data_in: Some(frame), ctx_in: Some(&context), ..TestRunOptions::new() };
        let ran = classifier(&mut self.ebpf, hook).test_run(options);
        self.recorded(hook, frame.len(), ran.map(|result| result.return_value))
    }

    /// The same for its XDP program, if that kind of port has one.
    ///
    /// # Errors
    /// As for [`Tracer::tc`].
    pub fn xdp(&mut self, kind: PortKind, ifindex: u32, frame: &[u8]) -> Result<Option<Trace>, DatapathError> {
        let Some(hook) = Hook::xdp(kind) else { return Ok(None) };
        // struct xdp_md (linux/bpf.h): data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let mut context = [0_u8; 24];
        context[4..8].copy_from_slice(&(frame.len() as u32).to_ne_bytes());
        context[12..16].copy_from_slice(&ifindex.to_ne_bytes());
        let options = TestRunOptions { data_in: Some(frame), ctx_in: Some(&context), ..TestRunOptions::new() };
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

/// The classifier of a hook.
fn classifier(ebpf: &mut Ebpf, hook: Hook) -> &mut SchedClassifier {
    match ebpf.program_mut(hook.program()) {
        Some(Program::SchedClassifier(program)) => program,
        _ => unreachable!("{} is a classifier", hook.program()),
    }
}

/// The XDP program of a hook.
fn xdp(ebpf: &mut Ebpf, hook: Hook) -> &mut XdpProgram {
    match ebpf.program_mut(hook.program()) {
        Some(Program::Xdp(program)) => program,
        _ => unreachable!("{} is an XDP program", hook.program()),
    }
}
