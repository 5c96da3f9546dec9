//! macvlan and ipvlan over tables in memory: which children, host and wire reach each other in each
//! mode.

use std::vec::Vec;

use crate::forward::tests::{A, B, NOW, STRANGER, WIRE, frame};
use crate::forward::{Copied, Flooded, forward, part};
use crate::mac::Mac;
use crate::packet::address::Address;
use crate::tables::memory::MemoryTables;
use crate::tables::{NeighborKey, Network, NetworkNumber, Port, PortKind, PortNumber, VlanKey};
use crate::verdict::{Decision, Delivery, DropReason, Flood, Verdict};

const NETWORK: NetworkNumber = NetworkNumber(1);
/// The parent's port; its device is 14.
const PARENT: PortNumber = PortNumber(4);

fn port(ifindex: u32, mac: Mac, kind: PortKind, flags: u32, vlan: u16) -> Port {
    let kind = kind as u8;
    let vlan = VlanKey(vlan);
    Port { ifindex, egress_ifindex: ifindex, network: NETWORK, mac, kind, flags, vlan, ..Port::default() }
}

/// Tables with children at the devices 11 and 12 with these flags, and their parent.
fn children(a: u32, b: u32) -> MemoryTables {
    in_vlans((a, 0), (b, 0))
}

fn in_vlans((a, vlan_a): (u32, u16), (b, vlan_b): (u32, u16)) -> MemoryTables {
    let mut tables = MemoryTables::default();
    let mac = |flags, own| if flags & (Port::BY_ADDRESS | Port::PASSTHRU) != 0 { WIRE } else { own };
    tables.add_port(PortNumber(1), port(11, mac(a, A), PortKind::Child, a, vlan_a));
    tables.add_port(PortNumber(2), port(12, mac(b, B), PortKind::Child, b, vlan_b));
    let some = (a | b) & (Port::BY_ADDRESS | Port::PASSTHRU);
    let parent = Port::TRUNK | Port::ALL_VLANS | some;
    tables.add_port(PARENT, port(14, WIRE, PortKind::Parent, parent, 0));
    let only = if a & Port::PASSTHRU != 0 { PortNumber(1) } else { PortNumber::NONE };
    tables.networks.insert(NETWORK, Network { parent: PARENT, only, ..Network::default() });
    for (number, flags, vlan, last) in [(1, a, vlan_a, 1), (2, b, vlan_b, 2)] {
        if flags & Port::BY_ADDRESS != 0 {
            let address = Address::mapped([10, 0, 0, last]);
            let key = NeighborKey { address, network: NETWORK, vlan: VlanKey(vlan), reserved: 0 };
            tables.neighbors.insert(key, PortNumber(number));
        }
    }
    tables
}

/// An IPv4 packet from 10.0.0.FROM to 10.0.0.TO.
fn packet(destination: Mac, source: Mac, from: u8, to: u8) -> Vec<u8> {
    let mut header = [0_u8; 40];
    header[0] = 0x45;
    header[12..16].copy_from_slice(&[10, 0, 0, from]);
    header[16..20].copy_from_slice(&[10, 0, 0, to]);
    frame(destination, source, &[&[8, 0][..], &header].concat())
}

fn decide(tables: &MemoryTables, ifindex: u32, frame: &[u8]) -> Decision {
    forward(ifindex, frame, tables, NOW)
}

fn verdict(tables: &MemoryTables, ifindex: u32, frame: &[u8]) -> Verdict {
    decide(tables, ifindex, frame).verdict().expect("a verdict")
}

/// Returns the port that a frame is delivered to, and the way.
fn handed(tables: &MemoryTables, ifindex: u32, frame: &[u8]) -> Result<(u32, u8), Verdict> {
    match verdict(tables, ifindex, frame) {
        Verdict::Redirect(to) => Ok((to.port.0, to.way)),
        other => Err(other),
    }
}

const APART: u32 = Port::APART;
const VEPA: u32 = Port::APART | Port::REFLECTED;

