//! Claims of local addresses from outside, which are refused, and their neighbors, which pass.

use std::vec::Vec;

use super::*;
use crate::forward::tests::{A, HOST, NOW, STRANGER, WIRE, decided, frame, tables as bridged};
use crate::forward::tunnel_tests::tables as tunneled;
use crate::forward::{forward, forward_xdp, part};
use crate::packet::{Received, TunnelKey};
use crate::tables::memory::MemoryTables;
use crate::tables::{MARK_UNDERLAY, NetworkNumber, VlanKey};
use crate::verdict::{Decision, Verdict, action};

/// The addresses of the endpoint at port 1, of the gateway, and of no station of this host.
const LOCAL: u8 = 2;
const GATEWAY: u8 = 1;
const FOREIGN: u8 = 9;

fn four(last: u8) -> [u8; 4] {
    [10, 1, 0, last]
}

fn six(last: u8) -> [u8; 16] {
    [0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]
}

/// Makes the addresses of the endpoint and the gateway known, in a VLAN.
fn known(mut tables: MemoryTables, vlan: u16) -> MemoryTables {
    for (number, last, mac) in [(1, LOCAL, A), (3, GATEWAY, HOST)] {
        for address in [Address::mapped(four(last)), Address::new(six(last)), Address::link_local(mac)] {
            let key = NeighborKey { address, network: NetworkNumber(1), vlan: VlanKey(vlan), reserved: 0 };
            tables.neighbors.insert(key, PortNumber(number));
        }
    }
    tables
}

fn arp(operation: u8, sender: ([u8; 4], Mac), target: [u8; 4]) -> Vec<u8> {
    let mut packet = std::vec![8, 6, 0, 1, 8, 0, 6, 4, 0, operation];
    packet.extend(sender.1.0);
    packet.extend(sender.0);
    packet.extend([0; 6]);
    packet.extend(target);
    packet
}

/// An ICMPv6 message behind `chain`, whose last number is ICMPv6's.
fn icmpv6(source: [u8; 16], hops: u8, chain: &[u8], message: &[u8]) -> Vec<u8> {
    let (first, rest) = chain.split_first().expect("a header");
    let mut packet = std::vec![0x86, 0xdd, 0x60, 0, 0, 0, 0, (rest.len() + message.len()) as u8, *first, hops];
    packet.extend(source);
    packet.extend(six(0xff));
    packet.extend(rest);
    packet.extend(message);
    packet
}

fn discovery(kind: u8, target: [u8; 16], mac: Option<Mac>) -> Vec<u8> {
    let mut message = std::vec![kind, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target);
    if let Some(mac) = mac {
        message.extend([2, 1]);
        message.extend(mac.0);
    }
    message
}

/// Packets that claim a local address, with the reason to drop them.
fn claims() -> Vec<(DropReason, Vec<u8>)> {
    use DropReason::{ArpSpoofed, HeaderChain, NeighborSpoofed};
    let other = six(FOREIGN);
    let options = [60, 0, 1, 4, 0, 0, 0, 0];
    let chain = |count: usize| [&[60][..], &options.repeat(count - 1), &[58, 0, 1, 4, 0, 0, 0, 0]].concat();
    let mut all = Vec::new();
    for local in [LOCAL, GATEWAY] {
        let (own, link_local) = (six(local), Address::link_local(if local == LOCAL { A } else { HOST }).octets());
        all.extend([
            (ArpSpoofed, arp(1, (four(local), STRANGER), four(7))),
            (ArpSpoofed, arp(2, (four(local), STRANGER), four(7))),
            (ArpSpoofed, arp(1, (four(local), STRANGER), four(local))),
            (NeighborSpoofed, icmpv6(other, 255, &[58], &discovery(136, own, Some(STRANGER)))),
            (NeighborSpoofed, icmpv6(other, 255, &[58], &discovery(136, link_local, None))),
            (NeighborSpoofed, icmpv6(own, 255, &[58], &discovery(135, other, Some(STRANGER)))),
            (NeighborSpoofed, icmpv6(link_local, 255, &[58], &[133, 0, 0, 0, 0, 0, 0, 0])),
            (NeighborSpoofed, icmpv6(link_local, 255, &[58], &[134, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])),
            (NeighborSpoofed, icmpv6(link_local, 255, &[58], &discovery(137, other, None))),
            (NeighborSpoofed, icmpv6(other, 255, &chain(2), &discovery(136, own, Some(STRANGER)))),
            (HeaderChain, icmpv6(own, 255, &chain(3), &discovery(135, other, Some(STRANGER)))),
        ]);
    }
    all
}

