//! Networks in VLANs of a parent, and several networks on one parent.

use std::{net::IpAddr, process::Command};

use crate::harness::{
    Attached, Frame, Host, Mac, Netns, RawPort, Tag, VlanHost, Wire, both, eventually, on_the_wire, ping, reaches, run,
    saying, tcp, udp, udp_broadcast,
};

/// Makes a network in a VLAN, by device or by number.
fn create(host: &Host, driver: &str, parent: &str, xdp: &str, subnet: u16, name: &str) {
    let [ipv4, ipv6] = [format!("10.{subnet}.0.0/24"), format!("fd00:{subnet}::/64")];
    let [parent, xdp] = [format!("parent={parent}"), format!("xdp={xdp}")];
    host.ok(&[
        "network", "create", "-d", driver, "--subnet", &ipv4, "--subnet", &ipv6, "-o", &parent, "-o", &xdp, name,
    ]);
}

/// A machine in a VLAN, with the last addresses of the network there.
fn machine(wire: &Wire, id: u16, subnet: u16) -> (VlanHost, [IpAddr; 2]) {
    let [ipv4, ipv6] = [format!("10.{subnet}.0.250"), format!("fd00:{subnet}::250")];
    let machine = wire.vlan_host(&format!("v{id}"), id, [&ipv4, &ipv6]);
    (machine, [ipv4, ipv6].map(|text| text.parse().expect("an address")))
}

#[track_caller]
fn talk(container: &Netns, endpoint: &Attached, machine: &Netns, addresses: [IpAddr; 2]) {
    for (own, far) in both(endpoint).into_iter().zip(addresses) {
        ping(machine, own);
        ping(container, far);
        tcp(container, machine, far, 1 << 18);
        tcp(machine, container, own, 1 << 18);
        udp(machine, container, own, 1400, 30);
        // Larger than a frame: fragments have tags, too.
        udp(container, machine, far, 4000, 10);
    }
}

/// The tags of a frame that say which VLAN it is in; untagged is 0.
fn vlan(Frame(bytes): &Frame) -> u16 {
    match bytes[12..16] {
        [0x81, 0x00, high, low] => u16::from_be_bytes([high, low]) & 0xfff,
        _ => 0,
    }
}

fn two_vlans(driver: &str, xdp: &str) {
    let host = Host::down();
    let wire = Wire::new(&host.netns, xdp, 1);
    host.start(&[]);
    let devices = host.netns.devices();
    let vlans = [30, 31].map(|id| {
        create(&host, driver, &format!("phys0.{id}"), xdp, 100 + id, &format!("vlan{id}"));
        let (machine, addresses) = machine(&wire, id, 100 + id);
        (id, machine, addresses)
    });
    assert_eq!(host.netns.devices(), devices, "no device is made for a VLAN");
    let leaving = wire.listen();
    let seen = wire.tcpdump("vlan");
    let containers = vlans.each_ref().map(|(id, machine, addresses)| {
        let container = Netns::new(&format!("c{id}"));
        let endpoint = host.attach(&container, &["--network", &format!("vlan{id}")]);
        talk(&container, &endpoint, &machine.netns, *addresses);
        let IpAddr::V4(of_machine) = addresses[0] else { unreachable!("the first is IPv4") };
        udp_broadcast(&machine.netns, of_machine, &[&container]);
        udp_broadcast(&container, endpoint.ipv4, &[&machine.netns]);
        (container, endpoint)
    });
    // Each container's frames have its tag, and nothing else leaves with one.
    let left = leaving.pending();
    for ((id, _, _), (container, endpoint)) in vlans.iter().zip(&containers) {
        let own = endpoint.ipv4.octets();
        // Whether behind a tag or not.
        let is_of_container = |frame: &&Frame| [26, 30].iter().any(|at| frame.0.get(*at..at + 4) == Some(&own[..]));
        let of_container: Vec<_> = left.iter().filter(is_of_container).collect();
        assert!(!of_container.is_empty(), "nothing of {} in {left:02x?}", container.name());
        assert!(of_container.iter().all(|frame| vlan(frame) == *id), "{driver}, xdp {xdp}: {of_container:02x?}");
    }
    if let Some(seen) = &seen {
        for (_, endpoint) in &containers {
            let [own, id] = [endpoint.ipv4.to_string(), (endpoint.ipv4.octets()[1] - 100).to_string()];
            let told = eventually("tcpdump has seen it", || {
                let printed = seen.printed();
                let lines = printed.lines().filter(|line| line.contains(&own)).map(str::to_owned);
                Some(lines.collect::<Vec<_>>()).filter(|lines| lines.len() > 10)
            });
            // What it is just printing has no end yet.
            let tagged = |line: &String| line.contains(&format!("vlan {id},"));
            assert!(told[..told.len() - 1].iter().all(tagged), "{driver}, xdp {xdp}: {told:#?}");
        }
    }

    // Nobody of one is heard in the other, whatever is said.
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
        let strange = saying(&heard, "thirty");
        assert!(number == here || strange == 0, "{driver}, xdp {xdp}: {heard:02x?}");
    }
    assert_eq!(saying(&at_machines[there].pending(), "thirty"), 0, "{driver}, xdp {xdp}");
    // The host goes on without any tag.
    ping(&host.netns, Wire::address(0)[0]);
    let [(container, _), (other, endpoint)] = [&containers[here], &containers[there]];
    container.ip(&format!("route replace {} dev eth0", endpoint.ipv4));
    assert_eq!(reaches(container, other, endpoint.ipv4.into(), false).to_string(), "no");
}

