//! UDP sockets of the userspace backend, one per address family on the same port, with system calls
//! for many datagrams.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, SockaddrStorage, bind, recvmsg,
    sendmsg, setsockopt, socket, sockopt,
};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::batch::Batch;

/// Size of the socket buffers in bytes: some milliseconds at 10 Gbit/s.
const BUFFER_SIZE: usize = 4 << 20;

/// Both sockets, not yet registered with the runtime.
pub(super) struct UnregisteredSockets {
    v4: OwnedFd,
    v6: OwnedFd,
}

impl UnregisteredSockets {
    /// Opens the sockets in the namespace of the calling thread.
    ///
    /// # Errors
    /// `EADDRINUSE` if the port is in use, or another error of the kernel.
    pub(super) fn on(port: u16) -> io::Result<Self> {
        let v4 = open(AddressFamily::Inet, (Ipv4Addr::UNSPECIFIED, port).into())?;
        let v6 = open(AddressFamily::Inet6, (Ipv6Addr::UNSPECIFIED, port).into())?;
        Ok(Self { v4, v6 })
    }
}

fn open(family: AddressFamily, address: SocketAddr) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, SockType::Datagram, flags, None)?;
    // Like the kernel's WireGuard: allow routers to fragment datagrams that are too long.
    let (level, option) = match address {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, (libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)),
        SocketAddr::V6(_) => {
            setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
            (libc::IPPROTO_IPV6, (libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT))
        }
    };
    let (name, value) = option;
    // SAFETY: `length` is the size of `value`, which outlives the call.
    let set = unsafe {
        let length = size_of_val(&value) as libc::socklen_t;
        libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), length)
    };
    Errno::result(set)?;
    for (what, set) in [
        ("receive queue", setsockopt(&socket, sockopt::RcvBufForce, &BUFFER_SIZE)),
        ("send queue", setsockopt(&socket, sockopt::SndBufForce, &BUFFER_SIZE)),
        ("coalescing", setsockopt(&socket, sockopt::UdpGroSegment, &true)),
    ] {
        if let Err(error) = set {
            tracing::debug!("cannot set the {what} of WireGuard's socket: {error}");
        }
    }
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(socket)
}

/// Both sockets, registered with the runtime.
pub(super) struct Sockets {
    pub(super) v4: UdpSocket,
    pub(super) v6: UdpSocket,
    /// Whether the devices accept several datagrams in one call. Some do not.
    supports_segments: AtomicBool,
}

impl Sockets {
    /// Must be called on a tokio runtime.
    pub(super) fn new(UnregisteredSockets { v4, v6 }: UnregisteredSockets) -> io::Result<Self> {
        let on_runtime = |socket: OwnedFd| UdpSocket::from_std(socket.into());
        Ok(Self { v4: on_runtime(v4)?, v6: on_runtime(v6)?, supports_segments: AtomicBool::new(true) })
    }

    const fn socket_for(&self, endpoint: SocketAddr) -> &UdpSocket {
        match endpoint {
            SocketAddr::V4(_) => &self.v4,
            SocketAddr::V6(_) => &self.v6,
        }
    }

    /// Sends one datagram if the socket has room.
    pub(super) fn try_send(&self, datagram: &[u8], endpoint: SocketAddr) -> io::Result<()> {
        self.socket_for(endpoint).try_send_to(datagram, endpoint).map(drop)
    }

    /// Sends a batch and waits for room. Returns the number of datagrams that could not be sent.
    pub(super) async fn send(&self, batch: &Batch) -> usize {
        let Some((bytes, endpoint, segment)) = batch.contents() else { return 0 };
        let socket = self.socket_for(endpoint);
        if bytes.len() > segment && self.supports_segments.load(Ordering::Relaxed) {
            match socket.async_io(Interest::WRITABLE, || send_segments(socket, bytes, segment, endpoint)).await {
                Ok(()) => return 0,
                // The device cannot compute checksums (udp_send_skb in net/ipv4/udp.c).
                Err(error) if error.raw_os_error() == Some(libc::EIO) => {
                    tracing::debug!("WireGuard sends datagrams one by one, because the device cannot segment: {error}");
                    self.supports_segments.store(false, Ordering::Relaxed);
                }
                // The datagrams exceed the MTU of the path. Sent one by one, they are fragmented.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EMSGSIZE)) => {}
                Err(error) => {
                    tracing::debug!("WireGuard cannot send to {endpoint}: {error}");
                    return bytes.chunks(segment).count();
                }
            }
        }
        let mut unsent = 0;
        for datagram in bytes.chunks(segment) {
            if let Err(error) = socket.send_to(datagram, endpoint).await {
                tracing::debug!("WireGuard cannot send to {endpoint}: {error}");
                unsent += 1;
            }
        }
        unsent
    }
}

fn send_segments(socket: &UdpSocket, bytes: &[u8], segment: usize, endpoint: SocketAddr) -> io::Result<()> {
    let length = u16::try_from(segment).map_err(|_| io::Error::from_raw_os_error(libc::EMSGSIZE))?;
    let control = [ControlMessage::UdpGsoSegments(&length)];
    let to = SockaddrStorage::from(endpoint);
    sendmsg(socket.as_fd().as_raw_fd(), &[IoSlice::new(bytes)], &control, MsgFlags::MSG_DONTWAIT, Some(&to))?;
    Ok(())
}

/// Result of one receive call.
pub(super) struct Received {
    /// Total length of the datagrams in bytes.
    pub(super) length: usize,
    /// Length of every datagram but the last, in bytes.
    pub(super) segment: usize,
    pub(super) from: SocketAddr,
}

/// Receives datagrams. Those of one call have the same sender and, except a shorter last one, the
/// same length.
pub(super) struct Receiver {
    control: Vec<u8>,
}

impl Receiver {
    pub(super) fn new() -> Self {
        Self { control: nix::cmsg_space!(i32) }
    }

    /// Waits for the next datagrams.
    pub(super) async fn receive(&mut self, socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Received> {
        socket.async_io(Interest::READABLE, || self.receive_now(socket, buffer)).await
    }

    fn receive_now(&mut self, socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Received> {
        let mut buffers = [IoSliceMut::new(buffer)];
        let descriptor = socket.as_fd().as_raw_fd();
        let control = Some(self.control.as_mut_slice());
        let message = recvmsg::<SockaddrStorage>(descriptor, &mut buffers, control, MsgFlags::MSG_DONTWAIT)?;
        let segment = message.cmsgs()?.find_map(|control| match control {
            ControlMessageOwned::UdpGroSegments(segment) => usize::try_from(segment).ok().filter(|length| *length > 0),
            _ => None,
        });
        let from = message.address.as_ref().and_then(address).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Received { length: message.bytes, segment: segment.unwrap_or(message.bytes.max(1)), from })
    }
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = storage.as_sockaddr_in().map(|address| SocketAddr::V4((*address).into()));
    v4.or_else(|| storage.as_sockaddr_in6().map(|address| SocketAddr::V6((*address).into())))
}