/// Packets that claim no local address.
fn others() -> Vec<Vec<u8>> {
    let (other, own) = (six(FOREIGN), six(LOCAL));
    std::vec![
        arp(1, (four(FOREIGN), STRANGER), four(LOCAL)),
        arp(2, (four(FOREIGN), STRANGER), four(LOCAL)),
        // A probe, and the detection of a duplicate: the owner answers.
        arp(1, ([0; 4], STRANGER), four(LOCAL)),
        icmpv6([0; 16], 255, &[58], &discovery(135, own, None)),
        icmpv6(other, 255, &[58], &discovery(135, own, Some(STRANGER))),
        icmpv6(other, 255, &[58], &discovery(136, other, Some(STRANGER))),
        // Not valid for any receiver, and an echo request.
        icmpv6(other, 64, &[58], &discovery(136, own, Some(STRANGER))),
        icmpv6(own, 255, &[58], &[128, 0, 0, 0, 0, 0, 0, 0]),
        // In a customer's VLAN inside of a VLAN, where other stations have these addresses.
        [&[0x81, 0, 0, 6, 0x81, 0, 0, 7][..], &arp(2, (four(LOCAL), STRANGER), four(7))].concat(),
    ]
}

const GROUP: Mac = Mac([0x33, 0x33, 0, 0, 0, 1]);

/// Checks what becomes of packets of a station that come in from outside.
fn check_all(tables: &MemoryTables, decide: impl Fn(&[u8]) -> Decision, vlan: u16) {
    let tag = if vlan == 0 { Vec::new() } else { std::vec![0x81, 0, 0, vlan as u8] };
    for to in [A, STRANGER, Mac::BROADCAST, GROUP] {
        let from = Mac([2, 0, 0, 0, 0, 0x77]);
        for (reason, packet) in claims() {
            for tags in [tag.clone(), [&[0x81, 0, 0xe0, 0][..], &tag].concat()] {
                let decision = decide(&frame(to, from, &[&tags[..], &packet].concat()));
                assert_eq!(decided(&decision), Verdict::Drop(reason), "to {to}: {packet:02x?}");
                assert_eq!(decision.learns, 0, "a refused sender is not learned");
            }
        }
        for packet in others() {
            let verdict = decided(&decide(&frame(to, from, &[&tag[..], &packet].concat())));
            assert!(!matches!(verdict, Verdict::Drop(_)), "to {to}: {verdict:?}: {packet:02x?}");
        }
    }
    assert!(tables.fdb.len() > 1);
}

