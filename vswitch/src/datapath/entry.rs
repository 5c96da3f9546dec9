//! What the tables say of a port, made of what was asked for. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use vswitch_common::packet::address::Address;
use vswitch_common::tables::{NeighborKey, Port, PortKind, VlanKey};

use super::{PortSpec, Trunk};

/// Whether a port's station has an entry of its own in the FDB: not if it shares its address with its parent, or there is
/// none.
pub(super) fn fixed(port: &Port) -> bool {
    match port.kind() {
        Some(PortKind::Child) => !port.has(Port::BY_ADDRESS | Port::PASSTHRU),
        kind => kind != Some(PortKind::Tunnel),
    }
}

pub(super) fn flags(spec: &PortSpec) -> u32 {
    let rules = &spec.rules;
    let container = matches!(spec.kind, PortKind::Container | PortKind::Child);
    let tunnel = spec.kind == PortKind::Tunnel;
    let place = &spec.rules.place;
    let flags = [
        (Port::XDP_EGRESS, spec.xdp_egress),
        // What is isolated here is so from all other endpoints, wherever they are.
        (Port::ISOLATED, rules.isolated && container || tunnel),
        (Port::SPLIT_HORIZON, rules.split_horizon || tunnel),
        (Port::SPOOF_GUARD, rules.spoof_guard && container),
        (Port::RA_GUARD, rules.ra_guard && container),
        (Port::DHCP_GUARD, rules.dhcp_guard && container),
        (Port::BPDU_GUARD, rules.bpdu_guard && container),
        (Port::LEARN, rules.learning && spec.kind != PortKind::Host),
        (Port::HAIRPIN, rules.hairpin),
        (Port::TRUNK, rules.trunk != Trunk::None),
        (Port::ALL_VLANS, rules.trunk == Trunk::All),
        (Port::ARP_SUPPRESS, rules.arp_suppress),
        (Port::SNOOPING, rules.snooping),
        (Port::ROUTER, rules.router || tunnel || spec.kind == PortKind::Uplink),
        (Port::APART, place.apart),
        (Port::REFLECTED, place.reflected),
        (Port::BY_ADDRESS, place.by_address),
        (Port::ROUTED, place.routed),
        (Port::STACK, place.stack),
        (Port::HOST_ACCESS, place.host_access),
        (Port::PASSTHRU, place.passthru),
    ];
    flags.into_iter().filter(|(_, set)| *set).fold(0, |all, (flag, _)| all | flag)
}

/// Frames in a second as frames in a tick, at least one.
pub(super) fn per_tick(pps: u32) -> u32 {
    let frames = (u64::from(pps) << 30).div_ceil(1_000_000_000);
    u32::try_from(frames).unwrap_or(u32::MAX)
}

/// The addresses of a port's station as the programs know them: IPv4 in the order of the wire, IPv6.
pub(super) fn own(addresses: &[IpAddr]) -> (u32, Address) {
    let four =
        addresses.iter().find_map(|address| if let IpAddr::V4(four) = address { Some(four.octets()) } else { None });
    let six =
        addresses.iter().find_map(|address| if let IpAddr::V6(six) = address { Some(six.octets()) } else { None });
    (four.map_or(0, u32::from_ne_bytes), six.map_or(Address::UNSPECIFIED, Address::new))
}

pub(super) fn mapped(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(four) => Address::mapped(four.octets()),
        IpAddr::V6(six) => Address::new(six.octets()),
    }
}

/// The keys by which a port's station is found: all its addresses, and the link-local one of its MAC address.
pub(super) fn neighbors(spec: &PortSpec) -> BTreeSet<NeighborKey> {
    let key = |address| NeighborKey { address, network: spec.network, vlan: VlanKey(spec.rules.vlan), reserved: 0 };
    let given = spec.addresses.iter().map(|address| mapped(*address));
    let link_local = Some(Address::link_local(spec.mac)).filter(|_| !spec.rules.place.by_address);
    given.chain(link_local).map(key).collect()
}
