//! The kernel's WireGuard devices by generic netlink (linux/wireguard.h), one request at a time.

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

/// Seconds. The kernel answers before send(2) returns; an answer that is not there soon is lost.
const PATIENCE: i64 = 5;
/// Where messages begin (`NLMSG_ALIGNTO`).
const ALIGNMENT: usize = 4;

/// A socket that knows the number of the family "wireguard".
pub(super) struct Genetlink {
    socket: Socket,
    family: u16,
    sequence: u32,
}

impl Genetlink {
    /// In the namespace of the calling thread, or in another one.
    ///
    /// # Errors
    /// The namespace could not be entered; or the socket could not be made, or the kernel has no such family (`ENOENT`).
    pub(super) fn open(netns: Option<&Netns>) -> Result<io::Result<Self>, NetnsError> {
        let socket = || Socket::new(NETLINK_GENERIC);
        let socket = match netns {
            Some(netns) => netns.enter(socket)?,
            None => socket(),
        };
        Ok(socket.and_then(Self::with))
    }

    fn with(mut socket: Socket) -> io::Result<Self> {
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // SAFETY: the descriptor is the socket's, which outlives the borrow.
        let descriptor = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
        setsockopt(&descriptor, sockopt::ReceiveTimeout, &TimeVal::seconds(PATIENCE))?;
        let mut opened = Self { socket, family: 0, sequence: 0 };
        let name = GenlCtrlAttrs::FamilyName(WireguardMessage::family_name().to_owned());
        let question = GenlCtrl { cmd: GenlCtrlCmd::GetFamily, nlas: vec![name] };
        let (request, _) = opened.encode(GenlMessage::from_payload(question), NLM_F_ACK);
        let answers: Vec<GenlCtrl> = opened.exchange(&request)?;
        let id = answers.iter().flat_map(|answer| &answer.nlas).find_map(|attribute| match attribute {
            GenlCtrlAttrs::FamilyId(id) => Some(*id),
            _ => None,
        });
        opened.family = id.ok_or_else(|| io::Error::from(Errno::ENOENT))?;
        Ok(opened)
    }

    /// Changes a device.
    ///
    /// # Errors
    /// As the kernel has it.
    pub(super) fn set(&mut self, index: u32, attribute: WireguardAttribute) -> io::Result<()> {
        let attributes = vec![WireguardAttribute::IfIndex(index), attribute];
        let message = WireguardMessage { cmd: WireguardCmd::SetDevice, attributes };
        self.request(message, NLM_F_ACK).map(drop)
    }

    /// The peers of a device, each in as many pieces as the kernel makes of it.
    ///
    /// # Errors
    /// As the kernel has it.
    pub(super) fn peers(&mut self, index: u32) -> io::Result<Vec<WireguardPeer>> {
        let attributes = vec![WireguardAttribute::IfIndex(index)];
        let message = WireguardMessage { cmd: WireguardCmd::GetDevice, attributes };
        let mut peers = Vec::new();
        for attribute in self.request(message, NLM_F_DUMP)?.into_iter().flat_map(|answer| answer.attributes) {
            match attribute {
                WireguardAttribute::Peers(more) => peers.extend(more),
                // The kernel says that too, without being asked.
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

    /// The bytes of a request, in which there may be a private key; and back what it was made of.
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
        let (head, body) = request.split_at_mut(header.buffer_len());
        header.emit(head);
        message.emit(body);
        (request, message.payload)
    }

    /// Sends one request and reads all that answers it.
    fn exchange<F>(&mut self, request: &[u8]) -> io::Result<Vec<F>>
    where
        F: Debug + ParseableParametrized<[u8], GenlHeader>,
        GenlMessage<F>: NetlinkDeserializable,
    {
        self.socket.send(request, 0)?;
        let mut answers = Vec::new();
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            let datagram = Zeroizing::new(datagram);
            let mut rest = datagram.as_slice();
            while !rest.is_empty() {
                let unread = |error| io::Error::new(io::ErrorKind::InvalidData, error);
                let answer = NetlinkMessage::<GenlMessage<F>>::deserialize(rest).map_err(unread)?;
                let length = (answer.header.length as usize).next_multiple_of(ALIGNMENT);
                rest = rest.get(length..).unwrap_or_default();
                // What is left of a request that was given up.
                if answer.header.sequence_number != self.sequence {
                    continue;
                }
                match answer.payload {
                    NetlinkPayload::InnerMessage(message) => answers.push(message.payload),
                    NetlinkPayload::Error(error) => {
                        return match error.code {
                            Some(code) => Err(io::Error::from_raw_os_error(-code.get())),
                            None => Ok(answers),
                        };
                    }
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(io::Error::from_raw_os_error(-done.code));
                    }
                    NetlinkPayload::Done(_) => return Ok(answers),
                    _ => {}
                }
            }
        }
    }
}

/// Takes a private key out of memory.
fn wipe(attribute: &mut WireguardAttribute) {
    if let WireguardAttribute::PrivateKey(key) = attribute {
        key.zeroize();
    }
}
