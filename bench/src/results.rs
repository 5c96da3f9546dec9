//! The figures of a run with their samples.

use crate::{
    measure::cost::Cost,
    statistics::{Summary, paired_ratio},
    topology::Variant,
};

/// The description of a figure.
#[derive(Debug)]
pub struct FigureKind {
    /// Key in JSON and goals.
    pub key: &'static str,
    /// Title in tables and plots.
    pub title: &'static str,
    /// Unit of the samples.
    pub unit: &'static str,
    /// Whether a higher value is better.
    pub more_is_better: bool,
    /// The row for comparison, if it is not the direct wire, the bridge or Docker.
    pub baseline: Option<&'static str>,
    /// Whether all rows have samples of the same rounds, so that their ratios are meaningful.
    pub has_ratios: bool,
}

/// All figures, in the order of the output.
pub const FIGURES: [FigureKind; 47] = [
    higher_is_better("tcp1", "TCP, 1 stream", "Gbit/s"),
    higher_is_better("tcp4", "TCP, 4 streams", "Gbit/s"),
    lower_is_better("rr_p50", "TCP request-response, p50", "us"),
    lower_is_better("rr_p99", "TCP request-response, p99", "us"),
    higher_is_better("udp", "UDP, 60-byte frames", "kpps"),
    higher_is_better("frames", "60-byte frames, uplink to container", "Mpps"),
    lower_is_better("attach", "attach", "ms"),
    FigureKind { has_ratios: false, ..lower_is_better("start", "start of the daemon", "s") },
    FigureKind { has_ratios: false, ..lower_is_better("memory", "daemon, resident", "MB") },
    higher_is_better("published1", "published port, 1 stream", "Gbit/s"),
    higher_is_better("published4", "published port, 4 streams", "Gbit/s"),
    higher_is_better("published_cps", "published port, connections", "k/s"),
    higher_is_better("names1", "names, 1 query at a time", "k/s"),
    lower_is_better("names1_p99", "names, 1 query at a time, p99", "us"),
    higher_is_better("names16", "names, 16 at a time", "k/s"),
    lower_is_better("names16_p99", "names, 16 at a time, p99", "us"),
    FigureKind { has_ratios: false, ..lower_is_better("scale", "1,000 endpoints in 20 networks", "s") },
    lower_is_better("scale_attach", "attach, of 1,000", "ms"),
    higher_is_better("fdb", "FDB, frames to all stations, tcx", "Mpps").against("fdb10"),
    higher_is_better("fdb_xdp", "FDB, frames to all stations, XDP", "Mpps").against("fdb10"),
    higher_is_better("fdb_few", "FDB, frames to ten stations, tcx", "Mpps").against("fdb10"),
    higher_is_better("fdb_few_xdp", "FDB, frames to ten stations, XDP", "Mpps").against("fdb10"),
    higher_is_better("learn", "stations learned", "k/s"),
    higher_is_better("flood2", "broadcast, to 2 ports", "kpps").against("vswitch"),
    higher_is_better("flood16", "broadcast, to 16 ports", "kpps").against("vswitch"),
    higher_is_better("flood128", "broadcast, to 128 ports", "kpps").against("vswitch"),
    higher_is_better("guards_tcp1", "guards, TCP, 1 stream", "Gbit/s").against("vswitch_open"),
    higher_is_better("guards_tcp4", "guards, TCP, 4 streams", "Gbit/s").against("vswitch_open"),
    lower_is_better("guards_rr", "guards, request-response p50", "us").against("vswitch_open"),
    lower_is_better("guards_ns", "guards, program on a container's port", "ns").against("vswitch_open"),
    higher_is_better("monitor_tcp1", "monitor, TCP, 1 stream", "Gbit/s").against("unwatched"),
    higher_is_better("monitor_tcp4", "monitor, TCP, 4 streams", "Gbit/s").against("unwatched"),
    lower_is_better("monitor_ns", "monitor, program on a container's port", "ns").against("unwatched"),
    higher_is_better("wire_tcp1", "wire to container, TCP, 1 stream", "Gbit/s").against("macvlan"),
    higher_is_better("wire_tcp1_back", "container to wire, TCP, 1 stream", "Gbit/s").against("macvlan"),
    higher_is_better("wire_tcp4", "wire to container, TCP, 4 streams", "Gbit/s").against("macvlan"),
    higher_is_better("wire_tcp4_back", "container to wire, TCP, 4 streams", "Gbit/s").against("macvlan"),
    lower_is_better("wire_rr", "wire and container, request-response p50", "us").against("macvlan"),
    higher_is_better("wire_frames", "wire to container, 60-byte frames", "Mpps").against("macvlan"),
    higher_is_better("overlay_tcp1", "to another host, TCP, 1 stream", "Gbit/s").against("vxlan_bridge"),
    higher_is_better("overlay_tcp4", "to another host, TCP, 4 streams", "Gbit/s").against("vxlan_bridge"),
    lower_is_better("overlay_rr", "to another host, request-response p50", "us").against("vxlan_bridge"),
    higher_is_better("overlay_udp", "to another host, UDP, 60-byte frames", "kpps").against("vxlan_bridge"),
    FigureKind {
        has_ratios: false,
        ..lower_is_better("cluster_reach", "time to a new endpoint, from another host", "ms")
    },
    FigureKind { has_ratios: false, ..lower_is_better("cluster_memory", "daemon in a cluster, resident", "MB") },
    FigureKind { has_ratios: false, ..lower_is_better("cluster_follow", "100,000 endpoints of 1,000 hosts", "s") },
    FigureKind { has_ratios: false, ..higher_is_better("cluster_rate", "endpoints of other hosts", "k/s") },
];

