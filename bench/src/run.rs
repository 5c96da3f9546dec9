//! `run`: all variants in turns, round by round, so that a noisy machine is noisy to all alike.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::Args;
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    command, goals,
    machine::Machine,
    measure::{
        What, attach, cluster, connections, cost, frames, iperf, names, overlay::Overlays, pingpong, scale, udp,
        wire::Wires,
    },
    operators::Operators,
    report::{self, Results},
    topology::{Pair, Published, Uplink, Variant},
    vswitch_binary,
};

#[derive(Args)]
pub struct Options {
    /// Samples per variant.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds per sample of throughput.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// Measure only this (may be given more than once).
    #[arg(long, value_name = "WHAT")]
    only: Vec<What>,
    /// Measure only this variant (may be given more than once). Ratios need `direct` and `bridge`.
    #[arg(long, value_name = "VARIANT")]
    variant: Vec<Variant>,
    /// Directory for result.json and ratios.svg [default: bench/results/<time>]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The switch to measure [default: the one beside this binary]
    #[arg(long, value_name = "PATH")]
    vswitch: Option<PathBuf>,
    /// Exit with 1, naming them, when figures miss their goals.
    #[arg(long)]
    check: bool,
}

impl Options {
    /// Whether something is to be measured.
    pub fn wants(&self, what: What) -> bool {
        let all_of_these = self.only.contains(&What::Operators) && What::OF_OPERATORS.contains(&what)
            || self.only.contains(&What::Wire) && What::OF_WIRE.contains(&what)
            || self.only.contains(&What::Overlay) && What::OF_OVERLAY.contains(&what);
        self.only.is_empty() || self.only.contains(&what) || all_of_these
    }

    /// Whether a variant is to be measured.
    pub fn wants_variant(&self, variant: Variant) -> bool {
        self.variant.is_empty() || self.variant.contains(&variant)
    }

    /// Those of `all` that are to be measured.
    pub fn variants(&self, all: &[Variant]) -> Vec<Variant> {
        all.iter().copied().filter(|variant| self.wants_variant(*variant)).collect()
    }

    /// Length of a sample of throughput.
    pub fn seconds(&self) -> u32 {
        self.seconds
    }

    /// The same.
    pub fn window(&self) -> Duration {
        Duration::from_secs(self.seconds.into())
    }
}

