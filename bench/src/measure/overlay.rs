//! From a container to one on another host, beside the kernel's VXLAN device in a Linux bridge.

use std::path::Path;

use anyhow::{Context as _, Result};

use super::{What, iperf, pingpong, udp};
use crate::{
    report::Results,
    run::{Options, in_turn, note},
    topology::{Pair, Variant},
};

/// What is set up for as long as the rounds last. Servers go before what they listen in.
#[derive(Default)]
pub struct Overlays {
    _servers: Vec<iperf::Server>,
    pairs: Vec<Pair>,
}

impl Overlays {
    /// Sets up what the options ask for.
    pub fn build(options: &Options, vswitch: Option<&Path>) -> Result<Self> {
        let mut all = Self::default();
        if !What::OF_OVERLAY.iter().any(|what| options.wants(*what)) {
            return Ok(all);
        }
        for variant in options.variants(&Variant::OVERLAYS) {
            eprintln!("setting up: {}, on two hosts", variant.label());
            all.pairs.push(Pair::build(variant, vswitch)?);
        }
        if options.wants(What::OverlayTcp1) || options.wants(What::OverlayTcp4) {
            all._servers = all.pairs.iter().map(iperf::Server::start).collect::<Result<_>>()?;
        }
        Ok(all)
    }

    /// One sample of each.
    pub fn measure(&self, results: &mut Results, options: &Options, round: u32) -> Result<()> {
        for what in What::OF_OVERLAY.into_iter().filter(|what| options.wants(*what)) {
            for pair in in_turn(&self.pairs, round) {
                sample(results, what, pair, options)
                    .with_context(|| format!("measuring {} through {}", what.name(), pair.variant.label()))?;
            }
        }
        Ok(())
    }
}

fn sample(results: &mut Results, what: What, pair: &Pair, options: &Options) -> Result<()> {
    let (figure, sample) = match what {
        What::OverlayTcp1 => ("overlay_tcp1", iperf::gigabits_per_second(pair, 1, options.seconds())?),
        What::OverlayTcp4 => ("overlay_tcp4", iperf::gigabits_per_second(pair, 4, options.seconds())?),
        What::OverlayRr => ("overlay_rr", pingpong::round_trip(pair)?.p50),
        What::OverlayUdp => ("overlay_udp", udp::delivered_per_second(pair, options.window())? / 1e3),
        _ => return Ok(()),
    };
    note(results, figure, pair.variant, sample);
    Ok(())
}
