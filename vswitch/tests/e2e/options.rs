//! Options of networks and endpoints: invalid ones are refused; valid ones are shown and survive
//! `down`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::harness::{Host, Netns, ping};

#[test]
fn options_of_endpoints_are_shown_and_survive_restarts() {
    let host = Host::up(&[]);
    host.ok(&["network", "create", "--subnet", "10.121.0.0/24", "-o", "storm_pps=500", "-o", "learning=on", "lan"]);
    let [a, b] = ["a", "b"].map(Netns::new);
    let flags = ["--network", "lan", "--name", "a", "-o", "spoof_guard=off", "-o", "fdb_limit=7"];
    host.attach(&a, &[&flags[..], &["--vlan", "30", "--trunk", "10,20-22"]].concat());
    host.attach(&b, &["--name", "b"]);
    host.ok(&["network", "connect", "-o", "isolated=true", "--trunk", "all", "lan", "b"]);
    let shown = |host: &Host| {
        let mut seen = BTreeMap::new();
        for name in ["a", "b"] {
            let endpoint: Value = host.json(&["inspect", name]);
            for view in endpoint["networks"].as_array().unwrap() {
                let key = (name, view["network"].as_str().unwrap().to_owned());
                seen.insert(key, json!([view["options"], view["vlan"], view["trunk"]]));
            }
        }
        seen
    };
    let expected = BTreeMap::from([
        (("a", "lan".to_owned()), json!([{"spoof_guard": "off", "fdb_limit": "7"}, 30, [10, 20, 21, 22]])),
        (("b", "bridge".to_owned()), json!([{}, 0, []])),
        (("b", "lan".to_owned()), json!([{"isolated": "true"}, 0, ["all"]])),
    ]);
    assert_eq!(shown(&host), expected);
    let text = host.ok(&["inspect", "a"]);
    assert!(text.contains("fdb_limit=7, spoof_guard=off") && text.contains("10,20-22"), "{text}");
    // The static FDB entry of the endpoint is in its VLAN, and only there.
    let stations = host.fdb(&["--network", "lan", "--port", "a"]);
    assert_eq!(stations.iter().map(|station| station.vlan).collect::<Vec<_>>(), [30]);

    host.stop(&[]);
    host.start(&[]);
    assert_eq!(shown(&host), expected);
    host.kill_daemon();
    host.start(&[]);
    assert_eq!(shown(&host), expected);
    let network: Vec<Value> = host.json(&["network", "inspect", "lan"]);
    assert_eq!(network[0]["options"], json!({"storm_pps": "500", "learning": "on"}));
}

#[test]
fn an_endpoint_in_a_vlan_has_no_gateway() {
    let host = Host::up(&[]);
    let [a, b] = ["a", "b"].map(Netns::new);
    let at_a = host.attach(&a, &["--vlan", "30"]);
    assert_eq!((at_a.gateway, at_a.nameservers, a.default_routes(false)), (None, vec![], vec![]));
    // An endpoint with only `--trunk` sends untagged frames in the VLAN of the host.
    let at_b = host.attach(&b, &["--trunk", "10"]);
    assert_eq!((at_b.gateway.is_some(), b.default_routes(false).len()), (true, 1));
    ping(&b, at_b.gateway.unwrap());
    let line = host.fails(1, &["run", "--vlan", "30", "-p", "80", "true"]);
    assert!(line.contains("whose VLANs the host is not in"), "{line}");
}

#[test]
fn router_advertisements_are_accepted_if_requested() {
    let host = Host::up(&[]);
    let [a, b] = ["a", "b"].map(Netns::new);
    host.attach(&a, &[]);
    host.attach(&b, &["-o", "accept_ra=on"]);
    let setting = |netns: &Netns, name: &str| {
        let path = format!("/proc/sys/net/ipv6/conf/eth0/{name}");
        netns.inside(|| std::fs::read_to_string(path).unwrap().trim().to_owned())
    };
    assert_eq!((setting(&a, "accept_ra").as_str(), setting(&a, "disable_ipv6").as_str()), ("0", "1"));
    assert_eq!((setting(&b, "accept_ra").as_str(), setting(&b, "disable_ipv6").as_str()), ("2", "0"));
}

