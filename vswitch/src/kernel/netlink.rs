//! Links, addresses, routes and neighbors by rtnetlink, on the tokio runtime.
//!
//! A connection belongs to one namespace, the one its socket was made in. Its task ends with the last clone of the handle.

mod connection;
mod error;
mod events;
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
pub use events::LinkEvent;
pub use route::{Path, ROUTE_PROTOCOL, Route};

/// A connection to rtnetlink in one namespace, which it keeps alive: one in a foreign namespace is never stored.
#[derive(Clone, Debug)]
pub struct Netlink {
    connection: Connection,
}

impl Netlink {
    /// In the namespace of the calling thread. Has to be called on a runtime.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`].
    pub fn open() -> Result<Self, NetlinkError> {
        Connection::open(None).map(|connection| Self { connection })
    }

    /// In another one: a thread goes in, makes the socket and hands it out.
    ///
    /// # Errors
    /// [`NetlinkError::Netns`] or [`NetlinkError::Socket`].
    pub fn open_in(netns: &Netns) -> Result<Self, NetlinkError> {
        Connection::open(Some(netns)).map(|connection| Self { connection })
    }

    /// Every link of the namespace.
    ///
    /// # Errors
    /// As the kernel has it.
    pub async fn links(&self) -> Result<Vec<Link>, NetlinkError> {
        let request = Request::new(RouteNetlinkMessage::GetLink(link::query()), NLM_F_REQUEST | NLM_F_DUMP);
        let messages = self.connection.dump("list the links", request).await?;
        Ok(messages.iter().filter_map(link_in).collect())
    }

    /// A link by its number.
    ///
    /// # Errors
    /// As the kernel has it; that there is none is no error.
    pub async fn link(&self, index: u32) -> Result<Option<Link>, NetlinkError> {
        self.find(link::query_index(index), &by_index(index)).await
    }

    /// A link by its name.
    ///
    /// # Errors
    /// As the kernel has it; that there is none is no error.
    pub async fn link_by_name(&self, name: &str) -> Result<Option<Link>, NetlinkError> {
        self.find(link::query_name(name), name).await
    }

    async fn find(&self, query: LinkMessage, object: &str) -> Result<Option<Link>, NetlinkError> {
        const OPERATION: &str = "find";
        let request = Request::acknowledged(RouteNetlinkMessage::GetLink(query));
        let [answer] = self.connection.transact(OPERATION, [request]).await?;
        match answer {
            Ok(messages) => {
                let unread = NetlinkError::NoAnswer { operation: OPERATION, object: object.to_owned() };
                messages.iter().find_map(link_in).map(Some).ok_or(unread)
            }
            Err(refusal) if refusal.errno == Errno::ENODEV => Ok(None),
            Err(refusal) => Err(NetlinkError::refused(OPERATION, object, refusal)),
        }
    }

    /// Makes a pair of veth, each end where it belongs and under its final name, in one call. Both are down. Returns the
    /// number of the first end. If it fails, neither is there.
    ///
    /// # Errors
    /// [`NetlinkError::Exists`] with the name that is taken: the peer's, if the first is free.
    pub async fn create_veth(&self, spec: &VethSpec<'_>) -> Result<u32, NetlinkError> {
        const OPERATION: &str = "make the device";
        let create = RouteNetlinkMessage::NewLink(link::veth(spec));
        // The kernel says neither which number it gave (from 6.2 on it does, if asked to echo) nor which of the two
        // names is taken: so we ask right behind.
        let requests = [
            Request::new(create, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL),
            Request::acknowledged(RouteNetlinkMessage::GetLink(link::query_name(spec.name))),
        ];
        let [created, first] = self.connection.transact(OPERATION, requests).await?;
        if let Err(refusal) = created {
            let of_peer = refusal.errno == Errno::EEXIST && first.is_err();
            let object = if of_peer { spec.peer_name } else { spec.name };
            return Err(NetlinkError::refused(OPERATION, object, refusal));
        }
        let first = first.map_err(|refusal| NetlinkError::refused(OPERATION, spec.name, refusal))?;
        let unread = NetlinkError::NoAnswer { operation: OPERATION, object: spec.name.to_owned() };
        let index = first.iter().find_map(link_in).ok_or(unread)?.index;
        // The kernel takes an alias only for a device that exists (rtnl_newlink_create ignores IFLA_IFALIAS).
        if let Some(alias) = spec.alias
            && let Err(error) = self.change(index, "mark", link::alias(index, alias)).await
        {
            self.delete_link(index).await?;
            return Err(error);
        }
        Ok(index)
    }

