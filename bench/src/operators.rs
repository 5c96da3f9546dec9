//! What operators pay for: large tables, floods, guards, and being watched. Measured like the rest, in turns.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result};

use crate::{
    measure::{
        What, cost,
        fdb::{self, By, Filled, Spread},
        flood, iperf,
        monitor::{QUIET, Watched},
        pingpong,
    },
    report::Results,
    run::{Options, in_turn, note, note_row},
    topology::{Pair, Segment, Uplink, Variant},
};

/// What is set up for as long as the rounds last. Servers go before what they listen in.
#[derive(Default)]
pub struct Operators {
    servers: Vec<iperf::Server>,
    tables: Vec<Filled>,
    learners: Vec<Uplink>,
    floods: Vec<(&'static str, Vec<Segment>)>,
    guarded: Vec<Pair>,
    watched: Option<Pair>,
}

impl Operators {
    /// Sets up what the options ask for.
    pub fn build(options: &Options, vswitch: Option<&Path>) -> Result<Self> {
        let mut all = Self::default();
        let ours = vswitch.filter(|_| options.wants_variant(Variant::Vswitch));
        if options.wants(What::Fdb)
            && let Some(vswitch) = ours
        {
            for (stations, row) in fdb::SIZES {
                eprintln!("setting up: vswitch with {stations} stations");
                all.tables.push(Filled::build(stations, row, vswitch)?);
            }
        }
        if options.wants(What::Learn) {
            for variant in options.variants(&Variant::LEARNERS) {
                eprintln!("setting up: {}, for learning", variant.label());
                all.learners.push(Uplink::build_with(variant, vswitch, &fdb::ROOM)?);
            }
        }
        if options.wants(What::Flood) {
            for (receivers, figure) in flood::FLOODS {
                eprintln!("setting up: floods to {receivers} ports");
                // Once: ports of other networks cost the most where those of the own are few.
                let crowded = |variant: &Variant| *variant != Variant::VswitchCrowd || receivers == flood::FEWEST;
                let variants: Vec<_> = options.variants(&Variant::FLOODS).into_iter().filter(crowded).collect();
                let segments = variants.into_iter().map(|variant| Segment::build(variant, vswitch, receivers));
                all.floods.push((figure, segments.collect::<Result<_>>()?));
            }
        }
        if options.wants(What::Guards) {
            for variant in options.variants(&[Variant::VswitchOpen, Variant::Vswitch]) {
                eprintln!("setting up: {}, for the cost of guards", variant.label());
                all.guarded.push(Pair::build(variant, vswitch)?);
            }
        }
        if options.wants(What::Monitor) && ours.is_some() {
            eprintln!("setting up: vswitch, to be watched");
            let pair = Pair::build(Variant::Vswitch, vswitch)?;
            let instance = pair.instance.as_ref().context("only vswitch can be watched")?;
            instance.run(&["network", "create", QUIET])?;
            all.watched = Some(pair);
        }
        let pairs = all.guarded.iter().chain(&all.watched);
        all.servers = pairs.map(iperf::Server::start).collect::<Result<_>>()?;
        Ok(all)
    }

    /// One sample of each.
    pub fn measure(&self, results: &mut Results, options: &Options, round: u32) -> Result<()> {
        self.measure_tables(results, options.window(), round)?;
        for uplink in in_turn(&self.learners, round) {
            let rate = fdb::learned_per_second(uplink)
                .with_context(|| format!("learning stations with {}", uplink.variant.label()))?;
            note(results, "learn", uplink.variant, rate);
        }
        for (figure, segments) in &self.floods {
            for segment in in_turn(segments, round) {
                let rate = flood::flooded_kpps(segment, options.window())
                    .with_context(|| format!("measuring {figure} through {}", segment.variant.label()))?;
                note(results, figure, segment.variant, rate);
            }
        }
        self.measure_guards(results, options.seconds(), round)?;
        if let Some(pair) = &self.watched {
            measure_watched(results, pair, options.seconds(), round)?;
        }
        Ok(())
    }

    fn measure_tables(&self, results: &mut Results, window: Duration, round: u32) -> Result<()> {
        for (figure, by, spread) in [
            ("fdb", By::Tcx, Spread::All),
            ("fdb_xdp", By::Xdp, Spread::All),
            ("fdb_few", By::Tcx, Spread::Few),
            ("fdb_few_xdp", By::Xdp, Spread::Few),
        ] {
            for filled in in_turn(&self.tables, round) {
                let rate = filled
                    .delivered_mpps(by, spread, window)
                    .with_context(|| format!("measuring {figure} with {}", filled.row))?;
                note_row(results, figure, filled.row, rate);
            }
        }
        Ok(())
    }

    fn measure_guards(&self, results: &mut Results, seconds: u32, round: u32) -> Result<()> {
        for figure in ["guards_tcp1", "guards_tcp4", "guards_rr", "guards_ns"] {
            for pair in in_turn(&self.guarded, round) {
                let sample = match figure {
                    "guards_tcp1" => iperf::gigabits_per_second(pair, 1, seconds),
                    "guards_tcp4" => iperf::gigabits_per_second(pair, 4, seconds),
                    "guards_rr" => pingpong::round_trip(pair).map(|times| times.p50),
                    _ => cost::test_run_of_container_port(pair),
                };
                let sample = sample.with_context(|| format!("measuring {figure} with {}", pair.variant.label()))?;
                note(results, figure, pair.variant, sample);
            }
        }
        Ok(())
    }
}

fn measure_watched(results: &mut Results, pair: &Pair, seconds: u32, round: u32) -> Result<()> {
    let instance = pair.instance.as_ref().context("only vswitch can be watched")?;
    for figure in ["monitor_tcp1", "monitor_tcp4", "monitor_ns"] {
        for watched in in_turn(&Watched::ALL, round) {
            let watcher = watched.begin(instance)?;
            let sample = match figure {
                "monitor_tcp1" => iperf::gigabits_per_second(pair, 1, seconds)?,
                "monitor_tcp4" => iperf::gigabits_per_second(pair, 4, seconds)?,
                _ => cost::test_run_of_container_port(pair)?,
            };
            if let Some(watcher) = watcher {
                watcher.end()?;
            }
            note_row(results, figure, watched.row(), sample);
        }
    }
    Ok(())
}
