//! `vswitch monitor`, running while another measurement takes place.

use std::{
    os::unix::process::CommandExt as _,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::{
    command::{self, stop_if_interrupted},
    instance::Instance,
    tables,
};

/// A network without endpoints, in which no frame is ever seen or dropped.
pub const QUIET_NETWORK: &str = "quiet";
/// Time limit for the daemon to enable or disable monitoring in the programs.
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// The monitor that runs during a measurement, and so the row of the figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Monitoring {
    /// No monitor.
    Off,
    /// A monitor for frames that never occur.
    OtherFrames,
    /// A monitor for all frames, at its default rate.
    AllFrames,
}

impl Monitoring {
    /// All values.
    pub const ALL: [Self; 3] = [Self::Off, Self::OtherFrames, Self::AllFrames];

    /// Returns the key in JSON.
    pub fn row(self) -> &'static str {
        match self {
            Self::Off => "unwatched",
            Self::OtherFrames => "for_others",
            Self::AllFrames => "for_all",
        }
    }

    /// Starts the monitor. It is killed when the returned value is dropped.
    pub fn start<'a>(self, instance: &'a Instance) -> Result<Option<Monitor<'a>>> {
        match self {
            Self::Off => Ok(None),
            Self::OtherFrames => Monitor::start(instance, &["--drops", "--network", QUIET_NETWORK]).map(Some),
            Self::AllFrames => Monitor::start(instance, &[]).map(Some),
        }
    }
}

/// A `vswitch monitor` process whose output is discarded.
pub struct Monitor<'a> {
    child: Child,
    instance: &'a Instance,
}

impl<'a> Monitor<'a> {
    fn start(instance: &'a Instance, filter: &[&str]) -> Result<Self> {
        let mut monitor = instance.command();
        monitor.arg("monitor").args(filter);
        // In its own process group the monitor does not receive the terminal's Ctrl-C.
        monitor.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let child = monitor.spawn().map_err(|error| command::start_error(&monitor, &error))?;
        let monitor = Self { child, instance };
        monitor.wait_until(true)?;
        Ok(monitor)
    }

    /// Ends the monitor and waits until the programs have stopped reporting frames.
    pub fn stop(mut self) -> Result<()> {
        self.kill();
        self.wait_until(false)
    }

    fn wait_until(&self, expected: bool) -> Result<()> {
        let start = Instant::now();
        while tables::is_monitored(self.instance)? != expected {
            stop_if_interrupted()?;
            if start.elapsed() > TIME_LIMIT {
                bail!(
                    "the programs have not noticed within {TIME_LIMIT:?} that `vswitch monitor` was {}",
                    if expected { "started" } else { "ended" }
                );
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn kill(&mut self) {
        if self.child.kill().is_ok() {
            // The process is reaped. Its exit status only says that it was killed.
            let _killed = self.child.wait();
        }
    }
}

impl Drop for Monitor<'_> {
    fn drop(&mut self) {
        self.kill();
    }
}
