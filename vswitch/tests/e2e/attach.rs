//! `attach` and `detach`, and how `ps` and `inspect` show the endpoint.

use std::{collections::BTreeSet, net::Ipv4Addr, process::Command};

use serde_json::Value;

use crate::harness::{Host, Netns, ping, spawn, tcp, udp, udp_broadcast};

#[test]
fn attach_reports_the_device_and_addresses_of_the_container() {
    let host = Host::up(&[]);
    let container = Netns::new("a");
    let endpoint = host.attach(&container, &[]);
    assert_eq!(endpoint.name, container.name(), "the last part of the path");
    assert_eq!((endpoint.network.as_str(), endpoint.ifname.as_str()), ("bridge", "eth0"));
    assert_eq!(endpoint.gateway, Some(Ipv4Addr::new(10, 201, 0, 1)));
    assert_eq!((endpoint.mtu, endpoint.ipv6, endpoint.published.len()), (1500, None, 0));
    assert_eq!(endpoint.netns, container.path());
    assert!(endpoint.id.len() == 64 && endpoint.id.bytes().all(|digit| digit.is_ascii_hexdigit()), "{endpoint:?}");

    let device = container.device("eth0").expect("attach makes eth0");
    assert_eq!(container.mac("eth0"), endpoint.mac);
    assert!(
        !endpoint.mac.is_multicast() && endpoint.mac.0[0] & 2 != 0,
        "locally administered, not a group: {}",
        endpoint.mac
    );
    assert_eq!(device["mtu"], 1500);
    assert_eq!(device["operstate"], "UP");
    assert_eq!(container.addresses("eth0"), [endpoint.ipv4]);
    let routes = container.ip_json("-4 route show default");
    assert_eq!(
        (routes[0]["gateway"].as_str(), routes[0]["dev"].as_str()),
        (Some("10.201.0.1"), Some("eth0")),
        "{routes:#?}"
    );

    assert_eq!(host.ps(), std::slice::from_ref(&endpoint));
    let inspected: Value = host.json(&["inspect", &endpoint.name]);
    for (field, value) in
        [("id", endpoint.id.clone()), ("ipv4", endpoint.ipv4.to_string()), ("mac", endpoint.mac.to_string())]
    {
        assert_eq!(inspected[field], value, "{inspected:#}");
    }
    assert!(inspected["counters"]["rx_frames"].is_u64(), "{inspected:#}");
    let by_prefix: Value = host.json(&["inspect", &endpoint.id[..12]]);
    assert_eq!(by_prefix["id"], inspected["id"]);
}

#[test]
fn attach_without_json_prints_only_the_name() {
    let host = Host::up(&[]);
    let container = Netns::new("a");
    assert_eq!(host.ok(&["attach", "--netns", &container.path_argument(), "--name", "web"]), "web\n");
    assert_eq!(host.ok(&["ps", "-q"]), "web\n");
    let table = host.ok(&["ps"]);
    let header = table.lines().next().unwrap_or_default();
    assert_eq!(
        header.split_whitespace().collect::<Vec<_>>(),
        ["NAME", "NETWORK", "IPV4", "MAC", "IFNAME", "NETNS", "PUBLISHED"]
    );
    assert!(table.lines().nth(1).is_some_and(|row| row.contains("web") && row.contains("10.201.0.2")), "{table}");
}

#[test]
fn attach_uses_the_given_name_interface_and_addresses() {
    let host = Host::up(&[]);
    let container = Netns::new("a");
    let endpoint = host.attach(
        &container,
        &[
            "--name",
            "web",
            "--ifname",
            "lan0",
            "--ip",
            "10.201.0.200",
            "--mac",
            "02:12:34:56:78:9a",
            "--network",
            "bridge",
        ],
    );
    assert_eq!((endpoint.name.as_str(), endpoint.ifname.as_str()), ("web", "lan0"));
    assert_eq!(endpoint.ipv4, Ipv4Addr::new(10, 201, 0, 200));
    assert_eq!(container.addresses("lan0"), [endpoint.ipv4]);
    assert_eq!(container.mac("lan0").to_string(), "02:12:34:56:78:9a");
    ping(&container, Ipv4Addr::new(10, 201, 0, 1));
}

#[test]
fn a_namespace_of_a_process_can_be_attached() {
    let host = Host::up(&[]);
    let (named, peer) = (Netns::new("a"), Netns::new("b"));
    let mut sleep = named.command("sleep");
    let process = spawn(sleep.arg("10000"));
    let path = format!("/proc/{}/ns/net", process.id());
    // The process may not have entered its namespace yet.
    let wanted = std::fs::metadata(named.path()).unwrap();
    crate::harness::eventually("the process is in its namespace", || {
        use std::os::unix::fs::MetadataExt as _;
        std::fs::metadata(&path).ok().filter(|found| found.ino() == wanted.ino())
    });
    let answer: Value = host.json(&["attach", "--netns", &path, "--name", "by-process"]);
    let peer_address = host.attach(&peer, &[]).ipv4;
    assert_eq!(answer["netns"], path);
    ping(&named, peer_address);
}

#[test]
fn symlinks_that_only_root_can_make_are_followed() {
    let host = Host::up(&[]);
    let container = Netns::new("a");
    // /var/run is such a link on Debian, but not everywhere, so the test makes a link in /run.
    let link = std::path::PathBuf::from(format!("/run/{}", container.name()));
    std::os::unix::fs::symlink(container.path(), &link).unwrap();
    let outcome = host.run(&["attach", "--netns", &link.to_string_lossy(), "--name", "linked"]);
    std::fs::remove_file(&link).unwrap();
    assert_eq!(outcome.code, Some(0), "{outcome:#?}");
    ping(&container, Ipv4Addr::new(10, 201, 0, 1));
}

