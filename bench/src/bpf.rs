//! Calls of bpf(2) that aya does not offer on a bare descriptor: loading an XDP program that passes
//! every frame or rewrites its addresses, and BPF_PROG_TEST_RUN of any program, with live frames or
//! repeated.

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
/// Continues with the next program, or with the kernel if there is none.
const TCX_NEXT: i32 = -1;
const SKB_VLAN_PUSH: i32 = 18;
const SKB_VLAN_POP: i32 = 19;
const ETHERTYPE_VLAN: u16 = 0x8100;
const BPF_XDP: u32 = 37;
const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 1 << 1;
const BPF_MAP_TYPE_PROG_ARRAY: u32 = 3;

/// Default number of frames per batch of a live run, the budget of NAPI.
pub const BATCH: u32 = 64;
/// The first two bytes of the addresses that [`Rewriter`] writes. They are locally administered and
/// not used by other devices here.
pub const STATION_PREFIX: [u8; 2] = [0x02, 0x56];

/// The part of `union bpf_attr` that BPF_PROG_LOAD needs. The kernel assumes zero for the rest.
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

/// `struct __sk_buff` up to `ifindex`. The kernel assumes zero for the rest.
#[repr(C)]
#[derive(Default)]
struct SkbContext {
    unused: [u32; 9],
    ingress_ifindex: u32,
    ifindex: u32,
}

/// The return value of a program and the mean time per run, as measured by the kernel.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Return value of the last run.
    pub verdict: u32,
    /// Mean time of all runs.
    pub time: Duration,
}

/// Loads an XDP program that writes `head` over the first bytes of every frame and passes it to the
/// stack.
///
/// A live run uses each page for many frames. It writes a frame again only if the program moved the
/// ends of the frame, but not if the stack moved bytes inside it, as it does to remove a tag.
pub fn load_pass(head: &[u8]) -> Result<OwnedFd> {
    load_xdp(&pass_instructions(head)).context("loading the XDP program that passes all frames")
}

fn pass_instructions(head: &[u8]) -> Vec<u64> {
    let words = head.chunks_exact(4).map(|word| i32::from_le_bytes([word[0], word[1], word[2], word[3]]));
    let stores: Vec<_> = (0_i16..).zip(words).map(|(n, word)| instruction(STORE_32, 2, 0, n * 4, word)).collect();
    let mut program = Vec::new();
    if !stores.is_empty() {
        program.extend([
            // `data` and `data_end` of `struct xdp_md`
            instruction(LOAD_32, 2, 1, 0, 0),
            instruction(LOAD_32, 3, 1, 4, 0),
            instruction(MOV_REGISTER, 4, 2, 0, 0),
            instruction(ADD, 4, 0, 0, head.len() as i32),
            instruction(JUMP_IF_GREATER, 4, 3, stores.len() as i16, 0),
        ]);
        program.extend(stores);
    }
    program.extend([instruction(MOV, 0, 0, 0, XDP_PASS), instruction(EXIT, 0, 0, 0, 0)]);
    program
}

/// The address of a frame that differs in each frame.
#[derive(Clone, Copy, Debug)]
pub enum Rewrite {
    /// The destination: one of `stations` stations at random, whose numbers are `stride` from each
    /// other (see [`station`]).
    Destination { stations: u32, stride: u32 },
    /// The source: a random number of 32 bits, which rarely repeats.
    Source,
}

/// Returns the MAC address of the station with this number, a destination of [`Rewriter`].
pub fn station(number: u32) -> [u8; 6] {
    let ([first, second], [a, b, c, d]) = (STATION_PREFIX, number.to_be_bytes());
    [first, second, a, b, c, d]
}

/// An XDP program that rewrites an address of each frame, and then passes the frame or makes a tail
/// call to another program.
#[derive(Debug)]
pub struct Rewriter {
    program: OwnedFd,
    /// The kernel empties a program array when its last descriptor is closed.
    _program_array: Option<OwnedFd>,
}

