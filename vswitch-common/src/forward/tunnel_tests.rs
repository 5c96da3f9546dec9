//! Tunnels: the port that a frame out of a tunnel comes in by, and the receivers of frames from and
//! to tunnels.

use std::vec::Vec;

use super::tests::{A, B, HOST, NOW, OTHER, STRANGER, WIRE, decided, frame, learn, tables as without_tunnels};
use super::*;
use crate::mac::Mac;
use crate::packet::address::Address;
use crate::packet::{Received, TunnelKey};
use crate::tables::memory::MemoryTables;
use crate::tables::{FdbEntry, ListenerKey, MARK_UNDERLAY, Network, NetworkNumber, StormClass, StormWindow, VlanKey};
use crate::verdict::{Flood, Verdict, tag};

/// The VNIs of networks 1 and 2.
const VNI: [u32; 2] = [5000, 0xff_ffff];
/// A station behind each of the peers of network 1.
pub(super) const FAR: [Mac; 2] = [Mac([2, 0, 0, 0, 1, 1]), Mac([2, 0, 0, 0, 1, 2])];
/// The device of all tunnels.
const DEVICE: u32 = 90;

fn peer(number: usize) -> Address {
    let six = [0xfd, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
    [Address::mapped([192, 0, 2, 7]), Address::new(six)][number]
}

/// The tables of the other tests with tunnels to two peers in each network, one over IPv4 and one
/// over IPv6: ports 7 and 8 in network 1, ports 9 and 10 in network 2. Both networks are overlay
/// networks.
pub(super) fn tables() -> MemoryTables {
    let mut tables = without_tunnels();
    for host in [3, 6] {
        tables.ports.get_mut(&PortNumber(host)).expect("a host").flags |= Port::SPLIT_HORIZON;
    }
    for (number, network, remote) in [(7, 1, 0), (8, 1, 1), (9, 2, 0), (10, 2, 1)] {
        let port = Port {
            ifindex: DEVICE,
            egress_ifindex: DEVICE,
            network: NetworkNumber(network),
            kind: PortKind::Tunnel as u8,
            flags: Port::LEARN
                | Port::TRUNK
                | Port::ALL_VLANS
                | Port::ROUTER
                | Port::UNDERLAY
                | Port::ISOLATED
                | Port::SPLIT_HORIZON
                | Port::SNOOPING,
            ipv6: peer(remote),
            fdb_limit: u32::MAX,
            ..Port::default()
        };
        tables.add_tunnel(PortNumber(number), port, VNI[network as usize - 1]);
    }
    for (number, mac) in (7..).zip(FAR) {
        learned(&mut tables, mac, number);
    }
    tables
}

fn key(mac: Mac) -> FdbKey {
    FdbKey { network: NetworkNumber(1), vlan: VlanKey::NONE, mac }
}

fn learned(tables: &mut MemoryTables, mac: Mac, port: u32) {
    tables.fdb.insert(key(mac), FdbEntry { port: PortNumber(port), seen: NOW, ..FdbEntry::default() });
}

fn packet(destination: Mac, source: Mac) -> Vec<u8> {
    frame(destination, source, &[&[8, 0, 0x45][..], &[0; 39]].concat())
}

/// Decides about a frame out of a tunnel, and checks that the whole decision and the parts in the
/// programs are the same.
#[track_caller]
fn out_of(tables: &MemoryTables, key: TunnelKey, bytes: &[u8]) -> Decision {
    let frame = Received { bytes, mark: MARK_UNDERLAY, tunnel: Some(key) };
    let decision = forward(DEVICE, &frame, tables, NOW);
    let part = match bytes.first() {
        Some(first) if first & 1 != 0 => part::group_from_tunnel,
        _ => part::unicast_from_tunnel,
    };
    assert_eq!(part(DEVICE, &frame, tables, NOW), decision);
    decision
}

/// Decides about a frame from one of the peers in network 1.
#[track_caller]
fn from(tables: &MemoryTables, remote: usize, destination: Mac, source: Mac) -> Decision {
    out_of(tables, TunnelKey::new(peer(remote), VNI[0]), &packet(destination, source))
}

/// Returns the ports that get a copy of a flood.
fn copies(decision: &Decision, bytes: &[u8], tables: &MemoryTables) -> Vec<u32> {
    let flooded = Flooded::new(decision, bytes, &tables.ports[&decision.ingress]);
    let ports = tables.ports.iter().filter(|(_, port)| port.network == decision.station.network);
    let got = ports.filter(|(number, port)| matches!(flooded.copy(port, **number, tables), Copied::Tag(_)));
    let mut numbers: Vec<u32> = got.map(|(number, _)| number.0).collect();
    numbers.sort_unstable();
    numbers
}

#[track_caller]
fn delivery(decision: &Decision) -> Delivery {
    match decided(decision) {
        Verdict::Redirect(delivery) => delivery,
        other => panic!("not a redirect: {other:?}"),
    }
}

#[test]
fn a_frame_comes_in_by_the_port_of_its_peer_and_vni() {
    let tables = tables();
    for (network, vni) in VNI.into_iter().enumerate() {
        for remote in 0..2 {
            let key = TunnelKey::new(peer(remote), vni);
            let decision = out_of(&tables, key, &packet(Mac::BROADCAST, STRANGER));
            assert_eq!(decision.ingress, PortNumber(7 + 2 * network as u32 + remote as u32));
            assert_eq!(decision.station.network, NetworkNumber(1 + network as u32));
            assert_eq!(decided(&decision), Verdict::Flood(Flood::Group));
        }
    }
}

#[test]
fn frames_of_unknown_vnis_or_peers_have_no_port() {
    let mut tables = tables();
    let stranger = Address::mapped([192, 0, 2, 8]);
    let cases = [
        (peer(0), 1, DropReason::UnknownVni),
        (peer(0), 0, DropReason::UnknownVni),
        (stranger, 1, DropReason::UnknownVni),
        (stranger, VNI[0], DropReason::UnknownPeer),
        // `::` is the key of all peers, and no peer's address.
        (Address::UNSPECIFIED, VNI[0], DropReason::UnknownPeer),
        (Address::UNSPECIFIED, 1, DropReason::UnknownVni),
        // An IPv4 address is not an IPv6 address with the same last bytes.
        (Address::new([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 192, 0, 2, 7]), VNI[0], DropReason::UnknownPeer),
    ];
    for (remote, vni, reason) in cases {
        for bytes in [packet(A, FAR[0]), packet(Mac::BROADCAST, FAR[0]), Vec::new(), packet(HOST, A)] {
            let decision = out_of(&tables, TunnelKey::new(remote, vni), &bytes);
            assert_eq!(decided(&decision), Verdict::Drop(reason), "{remote:?} {vni}");
            assert_eq!((decision.ingress, decision.learn()), (PortNumber::NONE, None));
        }
    }
    // The peer's tunnel in this network is gone.
    tables.tunnels.remove(&TunnelKey::new(peer(0), VNI[0]));
    assert_eq!(decided(&from(&tables, 0, A, FAR[0])), Verdict::Drop(DropReason::UnknownPeer));
    let of_two = out_of(&tables, TunnelKey::new(peer(0), VNI[1]), &packet(OTHER, FAR[0]));
    assert_eq!(delivery(&of_two).port, PortNumber(5));
}

#[test]
fn frames_on_the_tunnel_device_without_metadata_have_no_port() {
    let tables = tables();
    for part in [part::unicast_from_tunnel::<[u8], _>, part::group_from_tunnel] {
        for destination in [A, Mac::BROADCAST] {
            let decision = part(DEVICE, packet(destination, FAR[0]).as_slice(), &tables, NOW);
            assert_eq!(decided(&decision), Verdict::Drop(DropReason::UnknownPort));
        }
    }
    // No container can send as a tunnel.
    let decision = part::unicast_from_tunnel(11, packet(B, A).as_slice(), &tables, NOW);
    assert_eq!(decided(&decision), Verdict::Drop(DropReason::UnknownPort));
}

#[test]
fn truncated_frames_are_counted_at_their_tunnel() {
    let tables = tables();
    for length in 1..14 {
        let decision = out_of(&tables, TunnelKey::new(peer(1), VNI[0]), &packet(A, FAR[1])[..length]);
        assert_eq!(decided(&decision), Verdict::Drop(DropReason::Truncated), "{length} bytes");
        assert_eq!((decision.ingress, decision.learn()), (PortNumber(8), None));
    }
}

#[test]
fn stations_are_learned_behind_their_peer() {
    let mut tables = tables();
    for (remote, moves) in [(0, 0), (1, 1), (0, 2)] {
        let decision = from(&tables, remote, Mac::BROADCAST, STRANGER);
        assert_eq!(decision.learn(), Some(key(STRANGER)));
        learn(&mut tables, &decision, NOW);
        let entry = tables.fdb[&key(STRANGER)];
        assert_eq!((entry.port, entry.moves), (PortNumber(7 + remote as u32), moves));
        assert_eq!(from(&tables, remote, Mac::BROADCAST, STRANGER).learn(), None, "not twice in a tick");
        let to = delivery(&forward(11, packet(STRANGER, A).as_slice(), &tables, NOW));
        assert_eq!(to.port, PortNumber(7 + remote as u32));
    }
    // The same address in the other network is another station.
    let of_two = out_of(&tables, TunnelKey::new(peer(0), VNI[1]), &packet(Mac::BROADCAST, STRANGER));
    let of_two = of_two.learn().expect("it is new there");
    assert_eq!((of_two.network, of_two.mac), (NetworkNumber(2), STRANGER));
    // Without the flag LEARN no station is learned.
    tables.ports.get_mut(&PortNumber(8)).expect("a tunnel").flags &= !Port::LEARN;
    assert_eq!(from(&tables, 1, Mac::BROADCAST, OTHER).learn(), None);
}

#[test]
fn a_tunnel_cannot_take_over_static_or_sticky_stations() {
    let mut tables = tables();
    let spoofed = Verdict::Drop(DropReason::SourceSpoofed);
    let sticky = FdbEntry { port: PortNumber(7), flags: FdbEntry::STICKY, ..FdbEntry::default() };
    tables.fdb.insert(key(STRANGER), sticky);
    for source in [A, B, HOST, STRANGER] {
        for destination in [A, B, HOST, Mac::BROADCAST, FAR[0], OTHER] {
            let decision = from(&tables, 1, destination, source);
            assert_eq!((decided(&decision), decision.learn()), (spoofed, None), "{source} to {destination}");
        }
    }
    // At its own port the sticky station is accepted.
    assert_eq!(delivery(&from(&tables, 0, A, STRANGER)).port, PortNumber(1));
    // Invalid source addresses are refused before any lookup. A tunnel has no address of its own,
    // and zeros are not its address.
    for (source, reason) in [(Mac::ZERO, DropReason::SourceZero), (Mac::BROADCAST, DropReason::SourceMulticast)] {
        assert_eq!(decided(&from(&tables, 0, A, source)), Verdict::Drop(reason));
    }
    assert_eq!(decided(&from(&tables, 0, Mac::ZERO, FAR[0])), Verdict::Drop(DropReason::DestinationZero));
}

#[test]
fn from_a_tunnel_frames_go_to_containers_and_uplinks() {
    let tables = tables();
    let to_a = delivery(&from(&tables, 0, A, FAR[0]));
    assert_eq!((to_a.port, to_a.ifindex, to_a.kind(), to_a.way), (PortNumber(1), 11, Some(PortKind::Container), 0));
    assert_eq!(delivery(&from(&tables, 1, B, FAR[1])).port, PortNumber(2));
    assert_eq!(delivery(&from(&tables, 1, WIRE, FAR[1])).kind(), Some(PortKind::Uplink));
}

#[test]
fn no_frame_passes_from_tunnel_to_tunnel() {
    let tables = tables();
    let isolated = Verdict::Drop(DropReason::Isolated);
    assert_eq!(decided(&from(&tables, 0, FAR[1], FAR[0])), isolated);
    assert_eq!(decided(&from(&tables, 1, FAR[0], FAR[1])), isolated);
    assert_eq!(decided(&from(&tables, 0, FAR[0], STRANGER)), Verdict::Drop(DropReason::SamePort));
    for destination in [Mac::BROADCAST, Mac([1, 0, 0x5e, 0, 0, 1]), STRANGER] {
        for (remote, far) in FAR.into_iter().enumerate() {
            let bytes = packet(destination, far);
            let decision = from(&tables, remote, destination, far);
            let got = copies(&decision, &bytes, &tables);
            assert!(!got.iter().any(|number| (7..=10).contains(number)), "{destination}: {got:?}");
        }
    }
}

#[test]
fn no_frame_passes_between_a_tunnel_and_the_host() {
    let tables = tables();
    let isolated = Verdict::Drop(DropReason::Isolated);
    for (remote, far) in FAR.into_iter().enumerate() {
        assert_eq!(decided(&from(&tables, remote, HOST, far)), isolated);
        let back = forward(13, packet(far, HOST).as_slice(), &tables, NOW);
        assert_eq!(decided(&back), isolated);
        for destination in [Mac::BROADCAST, Mac([0x33, 0x33, 0, 0, 0, 1]), STRANGER] {
            let bytes = packet(destination, far);
            assert!(!copies(&from(&tables, remote, destination, far), &bytes, &tables).contains(&3));
        }
    }
    for destination in [Mac::BROADCAST, Mac([0x33, 0x33, 0, 0, 0, 1]), STRANGER] {
        let bytes = packet(destination, HOST);
        let decision = forward(13, bytes.as_slice(), &tables, NOW);
        assert_eq!(copies(&decision, &bytes, &tables), [1, 2, 4], "{destination}");
    }
}

#[test]
fn frames_for_a_station_behind_a_peer_leave_by_its_tunnel() {
    let tables = tables();
    for (ifindex, source) in [(11, A), (12, B), (14, STRANGER)] {
        for (number, mac) in (7..).zip(FAR) {
            let to = delivery(&forward(ifindex, packet(mac, source).as_slice(), &tables, NOW));
            assert_eq!((to.port, to.ifindex, to.kind()), (PortNumber(number), DEVICE, Some(PortKind::Tunnel)));
            assert_eq!((to.way, to.xdp, to.tag), (0, 0, tag::KEEP));
        }
    }
    // XDP cannot set the peer, so it defers the frame to tcx.
    for (kind, ifindex, source) in [(PortKind::Container, 11, A), (PortKind::Uplink, 14, STRANGER)] {
        let early = forward_xdp(ifindex, kind, packet(FAR[0], source).as_slice(), &tables, NOW);
        assert_eq!(early.action, action::DEFER, "{kind:?}");
    }
    // In another network the station is unknown.
    let elsewhere = forward(21, packet(FAR[0], OTHER).as_slice(), &tables, NOW);
    assert_eq!(decided(&elsewhere), Verdict::Flood(Flood::UnknownUnicast));
}

#[test]
fn frames_longer_than_the_path_to_a_peer_are_dropped_as_too_big() {
    let mut tables = tables();
    tables.ports.get_mut(&PortNumber(7)).expect("a tunnel").mtu = 39;
    // Not IP: an IP packet may be answered, or go in fragments.
    let mut other = packet(FAR[0], A);
    other[12..14].copy_from_slice(&[0x88, 0xb5]);
    assert_eq!(decided(&forward(11, other.as_slice(), &tables, NOW)), Verdict::Drop(DropReason::TooBig));
    assert_eq!(delivery(&forward(11, packet(FAR[1], A).as_slice(), &tables, NOW)).port, PortNumber(8));
    other[..6].copy_from_slice(&Mac::BROADCAST.0);
    let decision = forward(11, other.as_slice(), &tables, NOW);
    assert_eq!(copies(&decision, &other, &tables), [2, 3, 4, 8]);
}

#[test]
fn isolated_endpoints_are_isolated_from_stations_behind_tunnels() {
    let mut tables = tables();
    tables.ports.get_mut(&PortNumber(1)).expect("A").flags |= Port::ISOLATED;
    let isolated = Verdict::Drop(DropReason::Isolated);
    for (remote, far) in FAR.into_iter().enumerate() {
        assert_eq!(decided(&forward(11, packet(far, A).as_slice(), &tables, NOW)), isolated);
        assert_eq!(decided(&from(&tables, remote, A, far)), isolated);
        assert_eq!(delivery(&from(&tables, remote, B, far)).port, PortNumber(2));
        let bytes = packet(Mac::BROADCAST, far);
        assert_eq!(copies(&from(&tables, remote, Mac::BROADCAST, far), &bytes, &tables), [2, 4]);
    }
    let bytes = packet(Mac::BROADCAST, A);
    assert_eq!(copies(&forward(11, bytes.as_slice(), &tables, NOW), &bytes, &tables), [2, 3, 4]);
}

#[test]
fn floods_go_to_every_tunnel_and_floods_from_a_tunnel_to_local_ports() {
    let tables = tables();
    let group = Mac([1, 0, 0x5e, 0, 0, 1]);
    for (destination, from_a, from_wire, from_peer) in [
        (Mac::BROADCAST, [2, 3, 4, 7, 8].as_slice(), [1, 2, 3, 7, 8].as_slice(), [1, 2, 4].as_slice()),
        (group, &[2, 3, 4, 7, 8], &[1, 2, 3, 7, 8], &[1, 2, 4]),
        (STRANGER, &[2, 4, 7, 8], &[1, 2, 7, 8], &[1, 2, 4]),
    ] {
        for (ifindex, source, expected) in [(11, A, from_a), (14, OTHER, from_wire)] {
            let bytes = packet(destination, source);
            let decision = forward(ifindex, bytes.as_slice(), &tables, NOW);
            assert_eq!(copies(&decision, &bytes, &tables), expected, "{source} to {destination}");
        }
        for (remote, far) in FAR.into_iter().enumerate() {
            let bytes = packet(destination, far);
            let decision = from(&tables, remote, destination, far);
            assert_eq!(copies(&decision, &bytes, &tables), from_peer, "peer {remote} to {destination}");
        }
    }
}

#[test]
fn multicast_goes_to_every_tunnel_and_multicast_from_a_tunnel_to_listeners() {
    let mut tables = tables();
    for number in [1, 2] {
        tables.ports.get_mut(&PortNumber(number)).expect("a container").flags |= Port::SNOOPING;
    }
    let group = Address::mapped([239, 1, 2, 3]);
    let (network, vlan) = (NetworkNumber(1), VlanKey::NONE);
    tables.listeners.insert(ListenerKey { group, network, port: PortNumber(2), vlan, reserved: [0; 3] });
    let to = Mac([1, 0, 0x5e, 1, 2, 3]);
    let packet = [&[8, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 9, 17, 0, 0, 10, 1, 0, 2, 239, 1, 2, 3][..], &[0; 8]].concat();
    let bytes = frame(to, A, &packet);
    let decision = forward(11, bytes.as_slice(), &tables, NOW);
    assert_eq!(decided(&decision), Verdict::Flood(Flood::Listeners));
    // The host at the other end knows the listeners there.
    assert_eq!(copies(&decision, &bytes, &tables), [2, 4, 7, 8]);
    let bytes = frame(to, FAR[0], &packet);
    let decision = out_of(&tables, TunnelKey::new(peer(0), VNI[0]), &bytes);
    assert_eq!(decided(&decision), Verdict::Flood(Flood::Listeners));
    assert_eq!(copies(&decision, &bytes, &tables), [2, 4]);
}

#[test]
fn link_local_control_frames_from_a_tunnel_are_dropped() {
    let tables = tables();
    for last in 0..16 {
        let control = Mac([0x01, 0x80, 0xc2, 0, 0, last]);
        let decision = from(&tables, 0, control, FAR[0]);
        assert_eq!((decided(&decision), decision.learn()), (Verdict::Drop(DropReason::LinkLocal), None));
    }
}

#[test]
fn storms_from_a_tunnel_are_stopped_and_known_unicast_is_not_counted() {
    let mut tables = tables();
    tables.ports.get_mut(&PortNumber(7)).expect("a tunnel").storm = 10;
    tables.storms.insert((PortNumber(7), StormClass::Broadcast as u32), StormWindow { tick: NOW, count: 10 });
    assert_eq!(decided(&from(&tables, 0, Mac::BROADCAST, FAR[0])), Verdict::Drop(DropReason::Storm));
    assert_eq!(decided(&from(&tables, 1, Mac::BROADCAST, FAR[1])), Verdict::Flood(Flood::Group), "the other peer");
    assert_eq!(decided(&from(&tables, 0, STRANGER, FAR[0])), Verdict::Flood(Flood::UnknownUnicast));
    assert_eq!(delivery(&from(&tables, 0, A, FAR[0])).port, PortNumber(1));
}

#[test]
fn an_internal_network_includes_stations_behind_tunnels() {
    let mut tables = tables();
    tables.networks.insert(NetworkNumber(1), Network { flags: Network::INTERNAL, ..Network::default() });
    assert_eq!(delivery(&from(&tables, 0, A, FAR[0])).port, PortNumber(1));
    assert_eq!(delivery(&forward(11, packet(FAR[0], A).as_slice(), &tables, NOW)).port, PortNumber(7));
    let bytes = packet(Mac::BROADCAST, FAR[0]);
    assert_eq!(copies(&from(&tables, 0, Mac::BROADCAST, FAR[0]), &bytes, &tables), [1, 2, 4]);
}

#[test]
fn a_peer_is_accepted_only_with_the_mark_of_the_way_to_it() {
    let mut tables = tables();
    let inside = Address::new([0xfd, 0x76, 0x73, 0x77, 0x69, 0x74, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
    let number = *tables.tunnels.values().find(|number| **number != PortNumber::NONE).expect("a tunnel");
    let key = TunnelKey::new(inside, VNI[0]);
    tables.tunnels.insert(key, number);
    let bytes = packet(Mac::BROADCAST, Mac([2, 9, 9, 9, 9, 9]));
    // Without the program on the way to a peer there is no mark.
    let mut unmarked = tables.clone();
    unmarked.ports.get_mut(&PortNumber(7)).expect("a tunnel").flags &= !Port::UNDERLAY;
    let frame = Received { bytes: &bytes, mark: 0, tunnel: Some(TunnelKey::new(peer(0), VNI[0])) };
    assert!(matches!(decided(&forward(DEVICE, &frame, &unmarked, NOW)), Verdict::Flood(_)));
    for key in [key, TunnelKey::new(peer(0), VNI[0]), TunnelKey::new(peer(1), VNI[0])] {
        for (mark, taken) in [(0, false), (!MARK_UNDERLAY, false), (MARK_UNDERLAY, true)] {
            let frame = Received { bytes: &bytes, mark, tunnel: Some(key) };
            let parts = [forward(DEVICE, &frame, &tables, NOW), part::group_from_tunnel(DEVICE, &frame, &tables, NOW)];
            for decision in parts {
                let dropped = decision == Decision::drop(DropReason::UnknownPeer, PortNumber::NONE);
                assert_eq!(!dropped, taken, "{mark:x}: {decision:?}");
            }
        }
    }
}
