//! From counters to rates.

use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

use crate::api::{Counters, PortView};

/// What went through a port in a second.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PortRate {
    /// The endpoint's name, or the device.
    pub port: String,
    /// `endpoint`, `host` or `uplink`.
    pub kind: String,
    /// The name of the network.
    pub network: String,
    /// Frames in.
    pub rx_frames_per_second: f64,
    /// Frames out.
    pub tx_frames_per_second: f64,
    /// Bits in.
    pub rx_bits_per_second: f64,
    /// Bits out.
    pub tx_bits_per_second: f64,
    /// Frames in that were dropped.
    pub drops_per_second: f64,
    /// For what most of them were.
    pub worst_drop: Option<String>,
}

/// By what rows are sorted: the highest first, names from A on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Sort {
    /// Bits in both directions
    #[default]
    Rate,
    /// Bits in
    Rx,
    /// Bits out
    Tx,
    /// Drops
    Drops,
    /// Name
    Name,
}

impl PortRate {
    /// Bits in both directions.
    pub fn bits(&self) -> f64 {
        self.rx_bits_per_second + self.tx_bits_per_second
    }

    /// As a row.
    pub fn cells(&self) -> [String; 9] {
        [
            self.port.clone(),
            self.kind.clone(),
            self.network.clone(),
            short(self.rx_frames_per_second),
            short(self.tx_frames_per_second),
            short(self.rx_bits_per_second),
            short(self.tx_bits_per_second),
            short(self.drops_per_second),
            self.worst_drop.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    }
}

impl Sort {
    pub fn apply(self, rows: &mut [PortRate]) {
        let key = |row: &PortRate| match self {
            Self::Rate => row.bits(),
            Self::Rx => row.rx_bits_per_second,
            Self::Tx => row.tx_bits_per_second,
            Self::Drops => row.drops_per_second,
            Self::Name => 0.0,
        };
        rows.sort_by(|one, other| {
            let by_name = (&one.port, &one.network).cmp(&(&other.port, &other.network));
            key(other).total_cmp(&key(one)).then(by_name)
        });
    }
}

/// What went through the ports between two looks at them.
pub fn rates(before: &[PortView], after: &[PortView], elapsed: Duration) -> Vec<PortRate> {
    // Two looks at the same moment say nothing; and nothing is divided by zero.
    let seconds = elapsed.as_secs_f64().max(1e-3);
    let same = |one: &PortView, other: &PortView| {
        (&one.port, &one.kind, &one.network) == (&other.port, &other.kind, &other.network)
    };
    let none = Counters::default();
    after
        .iter()
        .map(|port| {
            let now = &port.counters;
            // What was not there before has counted from 0.
            let then = before.iter().find(|other| same(other, port)).map_or(&none, |other| &other.counters);
            let per_second = |now: u64, then: u64| grown(now, then) as f64 / seconds;
            let drops = now
                .drops
                .iter()
                .map(|(reason, count)| (reason, grown(*count, then.drops.get(reason).copied().unwrap_or_default())));
            let drops: Vec<_> = drops.filter(|(_, count)| *count > 0).collect();
            let dropped: u64 = drops.iter().map(|(_, count)| count).sum();
            PortRate {
                port: port.port.clone(),
                kind: port.kind.clone(),
                network: port.network.clone(),
                rx_frames_per_second: per_second(now.rx_frames, then.rx_frames),
                tx_frames_per_second: per_second(now.tx_frames, then.tx_frames),
                rx_bits_per_second: 8.0 * per_second(now.rx_bytes, then.rx_bytes),
                tx_bits_per_second: 8.0 * per_second(now.tx_bytes, then.tx_bytes),
                drops_per_second: dropped as f64 / seconds,
                worst_drop: drops.into_iter().max_by_key(|(_, count)| *count).map(|(reason, _)| reason.clone()),
            }
        })
        .collect()
}

/// By how much a counter grew. One that is lower than before began anew: another port has the name.
fn grown(now: u64, then: u64) -> u64 {
    if now >= then { now - then } else { now }
}

/// A number in at most five places.
pub fn short(value: f64) -> String {
    let steps = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    match steps.into_iter().find(|(step, _)| value >= *step) {
        Some((step, unit)) if value / step < 9.95 => format!("{:.1}{unit}", value / step),
        Some((step, unit)) => format!("{:.0}{unit}", value / step),
        None => format!("{value:.0}"),
    }
}

#[cfg(test)]
pub mod tests {
    use vswitch_common::tables::PortCounters;
    use vswitch_common::verdict::DropReason;

    use super::*;

    /// A port whose counters stand at these.
    pub fn port(name: &str, network: &str, rx_frames: u64, storms: u64) -> PortView {
        let mut counters = PortCounters { rx_frames, rx_bytes: 100 * rx_frames, ..PortCounters::default() };
        counters.drops[DropReason::Storm as usize] = storms;
        counters.drops[DropReason::SamePort as usize] = storms / 2;
        PortView {
            port: name.to_owned(),
            kind: "endpoint".to_owned(),
            network: network.to_owned(),
            counters: Counters::from(&counters),
        }
    }

    #[test]
    fn rates_are_what_came_in_between_in_a_second() {
        let before = [port("a", "lan", 1000, 10), port("b", "lan", 500, 0)];
        let after = [port("a", "lan", 3000, 14), port("b", "lan", 100, 0), port("a", "wan", 40, 0)];
        let rows = rates(&before, &after, Duration::from_secs(2));
        let (a, b, new) = (&rows[0], &rows[1], &rows[2]);
        assert_eq!((a.rx_frames_per_second, a.rx_bits_per_second, a.drops_per_second), (1000.0, 800_000.0, 3.0));
        assert_eq!((a.worst_drop.as_deref(), b.worst_drop.as_deref()), (Some("storm"), None));
        assert_eq!((b.rx_frames_per_second, new.rx_frames_per_second), (50.0, 20.0), "made anew, and new");
        assert!(rates(&before, &after, Duration::ZERO)[0].rx_frames_per_second.is_finite());
    }

    #[test]
    fn rows_are_sorted_by_what_was_asked_for() {
        let after = [port("c", "lan", 10, 0), port("b", "lan", 30, 1), port("a", "lan", 20, 5)];
        let order = |sort: Sort| {
            let mut rows = rates(&[], &after, Duration::from_secs(1));
            sort.apply(&mut rows);
            rows.into_iter().map(|row| row.port).collect::<String>()
        };
        assert_eq!(
            [Sort::Rate, Sort::Rx, Sort::Drops, Sort::Name, Sort::Tx].map(order),
            ["bac", "bac", "abc", "abc", "abc"]
        );
    }

    #[test]
    fn numbers_are_short() {
        let texts = [0.0, 0.4, 999.0, 1000.0, 9949.0, 12_345.0, 1.5e6, 25e9, 4e12].map(short);
        assert_eq!(texts, ["0", "0", "999", "1.0k", "9.9k", "12k", "1.5M", "25G", "4.0T"]);
    }
}