#[test]
fn link_local_addresses_derive_from_the_mac_address_despite_namespace_settings() {
    let host = Host::up(&[]);
    host.ok(&["network", "create", "--ipv6", "--subnet", "10.122.0.0/24", "six"]);
    let a = Netns::new("a");
    // IN6_ADDR_GEN_MODE_STABLE_PRIVACY (2) generates link-local addresses from a secret (RFC 7217).
    a.set("net/ipv6/conf/default/stable_secret", "2001:db8::5ec7");
    a.set("net/ipv6/conf/default/addr_gen_mode", "2");
    let mac = host.attach(&a, &["--network", "six"]).mac.0;
    let end = [mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]];
    let expected = format!("{}", std::net::Ipv6Addr::from_bits(0xfe80 << 112 | u128::from(u64::from_be_bytes(end))));
    let shown = a.ip_json("-6 address show dev eth0 scope link").to_vec();
    let text = serde_json::to_string(&shown).unwrap();
    assert!(text.contains(&expected), "{expected}: {text}");
}

#[test]
fn invalid_options_are_refused_with_the_valid_values() {
    let host = Host::up(&[]);
    let a = Netns::new("a");
    let path = a.path_argument();
    let takes = [
        ("learning=yes", "invalid value `yes` of option learning (auto, on or off)"),
        ("spoof_guard=auto", "invalid value `auto` of option spoof_guard (on or off)"),
        ("storm_pps=-1", "invalid value `-1` of option storm_pps (frames per second, up to 1000000000; 0 is no limit)"),
        ("fdb_limit=9999999", "invalid value `9999999` of option fdb_limit (stations, from 0 to 4194304)"),
    ];
    for (option, message) in takes {
        assert_eq!(host.fails(1, &["network", "create", "-o", option, "lan"]), message);
        assert_eq!(host.fails(1, &["attach", "--netns", &path, "-o", option]), message);
    }
    for (option, message) in [
        (
            "group_fwd_mask=0x2",
            "invalid value `0x2` of option group_fwd_mask (bit 1 is 01:80:c2:00:00:01, MAC pause, which no bridge \
             forwards: leave it out)",
        ),
        (
            "group_fwd_mask=65536",
            "invalid value `65536` of option group_fwd_mask (a mask from 0 to 0xffff without bit 1)",
        ),
    ] {
        assert_eq!(host.fails(1, &["network", "create", "-o", option, "lan"]), message);
    }
    let line = host.fails(1, &["attach", "--netns", &path, "-o", "masquerade=false"]);
    assert!(line.starts_with("unknown option `masquerade=false` of an endpoint (it has accept_ra, "), "{line}");
    for (flags, message) in [
        (["--vlan", "4095"], "invalid VLAN `4095` (a number from 1 to 4094)"),
        (["--trunk", "30-20"], "invalid trunk `30-20` (VLANs from 1 to 4094, as in 10,20-30, or all)"),
    ] {
        assert_eq!(host.fails(1, &[&["attach", "--netns", &path], &flags[..]].concat()), message);
    }
    for flags in [["--vlan", "3"], ["--trunk", "all"], ["-o", "hairpin=true"]] {
        let line = host.fails(1, &[&["attach", "--netns", &path, "--network", "none"], &flags[..]].concat());
        assert!(line.contains("loopback alone"), "{line}");
    }
    assert_eq!((host.ps(), a.devices().len()), (vec![], 1), "a refused attach leaves nothing behind");
}

#[test]
fn the_size_of_the_fdb_survives_a_killed_daemon() {
    let host = Host::up(&["--fdb-size", "1000"]);
    let a = Netns::new("a");
    host.attach(&a, &["--name", "a"]);
    host.ok(&["fdb", "add", "02:00:00:00:44:07", "bridge", "a"]);
    host.kill_daemon();
    host.start(&[]);
    let kept = host.fdb(&[]).iter().any(|station| station.mac.to_string() == "02:00:00:00:44:07");
    assert!(kept, "a new daemon keeps the FDB of the killed one");
    // `down` without a daemon keeps the map as it is.
    host.kill_daemon();
    host.stop(&[]);
    host.start(&["--fdb-size", "5000"]);
    let outcome = host.run(&["up", "--fdb-size", "9999999"]);
    assert_eq!(outcome.code, Some(2), "{outcome:#?}");
    assert!(outcome.stderr.contains("9999999 is not in 256..=4194304"), "{outcome:#?}");
}
