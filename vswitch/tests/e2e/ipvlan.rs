//! ipvlan, frame by frame: all endpoints use the parent's MAC address on the wire.

use std::net::IpAddr;

use crate::harness::{
    Frame, Host, Mac, Netns, OnWire, Pinger, RawPort, Wire, both, ping, reaches, tcp, udp, udp_broadcast,
};

/// Returns the source address of a frame.
fn source(Frame(bytes): &Frame) -> Mac {
    Mac(bytes[6..12].try_into().expect("a whole header"))
}

/// Returns the MAC address that a machine's neighbor table has for an address.
fn neighbor(netns: &Netns, address: IpAddr) -> Option<Mac> {
    let rows = netns.ip_json("neigh show");
    let row = rows.iter().find(|row| row["dst"] == address.to_string())?;
    row["lladdr"].as_str()?.parse().ok()
}

#[test]
fn only_the_parents_mac_address_appears_on_the_wire() {
    for xdp in ["off", "native"] {
        let lan = OnWire::<2>::new("ipvlan", xdp, &["ipvlan_mode=l2"]);
        let parent_mac = lan.host.netns.mac("phys0");
        let leaving = lan.wire.listen();
        let machine = &lan.wire.hosts[0];
        for (number, container) in lan.containers.iter().enumerate() {
            assert_eq!((container.mac("eth0"), lan.at[number].mac), (parent_mac, parent_mac));
            for (own, far) in lan.addresses(number).into_iter().zip(Wire::address(0)) {
                // Address resolution starts at the machine for the first container, and at the
                // container for the second.
                if number == 0 {
                    ping(machine, own);
                } else {
                    ping(container, far);
                }
                tcp(container, machine, far, 1 << 20);
                udp(machine, container, own, 1400, 50);
                assert_eq!(neighbor(machine, own), Some(parent_mac), "xdp {xdp}: {own}");
            }
        }
        let left = leaving.pending();
        assert!(!left.is_empty());
        let foreign: Vec<_> = left.iter().filter(|frame| source(frame) != parent_mac).collect();
        assert!(foreign.is_empty(), "xdp {xdp}: {foreign:02x?}");
    }
}

/// Reports whether a frame is an IP packet whose source and destination are both among these
/// addresses.
fn between(Frame(bytes): &Frame, addresses: &[IpAddr]) -> bool {
    let at = |start: usize, length: usize| {
        let octets = bytes.get(start..start + length)?;
        match length {
            4 => Some(IpAddr::from(<[u8; 4]>::try_from(octets).ok()?)),
            _ => Some(IpAddr::from(<[u8; 16]>::try_from(octets).ok()?)),
        }
    };
    let ends = match bytes[12..14] {
        [0x08, 0x00] => [at(26, 4), at(30, 4)],
        [0x86, 0xdd] => [at(22, 16), at(38, 16)],
        _ => return false,
    };
    ends.iter().all(|end| end.is_some_and(|end| addresses.contains(&end)))
}

#[test]
fn traffic_between_containers_does_not_reach_the_wire() {
    for xdp in ["off", "native"] {
        let lan = OnWire::<2>::new("ipvlan", xdp, &["ipvlan_mode=l2"]);
        let leaving = lan.wire.listen();
        for address in lan.addresses(1) {
            ping(&lan.containers[0], address);
            tcp(&lan.containers[0], &lan.containers[1], address, 1 << 20);
        }
        let own = [lan.addresses(0), lan.addresses(1)].concat();
        let left: Vec<_> = leaving.pending().into_iter().filter(|frame| between(frame, &own)).collect();
        // Neighbor discovery may appear on the wire, but not the traffic between the containers.
        let left: Vec<_> = left.iter().filter(|frame| !matches!(frame.0.get(54), Some(133..=137))).collect();
        assert!(left.is_empty(), "xdp {xdp}: {left:02x?}");
    }
}

#[test]
fn broadcasts_pass_in_l2() {
    for xdp in ["off", "native"] {
        let lan = OnWire::<2>::new("ipvlan", xdp, &["ipvlan_mode=l2"]);
        let [machine, other] = [&lan.wire.hosts[0], &lan.wire.hosts[1]];
        let IpAddr::V4(machine_address) = Wire::address(0)[0] else { unreachable!() };
        udp_broadcast(machine, machine_address, &[&lan.containers[0], &lan.containers[1], other, &lan.host.netns]);
        udp_broadcast(&lan.containers[0], lan.at[0].ipv4, &[&lan.containers[1], machine, other]);
    }
}

#[test]
fn a_private_endpoint_does_not_receive_hairpinned_frames() {
    for xdp in ["off", "native"] {
        let lan = OnWire::<2>::new("ipvlan", xdp, &["ipvlan_mode=l2", "ipvlan_flag=private"]);
        lan.wire.set_hairpin(true);
        let parent_mac = lan.host.netns.mac("phys0");
        // The containers have neighbor entries for each other.
        for (container, other) in [(0, 1), (1, 0)] {
            for address in lan.addresses(other) {
                lan.containers[container].ip(&format!("neigh replace {address} lladdr {parent_mac} dev eth0"));
            }
        }
        for address in lan.addresses(1) {
            let mut pinger = Pinger::new(&lan.containers[0], address);
            let at_b = RawPort::open(&lan.containers[1], "eth0");
            let sent = pinger.try_send(56);
            // The ping by the machine is delivered after the frames of the container.
            ping(&lan.wire.hosts[0], address);
            assert!(sent.is_err() || !pinger.answered(), "xdp {xdp}: {address} answers");
            let own = match lan.addresses(0)[usize::from(address.is_ipv6())] {
                IpAddr::V4(address) => address.octets().to_vec(),
                IpAddr::V6(address) => address.octets().to_vec(),
            };
            let received = at_b.pending();
            let crossed: Vec<_> =
                received.iter().filter(|frame| frame.0.windows(own.len()).any(|window| window == own)).collect();
            assert!(crossed.is_empty(), "xdp {xdp}: {crossed:02x?}");
        }
    }
}

