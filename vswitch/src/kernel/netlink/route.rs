//! Addresses, routes and neighbors: what the kernel says of them, and the messages that add and remove them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourHeader, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope,
    RouteType, RouteVia,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;
use vswitch_common::Mac;

use super::connection::{Change, Request};

/// A route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub destination: IpNet,
    /// By which link, the first where there are several; none where packets are refused.
    pub index: Option<u32>,
    /// By which gateway, if it is not on the link itself.
    pub gateway: Option<IpAddr>,
    /// The lower is preferred.
    pub metric: u32,
}

/// The protocol (rtm_protocol, NDA_PROTOCOL) by which the routes and neighbors that we made are known. Nobody else's
/// (linux/rtnetlink.h; iproute2, rt_protos).
pub const ROUTE_PROTOCOL: u8 = 118;

const ADD: u16 = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;

pub(super) fn add_address(index: u32, address: IpNet) -> Change {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.family = family(address.addr());
    message.header.prefix_len = address.prefix_len();
    message.attributes = vec![AddressAttribute::Local(address.addr()), AddressAttribute::Address(address.addr())];
    match address {
        // Subnets of two addresses have no broadcast (RFC 3021).
        IpNet::V4(address) if address.prefix_len() < 31 => {
            message.attributes.push(AddressAttribute::Broadcast(address.broadcast()));
        }
        IpNet::V4(_) => {}
        IpNet::V6(_) => message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad)),
    }
    let request = Request::new(RouteNetlinkMessage::NewAddress(message), ADD);
    Change { operation: "add the address", object: address.to_string(), request, done_if: Some(Errno::EEXIST) }
}

pub(super) fn add_default(via: IpAddr, index: u32) -> Change {
    let request = Request::new(RouteNetlinkMessage::NewRoute(default(via, index)), ADD);
    Change { operation: "add the default route via", object: via.to_string(), request, done_if: Some(Errno::EEXIST) }
}

fn default(via: IpAddr, index: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: family(via),
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::Boot,
        scope: RouteScope::Universe,
        kind: RouteType::Unicast,
        ..RouteHeader::default()
    };
    message.attributes = vec![RouteAttribute::Gateway(via.into()), RouteAttribute::Oif(index)];
    message
}

/// The same, in the place of the one that is there.
pub(super) fn replace_default(via: IpAddr, index: u32) -> Change {
    let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
    let request = Request::new(RouteNetlinkMessage::NewRoute(default(via, index)), flags);
    Change { operation: "replace the default route, by one via", object: via.to_string(), request, done_if: None }
}

/// A route by a device alone, whoever has the addresses behind it.
pub(super) fn add_by_device(index: u32, destination: IpNet) -> Change {
    // Without NLM_F_EXCL: a route to the same destination by another device does not make it needless.
    let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE;
    let request = Request::new(RouteNetlinkMessage::NewRoute(by_device(index, destination)), flags);
    let object = format!("{destination} by link {index}");
    Change { operation: "add the route to", object, request, done_if: Some(Errno::EEXIST) }
}

pub(super) fn remove_by_device(index: u32, destination: IpNet) -> Change {
    let request = Request::acknowledged(RouteNetlinkMessage::DelRoute(by_device(index, destination)));
    let object = format!("{destination} by link {index}");
    Change { operation: "remove the route to", object, request, done_if: Some(Errno::ESRCH) }
}

/// A route that refuses packets. Beside one of another metric it is another route.
pub(super) fn add_unreachable(destination: IpNet, metric: u32) -> Change {
    let request = Request::new(RouteNetlinkMessage::NewRoute(unreachable(destination, metric)), ADD);
    let object = format!("{destination}, which refuses packets");
    Change { operation: "add the route to", object, request, done_if: Some(Errno::EEXIST) }
}

pub(super) fn remove_unreachable(destination: IpNet, metric: u32) -> Change {
    let request = Request::acknowledged(RouteNetlinkMessage::DelRoute(unreachable(destination, metric)));
    let object = format!("{destination}, which refuses packets");
    Change { operation: "remove the route to", object, request, done_if: Some(Errno::ESRCH) }
}

fn unreachable(destination: IpNet, metric: u32) -> RouteMessage {
    let mut message = by_device(0, destination);
    message.header.kind = RouteType::Unreachable;
    message.header.scope = RouteScope::Universe;
    message.attributes.retain(|attribute| !matches!(attribute, RouteAttribute::Oif(_)));
    message.attributes.push(RouteAttribute::Priority(metric));
    message
}

