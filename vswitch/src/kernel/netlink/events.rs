//! Changes of links, as the kernel reports them. By hand, not through a connection: the task of one would outlive its
//! listener, and an overrun would have it discard nothing.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use bytes::BytesMut;
use netlink_packet_core::{NetlinkBuffer, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::sync::mpsc;

use super::connection::open_socket;
use super::{NetlinkError, link_in};
use crate::kernel::link::Link;
use crate::kernel::netns::Netns;

/// What happened to a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// It came, or something about it changed.
    Changed(Link),
    /// It went, or is in another namespace now.
    Removed {
        /// Its number.
        index: u32,
        /// Its last name.
        name: String,
    },
    /// Events were lost, and those that waited are discarded: look at everything again.
    Lost,
}

/// RTMGRP_LINK, bit 0 of the legacy groups (linux/rtnetlink.h).
const GROUP: u32 = 1;
/// RTMGRP_LINK, and of each family RTMGRP_IFADDR and RTMGRP_ROUTE: IPv4 routes go with their links and addresses unsaid.
const PATH_GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;
/// What the kernel keeps for us: some hundreds of events, several times its default.
const BACKLOG: usize = 1 << 20;
/// More than the kernel puts into one datagram.
const DATAGRAM: usize = 64 << 10;

/// Follows the links of a namespace until the receiver is dropped.
pub(super) fn follow(netns: Option<&Netns>) -> Result<mpsc::UnboundedReceiver<LinkEvent>, NetlinkError> {
    let mut socket = open_socket(netns)?;
    // SAFETY: the descriptor is the socket's, which outlives the borrow.
    let descriptor = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
    if let Err(errno) = setsockopt(&descriptor, sockopt::RcvBufForce, &BACKLOG) {
        tracing::warn!("link events have less room than wanted: {errno}");
    }
    socket.socket_mut().bind(&SocketAddr::new(0, GROUP)).map_err(NetlinkError::Socket)?;
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(pass_on(socket, sender));
    Ok(receiver)
}

/// Says that something of the paths has changed, not what: a host with many routes has more news than anybody reads.
pub(super) fn follow_paths(netns: Option<&Netns>) -> Result<mpsc::Receiver<()>, NetlinkError> {
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
                tracing::error!("events of routes: {error}");
                return;
            }
            // One that waits says it already.
            let _waits = sender.try_send(());
        }
    });
    Ok(receiver)
}

async fn pass_on(socket: TokioSocket, listener: mpsc::UnboundedSender<LinkEvent>) {
    let mut buffer = BytesMut::new();
    loop {
        let received = tokio::select! {
            received = receive(&socket, &mut buffer) => received,
            () = listener.closed() => return,
        };
        let events = match received {
            Ok(true) => events(&buffer),
            Ok(false) => vec![LinkEvent::Lost],
            Err(error) => {
                tracing::error!("link events: {error}");
                return;
            }
        };
        for event in events {
            if listener.send(event).is_err() {
                return;
            }
        }
    }
}

/// Waits for what the kernel sends next: true if it is in the buffer, false if some was lost.
async fn receive(socket: &TokioSocket, buffer: &mut BytesMut) -> io::Result<bool> {
    loop {
        buffer.clear();
        buffer.reserve(DATAGRAM);
        match socket.recv_from(buffer).await {
            // Others than the kernel may send to the socket.
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

/// Reads off what waits. Until nothing does, the kernel goes on to drop events, and does not say so again
/// (NETLINK_S_CONGESTED): only who looks after that sees everything.
fn discard(socket: &TokioSocket, buffer: &mut BytesMut) {
    loop {
        buffer.clear();
        buffer.reserve(DATAGRAM);
        match socket.socket_ref().recv(buffer, libc::MSG_DONTWAIT) {
            // Nothing waits any more; or something worse, which comes again when it is next read from.
            Err(error) if error.raw_os_error() != Some(libc::ENOBUFS) => return,
            _ => {}
        }
    }
}

/// The events in one datagram.
fn events(mut datagram: &[u8]) -> Vec<LinkEvent> {
    let mut events = Vec::new();
    while let Ok(header) = NetlinkBuffer::new_checked(datagram) {
        let length = header.length() as usize;
        match NetlinkMessage::<RouteNetlinkMessage>::deserialize(&datagram[..length]) {
            Ok(message) => events.extend(event(message.payload)),
            Err(error) => {
                tracing::warn!("a link event cannot be read: {error}");
                events.push(LinkEvent::Lost);
            }
        }
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    events
}

fn event(payload: NetlinkPayload<RouteNetlinkMessage>) -> Option<LinkEvent> {
    let NetlinkPayload::InnerMessage(message) = payload else { return None };
    let link = link_in(&message)?;
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
    fn events_are_read_one_after_the_other() {
        let changed = datagram(RouteNetlinkMessage::NewLink(link(AddressFamily::Unspec)));
        let removed = datagram(RouteNetlinkMessage::DelLink(link(AddressFamily::Unspec)));
        let both = events(&[changed, removed].concat());
        assert!(matches!(&both[0], LinkEvent::Changed(link) if link.name == "eth5"));
        assert_eq!(both[1..], [LinkEvent::Removed { index: 5, name: "eth5".to_owned() }]);
    }

    #[test]
    fn a_port_that_leaves_its_bridge_is_not_gone() {
        assert_eq!(events(&datagram(RouteNetlinkMessage::DelLink(link(AddressFamily::Bridge)))), []);
    }

    #[test]
    fn an_event_that_cannot_be_read_is_lost_and_those_behind_it_are_not() {
        // A header that announces nothing but itself: no room for what a link event begins with.
        let mut broken = vec![0; 16];
        broken[0] = 16;
        broken[4] = 16;
        let removed = datagram(RouteNetlinkMessage::DelLink(link(AddressFamily::Unspec)));
        let both = events(&[broken, removed].concat());
        assert_eq!(both, [LinkEvent::Lost, LinkEvent::Removed { index: 5, name: "eth5".to_owned() }]);
        assert_eq!(events(&[0; 10]), []);
    }
}
