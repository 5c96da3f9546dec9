//! Metrics for Prometheus (`GET /metrics`) in the OpenMetrics text format. The operator's guide
//! lists all of them.

use std::fmt;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use vswitch_common::tables::PortCounters;
use vswitch_common::verdict::DropReason;

use super::views::mode_name;
use crate::switch::{Measurements, PortStats};

/// The content type of an answer.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The text that Prometheus reads.
pub(super) struct Exposition<'a>(pub &'a Measurements);

type Labels = Vec<(&'static str, String)>;

/// A counter of every port: its name, its description, its unit, and its value.
type PortCounter = (&'static str, &'static str, Option<Unit>, fn(&PortCounters) -> u64);

const PORT_COUNTERS: [PortCounter; 12] = [
    ("port_rx_frames", "Frames that came in by the port", None, |counters| counters.rx_frames),
    ("port_rx", "Bytes of the frames that came in by the port", Some(Unit::Bytes), |counters| counters.rx_bytes),
    ("port_tx_frames", "Frames handed to the port's device", None, |counters| counters.tx_frames),
    ("port_tx", "Bytes of the frames handed to the port's device", Some(Unit::Bytes), |counters| counters.tx_bytes),
    ("port_forwarded_frames", "Of the frames in: sent to one endpoint or uplink", None, |counters| counters.forwarded),
    ("port_flooded_frames", "Of the frames in: flooded", None, |counters| counters.flooded),
    ("port_to_host_frames", "Of the frames in: sent to the host's port, or answered", None, |counters| {
        counters.to_host
    }),
    ("port_answered_frames", "Of those: answered by the switch itself", None, |counters| counters.answered),
    ("port_passed_frames", "Of the frames in: left to the host's stack on the device", None, |counters| {
        counters.passed
    }),
    ("port_tx_failed_frames", "Frames for the port that were not delivered", None, |counters| counters.tx_failed),
    ("port_learned_stations", "Stations learned from the port", None, |counters| counters.learned),
    ("port_learn_failed", "Stations not learned for want of room", None, |counters| counters.learn_failed),
];

impl Exposition<'_> {
    /// Returns the text.
    ///
    /// # Errors
    /// Writing into memory does not fail.
    pub(super) fn text(&self) -> Result<String, fmt::Error> {
        let mut registry = Registry::with_prefix("vswitch");
        self.about_the_switch(&mut registry);
        self.about_stations(&mut registry);
        self.about_ports(&mut registry);
        self.about_the_cluster(&mut registry);
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }

    fn about_the_switch(&self, registry: &mut Registry) {
        let build = [
            ("version", env!("CARGO_PKG_VERSION")),
            ("kernel", &self.0.kernel),
            ("datapath", mode_name(self.0.mode)),
            ("instance", &self.0.instance),
        ];
        let build: Labels = build.map(|(label, value)| (label, value.to_owned())).into();
        registry.register("build", "The daemon, and what it runs on", Info::new(build));
        let uptime = gauge(self.0.uptime.as_secs());
        registry.register_with_unit("uptime", "Since when the daemon runs", Unit::Seconds, uptime);
        registry.register("networks", "Networks that there are", gauge(self.0.endpoints.len() as u64));
        let endpoints = Family::<Labels, Gauge>::default();
        for (network, count) in &self.0.endpoints {
            set(&endpoints, vec![("network", network.clone())], *count);
        }
        registry.register("endpoints", "Endpoints that are attached", endpoints);
    }

    fn about_stations(&self, registry: &mut Registry) {
        let (entries, held) = (Family::<Labels, Gauge>::default(), Family::<Labels, Gauge>::default());
        for (network, stations) in &self.0.stations {
            let kinds = [("static", stations.fixed), ("sticky", stations.sticky), ("dynamic", stations.learned)];
            for (kind, count) in kinds {
                set(&entries, vec![("network", network.clone()), ("kind", kind.to_owned())], count);
            }
            set(&held, vec![("network", network.clone())], stations.held);
        }
        registry.register("fdb_entries", "Stations in the FDB", entries);
        registry.register("fdb_held_stations", "Stations held at a port as they moved too often", held);
        registry.register("fdb_size", "Stations that can be learned in all", gauge(self.0.fdb_size.into()));
    }

    fn about_the_cluster(&self, registry: &mut Registry) {
        let Some(cluster) = &self.0.cluster else { return };
        let connected = gauge(u64::from(cluster.health.unreachable.is_none()));
        registry.register("cluster_connected", "Whether etcd answers", connected);
        registry.register("cluster_hosts", "Hosts in the cluster, this one included", gauge(cluster.hosts as u64));
        let elsewhere = gauge(cluster.endpoints as u64);
        registry.register("cluster_endpoints_elsewhere", "Endpoints of the other hosts", elsewhere);
        let pending = gauge(cluster.health.pending as u64);
        registry.register("cluster_pending_releases", "What is to be given back when etcd answers", pending);
        let conflicts = gauge(cluster.health.conflicts.len() as u64);
        registry.register("cluster_conflicts", "What this host has and cannot announce", conflicts);
    }

    fn about_ports(&self, registry: &mut Registry) {
        for (name, help, unit, value) in PORT_COUNTERS {
            let family = Family::<Labels, Counter>::default();
            for port in &self.0.ports {
                family.get_or_create(&labels(port)).inc_by(value(&port.counters));
            }
            match unit {
                Some(unit) => registry.register_with_unit(name, help, unit, family),
                None => registry.register(name, help, family),
            }
        }
        let drops = Family::<Labels, Counter>::default();
        for port in &self.0.ports {
            for reason in DropReason::ALL {
                let labels = labels(port).into_iter().chain([("reason", reason.name().to_owned())]);
                drops.get_or_create(&labels.collect()).inc_by(port.counters.drops[reason as usize]);
            }
        }
        registry.register("port_dropped_frames", "Of the frames in: dropped", drops);
    }
}