/// Two rules of this priority and the next: what is for the prefix goes by host routes alone (of the main table), or is refused.
/// The one that refuses comes first: never is there one that leads on without it.
pub(super) fn add_guard(destination: Ipv6Net, priority: u32) -> [Change; 2] {
    let object = format!("{destination}");
    let [hosts, refusal] = guard(destination, priority);
    [refusal, hosts].map(|rule| Change {
        operation: "add the rule for",
        object: object.clone(),
        request: Request::new(RouteNetlinkMessage::NewRule(rule), ADD),
        done_if: Some(Errno::EEXIST),
    })
}

/// The one that refuses goes last.
pub(super) fn remove_guard(destination: Ipv6Net, priority: u32) -> [Change; 2] {
    let object = format!("{destination}");
    guard(destination, priority).map(|rule| Change {
        operation: "remove the rule for",
        object: object.clone(),
        request: Request::acknowledged(RouteNetlinkMessage::DelRule(rule)),
        done_if: Some(Errno::ENOENT),
    })
}

fn guard(destination: Ipv6Net, priority: u32) -> [RuleMessage; 2] {
    /// What is longer than this is a host route.
    const NOT_A_HOST: u32 = 127;
    let rule = |action, priority, more| {
        let mut message = RuleMessage::default();
        message.header.family = AddressFamily::Inet6;
        message.header.dst_len = destination.prefix_len();
        message.header.action = action;
        let all = [
            RuleAttribute::Destination(destination.network().into()),
            RuleAttribute::Priority(priority),
            RuleAttribute::Protocol(RouteProtocol::Other(ROUTE_PROTOCOL)),
        ];
        message.attributes = all.into_iter().chain(more).collect();
        message
    };
    let main = u32::from(RouteHeader::RT_TABLE_MAIN);
    let by_host_routes = vec![RuleAttribute::Table(main), RuleAttribute::SuppressPrefixLen(NOT_A_HOST)];
    [
        rule(RuleAction::ToTable, priority, by_host_routes),
        rule(RuleAction::Unreachable, priority.saturating_add(1), Vec::new()),
    ]
}

/// The default route by a device alone, unless there is one of the family.
pub(super) fn default_by_device(index: u32, ipv6: bool) -> Change {
    let any = if ipv6 { IpNet::V6(Ipv6Net::default()) } else { IpNet::V4(Ipv4Net::default()) };
    let request = Request::new(RouteNetlinkMessage::NewRoute(by_device(index, any)), ADD);
    let object = format!("link {index}");
    Change { operation: "add the default route by", object, request, done_if: Some(Errno::EEXIST) }
}

fn by_device(index: u32, destination: IpNet) -> RouteMessage {
    // The kernel refuses a destination with bits behind its prefix.
    let destination = destination.trunc();
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: family(destination.addr()),
        destination_prefix_length: destination.prefix_len(),
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::Other(ROUTE_PROTOCOL),
        // IPv6 knows no scopes of routes.
        scope: if destination.addr().is_ipv4() { RouteScope::Link } else { RouteScope::Universe },
        kind: RouteType::Unicast,
        ..RouteHeader::default()
    };
    message.attributes = vec![RouteAttribute::Oif(index)];
    if destination.prefix_len() > 0 {
        message.attributes.push(RouteAttribute::Destination(destination.addr().into()));
    }
    message
}

/// An entry that is never asked for and never given up, in the place of the one that is there.
pub(super) fn add_neighbor(index: u32, address: IpAddr, mac: Mac) -> Change {
    let mut message = neighbor(index, address);
    message.header.state = NeighbourState::Permanent;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    message.attributes.push(NeighbourAttribute::Protocol(RouteProtocol::Other(ROUTE_PROTOCOL)));
    let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
    let request = Request::new(RouteNetlinkMessage::NewNeighbour(message), flags);
    Change { operation: "add the neighbor", object: format!("{address} of link {index}"), request, done_if: None }
}

pub(super) fn remove_neighbor(index: u32, address: IpAddr) -> Change {
    let request = Request::acknowledged(RouteNetlinkMessage::DelNeighbour(neighbor(index, address)));
    let object = format!("{address} of link {index}");
    Change { operation: "remove the neighbor", object, request, done_if: Some(Errno::ENOENT) }
}