    /// Makes a VXLAN device that is told for each packet where it goes, on a UDP port of this namespace: down, and marked
    /// with an alias. Returns its number.
    ///
    /// # Errors
    /// [`NetlinkError::Exists`], or as the kernel has it. That the port is somebody else's shows when it is switched on.
    pub async fn create_vxlan(&self, name: &str, port: u16, mark: &str) -> Result<u32, NetlinkError> {
        const OPERATION: &str = "make the device";
        let create = RouteNetlinkMessage::NewLink(link::vxlan(name, port));
        let request = Request::new(create, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL);
        let [created] = self.connection.transact(OPERATION, [request]).await?;
        created.map_err(|refusal| NetlinkError::refused(OPERATION, name, refusal))?;
        let unread = NetlinkError::NoAnswer { operation: OPERATION, object: name.to_owned() };
        let index = self.link_by_name(name).await?.ok_or(unread)?.index;
        if let Err(error) = self.change(index, "mark", link::alias(index, mark)).await {
            self.delete_link(index).await?;
            return Err(error);
        }
        Ok(index)
    }

    /// Makes a WireGuard device, down and without keys. Returns its number.
    ///
    /// # Errors
    /// [`NetlinkError::Exists`]; [`NetlinkError::Kernel`] with EOPNOTSUPP where the kernel has no WireGuard.
    pub async fn create_wireguard(&self, name: &str, mtu: u32) -> Result<u32, NetlinkError> {
        const OPERATION: &str = "make the device";
        let create = RouteNetlinkMessage::NewLink(link::wireguard(name, mtu));
        let requests = [
            Request::new(create, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL),
            Request::acknowledged(RouteNetlinkMessage::GetLink(link::query_name(name))),
        ];
        let [created, found] = self.connection.transact(OPERATION, requests).await?;
        let refused = |refusal| NetlinkError::refused(OPERATION, name, refusal);
        created.map_err(refused)?;
        let unread = NetlinkError::NoAnswer { operation: OPERATION, object: name.to_owned() };
        Ok(found.map_err(refused)?.iter().find_map(link_in).ok_or(unread)?.index)
    }

    /// Removes a link; fine if it is gone.
    ///
    /// # Errors
    /// As the kernel has it.
    pub async fn delete_link(&self, index: u32) -> Result<(), NetlinkError> {
        let request = Request::acknowledged(RouteNetlinkMessage::DelLink(link::at(index)));
        let done_if = Some(Errno::ENODEV);
        self.connection.change([Change { operation: "remove", object: by_index(index), request, done_if }]).await
    }

    /// Switches a link on.
    ///
    /// # Errors
    /// [`NetlinkError::NotFound`] and others.
    pub async fn set_up(&self, index: u32) -> Result<(), NetlinkError> {
        self.connection.change([up(index)]).await
    }

    /// Switches a link off.
    ///
    /// # Errors
    /// [`NetlinkError::NotFound`] and others.
    pub async fn set_down(&self, index: u32) -> Result<(), NetlinkError> {
        self.change(index, "switch off", link::flag(index, LinkFlags::Up, false)).await
    }

    /// Sets a link's MTU.
    ///
    /// # Errors
    /// [`NetlinkError::NotFound`], or the driver cannot.
    pub async fn set_mtu(&self, index: u32, mtu: u32) -> Result<(), NetlinkError> {
        self.change(index, "set the MTU of", link::mtu(index, mtu)).await
    }

