//! What the userspace backend drops, by reason.

use std::sync::atomic::{AtomicU64, Ordering};

use boringtun::noise::errors::WireGuardError;

/// Why a packet went no further.
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

/// How many packets the userspace backend has dropped since it was opened, by reason. The kernel keeps no such account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drops {
    /// From the network: no message of WireGuard.
    pub malformed: u64,
    /// From the network: not made with the key that it claims.
    pub forged: u64,
    /// From the network: from nobody who is a peer.
    pub unknown_peer: u64,
    /// From the network: of a session that is over, or never was.
    pub no_session: u64,
    /// From the network: received before, or older than what can be told from that.
    pub replayed: u64,
    /// From a peer: an inner packet that is not from its own address to ours.
    pub not_allowed: u64,
    /// From the network: handshakes that were put off, there being too many.
    pub overload: u64,
    /// From this host: an inner packet that is not from our address to a peer's.
    pub unroutable: u64,
    /// For a peer: what the network did not take.
    pub unsent: u64,
}

/// The account.
#[derive(Debug, Default)]
pub(super) struct Account([AtomicU64; REASONS]);

impl Account {
    pub(super) fn count(&self, reason: Reason) {
        if let Some(counter) = self.0.get(reason as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn read(&self) -> Drops {
        let of = |reason: Reason| self.0.get(reason as usize).map_or(0, |counter| counter.load(Ordering::Relaxed));
        Drops {
            malformed: of(Reason::Malformed),
            forged: of(Reason::Forged),
            unknown_peer: of(Reason::UnknownPeer),
            no_session: of(Reason::NoSession),
            replayed: of(Reason::Replayed),
            not_allowed: of(Reason::NotAllowed),
            overload: of(Reason::Overload),
            unroutable: of(Reason::Unroutable),
            unsent: of(Reason::Unsent),
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
