//! `GET /metrics`: what Prometheus collects, in the OpenMetrics text format. The operator's guide lists all of it.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::{ClusterView, Counters, PortView};

/// What an answer says that it is.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The switch at one moment.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Version of the daemon.
    pub version: String,
    /// The instance.
    pub instance: String,
    /// Release of the kernel.
    pub kernel: String,
    /// What `up --datapath` asked for.
    pub datapath: String,
    /// Since when the daemon runs, in seconds.
    pub uptime_seconds: u64,
    /// How many networks there are.
    pub networks: usize,
    /// How many endpoints are attached, by the name of their network.
    pub endpoints: BTreeMap<String, usize>,
    /// The ports with their counters.
    pub ports: Vec<PortView>,
    /// Stations in the FDB, by network.
    pub stations: BTreeMap<String, Stations>,
    /// How many stations can be learned.
    pub fdb_size: u32,
    /// The cluster that this host is in.
    pub cluster: Option<ClusterView>,
}

/// Stations of one network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stations {
    /// Written by the daemon.
    pub fixed: usize,
    /// Written by hand, until they fall silent.
    pub sticky: usize,
    /// Learned.
    pub learned: usize,
    /// Of those: held where they are, as they moved too often.
    pub held: usize,
}

type Labels = Vec<(&'static str, String)>;

/// A counter of every port: its name, what it is, and where it stands.
type PortCounter = (&'static str, &'static str, Option<Unit>, fn(&Counters) -> u64);

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

impl Measured {
    /// All of it as text.
    ///
    /// # Errors
    /// None that is known of: writing into memory does not fail.
    pub fn exposition(&self) -> Result<String, fmt::Error> {
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
        let build = [("version", &self.version), ("kernel", &self.kernel), ("datapath", &self.datapath)];
        let build = build.into_iter().chain([("instance", &self.instance)]);
        let build: Labels = build.map(|(label, value)| (label, value.clone())).collect();
        registry.register("build", "The daemon, and what it runs on", Info::new(build));
        let uptime = gauge(self.uptime_seconds);
        registry.register_with_unit("uptime", "Since when the daemon runs", Unit::Seconds, uptime);
        registry.register("networks", "Networks that there are", gauge(self.networks as u64));
        let endpoints = Family::<Labels, Gauge>::default();
        for (network, count) in &self.endpoints {
            set(&endpoints, vec![("network", network.clone())], *count);
        }
        registry.register("endpoints", "Endpoints that are attached", endpoints);
    }

    fn about_stations(&self, registry: &mut Registry) {
        let (entries, held) = (Family::<Labels, Gauge>::default(), Family::<Labels, Gauge>::default());
        for (network, stations) in &self.stations {
            let kinds = [("static", stations.fixed), ("sticky", stations.sticky), ("dynamic", stations.learned)];
            for (kind, count) in kinds {
                set(&entries, vec![("network", network.clone()), ("kind", kind.to_owned())], count);
            }
            set(&held, vec![("network", network.clone())], stations.held);
        }
        registry.register("fdb_entries", "Stations in the FDB", entries);
        registry.register("fdb_held_stations", "Stations held at a port as they moved too often", held);
        registry.register("fdb_size", "Stations that can be learned in all", gauge(self.fdb_size.into()));
    }

    fn about_the_cluster(&self, registry: &mut Registry) {
        let Some(cluster) = &self.cluster else { return };
        let connected = gauge(u64::from(cluster.connected));
        registry.register("cluster_connected", "Whether etcd answers", connected);
        registry.register("cluster_hosts", "Hosts in the cluster, this one included", gauge(cluster.hosts as u64));
        let elsewhere = gauge(cluster.endpoints as u64);
        registry.register("cluster_endpoints_elsewhere", "Endpoints of the other hosts", elsewhere);
        let pending = gauge(cluster.pending as u64);
        registry.register("cluster_pending_releases", "What is to be given back when etcd answers", pending);
        let conflicts = gauge(cluster.conflicts.len() as u64);
        registry.register("cluster_conflicts", "What this host has and cannot announce", conflicts);
    }

    fn about_ports(&self, registry: &mut Registry) {
        for (name, help, unit, value) in PORT_COUNTERS {
            let family = Family::<Labels, Counter>::default();
            for port in &self.ports {
                family.get_or_create(&labels(port)).inc_by(value(&port.counters));
            }
            match unit {
                Some(unit) => registry.register_with_unit(name, help, unit, family),
                None => registry.register(name, help, family),
            }
        }
        let drops = Family::<Labels, Counter>::default();
        for port in &self.ports {
            for (reason, count) in &port.counters.drops {
                let labels = labels(port).into_iter().chain([("reason", reason.clone())]);
                drops.get_or_create(&labels.collect()).inc_by(*count);
            }
        }
        registry.register("port_dropped_frames", "Of the frames in: dropped", drops);
    }
}

/// An endpoint may have the name of a device: the kind keeps them apart.
fn labels(port: &PortView) -> Labels {
    vec![("network", port.network.clone()), ("port", port.port.clone()), ("kind", port.kind.clone())]
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
    use std::collections::BTreeSet;

    use vswitch_common::tables::PortCounters;

    use super::*;
    use crate::model::HostId;

    const GUIDE: &str = include_str!("../../docs/operators-guide.md");

    fn cluster() -> ClusterView {
        ClusterView {
            host: HostId::from_bytes([1; 32]),
            name: "one".to_owned(),
            address: [192, 0, 2, 1].into(),
            etcd: "192.0.2.9:2379".to_owned(),
            connected: true,
            away_since: None,
            why: None,
            registered: true,
            members: 3,
            hosts: 4,
            endpoints: 50,
            revision: 6,
            pending: 0,
            conflicts: Vec::new(),
        }
    }

    fn measured() -> Measured {
        let mut counters = PortCounters { rx_frames: 7, rx_bytes: 700, answered: 2, ..PortCounters::default() };
        counters.drops[0] = 3;
        let port = PortView {
            port: "web \"1\"".to_owned(),
            kind: "endpoint".to_owned(),
            network: "front".to_owned(),
            counters: Counters::from(&counters),
        };
        Measured {
            version: "1.2.3".to_owned(),
            ports: vec![port],
            endpoints: BTreeMap::from([("front".to_owned(), 1)]),
            stations: BTreeMap::from([("front".to_owned(), Stations { fixed: 2, sticky: 0, learned: 5, held: 1 })]),
            fdb_size: 4096,
            cluster: Some(cluster()),
            ..Measured::default()
        }
    }

    #[test]
    fn samples_have_their_names_labels_and_values() {
        let text = measured().exposition().expect("text");
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
        assert!(text.contains(r#"vswitch_build_info{version="1.2.3","#) && text.ends_with("# EOF\n"), "{text}");
    }

    #[test]
    fn the_operators_guide_lists_what_there_is_and_nothing_else() {
        let text = measured().exposition().expect("text");
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let emitted: BTreeSet<&str> = samples.filter_map(|line| line.split(['{', ' ']).next()).collect();
        let rows = GUIDE.lines().filter_map(|line| line.strip_prefix("| `vswitch_")?.split('`').next());
        let listed: BTreeSet<String> = rows.map(|name| format!("vswitch_{name}")).collect();
        assert_eq!(listed.iter().map(String::as_str).collect::<BTreeSet<_>>(), emitted);
    }
}