    /// Marks a link with an alias.
    ///
    /// # Errors
    /// [`NetlinkError::NotFound`] and others.
    pub async fn set_alias(&self, index: u32, mark: &str) -> Result<(), NetlinkError> {
        self.change(index, "mark", link::alias(index, mark)).await
    }

    /// Has a link take in all frames, or no longer.
    ///
    /// # Errors
    /// [`NetlinkError::NotFound`] and others.
    pub async fn set_promiscuous(&self, index: u32, on: bool) -> Result<(), NetlinkError> {
        self.change(index, "set the promiscuous mode of", link::flag(index, LinkFlags::Promisc, on)).await
    }

    /// Gives a link another MAC address. Its neighbor entries go.
    ///
    /// # Errors
    /// [`NetlinkError::NotFound`], or the driver cannot; some only while the link is down.
    pub async fn set_mac(&self, index: u32, mac: Mac) -> Result<(), NetlinkError> {
        self.change(index, "set the MAC address of", link::mac(index, mac)).await
    }

    /// Has a link do without ARP and neighbor discovery (IFF_NOARP), or no longer. If that changes, its neighbor entries
    /// go.
    ///
    /// # Errors
    /// [`NetlinkError::NotFound`] and others.
    pub async fn set_noarp(&self, index: u32, on: bool) -> Result<(), NetlinkError> {
        self.change(index, "switch ARP on or off for", link::flag(index, LinkFlags::Noarp, on)).await
    }

    async fn change(&self, index: u32, operation: &'static str, message: LinkMessage) -> Result<(), NetlinkError> {
        self.connection.change([link_change(index, operation, message)]).await
    }

    /// Gives a link an address; fine if it has it. One of IPv6 is usable at once: whoever gives addresses out has seen
    /// to it that no two are the same.
    ///
    /// # Errors
    /// [`NetlinkError::NotFound`] and others.
    pub async fn add_address(&self, index: u32, address: IpNet) -> Result<(), NetlinkError> {
        self.connection.change([route::add_address(index, address)]).await
    }

    /// The addresses of a link, or of all.
    ///
    /// # Errors
    /// As the kernel has it.
    pub async fn addresses(&self, index: Option<u32>) -> Result<Vec<(u32, IpNet)>, NetlinkError> {
        let messages = self.connection.dump("list the addresses", route::query_addresses()).await?;
        let addresses = messages.iter().filter_map(route::address);
        Ok(addresses.filter(|(of, _)| index.is_none_or(|index| *of == index)).collect())
    }

    /// Adds a default route of metric 0, unless there is one of the gateway's family. Of two that come at once, the
    /// kernel takes the first.
    ///
    /// # Errors
    /// [`NetlinkError::Kernel`] where the gateway cannot be reached by that device, and others.
    pub async fn add_default_route(&self, via: IpAddr, index: u32) -> Result<(), NetlinkError> {
        self.connection.change([route::add_default(via, index)]).await
    }

    /// Adds a default route of metric 0, in the place of the one that is there.
    ///
    /// # Errors
    /// As of [`Netlink::add_default_route`].
    pub async fn replace_default_route(&self, via: IpAddr, index: u32) -> Result<(), NetlinkError> {
        self.connection.change([route::replace_default(via, index)]).await
    }

    /// Adds a default route by a device alone, of scope link in IPv4 and of protocol [`ROUTE_PROTOCOL`], unless there is
    /// one of the family: as of [`Netlink::add_default_route`].
    ///
    /// # Errors
    /// [`NetlinkError::NotFound`]; [`NetlinkError::Kernel`] where the device is not up, and others.
    pub async fn default_by_device(&self, index: u32, ipv6: bool) -> Result<(), NetlinkError> {
        self.connection.change([route::default_by_device(index, ipv6)]).await
    }

    /// Adds a route by a device alone, of scope link in IPv4 and of protocol [`ROUTE_PROTOCOL`], in the main table; fine
    /// if it is there. Bits of the destination behind its prefix do not count.
    ///
    /// # Errors
    /// As of [`Netlink::default_by_device`].
    pub async fn add_device_route(&self, index: u32, destination: IpNet) -> Result<(), NetlinkError> {
        self.connection.change([route::add_by_device(index, destination)]).await
    }