#[test]
fn macvlan_networks_in_two_vlans_are_apart() {
    two_vlans("macvlan", "off");
}

#[test]
fn macvlan_networks_in_two_vlans_are_apart_with_xdp() {
    two_vlans("macvlan", "native");
}

#[test]
fn ipvlan_networks_in_two_vlans_are_apart() {
    two_vlans("ipvlan", "off");
}

#[test]
fn ipvlan_networks_in_two_vlans_are_apart_with_xdp() {
    two_vlans("ipvlan", "native");
}

#[test]
fn one_subnet_may_be_in_two_vlans() {
    for xdp in ["off", "native"] {
        let host = Host::down();
        let wire = Wire::new(&host.netns, xdp, 1);
        host.start(&[]);
        for id in [30, 31] {
            create(&host, "macvlan", &format!("phys0.{id}"), xdp, 130, &format!("vlan{id}"));
        }
        let machines = [30, 31].map(|id| machine(&wire, id, 130));
        let containers = [30, 31].map(|id| {
            let container = Netns::new(&format!("c{id}"));
            let endpoint = host.attach(&container, &["--network", &format!("vlan{id}"), "--ip", "10.130.0.77"]);
            (container, endpoint)
        });
        for ((container, endpoint), (machine, addresses)) in containers.iter().zip(&machines) {
            talk(container, endpoint, &machine.netns, *addresses);
        }
    }
}

#[test]
fn the_first_and_the_last_vlan_are_as_good_as_any() {
    let host = Host::down();
    let wire = Wire::new(&host.netns, "native", 1);
    host.start(&[]);
    for id in [1, 4094] {
        create(&host, "macvlan", &format!("phys0.{id}"), "native", 130, "lan");
        let (machine, addresses) = machine(&wire, id, 130);
        let container = Netns::new("a");
        let endpoint = host.attach(&container, &["--network", "lan"]);
        talk(&container, &endpoint, &machine.netns, addresses);
        host.ok(&["detach", container.name()]);
        host.ok(&["network", "rm", "lan"]);
    }
}

#[test]
fn a_priority_is_no_vlan() {
    for xdp in ["off", "native"] {
        let lan = crate::harness::OnWire::<1>::new("macvlan", xdp, &[]);
        let machine = &lan.wire.hosts[0];
        let [port, far] = [RawPort::open(&lan.containers[0], "eth0"), RawPort::open(machine, "eth0")];
        let tag = Tag { tpid: 0x8100, tci: 0xa000 };
        far.send(&Frame::tagged(lan.at[0].mac, machine.mac("eth0"), &[tag], "urgent"));
        port.expect_such("what is urgent", |frame| saying(std::slice::from_ref(frame), "urgent") == 1);
        // In a VLAN that no network has, there is nobody.
        far.send(&Frame::tagged(lan.at[0].mac, machine.mac("eth0"), &[Tag::customer(32)], "elsewhere"));
        let mark = Frame::new(lan.at[0].mac, machine.mac("eth0"), "mark");
        far.send(&mark);
        assert_eq!(saying(&port.expect(&mark), "elsewhere"), 0, "xdp {xdp}");
    }
}

