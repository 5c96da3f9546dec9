//! Frames made by hand, sent and received directly on a device with AF_PACKET sockets.

use std::{
    io::{Error, ErrorKind},
    mem::MaybeUninit,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    slice,
    time::{Duration, Instant},
};

pub use vswitch_common::Mac;

use super::{Netns, PATIENCE, udp::large_buffer};

/// EtherType of test frames that carry no protocol (IEEE 802 local experimental ethertype 1).
const EXPERIMENTAL: u16 = 0x88b5;

/// A VLAN tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tag {
    pub tpid: u16,
    pub tci: u16,
}

impl Tag {
    /// Returns an 802.1Q tag.
    pub const fn customer(id: u16) -> Self {
        Self { tpid: 0x8100, tci: id }
    }

    /// Returns an 802.1ad tag.
    pub const fn service(id: u16) -> Self {
        Self { tpid: 0x88a8, tci: id }
    }
}

/// A frame as it is on the wire.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Frame(pub Vec<u8>);

impl Frame {
    /// Builds a frame of the experimental EtherType with `text` as its payload, padded to 60 bytes.
    pub fn new(destination: Mac, source: Mac, text: &str) -> Self {
        Self::tagged(destination, source, &[], text)
    }

    /// Builds the same frame with VLAN tags, the outer one first.
    pub fn tagged(destination: Mac, source: Mac, tags: &[Tag], text: &str) -> Self {
        let mut bytes = [destination.0, source.0].concat();
        for tag in tags {
            bytes.extend(tag.tpid.to_be_bytes());
            bytes.extend(tag.tci.to_be_bytes());
        }
        bytes.extend(EXPERIMENTAL.to_be_bytes());
        bytes.extend(text.as_bytes());
        bytes.resize(bytes.len().max(60), 0);
        Self(bytes)
    }

    /// Builds a frame with any content behind its addresses.
    pub fn raw(destination: Mac, source: Mac, rest: &[u8]) -> Self {
        Self([&destination.0[..], &source.0, rest].concat())
    }
}

/// A device opened with AF_PACKET: receives every frame that arrives on it, and sends any frame.
pub struct RawPort {
    socket: OwnedFd,
}

impl RawPort {
    /// Opens a device inside a namespace in promiscuous mode.
    pub fn open(netns: &Netns, ifname: &str) -> Self {
        let socket = netns.inside(|| open(ifname)).unwrap_or_else(|error| panic!("AF_PACKET on {ifname}: {error}"));
        large_buffer(&socket);
        Self { socket }
    }

    /// Sends a frame. Panics if the kernel refuses it.
    #[track_caller]
    pub fn send(&self, frame: &Frame) {
        self.try_send(frame).unwrap_or_else(|error| panic!("sending {frame:02x?}: {error}"));
    }

    /// Sends a frame that the kernel may refuse, and returns the error.
    pub fn try_send(&self, Frame(bytes): &Frame) -> Result<(), Error> {
        // SAFETY: the length passed is that of the buffer.
        let sent = unsafe { libc::send(self.socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
        if sent < 0 { Err(Error::last_os_error()) } else { Ok(()) }
    }

    /// Sends the frame once from each of these source addresses, as fast as the kernel accepts
    /// them.
    #[track_caller]
    pub fn send_from(&self, frame: &Frame, sources: impl IntoIterator<Item = Mac>) {
        const BATCH: usize = 512;
        let mut copies = vec![frame.0.clone(); BATCH];
        let mut sources = sources.into_iter().peekable();
        while sources.peek().is_some() {
            let count = sources.by_ref().take(BATCH).zip(&mut copies).fold(0, |count, (source, copy)| {
                copy[6..12].copy_from_slice(&source.0);
                count + 1
            });
            send_all(&self.socket, &mut copies[..count])
                .unwrap_or_else(|error| panic!("sending {frame:02x?}: {error}"));
        }
    }

    /// Waits for this frame, and returns all other frames that arrived before it.
    #[track_caller]
    pub fn expect(&self, wanted: &Frame) -> Vec<Frame> {
        let mut others = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        while let Some(frame) = self.receive(deadline.saturating_duration_since(Instant::now())) {
            if frame == *wanted {
                return others;
            }
            others.push(frame);
        }
        panic!("{wanted:02x?} did not arrive, but these did: {others:02x?}");
    }

    /// Waits for all of these frames in any order, because frames sent on different CPUs can
    /// overtake each other. Returns all other frames that arrived before the last of them.
    #[track_caller]
    pub fn expect_all<'a>(&self, wanted: impl IntoIterator<Item = &'a Frame>) -> Vec<Frame> {
        let mut wanted: Vec<&Frame> = wanted.into_iter().collect();
        let mut others = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        while !wanted.is_empty() {
            let Some(frame) = self.receive(deadline.saturating_duration_since(Instant::now())) else {
                panic!("{wanted:02x?} did not arrive, but these did: {others:02x?}");
            };
            match wanted.iter().position(|other| **other == frame) {
                Some(index) => drop(wanted.swap_remove(index)),
                None => others.push(frame),
            }
        }
        others
    }

    /// Waits for a frame for which `wanted` returns true, and returns it.
    #[track_caller]
    pub fn expect_such(&self, what: &str, mut wanted: impl FnMut(&Frame) -> bool) -> Frame {
        let mut others = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        while let Some(frame) = self.receive(deadline.saturating_duration_since(Instant::now())) {
            if wanted(&frame) {
                return frame;
            }
            others.push(frame);
        }
        panic!("{what} did not arrive, but these did: {others:02x?}");
    }

    /// Returns the frames that have arrived and were not read yet.
    pub fn pending(&self) -> Vec<Frame> {
        std::iter::from_fn(|| self.receive(Duration::ZERO)).collect()
    }

    /// Returns the next frame that arrives within `patience`. A tag that the kernel has stripped is
    /// put back.
    pub fn receive(&self, patience: Duration) -> Option<Frame> {
        let deadline = Instant::now() + patience;
        loop {
            match receive(&self.socket) {
                Ok(frame) => return Some(frame),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    wait(&self.socket, left);
                }
                Err(error) => panic!("receiving frames: {error}"),
            }
        }
    }
}

