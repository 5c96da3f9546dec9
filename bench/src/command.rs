//! Runs other programs. Reports their output on failure, and stops between two programs after
//! Ctrl-C.

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

/// Installs signal handlers that only set a flag, so that `main` unwinds and every guard cleans up.
pub fn install_signal_handlers() -> Result<()> {
    let flag = INTERRUPTED.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(flag)).context("installing the signal handler")?;
    }
    Ok(())
}

/// Returns whether SIGINT, SIGTERM or SIGHUP arrived.
pub fn interrupted() -> bool {
    INTERRUPTED.get().is_some_and(|flag| flag.load(Ordering::Relaxed))
}

/// Fails after a signal. Long loops call this function.
pub fn stop_if_interrupted() -> Result<()> {
    if interrupted() {
        bail!("interrupted");
    }
    Ok(())
}

/// Runs a command to its end and returns its standard output. An error contains the output of the
/// failed command.
pub fn run(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    if !output.status.success() {
        bail!("`{}` failed: {}", command_line(command), output_text(&output));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// As [`run`], but leaves the exit status to the caller.
pub fn output(command: &mut Command) -> Result<Output> {
    stop_if_interrupted()?;
    let output = command.output().map_err(|error| start_error(command, &error))?;
    stop_if_interrupted()?;
    Ok(output)
}

/// Runs a command that removes something. It is run even after Ctrl-C, and a failure is reported
/// but not returned.
pub fn clean_up(command: &mut Command) {
    // In its own process group the command does not receive the terminal's Ctrl-C.
    let outcome = command.process_group(0).output();
    match outcome {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            eprintln!("vswitch-bench: left behind: `{}` failed: {}", command_line(command), output_text(&output));
        }
        Err(error) => eprintln!("vswitch-bench: left behind: `{}`: {error}", command_line(command)),
    }
}

/// Returns the error for a command that could not be started, with advice if the program is
/// missing.
pub fn start_error(command: &Command, error: &std::io::Error) -> anyhow::Error {
    let program = command.get_program().to_string_lossy().into_owned();
    if error.kind() == ErrorKind::NotFound {
        anyhow::anyhow!("{program} is not installed (`cargo xtask setup` installs it)")
    } else {
        anyhow::anyhow!("{program}: {error}")
    }
}

/// Fails with advice if a program is missing that is started through another one.
pub fn require_program(program: &str) -> Result<()> {
    find_program(OsStr::new(program)).map(drop)
}

/// Returns the path of a program that is given by name or by path.
pub fn find_program(program: &OsStr) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // `join` ignores the directory if `program` is an absolute path.
    let found = std::env::split_paths(&path).map(|directory| directory.join(program)).find(|file| file.is_file());
    found.with_context(|| format!("{} is not installed (`cargo xtask setup` installs it)", program.to_string_lossy()))
}

/// Returns the command `ip` with `arguments` split at spaces.
pub fn ip(arguments: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(arguments.split_whitespace());
    command
}

/// Formats a command as it would be typed.
pub fn command_line(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

fn output_text(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    let text = if error.trim().is_empty() { String::from_utf8_lossy(&output.stdout) } else { error };
    if text.trim().is_empty() { output.status.to_string() } else { text.trim().to_owned() }
}
