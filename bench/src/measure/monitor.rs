//! Somebody who watches frames while others measure.

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

/// A network without endpoints: nothing in it is ever dropped, or seen at all.
pub const QUIET: &str = "quiet";
/// The daemon tells the programs within this.
const PATIENCE: Duration = Duration::from_secs(5);

/// Who watches, and the row that this is shown in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watched {
    /// Nobody.
    No,
    /// Somebody, for frames that do not come.
    ForOthers,
    /// Somebody, for all, at the rate that `monitor` has by itself.
    ForAll,
}

impl Watched {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::No, Self::ForOthers, Self::ForAll];

    /// In JSON.
    pub fn row(self) -> &'static str {
        match self {
            Self::No => "unwatched",
            Self::ForOthers => "for_others",
            Self::ForAll => "for_all",
        }
    }

    /// Begins; the watcher leaves with the value.
    pub fn begin<'a>(self, instance: &'a Instance) -> Result<Option<Watcher<'a>>> {
        match self {
            Self::No => Ok(None),
            Self::ForOthers => Watcher::start(instance, &["--drops", "--network", QUIET]).map(Some),
            Self::ForAll => Watcher::start(instance, &[]).map(Some),
        }
    }
}

/// A `vswitch monitor`, whose words go nowhere.
pub struct Watcher<'a> {
    child: Child,
    instance: &'a Instance,
}

impl<'a> Watcher<'a> {
    fn start(instance: &'a Instance, filter: &[&str]) -> Result<Self> {
        let mut monitor = instance.command();
        monitor.arg("monitor").args(filter);
        // A process group of its own: the terminal's Ctrl-C is for us, who end it when its turn comes.
        monitor.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let child = monitor.spawn().map_err(|error| command::not_started(&monitor, &error))?;
        let watcher = Self { child, instance };
        watcher.wait_until(true)?;
        Ok(watcher)
    }

    /// Ends, and sees that the programs do not go on showing frames to nobody.
    pub fn end(mut self) -> Result<()> {
        self.kill();
        self.wait_until(false)
    }

    fn wait_until(&self, watched: bool) -> Result<()> {
        let start = Instant::now();
        while tables::is_watched(self.instance)? != watched {
            stop_if_interrupted()?;
            if start.elapsed() > PATIENCE {
                bail!(
                    "`vswitch monitor` was {} and the programs do not know",
                    if watched { "started" } else { "ended" }
                );
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn kill(&mut self) {
        if self.child.kill().is_ok() {
            // Reaped, so that nothing of it is left; its status says only that we killed it.
            let _killed = self.child.wait();
        }
    }
}

impl Drop for Watcher<'_> {
    fn drop(&mut self) {
        self.kill();
    }
}
