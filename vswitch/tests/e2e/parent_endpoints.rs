//! Endpoints on the wire: addresses that are somebody's there, defaults, and endpoints that come and go under traffic.

use std::net::IpAddr;

use serde_json::Value;

use crate::harness::{AtRest, Attached, Host, Netns, OnWire, Stream, Wire, both, on_the_wire, ping, tcp, udp};

#[test]
fn an_address_of_a_machine_on_the_wire_is_refused_by_name() {
    for (driver, xdp) in [("macvlan", "off"), ("macvlan", "native"), ("ipvlan", "off"), ("ipvlan", "native")] {
        let lan = OnWire::<1>::new(driver, xdp, &[]);
        let container = Netns::new("b");
        let path = container.path_argument();
        let at_rest = AtRest::new(&lan.host, &[&container]);
        for (number, machine) in lan.wire.hosts.iter().enumerate().skip(1) {
            let mac = machine.mac("eth0").to_string();
            for (flag, address) in ["--ip", "--ip6"].into_iter().zip(Wire::address(number)) {
                let address = address.to_string();
                at_rest.refuses(&["attach", "--netns", &path, "--network", "lan", flag, &address], &[&address, &mac]);
            }
        }
        drop(at_rest);
        // It has not disturbed the one whose it is.
        ping(&lan.containers[0], Wire::address(1)[0]);
        // One that nobody has.
        let endpoint =
            lan.host.attach(&container, &["--network", "lan", "--ip", "10.140.0.99", "--ip6", "fd00:140::99"]);
        assert_eq!(both(&endpoint).map(|address| address.to_string()), ["10.140.0.99", "fd00:140::99"]);
        ping(&lan.wire.hosts[1], endpoint.ipv4);
    }
}

#[test]
fn an_address_of_a_machine_on_the_wire_is_not_chosen() {
    for driver in ["macvlan", "ipvlan"] {
        let lan = OnWire::<0>::new(driver, "off", &[]);
        // The first that would be free.
        let machine = &lan.wire.hosts[1];
        machine.ip("address add 10.140.0.2/24 dev eth0");
        machine.ip("address add 10.140.0.3/24 dev eth0");
        machine.ip("-6 address add fd00:140::2/64 dev eth0 nodad");
        let container = Netns::new("a");
        let endpoint = lan.host.attach(&container, &["--network", "lan"]);
        assert!(!machine.addresses("eth0").contains(&endpoint.ipv4), "{driver}: {endpoint:#?}");
        assert!(!machine.addresses6("eth0").contains(&endpoint.ipv6.unwrap()), "{driver}: {endpoint:#?}");
        for address in both(&endpoint) {
            ping(machine, address);
        }
    }
}

#[test]
fn a_clash_in_a_vlan_is_found_in_that_vlan() {
    let host = Host::down();
    let wire = Wire::new(&host.netns, "native", 1);
    host.start(&[]);
    let machine = wire.vlan_host("v30", 30, ["10.130.0.250", "fd00:130::250"]);
    for id in [30, 31] {
        let parent = format!("parent=phys0.{id}");
        let name = format!("vlan{id}");
        let subnets = ["--subnet", "10.130.0.0/24", "--subnet", "fd00:130::/64"];
        host.ok(&[&["network", "create", "-d", "macvlan", "-o", &parent][..], &subnets, &[&name]].concat());
    }
    let [a, b] = ["a", "b"].map(Netns::new);
    let mac = machine.netns.mac("eth0").to_string();
    let at_rest = AtRest::new(&host, &[&a]);
    for [flag, address] in [["--ip", "10.130.0.250"], ["--ip6", "fd00:130::250"]] {
        let path = a.path_argument();
        at_rest.refuses(&["attach", "--netns", &path, "--network", "vlan30", flag, address], &[address, &mac]);
    }
    drop(at_rest);
    host.attach(&b, &["--network", "vlan31", "--ip", "10.130.0.250", "--ip6", "fd00:130::250"]);
}

#[test]
fn subnet_and_gateway_default_to_the_parents_own() {
    for driver in ["macvlan", "ipvlan"] {
        let host = Host::down();
        let _wire = Wire::new(&host.netns, "off", 1);
        let [gateway, gateway6] = Wire::address(0);
        host.netns.ip(&format!("route add default via {gateway}"));
        host.netns.ip(&format!("-6 route add default via {gateway6}"));
        host.start(&[]);
        host.ok(&["network", "create", "-d", driver, "--ipv6", "-o", "parent=phys0", "lan"]);
        let shown: Vec<Value> = host.json(&["network", "inspect", "lan"]);
        let subnets = shown[0]["subnets"].as_array().unwrap();
        let found: Vec<_> = subnets.iter().map(|subnet| (&subnet["subnet"], &subnet["gateway"])).collect();
        let expected = Wire::SUBNETS.map(Value::from);
        let gateways = [gateway, gateway6].map(|gateway| Value::from(gateway.to_string()));
        assert_eq!(found, expected.iter().zip(&gateways).collect::<Vec<_>>(), "{shown:#?}");
        let container = Netns::new("a");
        let endpoint = host.attach(&container, &["--network", "lan"]);
        assert_eq!(
            (endpoint.gateway.map(IpAddr::from), endpoint.gateway6.map(IpAddr::from)),
            (Some(gateway), Some(gateway6))
        );
        ping(&container, gateway);
        ping(&container, gateway6);
    }
}

