//! Networks in VLANs of a parent, and several networks on one parent.

use std::{net::IpAddr, process::Command};

use crate::harness::{
    Attached, Frame, Host, Mac, Netns, OnWire, RawPort, Tag, VlanHost, Wire, both, count_containing, eventually, ping,
    reaches, run, tcp, udp, udp_broadcast,
};

/// Creates a network on a parent (`phys0`, or `phys0.ID` for a VLAN) with the subnets
/// 10.SUBNET.0.0/24 and fd00:SUBNET::/64.
fn create_network(host: &Host, driver: &str, parent: &str, xdp: &str, subnet: u16, name: &str) {
    let [ipv4, ipv6] = [format!("10.{subnet}.0.0/24"), format!("fd00:{subnet}::/64")];
    let [parent, xdp] = [format!("parent={parent}"), format!("xdp={xdp}")];
    host.ok(&[
        "network", "create", "-d", driver, "--subnet", &ipv4, "--subnet", &ipv6, "-o", &parent, "-o", &xdp, name,
    ]);
}

/// Adds a machine to a VLAN, with the addresses .250 and ::250 of the network there.
fn add_machine(wire: &Wire, id: u16, subnet: u16) -> (VlanHost, [IpAddr; 2]) {
    let [ipv4, ipv6] = [format!("10.{subnet}.0.250"), format!("fd00:{subnet}::250")];
    let machine = wire.vlan_host(&format!("v{id}"), id, [&ipv4, &ipv6]);
    (machine, [ipv4, ipv6].map(|text| text.parse().expect("an address")))
}

#[track_caller]
fn assert_reachable(container: &Netns, endpoint: &Attached, machine: &Netns, addresses: [IpAddr; 2]) {
    for (own, far) in both(endpoint).into_iter().zip(addresses) {
        ping(machine, own);
        ping(container, far);
        tcp(container, machine, far, 1 << 18);
        tcp(machine, container, own, 1 << 18);
        udp(machine, container, own, 1400, 30);
        // Longer than a frame, because fragments have tags, too.
        udp(container, machine, far, 4000, 10);
    }
}

/// Returns the VLAN ID of a frame, 0 if it has no tag.
fn vlan(Frame(bytes): &Frame) -> u16 {
    match bytes[12..16] {
        [0x81, 0x00, high, low] => u16::from_be_bytes([high, low]) & 0xfff,
        _ => 0,
    }
}

/// A machine in a VLAN with this ID, and its addresses.
type Member = (u16, VlanHost, [IpAddr; 2]);

fn check_isolation_of_two_vlans(host: &Host, wire: &Wire, vlans: &[Member; 2], driver: &str, xdp: &str) {
    let devices = host.netns.devices();
    for (id, _, _) in vlans {
        create_network(host, driver, &format!("{}.{id}", wire.parent()), xdp, 100 + id, &format!("vlan{id}"));
    }
    assert_eq!(host.netns.devices(), devices, "no device is created for a VLAN");
    let leaving = wire.listen();
    let seen = wire.tcpdump("vlan");
    let containers = vlans.each_ref().map(|(id, machine, addresses)| {
        let container = Netns::new(&format!("c{id}"));
        let endpoint = host.attach(&container, &["--network", &format!("vlan{id}")]);
        assert_reachable(&container, &endpoint, &machine.netns, *addresses);
        let IpAddr::V4(of_machine) = addresses[0] else { unreachable!("the first is IPv4") };
        udp_broadcast(&machine.netns, of_machine, &[&container]);
        udp_broadcast(&container, endpoint.ipv4, &[&machine.netns]);
        (container, endpoint)
    });
    // The frames of each container have the tag of its VLAN.
    let left = leaving.pending();
    for ((id, _, _), (container, endpoint)) in vlans.iter().zip(&containers) {
        let own = endpoint.ipv4.octets();
        // The source address of IPv4 is at offset 26, or at 30 behind a tag.
        let is_of_container = |frame: &&Frame| [26, 30].iter().any(|at| frame.0.get(*at..at + 4) == Some(&own[..]));
        let of_container: Vec<_> = left.iter().filter(is_of_container).collect();
        assert!(!of_container.is_empty(), "no frame of {} in {left:02x?}", container.name());
        assert!(of_container.iter().all(|frame| vlan(frame) == *id), "{driver}, xdp {xdp}: {of_container:02x?}");
    }
    if let Some(seen) = &seen {
        for (_, endpoint) in &containers {
            let [own, id] = [endpoint.ipv4.to_string(), (endpoint.ipv4.octets()[1] - 100).to_string()];
            let printed_lines = eventually("tcpdump prints the packets", || {
                let printed = seen.stdout();
                let lines = printed.lines().filter(|line| line.contains(&own)).map(str::to_owned);
                Some(lines.collect::<Vec<_>>()).filter(|lines| lines.len() > 10)
            });
            // The last line may be incomplete.
            let tagged = |line: &String| line.contains(&format!("vlan {id},"));
            assert!(
                printed_lines[..printed_lines.len() - 1].iter().all(tagged),
                "{driver}, xdp {xdp}: {printed_lines:#?}"
            );
        }
    }

    // Neither broadcasts nor unicast frames of one VLAN are received in the other.
    let ports = containers.each_ref().map(|(container, _)| RawPort::open(container, "eth0"));
    let at_machines = vlans.each_ref().map(|(_, machine, _)| RawPort::open(&machine.netns, "eth0"));
    let [here, there] = [0, 1];
    let own = containers[here].0.mac("eth0");
    for (number, to) in [Mac::BROADCAST, containers[there].1.mac].into_iter().enumerate() {
        ports[here].send(&Frame::new(to, own, &format!("from thirty {number}")));
        let source = vlans[here].1.netns.mac("eth0");
        at_machines[here].send(&Frame::new(to, source, &format!("from outside in thirty {number}")));
    }
    for number in [here, there] {
        let (_, machine, _) = &vlans[number];
        let mark = Frame::new(Mac::BROADCAST, machine.netns.mac("eth0"), &format!("mark {number}"));
        at_machines[number].send(&mark);
        let heard = ports[number].expect(&mark);
        let foreign = count_containing(&heard, "thirty");
        assert!(number == here || foreign == 0, "{driver}, xdp {xdp}: {heard:02x?}");
    }
    assert_eq!(count_containing(&at_machines[there].pending(), "thirty"), 0, "{driver}, xdp {xdp}");
    // The host's own traffic has no tag.
    ping(&host.netns, wire.machine(0)[0]);
    let [(container, _), (other, endpoint)] = [&containers[here], &containers[there]];
    container.ip(&format!("route replace {} dev eth0", endpoint.ipv4));
    assert_eq!(reaches(container, other, endpoint.ipv4.into(), false).to_string(), "no");
    remove_networks(host, &containers.map(|(container, _)| container));
}

