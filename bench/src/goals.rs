//! The goals that results are compared with.

use serde::Serialize;

use crate::results::Results;

/// A goal: a bound on a row of a figure, or on its ratio to another row of the same figure.
struct Goal {
    name: &'static str,
    figure: &'static str,
    row: &'static str,
    against: Option<&'static str>,
    bound: Bound,
}

#[derive(Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

use Bound::{AtLeast, AtMost};

const fn ratio(
    name: &'static str,
    figure: &'static str,
    row: &'static str,
    against: &'static str,
    bound: Bound,
) -> Goal {
    Goal { name, figure, row, against: Some(against), bound }
}

const fn value(name: &'static str, figure: &'static str, row: &'static str, bound: Bound) -> Goal {
    Goal { name, figure, row, against: None, bound }
}

/// Sources: issue 2, "Bench, in this machine's own ratios", issues 3 and 4, "Bench additions", and
/// issues 5, 6 and 15, "Bench".
const GOALS: [Goal; 47] = [
    ratio("TCP, 1 stream / direct veth", "tcp1", "vswitch", "direct", AtLeast(0.97)),
    ratio("TCP, 1 stream / Linux bridge", "tcp1", "vswitch", "bridge", AtLeast(1.2)),
    ratio("TCP, 4 streams / direct veth", "tcp4", "vswitch", "direct", AtLeast(0.97)),
    ratio("TCP, 4 streams / Linux bridge", "tcp4", "vswitch", "bridge", AtLeast(1.2)),
    ratio("request-response p50 / direct veth", "rr_p50", "vswitch", "direct", AtMost(1.05)),
    ratio("60-byte frames by XDP / Linux bridge", "frames", "uplink_xdp", "bridge", AtLeast(2.4)),
    ratio("60-byte frames by tcx alone / Linux bridge", "frames", "uplink_tcx", "bridge", AtLeast(1.4)),
    value("attach, ms at the median", "attach", "vswitch", AtMost(20.0)),
    value("up, s at the median", "start", "up", AtMost(0.4)),
    value("takeover of 10 endpoints, s at the median", "start", "takeover", AtMost(0.2)),
    value("daemon with 50 endpoints, MB resident", "memory", "vswitch_full", AtMost(25.0)),
    ratio("published port, 1 stream / Docker", "published1", "vswitch", "docker", AtLeast(1.0)),
    ratio("published port, 4 streams / Docker", "published4", "vswitch", "docker", AtLeast(1.0)),
    ratio("published port, connections / Docker", "published_cps", "vswitch", "docker", AtLeast(1.0)),
    ratio("attach, the last of 1,000 / the first", "scale_attach", "last", "first", AtMost(1.5)),
    ratio("FDB, tcx, 10,000 stations / 10", "fdb", "fdb10k", "fdb10", AtLeast(0.9)),
    ratio("FDB, tcx, 1,000,000 stations / 10", "fdb", "fdb1m", "fdb10", AtLeast(0.9)),
    ratio("FDB, XDP, 10,000 stations / 10", "fdb_xdp", "fdb10k", "fdb10", AtLeast(0.9)),
    ratio("FDB, XDP, 1,000,000 stations / 10", "fdb_xdp", "fdb1m", "fdb10", AtLeast(0.9)),
    ratio("broadcast to 2 ports / Linux bridge", "flood2", "vswitch", "bridge", AtLeast(1.0)),
    ratio("broadcast to 16 ports / Linux bridge", "flood16", "vswitch", "bridge", AtLeast(1.0)),
    ratio("broadcast to 128 ports / Linux bridge", "flood128", "vswitch", "bridge", AtLeast(1.0)),
    ratio("broadcast to 2 ports, 1,000 elsewhere / none", "flood2", "vswitch_crowd", "vswitch", AtLeast(0.95)),
    ratio("TCP, 1 stream, monitored for other frames / not", "monitor_tcp1", "for_others", "unwatched", AtLeast(0.98)),
    ratio("TCP, 1 stream, monitored / not", "monitor_tcp1", "for_all", "unwatched", AtLeast(0.9)),
    ratio("TCP, 4 streams, monitored for other frames / not", "monitor_tcp4", "for_others", "unwatched", AtLeast(0.98)),
    ratio("TCP, 4 streams, monitored / not", "monitor_tcp4", "for_all", "unwatched", AtLeast(0.9)),
    ratio("TCP, 1 stream, wire to container, tcx / macvlan", "wire_tcp1", "macvlan_tcx", "macvlan", AtLeast(1.0)),
    ratio(
        "TCP, 1 stream, wire to container, XDP / macvlan, plain wire",
        "wire_tcp1",
        "macvlan_xdp",
        "macvlan_plain",
        AtLeast(1.0),
    ),
    ratio(
        "TCP, 1 stream, wire to container, VLAN / no tags",
        "wire_tcp1",
        "macvlan_vlan",
        "macvlan_untagged",
        AtLeast(0.95),
    ),
    ratio("TCP, 1 stream, container to wire, tcx / macvlan", "wire_tcp1_back", "macvlan_tcx", "macvlan", AtLeast(1.0)),
    ratio(
        "TCP, 1 stream, container to wire, XDP / macvlan, plain wire",
        "wire_tcp1_back",
        "macvlan_xdp",
        "macvlan_plain",
        AtLeast(1.0),
    ),
    ratio(
        "TCP, 1 stream, container to wire, VLAN / no tags",
        "wire_tcp1_back",
        "macvlan_vlan",
        "macvlan_untagged",
        AtLeast(0.95),
    ),
    ratio("TCP, 4 streams, wire to container, tcx / macvlan", "wire_tcp4", "macvlan_tcx", "macvlan", AtLeast(1.0)),
    ratio(
        "TCP, 4 streams, wire to container, XDP / macvlan, plain wire",
        "wire_tcp4",
        "macvlan_xdp",
        "macvlan_plain",
        AtLeast(1.0),
    ),
    ratio(
        "TCP, 4 streams, wire to container, VLAN / no tags",
        "wire_tcp4",
        "macvlan_vlan",
        "macvlan_untagged",
        AtLeast(0.95),
    ),
    ratio("TCP, 4 streams, container to wire, tcx / macvlan", "wire_tcp4_back", "macvlan_tcx", "macvlan", AtLeast(1.0)),
    ratio(
        "TCP, 4 streams, container to wire, XDP / macvlan, plain wire",
        "wire_tcp4_back",
        "macvlan_xdp",
        "macvlan_plain",
        AtLeast(1.0),
    ),
    ratio(
        "TCP, 4 streams, container to wire, VLAN / no tags",
        "wire_tcp4_back",
        "macvlan_vlan",
        "macvlan_untagged",
        AtLeast(0.95),
    ),
    ratio("request-response p50 on a wire, tcx / macvlan", "wire_rr", "macvlan_tcx", "macvlan", AtMost(1.0)),
    ratio(
        "request-response p50 on a wire, XDP / macvlan, plain wire",
        "wire_rr",
        "macvlan_xdp",
        "macvlan_plain",
        AtMost(1.0),
    ),
    ratio("60-byte frames from a wire by XDP / macvlan", "wire_frames", "macvlan_xdp", "macvlan", AtLeast(1.5)),
    ratio("TCP, 1 stream, between hosts / vxlan", "overlay_tcp1", "overlay", "vxlan_bridge", AtLeast(1.0)),
    ratio("TCP, 4 streams, between hosts / vxlan", "overlay_tcp4", "overlay", "vxlan_bridge", AtLeast(1.2)),
    ratio("request-response p50 between hosts / vxlan", "overlay_rr", "overlay", "vxlan_bridge", AtMost(0.8)),
    ratio("UDP, 60-byte frames, between hosts / vxlan", "overlay_udp", "overlay", "vxlan_bridge", AtLeast(1.4)),
    value("new endpoint reached from another host, ms after attach", "cluster_reach", "from_return", AtMost(50.0)),
];

