//! Runs other programs: their own message on failure, and a stop between any two of them on Ctrl-C.

use std::{
    ffi::OsStr,
    io::ErrorKind,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command, Output},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context as _, Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From here on a signal only sets a flag, so that `main` unwinds and every guard removes what it owns.
pub fn watch_for_interrupts() -> Result<()> {
    let flag = INTERRUPTED.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(flag)).context("installing the signal handler")?;
    }
    Ok(())
}

/// Whether somebody asked us to stop.
pub fn interrupted() -> bool {
    INTERRUPTED.get().is_some_and(|flag| flag.load(Ordering::Relaxed))
}

/// Fails when somebody asked us to stop; long loops call it.
pub fn stop_if_interrupted() -> Result<()> {
    if interrupted() {
        bail!("interrupted");
    }
    Ok(())
}

/// Runs to the end and returns standard output; a failure carries the program's own words.
pub fn run(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    if !output.status.success() {
        bail!("`{}` failed: {}", line(command), words(&output));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// As [`run`], but leaves the judgement of the exit status to the caller.
pub fn output(command: &mut Command) -> Result<Output> {
    stop_if_interrupted()?;
    let output = command.output().map_err(|error| not_started(command, &error))?;
    stop_if_interrupted()?;
    Ok(output)
}

/// Runs a command that removes something: it goes on after Ctrl-C, and a failure is told but stops nothing.
pub fn clean_up(command: &mut Command) {
    // A process group of its own: the terminal's Ctrl-C does not reach it.
    let outcome = command.process_group(0).output();
    match outcome {
        Ok(output) if output.status.success() => {}
        Ok(output) => eprintln!("vswitch-bench: left behind: `{}` failed: {}", line(command), words(&output)),
        Err(error) => eprintln!("vswitch-bench: left behind: `{}`: {error}", line(command)),
    }
}

/// Why a command could not be started, with what to do about a missing one.
pub fn not_started(command: &Command, error: &std::io::Error) -> anyhow::Error {
    let program = command.get_program().to_string_lossy().into_owned();
    if error.kind() == ErrorKind::NotFound {
        anyhow::anyhow!("{program} is not installed (`cargo xtask setup` installs it)")
    } else {
        anyhow::anyhow!("{program}: {error}")
    }
}

/// Fails with what to do when a program that is only reached through another one is missing.
pub fn require(program: &str) -> Result<()> {
    find(OsStr::new(program)).map(drop)
}

/// The path of a program that is given by its name, or by its path.
pub fn find(program: &OsStr) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Joined to an absolute path, a directory has no say.
    let found = std::env::split_paths(&path).map(|directory| directory.join(program)).find(|file| file.is_file());
    found.with_context(|| format!("{} is not installed (`cargo xtask setup` installs it)", program.to_string_lossy()))
}

/// `ip` with its arguments in one line, split at spaces.
pub fn ip(arguments: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(arguments.split_whitespace());
    command
}

/// A command as one would type it.
pub fn line(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

fn words(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    let said = if error.trim().is_empty() { String::from_utf8_lossy(&output.stdout) } else { error };
    if said.trim().is_empty() { output.status.to_string() } else { said.trim().to_owned() }
}
