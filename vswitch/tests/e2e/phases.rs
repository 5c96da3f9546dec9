//! The phases of an endpoint: an attach, a detach or an `up` that is interrupted is finished by the
//! next daemon, and a port that runs is never released.

use std::path::Path;

use nix::{
    errno::Errno,
    net::if_::if_nametoindex,
    sys::signal::{Signal, kill},
};
use redb::{Database, ReadableTable as _, TableDefinition};
use serde_json::{Value, json};

use crate::harness::{
    Attached, Host, Netns, Pinger, Site, Wire, ask, both, eventually, get, ping, processes, settles, spawn,
};

/// The networks of [`host_with_all_drivers`].
const NETWORKS: [&str; 4] = ["front", "mac", "ip", "over"];

/// Returns a host with a network of each driver that has interfaces, all with IPv6.
fn host_with_all_drivers() -> (Host, [Wire; 2]) {
    let host = Host::down();
    let wires = [0, 1].map(|number| Wire::numbered(number, &host.netns, "off", 1));
    host.start(&[]);
    host.ok(&["network", "create", "--subnet", "10.101.0.0/24", "--subnet", "fd00:101::/64", "front"]);
    wires[0].create_network(&host, "macvlan", &[], "mac");
    wires[1].create_network(&host, "ipvlan", &[], "ip");
    let overlay = ["--subnet", "10.102.0.0/24", "--subnet", "fd00:102::/64", "-o", "vni=102"];
    host.ok(&[&["network", "create", "-d", "overlay"], &overlay[..], &["over"]].concat());
    (host, wires)
}

/// Returns the device of an endpoint's port, and its index.
fn port_device(host: &Host, endpoint: &str) -> (String, u64) {
    let details: Value = host.json(&["inspect", endpoint]);
    let device = details["device"].as_str().expect("a device").to_owned();
    let index = host.netns.device(&device).expect("it exists")["ifindex"].as_u64().expect("an index");
    (device, index)
}

/// Kills the daemon at once, and waits until it is dead.
fn kill_at_once(host: &Host) {
    let daemon = host.daemon().expect("a daemon is running");
    kill(daemon, Signal::SIGKILL).expect("killing the daemon");
    eventually("the daemon is dead", || processes(host.instance()).is_empty().then_some(()));
}

#[test]
fn a_port_that_runs_is_taken_over_whatever_its_other_end_is_called_and_wherever_it_is() {
    let (host, _wires) = host_with_all_drivers();
    for network in NETWORKS {
        let peer = Netns::new("peer");
        host.attach(&peer, &["--network", network, "--name", "peer"]);
        for other_end in ["renamed", "moved"] {
            let (container, elsewhere) = (Netns::new("c"), Netns::new("elsewhere"));
            let publish: &[&str] = if matches!(network, "front" | "over") { &["-p", "8080:80"] } else { &[] };
            let flags = ["--network", network, "--name", "web", "--alias", "www"];
            let web = host.attach(&container, &[&flags[..], publish].concat());
            let (device, index) = port_device(&host, "web");
            let inside = match other_end {
                "renamed" => {
                    container.ip("link set eth0 down");
                    container.ip("link set eth0 name lan0");
                    container.ip("link set lan0 up");
                    (&container, "lan0")
                }
                _ => {
                    container.ip(&format!("link set eth0 netns {} name lan0", elsewhere.name()));
                    elsewhere.ip(&format!("address add {}/24 dev lan0", web.ipv4));
                    elsewhere.ip("link set lan0 up");
                    (&elsewhere, "lan0")
                }
            };
            kill_at_once(&host);
            let case = format!("{network}, {other_end}");
            let mut pinger = Pinger::new(&peer, web.ipv4);
            pinger.ping(56);
            let before = inside.0.device(inside.1).expect("it exists");
            let printed = std::thread::scope(|scope| {
                let up = scope.spawn(|| host.start(&[]));
                while !up.is_finished() {
                    pinger.ping(56);
                }
                up.join().expect("up succeeds")
            });
            assert!(!printed.contains("released"), "{case}: {printed}");
            let listed = host.ps().into_iter().find(|endpoint| endpoint.name == "web");
            assert_eq!(listed.as_ref(), Some(&web), "{case}");
            assert_eq!(port_device(&host, "web"), (device.clone(), index), "{case}: the port is the same");
            assert_eq!(inside.0.device(inside.1).as_ref(), Some(&before), "{case}: nothing is changed inside");
            pinger.ping(56);
            // Its name and its published port are there, and its address is not given away.
            if let Some(gateway) = web.gateway.filter(|_| !publish.is_empty()) {
                assert_eq!(ask(&peer, gateway, "www", "A").data, [web.ipv4.to_string()], "{case}");
                let _site = Site::open(inside.0, 80, "web");
                let page = get(&host.netns, gateway, 8080);
                assert_eq!(page.site, "web", "{case}");
            }
            let newcomer = Netns::new("newcomer");
            let at_newcomer = host.attach(&newcomer, &["--network", network, "--name", "newcomer"]);
            assert!(both(&at_newcomer).iter().all(|address| !both(&web).contains(address)), "{case}");
            ping(&newcomer, web.ipv4);
            host.ok(&["detach", "newcomer"]);
            host.ok(&["detach", "web"]);
            assert_eq!(inside.0.device(inside.1), None, "{case}: the detach finds the interface");
        }
        host.ok(&["detach", "peer"]);
    }
}

