//! Networks without IPv4 (`network create --ipv4=false --ipv6`).

use std::net::{IpAddr, Ipv6Addr};

use serde_json::{Value, json};

use crate::harness::{
    Answer, Cloud, Clustered, Family, Host, Netns, Site, Uplinks, Wire, ask, get, getent, ping, settles, tcp, try_get,
    udp,
};

/// Attaches a container and returns its IPv6 address. It has no IPv4 address.
#[track_caller]
fn attach(host: &Host, container: &Netns, flags: &[&str]) -> Ipv6Addr {
    let at: Value = host.json(&[&["attach", "--netns", &container.path_argument()], flags].concat());
    assert_eq!((&at["ipv4"], &at["gateway"]), (&Value::Null, &Value::Null), "{at:#}");
    at["ipv6"].as_str().expect("an IPv6 address").parse().expect("an address")
}

/// Checks that a container has no IPv4 address and no IPv4 route on `eth0`.
#[track_caller]
fn assert_no_ipv4(container: &Netns) {
    assert_eq!((container.addresses("eth0"), container.default_routes(false)), (Vec::new(), Vec::new()));
}

#[test]
fn a_bridge_network_without_ipv4_has_gateway_names_published_ports_and_a_way_out() {
    let uplinks = Uplinks::new();
    let host = &uplinks.host;
    host.start(&[]);
    host.ok(&["network", "create", "--ipv4=false", "--ipv6", "six"]);
    let shown: Vec<Value> = host.json(&["network", "inspect", "six"]);
    let subnets = shown[0]["subnets"].as_array().expect("subnets");
    assert_eq!(subnets.len(), 1, "{subnets:#?}");
    let gateway: Ipv6Addr = subnets[0]["gateway"].as_str().expect("a gateway").parse().expect("an address");

    let [web, client] = ["web", "client"].map(Netns::new);
    let published = ["--network", "six", "--name", "web", "--alias", "www", "-p", "8080:80", "-p", "8053:53/udp"];
    let at_web = attach(host, &web, &published);
    let at_client = attach(host, &client, &["--network", "six", "--name", "client"]);
    for container in [&web, &client] {
        assert_no_ipv4(container);
        ping(container, gateway);
    }
    ping(&client, at_web);
    tcp(&client, &web, at_web, 1 << 20);
    udp(&client, &web, at_web, 1200, 20);
    tcp(&client, &host.netns, gateway, 1 << 16);

    // Names: AAAA alone.
    for name in ["web", "www", "web.six"] {
        assert_eq!(ask(&client, gateway, name, "AAAA"), Answer::of(&[&at_web]), "{name}");
        assert_eq!(ask(&client, gateway, name, "A"), Answer::of(&[]), "{name}");
    }
    assert_eq!(ask(&client, gateway, &at_web.to_string(), "PTR"), Answer::of(&[&"web.six."]));
    assert_eq!(getent(&client, "ahostsv6", "web"), [at_web.to_string()]);

    // Published ports, and the way out: over IPv6 alone.
    let _site = Site::open(&web, 80, "web");
    let [host4, host6] = Uplinks::HOST.map(|address| address.parse::<IpAddr>().expect("an address"));
    assert_eq!(get(&uplinks.outside, host6, 8080).site, "web");
    assert_eq!(get(&host.netns, host6, 8080).site, "web");
    let refused = try_get(&uplinks.outside, (host4, 8080).into(), std::time::Duration::from_secs(2));
    assert!(refused.is_err(), "{refused:?}");
    let out = Uplinks::OUTSIDE[1].parse::<IpAddr>().expect("an address");
    ping(&client, out);
    let narrow =
        ["attach", "--netns", &client.path_argument(), "--name", "x", "--network", "six", "-p", "127.0.0.1:81:80"];
    let line = host.fails(1, &narrow);
    assert!(line.contains("IPv4"), "{line}");
    let line = host.fails(1, &["network", "connect", "--ip", "10.1.2.3", "six", "nobody"]);
    assert!(!line.is_empty());

    // `ps`, `inspect` and `stats` show them; `run` writes the files.
    let listed: Vec<Value> = host.json(&["ps"]);
    assert_eq!(listed.iter().map(|row| &row["ipv4"]).collect::<Vec<_>>(), [&Value::Null; 2], "{listed:#?}");
    let table = host.ok(&["ps"]);
    assert!(table.lines().any(|row| row.starts_with("web") && row.contains(" - ")), "{table}");
    let text = host.ok(&["inspect", "web"]);
    assert!(text.contains(&format!("six (eth0 {at_web})")), "{text}");
    let hosts = host.run(&["run", "--network", "six", "--name", "tool", "--", "cat", "/etc/hosts", "/etc/resolv.conf"]);
    assert_eq!(hosts.code, Some(0), "{hosts:#?}");
    assert!(hosts.stdout.contains("tool") && hosts.stdout.contains(&format!("nameserver {gateway}")), "{hosts:#?}");

    // A second network gives IPv4; the first has none still.
    host.ok(&["network", "create", "--subnet", "10.57.0.0/24", "four"]);
    let connected: Value = host.json(&["network", "connect", "four", "client"]);
    assert_eq!(connected["gateway"], "10.57.0.1");
    assert_eq!(client.default_routes(false), [(Some("10.57.0.1".parse().expect("an address")), "eth1".to_owned())]);
    tcp(&client, &web, at_web, 1 << 16);
    host.ok(&["network", "disconnect", "four", "client"]);

    // The next daemon, by takeover and after `down`.
    host.kill_daemon();
    host.start(&[]);
    tcp(&client, &web, at_web, 1 << 16);
    host.stop(&[]);
    let started: Value = host.json(&["up"]);
    assert_eq!((&started["attached"], &started["released"]), (&json!(2), &json!([])), "{started:#}");
    assert_no_ipv4(&web);
    tcp(&client, &web, at_web, 1 << 16);
    assert_eq!(ask(&client, gateway, "web", "AAAA"), Answer::of(&[&at_web]));
    assert_eq!(get(&uplinks.outside, host6, 8080).site, "web");
    ping(&client, at_client);
}

