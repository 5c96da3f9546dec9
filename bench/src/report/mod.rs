//! The results of a run, and the three ways to show them.

mod json;
mod plot;
mod table;

pub use json::write as write_json;
pub use plot::write as write_plot;
pub use table::{align_right, costs as cost_table, figures as figure_table, goals as goal_table, table};

use crate::{
    measure::cost::Cost,
    statistics::{Summary, paired_ratio},
    topology::Variant,
};

/// What a figure is.
#[derive(Debug)]
pub struct Kind {
    /// In JSON and goals.
    pub key: &'static str,
    /// In tables and plots.
    pub title: &'static str,
    /// Of its samples.
    pub unit: &'static str,
    /// Whether more is better.
    pub more_is_better: bool,
    /// The row that the others are compared with where it is neither a wire nor a bridge nor Docker.
    pub baseline: Option<&'static str>,
    /// Whether the median is of rounds that all rows took part in, so that ratios mean something.
    pub compares: bool,
}

/// All figures that a run can have, in the order that they are shown in.
pub const FIGURES: [Kind; 46] = [
    more("tcp1", "TCP, 1 stream", "Gbit/s"),
    more("tcp4", "TCP, 4 streams", "Gbit/s"),
    less("rr_p50", "TCP request-response, p50", "us"),
    less("rr_p99", "TCP request-response, p99", "us"),
    more("udp", "UDP, 60-byte frames", "kpps"),
    more("frames", "60-byte frames, uplink to container", "Mpps"),
    less("attach", "attach", "ms"),
    Kind { compares: false, ..less("memory", "daemon, resident", "MB") },
    more("published1", "published port, 1 stream", "Gbit/s"),
    more("published4", "published port, 4 streams", "Gbit/s"),
    more("published_cps", "published port, connections", "k/s"),
    more("names1", "names, 1 query at a time", "k/s"),
    less("names1_p99", "names, 1 query at a time, p99", "us"),
    more("names16", "names, 16 at a time", "k/s"),
    less("names16_p99", "names, 16 at a time, p99", "us"),
    Kind { compares: false, ..less("scale", "1,000 endpoints in 20 networks", "s") },
    less("scale_attach", "attach, of 1,000", "ms"),
    more("fdb", "FDB, frames to all stations, tcx", "Mpps").beside("fdb10"),
    more("fdb_xdp", "FDB, frames to all stations, XDP", "Mpps").beside("fdb10"),
    more("fdb_few", "FDB, frames to ten stations, tcx", "Mpps").beside("fdb10"),
    more("fdb_few_xdp", "FDB, frames to ten stations, XDP", "Mpps").beside("fdb10"),
    more("learn", "stations learned", "k/s"),
    more("flood2", "broadcast, to 2 ports", "kpps").beside("vswitch"),
    more("flood16", "broadcast, to 16 ports", "kpps").beside("vswitch"),
    more("flood128", "broadcast, to 128 ports", "kpps").beside("vswitch"),
    more("guards_tcp1", "guards, TCP, 1 stream", "Gbit/s").beside("vswitch_open"),
    more("guards_tcp4", "guards, TCP, 4 streams", "Gbit/s").beside("vswitch_open"),
    less("guards_rr", "guards, request-response p50", "us").beside("vswitch_open"),
    less("guards_ns", "guards, program on a container's port", "ns").beside("vswitch_open"),
    more("monitor_tcp1", "monitor, TCP, 1 stream", "Gbit/s").beside("unwatched"),
    more("monitor_tcp4", "monitor, TCP, 4 streams", "Gbit/s").beside("unwatched"),
    less("monitor_ns", "monitor, program on a container's port", "ns").beside("unwatched"),
    more("wire_tcp1", "wire to container, TCP, 1 stream", "Gbit/s").beside("macvlan"),
    more("wire_tcp1_back", "container to wire, TCP, 1 stream", "Gbit/s").beside("macvlan"),
    more("wire_tcp4", "wire to container, TCP, 4 streams", "Gbit/s").beside("macvlan"),
    more("wire_tcp4_back", "container to wire, TCP, 4 streams", "Gbit/s").beside("macvlan"),
    less("wire_rr", "wire and container, request-response p50", "us").beside("macvlan"),
    more("wire_frames", "wire to container, 60-byte frames", "Mpps").beside("macvlan"),
    more("overlay_tcp1", "to another host, TCP, 1 stream", "Gbit/s").beside("vxlan_bridge"),
    more("overlay_tcp4", "to another host, TCP, 4 streams", "Gbit/s").beside("vxlan_bridge"),
    less("overlay_rr", "to another host, request-response p50", "us").beside("vxlan_bridge"),
    more("overlay_udp", "to another host, UDP, 60-byte frames", "kpps").beside("vxlan_bridge"),
    Kind { compares: false, ..less("cluster_reach", "new endpoint, from another host", "ms") },
    Kind { compares: false, ..less("cluster_memory", "daemon in a cluster, resident", "MB") },
    Kind { compares: false, ..less("cluster_follow", "100,000 endpoints of 1,000 hosts", "s") },
    Kind { compares: false, ..more("cluster_rate", "endpoints of other hosts", "k/s") },
];