#[test]
fn no_address_of_the_parent_or_the_gateway_is_handed_out() {
    for driver in ["macvlan", "ipvlan"] {
        let host = Host::down();
        let _wire = Wire::new(&host.netns, "off", 0);
        host.netns.ip("address add 10.140.0.2/24 dev phys0");
        host.start(&[]);
        // Room for .1 to .6: two of the parent, one of the gateway.
        host.ok(&[
            "network",
            "create",
            "-d",
            driver,
            "--subnet",
            "10.140.0.0/24",
            "--ip-range",
            "10.140.0.0/29",
            "--gateway",
            "10.140.0.4",
            "-o",
            "parent=phys0",
            "lan",
        ]);
        let containers = Netns::several("c", 4);
        let mut given: Vec<Attached> =
            containers[..3].iter().map(|container| host.attach(container, &["--network", "lan"])).collect();
        given.sort_by_key(|endpoint| endpoint.ipv4);
        let last: Vec<u8> = given.iter().map(|endpoint| endpoint.ipv4.octets()[3]).collect();
        assert!(last.iter().all(|last| ![0, 1, 2, 4].contains(last)), "{driver}: {last:?}");
        let at_rest = AtRest::new(&host, &[&containers[3]]);
        for taken in ["10.140.0.1", "10.140.0.2", "10.140.0.4"] {
            let path = containers[3].path_argument();
            at_rest.refuses(&["attach", "--netns", &path, "--network", "lan", "--ip", taken], &[taken]);
        }
    }
}

#[test]
fn an_endpoint_joins_and_leaves_the_wire_while_its_other_network_is_busy() {
    for (driver, xdp) in [("macvlan", "off"), ("macvlan", "native"), ("ipvlan", "off"), ("ipvlan", "native")] {
        let host = Host::down();
        let wire = Wire::new(&host.netns, xdp, 2);
        host.start(&[]);
        host.ok(&["network", "create", "--subnet", "10.148.0.0/24", "--subnet", "fd00:148::/64", "front"]);
        let xdp = format!("xdp={xdp}");
        host.ok(&[&on_the_wire(driver, &["parent=phys0", &xdp])[..], &["lan"]].concat());
        let [a, b] = ["a", "b"].map(Netns::new);
        host.attach(&a, &["--network", "front"]);
        let at_b = host.attach(&b, &["--network", "front"]);
        let stream = Stream::start(&a, &b, at_b.ipv4);
        for _ in 0..3 {
            let endpoint: Attached = host.json(&["network", "connect", "lan", a.name()]);
            assert_eq!((endpoint.network.as_str(), endpoint.ifname.as_str()), ("lan", "eth1"));
            stream.goes_on(100_000);
            for (own, far) in both(&endpoint).into_iter().zip(Wire::address(1)) {
                ping(&wire.hosts[1], own);
                tcp(&a, &wire.hosts[1], far, 1 << 18);
                udp(&wire.hosts[1], &a, own, 1000, 20);
            }
            host.ok(&["network", "disconnect", "lan", a.name()]);
            assert_eq!(a.devices(), ["lo", "eth0"].map(str::to_owned).into());
            stream.goes_on(100_000);
        }
        stream.assert_complete();
    }
}

#[test]
fn traffic_on_the_wire_does_not_notice_who_comes_and_goes() {
    for (driver, xdp) in [("macvlan", "off"), ("macvlan", "native"), ("ipvlan", "off"), ("ipvlan", "native")] {
        let lan = OnWire::<1>::new(driver, xdp, &[]);
        let [machine, a] = [&lan.wire.hosts[1], &lan.containers[0]];
        let streams = [Stream::start(machine, a, lan.at[0].ipv4), Stream::start(a, machine, Wire::address(1)[1])];
        let late = Netns::new("late");
        for _ in 0..3 {
            let endpoint = lan.host.attach(&late, &["--network", "lan"]);
            ping(machine, endpoint.ipv4);
            streams.iter().for_each(|stream| stream.goes_on(100_000));
            lan.host.ok(&["detach", late.name()]);
            streams.iter().for_each(|stream| stream.goes_on(100_000));
        }
        lan.host.ok(&["network", "create", "-d", "macvlan", "--subnet", "10.149.0.0/24", "-o", "parent=phys0", "more"]);
        streams.iter().for_each(|stream| stream.goes_on(100_000));
        lan.host.ok(&["network", "rm", "more"]);
        streams.into_iter().for_each(Stream::assert_complete);
    }
}

#[test]
fn an_address_that_moves_to_another_container_is_found_there_at_once() {
    for driver in ["macvlan", "ipvlan"] {
        let lan = OnWire::<1>::new(driver, "off", &[]);
        let machine = &lan.wire.hosts[1];
        let addresses = lan.addresses(0);
        addresses.iter().for_each(|address| ping(machine, *address));
        lan.host.ok(&["detach", lan.containers[0].name()]);
        let heir = Netns::new("heir");
        let [ipv4, ipv6] = addresses.map(|address| address.to_string());
        lan.host.attach(&heir, &["--network", "lan", "--ip", &ipv4, "--ip6", &ipv6]);
        // The machine has the old neighbor in its memory: somebody must have told it.
        for address in addresses {
            ping(machine, address);
        }
    }
}
