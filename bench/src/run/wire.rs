//! Traffic between the wire and a container on it, in both directions, beside the kernel's macvlan.

use std::path::Path;

use anyhow::{Context as _, Result};

use super::{
    measurement::Measurement,
    options::Options,
    rounds::{record, rotated},
};
use crate::{
    measure::{frames, iperf, pingpong},
    results::Results,
    topology::{Uplink, Variant},
};

/// The topologies of all rounds. Servers are dropped before their namespaces.
#[derive(Default)]
pub struct Wires {
    _servers: Vec<iperf::Server>,
    wires: Vec<Uplink>,
}

impl Wires {
    /// Builds the topologies that the options select.
    pub fn build(options: &Options, vswitch: Option<&Path>) -> Result<Self> {
        let mut topologies = Self::default();
        if !Measurement::OF_WIRE.iter().any(|measurement| options.wants(*measurement)) {
            return Ok(topologies);
        }
        for variant in options.variants(&Variant::WIRES) {
            eprintln!("setting up: {}, on a wire", variant.label());
            topologies.wires.push(Uplink::build(variant, vswitch)?);
        }
        if options.wants(Measurement::WireTcp1) || options.wants(Measurement::WireTcp4) {
            let endpoints = topologies.wires.iter().flat_map(|wire| [&wire.container, &wire.wire]);
            topologies._servers = endpoints.map(iperf::Server::start_at).collect::<Result<_>>()?;
        }
        Ok(topologies)
    }

    /// Takes one sample of each measurement.
    pub fn measure(&self, results: &mut Results, options: &Options, round: u32) -> Result<()> {
        for measurement in Measurement::OF_WIRE.into_iter().filter(|measurement| options.wants(*measurement)) {
            for wire in rotated(&self.wires, round) {
                sample(results, measurement, wire, options)
                    .with_context(|| format!("measuring {} through {}", measurement.name(), wire.variant.label()))?;
            }
        }
        Ok(())
    }
}

fn sample(results: &mut Results, measurement: Measurement, wire: &Uplink, options: &Options) -> Result<()> {
    let mut record = |figure, sample| record(results, figure, wire.variant, sample);
    match measurement {
        Measurement::WireTcp1 => {
            record("wire_tcp1", wire_to_container(wire, 1, options.seconds())?);
            record("wire_tcp1_back", container_to_wire(wire, 1, options.seconds())?);
        }
        Measurement::WireTcp4 => {
            record("wire_tcp4", wire_to_container(wire, 4, options.seconds())?);
            record("wire_tcp4_back", container_to_wire(wire, 4, options.seconds())?);
        }
        Measurement::WireRr => record("wire_rr", pingpong::round_trip_between(&wire.wire, &wire.container)?.p50),
        // These variants differ only in TCP segments finished by the far end, and frames are
        // injected behind it.
        Measurement::WireFrames if matches!(wire.variant, Variant::MacvlanPlain | Variant::MacvlanUntagged) => {}
        Measurement::WireFrames => record("wire_frames", frames::delivered_mpps(wire, options.window())?),
        _ => {}
    }
    Ok(())
}

fn wire_to_container(wire: &Uplink, streams: u32, seconds: u32) -> Result<f64> {
    iperf::gigabits_per_second_to(&wire.wire.netns, wire.container.ipv4, streams, seconds)
}

fn container_to_wire(wire: &Uplink, streams: u32, seconds: u32) -> Result<f64> {
    iperf::gigabits_per_second_to(&wire.container.netns, wire.wire.ipv4, streams, seconds)
}
