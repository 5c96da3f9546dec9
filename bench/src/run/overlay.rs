//! Traffic to a container on another host, beside the kernel's VXLAN device in a Linux bridge.

use std::path::Path;

use anyhow::{Context as _, Result};

use super::{
    measurement::Measurement,
    options::Options,
    rounds::{record, rotated},
};
use crate::{
    measure::{iperf, pingpong, udp},
    results::Results,
    topology::{Pair, Variant},
};

/// The topologies of all rounds. Servers are dropped before their namespaces.
#[derive(Default)]
pub struct Overlays {
    _servers: Vec<iperf::Server>,
    pairs: Vec<Pair>,
}

impl Overlays {
    /// Builds the topologies that the options select.
    pub fn build(options: &Options, vswitch: Option<&Path>) -> Result<Self> {
        let mut topologies = Self::default();
        if !Measurement::OF_OVERLAY.iter().any(|measurement| options.wants(*measurement)) {
            return Ok(topologies);
        }
        for variant in options.variants(&Variant::OVERLAYS) {
            eprintln!("setting up: {}, on two hosts", variant.label());
            topologies.pairs.push(Pair::build(variant, vswitch)?);
        }
        if options.wants(Measurement::OverlayTcp1) || options.wants(Measurement::OverlayTcp4) {
            topologies._servers = topologies.pairs.iter().map(iperf::Server::start).collect::<Result<_>>()?;
        }
        Ok(topologies)
    }

    /// Takes one sample of each measurement.
    pub fn measure(&self, results: &mut Results, options: &Options, round: u32) -> Result<()> {
        for measurement in Measurement::OF_OVERLAY.into_iter().filter(|measurement| options.wants(*measurement)) {
            for pair in rotated(&self.pairs, round) {
                sample(results, measurement, pair, options)
                    .with_context(|| format!("measuring {} through {}", measurement.name(), pair.variant.label()))?;
            }
        }
        Ok(())
    }
}

fn sample(results: &mut Results, measurement: Measurement, pair: &Pair, options: &Options) -> Result<()> {
    let (figure, sample) = match measurement {
        Measurement::OverlayTcp1 => ("overlay_tcp1", iperf::gigabits_per_second(pair, 1, options.seconds())?),
        Measurement::OverlayTcp4 => ("overlay_tcp4", iperf::gigabits_per_second(pair, 4, options.seconds())?),
        Measurement::OverlayRr => ("overlay_rr", pingpong::round_trip(pair)?.p50),
        Measurement::OverlayUdp => ("overlay_udp", udp::delivered_per_second(pair, options.window())? / 1e3),
        _ => return Ok(()),
    };
    record(results, figure, pair.variant, sample);
    Ok(())
}
