//! IP addresses, in one type for both versions.

use crate::mac::Mac;

use super::ethernet::{Ethernet, is_tag};
use super::{Packet, ethertype};

/// An IPv6 address, or an IPv4 address as the IPv6 address that maps it, ::ffff:a.b.c.d (RFC 4291,
/// 2.5.5.2).
///
/// It consists of two words, which eBPF keeps in registers. The sixteen bytes are in the order of
/// the wire on every machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(C)]
pub struct Address {
    high: u64,
    low: u64,
}

const _: () = assert!(size_of::<Address>() == 16);

/// The first six bytes of [`Address::INNER`], as a number.
const INNER_PREFIX: u64 = 0xfd76_7377_6974;

impl Address {
    /// The prefix of the addresses that hosts have inside WireGuard, fd76:7377:6974::/48. It is a
    /// unique local prefix (RFC 4193), the same on all hosts, so that every host recognises packets
    /// that must never appear outside WireGuard.
    pub const INNER: ([u8; 6], u8) = ([0xfd, 0x76, 0x73, 0x77, 0x69, 0x74], 48);

    /// `::`, the source of a station without an address.
    pub const UNSPECIFIED: Self = Self { high: 0, low: 0 };

    /// ff02::1, the group of all nodes on a link.
    pub const ALL_NODES: Self = Self::new([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);

    /// Returns the address with these bytes.
    #[inline(always)]
    pub const fn new(bytes: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
        Self { high: u64::from_ne_bytes([a, b, c, d, e, f, g, h]), low: u64::from_ne_bytes([i, j, k, l, m, n, o, p]) }
    }

    /// Returns the address that maps an IPv4 address.
    #[inline(always)]
    pub const fn mapped(bytes: [u8; 4]) -> Self {
        let [a, b, c, d] = bytes;
        Self { high: 0, low: u64::from_ne_bytes([0, 0, 0xff, 0xff, a, b, c, d]) }
    }

    /// Returns the address with these four words, each in the byte order of the wire.
    #[inline(always)]
    pub const fn of_words(words: [u32; 4]) -> Self {
        let [a, b, c, d] = words;
        if cfg!(target_endian = "little") {
            return Self { high: (b as u64) << 32 | a as u64, low: (d as u64) << 32 | c as u64 };
        }
        Self { high: (a as u64) << 32 | b as u64, low: (c as u64) << 32 | d as u64 }
    }

    /// Returns the four words, each in the byte order of the wire.
    #[inline(always)]
    pub const fn words(self) -> [u32; 4] {
        if cfg!(target_endian = "little") {
            return [self.high as u32, (self.high >> 32) as u32, self.low as u32, (self.low >> 32) as u32];
        }
        [(self.high >> 32) as u32, self.high as u32, (self.low >> 32) as u32, self.low as u32]
    }

    /// Returns whether it is an IPv4 address.
    #[inline(always)]
    pub const fn is_mapped(self) -> bool {
        self.high == 0 && u64::from_be(self.low) >> 32 == 0xffff
    }

    /// Returns the link-local address that a station forms from its MAC address (RFC 4291, appendix
    /// A).
    #[inline(always)]
    pub const fn link_local(mac: Mac) -> Self {
        let [a, b, c, d, e, f] = mac.0;
        Self::new([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
    }

    /// Returns the bytes.
    #[inline(always)]
    pub const fn octets(self) -> [u8; 16] {
        let ([a, b, c, d, e, f, g, h], [i, j, k, l, m, n, o, p]) = (self.high.to_ne_bytes(), self.low.to_ne_bytes());
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }

    /// Returns whether the address is in 127.0.0.0/8 or is ::1.
    #[inline(always)]
    pub const fn is_loopback(self) -> bool {
        let low = u64::from_be(self.low);
        self.high == 0 && (low == 1 || low >> 24 == 0xff_ff7f)
    }

    /// Returns whether the address is in fe80::/10.
    #[inline(always)]
    pub const fn is_link_local(self) -> bool {
        u64::from_be(self.high) >> 54 == 0xfe80 >> 6
    }

    /// Returns whether the address is in [`Address::INNER`], so that it is a host's address inside
    /// WireGuard.
    #[inline(always)]
    pub const fn is_inner(self) -> bool {
        u64::from_be(self.high) >> 16 == INNER_PREFIX
    }

    /// Returns the sum of the eight 16-bit words, for an Internet checksum (RFC 1071).
    #[inline(always)]
    pub const fn sum(self) -> u32 {
        let (high, low) = (u64::from_be(self.high), u64::from_be(self.low));
        ((high >> 48) & 0xffff) as u32
            + ((high >> 32) & 0xffff) as u32
            + ((high >> 16) & 0xffff) as u32
            + (high & 0xffff) as u32
            + ((low >> 48) & 0xffff) as u32
            + ((low >> 32) & 0xffff) as u32
            + ((low >> 16) & 0xffff) as u32
            + (low & 0xffff) as u32
    }

    /// Returns whether the address is an IPv4 multicast group, 224.0.0.0/4.
    #[inline(always)]
    pub const fn is_multicast4(self) -> bool {
        u64::from_be(self.low) >> 28 == 0xff_ffe && self.high == 0
    }

    /// Returns whether frames for the group are flooded whether a port listens or not:
    /// 224.0.0.0/24, for which there are no reports (RFC 4541, 2.1.2); ff01::/16; ff02::1; and the
    /// groups of neighbor solicitations, ff02::1:ff00:0/104.
    #[inline(always)]
    pub const fn is_group_of_all(self) -> bool {
        let (high, low) = (u64::from_be(self.high), u64::from_be(self.low));
        match high {
            0 => low >> 8 == 0x00ff_ffe0_0000,
            0xff02_0000_0000_0000 => low == 1 || low >> 24 == 0x01_ff,
            _ => high >> 48 == 0xff01,
        }
    }

    /// Returns whether the address is in ff00::/8.
    #[inline(always)]
    pub const fn is_multicast6(self) -> bool {
        u64::from_be(self.high) >> 56 == 0xff
    }

    /// Returns whether the address is `::`.
    #[inline(always)]
    pub const fn is_unspecified6(self) -> bool {
        self.high | self.low == 0
    }
}

/// The IP addresses of a frame. Flat, with every field always set (see [`crate::verifier`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// One of [`Addresses::OTHER`], [`Addresses::IP`] and [`Addresses::UNREADABLE`].
    pub kind: u32,
    /// The source; zeros if it is not IP.
    pub source: Address,
    /// The destination; zeros if it is not IP.
    pub destination: Address,
}

impl Addresses {
    /// Not an IP packet.
    pub const OTHER: u32 = 0;
    /// An IP packet.
    pub const IP: u32 = 1;
    /// An IP packet that ends within its addresses, which no stack accepts; or any frame with more
    /// tags than are read, which a stack accepts if they are priority tags.
    pub const UNREADABLE: u32 = 2;

    /// Reads the addresses where a stack would read them. A wrong version or length is not checked;
    /// the stack refuses it.
    #[inline(always)]
    pub fn read<P: Packet + ?Sized>(frame: &P, ethernet: &Ethernet) -> Self {
        let none = Self { kind: Self::OTHER, source: Address::UNSPECIFIED, destination: Address::UNSPECIFIED };
        let unreadable = Self { kind: Self::UNREADABLE, ..none };
        match ethernet.ethertype {
            ethertype::IPV4 => match frame.read::<8>(ethernet.payload + 12) {
                Some([s0, s1, s2, s3, d0, d1, d2, d3]) => Self {
                    kind: Self::IP,
                    source: Address::mapped([s0, s1, s2, s3]),
                    destination: Address::mapped([d0, d1, d2, d3]),
                },
                None => unreadable,
            },
            ethertype::IPV6 => {
                // One read for both addresses: after two, the verifier finds one unset where the
                // other failed.
                let Some(addresses) = frame.read::<32>(ethernet.payload + 8) else { return unreadable };
                let (mut source, mut destination) = ([0; 16], [0; 16]);
                source.copy_from_slice(&addresses[..16]);
                destination.copy_from_slice(&addresses[16..]);
                Self { kind: Self::IP, source: Address::new(source), destination: Address::new(destination) }
            }
            tag if is_tag(tag) => unreadable,
            _ => none,
        }
    }
}

#[cfg(test)]
mod tests {
    use core::net::Ipv6Addr;

    use super::*;

    fn address(text: &str) -> Address {
        Address::new(text.parse::<Ipv6Addr>().expect("an address").octets())
    }

    #[test]
    fn classes() {
        for loopback in ["::1", "::ffff:127.0.0.0", "::ffff:127.255.1.2"] {
            assert!(address(loopback).is_loopback(), "{loopback}");
        }
        for other in ["::", "::2", "1::1", "::ffff:126.0.0.1", "::ffff:128.0.0.1", "::127.0.0.1", "::1:0:0:1"] {
            assert!(!address(other).is_loopback(), "{other}");
        }
        assert!(address("fe80::1").is_link_local() && address("febf::1").is_link_local());
        assert!(!address("fec0::1").is_link_local() && !address("fd00::1").is_link_local());
        assert!(address("ff02::1").is_multicast6() && !address("::ffff:224.0.0.1").is_multicast6());
        assert!(address("fd76:7377:6974::").is_inner() && address("fd76:7377:6974:ffff:1:2:3:4").is_inner());
        for other in ["fd76:7377:6975::1", "fd76:7377:6973:ffff::", "fc76:7377:6974::1", "::", "::ffff:10.0.0.1"] {
            assert!(!address(other).is_inner(), "{other}");
        }
        let (prefix, _) = Address::INNER;
        assert_eq!(address("fd76:7377:6974::").octets()[..6], prefix);
        assert!(address("::").is_unspecified6() && !Address::mapped([0; 4]).is_unspecified6());
        assert_eq!(address("1:2:3:4:5:6:7:8").octets(), [0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0, 7, 0, 8]);
    }

    #[test]
    fn addresses_are_read_behind_tags_and_cut_off_ones_are_unreadable() {
        let head = [2_u8, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        let mut four = std::vec![8, 0, 0x45];
        four.resize(2 + 12, 0);
        four.extend([10, 1, 0, 2, 10, 2, 0, 2]);
        let mut six = std::vec![0x86, 0xdd, 0x60];
        six.resize(2 + 8, 0);
        six.extend(address("fd01::2").octets());
        six.extend(address("fd02::2").octets());
        let read = |bytes: &[u8]| Addresses::read(bytes, &Ethernet::parse(bytes).expect("an Ethernet header"));
        for tags in [&[][..], &[0x81, 0, 0, 5], &[0x88, 0xa8, 0, 5, 0x81, 0, 0, 6]] {
            let tagged = |packet: &[u8]| [&head, tags, packet].concat();
            let ip = read(&tagged(&four));
            assert_eq!((ip.kind, ip.source), (Addresses::IP, Address::mapped([10, 1, 0, 2])));
            assert_eq!(ip.destination, Address::mapped([10, 2, 0, 2]));
            let ip = read(&tagged(&six));
            assert_eq!((ip.kind, ip.source, ip.destination), (Addresses::IP, address("fd01::2"), address("fd02::2")));
            for packet in [&four, &six] {
                for length in 2..packet.len() {
                    assert_eq!(read(&tagged(&packet[..length])).kind, Addresses::UNREADABLE, "{length} bytes");
                }
            }
            assert_eq!(read(&tagged(&[8, 6])).kind, Addresses::OTHER);
        }
        let thrice = [&head, &[0x81, 0, 0, 0, 0x81, 0, 0, 0, 0x81, 0, 0, 0][..], &four].concat();
        assert_eq!(read(&thrice).kind, Addresses::UNREADABLE);
    }
}
