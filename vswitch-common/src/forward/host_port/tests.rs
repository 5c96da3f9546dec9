//! Frames between networks and the host over tables in memory: one test for each rule, and
//! properties over arbitrary packets and subnets.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use std::vec::Vec;

use crate::forward::forward;
use crate::forward::tests::{A, B, HOST, NOW, OTHER, OTHER_HOST, STRANGER, WIRE, decided, frame, tables as ports};
use crate::mac::Mac;
use crate::packet::Received;
use crate::packet::address::Address;
use crate::tables::memory::MemoryTables;
use crate::tables::{MARK_PUBLISHED, Network, NetworkNumber, Port, PortNumber, Subnet, Tables as _};
use crate::verdict::{Delivery, DropReason, Flood, Verdict};

/// Network 1 has 10.1.0.0/16 and fd01::/64, network 2 has 10.2.0.0/16 and fd02::/64. The host's
/// address ends in 1 in each.
fn tables() -> MemoryTables {
    let mut tables = ports();
    for number in [1, 2] {
        let network = NetworkNumber(number);
        let last = number as u8;
        for (subnet, gateway, length) in [
            (Address::mapped([10, last, 0, 0]), Address::mapped([10, last, 0, 1]), 112),
            (address(&std::format!("fd0{last}::")), address(&std::format!("fd0{last}::1")), 64),
        ] {
            tables.add_subnet(subnet, length, Subnet { network, flags: 0 });
            tables.add_subnet(gateway, 128, Subnet { network, flags: Subnet::GATEWAY });
        }
    }
    tables
}

fn internal(mut tables: MemoryTables, number: u32) -> MemoryTables {
    let network = Network { flags: Network::INTERNAL, ..Network::default() };
    tables.networks.insert(NetworkNumber(number), network);
    tables
}

fn isolated(mut tables: MemoryTables) -> MemoryTables {
    for number in [1, 2] {
        tables.ports.get_mut(&PortNumber(number)).unwrap().flags |= Port::ISOLATED;
    }
    tables
}

fn address(text: &str) -> Address {
    match text.parse().expect("an address") {
        IpAddr::V4(address) => Address::mapped(address.octets()),
        IpAddr::V6(address) => Address::new(address.octets()),
    }
}

/// An IP packet of the version of its destination, behind `tags`.
fn packet(tags: &[u8], source: Address, destination: Address) -> Vec<u8> {
    let four =
        |address: Address| Ipv6Addr::from(address.octets()).to_ipv4_mapped().map(|address: Ipv4Addr| address.octets());
    let mut bytes = tags.to_vec();
    match (four(source), four(destination)) {
        (Some(source), Some(destination)) => {
            bytes.extend([8, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0]);
            bytes.extend(source);
            bytes.extend(destination);
        }
        _ => {
            bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, 17, 64]);
            bytes.extend(source.octets());
            bytes.extend(destination.octets());
        }
    }
    bytes.extend([0; 8]);
    bytes
}

struct Sent {
    ifindex: u32,
    source: Mac,
    destination: Mac,
}

/// From A to the host's port.
const UP: Sent = Sent { ifindex: 11, source: A, destination: HOST };
/// From the host to A.
const DOWN: Sent = Sent { ifindex: 13, source: HOST, destination: A };
/// From the host into the other network.
const OVER: Sent = Sent { ifindex: 23, source: OTHER_HOST, destination: OTHER };

impl Sent {
    fn to(self, destination: Mac) -> Self {
        Self { destination, ..self }
    }

    fn bytes(&self, source: &str, destination: &str) -> Vec<u8> {
        frame(self.destination, self.source, &packet(&[], address(source), address(destination)))
    }

    fn verdict(&self, tables: &MemoryTables, source: &str, destination: &str) -> Verdict {
        self.marked(tables, 0, source, destination)
    }

    fn marked(&self, tables: &MemoryTables, mark: u32, source: &str, destination: &str) -> Verdict {
        let bytes = self.bytes(source, destination);
        decided(&forward(self.ifindex, &Received { bytes: &bytes, mark, tunnel: None }, tables, NOW))
    }
}

fn passes(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Redirect(_))
}

