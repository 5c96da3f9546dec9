//! Links, addresses and routes by rtnetlink, on the tokio runtime.
//!
//! A connection belongs to one namespace, the one its socket was made in. Its task ends with the last clone of the handle.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd as _, AsRawFd as _};

use futures::TryStreamExt as _;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_packet_core::{ErrorMessage, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE};
use nix::errno::Errno;
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use tokio::sync::mpsc;
use vswitch_common::Mac;

pub use super::link::Link;
use super::netns::{Netns, NetnsError};

/// What rtnetlink refused, and about what.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No socket.
    #[error("cannot open a netlink socket: {0}")]
    Socket(#[source] io::Error),
    /// The namespace could not be entered.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// It is there already.
    #[error("cannot {operation} {object}: it exists already")]
    Exists {
        /// What was to be done.
        operation: &'static str,
        /// To what.
        object: String,
    },
    /// It is not there.
    #[error("cannot {operation} {object}: there is none")]
    NotFound {
        /// What was to be done.
        operation: &'static str,
        /// To what.
        object: String,
    },
    /// Not allowed.
    #[error("cannot {operation} {object}: no permission")]
    Permission {
        /// What was to be done.
        operation: &'static str,
        /// To what.
        object: String,
    },
    /// Anything else.
    #[error("cannot {operation} {object}: {source}")]
    Kernel {
        /// What was to be done.
        operation: &'static str,
        /// To what.
        object: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The conversation with the kernel broke.
    #[error("cannot {operation} {object}: {message}")]
    Protocol {
        /// What was to be done.
        operation: &'static str,
        /// To what.
        object: String,
        /// What went wrong.
        message: String,
    },
}

/// A route, as far as it matters here: where to, by which device, by which gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Whom it is for; 0.0.0.0/0 or ::/0 for the default.
    pub destination: IpNet,
    /// The device.
    pub index: Option<u32>,
    /// The next hop, if it is not on the device's own segment.
    pub gateway: Option<IpAddr>,
    /// The lower is preferred.
    pub metric: u32,
}

/// What happened to a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// It came, or something about it changed.
    Changed(Link),
    /// It went.
    Removed {
        /// Its number.
        index: u32,
        /// Its last name.
        name: String,
    },
    /// Events were lost: look at everything again.
    Lost,
}

/// A pair of veth to be made.
#[derive(Clone, Debug)]
pub struct VethSpec<'a> {
    /// The end in the connection's namespace.
    pub name: &'a str,
    /// Its address; the kernel's choice if none.
    pub mac: Option<Mac>,
    /// The MTU of both.
    pub mtu: u32,
    /// The first end's alias.
    pub alias: Option<&'a str>,
    /// The other end's name.
    pub peer_name: &'a str,
    /// Its address; the kernel's choice if none.
    pub peer_mac: Option<Mac>,
    /// The namespace it is made in; the connection's own if none.
    pub peer_netns: Option<&'a Netns>,
}

/// A connection to rtnetlink in one namespace.
#[derive(Clone, Debug)]
pub struct Netlink {
    handle: Handle,
}

impl Netlink {
    /// In the daemon's own namespace. Has to be called on a runtime.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`].
    pub fn open() -> Result<Self, NetlinkError> {
        TokioSocket::new(NETLINK_ROUTE).map_err(NetlinkError::Socket).map(Self::over)
    }

    /// In another one: a thread goes in, makes the socket and hands it out.
    ///
    /// # Errors
    /// [`NetlinkError::Netns`] or [`NetlinkError::Socket`].
    pub fn open_in(netns: &Netns) -> Result<Self, NetlinkError> {
        let runtime = tokio::runtime::Handle::current();
        let socket = netns.enter(|| {
            let _guard = runtime.enter();
            TokioSocket::new(NETLINK_ROUTE)
        })?;
        socket.map_err(NetlinkError::Socket).map(Self::over)
    }

