//! The arguments of `run`.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::measurement::Measurement;
use crate::topology::Variant;

#[derive(Args)]
pub struct Options {
    /// Samples per variant
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) rounds: u32,
    /// Seconds per sample of throughput
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(super) seconds: u32,
    /// Take only this measurement (may be repeated)
    #[arg(long, value_name = "MEASUREMENT")]
    pub(super) only: Vec<Measurement>,
    /// Measure only this variant (may be repeated); ratios need `direct` and `bridge`
    #[arg(long, value_name = "VARIANT")]
    pub(super) variant: Vec<Variant>,
    /// Directory for result.json and ratios.svg [default: bench/results/<time>]
    #[arg(long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
    /// The vswitch binary [default: the one beside this binary]
    #[arg(long, value_name = "PATH")]
    pub(super) vswitch: Option<PathBuf>,
    /// List the goals that were missed and exit with 1 if there are any
    #[arg(long)]
    pub(super) check: bool,
}

impl Options {
    /// Returns whether a measurement is selected.
    pub fn wants(&self, measurement: Measurement) -> bool {
        let all_of_these = self.only.contains(&Measurement::Operators)
            && Measurement::OF_OPERATORS.contains(&measurement)
            || self.only.contains(&Measurement::Wire) && Measurement::OF_WIRE.contains(&measurement)
            || self.only.contains(&Measurement::Overlay) && Measurement::OF_OVERLAY.contains(&measurement);
        self.only.is_empty() || self.only.contains(&measurement) || all_of_these
    }

    /// Returns whether a variant is selected.
    pub fn wants_variant(&self, variant: Variant) -> bool {
        self.variant.is_empty() || self.variant.contains(&variant)
    }

    /// Returns the selected ones of `all`.
    pub fn variants(&self, all: &[Variant]) -> Vec<Variant> {
        all.iter().copied().filter(|variant| self.wants_variant(*variant)).collect()
    }

    /// Returns the duration of a throughput sample in seconds.
    pub fn seconds(&self) -> u32 {
        self.seconds
    }

    /// Returns the duration of a throughput sample.
    pub fn window(&self) -> Duration {
        Duration::from_secs(self.seconds.into())
    }

    /// Returns whether a selected measurement and variant require the vswitch binary.
    pub fn needs_vswitch(&self) -> bool {
        let on_pairs = Measurement::ON_PAIRS.iter().any(|measurement| self.wants(*measurement));
        let chosen = |all: &[Variant]| self.variants(all).iter().any(|variant| variant.needs_vswitch());
        on_pairs && chosen(&Variant::PAIRS)
            || self.wants(Measurement::Published) && chosen(&Variant::PUBLISHED)
            || self.wants(Measurement::Frames) && chosen(&Variant::UPLINKS)
            || Measurement::OF_WIRE.iter().any(|measurement| self.wants(*measurement)) && chosen(&Variant::WIRES)
            || Measurement::OF_OVERLAY.iter().any(|measurement| self.wants(*measurement)) && chosen(&Variant::OVERLAYS)
            || self.wants(Measurement::Flood) && chosen(&Variant::FLOODS)
            || self.wants(Measurement::Learn) && chosen(&Variant::LEARNERS)
            || self.wants(Measurement::Guards) && chosen(&[Variant::Vswitch, Variant::VswitchOpen])
            || [
                Measurement::Fdb,
                Measurement::Monitor,
                Measurement::Attach,
                Measurement::Start,
                Measurement::Names,
                Measurement::Scale,
                Measurement::Cluster,
            ]
            .iter()
            .any(|measurement| self.wants(*measurement))
                && self.wants_variant(Variant::Vswitch)
            || self.wants(Measurement::Cost) && (chosen(&Variant::PAIRS) || chosen(&Variant::UPLINKS))
    }
}
