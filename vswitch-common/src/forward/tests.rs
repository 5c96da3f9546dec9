//! The decision over tables in memory: one test for each rule, and properties over arbitrary
//! frames.

use proptest::prelude::*;
use std::vec::Vec;

use super::*;
use crate::mac::Mac;
use crate::packet::address::Address;
use crate::tables::memory::MemoryTables;
use crate::tables::{FdbEntry, ListenerKey, NetworkNumber, StormClass, StormWindow, VlanKey};
use crate::verdict::{Flood, Verdict, tag};

pub(super) const A: Mac = Mac([2, 0, 0, 0, 0, 0xa]);
pub(super) const B: Mac = Mac([2, 0, 0, 0, 0, 0xb]);
pub(super) const HOST: Mac = Mac([2, 0, 0, 0, 0, 0x10]);
pub(super) const WIRE: Mac = Mac([2, 0, 0, 0, 0, 0x20]);
pub(super) const OTHER: Mac = Mac([2, 0, 0, 0, 0, 0xc]);
pub(super) const OTHER_HOST: Mac = Mac([2, 0, 0, 0, 0, 0x11]);
pub(super) const STRANGER: Mac = Mac([2, 0, 0, 0, 0, 0x99]);
pub(super) const NOW: u32 = 1000;

/// Devices 11 (A) and 12 (B) are containers, 13 the host, 14 the uplink of network 1; 21 a
/// container and 23 the host in network 2.
pub(super) fn tables() -> MemoryTables {
    let mut tables = MemoryTables::default();
    let port = |ifindex, egress_ifindex, network, mac, kind, flags| Port {
        ifindex,
        egress_ifindex,
        network: NetworkNumber(network),
        mac,
        kind: kind as u8,
        flags: flags | Port::LEARN | Port::TRUNK | Port::ALL_VLANS,
        fdb_limit: u32::MAX,
        ..Port::default()
    };
    tables.add_port(PortNumber(1), port(11, 11, 1, A, PortKind::Container, Port::XDP_EGRESS));
    tables.add_port(PortNumber(2), port(12, 12, 1, B, PortKind::Container, 0));
    tables.add_port(PortNumber(3), port(13, 113, 1, HOST, PortKind::Host, 0));
    tables.add_port(PortNumber(4), port(14, 14, 1, WIRE, PortKind::Uplink, 0));
    tables.add_port(PortNumber(5), port(21, 21, 2, OTHER, PortKind::Container, 0));
    tables.add_port(PortNumber(6), port(23, 123, 2, OTHER_HOST, PortKind::Host, 0));
    tables
}

pub(super) fn frame(destination: Mac, source: Mac, rest: &[u8]) -> Vec<u8> {
    [&destination.0, &source.0, rest].concat()
}

fn decide(ifindex: u32, frame: &[u8]) -> Decision {
    forward(ifindex, frame, &tables(), NOW)
}

fn verdict(ifindex: u32, destination: Mac, source: Mac) -> Verdict {
    decided(&decide(ifindex, &frame(destination, source, &[&[8, 0, 0x45][..], &[0; 39]].concat())))
}

/// Writes the station that a decision learns.
pub(super) fn learn(tables: &mut MemoryTables, decision: &Decision, now: u32) {
    if let Some(station) = decision.learn() {
        tables.learn(station, decision.ingress, now, decision.learns == Decision::ANNOUNCED);
    }
}

pub(super) fn decided(decision: &Decision) -> Verdict {
    decision.verdict().expect("a verdict")
}

fn delivery(verdict: Verdict) -> Delivery {
    match verdict {
        Verdict::Redirect(delivery) => delivery,
        other => panic!("not a redirect: {other:?}"),
    }
}

#[test]
fn known_unicast_goes_to_its_port() {
    let to_b = delivery(verdict(11, B, A));
    assert_eq!((to_b.port, to_b.ifindex, to_b.kind(), to_b.way), (PortNumber(2), 12, Some(PortKind::Container), 0));
    let to_host = delivery(verdict(11, HOST, A));
    assert_eq!((to_host.ifindex, to_host.kind(), to_host.way), (113, Some(PortKind::Host), 1));
    assert_eq!(delivery(verdict(13, A, HOST)).ifindex, 11);
    assert_eq!(delivery(verdict(14, A, STRANGER)).ifindex, 11);
}

#[test]
fn group_addresses_and_unknown_stations_are_flooded() {
    assert_eq!(verdict(11, Mac::BROADCAST, A), Verdict::Flood(Flood::Group));
    assert_eq!(verdict(11, Mac([1, 0, 0x5e, 0, 0, 1]), A), Verdict::Flood(Flood::Group));
    assert_eq!(verdict(11, STRANGER, A), Verdict::Flood(Flood::UnknownUnicast));
}

