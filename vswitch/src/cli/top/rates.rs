//! Rates per second, computed from counters.

use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

use crate::api::{Counters, PortView};

/// The rates of a port.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PortRate {
    /// The name of the endpoint or device.
    pub port: String,
    /// `endpoint`, `host` or `uplink`.
    pub kind: String,
    /// The name of the network.
    pub network: String,
    /// Frames received.
    pub rx_frames_per_second: f64,
    /// Frames sent.
    pub tx_frames_per_second: f64,
    /// Bits received.
    pub rx_bits_per_second: f64,
    /// Bits sent.
    pub tx_bits_per_second: f64,
    /// Received frames that were dropped.
    pub drops_per_second: f64,
    /// The most frequent drop reason.
    pub worst_drop: Option<String>,
}

/// The sort order of rows: highest rate first, names alphabetically.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Sort {
    /// Bits in both directions
    #[default]
    Rate,
    /// Bits received
    Rx,
    /// Bits sent
    Tx,
    /// Dropped frames
    Drops,
    /// Name of the port
    Name,
}

impl PortRate {
    /// Returns the bits per second in both directions.
    pub fn bits(&self) -> f64 {
        self.rx_bits_per_second + self.tx_bits_per_second
    }

    /// Formats the rates as a table row.
    pub fn cells(&self) -> [String; 9] {
        [
            self.port.clone(),
            self.kind.clone(),
            self.network.clone(),
            abbreviate(self.rx_frames_per_second),
            abbreviate(self.tx_frames_per_second),
            abbreviate(self.rx_bits_per_second),
            abbreviate(self.tx_bits_per_second),
            abbreviate(self.drops_per_second),
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

/// Computes the rates from two samples of the counters that are `elapsed` apart.
pub fn rates(before: &[PortView], after: &[PortView], elapsed: Duration) -> Vec<PortRate> {
    // The lower bound avoids a division by zero for two samples at the same moment.
    let seconds = elapsed.as_secs_f64().max(1e-3);
    let same = |one: &PortView, other: &PortView| {
        (&one.port, &one.kind, &one.network) == (&other.port, &other.kind, &other.network)
    };
    let none = Counters::default();
    after
        .iter()
        .map(|port| {
            let now = &port.counters;
            // The counters of a new port started at 0.
            let then = before.iter().find(|other| same(other, port)).map_or(&none, |other| &other.counters);
            let per_second = |now: u64, then: u64| growth(now, then) as f64 / seconds;
            let drops = now
                .drops
                .iter()
                .map(|(reason, count)| (reason, growth(*count, then.drops.get(reason).copied().unwrap_or_default())));
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

/// Returns the growth of a counter. A counter that is lower than before belongs to a new port of
/// the same name and started at 0.
fn growth(now: u64, then: u64) -> u64 {
    if now >= then { now - then } else { now }
}

/// Formats a number in at most five characters.
pub fn abbreviate(value: f64) -> String {
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

    /// Returns a port with these counters.
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
    fn rates_are_growth_per_second() {
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
    fn rows_are_sorted_by_the_selected_column() {
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
    fn numbers_have_at_most_five_characters() {
        let texts = [0.0, 0.4, 999.0, 1000.0, 9949.0, 12_345.0, 1.5e6, 25e9, 4e12].map(abbreviate);
        assert_eq!(texts, ["0", "0", "999", "1.0k", "9.9k", "12k", "1.5M", "25G", "4.0T"]);
    }
}
