//! The cost of the switch's programs: nanoseconds per frame, and their size in the kernel.

use std::{os::fd::AsFd as _, time::Duration};

use anyhow::{Context as _, Result, bail};
use aya::{
    programs::{ProgramFd, ProgramInfo},
    sys::{Stats, enable_stats},
};
use serde::Serialize;

use super::{
    frames::{delivered_mpps, frame, frame_to, mac},
    udp,
};
use crate::{
    bpf::{self, Outcome},
    cpus::CLIENT_CPU,
    instance::Instance,
    topology::{Pair, Uplink},
};

/// Repetitions of a test run.
const REPEAT: u32 = 1_000_000;
/// Duration of the traffic while the kernel collects program statistics.
const WINDOW: Duration = Duration::from_millis(500);
const TC_ACT_REDIRECT: u32 = 7;
const XDP_REDIRECT: u32 = 4;

/// The cost of one program.
#[derive(Clone, Debug, Serialize)]
pub struct Cost {
    /// Entry point.
    pub program: &'static str,
    /// Nanoseconds per frame under traffic: run_time_ns / run_cnt of `bpf_prog_info`. Includes
    /// reading the clock twice per run.
    pub ns_under_traffic: f64,
    /// Nanoseconds per frame of BPF_PROG_TEST_RUN on one frame to a known endpoint. Caches are
    /// warm, and the redirect is decided but not carried out.
    pub ns_test_run: f64,
    /// Instructions that the verifier visited on all paths together. One frame executes far fewer.
    pub instructions_visited_by_verifier: u32,
    /// Instructions of the loaded program on all paths together.
    pub instructions_loaded: u32,
    /// Bytes of machine code.
    pub bytes_jited: u32,
}

/// Measures the program on a container's port by BPF_PROG_TEST_RUN with a frame to a known
/// endpoint. Returns nanoseconds per frame.
pub fn test_run_container_port(pair: &Pair) -> Result<f64> {
    let instance = pair.instance.as_ref().context("only vswitch has programs to measure")?;
    let program = PinnedProgram::open(instance, "from_container")?;
    let outcome = program.run_on_container_port(pair, instance)?;
    program.check_verdict(outcome, TC_ACT_REDIRECT)?;
    Ok(outcome.time.as_nanos() as f64)
}

/// Measures the program on a container's port under UDP traffic between two containers.
pub fn measure_container_port(pair: &Pair) -> Result<Cost> {
    let instance = pair.instance.as_ref().context("only vswitch has programs to measure")?;
    let program = PinnedProgram::open(instance, "from_container")?;
    let ns_under_traffic = program.mean_time_while(|| udp::delivered_per_second(pair, WINDOW).map(drop))?;
    let outcome = program.run_on_container_port(pair, instance)?;
    program.cost(ns_under_traffic, outcome, TC_ACT_REDIRECT)
}

/// Measures the tcx program on an uplink with live frames.
pub fn measure_uplink_tcx(uplink: &Uplink) -> Result<Cost> {
    let instance = uplink.instance.as_ref().context("only vswitch has programs to measure")?;
    let program = PinnedProgram::open(instance, "from_uplink")?;
    let ns_under_traffic = program.mean_time_while(|| delivered_mpps(uplink, WINDOW).map(drop))?;
    let (frame, port) = (frame_to(uplink)?, uplink.host.device(&uplink.ifname)?.ifindex);
    let outcome = uplink.host.inside(CLIENT_CPU, || bpf::run_tc(program.fd.as_fd(), &frame, port, REPEAT))?;
    program.cost(ns_under_traffic, outcome, TC_ACT_REDIRECT)
}

/// Measures the XDP program on an uplink with live frames.
pub fn measure_uplink_xdp(uplink: &Uplink) -> Result<Cost> {
    let instance = uplink.instance.as_ref().context("only vswitch has programs to measure")?;
    let program = PinnedProgram::open(instance, "from_uplink_xdp")?;
    let ns_under_traffic = program.mean_time_while(|| delivered_mpps(uplink, WINDOW).map(drop))?;
    let (frame, port) = (frame_to(uplink)?, uplink.host.device(&uplink.ifname)?.ifindex);
    let outcome = uplink.host.inside(CLIENT_CPU, || bpf::run_xdp(program.fd.as_fd(), &frame, port, REPEAT))?;
    program.cost(ns_under_traffic, outcome, XDP_REDIRECT)
}

/// A pinned program of an instance.
struct PinnedProgram {
    name: &'static str,
    path: std::path::PathBuf,
    fd: ProgramFd,
}

impl PinnedProgram {
    fn open(instance: &Instance, name: &'static str) -> Result<Self> {
        let path = instance.pinned(name);
        let info = ProgramInfo::from_pin(&path).with_context(|| format!("opening {}", path.display()))?;
        let fd = info.fd()?;
        Ok(Self { name, path, fd })
    }

    /// Returns the mean time per run while `traffic` flows. Statistics are enabled only for that
    /// time, because they cost every program in the kernel some nanoseconds.
    fn mean_time_while(&self, traffic: impl FnOnce() -> Result<()>) -> Result<f64> {
        let _statistics = enable_stats(Stats::RunTime).context("enabling the kernel's statistics of BPF programs")?;
        let before = ProgramInfo::from_pin(&self.path)?;
        traffic()?;
        let after = ProgramInfo::from_pin(&self.path)?;
        let runs = after.run_count() - before.run_count();
        if runs == 0 {
            bail!("{} did not process any of the traffic", self.name);
        }
        Ok((after.run_time() - before.run_time()).as_nanos() as f64 / runs as f64)
    }

    fn run_on_container_port(&self, pair: &Pair, instance: &Instance) -> Result<Outcome> {
        let sender = pair.client.netns.device(&pair.client.ifname)?;
        let receiver = pair.server.netns.device(&pair.server.ifname)?;
        // The port is the peer of the container's device.
        let port = sender.link_index.context("the container's device has no peer")?;
        let frame = frame(mac(&sender.address)?, mac(&receiver.address)?, pair.client.ipv4, pair.server.ipv4);
        instance.host().inside(CLIENT_CPU, || bpf::run_tc(self.fd.as_fd(), &frame, port, REPEAT))
    }

    fn check_verdict(&self, outcome: Outcome, expected: u32) -> Result<()> {
        if outcome.verdict != expected {
            bail!(
                "{} returned {} for a frame to a known endpoint, not {expected} (redirect)",
                self.name,
                outcome.verdict
            );
        }
        Ok(())
    }

    fn cost(&self, ns_under_traffic: f64, outcome: Outcome, expected: u32) -> Result<Cost> {
        self.check_verdict(outcome, expected)?;
        let info = ProgramInfo::from_pin(&self.path)?;
        Ok(Cost {
            program: self.name,
            ns_under_traffic,
            ns_test_run: outcome.time.as_nanos() as f64,
            instructions_visited_by_verifier: info
                .verified_instruction_count()
                .context("the kernel does not report verified_insns")?,
            instructions_loaded: info.size_translated().context("the kernel does not report xlated_prog_len")? / 8,
            bytes_jited: info.size_jitted(),
        })
    }
}