#[test]
fn networks_are_separate() {
    assert_eq!(verdict(11, OTHER, A), Verdict::Flood(Flood::UnknownUnicast));
    assert_eq!(verdict(21, A, OTHER), Verdict::Flood(Flood::UnknownUnicast));
}

#[test]
fn an_fdb_entry_into_another_network_is_not_followed() {
    let mut tables = tables();
    let key = FdbKey { network: NetworkNumber(1), vlan: VlanKey::NONE, mac: STRANGER };
    tables.fdb.insert(key, FdbEntry { port: PortNumber(5), ..FdbEntry::default() });
    let decision = forward(11, frame(STRANGER, A, &[8, 0]).as_slice(), &tables, NOW);
    assert_eq!(decided(&decision), Verdict::Flood(Flood::UnknownUnicast));
}

#[test]
fn each_drop_has_its_reason() {
    let group = Mac([0x03, 0, 0, 0, 0, 1]);
    assert_eq!(verdict(11, B, group), Verdict::Drop(DropReason::SourceMulticast));
    assert_eq!(verdict(11, B, Mac::ZERO), Verdict::Drop(DropReason::SourceZero));
    assert_eq!(verdict(11, Mac::ZERO, A), Verdict::Drop(DropReason::DestinationZero));
    assert_eq!(verdict(11, A, A), Verdict::Drop(DropReason::SamePort));
    assert_eq!(verdict(11, A, B), Verdict::Drop(DropReason::SourceSpoofed));
    assert_eq!(verdict(99, B, A), Verdict::Drop(DropReason::UnknownPort));
    for length in 0..14 {
        let cut = &frame(B, A, &[8, 0])[..length];
        assert_eq!(decided(&decide(11, cut)), Verdict::Drop(DropReason::Truncated), "{length} bytes");
    }
    assert_eq!(decided(&decide(11, &frame(B, A, &[0x81, 0, 0]))), Verdict::Drop(DropReason::Truncated));
}

#[test]
fn link_local_control_frames_stay_on_their_link() {
    for last in 0..16 {
        let control = Mac([0x01, 0x80, 0xc2, 0, 0, last]);
        assert_eq!(verdict(11, control, A), Verdict::Drop(DropReason::LinkLocal));
        assert_eq!(verdict(14, control, STRANGER), Verdict::Pass);
    }
}

#[test]
fn frames_for_the_uplinks_own_address_pass_to_the_host() {
    assert_eq!(verdict(14, WIRE, STRANGER), Verdict::Pass);
    let local = delivery(verdict(11, WIRE, A));
    assert_eq!((local.ifindex, local.kind(), local.way), (14, Some(PortKind::Uplink), 1));
}

#[test]
fn frames_for_the_hosts_stations_on_an_uplink_pass_in_any_vlan_whatever_the_fdb_says() {
    let mut tables = tables();
    let uplink = tables.ports.get_mut(&PortNumber(4)).expect("the uplink");
    (uplink.flags, uplink.storm) = (uplink.flags | Port::HOST_STATIONS, 1);
    tables.owned.insert(OwnKey { address: Address::link_local(OTHER), port: PortNumber(4), reserved: 0 });
    let used_up = StormWindow { tick: NOW, count: 1 };
    tables.storms.insert((PortNumber(4), StormClass::Unknown as u32), used_up);
    let tagged = |to, from, id| frame(to, from, &[0x81, 0, 0, id, 8, 0, 0x45]);
    let decide = |tables: &MemoryTables, to, from, id| forward(14, tagged(to, from, id).as_slice(), tables, NOW);
    for vlan in [0, 30] {
        for station in [WIRE, OTHER] {
            assert_eq!(decided(&decide(&tables, station, STRANGER, vlan)), Verdict::Pass, "{station} in VLAN {vlan}");
            // Another port claims the host's station, and the sender is held or static elsewhere.
            let mut forged = tables.clone();
            let key = |mac| FdbKey { network: NetworkNumber(1), vlan: VlanKey(vlan.into()), mac };
            if station == OTHER || vlan != 0 {
                forged.fdb.insert(key(station), FdbEntry { port: PortNumber(1), ..FdbEntry::default() });
            }
            let elsewhere = FdbEntry { port: PortNumber(1), flags: FdbEntry::STATIC, ..FdbEntry::default() };
            forged.fdb.insert(key(STRANGER), elsewhere);
            let passed = decide(&forged, station, STRANGER, vlan);
            assert_eq!((decided(&passed), passed.learn()), (Verdict::Pass, None), "{station} in VLAN {vlan}");
        }
        // Ports get no copy of a storm, and the host keeps what arrives on its own interface.
        let unknown = decide(&tables, OTHER_HOST, STRANGER, vlan);
        assert_eq!((decided(&unknown), unknown.reason), (Verdict::Pass, DropReason::Storm as u32), "VLAN {vlan}");
    }
    assert!(decide(&tables, WIRE, STRANGER, 30).learn().is_some(), "the sender is learned");
}

