//! Sends raw frames by a device (packet(7)).

use std::io::{Error, Result};
use std::net::Ipv6Addr;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

/// Sends a frame by a device of the calling thread's namespace.
///
/// # Errors
/// The kernel refused the frame, for example with ENETDOWN if the device is down.
pub fn send(ifindex: u32, frame: &[u8]) -> Result<()> {
    send_on(&open()?, ifindex, frame)
}

/// Opens a packet socket in the namespace of the calling thread. Its protocol is 0, so it receives
/// nothing until it is bound.
pub(super) fn open() -> Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: the arguments are plain numbers.
    let descriptor = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
    if descriptor < 0 {
        return Err(Error::last_os_error());
    }
    // SAFETY: the kernel has just created this descriptor, and no other object owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Sends a frame by a device of the socket's namespace.
pub(super) fn send_on(socket: &OwnedFd, ifindex: u32, frame: &[u8]) -> Result<()> {
    let protocol = frame.get(12..14).map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
    let address = socket_address(ifindex, protocol)?;
    // SAFETY: both pointers are valid for the lengths passed with them.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            libc::MSG_DONTWAIT,
            (&raw const address).cast(),
            size_of_val(&address) as libc::socklen_t,
        )
    };
    if sent < 0 { Err(Error::last_os_error()) } else { Ok(()) }
}

/// Returns the socket address of a device and an EtherType, which is given in host byte order.
pub(super) fn socket_address(ifindex: u32, protocol: u16) -> Result<libc::sockaddr_ll> {
    Ok(libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol.to_be(),
        sll_ifindex: i32::try_from(ifindex).map_err(Error::other)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    })
}

/// Returns the solicited-node multicast address of an address (RFC 4291 section 2.7.1).
pub fn solicited_node(target: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = target.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}
