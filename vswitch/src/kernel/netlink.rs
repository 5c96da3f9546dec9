//! Manages links, addresses, routes, rules and neighbors by rtnetlink, on the tokio runtime.
//!
//! A connection belongs to the namespace in which its socket was created. Its task ends when the
//! last clone of the handle is dropped.

mod connection;
mod error;
mod events;
mod neighbor;
mod route;

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv6Net};
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkFlags, LinkMessage};
use nix::errno::Errno;
use tokio::sync::mpsc;
use vswitch_common::Mac;

use super::link;
pub use super::link::{Link, VethSpec};
use super::netns::Netns;
use connection::{Change, Connection, Request};
pub use error::{Hint, NetlinkError};
pub use events::{LinkEvent, TouchEvents, Touched};
pub use route::{Path, ROUTE_PROTOCOL, Route, SourceRoute};

/// A connection to rtnetlink in one namespace. The connection keeps the namespace alive, so a
/// connection in a foreign namespace is never stored.
#[derive(Clone, Debug)]
pub struct Netlink {
    connection: Connection,
}

impl Netlink {
    /// Opens a connection in the namespace of the calling thread. Must be called on a tokio
    /// runtime.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`].
    pub fn open() -> Result<Self, NetlinkError> {
        Connection::open(None, false).map(|connection| Self { connection })
    }

    /// Opens a connection like [`Netlink::open`], on which the kernel filters lists by link.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`].
    pub fn open_strict() -> Result<Self, NetlinkError> {
        Connection::open(None, true).map(|connection| Self { connection })
    }

    /// Opens a connection in another namespace. A thread enters the namespace, opens the socket and
    /// returns it.
    ///
    /// # Errors
    /// [`NetlinkError::Netns`] or [`NetlinkError::Socket`].
    pub fn open_in(netns: &Netns) -> Result<Self, NetlinkError> {
        Connection::open(Some(netns), false).map(|connection| Self { connection })
    }

    /// Returns all links of the namespace.
    ///
    /// # Errors
    /// The kernel refused the request.
    pub async fn links(&self) -> Result<Vec<Link>, NetlinkError> {
        let request = Request::new(RouteNetlinkMessage::GetLink(link::query_all()), NLM_F_REQUEST | NLM_F_DUMP);
        let messages = self.connection.dump("list the links", request).await?;
        Ok(messages.iter().filter_map(parse_link).collect())
    }

    /// Returns the link with this interface index, or `None` if it does not exist.
    ///
    /// # Errors
    /// The kernel refused the request.
    pub async fn link(&self, index: u32) -> Result<Option<Link>, NetlinkError> {
        self.find(link::query_by_index(index), &link_object(index)).await
    }

    /// Returns the link with this name, or `None` if it does not exist.
    ///
    /// # Errors
    /// The kernel refused the request.
    pub async fn link_by_name(&self, name: &str) -> Result<Option<Link>, NetlinkError> {
        self.find(link::query_by_name(name), name).await
    }

    /// Reports whether the other end of a veth exists, in a namespace that is still in use. The
    /// kernel removes the devices of a namespace some time after its last use.
    ///
    /// # Errors
    /// The kernel refused the request.
    pub async fn peer_lives(&self, index: u32) -> Result<bool, NetlinkError> {
        const OPERATION: &str = "find the other end of";
        let Some(link) = self.link(index).await? else { return Ok(false) };
        let Some(peer) = link.peer_index else { return Ok(false) };
        let query = match link.peer_netnsid {
            None => return Ok(self.link(peer).await?.is_some()),
            // The namespace has no id any more.
            Some(id) if id < 0 => return Ok(false),
            Some(id) => link::query_elsewhere(id, peer),
        };
        let request = Request::acknowledged(RouteNetlinkMessage::GetLink(query));
        let [answer] = self.connection.transact(OPERATION, [request]).await?;
        match answer {
            Ok(_) => Ok(true),
            // EINVAL: `get_net_ns_by_id` finds no namespace of this id that is in use.
            Err(refusal) if matches!(refusal.errno, Errno::EINVAL | Errno::ENODEV) => Ok(false),
            Err(refusal) => Err(NetlinkError::refused(OPERATION, &link_object(index), refusal)),
        }
    }