/// Detaches containers and removes the networks of both VLANs.
fn remove_networks(host: &Host, containers: &[Netns]) {
    for container in containers {
        host.ok(&["detach", container.name()]);
    }
    for id in [30, 31] {
        host.ok(&["network", "rm", &format!("vlan{id}")]);
    }
}

#[test]
fn networks_in_two_vlans_are_isolated() {
    let host = Host::down();
    let wires = [(0, "off"), (1, "native")].map(|(number, xdp)| {
        let wire = Wire::numbered(number, &host.netns, xdp, 1);
        let vlans = [30, 31].map(|id| {
            let (machine, addresses) = add_machine(&wire, id, 100 + id);
            (id, machine, addresses)
        });
        (wire, vlans, xdp)
    });
    host.start(&[]);
    for (wire, vlans, xdp) in &wires {
        for driver in ["macvlan", "ipvlan"] {
            check_isolation_of_two_vlans(&host, wire, vlans, driver, xdp);
        }
        check_the_same_subnet_in_two_vlans(&host, wire, vlans, xdp);
    }
}

fn check_the_same_subnet_in_two_vlans(host: &Host, wire: &Wire, vlans: &[Member; 2], xdp: &str) {
    // The addresses that the machine in the first VLAN already has.
    let addresses = vlans[0].2;
    vlans[1].1.netns.ip(&format!("address add {}/24 dev eth0", addresses[0]));
    vlans[1].1.netns.ip(&format!("-6 address add {}/64 dev eth0 nodad", addresses[1]));
    let containers = vlans.each_ref().map(|(id, _, _)| {
        create_network(host, "macvlan", &format!("{}.{id}", wire.parent()), xdp, 130, &format!("vlan{id}"));
        let container = Netns::new(&format!("c{id}"));
        let endpoint = host.attach(&container, &["--network", &format!("vlan{id}"), "--ip", "10.130.0.77"]);
        (container, endpoint)
    });
    for ((container, endpoint), (_, machine, _)) in containers.iter().zip(vlans) {
        assert_reachable(container, endpoint, &machine.netns, addresses);
    }
    remove_networks(host, &containers.map(|(container, _)| container));
}

#[test]
fn the_first_and_the_last_vlan_id_work() {
    let host = Host::down();
    let wire = Wire::new(&host.netns, "native", 1);
    host.start(&[]);
    for id in [1, 4094] {
        create_network(&host, "macvlan", &format!("phys0.{id}"), "native", 130, "lan");
        let (machine, addresses) = add_machine(&wire, id, 130);
        let container = Netns::new("a");
        let endpoint = host.attach(&container, &["--network", "lan"]);
        assert_reachable(&container, &endpoint, &machine.netns, addresses);
        host.ok(&["detach", container.name()]);
        host.ok(&["network", "rm", "lan"]);
    }
}

