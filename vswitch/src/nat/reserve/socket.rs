//! Sockets that only hold a port.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, Shutdown, SockFlag, SockType, SockaddrStorage, listen, setsockopt, shutdown, sockopt,
};

use crate::model::Protocol;

/// Binds a socket that holds a port. With `absent`, the host need not have the address.
pub(super) fn bind(protocol: Protocol, at: SocketAddr, absent: bool) -> io::Result<OwnedFd> {
    match bound(protocol, at, absent, false) {
        // Recently closed connections on this port (TIME_WAIT) must not prevent the bind.
        Err(error) if protocol == Protocol::Tcp && error.raw_os_error() == Some(libc::EADDRINUSE) => {
            let socket = bound(protocol, at, absent, true)?;
            // Two sockets with SO_REUSEADDR may both be bound. A socket that listens, if only for a
            // moment, revokes the permission to share, which the kernel stores with the port. A
            // successful listen also proves that no other socket listens on the port.
            listen(&socket, Backlog::new(0)?)?;
            setsockopt(&socket, sockopt::ReuseAddr, &false)?;
            shutdown(socket.as_raw_fd(), Shutdown::Read)?;
            Ok(socket)
        }
        result => result,
    }
}

fn bound(protocol: Protocol, at: SocketAddr, absent: bool, share: bool) -> io::Result<OwnedFd> {
    let family = if at.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let kind = if protocol == Protocol::Udp { SockType::Datagram } else { SockType::Stream };
    let socket = open(family, kind, protocol)?;
    if at.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
    }
    if absent {
        // On an IPv6 socket, the option of IPv4 stands for both.
        setsockopt(&socket, sockopt::IpFreebind, &true)?;
    }
    if share {
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    }
    if protocol == Protocol::Udp {
        // No process reads the packets; the kernel uses the smallest possible buffer.
        setsockopt(&socket, sockopt::RcvBuf, &0)?;
    }
    nix::sys::socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(at))?;
    Ok(socket)
}

/// Creates the socket through libc, because nix does not support SCTP.
fn open(family: AddressFamily, kind: SockType, protocol: Protocol) -> io::Result<OwnedFd> {
    use std::os::fd::FromRawFd as _;
    let flags = kind as i32 | SockFlag::SOCK_CLOEXEC.bits();
    // SAFETY: no pointers are passed.
    let descriptor = unsafe { libc::socket(family as i32, flags, i32::from(protocol.number())) };
    let descriptor = Errno::result(descriptor)?;
    // SAFETY: the descriptor was just opened, and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
