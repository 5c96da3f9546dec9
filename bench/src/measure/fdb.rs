//! Frames to stations spread over a small and a large FDB, and how fast stations are learned.

use std::{
    os::fd::AsFd as _,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use vswitch_common::tables::{PortCounters, PortNumber};

use super::{
    CLIENT_CPU,
    frames::{CHUNK, CountAndDrop, Injector, frame_to},
};
use crate::{
    bpf::{self, Rewrite, Rewriter},
    command::{self, stop_if_interrupted},
    instance::Instance,
    tables,
    topology::{Injection, Uplink, Variant},
};

/// Room for a million stations, and some.
pub const ROOM: [&str; 2] = ["--fdb-size", "1100000"];
/// Stations in the FDB, and the rows that they are shown in.
pub const SIZES: [(u32, &str); 3] = [(10, "fdb10"), (10_000, "fdb10k"), (1_000_000, "fdb1m")];
/// Stations that get frames where not all of them do.
const FEW: u32 = 10;
/// Frames of one sample of learning, each with a new source.
const NEW_STATIONS: u32 = 500_000;

/// A switch with an uplink and a number of stations behind a container.
pub struct Filled {
    /// Row of the figures.
    pub row: &'static str,
    stations: u32,
    uplink: Uplink,
    ingress: PortNumber,
}

/// Which program looks the stations up.
#[derive(Clone, Copy, Debug)]
pub enum By {
    /// The one in tcx.
    Tcx,
    /// The one in XDP.
    Xdp,
}

/// Which stations the frames are for, one of them by chance each time.
#[derive(Clone, Copy, Debug)]
pub enum Spread {
    /// All of them.
    All,
    /// Ten, at equal distances.
    Few,
}

impl Filled {
    /// Builds it. The table is as large for few stations as for many: what differs is how many are in it.
    pub fn build(stations: u32, row: &'static str, vswitch: &Path) -> Result<Self> {
        let uplink = Uplink::build_with(Variant::UplinkXdp, Some(vswitch), &ROOM)?;
        let instance = instance_of(&uplink)?;
        let container = uplink.container.netns.device(&uplink.container.ifname)?;
        let behind = container.link_index.context("the container's device has no peer")?;
        tables::fill_fdb(instance, tables::port_of(instance, behind)?, stations)?;
        let ingress = tables::port_of(instance, uplink.host.device(&uplink.ifname)?.ifindex)?;
        Ok(Self { row, stations, uplink, ingress })
    }

    /// Frames that the container received, in millions per second.
    pub fn delivered_mpps(&self, by: By, spread: Spread, window: Duration) -> Result<f64> {
        let rewrite = match spread {
            Spread::All => Rewrite::Destination { stations: self.stations, apart: 1 },
            Spread::Few => Rewrite::Destination { stations: FEW, apart: self.stations / FEW },
        };
        let rewriter = match by {
            Tcx => Rewriter::load(rewrite, None)?,
            Xdp => {
                let switch = Injector::new(&self.uplink.injection, &[])?;
                Rewriter::load(rewrite, Some(switch.as_fd()))?
            }
        };
        let before = self.counters()?;
        let sink = CountAndDrop::at(&self.uplink.container)?;
        let elapsed = inject(&self.uplink, &rewriter, |start, _| start.elapsed() < window)?;
        let delivered = sink.frames()?;
        let after = self.counters()?;
        // A word of the far end's own may be flooded; a station that is not found would be, every time.
        let (forwarded, flooded) = (after.forwarded - before.forwarded, after.flooded - before.flooded);
        if delivered == 0 || flooded * 1_000 > forwarded {
            bail!("{flooded} frames were flooded and {forwarded} forwarded, of which {delivered} arrived");
        }
        Ok(delivered as f64 / elapsed.as_secs_f64() / 1e6)
    }

    fn counters(&self) -> Result<PortCounters> {
        tables::counters(instance_of(&self.uplink)?, self.ingress)
    }
}

use By::{Tcx, Xdp};

/// Stations learned from an uplink in a second, in thousands; all are forgotten afterwards.
pub fn learned_per_second(uplink: &Uplink) -> Result<f64> {
    let switch = match &uplink.injection {
        Injection::Pass => None,
        pinned @ Injection::Pinned(_) => Some(Injector::new(pinned, &[])?),
    };
    let rewriter = Rewriter::load(Rewrite::Source, switch.as_ref().map(Injector::as_fd))?;
    let before = learned(uplink)?;
    let _sink = CountAndDrop::at(&uplink.container)?;
    let elapsed = inject(uplink, &rewriter, |_, frames| frames < NEW_STATIONS)?;
    let learned = learned(uplink)?.saturating_sub(before);
    forget_all(uplink)?;
    // Numbers of 32 bits are the same now and then, a few dozen times in these.
    if learned < u64::from(NEW_STATIONS) / 100 * 99 {
        bail!("of {NEW_STATIONS} new stations {learned} were learned");
    }
    Ok(learned as f64 / elapsed.as_secs_f64() / 1e3)
}

/// Injects frames to the container while `more`, which is told when it began and how many there were, says so.
fn inject(uplink: &Uplink, rewriter: &Rewriter, more: impl Fn(Instant, u32) -> bool + Sync) -> Result<Duration> {
    let frame = frame_to(uplink)?;
    let ifindex = uplink.host.device(&uplink.ifname)?.ifindex;
    uplink.host.inside(CLIENT_CPU, || {
        let (start, mut frames) = (Instant::now(), 0);
        while more(start, frames) {
            bpf::run_live(rewriter.as_fd(), &frame, ifindex, CHUNK)?;
            frames += CHUNK;
            stop_if_interrupted()?;
        }
        Ok(start.elapsed())
    })
}

/// Stations learned so far: by the switch ever, by the bridge those that it knows.
fn learned(uplink: &Uplink) -> Result<u64> {
    match &uplink.instance {
        Some(instance) => {
            let port = tables::port_of(instance, uplink.host.device(&uplink.ifname)?.ifindex)?;
            Ok(tables::counters(instance, port)?.learned)
        }
        // `ip -d link` of 2022 does not tell their number.
        None => {
            let mut bridge = Command::new("bridge");
            bridge.args(["-netns", &uplink.host.to_string(), "fdb", "show", "br", "br0"]);
            Ok(ours(&command::run(&mut bridge)?))
        }
    }
}

/// Stations in what `bridge fdb show` says that a [`Rewriter`] has made up.
fn ours(fdb: &str) -> u64 {
    let [first, second] = bpf::REWRITTEN;
    let prefix = format!("{first:02x}:{second:02x}:");
    fdb.lines().filter(|line| line.starts_with(&prefix)).count() as u64
}

fn forget_all(uplink: &Uplink) -> Result<()> {
    match &uplink.instance {
        Some(instance) => instance.run(&["fdb", "flush"]).map(drop),
        None => uplink.host.ip("link set br0 type bridge fdb_flush").map(drop),
    }
}

fn instance_of(uplink: &Uplink) -> Result<&Instance> {
    uplink.instance.as_ref().context("only vswitch has tables to look at")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stations_that_we_made_up_are_told_from_others() {
        let fdb = "33:33:00:00:00:01 dev br0 self permanent\n02:56:a4:00:12:7f dev uplink master br0\n\
                   02:57:00:00:00:00 dev uplink master br0\n";
        assert_eq!(ours(fdb), 1);
    }
}
