//! A container that restarts at once takes the place of its former self: its name, its addresses
//! and its published ports.

use std::{net::IpAddr, os::unix::fs::MetadataExt as _};

use crate::harness::{Attached, Host, Netns, Running, Site, Wire, ask, both, eventually, get, ping, spawn};

/// The rounds of each loop.
const ROUNDS: usize = 8;

/// Returns a host with a network of each driver. Endpoints of `lone` are alone on their parent.
fn host_with_all_drivers() -> (Host, [Wire; 3]) {
    let host = Host::down();
    let wires = [0, 1, 2].map(|number| Wire::numbered(number, &host.netns, "off", 1));
    host.start(&[]);
    host.ok(&["network", "create", "--subnet", "10.101.0.0/24", "--subnet", "fd00:101::/64", "front"]);
    wires[0].create_network(&host, "macvlan", &[], "mac");
    wires[1].create_network(&host, "ipvlan", &[], "ip");
    wires[2].create_network(&host, "macvlan", &["macvlan_mode=passthru"], "lone");
    let overlay = ["--subnet", "10.102.0.0/24", "--subnet", "fd00:102::/64", "-o", "vni=102"];
    host.ok(&[&["network", "create", "-d", "overlay"], &overlay[..], &["over"]].concat());
    (host, wires)
}

#[test]
fn a_namespace_that_is_made_again_takes_its_place_at_once() {
    let (host, _wires) = host_with_all_drivers();
    for network in ["front", "mac", "ip", "lone", "over", "none"] {
        let mut container = Netns::new("c");
        let mut flags = vec!["--network", network, "--name", "c", "--alias", "www"];
        if matches!(network, "front" | "over") {
            flags.extend(["-p", "8080:80", "-p", "8053:53/udp"]);
        }
        let first: serde_json::Value =
            host.json(&[&["attach", "--netns", &container.path_argument()], &flags[..]].concat());
        let addresses: Vec<String> =
            ["ipv4", "ipv6"].iter().filter_map(|key| first[key].as_str().map(str::to_owned)).collect();
        for (flag, address) in ["--ip", "--ip6"].into_iter().zip(&addresses) {
            flags.extend([flag, address]);
        }
        for round in 0..ROUNDS {
            container = container.recreate();
            let outcome = host.run(&[&["attach", "--netns", &container.path_argument()], &flags[..]].concat());
            assert_eq!(outcome.code, Some(0), "{network}, round {round}: {outcome:#?}");
        }
        let listed: Vec<serde_json::Value> = host.json(&["ps"]);
        assert_eq!(listed.len(), 1, "{network}: {listed:#?}");
        for key in ["name", "network", "ifname", "mac", "ipv4", "ipv6", "published"] {
            assert_eq!(listed[0][key], first[key], "{network}: {key}");
        }
        assert_eq!(container.devices().contains("eth0"), network != "none", "{network}");
        if matches!(network, "front" | "over") {
            let last: Attached = host.ps().remove(0);
            container.ip("link set lo up");
            let peer = Netns::new("peer");
            host.attach(&peer, &["--network", network, "--name", "peer"]);
            let gateways: [IpAddr; 2] = [last.gateway.unwrap().into(), last.gateway6.unwrap().into()];
            let _site = Site::open(&container, 80, "web");
            for (gateway, (address, kind)) in gateways.into_iter().zip(both(&last).into_iter().zip(["A", "AAAA"])) {
                ping(&peer, address);
                assert_eq!(ask(&peer, gateway, "www", kind).data, [address.to_string()], "{network}");
                assert_eq!(get(&host.netns, gateway, 8080).site, "web", "{network}");
            }
            host.ok(&["detach", "peer"]);
        }
        host.ok(&["detach", "c"]);
        assert_eq!(host.ok(&["ps", "-q"]), "", "{network}");
    }
}

/// Starts a process in a namespace, and waits until it is there.
fn process_in(netns: &Netns) -> (Running, String) {
    let process = spawn(netns.command("sleep").arg("10000"));
    let path = format!("/proc/{}/ns/net", process.id());
    let wanted = std::fs::metadata(netns.path()).expect("the namespace exists").ino();
    eventually("the process is in its namespace", || {
        std::fs::metadata(&path).ok().filter(|found| found.ino() == wanted).map(drop)
    });
    (process, path)
}

