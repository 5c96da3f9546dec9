//! The toolchain of the eBPF programs: nightly Rust with rust-src, and a bpf-linker whose LLVM is not older.

use std::{
    env, fmt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{kernels::libraries, programs};

/// The nightly toolchain.
pub struct Nightly {
    /// The major version of the LLVM in it.
    pub llvm: u32,
    sysroot: PathBuf,
}

impl Nightly {
    /// Finds it, or installs it: without it, nothing can be said about the rest.
    pub fn find() -> Result<Self> {
        if !programs::exists("rustup") {
            bail!(
                "rustup is not installed, and the nightly toolchain that builds the eBPF programs comes with it (see https://rustup.rs)"
            );
        }
        if programs::output(&mut nightly("rustc", &["-vV"])).is_none() {
            eprintln!("setup: rustup has no nightly toolchain, and installs it now");
            let mut install = Command::new("rustup");
            install.args(["toolchain", "install", "nightly", "--profile", "minimal", "--component", "rust-src,clippy"]);
            programs::run(&mut install)
                .context("the nightly toolchain cannot be fetched; the eBPF programs cannot be built without it")?;
        }
        let verbose =
            programs::output(&mut nightly("rustc", &["-vV"])).context("`rustup run nightly rustc -vV` failed")?;
        let llvm = llvm_major(&verbose).with_context(|| format!("rustc does not say which LLVM it has: {verbose}"))?;
        let sysroot =
            programs::output(&mut nightly("rustc", &["--print", "sysroot"])).context("rustc has no sysroot")?;
        Ok(Self { llvm, sysroot: sysroot.trim().into() })
    }

    /// Whether core can be built for the BPF target.
    pub fn has_rust_src(&self) -> bool {
        self.sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml").is_file()
    }
}

/// A program of the nightly toolchain.
pub fn nightly(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", program]).args(arguments);
    command
}

/// Reads `rustc -vV`.
fn llvm_major(verbose: &str) -> Option<u32> {
    let version = verbose.lines().find_map(|line| line.strip_prefix("LLVM version:"))?;
    version.trim().split('.').next()?.parse().ok()
}

/// The releases of bpf-linker that we build with.
const BPF_LINKER: &str = "^0.13";

/// Why bpf-linker must be built.
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
            Self::Broken => formatter.write_str("; the one that is there does not run"),
            Self::OtherRelease { version } => {
                write!(formatter, "; the one that is there is {version}, not {BPF_LINKER}")
            }
            Self::OlderLlvm { linker, nightly } => {
                write!(formatter, "; the one that is there has LLVM {linker}, and nightly Rust has LLVM {nightly}")
            }
        }
    }
}

impl BpfLinker {
    /// `None` if the one that is there will do.
    pub fn missing(llvm: u32) -> Option<Self> {
        let Some(file) = programs::find("bpf-linker") else { return Some(Self::Absent) };
        let Some(version) = programs::output(Command::new(&file).arg("--version")) else { return Some(Self::Broken) };
        let version = version.trim().trim_start_matches("bpf-linker").trim().to_owned();
        if !fits(&version) {
            return Some(Self::OtherRelease { version });
        }
        // One that has LLVM within itself does not tell which: it gets the benefit of the doubt.
        let linked = libraries::of(&file).ok()?.iter().find_map(|library| llvm_of_library(library))?;
        (linked < llvm).then_some(Self::OlderLlvm { linker: linked, nightly: llvm })
    }

    /// The command that builds it.
    pub fn install(&self, llvm: u32) -> Result<Command> {
        let prefix = llvm_prefix(llvm)
            .with_context(|| format!("LLVM {llvm} is nowhere to be found (set LLVM_PREFIX to where it is)"))?;
        let mut command = Command::new("cargo");
        command.args(["install", "bpf-linker", "--version", BPF_LINKER, "--locked", "--force"]);
        command.args(["--no-default-features", "--features", &format!("llvm-{llvm}")]);
        command.env("LLVM_PREFIX", prefix);
        Ok(command)
    }
}

/// Whether a version is within BPF_LINKER.
fn fits(version: &str) -> bool {
    let (major_minor, _) = version.rsplit_once('.').unwrap_or((version, ""));
    BPF_LINKER.strip_prefix('^') == Some(major_minor)
}

/// `libLLVM.so.22.1` as LLVM names it, `libLLVM-22.so` as some distributions do.
fn llvm_of_library(library: &Path) -> Option<u32> {
    let rest = library.file_name()?.to_str()?.strip_prefix("libLLVM")?;
    rest.trim_start_matches(".so").trim_start_matches(['.', '-']).split('.').next()?.parse().ok()
}

/// Where this LLVM's libraries for development are: asked for, as Debian installs them, or by what llvm-config says.
pub fn llvm_prefix(major: u32) -> Option<PathBuf> {
    if let Some(asked) = env::var_os("LLVM_PREFIX") {
        return Some(asked.into());
    }
    let of_debian = PathBuf::from(format!("/usr/lib/llvm-{major}"));
    let of_fedora = PathBuf::from(format!("/usr/lib64/llvm{major}"));
    let others = [format!("llvm-config-{major}"), "llvm-config".to_owned()].into_iter().filter_map(|name| {
        let version = programs::output(Command::new(&name).arg("--version"))?;
        let prefix = programs::output(Command::new(&name).arg("--prefix"))?;
        (version.split('.').next() == Some(&major.to_string())).then(|| PathBuf::from(prefix.trim()))
    });
    [of_debian, of_fedora].into_iter().chain(others).find(|prefix| is_complete(prefix))
}

/// Whether a prefix has the headers too: the library alone comes with many a program.
fn is_complete(prefix: &Path) -> bool {
    prefix.join("bin/llvm-config").is_file()
        && ["include/llvm-c", "include/llvm"].iter().any(|directory| prefix.join(directory).is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rustc_says_which_llvm_it_has() {
        let verbose = "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)\nbinary: rustc\nrelease: 1.97.0-nightly\nLLVM version: 22.1.4\n";
        assert_eq!(llvm_major(verbose), Some(22));
        assert_eq!(llvm_major("rustc 1.97.0-nightly\nbinary: rustc\n"), None);
    }

    #[test]
    fn releases_of_bpf_linker_are_told_apart() {
        assert!(fits("0.13.0") && fits("0.13.7"));
        assert!(!fits("0.12.9") && !fits("0.14.0") && !fits("1.13.0") && !fits(""));
    }

    #[test]
    fn the_name_of_a_library_says_which_llvm_it_is() {
        let llvm = |path: &str| llvm_of_library(Path::new(path));
        assert_eq!(llvm("/usr/lib/llvm-22/lib/libLLVM.so.22.1"), Some(22));
        assert_eq!(llvm("/usr/lib64/libLLVM-21.so"), Some(21));
        assert_eq!(llvm("/usr/lib64/libLLVM.so"), None);
        assert_eq!(llvm("/lib/x86_64-linux-gnu/libz.so.1"), None);
    }
}