#[test]
fn three_containers_and_the_host_reach_each_other() {
    let host = Host::up(&[]);
    let gateway = Ipv4Addr::new(10, 201, 0, 1);
    let containers = Netns::several("c", 3);
    let addresses: Vec<Ipv4Addr> = containers.iter().map(|container| host.attach(container, &[]).ipv4).collect();
    for (from, container) in containers.iter().enumerate() {
        for (to, address) in addresses.iter().enumerate().filter(|(to, _)| *to != from) {
            ping(container, *address);
            tcp(container, &containers[to], *address, 100_000);
            udp(container, &containers[to], *address, 512, 50);
        }
        ping(container, gateway);
        ping(&host.netns, addresses[from]);
        tcp(container, &host.netns, gateway, 1 << 20);
        tcp(&host.netns, container, addresses[from], 1 << 20);
        udp(container, &host.netns, gateway, 1400, 50);
        udp(&host.netns, container, addresses[from], 1400, 50);
    }
    let others = [&containers[1], &containers[2], &*host.netns];
    udp_broadcast(&containers[0], addresses[0], &others);
    let all: Vec<&Netns> = containers.iter().collect();
    udp_broadcast(&host.netns, gateway, &all);
}

#[test]
fn a_container_can_be_in_two_networks() {
    let host = Host::up(&[]);
    host.ok(&["network", "create", "--subnet", "10.90.0.0/24", "second"]);
    let (a, b, c) = (Netns::new("a"), Netns::new("b"), Netns::new("c"));
    host.attach(&a, &[]);
    host.attach(&a, &["--network", "second", "--ifname", "eth1", "--name", "a-second"]);
    let in_bridge = host.attach(&b, &[]);
    let in_second = host.attach(&c, &["--network", "second"]);
    ping(&a, in_bridge.ipv4);
    ping(&a, in_second.ipv4);
    assert_eq!(in_second.ipv4, Ipv4Addr::new(10, 90, 0, 3));
    host.ok(&["detach", "--netns", &a.path_argument(), "--network", "second"]);
    assert_eq!(a.devices(), ["lo", "eth0"].map(str::to_owned).into());
    ping(&a, in_bridge.ipv4);
}

#[test]
fn networks_with_long_names_do_not_collide() {
    let host = Host::up(&[]);
    let names = ["one", "two"].map(|end| format!("{}{end}", "a-network-with-a-very-long-name-".repeat(2)));
    let names = names.map(|name| name[name.len() - 60..].to_owned());
    let shared = ["x", "y"].map(|end| format!("{}{end}", "the-same-beginning-".repeat(3)));
    for name in names.iter().chain(&shared) {
        host.ok(&["network", "create", name]);
        let [a, b] = ["a", "b"].map(Netns::new);
        host.attach(&a, &["--network", name]);
        let at_b = host.attach(&b, &["--network", name]);
        ping(&a, at_b.ipv4);
        ping(&a, at_b.gateway.unwrap());
        host.ok(&["detach", a.name()]);
        host.ok(&["detach", b.name()]);
    }
    for name in names.iter().chain(&shared) {
        host.ok(&["network", "rm", name]);
    }
}

#[test]
fn the_mtu_is_that_of_the_uplink() {
    let host = Host::down();
    let [a, wire] = ["a", "wire"].map(Netns::new);
    host.netns.wire("phys0", &wire, "eth0");
    host.netns.ip("link set phys0 mtu 1400");
    host.start(&[]);
    host.ok(&["network", "create", "-o", "uplink=phys0", "lan"]);
    assert_eq!(host.attach(&a, &["--network", "lan"]).mtu, 1400);
}

#[test]
fn detach_frees_the_address_and_can_be_repeated() {
    let host = Host::up(&[]);
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    let devices = host.netns.devices();
    let first = host.attach(&a, &["--name", "web"]);
    host.ok(&["detach", "web"]);
    assert_eq!(host.ps(), []);
    assert_eq!(a.devices(), BTreeSet::from(["lo".to_owned()]));
    assert_eq!(host.netns.devices(), devices);
    assert!(host.fdb(&[]).iter().all(|station| station.mac != first.mac));
    host.ok(&["detach", "web"]);
    host.ok(&["detach", "--netns", &a.path_argument()]);
    let second = host.attach(&b, &["--name", "web", "--ip", &first.ipv4.to_string(), "--mac", &first.mac.to_string()]);
    assert_eq!(second.ipv4, first.ipv4);
    ping(&b, Ipv4Addr::new(10, 201, 0, 1));
}

#[test]
fn detach_leaves_the_containers_own_interface() {
    let host = Host::up(&[]);
    let (container, elsewhere) = (Netns::new("a"), Netns::new("b"));
    container.wire("own0", &elsewhere, "eth0");
    container.ip("address add 192.0.2.1/24 dev own0");
    let lines = |netns: &Netns| (netns.device("own0"), netns.addresses("own0"));
    let before = lines(&container);
    host.attach(&container, &[]);
    host.ok(&["detach", "--netns", &container.path_argument()]);
    assert_eq!(lines(&container), before);
    assert_eq!(container.ip_json("-4 route show default").len(), 0);
}

#[test]
fn help_has_an_example_for_each_command() {
    for command in ["up", "down", "status", "attach", "run", "detach", "ps", "inspect", "stats"] {
        let outcome = crate::harness::run(Command::new(crate::harness::BINARY).args([command, "--help"]));
        assert_eq!(outcome.code, Some(0), "{outcome:#?}");
        assert!(outcome.stdout.contains(&format!("vswitch {command}")), "no example: {}", outcome.stdout);
    }
}