    async fn find(&self, query: LinkMessage, object: &str) -> Result<Option<Link>, NetlinkError> {
        const OPERATION: &str = "find";
        let request = Request::acknowledged(RouteNetlinkMessage::GetLink(query));
        let [answer] = self.connection.transact(OPERATION, [request]).await?;
        match answer {
            Ok(messages) => {
                let unreadable = NetlinkError::NoAnswer { operation: OPERATION, object: object.to_owned() };
                messages.iter().find_map(parse_link).map(Some).ok_or(unreadable)
            }
            Err(refusal) if refusal.errno == Errno::ENODEV => Ok(None),
            Err(refusal) => Err(NetlinkError::refused(OPERATION, object, refusal)),
        }
    }

    /// Creates a veth pair in one call, each end in its namespace and with its final name. Both
    /// ends are down. Returns the interface index of the first end. If the call fails, neither end
    /// exists.
    ///
    /// # Errors
    /// [`NetlinkError::Exists`] with the name that is in use: the peer's name if the first name is
    /// free.
    pub async fn create_veth(&self, spec: &VethSpec<'_>) -> Result<u32, NetlinkError> {
        const OPERATION: &str = "create the device";
        let create = RouteNetlinkMessage::NewLink(link::create_veth(spec));
        // The answer holds neither the new interface index (kernels from 6.2 on can echo it) nor
        // which of the two names is in use. A query for the first name therefore follows in the
        // same datagram.
        let requests = [
            Request::new(create, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL),
            Request::acknowledged(RouteNetlinkMessage::GetLink(link::query_by_name(spec.name))),
        ];
        let [created, first] = self.connection.transact(OPERATION, requests).await?;
        if let Err(refusal) = created {
            let of_peer = refusal.errno == Errno::EEXIST && first.is_err();
            let object = if of_peer { spec.peer_name } else { spec.name };
            return Err(NetlinkError::refused(OPERATION, object, refusal));
        }
        let first = first.map_err(|refusal| NetlinkError::refused(OPERATION, spec.name, refusal))?;
        let unreadable = NetlinkError::NoAnswer { operation: OPERATION, object: spec.name.to_owned() };
        let index = first.iter().find_map(parse_link).ok_or(unreadable)?.index;
        // The kernel accepts an alias only for an existing device (rtnl_newlink_create ignores
        // IFLA_IFALIAS).
        if let Some(alias) = spec.alias
            && let Err(error) = self.change(index, "set the alias of", link::set_alias(index, alias)).await
        {
            self.delete_link(index).await?;
            return Err(error);
        }
        Ok(index)
    }

    /// Creates a VXLAN device in collect-metadata mode on a UDP port of this namespace. The device
    /// is down and has `mark` as its alias. Returns its interface index.
    ///
    /// # Errors
    /// [`NetlinkError::Exists`], or the kernel refused the request. A UDP port that is in use is
    /// only reported when the device is switched on.
    pub async fn create_vxlan(&self, name: &str, mac: Mac, port: u16, mark: &str) -> Result<u32, NetlinkError> {
        const OPERATION: &str = "create the device";
        let create = RouteNetlinkMessage::NewLink(link::create_vxlan(name, mac, port));
        let request = Request::new(create, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL);
        let [created] = self.connection.transact(OPERATION, [request]).await?;
        created.map_err(|refusal| NetlinkError::refused(OPERATION, name, refusal))?;
        let unreadable = NetlinkError::NoAnswer { operation: OPERATION, object: name.to_owned() };
        let index = self.link_by_name(name).await?.ok_or(unreadable)?.index;
        if let Err(error) = self.change(index, "set the alias of", link::set_alias(index, mark)).await {
            self.delete_link(index).await?;
            return Err(error);
        }
        Ok(index)
    }

    /// Creates a WireGuard device that is down and has no keys. Returns its interface index.
    ///
    /// # Errors
    /// [`NetlinkError::Exists`]; [`NetlinkError::Kernel`] with EOPNOTSUPP if the kernel has no
    /// WireGuard.
    pub async fn create_wireguard(&self, name: &str, mtu: u32) -> Result<u32, NetlinkError> {
        const OPERATION: &str = "create the device";
        let create = RouteNetlinkMessage::NewLink(link::create_wireguard(name, mtu));
        let requests = [
            Request::new(create, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL),
            Request::acknowledged(RouteNetlinkMessage::GetLink(link::query_by_name(name))),
        ];
        let [created, found] = self.connection.transact(OPERATION, requests).await?;
        let refused = |refusal| NetlinkError::refused(OPERATION, name, refusal);
        created.map_err(refused)?;
        let unreadable = NetlinkError::NoAnswer { operation: OPERATION, object: name.to_owned() };
        Ok(found.map_err(refused)?.iter().find_map(parse_link).ok_or(unreadable)?.index)
    }

