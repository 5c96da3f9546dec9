//! Frames out of a tunnel whose sender or network is unknown here.

use crate::packet::TunnelKey;
use crate::tables::Tables;
use crate::verdict::DropReason;

/// Returns the reason to drop a frame out of a tunnel that has no port here.
#[inline(always)]
pub(super) fn why_unknown<T: Tables>(key: &TunnelKey, tables: &T) -> DropReason {
    match tables.tunnel(&TunnelKey::any_peer(key.vni)) {
        Some(_) => DropReason::UnknownPeer,
        None => DropReason::UnknownVni,
    }
}
