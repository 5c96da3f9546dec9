//! Throughput of frames to stations in a small and a large FDB, and the rate at which stations are
//! learned.

use std::{
    os::fd::AsFd as _,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use vswitch_common::tables::{PortCounters, PortNumber};

use super::frames::{CHUNK, CountingSink, Injector, frame_to};
use crate::{
    bpf::{self, Rewrite, Rewriter},
    command::{self, stop_if_interrupted},
    cpus::CLIENT_CPU,
    instance::Instance,
    tables,
    topology::{Injection, Uplink, Variant},
};

/// Options of `up` for an FDB with room for a million stations.
pub const FDB_SIZE_OPTIONS: [&str; 2] = ["--fdb-size", "1100000"];
/// Numbers of stations in the FDB, with the rows of the figures.
pub const SIZES: [(u32, &str); 3] = [(10, "fdb10"), (10_000, "fdb10k"), (1_000_000, "fdb1m")];
/// Number of stations that receive frames with [`Spread::Few`].
const FEW: u32 = 10;
/// Frames of one sample of learning, each with a new source.
const NEW_STATIONS: u32 = 500_000;

/// A switch with an uplink and a number of stations behind a container.
pub struct FilledSwitch {
    /// Row of the figures.
    pub row: &'static str,
    stations: u32,
    uplink: Uplink,
    ingress: PortNumber,
}

/// The program that looks up the stations.
#[derive(Clone, Copy, Debug)]
pub enum Hook {
    /// The tcx program.
    Tcx,
    /// The XDP program.
    Xdp,
}

/// The stations to which frames are sent. Each frame goes to one of them at random.
#[derive(Clone, Copy, Debug)]
pub enum Spread {
    /// All stations.
    All,
    /// Ten stations at equal distances.
    Few,
}

impl FilledSwitch {
    /// Builds the switch. The FDB has the same size for few stations as for many, only the number
    /// of entries differs.
    pub fn build(stations: u32, row: &'static str, vswitch: &Path) -> Result<Self> {
        let uplink = Uplink::build_with(Variant::UplinkXdp, Some(vswitch), &FDB_SIZE_OPTIONS)?;
        let instance = instance_of(&uplink)?;
        let container = uplink.container.netns.device(&uplink.container.ifname)?;
        let port_ifindex = container.link_index.context("the container's device has no peer")?;
        tables::fill_fdb(instance, tables::port_of(instance, port_ifindex)?, stations)?;
        let ingress = tables::port_of(instance, uplink.host.device(&uplink.ifname)?.ifindex)?;
        Ok(Self { row, stations, uplink, ingress })
    }

    /// Returns the frames that the container received, in millions per second.
    pub fn delivered_mpps(&self, hook: Hook, spread: Spread, window: Duration) -> Result<f64> {
        let rewrite = match spread {
            Spread::All => Rewrite::Destination { stations: self.stations, stride: 1 },
            Spread::Few => Rewrite::Destination { stations: FEW, stride: self.stations / FEW },
        };
        let rewriter = match hook {
            Tcx => Rewriter::load(rewrite, None)?,
            Xdp => {
                let switch = Injector::new(&self.uplink.injection, &[])?;
                Rewriter::load(rewrite, Some(switch.as_fd()))?
            }
        };
        let before = self.counters()?;
        let sink = CountingSink::at(&self.uplink.container)?;
        let elapsed = inject(&self.uplink, &rewriter, |start, _| start.elapsed() < window)?;
        let delivered = sink.frames()?;
        let after = self.counters()?;
        // The far end itself may send a frame that is flooded. A missing station would cause a
        // flood for every frame.
        let (forwarded, flooded) = (after.forwarded - before.forwarded, after.flooded - before.flooded);
        if delivered == 0 || flooded * 1_000 > forwarded {
            bail!("{flooded} frames were flooded, {forwarded} were forwarded and {delivered} arrived");
        }
        Ok(delivered as f64 / elapsed.as_secs_f64() / 1e6)
    }

    fn counters(&self) -> Result<PortCounters> {
        tables::counters(instance_of(&self.uplink)?, self.ingress)
    }
}

use Hook::{Tcx, Xdp};

/// Returns the stations learned from an uplink, in thousands per second. Removes them afterwards.
pub fn learned_per_second(uplink: &Uplink) -> Result<f64> {
    let switch = match &uplink.injection {
        Injection::Pass => None,
        pinned @ Injection::Pinned(_) => Some(Injector::new(pinned, &[])?),
    };
    let rewriter = Rewriter::load(Rewrite::Source, switch.as_ref().map(Injector::as_fd))?;
    let before = learned_stations(uplink)?;
    let _sink = CountingSink::at(&uplink.container)?;
    let elapsed = inject(uplink, &rewriter, |_, frames| frames < NEW_STATIONS)?;
    let learned = learned_stations(uplink)?.saturating_sub(before);
    flush(uplink)?;
    // Random numbers of 32 bits repeat a few dozen times in this many.
    if learned < u64::from(NEW_STATIONS) / 100 * 99 {
        bail!("only {learned} of {NEW_STATIONS} new stations were learned");
    }
    Ok(learned as f64 / elapsed.as_secs_f64() / 1e3)
}

/// Injects frames to the container while `more` returns true. Its arguments are the start time and
/// the number of frames so far.
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

/// Returns the learned stations: the total of the switch, or those in the table of the bridge.
fn learned_stations(uplink: &Uplink) -> Result<u64> {
    match &uplink.instance {
        Some(instance) => {
            let port = tables::port_of(instance, uplink.host.device(&uplink.ifname)?.ifindex)?;
            Ok(tables::counters(instance, port)?.learned)
        }
        // The version of `ip -d link` from 2022 does not print their number.
        None => {
            let mut bridge = Command::new("bridge");
            bridge.args(["-netns", &uplink.host.to_string(), "fdb", "show", "br", "br0"]);
            Ok(count_generated(&command::run(&mut bridge)?))
        }
    }
}

/// Counts the stations in the output of `bridge fdb show` that a [`Rewriter`] generated.
fn count_generated(fdb: &str) -> u64 {
    let [first, second] = bpf::STATION_PREFIX;
    let prefix = format!("{first:02x}:{second:02x}:");
    fdb.lines().filter(|line| line.starts_with(&prefix)).count() as u64
}

fn flush(uplink: &Uplink) -> Result<()> {
    match &uplink.instance {
        Some(instance) => instance.run(&["fdb", "flush"]).map(drop),
        None => uplink.host.ip("link set br0 type bridge fdb_flush").map(drop),
    }
}

fn instance_of(uplink: &Uplink) -> Result<&Instance> {
    uplink.instance.as_ref().context("only vswitch has tables to measure")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_generated_stations_are_counted() {
        let fdb = "33:33:00:00:00:01 dev br0 self permanent\n02:56:a4:00:12:7f dev uplink master br0\n\
                   02:57:00:00:00:00 dev uplink master br0\n";
        assert_eq!(count_generated(fdb), 1);
    }
}
