//! Protocol engine of the userspace backend: datagrams and packets in, datagrams and packets out.
//! Uses no sockets and no devices, so all of it is testable without them.

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, Tunn, TunnResult};
use x25519_dalek::StaticSecret;

use super::super::keys::{PrivateKey, PublicKey};
use super::super::{KEEPALIVE, PeerStatus};
use super::drops::{Counters, Drops, Reason};
use super::peers::{Peer, Peers};

/// Handshakes per second above which senders must prove their address with a cookie (the WireGuard
/// paper, section 5.3). boringtun's own device uses the same limit.
const HANDSHAKES_PER_SECOND: u64 = 100;

/// Length in bytes of the longest message other than data: the handshake initiation (the WireGuard
/// paper, section 5.4.2).
const HANDSHAKE_LENGTH: usize = 148;
/// Bytes that a data message adds to its packet: header and tag (the WireGuard paper, section
/// 5.4.6).
const OVERHEAD: usize = 32;

/// Length of the IPv6 header, and offsets of its addresses (RFC 8200, section 3).
const IPV6_HEADER: usize = 40;
const IPV6_SOURCE: usize = 8;
const IPV6_DESTINATION: usize = 24;

/// Receiver of the engine's output.
pub(super) trait Output {
    /// Sends a datagram to a peer.
    fn to_peer(&mut self, datagram: &[u8], endpoint: SocketAddr);
    /// Delivers a peer's packet to this host.
    fn to_host(&mut self, packet: &[u8]);
}

/// Keys, peers and their sessions.
pub(super) struct Engine {
    secret: StaticSecret,
    public: x25519_dalek::PublicKey,
    own_inner: Ipv6Addr,
    limiter: RateLimiter,
    /// Limiter without a limit, for the sessions: handshakes are already counted by `limiter`,
    /// before their peer is known.
    unlimited: Arc<RateLimiter>,
    peers: RwLock<Peers>,
    counters: Counters,
}

impl Engine {
    pub(super) fn new(key: &PrivateKey) -> Self {
        let secret = key.secret().clone();
        let public = x25519_dalek::PublicKey::from(&secret);
        Self {
            own_inner: key.public().inner_address(),
            limiter: RateLimiter::new(&public, HANDSHAKES_PER_SECOND),
            unlimited: Arc::new(RateLimiter::new(&public, u64::MAX)),
            secret,
            public,
            peers: RwLock::default(),
            counters: Counters::default(),
        }
    }

    /// Adds a peer and starts a handshake, or changes the endpoint of an existing peer, whose
    /// sessions continue. `buffer` holds the handshake message.
    pub(super) fn set_peer(&self, key: PublicKey, endpoint: SocketAddr, buffer: &mut [u8], output: &mut impl Output) {
        let peer = {
            let mut peers = self.peers_mut();
            if let Some(peer) = peers.by_key(key.bytes()) {
                peer.move_to(endpoint);
                return;
            }
            let index = peers.free_index();
            let public = (*key.bytes()).into();
            let limiter = Some(self.unlimited.clone());
            let tunnel = Tunn::new(self.secret.clone(), public, None, Some(KEEPALIVE), index, limiter);
            let peer = Peer::new(key, endpoint, tunnel);
            peers.insert(index, peer.clone());
            peer
        };
        // Like a persistent keepalive of the kernel: both sides notice each other at once.
        self.emit(&peer, peer.tunnel().format_handshake_initiation(buffer, false), output);
    }

    pub(super) fn remove_peer(&self, key: &PublicKey) {
        self.peers_mut().remove(key);
    }

    pub(super) fn statuses(&self) -> Vec<PeerStatus> {
        self.peers().all().map(|peer| peer.status()).collect()
    }

    pub(super) fn drops(&self) -> Drops {
        self.counters.read()
    }

    pub(super) fn count(&self, reason: Reason) {
        self.counters.count(reason);
    }

    /// Processes a datagram from the network. `buffer` holds the decrypted packet or an answer. It
    /// must be at least as long as the datagram, and at least 148 bytes.
    pub(super) fn receive(&self, datagram: &[u8], from: SocketAddr, buffer: &mut [u8], output: &mut impl Output) {
        if let Err(reason) = self.try_receive(datagram, from, buffer, output) {
            self.count(reason);
        }
    }

