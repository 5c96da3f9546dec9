//! Deletes entries of the kernel's connection tracking. A UDP flow that continues would otherwise
//! keep its old address translation, to a container that was removed.

mod message;

use std::io;
use std::net::IpAddr;

use netlink_packet_core::NetlinkBuffer;
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;

use message::{Answer, Entry};

/// Selection of tracked connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flows {
    /// Connections whose first packet was sent to a port.
    ToPort {
        /// Protocol number of the IP header.
        protocol: u8,
        /// Destination port before translation.
        port: u16,
        /// Destination address before translation; `None` matches any address.
        address: Option<IpAddr>,
    },
    /// Connections that are translated to an address: the source address of their replies.
    AnsweredBy(IpAddr),
}

/// Error of listing or deleting tracked connections.
#[derive(Debug, thiserror::Error)]
pub enum ConntrackError {
    /// The netlink socket cannot be opened.
    #[error("cannot open a netlink socket for connection tracking: {0}")]
    Socket(#[source] io::Error),
    /// The kernel has no netlink interface to connection tracking.
    #[error("the kernel cannot list tracked connections: it was built without CONFIG_NF_CT_NETLINK")]
    Unsupported,
    /// The process lacks the permission.
    #[error("cannot {0} tracked connections: no permission")]
    Permission(&'static str),
    /// Any other error of the kernel.
    #[error("cannot {action} tracked connections: {}", errno.desc())]
    Kernel {
        /// Action that failed.
        action: &'static str,
        /// Error number of the kernel.
        errno: Errno,
    },
    /// Sending or receiving on the socket failed.
    #[error("cannot {action} tracked connections: {source}")]
    Io {
        /// Action that failed.
        action: &'static str,
        /// Error of the socket.
        source: io::Error,
    },
    /// The list changed during each attempt to read it.
    #[error("cannot list tracked connections: the list keeps changing during the read")]
    Changing,
    /// The worker thread panicked or was cancelled.
    #[error("a worker thread of the daemon failed: {0}")]
    Thread(#[from] tokio::task::JoinError),
}

/// Maximum number of attempts to read a list that changes during the read.
const MAX_ATTEMPTS: usize = 5;

/// Deletes matching connections in the namespace of the daemon's threads and returns their number.
/// The next packet of such a flow starts a new connection. The function reads the list of all
/// tracked connections on a blocking thread, which takes a millisecond per thousand connections.
///
/// # Errors
/// The kernel refused a request. Some of the connections may already be deleted.
pub async fn forget(flows: Vec<Flows>) -> Result<usize, ConntrackError> {
    if flows.is_empty() {
        return Ok(0);
    }
    tokio::task::spawn_blocking(move || forget_now(&flows)).await?
}

/// Deletes matching connections in the namespace of the calling thread and returns their number.
///
/// # Errors
/// As [`forget`].
pub fn forget_now(flows: &[Flows]) -> Result<usize, ConntrackError> {
    let socket = Socket::new(NETLINK_NETFILTER).map_err(ConntrackError::Socket)?;
    socket.connect(&SocketAddr::new(0, 0)).map_err(ConntrackError::Socket)?;
    let mut deleted = 0;
    for _ in 0..MAX_ATTEMPTS {
        let mut found = Vec::new();
        let complete = list(&socket, |entry| {
            if flows.iter().any(|flows| flows.matches(&entry)) {
                found.push(entry);
            }
        })?;
        for entry in &found {
            deleted += usize::from(delete(&socket, entry)?);
        }
        if complete {
            return Ok(deleted);
        }
    }
    Err(ConntrackError::Changing)
}

impl Flows {
    fn matches(&self, entry: &Entry) -> bool {
        match *self {
            Self::ToPort { protocol, port, address } => {
                let first = &entry.original;
                (first.protocol, first.destination_port) == (Some(protocol), Some(port))
                    && address.is_none_or(|address| first.destination == Some(address))
            }
            Self::AnsweredBy(address) => entry.reply.source == Some(address),
        }
    }
}

/// Calls `each` for every tracked connection. Returns false if the list changed during the read, so
/// that connections may be missing.
fn list(socket: &Socket, mut each: impl FnMut(Entry)) -> Result<bool, ConntrackError> {
    const ACTION: &str = "list";
    send(socket, &message::dump(), ACTION)?;
    let mut complete = true;
    loop {
        for answer in receive(socket, ACTION)? {
            match answer {
                Answer::Entry(entry) => each(*entry),
                Answer::Interrupted => complete = false,
                Answer::End(None) => return Ok(complete),
                Answer::End(Some(errno)) => return Err(refused(ACTION, errno)),
            }
        }
    }
}

/// Deletes a connection. Returns false if it no longer existed.
fn delete(socket: &Socket, entry: &Entry) -> Result<bool, ConntrackError> {
    const ACTION: &str = "delete";
    send(socket, &message::delete(entry), ACTION)?;
    loop {
        for answer in receive(socket, ACTION)? {
            match answer {
                Answer::End(None) => return Ok(true),
                Answer::End(Some(Errno::ENOENT)) => return Ok(false),
                Answer::End(Some(errno)) => return Err(refused(ACTION, errno)),
                Answer::Entry(_) | Answer::Interrupted => {}
            }
        }
    }
}

fn refused(action: &'static str, errno: Errno) -> ConntrackError {
    match errno {
        Errno::EPERM | Errno::EACCES => ConntrackError::Permission(action),
        // No subsystem handles the request.
        Errno::EINVAL | Errno::EOPNOTSUPP => ConntrackError::Unsupported,
        errno => ConntrackError::Kernel { action, errno },
    }
}

fn send(socket: &Socket, message: &[u8], action: &'static str) -> Result<(), ConntrackError> {
    socket.send(message, 0).map(drop).map_err(|source| ConntrackError::Io { action, source })
}

/// Returns the messages of the next datagram.
fn receive(socket: &Socket, action: &'static str) -> Result<Vec<Answer>, ConntrackError> {
    let datagram = loop {
        match socket.recv_from_full() {
            Ok((datagram, _)) => break datagram,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(ConntrackError::Io { action, source }),
        }
    };
    let mut rest = &datagram[..];
    let mut answers = Vec::new();
    while let Ok(header) = NetlinkBuffer::new_checked(rest) {
        let length = header.length() as usize;
        answers.extend(message::parse(&rest[..length]));
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(answers)
}

#[cfg(test)]
mod tests {
    use super::*;

    use message::Tuple;

    #[test]
    fn flows_match_by_original_destination_or_reply_source() {
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        let entry = Entry {
            original: Tuple {
                destination: Some(address("192.0.2.1")),
                protocol: Some(17),
                destination_port: Some(53),
                ..Tuple::default()
            },
            reply: Tuple { source: Some(address("172.17.0.2")), ..Tuple::default() },
            ..Entry::default()
        };
        let matches = |protocol, port, address| Flows::ToPort { protocol, port, address }.matches(&entry);
        assert!(matches(17, 53, None) && matches(17, 53, Some(address("192.0.2.1"))));
        assert!(!matches(6, 53, None) && !matches(17, 54, None) && !matches(17, 53, Some(address("192.0.2.2"))));
        assert!(Flows::AnsweredBy(address("172.17.0.2")).matches(&entry));
        assert!(!Flows::AnsweredBy(address("192.0.2.1")).matches(&entry));
    }
}
