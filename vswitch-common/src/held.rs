//! Held host ports: which binds of other processes are refused.
//!
//! A published port belongs to a container, so no process of the host may bind it. The programs at
//! bind(2) ask [`refuses`]; the daemon maintains the two tables. A port of a protocol has four bits
//! in the first table, so almost every bind costs one lookup. The second table has the addresses of
//! ports that are not held at all addresses.

use crate::packet::address::Address;

/// The first table: the bits of 16 ports in each word, first those of TCP, then those of UDP. The
/// kernel has no hook for binds of SCTP.
pub const WORDS: u32 = 2 * PORTS / PORTS_PER_WORD;
const PORTS: u32 = 1 << 16;
const PORTS_PER_WORD: u32 = u64::BITS / BITS;
const BITS: u32 = 4;

/// The most entries of the second table.
pub const MAX_HELD_AT: u32 = 1 << 17;

const TCP: u32 = 6;
const UDP: u32 = 17;

/// The bits of a port.
pub mod flag {
    /// Held at all IPv4 addresses, except those with a [`FREE`] entry.
    pub const ALL_IPV4: u64 = 1;
    /// Held at the IPv4 addresses with a [`HELD`] entry.
    pub const SOME_IPV4: u64 = 2;
    /// Held at all IPv6 addresses, except those with a [`FREE`] entry.
    pub const ALL_IPV6: u64 = 4;
    /// Held at the IPv6 addresses with a [`HELD`] entry.
    pub const SOME_IPV6: u64 = 8;

    /// An entry of the second table: the port is held at the address.
    pub const HELD: u32 = 1;
    /// An entry of the second table: the port is not held at the address, although it is held at
    /// all others.
    pub const FREE: u32 = 2;
}

/// The key of the second table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct HeldKey {
    /// The address.
    pub address: Address,
    /// The port.
    pub port: u32,
    /// The number of the protocol.
    pub protocol: u32,
}

const _: () = assert!(size_of::<HeldKey>() == 24);

#[cfg(feature = "user")]
// SAFETY: `repr(C)` over integers, no padding (size asserted above), any bit pattern is valid.
unsafe impl aya::Pod for HeldKey {}

/// The place of a port's bits in the first table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The index of the word.
    pub word: u32,
    /// The number of the lowest bit.
    pub shift: u32,
}

impl Place {
    /// The number of bits of a port.
    pub const BITS: u32 = BITS;
    /// All bits of a port, at the lowest place.
    pub const MASK: u64 = (1 << BITS) - 1;

    /// Returns the place of a port. Returns `None` for a protocol whose ports are not in the table.
    #[inline(always)]
    pub const fn of(protocol: u32, port: u32) -> Option<Self> {
        let first = match protocol {
            TCP => 0,
            UDP => WORDS / 2,
            _ => return None,
        };
        let port = port & (PORTS - 1);
        Some(Self { word: first + port / PORTS_PER_WORD, shift: port % PORTS_PER_WORD * BITS })
    }
}

/// The two tables.
pub trait HeldPorts {
    /// Returns a word of the first table.
    fn word(&self, index: u32) -> u64;
    /// Returns the entry of an address, 0 if there is none.
    fn at(&self, key: &HeldKey) -> u32;
}

/// The address of a bind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bind {
    /// The number of the protocol.
    pub protocol: u32,
    /// The port; 0 lets the kernel choose.
    pub port: u32,
    /// The address. 0.0.0.0 is `::ffff:0.0.0.0`.
    pub address: Address,
}

