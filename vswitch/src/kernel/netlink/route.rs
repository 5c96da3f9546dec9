//! Parses the kernel's messages about addresses, routes, rules and neighbors, and builds the
//! messages that change them.

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
    /// Destination prefix.
    pub destination: IpNet,
    /// Interface index of the link, the first one of a multipath route; `None` for a route that
    /// refuses packets.
    pub index: Option<u32>,
    /// Gateway; `None` if the destination is on the link itself.
    pub gateway: Option<IpAddr>,
    /// Metric; the route with the lower metric is preferred.
    pub metric: u32,
}

/// Protocol number (rtm_protocol, NDA_PROTOCOL) of the routes and neighbors that vswitch creates.
/// No other program has this number (linux/rtnetlink.h; rt_protos of iproute2).
pub const ROUTE_PROTOCOL: u8 = 118;

/// A default route for packets from one address, in a table of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceRoute {
    /// Address that the packets are from.
    pub source: IpAddr,
    /// Subnet of the address. It is on the link itself.
    pub subnet: IpNet,
    /// Gateway for all other destinations.
    pub gateway: IpAddr,
    /// Interface index of the link.
    pub index: u32,
}

/// First number of the tables of source routes. The index of the link is added to it.
const SOURCE_TABLES: u32 = (ROUTE_PROTOCOL as u32) << 24;
/// Priority of the rules that lead to these tables: behind the rules of operators, which begin low
/// or count down from 32765, and before the main table.
const SOURCE_PRIORITY: u32 = 32_700;

const ADD: u16 = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;

pub(super) fn add_address(index: u32, address: IpNet) -> Change {
    let request = Request::new(RouteNetlinkMessage::NewAddress(address_message(index, address)), ADD);
    Change { operation: "add the address", object: address.to_string(), request, ignored_errno: Some(Errno::EEXIST) }
}

/// Returns the change that sets the metric of the route to the subnet of an existing address.
pub(super) fn set_address_metric(index: u32, address: IpNet, metric: u32) -> Change {
    let mut message = address_message(index, address);
    message.attributes.push(AddressAttribute::RoutePriority(metric));
    let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_REPLACE;
    let request = Request::new(RouteNetlinkMessage::NewAddress(message), flags);
    Change { operation: "set the metric of the address", object: address.to_string(), request, ignored_errno: None }
}

fn address_message(index: u32, address: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.family = family(address.addr());
    message.header.prefix_len = address.prefix_len();
    message.attributes = vec![AddressAttribute::Local(address.addr()), AddressAttribute::Address(address.addr())];
    match address {
        // Subnets of two addresses have no broadcast address (RFC 3021).
        IpNet::V4(address) if address.prefix_len() < 31 => {
            message.attributes.push(AddressAttribute::Broadcast(address.broadcast()));
        }
        IpNet::V4(_) => {}
        IpNet::V6(_) => message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad)),
    }
    message
}

pub(super) fn add_default_route(via: IpAddr, index: u32) -> Change {
    let request = Request::new(RouteNetlinkMessage::NewRoute(default_route(via, index)), ADD);
    Change {
        operation: "add the default route via",
        object: via.to_string(),
        request,
        ignored_errno: Some(Errno::EEXIST),
    }
}

