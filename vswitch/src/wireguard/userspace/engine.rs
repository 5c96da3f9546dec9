//! The protocol's part of the userspace backend: datagrams and packets in, datagrams and packets out. No sockets and no
//! devices, so that all of it can be tested without either.

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, Tunn, TunnResult};
use x25519_dalek::StaticSecret;

use super::super::keys::{PrivateKey, PublicKey};
use super::super::{KEEPALIVE, PeerStatus};
use super::drops::{Account, Drops, Reason};
use super::peers::{Peer, Peers};

/// Handshakes a second from which on those who ask for more have to prove where they are (the WireGuard paper, 5.3); as
/// many as boringtun's own device takes.
const HANDSHAKES: u64 = 100;

/// Bytes of the largest message but for data: a handshake's first (the WireGuard paper, 5.4.2).
const HANDSHAKE: usize = 148;
/// Bytes that a data message has more than the packet in it: header and tag (the WireGuard paper, 5.4.6).
const OVERHEAD: usize = 32;

/// The IPv6 header, and where its addresses are (RFC 8200, 3).
const IPV6_HEADER: usize = 40;
const IPV6_SOURCE: usize = 8;
const IPV6_DESTINATION: usize = 24;

/// Where what comes out goes.
pub(super) trait Output {
    /// A datagram, to a peer.
    fn to_peer(&mut self, datagram: &[u8], endpoint: SocketAddr);
    /// A packet from a peer, to this host.
    fn to_host(&mut self, packet: &[u8]);
}

/// Keys, peers and their sessions.
pub(super) struct Engine {
    secret: StaticSecret,
    public: x25519_dalek::PublicKey,
    own: Ipv6Addr,
    limiter: RateLimiter,
    /// What sessions are given: handshakes were counted before it was known whose they are, and count once.
    unlimited: Arc<RateLimiter>,
    peers: RwLock<Peers>,
    account: Account,
}

impl Engine {
    pub(super) fn new(key: &PrivateKey) -> Self {
        let secret = key.secret().clone();
        let public = x25519_dalek::PublicKey::from(&secret);
        Self {
            own: key.public().inner_address(),
            limiter: RateLimiter::new(&public, HANDSHAKES),
            unlimited: Arc::new(RateLimiter::new(&public, u64::MAX)),
            secret,
            public,
            peers: RwLock::default(),
            account: Account::default(),
        }
    }

    /// Adds a peer and greets it; or moves one that is there, whose sessions go on. The buffer is for what is sent.
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
        // So that each side knows at once that the other is there, as with the kernel's persistent keepalive.
        self.emit(&peer, peer.tunnel().format_handshake_initiation(buffer, false), output);
    }

    pub(super) fn remove_peer(&self, key: &PublicKey) {
        self.peers_mut().remove(key);
    }

    pub(super) fn statuses(&self) -> Vec<PeerStatus> {
        self.peers().all().map(|peer| peer.status()).collect()
    }

    pub(super) fn drops(&self) -> Drops {
        self.account.read()
    }

    pub(super) fn count(&self, reason: Reason) {
        self.account.count(reason);
    }

    /// Takes a datagram from the network. The buffer is for what is in it, and for answers: it has to be as long as the
    /// datagram, and no shorter than 148 bytes.
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
        // boringtun panics where there is no room.
        if buffer.len() < datagram.len().max(HANDSHAKE) {
            return Err(Reason::Malformed);
        }
        let message = Tunn::parse_incoming_packet(datagram)?;
        let by_session = |index| self.peers().by_session(index).cloned();
        // Whether somebody who had to wait for a session has one now.
        let mut session = true;
        let peer = match &message {
            Packet::HandshakeInit(first) => {
                session = false;
                self.limit(datagram, from, buffer, output)?;
                let greeting = parse_handshake_anon(&self.secret, &self.public, first)?;
                self.peers().by_key(&greeting.peer_static_public).cloned()
            }
            Packet::HandshakeResponse(second) => {
                self.limit(datagram, from, buffer, output)?;
                by_session(second.receiver_idx)
            }
            Packet::PacketCookieReply(cookie) => {
                session = false;
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
                // Not to others than us, either: this host is nobody's router.
                if source != peer.inner || address(packet, IPV6_DESTINATION) != Some(self.own) {
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
        if session {
            // What has waited for it.
            while let waited @ TunnResult::WriteToNetwork(_) = tunnel.decapsulate(None, &[], buffer) {
                self.emit(&peer, waited, output);
            }
        }
        Ok(())
    }

    /// Checks that whoever sent a handshake knows our public key; and where there are too many, has them prove where they
    /// are before any more work is done for them.
    fn limit(
        &self,
        datagram: &[u8],
        from: SocketAddr,
        buffer: &mut [u8],
        output: &mut impl Output,
    ) -> Result<(), Reason> {
        match self.limiter.verify_packet(Some(from.ip()), datagram, buffer) {
            Ok(_) => Ok(()),
            Err(TunnResult::WriteToNetwork(cookie)) => {
                // The only answer that goes to where it came from: it is shorter than what it answers.
                output.to_peer(cookie, from);
                Err(Reason::Overload)
            }
            Err(TunnResult::Err(error)) => Err(error.into()),
            Err(_) => Err(Reason::Malformed),
        }
    }

    /// Encrypts a packet of this host. Returns how many bytes of the buffer are to be sent, and where to; nothing if it
    /// goes nowhere, or has to wait for a handshake whose beginning was then sent instead. The buffer has to have 32 bytes
    /// more than the packet, and no fewer than 148.
    pub(super) fn send(&self, packet: &[u8], buffer: &mut [u8]) -> Option<(usize, SocketAddr)> {
        let peer = address(packet, IPV6_SOURCE).filter(|source| *source == self.own).and_then(|_| {
            let destination = address(packet, IPV6_DESTINATION)?;
            self.peers().by_inner(destination).cloned()
        });
        let Some(peer) = peer.filter(|_| buffer.len() >= (packet.len() + OVERHEAD).max(HANDSHAKE)) else {
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

    /// Does what is due: handshakes, keepalives, forgetting old keys. To be called several times a second.
    pub(super) fn tick(&self, buffer: &mut [u8], output: &mut impl Output) {
        self.limiter.reset_count();
        let peers: Vec<_> = self.peers().all().cloned().collect();
        for peer in peers {
            let mut tunnel = peer.tunnel();
            peer.note_handshake(&tunnel);
            let due = match tunnel.update_timers(buffer) {
                // It is not there. The kernel goes on greeting a peer that has a persistent keepalive; boringtun gives up.
                TunnResult::Err(WireGuardError::ConnectionExpired) => tunnel.format_handshake_initiation(buffer, false),
                due => due,
            };
            self.emit(&peer, due, output);
        }
    }

    /// Sends what a tunnel wants sent.
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

/// An address in a packet of IPv6; `None` if it is none.
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