#[test]
fn stations_are_learned_refreshed_once_a_second_and_moved() {
    let mut tables = tables();
    let ping = frame(Mac::BROADCAST, STRANGER, &[8, 6]);
    let first = forward(14, ping.as_slice(), &tables, NOW);
    let key = first.learn().expect("a new station");
    learn(&mut tables, &first, NOW);
    assert_eq!(forward(14, ping.as_slice(), &tables, NOW).learn(), None);
    assert_eq!(forward(14, ping.as_slice(), &tables, NOW + 1).learn(), Some(key));
    let moved = forward(11, ping.as_slice(), &tables, NOW);
    assert_eq!(moved.learn(), Some(key));
    learn(&mut tables, &moved, NOW);
    assert_eq!((tables.fdb[&key].port, tables.fdb[&key].moves), (PortNumber(1), 1));
    assert_eq!(
        delivery(decided(&forward(12, frame(STRANGER, B, &[8, 0]).as_slice(), &tables, NOW))).port,
        PortNumber(1)
    );
}

#[test]
fn endpoints_are_not_learned() {
    assert_eq!(decide(11, &frame(B, A, &[8, 0])).learn(), None);
    assert_eq!(decide(13, &frame(B, HOST, &[8, 0])).learn(), None);
}

#[test]
fn stations_are_learned_per_vlan() {
    let mut tables = tables();
    let tagged = |destination, source, id| frame(destination, source, &[0x81, 0, 0, id, 8, 0]);
    let decision = forward(11, tagged(Mac::BROADCAST, A, 30).as_slice(), &tables, NOW);
    assert_eq!(decision.learn().unwrap().vlan, VlanKey(30));
    learn(&mut tables, &decision, NOW);
    assert_eq!(delivery(decided(&forward(12, tagged(A, B, 30).as_slice(), &tables, NOW))).port, PortNumber(1));
    let other = decided(&forward(12, tagged(A, B, 31).as_slice(), &tables, NOW));
    assert_eq!(other, Verdict::Flood(Flood::UnknownUnicast));
    assert_eq!(delivery(decided(&forward(12, tagged(A, B, 0).as_slice(), &tables, NOW))).port, PortNumber(1));
}

#[test]
fn xdp_takes_known_unicast_but_not_tcp_from_the_wire() {
    let tables = tables();
    let ip = |protocol: u8| {
        let mut packet = std::vec![8, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, protocol];
        packet.extend([0; 20]);
        packet
    };
    let taken = |kind, ifindex, bytes: &[u8]| forward_xdp(ifindex, kind, bytes, &tables, NOW).action != action::DEFER;
    assert!(taken(PortKind::Uplink, 14, &frame(A, STRANGER, &ip(17))));
    assert!(taken(PortKind::Uplink, 14, &frame(A, STRANGER, &[8, 6])), "ARP answer");
    assert!(!taken(PortKind::Uplink, 14, &frame(A, STRANGER, &ip(6))));
    assert!(!taken(PortKind::Uplink, 14, &frame(B, STRANGER, &ip(17))), "B has no NAPI");
    assert!(!taken(PortKind::Uplink, 14, &frame(Mac::BROADCAST, STRANGER, &ip(17))));
    assert!(taken(PortKind::Container, 12, &frame(A, B, &ip(6))));
    assert!(taken(PortKind::Container, 12, &frame(A, Mac::ZERO, &ip(6))), "a drop");
    assert!(!taken(PortKind::Container, 99, &frame(A, B, &ip(6))), "no port");
}