    /// Removes a link. Succeeds if it does not exist.
    ///
    /// # Errors
    /// The kernel refused the request.
    pub async fn delete_link(&self, index: u32) -> Result<(), NetlinkError> {
        let request = Request::acknowledged(RouteNetlinkMessage::DelLink(link::by_index(index)));
        let ignored_errno = Some(Errno::ENODEV);
        self.connection
            .change([Change { operation: "remove", object: link_object(index), request, ignored_errno }])
            .await
    }

    /// Switches a link on.
    ///
    /// # Errors
    /// [`NetlinkError::NotFound`], or the kernel refused the request.
    pub async fn set_up(&self, index: u32) -> Result<(), NetlinkError> {
        self.connection.change([switch_on(index)]).await
    }

    /// Switches a link off.
    ///
    /// # Errors
    /// [`NetlinkError::NotFound`], or the kernel refused the request.
    pub async fn set_down(&self, index: u32) -> Result<(), NetlinkError> {
        self.change(index, "switch off", link::set_flag(index, LinkFlags::Up, false)).await
    }

    /// Sets the MTU of a link in bytes.
    ///
    /// # Errors
    /// [`NetlinkError::NotFound`], or the driver does not support this MTU.
    pub async fn set_mtu(&self, index: u32, mtu: u32) -> Result<(), NetlinkError> {
        self.change(index, "set the MTU of", link::set_mtu(index, mtu)).await
    }

    /// Sets the alias of a link.
    ///
    /// # Errors
    /// [`NetlinkError::NotFound`], or the kernel refused the request.
    pub async fn set_alias(&self, index: u32, mark: &str) -> Result<(), NetlinkError> {
        self.change(index, "set the alias of", link::set_alias(index, mark)).await
    }

    /// Renames a link. Kernels before 6.2 refuse it while the link is up.
    ///
    /// # Errors
    /// [`NetlinkError::NotFound`], or the kernel refused the request.
    pub async fn set_name(&self, index: u32, name: &str) -> Result<(), NetlinkError> {
        self.change(index, "rename", link::set_name(index, name)).await
    }

    /// Takes a link out of its bridge or bond.
    ///
    /// # Errors
    /// [`NetlinkError::NotFound`], or the kernel refused the request.
    pub async fn leave_master(&self, index: u32) -> Result<(), NetlinkError> {
        self.change(index, "take out of its bridge", link::set_master(index, 0)).await
    }

    /// Switches the promiscuous mode of a link on or off.
    ///
    /// # Errors
    /// [`NetlinkError::NotFound`], or the kernel refused the request.
    pub async fn set_promiscuous(&self, index: u32, on: bool) -> Result<(), NetlinkError> {
        self.change(index, "set the promiscuous mode of", link::set_flag(index, LinkFlags::Promisc, on)).await
    }

    /// Sets the MAC address of a link. The kernel then removes the link's neighbor entries.
    ///
    /// # Errors
    /// [`NetlinkError::NotFound`], or the driver refuses the change. Some drivers allow it only
    /// while the link is down.
    pub async fn set_mac(&self, index: u32, mac: Mac) -> Result<(), NetlinkError> {
        self.change(index, "set the MAC address of", link::set_mac(index, mac)).await
    }

    /// Sets or clears IFF_NOARP: a link with this flag uses neither ARP nor neighbor discovery. A
    /// change of the flag removes the link's neighbor entries.
    ///
    /// # Errors
    /// [`NetlinkError::NotFound`], or the kernel refused the request.
    pub async fn set_noarp(&self, index: u32, on: bool) -> Result<(), NetlinkError> {
        self.change(index, "switch ARP on or off for", link::set_flag(index, LinkFlags::Noarp, on)).await
    }

    async fn change(&self, index: u32, operation: &'static str, message: LinkMessage) -> Result<(), NetlinkError> {
        self.connection.change([link_change(index, operation, message)]).await
    }

