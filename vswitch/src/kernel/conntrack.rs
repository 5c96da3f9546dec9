//! Connections that the kernel tracks, and forgetting them: a UDP flow that goes on keeps the translation that it began
//! with, to a container that is gone.

mod message;

use std::io;
use std::net::IpAddr;

use netlink_packet_core::NetlinkBuffer;
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;

use message::{Answer, Entry};

/// Which connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flows {
    /// Those that were begun to a port.
    ToPort {
        /// The protocol's number in the IP header.
        protocol: u8,
        /// The port, before it was translated.
        port: u16,
        /// The address before it was translated; any if there is none.
        address: Option<IpAddr>,
    },
    /// Those that an address answers, which is where they were translated to.
    AnsweredBy(IpAddr),
}

/// The kernel did not forget them.
#[derive(Debug, thiserror::Error)]
pub enum ConntrackError {
    /// No socket.
    #[error("cannot open a netlink socket for connection tracking: {0}")]
    Socket(#[source] io::Error),
    /// The kernel cannot do it.
    #[error("the kernel does not show its tracked connections: it was built without CONFIG_NF_CT_NETLINK")]
    Unsupported,
    /// Not allowed.
    #[error("cannot {0} tracked connections: no permission")]
    Permission(&'static str),
    /// Anything else.
    #[error("cannot {action} tracked connections: {}", errno.desc())]
    Kernel {
        /// What was tried.
        action: &'static str,
        /// The kernel's error number.
        errno: Errno,
    },
    /// No answer.
    #[error("cannot {action} tracked connections: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// What came of it.
        source: io::Error,
    },
    /// A list that was another each time it was read.
    #[error("cannot list tracked connections: they keep changing while they are read")]
    Unsteady,
    /// A thread of ours died.
    #[error("a thread of the daemon failed: {0}")]
    Thread(#[from] tokio::task::JoinError),
}

/// How often a list is read that changes meanwhile.
const ATTEMPTS: usize = 5;

/// Forgets connections in the namespace of the daemon's threads, and returns how many. The next packet of such a flow
/// begins a new one. All that are tracked are read to find them: a millisecond per thousand, on a thread of its own.
///
/// # Errors
/// What the kernel said. Some may be forgotten.
pub async fn forget(flows: Vec<Flows>) -> Result<usize, ConntrackError> {
    if flows.is_empty() {
        return Ok(0);
    }
    tokio::task::spawn_blocking(move || forget_now(&flows)).await?
}

/// The same, in the namespace of the calling thread.
///
/// # Errors
/// As [`forget`].
pub fn forget_now(flows: &[Flows]) -> Result<usize, ConntrackError> {
    let socket = Socket::new(NETLINK_NETFILTER).map_err(ConntrackError::Socket)?;
    socket.connect(&SocketAddr::new(0, 0)).map_err(ConntrackError::Socket)?;
    let mut forgotten = 0;
    for _ in 0..ATTEMPTS {
        let mut found = Vec::new();
        let whole = list(&socket, |entry| {
            if flows.iter().any(|flows| flows.matches(&entry)) {
                found.push(entry);
            }
        })?;
        for entry in &found {
            forgotten += usize::from(delete(&socket, entry)?);
        }
        if whole {
            return Ok(forgotten);
        }
    }
    Err(ConntrackError::Unsteady)
}

impl Flows {
    fn matches(&self, entry: &Entry) -> bool {
        match *self {
            Self::ToPort { protocol, port, address } => {
                let to = &entry.original;
                (to.protocol, to.destination_port) == (Some(protocol), Some(port))
                    && address.is_none_or(|address| to.destination == Some(address))
            }
            Self::AnsweredBy(address) => entry.reply.source == Some(address),
        }
    }
}

/// Reads all connections, and returns whether none can have been missed.
fn list(socket: &Socket, mut each: impl FnMut(Entry)) -> Result<bool, ConntrackError> {
    const ACTION: &str = "list";
    send(socket, &message::dump(), ACTION)?;
    let mut whole = true;
    loop {
        for answer in receive(socket, ACTION)? {
            match answer {
                Answer::Entry(entry) => each(*entry),
                Answer::Interrupted => whole = false,
                Answer::End(None) => return Ok(whole),
                Answer::End(Some(errno)) => return Err(refused(ACTION, errno)),
            }
        }
    }
}

/// Whether it was still there.
fn delete(socket: &Socket, entry: &Entry) -> Result<bool, ConntrackError> {
    const ACTION: &str = "forget";
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
        // Nobody answers for this subsystem.
        Errno::EINVAL | Errno::EOPNOTSUPP => ConntrackError::Unsupported,
        errno => ConntrackError::Kernel { action, errno },
    }
}

fn send(socket: &Socket, message: &[u8], action: &'static str) -> Result<(), ConntrackError> {
    socket.send(message, 0).map(drop).map_err(|source| ConntrackError::Io { action, source })
}

/// The answers in one datagram.
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
        answers.extend(message::read(&rest[..length]));
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(answers)
}

#[cfg(test)]
mod tests {
    use super::*;

    use message::Tuple;

    #[test]
    fn flows_are_found_by_either_end() {
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
        let to = |protocol, port, address| Flows::ToPort { protocol, port, address }.matches(&entry);
        assert!(to(17, 53, None) && to(17, 53, Some(address("192.0.2.1"))));
        assert!(!to(6, 53, None) && !to(17, 54, None) && !to(17, 53, Some(address("192.0.2.2"))));
        assert!(Flows::AnsweredBy(address("172.17.0.2")).matches(&entry));
        assert!(!Flows::AnsweredBy(address("192.0.2.1")).matches(&entry));
    }
}
