//! Code in the form that the kernel's verifier accepts, or walks in reasonable time (decision 14).
//!
//! The verifier walks every path through a program by itself, as long as the paths differ in
//! anything that the code behind still reads. It gives up after 1,000,000 instructions. It also
//! refuses reads that it cannot prove to be inside the packet, and registers that it takes to be
//! unset. On the host the functions here compute what they say and no more. The parts that need
//! assembly are in `verifier/bpf.rs`, which is compiled for the BPF target alone.
//!
//! Forgetting ([`Packet::forget`], [`forget_payload`], [`forget_decision`],
//! [`crate::forward::Flooded::forgotten`]): a number that differs from path to path is made
//! unknown, and the paths that meet there are walked once. It is done where many paths meet: the
//! offset of the payload, the action for a group frame, `learns`, and all of a decision before it
//! is carried out.
//!
//! Reads of bytes that may be absent ([`word`], [`two_bytes`]): LLVM leaves a register unset if it
//! knows what follows from an absent value, and the verifier refuses to compute with an unset
//! register. For the same reason structs such as [`Decision`] and
//! [`crate::packet::address::Addresses`] are flat with every field set, one read is made instead of
//! two whose results are matched together, and no two `Option`s are compared (decision 1).
//!
//! Rules without a function of their own:
//! - At an offset that is no constant, at least two bytes are read at once. For a single byte LLVM
//!   compares start and end with `>=`, which does not prove to the verifier that the byte exists.
//! - A function with `#[inline(never)]` has a stack of its own (512 bytes for all frames of a call
//!   chain), and is walked apart from its callers' paths. It returns a `u64` or a `u32` of which
//!   all bits are set: of a shorter result, caller and callee may disagree about the other bits.
//! - A value is copied field by field before a pointer to it is passed to such a function: the
//!   original stays in registers.

#[cfg(target_arch = "bpf")]
pub mod bpf;

use core::hint::black_box;

use crate::packet::Packet;
use crate::tables::PortNumber;
use crate::verdict::{Decision, Delivery};

/// An upper bound of the offset of a payload, which is at most 22 bytes, behind two tags. All ones,
/// so that it is a mask.
const MAX_PAYLOAD: usize = 31;

/// Returns the offset of a payload. The verifier then knows only that it is at most
/// `MAX_PAYLOAD`, not how many tags came before it.
#[inline(always)]
pub fn forget_payload<P: Packet + ?Sized>(frame: &P, payload: usize) -> usize {
    frame.forget(payload as u32) as usize & MAX_PAYLOAD
}

/// Returns the same decision, without the verifier's knowledge of the path on which it was made:
/// what follows is walked once, not once for each reason to drop a frame.
#[inline(always)]
pub fn forget_decision<P: Packet + ?Sized>(frame: &P, decision: &Decision) -> Decision {
    let small = |number: u8| frame.forget(number.into()) as u8;
    let to = Delivery {
        port: PortNumber(frame.forget(decision.to.port.0)),
        ifindex: frame.forget(decision.to.ifindex),
        kind: small(decision.to.kind),
        way: small(decision.to.way),
        tag: small(decision.to.tag),
        xdp: small(decision.to.xdp),
    };
    Decision {
        action: frame.forget(decision.action),
        reason: frame.forget(decision.reason),
        learns: small(decision.learns),
        snoops: small(decision.snoops),
        storm: frame.forget(decision.storm.into()) as u16,
        to,
        ..*decision
    }
}

/// Returns the same decision to drop a frame, with only the fields forgotten that a drop has.
/// Programs of guards alone have nothing else to carry out.
#[inline(always)]
pub fn forget_drop<P: Packet + ?Sized>(frame: &P, decision: &Decision) -> Decision {
    let (reason, learns) = (frame.forget(decision.reason), frame.forget(decision.learns.into()) as u8);
    Decision { reason, learns, ..*decision }
}

/// Returns the two bytes at an offset, or zeros if they are absent.
#[inline(always)]
pub fn two_bytes<P: Packet + ?Sized>(frame: &P, offset: usize) -> [u8; 2] {
    frame.read(offset).unwrap_or([0; 2])
}

/// Returns the 16-bit word at an offset, or `otherwise` if it is absent. The value passes through
/// memory, because LLVM would leave its register unset where it knows what follows from
/// `otherwise`.
#[inline(always)]
pub fn word<P: Packet + ?Sized>(frame: &P, offset: usize, otherwise: u16) -> u32 {
    let bytes = frame.read(offset).unwrap_or(otherwise.to_be_bytes());
    black_box(u32::from(u16::from_be_bytes(bytes)))
}

/// Returns the length of a packet, at most `MAX`, as a number of at least 1. No packet has the
/// length 0. Verifiers before kernel 6.8 do not conclude from "not 0" that the least value is 1,
/// and refuse a copy of 0 bytes.
#[inline(always)]
pub fn bounded<const MAX: usize>(length: u32) -> u32 {
    let last = black_box(length.wrapping_sub(1));
    let most = MAX as u32 - 1;
    (if last > most { most } else { last }) + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::DropReason;

    #[test]
    fn on_the_host_nothing_changes() {
        let frame = [0x12, 0x34, 0x56].as_slice();
        for payload in [14, 18, 22] {
            assert_eq!(forget_payload(frame, payload), payload);
        }
        let decision = Decision { learns: 1, ..Decision::drop(DropReason::Storm, PortNumber(7)) };
        assert_eq!(forget_decision(frame, &decision), decision);
        assert_eq!(forget_drop(frame, &decision), decision);
    }

    #[test]
    fn absent_bytes_have_a_value() {
        let frame = [0x12, 0x34, 0x56].as_slice();
        assert_eq!((two_bytes(frame, 1), two_bytes(frame, 2)), ([0x34, 0x56], [0, 0]));
        assert_eq!((word(frame, 1, 7), word(frame, 2, 7)), (0x3456, 7));
    }

    #[test]
    fn a_bounded_length_is_at_least_one_byte() {
        for (length, expected) in [(1, 1), (63, 63), (64, 64), (65, 64), (u32::MAX, 64)] {
            assert_eq!(bounded::<64>(length), expected, "{length}");
        }
    }
}
