//! Receives the kernel's events about links and paths. The module reads the socket itself instead
//! of using a connection: a connection's task would outlive the receiver of the events, and would
//! not discard the queue after an overrun.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use bytes::BytesMut;
use netlink_packet_core::{NetlinkBuffer, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol};
use netlink_sys::{AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::sync::mpsc;

use super::connection::open_socket;
use super::route::ROUTE_PROTOCOL;
use super::{NetlinkError, parse_link};
use crate::kernel::link::Link;
use crate::kernel::netns::Netns;

/// A change of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// The link was added, or one of its properties changed.
    Changed(Link),
    /// The link was removed, or moved to another namespace.
    Removed {
        /// Interface index.
        index: u32,
        /// Last name of the link.
        name: String,
    },
    /// Events were lost, and the queued ones were discarded. The receiver must read the state of
    /// all links again.
    Lost,
}

/// Links that changed, or whose addresses or routes changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Touched {
    /// The interface indexes, with the name if the link itself changed.
    Links(BTreeMap<u32, Option<String>>),
    /// Events were lost. The receiver must read the state of all links again.
    Lost,
}

/// A subscription to changes of links, of addresses, and of routes that are removed.
pub struct TouchEvents {
    socket: TokioSocket,
    buffer: BytesMut,
}

impl fmt::Debug for TouchEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TouchEvents").finish_non_exhaustive()
    }
}

impl TouchEvents {
    /// Subscribes in the calling thread's namespace.
    ///
    /// # Errors
    /// [`NetlinkError::Socket`].
    pub fn open() -> Result<Self, NetlinkError> {
        let mut socket = open_socket(None)?;
        enlarge_buffer(&socket);
        socket.socket_mut().bind(&SocketAddr::new(0, PATH_GROUPS)).map_err(NetlinkError::Socket)?;
        Ok(Self { socket, buffer: BytesMut::new() })
    }

    /// Waits for the next changes. The future may be dropped while it waits; no event is lost.
    ///
    /// # Errors
    /// The socket failed.
    pub async fn next(&mut self) -> io::Result<Touched> {
        Ok(if receive(&self.socket, &mut self.buffer).await? { parse_touched(&self.buffer) } else { Touched::Lost })
    }
}

/// Multicast group RTMGRP_LINK, bit 0 of the legacy groups (linux/rtnetlink.h).
const LINK_GROUP: u32 = 1;
/// Multicast groups RTMGRP_LINK, and RTMGRP_IFADDR and RTMGRP_ROUTE of both families. The kernel
/// sends no route event for IPv4 routes that it removes together with their link or address.
const PATH_GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;
/// Size of the socket's receive buffer in bytes: room for some hundreds of events, several times
/// the default.
const RECEIVE_BUFFER: usize = 1 << 20;
/// Size of the receive buffer for one datagram in bytes, more than the kernel sends at once.
const MAX_DATAGRAM: usize = 64 << 10;

/// Starts a task that sends the link events of a namespace until the receiver is dropped.
pub(super) fn subscribe_to_links(netns: Option<&Netns>) -> Result<mpsc::UnboundedReceiver<LinkEvent>, NetlinkError> {
    let mut socket = open_socket(netns)?;
    enlarge_buffer(&socket);
    socket.socket_mut().bind(&SocketAddr::new(0, LINK_GROUP)).map_err(NetlinkError::Socket)?;
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(forward_events(socket, sender));
    Ok(receiver)
}

/// Starts a task that reports changes of links, addresses and routes. The event has no details,
/// because a host with many routes produces too many changes to read them all.
pub(super) fn subscribe_to_paths(netns: Option<&Netns>) -> Result<mpsc::Receiver<()>, NetlinkError> {
    let mut socket = open_socket(netns)?;
    socket.socket_mut().bind(&SocketAddr::new(0, PATH_GROUPS)).map_err(NetlinkError::Socket)?;
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut buffer = BytesMut::new();
        loop {
            let received = tokio::select! {
                received = receive(&socket, &mut buffer) => received,
                () = sender.closed() => return,
            };
            if let Err(error) = received {
                tracing::error!("cannot receive path events: {error}");
                return;
            }
            // If the channel is full, a queued event already reports the change.
            let _queued = sender.try_send(());
        }
    });
    Ok(receiver)
}