const DROP_OTHER: Verdict = Verdict::Drop(DropReason::OtherNetwork);
const DROP_INTERNAL: Verdict = Verdict::Drop(DropReason::Internal);
const DROP_MARTIAN: Verdict = Verdict::Drop(DropReason::Martian);
const DROP_ISOLATED: Verdict = Verdict::Drop(DropReason::Isolated);

#[test]
fn isolated_endpoints_reach_the_host_and_the_wire_but_not_each_other() {
    let tables = isolated(tables());
    let to_b = Sent { ifindex: 11, source: A, destination: B };
    assert_eq!(to_b.verdict(&tables, "10.1.0.2", "10.1.0.3"), DROP_ISOLATED);
    let arp = frame(B, A, &[8, 6]);
    assert_eq!(decided(&forward(11, arp.as_slice(), &tables, NOW)), DROP_ISOLATED);
    assert!(passes(UP.verdict(&tables, "10.1.0.2", "10.1.0.1")));
    assert!(passes(UP.verdict(&tables, "10.1.0.2", "192.0.2.1")));
    assert!(passes(DOWN.verdict(&tables, "10.1.0.1", "10.1.0.2")));
    assert!(passes(UP.to(WIRE).verdict(&tables, "10.1.0.2", "192.0.2.1")));
    assert!(passes(Sent { ifindex: 14, source: STRANGER, destination: B }.verdict(&tables, "10.1.0.9", "10.1.0.3")));
    // One of the two is not isolated.
    let mut one = tables.clone();
    one.ports.get_mut(&PortNumber(2)).unwrap().flags = 0;
    assert!(passes(to_b.verdict(&one, "10.1.0.2", "10.1.0.3")));
}

#[test]
fn isolated_endpoints_do_not_reach_each_other_by_the_hosts_routing() {
    for (source, destination) in [("10.1.0.2", "10.1.0.3"), ("192.0.2.1", "10.1.0.3"), ("fd01::1", "fd01::3")] {
        assert_eq!(UP.verdict(&isolated(tables()), source, destination), DROP_ISOLATED);
        assert!(passes(UP.verdict(&tables(), source, destination)), "no endpoint is isolated");
    }
}

#[test]
fn packets_routed_from_another_network_are_dropped_unless_published() {
    let tables = tables();
    for (from, to) in [("10.1.0.2", "10.2.0.2"), ("fd01::2", "fd02::2"), ("10.1.255.255", "10.2.0.2")] {
        assert!(passes(UP.verdict(&tables, from, to)), "the source shows the network");
        for over in [OVER, OVER.to(STRANGER), OVER.to(Mac::BROADCAST)] {
            assert_eq!(over.verdict(&tables, from, to), DROP_OTHER);
            assert_eq!(over.marked(&tables, !MARK_PUBLISHED, from, to), DROP_OTHER);
            assert!(!matches!(over.marked(&tables, MARK_PUBLISHED, from, to), Verdict::Drop(_)));
        }
    }
    // From the Internet, from the host at any of its addresses, and from the network itself.
    for from in ["192.0.2.1", "10.2.0.1", "10.1.0.1", "10.2.0.9", "2001:db8::1", "fd01::1", "fe80::1", "::"] {
        let to = if from.contains(':') { "fd02::2" } else { "10.2.0.2" };
        assert!(passes(OVER.verdict(&tables, from, to)), "{from}");
    }
    let arp = frame(OTHER, OTHER_HOST, &[8, 6]);
    assert!(passes(decided(&forward(23, arp.as_slice(), &tables, NOW))));
}

#[test]
fn a_forged_source_does_not_open_another_network() {
    let tables = tables();
    for (from, to) in [
        ("192.0.2.1", "10.2.0.2"),
        ("10.2.0.9", "10.2.0.2"),
        ("10.2.0.1", "10.2.0.2"),
        ("10.1.0.1", "10.2.0.2"),
        ("0.0.0.0", "10.2.0.2"),
        ("fd01::1", "fd02::2"),
        ("fe80::2", "fd02::2"),
        ("::", "fd02::2"),
    ] {
        assert_eq!(UP.verdict(&tables, from, to), DROP_OTHER, "{from}");
        assert_eq!(UP.to(WIRE).verdict(&tables, from, to), DROP_OTHER, "{from}");
    }
    assert!(passes(UP.verdict(&tables, "192.0.2.1", "10.2.0.1")), "the host's own address");
}