    /// Adds an address to a link. Succeeds if the link has it. An IPv6 address is usable at once,
    /// without duplicate address detection: the allocation of addresses already ensures that they
    /// are unique.
    ///
    /// # Errors
    /// [`NetlinkError::NotFound`], or the kernel refused the request.
    pub async fn add_address(&self, index: u32, address: IpNet) -> Result<(), NetlinkError> {
        self.connection.change([route::add_address(index, address)]).await
    }

    /// Sets the metric of the route that an address of a link makes to its subnet. The address must
    /// exist.
    ///
    /// # Errors
    /// [`NetlinkError::NotFound`], or the kernel refused the request.
    pub async fn set_address_metric(&self, index: u32, address: IpNet, metric: u32) -> Result<(), NetlinkError> {
        self.connection.change([route::set_address_metric(index, address, metric)]).await
    }

    /// Returns the addresses of one link, or of all links, each with the interface index.
    ///
    /// # Errors
    /// The kernel refused the request.
    pub async fn addresses(&self, index: Option<u32>) -> Result<Vec<(u32, IpNet)>, NetlinkError> {
        let messages = self.connection.dump("list the addresses", route::query_addresses()).await?;
        let addresses = messages.iter().filter_map(route::parse_address);
        Ok(addresses.filter(|(link, _)| index.is_none_or(|index| *link == index)).collect())
    }

    /// Adds a default route of metric 0, unless the gateway's address family already has one. Of
    /// two concurrent requests the kernel accepts the first.
    ///
    /// # Errors
    /// [`NetlinkError::Kernel`] if the gateway is not reachable by that device, or the kernel
    /// refused the request.
    pub async fn add_default_route(&self, via: IpAddr, index: u32) -> Result<(), NetlinkError> {
        self.connection.change([route::add_default_route(via, index)]).await
    }

    /// Adds a default route of metric 0 and replaces an existing one.
    ///
    /// # Errors
    /// The same as of [`Netlink::add_default_route`].
    pub async fn replace_default_route(&self, via: IpAddr, index: u32) -> Result<(), NetlinkError> {
        self.connection.change([route::replace_default_route(via, index)]).await
    }

    /// Adds a default route with a device and no gateway, unless the address family already has
    /// one. The route has the protocol [`ROUTE_PROTOCOL`], and scope link in IPv4.
    ///
    /// # Errors
    /// [`NetlinkError::NotFound`]; [`NetlinkError::Kernel`] if the device is down or the kernel
    /// refused the request.
    pub async fn add_default_device_route(&self, index: u32, ipv6: bool) -> Result<(), NetlinkError> {
        self.connection.change([route::add_default_device_route(index, ipv6)]).await
    }

    /// Adds a route with a device and no gateway to the main table. The route has the protocol
    /// [`ROUTE_PROTOCOL`], and scope link in IPv4. Host bits of the destination are ignored.
    /// Succeeds if the route exists.
    ///
    /// # Errors
    /// The same as of [`Netlink::add_default_device_route`].
    pub async fn add_device_route(&self, index: u32, destination: IpNet) -> Result<(), NetlinkError> {
        self.connection.change([route::add_device_route(index, destination)]).await
    }

    /// Adds the route that the kernel adds with an address of a link, to the subnet of the address.
    /// Succeeds if the route exists.
    ///
    /// # Errors
    /// [`NetlinkError::NotFound`]; [`NetlinkError::Kernel`] if the device is down or the kernel
    /// refused the request.
    pub async fn add_subnet_route(&self, index: u32, address: IpNet) -> Result<(), NetlinkError> {
        self.connection.change([route::add_subnet_route(index, address)]).await
    }

    /// Removes a route that [`Netlink::add_device_route`] added. Succeeds if it does not exist.
    /// Routes of other protocols are kept.
    ///
    /// # Errors
    /// The kernel refused the request.
    pub async fn remove_device_route(&self, index: u32, destination: IpNet) -> Result<(), NetlinkError> {
        ignore_not_found(self.connection.change([route::remove_device_route(index, destination)]).await)
    }

    /// Adds an unreachable route: packets to the prefix fail with EHOSTUNREACH unless a more
    /// specific route matches. The route has this metric and the protocol [`ROUTE_PROTOCOL`].
    /// Succeeds if it exists.
    ///
    /// # Errors
    /// The kernel refused the request.
    pub async fn add_unreachable(&self, destination: IpNet, metric: u32) -> Result<(), NetlinkError> {
        self.connection.change([route::add_unreachable(destination, metric)]).await
    }

