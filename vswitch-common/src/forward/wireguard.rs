//! Packets out of WireGuard. Only packets of tunnels pass, from the peer that they claim to be
//! from, and get a mark. A packet with an inner WireGuard address and without the mark arrived by
//! another path.

use super::underlay::{check, outer};
use crate::packet::address::Address;
use crate::packet::{Packet, TunnelKey, ipv6, protocol};
use crate::tables::{MARK_ENCRYPTED, Tables};
use crate::verdict::DropReason;

/// Returns why a packet out of WireGuard is dropped, `None` for a packet of a tunnel, which passes.
/// The packet has no Ethernet header and begins with the IP header. WireGuard has verified that the
/// sender has the key of its address.
///
/// Fragments do not pass. The device takes the longest packet of every tunnel whole, and a packet
/// reassembled from fragments would have the mark even if some of them had arrived by another path.
#[inline(always)]
pub fn admit<P: Packet + ?Sized, T: Tables>(packet: &P, tables: &T) -> Option<DropReason> {
    let (Some(first), Some(from), Some(to)) = (packet.read::<8>(0), packet.read(8), packet.read(24)) else {
        return Some(DropReason::Truncated);
    };
    let (from, to) = (Address::new(from), Address::new(to));
    let [version, _, _, _, _, _, next, _] = first;
    if version >> 4 != 6 || next != protocol::UDP || !from.is_inner() || !to.is_inner() {
        return Some(DropReason::UnknownPeer);
    }
    let Some(outer) = outer(packet, ipv6::HEADER, tables.tunnel_end(to)) else { return Some(DropReason::UnknownPeer) };
    check(packet, ipv6::HEADER, outer, from, tables).err()
}

/// Returns whether a packet out of a tunnel is from the host that it names: a packet with an inner
/// WireGuard address must have arrived by WireGuard.
#[inline(always)]
pub const fn is_genuine(key: &TunnelKey, mark: u32) -> bool {
    !key.remote.is_inner() || mark & MARK_ENCRYPTED != 0
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;
    use crate::tables::memory::MemoryTables;
    use crate::tables::{PortNumber, TunnelEnd};

    const OWN: [u8; 16] = [0xfd, 0x76, 0x73, 0x77, 0x69, 0x74, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    const PEER: [u8; 16] = [0xfd, 0x76, 0x73, 0x77, 0x69, 0x74, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
    const PORT: u16 = 4789;
    const VNI: u32 = 5000;

    fn tables() -> MemoryTables {
        let mut tables = MemoryTables::default();
        tables.underlay.insert(Address::new(OWN), TunnelEnd { port: PORT, ..TunnelEnd::default() });
        tables.tunnels.insert(TunnelKey::new(Address::new(PEER), VNI), PortNumber(3));
        tables.tunnels.insert(TunnelKey::any_peer(VNI), PortNumber::NONE);
        tables
    }

    fn packet() -> Vec<u8> {
        let inner = [[2; 6], [4; 6]].concat();
        let udp = 8 + 8 + 14 + 40_u16;
        let mut bytes = std::vec![0x60, 0, 0, 0];
        bytes.extend(udp.to_be_bytes());
        bytes.extend([17, 64]);
        bytes.extend(PEER);
        bytes.extend(OWN);
        bytes.extend([0xc0, 1]);
        bytes.extend(PORT.to_be_bytes());
        bytes.extend(udp.to_be_bytes());
        bytes.extend([1, 2, 8, 0, 0, 0]);
        bytes.extend((VNI << 8).to_be_bytes());
        bytes.extend(inner);
        bytes.extend([8, 0]);
        bytes.extend([7; 40]);
        bytes
    }

    fn changed(at: usize, byte: u8) -> Option<DropReason> {
        let mut bytes = packet();
        bytes[at] = byte;
        admit(bytes.as_slice(), &tables())
    }

    #[test]
    fn only_packets_of_tunnels_pass() {
        use DropReason::{Truncated, UnknownPeer, UnknownVni, VxlanHeader};
        assert_eq!(admit(packet().as_slice(), &tables()), None);
        // IPv4, TCP, ICMPv6, a fragment, behind options.
        for (at, byte) in [(0, 0x45), (6, 6), (6, 58), (6, 44), (6, 0)] {
            assert_eq!(changed(at, byte), Some(UnknownPeer), "byte {at} is {byte}");
        }
        // From and to other addresses, outside and inside the prefix.
        for at in [8, 13, 23, 24, 29, 39] {
            assert_eq!(changed(at, 0xee), Some(UnknownPeer), "byte {at}");
        }
        // To another port, or with an invalid header.
        assert_eq!(changed(43, 0xb6), Some(UnknownPeer));
        assert_eq!(
            (changed(48, 0), changed(55, 1), changed(45, 100)),
            (Some(VxlanHeader), Some(VxlanHeader), Some(VxlanHeader))
        );
        assert_eq!(changed(54, 0x89), Some(UnknownVni));
        for length in 0..40 {
            assert_eq!(admit(&packet()[..length], &tables()), Some(Truncated), "{length} bytes");
        }
        for length in 40..packet().len() {
            assert!(admit(&packet()[..length], &tables()).is_some(), "{length} bytes");
        }
    }

    #[test]
    fn inner_addresses_are_genuine_only_with_the_mark() {
        let inside = TunnelKey::new(Address::new(PEER), VNI);
        for mark in [0, 0x2000, !MARK_ENCRYPTED] {
            assert!(!is_genuine(&inside, mark), "{mark:x}");
        }
        assert!(is_genuine(&inside, MARK_ENCRYPTED) && is_genuine(&inside, u32::MAX));
        assert!(is_genuine(&TunnelKey::new(Address::mapped([192, 0, 2, 1]), VNI), 0));
    }
}
