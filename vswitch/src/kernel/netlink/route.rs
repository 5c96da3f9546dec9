//! Addresses and routes: what the kernel says of them, and the messages that add them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;

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
