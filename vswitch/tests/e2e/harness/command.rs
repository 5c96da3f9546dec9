//! Runs programs, collects everything they print, and fails instead of hanging.

use std::{
    io::Read,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver},
    },
    thread,
    time::Instant,
};

use super::{PATIENCE, stuck};

/// How a program ended and what it printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Exit status; `None` if a signal ended the program.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a program until it ends and its output is closed. A daemon that it starts in the background
/// must therefore close the inherited output.
#[track_caller]
pub fn run(command: &mut Command) -> Outcome {
    spawn(command).outcome()
}

/// Runs a program that must succeed, and returns what it printed.
#[track_caller]
pub fn ok(command: &mut Command) -> String {
    let outcome = run(command);
    assert_eq!(outcome.code, Some(0), "{}: {outcome:#?}", command_line(command));
    outcome.stdout
}

/// Starts a program. [`Running::outcome`] waits for its end.
#[track_caller]
pub fn spawn(command: &mut Command) -> Running {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("starting {}: {error}", command_line(command)));
    let stdout = collect(child.stdout.take().expect("piped"));
    let stderr = collect(child.stderr.take().expect("piped"));
    Running { child, stdout, stderr, command_line: command_line(command) }
}

/// A started program. It is killed if this value is dropped before the program ends.
pub struct Running {
    child: Child,
    stdout: Printed,
    stderr: Printed,
    command_line: String,
}

impl Running {
    pub fn id(&self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(self.child.id().cast_signed())
    }

    /// Waits for the end of the program and of its output.
    #[track_caller]
    pub fn outcome(mut self) -> Outcome {
        let deadline = Instant::now() + PATIENCE;
        let ended = [&self.stdout, &self.stderr]
            .map(|pipe| pipe.ended.recv_timeout(deadline.saturating_duration_since(Instant::now())));
        if ended.iter().any(Result::is_err) {
            let ended = self.child.try_wait();
            panic!(
                "{} did not end, or a child process keeps its output open, after {PATIENCE:?} ({ended:?})\n{}",
                self.command_line,
                stuck::report()
            );
        }
        let status = self.child.wait().unwrap_or_else(|error| panic!("waiting for {}: {error}", self.command_line));
        Outcome { code: status.code(), stdout: self.stdout.text(), stderr: self.stderr.text() }
    }

    /// Returns what the program has printed on stdout so far.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// Returns what the program has printed on stderr so far.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _gone = self.child.kill();
            let _reaped = self.child.wait();
        }
    }
}

/// The collected output of a pipe.
struct Printed {
    bytes: Arc<Mutex<Vec<u8>>>,
    ended: Receiver<()>,
}

impl Printed {
    fn text(&self) -> String {
        let bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

fn collect(mut pipe: impl Read + Send + 'static) -> Printed {
    let (sender, ended) = mpsc::channel();
    let bytes = Arc::<Mutex<Vec<u8>>>::default();
    let collected = bytes.clone();
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = pipe.read(&mut buffer) {
            collected.lock().unwrap_or_else(PoisonError::into_inner).extend(&buffer[..length]);
        }
        let _receiver_dropped = sender.send(());
    });
    Printed { bytes, ended }
}

fn command_line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}
