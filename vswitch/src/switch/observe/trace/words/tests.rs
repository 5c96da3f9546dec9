use vswitch_common::Mac;
use vswitch_common::tables::StormWindow;

use super::*;
use crate::model::NetworkId;

const WEB: PortNumber = PortNumber(3);
const FRONT: NetworkNumber = NetworkNumber(1);

fn names() -> Names {
    let port = |number, name: &str| NamedPort {
        number,
        name: name.to_owned(),
        kind: "endpoint",
        network: NetworkId::from_bytes([1; 32]),
        network_name: "front".to_owned(),
    };
    let vni = Some(5000.try_into().expect("a VNI"));
    let overlay = OverlayOptions { vni, encrypted: true, ..OverlayOptions::default() };
    let ports = [port(WEB, "web1"), port(PortNumber(4), "web2")];
    Names {
        ports: ports.into_iter().map(|port| (port.number, port)).collect(),
        networks: BTreeMap::from([(FRONT, "front".to_owned())]),
        overlays: BTreeMap::from([(FRONT, overlay)]),
    }
}

#[test]
fn lookups_are_described_with_names() {
    let names = names();
    let key = FdbKey { network: FRONT, vlan: VlanKey::NONE, mac: Mac([2, 0, 0, 0, 0, 0x0b]) };
    let fixed = FdbEntry { port: PortNumber(4), flags: FdbEntry::STATIC, ..FdbEntry::default() };
    let held = FdbEntry { port: WEB, seen: 90, since: 95, flags: FdbEntry::HELD, ..FdbEntry::default() };
    let port = Port {
        network: FRONT,
        kind: PortKind::Container as u8,
        flags: Port::ISOLATED | Port::SPOOF_GUARD,
        vlan: VlanKey(30),
        ..Port::default()
    };
    let tunnel = Port { network: FRONT, kind: PortKind::Tunnel as u8, mtu: 1450, ..Port::default() };
    let key_of_peer = TunnelKey::new(Address::mapped([192, 0, 2, 7]), 5000);
    let address = Address::mapped([10, 0, 0, 5]);
    let neighbor = NeighborKey { address, network: FRONT, vlan: VlanKey::NONE, reserved: 0 };
    let group = ListenerKey {
        group: Address::mapped([224, 0, 0, 251]),
        network: FRONT,
        port: WEB,
        vlan: VlanKey::NONE,
        reserved: [0; 3],
    };
    let subnet = |flags| Some(Subnet { network: FRONT, flags });
    for (lookup, text) in [
        (Lookup::Device(12, WEB), "device 12 is port 3 (web1)"),
        (Lookup::Device(13, PortNumber::NONE), "device 13 is no port of the switch"),
        (Lookup::Port(WEB, None), "port 3 is gone"),
        (
            Lookup::Port(WEB, Some(tunnel)),
            "port 3 (web1) is a tunnel for packets of up to 1450 bytes, in network front",
        ),
        (Lookup::Tunnel(key_of_peer, Some(WEB)), "packets of 192.0.2.7 with VNI 5000 arrive on port 3 (web1)"),
        (Lookup::Tunnel(key_of_peer, None), "packets of 192.0.2.7 with VNI 5000 are refused"),
        (
            Lookup::Port(WEB, Some(port)),
            "port 3 (web1) is an endpoint's, in network front, VLAN 30: isolated, spoof_guard",
        ),
        (Lookup::Station(key, Some(fixed)), "FDB: 02:00:00:00:00:0b in network front, VLAN 0 -> port 4 (web2), static"),
        (Lookup::Station(key, None), "FDB: 02:00:00:00:00:0b in network front, VLAN 0: unknown"),
        (
            Lookup::Station(key, Some(held)),
            "FDB: 02:00:00:00:00:0b in network front, VLAN 0 -> port 3 (web1), learned, heard 10 s ago, held: it moved \
             too often",
        ),
        (Lookup::Neighbor(neighbor, PortNumber(4)), "address 10.0.0.5 belongs to port 4 (web2)"),
        (
            Lookup::Subnet(address, subnet(Subnet::GATEWAY)),
            "address 10.0.0.5 is a gateway address of the host in network front",
        ),
        (Lookup::Subnet(address, subnet(0)), "address 10.0.0.5 is in a subnet of network front"),
        (Lookup::Subnet(address, None), "address 10.0.0.5 is in no subnet of a network"),
        (Lookup::Trunk(WEB, VlanKey(VlanKey::SERVICE | 7), false), "VLAN s7 is not on the list of port 3 (web1)"),
        (Lookup::Listener(group, true), "port 3 (web1) listens to 224.0.0.251"),
        (
            Lookup::Storm(WEB, 1, StormWindow { tick: 99, count: 7 }),
            "port 3 (web1) has flooded 0 broadcast frames in this second",
        ),
    ] {
        assert_eq!(names.lookup(&lookup, 100), text);
    }
}

