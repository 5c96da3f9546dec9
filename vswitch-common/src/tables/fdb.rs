//! The FDB: the port of each station.

use super::{NetworkNumber, PortNumber, VlanKey};
use crate::mac::Mac;

/// The key of a station.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct FdbKey {
    /// The network.
    pub network: NetworkNumber,
    /// The VLAN in the network.
    pub vlan: VlanKey,
    /// The MAC address.
    pub mac: Mac,
}

/// The entry of a station.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct FdbEntry {
    /// The port of the station.
    pub port: PortNumber,
    /// The [`super::tick`] of its last frame, written at most once a tick; 0 for static entries.
    pub seen: u32,
    /// Bits: [`FdbEntry::STATIC`] and the like.
    pub flags: u16,
    /// Moves since the tick `since`.
    pub recent: u16,
    /// The tick from which `recent` counts; of a held station, the tick since which it is held.
    pub since: u32,
    /// Moves from port to port since the station was learned.
    pub moves: u32,
}

impl FdbEntry {
    /// Static: written by the daemon, never replaced by a learned entry, never aged out.
    pub const STATIC: u16 = 1;
    /// Sticky: aged like a learned entry, but never moved to another port.
    pub const STICKY: u16 = 2;
    /// Held: the station moved too often, and stays at its port for [`FdbEntry::DAMPING`] ticks.
    pub const HELD: u16 = 4;
    /// With [`FdbEntry::STATIC`]: an endpoint of another host of the cluster, written from its
    /// record.
    pub const REMOTE: u16 = 8;
    /// Moves within [`FdbEntry::DAMPING`] that are allowed.
    pub const MOVES: u16 = 5;
    /// The time in which moves are counted, and for which a station is held, in ticks (9.7
    /// seconds).
    pub const DAMPING: u32 = 9;

    /// Returns whether the daemon wrote the entry.
    #[inline(always)]
    pub const fn is_static(&self) -> bool {
        self.flags & Self::STATIC != 0
    }

    /// Returns whether the station cannot move to another port while the entry exists.
    #[inline(always)]
    pub const fn is_static_or_sticky(&self) -> bool {
        self.flags & (Self::STATIC | Self::STICKY) != 0
    }

    /// Returns whether the station is held at its port at the tick `now`.
    #[inline(always)]
    pub const fn is_held(&self, now: u32) -> bool {
        self.flags & Self::HELD != 0 && now.wrapping_sub(self.since) < Self::DAMPING
    }

    /// Returns the entry of a station that sent a frame from another port: moved there, or held at
    /// its port.
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
