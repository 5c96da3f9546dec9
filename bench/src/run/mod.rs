//! `run`: measures all variants round by round, so that noise of the machine affects them alike.

mod measurement;
mod operators;
mod options;
mod overlay;
mod rounds;
mod wire;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    command, goals,
    instance::vswitch_binary,
    machine::Machine,
    measure::{attach, cluster, connections, cost, frames, iperf, names, pingpong, scale, start, udp},
    report,
    results::Results,
    topology::{Pair, Published, Uplink, Variant},
};
use measurement::Measurement;
use operators::Operators;
pub use options::Options;
use overlay::Overlays;
use rounds::{record, record_row, rotated};
use wire::Wires;

pub fn run(options: &Options) -> Result<ExitCode> {
    let started = OffsetDateTime::now_utc().replace_nanosecond(0)?;
    for program in ["ip", "nsenter", "ping", "ethtool", "nft", "iperf3"] {
        command::require_program(program)?;
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

fn measure_all(options: &Options, vswitch: Option<&Path>) -> Result<Results> {
    let mut results = Results::default();
    let mut pairs = Vec::new();
    if Measurement::ON_PAIRS.iter().any(|measurement| options.wants(*measurement)) {
        for variant in options.variants(&Variant::PAIRS) {
            eprintln!("setting up: {}", variant.label());
            pairs.push(Pair::build(variant, vswitch)?);
        }
    }
    let mut uplinks = Vec::new();
    if options.wants(Measurement::Frames) {
        for variant in options.variants(&Variant::UPLINKS) {
            eprintln!("setting up: {}, from an uplink", variant.label());
            uplinks.push(Uplink::build(variant, vswitch)?);
        }
    }
    let operators = Operators::build(options, vswitch)?;
    let wires = Wires::build(options, vswitch)?;
    let overlays = Overlays::build(options, vswitch)?;
    let published = if options.wants(Measurement::Published) { build_published(options, vswitch)? } else { Vec::new() };
    let resolver =
        match vswitch.filter(|_| options.wants(Measurement::Names) && options.wants_variant(Variant::Vswitch)) {
            Some(vswitch) => {
                eprintln!("setting up: vswitch, for DNS lookups");
                Some(names::Resolver::build(vswitch)?)
            }
            None => None,
        };
    let servers = if options.wants(Measurement::Tcp1) || options.wants(Measurement::Tcp4) {
        pairs.iter().map(iperf::Server::start).collect::<Result<Vec<_>>>()?
    } else {
        Vec::new()
    };

    for round in 0..options.rounds {
        eprintln!("round {} of {}", round + 1, options.rounds);
        for measurement in Measurement::ON_PAIRS.into_iter().filter(|measurement| options.wants(*measurement)) {
            for pair in rotated(&pairs, round) {
                on_pair(&mut results, measurement, pair, options)
                    .with_context(|| format!("measuring {} through {}", measurement.name(), pair.variant.label()))?;
            }
        }
        for uplink in rotated(&uplinks, round) {
            let mpps = frames::delivered_mpps(uplink, options.window())
                .with_context(|| format!("measuring frames through {}", uplink.variant.label()))?;
            record(&mut results, "frames", uplink.variant, mpps);
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

    if options.wants(Measurement::Attach) {
        measure_attach(&mut results, options, vswitch)?;
    }
    if options.wants(Measurement::Start)
        && options.wants_variant(Variant::Vswitch)
        && let Some(vswitch) = vswitch
    {
        eprintln!("measuring starts of the daemon");
        let starts = start::measure(vswitch)?;
        for (row, samples) in [("up", starts.up), ("takeover", starts.takeover)] {
            samples.into_iter().for_each(|sample| results.record("start", row, sample));
        }
    }
    if options.wants(Measurement::Scale)
        && options.wants_variant(Variant::Vswitch)
        && let Some(vswitch) = vswitch
    {
        measure_scale(&mut results, vswitch)?;
    }
    if options.wants(Measurement::Cluster)
        && options.wants_variant(Variant::Vswitch)
        && let Some(vswitch) = vswitch
    {
        measure_cluster(&mut results, options, vswitch)?;
    }
    if options.wants(Measurement::Cost)
        && let Some(vswitch) = vswitch
    {
        eprintln!("measuring the cost of the programs");
        results.costs.push(cost::measure_container_port(&Pair::build(Variant::Vswitch, Some(vswitch))?)?);
        results.costs.push(cost::measure_uplink_tcx(&Uplink::build(Variant::UplinkTcx, Some(vswitch))?)?);
        results.costs.push(cost::measure_uplink_xdp(&Uplink::build(Variant::UplinkXdp, Some(vswitch))?)?);
    }
    Ok(results)
}

fn on_pair(results: &mut Results, measurement: Measurement, pair: &Pair, options: &Options) -> Result<()> {
    match measurement {
        Measurement::Tcp1 => {
            record(results, "tcp1", pair.variant, iperf::gigabits_per_second(pair, 1, options.seconds)?);
        }
        Measurement::Tcp4 => {
            record(results, "tcp4", pair.variant, iperf::gigabits_per_second(pair, 4, options.seconds)?);
        }
        Measurement::Udp => {
            record(results, "udp", pair.variant, udp::delivered_per_second(pair, options.window())? / 1e3);
        }
        Measurement::Rr => {
            let times = pingpong::round_trip(pair)?;
            record(results, "rr_p50", pair.variant, times.p50);
            record(results, "rr_p99", pair.variant, times.p99);
        }
        _ => {}
    }
    Ok(())
}

fn measure_attach(results: &mut Results, options: &Options, vswitch: Option<&Path>) -> Result<()> {
    eprintln!("measuring {} attaches", attach::ENDPOINTS);
    let attaches = attach::measure(vswitch.filter(|_| options.wants_variant(Variant::Vswitch)))?;
    for sample in attaches.bridge {
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
        let published = Published::build(variant, vswitch).and_then(|published| {
            connections::prepare(&published.outside)?;
            Ok(published)
        });
        match published {
            Ok(published) => all.push(published),
            // dockerd is not part of vswitch, and this machine may be unable to run it. The other
            // variants are still measured.
            Err(error) if variant == Variant::Docker && !command::interrupted() => {
                eprintln!("vswitch-bench: DOCKER IS SKIPPED, so no results are compared with it: {error:#}");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

fn measure_published(results: &mut Results, all: &[Published], options: &Options, round: u32) -> Result<()> {
    let measure = |figure, published: &Published| match figure {
        "published1" => iperf::gigabits_per_second_to(&published.outside, published.address, 1, options.seconds),
        "published4" => iperf::gigabits_per_second_to(&published.outside, published.address, 4, options.seconds),
        _ => Ok(connections::per_second(&published.outside, published.address)? / 1e3),
    };
    for figure in ["published1", "published4", "published_cps"] {
        for published in rotated(all, round) {
            let sample = measure(figure, published)
                .with_context(|| format!("measuring {figure} through {}", published.variant.label()))?;
            record(results, figure, published.variant, sample);
        }
    }
    Ok(())
}

fn measure_names(results: &mut Results, resolver: &names::Resolver, window: Duration) -> Result<()> {
    for (outstanding, rate, p99) in [(1, "names1", "names1_p99"), (16, "names16", "names16_p99")] {
        let lookups = names::measure_lookups(resolver, outstanding, window)
            .with_context(|| format!("looking up names, {outstanding} at a time"))?;
        record(results, rate, Variant::Vswitch, lookups.per_second / 1e3);
        record(results, p99, Variant::Vswitch, lookups.p99);
    }
    Ok(())
}

fn measure_scale(results: &mut Results, vswitch: &Path) -> Result<()> {
    eprintln!("measuring {} endpoints in {} networks", scale::ENDPOINTS, scale::NETWORKS);
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
    if let Err(error) = command::require_program("etcd") {
        if options.only.contains(&Measurement::Cluster) {
            return Err(error);
        }
        // The other measurements are still taken.
        eprintln!("vswitch-bench: CLUSTERS ARE SKIPPED: {error:#}");
        return Ok(());
    }
    eprintln!("measuring a cluster of two hosts with {} endpoints", cluster::ATTACHES);
    let reach = cluster::reach(vswitch)?;
    for (row, samples) in
        [("attach", reach.attach), ("from_return", reach.from_return), ("from_start", reach.from_start)]
    {
        samples.into_iter().for_each(|sample| results.record("cluster_reach", row, sample));
    }
    eprintln!("measuring a cluster of 1,000 hosts with 100,000 endpoints");
    let scale = cluster::scale(vswitch)?;
    for (figure, row, sample) in [
        ("cluster_memory", "alone", scale.alone),
        ("cluster_memory", "running", scale.running),
        ("cluster_memory", "started", scale.started),
        ("cluster_follow", "running", scale.lag),
        ("cluster_follow", "up", scale.up),
        ("cluster_follow", "told", scale.received),
        ("cluster_follow", "started", scale.catch_up),
        ("cluster_rate", "written", scale.written),
        ("cluster_rate", "followed", scale.followed),
        ("cluster_rate", "moved", scale.moved),
    ] {
        record_row(results, figure, row, sample);
    }
    Ok(())
}

fn describe(machine: &Machine, options: &Options) -> String {
    format!(
        "{}, {} x {}, {}; medians of {} rounds of {} s",
        machine.kernel,
        machine.cpus,
        machine.cpu.as_deref().unwrap_or("CPU"),
        machine.vswitch.as_deref().unwrap_or("without vswitch"),
        options.rounds,
        options.seconds
    )
}

/// Returns `bench/results` in the workspace and `results` elsewhere.
fn results_directory() -> PathBuf {
    let bench = Path::new("bench");
    if bench.join("Cargo.toml").is_file() { bench.join("results") } else { PathBuf::from("results") }
}