#[test]
fn an_uplink_refuses_claims_of_local_addresses() {
    for vlan in [0, 5] {
        let mut tables = known(bridged(), vlan);
        tables.ports.get_mut(&PortNumber(1)).expect("a").vlan = VlanKey(vlan);
        check_all(&tables, |frame| forward(14, frame, &tables, NOW), vlan);
        check_all(
            &tables,
            |frame| {
                if frame[0] & 1 == 0 {
                    part::unicast_from_uplink(14, frame, &tables, NOW)
                } else {
                    part::group_from_uplink(14, frame, &tables, NOW)
                }
            },
            vlan,
        );
    }
    // XDP refuses them, too, or leaves them to tcx.
    let tables = known(bridged(), 0);
    for (reason, packet) in claims() {
        let decision = forward_xdp(14, PortKind::Uplink, frame(A, STRANGER, &packet).as_slice(), &tables, NOW);
        let deferred = reason != DropReason::ArpSpoofed && decision.action == action::DEFER;
        assert!(deferred || decided(&decision) == Verdict::Drop(reason), "{packet:02x?}");
    }
    // In another VLAN the address is that of another station.
    let tables = known(bridged(), 5);
    let (_, packet) = claims().swap_remove(0);
    let decision = forward(14, frame(Mac::BROADCAST, STRANGER, &packet).as_slice(), &tables, NOW);
    assert!(matches!(decided(&decision), Verdict::Flood(_)));
    // Endpoints have their guards.
    let decision = forward(12, frame(A, STRANGER, &packet).as_slice(), &known(bridged(), 0), NOW);
    assert!(matches!(decided(&decision), Verdict::Redirect(_)));
}

#[test]
fn a_tunnel_refuses_claims_of_local_addresses_and_passes_those_of_other_hosts() {
    let mut tables = known(tunneled(), 0);
    let tunnel = Some(TunnelKey::new(Address::mapped([192, 0, 2, 7]), 5000));
    let decide = |tables: &MemoryTables, bytes: &[u8]| {
        forward(90, &Received { bytes, mark: MARK_UNDERLAY, tunnel }, tables, NOW)
    };
    check_all(&tables, |frame| decide(&tables, frame), 0);
    // An endpoint of a third host: it may have moved, which its record tells later.
    for address in [Address::mapped(four(LOCAL)), Address::new(six(LOCAL)), Address::link_local(A)] {
        let key = NeighborKey { address, network: NetworkNumber(1), vlan: VlanKey::NONE, reserved: 0 };
        tables.neighbors.insert(key, PortNumber(8));
    }
    let (_, packet) = claims().swap_remove(0);
    let verdict = decided(&decide(&tables, &frame(Mac::BROADCAST, STRANGER, &packet)));
    assert!(matches!(verdict, Verdict::Flood(_)), "{verdict:?}");
}

#[test]
fn a_parent_refuses_claims_of_its_childrens_addresses_but_not_reflected_frames() {
    let mut tables = known(bridged(), 0);
    for (number, kind, flags) in [
        (1, PortKind::Child, Port::APART | Port::REFLECTED),
        (2, PortKind::Child, Port::APART | Port::REFLECTED),
        (4, PortKind::Parent, Port::TRUNK | Port::ALL_VLANS),
    ] {
        let port = tables.ports.get_mut(&PortNumber(number)).expect("a port");
        (port.kind, port.flags) = (kind as u8, flags);
    }
    check_all(&tables, |frame| forward(14, frame, &tables, NOW), 0);
    let verdict = |source: Mac, packet: &[u8]| {
        decided(&forward(14, frame(Mac::BROADCAST, source, packet).as_slice(), &tables, NOW))
    };
    for honest in [
        arp(1, (four(LOCAL), A), four(7)),
        icmpv6(six(LOCAL), 255, &[58], &discovery(135, six(7), Some(A))),
        icmpv6(six(LOCAL), 255, &[58], &discovery(136, six(LOCAL), Some(A))),
    ] {
        assert!(!matches!(verdict(A, &honest), Verdict::Drop(_)), "{honest:02x?}");
        assert!(matches!(verdict(STRANGER, &honest), Verdict::Drop(_)), "{honest:02x?}");
    }
    for forged in [
        arp(1, (four(LOCAL), STRANGER), four(7)),
        icmpv6(six(LOCAL), 255, &[58], &discovery(136, six(LOCAL), Some(STRANGER))),
    ] {
        assert!(matches!(verdict(A, &forged), Verdict::Drop(_)), "{forged:02x?}");
    }
    assert_ne!(WIRE, A);
}