impl Rewriter {
    /// Loads the program. `next_program` is an XDP program that receives the changed frame.
    pub fn load(rewrite: Rewrite, next_program: Option<BorrowedFd<'_>>) -> Result<Self> {
        let program_array = next_program.map(create_program_array).transpose()?;
        let program = load_xdp(&rewrite_instructions(rewrite, program_array.as_ref().map(OwnedFd::as_raw_fd)))
            .context("loading the XDP program that changes addresses")?;
        Ok(Self { program, _program_array: program_array })
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
// Instruction codes (uapi/linux/bpf.h, bpf_common.h).
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
fn instruction(operation: u8, to: u8, from: u8, offset: i16, value: i32) -> u64 {
    let [low, high] = offset.to_le_bytes();
    let [a, b, c, d] = value.to_le_bytes();
    u64::from_le_bytes([operation, to | from << 4, low, high, a, b, c, d])
}

fn rewrite_instructions(rewrite: Rewrite, program_array: Option<i32>) -> Vec<u64> {
    let mut program = vec![instruction(MOV_REGISTER, 6, 1, 0, 0), instruction(CALL, 0, 0, 0, GET_PRANDOM_U32)];
    let at = match rewrite {
        Rewrite::Destination { stations, stride } => {
            program.push(instruction(MODULO_32, 0, 0, 0, stations.cast_signed()));
            program.push(instruction(MULTIPLY_32, 0, 0, 0, stride.cast_signed()));
            0
        }
        Rewrite::Source => 6,
    };
    let ending = match program_array {
        Some(array) => vec![
            instruction(MOV_REGISTER, 1, 6, 0, 0),
            instruction(LOAD_64, 2, MAP_BY_FD, 0, array),
            0,
            instruction(MOV, 3, 0, 0, 0),
            instruction(CALL, 0, 0, 0, TAIL_CALL),
            // A tail call returns only if the array has no program.
            instruction(MOV, 0, 0, 0, XDP_DROP),
        ],
        None => vec![instruction(MOV, 0, 0, 0, XDP_PASS)],
    };
    let jump_offset = 2 + ending.len() + 1;
    program.extend([
        instruction(TO_BIG_ENDIAN, 0, 0, 0, 32),
        // `data` and `data_end` of `struct xdp_md`
        instruction(LOAD_32, 2, 6, 0, 0),
        instruction(LOAD_32, 3, 6, 4, 0),
        instruction(MOV_REGISTER, 4, 2, 0, 0),
        instruction(ADD, 4, 0, 0, 12),
        instruction(JUMP_IF_GREATER, 4, 3, jump_offset as i16, 0),
        instruction(STORE_16, 2, 0, at, u16::from_le_bytes(STATION_PREFIX).into()),
        instruction(STORE_REGISTER_32, 2, 0, at + 2, 0),
    ]);
    program.extend(ending);
    program.extend([instruction(EXIT, 0, 0, 0, 0), instruction(MOV, 0, 0, 0, XDP_DROP), instruction(EXIT, 0, 0, 0, 0)]);
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

/// Programs on both tcx hooks of a device that set a VLAN tag on outgoing frames and remove it from
/// incoming ones. They are detached on drop. Used for kernels without VLAN devices and VLAN-aware
/// bridges.
pub struct VlanTagger {
    _links: [OwnedFd; 2],
}

impl VlanTagger {
    /// Attaches the programs to a device of the caller's namespace. Without a VLAN the programs do
    /// nothing.
    pub fn attach(ifindex: u32, vlan: Option<u16>) -> Result<Self> {
        let attach = |instructions: &[u64], attach_type| {
            let program = load(BPF_PROG_TYPE_SCHED_CLS, instructions, 0)?;
            let mut attributes =
                LinkAttributes { prog_fd: program.as_raw_fd() as u32, target_ifindex: ifindex, attach_type, flags: 0 };
            // SAFETY: the attributes contain no addresses.
            let fd = unsafe { bpf(BPF_LINK_CREATE, &mut attributes) }.context("attaching a program to tcx")?;
            // SAFETY: the kernel just created this descriptor, and nothing else owns it.
            anyhow::Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
        };
        let links = [
            attach(&push_tag_instructions(vlan), BPF_TCX_EGRESS)?,
            attach(&pop_tag_instructions(vlan), BPF_TCX_INGRESS)?,
        ];
        Ok(Self { _links: links })
    }
}

fn push_tag_instructions(vlan: Option<u16>) -> Vec<u64> {
    let mut program = Vec::new();
    if let Some(vlan) = vlan {
        program.extend([
            instruction(MOV, 2, 0, 0, ETHERTYPE_VLAN.to_be().into()),
            instruction(MOV, 3, 0, 0, vlan.into()),
            instruction(CALL, 0, 0, 0, SKB_VLAN_PUSH),
        ]);
    }
    program.extend([instruction(MOV, 0, 0, 0, TCX_NEXT), instruction(EXIT, 0, 0, 0, 0)]);
    program
}

fn pop_tag_instructions(vlan: Option<u16>) -> Vec<u64> {
    let pop = vlan.map(|_| instruction(CALL, 0, 0, 0, SKB_VLAN_POP));
    pop.into_iter().chain([instruction(MOV, 0, 0, 0, TCX_NEXT), instruction(EXIT, 0, 0, 0, 0)]).collect()
}

fn load_xdp(instructions: &[u64]) -> Result<OwnedFd> {
    // The same attach type as aya uses: the kernel allows tail calls only between programs with
    // equal types.
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
    // SAFETY: the instructions and the license outlive the call. No log buffer is given.
    let fd = unsafe { bpf(BPF_PROG_LOAD, &mut attributes) }.context("loading a program (BPF_PROG_LOAD)")?;
    // SAFETY: the kernel just created this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Creates a program array for tail calls with this program as the only entry.
fn create_program_array(program: BorrowedFd<'_>) -> Result<OwnedFd> {
    let mut attributes =
        MapAttributes { map_type: BPF_MAP_TYPE_PROG_ARRAY, key_size: 4, value_size: 4, max_entries: 1, map_flags: 0 };
    // SAFETY: the attributes contain no addresses.
    let fd = unsafe { bpf(BPF_MAP_CREATE, &mut attributes) }.context("creating a program array")?;
    // SAFETY: the kernel just created this descriptor, and nothing else owns it.
    let array = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    let (key, value) = (0_u32, program.as_raw_fd());
    let mut attributes = ElementAttributes {
        map_fd: array.as_raw_fd() as u32,
        padding: 0,
        key: std::ptr::from_ref(&key) as u64,
        value: std::ptr::from_ref(&value) as u64,
        flags: 0,
    };
    // SAFETY: key and value have the sizes of the map and outlive the call.
    unsafe { bpf(BPF_MAP_UPDATE_ELEM, &mut attributes) }.context("adding a program to a program array")?;
    Ok(array)
}

/// Injects `repeat` copies of `frame` as received on device `ifindex` of the caller's namespace,
/// [`BATCH`] at a time. Frames that the program redirects or passes are really forwarded.
pub fn run_live(program: BorrowedFd<'_>, frame: &[u8], ifindex: u32, repeat: u32) -> Result<()> {
    run_live_in_batches(program, frame, ifindex, repeat, BATCH)
}

/// As [`run_live`], with `batch` frames at a time.
pub fn run_live_in_batches(program: BorrowedFd<'_>, frame: &[u8], ifindex: u32, repeat: u32, batch: u32) -> Result<()> {
    let context = XdpContext { data_end: frame.len() as u32, ingress_ifindex: ifindex, ..XdpContext::default() };
    let mut attributes = TestAttributes {
        repeat,
        flags: BPF_F_TEST_XDP_LIVE_FRAMES,
        batch_size: batch,
        ..test_attributes(program, frame, &context)
    };
    // SAFETY: the frame and the context outlive the call, and a live run writes no output.
    unsafe { bpf(BPF_PROG_TEST_RUN, &mut attributes) }
        .context("injecting live frames (BPF_PROG_RUN, Linux 5.18 and newer)")?;
    Ok(())
}

/// Runs an XDP program `repeat` times on one frame, which is not forwarded.
pub fn run_xdp(program: BorrowedFd<'_>, frame: &[u8], ifindex: u32, repeat: u32) -> Result<Outcome> {
    let context = XdpContext { data_end: frame.len() as u32, ingress_ifindex: ifindex, ..XdpContext::default() };
    run_repeated(TestAttributes { repeat, ..test_attributes(program, frame, &context) })
}

/// Runs a tc program `repeat` times on one frame, which is not forwarded.
pub fn run_tc(program: BorrowedFd<'_>, frame: &[u8], ifindex: u32, repeat: u32) -> Result<Outcome> {
    let context = SkbContext { ingress_ifindex: ifindex, ifindex, ..SkbContext::default() };
    run_repeated(TestAttributes { repeat, ..test_attributes(program, frame, &context) })
}

fn run_repeated(mut attributes: TestAttributes) -> Result<Outcome> {
    // SAFETY: both callers keep the frame and the context alive, and no output buffer is given.
    unsafe { bpf(BPF_PROG_TEST_RUN, &mut attributes) }
        .context("running a program on a test frame (BPF_PROG_TEST_RUN)")?;
    Ok(Outcome { verdict: attributes.retval, time: Duration::from_nanos(attributes.duration.into()) })
}

fn test_attributes<C>(program: BorrowedFd<'_>, frame: &[u8], context: &C) -> TestAttributes {
    TestAttributes {
        prog_fd: program.as_fd().as_raw_fd() as u32,
        data_size_in: frame.len() as u32,
        data_in: frame.as_ptr() as u64,
        ctx_size_in: size_of_val(context) as u32,
        ctx_in: std::ptr::from_ref(context) as u64,
        ..TestAttributes::default()
    }
}

/// Calls bpf(2).
///
/// # Safety
/// Every address in `attributes` must be valid for the accesses of `command`.
unsafe fn bpf<A>(command: libc::c_long, attributes: &mut A) -> io::Result<libc::c_long> {
    let size = size_of_val(attributes);
    // SAFETY: `attributes` is a valid, writable block of `size` bytes. The caller guarantees the
    // addresses in it.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn station_address_is_a_prefix_and_the_number() {
        assert_eq!(station(0x0102_0304), [0x02, 0x56, 1, 2, 3, 4]);
    }

    #[test]
    fn instruction_has_the_layout_of_the_kernel() {
        assert_eq!(instruction(MOV, 0, 0, 0, XDP_PASS), 0xb7 | 2 << 32);
        assert_eq!(instruction(JUMP_IF_GREATER, 4, 3, 5, 0).to_le_bytes(), [0x2d, 0x34, 5, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn tag_programs_do_nothing_without_a_vlan() {
        let nothing = [instruction(MOV, 0, 0, 0, TCX_NEXT), instruction(EXIT, 0, 0, 0, 0)];
        assert_eq!(push_tag_instructions(None), nothing);
        assert_eq!(pop_tag_instructions(None), nothing);
        assert_eq!(push_tag_instructions(Some(30))[1], instruction(MOV, 3, 0, 0, 30));
        assert_eq!(pop_tag_instructions(Some(30))[0], instruction(CALL, 0, 0, 0, SKB_VLAN_POP));
    }

    #[test]
    fn short_frames_are_dropped_at_the_end_of_the_program() {
        for program_array in [None, Some(3)] {
            let program = rewrite_instructions(Rewrite::Source, program_array);
            let jump = program.iter().position(|instruction| instruction.to_le_bytes()[0] == JUMP_IF_GREATER).unwrap();
            let [_, _, low, high, ..] = program[jump].to_le_bytes();
            let target = jump + 1 + usize::from(u16::from_le_bytes([low, high]));
            assert_eq!(program[target..], [instruction(MOV, 0, 0, 0, XDP_DROP), instruction(EXIT, 0, 0, 0, 0)]);
        }
    }
}