#[test]
fn a_detach_that_was_begun_is_finished_by_the_next_daemon() {
    let (host, _wires) = host_with_all_drivers();
    let bare = host.netns.devices();
    for network in NETWORKS {
        let container = Netns::new("c");
        let publish: &[&str] = if matches!(network, "front" | "over") { &["-p", "8080:80"] } else { &[] };
        let flags = [&["--network", network, "--name", "web"], publish].concat();
        let web = host.attach(&container, &flags);
        let (device, _) = port_device(&host, "web");
        let daemon = host.daemon().expect("a daemon is running");
        let detach = spawn(&mut host.command(&["detach", "web"]));
        host.netns.inside(|| {
            while if_nametoindex(device.as_str()) != Err(Errno::ENODEV) {}
            kill(daemon, Signal::SIGKILL).expect("killing the daemon");
        });
        eventually("the daemon is dead", || {
            processes(host.instance()).iter().all(|process| *process != daemon).then_some(())
        });
        detach.outcome();
        let printed = host.start(&[]);
        assert!(!printed.contains("attached again"), "{network}: {printed}");
        assert_eq!(host.ps(), [], "{network}");
        assert_eq!(host.netns.devices(), bare, "{network}");
        assert!(!container.devices().contains("eth0"), "{network}");
        // What the endpoint had is free.
        let [ipv4, ipv6] = both(&web).map(|address| address.to_string());
        let again = host.attach(&container, &[&flags[..], &["--ip", &ipv4, "--ip6", &ipv6]].concat());
        assert_eq!((both(&again), again.published), (both(&web), web.published), "{network}");
        host.ok(&["detach", "web"]);
    }
}

const ENDPOINTS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("endpoints");

/// Sets the phases in the records of endpoints, while no daemon runs.
fn set_phases(state: &Path, phases: &[(Attached, &str)]) {
    // The kernel takes the lock of a dead process off some time after its end.
    let database = settles("the record is free", || Database::open(state.join("state.redb")));
    let transaction = database.begin_write().expect("a transaction");
    {
        let mut table = transaction.open_table(ENDPOINTS).expect("the endpoints");
        let records: Vec<(Vec<u8>, Value)> = table
            .iter()
            .expect("the records")
            .map(|row| row.expect("a record"))
            .map(|(key, value)| (key.value().to_vec(), serde_json::from_slice(value.value()).expect("JSON")))
            .collect();
        for (endpoint, phase) in phases {
            let found = records.iter().find(|(_, record)| record["id"] == endpoint.id);
            let (key, mut record) = found.expect("the endpoint is recorded").clone();
            record["phase"] = json!(phase);
            table.insert(&key[..], &serde_json::to_vec(&record).expect("JSON")[..]).expect("written");
        }
    }
    transaction.commit().expect("on disk");
}