#[test]
fn every_action_has_a_name_and_an_explanation() {
    let names = names();
    let mut seen = std::collections::HashSet::new();
    for number in action::DEFER..=action::FLOOD_ROUTERS {
        let verdict = names.verdict(&Decision::new(number, WEB));
        assert_ne!(verdict.action, "unknown", "{number}");
        assert!(seen.insert((verdict.action, verdict.explanation)), "{number}");
    }
    for reason in DropReason::ALL {
        let verdict = names.verdict(&Decision::drop(reason, WEB));
        assert_eq!(verdict.reason, Some(reason));
        assert!(verdict.explanation.contains(reason.explanation()), "{}", verdict.explanation);
    }
    assert_eq!(names.verdict(&Decision::new(77, WEB)).action, "unknown");
}

#[test]
fn a_delivery_says_where_and_how() {
    let names = names();
    let to = |kind: PortKind, way, tag| {
        let to = Delivery { port: PortNumber(4), kind: kind as u8, way, tag, ..Delivery::default() };
        names.verdict(&Decision { to, ..Decision::new(action::REDIRECT, WEB) })
    };
    let straight = to(PortKind::Container, 0, tag::KEEP);
    assert_eq!((straight.to.as_deref(), straight.explanation.as_str()), (Some("web2"), "to port 4 (web2)"));
    assert_eq!((straight.to_host, straight.tag), (false, Some("keep")));
    let host = to(PortKind::Host, 1, tag::POP);
    assert!(
        host.to_host
            && host.explanation.starts_with("to the host's IP stack")
            && host.explanation.contains("taken off")
    );
    assert_eq!(to(PortKind::Uplink, 0, tag::PUSH).tag, Some("push"));
}

#[test]
fn consequences_are_described() {
    let station = FdbKey { network: FRONT, vlan: VlanKey::NONE, mac: Mac([2, 0, 0, 0, 0, 9]) };
    let decision = Decision { learns: 1, snoops: 1, storm: 2, station, ..Decision::new(action::FLOOD_GROUP, WEB) };
    let texts = names().consequences(&decision);
    assert_eq!(texts.len(), 3);
    assert!(texts[0].contains("02:00:00:00:00:09 in network front") && texts[1].contains("multicast"), "{texts:?}");
    assert_eq!(names().consequences(&Decision::new(action::PASS, WEB)), Vec::<String>::new());
}

#[test]
fn copies_are_listed_up_to_a_limit() {
    let names = names();
    let few = names.copies(&[(WEB, Copied::Tag(tag::POP)), (PortNumber(4), Copied::TooBig)]);
    assert_eq!(few[0], "a copy to port 3 (web1), its VLAN tag taken off");
    assert!(few.len() == 2 && few[1].starts_with("no copy to port 4 (web2)"), "{few:?}");
    let many = names.copies(&[(WEB, Copied::Tag(tag::KEEP)); MOST_COPIES + 3]);
    assert_eq!((many.len(), many[MOST_COPIES].as_str()), (MOST_COPIES + 1, "and copies to 3 more ports"));
    assert_eq!(names.copies(&[]).len(), 1);
}