/// Creates an ipvlan network in a routed mode with several subnets.
fn routed(mode: &str, xdp: &str) -> (Host, Wire) {
    let host = Host::down();
    let wire = Wire::new(&host.netns, xdp, 1);
    host.start(&[]);
    let [mode, xdp] = [format!("ipvlan_mode={mode}"), format!("xdp={xdp}")];
    let subnets = ["10.142.0.0/24", "10.143.0.0/24", "fd00:142::/64"];
    let mut flags = vec!["network", "create", "-d", "ipvlan", "-o", "parent=phys0", "-o", &mode, "-o", &xdp];
    flags.extend(subnets.iter().flat_map(|subnet| ["--subnet", subnet]));
    host.ok(&[&flags[..], &["routed"]].concat());
    for subnet in subnets {
        let [family, via] = if subnet.contains(':') { ["-6", Wire::HOST[1]] } else { ["-4", Wire::HOST[0]] };
        wire.hosts[0].ip(&format!("{family} route add {subnet} via {via}"));
    }
    (host, wire)
}

#[test]
fn l3_containers_have_device_routes_and_no_neighbors() {
    for xdp in ["off", "native"] {
        let (host, wire) = routed("l3", xdp);
        let [a, b] = ["a", "b"].map(Netns::new);
        let at_a = host.attach(&a, &["--network", "routed"]);
        let at_b = host.attach(&b, &["--network", "routed", "--ip", "10.143.0.77"]);
        for container in [&a, &b] {
            for ipv6 in [false, true] {
                assert_eq!(container.default_routes(ipv6), [(None, "eth0".to_owned())]);
            }
        }
        let leaving = wire.listen();
        for (number, own) in both(&at_a).into_iter().chain(both(&at_b)).enumerate() {
            let container = if number < 2 { &a } else { &b };
            let far = Wire::address(0)[usize::from(own.is_ipv6())];
            ping(&wire.hosts[0], own);
            ping(container, far);
            tcp(container, &wire.hosts[0], far, 1 << 20);
            tcp(&wire.hosts[0], container, own, 1 << 20);
        }
        ping(&a, at_b.ipv4);
        tcp(&b, &a, at_a.ipv4, 1 << 20);
        // No address of a container is resolved on the wire, and no packet between the containers
        // appears there.
        let mac = host.netns.mac("phys0");
        let left = leaving.pending();
        let own = [both(&at_a), both(&at_b)].concat();
        let is_arp_request =
            |Frame(bytes): &Frame| bytes[12..14] == [0x08, 0x06] && matches!(bytes.get(38..40), Some([10, 142 | 143]));
        let wrong: Vec<_> = left.iter().filter(|frame| is_arp_request(frame) || between(frame, &own)).collect();
        assert!(wrong.is_empty(), "xdp {xdp}: {wrong:02x?}");
        for container in [&a, &b] {
            let rows = container.ip_json("neigh show");
            let known = rows.iter().filter(|row| row["lladdr"].as_str().is_some_and(|known| known != mac.to_string()));
            assert_eq!(known.count(), 0, "xdp {xdp}: {rows:#?}");
        }
    }
}

#[test]
fn l3s_traffic_passes_the_hosts_firewall_in_both_directions() {
    if crate::harness::run(std::process::Command::new("which").arg("nft")).code != Some(0) {
        eprintln!("nft is NOT INSTALLED on this machine: the host's firewall is NOT tested");
        return;
    }
    for xdp in ["off", "native"] {
        let (host, wire) = routed("l3s", xdp);
        host.netns.set("net/ipv4/ip_forward", "1");
        host.netns.set("net/ipv6/conf/all/forwarding", "1");
        let a = Netns::new("a");
        let endpoint = host.attach(&a, &["--network", "routed"]);
        let machine = &wire.hosts[0];
        for (own, far) in both(&endpoint).into_iter().zip(Wire::address(0)) {
            ping(machine, own);
            tcp(&a, machine, far, 1 << 20);
            // As with the kernel's ipvlan, it is not specified which of the hooks the packets pass.
            for (chain, from, address) in [("saddr", &a, far), ("daddr", machine, own)] {
                let family = if own.is_ipv4() { "ip" } else { "ip6" };
                host.netns.ok("nft", "add table inet test");
                for hook in ["input", "forward", "output"] {
                    host.netns.ok(
                        "nft",
                        &format!("add chain inet test {hook} {{ type filter hook {hook} priority -200 ; }}"),
                    );
                    host.netns.ok("nft", &format!("add rule inet test {hook} {family} {chain} {own} counter drop"));
                }
                let to = if from.name() == a.name() { machine } else { &a };
                let reach = reaches(from, to, address, false);
                assert_eq!(reach.to_string(), "no", "xdp {xdp}: {chain} {own}");
                let rules = host.netns.ok("nft", "list table inet test");
                assert!(
                    rules.lines().any(|line| line.contains("counter packets") && !line.contains("packets 0 ")),
                    "xdp {xdp}: {rules}"
                );
                host.netns.ok("nft", "delete table inet test");
            }
            ping(machine, own);
        }
    }
}