#[test]
fn families_that_do_not_fit_are_refused() {
    let host = Host::up(&[]);
    for (flags, words) in [
        (&["--ipv4=false"][..], &["IPv4", "--ipv6"][..]),
        (&["--ipv4=false", "--ipv6", "--subnet", "10.58.0.0/24"], &["10.58.0.0/24", "--ipv4=false"]),
        (&["--ipv6=false", "--ipv4=false"], &["IPv4", "--ipv6"]),
    ] {
        let line = host.fails(1, &[&["network", "create"], flags, &["x"]].concat());
        for word in words {
            assert!(line.contains(word), "{flags:?}: `{line}` does not contain {word}");
        }
    }
    // An IPv6 subnet alone is enough, and `--ipv4` is the default.
    host.ok(&["network", "create", "--ipv4=false", "--subnet", "fd00:58::/64", "six"]);
    host.ok(&["network", "create", "--ipv4", "--ipv6=true", "--subnet", "fd00:59::/64", "both"]);
    for (name, count) in [("six", 1), ("both", 2)] {
        let shown: Vec<Value> = host.json(&["network", "inspect", name]);
        assert_eq!(shown[0]["subnets"].as_array().expect("subnets").len(), count, "{shown:#?}");
    }
    let container = Netns::new("c");
    let path = container.path_argument();
    let line = host.fails(1, &["attach", "--netns", &path, "--network", "six", "--ip", "10.58.0.2"]);
    assert!(line.contains("10.58.0.2") && line.contains("IPv4"), "{line}");
    assert_eq!(attach(&host, &container, &["--network", "six", "--ip6", "fd00:58::77"]).to_string(), "fd00:58::77");
}

