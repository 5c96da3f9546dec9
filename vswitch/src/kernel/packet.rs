//! Frames sent by a device as they are (packet(7)).

use std::io::{Error, Result};
use std::net::Ipv6Addr;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

/// Sends a frame by a device of this process's namespace.
///
/// # Errors
/// What the kernel refused; ENETDOWN where the device is not up.
pub fn send(ifindex: u32, frame: &[u8]) -> Result<()> {
    send_by(&open()?, ifindex, frame)
}

/// A socket in the namespace of the calling thread. Of no protocol: nothing is received by it until it is bound.
pub(super) fn open() -> Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: plain numbers.
    let descriptor = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
    if descriptor < 0 {
        return Err(Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Sends a frame by a device of the socket's namespace.
pub(super) fn send_by(socket: &OwnedFd, ifindex: u32, frame: &[u8]) -> Result<()> {
    let protocol = frame.get(12..14).map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
    let address = address(ifindex, protocol)?;
    // SAFETY: both buffers are as long as is said.
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

/// A device, and frames of an EtherType.
pub(super) fn address(ifindex: u32, protocol: u16) -> Result<libc::sockaddr_ll> {
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

/// The group that hears solicitations for an address (RFC 4291, 2.7.1).
pub fn solicited(target: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = target.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}
