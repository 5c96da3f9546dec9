//! Programs of this machine: finds them, runs them, and runs them as root.

use std::{
    env,
    ffi::OsStr,
    io::{self, BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// Finds a program in PATH and in the directories of root's programs, which are not in the PATH of
/// every user.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let of_root = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(of_root).map(|directory| directory.join(name)).find(|file| is_executable(file))
}

/// Returns whether a program is installed.
pub fn exists(name: &str) -> bool {
    find(name).is_some()
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// Returns the output of a program, or `None` if it cannot be run or fails.
pub fn output(command: &mut Command) -> Option<String> {
    let Output { status, stdout, .. } = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    status.success().then(|| String::from_utf8_lossy(&stdout).into_owned())
}

/// Runs a program that must succeed. Its output goes to the terminal.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run `{}`", words(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status})", words(command));
    }
    Ok(())
}

/// Runs a program that must succeed, prints its output, and passes each line of it to `read`.
pub fn run_reading(command: &mut Command, mut read: impl FnMut(&str)) -> Result<()> {
    let words = words(command);
    let (reader, writer) = io::pipe().context("a pipe")?;
    command.stdin(Stdio::null()).stdout(writer.try_clone().context("a pipe")?).stderr(writer);
    let mut child = command.spawn().with_context(|| format!("cannot run `{words}`"))?;
    // The command holds the write end of the pipe. The loop ends when every write end is closed.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    for line in BufReader::new(reader).split(b'\n') {
        let line = String::from_utf8_lossy(&line.context("reading what it prints")?).into_owned();
        writeln!(io::stdout(), "{line}").context("printing what it prints")?;
        read(&line);
    }
    let status = child.wait().with_context(|| format!("waiting for `{words}`"))?;
    if !status.success() {
        bail!("`{words}` failed ({status})");
    }
    Ok(())
}

/// Returns a command as it is typed.
pub fn words(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// Returns whether the process runs as root.
pub fn is_root() -> bool {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Returns a command that runs as root, with sudo if the process is not root.
pub fn as_root(program: impl AsRef<OsStr>) -> Command {
    if is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.arg("--").arg(program);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_installed_program_is_found() {
        assert!(find("sh").is_some_and(|file| file.is_absolute()));
        assert_eq!(find("no-such-program"), None);
    }

    #[test]
    fn output_is_that_of_a_success_only() {
        assert_eq!(output(Command::new("echo").arg("here")).as_deref(), Some("here\n"));
        assert_eq!(output(Command::new("sh").args(["-c", "echo here; exit 1"])), None);
        assert_eq!(output(&mut Command::new("no-such-program")), None);
    }

    #[test]
    fn lines_of_both_outputs_are_read() {
        let mut lines = Vec::new();
        let script = "echo one; echo two >&2";
        run_reading(Command::new("sh").args(["-c", script]), |line| lines.push(line.to_owned())).expect("it succeeds");
        assert_eq!(lines, ["one", "two"]);
        run_reading(Command::new("sh").args(["-c", "exit 3"]), |_| ()).expect_err("it exits with 3");
    }

    #[test]
    fn a_failure_names_the_command() {
        let error = run(Command::new("sh").args(["-c", "exit 3"])).expect_err("it exits with 3");
        assert_eq!(error.to_string(), "`sh -c exit 3` failed (exit status: 3)");
    }
}
