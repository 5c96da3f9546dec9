//! Reading a whole hash map, thousands of entries a call: BPF_MAP_LOOKUP_BATCH (kernel 5.6, 057996380a42), which aya has not.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The command of bpf(2) (linux/bpf.h).
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;

/// Entries a call. The kernel hands over whole buckets: it wants room for the largest.
const ENTRIES: usize = 4096;

/// `union bpf_attr`, as far as this command reads it.
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

/// Every entry that is there throughout; of those that come and go meanwhile, some.
///
/// # Errors
/// What the kernel answers. Keys and values have to have the map's sizes, or it writes beyond them: the caller has checked.
pub(super) fn entries<K: aya::Pod, V: aya::Pod>(map: BorrowedFd<'_>) -> io::Result<Vec<(K, V)>> {
    let mut all = Vec::new();
    let mut keys = vec![MaybeUninit::<K>::uninit(); ENTRIES];
    let mut values = vec![MaybeUninit::<V>::uninit(); ENTRIES];
    // Where the kernel goes on; for a hash map the number of a bucket.
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
        // SAFETY: the attributes are whole, and the two buffers have room for `count` keys and values.
        let answer =
            unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_LOOKUP_BATCH, &raw mut attributes, size_of::<Attributes>()) };
        let error = (answer < 0).then(io::Error::last_os_error);
        // ENOENT: these were the last.
        let last = error.as_ref().is_some_and(|error| error.raw_os_error() == Some(libc::ENOENT));
        if let Some(error) = error.filter(|_| !last) {
            return Err(error);
        }
        let read = keys.iter().zip(&values).take(attributes.count as usize);
        // SAFETY: the kernel has written the first `count` of both; any bit pattern is valid (Pod).
        all.extend(read.map(|(key, value)| unsafe { (key.assume_init(), value.assume_init()) }));
        if last {
            return Ok(all);
        }
        begun = true;
    }
}