/// The kind distinguishes an endpoint from a device with the same name.
fn labels(port: &PortStats) -> Labels {
    vec![("network", port.network.clone()), ("port", port.port.clone()), ("kind", port.kind.to_owned())]
}

fn gauge(value: u64) -> Gauge {
    let gauge = Gauge::default();
    gauge.set(value.cast_signed());
    gauge
}

fn set(family: &Family<Labels, Gauge>, labels: Labels, value: usize) {
    family.get_or_create(&labels).set((value as u64).cast_signed());
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::cluster::{Health, Host};
    use crate::model::HostId;
    use crate::switch::{ClusterStatus, StationCounts};

    const GUIDE: &str = include_str!("../../docs/guide/observing.md");

    fn cluster() -> ClusterStatus {
        let host = Host {
            id: HostId::from_bytes([1; 32]),
            name: "one".to_owned(),
            address: [192, 0, 2, 1].into(),
            public_key: None,
        };
        let health = Health {
            unreachable: None,
            registered: true,
            members: 3,
            hosts: 4,
            revision: 6,
            pending: 0,
            conflicts: Vec::new(),
        };
        ClusterStatus { host, etcd: "192.0.2.9:2379".to_owned(), health, hosts: 4, endpoints: 50 }
    }

    fn measured() -> Measurements {
        let mut counters = PortCounters { rx_frames: 7, rx_bytes: 700, answered: 2, ..PortCounters::default() };
        counters.drops[0] = 3;
        let (port, network) = ("web \"1\"".to_owned(), "front".to_owned());
        let stations = StationCounts { fixed: 2, sticky: 0, learned: 5, held: 1 };
        Measurements {
            ports: vec![PortStats { port, kind: "endpoint", network, counters }],
            endpoints: BTreeMap::from([("front".to_owned(), 1)]),
            stations: BTreeMap::from([("front".to_owned(), stations)]),
            fdb_size: 4096,
            cluster: Some(cluster()),
            ..Measurements::default()
        }
    }

    #[test]
    fn samples_have_their_names_labels_and_values() {
        let text = Exposition(&measured()).text().expect("text");
        let port = r#"network="front",port="web \"1\"",kind="endpoint""#;
        for line in [
            format!("vswitch_port_rx_frames_total{{{port}}} 7"),
            format!("vswitch_port_rx_bytes_total{{{port}}} 700"),
            format!("vswitch_port_answered_frames_total{{{port}}} 2"),
            format!("vswitch_port_dropped_frames_total{{{port},reason=\"truncated\"}} 3"),
            r#"vswitch_fdb_entries{network="front",kind="dynamic"} 5"#.to_owned(),
            r#"vswitch_fdb_held_stations{network="front"} 1"#.to_owned(),
            "vswitch_fdb_size 4096".to_owned(),
            "vswitch_cluster_connected 1".to_owned(),
            "vswitch_cluster_endpoints_elsewhere 50".to_owned(),
        ] {
            assert!(text.lines().any(|got| got == line), "{line} is not in\n{text}");
        }
        let build = concat!("vswitch_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\",");
        assert!(text.contains(build) && text.ends_with("# EOF\n"), "{text}");
    }

    #[test]
    fn the_operators_guide_lists_exactly_the_metrics() {
        let text = Exposition(&measured()).text().expect("text");
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let emitted: BTreeSet<&str> = samples.filter_map(|line| line.split(['{', ' ']).next()).collect();
        let rows = GUIDE.lines().filter_map(|line| line.strip_prefix("| `vswitch_")?.split('`').next());
        let listed: BTreeSet<String> = rows.map(|name| format!("vswitch_{name}")).collect();
        assert_eq!(listed.iter().map(String::as_str).collect::<BTreeSet<_>>(), emitted);
    }
}