#[test]
fn frames_stay_in_their_vlan_and_get_the_tags_of_the_port() {
    let mut tables = tables();
    let change = |tables: &mut MemoryTables, number, vlan, flags| {
        let port = tables.ports.get_mut(&PortNumber(number)).expect("a port");
        (port.vlan, port.flags) = (VlanKey(vlan), flags);
        let mac = port.mac;
        tables.fdb.retain(|key, _| key.mac != mac);
        let key = FdbKey { network: NetworkNumber(1), vlan: VlanKey(vlan), mac };
        tables.fdb.insert(key, FdbEntry { port: PortNumber(number), flags: FdbEntry::STATIC, ..FdbEntry::default() });
    };
    // A is in VLAN 30, B a trunk of 30 and 31.
    change(&mut tables, 1, 30, 0);
    change(&mut tables, 2, 0, Port::TRUNK | Port::LEARN);
    tables.ports.get_mut(&PortNumber(3)).expect("the host").flags = 0;
    tables.trunks.extend([30, 31].map(|vlan| (PortNumber(2), VlanKey(vlan))));
    let tagged = |destination, source, tci: u16| {
        let [t0, t1] = tci.to_be_bytes();
        frame(destination, source, &[0x81, 0, t0, t1, 8, 0])
    };
    let plain = |destination, source| frame(destination, source, &[0x88, 0xb5]);
    let decide = |tables: &MemoryTables, ifindex, bytes: &[u8]| forward(ifindex, bytes, tables, NOW);
    let refused = Verdict::Drop(DropReason::VlanNotAllowed);
    assert_eq!(decided(&decide(&tables, 11, &tagged(B, A, 31))), refused, "not a trunk");
    assert_eq!(decided(&decide(&tables, 12, &tagged(A, B, 32))), refused, "not on its list");
    let heard = decide(&tables, 12, &tagged(A, B, 30));
    assert_eq!((heard.learn().expect("new there").vlan, delivery(decided(&heard)).tag), (VlanKey(30), tag::POP));
    learn(&mut tables, &heard, NOW);
    assert_eq!(delivery(decided(&decide(&tables, 11, &plain(B, A)))).tag, tag::PUSH);
    assert_eq!(delivery(decided(&decide(&tables, 11, &tagged(B, A, 0xa000)))).tag, tag::NUMBER);
    assert_eq!(decided(&decide(&tables, 12, &plain(A, B))), Verdict::Flood(Flood::UnknownUnicast), "in no VLAN");

    // The ports that get copies, and the tags of the copies.
    let copies = |ifindex, bytes: &[u8]| {
        let decision = forward(ifindex, bytes, &tables, NOW);
        let flooded = Flooded::new(&decision, bytes, &tables.ports[&decision.ingress]);
        [1, 2, 3, 4].map(|number| flooded.copy(&tables.ports[&PortNumber(number)], PortNumber(number), &tables))
    };
    let (no, keep) = (Copied::No, Copied::Tag(tag::KEEP));
    assert_eq!(copies(11, &plain(Mac::BROADCAST, A)), [no, Copied::Tag(tag::PUSH), no, Copied::Tag(tag::PUSH)]);
    assert_eq!(copies(12, &tagged(Mac::BROADCAST, B, 30)), [Copied::Tag(tag::POP), no, no, keep]);
    assert_eq!(copies(12, &tagged(Mac::BROADCAST, B, 31)), [no, no, no, keep]);
    assert_eq!(copies(12, &plain(Mac::BROADCAST, B)), [no, no, keep, keep]);
    assert_eq!(copies(14, &tagged(Mac::BROADCAST, STRANGER, 30)), [Copied::Tag(tag::POP), keep, no, no]);
}

#[test]
fn a_station_that_moves_too_often_is_held() {
    let mut tables = tables();
    let ping = frame(Mac::BROADCAST, STRANGER, &[8, 6]);
    let key = FdbKey { network: NetworkNumber(1), vlan: VlanKey::NONE, mac: STRANGER };
    let hear = |tables: &mut MemoryTables, ifindex, now| {
        let decision = forward(ifindex, ping.as_slice(), tables, now);
        learn(tables, &decision, now);
        decided(&decision)
    };
    for turn in 0..=5 {
        assert!(matches!(hear(&mut tables, [11, 12][turn % 2], NOW), Verdict::Flood(_)), "turn {turn}");
    }
    assert_eq!((tables.fdb[&key].port, tables.fdb[&key].moves), (PortNumber(2), 5));
    assert!(matches!(hear(&mut tables, 11, NOW + 1), Verdict::Flood(_)), "the sixth move in ten seconds");
    // It is held where it was before, and the newcomer is held off.
    assert_eq!((tables.fdb[&key].port, tables.fdb[&key].is_held(NOW + 1)), (PortNumber(1), true));
    assert_eq!(hear(&mut tables, 12, NOW + 5), Verdict::Drop(DropReason::StationHeld));
    assert!(matches!(hear(&mut tables, 11, NOW + 5), Verdict::Flood(_)), "a frame from the port where it is held");
    let later = NOW + 1 + FdbEntry::DAMPING;
    assert!(matches!(hear(&mut tables, 12, later), Verdict::Flood(_)));
    assert_eq!((tables.fdb[&key].port, tables.fdb[&key].is_held(later)), (PortNumber(2), false));
    // Slow moves are not counted.
    for turn in 1..20 {
        hear(&mut tables, [11, 12][turn as usize % 2], later + turn * FdbEntry::DAMPING);
    }
    assert!(!tables.fdb[&key].is_held(later + 19 * FdbEntry::DAMPING));
    let sticky = FdbEntry { port: PortNumber(1), flags: FdbEntry::STICKY, ..FdbEntry::default() };
    tables.fdb.insert(key, sticky);
    assert_eq!(hear(&mut tables, 12, NOW), Verdict::Drop(DropReason::SourceSpoofed));
    assert!(matches!(hear(&mut tables, 11, NOW), Verdict::Flood(_)));
    assert_eq!((tables.fdb[&key].seen, tables.fdb[&key].flags), (NOW, FdbEntry::STICKY));
}

