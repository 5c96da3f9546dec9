//! Drop counters of the userspace backend.

use std::sync::atomic::{AtomicU64, Ordering};

use boringtun::noise::errors::WireGuardError;

/// Reason why a packet was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    Malformed,
    Forged,
    UnknownPeer,
    NoSession,
    Replayed,
    NotAllowed,
    Overload,
    Unroutable,
    Unsent,
}

const REASONS: usize = Reason::Unsent as usize + 1;

/// Number of packets that the userspace backend has dropped since it was opened, by reason. The
/// kernel has no such counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drops {
    /// From the network: not a WireGuard message.
    pub malformed: u64,
    /// From the network: authentication failed.
    pub forged: u64,
    /// From the network: from an unknown peer.
    pub unknown_peer: u64,
    /// From the network: for a session that has ended or never existed.
    pub no_session: u64,
    /// From the network: received before, or too old to tell.
    pub replayed: u64,
    /// From a peer: the inner packet is not from the peer's inner address to this host's.
    pub not_allowed: u64,
    /// From the network: a handshake that was deferred, because there were too many.
    pub overload: u64,
    /// From this host: the packet is not from this host's inner address to a peer's.
    pub unroutable: u64,
    /// To a peer: the network did not accept it.
    pub unsent: u64,
}

/// The counters.
#[derive(Debug, Default)]
pub(super) struct Counters([AtomicU64; REASONS]);

impl Counters {
    pub(super) fn count(&self, reason: Reason) {
        if let Some(counter) = self.0.get(reason as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn read(&self) -> Drops {
        let count_of =
            |reason: Reason| self.0.get(reason as usize).map_or(0, |counter| counter.load(Ordering::Relaxed));
        Drops {
            malformed: count_of(Reason::Malformed),
            forged: count_of(Reason::Forged),
            unknown_peer: count_of(Reason::UnknownPeer),
            no_session: count_of(Reason::NoSession),
            replayed: count_of(Reason::Replayed),
            not_allowed: count_of(Reason::NotAllowed),
            overload: count_of(Reason::Overload),
            unroutable: count_of(Reason::Unroutable),
            unsent: count_of(Reason::Unsent),
        }
    }
}

impl From<WireGuardError> for Reason {
    fn from(error: WireGuardError) -> Self {
        match error {
            WireGuardError::DuplicateCounter
            | WireGuardError::InvalidCounter
            | WireGuardError::WrongTai64nTimestamp => Self::Replayed,
            WireGuardError::InvalidAeadTag | WireGuardError::InvalidMac | WireGuardError::WrongKey => Self::Forged,
            WireGuardError::NoCurrentSession
            | WireGuardError::WrongIndex
            | WireGuardError::UnexpectedPacket
            | WireGuardError::ConnectionExpired => Self::NoSession,
            WireGuardError::UnderLoad => Self::Overload,
            WireGuardError::DestinationBufferTooSmall
            | WireGuardError::IncorrectPacketLength
            | WireGuardError::WrongPacketType
            | WireGuardError::InvalidTai64nTimestamp
            | WireGuardError::InvalidPacket
            | WireGuardError::LockFailed => Self::Malformed,
        }
    }
}