fn default_route(via: IpAddr, index: u32) -> RouteMessage {
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

/// Returns the change that adds a default route via a gateway and replaces an existing one.
pub(super) fn replace_default_route(via: IpAddr, index: u32) -> Change {
    let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
    let request = Request::new(RouteNetlinkMessage::NewRoute(default_route(via, index)), flags);
    Change { operation: "replace the default route by one via", object: via.to_string(), request, ignored_errno: None }
}

/// Returns the change that adds a route with a device and no gateway.
pub(super) fn add_device_route(index: u32, destination: IpNet) -> Change {
    // NLM_F_EXCL is not set: the route is also needed if another device has a route to the same
    // destination.
    let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE;
    let request = Request::new(RouteNetlinkMessage::NewRoute(device_route(index, destination)), flags);
    let object = format!("{destination} by link {index}");
    Change { operation: "add the route to", object, request, ignored_errno: Some(Errno::EEXIST) }
}

/// Returns the change that adds the route to the subnet of an address, as the kernel does with the
/// address (fib_add_ifaddr; addrconf_prefix_route, metric IP6_RT_PRIO_ADDRCONF).
pub(super) fn add_subnet_route(index: u32, address: IpNet) -> Change {
    const ADDRCONF_METRIC: u32 = 256;
    let mut message = device_route(index, address);
    message.header.protocol = RouteProtocol::Kernel;
    message.attributes.push(match address {
        IpNet::V4(address) => RouteAttribute::PrefSource(RouteAddress::Inet(address.addr())),
        IpNet::V6(_) => RouteAttribute::Priority(ADDRCONF_METRIC),
    });
    let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE;
    let request = Request::new(RouteNetlinkMessage::NewRoute(message), flags);
    let object = format!("{} by link {index}", address.trunc());
    Change { operation: "add the route to", object, request, ignored_errno: Some(Errno::EEXIST) }
}

pub(super) fn remove_device_route(index: u32, destination: IpNet) -> Change {
    let request = Request::acknowledged(RouteNetlinkMessage::DelRoute(device_route(index, destination)));
    let object = format!("{destination} by link {index}");
    Change { operation: "remove the route to", object, request, ignored_errno: Some(Errno::ESRCH) }
}

/// Returns the change that adds an unreachable route. Routes with different metrics are different
/// routes.
pub(super) fn add_unreachable(destination: IpNet, metric: u32) -> Change {
    let request = Request::new(RouteNetlinkMessage::NewRoute(unreachable_route(destination, metric)), ADD);
    let object = format!("{destination} with the type unreachable");
    Change { operation: "add the route to", object, request, ignored_errno: Some(Errno::EEXIST) }
}

pub(super) fn remove_unreachable(destination: IpNet, metric: u32) -> Change {
    let request = Request::acknowledged(RouteNetlinkMessage::DelRoute(unreachable_route(destination, metric)));
    let object = format!("{destination} with the type unreachable");
    Change { operation: "remove the route to", object, request, ignored_errno: Some(Errno::ESRCH) }
}

fn unreachable_route(destination: IpNet, metric: u32) -> RouteMessage {
    let mut message = device_route(0, destination);
    message.header.kind = RouteType::Unreachable;
    message.header.scope = RouteScope::Universe;
    message.attributes.retain(|attribute| !matches!(attribute, RouteAttribute::Oif(_)));
    message.attributes.push(RouteAttribute::Priority(metric));
    message
}

/// Returns the changes that add two rules, of this priority and the next. Packets to the prefix are
/// sent by host routes of the main table, or are refused. The refusing rule is added first, so that
/// the other one never exists without it.
pub(super) fn add_guard(destination: Ipv6Net, priority: u32) -> [Change; 2] {
    let object = format!("{destination}");
    let [lookup, refusal] = guard_rules(destination, priority);
    [refusal, lookup].map(|rule| Change {
        operation: "add the rule for",
        object: object.clone(),
        request: Request::new(RouteNetlinkMessage::NewRule(rule), ADD),
        ignored_errno: Some(Errno::EEXIST),
    })
}

/// Returns the changes that remove the two rules. The refusing rule is removed last.
pub(super) fn remove_guard(destination: Ipv6Net, priority: u32) -> [Change; 2] {
    let object = format!("{destination}");
    guard_rules(destination, priority).map(|rule| Change {
        operation: "remove the rule for",
        object: object.clone(),
        request: Request::acknowledged(RouteNetlinkMessage::DelRule(rule)),
        ignored_errno: Some(Errno::ENOENT),
    })
}

impl SourceRoute {
    const fn table(&self) -> u32 {
        SOURCE_TABLES + self.index
    }

    /// Returns the changes that add the routes, and then the rule that leads to them.
    pub(super) fn additions(&self) -> Vec<Change> {
        let on_link = device_route(self.index, self.subnet);
        let routes = [on_link, default_route(self.gateway, self.index)].map(|mut route| {
            route.header.table = RouteHeader::RT_TABLE_UNSPEC;
            route.header.protocol = RouteProtocol::Other(ROUTE_PROTOCOL);
            route.attributes.push(RouteAttribute::Table(self.table()));
            let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
            Request::new(RouteNetlinkMessage::NewRoute(route), flags)
        });
        let rule = Request::new(RouteNetlinkMessage::NewRule(self.rule()), ADD);
        let change = |request| Change {
            operation: "add the route for packets from",
            object: self.source.to_string(),
            request,
            ignored_errno: Some(Errno::EEXIST),
        };
        routes.into_iter().chain([rule]).map(change).collect()
    }

    fn rule(&self) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = family(self.source);
        message.header.src_len = if self.source.is_ipv4() { 32 } else { 128 };
        message.header.action = RuleAction::ToTable;
        message.attributes = vec![
            RuleAttribute::Source(self.source),
            RuleAttribute::Priority(SOURCE_PRIORITY),
            RuleAttribute::Protocol(RouteProtocol::Other(ROUTE_PROTOCOL)),
            RuleAttribute::Table(self.table()),
        ];
        message
    }
}