#[test]
fn unreadable_packets_do_not_pass_between_network_and_host() {
    let tables = tables();
    let tag = [0x81, 0, 0, 0];
    for (tags, readable) in [(0, true), (1, true), (2, true), (3, false)] {
        let tags = tag.repeat(tags);
        for (from, to) in [("10.1.0.2", "10.2.0.2"), ("fd01::2", "fd02::2")] {
            let packet = packet(&tags, address(from), address(to));
            for cut in 0..packet.len() {
                let whole = readable && cut <= 8;
                let bytes = &packet[..packet.len() - cut];
                // Without an EtherType it is no IP packet.
                if bytes.len() < tags.len() + 2 {
                    break;
                }
                let over = decided(&forward(23, frame(OTHER, OTHER_HOST, bytes).as_slice(), &tables, NOW));
                let expected = if whole { DropReason::OtherNetwork } else { DropReason::Truncated };
                assert_eq!(over, Verdict::Drop(expected), "{bytes:02x?}");
                let up = decided(&forward(11, frame(HOST, A, bytes).as_slice(), &tables, NOW));
                assert!(if whole { passes(up) } else { up == Verdict::Drop(DropReason::Truncated) }, "{bytes:02x?}");
                // Other endpoints of the network get a copy in any case.
                let group = decided(&forward(11, frame(Mac::BROADCAST, A, bytes).as_slice(), &tables, NOW));
                let flood = if whole { Flood::Group } else { Flood::ExceptHost };
                assert_eq!(group, Verdict::Flood(flood), "{bytes:02x?}");
            }
        }
    }
}

#[test]
fn an_internal_network_reaches_the_host_and_nothing_behind_it() {
    let tables = internal(tables(), 1);
    for (from, to) in [("10.1.0.2", "10.1.0.1"), ("fd01::2", "fd01::1"), ("fe80::2", "fe80::1"), ("::", "ff02::1")] {
        assert!(passes(UP.verdict(&tables, from, to)), "{to}");
    }
    for (from, to) in [
        ("10.1.0.2", "192.0.2.1"),
        ("10.1.0.2", "10.2.0.2"),
        ("10.1.0.2", "10.2.0.1"),
        ("10.1.0.2", "10.1.0.3"),
        ("10.1.0.2", "224.0.0.251"),
        ("fd01::2", "2001:db8::1"),
        ("fd01::2", "fd02::2"),
    ] {
        assert_eq!(UP.verdict(&tables, from, to), DROP_INTERNAL, "{to}");
        assert_eq!(UP.to(WIRE).verdict(&tables, from, to), DROP_INTERNAL, "{to}, by the uplink's stack");
        assert_eq!(Sent { ifindex: 14, source: STRANGER, destination: HOST }.verdict(&tables, from, to), DROP_INTERNAL);
    }
    for (from, to) in [("10.1.0.1", "10.1.0.2"), ("fd01::1", "fd01::2"), ("fe80::1", "fe80::2"), ("::", "ff02::1")] {
        assert!(passes(DOWN.verdict(&tables, from, to)), "{from}");
    }
    for (from, to) in [("192.0.2.1", "10.1.0.2"), ("10.1.0.9", "10.1.0.2"), ("2001:db8::1", "fd01::2")] {
        for down in [DOWN, DOWN.to(STRANGER), DOWN.to(Mac::BROADCAST)] {
            assert_eq!(down.marked(&tables, MARK_PUBLISHED, from, to), DROP_INTERNAL, "{from}");
        }
    }
    assert_eq!(DOWN.verdict(&tables, "10.2.0.2", "10.1.0.2"), DROP_OTHER);
    assert_eq!(DOWN.verdict(&tables, "10.2.0.1", "10.1.0.2"), DROP_INTERNAL, "the host's address in another network");
    for (ifindex, source, destination) in [(11, A, HOST), (13, HOST, A)] {
        assert!(
            passes(decided(&forward(ifindex, frame(destination, source, &[8, 6]).as_slice(), &tables, NOW))),
            "ARP"
        );
    }
    assert!(passes(Sent { ifindex: 11, source: A, destination: B }.verdict(&tables, "10.1.0.2", "192.0.2.1")));
}

