//! Running programs: with everything they print, and no way to hang.

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
    /// Exit status; `None` if a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a program to its end, and to the end of its output: a daemon that it leaves behind must have let go of that.
#[track_caller]
pub fn run(command: &mut Command) -> Outcome {
    spawn(command).outcome()
}

/// Runs a program that must succeed; what it printed.
#[track_caller]
pub fn ok(command: &mut Command) -> String {
    let outcome = run(command);
    assert_eq!(outcome.code, Some(0), "{}: {outcome:#?}", words(command));
    outcome.stdout
}

/// Starts a program; [`Running::outcome`] waits for it.
#[track_caller]
pub fn spawn(command: &mut Command) -> Running {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("starting {}: {error}", words(command)));
    let stdout = collect(child.stdout.take().expect("piped"));
    let stderr = collect(child.stderr.take().expect("piped"));
    Running { child, stdout, stderr, words: words(command) }
}

/// A program that has been started. Killed if it is dropped before its end.
pub struct Running {
    child: Child,
    stdout: Printed,
    stderr: Printed,
    words: String,
}

impl Running {
    pub fn id(&self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(self.child.id().cast_signed())
    }

    /// Waits for its end.
    #[track_caller]
    pub fn outcome(mut self) -> Outcome {
        let deadline = Instant::now() + PATIENCE;
        let ended = [&self.stdout, &self.stderr]
            .map(|pipe| pipe.ended.recv_timeout(deadline.saturating_duration_since(Instant::now())));
        if ended.iter().any(Result::is_err) {
            let ended = self.child.try_wait();
            panic!(
                "{} did not end, or left its output open to a process of its own, within {PATIENCE:?} ({ended:?})\n{}",
                self.words,
                stuck::everything()
            );
        }
        let status = self.child.wait().unwrap_or_else(|error| panic!("waiting for {}: {error}", self.words));
        Outcome { code: status.code(), stdout: self.stdout.text(), stderr: self.stderr.text() }
    }

    /// What it has printed so far.
    pub fn printed(&self) -> String {
        self.stdout.text()
    }

    /// The same on stderr.
    pub fn complained(&self) -> String {
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

/// What comes out of a pipe.
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
        let _nobody_waits = sender.send(());
    });
    Printed { bytes, ended }
}

fn words(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}
