//! The parent of a macvlan or ipvlan network stays the host's own interface, and may go and come as it likes.

use std::{collections::BTreeSet, net::IpAddr};

use serde_json::Value;

use crate::harness::{
    ForeignXdp, Host, Netns, OnWire, Pinger, Stream, Surroundings, Wire, eventually, on_the_wire, ping, settles, tcp,
    udp,
};

/// Waits until an address answers from somewhere.
#[track_caller]
fn answers(what: &str, from: &Netns, to: IpAddr) {
    let mut pinger = Pinger::new(from, to);
    eventually(&format!("{what}: {to} answers {}", from.name()), || {
        let _no_way = pinger.try_send(56);
        std::thread::sleep(std::time::Duration::from_millis(50));
        pinger.answered().then_some(())
    });
}

/// Waits until containers and the wire reach each other, in both families.
#[track_caller]
fn everybody_answers<const N: usize>(what: &str, lan: &OnWire<N>) {
    let machine = &lan.wire.hosts[1];
    for (number, container) in lan.containers.iter().enumerate() {
        for (own, far) in lan.addresses(number).into_iter().zip(Wire::address(1)) {
            answers(what, machine, own);
            answers(what, container, far);
        }
    }
}

/// Whether a device has a carrier.
fn carrier(netns: &Netns, ifname: &str) -> bool {
    let device = netns.device(ifname).unwrap_or_else(|| panic!("{} has no {ifname}", netns.name()));
    let flags: BTreeSet<&str> = device["flags"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    flags.contains("LOWER_UP") && !flags.contains("NO-CARRIER")
}

#[track_caller]
fn await_carrier(netns: &Netns, there: bool) {
    eventually(&format!("carrier of {} is {there}", netns.name()), || (carrier(netns, "eth0") == there).then_some(()));
}

/// How many want a device to be promiscuous.
fn promiscuity(host: &Host, ifname: &str) -> u64 {
    host.netns.device(ifname).unwrap()["promiscuity"].as_u64().expect("a number")
}

/// What the host has set on its device, but for what a switch needs there: promiscuity and an XDP program.
fn of_the_host(netns: &Netns, ifname: &str) -> Vec<String> {
    let mut lines = vec![format!("{} {:?} {:?}", netns.mac(ifname), netns.addresses(ifname), netns.addresses6(ifname))];
    for family in ["-4", "-6"] {
        let routes = netns.ip(&format!("{family} route show dev {ifname}"));
        lines.extend(routes.lines().filter(|line| !line.starts_with("fe80")).map(str::to_owned));
    }
    lines.push(netns.device(ifname).unwrap()["mtu"].to_string());
    lines.sort();
    lines
}

/// Drivers with each way to look at the parent's frames.
const WAYS: [(&str, &str); 4] = [("macvlan", "off"), ("macvlan", "native"), ("ipvlan", "off"), ("ipvlan", "native")];

#[test]
fn a_parent_that_goes_down_is_used_again_when_it_is_up() {
    for (driver, xdp) in WAYS {
        let lan = OnWire::<2>::new(driver, xdp, &[]);
        everybody_answers("at first", &lan);
        for turn in 0..2 {
            lan.host.netns.ip("link set phys0 down");
            let mut pinger = Pinger::new(&lan.wire.hosts[1], lan.at[0].ipv4);
            let _lost = pinger.try_send(56);
            lan.host.netns.ip("link set phys0 up");
            everybody_answers(&format!("{driver}, xdp {xdp}, up for time {turn}"), &lan);
        }
        // Promiscuity and programs are as they were.
        assert!(lan.host.ok(&["status"]).contains("phys0"));
    }
}

#[test]
fn endpoints_are_told_that_their_parent_is_gone_and_heal_when_it_returns() {
    for (driver, xdp) in WAYS {
        let lan = OnWire::<2>::new(driver, xdp, &[]);
        everybody_answers("at first", &lan);
        for turn in 0..2 {
            lan.host.netns.ip("link del phys0");
            for container in &lan.containers {
                await_carrier(container, false);
            }
            let says_so =
                |status: &str| status.lines().any(|line| line.contains("phys0") && line.contains("not there"));
            settles("status says that phys0 is not there", || {
                let status = lan.host.ok(&["status"]);
                if says_so(&status) { Ok(()) } else { Err(status) }
            });
            lan.wire.plug(&lan.host.netns, "phys0");
            for container in &lan.containers {
                await_carrier(container, true);
            }
            everybody_answers(&format!("{driver}, xdp {xdp}, returned for time {turn}"), &lan);
            settles("status is content", || {
                let status = lan.host.ok(&["status"]);
                if says_so(&status) { Err(status) } else { Ok(()) }
            });
        }
        tcp(&lan.containers[0], &lan.wire.hosts[1], Wire::address(1)[0], 1 << 20);
    }
}

#[test]
fn one_of_its_networks_can_be_removed_while_the_parent_goes() {
    let host = Host::down();
    let wire = Wire::new(&host.netns, "off", 1);
    host.start(&[]);
    let create = |subnet: &str, parent: &str, name: &str| {
        host.ok(&["network", "create", "-d", "macvlan", "--subnet", subnet, "-o", &format!("parent={parent}"), name]);
    };
    create("10.150.0.0/24", "phys0.30", "stays");
    for turn in 0..60 {
        create("10.140.0.0/24", "phys0", "first");
        std::thread::scope(|scope| {
            let removed = scope.spawn(|| host.ok(&["network", "rm", "first"]));
            // At another moment of it each time.
            std::thread::sleep(std::time::Duration::from_micros(500 * turn));
            host.netns.ip("link del phys0");
            removed.join().expect("removed");
        });
        wire.plug(&host.netns, "phys0");
    }
}

#[test]
fn endpoints_can_be_detached_and_the_network_removed_without_the_parent() {
    let lan = OnWire::<2>::new("macvlan", "off", &[]);
    lan.host.netns.ip("link del phys0");
    lan.host.ok(&["detach", lan.containers[0].name()]);
    lan.host.ok(&["detach", lan.containers[1].name()]);
    lan.host.ok(&["network", "rm", "lan"]);
    assert!(lan.host.ps().is_empty());
}

#[test]
fn a_daemon_that_starts_without_the_parent_takes_it_when_it_comes() {
    for driver in ["macvlan", "ipvlan"] {
        let lan = OnWire::<1>::new(driver, "off", &[]);
        lan.host.kill_daemon();
        lan.host.netns.ip("link del phys0");
        lan.host.start(&[]);
        await_carrier(&lan.containers[0], false);
        lan.wire.plug(&lan.host.netns, "phys0");
        await_carrier(&lan.containers[0], true);
        everybody_answers(driver, &lan);
    }
}

#[test]
fn a_parent_that_is_renamed_goes_on() {
    for (driver, xdp) in WAYS {
        let lan = OnWire::<1>::new(driver, xdp, &[]);
        everybody_answers("at first", &lan);
        lan.host.netns.ip("link set phys0 down");
        lan.host.netns.ip("link set phys0 name lan0");
        lan.host.netns.ip("link set lan0 up");
        everybody_answers(&format!("{driver}, xdp {xdp}, renamed"), &lan);
        // A new endpoint finds it, too.
        let late = Netns::new("late");
        let endpoint = lan.host.attach(&late, &["--network", "lan"]);
        answers("a new one", &lan.wire.hosts[1], endpoint.ipv4.into());
    }
}

#[test]
fn a_daemon_that_is_killed_stops_nothing_and_the_next_takes_over() {
    for (driver, xdp) in WAYS {
        let lan = OnWire::<2>::new(driver, xdp, &[]);
        let machine = &lan.wire.hosts[1];
        let streams = [
            Stream::start(machine, &lan.containers[0], lan.at[0].ipv4),
            Stream::start(&lan.containers[1], machine, Wire::address(1)[1]),
        ];
        lan.host.kill_daemon();
        streams.iter().for_each(|stream| stream.goes_on(200_000));
        lan.host.start(&[]);
        streams.iter().for_each(|stream| stream.goes_on(200_000));
        streams.into_iter().for_each(Stream::assert_complete);
    }
}

#[test]
fn the_host_keeps_its_addresses_routes_and_connections() {
    for (driver, xdp) in WAYS {
        let host = Host::down();
        let wire = Wire::new(&host.netns, xdp, 2);
        host.netns.ip(&format!("route add default via {}", Wire::address(0)[0]));
        host.netns.ip(&format!("-6 route add default via {}", Wire::address(0)[1]));
        host.netns.ip("route add 198.51.100.0/24 via 10.140.0.201");
        host.start(&[]);
        let before = Surroundings::of(&host, &[]);
        let own = of_the_host(&host.netns, "phys0");
        let container = Netns::new("a");
        let streams = Wire::HOST
            .map(|address| Stream::start(&wire.hosts[1], &host.netns, address.parse::<IpAddr>().expect("an address")));
        let same = |what: &str| {
            streams.iter().for_each(|stream| stream.goes_on(100_000));
            assert_eq!(of_the_host(&host.netns, "phys0"), own, "{driver}, xdp {xdp}, {what}");
        };
        for _ in 0..2 {
            let options = ["parent=phys0".to_owned(), format!("xdp={xdp}")];
            let options: Vec<&str> = options.iter().map(String::as_str).collect();
            host.ok(&[&on_the_wire(driver, &options)[..], &["lan"]].concat());
            same("created");
            let endpoint = host.attach(&container, &["--network", "lan"]);
            same("attached");
            ping(&wire.hosts[1], endpoint.ipv4);
            udp(&host.netns, &wire.hosts[1], Wire::address(1)[0], 1000, 20);
            host.ok(&["detach", container.name()]);
            same("detached");
            host.ok(&["network", "rm", "lan"]);
            same("removed");
        }
        settles(&format!("{driver}, xdp {xdp}: everything is as before"), || {
            let now = Surroundings::of(&host, &[]);
            if now == before { Ok(()) } else { Err(now) }
        });
        streams.into_iter().for_each(Stream::assert_complete);
    }
}

#[test]
fn the_parent_is_promiscuous_no_longer_than_it_must() {
    for (driver, xdp) in WAYS {
        let lan = OnWire::<2>::new(driver, xdp, &[]);
        everybody_answers("at first", &lan);
        lan.host.ok(&["detach", lan.containers[0].name()]);
        lan.host.ok(&["detach", lan.containers[1].name()]);
        lan.host.ok(&["network", "rm", "lan"]);
        eventually("given back by the network", || (promiscuity(&lan.host, "phys0") == 0).then_some(()));

        lan.host.ok(&[&on_the_wire(driver, &["parent=phys0"])[..], &["again"]].concat());
        lan.host.attach(&lan.containers[0], &["--network", "again"]);
        lan.host.stop(&[]);
        assert_eq!(promiscuity(&lan.host, "phys0"), 0, "given back by the switch");
        let device = lan.host.netns.device("phys0").unwrap();
        assert!(device.get("xdp").is_none_or(Value::is_null), "{device:#}");
        lan.host.start(&[]);
    }
    // What somebody else has set stays.
    let host = Host::down();
    let _wire = Wire::new(&host.netns, "off", 1);
    host.netns.ip("link set phys0 promisc on");
    host.start(&[]);
    host.ok(&[&on_the_wire("macvlan", &["parent=phys0"])[..], &["lan"]].concat());
    host.ok(&["network", "rm", "lan"]);
    eventually("as somebody else has it", || (promiscuity(&host, "phys0") == 1).then_some(()));
}

#[test]
fn xdp_is_where_it_is_asked_for_and_nowhere_else() {
    for driver in ["macvlan", "ipvlan"] {
        for (xdp, there) in [("off", false), ("native", true)] {
            let lan = OnWire::<1>::new(driver, xdp, &[]);
            let device = lan.host.netns.device("phys0").unwrap();
            assert_eq!(device.get("xdp").is_some_and(|xdp| !xdp.is_null()), there, "{driver}: {device:#}");
        }
        // Frames that may be unfinished are none for XDP: a veth with offloads.
        let lan = OnWire::<1>::new(driver, "auto", &[]);
        let device = lan.host.netns.device("phys0").unwrap();
        assert!(device.get("xdp").is_none_or(Value::is_null), "{device:#}");
        tcp(&lan.wire.hosts[1], &lan.containers[0], lan.at[0].ipv4, 4 << 20);
    }
}

#[test]
fn somebody_elses_xdp_program_stays_and_the_network_works_beside_it() {
    for driver in ["macvlan", "ipvlan"] {
        let host = Host::down();
        let wire = Wire::new(&host.netns, "native", 2);
        let foreign = ForeignXdp::on(&host.netns, "phys0");
        host.start(&[]);
        let program = || host.netns.device("phys0").unwrap()["xdp"]["prog"]["id"].clone();
        assert_eq!(program(), foreign.program);
        host.ok(&[&on_the_wire(driver, &["parent=phys0"])[..], &["lan"]].concat());
        let container = Netns::new("a");
        let endpoint = host.attach(&container, &["--network", "lan"]);
        ping(&wire.hosts[1], endpoint.ipv4);
        ping(&container, Wire::address(1)[1]);
        tcp(&wire.hosts[1], &container, endpoint.ipv4, 1 << 20);
        assert_eq!(program(), foreign.program);
        let findings: Vec<Value> = host.json(&["doctor"]);
        let finding = findings
            .iter()
            .find(|finding| finding["check"].as_str().is_some_and(|check| check.starts_with("xdp phys0")));
        let finding = finding.unwrap_or_else(|| panic!("no finding about XDP on phys0: {findings:#?}"));
        assert_eq!(finding["state"], "limited", "{finding:#}");
        host.ok(&["detach", container.name()]);
        host.ok(&["network", "rm", "lan"]);
        assert_eq!(program(), foreign.program);
    }
}

#[test]
fn the_mtu_is_the_parents_unless_it_is_said() {
    for driver in ["macvlan", "ipvlan"] {
        let host = Host::down();
        let _wire = Wire::new(&host.netns, "off", 1);
        host.netns.ip("link set phys0 mtu 1400");
        host.start(&[]);
        host.ok(&[&on_the_wire(driver, &["parent=phys0"])[..], &["lan"]].concat());
        let a = Netns::new("a");
        assert_eq!(host.attach(&a, &["--network", "lan"]).mtu, 1400);
        host.ok(&["detach", a.name()]);
        host.ok(&["network", "rm", "lan"]);
        host.ok(&[&on_the_wire(driver, &["parent=phys0", "mtu=1300"])[..], &["lan"]].concat());
        assert_eq!(host.attach(&a, &["--network", "lan"]).mtu, 1300);
        assert_eq!(a.device("eth0").unwrap()["mtu"], 1300);
    }
}