    fn try_receive(
        &self,
        datagram: &[u8],
        from: SocketAddr,
        buffer: &mut [u8],
        output: &mut impl Output,
    ) -> Result<(), Reason> {
        // boringtun panics if the buffer is too short.
        if buffer.len() < datagram.len().max(HANDSHAKE_LENGTH) {
            return Err(Reason::Malformed);
        }
        let message = Tunn::parse_incoming_packet(datagram)?;
        let by_session = |index| self.peers().by_session(index).cloned();
        // Whether the message may have established a session, so that queued packets can be sent.
        let mut may_have_session = true;
        let peer = match &message {
            Packet::HandshakeInit(first) => {
                may_have_session = false;
                self.verify_handshake(datagram, from, buffer, output)?;
                let handshake = parse_handshake_anon(&self.secret, &self.public, first)?;
                self.peers().by_key(&handshake.peer_static_public).cloned()
            }
            Packet::HandshakeResponse(second) => {
                self.verify_handshake(datagram, from, buffer, output)?;
                by_session(second.receiver_idx)
            }
            Packet::PacketCookieReply(cookie) => {
                may_have_session = false;
                by_session(cookie.receiver_idx)
            }
            Packet::PacketData(data) => by_session(data.receiver_idx),
        };
        let peer = peer.ok_or(Reason::UnknownPeer)?;
        let mut tunnel = peer.tunnel();
        match tunnel.decapsulate(Some(from.ip()), datagram, buffer) {
            TunnResult::Err(error) => return Err(error.into()),
            TunnResult::WriteToTunnelV6(packet, source) => {
                peer.received(datagram.len());
                // The destination must be this host's inner address: the host does not forward
                // packets of peers.
                if source != peer.inner || address(packet, IPV6_DESTINATION) != Some(self.own_inner) {
                    return Err(Reason::NotAllowed);
                }
                output.to_host(packet);
            }
            TunnResult::WriteToTunnelV4(..) => {
                peer.received(datagram.len());
                return Err(Reason::NotAllowed);
            }
            answer => {
                peer.received(datagram.len());
                self.emit(&peer, answer, output);
            }
        }
        if may_have_session {
            // Send packets that were queued for the session.
            while let queued @ TunnResult::WriteToNetwork(_) = tunnel.decapsulate(None, &[], buffer) {
                self.emit(&peer, queued, output);
            }
        }
        Ok(())
    }

    /// Checks that the sender of a handshake knows this host's public key. Under load, the sender
    /// must also prove its address before any more work is done.
    fn verify_handshake(
        &self,
        datagram: &[u8],
        from: SocketAddr,
        buffer: &mut [u8],
        output: &mut impl Output,
    ) -> Result<(), Reason> {
        match self.limiter.verify_packet(Some(from.ip()), datagram, buffer) {
            Ok(_) => Ok(()),
            Err(TunnResult::WriteToNetwork(cookie)) => {
                // The only answer to an unverified address. It is shorter than the message that it
                // answers.
                output.to_peer(cookie, from);
                Err(Reason::Overload)
            }
            Err(TunnResult::Err(error)) => Err(error.into()),
            Err(_) => Err(Reason::Malformed),
        }
    }

    /// Encrypts a packet of this host. Returns the number of bytes of the buffer to send, and the
    /// endpoint. Returns `None` if the packet has no peer, or is queued until the handshake is
    /// done. `buffer` must be at least 32 bytes longer than the packet, and at least 148 bytes.
    pub(super) fn send(&self, packet: &[u8], buffer: &mut [u8]) -> Option<(usize, SocketAddr)> {
        let peer = address(packet, IPV6_SOURCE).filter(|source| *source == self.own_inner).and_then(|_| {
            let destination = address(packet, IPV6_DESTINATION)?;
            self.peers().by_inner(destination).cloned()
        });
        let Some(peer) = peer.filter(|_| buffer.len() >= (packet.len() + OVERHEAD).max(HANDSHAKE_LENGTH)) else {
            self.count(Reason::Unroutable);
            return None;
        };
        let length = match peer.tunnel().encapsulate(packet, buffer) {
            TunnResult::WriteToNetwork(datagram) => datagram.len(),
            _ => return None,
        };
        peer.sent(length);
        Some((length, peer.endpoint()))
    }

    /// Performs due work: handshakes, keepalives, expiry of old keys. Must be called several times
    /// per second.
    pub(super) fn tick(&self, buffer: &mut [u8], output: &mut impl Output) {
        self.limiter.reset_count();
        let peers: Vec<_> = self.peers().all().cloned().collect();
        for peer in peers {
            let mut tunnel = peer.tunnel();
            peer.note_handshake(&tunnel);
            let due = match tunnel.update_timers(buffer) {
                // The peer does not answer. boringtun gives up; the kernel goes on trying a peer
                // that has a persistent keepalive.
                TunnResult::Err(WireGuardError::ConnectionExpired) => tunnel.format_handshake_initiation(buffer, false),
                due => due,
            };
            self.emit(&peer, due, output);
        }
    }

    /// Sends the output of a tunnel.
    fn emit(&self, peer: &Peer, result: TunnResult<'_>, output: &mut impl Output) {
        match result {
            TunnResult::WriteToNetwork(datagram) => {
                peer.sent(datagram.len());
                output.to_peer(datagram, peer.endpoint());
            }
            TunnResult::Err(error) => tracing::debug!("WireGuard peer {}: {error:?}", peer.key),
            TunnResult::Done | TunnResult::WriteToTunnelV4(..) | TunnResult::WriteToTunnelV6(..) => {}
        }
    }

    fn peers(&self) -> RwLockReadGuard<'_, Peers> {
        self.peers.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn peers_mut(&self) -> RwLockWriteGuard<'_, Peers> {
        self.peers.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the address at `offset`; `None` if the packet is not IPv6.
fn address(packet: &[u8], offset: usize) -> Option<Ipv6Addr> {
    if packet.len() < IPV6_HEADER || packet.first()? >> 4 != 6 {
        return None;
    }
    let bytes: [u8; 16] = *packet.get(offset..)?.first_chunk()?;
    Some(bytes.into())
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
