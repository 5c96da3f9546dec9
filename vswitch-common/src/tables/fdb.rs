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
    /// Bits 0 to 3: moves since the tick `since`. Bits 4 to 15: the station's home, the port at which
    /// it was before the first of them; see [`FdbEntry::home`].
    pub recent: u16,
    /// The tick from which `recent` counts; of a held station, the tick since which it is held; of
    /// one that announced itself, the tick of that.
    pub since: u32,
    /// Moves from port to port since the station was learned.
    pub moves: u32,
}

impl FdbEntry {
    /// Static: written by the daemon, never replaced by a learned entry, never aged out.
    pub const STATIC: u16 = 1;
    /// Sticky: aged like a learned entry, but never moved to another port.
    pub const STICKY: u16 = 2;
    /// Held: the station moved too often, and stays at its home for [`FdbEntry::DAMPING`] ticks.
    pub const HELD: u16 = 4;
    /// With [`FdbEntry::STATIC`]: an endpoint of another host of the cluster, written from its
    /// record.
    pub const REMOTE: u16 = 8;
    /// The station announced itself at its port. Frames from elsewhere do not move it for
    /// [`FdbEntry::SETTLING`] ticks: they were under way.
    pub const ANNOUNCED: u16 = 16;
    /// Ticks, see [`FdbEntry::ANNOUNCED`].
    pub const SETTLING: u32 = 2;
    /// Ticks without a frame after which an announcement ends the hold of a station.
    pub const SILENT: u32 = 2;
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

    /// Returns whether a frame from another port does not move the station at the tick `now`,
    /// because it announced itself just before.
    #[inline(always)]
    pub const fn is_settling(&self, now: u32) -> bool {
        self.flags & Self::ANNOUNCED != 0 && now.wrapping_sub(self.since) < Self::SETTLING
    }

    /// Returns whether no frame came from the station for some ticks.
    #[inline(always)]
    pub const fn is_silent(&self, now: u32) -> bool {
        now.wrapping_sub(self.seen) >= Self::SILENT
    }

    /// Returns the port at which the station was before it began to move; no port if that was
    /// written by a version that did not record it.
    #[inline(always)]
    pub const fn home(&self) -> PortNumber {
        PortNumber((self.recent >> 4) as u32)
    }

    /// Returns the entry of a station that sent a frame from another port: moved there, or held at
    /// its home. The newcomer is held off: a few forged frames do not silence the owner.
    #[inline(always)]
    pub const fn moved(self, port: PortNumber, now: u32, announced: bool) -> Self {
        let begins = self.flags & Self::HELD != 0 || now.wrapping_sub(self.since) >= Self::DAMPING;
        let (since, count) = if begins { (now, 1) } else { (self.since, (self.recent & 0xf) + 1) };
        let home = if begins || self.home().0 == 0 { self.port } else { self.home() };
        let recent = (home.0 as u16) << 4 | count;
        let flags = self.flags & !(Self::HELD | Self::ANNOUNCED);
        let (port, since, flags) = if count > Self::MOVES {
            (home, now, flags | Self::HELD)
        } else if announced {
            (port, now, flags | Self::ANNOUNCED)
        } else {
            (port, since, flags)
        };
        // A hold is no move if the station is at its home already.
        let moves = self.moves + (port.0 != self.port.0) as u32;
        Self { port, seen: now, flags, recent, since, moves }
    }
}

const _: () = assert!(super::MAX_PORTS <= 1 << 12, "a port number fits into `recent`");

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: PortNumber = PortNumber(4095);
    const OTHER: PortNumber = PortNumber(7);
    const NOW: u32 = 1000;

    fn at_home() -> FdbEntry {
        FdbEntry { port: OWNER, seen: NOW, ..FdbEntry::default() }
    }

    #[test]
    fn a_station_is_held_at_the_port_where_it_was_before_it_moved() {
        // The frame that is too many comes from the owner, or from the newcomer.
        for first in [NOW, NOW + FdbEntry::DAMPING * 3] {
            let mut entry = at_home();
            for count in 1..=FdbEntry::MOVES {
                entry = entry.moved(if count % 2 == 1 { OTHER } else { OWNER }, first, false);
                assert!(!entry.is_held(first), "after {count} moves");
            }
            assert_eq!((entry.port, entry.home(), entry.moves), (OTHER, OWNER, 5));
            let held = entry.moved(OWNER, first, false);
            assert_eq!(
                (held.port, held.moves, held.is_held(first + 8), held.is_held(first + 9)),
                (OWNER, 6, true, false)
            );
            let third = entry.moved(PortNumber(8), first, false);
            assert_eq!((third.port, third.is_held(first)), (OWNER, true));
            // When the hold has ended, moves are counted anew.
            let later = held.moved(OTHER, first + 9, false);
            assert_eq!((later.port, later.home(), later.is_held(first + 9)), (OTHER, OWNER, false));
        }
    }

    #[test]
    fn an_entry_of_an_earlier_version_is_held_where_it_is() {
        let entry = FdbEntry { port: OTHER, recent: 5, since: NOW, ..at_home() };
        let held = entry.moved(OWNER, NOW, false);
        assert_eq!((held.port, held.is_held(NOW)), (OTHER, true));
    }

    #[test]
    fn an_announcement_moves_at_once_and_what_was_under_way_does_not_move_back() {
        let moved = at_home().moved(OTHER, NOW, true);
        assert_eq!((moved.port, moved.is_settling(NOW), moved.is_settling(NOW + 1)), (OTHER, true, true));
        assert!(!moved.is_settling(NOW + 2) && !moved.is_held(NOW));
        // It counts as a move, so that a loop is damped.
        let mut entry = at_home();
        for count in 1..=FdbEntry::MOVES {
            entry = entry.moved(PortNumber(count.into()), NOW, true);
        }
        let held = entry.moved(OTHER, NOW, true);
        assert_eq!((held.port, held.is_held(NOW), held.is_settling(NOW)), (OWNER, true, false));
        assert!(held.is_silent(NOW + 2) && !held.is_silent(NOW + 1));
        assert_eq!(held.moved(OTHER, NOW + 2, true).port, OTHER);
    }
}