#[test]
fn children_reach_each_other_as_their_mode_says() {
    let out = Ok((PARENT.0, 0));
    for (a, b, expected) in [
        (0, 0, Ok((2, 0))),
        (APART, APART, out),
        (VEPA, VEPA, out),
        (0, APART, out),
        (VEPA, 0, out),
        (Port::BY_ADDRESS, Port::BY_ADDRESS, Ok((2, 0))),
        (Port::BY_ADDRESS | APART, Port::BY_ADDRESS | APART, Err(Verdict::Drop(DropReason::Isolated))),
        (Port::BY_ADDRESS | VEPA, Port::BY_ADDRESS | VEPA, out),
        (Port::BY_ADDRESS | Port::ROUTED, Port::BY_ADDRESS | Port::ROUTED, Ok((2, 0))),
        (0, Port::BY_ADDRESS, Ok((2, 0))),
    ] {
        let tables = children(a, b);
        let (from, to) = (tables.ports[&PortNumber(1)].mac, tables.ports[&PortNumber(2)].mac);
        assert_eq!(handed(&tables, 11, &packet(to, from, 1, 2)), expected, "{a:#x} to {b:#x}");
    }
}

#[test]
fn frames_to_unknown_stations_go_out_and_frames_to_the_host_need_host_access() {
    let tables = children(0, 0);
    assert_eq!(handed(&tables, 11, &packet(STRANGER, A, 1, 9)), Ok((PARENT.0, 0)));
    assert_eq!(handed(&tables, 11, &packet(WIRE, A, 1, 9)), Err(Verdict::Drop(DropReason::HostAccess)));
    let local = Ok((PARENT.0, Delivery::LOCAL));
    assert_eq!(handed(&children(Port::HOST_ACCESS, 0), 11, &packet(WIRE, A, 1, 9)), local);
    // Routed children: to the next hop, or by way of the stack.
    let routed = Port::BY_ADDRESS | Port::ROUTED;
    assert_eq!(handed(&children(routed, 0), 11, &packet(WIRE, WIRE, 1, 9)), Ok((PARENT.0, Delivery::ROUTED)));
    assert_eq!(handed(&children(routed | Port::STACK, 0), 11, &packet(WIRE, WIRE, 1, 9)), local);
    let hosts = |flags| {
        let mut tables = children(routed | flags, 0);
        let address = Address::mapped([10, 0, 0, 9]);
        tables.neighbors.insert(NeighborKey { address, network: NETWORK, vlan: VlanKey::NONE, reserved: 0 }, PARENT);
        handed(&tables, 11, &packet(WIRE, WIRE, 1, 9))
    };
    let refused = Err(Verdict::Drop(DropReason::HostAccess));
    for (flags, expected) in
        [(0, refused), (Port::STACK, refused), (Port::HOST_ACCESS, local), (Port::HOST_ACCESS | Port::STACK, local)]
    {
        assert_eq!(hosts(flags), expected, "{flags:#x}");
    }
    let mut known = children(routed | Port::HOST_ACCESS, 0);
    let address = Address::mapped([10, 0, 0, 9]);
    known.neighbors.insert(NeighborKey { address, network: NETWORK, vlan: VlanKey::NONE, reserved: 0 }, PARENT);
    assert_eq!(handed(&known, 11, &packet(WIRE, WIRE, 1, 9)), local);
    assert_eq!(handed(&known, 11, &packet(WIRE, WIRE, 1, 8)), Ok((PARENT.0, Delivery::ROUTED)));
    let arp = frame(STRANGER, WIRE, &[8, 6, 0, 1]);
    assert_eq!(handed(&children(routed, 0), 11, &arp), Err(Verdict::Drop(DropReason::NotRouted)));
    let mut orphans = children(0, 0);
    orphans.networks.clear();
    let gone = Err(Verdict::Drop(DropReason::ParentGone));
    assert_eq!(handed(&orphans, 11, &packet(STRANGER, A, 1, 9)), gone);
}

