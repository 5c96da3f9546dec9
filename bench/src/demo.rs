//! `demo`: two containers on a vswitch instance of their own, beside a direct wire and a Linux
//! bridge.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::Args;
use comfy_table::Table;

use crate::{
    command,
    instance::vswitch_binary,
    machine::Machine,
    measure::{iperf, pingpong},
    report::{align_right, table},
    results::Results,
    topology::{Pair, Variant},
};

const VARIANTS: [Variant; 3] = [Variant::Direct, Variant::Bridge, Variant::Vswitch];
const ROUNDS: usize = 4;

#[derive(Args)]
pub struct Options {
    /// The vswitch binary [default: the one beside this binary]
    #[arg(long, value_name = "PATH")]
    vswitch: Option<PathBuf>,
    /// Seconds per iperf3 run; `demo` starts 24 of them
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
}

pub fn demo(options: &Options) -> Result<ExitCode> {
    for program in ["ip", "nsenter", "ping", "iperf3"] {
        command::require_program(program)?;
    }
    let vswitch = vswitch_binary(options.vswitch.as_ref())?;
    Machine::describe(Some(&vswitch)).warn_if_busy();

    let mut pairs = Vec::new();
    for variant in VARIANTS {
        eprintln!("{}", announcement(variant));
        let pair = Pair::build(variant, Some(&vswitch))?;
        eprintln!("  {} reaches {}", pair.client.ipv4, pair.server.ipv4);
        pairs.push(pair);
    }
    let results = measure(&pairs, options.seconds)?;
    eprintln!("Removing the containers and switches.");
    drop(pairs);

    println!("\n{}\n\n{}", demo_table(&results), summary_sentence(&results).context("a measurement is missing")?);
    Ok(ExitCode::SUCCESS)
}

fn announcement(variant: Variant) -> &'static str {
    match variant {
        Variant::Direct => "Two containers on a direct wire (a veth pair), the upper limit.",
        Variant::Bridge => "Two containers on a Linux bridge.",
        _ => "Two containers on vswitch: `vswitch up`, `vswitch attach` twice.",
    }
}

/// The measurements. Each is taken on all pairs in a row, so that the load of the machine affects
/// them alike.
const MEASUREMENTS: [(&str, Measure); 3] = [
    ("tcp1", |pair, seconds| iperf::gigabits_per_second(pair, 1, seconds)),
    ("tcp4", |pair, seconds| iperf::gigabits_per_second(pair, 4, seconds)),
    ("rr_p50", |pair, _| Ok(pingpong::round_trip(pair)?.p50)),
];

type Measure = fn(&Pair, u32) -> Result<f64>;

fn measure(pairs: &[Pair], seconds: u32) -> Result<Results> {
    let servers = pairs.iter().map(iperf::Server::start).collect::<Result<Vec<_>>>()?;
    let mut results = Results::default();
    for round in 0..ROUNDS {
        eprintln!("Measuring the pairs in turns, round {} of {ROUNDS}:", round + 1);
        for (figure, measure) in MEASUREMENTS {
            // Each round starts with another pair, so that none is always measured first.
            for offset in 0..pairs.len() {
                let pair = &pairs[(round + offset) % pairs.len()];
                results.record(figure, pair.variant.key(), measure(pair, seconds)?);
            }
            eprintln!("  {}", latest_samples(&results, figure));
        }
    }
    drop(servers);
    Ok(results)
}

/// Formats the newest sample of each variant as one line.
fn latest_samples(results: &Results, figure: &str) -> String {
    let Some(figure) = results.figure(figure) else { return String::new() };
    let sample = |variant: &Variant| Some(format!("{} {:.1}", variant.label(), figure.samples(variant.key())?.last()?));
    let samples: Vec<_> = VARIANTS.iter().filter_map(sample).collect();
    format!("{}: {} {}", figure.kind.title, samples.join(", "), figure.kind.unit)
}

/// Returns a table with one row per measurement: the medians and the ratios of vswitch.
fn demo_table(results: &Results) -> Table {
    let mut table = table(&["", "direct wire", "Linux bridge", "vswitch", "vswitch / wire", "vswitch / bridge"]);
    for figure in &results.figures {
        let median = |variant: Variant| {
            figure.summary(variant.key()).map(|summary| format!("{:.1} {}", summary.median, figure.kind.unit))
        };
        let ratio =
            |baseline: Variant| figure.ratio(Variant::Vswitch.key(), baseline.key()).map(|ratio| format!("{ratio:.2}"));
        let cells = VARIANTS.map(median).into_iter().chain([ratio(Variant::Direct), ratio(Variant::Bridge)]);
        table.add_row(std::iter::once(figure.kind.title.to_owned()).chain(cells.map(Option::unwrap_or_default)));
    }
    align_right(&mut table, 1..=5);
    table
}

/// Summarizes the results in one sentence.
fn summary_sentence(results: &Results) -> Option<String> {
    let ratio = |figure: &str, baseline: Variant| results.figure(figure)?.ratio(Variant::Vswitch.key(), baseline.key());
    let (of_wire, of_bridge) = (ratio("tcp1", Variant::Direct)?, ratio("tcp1", Variant::Bridge)?);
    let trip = ratio("rr_p50", Variant::Direct)?;
    let beside_bridge = if of_bridge >= 1.005 {
        format!("{:.0}% more than the Linux bridge", (of_bridge - 1.0) * 100.0)
    } else {
        format!("{:.0}% of the Linux bridge", of_bridge * 100.0)
    };
    Some(format!(
        "Through vswitch, one TCP stream gets {:.0}% of a direct wire and {beside_bridge}; a round trip takes {:.0}% of the wire's time.",
        of_wire * 100.0,
        trip * 100.0
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(vswitch: f64) -> Results {
        let mut results = Results::default();
        for (key, tcp, trip) in [("direct", 20.0, 30.0), ("bridge", 16.0, 36.0), ("vswitch", vswitch, 30.3)] {
            results.record("tcp1", key, tcp);
            results.record("tcp4", key, tcp);
            results.record("rr_p50", key, trip);
        }
        results
    }

    #[test]
    fn summary_sentence_reports_the_ratios() {
        let fast = summary_sentence(&results(19.52)).unwrap();
        assert!(fast.contains("98% of a direct wire and 22% more than the Linux bridge"), "{fast}");
        assert!(fast.contains("101% of the wire's time"), "{fast}");
        let slow = summary_sentence(&results(8.0)).unwrap();
        assert!(slow.contains("40% of a direct wire and 50% of the Linux bridge"), "{slow}");
    }
}
