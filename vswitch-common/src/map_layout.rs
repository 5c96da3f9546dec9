//! The pinned maps: name, key size, value size and entries of each. A takeover relies on them.
//!
//! A daemon takes the maps of an earlier daemon over only if all of them have these sizes, and only
//! those of [`LATER`] may be missing. The name is the kernel's name of the map and that of its pin; it never changes.

use crate::held::{self, HeldKey, MAX_HELD_AT};
use crate::observe::{FrameFilter, Shown};
use crate::packet::TunnelKey;
use crate::packet::address::Address;
use crate::tables::{
    DirectRoute, FdbEntry, FdbKey, ListenerKey, MAX_LISTENERS, MAX_NEIGHBORS, MAX_OWNED, MAX_PORTS, MAX_SUBNETS,
    MAX_TRUNK_VLANS, MAX_TUNNELS, MAX_UNDERLAY, NEAR_DEVICES, Neighbor, NeighborKey, Network, OwnKey, Port,
    PortCounters, PortNumber, Shares, StormWindow, Subnet, TunnelEnd,
};
use crate::tail_call::TailCall;

/// What a takeover compares of a pinned map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapLayout {
    /// The kernel's name of the map.
    pub name: &'static str,
    /// Bytes of a key; 0 for a ring buffer.
    pub key: usize,
    /// Bytes of a value; 0 for a ring buffer.
    pub value: usize,
    /// Entries; the bytes of a ring buffer; 0 for the FDB, whose size is an option of the instance.
    pub entries: u32,
}

/// Declares each pinned map once: constant, name, key and value size, entries.
macro_rules! maps {
    ($($constant:ident = $name:literal, $key:expr, $value:expr, $entries:expr;)*) => {
        $(
            #[doc = concat!("The layout of `", $name, "`.")]
            pub const $constant: MapLayout =
                MapLayout { name: $name, key: $key, value: $value, entries: $entries };
        )*

        /// All pinned maps.
        pub const ALL: [MapLayout; [$($name),*].len()] = [$($constant),*];
    };
}

/// The maps that earlier versions do not have. A takeover makes them, beside the maps that it finds.
pub const LATER: [&str; 4] = [NETWORK_STATIONS.name, HELD.name, HELD_AT.name, HELD_IN.name];

const INDEX: usize = size_of::<u32>();
const WORD: usize = size_of::<u32>();

maps! {
    DEVICES = "DEVICES", INDEX, size_of::<PortNumber>(), NEAR_DEVICES;
    FAR_DEVICES = "FAR_DEVICES", WORD, size_of::<PortNumber>(), MAX_PORTS;
    PORTS = "PORTS", INDEX, size_of::<Port>(), MAX_PORTS;
    NETWORKS = "NETWORKS", INDEX, size_of::<Network>(), MAX_PORTS;
    FDB = "FDB", size_of::<FdbKey>(), size_of::<FdbEntry>(), 0;
    COUNTERS = "COUNTERS", INDEX, size_of::<PortCounters>(), MAX_PORTS;
    SUBNETS = "SUBNETS", WORD + size_of::<Address>(), size_of::<Subnet>(), MAX_SUBNETS;
    LEARNED = "LEARNED", INDEX, size_of::<u64>(), MAX_PORTS;
    FORGOTTEN = "FORGOTTEN", INDEX, size_of::<u64>(), MAX_PORTS;
    LEARNABLE = "LEARNABLE", INDEX, size_of::<u64>(), 1;
    NETWORK_STATIONS = "NETWORK_STATIONS", INDEX, size_of::<u64>(), Shares::ENTRIES;
    NEIGHBORS = "NEIGHBORS", size_of::<NeighborKey>(), size_of::<Neighbor>(), MAX_NEIGHBORS;
    OWNED = "OWNED", size_of::<OwnKey>(), WORD, MAX_OWNED;
    TRUNKS = "TRUNKS", WORD, WORD, MAX_TRUNK_VLANS;
    LISTENERS = "LISTENERS", size_of::<ListenerKey>(), WORD, MAX_LISTENERS;
    TUNNELS = "TUNNELS", size_of::<TunnelKey>(), size_of::<PortNumber>(), MAX_TUNNELS;
    UNDERLAY = "UNDERLAY", size_of::<Address>(), size_of::<TunnelEnd>(), MAX_UNDERLAY;
    WAYS = "WAYS", INDEX, size_of::<DirectRoute>(), MAX_PORTS;
    STORMS = "STORMS", INDEX, size_of::<StormWindow>(), StormWindow::ENTRIES;
    TAIL_CALLS = "CARRIERS", INDEX, WORD, TailCall::ALL.len() as u32;
    WATCH = "WATCH", INDEX, size_of::<FrameFilter>(), 1;
    WATCHED = "WATCHED", INDEX, size_of::<Shown>(), 1;
    FRAMES = "FRAMES", 0, 0, 4 << 20;
    EVENTS = "EVENTS", 0, 0, 256 << 10;
    HELD = "HELD", INDEX, size_of::<u64>(), held::WORDS;
    HELD_AT = "HELD_AT", size_of::<HeldKey>(), WORD, MAX_HELD_AT;
    HELD_IN = "HELD_IN", INDEX, size_of::<u64>(), 1;
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_layout_that_takeovers_rely_on_is_this() {
        let layouts = ALL.map(|map| (map.name, map.key, map.value, map.entries));
        let expected = [
            ("DEVICES", 4, 4, 65536),
            ("FAR_DEVICES", 4, 4, 4096),
            ("PORTS", 4, 64, 4096),
            ("NETWORKS", 4, 20, 4096),
            ("FDB", 12, 20, 0),
            ("COUNTERS", 4, 352, 4096),
            ("SUBNETS", 20, 8, 16384),
            ("LEARNED", 4, 8, 4096),
            ("FORGOTTEN", 4, 8, 4096),
            ("LEARNABLE", 4, 8, 1),
            ("NETWORK_STATIONS", 4, 8, 8192),
            ("NEIGHBORS", 24, 12, 409_600),
            ("OWNED", 24, 4, 16384),
            ("TRUNKS", 4, 4, 1_048_576),
            ("LISTENERS", 32, 4, 65536),
            ("TUNNELS", 24, 4, 8192),
            ("UNDERLAY", 16, 8, 1024),
            ("WAYS", 4, 12, 4096),
            ("STORMS", 4, 8, 16384),
            ("CARRIERS", 4, 4, 9),
            ("WATCH", 4, 24, 1),
            ("WATCHED", 4, 12, 1),
            ("FRAMES", 0, 0, 4_194_304),
            ("EVENTS", 0, 0, 262_144),
            ("HELD", 4, 8, 8192),
            ("HELD_AT", 24, 4, 131_072),
            ("HELD_IN", 4, 8, 1),
        ];
        assert_eq!(layouts, expected);
        assert_eq!(ALL.map(|map| map.name).into_iter().collect::<HashSet<_>>().len(), ALL.len());
    }
}
