//! The FDB: which station is behind which port.

use super::{NetworkNumber, PortNumber, VlanKey};
use crate::mac::Mac;

/// A station's key in the FDB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct FdbKey {
    /// The network.
    pub network: NetworkNumber,
    /// The VLAN in it.
    pub vlan: VlanKey,
    /// The station.
    pub mac: Mac,
}

/// Where a station is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct FdbEntry {
    /// The port it is behind.
    pub port: PortNumber,
    /// The [`super::tick`] at which it was last heard; written at most once a tick. 0 for static ones.
    pub seen: u32,
    /// Bits: [`FdbEntry::STATIC`] and the like.
    pub flags: u16,
    /// How often it has moved since `since`.
    pub recent: u16,
    /// The tick from which `recent` counts; if it is held, from which it is.
    pub since: u32,
    /// How often it moved from port to port since it was learned.
    pub moves: u32,
}

impl FdbEntry {
    /// Written by the daemon: never learned over, never aged.
    pub const STATIC: u16 = 1;
    /// Aged like a learned one, and does not move while it is there.
    pub const STICKY: u16 = 2;
    /// It moved too often and stays where it is for [`FdbEntry::DAMPING`] ticks.
    pub const HELD: u16 = 4;
    /// Besides [`FdbEntry::STATIC`]: an endpoint of another host of the cluster, whose record this follows.
    pub const REMOTE: u16 = 8;
    /// Moves within [`FdbEntry::DAMPING`] that are still taken for a station on the move.
    pub const MOVES: u16 = 5;
    /// The time in which moves are counted, and that a station is held, in ticks: 9.7 seconds.
    pub const DAMPING: u32 = 9;

    /// Whether the daemon wrote it.
    #[inline(always)]
    pub const fn is_static(&self) -> bool {
        self.flags & Self::STATIC != 0
    }

    /// Whether it stays at its port, whoever claims its address elsewhere: for good or as long as the entry lives.
    #[inline(always)]
    pub const fn is_fixed(&self) -> bool {
        self.flags & (Self::STATIC | Self::STICKY) != 0
    }

    /// Whether it is held at its port at the moment.
    #[inline(always)]
    pub const fn is_held(&self, now: u32) -> bool {
        self.flags & Self::HELD != 0 && now.wrapping_sub(self.since) < Self::DAMPING
    }

    /// The entry of a station that has just been heard at another port: there, or held where it was.
    #[inline(always)]
    pub const fn moved(self, port: PortNumber, now: u32) -> Self {
        let (since, recent) = if self.flags & Self::HELD != 0 || now.wrapping_sub(self.since) >= Self::DAMPING {
            (now, 1)
        } else {
            (self.since, self.recent + 1)
        };
        if recent > Self::MOVES {
            return Self { flags: self.flags | Self::HELD, since: now, recent, ..self };
        }
        Self { port, seen: now, flags: self.flags & !Self::HELD, recent, since, moves: self.moves + 1 }
    }
}
