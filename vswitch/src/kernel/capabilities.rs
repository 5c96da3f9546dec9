//! What this process may do and what this kernel can.

use std::fs;
use std::io;
use std::path::Path;

use nix::errno::Errno;

/// A kernel release, of which the first two numbers count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// As uname(2) has it.
    pub text: String,
    /// Major and minor number.
    pub version: (u32, u32),
}

/// The oldest kernel that vswitch runs on.
pub const OLDEST: (u32, u32) = (6, 1);
/// The first kernel with tcx (commit e420bed02507).
pub const TCX: (u32, u32) = (6, 6);

/// The capabilities that the daemon needs: numbers and names of capabilities(7).
const NEEDED: [(u32, &str); 3] = [(12, "CAP_NET_ADMIN"), (21, "CAP_SYS_ADMIN"), (39, "CAP_BPF")];

/// What was found.
#[derive(Clone, Debug)]
pub struct Capabilities {
    /// The effective user.
    pub euid: u32,
    /// Needed capabilities that the process has not.
    pub missing: Vec<&'static str>,
    /// The kernel.
    pub release: Release,
    /// bpf(2) answers.
    pub bpf: Result<(), Errno>,
    /// The kernel describes its own types (CONFIG_DEBUG_INFO_BTF).
    pub btf: bool,
    /// tc programs are attached by links.
    pub tcx: bool,
}

/// Why vswitch cannot run here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unable {
    /// A capability is missing.
    #[error("no permission: this needs root (user {euid} lacks {missing})")]
    Privilege {
        /// The effective user.
        euid: u32,
        /// What it lacks.
        missing: String,
    },
    /// Too old.
    #[error("the kernel {release} is too old")]
    Kernel {
        /// Its release.
        release: String,
    },
    /// No bpf(2).
    #[error("the kernel {release} has no BPF: {errno}")]
    Bpf {
        /// Its release.
        release: String,
        /// What it said.
        errno: Errno,
    },
    /// No BTF.
    #[error("the kernel {release} has no BTF: /sys/kernel/btf/vmlinux is missing")]
    Btf {
        /// Its release.
        release: String,
    },
}

impl Capabilities {
    /// Looks.
    ///
    /// # Errors
    /// Where /proc is not mounted.
    pub fn detect() -> io::Result<Self> {
        let release = release(&nix::sys::utsname::uname()?.release().to_string_lossy());
        let effective = effective(&fs::read_to_string("/proc/thread-self/status")?);
        let missing = NEEDED.iter().filter(|(number, _)| effective >> number & 1 == 0).map(|(_, name)| *name).collect();
        Ok(Self {
            euid: nix::unistd::geteuid().as_raw(),
            missing,
            bpf: probe_bpf(),
            btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
            tcx: probe_tcx().unwrap_or(release.version >= TCX),
            release,
        })
    }

    /// The first thing that keeps vswitch from running here.
    ///
    /// # Errors
    /// That thing.
    pub fn require(&self) -> Result<(), Unable> {
        let release = self.release.text.clone();
        if !self.missing.is_empty() {
            return Err(Unable::Privilege { euid: self.euid, missing: self.missing.join(", ") });
        }
        if self.release.version < OLDEST {
            return Err(Unable::Kernel { release });
        }
        if let Err(errno) = self.bpf {
            return Err(Unable::Bpf { release, errno });
        }
        if !self.btf {
            return Err(Unable::Btf { release });
        }
        Ok(())
    }
}

/// Asks bpf(2) for the first program id: harmless, and ENOENT is an answer.
fn probe_bpf() -> Result<(), Errno> {
    const BPF_PROG_GET_NEXT_ID: libc::c_int = 11;
    match bpf(BPF_PROG_GET_NEXT_ID, &mut [0; 16]) {
        Ok(()) | Err(Errno::ENOENT | Errno::EPERM) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Asks what is attached by tcx to loopback, which changes nothing; kernels without it do not know the question. No
/// answer if we may not ask.
fn probe_tcx() -> Option<bool> {
    const BPF_PROG_QUERY: libc::c_int = 16;
    const BPF_TCX_INGRESS: u32 = 46;
    let loopback = nix::net::if_::if_nametoindex("lo").ok()?;
    let mut attributes = [0; 16];
    attributes[..2].copy_from_slice(&[loopback, BPF_TCX_INGRESS]);
    match bpf(BPF_PROG_QUERY, &mut attributes) {
        Ok(()) | Err(Errno::ENOENT) => Some(true),
        Err(Errno::EINVAL) => Some(false),
        Err(_) => None,
    }
}

/// bpf(2), with attributes in words (union bpf_attr).
fn bpf(command: libc::c_int, attributes: &mut [u32; 16]) -> Result<(), Errno> {
    let size = size_of_val(attributes) as libc::c_uint;
    // SAFETY: the attribute block is valid and as long as we say; commands used here have no pointers in it but null.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size) };
    Errno::result(result).map(drop)
}

fn release(text: &str) -> Release {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    Release { text: text.to_owned(), version }
}

/// The effective capabilities in /proc/PID/status.
fn effective(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read() {
        assert_eq!(release("6.1.0-42-cloud-amd64").version, (6, 1));
        assert_eq!(release("6.18.44-fc-v669").version, (6, 18));
        assert_eq!(release("7").version, (7, 0));
    }

    #[test]
    fn effective_capabilities_are_read() {
        assert_eq!(effective("CapPrm:\t0\nCapEff:\t000001ffffffffff\n"), 0x1ff_ffff_ffff);
        assert_eq!(effective(""), 0);
    }

    #[test]
    fn the_first_obstacle_is_named() {
        let able = Capabilities {
            euid: 0,
            missing: Vec::new(),
            release: release("6.1.0"),
            bpf: Ok(()),
            btf: true,
            tcx: false,
        };
        assert_eq!(able.require(), Ok(()));
        let user = Capabilities { euid: 1000, missing: vec!["CAP_BPF"], btf: false, ..able.clone() };
        assert!(matches!(user.require(), Err(Unable::Privilege { euid: 1000, .. })));
        let old = Capabilities { release: release("5.15.0"), ..able.clone() };
        assert!(matches!(old.require(), Err(Unable::Kernel { .. })));
        let without = Capabilities { bpf: Err(Errno::ENOSYS), ..able.clone() };
        assert!(matches!(without.require(), Err(Unable::Bpf { .. })));
        assert!(matches!(Capabilities { btf: false, ..able }.require(), Err(Unable::Btf { .. })));
    }
}
