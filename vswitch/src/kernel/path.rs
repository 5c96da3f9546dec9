//! Path MTU to another host, as the kernel knows it.

use std::io::Result;
use std::mem::size_of;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, socket, sockopt};

/// Port number for connect(2). Any value works, because nothing is sent.
const ANY_PORT: u16 = 9;

/// Returns the path MTU to an address in bytes: the MTU of the outgoing device, or a smaller value
/// that a router reported recently.
///
/// # Errors
/// The kernel has no route to the address.
pub fn mtu(to: IpAddr) -> Result<u32> {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    connect(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(to, ANY_PORT)))?;
    if to.is_ipv4() {
        let mtu = nix::sys::socket::getsockopt(&socket, sockopt::IpMtu)?;
        return Ok(u32::try_from(mtu).unwrap_or(0));
    }
    let mut mtu: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the buffer is valid for the length passed with it.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_IPV6, libc::IPV6_MTU, (&raw mut mtu).cast(), &raw mut length)
    };
    if result < 0 { Err(std::io::Error::last_os_error()) } else { Ok(u32::try_from(mtu).unwrap_or(0)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_mtu_to_loopback_is_the_mtu_of_its_device() {
        let device = std::fs::read_to_string("/sys/class/net/lo/mtu").expect("every namespace has one");
        for address in ["127.0.0.1", "::1"] {
            let mtu = mtu(address.parse().expect("an address"));
            // The machine may have no IPv6.
            if let Ok(mtu) = mtu {
                assert_eq!(mtu, device.trim().parse::<u32>().expect("a number").min(mtu.max(65535)), "{address}");
            }
        }
    }
}