    fn over(socket: TokioSocket) -> Self {
        let (connection, handle, _) = rtnetlink::from_socket(socket);
        tokio::spawn(connection);
        Self { handle }
    }

    /// Every link of the namespace.
    ///
    /// # Errors
    /// As the kernel has it.
    pub async fn links(&self) -> Result<Vec<Link>, NetlinkError> {
        let links = self.handle.link().get().execute().map_ok(|message| Link::from(&message)).try_collect().await;
        links.map_err(about("list", "links"))
    }

    /// A link by its number.
    ///
    /// # Errors
    /// As the kernel has it; that there is none is no error.
    pub async fn link(&self, index: u32) -> Result<Option<Link>, NetlinkError> {
        self.one(self.handle.link().get().match_index(index), &format!("link {index}")).await
    }

    /// A link by its name.
    ///
    /// # Errors
    /// As the kernel has it; that there is none is no error.
    pub async fn link_by_name(&self, name: &str) -> Result<Option<Link>, NetlinkError> {
        self.one(self.handle.link().get().match_name(name), name).await
    }

    async fn one(&self, request: rtnetlink::LinkGetRequest, object: &str) -> Result<Option<Link>, NetlinkError> {
        match request.execute().try_next().await.map_err(about("find", object)) {
            Ok(message) => Ok(message.as_ref().map(Link::from)),
            Err(NetlinkError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a pair of veth, each end where it belongs and under its final name, in one call. Returns the number of the
    /// first end.
    ///
    /// # Errors
    /// [`NetlinkError::Exists`] with the name that is taken: the peer's, if the first is free.
    pub async fn create_veth(&self, spec: &VethSpec<'_>) -> Result<u32, NetlinkError> {
        let mut peer = LinkMessageBuilder::<LinkUnspec>::new().name(spec.peer_name).mtu(spec.mtu);
        if let Some(mac) = spec.peer_mac {
            peer = peer.address(mac.0.to_vec());
        }
        if let Some(netns) = spec.peer_netns {
            peer = peer.setns_by_fd(netns.as_fd().as_raw_fd());
        }
        let mut first = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name(spec.name)
            .mtu(spec.mtu)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build())));
        if let Some(mac) = spec.mac {
            first = first.address(mac.0.to_vec());
        }
        if let Err(error) = self.handle.link().add(first.build()).execute().await {
            let error = about("make the device", spec.name)(error);
            // The kernel does not say which of the two names is taken.
            return Err(match error {
                NetlinkError::Exists { operation, .. } if self.link_by_name(spec.name).await?.is_none() => {
                    NetlinkError::Exists { operation, object: spec.peer_name.to_owned() }
                }
                error => error,
            });
        }
        let Some(made) = self.link_by_name(spec.name).await? else {
            return Err(NetlinkError::NotFound {
                operation: "find the device just made,",
                object: spec.name.to_owned(),
            });
        };
        // The kernel takes an alias only for a device that exists (rtnl_newlink_create ignores IFLA_IFALIAS).
        if let Some(alias) = spec.alias
            && let Err(error) = self.change(made.index, "mark", |link| link.alias(alias)).await
        {
            self.delete_link(made.index).await?;
            return Err(error);
        }
        Ok(made.index)
    }

    /// Removes a link; fine if it is gone.
    ///
    /// # Errors
    /// As the kernel has it.
    pub async fn delete_link(&self, index: u32) -> Result<(), NetlinkError> {
        match self.handle.link().del(index).execute().await.map_err(about("remove", &format!("link {index}"))) {
            Err(NetlinkError::NotFound { .. }) => Ok(()),
            other => other,
        }
    }

    /// Switches a link on.
    ///
    /// # Errors
    /// [`NetlinkError::NotFound`] and others.
    pub async fn set_up(&self, index: u32) -> Result<(), NetlinkError> {
        self.change(index, "switch on", |link| link.up()).await
    }

    /// Switches a link off.
    ///
    /// # Errors
    /// [`NetlinkError::NotFound`] and others.
    pub async fn set_down(&self, index: u32) -> Result<(), NetlinkError> {
        self.change(index, "switch off", |link| link.down()).await
    }