    /// Removes a route that [`Netlink::add_unreachable`] added. Succeeds if it does not exist.
    /// Routes with another metric are kept.
    ///
    /// # Errors
    /// The kernel refused the request.
    pub async fn remove_unreachable(&self, destination: IpNet, metric: u32) -> Result<(), NetlinkError> {
        self.connection.change([route::remove_unreachable(destination, metric)]).await
    }

    /// Adds two rules that allow packets to a prefix only by host routes of the main table. Other
    /// packets to the prefix fail with ENETUNREACH, independent of other routes and of rules with a
    /// lower precedence. The rules have this priority and the next one, and the protocol
    /// [`ROUTE_PROTOCOL`]. Succeeds if they exist. Rules stay when a link or IPv6 is switched off
    /// and on, whereas routes are lost.
    ///
    /// # Errors
    /// [`NetlinkError::Kernel`] with EOPNOTSUPP or EAFNOSUPPORT: the kernel has no
    /// CONFIG_IPV6_MULTIPLE_TABLES or no IPv6.
    pub async fn add_guard(&self, destination: Ipv6Net, priority: u32) -> Result<(), NetlinkError> {
        self.connection.change(route::add_guard(destination, priority)).await
    }

    /// Removes the rules that [`Netlink::add_guard`] added. Succeeds if they do not exist.
    ///
    /// # Errors
    /// The same as of [`Netlink::add_guard`].
    pub async fn remove_guard(&self, destination: Ipv6Net, priority: u32) -> Result<(), NetlinkError> {
        self.connection.change(route::remove_guard(destination, priority)).await
    }

    /// Adds a permanent neighbor entry (NUD_PERMANENT) with the protocol [`ROUTE_PROTOCOL`] to a
    /// link and replaces an existing entry.
    ///
    /// # Errors
    /// [`NetlinkError::NotFound`], or the kernel refused the request.
    pub async fn add_neighbor(&self, index: u32, address: IpAddr, mac: Mac) -> Result<(), NetlinkError> {
        self.connection.change([route::add_neighbor(index, address, mac)]).await
    }

    /// Removes a neighbor entry of a link, of any protocol. Succeeds if the entry or the link does
    /// not exist.
    ///
    /// # Errors
    /// The kernel refused the request.
    pub async fn remove_neighbor(&self, index: u32, address: IpAddr) -> Result<(), NetlinkError> {
        ignore_not_found(self.connection.change([route::remove_neighbor(index, address)]).await)
    }

    /// Removes all routes (of any table) and neighbors of the protocol [`ROUTE_PROTOCOL`], of one
    /// link or of the whole namespace.
    ///
    /// # Errors
    /// The first refusal of the kernel. The other entries are removed all the same.
    pub async fn remove_own_routes_and_neighbors(&self, index: Option<u32>) -> Result<(), NetlinkError> {
        let mut entries = self.connection.dump("list the routes", route::query_routes()).await?;
        entries.extend(self.connection.dump("list the neighbors", route::query_neighbors()).await?);
        let mut result = Ok(());
        // Each entry is removed by its own call. In one call, the error of an entry whose link
        // vanished meanwhile would hide the error of another entry.
        for change in entries.iter().filter_map(|message| route::removal(message, index)) {
            result = result.and(ignore_not_found(self.connection.change([change]).await));
        }
        result
    }

    /// Makes the source routes of a namespace exactly these. Packets from one of the addresses then
    /// leave by the link of the address, whatever the main table says. Removes the rules and routes
    /// of other source routes; rules and routes of other programs stay.
    ///
    /// # Errors
    /// The first refusal of the kernel: [`NetlinkError::Kernel`] with EOPNOTSUPP if it has no
    /// CONFIG_IP_MULTIPLE_TABLES.
    pub async fn set_source_routes(&self, wanted: &[SourceRoute]) -> Result<(), NetlinkError> {
        let mut result = Ok(());
        let rules = self.connection.dump("list the rules", route::query_rules()).await?;
        let routes = self.connection.dump("list the routes", route::query_routes()).await?;
        // Rules first, so that no rule leads to an empty table.
        for change in rules.iter().chain(&routes).filter_map(|message| route::source_removal(message, wanted)) {
            result = result.and(ignore_not_found(self.connection.change([change]).await));
        }
        for route in wanted {
            result = result.and(self.connection.change(route.additions()).await);
        }
        result
    }

