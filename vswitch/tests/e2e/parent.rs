//! The parent of a macvlan or ipvlan network remains usable by the host, and may be changed or
//! removed at any time.

use std::{collections::BTreeSet, net::IpAddr};

use serde_json::Value;

use crate::harness::{
    ForeignXdp, Host, Netns, OnWire, Pinger, Stream, Surroundings, Wire, eventually, ping, settles, tcp, udp,
};

/// Waits until an address answers pings from a namespace.
#[track_caller]
fn await_answer(what: &str, from: &Netns, to: IpAddr) {
    let mut pinger = Pinger::new(from, to);
    eventually(&format!("{what}: {to} answers {}", from.name()), || {
        let _no_way = pinger.try_send(56);
        let mut polls = 0..25;
        polls.find_map(|_| {
            std::thread::sleep(std::time::Duration::from_millis(2));
            pinger.answered().then_some(())
        })
    });
}

/// Waits until the containers and the wire reach each other, over IPv4 and IPv6.
#[track_caller]
fn await_all_answers<const N: usize>(what: &str, lan: &OnWire<N>) {
    let machine = &lan.wire.hosts[1];
    let what = format!("{}, xdp {}: {what}", lan.driver, lan.xdp);
    for (number, container) in lan.containers.iter().enumerate() {
        for (own, far) in lan.addresses(number).into_iter().zip(lan.wire.machine(1)) {
            await_answer(&what, machine, own);
            await_answer(&what, container, far);
        }
    }
}

