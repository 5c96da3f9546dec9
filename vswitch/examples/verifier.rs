//! What the kernel's verifier says of each program: instructions visited, stack, and sizes. `cargo xtask verifier`.
//!
//! aya hands out the verifier's log with an error only. So each program is loaded twice: once with no descriptor left
//! for it, which the kernel notices when the verifier is done and has written its log, and once for good.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    programs::{Program, ProgramError, ProgramInfo},
};
use comfy_table::{CellAlignment, LineStyle, Table, TableStyle};
use vswitch::datapath::OBJECT;

fn main() -> Result<()> {
    let mut loader = EbpfLoader::new();
    // As the daemon loads them when it logs nothing of single frames.
    loader.btf(None).verifier_log_level(VerifierLogLevel::STATS).override_global("AYA_LOG_LEVEL", &3_u8, false);
    let mut ebpf = loader.load(OBJECT).context("loading the maps (this needs root)")?;

    let mut table = Table::new();
    let line = LineStyle::none().fill('─').junction('─');
    table.load_style(TableStyle::new().header_separator(line));
    table.set_header(["program", "instructions visited", "states", "stack", "instructions", "machine code"]);
    let mut names: Vec<_> = ebpf.programs().map(|(name, _)| name.to_owned()).collect();
    names.sort();
    for name in names {
        let (log, info) = verify(&mut ebpf, &name).with_context(|| format!("program {name}"))?;
        let Statistics { visited, states, stack } =
            Statistics::of(&log).with_context(|| format!("the verifier's log of {name}: {log}"))?;
        let translated = info.size_translated().map(|bytes| (bytes / 8).to_string());
        let row =
            [name, visited, states, stack, translated.unwrap_or_default(), format!("{} bytes", info.size_jitted())];
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("Linux {}\n{table}", nix::sys::utsname::uname()?.release().to_string_lossy());
    Ok(())
}

/// Loads a program; the verifier's log, and what the kernel then tells of the program.
fn verify(ebpf: &mut Ebpf, name: &str) -> Result<(String, ProgramInfo)> {
    let program = ebpf.program_mut(name).context("it is not there any more")?;
    let no_more = NoMoreDescriptors::begin()?;
    let refused = load(program);
    drop(no_more);
    let log = match refused {
        Err(ProgramError::LoadError { io_error, verifier_log }) if io_error.raw_os_error() == Some(libc::EMFILE) => {
            verifier_log.to_string()
        }
        Err(error) => return Err(error.into()),
        Ok(()) => bail!("it was loaded although there was no descriptor for it"),
    };
    load(program)?;
    Ok((log, program.info()?))
}

fn load(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::SchedClassifier(classifier) => classifier.load(),
        Program::Xdp(xdp) => xdp.load(),
        other => unreachable!("vswitch has no program of type {:?}", other.prog_type()),
    }
}

/// What the verifier writes at its end.
struct Statistics {
    visited: String,
    states: String,
    /// Bytes of each function, the program itself first.
    stack: String,
}

impl Statistics {
    /// `stack depth 168+0` and `processed 1869 insns (limit 1000000) max_states_per_insn 8 total_states 142 ...`
    fn of(log: &str) -> Option<Self> {
        let after = |words: &str| {
            let rest = log.split_once(words)?.1;
            Some(rest.split_whitespace().next()?.to_owned())
        };
        Some(Self { visited: after("processed ")?, states: after("total_states ")?, stack: after("stack depth ")? })
    }
}

/// While this lives, the process gets no new file descriptor.
struct NoMoreDescriptors {
    before: libc::rlimit,
    /// The lowest descriptor that was free: all below it are in use.
    _lowest_free: OwnedFd,
}

impl NoMoreDescriptors {
    fn begin() -> Result<Self> {
        let lowest_free = OwnedFd::from(File::open("/dev/null")?);
        let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the pointer is to a struct that outlives the call.
        if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut before) } != 0 {
            return Err(io::Error::last_os_error().into());
        }
        let next = u64::try_from(lowest_free.as_raw_fd())? + 1;
        set_limit(&libc::rlimit { rlim_cur: next, ..before })?;
        Ok(Self { before, _lowest_free: lowest_free })
    }
}

impl Drop for NoMoreDescriptors {
    fn drop(&mut self) {
        set_limit(&self.before).expect("a limit may be set to what it was");
    }
}

fn set_limit(limit: &libc::rlimit) -> io::Result<()> {
    // SAFETY: the pointer is to a struct that outlives the call.
    match unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, limit) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
