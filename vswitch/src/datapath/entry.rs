//! Builds the table entries of a port from its [`PortSpec`], without side effects.

use std::collections::BTreeSet;
use std::net::IpAddr;

use vswitch_common::packet::address::Address;
use vswitch_common::tables::{NeighborKey, Port, PortKind, VlanKey};

use super::{PortSpec, Trunk};

/// Reports whether a port's station has a static FDB entry of its own. False for a tunnel, which
/// has no station, for a child that shares its MAC address with its parent, and for a child that
/// has its parent to itself (passthru).
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
    let parent = &spec.rules.parent;
    let flags = [
        (Port::XDP_EGRESS, spec.xdp_egress),
        // An isolated endpoint is isolated from all other endpoints, on every host.
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
        (Port::APART, parent.apart),
        (Port::REFLECTED, parent.reflected),
        (Port::BY_ADDRESS, parent.by_address),
        (Port::ROUTED, parent.routed),
        (Port::STACK, parent.stack),
        (Port::HOST_ACCESS, parent.host_access),
        (Port::PASSTHRU, parent.passthru),
    ];
    flags.into_iter().filter(|(_, set)| *set).fold(0, |all, (flag, _)| all | flag)
}

/// Converts frames per second to frames per tick, rounded up, so at least 1 for any rate above 0.
pub(super) fn per_tick(pps: u32) -> u32 {
    let frames = (u64::from(pps) << 30).div_ceil(1_000_000_000);
    u32::try_from(frames).unwrap_or(u32::MAX)
}

/// Returns the first IPv4 address (network byte order) and the first IPv6 address of a port's
/// station, as the programs store them. An absent address is 0 or unspecified.
pub(super) fn first_addresses(addresses: &[IpAddr]) -> (u32, Address) {
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

/// Returns the NEIGHBORS keys of a port's station: all its addresses, and the link-local address
/// derived from its MAC address unless the network distinguishes children by IP address.
pub(super) fn neighbors(spec: &PortSpec) -> BTreeSet<NeighborKey> {
    let key = |address| NeighborKey { address, network: spec.network, vlan: VlanKey(spec.rules.vlan), reserved: 0 };
    let given = spec.addresses.iter().map(|address| mapped(*address));
    let link_local = Some(Address::link_local(spec.mac)).filter(|_| !spec.rules.parent.by_address);
    given.chain(link_local).map(key).collect()
}