const fn more(key: &'static str, title: &'static str, unit: &'static str) -> Kind {
    Kind { key, title, unit, more_is_better: true, baseline: None, compares: true }
}

const fn less(key: &'static str, title: &'static str, unit: &'static str) -> Kind {
    Kind { more_is_better: false, ..more(key, title, unit) }
}

impl Kind {
    const fn beside(self, baseline: &'static str) -> Self {
        Self { baseline: Some(baseline), ..self }
    }
}

/// A figure with its samples.
#[derive(Debug)]
pub struct Figure {
    /// What it is.
    pub kind: &'static Kind,
    /// Key and samples, in the order of the rows.
    pub rows: Vec<(&'static str, Vec<f64>)>,
}

/// All that a run has measured.
#[derive(Debug, Default)]
pub struct Results {
    /// In the order of [`FIGURES`].
    pub figures: Vec<Figure>,
    /// Of the switch's programs.
    pub costs: Vec<Cost>,
}

impl Results {
    /// Adds one sample. Every row of a figure gets one per round.
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
                // Rounds start with another variant each; the table does not.
                rows.sort_by_key(|(key, _)| rank(key));
            }
        }
    }

    /// A figure, if it was measured.
    pub fn figure(&self, key: &str) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.kind.key == key)
    }
}

impl Figure {
    /// The samples of a row.
    pub fn samples(&self, row: &str) -> Option<&[f64]> {
        self.rows.iter().find(|(key, _)| *key == row).map(|(_, samples)| samples.as_slice())
    }

    /// Median and spread of a row.
    pub fn summary(&self, row: &str) -> Option<Summary> {
        Summary::of(self.samples(row)?)
    }

    /// A row by the one that this figure compares with.
    pub fn ratio_to_own_baseline(&self, row: &str) -> Option<f64> {
        self.ratio(row, self.kind.baseline?)
    }

    /// A row by another one, round by round.
    pub fn ratio(&self, row: &str, baseline: &str) -> Option<f64> {
        self.kind.compares.then(|| paired_ratio(self.samples(row)?, self.samples(baseline)?))?
    }
}

/// What a row is called in tables and plots.
fn label<'key>(figure: &Kind, row: &'key str) -> &'key str {
    match (figure.key, row) {
        ("frames" | "wire_frames", "direct") => "no switch at all",
        ("published1" | "published4" | "published_cps", "direct") => "no NAT, straight behind the uplink",
        ("attach", "bridge") => "Linux bridge, by five `ip` commands",
        ("memory", "vswitch_empty") => "vswitch, no endpoint",
        ("memory", "vswitch_full") => "vswitch, 50 endpoints",
        ("scale", "create") => "vswitch, creating the networks",
        ("scale", "attach") => "vswitch, attaching all",
        ("scale", "remove") => "vswitch, removing all",
        ("scale", "total") => "vswitch, all of it",
        ("scale_attach", "first") => "vswitch, the first hundred",
        ("scale_attach", "last") => "vswitch, the last hundred",
        ("cluster_reach", "attach") => "vswitch, request to answer",
        ("cluster_reach", "from_return") => "vswitch, answer to first reply",
        ("cluster_reach", "from_start") => "vswitch, request to first reply",
        ("cluster_memory", "alone") => "vswitch, no other host",
        ("cluster_memory", "running") => "vswitch, 100,000 have come",
        ("cluster_memory", "started") => "vswitch, 100,000 were there",
        ("cluster_follow", "running") => "vswitch, last write to last entry",
        ("cluster_follow", "up") => "vswitch, `up`",
        ("cluster_follow", "told") => "vswitch, `up` to all known",
        ("cluster_follow", "started") => "vswitch, `up` to last entry",
        ("cluster_rate", "written") => "etcd, written",
        ("cluster_rate", "followed") => "vswitch, written and followed",
        ("cluster_rate", "moved") => "vswitch, written and moved in the tables",
        (_, "fdb10") => "vswitch, 10 stations",
        (_, "fdb10k") => "vswitch, 10,000 stations",
        (_, "fdb1m") => "vswitch, 1,000,000 stations",
        (_, "unwatched") => "vswitch, nobody watches",
        (_, "for_others") => "vswitch, watched for other frames",
        (_, "for_all") => "vswitch, watched",
        ("guards_tcp1" | "guards_tcp4" | "guards_rr" | "guards_ns", "vswitch") => "vswitch, guards on",
        _ => match variant(row) {
            Some(variant) => variant.label(),
            None => row,
        },
    }
}

fn variant(key: &str) -> Option<Variant> {
    Variant::ALL.into_iter().find(|variant| variant.key() == key)
}

fn rank(key: &str) -> Option<Variant> {
    variant(key)
}

fn position_of(kind: &Kind) -> usize {
    FIGURES.iter().position(|known| known.key == kind.key).unwrap_or(FIGURES.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_and_rows_keep_their_order_whatever_is_measured_first() {
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
