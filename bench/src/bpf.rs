//! The calls of bpf(2) that a bench needs and aya does not offer on a bare descriptor: load a program that passes
//! every frame or changes its addresses first, and BPF_PROG_TEST_RUN of any program, live or repeated.

use std::{
    io,
    mem::size_of_val,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
    time::Duration,
};

use anyhow::{Context as _, Result};

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;
/// The next program, if any, else the kernel.
const TCX_NEXT: i32 = -1;
const SKB_VLAN_PUSH: i32 = 18;
const SKB_VLAN_POP: i32 = 19;
const ETHERTYPE_VLAN: u16 = 0x8100;
const BPF_XDP: u32 = 37;
const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 1 << 1;
const BPF_MAP_TYPE_PROG_ARRAY: u32 = 3;

/// Frames that a live run hands to the kernel at once, usually; NAPI's own budget.
pub const BATCH: u32 = 64;
/// The first two bytes of the addresses that [`Rewriter`] writes: locally administered, and nobody else's here.
pub const REWRITTEN: [u8; 2] = [0x02, 0x56];

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
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

/// The part of `union bpf_attr` that BPF_MAP_CREATE needs.
#[repr(C)]
struct MapAttributes {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

/// The part of `union bpf_attr` that BPF_MAP_UPDATE_ELEM needs.
#[repr(C)]
struct ElementAttributes {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
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

/// Loads an XDP program that hands every frame to the stack, with `head` written over its first bytes.
///
/// A live run takes each page for many frames. It writes a frame anew only if the program moved its ends, not if the
/// stack moved bytes in it, as it does to take a tag out.
pub fn load_pass(head: &[u8]) -> Result<OwnedFd> {
    load_xdp(&passing(head)).context("loading the XDP program that passes all")
}

fn passing(head: &[u8]) -> Vec<u64> {
    let words = head.chunks_exact(4).map(|word| i32::from_le_bytes([word[0], word[1], word[2], word[3]]));
    let stores: Vec<_> = (0_i16..).zip(words).map(|(n, word)| code(STORE_32, 2, 0, n * 4, word)).collect();
    let mut program = Vec::new();
    if !stores.is_empty() {
        program.extend([
            // data and data_end of `struct xdp_md`
            code(LOAD_32, 2, 1, 0, 0),
            code(LOAD_32, 3, 1, 4, 0),
            code(MOV_REGISTER, 4, 2, 0, 0),
            code(ADD, 4, 0, 0, head.len() as i32),
            code(JUMP_IF_GREATER, 4, 3, stores.len() as i16, 0),
        ]);
        program.extend(stores);
    }
    program.extend([code(MOV, 0, 0, 0, XDP_PASS), code(EXIT, 0, 0, 0, 0)]);
    program
}

/// Which address of a frame is another one each time.
#[derive(Clone, Copy, Debug)]
pub enum Rewrite {
    /// The destination: one of so many stations by chance, their numbers so far apart (see [`station`]).
    Destination { stations: u32, apart: u32 },
    /// The source: a number of 32 bits by chance, hardly ever the same twice.
    Source,
}

/// The station with this number, of those that [`Rewriter`] sends to.
pub fn station(number: u32) -> [u8; 6] {
    let ([first, second], [a, b, c, d]) = (REWRITTEN, number.to_be_bytes());
    [first, second, a, b, c, d]
}

/// An XDP program that changes an address of each frame, and then passes it, or is followed by another program.
#[derive(Debug)]
pub struct Rewriter {
    program: OwnedFd,
    /// An array of programs is emptied when its last descriptor is closed.
    _followers: Option<OwnedFd>,
}

impl Rewriter {
    /// Loads it; `followed_by` is an XDP program that gets the changed frame.
    pub fn load(rewrite: Rewrite, followed_by: Option<BorrowedFd<'_>>) -> Result<Self> {
        let followers = followed_by.map(array_of).transpose()?;
        let program = load_xdp(&rewriting(rewrite, followers.as_ref().map(OwnedFd::as_raw_fd)))
            .context("loading the XDP program that changes addresses")?;
        Ok(Self { program, _followers: followers })
    }
}

impl AsFd for Rewriter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }
}

const XDP_DROP: i32 = 1;
const XDP_PASS: i32 = 2;
const GET_PRANDOM_U32: i32 = 7;
const TAIL_CALL: i32 = 12;
// Codes of instructions (uapi/linux/bpf.h, bpf_common.h).
const MOV: u8 = 0xb7;
const MOV_REGISTER: u8 = 0xbf;
const ADD: u8 = 0x07;
const MULTIPLY_32: u8 = 0x24;
const MODULO_32: u8 = 0x94;
const TO_BIG_ENDIAN: u8 = 0xdc;
const LOAD_32: u8 = 0x61;
const STORE_16: u8 = 0x6a;
const STORE_32: u8 = 0x62;
const STORE_REGISTER_32: u8 = 0x63;
const JUMP_IF_GREATER: u8 = 0x2d;
const LOAD_64: u8 = 0x18;
const MAP_BY_FD: u8 = 1;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;