#[test]
fn storms_are_stopped_per_class_and_known_unicast_is_not_counted() {
    let mut tables = tables();
    tables.ports.get_mut(&PortNumber(1)).expect("a port").storm = 10;
    let used = |tables: &mut MemoryTables, class: StormClass, count| {
        tables.storms.insert((PortNumber(1), class as u32), StormWindow { tick: NOW, count });
    };
    let to = |tables: &MemoryTables, mac| forward(11, frame(mac, A, &[0x88, 0xb5]).as_slice(), tables, NOW);
    let group = Mac([1, 0, 0x5e, 1, 2, 3]);
    let classes =
        [(Mac::BROADCAST, StormClass::Broadcast), (group, StormClass::Multicast), (STRANGER, StormClass::Unknown)];
    for (mac, class) in classes {
        used(&mut tables, class, 9);
        let decision = to(&tables, mac);
        assert_eq!(decision.storm, class as u16);
        assert!(matches!(decided(&decision), Verdict::Flood(_)), "{class:?}");
        used(&mut tables, class, 10);
        // The host gets its copy however much is flooded. The frame counts as dropped.
        let decision = to(&tables, mac);
        let host =
            if class == StormClass::Unknown { Verdict::Drop(DropReason::Storm) } else { Verdict::Flood(Flood::Host) };
        assert_eq!(
            (decided(&decision), decision.reason, decision.storm),
            (host, DropReason::Storm as u32, 0),
            "{class:?}"
        );
        let others = classes.iter().filter(|(_, other)| *other != class);
        for (mac, other) in others {
            used(&mut tables, *other, 0);
            assert!(matches!(decided(&to(&tables, *mac)), Verdict::Flood(_)), "{other:?} beside {class:?}");
        }
        assert!(matches!(decided(&to(&tables, B)), Verdict::Redirect(_)));
    }
    assert!(matches!(decided(&forward(12, frame(STRANGER, B, &[8, 6]).as_slice(), &tables, NOW)), Verdict::Flood(_)));
}

#[test]
fn what_is_for_the_host_is_never_throttled() {
    let mut tables = tables();
    for (number, kind) in [(1, PortKind::Container), (4, PortKind::Uplink)] {
        tables.ports.get_mut(&PortNumber(number)).expect("a port").storm = 1;
        for class in 1..=3 {
            tables.storms.insert((PortNumber(number), class), StormWindow { tick: NOW, count: 1 });
        }
        assert_eq!(tables.ports[&PortNumber(number)].kind(), Some(kind));
    }
    let copies = |tables: &MemoryTables, decision: &Decision, bytes: &[u8]| -> Vec<u32> {
        let flooded = Flooded::new(decision, bytes, &tables.ports[&decision.ingress]);
        let gets =
            |number: &u32| flooded.copy(&tables.ports[&PortNumber(*number)], PortNumber(*number), tables) != Copied::No;
        (1..=4).filter(gets).collect()
    };
    for (device, source) in [(11, A), (14, STRANGER)] {
        let bytes = frame(Mac::BROADCAST, source, &[0x88, 0xb5]);
        let decision = forward(device, bytes.as_slice(), &tables, NOW);
        assert_eq!(
            (decided(&decision), copies(&tables, &decision, &bytes)),
            (Verdict::Flood(Flood::Host), [3].to_vec())
        );
        // Multicast only if the host listens.
        let ip = [&[8, 0, 0x45][..], &[0; 15], &[239, 1, 2, 3]].concat();
        let bytes = frame(Mac([1, 0, 0x5e, 1, 2, 3]), source, &ip);
        let mut tables = tables.clone();
        for number in [1, 4] {
            tables.ports.get_mut(&PortNumber(number)).expect("a port").flags |= Port::SNOOPING;
        }
        let decision = forward(device, bytes.as_slice(), &tables, NOW);
        assert_eq!((decided(&decision), copies(&tables, &decision, &bytes)), (Verdict::Flood(Flood::Host), Vec::new()));
        let group = Address::mapped([239, 1, 2, 3]);
        let (network, vlan) = (NetworkNumber(1), VlanKey::NONE);
        tables.listeners.insert(ListenerKey { group, network, port: PortNumber(3), vlan, reserved: [0; 3] });
        assert_eq!(copies(&tables, &decision, &bytes), [3]);
    }
    // All that arrives on the interface is the host's, too.
    let decision = forward(14, frame(OTHER, STRANGER, &[0x88, 0xb5]).as_slice(), &tables, NOW);
    assert_eq!((decided(&decision), decision.reason), (Verdict::Pass, DropReason::Storm as u32));
}