fn enlarge_buffer(socket: &TokioSocket) {
    // SAFETY: the descriptor is the socket's, which outlives the borrow.
    let descriptor = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
    if let Err(errno) = setsockopt(&descriptor, sockopt::RcvBufForce, &RECEIVE_BUFFER) {
        tracing::warn!("cannot enlarge the receive buffer for link events: {errno}");
    }
}

async fn forward_events(socket: TokioSocket, sender: mpsc::UnboundedSender<LinkEvent>) {
    let mut buffer = BytesMut::new();
    loop {
        let received = tokio::select! {
            received = receive(&socket, &mut buffer) => received,
            () = sender.closed() => return,
        };
        let events = match received {
            Ok(true) => parse_events(&buffer),
            Ok(false) => vec![LinkEvent::Lost],
            Err(error) => {
                tracing::error!("cannot receive link events: {error}");
                return;
            }
        };
        for event in events {
            if sender.send(event).is_err() {
                return;
            }
        }
    }
}

/// Waits for the next datagram of the kernel. Returns true if it is in the buffer, false if events
/// were lost.
async fn receive(socket: &TokioSocket, buffer: &mut BytesMut) -> io::Result<bool> {
    loop {
        buffer.clear();
        buffer.reserve(MAX_DATAGRAM);
        match socket.recv_from(buffer).await {
            // Processes can also send to the socket. The kernel has port 0.
            Ok(sender) if sender.port_number() != 0 => {}
            Ok(_) => return Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                discard(socket, buffer);
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Discards all queued datagrams. Until the queue is empty, the kernel keeps dropping events
/// without another ENOBUFS error (NETLINK_S_CONGESTED). The state must therefore be read again
/// after this call.
fn discard(socket: &TokioSocket, buffer: &mut BytesMut) {
    loop {
        buffer.clear();
        buffer.reserve(MAX_DATAGRAM);
        match socket.socket_ref().recv(buffer, libc::MSG_DONTWAIT) {
            // The queue is empty, or the socket failed, which the next read reports again.
            Err(error) if error.raw_os_error() != Some(libc::ENOBUFS) => return,
            _ => {}
        }
    }
}

/// Calls `each` on the messages in one datagram; `None` is one that cannot be parsed.
fn for_each(mut datagram: &[u8], mut each: impl FnMut(Option<NetlinkPayload<RouteNetlinkMessage>>)) {
    while let Ok(header) = NetlinkBuffer::new_checked(datagram) {
        let length = header.length() as usize;
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&datagram[..length]);
        if let Err(error) = &message {
            tracing::debug!("cannot parse an event of rtnetlink: {error}");
        }
        each(message.ok().map(|message| message.payload));
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
}

/// Returns the events in one datagram.
fn parse_events(datagram: &[u8]) -> Vec<LinkEvent> {
    let mut events = Vec::new();
    for_each(datagram, |message| match message {
        Some(payload) => events.extend(parse_event(payload)),
        None => events.push(LinkEvent::Lost),
    });
    events
}

/// Returns the links that the messages in one datagram are about.
fn parse_touched(datagram: &[u8]) -> Touched {
    let (mut links, mut lost) = (BTreeMap::new(), false);
    for_each(datagram, |message| match message {
        Some(NetlinkPayload::InnerMessage(message)) => {
            let (index, name) = match &message {
                RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address) => {
                    (Some(address.header.index), None)
                }
                // Routing daemons of hosts with many routes change theirs all the time.
                RouteNetlinkMessage::DelRoute(route) if is_lasting(route) => (output_link(route), None),
                message => parse_link(message).map(|link| (link.index, link.name)).unzip(),
            };
            if let Some(index) = index {
                let known = links.entry(index).or_insert(None);
                *known = name.or_else(|| known.take());
            }
        }
        Some(_) => {}
        None => lost = true,
    });
    if lost { Touched::Lost } else { Touched::Links(links) }
}

/// Returns whether a route is one that the kernel or vswitch made.
fn is_lasting(route: &RouteMessage) -> bool {
    matches!(route.header.protocol, RouteProtocol::Kernel | RouteProtocol::Other(ROUTE_PROTOCOL))
}

fn output_link(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

fn parse_event(payload: NetlinkPayload<RouteNetlinkMessage>) -> Option<LinkEvent> {
    let NetlinkPayload::InnerMessage(message) = payload else { return None };
    let link = parse_link(&message)?;
    Some(match message {
        RouteNetlinkMessage::DelLink(_) => LinkEvent::Removed { index: link.index, name: link.name },
        _ => LinkEvent::Changed(link),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    use netlink_packet_route::AddressFamily;
    use netlink_packet_route::link::{LinkAttribute, LinkMessage};

    fn link(family: AddressFamily) -> LinkMessage {
        let mut link = LinkMessage::default();
        link.header.index = 5;
        link.header.interface_family = family;
        link.attributes.push(LinkAttribute::IfName("eth5".to_owned()));
        link
    }

    fn datagram(message: RouteNetlinkMessage) -> Vec<u8> {
        let mut message = NetlinkMessage::from(message);
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }

    #[test]
    fn all_events_of_a_datagram_are_parsed() {
        let changed = datagram(RouteNetlinkMessage::NewLink(link(AddressFamily::Unspec)));
        let removed = datagram(RouteNetlinkMessage::DelLink(link(AddressFamily::Unspec)));
        let both = parse_events(&[changed, removed].concat());
        assert!(matches!(&both[0], LinkEvent::Changed(link) if link.name == "eth5"));
        assert_eq!(both[1..], [LinkEvent::Removed { index: 5, name: "eth5".to_owned() }]);
    }

    #[test]
    fn a_port_that_leaves_its_bridge_is_not_removed() {
        assert_eq!(parse_events(&datagram(RouteNetlinkMessage::DelLink(link(AddressFamily::Bridge)))), []);
    }

    #[test]
    fn links_are_touched_by_their_addresses_and_by_the_removal_of_routes() {
        let route = |protocol, index| {
            let mut route = RouteMessage::default();
            route.header.protocol = protocol;
            route.attributes.push(RouteAttribute::Oif(index));
            route
        };
        let mut address = netlink_packet_route::address::AddressMessage::default();
        address.header.index = 6;
        let messages = [
            RouteNetlinkMessage::NewLink(link(AddressFamily::Unspec)),
            RouteNetlinkMessage::DelAddress(address),
            RouteNetlinkMessage::DelRoute(route(RouteProtocol::Kernel, 7)),
            RouteNetlinkMessage::DelRoute(route(RouteProtocol::Other(ROUTE_PROTOCOL), 5)),
            RouteNetlinkMessage::DelRoute(route(RouteProtocol::Bird, 8)),
            RouteNetlinkMessage::NewRoute(route(RouteProtocol::Kernel, 9)),
        ];
        let datagrams: Vec<u8> = messages.into_iter().flat_map(datagram).collect();
        let expected = BTreeMap::from([(5, Some("eth5".to_owned())), (6, None), (7, None)]);
        assert_eq!(parse_touched(&datagrams), Touched::Links(expected));
    }

    #[test]
    fn a_malformed_event_is_reported_as_lost_and_the_next_one_is_parsed() {
        // A message that is only a header, too short for the struct ifinfomsg of a link event.
        let mut malformed = vec![0; 16];
        malformed[0] = 16;
        malformed[4] = 16;
        let removed = datagram(RouteNetlinkMessage::DelLink(link(AddressFamily::Unspec)));
        let both = parse_events(&[malformed, removed].concat());
        assert_eq!(both, [LinkEvent::Lost, LinkEvent::Removed { index: 5, name: "eth5".to_owned() }]);
        assert_eq!(parse_events(&[0; 10]), []);
    }
}