    /// Removes a route that [`Netlink::add_device_route`] added; fine if it is gone. Those of other protocols stay.
    ///
    /// # Errors
    /// As the kernel has it.
    pub async fn remove_device_route(&self, index: u32, destination: IpNet) -> Result<(), NetlinkError> {
        unless_gone(self.connection.change([route::remove_by_device(index, destination)]).await)
    }

    /// Has packets to a prefix refused (EHOSTUNREACH) where no longer one leads elsewhere: a route of this metric and of
    /// protocol [`ROUTE_PROTOCOL`]; fine if it is there.
    ///
    /// # Errors
    /// As the kernel has it.
    pub async fn add_unreachable(&self, destination: IpNet, metric: u32) -> Result<(), NetlinkError> {
        self.connection.change([route::add_unreachable(destination, metric)]).await
    }

    /// Removes a route that [`Netlink::add_unreachable`] added; fine if it is gone. Those of other metrics stay.
    ///
    /// # Errors
    /// As the kernel has it.
    pub async fn remove_unreachable(&self, destination: IpNet, metric: u32) -> Result<(), NetlinkError> {
        self.connection.change([route::remove_unreachable(destination, metric)]).await
    }

    /// Has packets to a prefix go by host routes of the main table, or be refused (ENETUNREACH), whatever other routes and
    /// rules there are or come to be: two rules, of this priority and the next, of protocol [`ROUTE_PROTOCOL`]. Fine if they
    /// are there. Links and sysctls that are switched off and on, which take routes with them, leave rules alone.
    ///
    /// # Errors
    /// [`NetlinkError::Kernel`] with EOPNOTSUPP or EAFNOSUPPORT: the kernel is without CONFIG_IPV6_MULTIPLE_TABLES or IPv6.
    pub async fn add_guard(&self, destination: Ipv6Net, priority: u32) -> Result<(), NetlinkError> {
        self.connection.change(route::add_guard(destination, priority)).await
    }

    /// Removes the rules that [`Netlink::add_guard`] added; fine if they are gone.
    ///
    /// # Errors
    /// As of [`Netlink::add_guard`].
    pub async fn remove_guard(&self, destination: Ipv6Net, priority: u32) -> Result<(), NetlinkError> {
        self.connection.change(route::remove_guard(destination, priority)).await
    }

    /// Tells a link for good which station has an address (NUD_PERMANENT), under [`ROUTE_PROTOCOL`] and in the place of
    /// what it knew.
    ///
    /// # Errors
    /// [`NetlinkError::NotFound`] and others.
    pub async fn add_neighbor(&self, index: u32, address: IpAddr, mac: Mac) -> Result<(), NetlinkError> {
        self.connection.change([route::add_neighbor(index, address, mac)]).await
    }

    /// Has a link forget which station has an address, whoever told it; fine if it does not know, or is gone.
    ///
    /// # Errors
    /// As the kernel has it.
    pub async fn remove_neighbor(&self, index: u32, address: IpAddr) -> Result<(), NetlinkError> {
        unless_gone(self.connection.change([route::remove_neighbor(index, address)]).await)
    }

    /// Removes every route, of whatever table, and every neighbor of protocol [`ROUTE_PROTOCOL`]: those of a link, or
    /// all of the namespace.
    ///
    /// # Errors
    /// The first, as the kernel has it; the rest is removed all the same.
    pub async fn remove_ours(&self, index: Option<u32>) -> Result<(), NetlinkError> {
        let mut there = self.connection.dump("list the routes", route::query_routes()).await?;
        there.extend(self.connection.dump("list the neighbors", route::query_neighbors()).await?);
        let mut result = Ok(());
        // One by one: of several, the failure of one whose link has gone meanwhile would hide another's.
        for change in there.iter().filter_map(|message| route::removal(message, index)) {
            result = result.and(unless_gone(self.connection.change([change]).await));
        }
        result
    }

