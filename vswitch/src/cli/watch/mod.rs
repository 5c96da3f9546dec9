//! `monitor` and `capture`: what goes through the switch, on the terminal or into a file that Wireshark opens.

mod file;
mod lines;
mod summary;

use std::fs::File;
use std::io::{self, IsTerminal as _, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::failure::Failure;
use super::output::Output;
use crate::api::{Client, ClientError, FrameMessage, FrameView, Stream, query};
use file::CaptureFile;
use lines::Lines;

/// How many frames a second and CPU go into a capture if nothing is said: about as many as the daemon can hand over.
const CAPTURE_RATE: u32 = 50_000;

#[derive(Debug, Args)]
pub struct Monitor {
    /// Only frames that are dropped
    #[arg(long)]
    pub drops: bool,
    /// Only frames of this network
    #[arg(long, value_name = "NETWORK")]
    pub network: Option<String>,
    /// Only frames from and to this port: an endpoint, or a device
    #[arg(long, value_name = "ENDPOINT")]
    pub port: Option<String>,
    #[command(flatten)]
    pub limits: Limits,
}

#[derive(Debug, Args)]
pub struct Capture {
    /// Frames of this endpoint, of this device, or of all ports of this network
    #[arg(value_name = "ENDPOINT|NETWORK")]
    pub of: String,
    /// Write them to this file as pcapng, in place of what it holds; `-` is stdout
    #[arg(short, long, value_name = "FILE.pcapng")]
    pub write: Option<PathBuf>,
    #[command(flatten)]
    pub limits: Limits,
}

#[derive(Debug, Args)]
pub struct Limits {
    /// End after this many frames
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Show at most so many frames a second of each CPU [default: 1000; 50000 with -w]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: Option<u32>,
}

/// Where frames go to.
trait Sink {
    /// Takes a frame.
    fn frame(&mut self, frame: &FrameView) -> io::Result<()>;
    /// Takes that so many frames are missing.
    fn lost(&mut self, frames: u64) -> io::Result<()>;
    /// Lets go of all that it has.
    fn flush(&mut self) -> io::Result<()>;
}

/// What went into a sink.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    shown: u64,
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
    let (_, ended) = follow(&mut frames, limits.count, &mut lines).await;
    ended.map_err(|ended| ended.failure("stdout"))
}

pub async fn capture(client: &mut Client, arguments: &Capture, output: Output) -> Result<(), Failure> {
    let Capture { of, write, limits } = arguments;
    let path = write.as_deref();
    let is_stdout = path == Some(Path::new("-"));
    if is_stdout && io::stdout().is_terminal() {
        return Err(Failure::new(
            "terminal",
            "a capture is no text for a terminal (give a file, or pipe it somewhere)",
        ));
    }
    let rate = limits.rate.or(path.map(|_| CAPTURE_RATE)).map(|rate| rate.to_string());
    let whole = path.map(|_| "true");
    let query = query(&[("of", Some(of)), ("leaving", Some("true")), ("whole", whole), ("rate", rate.as_deref())]);
    let mut frames = client.stream(&format!("/frames{query}")).await?;
    let Some(path) = path else {
        let mut lines = Lines::new(io::stdout().lock(), output.format, true);
        let (_, ended) = follow(&mut frames, limits.count, &mut lines).await;
        return ended.map_err(|ended| ended.failure("stdout"));
    };
    let name = if is_stdout { "stdout".to_owned() } else { path.display().to_string() };
    let writer: Box<dyn Write> = if is_stdout {
        Box::new(io::stdout().lock())
    } else {
        // Not before it is known that there is something to write.
        Box::new(File::create(path).map_err(|error| Ended::Write(error).failure(&name))?)
    };
    let mut file = CaptureFile::new(writer).map_err(|error| Ended::Write(error).failure(&name))?;
    if !output.quiet {
        eprintln!("capturing {of} (Ctrl-C ends it)");
    }
    let (counts, ended) = follow(&mut frames, limits.count, &mut file).await;
    if !output.quiet {
        eprintln!("{} frames written, {} lost", counts.shown, counts.lost);
    }
    ended.map_err(|ended| ended.failure(&name))
}

/// Why frames stopped, where nobody wanted it.
#[derive(Debug)]
enum Ended {
    /// The connection broke.
    Connection(ClientError),
    /// The daemon ended.
    Daemon,
    /// Where they should go takes no more.
    Write(io::Error),
    /// Ctrl-C cannot be waited for.
    Signals(io::Error),
}

impl Ended {
    fn failure(self, name: &str) -> Failure {
        match self {
            Self::Connection(error) => error.into(),
            Self::Daemon => Failure::new("daemon_ended", "the daemon has ended (start it again with `vswitch up`)"),
            Self::Write(error) => {
                let message = format!("cannot write to {name}: {error} (choose a file that can be written)");
                Failure::new("file", &message)
            }
            Self::Signals(error) => Failure::new("runtime", &format!("cannot wait for signals: {error}")),
        }
    }
}

/// Fills a sink until there have been enough frames, somebody ends it, or something fails. What came is kept in any case.
async fn follow(
    frames: &mut Stream<FrameMessage>,
    count: Option<u64>,
    sink: &mut impl Sink,
) -> (Counts, Result<(), Ended>) {
    let mut counts = Counts::default();
    let ended = fill(frames, count, sink, &mut counts).await;
    let flushed = sink.flush().map_err(Ended::Write);
    let ended = match ended.and(flushed) {
        // A reader that has gone has seen enough.
        Err(Ended::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        ended => ended,
    };
    (counts, ended)
}

async fn fill(
    frames: &mut Stream<FrameMessage>,
    count: Option<u64>,
    sink: &mut impl Sink,
    counts: &mut Counts,
) -> Result<(), Ended> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Ended::Signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Ended::Signals)?;
    loop {
        let message = tokio::select! {
            message = frames.next() => message.map_err(Ended::Connection)?,
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
        };
        match message.ok_or(Ended::Daemon)? {
            FrameMessage::Frame(frame) => {
                sink.frame(&frame).map_err(Ended::Write)?;
                counts.shown += 1;
                if Some(counts.shown) == count {
                    return Ok(());
                }
            }
            FrameMessage::Lost { frames } => {
                sink.lost(frames).map_err(Ended::Write)?;
                counts.lost += frames;
            }
        }
        // Whoever looks on sees each frame at once; of many at a time each is not written for itself.
        if !frames.has_next() {
            sink.flush().map_err(Ended::Write)?;
        }
    }
}