    /// Sets a link's MTU.
    ///
    /// # Errors
    /// [`NetlinkError::NotFound`], or the driver cannot.
    pub async fn set_mtu(&self, index: u32, mtu: u32) -> Result<(), NetlinkError> {
        self.change(index, "set the MTU of", |link| link.mtu(mtu)).await
    }

    /// Has a link take in all frames, or no longer.
    ///
    /// # Errors
    /// [`NetlinkError::NotFound`] and others.
    pub async fn set_promiscuous(&self, index: u32, on: bool) -> Result<(), NetlinkError> {
        self.change(index, "set the promiscuous mode of", |link| link.promiscuous(on)).await
    }

    async fn change(
        &self,
        index: u32,
        operation: &'static str,
        change: impl FnOnce(LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec>,
    ) -> Result<(), NetlinkError> {
        let message: LinkMessage = change(LinkMessageBuilder::<LinkUnspec>::new().index(index)).build();
        self.handle.link().change(message).execute().await.map_err(about(operation, &format!("link {index}")))
    }

    /// Gives a link an address; fine if it has it.
    ///
    /// # Errors
    /// [`NetlinkError::NotFound`] and others.
    pub async fn add_address(&self, index: u32, address: IpNet) -> Result<(), NetlinkError> {
        let request = self.handle.address().add(index, address.addr(), address.prefix_len());
        match request.execute().await.map_err(about("add the address", &address.to_string())) {
            Err(NetlinkError::Exists { .. }) => Ok(()),
            other => other,
        }
    }

    /// The addresses of a link, or of all.
    ///
    /// # Errors
    /// As the kernel has it.
    pub async fn addresses(&self, index: Option<u32>) -> Result<Vec<(u32, IpNet)>, NetlinkError> {
        let messages: Vec<AddressMessage> =
            self.handle.address().get().execute().try_collect().await.map_err(about("list", "addresses"))?;
        let addresses = messages.iter().filter_map(address);
        Ok(addresses.filter(|(of, _)| index.is_none_or(|index| *of == index)).collect())
    }

    /// Adds a default route; fine if the same is there.
    ///
    /// # Errors
    /// [`NetlinkError::Kernel`] where the gateway cannot be reached by that device, and others.
    pub async fn add_default_route(&self, via: IpAddr, index: u32) -> Result<(), NetlinkError> {
        let message = match via {
            IpAddr::V4(via) => RouteMessageBuilder::<Ipv4Addr>::new().gateway(via).output_interface(index).build(),
            IpAddr::V6(via) => RouteMessageBuilder::<Ipv6Addr>::new().gateway(via).output_interface(index).build(),
        };
        let added = self.handle.route().add(message).execute().await;
        match added.map_err(about("add the default route by", &via.to_string())) {
            Err(NetlinkError::Exists { .. }) => Ok(()),
            other => other,
        }
    }

    /// The unicast routes of the main table, v4 and v6.
    ///
    /// # Errors
    /// As the kernel has it.
    pub async fn routes(&self) -> Result<Vec<Route>, NetlinkError> {
        let mut routes = Vec::new();
        for message in [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()]
        {
            let messages: Vec<RouteMessage> =
                self.handle.route().get(message).execute().try_collect().await.map_err(about("list", "routes"))?;
            routes.extend(messages.iter().filter_map(route));
        }
        Ok(routes)
    }

    /// Follows the links of the daemon's own namespace from now on, until the receiver is dropped.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`].
    pub fn link_events() -> Result<mpsc::UnboundedReceiver<LinkEvent>, NetlinkError> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE).map_err(NetlinkError::Socket)?;
        // RTMGRP_LINK, bit 0 of the legacy groups (linux/rtnetlink.h).
        socket.socket_mut().bind(&SocketAddr::new(0, 1)).map_err(NetlinkError::Socket)?;
        let (sender, receiver) = mpsc::unbounded_channel();
        tokio::spawn(follow(socket, sender));
        Ok(receiver)
    }
}