fn neighbor(index: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header = NeighbourHeader { family: family(address), ifindex: index, ..NeighbourHeader::default() };
    message.attributes = vec![NeighbourAttribute::Destination(address.into())];
    message
}

pub(super) fn query_neighbors() -> Request {
    Request::new(RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()), NLM_F_REQUEST | NLM_F_DUMP)
}

/// What removes the route or neighbor that a message brings, if we made it; on one link, or on all.
pub(super) fn removal(message: &RouteNetlinkMessage, index: Option<u32>) -> Option<Change> {
    let wanted = |on: Option<u32>| index.is_none() || on == index;
    let ours = RouteProtocol::Other(ROUTE_PROTOCOL);
    match message {
        RouteNetlinkMessage::NewRoute(route) => {
            let on = route.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Oif(index) => Some(*index),
                _ => None,
            });
            if route.header.protocol != ours || !wanted(on) {
                return None;
            }
            // What tells it from others; the rest of what the kernel says of it is not for its removal.
            let mut message = route.clone();
            message.header.flags = RouteFlags::empty();
            message.attributes.retain(|attribute| {
                matches!(
                    attribute,
                    RouteAttribute::Destination(_)
                        | RouteAttribute::Oif(_)
                        | RouteAttribute::Priority(_)
                        | RouteAttribute::Table(_)
                        | RouteAttribute::Gateway(_)
                )
            });
            let object = on.map_or_else(|| "no link".to_owned(), |on| format!("link {on}"));
            let request = Request::acknowledged(RouteNetlinkMessage::DelRoute(message));
            Some(Change { operation: "remove a route by", object, request, done_if: Some(Errno::ESRCH) })
        }
        RouteNetlinkMessage::NewNeighbour(neighbor) => {
            let on = neighbor.header.ifindex;
            let made = neighbor.attributes.contains(&NeighbourAttribute::Protocol(ours));
            let address = neighbor.attributes.iter().find_map(|attribute| match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(IpAddr::from(*address)),
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => Some(IpAddr::from(*address)),
                _ => None,
            });
            (made && wanted(Some(on))).then(|| address.map(|address| remove_neighbor(on, address)))?
        }
        _ => None,
    }
}

pub(super) fn query_addresses() -> Request {
    Request::new(RouteNetlinkMessage::GetAddress(AddressMessage::default()), NLM_F_REQUEST | NLM_F_DUMP)
}

pub(super) fn query_routes() -> Request {
    Request::new(RouteNetlinkMessage::GetRoute(RouteMessage::default()), NLM_F_REQUEST | NLM_F_DUMP)
}

/// The link and the address that a message brings.
pub(super) fn address(message: &RouteNetlinkMessage) -> Option<(u32, IpNet)> {
    let RouteNetlinkMessage::NewAddress(message) = message else { return None };
    // On a point-to-point link the other attribute is the far end's address.
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let address = local.or_else(|| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    });
    let address = IpNet::new(address?, message.header.prefix_len).ok()?;
    Some((message.header.index, address))
}

impl Route {
    /// The route that a message brings, if it is in the main table and leads elsewhere.
    pub(super) fn from_message(message: &RouteNetlinkMessage) -> Option<Self> {
        let RouteNetlinkMessage::NewRoute(message) = message else { return None };
        let header = &message.header;
        let elsewhere = matches!(
            header.kind,
            RouteType::Unicast | RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit
        );
        // A table above 255 is in an attribute, and the header then has another number.
        let main = header.table == RouteHeader::RT_TABLE_MAIN;
        if !elsewhere || !main || header.flags.contains(RouteFlags::Cloned) {
            return None;
        }
        let any = match header.address_family {
            AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            _ => return None,
        };
        let (mut destination, mut index, mut gateway, mut metric) = (any, None, None, 0);
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(address) => destination = ip(address)?,
                RouteAttribute::MultiPath(hops) => {
                    if let Some(hop) = hops.first() {
                        index = Some(hop.interface_index);
                        gateway = hop.attributes.iter().find_map(next_hop);
                    }
                }
                RouteAttribute::Oif(link) => index = Some(*link),
                RouteAttribute::Priority(priority) => metric = *priority,
                other => gateway = gateway.or_else(|| next_hop(other)),
            }
        }
        let destination = IpNet::new(destination, header.destination_prefix_length).ok()?;
        Some(Self { destination, index, gateway, metric })
    }
}