/// `struct bpf_insn`
fn code(operation: u8, to: u8, from: u8, offset: i16, value: i32) -> u64 {
    let [low, high] = offset.to_le_bytes();
    let [a, b, c, d] = value.to_le_bytes();
    u64::from_le_bytes([operation, to | from << 4, low, high, a, b, c, d])
}

fn rewriting(rewrite: Rewrite, followers: Option<i32>) -> Vec<u64> {
    let mut program = vec![code(MOV_REGISTER, 6, 1, 0, 0), code(CALL, 0, 0, 0, GET_PRANDOM_U32)];
    let at = match rewrite {
        Rewrite::Destination { stations, apart } => {
            program.push(code(MODULO_32, 0, 0, 0, stations.cast_signed()));
            program.push(code(MULTIPLY_32, 0, 0, 0, apart.cast_signed()));
            0
        }
        Rewrite::Source => 6,
    };
    let follow = match followers {
        Some(array) => vec![
            code(MOV_REGISTER, 1, 6, 0, 0),
            code(LOAD_64, 2, MAP_BY_FD, 0, array),
            0,
            code(MOV, 3, 0, 0, 0),
            code(CALL, 0, 0, 0, TAIL_CALL),
            // It comes back only if there is no follower.
            code(MOV, 0, 0, 0, XDP_DROP),
        ],
        None => vec![code(MOV, 0, 0, 0, XDP_PASS)],
    };
    let past_the_end = 2 + follow.len() + 1;
    program.extend([
        code(TO_BIG_ENDIAN, 0, 0, 0, 32),
        // data and data_end of `struct xdp_md`
        code(LOAD_32, 2, 6, 0, 0),
        code(LOAD_32, 3, 6, 4, 0),
        code(MOV_REGISTER, 4, 2, 0, 0),
        code(ADD, 4, 0, 0, 12),
        code(JUMP_IF_GREATER, 4, 3, past_the_end as i16, 0),
        code(STORE_16, 2, 0, at, u16::from_le_bytes(REWRITTEN).into()),
        code(STORE_REGISTER_32, 2, 0, at + 2, 0),
    ]);
    program.extend(follow);
    program.extend([code(EXIT, 0, 0, 0, 0), code(MOV, 0, 0, 0, XDP_DROP), code(EXIT, 0, 0, 0, 0)]);
    program
}