#[test]
fn an_announcement_moves_a_station_that_is_held_for_a_silent_owner() {
    let mut tables = tables();
    let key = FdbKey { network: NetworkNumber(1), vlan: VlanKey::NONE, mac: STRANGER };
    let held =
        |seen| FdbEntry { port: PortNumber(4), seen, flags: FdbEntry::HELD, since: NOW - 3, ..FdbEntry::default() };
    let arp = |sender: u8, target: u8| {
        let mut packet = std::vec![8, 6, 0, 1, 8, 0, 6, 4, 0, 1];
        packet.extend(STRANGER.0);
        packet.extend([10, 1, 0, sender]);
        packet.extend([0; 6]);
        packet.extend([10, 1, 0, target]);
        frame(Mac::BROADCAST, STRANGER, &packet)
    };
    let advertisement = |flags: u8| {
        let mut packet = std::vec![0x86, 0xdd, 0x60, 0, 0, 0, 0, 24, 58, 255];
        packet.extend([0xfd; 32]);
        packet.extend([136, 0, 0, 0, flags, 0, 0, 0]);
        packet.extend([0xfd; 16]);
        frame(Mac([0x33, 0x33, 0, 0, 0, 1]), STRANGER, &packet)
    };
    let rarp = frame(Mac::BROADCAST, STRANGER, &[0x80, 0x35, 0, 1]);
    for announcement in [arp(9, 9), advertisement(0x20), rarp] {
        tables.fdb.insert(key, held(NOW - 1));
        let decide = |tables: &MemoryTables| forward(11, announcement.as_slice(), tables, NOW);
        assert_eq!(decided(&decide(&tables)), Verdict::Drop(DropReason::StationHeld), "its owner speaks");
        tables.fdb.insert(key, held(NOW - 2));
        let decision = decide(&tables);
        assert_eq!((decision.learn(), decision.learns), (Some(key), Decision::ANNOUNCED));
        learn(&mut tables, &decision, NOW);
        assert_eq!(tables.fdb[&key].port, PortNumber(1));
        // A frame that was under way from elsewhere passes, and does not move the station.
        let late = forward(14, arp(9, 8).as_slice(), &tables, NOW + 1);
        assert_eq!((decided(&late), late.learn()), (Verdict::Flood(Flood::Group), None));
        let later = forward(14, arp(9, 8).as_slice(), &tables, NOW + 2);
        assert_eq!(later.learns, 1);
    }
    for other in [arp(9, 8), advertisement(0x60), frame(Mac::BROADCAST, STRANGER, &[0x88, 0xb5])] {
        tables.fdb.insert(key, held(NOW - 2));
        assert_eq!(decided(&forward(11, other.as_slice(), &tables, NOW)), Verdict::Drop(DropReason::StationHeld));
    }
}

