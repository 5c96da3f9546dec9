//! Reads a whole hash map, thousands of entries per call: BPF_MAP_LOOKUP_BATCH (kernel 5.6,
//! 057996380a42), which aya does not support.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The command number of bpf(2) (linux/bpf.h).
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;

/// Entries per call. The kernel returns whole buckets, so the buffer must have room for the largest
/// bucket.
const ENTRIES: usize = 4096;

/// The part of `union bpf_attr` that this command reads.
#[repr(C)]
struct Attributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// Returns every entry that stays in the map during the call. Entries that are added or removed
/// meanwhile may be missing or present.
///
/// # Errors
/// Returns the error of the kernel.
///
/// The caller must make sure that `K` and `V` have the sizes of the map's keys and values: the
/// kernel would otherwise write beyond the buffers.
pub(super) fn entries<K: aya::Pod, V: aya::Pod>(map: BorrowedFd<'_>) -> io::Result<Vec<(K, V)>> {
    let mut all = Vec::new();
    let mut keys = vec![MaybeUninit::<K>::uninit(); ENTRIES];
    let mut values = vec![MaybeUninit::<V>::uninit(); ENTRIES];
    // The position at which the kernel continues; for a hash map a bucket number.
    let (mut token, mut begun) = (0_u32, false);
    loop {
        let mut attributes = Attributes {
            in_batch: if begun { (&raw const token) as u64 } else { 0 },
            out_batch: (&raw mut token) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: ENTRIES as u32,
            map: map.as_raw_fd() as u32,
            element_flags: 0,
            flags: 0,
        };
        // SAFETY: all attributes are initialized, and both buffers have room for `count` keys and
        // values.
        let answer =
            unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_LOOKUP_BATCH, &raw mut attributes, size_of::<Attributes>()) };
        let error = (answer < 0).then(io::Error::last_os_error);
        // ENOENT: these entries were the last.
        let last = error.as_ref().is_some_and(|error| error.raw_os_error() == Some(libc::ENOENT));
        if let Some(error) = error.filter(|_| !last) {
            return Err(error);
        }
        let read = keys.iter().zip(&values).take(attributes.count as usize);
        // SAFETY: the kernel has written the first `count` elements of both buffers; any bit
        // pattern is valid (Pod).
        all.extend(read.map(|(key, value)| unsafe { (key.assume_init(), value.assume_init()) }));
        if last {
            return Ok(all);
        }
        begun = true;
    }
}