/// Reports whether a device has a carrier.
fn has_carrier(netns: &Netns, ifname: &str) -> bool {
    let device = netns.device(ifname).unwrap_or_else(|| panic!("{} has no {ifname}", netns.name()));
    let flags: BTreeSet<&str> = device["flags"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    flags.contains("LOWER_UP") && !flags.contains("NO-CARRIER")
}

#[track_caller]
fn await_carrier(netns: &Netns, there: bool) {
    eventually(&format!("carrier of {} is {there}", netns.name()), || {
        (has_carrier(netns, "eth0") == there).then_some(())
    });
}

/// Returns the promiscuity count of a device.
fn promiscuity(host: &Host, ifname: &str) -> u64 {
    host.netns.device(ifname).unwrap()["promiscuity"].as_u64().expect("a number")
}

/// Returns the host's own settings of its device. Promiscuity and the XDP program are not part of
/// them, because the instance changes these.
fn host_settings(netns: &Netns, ifname: &str) -> Vec<String> {
    let mut lines = vec![format!("{} {:?} {:?}", netns.mac(ifname), netns.addresses(ifname), netns.addresses6(ifname))];
    for family in ["-4", "-6"] {
        let routes = netns.ip(&format!("{family} route show dev {ifname}"));
        lines.extend(routes.lines().filter(|line| !line.starts_with("fe80")).map(str::to_owned));
    }
    lines.push(netns.device(ifname).unwrap()["mtu"].to_string());
    lines.sort();
    lines
}

/// Reports whether an XDP program is attached to a device.
fn has_xdp(host: &Host, ifname: &str) -> bool {
    host.netns.device(ifname).unwrap().get("xdp").is_some_and(|xdp| !xdp.is_null())
}

#[test]
fn a_parent_that_was_down_or_renamed_stays_in_use() {
    for lan in &OnWire::<2>::variants() {
        let (host, parent) = (&lan.host, lan.wire.parent());
        await_all_answers("at first", lan);
        for turn in 0..2 {
            host.netns.ip(&format!("link set {parent} down"));
            let mut pinger = Pinger::new(&lan.wire.hosts[1], lan.at[0].ipv4);
            let _lost = pinger.try_send(56);
            host.netns.ip(&format!("link set {parent} up"));
            await_all_answers(&format!("up for time {turn}"), lan);
        }
        // `status` still shows the parent.
        assert!(host.ok(&["status"]).contains(&parent));

        let renamed = format!("new-{parent}");
        host.netns.ip(&format!("link set {parent} down"));
        host.netns.ip(&format!("link set {parent} name {renamed}"));
        host.netns.ip(&format!("link set {renamed} up"));
        await_all_answers("renamed", lan);
        // A new endpoint finds the renamed parent, too.
        let late = Netns::new("late");
        let endpoint = host.attach(&late, &["--network", &lan.network]);
        await_answer("a new endpoint", &lan.wire.hosts[1], endpoint.ipv4.into());
    }
}

#[test]
fn endpoints_have_no_carrier_while_their_parent_is_gone_and_can_be_removed_then() {
    let lans = OnWire::<2>::variants();
    for lan in &lans {
        let (host, parent) = (&lan.host, lan.wire.parent());
        await_all_answers("at first", lan);
        for turn in 0..2 {
            host.netns.ip(&format!("link del {parent}"));
            for container in &lan.containers {
                await_carrier(container, false);
            }
            let reports_missing =
                |status: &str| status.lines().any(|line| line.contains(&parent) && line.contains("not present"));
            settles("status reports the parent as missing", || {
                let status = host.ok(&["status"]);
                if reports_missing(&status) { Ok(()) } else { Err(status) }
            });
            lan.wire.plug(&host.netns, &parent);
            for container in &lan.containers {
                await_carrier(container, true);
            }
            await_all_answers(&format!("returned for time {turn}"), lan);
            settles("status no longer reports the parent as missing", || {
                let status = host.ok(&["status"]);
                if reports_missing(&status) { Err(status) } else { Ok(()) }
            });
        }
        tcp(&lan.containers[0], &lan.wire.hosts[1], lan.wire.machine(1)[0], 1 << 20);

        // Endpoints and the network can be removed without the parent.
        host.netns.ip(&format!("link del {parent}"));
        host.ok(&["detach", lan.containers[0].name()]);
        host.ok(&["detach", lan.containers[1].name()]);
        host.ok(&["network", "rm", &lan.network]);
    }
    assert!(lans[0].host.ps().is_empty());
}

#[test]
fn a_network_can_be_removed_while_its_parent_disappears() {
    let host = Host::down();
    let wire = Wire::new(&host.netns, "off", 1);
    host.start(&[]);
    let create = |subnet: &str, parent: &str, name: &str| {
        host.ok(&["network", "create", "-d", "macvlan", "--subnet", subnet, "-o", &format!("parent={parent}"), name]);
    };
    create("10.150.0.0/24", "phys0.30", "stays");
    for turn in 0..20 {
        create("10.140.0.0/24", "phys0", "first");
        std::thread::scope(|scope| {
            let removed = scope.spawn(|| host.ok(&["network", "rm", "first"]));
            // The parent is removed at a different moment of the network's removal each time.
            std::thread::sleep(std::time::Duration::from_micros(1500 * turn));
            host.netns.ip("link del phys0");
            removed.join().expect("the network is removed");
        });
        wire.plug(&host.netns, "phys0");
    }
}

#[test]
fn a_parent_that_appears_after_the_daemon_is_used() {
    let lans = OnWire::<1>::several([("macvlan", "off"), ("ipvlan", "off")]);
    let host = &lans[0].host;
    host.kill_daemon();
    for lan in &lans {
        host.netns.ip(&format!("link del {}", lan.wire.parent()));
    }
    host.start(&[]);
    for lan in &lans {
        await_carrier(&lan.containers[0], false);
        lan.wire.plug(&host.netns, &lan.wire.parent());
        await_carrier(&lan.containers[0], true);
        await_all_answers("the parent is there", lan);
    }
}

#[test]
fn a_takeover_does_not_interrupt_connections() {
    let lans = OnWire::<2>::variants();
    let host = &lans[0].host;
    let streams: Vec<Stream> = lans
        .iter()
        .flat_map(|lan| {
            let machine = &lan.wire.hosts[1];
            [
                Stream::start(machine, &lan.containers[0], lan.at[0].ipv4),
                Stream::start(&lan.containers[1], machine, lan.wire.machine(1)[1]),
            ]
        })
        .collect();
    host.kill_daemon();
    streams.iter().for_each(|stream| stream.goes_on(200_000));
    host.start(&[]);
    streams.iter().for_each(|stream| stream.goes_on(200_000));
    streams.into_iter().for_each(Stream::assert_complete);
}

#[test]
fn the_host_keeps_its_addresses_routes_and_connections_on_the_parent() {
    let host = Host::down();
    let wires = [(0, "off"), (1, "native")].map(|(number, xdp)| {
        let wire = Wire::numbered(number, &host.netns, xdp, 2);
        let [[gateway, gateway6], [machine, _]] = [wire.machine(0), wire.machine(1)];
        host.netns.ip(&format!("route add default via {gateway} metric {}", 100 + number));
        host.netns.ip(&format!("-6 route add default via {gateway6} metric {}", 100 + number));
        host.netns.ip(&format!("route add 198.51.{}.0/24 via {machine}", 100 + number));
        (wire, xdp)
    });
    host.start(&[]);
    let before = Surroundings::of(&host, &[]);
    for (wire, xdp) in &wires {
        let parent = wire.parent();
        let own = host_settings(&host.netns, &parent);
        let container = Netns::new("a");
        let streams = wire.host_addresses().map(|address| Stream::start(&wire.hosts[1], &host.netns, address));
        for driver in ["macvlan", "ipvlan"] {
            let assert_same = |what: &str| {
                streams.iter().for_each(|stream| stream.goes_on(100_000));
                assert_eq!(host_settings(&host.netns, &parent), own, "{driver}, xdp {xdp}, {what}");
            };
            for _ in 0..2 {
                wire.create_network(&host, driver, &[&format!("xdp={xdp}")], "lan");
                assert_same("created");
                let endpoint = host.attach(&container, &["--network", "lan"]);
                assert_same("attached");
                ping(&wire.hosts[1], endpoint.ipv4);
                udp(&host.netns, &wire.hosts[1], wire.machine(1)[0], 1000, 20);
                host.ok(&["detach", container.name()]);
                assert_same("detached");
                host.ok(&["network", "rm", "lan"]);
                assert_same("removed");
            }
            settles(&format!("{driver}, xdp {xdp}: all settings are restored"), || {
                let now = Surroundings::of(&host, &[]);
                if now == before { Ok(()) } else { Err(now) }
            });
        }
        streams.into_iter().for_each(Stream::assert_complete);
    }
}

#[test]
fn the_parent_is_promiscuous_only_while_needed() {
    let lans = OnWire::<2>::variants();
    let host = lans[0].host.clone();
    // Promiscuity that another program has set stays.
    let other = Wire::numbered(4, &host.netns, "off", 1);
    host.netns.ip(&format!("link set {} promisc on", other.parent()));
    other.create_network(&host, "macvlan", &[], "other");
    host.ok(&["network", "rm", "other"]);
    eventually("the promiscuity of the other program stays", || {
        (promiscuity(&host, &other.parent()) == 1).then_some(())
    });

    for lan in &lans {
        await_all_answers("at first", lan);
        lan.containers.iter().for_each(|container| drop(host.ok(&["detach", container.name()])));
        host.ok(&["network", "rm", &lan.network]);
        eventually("removing the network ends promiscuity", || {
            (promiscuity(&host, &lan.wire.parent()) == 0).then_some(())
        });
        let again = format!("again-{}", lan.network);
        lan.wire.create_network(&host, &lan.driver, &[], &again);
        host.attach(&lan.containers[0], &["--network", &again]);
    }
    host.stop(&[]);
    for parent in lans.each_ref().map(|lan| lan.wire.parent()) {
        assert_eq!(promiscuity(&host, &parent), 0, "down ends promiscuity of {parent}");
        assert!(!has_xdp(&host, &parent), "down removes XDP from {parent}");
    }
    host.start(&[]);
}

#[test]
fn xdp_is_attached_only_where_requested() {
    let host = std::sync::Arc::new(Host::up(&[]));
    let mut wires = [0, 1, 2].map(|number| Wire::numbered(number, &host.netns, ["off", "native", "auto"][number], 2));
    for driver in ["macvlan", "ipvlan"] {
        wires = wires.map(|wire| {
            let lan = OnWire::<1>::on(&host, wire, driver, &[]);
            // Frames of a veth with offloads may be unfinished, so `auto` does not use XDP there.
            let there = has_xdp(&host, &lan.wire.parent());
            assert_eq!(there, lan.xdp == "native", "{driver}, xdp {}", lan.xdp);
            if lan.xdp == "auto" {
                tcp(&lan.wire.hosts[1], &lan.containers[0], lan.at[0].ipv4, 4 << 20);
            }
            lan.remove()
        });
    }
}

#[test]
fn a_foreign_xdp_program_stays_and_the_network_works_beside_it() {
    let host = Host::down();
    let wire = Wire::new(&host.netns, "native", 2);
    let foreign = ForeignXdp::on(&host.netns, "phys0");
    host.start(&[]);
    let program = || host.netns.device("phys0").unwrap()["xdp"]["prog"]["id"].clone();
    assert_eq!(program(), foreign.program);
    for driver in ["macvlan", "ipvlan"] {
        wire.create_network(&host, driver, &[], "lan");
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
