//! BPF objects in the kernel, examined without bpftool: which ones an instance has pinned or holds
//! open, and whether they still exist later. Only the instance's own objects are examined, so tests
//! can run in parallel.

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

/// A BPF object with its id in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BpfObject {
    Program(u32),
    Map(u32),
    Link(u32),
}

impl BpfObject {
    /// Reports whether the kernel still has the object. Uses GET_NEXT_ID instead of opening a
    /// descriptor: if a descriptor of a program of a program array is closed before the array is
    /// emptied (the kernel empties it in the background after its last user closed it), the array
    /// is emptied a second time and the kernel then keeps it for ever (prog_array_map_clear, seen
    /// on 6.1 and 6.18).
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
            Err(error) => panic!("querying the kernel for {self:?}: {error}"),
        }
    }

    /// Returns all objects that are pinned below a directory.
    pub fn pinned_below(directory: &Path) -> BTreeSet<Self> {
        let mut found = BTreeSet::new();
        let mut directories = vec![directory.to_owned()];
        while let Some(directory) = directories.pop() {
            let Ok(entries) = fs::read_dir(&directory) else { continue };
            for entry in entries.flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    directories.push(entry.path());
                } else if let Some(descriptor) = open_pin(&entry.path()) {
                    found.extend(objects_in_fdinfo(&format!("/proc/self/fdinfo/{}", descriptor.as_raw_fd())));
                }
            }
        }
        found
    }

    /// Returns all objects that a process holds open.
    pub fn held_by(process: Pid) -> BTreeSet<Self> {
        let Ok(descriptors) = fs::read_dir(format!("/proc/{process}/fdinfo")) else { return BTreeSet::new() };
        descriptors.flatten().flat_map(|entry| objects_in_fdinfo(&entry.path().to_string_lossy())).collect()
    }
}

/// Reads the lines `prog_id:`, `map_id:` and `link_id:` in the fdinfo of a BPF descriptor.
fn objects_in_fdinfo(fdinfo: &str) -> Vec<BpfObject> {
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
    // SAFETY: the kernel has just returned this new descriptor, and nothing else owns it.
    Some(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Calls bpf(2). The attributes are given in 64-bit words (little-endian).
fn bpf(command: libc::c_int, attributes: &mut [u64]) -> Result<libc::c_int, std::io::Error> {
    // SAFETY: the length passed is that of the attributes, and the memory they point to outlives
    // the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size_of_val(attributes)) };
    if result < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(libc::c_int::try_from(result).expect("descriptors are small"))
}

/// An XDP program on a device that does not belong to vswitch. It passes every frame, and is
/// detached when this value is dropped.
pub struct ForeignXdp {
    _link: OwnedFd,
    pub program: u32,
}

impl ForeignXdp {
    /// Attaches the program in driver mode.
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
        let owned = |descriptor| {
            // SAFETY: the kernel has just returned this new descriptor, and nothing else owns it.
            unsafe { OwnedFd::from_raw_fd(descriptor) }
        };
        let program = owned(bpf(BPF_PROG_LOAD, &mut attributes).expect("loading a program"));
        let link = netns.inside(|| {
            let index = u64::from(nix::net::if_::if_nametoindex(ifname).expect("the device exists"));
            let descriptor = program.as_raw_fd() as u64;
            bpf(BPF_LINK_CREATE, &mut [descriptor | index << 32, BPF_XDP | XDP_FLAGS_DRV_MODE << 32])
        });
        let link = owned(link.unwrap_or_else(|error| panic!("attaching a program to {ifname}: {error}")));
        let objects = objects_in_fdinfo(&format!("/proc/self/fdinfo/{}", program.as_raw_fd()));
        let id = objects.into_iter().find_map(|object| match object {
            BpfObject::Program(id) => Some(id),
            _ => None,
        });
        Self { _link: link, program: id.expect("a program has an id") }
    }
}