    /// The routes of the main table, v4 and v6, to others than this host itself.
    ///
    /// # Errors
    /// As the kernel has it.
    pub async fn routes(&self) -> Result<Vec<Route>, NetlinkError> {
        let messages = self.connection.dump("list the routes", route::query_routes()).await?;
        Ok(messages.iter().filter_map(Route::from_message).collect())
    }

    /// The way that the kernel would send a packet to an address; `None` if it knows none, or is that address itself.
    ///
    /// # Errors
    /// As the kernel has it.
    pub async fn path(&self, to: Ipv4Addr) -> Result<Option<Path>, NetlinkError> {
        const OPERATION: &str = "find the way to";
        let [answer] = self.connection.transact(OPERATION, [route::query_path(to)]).await?;
        match answer {
            Ok(messages) => Ok(messages.iter().find_map(Path::from_message)),
            Err(refusal) if matches!(refusal.errno, Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EACCES) => {
                Ok(None)
            }
            Err(refusal) => Err(NetlinkError::refused(OPERATION, &to.to_string(), refusal)),
        }
    }

    /// Gives a link addresses, switches it on and adds default routes by it, all in one call to the kernel. Addresses
    /// and default routes that are there are fine. If something fails, the rest may have been done.
    ///
    /// # Errors
    /// The first, as of [`Netlink::add_address`], [`Netlink::set_up`] and [`Netlink::add_default_route`].
    pub async fn configure(&self, index: u32, addresses: &[IpNet], gateways: &[IpAddr]) -> Result<(), NetlinkError> {
        let addresses = addresses.iter().map(|address| route::add_address(index, *address));
        // Behind it, for the kernel refuses routes by a link that is down.
        let gateways = gateways.iter().map(|via| route::add_default(*via, index));
        self.connection.change(addresses.chain([up(index)]).chain(gateways)).await
    }

    /// Follows the links of the calling thread's namespace from now on, until the receiver is dropped.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`].
    pub fn link_events() -> Result<mpsc::UnboundedReceiver<LinkEvent>, NetlinkError> {
        events::follow(None)
    }

    /// Whether anything has changed since it was last asked that packets find their way by: links, addresses or routes of
    /// a namespace, or of the calling thread's, of either family. One event may stand for many; the channel ends when the
    /// socket breaks.
    ///
    /// # Errors
    /// [`NetlinkError::Netns`] or [`NetlinkError::Socket`].
    pub fn path_events(netns: Option<&Netns>) -> Result<mpsc::Receiver<()>, NetlinkError> {
        events::follow_paths(netns)
    }

    /// Follows the links of another namespace, which stays alive meanwhile.
    ///
    /// # Errors
    /// [`NetlinkError::Netns`] or [`NetlinkError::Socket`].
    pub fn link_events_in(netns: &Netns) -> Result<mpsc::UnboundedReceiver<LinkEvent>, NetlinkError> {
        events::follow(Some(netns))
    }
}

fn up(index: u32) -> Change {
    link_change(index, "switch on", link::flag(index, LinkFlags::Up, true))
}

fn link_change(index: u32, operation: &'static str, message: LinkMessage) -> Change {
    let request = Request::acknowledged(RouteNetlinkMessage::SetLink(message));
    Change { operation, object: by_index(index), request, done_if: None }
}

/// A removal whose link has gone, and what was to be removed with it, is done.
fn unless_gone(removed: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    match removed {
        Err(NetlinkError::NotFound { .. }) => Ok(()),
        other => other,
    }
}

fn by_index(index: u32) -> String {
    format!("link {index}")
}

/// The link that a message tells of. Bridges tell of their ports by the same messages, in their own address family:
/// a port that leaves its bridge is not a link that is gone.
fn link_in(message: &RouteNetlinkMessage) -> Option<Link> {
    match message {
        RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) => {
            link::is_of_device(link).then(|| link.into())
        }
        _ => None,
    }
}
