//! The toolchain of the eBPF programs: nightly Rust with rust-src, and a bpf-linker with an LLVM
//! that is not older than rustc's.

use std::{
    env, fmt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{kernels::libraries, programs};

/// The nightly toolchain.
pub struct Nightly {
    /// The major version of its LLVM.
    pub llvm: u32,
    sysroot: PathBuf,
}

impl Nightly {
    /// Finds the toolchain, and installs it if it is missing. The other requirements depend on its
    /// version.
    pub fn find() -> Result<Self> {
        if !programs::exists("rustup") {
            bail!(
                "rustup is not installed, but it is required for the nightly toolchain of the eBPF programs (see https://rustup.rs)"
            );
        }
        if programs::output(&mut nightly("rustc", &["-vV"])).is_none() {
            eprintln!("setup: installing the nightly toolchain with rustup");
            let mut install = Command::new("rustup");
            install.args(["toolchain", "install", "nightly", "--profile", "minimal", "--component", "rust-src,clippy"]);
            programs::run(&mut install)
                .context("cannot install the nightly toolchain, which the eBPF programs require")?;
        }
        let verbose =
            programs::output(&mut nightly("rustc", &["-vV"])).context("`rustup run nightly rustc -vV` failed")?;
        let llvm = llvm_major(&verbose)
            .with_context(|| format!("the output of `rustc -vV` has no LLVM version: {verbose}"))?;
        let sysroot = programs::output(&mut nightly("rustc", &["--print", "sysroot"]))
            .context("`rustc --print sysroot` failed")?;
        Ok(Self { llvm, sysroot: sysroot.trim().into() })
    }

    /// Returns whether rust-src is installed, which is needed to build core for the BPF target.
    pub fn has_rust_src(&self) -> bool {
        self.sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml").is_file()
    }
}

/// Returns the command for a program of the nightly toolchain.
pub fn nightly(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", program]).args(arguments);
    command
}

/// Parses the LLVM version in the output of `rustc -vV`.
fn llvm_major(verbose: &str) -> Option<u32> {
    let version = verbose.lines().find_map(|line| line.strip_prefix("LLVM version:"))?;
    version.trim().split('.').next()?.parse().ok()
}

/// The supported releases of bpf-linker.
const BPF_LINKER: &str = "^0.13";

/// The reason to build bpf-linker.
#[derive(Debug, PartialEq, Eq)]
pub enum BpfLinker {
    Absent,
    Broken,
    OtherRelease { version: String },
    OlderLlvm { linker: u32, nightly: u32 },
}

impl fmt::Display for BpfLinker {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("bpf-linker, built against LLVM (a minute)")?;
        match self {
            Self::Absent => Ok(()),
            Self::Broken => formatter.write_str("; the installed one does not run"),
            Self::OtherRelease { version } => {
                write!(formatter, "; the installed one is {version}, not {BPF_LINKER}")
            }
            Self::OlderLlvm { linker, nightly } => {
                write!(formatter, "; the installed one has LLVM {linker}, but nightly Rust has LLVM {nightly}")
            }
        }
    }
}

impl BpfLinker {
    /// Returns `None` if the installed bpf-linker is suitable.
    pub fn missing(llvm: u32) -> Option<Self> {
        let Some(file) = programs::find("bpf-linker") else { return Some(Self::Absent) };
        let Some(version) = programs::output(Command::new(&file).arg("--version")) else { return Some(Self::Broken) };
        let version = version.trim().trim_start_matches("bpf-linker").trim().to_owned();
        if !is_supported(&version) {
            return Some(Self::OtherRelease { version });
        }
        // The version of a statically linked LLVM cannot be determined, and is assumed to be
        // suitable.
        let linked = libraries::of(&file).ok()?.iter().find_map(|library| llvm_of_library(library))?;
        (linked < llvm).then_some(Self::OlderLlvm { linker: linked, nightly: llvm })
    }

    /// Returns the command that builds bpf-linker.
    pub fn install(&self, llvm: u32) -> Result<Command> {
        let prefix = llvm_prefix(llvm)
            .with_context(|| format!("LLVM {llvm} was not found (set LLVM_PREFIX to its directory)"))?;
        let mut command = Command::new("cargo");
        command.args(["install", "bpf-linker", "--version", BPF_LINKER, "--locked", "--force"]);
        command.args(["--no-default-features", "--features", &format!("llvm-{llvm}")]);
        command.env("LLVM_PREFIX", prefix);
        Ok(command)
    }
}

/// Returns whether a version matches BPF_LINKER.
fn is_supported(version: &str) -> bool {
    let (major_minor, _) = version.rsplit_once('.').unwrap_or((version, ""));
    BPF_LINKER.strip_prefix('^') == Some(major_minor)
}

/// Returns the version in the name of an LLVM library: `libLLVM.so.22.1` by LLVM, `libLLVM-22.so`
/// by some distributions.
fn llvm_of_library(library: &Path) -> Option<u32> {
    let rest = library.file_name()?.to_str()?.strip_prefix("libLLVM")?;
    rest.trim_start_matches(".so").trim_start_matches(['.', '-']).split('.').next()?.parse().ok()
}

/// Finds the development files of an LLVM version: in LLVM_PREFIX, in the directories of Debian and
/// Fedora, or by llvm-config.
pub fn llvm_prefix(major: u32) -> Option<PathBuf> {
    if let Some(given) = env::var_os("LLVM_PREFIX") {
        return Some(given.into());
    }
    let debian = PathBuf::from(format!("/usr/lib/llvm-{major}"));
    let fedora = PathBuf::from(format!("/usr/lib64/llvm{major}"));
    let others = [format!("llvm-config-{major}"), "llvm-config".to_owned()].into_iter().filter_map(|name| {
        let version = programs::output(Command::new(&name).arg("--version"))?;
        let prefix = programs::output(Command::new(&name).arg("--prefix"))?;
        (version.split('.').next() == Some(&major.to_string())).then(|| PathBuf::from(prefix.trim()))
    });
    [debian, fedora].into_iter().chain(others).find(|prefix| is_complete(prefix))
}

/// Returns whether a prefix contains the headers. The library alone is part of many programs.
fn is_complete(prefix: &Path) -> bool {
    prefix.join("bin/llvm-config").is_file()
        && ["include/llvm-c", "include/llvm"].iter().any(|directory| prefix.join(directory).is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llvm_version_is_parsed_from_rustc() {
        let verbose = "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)\nbinary: rustc\nrelease: 1.97.0-nightly\nLLVM version: 22.1.4\n";
        assert_eq!(llvm_major(verbose), Some(22));
        assert_eq!(llvm_major("rustc 1.97.0-nightly\nbinary: rustc\n"), None);
    }

    #[test]
    fn only_the_supported_release_of_bpf_linker_is_accepted() {
        assert!(is_supported("0.13.0") && is_supported("0.13.7"));
        assert!(!is_supported("0.12.9") && !is_supported("0.14.0") && !is_supported("1.13.0") && !is_supported(""));
    }

    #[test]
    fn llvm_version_is_parsed_from_the_library_name() {
        let llvm = |path: &str| llvm_of_library(Path::new(path));
        assert_eq!(llvm("/usr/lib/llvm-22/lib/libLLVM.so.22.1"), Some(22));
        assert_eq!(llvm("/usr/lib64/libLLVM-21.so"), Some(21));
        assert_eq!(llvm("/usr/lib64/libLLVM.so"), None);
        assert_eq!(llvm("/lib/x86_64-linux-gnu/libz.so.1"), None);
    }
}