pub fn run(options: &Options) -> Result<ExitCode> {
    let started = OffsetDateTime::now_utc().replace_nanosecond(0)?;
    for program in ["ip", "nsenter", "ping", "ethtool", "nft", "iperf3"] {
        command::require(program)?;
    }
    let vswitch = options.needs_vswitch().then(|| vswitch_binary(options.vswitch.as_ref())).transpose()?;
    let machine = Machine::describe(vswitch.as_deref());
    machine.warn_if_busy();
    let results = measure_all(options, vswitch.as_deref())?;
    let verdicts = goals::judge(&results);

    println!("{}\n", describe(&machine, options));
    println!("{}", report::figure_table(&results));
    if !results.costs.is_empty() {
        println!("{}", report::cost_table(&results.costs));
    }
    if !verdicts.is_empty() {
        println!("{}", report::goal_table(&verdicts));
    }

    let directory = match &options.out {
        Some(directory) => directory.clone(),
        None => results_directory().join(started.format(&Rfc3339)?.replace(['-', ':'], "")),
    };
    std::fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
    let settings =
        json!({ "rounds": options.rounds, "seconds": options.seconds, "bridge_nf_call_iptables": false, "mtu": 1500 });
    report::write_json(&directory, started, &machine, &settings, &results, &verdicts)?;
    report::write_plot(&directory, &results)?;
    eprintln!("written: {}/result.json, ratios.svg", directory.display());

    let missed: Vec<_> = verdicts.iter().filter(|verdict| !verdict.met).collect();
    if options.check && !missed.is_empty() {
        for verdict in missed {
            eprintln!("vswitch-bench: missed: {}: {:.3}, wanted {}", verdict.goal, verdict.got, verdict.wanted);
        }
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

impl Options {
    fn needs_vswitch(&self) -> bool {
        let on_pairs = What::ON_PAIRS.iter().any(|what| self.wants(*what));
        let chosen = |all: &[Variant]| self.variants(all).iter().any(|variant| variant.needs_vswitch());
        on_pairs && chosen(&Variant::PAIRS)
            || self.wants(What::Published) && chosen(&Variant::PUBLISHED)
            || self.wants(What::Frames) && chosen(&Variant::UPLINKS)
            || What::OF_WIRE.iter().any(|what| self.wants(*what)) && chosen(&Variant::WIRES)
            || What::OF_OVERLAY.iter().any(|what| self.wants(*what)) && chosen(&Variant::OVERLAYS)
            || self.wants(What::Flood) && chosen(&Variant::FLOODS)
            || self.wants(What::Learn) && chosen(&Variant::LEARNERS)
            || self.wants(What::Guards) && chosen(&[Variant::Vswitch, Variant::VswitchOpen])
            || [What::Fdb, What::Monitor, What::Attach, What::Names, What::Scale, What::Cluster]
                .iter()
                .any(|what| self.wants(*what))
                && self.wants_variant(Variant::Vswitch)
            || self.wants(What::Cost) && (chosen(&Variant::PAIRS) || chosen(&Variant::UPLINKS))
    }
}

fn measure_all(options: &Options, vswitch: Option<&Path>) -> Result<Results> {
    let mut results = Results::default();
    let mut pairs = Vec::new();
    if What::ON_PAIRS.iter().any(|what| options.wants(*what)) {
        for variant in options.variants(&Variant::PAIRS) {
            eprintln!("setting up: {}", variant.label());
            pairs.push(Pair::build(variant, vswitch)?);
        }
    }
    let mut uplinks = Vec::new();
    if options.wants(What::Frames) {
        for variant in options.variants(&Variant::UPLINKS) {
            eprintln!("setting up: {}, from an uplink", variant.label());
            uplinks.push(Uplink::build(variant, vswitch)?);
        }
    }
    let operators = Operators::build(options, vswitch)?;
    let wires = Wires::build(options, vswitch)?;
    let overlays = Overlays::build(options, vswitch)?;
    let published = if options.wants(What::Published) { build_published(options, vswitch)? } else { Vec::new() };
    let resolver = match vswitch.filter(|_| options.wants(What::Names) && options.wants_variant(Variant::Vswitch)) {
        Some(vswitch) => {
            eprintln!("setting up: vswitch, for names");
            Some(names::Resolver::build(vswitch)?)
        }
        None => None,
    };
    let servers = if options.wants(What::Tcp1) || options.wants(What::Tcp4) {
        pairs.iter().map(iperf::Server::start).collect::<Result<Vec<_>>>()?
    } else {
        Vec::new()
    };

    for round in 0..options.rounds {
        eprintln!("round {} of {}", round + 1, options.rounds);
        for what in What::ON_PAIRS.into_iter().filter(|what| options.wants(*what)) {
            for pair in in_turn(&pairs, round) {
                on_pair(&mut results, what, pair, options)
                    .with_context(|| format!("measuring {} through {}", what.name(), pair.variant.label()))?;
            }
        }
        for uplink in in_turn(&uplinks, round) {
            let mpps = frames::delivered_mpps(uplink, options.window())
                .with_context(|| format!("measuring frames through {}", uplink.variant.label()))?;
            note(&mut results, "frames", uplink.variant, mpps);
        }
        measure_published(&mut results, &published, options, round)?;
        operators.measure(&mut results, options, round)?;
        wires.measure(&mut results, options, round)?;
        overlays.measure(&mut results, options, round)?;
        if let Some(resolver) = &resolver {
            measure_names(&mut results, resolver, options.window())?;
        }
    }
    drop((servers, pairs, uplinks, published, operators, wires, overlays, resolver));

    if options.wants(What::Attach) {
        measure_attach(&mut results, options, vswitch)?;
    }
    if options.wants(What::Scale)
        && options.wants_variant(Variant::Vswitch)
        && let Some(vswitch) = vswitch
    {
        measure_scale(&mut results, vswitch)?;
    }
    if options.wants(What::Cluster)
        && options.wants_variant(Variant::Vswitch)
        && let Some(vswitch) = vswitch
    {
        measure_cluster(&mut results, options, vswitch)?;
    }
    if options.wants(What::Cost)
        && let Some(vswitch) = vswitch
    {
        eprintln!("cost of the programs");
        results.costs.push(cost::of_container_port(&Pair::build(Variant::Vswitch, Some(vswitch))?)?);
        results.costs.push(cost::of_uplink_tcx(&Uplink::build(Variant::UplinkTcx, Some(vswitch))?)?);
        results.costs.push(cost::of_uplink_xdp(&Uplink::build(Variant::UplinkXdp, Some(vswitch))?)?);
    }
    Ok(results)
}

fn on_pair(results: &mut Results, what: What, pair: &Pair, options: &Options) -> Result<()> {
    match what {
        What::Tcp1 => note(results, "tcp1", pair.variant, iperf::gigabits_per_second(pair, 1, options.seconds)?),
        What::Tcp4 => note(results, "tcp4", pair.variant, iperf::gigabits_per_second(pair, 4, options.seconds)?),
        What::Udp => note(results, "udp", pair.variant, udp::delivered_per_second(pair, options.window())? / 1e3),
        What::Rr => {
            let times = pingpong::round_trip(pair)?;
            note(results, "rr_p50", pair.variant, times.p50);
            note(results, "rr_p99", pair.variant, times.p99);
        }
        _ => {}
    }
    Ok(())
}

fn measure_attach(results: &mut Results, options: &Options, vswitch: Option<&Path>) -> Result<()> {
    eprintln!("attach, {} times", attach::ENDPOINTS);
    let attaches = attach::attaches(vswitch.filter(|_| options.wants_variant(Variant::Vswitch)))?;
    for sample in attaches.by_ip {
        results.record("attach", Variant::Bridge.key(), sample);
    }
    for sample in attaches.vswitch {
        results.record("attach", Variant::Vswitch.key(), sample);
    }
    for (row, sample) in [("vswitch_empty", attaches.memory_empty), ("vswitch_full", attaches.memory_full)] {
        if let Some(sample) = sample {
            results.record("memory", row, sample);
        }
    }
    Ok(())
}

fn build_published(options: &Options, vswitch: Option<&Path>) -> Result<Vec<Published>> {
    let mut all = Vec::new();
    for variant in options.variants(&Variant::PUBLISHED) {
        eprintln!("setting up: {}, with published ports", variant.label());
        match Published::build(variant, vswitch) {
            Ok(published) => all.push(published),
            // Another's daemon, which this machine need not be able to run: the rest is worth measuring without it.
            Err(error) if variant == Variant::Docker && !command::interrupted() => {
                eprintln!("vswitch-bench: DOCKER IS LEFT OUT, nothing is compared with it: {error:#}");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

fn measure_published(results: &mut Results, all: &[Published], options: &Options, round: u32) -> Result<()> {
    let measure = |figure, published: &Published| match figure {
        "published1" => iperf::from_to(&published.outside, published.address, 1, options.seconds),
        "published4" => iperf::from_to(&published.outside, published.address, 4, options.seconds),
        _ => Ok(connections::per_second(&published.outside, published.address)? / 1e3),
    };
    for figure in ["published1", "published4", "published_cps"] {
        for published in in_turn(all, round) {
            let sample = measure(figure, published)
                .with_context(|| format!("measuring {figure} through {}", published.variant.label()))?;
            note(results, figure, published.variant, sample);
        }
    }
    Ok(())
}

fn measure_names(results: &mut Results, resolver: &names::Resolver, window: Duration) -> Result<()> {
    for (outstanding, rate, p99) in [(1, "names1", "names1_p99"), (16, "names16", "names16_p99")] {
        let lookups = names::lookups(resolver, outstanding, window)
            .with_context(|| format!("looking up names, {outstanding} at a time"))?;
        note(results, rate, Variant::Vswitch, lookups.per_second / 1e3);
        note(results, p99, Variant::Vswitch, lookups.p99);
    }
    Ok(())
}

fn measure_scale(results: &mut Results, vswitch: &Path) -> Result<()> {
    eprintln!("{} endpoints in {} networks", scale::ENDPOINTS, scale::NETWORKS);
    let scale = scale::scale(vswitch)?;
    let total = scale.create + scale.attach + scale.remove;
    for (row, seconds) in
        [("create", scale.create), ("attach", scale.attach), ("remove", scale.remove), ("total", total)]
    {
        results.record("scale", row, seconds);
    }
    for (row, samples) in [("first", scale.first), ("last", scale.last)] {
        samples.into_iter().for_each(|sample| results.record("scale_attach", row, sample));
    }
    Ok(())
}

fn measure_cluster(results: &mut Results, options: &Options, vswitch: &Path) -> Result<()> {
    if let Err(error) = command::require("etcd") {
        if options.only.contains(&What::Cluster) {
            return Err(error);
        }
        // The rest is worth measuring without it.
        eprintln!("vswitch-bench: CLUSTERS ARE LEFT OUT: {error:#}");
        return Ok(());
    }
    eprintln!("a cluster of two hosts, {} endpoints", cluster::ATTACHES);
    let reach = cluster::reach(vswitch)?;
    for (row, samples) in
        [("attach", reach.attach), ("from_return", reach.from_return), ("from_start", reach.from_start)]
    {
        samples.into_iter().for_each(|sample| results.record("cluster_reach", row, sample));
    }
    eprintln!("a cluster of 1,000 hosts with 100,000 endpoints");
    let scale = cluster::scale(vswitch)?;
    for (figure, row, sample) in [
        ("cluster_memory", "alone", scale.alone),
        ("cluster_memory", "running", scale.running),
        ("cluster_memory", "started", scale.started),
        ("cluster_follow", "running", scale.lag),
        ("cluster_follow", "up", scale.up),
        ("cluster_follow", "told", scale.told),
        ("cluster_follow", "started", scale.catch_up),
        ("cluster_rate", "written", scale.written),
        ("cluster_rate", "followed", scale.followed),
        ("cluster_rate", "moved", scale.moved),
    ] {
        note_row(results, figure, row, sample);
    }
    Ok(())
}

/// Each round starts with another one, so that none always comes first or after the same neighbor.
pub fn in_turn<T>(all: &[T], round: u32) -> impl Iterator<Item = &T> {
    let first = if all.is_empty() { 0 } else { round as usize % all.len() };
    all[first..].iter().chain(&all[..first])
}

/// Records a sample, and says so.
pub fn note(results: &mut Results, figure: &str, variant: Variant, sample: f64) {
    eprintln!("  {figure:<11} {:<24} {sample:.2}", variant.label());
    results.record(figure, variant.key(), sample);
}

/// The same for a row that is no variant.
pub fn note_row(results: &mut Results, figure: &str, row: &'static str, sample: f64) {
    eprintln!("  {figure:<11} {row:<24} {sample:.2}");
    results.record(figure, row, sample);
}

fn describe(machine: &Machine, options: &Options) -> String {
    format!(
        "{}, {} x {}, {}; {} rounds of {} s, medians of them",
        machine.kernel,
        machine.cpus,
        machine.cpu.as_deref().unwrap_or("CPU"),
        machine.vswitch.as_deref().unwrap_or("without vswitch"),
        options.rounds,
        options.seconds
    )
}

/// Beside the sources when run from the workspace, here otherwise.
fn results_directory() -> PathBuf {
    let bench = Path::new("bench");
    if bench.join("Cargo.toml").is_file() { bench.join("results") } else { PathBuf::from("results") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_starts_with_another_variant() {
        let order = |round| in_turn(&['a', 'b', 'c'], round).collect::<String>();
        assert_eq!([order(0), order(1), order(2), order(3)], ["abc", "bca", "cab", "abc"]);
        assert_eq!(in_turn::<u8>(&[], 3).count(), 0);
    }
}