#[test]
fn frames_from_the_wire_reach_children_and_others_pass_to_the_host() {
    let tables = children(0, Port::BY_ADDRESS);
    assert_eq!(handed(&tables, 14, &packet(A, STRANGER, 9, 1)), Ok((1, 0)));
    assert_eq!(handed(&tables, 14, &packet(WIRE, STRANGER, 9, 2)), Ok((2, 0)));
    assert_eq!(handed(&tables, 14, &packet(WIRE, STRANGER, 9, 3)), Err(Verdict::Pass));
    assert_eq!(handed(&tables, 14, &packet(STRANGER, B, 9, 3)), Err(Verdict::Pass));
    // Malformed and link-local frames pass to the host.
    for odd in [&[1, 2, 3][..], &packet(A, Mac([3, 0, 0, 0, 0, 1]), 9, 1), &packet(Mac::ZERO, STRANGER, 9, 1)] {
        assert_eq!(handed(&tables, 14, odd), Err(Verdict::Pass));
    }
    let stack = children(0, Port::BY_ADDRESS | Port::ROUTED | Port::STACK);
    assert_eq!(handed(&stack, 14, &packet(WIRE, STRANGER, 9, 2)), Err(Verdict::Pass));
    let alone = children(Port::PASSTHRU, 0);
    for destination in [WIRE, STRANGER] {
        assert_eq!(handed(&alone, 14, &packet(destination, B, 9, 3)), Ok((1, 0)));
    }
}

#[test]
fn frames_sent_back_by_the_wire_reach_vepa_children_alone() {
    let private = children(APART, APART);
    let spoofed = Err(Verdict::Drop(DropReason::SourceSpoofed));
    assert_eq!(handed(&private, 14, &packet(B, A, 1, 2)), spoofed);
    assert_eq!(handed(&private, 14, &packet(B, STRANGER, 9, 2)), Ok((2, 0)));
    let vepa = children(VEPA, VEPA);
    assert_eq!(handed(&vepa, 14, &packet(B, A, 1, 2)), Ok((2, 0)));
    let by_address = Port::BY_ADDRESS;
    let private = children(by_address | APART, by_address | APART);
    assert_eq!(handed(&private, 14, &packet(WIRE, WIRE, 1, 2)), spoofed);
    let vepa = children(by_address | VEPA, by_address | VEPA);
    assert_eq!(handed(&vepa, 14, &packet(WIRE, WIRE, 1, 2)), Ok((2, 0)));
}

/// Returns the children that get a copy of a broadcast, and whether it goes out on the wire.
fn copies(tables: &MemoryTables, ifindex: u32, frame: &[u8]) -> (Vec<u32>, bool) {
    let decision = decide(tables, ifindex, frame);
    assert!(matches!(decision.verdict(), Some(Verdict::Flood(_))), "{decision:?}");
    copied(tables, &decision, frame)
}

fn copied(tables: &MemoryTables, decision: &Decision, frame: &[u8]) -> (Vec<u32>, bool) {
    let ingress = &tables.ports[&decision.ingress];
    let flooded = Flooded::new(decision, frame, ingress);
    let gets = |number: u32| {
        let number = PortNumber(number);
        matches!(flooded.copy(&tables.ports[&number], number, tables), Copied::Tag(_))
    };
    ([1, 2].into_iter().filter(|number| gets(*number)).collect(), gets(PARENT.0))
}

