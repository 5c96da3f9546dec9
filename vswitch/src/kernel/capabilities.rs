//! Detects the privileges of this process and the features of the kernel.

use std::fs;
use std::io;
use std::path::Path;

use nix::errno::Errno;

/// Kernel release, compared by its first two numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// Release string of uname(2).
    pub text: String,
    /// Major and minor version.
    pub version: (u32, u32),
}

/// Oldest supported kernel version.
pub const OLDEST: (u32, u32) = (6, 1);
/// First kernel version with tcx (commit e420bed02507).
pub const TCX: (u32, u32) = (6, 6);

/// Capabilities that the daemon needs, with their number and name in capabilities(7).
const NEEDED: [(u32, &str); 3] = [(12, "CAP_NET_ADMIN"), (21, "CAP_SYS_ADMIN"), (39, "CAP_BPF")];

/// Privileges and kernel features that were detected.
#[derive(Clone, Debug)]
pub struct Capabilities {
    /// Effective user id.
    pub euid: u32,
    /// Needed capabilities that the process lacks.
    pub missing: Vec<&'static str>,
    /// Kernel release.
    pub release: Release,
    /// `Ok` if the kernel implements bpf(2), otherwise the error it returned.
    pub bpf: Result<(), Errno>,
    /// The kernel provides BTF of its own types (CONFIG_DEBUG_INFO_BTF).
    pub btf: bool,
    /// The kernel supports tcx, which attaches tc programs by links.
    pub tcx: bool,
}

/// Reason why vswitch cannot run on this machine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unable {
    /// A capability is missing.
    #[error("no permission: this needs root (user {euid} lacks {missing})")]
    Privilege {
        /// Effective user id.
        euid: u32,
        /// Names of the missing capabilities, separated by commas.
        missing: String,
    },
    /// The kernel is older than [`OLDEST`].
    #[error("the kernel {release} is too old")]
    Kernel {
        /// Release string of the kernel.
        release: String,
    },
    /// The kernel does not implement bpf(2).
    #[error("the kernel {release} has no BPF: {errno}")]
    Bpf {
        /// Release string of the kernel.
        release: String,
        /// Error of bpf(2).
        errno: Errno,
    },
    /// The kernel provides no BTF.
    #[error("the kernel {release} has no BTF: /sys/kernel/btf/vmlinux is missing")]
    Btf {
        /// Release string of the kernel.
        release: String,
    },
}

impl Capabilities {
    /// Detects the privileges and the kernel features.
    ///
    /// # Errors
    /// uname(2) failed or /proc is not mounted.
    pub fn detect() -> io::Result<Self> {
        let release = parse_release(&nix::sys::utsname::uname()?.release().to_string_lossy());
        let effective = parse_effective(&fs::read_to_string("/proc/thread-self/status")?);
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

    /// Checks that vswitch can run on this machine.
    ///
    /// # Errors
    /// The first missing requirement.
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

/// Tests bpf(2) with a query for the first program id, which has no side effect. ENOENT and EPERM
/// also show that bpf(2) exists.
fn probe_bpf() -> Result<(), Errno> {
    const BPF_PROG_GET_NEXT_ID: libc::c_int = 11;
    match bpf(BPF_PROG_GET_NEXT_ID, &mut [0; 16]) {
        Ok(()) | Err(Errno::ENOENT | Errno::EPERM) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Tests for tcx with a query for the tcx programs of the loopback device, which has no side
/// effect. Kernels without tcx return EINVAL. Returns `None` if the result is unknown, for example
/// without permission.
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

/// Calls bpf(2). `attributes` is the union bpf_attr as 32-bit words.
fn bpf(command: libc::c_int, attributes: &mut [u32; 16]) -> Result<(), Errno> {
    let size = size_of_val(attributes) as libc::c_uint;
    // SAFETY: the attribute block is valid for `size` bytes, and all its pointers are null for the
    // commands used here.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_mut_ptr(), size) };
    Errno::result(result).map(drop)
}

fn parse_release(text: &str) -> Release {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    Release { text: text.to_owned(), version }
}

/// Returns the effective capability set in the text of /proc/PID/status, or 0 if it cannot be read.
fn parse_effective(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases_are_parsed() {
        assert_eq!(parse_release("6.1.0-42-cloud-amd64").version, (6, 1));
        assert_eq!(parse_release("6.18.44-fc-v669").version, (6, 18));
        assert_eq!(parse_release("7").version, (7, 0));
    }

    #[test]
    fn effective_capabilities_are_parsed() {
        assert_eq!(parse_effective("CapPrm:\t0\nCapEff:\t000001ffffffffff\n"), 0x1ff_ffff_ffff);
        assert_eq!(parse_effective(""), 0);
    }

    #[test]
    fn the_first_missing_requirement_is_reported() {
        let supported = Capabilities {
            euid: 0,
            missing: Vec::new(),
            release: parse_release("6.1.0"),
            bpf: Ok(()),
            btf: true,
            tcx: false,
        };
        assert_eq!(supported.require(), Ok(()));
        let user = Capabilities { euid: 1000, missing: vec!["CAP_BPF"], btf: false, ..supported.clone() };
        assert!(matches!(user.require(), Err(Unable::Privilege { euid: 1000, .. })));
        let old = Capabilities { release: parse_release("5.15.0"), ..supported.clone() };
        assert!(matches!(old.require(), Err(Unable::Kernel { .. })));
        let without_bpf = Capabilities { bpf: Err(Errno::ENOSYS), ..supported.clone() };
        assert!(matches!(without_bpf.require(), Err(Unable::Bpf { .. })));
        assert!(matches!(Capabilities { btf: false, ..supported }.require(), Err(Unable::Btf { .. })));
    }
}