#[test]
fn multicast_goes_to_listeners_and_their_reports_to_routers() {
    let mut tables = tables();
    tables.ports.get_mut(&PortNumber(1)).expect("a port").flags = Port::SNOOPING;
    let group = Address::mapped([239, 1, 2, 3]);
    let listener =
        ListenerKey { group, network: NetworkNumber(1), port: PortNumber(2), vlan: VlanKey::NONE, reserved: [0; 3] };
    let packet = |destination: [u8; 4], protocol: u8, payload: &[u8]| {
        let mut packet = std::vec![8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 1, protocol, 0, 0, 10, 1, 0, 2];
        packet.extend(destination);
        packet.extend(payload);
        frame(Mac([1, 0, 0x5e, 1, 2, 3]), A, &packet)
    };
    let data = packet([239, 1, 2, 3], 17, &[0; 20]);
    let copies = |tables: &MemoryTables, bytes: &[u8]| {
        let decision = forward(11, bytes, tables, NOW);
        let flooded = Flooded::new(&decision, bytes, &tables.ports[&decision.ingress]);
        let gets = |number| flooded.copy(&tables.ports[&PortNumber(number)], PortNumber(number), tables) != Copied::No;
        (decided(&decision), [2, 3, 4].map(gets), decision.snoops)
    };
    assert_eq!(copies(&tables, &data), (Verdict::Flood(Flood::Listeners), [false, false, true], 0));
    tables.listeners.insert(listener);
    assert_eq!(copies(&tables, &data).1, [true, false, true]);
    let to_all = packet([224, 0, 0, 251], 17, &[0; 20]);
    assert_eq!(copies(&tables, &to_all), (Verdict::Flood(Flood::Group), [true; 3], 0));
    let query = packet([224, 0, 0, 1], 2, &[0x11, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(copies(&tables, &query), (Verdict::Flood(Flood::Group), [true; 3], 1));
    for kind in [0x12, 0x16, 0x17, 0x22] {
        let report = packet([239, 1, 2, 3], 2, &[kind, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(copies(&tables, &report), (Verdict::Flood(Flood::Routers), [false, false, true], 1));
    }
    tables.ports.get_mut(&PortNumber(1)).expect("a port").flags = 0;
    assert_eq!(copies(&tables, &data).1, [true; 3]);
}

#[test]
fn hairpin_group_mask_and_mtu_are_applied() {
    let mut tables = tables();
    let lldp = frame(Mac([1, 0x80, 0xc2, 0, 0, 0xe]), A, &[0x88, 0xcc]);
    assert_eq!(decided(&forward(11, lldp.as_slice(), &tables, NOW)), Verdict::Drop(DropReason::LinkLocal));
    let port = tables.ports.get_mut(&PortNumber(1)).expect("a port");
    (port.group_fwd_mask, port.mtu) = (0x4000, 100);
    port.flags |= Port::HAIRPIN;
    assert_eq!(decided(&forward(11, lldp.as_slice(), &tables, NOW)), Verdict::Flood(Flood::Group));
    let back = delivery(decided(&forward(11, frame(A, STRANGER, &[8, 6]).as_slice(), &tables, NOW)));
    assert_eq!((back.port, back.ifindex), (PortNumber(1), 11));
    let of = |length: usize| {
        let bytes = frame(A, B, &[&[8, 0x60][..], &std::vec![0; length]].concat());
        decided(&forward(12, bytes.as_slice(), &tables, NOW))
    };
    assert!(matches!(of(100), Verdict::Redirect(_)));
    assert_eq!(of(101), Verdict::Drop(DropReason::TooBig));
}

/// Addresses that make rules collide, and some random ones.
fn address() -> impl Strategy<Value = Mac> {
    prop_oneof![
        4 => prop::sample::select(std::vec![A, B, HOST, WIRE, OTHER, STRANGER, Mac::ZERO, Mac::BROADCAST]),
        1 => any::<[u8; 6]>().prop_map(Mac),
        1 => (0..=16_u8).prop_map(|last| Mac([0x01, 0x80, 0xc2, 0, 0, last])),
    ]
}

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let start = prop::sample::select(std::vec![[8_u8, 0], [8, 6], [0x81, 0], [0x88, 0xa8], [0x86, 0xdd], [0, 40]]);
    (address(), address(), start, prop::collection::vec(any::<u8>(), 0..80), 0..100_usize).prop_map(
        |(destination, source, start, rest, length)| {
            let mut bytes = frame(destination, source, &[&start[..], &rest].concat());
            bytes.truncate(length.max(1));
            bytes
        },
    )
}

proptest! {
    #[test]
    fn no_frame_leaves_its_network_or_returns_to_its_port(bytes in any_frame(), ifindex in prop::sample::select(std::vec![11_u32, 12, 13, 14, 21])) {
        let tables = tables();
        let decision = forward(ifindex, bytes.as_slice(), &tables, NOW);
        let ingress = tables.port(decision.ingress).expect("every device here is a port");
        if let Verdict::Redirect(to) = decided(&decision) {
            let target = tables.port(to.port).unwrap();
            prop_assert_eq!(target.network, ingress.network);
            prop_assert_ne!(to.port, decision.ingress);
            prop_assert_eq!(to.ifindex, target.egress_ifindex);
        }
        if let Some(key) = decision.learn() {
            prop_assert_eq!(key.network, ingress.network);
            prop_assert!(!key.mac.is_multicast() && !key.mac.is_zero());
            prop_assert!(!tables.fdb.get(&key).is_some_and(FdbEntry::is_static));
            prop_assert!(!matches!(decided(&decision), Verdict::Drop(DropReason::SourceSpoofed)));
        }
    }

    #[test]
    fn learning_never_displaces_a_static_entry(frames in prop::collection::vec((any_frame(), prop::sample::select(std::vec![11_u32, 12, 13, 14, 21])), 1..40)) {
        let mut changing = tables();
        for (number, (bytes, ifindex)) in frames.iter().enumerate() {
            let now = NOW + number as u32 / 7;
            let decision = forward(*ifindex, bytes.as_slice(), &changing, now);
            learn(&mut changing, &decision, now);
        }
        for (key, entry) in tables().fdb {
            prop_assert_eq!(changing.fdb[&key], entry);
        }
    }

    #[test]
    fn xdp_and_tcx_decide_alike(bytes in any_frame(), ifindex in prop::sample::select(std::vec![11_u32, 12, 14, 21])) {
        let tables = tables();
        for kind in [PortKind::Container, PortKind::Uplink] {
            let early = forward_xdp(ifindex, kind, bytes.as_slice(), &tables, NOW);
            if early.action != action::DEFER {
                prop_assert_eq!(early, forward(ifindex, bytes.as_slice(), &tables, NOW));
            }
        }
    }
}

#[test]
fn a_priority_tag_does_not_hide_the_vlan_behind_it() {
    let mut tables = tables();
    let arp: &[u8] = &[8, 6, 0, 1];
    let from_a = |tables: &MemoryTables, tags: &[u8]| {
        decided(&forward(11, frame(Mac::BROADCAST, A, &[tags, arp].concat()).as_slice(), tables, NOW))
    };
    let hidden: [&[u8]; 4] = [
        &[0x81, 0, 0xe0, 0, 0x81, 0, 0, 30],
        &[0x81, 0, 0, 0, 0x88, 0xa8, 0, 30],
        &[0x88, 0xa8, 0, 0, 0x81, 0, 0, 30],
        &[0x81, 0, 0, 0, 0x91, 0, 0, 30],
    ];
    tables.ports.get_mut(&PortNumber(1)).expect("a").flags = Port::LEARN;
    for tags in hidden {
        assert_eq!(from_a(&tables, tags), Verdict::Drop(DropReason::VlanNotAllowed), "{tags:02x?}");
    }
    // Deeper than is read.
    let deep = [0x81, 0, 0, 0, 0x81, 0, 0, 0, 0x81, 0, 0, 30];
    assert_eq!(from_a(&tables, &deep), Verdict::Drop(DropReason::Truncated));
    assert_eq!(from_a(&tables, &[0x81, 0, 0xe0, 0, 0x81, 0, 0, 0]), Verdict::Flood(Flood::Group));
    // A trunk is in the VLAN behind the priority tag, or is not.
    tables.ports.get_mut(&PortNumber(1)).expect("a").flags = Port::LEARN | Port::TRUNK;
    assert_eq!(from_a(&tables, hidden[0]), Verdict::Drop(DropReason::VlanNotAllowed));
    tables.trunks.insert((PortNumber(1), VlanKey(30)));
    let decision = forward(11, frame(Mac::BROADCAST, A, &[hidden[0], arp].concat()).as_slice(), &tables, NOW);
    assert_eq!((decided(&decision), decision.station.vlan), (Verdict::Flood(Flood::Group), VlanKey(30)));
    // To a trunk the frame leaves as it is.
    tables.fdb.insert(
        FdbKey { network: NetworkNumber(1), vlan: VlanKey(30), mac: B },
        FdbEntry { port: PortNumber(2), ..FdbEntry::default() },
    );
    let to_b = delivery(decided(&forward(11, frame(B, A, &[hidden[0], arp].concat()).as_slice(), &tables, NOW)));
    assert_eq!((to_b.port, to_b.tag), (PortNumber(2), tag::KEEP));
}

#[test]
fn unknown_unicast_is_not_copied_to_ports_without_unknown_stations() {
    let mut tables = tables();
    let copied = |tables: &MemoryTables, rest: &[u8]| {
        let frame = frame(STRANGER, A, rest);
        let decision = forward(11, frame.as_slice(), tables, NOW);
        assert_eq!(decided(&decision), Verdict::Flood(Flood::UnknownUnicast));
        let flooded = Flooded::new(&decision, frame.as_slice(), &tables.ports[&PortNumber(1)]);
        flooded.copy(&tables.ports[&PortNumber(2)], PortNumber(2), tables)
    };
    let flags = |tables: &mut MemoryTables, flags| tables.ports.get_mut(&PortNumber(2)).expect("b").flags = flags;
    for (with, expected) in [
        (Port::SPOOF_GUARD, false),
        (Port::SPOOF_GUARD | Port::LEARN, true),
        (Port::LEARN, true),
        (0, true),
        (Port::SPOOF_GUARD | Port::TRUNK | Port::ALL_VLANS, false),
    ] {
        flags(&mut tables, with);
        assert_eq!(copied(&tables, &[8, 0, 0x45]) != Copied::No, expected, "{with:#x}");
    }
    // In another VLAN of a trunk the endpoint itself may not have been heard.
    assert_ne!(copied(&tables, &[0x81, 0, 0, 5, 8, 0, 0x45]), Copied::No);
}
