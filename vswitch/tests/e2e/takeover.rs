//! The daemon dies, traffic does not; the next one takes over.

use crate::harness::{Flow, Host, Netns, Pinger, ping, tcp};

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
fn learned_stations_outlive_the_daemon() {
    use crate::harness::{Frame, Mac, RawPort};
    let host = Host::up(&[]);
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    host.attach(&a, &[]);
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
