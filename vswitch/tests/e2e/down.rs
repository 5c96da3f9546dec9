//! `down` leaves nothing behind, and `up` restores what was recorded.

use std::{collections::BTreeSet, net::Ipv4Addr};

use crate::harness::{BpfObject, Host, Netns, Surroundings, ping, processes, tcp};

/// A host with two networks, an uplink with XDP, and containers in both networks.
struct Scene {
    // The namespaces are dropped first, before the host checks for leftovers.
    containers: Vec<Netns>,
    _wire: Netns,
    host: Host,
    before: Surroundings,
}

fn scene(options: &[&str]) -> Scene {
    let host = Host::down();
    let wire = Netns::new("wire");
    host.netns.wire("phys0", &wire, "eth0");
    let containers = Netns::several("c", 4);
    let all: Vec<&Netns> = containers.iter().collect();
    let before = Surroundings::of(&host, &all);
    host.start(options);
    host.ok(&["network", "create", "--subnet", "10.77.0.0/24", "-o", "uplink=phys0", "-o", "xdp=native", "lan"]);
    let addresses: Vec<_> = containers
        .iter()
        .zip(["bridge", "bridge", "lan", "lan"])
        .map(|(container, network)| host.attach(container, &["--network", network]).ipv4)
        .collect();
    ping(&containers[0], addresses[1]);
    ping(&containers[2], addresses[3]);
    assert_ne!(Surroundings::of(&host, &all), before, "the state has changed");
    Scene { containers, _wire: wire, host, before }
}

fn assert_as_before(scene: &Scene) {
    let all: Vec<&Netns> = scene.containers.iter().collect();
    assert_eq!(Surroundings::of(&scene.host, &all), scene.before);
}

#[test]
fn down_leaves_no_device_pin_program_mount_file_or_process() {
    for datapath in ["auto", "tc", "xdp"] {
        let scene = scene(&["--datapath", datapath]);
        let objects = scene.host.record_objects();
        let count = |is: fn(&BpfObject) -> bool| objects.iter().filter(|object| is(object)).count();
        assert!(count(|object| matches!(object, BpfObject::Program(_))) > 0, "{objects:?}");
        assert!(count(|object| matches!(object, BpfObject::Map(_))) > 0, "{objects:?}");
        assert_eq!(processes(scene.host.instance()).len(), 1, "the daemon");
        scene.host.stop(&["--purge"]);
        assert_as_before(&scene);
    }
}

#[test]
fn down_cleans_up_after_a_daemon_that_was_killed() {
    let scene = scene(&[]);
    scene.host.kill_daemon();
    scene.host.stop(&["--purge"]);
    assert_as_before(&scene);
}

#[test]
fn down_can_be_repeated() {
    let host = Host::up(&[]);
    host.stop(&[]);
    host.stop(&[]);
}

#[test]
fn up_after_down_restores_every_endpoint_with_its_addresses() {
    let host = Host::up(&[]);
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    host.ok(&["network", "create", "--subnet", "10.99.0.0/24", "--label", "tier=front", "front"]);
    host.attach(&a, &["--name", "alpha", "--ip", "10.201.0.77", "--mac", "02:aa:bb:cc:dd:01"]);
    let at_b = host.attach(&b, &["--ifname", "lan0"]);
    host.attach(&b, &["--network", "front", "--name", "beta", "--ifname", "front0"]);
    let (endpoints, networks) = (host.ps(), host.json::<serde_json::Value>(&["network", "ls"]));
    let stations = host.fdb(&["--static"]);

    host.stop(&[]);
    assert!(host.state_directory().exists());
    for container in [&a, &b] {
        assert_eq!(container.devices(), BTreeSet::from(["lo".to_owned()]));
    }

    host.start(&[]);
    assert_eq!(host.ps(), endpoints);
    assert_eq!(host.json::<serde_json::Value>(&["network", "ls"]), networks);
    assert_eq!(host.fdb(&["--static"]), stations);
    ping(&a, at_b.ipv4);
    tcp(&b, &a, Ipv4Addr::new(10, 201, 0, 77), 1 << 20);
    assert_eq!(a.mac("eth0").to_string(), "02:aa:bb:cc:dd:01");
}

#[test]
fn purge_removes_all_state() {
    let host = Host::up(&[]);
    let container = Netns::new("a");
    host.ok(&["network", "create", "mine"]);
    host.attach(&container, &["--network", "mine"]);
    host.stop(&["--purge"]);
    assert!(!host.state_directory().exists());
    host.start(&[]);
    assert_eq!(host.ps(), []);
    assert_eq!(host.json::<Vec<serde_json::Value>>(&["network", "ls"]).len(), 3);
}
