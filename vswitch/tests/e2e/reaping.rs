//! Namespaces, devices and uplinks that other programs remove.

use std::net::Ipv4Addr;

use serde_json::Value;

use crate::harness::{Host, Netns, Surroundings, eventually, ping, tcp};

#[test]
fn a_namespace_deleted_while_attached_is_reaped() {
    let host = Host::up(&[]);
    let survivor = Netns::new("survivor");
    let at_survivor = host.attach(&survivor, &[]);
    let before = Surroundings::of(&host, &[]);
    let doomed = Netns::new("doomed");
    let endpoint = host.attach(&doomed, &["--name", "doomed"]);
    doomed.delete();
    eventually("the endpoint is gone", || host.ps().iter().all(|other| other.name != "doomed").then_some(()));
    eventually("everything created for the endpoint is removed", || {
        (Surroundings::of(&host, &[]) == before).then_some(())
    });
    assert!(host.fdb(&[]).iter().all(|station| station.mac != endpoint.mac));
    // The name and the address are free again.
    let successor = Netns::new("successor");
    let inherited = host.attach(&successor, &["--name", "doomed", "--ip", &endpoint.ipv4.to_string()]);
    assert_eq!(inherited.ipv4, endpoint.ipv4);
    ping(&successor, at_survivor.ipv4);
}

#[test]
fn an_endpoint_lives_until_the_last_process_of_its_namespace_ends() {
    let host = Host::up(&[]);
    let (named, peer) = (Netns::new("named"), Netns::new("peer"));
    let at_peer = host.attach(&peer, &[]);
    let process = crate::harness::spawn(named.command("sleep").arg("10000"));
    let path = format!("/proc/{}/ns/net", process.id());
    let wanted = std::fs::metadata(named.path()).unwrap();
    eventually("the process is in its namespace", || {
        use std::os::unix::fs::MetadataExt as _;
        std::fs::metadata(&path).ok().filter(|found| found.ino() == wanted.ino())
    });
    host.ok(&["attach", "--netns", &path, "--name", "worker"]);
    ping(&named, at_peer.ipv4);
    named.delete();
    assert!(host.ps().iter().any(|endpoint| endpoint.name == "worker"));
    ping(&host.netns, host.ps().iter().find(|endpoint| endpoint.name == "worker").unwrap().ipv4);
    drop(process);
    eventually("the endpoint is gone with the process", || {
        host.ps().iter().all(|endpoint| endpoint.name != "worker").then_some(())
    });
}

#[test]
fn many_namespaces_deleted_at_once_are_reaped() {
    let host = Host::up(&[]);
    let before = Surroundings::of(&host, &[]);
    let containers = Netns::several("c", 10);
    for container in &containers {
        host.attach(container, &[]);
    }
    drop(containers);
    eventually("all endpoints are gone", || host.ps().is_empty().then_some(()));
    eventually("everything created for the endpoints is removed", || {
        (Surroundings::of(&host, &[]) == before).then_some(())
    });
}

#[test]
fn removing_the_device_of_a_port_removes_the_endpoint() {
    let host = Host::up(&[]);
    let [a, b, c] = ["a", "b", "c"].map(Netns::new);
    let [at_b, at_c] = [&b, &c].map(|container| host.attach(container, &[]));
    let before = Surroundings::of(&host, &[&a, &b, &c]);
    let at_a = host.attach(&a, &[]);
    let mark = format!("vswitch:{}:bridge:{}", host.instance(), at_a.id);
    let links = host.netns.ip_json("link show");
    let device = links
        .iter()
        .find(|link| link["ifalias"] == mark)
        .unwrap_or_else(|| panic!("no device is marked {mark}: {links:#?}"));
    host.netns.ip(&format!("link del {}", device["ifname"].as_str().unwrap()));

    eventually("the endpoint is gone", || (host.ps().len() == 2).then_some(()));
    eventually("everything created for the endpoint is removed", || {
        (Surroundings::of(&host, &[&a, &b, &c]) == before).then_some(())
    });
    assert!(host.fdb(&[]).iter().all(|station| station.mac != at_a.mac));
    tcp(&b, &c, at_c.ipv4, 1 << 20);
    host.ok(&["detach", &at_a.name]);
    let again = host.attach(&a, &["--ip", &at_a.ipv4.to_string()]);
    assert_eq!(again.ipv4, at_a.ipv4);
    ping(&a, at_b.ipv4);
}

#[test]
fn a_renamed_or_moved_interface_is_still_detached() {
    let host = Host::up(&[]);
    let (a, elsewhere) = (Netns::new("a"), Netns::new("elsewhere"));
    let before = Surroundings::of(&host, &[&a, &elsewhere]);
    host.attach(&a, &["--name", "a"]);
    a.ip("link set eth0 down");
    a.ip("link set eth0 name renamed0");
    host.ok(&["detach", "a"]);
    assert_eq!(Surroundings::of(&host, &[&a, &elsewhere]), before);
    host.attach(&a, &["--name", "a"]);
    a.ip(&format!("link set eth0 netns {}", elsewhere.name()));
    host.ok(&["detach", "a"]);
    assert_eq!(Surroundings::of(&host, &[&a, &elsewhere]), before);
}

#[test]
fn a_removed_host_device_is_created_again() {
    let host = Host::up(&[]);
    let container = Netns::new("a");
    host.attach(&container, &[]);
    let gateway = Ipv4Addr::new(10, 201, 0, 1);
    let holder =
        |host: &Host| host.netns.devices().into_iter().find(|device| host.netns.addresses(device).contains(&gateway));
    let before = host.netns.devices().len();
    let device = holder(&host).expect("a device holds the gateway's address");
    host.netns.ip(&format!("link del {device}"));
    eventually("the device exists again", || {
        (host.netns.devices().len() == before && holder(&host).is_some_and(|name| name == device)).then_some(())
    });
    // The device exists before it is up.
    eventually("the device is up", || (host.netns.device(&device)?["operstate"] == "UP").then_some(()));
    ping(&container, gateway);
}

#[test]
fn an_uplink_that_returns_is_used_again() {
    let host = Host::down();
    let [a, b, wire] = ["a", "b", "wire"].map(Netns::new);
    host.netns.wire("phys0", &wire, "eth0");
    host.start(&[]);
    host.ok(&["network", "create", "--subnet", "10.77.0.0/24", "-o", "uplink=phys0", "lan"]);
    host.attach(&a, &["--network", "lan"]);
    let at_b = host.attach(&b, &["--network", "lan"]);
    let present = || {
        let networks: Vec<Value> = host.json(&["network", "inspect", "lan"]);
        networks[0]["uplink"]["present"].as_bool()
    };
    assert_eq!(present(), Some(true));
    host.netns.ip("link del phys0");
    eventually("the uplink is shown as absent", || (present() == Some(false)).then_some(()));
    ping(&a, at_b.ipv4);
    host.netns.wire("phys0", &wire, "eth0");
    wire.ip("address add 10.77.0.200/24 dev eth0");
    eventually("the uplink is shown as present", || (present() == Some(true)).then_some(()));
    ping(&wire, at_b.ipv4);
    tcp(&a, &wire, Ipv4Addr::new(10, 77, 0, 200), 1 << 20);
}