#[test]
fn published_ports_do_not_lead_out_of_an_internal_network() {
    assert_eq!(OVER.marked(&internal(tables(), 1), MARK_PUBLISHED, "10.1.0.2", "10.2.0.2"), DROP_INTERNAL);
}

#[test]
fn the_host_gets_no_copy_of_floods_that_would_leave_an_internal_network() {
    let tables = internal(tables(), 1);
    let group = UP.to(Mac::BROADCAST);
    for to in ["255.255.255.255", "192.0.2.1", "10.2.0.1", "224.0.0.251"] {
        assert_eq!(group.verdict(&tables, "10.1.0.2", to), Verdict::Flood(Flood::ExceptHost), "{to}");
    }
    for (from, to) in [("10.1.0.2", "10.1.0.1"), ("::", "ff02::1:ff00:1")] {
        assert_eq!(group.verdict(&tables, from, to), Verdict::Flood(Flood::Group), "{to}");
    }
    assert_eq!(
        decided(&forward(11, frame(Mac::BROADCAST, A, &[8, 6]).as_slice(), &tables, NOW)),
        Verdict::Flood(Flood::Group)
    );
}

#[test]
fn loopback_addresses_do_not_reach_the_hosts_stack() {
    let tables = tables();
    let wire = |destination| Sent { ifindex: 14, source: STRANGER, destination };
    let group = Mac([1, 0, 0x5e, 0, 0, 1]);
    for (from, to) in [("10.1.0.2", "127.0.0.1"), ("127.9.9.9", "10.1.0.1"), ("fd01::2", "::1"), ("::1", "fd01::1")] {
        for sent in [UP, UP.to(WIRE), UP.to(Mac::BROADCAST), UP.to(group), wire(HOST), wire(WIRE), wire(group)] {
            assert_eq!(sent.verdict(&tables, from, to), DROP_MARTIAN, "{from} to {to}, {}", sent.destination);
        }
    }
    assert_eq!(wire(WIRE).verdict(&tables, "10.1.0.2", "10.1.0.1"), Verdict::Pass);
}

/// Few addresses, so that rules collide.
fn any_address() -> impl Strategy<Value = Address> {
    prop_oneof![
        4 => (0..4_u8, 0..4_u8).prop_map(|(net, last)| Address::mapped([10, net, 0, last])),
        3 => (0..4_u8, 0..4_u8).prop_map(|(net, last)| {
            let mut address = [0; 16];
            (address[0], address[1], address[15]) = (0xfd, net, last);
            Address::new(address)
        }),
        1 => prop::sample::select(std::vec!["127.0.0.1", "::1", "::", "fe80::1", "ff02::1", "0.0.0.0", "192.0.2.1"])
            .prop_map(address),
        1 => any::<[u8; 16]>().prop_map(Address::new),
    ]
}

/// Random subnets and addresses of the host in networks 1 to 4, nested and overlapping.
fn any_tables() -> impl Strategy<Value = MemoryTables> {
    let subnet = (any_address(), 0..=128_u32, 1..5_u32, prop::sample::select(std::vec![0, 0, Subnet::GATEWAY]));
    let subnets = prop::collection::vec(subnet, 0..24);
    let flags = prop::sample::select(std::vec![0, Network::INTERNAL]);
    (subnets, [flags.clone(), flags], 0..4_u8).prop_map(|(subnets, flags, isolated)| {
        let mut tables = ports();
        for (address, length, network, flags) in subnets {
            // As the daemon writes them: the host's addresses have full length.
            let length = if flags == Subnet::GATEWAY { 128 } else { length };
            tables.add_subnet(address, length, Subnet { network: NetworkNumber(network), flags });
        }
        for (number, flags) in (1..).zip(flags) {
            tables.networks.insert(NetworkNumber(number), Network { flags, ..Network::default() });
        }
        for number in [1, 2] {
            if isolated & number != 0 {
                tables.ports.get_mut(&PortNumber(number.into())).unwrap().flags |= Port::ISOLATED;
            }
        }
        tables
    })
}

fn any_tags() -> impl Strategy<Value = &'static [u8]> {
    prop::sample::select(std::vec![&[][..], &[0x81, 0, 0, 0], &[0x81, 0, 0, 0, 0x88, 0xa8, 0, 0]])
}