/// Returns the change that removes the rule or the route in a message, if it belongs to a source
/// route that is not in `wanted`.
pub(super) fn source_removal(message: &RouteNetlinkMessage, wanted: &[SourceRoute]) -> Option<Change> {
    let own = RouteProtocol::Other(ROUTE_PROTOCOL);
    let is_table = |table: u32| table & !0xff_ffff == SOURCE_TABLES;
    match message {
        RouteNetlinkMessage::NewRule(rule) => {
            let mut found = (None, None, false, false);
            for attribute in &rule.attributes {
                match attribute {
                    RuleAttribute::Source(address) => found.0 = Some(*address),
                    RuleAttribute::Table(table) => found.1 = Some(*table),
                    RuleAttribute::Priority(SOURCE_PRIORITY) => found.2 = true,
                    RuleAttribute::Protocol(protocol) => found.3 = *protocol == own,
                    _ => {}
                }
            }
            let (Some(source), Some(table), true, true) = found else { return None };
            if !is_table(table) || wanted.iter().any(|route| (route.source, route.table()) == (source, table)) {
                return None;
            }
            let stale = SourceRoute { source, subnet: source.into(), gateway: source, index: table - SOURCE_TABLES };
            Some(Change {
                operation: "remove the rule for packets from",
                object: source.to_string(),
                request: Request::acknowledged(RouteNetlinkMessage::DelRule(stale.rule())),
                ignored_errno: Some(Errno::ENOENT),
            })
        }
        RouteNetlinkMessage::NewRoute(route) => {
            let table = route.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Table(table) => Some(*table),
                _ => None,
            });
            let is_wanted = |table| {
                wanted.iter().any(|other| (other.table(), family(other.source)) == (table, route.header.address_family))
            };
            table.filter(|table| is_table(*table) && !is_wanted(*table)).and_then(|_| removal(message, None))
        }
        _ => None,
    }
}

pub(super) fn query_rules() -> Request {
    Request::new(RouteNetlinkMessage::GetRule(RuleMessage::default()), NLM_F_REQUEST | NLM_F_DUMP)
}

fn guard_rules(destination: Ipv6Net, priority: u32) -> [RuleMessage; 2] {
    /// Longest prefix length that is not a host route.
    const LONGEST_NETWORK_PREFIX: u32 = 127;
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
    let lookup = vec![RuleAttribute::Table(main), RuleAttribute::SuppressPrefixLen(LONGEST_NETWORK_PREFIX)];
    [rule(RuleAction::ToTable, priority, lookup), rule(RuleAction::Unreachable, priority.saturating_add(1), Vec::new())]
}

/// Returns the change that adds a default route with a device and no gateway, unless the address
/// family has a default route.
pub(super) fn add_default_device_route(index: u32, ipv6: bool) -> Change {
    let any = if ipv6 { IpNet::V6(Ipv6Net::default()) } else { IpNet::V4(Ipv4Net::default()) };
    let request = Request::new(RouteNetlinkMessage::NewRoute(device_route(index, any)), ADD);
    let object = format!("link {index}");
    Change { operation: "add the default route by", object, request, ignored_errno: Some(Errno::EEXIST) }
}

fn device_route(index: u32, destination: IpNet) -> RouteMessage {
    // The kernel refuses a destination with host bits.
    let destination = destination.trunc();
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: family(destination.addr()),
        destination_prefix_length: destination.prefix_len(),
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::Other(ROUTE_PROTOCOL),
        // IPv6 routes have no scope.
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

/// Returns the change that adds a permanent neighbor entry and replaces an existing one.
pub(super) fn add_neighbor(index: u32, address: IpAddr, mac: Mac) -> Change {
    let mut message = neighbor(index, address);
    message.header.state = NeighbourState::Permanent;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    message.attributes.push(NeighbourAttribute::Protocol(RouteProtocol::Other(ROUTE_PROTOCOL)));
    let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
    let request = Request::new(RouteNetlinkMessage::NewNeighbour(message), flags);
    Change { operation: "add the neighbor", object: format!("{address} of link {index}"), request, ignored_errno: None }
}

pub(super) fn remove_neighbor(index: u32, address: IpAddr) -> Change {
    let request = Request::acknowledged(RouteNetlinkMessage::DelNeighbour(neighbor(index, address)));
    let object = format!("{address} of link {index}");
    Change { operation: "remove the neighbor", object, request, ignored_errno: Some(Errno::ENOENT) }
}

pub(super) fn neighbor(index: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header = NeighbourHeader { family: family(address), ifindex: index, ..NeighbourHeader::default() };
    message.attributes = vec![NeighbourAttribute::Destination(address.into())];
    message
}

pub(super) fn query_neighbors() -> Request {
    Request::new(RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()), NLM_F_REQUEST | NLM_F_DUMP)
}

