//! Generic netlink interface to the kernel's WireGuard devices (linux/wireguard.h). One request at
//! a time.

use std::fmt::Debug;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use netlink_packet_core::{
    Emitable, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, ParseableParametrized,
};
use netlink_packet_generic::ctrl::nlas::GenlCtrlAttrs;
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use netlink_packet_wireguard::{WireguardAttribute, WireguardCmd, WireguardMessage, WireguardPeer};
use netlink_sys::protocols::NETLINK_GENERIC;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike as _};
use zeroize::{Zeroize as _, Zeroizing};

use crate::kernel::netns::{Netns, NetnsError};

/// Receive timeout in seconds. The kernel answers before send(2) returns, so an answer that does
/// not arrive soon is lost.
const RECEIVE_TIMEOUT: i64 = 5;
/// Alignment of messages (`NLMSG_ALIGNTO`).
const ALIGNMENT: usize = 4;

/// A socket with the resolved id of the family "wireguard".
pub(super) struct Genetlink {
    socket: Socket,
    family: u16,
    sequence: u32,
}

impl Genetlink {
    /// Opens a socket in the given namespace, or in that of the calling thread.
    ///
    /// # Errors
    /// The outer error: the namespace could not be entered. The inner error: the socket could not
    /// be created, or the kernel has no such family (`ENOENT`).
    pub(super) fn open(netns: Option<&Netns>) -> Result<io::Result<Self>, NetnsError> {
        let socket = || Socket::new(NETLINK_GENERIC);
        let socket = match netns {
            Some(netns) => netns.enter(socket)?,
            None => socket(),
        };
        Ok(socket.and_then(Self::connect))
    }

    fn connect(mut socket: Socket) -> io::Result<Self> {
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // SAFETY: the descriptor belongs to the socket, which outlives the borrow.
        let descriptor = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
        setsockopt(&descriptor, sockopt::ReceiveTimeout, &TimeVal::seconds(RECEIVE_TIMEOUT))?;
        let mut genetlink = Self { socket, family: 0, sequence: 0 };
        let name = GenlCtrlAttrs::FamilyName(WireguardMessage::family_name().to_owned());
        let query = GenlCtrl { cmd: GenlCtrlCmd::GetFamily, nlas: vec![name] };
        let (request, _) = genetlink.encode(GenlMessage::from_payload(query), NLM_F_ACK);
        let payloads: Vec<GenlCtrl> = genetlink.exchange(&request)?;
        let id = payloads.iter().flat_map(|answer| &answer.nlas).find_map(|attribute| match attribute {
            GenlCtrlAttrs::FamilyId(id) => Some(*id),
            _ => None,
        });
        genetlink.family = id.ok_or_else(|| io::Error::from(Errno::ENOENT))?;
        Ok(genetlink)
    }

    /// Changes a device.
    ///
    /// # Errors
    /// The error of the kernel.
    pub(super) fn set(&mut self, index: u32, attribute: WireguardAttribute) -> io::Result<()> {
        let attributes = vec![WireguardAttribute::IfIndex(index), attribute];
        let message = WireguardMessage { cmd: WireguardCmd::SetDevice, attributes };
        self.request(message, NLM_F_ACK).map(drop)
    }

    /// Lists the peers of a device. The kernel may split a peer into several entries.
    ///
    /// # Errors
    /// The error of the kernel.
    pub(super) fn peers(&mut self, index: u32) -> io::Result<Vec<WireguardPeer>> {
        let attributes = vec![WireguardAttribute::IfIndex(index)];
        let message = WireguardMessage { cmd: WireguardCmd::GetDevice, attributes };
        let mut peers = Vec::new();
        for attribute in self.request(message, NLM_F_DUMP)?.into_iter().flat_map(|answer| answer.attributes) {
            match attribute {
                WireguardAttribute::Peers(more) => peers.extend(more),
                // The kernel also sends the private key.
                mut other => wipe(&mut other),
            }
        }
        Ok(peers)
    }

    fn request(&mut self, message: WireguardMessage, flags: u16) -> io::Result<Vec<WireguardMessage>> {
        let mut message = GenlMessage::from_payload(message);
        message.set_resolved_family_id(self.family);
        let (request, mut message) = self.encode(message, flags);
        message.attributes.iter_mut().for_each(wipe);
        self.exchange(&request)
    }

    /// Serialises a request, which may contain a private key. Also returns the payload, so that it
    /// can be wiped.
    fn encode<F>(&mut self, message: GenlMessage<F>, flags: u16) -> (Zeroizing<Vec<u8>>, F)
    where
        F: GenlFamily + Emitable + Debug,
    {
        self.sequence = self.sequence.wrapping_add(1);
        let length = NetlinkHeader::default().buffer_len() + Emitable::buffer_len(&message);
        let mut header = NetlinkHeader::default();
        header.length = length as u32;
        header.message_type = message.family_id();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut request = Zeroizing::new(vec![0; length]);
        let (header_bytes, message_bytes) = request.split_at_mut(header.buffer_len());
        header.emit(header_bytes);
        message.emit(message_bytes);
        (request, message.payload)
    }

    /// Sends a request and reads its complete answer.
    fn exchange<F>(&mut self, request: &[u8]) -> io::Result<Vec<F>>
    where
        F: Debug + ParseableParametrized<[u8], GenlHeader>,
        GenlMessage<F>: NetlinkDeserializable,
    {
        self.socket.send(request, 0)?;
        let mut payloads = Vec::new();
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            let datagram = Zeroizing::new(datagram);
            let mut rest = datagram.as_slice();
            while !rest.is_empty() {
                let malformed = |error| io::Error::new(io::ErrorKind::InvalidData, error);
                let answer = NetlinkMessage::<GenlMessage<F>>::deserialize(rest).map_err(malformed)?;
                let length = (answer.header.length as usize).next_multiple_of(ALIGNMENT);
                rest = rest.get(length..).unwrap_or_default();
                // The answer to an earlier request that timed out.
                if answer.header.sequence_number != self.sequence {
                    continue;
                }
                match answer.payload {
                    NetlinkPayload::InnerMessage(message) => payloads.push(message.payload),
                    NetlinkPayload::Error(error) => {
                        return match error.code {
                            Some(code) => Err(io::Error::from_raw_os_error(-code.get())),
                            None => Ok(payloads),
                        };
                    }
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(io::Error::from_raw_os_error(-done.code));
                    }
                    NetlinkPayload::Done(_) => return Ok(payloads),
                    _ => {}
                }
            }
        }
    }
}

/// Erases a private key from memory.
fn wipe(attribute: &mut WireguardAttribute) {
    if let WireguardAttribute::PrivateKey(key) = attribute {
        key.zeroize();
    }
}