/// A goal with the measured value.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// Name of the goal.
    pub goal: &'static str,
    /// The bound as text.
    pub wanted: String,
    /// The measured value.
    pub got: f64,
    /// Whether the value is within the bound.
    pub met: bool,
}

/// Compares the results with every goal whose figure was measured.
pub fn judge(results: &Results) -> Vec<Verdict> {
    GOALS.iter().filter_map(|goal| goal.judge(results)).collect()
}

impl Goal {
    fn judge(&self, results: &Results) -> Option<Verdict> {
        let figure = results.figure(self.figure)?;
        let got = match self.against {
            Some(baseline) => figure.ratio(self.row, baseline)?,
            None => figure.summary(self.row)?.median,
        };
        let (wanted, met) = match self.bound {
            AtLeast(bound) => (format!("at least {bound}"), got >= bound),
            AtMost(bound) => (format!("at most {bound}"), got <= bound),
        };
        Some(Verdict { goal: self.name, wanted, got, met })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::FIGURES;

    #[test]
    fn every_goal_has_an_existing_figure() {
        for goal in &GOALS {
            assert!(FIGURES.iter().any(|figure| figure.key == goal.figure), "{}", goal.name);
        }
    }

    #[test]
    fn goal_compares_the_ratio_of_its_rows() {
        let mut results = Results::default();
        for (direct, vswitch) in [(20.0, 19.0), (10.0, 9.8), (10.0, 9.7)] {
            results.record("tcp1", "direct", direct);
            results.record("tcp1", "vswitch", vswitch);
        }
        let verdicts = judge(&results);
        // These results have no bridge, so only one goal can be judged.
        assert_eq!(verdicts.len(), 1);
        assert!((verdicts[0].got - 0.97).abs() < 1e-9);
        assert!(verdicts[0].met);
    }
}
