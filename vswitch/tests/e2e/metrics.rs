//! The metrics for Prometheus have the same values as `stats`.

use std::collections::BTreeMap;

use crate::harness::{Frame, Host, Mac, Netns, RawPort, ping, run, settles};

/// Returns the scraped samples, keyed by name and labels.
fn scraped(host: &Host) -> BTreeMap<String, f64> {
    let outcome = run(host
        .netns
        .command("curl")
        .args(["-sSf", "-i", "--unix-socket"])
        .arg(host.socket())
        .arg("http://vswitch/metrics"));
    assert_eq!(outcome.code, Some(0), "{outcome:#?}");
    let (head, text) = outcome.stdout.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.to_lowercase().contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(text.ends_with("# EOF\n"), "{text}");
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
            (name.to_owned(), value.parse().unwrap_or_else(|error| panic!("{line}: {error}")))
        })
        .collect()
}

#[test]
fn metrics_have_the_values_of_stats() {
    let host = Host::up(&[]);
    host.ok(&["network", "create", "--subnet", "10.201.9.0/24", "lan"]);
    let [a, b] = ["a", "b"].map(Netns::new);
    let [at_a, at_b] = [&a, &b].map(|container| host.attach(container, &["--network", "lan"]));
    ping(&a, at_b.ipv4);
    let sender = RawPort::open(&a, "eth0");
    sender.send(&Frame::new(at_b.mac, Mac::ZERO, "from zero"));
    let compared = settles("the metrics equal the counters", || {
        let (before, samples, after) = (host.ports(&["lan"]), scraped(&host), host.ports(&["lan"]));
        if before != after {
            return Err("the counters changed in between".to_owned());
        }
        let mut compared = 0;
        for (port, counters) in &after {
            let kind = if port.ends_with("-lan") { "host" } else { "endpoint" };
            let labels = format!("network=\"lan\",port=\"{port}\",kind=\"{kind}\"");
            let mut expected = vec![
                (format!("vswitch_port_rx_frames_total{{{labels}}}"), counters.rx_frames),
                (format!("vswitch_port_rx_bytes_total{{{labels}}}"), counters.rx_bytes),
                (format!("vswitch_port_tx_frames_total{{{labels}}}"), counters.tx_frames),
                (format!("vswitch_port_tx_bytes_total{{{labels}}}"), counters.tx_bytes),
                (format!("vswitch_port_forwarded_frames_total{{{labels}}}"), counters.forwarded),
                (format!("vswitch_port_flooded_frames_total{{{labels}}}"), counters.flooded),
                (format!("vswitch_port_to_host_frames_total{{{labels}}}"), counters.to_host),
                (format!("vswitch_port_passed_frames_total{{{labels}}}"), counters.passed),
                (format!("vswitch_port_tx_failed_frames_total{{{labels}}}"), counters.tx_failed),
            ];
            expected.extend(counters.drops.iter().map(|(reason, count)| {
                (format!("vswitch_port_dropped_frames_total{{{labels},reason=\"{reason}\"}}"), *count)
            }));
            for (sample, value) in expected {
                let found = samples.get(&sample).copied();
                if found != Some(value as f64) {
                    return Err(format!("{sample}: {found:?} instead of {value}"));
                }
                compared += 1;
            }
        }
        let dropped = format!(
            "vswitch_port_dropped_frames_total{{network=\"lan\",port=\"{}\",kind=\"endpoint\",reason=\"source_zero\"}}",
            at_a.name
        );
        if samples.get(&dropped) != Some(&1.0) {
            return Err(format!("{dropped}: {:?}", samples.get(&dropped)));
        }
        let entries = host.fdb(&["--network", "lan", "--static"]).len() as f64;
        assert_eq!(samples["vswitch_fdb_entries{network=\"lan\",kind=\"static\"}"], entries);
        assert_eq!(samples["vswitch_endpoints{network=\"lan\"}"], 2.0);
        Ok(compared)
    });
    assert!(compared > 3 * 9, "{compared}");
}

#[test]
fn the_sum_of_a_network_is_that_of_its_ports() {
    let host = Host::up(&[]);
    host.ok(&["network", "create", "--subnet", "10.201.9.0/24", "lan"]);
    let [a, b] = ["a", "b"].map(Netns::new);
    let [_, at_b] = [&a, &b].map(|container| host.attach(container, &["--network", "lan"]));
    ping(&a, at_b.ipv4);
    settles("the sum equals that of the ports", || {
        let (ports, sums, after) = (host.ports(&["lan"]), host.ports(&["--sum", "lan"]), host.ports(&["lan"]));
        let total = |count: fn(&crate::harness::Counters) -> u64| ports.values().map(count).sum::<u64>();
        let (frames, bytes) = (total(|counters| counters.rx_frames), total(|counters| counters.tx_bytes));
        let sum = &sums["lan"];
        let fits = ports == after && sums.len() == 1 && (sum.rx_frames, sum.tx_bytes) == (frames, bytes);
        if fits && frames > 0 { Ok(()) } else { Err((ports, sums)) }
    });
    let table = host.ok(&["stats", "lan"]);
    assert!(table.lines().last().is_some_and(|line| line.starts_with("lan") && line.contains("network")), "{table}");
}
