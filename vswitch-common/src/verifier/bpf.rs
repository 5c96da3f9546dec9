//! The parts of [`super`] that need assembly.

use core::arch::asm;
use core::intrinsics::is_val_statically_known;
use core::mem::MaybeUninit;

use crate::packet::MAX_OFFSET;

/// Where a program's context (`struct __sk_buff`, `struct xdp_md`) has what is read here, in bytes.
pub trait Offsets {
    /// The pointer to the first byte of the packet.
    const DATA: usize;
    /// The pointer to the end of the packet.
    const DATA_END: usize;
    /// A number that the verifier knows nothing about.
    const UNKNOWN: usize;
}

/// Loads where the packet begins and ends. The verifier makes pointers of these two words only if
/// they are loaded by exactly these instructions. The compiler would keep the pointers from one
/// read to the next, so that the verifier would tell paths apart by how far they have read, or
/// would cut them to the 32 bits that they have in the context.
///
/// # Safety
/// `context` is the context of the program that runs, and `O` has its offsets.
#[inline(always)]
pub unsafe fn packet_bounds<O: Offsets>(context: *const ()) -> (usize, usize) {
    let (start, end): (usize, usize);
    // SAFETY: two loads from the context, which the caller vouches for.
    unsafe {
        asm!(
            "{start} = *(u32 *)({context} + {data})",
            "{end} = *(u32 *)({context} + {data_end})",
            start = out(reg) start,
            end = lateout(reg) end,
            context = in(reg) context,
            data = const O::DATA,
            data_end = const O::DATA_END,
            options(readonly, nostack, preserves_flags),
        );
    }
    (start, end)
}

/// Returns the same number. The verifier no longer knows it: XORed twice with an unknown number, it
/// is unknown.
///
/// # Safety
/// `context` is the context of the program that runs, and `O` has its offsets.
#[inline(always)]
pub unsafe fn forget<O: Offsets>(context: *const (), number: u32) -> u32 {
    let mut number = u64::from(number);
    // SAFETY: a load from the context, which the caller vouches for.
    unsafe {
        asm!(
            "{unknown} = *(u32 *)({context} + {offset})",
            "{number} ^= {unknown}",
            "{number} ^= {unknown}",
            unknown = out(reg) _,
            number = inout(reg) number,
            context = in(reg) context,
            offset = const O::UNKNOWN,
            options(readonly, nostack, preserves_flags),
        );
    }
    number as u32
}

/// Bounds an offset once more that was compared with [`MAX_OFFSET`] before. Where the compiler has
/// spilled it to the stack in between, verifiers before kernel 6.8 have lost the bound. The
/// compiler would leave a plain AND out, as it knows the bound.
#[inline(always)]
pub fn bound_offset(mut offset: usize) -> usize {
    const { assert!((MAX_OFFSET + 1).is_power_of_two()) };
    if !is_val_statically_known(offset) {
        // SAFETY: an AND of a register.
        unsafe {
            asm!("{offset} &= {most}", offset = inout(reg) offset, most = const MAX_OFFSET, options(pure, nomem, nostack));
        };
    }
    offset
}

/// Writes zeros to a place, word by word, and returns its value. The compiler would call a function
/// with a loop over the bytes: the verifier walks each round, and the call needs a stack of its own.
///
/// # Safety
/// `T` consists of aligned 32-bit words, and zeros are a valid value of it.
#[inline(always)]
pub unsafe fn zeroed<T>(place: &mut MaybeUninit<T>) -> &mut T {
    let words = place.as_mut_ptr().cast::<u32>();
    for word in 0..size_of::<T>() / size_of::<u32>() {
        // SAFETY: one of the words of the place.
        unsafe { words.add(word).write_volatile(0) };
    }
    // SAFETY: every word is written, and the caller vouches for zeros.
    unsafe { place.assume_init_mut() }
}
