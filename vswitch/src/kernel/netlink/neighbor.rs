//! Addresses that a link answers or receives for other links: proxies of neighbor discovery, and the
//! stations of devices on the link.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REQUEST};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;
use vswitch_common::Mac;

use super::connection::{Change, Request};
use super::route::neighbor;
use super::{Netlink, NetlinkError, ignore_not_found};

impl Netlink {
    /// Answers neighbor solicitations on a link for an address that another link has (proxy NDP).
    /// Succeeds if it does so already.
    ///
    /// # Errors
    /// [`NetlinkError::NotFound`], or the kernel refused the request.
    pub async fn add_proxy(&self, index: u32, address: IpAddr) -> Result<(), NetlinkError> {
        self.connection.change([add_proxy(index, address)]).await
    }

    /// Reverses [`Netlink::add_proxy`]. Succeeds if there is nothing to reverse.
    ///
    /// # Errors
    /// The kernel refused the request.
    pub async fn remove_proxy(&self, index: u32, address: IpAddr) -> Result<(), NetlinkError> {
        ignore_not_found(self.connection.change([remove_proxy(index, address)]).await)
    }

    /// Returns the addresses for which a link answers neighbor solicitations as a proxy.
    ///
    /// # Errors
    /// The kernel refused the request.
    pub async fn proxies(&self, index: u32) -> Result<Vec<IpAddr>, NetlinkError> {
        let messages = self.connection.dump("list the proxies", query_proxies()).await?;
        Ok(messages.iter().filter_map(|message| parse_proxy(message, index)).collect())
    }

    /// Returns the MAC addresses besides its own that a link receives for devices on it, such as
    /// macvlan devices, in whatever namespace these are. The connection must be of
    /// [`Netlink::open_strict`].
    ///
    /// # Errors
    /// The kernel refused the request.
    pub async fn stations(&self, index: u32) -> Result<Vec<Mac>, NetlinkError> {
        let messages = self.connection.dump("list the stations", query_stations(index)).await?;
        Ok(messages.iter().filter_map(|message| parse_station(message, index)).collect())
    }
}

/// Returns the change that makes a link answer neighbor solicitations for an address.
fn add_proxy(index: u32, address: IpAddr) -> Change {
    let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE;
    let request = Request::new(RouteNetlinkMessage::NewNeighbour(proxy(index, address)), flags);
    let object = format!("{address} on link {index}");
    Change { operation: "add the proxy for", object, request, ignored_errno: Some(Errno::EEXIST) }
}

fn remove_proxy(index: u32, address: IpAddr) -> Change {
    let request = Request::acknowledged(RouteNetlinkMessage::DelNeighbour(proxy(index, address)));
    let object = format!("{address} on link {index}");
    Change { operation: "remove the proxy for", object, request, ignored_errno: Some(Errno::ENOENT) }
}

fn proxy(index: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = neighbor(index, address);
    message.header.flags = NeighbourFlags::Proxy;
    message
}

/// Returns the query for all addresses that links answer for as proxies. The kernel ignores a link
/// in it.
fn query_proxies() -> Request {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet6;
    message.header.flags = NeighbourFlags::Proxy;
    Request::new(RouteNetlinkMessage::GetNeighbour(message), NLM_F_REQUEST | NLM_F_DUMP)
}

/// Returns the address in a message about a proxy on a link.
fn parse_proxy(message: &RouteNetlinkMessage, index: u32) -> Option<IpAddr> {
    let RouteNetlinkMessage::NewNeighbour(message) = message else { return None };
    let of_link = message.header.ifindex == index && message.header.flags.contains(NeighbourFlags::Proxy);
    message.attributes.iter().filter(|_| of_link).find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(IpAddr::from(*address)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => Some(IpAddr::from(*address)),
        _ => None,
    })
}

/// Returns the query for the MAC addresses that a link receives besides its own, as `bridge fdb`
/// lists them (ndo_dflt_fdb_dump).
fn query_stations(index: u32) -> Request {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = index;
    Request::new(RouteNetlinkMessage::GetNeighbour(message), NLM_F_REQUEST | NLM_F_DUMP)
}

/// Returns the MAC address in a message about a link itself; `None` for a group.
fn parse_station(message: &RouteNetlinkMessage, index: u32) -> Option<Mac> {
    let RouteNetlinkMessage::NewNeighbour(message) = message else { return None };
    let of_link = message.header.ifindex == index && message.header.flags.contains(NeighbourFlags::Own);
    let mac = message.attributes.iter().filter(|_| of_link).find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(bytes) => bytes.as_slice().try_into().ok().map(Mac),
        _ => None,
    });
    mac.filter(|mac| !mac.is_multicast())
}
