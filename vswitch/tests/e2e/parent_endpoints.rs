//! Endpoints on the wire: addresses that other machines use, defaults, and endpoints that are
//! attached and detached under traffic.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::Value;

use crate::harness::{AtRest, Attached, Host, Netns, OnWire, Stream, Wire, both, on_the_wire, ping, tcp, udp};

#[test]
fn an_address_in_use_on_the_wire_is_neither_accepted_nor_assigned() {
    for lan in &OnWire::<1>::variants() {
        let (host, machine) = (&lan.host, &lan.wire.hosts[1]);
        let container = Netns::new("b");
        let path = container.path_argument();
        let at_rest = AtRest::new(host, &[&container]);
        let mac = machine.mac("eth0").to_string();
        for (flag, address) in ["--ip", "--ip6"].into_iter().zip(lan.wire.machine(1)) {
            let address = address.to_string();
            at_rest
                .refuses(&["attach", "--netns", &path, "--network", &lan.network, flag, &address], &[&address, &mac]);
        }
        drop(at_rest);
        // The probe has not disturbed the machine that has the address.
        ping(&lan.containers[0], lan.wire.machine(1)[0]);
        // Addresses that are not in use.
        let [free, free6] = lan.wire.host_addresses().map(|address| match address {
            IpAddr::V4(address) => IpAddr::from(Ipv4Addr::from_bits(address.to_bits() + 98)),
            IpAddr::V6(address) => IpAddr::from(Ipv6Addr::from_bits(address.to_bits() + 98)),
        });
        let (ip, ip6) = (free.to_string(), free6.to_string());
        let endpoint = host.attach(&container, &["--network", &lan.network, "--ip", &ip, "--ip6", &ip6]);
        assert_eq!(both(&endpoint), [free, free6]);
        ping(machine, endpoint.ipv4);

        // The addresses that would be assigned next.
        let next = |more| Ipv4Addr::from_bits(lan.at[0].ipv4.to_bits() + more);
        machine.ip(&format!("address add {}/24 dev eth0", next(1)));
        machine.ip(&format!("address add {}/24 dev eth0", next(2)));
        let next6 = Ipv6Addr::from_bits(lan.at[0].ipv6.unwrap().to_bits() + 1);
        machine.ip(&format!("-6 address add {next6}/64 dev eth0 nodad"));
        let late = Netns::new("late");
        let endpoint = host.attach(&late, &["--network", &lan.network]);
        assert_eq!((endpoint.ipv4, endpoint.ipv6), (next(3), Some(Ipv6Addr::from_bits(next6.to_bits() + 1))));
        for address in both(&endpoint) {
            ping(machine, address);
        }
        for container in [&container, &late] {
            host.ok(&["detach", container.name()]);
        }
    }
}

