//! Frames sent by a device as they are (packet(7)).

use std::io::{Error, Result};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

/// Sends a frame by a device of this process's namespace.
///
/// # Errors
/// What the kernel refused; ENETDOWN where the device is not up.
pub fn send(ifindex: u32, frame: &[u8]) -> Result<()> {
    // Of no protocol: nothing is received by it.
    // SAFETY: plain numbers.
    let descriptor = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if descriptor < 0 {
        return Err(Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    let socket = unsafe { OwnedFd::from_raw_fd(descriptor) };
    let protocol = frame.get(12..14).map_or(0, |bytes| u16::from_ne_bytes([bytes[0], bytes[1]]));
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol,
        sll_ifindex: i32::try_from(ifindex).map_err(Error::other)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
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