const fn higher_is_better(key: &'static str, title: &'static str, unit: &'static str) -> FigureKind {
    FigureKind { key, title, unit, more_is_better: true, baseline: None, has_ratios: true }
}

const fn lower_is_better(key: &'static str, title: &'static str, unit: &'static str) -> FigureKind {
    FigureKind { more_is_better: false, ..higher_is_better(key, title, unit) }
}

impl FigureKind {
    const fn against(self, baseline: &'static str) -> Self {
        Self { baseline: Some(baseline), ..self }
    }
}

/// A figure with its samples.
#[derive(Debug)]
pub struct Figure {
    /// The description.
    pub kind: &'static FigureKind,
    /// Key and samples of each row, in the order of the output.
    pub rows: Vec<(&'static str, Vec<f64>)>,
}

/// All results of a run.
#[derive(Debug, Default)]
pub struct Results {
    /// The figures in the order of [`FIGURES`].
    pub figures: Vec<Figure>,
    /// The costs of the switch's programs.
    pub costs: Vec<Cost>,
}

impl Results {
    /// Adds a sample. Every row of a figure gets one per round.
    pub fn record(&mut self, figure: &str, row: &'static str, sample: f64) {
        let Some(position) = FIGURES.iter().position(|kind| kind.key == figure) else {
            unreachable!("{figure} is not in FIGURES");
        };
        let kind = &FIGURES[position];
        let index = match self.figures.binary_search_by_key(&position, |known| position_of(known.kind)) {
            Ok(index) => index,
            Err(index) => {
                self.figures.insert(index, Figure { kind, rows: Vec::new() });
                index
            }
        };
        let rows = &mut self.figures[index].rows;
        match rows.iter_mut().find(|(key, _)| *key == row) {
            Some((_, samples)) => samples.push(sample),
            None => {
                rows.push((row, vec![sample]));
                // Each round starts with another variant, but the order of rows is fixed.
                rows.sort_by_key(|(key, _)| variant(key));
            }
        }
    }

    /// Returns a figure, if it was measured.
    pub fn figure(&self, key: &str) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.kind.key == key)
    }
}

impl Figure {
    /// Returns the samples of a row.
    pub fn samples(&self, row: &str) -> Option<&[f64]> {
        self.rows.iter().find(|(key, _)| *key == row).map(|(_, samples)| samples.as_slice())
    }

    /// Returns median and spread of a row.
    pub fn summary(&self, row: &str) -> Option<Summary> {
        Summary::of(self.samples(row)?)
    }

    /// Returns the ratio of a row to the baseline of the figure.
    pub fn ratio_to_own_baseline(&self, row: &str) -> Option<f64> {
        self.ratio(row, self.kind.baseline?)
    }

    /// Returns the ratio of a row to another one, paired by round.
    pub fn ratio(&self, row: &str, baseline: &str) -> Option<f64> {
        self.kind.has_ratios.then(|| paired_ratio(self.samples(row)?, self.samples(baseline)?))?
    }
}

/// Returns the variant with this key, if the row is one.
pub fn variant(key: &str) -> Option<Variant> {
    Variant::ALL.into_iter().find(|variant| variant.key() == key)
}

fn position_of(kind: &FigureKind) -> usize {
    FIGURES.iter().position(|known| known.key == kind.key).unwrap_or(FIGURES.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_of_figures_and_rows_is_fixed() {
        let mut results = Results::default();
        results.record("udp", "vswitch", 1.0);
        results.record("tcp1", "bridge", 1.0);
        results.record("udp", "direct", 1.0);
        results.record("udp", "direct", 3.0);
        let keys: Vec<_> = results.figures.iter().map(|figure| figure.kind.key).collect();
        assert_eq!(keys, ["tcp1", "udp"]);
        let rows: Vec<_> = results.figures[1].rows.iter().map(|(key, samples)| (*key, samples.len())).collect();
        assert_eq!(rows, [("direct", 2), ("vswitch", 1)]);
    }
}