#[test]
fn address_conflicts_are_detected_per_vlan() {
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
fn subnet_gateway_and_mtu_default_to_the_parents_own() {
    let host = Host::down();
    let _wire = Wire::new(&host.netns, "off", 1);
    let [gateway, gateway6] = Wire::address(0);
    host.netns.ip(&format!("route add default via {gateway}"));
    host.netns.ip(&format!("-6 route add default via {gateway6}"));
    host.netns.ip("link set phys0 mtu 1400");
    host.start(&[]);
    for driver in ["macvlan", "ipvlan"] {
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
        assert_eq!(endpoint.mtu, 1400);
        host.ok(&["detach", container.name()]);
        host.ok(&["network", "rm", "lan"]);

        host.ok(&[&on_the_wire(driver, &["parent=phys0", "mtu=1300"])[..], &["lan"]].concat());
        assert_eq!(host.attach(&container, &["--network", "lan"]).mtu, 1300);
        assert_eq!(container.device("eth0").unwrap()["mtu"], 1300);
        host.ok(&["detach", container.name()]);
        host.ok(&["network", "rm", "lan"]);
    }
}

#[test]
fn addresses_of_the_parent_and_the_gateway_are_not_assigned() {
    let host = Host::down();
    let _wire = Wire::new(&host.netns, "off", 0);
    host.netns.ip("address add 10.140.0.2/24 dev phys0");
    host.start(&[]);
    for driver in ["macvlan", "ipvlan"] {
        // Three addresses of the range cannot be assigned: two of the parent, and the gateway.
        let subnet = ["--subnet", "10.140.0.0/24", "--ip-range", "10.140.0.0/29", "--gateway", "10.140.0.4"];
        host.ok(&[&["network", "create", "-d", driver, "-o", "parent=phys0"][..], &subnet, &["lan"]].concat());
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
        drop(at_rest);
        for container in &containers[..3] {
            host.ok(&["detach", container.name()]);
        }
        host.ok(&["network", "rm", "lan"]);
    }
}

#[test]
fn connecting_a_second_network_does_not_disturb_the_first() {
    let lans = OnWire::<0>::variants();
    let host = &lans[0].host;
    host.ok(&["network", "create", "--subnet", "10.148.0.0/24", "--subnet", "fd00:148::/64", "front"]);
    let [a, b] = ["a", "b"].map(Netns::new);
    host.attach(&a, &["--network", "front"]);
    let at_b = host.attach(&b, &["--network", "front"]);
    let stream = Stream::start(&a, &b, at_b.ipv4);
    for lan in &lans {
        let machine = &lan.wire.hosts[1];
        for _ in 0..2 {
            let endpoint: Attached = host.json(&["network", "connect", &lan.network, a.name()]);
            assert_eq!((&endpoint.network, endpoint.ifname.as_str()), (&lan.network, "eth1"));
            stream.goes_on(100_000);
            for (own, far) in both(&endpoint).into_iter().zip(lan.wire.machine(1)) {
                ping(machine, own);
                tcp(&a, machine, far, 1 << 18);
                udp(machine, &a, own, 1000, 20);
            }
            host.ok(&["network", "disconnect", &lan.network, a.name()]);
            assert_eq!(a.devices(), ["lo", "eth0"].map(str::to_owned).into());
            stream.goes_on(100_000);
        }
    }
    stream.assert_complete();
}

#[test]
fn attach_and_detach_do_not_disturb_other_endpoints_on_the_parent() {
    for lan in &OnWire::<1>::variants() {
        let [machine, a] = [&lan.wire.hosts[1], &lan.containers[0]];
        let [_, machine6] = lan.wire.machine(1);
        let streams = [Stream::start(machine, a, lan.at[0].ipv4), Stream::start(a, machine, machine6)];
        let late = Netns::new("late");
        for _ in 0..2 {
            let endpoint = lan.host.attach(&late, &["--network", &lan.network]);
            ping(machine, endpoint.ipv4);
            streams.iter().for_each(|stream| stream.goes_on(100_000));
            lan.host.ok(&["detach", late.name()]);
            streams.iter().for_each(|stream| stream.goes_on(100_000));
        }
        let parent = format!("parent={}", lan.wire.parent());
        lan.host.ok(&["network", "create", "-d", "macvlan", "--subnet", "10.149.0.0/24", "-o", &parent, "more"]);
        streams.iter().for_each(|stream| stream.goes_on(100_000));
        lan.host.ok(&["network", "rm", "more"]);
        streams.into_iter().for_each(Stream::assert_complete);
    }
}

#[test]
fn an_address_that_moved_to_another_container_is_reached_at_once() {
    for lan in &OnWire::<1>::several([("macvlan", "off"), ("ipvlan", "off")]) {
        let machine = &lan.wire.hosts[1];
        let addresses = lan.addresses(0);
        addresses.iter().for_each(|address| ping(machine, *address));
        lan.host.ok(&["detach", lan.containers[0].name()]);
        let successor = Netns::new("successor");
        let [ipv4, ipv6] = addresses.map(|address| address.to_string());
        lan.host.attach(&successor, &["--network", &lan.network, "--ip", &ipv4, "--ip6", &ipv6]);
        // The machine still caches the old neighbor, so the new one must have been announced.
        for address in addresses {
            ping(machine, address);
        }
    }
}