#[test]
fn networks_of_both_drivers_are_side_by_side_on_one_parent() {
    for xdp in ["off", "native"] {
        let host = Host::down();
        let wire = Wire::new(&host.netns, xdp, 2);
        host.start(&[]);
        let option = format!("xdp={xdp}");
        host.ok(&[&on_the_wire("macvlan", &["parent=phys0", &option])[..], &["untagged"]].concat());
        create(&host, "ipvlan", "phys0", xdp, 145, "ip");
        create(&host, "macvlan", "phys0", xdp, 146, "mac");
        create(&host, "ipvlan", "phys0.30", xdp, 130, "ip30");
        create(&host, "macvlan", "phys0.30", xdp, 147, "mac30");
        for subnet in [145, 146] {
            wire.hosts[0].ip(&format!("address add 10.{subnet}.0.250/24 dev eth0"));
            wire.hosts[0].ip(&format!("-6 address add fd00:{subnet}::250/64 dev eth0 nodad"));
        }
        let (in_vlan, of_machine) = machine(&wire, 30, 130);
        in_vlan.netns.ip("address add 10.147.0.250/24 dev eth0");
        in_vlan.netns.ip("-6 address add fd00:147::250/64 dev eth0 nodad");
        let far = |subnet: u16| {
            [format!("10.{subnet}.0.250"), format!("fd00:{subnet}::250")].map(|text| text.parse().expect("an address"))
        };
        let members = [
            ("untagged", &wire.hosts[0], Wire::address(0)),
            ("ip", &wire.hosts[0], far(145)),
            ("mac", &wire.hosts[0], far(146)),
            ("ip30", &in_vlan.netns, of_machine),
            ("mac30", &in_vlan.netns, far(147)),
        ];
        let containers = members.each_ref().map(|(network, machine, addresses)| {
            let container = Netns::new(network);
            let endpoint = host.attach(&container, &["--network", network]);
            talk(&container, &endpoint, machine, *addresses);
            (container, endpoint)
        });
        // Each is there still when the others are.
        for ((_, machine, addresses), (container, endpoint)) in members.iter().zip(&containers) {
            talk(container, endpoint, machine, *addresses);
        }
        // And when one is gone.
        host.ok(&["detach", containers[1].0.name()]);
        host.ok(&["network", "rm", "ip"]);
        for number in [0, 2, 3, 4] {
            let ((_, machine, addresses), (container, endpoint)) = (&members[number], &containers[number]);
            talk(container, endpoint, machine, *addresses);
        }
    }
}

#[test]
fn an_existing_vlan_device_is_a_parent_like_any() {
    let host = Host::down();
    let wire = Wire::new(&host.netns, "off", 1);
    let mut command = Command::new("ip");
    let words = "link add link phys0 name phys0.30 type vlan id 30";
    command.args(["-n", host.netns.name()]).args(words.split(' '));
    if run(&mut command).code != Some(0) {
        eprintln!("THIS KERNEL HAS NO VLAN devices: one as the parent is NOT tried");
        return;
    }
    host.netns.ip("link set phys0.30 up");
    host.netns.ip("address add 10.130.0.1/24 dev phys0.30");
    host.start(&[]);
    let (machine, addresses) = machine(&wire, 30, 130);
    for driver in ["macvlan", "ipvlan"] {
        create(&host, driver, "phys0.30", "off", 130, "lan");
        let container = Netns::new("a");
        let endpoint = host.attach(&container, &["--network", "lan"]);
        talk(&container, &endpoint, &machine.netns, addresses);
        ping(&host.netns, addresses[0]);
        host.ok(&["detach", container.name()]);
        host.ok(&["network", "rm", "lan"]);
    }
    assert!(host.netns.device("phys0.30").is_some());
}