fn open(ifname: &str) -> Result<OwnedFd, Error> {
    // No protocol yet: the socket receives nothing before it is bound to the device.
    // SAFETY: the arguments are plain numbers.
    let descriptor =
        unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0) };
    if descriptor < 0 {
        return Err(Error::last_os_error());
    }
    // SAFETY: the kernel has just returned this new descriptor, and nothing else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(descriptor) };
    let index = nix::net::if_::if_nametoindex(ifname)?;
    let on: libc::c_int = 1;
    for option in [libc::PACKET_AUXDATA, libc::PACKET_IGNORE_OUTGOING] {
        set_option(&socket, option, &on)?;
    }
    let index = i32::try_from(index).expect("interface indexes are small");
    let promiscuous = libc::packet_mreq {
        mr_ifindex: index,
        mr_type: libc::PACKET_MR_PROMISC as u16,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    set_option(&socket, libc::PACKET_ADD_MEMBERSHIP, &promiscuous)?;
    // SAFETY: all zeros is a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = index;
    // SAFETY: the address is a sockaddr_ll, and the length passed is its size.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size_of_val(&address) as u32) };
    if bound < 0 { Err(Error::last_os_error()) } else { Ok(socket) }
}

fn set_option<T>(socket: &OwnedFd, option: libc::c_int, value: &T) -> Result<(), Error> {
    // SAFETY: the length passed is that of the value.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            option,
            (&raw const *value).cast(),
            size_of::<T>() as u32,
        )
    };
    if result < 0 { Err(Error::last_os_error()) } else { Ok(()) }
}

fn send_all(socket: &OwnedFd, frames: &mut [Vec<u8>]) -> Result<(), Error> {
    let mut parts: Vec<libc::iovec> = frames
        .iter_mut()
        .map(|frame| libc::iovec { iov_base: frame.as_mut_ptr().cast(), iov_len: frame.len() })
        .collect();
    let mut messages: Vec<libc::mmsghdr> = parts
        .iter_mut()
        .map(|part| {
            // SAFETY: all zeros is a valid mmsghdr.
            let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
            (message.msg_hdr.msg_iov, message.msg_hdr.msg_iovlen) = (&raw mut *part, 1);
            message
        })
        .collect();
    let mut left = &mut messages[..];
    while !left.is_empty() {
        // SAFETY: the count passed is that of the messages, and the buffers they point to outlive
        // the call.
        let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), left.as_mut_ptr(), left.len() as u32, 0) };
        if let Ok(sent) = usize::try_from(sent) {
            left = &mut left[sent..];
            continue;
        }
        let error = Error::last_os_error();
        match error.raw_os_error() {
            // The first frame met a full queue at the other end of the device, which counts it
            // (tx_dropped).
            Some(libc::ENOBUFS) => left = &mut left[1..],
            // The socket's own queue is full.
            Some(libc::EAGAIN | libc::EINTR) => std::thread::yield_now(),
            _ => return Err(error),
        }
    }
    Ok(())
}

fn receive(socket: &OwnedFd) -> Result<Frame, Error> {
    // On the stack: mapping and unmapping a buffer of this size per frame takes most of the time of
    // an emulated processor.
    let mut buffer = MaybeUninit::<[u8; 1 << 17]>::uninit();
    // Room for one tpacket_auxdata with its header, aligned as cmsghdr.
    let mut control = [0_u64; 16];
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: size_of_val(&buffer) };
    // SAFETY: all zeros is a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    // SAFETY: the message points to buffers of the lengths given in it.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0) };
    if length < 0 {
        return Err(Error::last_os_error());
    }
    // SAFETY: the kernel has written `length` bytes, at most the size of the buffer.
    let mut bytes = unsafe { slice::from_raw_parts(buffer.as_ptr().cast::<u8>(), length.cast_unsigned()) }.to_vec();
    // SAFETY: the kernel has filled in the message, and the macros stay inside its control buffer.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !header.is_null() {
        // SAFETY: the pointer is not null, so it points into the control buffer.
        let (level, kind) = unsafe { ((*header).cmsg_level, (*header).cmsg_type) };
        if level == libc::SOL_PACKET && kind == libc::PACKET_AUXDATA {
            // SAFETY: the kernel puts a tpacket_auxdata behind this header.
            let auxiliary = unsafe { libc::CMSG_DATA(header).cast::<libc::tpacket_auxdata>().read_unaligned() };
            if auxiliary.tp_status & libc::TP_STATUS_VLAN_VALID != 0 && bytes.len() >= 12 {
                let tag = [auxiliary.tp_vlan_tpid.to_be_bytes(), auxiliary.tp_vlan_tci.to_be_bytes()].concat();
                bytes.splice(12..12, tag);
            }
        }
        // SAFETY: as for the first header.
        header = unsafe { libc::CMSG_NXTHDR(&raw const message, header) };
    }
    Ok(Frame(bytes))
}

fn wait(socket: &OwnedFd, patience: Duration) {
    let mut descriptor = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let milliseconds = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX).max(1);
    // SAFETY: the pointer refers to exactly one pollfd.
    unsafe { libc::poll(&raw mut descriptor, 1, milliseconds) };
}
