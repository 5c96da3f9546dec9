//! BPF objects in the kernel, seen without bpftool: what an instance has pinned or holds open, and whether it is still
//! there afterwards. Only an instance's own objects are asked about, so tests run side by side.

use std::{
    collections::BTreeSet,
    ffi::CString,
    fs,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use nix::unistd::Pid;

use super::Netns;

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_PROG_GET_NEXT_ID: libc::c_int = 11;
const BPF_MAP_GET_NEXT_ID: libc::c_int = 12;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_LINK_GET_NEXT_ID: libc::c_int = 31;

/// A BPF object and its number in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BpfObject {
    Program(u32),
    Map(u32),
    Link(u32),
}

impl BpfObject {
    /// Whether the kernel still has it. Asked for the next number, and not for a descriptor: one of an array of programs
    /// that is closed before the array is emptied (in the background, when nobody has it open any more) has it emptied a
    /// second time, and the kernel then keeps the array for ever (prog_array_map_clear, seen on 6.1 and 6.18).
    pub fn exists(self) -> bool {
        let (command, id) = match self {
            Self::Program(id) => (BPF_PROG_GET_NEXT_ID, id),
            Self::Map(id) => (BPF_MAP_GET_NEXT_ID, id),
            Self::Link(id) => (BPF_LINK_GET_NEXT_ID, id),
        };
        // { start_id, next_id, open_flags } of union bpf_attr.
        let mut attributes = [u64::from(id - 1), 0];
        match bpf(command, &mut attributes) {
            Ok(_) => attributes[0] >> 32 == u64::from(id),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => false,
            Err(error) => panic!("asking the kernel about {self:?}: {error}"),
        }
    }

    /// Everything pinned below a directory.
    pub fn pinned_below(directory: &Path) -> BTreeSet<Self> {
        let mut found = BTreeSet::new();
        let mut directories = vec![directory.to_owned()];
        while let Some(directory) = directories.pop() {
            let Ok(entries) = fs::read_dir(&directory) else { continue };
            for entry in entries.flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    directories.push(entry.path());
                } else if let Some(descriptor) = open_pin(&entry.path()) {
                    found.extend(described(&format!("/proc/self/fdinfo/{}", descriptor.as_raw_fd())));
                }
            }
        }
        found
    }

    /// Everything that a process holds open.
    pub fn held_by(process: Pid) -> BTreeSet<Self> {
        let Ok(descriptors) = fs::read_dir(format!("/proc/{process}/fdinfo")) else { return BTreeSet::new() };
        descriptors.flatten().flat_map(|entry| described(&entry.path().to_string_lossy())).collect()
    }
}

/// Reads the lines `prog_id:`, `map_id:` and `link_id:` that the kernel shows of a BPF descriptor.
fn described(fdinfo: &str) -> Vec<BpfObject> {
    let text = fs::read_to_string(fdinfo).unwrap_or_default();
    let number = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().parse().ok().filter(|id| *id != 0)
    };
    let objects = [
        number("prog_id").map(BpfObject::Program),
        number("map_id").map(BpfObject::Map),
        number("link_id").map(BpfObject::Link),
    ];
    objects.into_iter().flatten().collect()
}

fn open_pin(path: &Path) -> Option<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    let descriptor = bpf(BPF_OBJ_GET, &mut [path.as_ptr() as u64, 0]).ok()?;
    // SAFETY: the kernel has just made this descriptor for us.
    Some(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// bpf(2), with the attributes in words of 64 bits (little-endian).
fn bpf(command: libc::c_int, attributes: &mut [u64]) -> Result<libc::c_int, std::io::Error> {
    // SAFETY: the attributes are as long as is said, and what they point to outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size_of_val(attributes)) };
    if result < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(libc::c_int::try_from(result).expect("descriptors are small"))
}

/// Somebody else's XDP program on a device: it lets everything pass, and is gone with this value.
pub struct ForeignXdp {
    _link: OwnedFd,
    pub program: u32,
}

impl ForeignXdp {
    /// Attaches it in the driver.
    #[track_caller]
    pub fn on(netns: &Netns, ifname: &str) -> Self {
        const BPF_PROG_TYPE_XDP: u64 = 6;
        const BPF_XDP: u64 = 37;
        const XDP_FLAGS_DRV_MODE: u64 = 1 << 2;
        // r0 = XDP_PASS; exit
        let instructions = [0x0000_0002_0000_00b7_u64, 0x95];
        let mut attributes = [0_u64; 9];
        attributes[0] = BPF_PROG_TYPE_XDP | (instructions.len() as u64) << 32;
        attributes[1] = instructions.as_ptr() as u64;
        attributes[2] = c"GPL".as_ptr() as u64;
        let made = |descriptor| {
            // SAFETY: the kernel has just made this descriptor for us.
            unsafe { OwnedFd::from_raw_fd(descriptor) }
        };
        let program = made(bpf(BPF_PROG_LOAD, &mut attributes).expect("loading a program"));
        let link = netns.inside(|| {
            let index = u64::from(nix::net::if_::if_nametoindex(ifname).expect("the device is there"));
            let descriptor = program.as_raw_fd() as u64;
            bpf(BPF_LINK_CREATE, &mut [descriptor | index << 32, BPF_XDP | XDP_FLAGS_DRV_MODE << 32])
        });
        let link = made(link.unwrap_or_else(|error| panic!("attaching a program to {ifname}: {error}")));
        let objects = described(&format!("/proc/self/fdinfo/{}", program.as_raw_fd()));
        let id = objects.into_iter().find_map(|object| match object {
            BpfObject::Program(id) => Some(id),
            _ => None,
        });
        Self { _link: link, program: id.expect("a program has a number") }
    }
}