#[test]
fn frames_with_only_a_priority_tag_are_in_no_vlan() {
    for lan in &OnWire::<1>::several([("macvlan", "off"), ("macvlan", "native")]) {
        let machine = &lan.wire.hosts[0];
        let [port, far] = [RawPort::open(&lan.containers[0], "eth0"), RawPort::open(machine, "eth0")];
        let tag = Tag { tpid: 0x8100, tci: 0xa000 };
        far.send(&Frame::tagged(lan.at[0].mac, machine.mac("eth0"), &[tag], "urgent"));
        port.expect_such("the frame with a priority tag", |frame| {
            count_containing(std::slice::from_ref(frame), "urgent") == 1
        });
        // Frames in a VLAN without a network are not delivered.
        far.send(&Frame::tagged(lan.at[0].mac, machine.mac("eth0"), &[Tag::customer(32)], "elsewhere"));
        let mark = Frame::new(lan.at[0].mac, machine.mac("eth0"), "mark");
        far.send(&mark);
        assert_eq!(count_containing(&port.expect(&mark), "elsewhere"), 0, "xdp {}", lan.xdp);
    }
}

#[test]
fn networks_of_both_drivers_share_one_parent() {
    let host = Host::down();
    let wires = [(0, "off"), (1, "native")].map(|(number, xdp)| Wire::numbered(number, &host.netns, xdp, 1));
    host.start(&[]);
    for (wire, xdp) in wires.iter().zip(["off", "native"]) {
        check_networks_of_both_drivers(&host, wire, xdp);
    }
}

fn check_networks_of_both_drivers(host: &Host, wire: &Wire, xdp: &str) {
    let (parent, tagged) = (wire.parent(), format!("{}.30", wire.parent()));
    wire.create_network(host, "macvlan", &[&format!("xdp={xdp}")], "untagged");
    create_network(host, "ipvlan", &parent, xdp, 145, "ip");
    create_network(host, "macvlan", &parent, xdp, 146, "mac");
    create_network(host, "ipvlan", &tagged, xdp, 130, "ip30");
    create_network(host, "macvlan", &tagged, xdp, 147, "mac30");
    for subnet in [145, 146] {
        wire.hosts[0].ip(&format!("address add 10.{subnet}.0.250/24 dev eth0"));
        wire.hosts[0].ip(&format!("-6 address add fd00:{subnet}::250/64 dev eth0 nodad"));
    }
    let (in_vlan, of_machine) = add_machine(wire, 30, 130);
    in_vlan.netns.ip("address add 10.147.0.250/24 dev eth0");
    in_vlan.netns.ip("-6 address add fd00:147::250/64 dev eth0 nodad");
    let far = |subnet: u16| {
        [format!("10.{subnet}.0.250"), format!("fd00:{subnet}::250")].map(|text| text.parse().expect("an address"))
    };
    let members = [
        ("untagged", &wire.hosts[0], wire.machine(0)),
        ("ip", &wire.hosts[0], far(145)),
        ("mac", &wire.hosts[0], far(146)),
        ("ip30", &in_vlan.netns, of_machine),
        ("mac30", &in_vlan.netns, far(147)),
    ];
    let containers = members.each_ref().map(|(network, machine, addresses)| {
        let container = Netns::new(network);
        let endpoint = host.attach(&container, &["--network", network]);
        assert_reachable(&container, &endpoint, machine, *addresses);
        (container, endpoint)
    });
    // Each network still works beside the others.
    for ((_, machine, addresses), (container, endpoint)) in members.iter().zip(&containers) {
        assert_reachable(container, endpoint, machine, *addresses);
    }
    // The others still work after one was removed.
    let remove = |number: usize| {
        host.ok(&["detach", containers[number].0.name()]);
        host.ok(&["network", "rm", members[number].0]);
    };
    remove(1);
    for number in [0, 2, 3, 4] {
        let ((_, machine, addresses), (container, endpoint)) = (&members[number], &containers[number]);
        assert_reachable(container, endpoint, machine, *addresses);
    }
    [0, 2, 3, 4].into_iter().for_each(remove);
}

#[test]
fn an_existing_vlan_device_can_be_a_parent() {
    let host = Host::down();
    let wire = Wire::new(&host.netns, "off", 1);
    let mut command = Command::new("ip");
    let words = "link add link phys0 name phys0.30 type vlan id 30";
    command.args(["-n", host.netns.name()]).args(words.split(' '));
    if run(&mut command).code != Some(0) {
        eprintln!("THIS KERNEL HAS NO VLAN devices: one as the parent is NOT tested");
        return;
    }
    host.netns.ip("link set phys0.30 up");
    host.netns.ip("address add 10.130.0.1/24 dev phys0.30");
    host.start(&[]);
    let (machine, addresses) = add_machine(&wire, 30, 130);
    for driver in ["macvlan", "ipvlan"] {
        create_network(&host, driver, "phys0.30", "off", 130, "lan");
        let container = Netns::new("a");
        let endpoint = host.attach(&container, &["--network", "lan"]);
        assert_reachable(&container, &endpoint, &machine.netns, addresses);
        ping(&host.netns, addresses[0]);
        host.ok(&["detach", container.name()]);
        host.ok(&["network", "rm", "lan"]);
    }
    assert!(host.netns.device("phys0.30").is_some());
}
