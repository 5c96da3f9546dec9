//! Measurements of features for operators: large FDBs, floods, guards and monitoring. Variants
//! alternate as in all measurements.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result};

use super::{
    measurement::Measurement,
    options::Options,
    rounds::{record, record_row, rotated},
};
use crate::{
    measure::{
        cost,
        fdb::{self, FilledSwitch, Hook, Spread},
        flood, iperf,
        monitor::{Monitoring, QUIET_NETWORK},
        pingpong,
    },
    results::Results,
    topology::{Pair, Segment, Uplink, Variant},
};

/// The topologies of all rounds. Servers are dropped before their namespaces.
#[derive(Default)]
pub struct Operators {
    servers: Vec<iperf::Server>,
    tables: Vec<FilledSwitch>,
    learners: Vec<Uplink>,
    floods: Vec<(&'static str, Vec<Segment>)>,
    guard_pairs: Vec<Pair>,
    monitored: Option<Pair>,
}

impl Operators {
    /// Builds the topologies that the options select.
    pub fn build(options: &Options, vswitch: Option<&Path>) -> Result<Self> {
        let mut topologies = Self::default();
        let selected_vswitch = vswitch.filter(|_| options.wants_variant(Variant::Vswitch));
        if options.wants(Measurement::Fdb)
            && let Some(vswitch) = selected_vswitch
        {
            for (stations, row) in fdb::SIZES {
                eprintln!("setting up: vswitch with {stations} stations");
                topologies.tables.push(FilledSwitch::build(stations, row, vswitch)?);
            }
        }
        if options.wants(Measurement::Learn) {
            for variant in options.variants(&Variant::LEARNERS) {
                eprintln!("setting up: {}, for learning", variant.label());
                topologies.learners.push(Uplink::build_with(variant, vswitch, &fdb::FDB_SIZE_OPTIONS)?);
            }
        }
        if options.wants(Measurement::Flood) {
            for (receivers, figure) in flood::FLOODS {
                eprintln!("setting up: broadcasts to {receivers} ports");
                // Ports of other networks are measured once, with the fewest ports in the own
                // network, where they cost the most.
                let crowded = |variant: &Variant| *variant != Variant::VswitchCrowd || receivers == flood::FEWEST;
                let variants: Vec<_> = options.variants(&Variant::FLOODS).into_iter().filter(crowded).collect();
                let segments = variants.into_iter().map(|variant| Segment::build(variant, vswitch, receivers));
                topologies.floods.push((figure, segments.collect::<Result<_>>()?));
            }
        }
        if options.wants(Measurement::Guards) {
            for variant in options.variants(&[Variant::VswitchOpen, Variant::Vswitch]) {
                eprintln!("setting up: {}, for the cost of guards", variant.label());
                topologies.guard_pairs.push(Pair::build(variant, vswitch)?);
            }
        }
        if options.wants(Measurement::Monitor) && selected_vswitch.is_some() {
            eprintln!("setting up: vswitch, for the cost of monitoring");
            let pair = Pair::build(Variant::Vswitch, vswitch)?;
            let instance = pair.instance.as_ref().context("only vswitch can be monitored")?;
            instance.run(&["network", "create", QUIET_NETWORK])?;
            topologies.monitored = Some(pair);
        }
        let pairs = topologies.guard_pairs.iter().chain(&topologies.monitored);
        topologies.servers = pairs.map(iperf::Server::start).collect::<Result<_>>()?;
        Ok(topologies)
    }

    /// Takes one sample of each measurement.
    pub fn measure(&self, results: &mut Results, options: &Options, round: u32) -> Result<()> {
        self.measure_tables(results, options.window(), round)?;
        for uplink in rotated(&self.learners, round) {
            let rate = fdb::learned_per_second(uplink)
                .with_context(|| format!("learning stations with {}", uplink.variant.label()))?;
            record(results, "learn", uplink.variant, rate);
        }
        for (figure, segments) in &self.floods {
            for segment in rotated(segments, round) {
                let rate = flood::flooded_kpps(segment, options.window())
                    .with_context(|| format!("measuring {figure} through {}", segment.variant.label()))?;
                record(results, figure, segment.variant, rate);
            }
        }
        self.measure_guards(results, options.seconds(), round)?;
        if let Some(pair) = &self.monitored {
            measure_monitor(results, pair, options.seconds(), round)?;
        }
        Ok(())
    }

    fn measure_tables(&self, results: &mut Results, window: Duration, round: u32) -> Result<()> {
        for (figure, hook, spread) in [
            ("fdb", Hook::Tcx, Spread::All),
            ("fdb_xdp", Hook::Xdp, Spread::All),
            ("fdb_few", Hook::Tcx, Spread::Few),
            ("fdb_few_xdp", Hook::Xdp, Spread::Few),
        ] {
            for filled in rotated(&self.tables, round) {
                let rate = filled
                    .delivered_mpps(hook, spread, window)
                    .with_context(|| format!("measuring {figure} with {}", filled.row))?;
                record_row(results, figure, filled.row, rate);
            }
        }
        Ok(())
    }

    fn measure_guards(&self, results: &mut Results, seconds: u32, round: u32) -> Result<()> {
        for figure in ["guards_tcp1", "guards_tcp4", "guards_rr", "guards_ns"] {
            for pair in rotated(&self.guard_pairs, round) {
                let sample = match figure {
                    "guards_tcp1" => iperf::gigabits_per_second(pair, 1, seconds),
                    "guards_tcp4" => iperf::gigabits_per_second(pair, 4, seconds),
                    "guards_rr" => pingpong::round_trip(pair).map(|times| times.p50),
                    _ => cost::test_run_container_port(pair),
                };
                let sample = sample.with_context(|| format!("measuring {figure} with {}", pair.variant.label()))?;
                record(results, figure, pair.variant, sample);
            }
        }
        Ok(())
    }
}

fn measure_monitor(results: &mut Results, pair: &Pair, seconds: u32, round: u32) -> Result<()> {
    let instance = pair.instance.as_ref().context("only vswitch can be monitored")?;
    for figure in ["monitor_tcp1", "monitor_tcp4", "monitor_ns"] {
        for monitoring in rotated(&Monitoring::ALL, round) {
            let monitor = monitoring.start(instance)?;
            let sample = match figure {
                "monitor_tcp1" => iperf::gigabits_per_second(pair, 1, seconds)?,
                "monitor_tcp4" => iperf::gigabits_per_second(pair, 4, seconds)?,
                _ => cost::test_run_container_port(pair)?,
            };
            if let Some(monitor) = monitor {
                monitor.stop()?;
            }
            record_row(results, figure, monitoring.row(), sample);
        }
    }
    Ok(())
}
