//! The two calls of bpf(2) that a bench needs and aya does not offer on a bare descriptor: load a program that
//! passes every frame, and BPF_PROG_TEST_RUN of any program, live or repeated.

use std::{
    io,
    mem::size_of_val,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
    time::Duration,
};

use anyhow::{Context as _, Result};

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 1 << 1;

/// Frames that a live run hands to the kernel at once; NAPI's own budget.
const BATCH: u32 = 64;

/// The part of `union bpf_attr` that BPF_PROG_LOAD needs; the kernel takes the rest for zero.
#[repr(C)]
struct LoadAttributes {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

/// The part of `union bpf_attr` that BPF_PROG_TEST_RUN needs.
#[repr(C)]
#[derive(Default)]
struct TestAttributes {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    padding: u32,
}

/// `struct xdp_md`
#[repr(C)]
#[derive(Default)]
struct XdpContext {
    data: u32,
    data_end: u32,
    data_meta: u32,
    ingress_ifindex: u32,
    rx_queue_index: u32,
    egress_ifindex: u32,
}

/// `struct __sk_buff` up to `ifindex`; the kernel takes the rest for zero.
#[repr(C)]
#[derive(Default)]
struct SkbContext {
    unused: [u32; 9],
    ingress_ifindex: u32,
    ifindex: u32,
}

/// What a program returned, and the kernel's mean time per run.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Return value of the last run.
    pub verdict: u32,
    /// Mean of all runs.
    pub time: Duration,
}

/// Loads an XDP program that hands every frame to the stack.
pub fn load_pass() -> Result<OwnedFd> {
    const XDP_PASS: u64 = 2;
    // r0 = XDP_PASS; exit
    let instructions: [u64; 2] = [0xb7 | XDP_PASS << 32, 0x95];
    let license = c"Dual MIT/GPL";
    let mut attributes = LoadAttributes {
        prog_type: BPF_PROG_TYPE_XDP,
        insn_cnt: instructions.len() as u32,
        insns: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
    };
    // SAFETY: the instructions and the licence outlive the call; no log is asked for.
    let fd = unsafe { bpf(BPF_PROG_LOAD, &mut attributes) }.context("loading the XDP program that passes all")?;
    // SAFETY: the kernel just made this descriptor for us, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Injects `repeat` copies of `frame` as received on device `ifindex` of the caller's namespace.
/// What the program redirects or passes travels on for good.
pub fn run_live(program: BorrowedFd<'_>, frame: &[u8], ifindex: u32, repeat: u32) -> Result<()> {
    let context = XdpContext { data_end: frame.len() as u32, ingress_ifindex: ifindex, ..XdpContext::default() };
    let mut attributes = TestAttributes {
        repeat,
        flags: BPF_F_TEST_XDP_LIVE_FRAMES,
        batch_size: BATCH,
        ..attributes_of(program, frame, &context)
    };
    // SAFETY: the frame and the context outlive the call; live runs write nothing back.
    unsafe { bpf(BPF_PROG_TEST_RUN, &mut attributes) }
        .context("injecting live frames (BPF_PROG_RUN, Linux 5.18 and newer)")?;
    Ok(())
}

/// Runs an XDP program `repeat` times on one frame that goes nowhere.
pub fn run_xdp(program: BorrowedFd<'_>, frame: &[u8], ifindex: u32, repeat: u32) -> Result<Outcome> {
    let context = XdpContext { data_end: frame.len() as u32, ingress_ifindex: ifindex, ..XdpContext::default() };
    run_repeated(TestAttributes { repeat, ..attributes_of(program, frame, &context) })
}

/// Runs a tc program `repeat` times on one frame that goes nowhere.
pub fn run_tc(program: BorrowedFd<'_>, frame: &[u8], ifindex: u32, repeat: u32) -> Result<Outcome> {
    let context = SkbContext { ingress_ifindex: ifindex, ifindex, ..SkbContext::default() };
    run_repeated(TestAttributes { repeat, ..attributes_of(program, frame, &context) })
}

fn run_repeated(mut attributes: TestAttributes) -> Result<Outcome> {
    // SAFETY: both callers keep the frame and the context alive; no output buffer is named.
    unsafe { bpf(BPF_PROG_TEST_RUN, &mut attributes) }
        .context("running a program on a test frame (BPF_PROG_TEST_RUN)")?;
    Ok(Outcome { verdict: attributes.retval, time: Duration::from_nanos(attributes.duration.into()) })
}

fn attributes_of<C>(program: BorrowedFd<'_>, frame: &[u8], context: &C) -> TestAttributes {
    TestAttributes {
        prog_fd: program.as_fd().as_raw_fd() as u32,
        data_size_in: frame.len() as u32,
        data_in: frame.as_ptr() as u64,
        ctx_size_in: size_of_val(context) as u32,
        ctx_in: std::ptr::from_ref(context) as u64,
        ..TestAttributes::default()
    }
}

/// # Safety
/// Every address in `attributes` must be valid for what `command` does with it.
unsafe fn bpf<A>(command: libc::c_long, attributes: &mut A) -> io::Result<libc::c_long> {
    let size = size_of_val(attributes);
    // SAFETY: `attributes` is a valid, writable block of `size` bytes; the caller vouches for the addresses in it.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