/// Reports whether a bind is refused, because a process would share a held port with it. As in the
/// kernel, a bind to all addresses is refused if the port is held at one of them. `only_ipv6` is
/// asked for a bind to `::`: whether the socket is for IPv6 alone.
#[inline(always)]
pub fn refuses(tables: &impl HeldPorts, bind: Bind, only_ipv6: impl FnOnce() -> bool) -> bool {
    let Bind { protocol, port, address } = bind;
    let Some(place) = Place::of(protocol, port) else { return false };
    let bits = tables.word(place.word) >> place.shift & Place::MASK;
    if port == 0 || bits == 0 {
        return false;
    }
    let ipv4 = bits & (flag::ALL_IPV4 | flag::SOME_IPV4) != 0;
    let ipv6 = bits & (flag::ALL_IPV6 | flag::SOME_IPV6) != 0;
    if address == Address::mapped([0; 4]) {
        return ipv4;
    }
    if address == Address::UNSPECIFIED {
        return ipv6 || ipv4 && !only_ipv6();
    }
    let (all, some) = match address.is_mapped() {
        true => (flag::ALL_IPV4, flag::SOME_IPV4),
        false => (flag::ALL_IPV6, flag::SOME_IPV6),
    };
    if bits & (all | some) == 0 {
        return false;
    }
    match tables.at(&HeldKey { address, port, protocol }) {
        flag::HELD => true,
        flag::FREE => false,
        _ => bits & all != 0,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::net::IpAddr;

    use super::*;

    #[derive(Default)]
    struct Tables {
        words: HashMap<u32, u64>,
        at: HashMap<HeldKey, u32>,
    }

    impl HeldPorts for Tables {
        fn word(&self, index: u32) -> u64 {
            self.words.get(&index).copied().unwrap_or_default()
        }

        fn at(&self, key: &HeldKey) -> u32 {
            self.at.get(key).copied().unwrap_or_default()
        }
    }

    fn address(text: &str) -> Address {
        match text.parse().expect("an address") {
            IpAddr::V4(address) => Address::mapped(address.octets()),
            IpAddr::V6(address) => Address::new(address.octets()),
        }
    }

    impl Tables {
        fn with(bits: u64, at: &[(&str, u32)]) -> Self {
            let place = Place::of(TCP, 8080).expect("a place");
            let key = |text: &str| HeldKey { address: address(text), port: 8080, protocol: TCP };
            Self {
                words: HashMap::from([(place.word, bits << place.shift)]),
                at: at.iter().map(|(text, entry)| (key(text), *entry)).collect(),
            }
        }

        fn refused<'a>(&self, addresses: &[&'a str], only_ipv6: bool) -> Vec<&'a str> {
            let bind = |text: &str| Bind { protocol: TCP, port: 8080, address: address(text) };
            addresses.iter().copied().filter(|text| refuses(self, bind(text), || only_ipv6)).collect()
        }
    }

    const ADDRESSES: [&str; 6] = ["0.0.0.0", "127.0.0.1", "192.0.2.1", "::", "::1", "2001:db8::1"];

    #[test]
    fn a_port_of_one_family_is_free_in_the_other() {
        let ipv4 = Tables::with(flag::ALL_IPV4, &[]);
        assert_eq!(ipv4.refused(&ADDRESSES, true), ["0.0.0.0", "127.0.0.1", "192.0.2.1"]);
        assert_eq!(ipv4.refused(&ADDRESSES, false), ["0.0.0.0", "127.0.0.1", "192.0.2.1", "::"]);
        let ipv6 = Tables::with(flag::ALL_IPV6, &[]);
        assert_eq!(ipv6.refused(&ADDRESSES, false), ["::", "::1", "2001:db8::1"]);
        let both = Tables::with(flag::ALL_IPV4 | flag::ALL_IPV6, &[]);
        assert_eq!(both.refused(&ADDRESSES, true), ADDRESSES);
        assert_eq!(Tables::default().refused(&ADDRESSES, false), [""; 0]);
    }

    #[test]
    fn a_port_at_one_address_is_free_at_others_and_taken_at_all() {
        let ipv4 = Tables::with(flag::SOME_IPV4, &[("192.0.2.1", flag::HELD)]);
        assert_eq!(ipv4.refused(&ADDRESSES, true), ["0.0.0.0", "192.0.2.1"]);
        assert_eq!(ipv4.refused(&ADDRESSES, false), ["0.0.0.0", "192.0.2.1", "::"]);
        let ipv6 = Tables::with(flag::SOME_IPV6, &[("::1", flag::HELD)]);
        assert_eq!(ipv6.refused(&ADDRESSES, false), ["::", "::1"]);
    }

    #[test]
    fn an_address_can_be_left_out() {
        let tables = Tables::with(flag::ALL_IPV4 | flag::ALL_IPV6, &[("192.0.2.1", flag::FREE), ("::1", flag::FREE)]);
        assert_eq!(tables.refused(&ADDRESSES, false), ["0.0.0.0", "127.0.0.1", "::", "2001:db8::1"]);
    }

    #[test]
    fn other_ports_and_protocols_are_free() {
        let tables = Tables::with(Place::MASK, &[]);
        for (protocol, port) in [(TCP, 8081), (TCP, 8079), (UDP, 8080), (132, 8080), (TCP, 0), (0, 8080)] {
            let bind = Bind { protocol, port, address: address("0.0.0.0") };
            assert!(!refuses(&tables, bind, || false), "{bind:?}");
        }
    }

    #[test]
    fn each_port_has_bits_of_its_own() {
        let places = [TCP, UDP].into_iter().flat_map(|protocol| (0..PORTS).map(move |port| Place::of(protocol, port)));
        let places: std::collections::HashSet<_> = places.map(|place| place.expect("a place")).collect();
        assert_eq!(places.len(), 2 * PORTS as usize);
        assert!(places.iter().all(|place| place.word < WORDS && place.shift + BITS <= u64::BITS));
    }
}