#[test]
fn endpoints_in_each_phase_are_finished_taken_over_or_released() {
    let (host, _wires) = host_with_all_drivers();
    const PHASES: [&str; 4] = ["reserved", "attaching", "attached", "detaching"];
    let containers: Vec<(Netns, String, &str)> = NETWORKS
        .into_iter()
        .flat_map(|network| PHASES.map(|phase| (Netns::new("c"), format!("{network}-{phase}"), phase)))
        .collect();
    let attach = |(netns, name, _): &(Netns, String, &str)| {
        let network = name.split('-').next().expect("a network");
        host.attach(netns, &["--network", network, "--name", name])
    };
    let check = |with_device: bool, stay: &[&str]| {
        let attached: Vec<Attached> = containers.iter().map(&attach).collect();
        let before: Vec<_> = attached.iter().map(|endpoint| port_device(&host, &endpoint.name)).collect();
        if with_device {
            host.kill_daemon()
        } else {
            host.stop(&[])
        }
        let phases = attached.iter().cloned().zip(containers.iter().map(|(_, _, phase)| *phase));
        set_phases(&host.state_directory(), &phases.collect::<Vec<_>>());
        host.start(&[]);
        let listed = host.ps();
        for ((endpoint, device), (netns, name, phase)) in attached.iter().zip(&before).zip(&containers) {
            let stays = stay.contains(phase);
            assert_eq!(listed.contains(endpoint), stays, "{name}, with its device: {with_device}: {listed:#?}");
            assert_eq!(netns.devices().contains("eth0"), stays, "{name}, with its device: {with_device}");
            if stays && with_device {
                assert_eq!(port_device(&host, name), *device, "{name}: the port is the same");
            }
            if stays {
                let other = listed.iter().find(|other| other.network == endpoint.network && other.name != *name);
                ping(netns, other.expect("another one of the network").ipv4);
            }
        }
        for (_, name, _) in &containers {
            host.ok(&["detach", name]);
        }
    };
    // A begun detach is finished. An endpoint that runs is taken over, whatever its record says.
    check(true, &["reserved", "attaching", "attached"]);
    // Without its device, an endpoint that only had its addresses is released, and a begun attach
    // is finished.
    check(false, &["attaching", "attached"]);
}

#[test]
fn an_endpoint_that_is_lost_during_up_does_not_keep_the_others_from_it() {
    let host = Host::up(&[]);
    let [a, b, c] = ["a", "b", "c"].map(Netns::new);
    let [_, _, at_c] = [&a, &b, &c].map(|container| host.attach(container, &["-p", "80"]));
    let (device, _) = port_device(&host, b.name());
    let lost = b.name().to_owned();
    host.kill_daemon();
    // `up` has read the devices when it writes the first rules. This nft waits until the device of
    // one endpoint is gone.
    let directory = tempfile::tempdir().expect("a directory");
    let [reached, proceed] = ["reached", "proceed"].map(|name| directory.path().join(name));
    let nft = directory.path().join("nft");
    let script = format!(
        "#!/bin/sh\nPATH=${{PATH#*:}}\ncase \"$*\" in *-f*)\ntouch {}\nuntil [ -e {} ]; do sleep 0.01; done\nesac\nexec nft \"$@\"\n",
        reached.display(),
        proceed.display()
    );
    std::fs::write(&nft, script).expect("a script");
    std::fs::set_permissions(&nft, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("executable");
    let path = format!("{}:{}", directory.path().display(), std::env::var("PATH").expect("a path"));
    let up = spawn(host.command(&["up"]).env("PATH", path));
    eventually("up writes rules", || reached.exists().then_some(()));
    b.delete();
    eventually("the device is gone", || host.netns.device(&device).is_none().then_some(()));
    std::fs::write(&proceed, "").expect("a file");
    let outcome = up.outcome();
    assert_eq!(outcome.code, Some(0), "{outcome:#?}");
    assert!(outcome.stdout.contains(&format!("endpoint {lost} is released")), "{outcome:#?}");
    let names: Vec<String> = host.ps().into_iter().map(|endpoint| endpoint.name).collect();
    assert_eq!(names, [a.name(), c.name()]);
    ping(&a, at_c.ipv4);
}