fn any_destination() -> impl Strategy<Value = Mac> {
    prop::sample::select(std::vec![A, B, HOST, WIRE, OTHER, OTHER_HOST, STRANGER, Mac::BROADCAST])
}

/// Returns whether the host's stack gets the packet and may route it.
fn reaches_the_host(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Redirect(to) if to.way == Delivery::LOCAL)
}

fn drops(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Drop(_))
}

proptest! {
    #[test]
    fn no_packet_crosses_networks_with_any_tables(
        mut tables in any_tables(),
        (source, destination) in (any_address(), any_address()),
        length in 0..=128_u32,
        tags in any_tags(),
        (there, back) in (any_destination(), any_destination()),
        ifindex in prop::sample::select(std::vec![11_u32, 14]),
        mark in any::<u32>().prop_map(|mark| mark & !MARK_PUBLISHED),
    ) {
        tables.add_subnet(destination, length, Subnet { network: NetworkNumber(2), flags: 0 });
        let to = tables.subnet(destination).filter(|to| to.network == NetworkNumber(2) && !to.is_gateway());
        prop_assume!(to.is_some());
        let packet = packet(tags, source, destination);
        let from = if ifindex == 11 { A } else { STRANGER };
        let out = decided(&forward(ifindex, frame(there, from, &packet).as_slice(), &tables, NOW));
        if reaches_the_host(out) {
            // The host routes the packet unchanged, except for the Ethernet addresses.
            let bytes = frame(back, OTHER_HOST, &packet);
            let routed = decided(&forward(23, &Received { bytes: &bytes, mark, tunnel: None }, &tables, NOW));
            prop_assert!(drops(routed));
        }
    }

    #[test]
    fn an_internal_networks_packets_never_leave(
        mut tables in any_tables(),
        (source, destination) in (any_address(), any_address()),
        tags in any_tags(),
        there in any_destination(),
        ifindex in prop::sample::select(std::vec![11_u32, 12, 13, 14]),
        mark in any::<u32>(),
    ) {
        tables.networks.insert(NetworkNumber(1), Network { flags: Network::INTERNAL, ..Network::default() });
        let from = match ifindex { 11 => A, 12 => B, 13 => HOST, _ => STRANGER };
        let bytes = frame(there, from, &packet(tags, source, destination));
        let verdict = decided(&forward(ifindex, &Received { bytes: &bytes, mark, tunnel: None }, &tables, NOW));
        let gateway = |address| tables.subnet(address)
            .is_some_and(|subnet| subnet.network == NetworkNumber(1) && subnet.is_gateway());
        let of_this_link = |address: Address| {
            let six = Ipv6Addr::from(address.octets());
            six.is_unicast_link_local() || six.is_multicast() || six.is_unspecified()
        };
        let near = |address| gateway(address) || of_this_link(address);
        let host_gets_it = reaches_the_host(verdict) || verdict == Verdict::Flood(Flood::Group);
        if ifindex == 13 {
            prop_assert!(near(source) || drops(verdict));
        } else if host_gets_it {
            prop_assert!(near(destination));
        }
    }

    #[test]
    fn no_packet_passes_between_isolated_endpoints(
        tables in any_tables().prop_map(isolated),
        (source, destination) in (any_address(), any_address()),
        tags in any_tags(),
        there in any_destination(),
    ) {
        let packet = packet(tags, source, destination);
        let out = decided(&forward(11, frame(there, A, &packet).as_slice(), &tables, NOW));
        prop_assert!(!matches!(out, Verdict::Redirect(to) if to.port == PortNumber(2)));
        let own = tables.subnet(destination).is_some_and(|to| to.network == NetworkNumber(1) && !to.is_gateway());
        prop_assert!(!(own && reaches_the_host(out)), "the host would route it to an endpoint of the network");
    }

    #[test]
    fn frames_between_containers_are_not_checked(
        tables in any_tables(),
        (source, destination) in (any_address(), any_address()),
        tags in any_tags(),
        there in prop::sample::select(std::vec![B, STRANGER]),
    ) {
        let mut plain = ports();
        plain.ports = tables.ports.clone();
        let bytes = frame(there, A, &packet(tags, source, destination));
        let [with, without] = [&tables, &plain].map(|tables| forward(11, bytes.as_slice(), tables, NOW));
        prop_assert_eq!(with, without);
    }
}