/// Reads link events off a socket. By hand, not through a connection: that would not tell of an overrun.
async fn follow(socket: TokioSocket, events: mpsc::UnboundedSender<LinkEvent>) {
    let mut buffer = bytes::BytesMut::with_capacity(64 * 1024);
    loop {
        buffer.clear();
        let received = tokio::select! {
            received = socket.recv(&mut buffer) => received,
            () = events.closed() => return,
        };
        if let Err(error) = received {
            let overrun = error.raw_os_error() == Some(libc::ENOBUFS);
            tracing::warn!("link events: {error}");
            if events.send(LinkEvent::Lost).is_err() || !overrun {
                return;
            }
            continue;
        }
        let mut rest = &buffer[..];
        while let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest) {
            let length = (message.header.length as usize).next_multiple_of(4).max(16);
            let event = match &message.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
                    Some(LinkEvent::Changed(Link::from(link)))
                }
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) => {
                    let Link { index, name, .. } = Link::from(link);
                    Some(LinkEvent::Removed { index, name })
                }
                _ => None,
            };
            if event.is_some_and(|event| events.send(event).is_err()) {
                return;
            }
            match rest.get(length..) {
                Some(next) if !next.is_empty() => rest = next,
                _ => break,
            }
        }
    }
}

/// Turns what rtnetlink says about an object into an error that names it.
fn about(operation: &'static str, object: &str) -> impl FnOnce(rtnetlink::Error) -> NetlinkError {
    let object = object.to_owned();
    move |error| match error {
        rtnetlink::Error::NetlinkError(message) => refused(operation, object, &message),
        other => NetlinkError::Protocol { operation, object, message: other.to_string() },
    }
}

fn refused(operation: &'static str, object: String, message: &ErrorMessage) -> NetlinkError {
    let source = message.to_io();
    match Errno::from_raw(source.raw_os_error().unwrap_or(0)) {
        Errno::EEXIST => NetlinkError::Exists { operation, object },
        Errno::ENODEV | Errno::ENXIO => NetlinkError::NotFound { operation, object },
        Errno::EPERM | Errno::EACCES => NetlinkError::Permission { operation, object },
        _ => NetlinkError::Kernel { operation, object, source },
    }
}

fn address(message: &AddressMessage) -> Option<(u32, IpNet)> {
    // On a point-to-point link ADDRESS is the far end; LOCAL is ours. Without LOCAL (IPv6) they are one.
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let address = local.or_else(|| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })?;
    Some((message.header.index, IpNet::new(address, message.header.prefix_len).ok()?))
}

fn route(message: &RouteMessage) -> Option<Route> {
    if message.header.kind != RouteType::Unicast || message.header.table != RouteHeader::RT_TABLE_MAIN {
        return None;
    }
    let length = message.header.destination_prefix_length;
    let mut route = Route {
        destination: match message.header.address_family {
            AddressFamily::Inet => Ipv4Net::new(Ipv4Addr::UNSPECIFIED, 0).ok()?.into(),
            AddressFamily::Inet6 => Ipv6Net::new(Ipv6Addr::UNSPECIFIED, 0).ok()?.into(),
            _ => return None,
        },
        index: None,
        gateway: None,
        metric: 0,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => {
                route.destination = Ipv4Net::new(*address, length).ok()?.into();
            }
            RouteAttribute::Destination(RouteAddress::Inet6(address)) => {
                route.destination = Ipv6Net::new(*address, length).ok()?.into();
            }
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => route.gateway = Some((*address).into()),
            RouteAttribute::Gateway(RouteAddress::Inet6(address)) => route.gateway = Some((*address).into()),
            RouteAttribute::Oif(index) => route.index = Some(*index),
            RouteAttribute::Priority(metric) => route.metric = *metric,
            _ => {}
        }
    }
    Some(route)
}