fn next_hop(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(address) => ip(address),
        RouteAttribute::Via(RouteVia::Inet(address)) => Some((*address).into()),
        RouteAttribute::Via(RouteVia::Inet6(address)) => Some((*address).into()),
        _ => None,
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

/// The way that the kernel would send a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// By which link.
    pub index: u32,
    /// From which address.
    pub source: Ipv4Addr,
    /// The longest packet, if it is less than the link's.
    pub mtu: Option<u32>,
}

pub(super) fn query_path(to: Ipv4Addr) -> Request {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.destination_prefix_length = 32;
    message.attributes = vec![RouteAttribute::Destination(RouteAddress::Inet(to))];
    Request::acknowledged(RouteNetlinkMessage::GetRoute(message))
}

impl Path {
    pub(super) fn from_message(message: &RouteNetlinkMessage) -> Option<Self> {
        let RouteNetlinkMessage::NewRoute(message) = message else { return None };
        if message.header.kind != RouteType::Unicast {
            return None;
        }
        let (mut index, mut source, mut mtu) = (None, None, None);
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Oif(link) => index = Some(*link),
                RouteAttribute::PrefSource(RouteAddress::Inet(address)) => source = Some(*address),
                RouteAttribute::Metrics(metrics) => {
                    mtu = metrics.iter().find_map(|metric| match metric {
                        RouteMetric::Mtu(bytes) => Some(*bytes),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        Some(Self { index: index?, source: source?, mtu })
    }
}

const fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: RouteType, table: u8, attributes: Vec<RouteAttribute>) -> RouteNetlinkMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.destination_prefix_length = 16;
        message.header.kind = kind;
        message.header.table = table;
        message.attributes = attributes;
        RouteNetlinkMessage::NewRoute(message)
    }

    #[test]
    fn routes_elsewhere_are_read_and_those_to_this_host_are_not() {
        let attributes = vec![
            RouteAttribute::Destination(RouteAddress::Inet(Ipv4Addr::new(10, 1, 0, 0))),
            RouteAttribute::Gateway(RouteAddress::Inet(Ipv4Addr::new(192, 0, 2, 1))),
            RouteAttribute::Oif(4),
        ];
        let route = Route::from_message(&message(RouteType::Unicast, 254, attributes.clone())).unwrap();
        assert_eq!(route.destination, "10.1.0.0/16".parse().unwrap());
        assert_eq!((route.index, route.gateway), (Some(4), Some("192.0.2.1".parse().unwrap())));
        assert_eq!(Route::from_message(&message(RouteType::Local, 254, attributes.clone())), None);
        assert_eq!(Route::from_message(&message(RouteType::Unicast, 255, attributes)), None);
    }

    #[test]
    fn what_we_made_is_removed_and_what_others_made_is_not() {
        let ours = |index, destination: &str| by_device(index, destination.parse().unwrap());
        let route = RouteNetlinkMessage::NewRoute(ours(4, "10.1.2.3/16"));
        let removed = format!("{:?}", removal(&route, None).expect("ours"));
        assert!(removed.contains("10.1.0.0") && removed.contains("ESRCH"), "{removed}");
        assert!(removal(&route, Some(4)).is_some());
        assert!(removal(&route, Some(5)).is_none());
        let mut other = ours(4, "10.1.0.0/16");
        other.header.protocol = RouteProtocol::Static;
        assert!(removal(&RouteNetlinkMessage::NewRoute(other), None).is_none());

        let mut entry = neighbor(4, "fd00::2".parse().unwrap());
        assert!(removal(&RouteNetlinkMessage::NewNeighbour(entry.clone()), None).is_none());
        entry.attributes.push(NeighbourAttribute::Protocol(RouteProtocol::Other(ROUTE_PROTOCOL)));
        let entry = RouteNetlinkMessage::NewNeighbour(entry);
        assert!(removal(&entry, None).is_some() && removal(&entry, Some(4)).is_some());
        assert!(removal(&entry, Some(5)).is_none());
    }

    #[test]
    fn subnets_of_two_addresses_have_no_broadcast() {
        let broadcasts = |net: &str| {
            let change = format!("{:?}", add_address(1, net.parse().unwrap()));
            change.contains("Broadcast")
        };
        assert!(broadcasts("10.0.0.1/24"));
        assert!(!broadcasts("10.0.0.0/31"));
        assert!(!broadcasts("fd00::1/64"));
    }
}