#[test]
fn broadcasts_reach_children_as_their_mode_says() {
    let hello = |source| packet(Mac::BROADCAST, source, 1, 255);
    assert_eq!(copies(&children(0, 0), 11, &hello(A)), ([2].into(), true));
    assert_eq!(copies(&children(APART, 0), 11, &hello(A)), ([].into(), true));
    assert_eq!(copies(&children(0, VEPA), 11, &hello(A)), ([].into(), true));
    assert_eq!(copies(&children(APART, VEPA), 14, &hello(STRANGER)), ([1, 2].into(), false));
    // Sent back by the wire: never to the sender.
    assert_eq!(copies(&children(VEPA, VEPA), 14, &hello(A)), ([2].into(), false));
    assert_eq!(copies(&children(VEPA, 0), 14, &hello(A)), ([2].into(), false));
    assert_eq!(copies(&children(0, 0), 14, &hello(A)), ([].into(), false));
    assert_eq!(copies(&children(0, VEPA), 14, &hello(A)), ([2].into(), false));
    assert_eq!(verdict(&children(APART, VEPA), 14, &hello(A)), Verdict::Pass);
    let by_address = children(Port::BY_ADDRESS | VEPA, Port::BY_ADDRESS | VEPA);
    assert_eq!(copies(&by_address, 14, &hello(WIRE)), ([2].into(), false));
    let routed = Port::BY_ADDRESS | Port::ROUTED;
    assert_eq!(copies(&children(routed, 0), 14, &hello(STRANGER)), ([2].into(), false));
    let refused = verdict(&children(routed, 0), 11, &hello(WIRE));
    assert_eq!(refused, Verdict::Drop(DropReason::NotRouted));
}

#[test]
fn vlans_are_kept_apart() {
    let tables = in_vlans((0, 30), (0, 31));
    assert_eq!(handed(&tables, 11, &packet(B, A, 1, 2)), Ok((PARENT.0, 0)));
    let tagged = |vlan: u8, destination: Mac| {
        let untagged = packet(destination, STRANGER, 9, 1);
        [&untagged[..12], &[0x81, 0, 0, vlan], &untagged[12..]].concat()
    };
    assert_eq!(handed(&tables, 14, &tagged(30, A)), Ok((1, 0)));
    assert_eq!(handed(&tables, 14, &tagged(31, A)), Err(Verdict::Pass));
    assert_eq!(handed(&tables, 14, &packet(A, STRANGER, 9, 1)), Err(Verdict::Pass));
    assert_eq!(copies(&tables, 14, &tagged(31, Mac::BROADCAST)), ([2].into(), false));
}

#[test]
fn the_host_reaches_children_with_host_access() {
    let tables = children(Port::HOST_ACCESS, Port::HOST_ACCESS | Port::BY_ADDRESS);
    let out = |tables: &MemoryTables, frame: &[u8]| part::to_parent(14, frame, tables, NOW);
    let to = |decision: Decision| match decision.verdict() {
        Some(Verdict::Redirect(to)) => Ok((to.port.0, to.way)),
        other => Err(other),
    };
    assert_eq!(to(out(&tables, &packet(A, WIRE, 9, 1))), Ok((1, Delivery::FRONT)));
    assert_eq!(to(out(&tables, &packet(WIRE, WIRE, 9, 2))), Ok((2, Delivery::FRONT)));
    assert_eq!(to(out(&tables, &packet(STRANGER, WIRE, 9, 8))), Err(Some(Verdict::Pass)));
    assert_eq!(to(out(&children(0, 0), &packet(A, WIRE, 9, 1))), Err(Some(Verdict::Pass)));
    // Frames that the host forwards also reach children behind its stack.
    let stack = children(Port::BY_ADDRESS | Port::ROUTED | Port::STACK, 0);
    let packet_to_a = packet(WIRE, WIRE, 9, 1);
    assert_eq!(to(out(&stack, &packet_to_a)), Err(Some(Verdict::Pass)));
    let forwarded = part::through_parent(14, packet_to_a.as_slice(), &stack, NOW);
    assert_eq!(to(forwarded), Ok((1, Delivery::FRONT)));
    let tables = children(Port::HOST_ACCESS, 0);
    let hello = packet(Mac::BROADCAST, WIRE, 9, 255);
    let decision = out(&tables, &hello);
    assert_eq!(decision.verdict(), Some(Verdict::Flood(Flood::Children)));
    assert_eq!(copied(&tables, &decision, &hello), ([1].into(), false));
}
