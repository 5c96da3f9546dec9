//! From the wire to a container on it and back, beside the kernel's macvlan.

use std::path::Path;

use anyhow::{Context as _, Result};

use super::{What, frames, iperf, pingpong};
use crate::{
    report::Results,
    run::{Options, in_turn, note},
    topology::{Uplink, Variant},
};

/// What is set up for as long as the rounds last. Servers go before what they listen in.
#[derive(Default)]
pub struct Wires {
    _servers: Vec<iperf::Server>,
    wires: Vec<Uplink>,
}

impl Wires {
    /// Sets up what the options ask for.
    pub fn build(options: &Options, vswitch: Option<&Path>) -> Result<Self> {
        let mut all = Self::default();
        if !What::OF_WIRE.iter().any(|what| options.wants(*what)) {
            return Ok(all);
        }
        for variant in options.variants(&Variant::WIRES) {
            eprintln!("setting up: {}, on a wire", variant.label());
            all.wires.push(Uplink::build(variant, vswitch)?);
        }
        if options.wants(What::WireTcp1) || options.wants(What::WireTcp4) {
            let ends = all.wires.iter().flat_map(|wire| [&wire.container, &wire.wire]);
            all._servers = ends.map(iperf::Server::start_at).collect::<Result<_>>()?;
        }
        Ok(all)
    }

    /// One sample of each.
    pub fn measure(&self, results: &mut Results, options: &Options, round: u32) -> Result<()> {
        for what in What::OF_WIRE.into_iter().filter(|what| options.wants(*what)) {
            for wire in in_turn(&self.wires, round) {
                sample(results, what, wire, options)
                    .with_context(|| format!("measuring {} through {}", what.name(), wire.variant.label()))?;
            }
        }
        Ok(())
    }
}

fn sample(results: &mut Results, what: What, wire: &Uplink, options: &Options) -> Result<()> {
    let mut note = |figure, sample| note(results, figure, wire.variant, sample);
    match what {
        What::WireTcp1 => {
            note("wire_tcp1", inwards(wire, 1, options.seconds())?);
            note("wire_tcp1_back", outwards(wire, 1, options.seconds())?);
        }
        What::WireTcp4 => {
            note("wire_tcp4", inwards(wire, 4, options.seconds())?);
            note("wire_tcp4_back", outwards(wire, 4, options.seconds())?);
        }
        What::WireRr => note("wire_rr", pingpong::between(&wire.wire, &wire.container)?.p50),
        // Only TCP's segments differ by what the far end does; the frames are injected behind it.
        What::WireFrames if matches!(wire.variant, Variant::MacvlanPlain | Variant::MacvlanUntagged) => {}
        What::WireFrames => note("wire_frames", frames::delivered_mpps(wire, options.window())?),
        _ => {}
    }
    Ok(())
}

fn inwards(wire: &Uplink, streams: u32, seconds: u32) -> Result<f64> {
    iperf::from_to(&wire.wire.netns, wire.container.ipv4, streams, seconds)
}

fn outwards(wire: &Uplink, streams: u32, seconds: u32) -> Result<f64> {
    iperf::from_to(&wire.container.netns, wire.wire.ipv4, streams, seconds)
}