/// Returns the change that removes the route or neighbor in a message. Returns `None` if it has
/// another protocol than [`ROUTE_PROTOCOL`], or belongs to another link than `index`.
pub(super) fn removal(message: &RouteNetlinkMessage, index: Option<u32>) -> Option<Change> {
    let is_wanted = |on: Option<u32>| index.is_none() || on == index;
    let own_protocol = RouteProtocol::Other(ROUTE_PROTOCOL);
    match message {
        RouteNetlinkMessage::NewRoute(route) => {
            let on = route.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Oif(index) => Some(*index),
                _ => None,
            });
            if route.header.protocol != own_protocol || !is_wanted(on) {
                return None;
            }
            // Only the attributes that identify the route are kept. The others must not be sent in
            // a removal.
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
            Some(Change { operation: "remove a route by", object, request, ignored_errno: Some(Errno::ESRCH) })
        }
        RouteNetlinkMessage::NewNeighbour(neighbor) => {
            let on = neighbor.header.ifindex;
            let is_own = neighbor.attributes.contains(&NeighbourAttribute::Protocol(own_protocol));
            let address = neighbor.attributes.iter().find_map(|attribute| match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(IpAddr::from(*address)),
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => Some(IpAddr::from(*address)),
                _ => None,
            });
            (is_own && is_wanted(Some(on))).then(|| address.map(|address| remove_neighbor(on, address)))?
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

/// Returns the interface index and the address in a message.
pub(super) fn parse_address(message: &RouteNetlinkMessage) -> Option<(u32, IpNet)> {
    let RouteNetlinkMessage::NewAddress(message) = message else { return None };
    // On a point-to-point link, IFA_ADDRESS is the address of the far end.
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
    /// Returns the route in a message, if it is in the main table and does not lead to this host
    /// itself.
    pub(super) fn from_message(message: &RouteNetlinkMessage) -> Option<Self> {
        let RouteNetlinkMessage::NewRoute(message) = message else { return None };
        let header = &message.header;
        let is_forwarding = matches!(
            header.kind,
            RouteType::Unicast | RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit
        );
        // A table number above 255 is in an attribute. The header then has a number other than the
        // main table's.
        let is_main = header.table == RouteHeader::RT_TABLE_MAIN;
        if !is_forwarding || !is_main || header.flags.contains(RouteFlags::Cloned) {
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
                RouteAttribute::Destination(address) => destination = parse_ip(address)?,
                RouteAttribute::MultiPath(hops) => {
                    if let Some(hop) = hops.first() {
                        index = Some(hop.interface_index);
                        gateway = hop.attributes.iter().find_map(parse_next_hop);
                    }
                }
                RouteAttribute::Oif(link) => index = Some(*link),
                RouteAttribute::Priority(priority) => metric = *priority,
                other => gateway = gateway.or_else(|| parse_next_hop(other)),
            }
        }
        let destination = IpNet::new(destination, header.destination_prefix_length).ok()?;
        Some(Self { destination, index, gateway, metric })
    }
}

fn parse_next_hop(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(address) => parse_ip(address),
        RouteAttribute::Via(RouteVia::Inet(address)) => Some((*address).into()),
        RouteAttribute::Via(RouteVia::Inet6(address)) => Some((*address).into()),
        _ => None,
    }
}

fn parse_ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

/// Path that the kernel selects for packets to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// Interface index of the link.
    pub index: u32,
    /// Source address.
    pub source: Ipv4Addr,
    /// Path MTU in bytes, if it is less than the MTU of the link.
    pub mtu: Option<u32>,
}

pub(super) fn query_route(to: Ipv4Addr) -> Request {
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
    fn routes_to_this_host_are_ignored() {
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
    fn only_entries_with_the_vswitch_protocol_are_removed() {
        let own_route = |index, destination: &str| device_route(index, destination.parse().unwrap());
        let route = RouteNetlinkMessage::NewRoute(own_route(4, "10.1.2.3/16"));
        let removed = format!("{:?}", removal(&route, None).expect("a removal"));
        assert!(removed.contains("10.1.0.0") && removed.contains("ESRCH"), "{removed}");
        assert!(removal(&route, Some(4)).is_some());
        assert!(removal(&route, Some(5)).is_none());
        let mut other = own_route(4, "10.1.0.0/16");
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
    fn subnets_of_two_addresses_have_no_broadcast_address() {
        let broadcasts = |net: &str| {
            let change = format!("{:?}", add_address(1, net.parse().unwrap()));
            change.contains("Broadcast")
        };
        assert!(broadcasts("10.0.0.1/24"));
        assert!(!broadcasts("10.0.0.0/31"));
        assert!(!broadcasts("fd00::1/64"));
    }
}