#[test]
fn networks_on_a_parent_and_an_uplink_work_without_ipv4() {
    let host = Host::down();
    let wire = Wire::new(&host.netns, "off", 2);
    host.start(&[]);
    let [_, machine] = wire.machine(1);
    for flags in [
        &["-d", "macvlan", "-o", "parent=phys0"][..],
        &["-d", "ipvlan", "-o", "parent=phys0"],
        &["-d", "ipvlan", "-o", "parent=phys0", "-o", "ipvlan_mode=l3", "--subnet", "fd00:240::/64"],
        &["-o", "uplink=phys0", "--subnet", "fd00:140::/64", "--gateway", "fd00:140::99"],
    ] {
        let routed = flags.contains(&"ipvlan_mode=l3");
        host.ok(&[&["network", "create", "--ipv4=false", "--ipv6"], flags, &["lan"]].concat());
        let [a, b] = ["a", "b"].map(Netns::new);
        let own = ["--network", "lan"];
        attach(&host, &a, &[&own[..], &["--name", "a"]].concat());
        let at_b = attach(&host, &b, &[&own[..], &["--name", "b"]].concat());
        for container in [&a, &b] {
            assert_no_ipv4(container);
        }
        tcp(&a, &b, at_b, 1 << 18);
        if routed {
            wire.hosts[1].ip(&format!("-6 route add fd00:240::/64 via {}", Wire::HOST[1]));
            host.netns.set("net/ipv6/conf/all/forwarding", "1");
        }
        ping(&a, machine);
        tcp(&wire.hosts[1], &b, at_b, 1 << 18);
        for name in ["a", "b"] {
            host.ok(&["detach", name]);
        }
        host.ok(&["network", "rm", "lan"]);
    }
}

#[test]
fn an_overlay_network_works_without_ipv4() {
    for family in [Family::V4, Family::V6] {
        let cloud = Cloud::up(2, family);
        let containers = ["a", "b"].map(Netns::new);
        let flags = ["-d", "overlay", "-o", "vni=66", "--ipv4=false", "--subnet", "fd00:66::/64"];
        let at: Vec<Ipv6Addr> = (0..2)
            .map(|number| {
                let range = format!("fd00:66::{}:0/112", number + 1);
                cloud.hosts[number].ok(&[&["network", "create"][..], &flags, &["--ip-range", &range, "six"]].concat());
                attach(&cloud.hosts[number], &containers[number], &["--network", "six"])
            })
            .collect();
        tcp(&containers[0], &containers[1], at[1], 1 << 20);
        udp(&containers[1], &containers[0], at[0], 1200, 20);
        containers.iter().for_each(assert_no_ipv4);
    }
}

#[test]
fn a_network_without_ipv4_is_one_segment_on_all_hosts_of_a_cluster() {
    let cluster = Clustered::down(2, Family::V4);
    (0..2).for_each(|number| drop(cluster.join(number)));
    cluster.hosts[0].ok(&["network", "create", "-d", "overlay", "--ipv4=false", "--ipv6", "six"]);
    cluster.wait_for_network(1, "six");
    let containers = ["one", "two"].map(Netns::new);
    let names = ["one", "two"];
    let at: Vec<Ipv6Addr> = (0..2)
        .map(|number| {
            attach(&cluster.hosts[number], &containers[number], &["--network", "six", "--name", names[number]])
        })
        .collect();
    assert_ne!(at[0], at[1], "etcd gives each address once");
    for (one, other) in [(0, 1), (1, 0)] {
        assert_no_ipv4(&containers[one]);
        let shown: Vec<Value> = cluster.hosts[one].json(&["network", "inspect", "six"]);
        let gateway: Ipv6Addr =
            shown[0]["subnets"][0]["gateway"].as_str().expect("a gateway").parse().expect("an address");
        settles("the name is known", || {
            let answer = ask(&containers[one], gateway, names[other], "AAAA");
            if answer == Answer::of(&[&at[other]]) { Ok(()) } else { Err(answer) }
        });
        ping(&containers[one], at[other]);
        tcp(&containers[one], &containers[other], at[other], 1 << 16);
    }
}
