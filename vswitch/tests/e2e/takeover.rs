//! The daemon dies, traffic does not; the next one takes over.

use std::net::Ipv4Addr;

use serde_json::Value;

use crate::harness::{Flow, Host, Netns, Pinger, ping, set_tx_checksumming, tcp, udp};

/// Kills the daemon under two flows and a TCP stream, starts the next, and looks at everything.
fn no_frame_is_lost(datapath: &str) {
    let host = Host::up(&["--datapath", datapath]);
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    let to_a = host.attach(&a, &["--name", "a"]);
    let to_b = host.attach(&b, &["--name", "b"]);
    let first_daemon = host.daemon().unwrap();
    let endpoints = host.ps();
    let stations = host.fdb(&["--static"]);
    ping(&a, to_b.ipv4);

    let there = Flow::start(&a, &b, to_b.ipv4);
    let back = Flow::start(&b, &a, to_a.ipv4);
    let mut pinger = Pinger::new(&a, to_b.ipv4);
    there.goes_on(200);
    host.kill_daemon();
    for _ in 0..20 {
        pinger.ping(56);
    }
    tcp(&a, &b, to_b.ipv4, 4 << 20);
    there.goes_on(200);
    back.goes_on(200);
    std::thread::scope(|scope| {
        let up = scope.spawn(|| host.start(&["--datapath", datapath]));
        while !up.is_finished() {
            pinger.ping(56);
        }
    });
    there.goes_on(200);
    back.goes_on(200);
    there.assert_complete();
    back.assert_complete();

    assert_ne!(host.daemon().unwrap(), first_daemon);
    assert_eq!(host.ps(), endpoints);
    assert_eq!(host.fdb(&["--static"]), stations);
    // And it is in full control: it attaches, counts and detaches.
    let c = Netns::new("c");
    let to_c = host.attach(&c, &[]);
    assert!(![to_a.ipv4, to_b.ipv4].contains(&to_c.ipv4));
    ping(&a, to_c.ipv4);
    ping(&c, to_b.ipv4);
    host.ok(&["detach", "a"]);
    assert!(!a.devices().contains("eth0"));
    ping(&b, to_c.ipv4);
}

#[test]
fn no_frame_is_lost_when_the_daemon_is_killed_and_the_next_takes_over() {
    no_frame_is_lost("auto");
}

#[test]
fn no_frame_is_lost_in_takeover_with_xdp() {
    no_frame_is_lost("xdp");
}

#[test]
fn no_frame_from_the_wire_is_lost_in_takeover() {
    for xdp in ["off", "native"] {
        let host = Host::down();
        let [a, b, wire] = ["a", "b", "wire"].map(Netns::new);
        host.netns.wire("phys0", &wire, "eth0");
        let on_wire = Ipv4Addr::new(10, 77, 0, 200);
        wire.ip(&format!("address add {on_wire}/24 dev eth0"));
        set_tx_checksumming(&wire, "eth0", xdp == "off");
        host.start(&[]);
        let xdp_option = format!("xdp={xdp}");
        host.ok(&["network", "create", "--subnet", "10.77.0.0/24", "-o", "uplink=phys0", "-o", &xdp_option, "lan"]);
        let [at_a, at_b] = [&a, &b].map(|container| host.attach(container, &["--network", "lan"]));
        let flows = [
            Flow::start(&wire, &a, at_a.ipv4),
            Flow::start(&b, &wire, on_wire),
            Flow::start(&wire, &host.netns, Ipv4Addr::new(10, 77, 0, 1)),
        ];
        flows.iter().for_each(|flow| flow.goes_on(200));
        host.kill_daemon();
        flows.iter().for_each(|flow| flow.goes_on(200));
        host.start(&[]);
        flows.iter().for_each(|flow| flow.goes_on(200));
        flows.into_iter().for_each(Flow::assert_complete);
        let device = host.netns.device("phys0").unwrap();
        assert_eq!(device.get("xdp").is_some_and(|xdp| !xdp.is_null()), xdp == "native", "{device:#}");
        tcp(&wire, &b, at_b.ipv4, 4 << 20);
        // It still follows the interface, and still gives it back.
        host.ok(&["detach", "--netns", &a.path_argument()]);
        host.ok(&["detach", "--netns", &b.path_argument()]);
        host.ok(&["network", "rm", "lan"]);
        let device = host.netns.device("phys0").unwrap();
        assert!(device.get("xdp").is_none_or(Value::is_null) && device["promiscuity"] == 0, "{device:#}");
    }
}

#[test]
fn the_next_daemon_may_use_another_datapath() {
    let host = Host::up(&["--datapath", "tc"]);
    let [a, b, c] = ["a", "b", "c"].map(Netns::new);
    let [_, at_b] = [&a, &b].map(|container| host.attach(container, &[]));
    for (datapath, newcomer) in [("xdp", "d"), ("auto", "e"), ("xdp", "f"), ("tc", "g")] {
        let flow = Flow::start(&a, &b, at_b.ipv4);
        flow.goes_on(50);
        host.kill_daemon();
        host.start(&["--datapath", datapath]);
        flow.goes_on(50);
        flow.assert_complete();
        let newcomer = Netns::new(newcomer);
        let at_newcomer = host.attach(&newcomer, &[]);
        tcp(&a, &b, at_b.ipv4, 4 << 20);
        tcp(&a, &newcomer, at_newcomer.ipv4, 4 << 20);
        tcp(&newcomer, &b, at_b.ipv4, 4 << 20);
        tcp(&newcomer, &host.netns, Ipv4Addr::new(10, 201, 0, 1), 4 << 20);
        udp(&newcomer, &a, host.ps().iter().find(|endpoint| endpoint.name == a.name()).unwrap().ipv4, 1472, 50);
        host.ok(&["detach", newcomer.name()]);
    }
    host.attach(&c, &[]);
}

#[test]
fn learned_stations_outlive_the_daemon() {
    use crate::harness::{Frame, Mac, RawPort};
    let host = Host::up(&[]);
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    host.attach(&a, &["-o", "spoof_guard=off"]);
    host.attach(&b, &[]);
    let nested: Mac = "02:00:00:00:77:01".parse().unwrap();
    let (port_a, port_b) = (RawPort::open(&a, "eth0"), RawPort::open(&b, "eth0"));
    let hello = Frame::new(Mac::BROADCAST, nested, "hello");
    port_a.send(&hello);
    port_b.expect(&hello);
    let learned = |host: &Host| {
        host.fdb(&["--dynamic"]).into_iter().find(|station| station.mac == nested).map(|station| station.port)
    };
    assert_eq!(learned(&host).as_deref(), Some(a.name()));
    host.kill_daemon();
    host.start(&[]);
    assert_eq!(learned(&host).as_deref(), Some(a.name()));
}

#[test]
fn what_is_attached_while_the_last_daemon_died_can_be_detached_by_the_next() {
    let host = Host::up(&[]);
    let containers = Netns::several("c", 4);
    for container in &containers {
        host.attach(container, &[]);
    }
    let devices = host.netns.devices();
    host.kill_daemon();
    // One of them is gone before anybody looks.
    let mut containers = containers.into_iter();
    containers.next().unwrap().delete();
    host.start(&[]);
    crate::harness::eventually("the endpoint whose namespace is gone is reaped", || {
        (host.ps().len() == 3).then_some(())
    });
    for container in containers {
        host.ok(&["detach", "--netns", &container.path_argument()]);
        assert_eq!(container.devices().len(), 1, "only lo");
    }
    assert_eq!(host.ps(), []);
    assert_eq!(host.netns.devices().len(), devices.len() - 4);
}
