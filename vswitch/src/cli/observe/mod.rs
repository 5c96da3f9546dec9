//! `monitor` and `capture`: show frames on the terminal or write them to a file for Wireshark.

mod file;
mod lines;
mod sink;
mod summary;

use std::fs::File;
use std::io::{self, IsTerminal as _, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use tokio::signal::unix::{SignalKind, signal};

use super::failure::Failure;
use super::output::Output;
use crate::api::{Client, ClientError, FrameMessage, Stream, query};
use file::CaptureFile;
use lines::Lines;
use sink::Sink;

/// Default rate of a capture file in frames per second and CPU, about the maximum that the daemon
/// can deliver.
const CAPTURE_RATE: u32 = 50_000;

#[derive(Debug, Args)]
pub struct Monitor {
    /// Only dropped frames
    #[arg(long)]
    pub drops: bool,
    /// Only frames of this network
    #[arg(long, value_name = "NETWORK", value_parser = NonEmptyStringValueParser::new())]
    pub network: Option<String>,
    /// Only frames from or to this port: an endpoint or a device
    #[arg(long, value_name = "ENDPOINT", value_parser = NonEmptyStringValueParser::new())]
    pub port: Option<String>,
    #[command(flatten)]
    pub limits: Limits,
}

#[derive(Debug, Args)]
pub struct Capture {
    /// The endpoint, the device, or the network whose ports are captured
    #[arg(value_name = "ENDPOINT|NETWORK", value_parser = NonEmptyStringValueParser::new())]
    pub target: String,
    /// Write the frames to this file in pcapng format and replace its contents; `-` is stdout
    #[arg(short, long, value_name = "FILE.pcapng")]
    pub write: Option<PathBuf>,
    #[command(flatten)]
    pub limits: Limits,
}

#[derive(Debug, Args)]
pub struct Limits {
    /// Exit after this many frames
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// The maximum number of frames per second and CPU [default: 1000; 50000 with -w]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: Option<u32>,
}

/// What went into a sink.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    written: u64,
    lost: u64,
}

pub async fn monitor(client: &mut Client, arguments: &Monitor, output: Output) -> Result<(), Failure> {
    let Monitor { drops, network, port, limits } = arguments;
    let rate = limits.rate.map(|rate| rate.to_string());
    let query = query(&[
        ("network", network.as_deref()),
        ("port", port.as_deref()),
        ("drops", drops.then_some("true")),
        ("rate", rate.as_deref()),
    ]);
    let mut frames = client.stream(&format!("/frames{query}")).await?;
    let mut lines = Lines::new(io::stdout().lock(), output.format, false);
    let (_, ended) = write_frames(&mut frames, limits.count, &mut lines).await;
    ended.map_err(|ended| ended.into_failure("stdout"))
}

pub async fn capture(client: &mut Client, arguments: &Capture, output: Output) -> Result<(), Failure> {
    let Capture { target, write, limits } = arguments;
    let path = write.as_deref();
    let is_stdout = path == Some(Path::new("-"));
    if is_stdout && io::stdout().is_terminal() {
        return Err(Failure::new("terminal", "a capture cannot be written to a terminal (use a file or a pipe)"));
    }
    let rate = limits.rate.or(path.map(|_| CAPTURE_RATE)).map(|rate| rate.to_string());
    let whole = path.map(|_| "true");
    let query = query(&[("of", Some(target)), ("leaving", Some("true")), ("whole", whole), ("rate", rate.as_deref())]);
    let mut frames = client.stream(&format!("/frames{query}")).await?;
    let Some(path) = path else {
        let mut lines = Lines::new(io::stdout().lock(), output.format, true);
        let (_, ended) = write_frames(&mut frames, limits.count, &mut lines).await;
        return ended.map_err(|ended| ended.into_failure("stdout"));
    };
    let name = if is_stdout { "stdout".to_owned() } else { path.display().to_string() };
    let writer: Box<dyn Write> = if is_stdout {
        Box::new(io::stdout().lock())
    } else {
        // The file is created only after the daemon accepted the request.
        Box::new(File::create(path).map_err(|error| StreamError::Write(error).into_failure(&name))?)
    };
    let mut file = CaptureFile::new(writer).map_err(|error| StreamError::Write(error).into_failure(&name))?;
    if !output.quiet {
        eprintln!("capturing {target} (Ctrl-C ends it)");
    }
    let (counts, ended) = write_frames(&mut frames, limits.count, &mut file).await;
    if !output.quiet {
        eprintln!("{} frames written, {} lost", counts.written, counts.lost);
    }
    ended.map_err(|ended| ended.into_failure(&name))
}

/// An error that ended the stream of frames.
#[derive(Debug)]
enum StreamError {
    /// The connection failed.
    Connection(ClientError),
    /// The daemon exited.
    Daemon,
    /// The output cannot be written.
    Write(io::Error),
    /// No handler could be installed for Ctrl-C and SIGTERM.
    Signals(io::Error),
}

impl StreamError {
    fn into_failure(self, name: &str) -> Failure {
        match self {
            Self::Connection(error) => error.into(),
            Self::Daemon => Failure::new("daemon_ended", "the daemon has ended (restart it with `vswitch up`)"),
            Self::Write(error) => {
                let message = format!("cannot write to {name}: {error} (choose a writable file)");
                Failure::new("file", &message)
            }
            Self::Signals(error) => Failure::new("runtime", &format!("cannot wait for signals: {error}")),
        }
    }
}

/// Writes frames to a sink until the count is reached, a signal arrives or an error occurs. Flushes
/// the sink in each case.
async fn write_frames(
    frames: &mut Stream<FrameMessage>,
    count: Option<u64>,
    sink: &mut impl Sink,
) -> (Counts, Result<(), StreamError>) {
    let mut counts = Counts::default();
    let ended = copy_frames(frames, count, sink, &mut counts).await;
    let flushed = sink.flush().map_err(StreamError::Write);
    let ended = match ended.and(flushed) {
        // A reader that closed the pipe is not an error.
        Err(StreamError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        ended => ended,
    };
    (counts, ended)
}

async fn copy_frames(
    frames: &mut Stream<FrameMessage>,
    count: Option<u64>,
    sink: &mut impl Sink,
    counts: &mut Counts,
) -> Result<(), StreamError> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(StreamError::Signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(StreamError::Signals)?;
    loop {
        let message = tokio::select! {
            message = frames.next() => message.map_err(StreamError::Connection)?,
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
        };
        match message.ok_or(StreamError::Daemon)? {
            FrameMessage::Frame(frame) => {
                sink.frame(&frame).map_err(StreamError::Write)?;
                counts.written += 1;
                if Some(counts.written) == count {
                    return Ok(());
                }
            }
            FrameMessage::Lost { frames } => {
                sink.lost(frames).map_err(StreamError::Write)?;
                counts.lost += frames;
            }
        }
        // Flushing only when no frame is waiting shows each frame at once, and combines many frames
        // into one write under load.
        if !frames.has_next() {
            sink.flush().map_err(StreamError::Write)?;
        }
    }
}
