//! `doctor` checks the ports: offloads, MTUs, and XDP on uplinks.

use serde_json::Value;

use crate::harness::{Host, Netns};

/// Returns the finding of a check.
#[track_caller]
fn finding(host: &Host, check: &str) -> Value {
    let findings: Vec<Value> = host.json(&["doctor"]);
    let found = findings.iter().find(|finding| finding["check"] == check);
    found.unwrap_or_else(|| panic!("no finding about {check}: {findings:#?}")).clone()
}

#[test]
fn doctor_shows_offloads_and_advises_on_wrong_ones() {
    let host = Host::up(&["--datapath", "xdp"]);
    let a = Netns::new("a");
    host.attach(&a, &["--name", "a"]);
    let check = "offloads a/eth0 (bridge)";
    let good = finding(&host, check);
    assert_eq!((&good["state"], &good["advice"]), (&"ok".into(), &Value::Null), "{good:#}");
    let names = ["gro", "gso", "rx_checksum", "rx_vlan", "tso", "tx_checksum", "tx_vlan"];
    let offloads = good["offloads"].as_object().unwrap();
    assert_eq!(offloads.keys().map(String::as_str).collect::<Vec<_>>(), names);
    assert_eq!((&offloads["gro"], &offloads["tx_checksum"]), (&true.into(), &false.into()), "{good:#}");
    crate::harness::set_tx_checksumming(&a, "eth0", true);
    let bad = finding(&host, check);
    assert_eq!(bad["state"], "limited", "{bad:#}");
    let advice = bad["advice"].as_str().unwrap();
    assert!(advice.contains(&format!("nsenter --net={} ethtool -K eth0 tx off", a.path_argument())), "{advice}");
    assert!(host.ok(&["doctor"]).contains(check));
    assert_eq!(finding(&host, "mtu bridge")["state"], "ok");
}

#[test]
fn doctor_reports_differing_mtus_and_an_uplink_without_xdp() {
    let host = Host::down();
    let [a, wire] = ["a", "wire"].map(Netns::new);
    host.netns.wire("phys0", &wire, "eth0");
    host.start(&[]);
    host.ok(&["network", "create", "--subnet", "10.78.0.0/24", "-o", "uplink=phys0", "-o", "mtu=1300", "lan"]);
    host.attach(&a, &["--network", "lan", "--name", "a"]);
    let mtu = finding(&host, "mtu lan");
    assert_eq!(mtu["state"], "limited", "{mtu:#}");
    let found = mtu["found"].as_str().unwrap();
    assert!(found.starts_with("1300 at a, ") && found.contains("1500 at phys0"), "{found}");
    let xdp = finding(&host, "xdp phys0 (lan)");
    assert!(xdp["state"] == "limited" && xdp["found"].as_str().unwrap().contains("no XDP"), "{xdp:#}");
}

#[test]
fn doctor_without_an_instance_checks_only_the_machine() {
    let host = Host::down();
    let findings: Vec<Value> = host.json(&["doctor"]);
    assert!(!findings.is_empty() && findings.iter().all(|finding| finding.get("offloads").is_none()), "{findings:#?}");
}