    /// Returns the IPv4 and IPv6 routes of the main table, without the routes to this host itself.
    ///
    /// # Errors
    /// The kernel refused the request.
    pub async fn routes(&self) -> Result<Vec<Route>, NetlinkError> {
        let messages = self.connection.dump("list the routes", route::query_routes()).await?;
        Ok(messages.iter().filter_map(Route::from_message).collect())
    }

    /// Returns the path that the kernel selects for packets to an address. Returns `None` if the
    /// kernel has no route, or if the address belongs to this host.
    ///
    /// # Errors
    /// The kernel refused the request.
    pub async fn path(&self, to: Ipv4Addr) -> Result<Option<Path>, NetlinkError> {
        const OPERATION: &str = "find the route to";
        let [answer] = self.connection.transact(OPERATION, [route::query_route(to)]).await?;
        match answer {
            Ok(messages) => Ok(messages.iter().find_map(Path::from_message)),
            Err(refusal) if matches!(refusal.errno, Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EACCES) => {
                Ok(None)
            }
            Err(refusal) => Err(NetlinkError::refused(OPERATION, &to.to_string(), refusal)),
        }
    }

    /// Adds addresses to a link, switches it on and adds default routes by it, all in one call to
    /// the kernel. Addresses and default routes that exist are no error. If one change fails, the
    /// others may have been made.
    ///
    /// # Errors
    /// The first error of [`Netlink::add_address`], [`Netlink::set_up`] or
    /// [`Netlink::add_default_route`].
    pub async fn configure(&self, index: u32, addresses: &[IpNet], gateways: &[IpAddr]) -> Result<(), NetlinkError> {
        let addresses = addresses.iter().map(|address| route::add_address(index, *address));
        // The routes follow the switching on, because the kernel refuses routes by a link that is
        // down.
        let gateways = gateways.iter().map(|via| route::add_default_route(*via, index));
        self.connection.change(addresses.chain([switch_on(index)]).chain(gateways)).await
    }

    /// Subscribes to the link events of the calling thread's namespace, until the receiver is
    /// dropped.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`].
    pub fn link_events() -> Result<mpsc::UnboundedReceiver<LinkEvent>, NetlinkError> {
        events::subscribe_to_links(None)
    }

    /// Subscribes to changes of links, addresses and routes of both address families, in `netns` or
    /// in the calling thread's namespace. One event may stand for several changes. The channel is
    /// closed when the socket fails.
    ///
    /// # Errors
    /// [`NetlinkError::Netns`] or [`NetlinkError::Socket`].
    pub fn path_events(netns: Option<&Netns>) -> Result<mpsc::Receiver<()>, NetlinkError> {
        events::subscribe_to_paths(netns)
    }

    /// Subscribes to the link events of another namespace, and keeps the namespace alive meanwhile.
    ///
    /// # Errors
    /// [`NetlinkError::Netns`] or [`NetlinkError::Socket`].
    pub fn link_events_in(netns: &Netns) -> Result<mpsc::UnboundedReceiver<LinkEvent>, NetlinkError> {
        events::subscribe_to_links(Some(netns))
    }
}

fn switch_on(index: u32) -> Change {
    link_change(index, "switch on", link::set_flag(index, LinkFlags::Up, true))
}

fn link_change(index: u32, operation: &'static str, message: LinkMessage) -> Change {
    let request = Request::acknowledged(RouteNetlinkMessage::SetLink(message));
    Change { operation, object: link_object(index), request, ignored_errno: None }
}

/// Treats the error that the link does not exist as success: the kernel removed the entry together
/// with the link.
fn ignore_not_found(removed: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    match removed {
        Err(NetlinkError::NotFound { .. }) => Ok(()),
        other => other,
    }
}

fn link_object(index: u32) -> String {
    format!("link {index}")
}

/// Returns the link in a message. Bridges report their ports by the same messages with the family
/// AF_BRIDGE. These are ignored, because a port that leaves its bridge is not a removed link.
fn parse_link(message: &RouteNetlinkMessage) -> Option<Link> {
    match message {
        RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) => {
            link::is_about_device(link).then(|| link.into())
        }
        _ => None,
    }
}
