//! Senders and receivers of multicast datagrams.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
};

use nix::{net::if_::if_nametoindex, sys::socket::setsockopt, sys::socket::sockopt};

use super::{Frame, Netns, PATIENCE};

/// Destination port of the datagrams.
const PORT: u16 = 5007;

/// A socket that has joined a group on an interface. It leaves the group when dropped.
pub struct Member(UdpSocket);

impl Member {
    /// Joins a group on an interface.
    #[track_caller]
    pub fn join(netns: &Netns, ifname: &str, group: IpAddr) -> Self {
        let joined = netns.inside(|| {
            let index = if_nametoindex(ifname)?;
            let socket = UdpSocket::bind(SocketAddr::from((group, PORT)))?;
            match group {
                IpAddr::V4(group) => {
                    // Joins by interface index, not by address: the interface may have several
                    // addresses or none.
                    let request = libc::ip_mreqn {
                        imr_multiaddr: libc::in_addr { s_addr: u32::from_ne_bytes(group.octets()) },
                        imr_address: libc::in_addr { s_addr: 0 },
                        imr_ifindex: index.cast_signed(),
                    };
                    // SAFETY: the length passed is that of the value.
                    let result = unsafe {
                        libc::setsockopt(
                            socket.as_raw_fd(),
                            libc::IPPROTO_IP,
                            libc::IP_ADD_MEMBERSHIP,
                            (&raw const request).cast(),
                            size_of_val(&request) as u32,
                        )
                    };
                    if result < 0 {
                        return Err(std::io::Error::last_os_error());
                    }
                }
                IpAddr::V6(group) => socket.join_multicast_v6(&group, index)?,
            }
            socket.set_read_timeout(Some(PATIENCE))?;
            Ok(socket)
        });
        Self(joined.unwrap_or_else(|error: std::io::Error| panic!("joining {group} in {}: {error}", netns.name())))
    }

    /// Waits for `count` datagrams that contain exactly `text`.
    #[track_caller]
    pub fn expect(&self, text: &str, count: usize) {
        let mut buffer = [0; 200];
        for number in 0..count {
            let length = self.0.recv(&mut buffer);
            let length = length.unwrap_or_else(|error| panic!("datagram {number} of {count}, {text}: {error}"));
            assert_eq!(&buffer[..length], text.as_bytes());
        }
    }
}

/// Sends `count` datagrams that contain `text` to a group through an interface.
#[track_caller]
pub fn send_to_group(netns: &Netns, ifname: &str, group: IpAddr, text: &str, count: usize) {
    let sent = netns.inside(|| {
        let unspecified =
            if group.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { IpAddr::from(Ipv6Addr::UNSPECIFIED) };
        let socket = UdpSocket::bind(SocketAddr::from((unspecified, 0)))?;
        setsockopt(&socket, sockopt::BindToDevice, &ifname.into())?;
        (0..count).try_for_each(|_| socket.send_to(text.as_bytes(), (group, PORT)).map(drop))
    });
    sent.unwrap_or_else(|error: std::io::Error| panic!("sending to {group} in {}: {error}", netns.name()));
}

/// Returns how many of these frames contain `text`.
pub fn count_containing(frames: &[Frame], text: &str) -> usize {
    frames.iter().filter(|Frame(bytes)| bytes.windows(text.len()).any(|window| window == text.as_bytes())).count()
}
