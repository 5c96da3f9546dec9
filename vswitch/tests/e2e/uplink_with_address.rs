//! A bridge network with an uplink whose interface itself has addresses in the network's subnets:
//! endpoints reach the gateways, the names and the host, and the host reaches them.

use std::net::IpAddr;

use crate::harness::{Answer, Attached, Host, Netns, Wire, ask, both, eventually, ping, run, tcp, udp};

const GATEWAYS: [&str; 2] = ["10.140.0.250", "fd00:140::250"];

fn create(host: &Host) {
    let [subnet, six] = Wire::SUBNETS;
    let create = ["network", "create", "-o", "uplink=phys0", "--subnet", subnet, "--ip-range", "10.140.0.0/25"];
    host.ok(&[&create[..], &["--subnet", six, "--gateway", GATEWAYS[0], "--gateway", GATEWAYS[1], "lan"]].concat());
}

fn gateways() -> [IpAddr; 2] {
    GATEWAYS.map(|text| text.parse().expect("an address"))
}

/// Checks all ways between the host, an endpoint and a machine on the wire.
#[track_caller]
fn check(host: &Host, wire: &Wire, inside: &Netns, at: &Attached) {
    let (machine, host) = (&wire.hosts[0], &*host.netns);
    for family in 0..2 {
        let of_host = wire.host_addresses()[family];
        let ways = [
            (inside, host, gateways()[family]),
            (inside, host, of_host),
            (host, inside, both(at)[family]),
            (inside, machine, wire.machine(0)[family]),
            (machine, inside, both(at)[family]),
            (host, machine, wire.machine(0)[family]),
            (machine, host, of_host),
        ];
        for (from, to, address) in ways {
            ping(from, address);
            udp(from, to, address, 1000, 10);
            tcp(from, to, address, 1 << 20);
        }
    }
}

/// Sends one ping and waits a second for its answer.
fn answers(from: &Netns, to: IpAddr) -> bool {
    let mut ping = from.command("ping");
    run(ping.args(["-c", "1", "-W", "1", &to.to_string()])).code == Some(0)
}

#[test]
fn endpoints_and_the_host_reach_each_other_beside_an_uplink_with_addresses() {
    // With strict reverse path filtering packets must also come in by the way that leads back.
    for (rp_filter, address_first) in [("0", true), ("1", true), ("1", false)] {
        let host = &Host::down();
        host.netns.set("net/ipv4/conf/all/rp_filter", rp_filter);
        host.netns.set("net/ipv4/conf/default/rp_filter", rp_filter);
        let wire = Wire::new(&host.netns, "off", 1);
        let addresses = |verb: &str| {
            let [four, six] = wire.host_addresses();
            host.netns.ip(&format!("address {verb} {four}/24 dev phys0"));
            host.netns.ip(&format!("address {verb} {six}/64 dev phys0 nodad"));
        };
        host.start(&[]);
        if !address_first {
            addresses("del");
        }
        if address_first {
            let [subnet, six] = Wire::SUBNETS;
            let create = ["network", "create", "-o", "uplink=phys0", "--subnet", subnet];
            let message = host.fails(1, &[&create[..], &["lan"]].concat());
            assert!(message.contains("10.140.0.1") && message.contains("phys0"), "{message}");
            let message = host.fails(1, &[&create[..], &["--gateway", GATEWAYS[0], "--subnet", six, "lan"]].concat());
            assert!(message.contains("fd00:140::1") && message.contains("--gateway"), "{message}");
        }
        create(host);
        let [web, other] = ["web", "other"].map(Netns::new);
        let at_web = host.attach(&web, &["--network", "lan", "--ip", "10.140.0.8", "--ip6", "fd00:140::8"]);
        host.attach(&other, &["--network", "lan", "--ip", "10.140.0.9", "--ip6", "fd00:140::9"]);
        if !address_first {
            ping(&web, gateways()[0]);
            ping(&wire.hosts[0], at_web.ipv4);
            addresses("add");
        }
        // The interface's IPv6 address is known to the host device within a second.
        eventually("the host answers for the interface's address", || {
            answers(&web, wire.host_addresses()[1]).then_some(())
        });
        check(host, &wire, &web, &at_web);
        for gateway in gateways() {
            assert_eq!(ask(&other, gateway, at_web.name.as_str(), "A"), Answer::of(&[&at_web.ipv4]));
        }

        // Routes that were flushed come back, and a daemon that takes over changes nothing.
        for device in host.netns.devices().into_iter().filter(|device| device.ends_with("-lan")) {
            host.netns.ip(&format!("route flush dev {device} proto 118"));
            host.netns.ip(&format!("-6 route flush dev {device} proto 118"));
        }
        let routed = |to: IpAddr| {
            let family = if to.is_ipv4() { "-4" } else { "-6" };
            host.netns.ip(&format!("{family} route get {to}")).contains("-lan")
        };
        for address in both(&at_web) {
            eventually("the route is back", || routed(address).then_some(()));
        }
        host.kill_daemon();
        host.start(&[]);
        check(host, &wire, &web, &at_web);
        // Without addresses of its own, the host reaches the wire by the network.
        addresses("del");
        ping(&web, gateways()[0]);
        host.ok(&["detach", web.name()]);
        for address in both(&at_web) {
            assert!(!host.netns.ip("route show table all").contains(&format!("{address} dev")), "{address}");
        }
        eventually("the machine is reached by the network", || answers(&host.netns, wire.machine(0)[0]).then_some(()));
        addresses("add");
    }
}
