//! Takeover: the daemon dies, traffic continues, and the next daemon takes over.

use std::net::Ipv4Addr;

use serde_json::Value;

use crate::harness::{Flow, Frame, Host, Mac, Netns, Pinger, RawPort, eventually, ping, set_tx_checksumming, tcp, udp};

/// Kills the daemon during two flows and a TCP stream, starts the next one, and checks the traffic
/// and the state.
fn check_that_no_frame_is_lost(datapath: &str) {
    let host = Host::up(&["--datapath", datapath]);
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    let to_a = host.attach(&a, &["--name", "a"]);
    let to_b = host.attach(&b, &["--name", "b"]);
    // A station behind an endpoint, which is learned.
    let (guest, nested) = (Netns::new("guest"), Mac([2, 0, 0, 0, 0x77, 1]));
    host.attach(&guest, &["--name", "guest", "-o", "spoof_guard=off"]);
    let (port_guest, port_b) = (RawPort::open(&guest, "eth0"), RawPort::open(&b, "eth0"));
    let hello = Frame::new(Mac::BROADCAST, nested, "hello");
    port_guest.send(&hello);
    port_b.expect(&hello);
    drop(port_b);
    let learned =
        || host.fdb(&["--dynamic"]).into_iter().find(|station| station.mac == nested).map(|station| station.port);
    assert_eq!(learned().as_deref(), Some("guest"));

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
    tcp(&a, &b, to_b.ipv4, 1 << 20);
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
    assert_eq!(learned().as_deref(), Some("guest"));
    // The new daemon has full control: it attaches and detaches endpoints.
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
fn a_takeover_loses_no_frame() {
    check_that_no_frame_is_lost("auto");
}

#[test]
fn a_takeover_with_xdp_loses_no_frame() {
    check_that_no_frame_is_lost("xdp");
}

#[test]
fn a_takeover_loses_no_frame_from_the_wire() {
    let host = Host::up(&[]);
    let segments = [(0, "off"), (1, "native")].map(|(number, xdp)| {
        let [a, b, wire] = ["a", "b", "wire"].map(Netns::new);
        let (uplink, network) = (format!("phys{number}"), format!("lan{number}"));
        host.netns.wire(&uplink, &wire, "eth0");
        let on_wire = Ipv4Addr::new(10, 77, number, 200);
        wire.ip(&format!("address add {on_wire}/24 dev eth0"));
        set_tx_checksumming(&wire, "eth0", xdp == "off");
        let options = [format!("uplink={uplink}"), format!("xdp={xdp}")];
        let subnet = format!("10.77.{number}.0/24");
        host.ok(&["network", "create", "--subnet", &subnet, "-o", &options[0], "-o", &options[1], &network]);
        let [at_a, at_b] = [&a, &b].map(|container| host.attach(container, &["--network", &network]));
        let flows = [
            Flow::start(&wire, &a, at_a.ipv4),
            Flow::start(&b, &wire, on_wire),
            Flow::start(&wire, &host.netns, Ipv4Addr::new(10, 77, number, 1)),
        ];
        (flows, (xdp, uplink, network, a, b, wire, at_b))
    });
    let flows = || segments.iter().flat_map(|(flows, _)| flows);
    flows().for_each(|flow| flow.goes_on(200));
    host.kill_daemon();
    flows().for_each(|flow| flow.goes_on(200));
    host.start(&[]);
    flows().for_each(|flow| flow.goes_on(200));
    for (flows, (xdp, uplink, network, a, b, wire, at_b)) in segments {
        flows.into_iter().for_each(Flow::assert_complete);
        let device = host.netns.device(&uplink).unwrap();
        assert_eq!(device.get("xdp").is_some_and(|xdp| !xdp.is_null()), xdp == "native", "{device:#}");
        tcp(&wire, &b, at_b.ipv4, 1 << 20);
        // The new daemon releases the interface together with the network.
        host.ok(&["detach", "--netns", &a.path_argument()]);
        host.ok(&["detach", "--netns", &b.path_argument()]);
        host.ok(&["network", "rm", &network]);
        let device = host.netns.device(&uplink).unwrap();
        assert!(device.get("xdp").is_none_or(Value::is_null) && device["promiscuity"] == 0, "{device:#}");
    }
}

#[test]
fn a_takeover_can_change_the_datapath() {
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
        tcp(&a, &b, at_b.ipv4, 1 << 20);
        tcp(&a, &newcomer, at_newcomer.ipv4, 1 << 20);
        tcp(&newcomer, &b, at_b.ipv4, 1 << 20);
        tcp(&newcomer, &host.netns, Ipv4Addr::new(10, 201, 0, 1), 1 << 20);
        udp(&newcomer, &a, host.ps().iter().find(|endpoint| endpoint.name == a.name()).unwrap().ipv4, 1472, 50);
        host.ok(&["detach", newcomer.name()]);
    }
    host.attach(&c, &[]);
}

#[test]
fn endpoints_of_a_killed_daemon_can_be_detached_by_the_next() {
    let host = Host::up(&[]);
    let containers = Netns::several("c", 4);
    for container in &containers {
        host.attach(container, &[]);
    }
    let devices = host.netns.devices();
    host.kill_daemon();
    // One of the namespaces is deleted before the next daemon starts.
    let mut containers = containers.into_iter();
    containers.next().unwrap().delete();
    host.start(&[]);
    eventually("the endpoint whose namespace is gone is reaped", || (host.ps().len() == 3).then_some(()));
    for container in containers {
        host.ok(&["detach", "--netns", &container.path_argument()]);
        assert_eq!(container.devices().len(), 1, "only lo");
    }
    assert_eq!(host.ps(), []);
    assert_eq!(host.netns.devices().len(), devices.len() - 4);
}