#[test]
fn a_namespace_at_another_path_takes_the_place_of_one_that_is_gone() {
    let (host, _wires) = host_with_all_drivers();
    for network in ["front", "mac", "ip", "lone", "over", "none"] {
        let mut flags = vec!["--network".to_owned(), network.to_owned(), "--name".to_owned(), "c".to_owned()];
        if matches!(network, "front" | "over") {
            flags.extend(["-p".to_owned(), "8080:80".to_owned()]);
        }
        let mut names = flags.clone();
        for round in 0..ROUNDS {
            let container = Netns::new("c");
            // Each second container is attached by a process, whose path goes away with it.
            let process = (round % 2 == 1).then(|| process_in(&container));
            let path = process.as_ref().map_or_else(|| container.path_argument(), |(_, path)| path.clone());
            let mut arguments = vec!["attach", "--netns", &path];
            arguments.extend(names.iter().map(String::as_str));
            let attached: serde_json::Value = host.json(&arguments);
            if round == 0 {
                for (flag, key) in [("--ip", "ipv4"), ("--ip6", "ipv6")] {
                    if let Some(address) = attached[key].as_str() {
                        flags.extend([flag.to_owned(), address.to_owned()]);
                    }
                }
            }
            // The address alone is enough: each third container has another name.
            names = flags.clone();
            if round % 3 == 2 && network != "none" {
                names[3] = format!("c{round}");
            }
        }
        // The last one has the place, or its namespace is gone, too.
        for name in host.ok(&["ps", "-q"]).lines() {
            host.ok(&["detach", name]);
        }
    }
}

#[test]
fn a_path_that_leads_to_another_namespace_takes_its_place_while_the_old_one_lives() {
    let (host, _wires) = host_with_all_drivers();
    for network in ["front", "mac", "ip", "lone", "over", "none"] {
        let mut container = Netns::new("c");
        let (process, path) = process_in(&container);
        let flags = ["--network", network, "--name", "c"];
        host.ok(&[&["attach", "--netns", &container.path_argument()], &flags[..]].concat());
        container = container.recreate();
        // The former namespace lives on in its process. Its interface goes.
        host.ok(&[&["attach", "--netns", &container.path_argument()], &flags[..]].concat());
        assert_eq!(host.ok(&["ps", "-q"]), "c\n", "{network}");
        let pid = process.id().to_string();
        let interfaces = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).expect("the process lives");
        assert!(!interfaces.contains("eth0"), "{network}: {path}: {interfaces}");
        drop(process);
        host.ok(&["detach", "c"]);
    }
}

#[test]
fn a_network_without_a_free_address_takes_those_of_namespaces_that_are_gone() {
    let host = Host::up(&[]);
    host.ok(&["network", "create", "--subnet", "10.101.0.0/29", "--subnet", "fd00:101::/125", "small"]);
    let peer = Netns::new("peer");
    let at_peer = host.attach(&peer, &["--network", "small", "--name", "peer"]);
    // Four addresses are left, and each container has a name of its own.
    for round in 0..12 {
        let container = Netns::new("c");
        host.attach(&container, &["--network", "small", "--name", &format!("c{round}")]);
        ping(&container, at_peer.ipv4);
    }
    // Those that live keep theirs.
    let living = Netns::several("l", 4);
    for container in &living {
        host.attach(container, &["--network", "small"]);
    }
    let one_too_many = Netns::new("m");
    let flags = ["attach", "--netns", &one_too_many.path_argument(), "--network", "small"];
    let line = host.fails(1, &flags);
    assert!(line.contains("small"), "{line}");
    assert_eq!(host.ps().len(), 5);
}

#[test]
fn a_namespace_that_lives_keeps_its_place() {
    let host = Host::up(&[]);
    let [named, peer, newcomer] = ["named", "peer", "newcomer"].map(Netns::new);
    let at_peer = host.attach(&peer, &["--name", "peer"]);
    let (process, path) = process_in(&named);
    let web = host.json::<Attached>(&["attach", "--netns", &named.path_argument(), "--name", "web", "-p", "8080:80"]);
    let (_, ipv4) = (path, web.ipv4.to_string());
    // The path goes away, and the namespace lives on in its process.
    named.delete();
    for (flags, reason) in [
        (&["--name", "web"][..], "endpoint with name web already exists"),
        (&["--name", "x", "--ip", &ipv4], "already in use by endpoint web"),
        (&["--name", "x", "-p", "8080:80"], "port is already allocated (endpoint web has it"),
        (&["--name", "x", "--mac", &web.mac.to_string()], "already in use by endpoint web"),
    ] {
        let line = host.fails(1, &[&["attach", "--netns", &newcomer.path_argument()], flags].concat());
        assert!(line.contains(reason), "{line}");
    }
    ping(&peer, web.ipv4);
    assert_eq!(host.ps(), [at_peer, web]);
    // Once the process ends, its place is free at once.
    drop(process);
    let again = host.attach(&newcomer, &["--name", "web", "--ip", &ipv4, "-p", "8080:80"]);
    assert_eq!(again.ipv4.to_string(), ipv4);
    ping(&peer, again.ipv4);
}