/// The part of `union bpf_attr` that BPF_LINK_CREATE needs.
#[repr(C)]
struct LinkAttributes {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// Programs on both hooks of a device, for as long as this value lives: what leaves is in a VLAN, and what comes in is
/// out of it. For a machine on a VLAN where the kernel has neither VLAN devices nor bridges with VLANs.
pub struct Tagging {
    _links: [OwnedFd; 2],
}

impl Tagging {
    /// On a device of the caller's namespace. Without a VLAN the programs are there and do nothing.
    pub fn attach(ifindex: u32, vlan: Option<u16>) -> Result<Self> {
        let attach = |instructions: &[u64], attach_type| {
            let program = load(BPF_PROG_TYPE_SCHED_CLS, instructions, 0)?;
            let mut attributes =
                LinkAttributes { prog_fd: program.as_raw_fd() as u32, target_ifindex: ifindex, attach_type, flags: 0 };
            // SAFETY: no addresses in it.
            let fd = unsafe { bpf(BPF_LINK_CREATE, &mut attributes) }.context("attaching a program to tcx")?;
            // SAFETY: the kernel just made this descriptor for us, and nobody else knows of it.
            anyhow::Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
        };
        let links = [attach(&tag_set(vlan), BPF_TCX_EGRESS)?, attach(&tag_off(vlan), BPF_TCX_INGRESS)?];
        Ok(Self { _links: links })
    }
}

fn tag_set(vlan: Option<u16>) -> Vec<u64> {
    let mut program = Vec::new();
    if let Some(vlan) = vlan {
        program.extend([
            code(MOV, 2, 0, 0, ETHERTYPE_VLAN.to_be().into()),
            code(MOV, 3, 0, 0, vlan.into()),
            code(CALL, 0, 0, 0, SKB_VLAN_PUSH),
        ]);
    }
    program.extend([code(MOV, 0, 0, 0, TCX_NEXT), code(EXIT, 0, 0, 0, 0)]);
    program
}

fn tag_off(vlan: Option<u16>) -> Vec<u64> {
    let pop = vlan.map(|_| code(CALL, 0, 0, 0, SKB_VLAN_POP));
    pop.into_iter().chain([code(MOV, 0, 0, 0, TCX_NEXT), code(EXIT, 0, 0, 0, 0)]).collect()
}

fn load_xdp(instructions: &[u64]) -> Result<OwnedFd> {
    // As aya loads the switch's: the kernel only chains programs that are alike in this.
    load(BPF_PROG_TYPE_XDP, instructions, BPF_XDP)
}

fn load(prog_type: u32, instructions: &[u64], expected_attach_type: u32) -> Result<OwnedFd> {
    let license = c"Dual MIT/GPL";
    let mut attributes = LoadAttributes {
        prog_type,
        insn_cnt: instructions.len() as u32,
        insns: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
        prog_name: [0; 16],
        prog_ifindex: 0,
        expected_attach_type,
    };
    // SAFETY: the instructions and the licence outlive the call; no log is asked for.
    let fd = unsafe { bpf(BPF_PROG_LOAD, &mut attributes) }.context("BPF_PROG_LOAD")?;
    // SAFETY: the kernel just made this descriptor for us, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// An array for tail calls with this program as its only one.
fn array_of(program: BorrowedFd<'_>) -> Result<OwnedFd> {
    let mut attributes =
        MapAttributes { map_type: BPF_MAP_TYPE_PROG_ARRAY, key_size: 4, value_size: 4, max_entries: 1, map_flags: 0 };
    // SAFETY: no addresses in it.
    let fd = unsafe { bpf(BPF_MAP_CREATE, &mut attributes) }.context("making an array of programs")?;
    // SAFETY: the kernel just made this descriptor for us, and nobody else knows of it.
    let array = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    let (key, value) = (0_u32, program.as_raw_fd());
    let mut attributes = ElementAttributes {
        map_fd: array.as_raw_fd() as u32,
        padding: 0,
        key: std::ptr::from_ref(&key) as u64,
        value: std::ptr::from_ref(&value) as u64,
        flags: 0,
    };
    // SAFETY: key and value have the sizes that the map was made with, and outlive the call.
    unsafe { bpf(BPF_MAP_UPDATE_ELEM, &mut attributes) }.context("putting a program into an array")?;
    Ok(array)
}

/// Injects `repeat` copies of `frame` as received on device `ifindex` of the caller's namespace, [`BATCH`] at once.
/// What the program redirects or passes travels on for good.
pub fn run_live(program: BorrowedFd<'_>, frame: &[u8], ifindex: u32, repeat: u32) -> Result<()> {
    run_live_in_batches(program, frame, ifindex, repeat, BATCH)
}

/// The same with so many frames at once.
pub fn run_live_in_batches(program: BorrowedFd<'_>, frame: &[u8], ifindex: u32, repeat: u32, batch: u32) -> Result<()> {
    let context = XdpContext { data_end: frame.len() as u32, ingress_ifindex: ifindex, ..XdpContext::default() };
    let mut attributes = TestAttributes {
        repeat,
        flags: BPF_F_TEST_XDP_LIVE_FRAMES,
        batch_size: batch,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_station_is_its_number_behind_two_fixed_bytes() {
        assert_eq!(station(0x0102_0304), [0x02, 0x56, 1, 2, 3, 4]);
    }

    #[test]
    fn an_instruction_is_laid_out_as_the_kernel_reads_it() {
        assert_eq!(code(MOV, 0, 0, 0, XDP_PASS), 0xb7 | 2 << 32);
        assert_eq!(code(JUMP_IF_GREATER, 4, 3, 5, 0).to_le_bytes(), [0x2d, 0x34, 5, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn without_a_vlan_the_programs_do_nothing() {
        let nothing = [code(MOV, 0, 0, 0, TCX_NEXT), code(EXIT, 0, 0, 0, 0)];
        assert_eq!(tag_set(None), nothing);
        assert_eq!(tag_off(None), nothing);
        assert_eq!(tag_set(Some(30))[1], code(MOV, 3, 0, 0, 30));
        assert_eq!(tag_off(Some(30))[0], code(CALL, 0, 0, 0, SKB_VLAN_POP));
    }

    #[test]
    fn a_frame_that_is_too_short_is_dropped_behind_the_last_exit() {
        for followers in [None, Some(3)] {
            let program = rewriting(Rewrite::Source, followers);
            let jump = program.iter().position(|code| code.to_le_bytes()[0] == JUMP_IF_GREATER).unwrap();
            let [_, _, low, high, ..] = program[jump].to_le_bytes();
            let target = jump + 1 + usize::from(u16::from_le_bytes([low, high]));
            assert_eq!(program[target..], [code(MOV, 0, 0, 0, XDP_DROP), code(EXIT, 0, 0, 0, 0)]);
        }
    }
}
