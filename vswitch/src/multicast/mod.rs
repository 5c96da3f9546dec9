//! Who listens to which multicast group (RFC 4541): what IGMP and MLD messages say, and what follows from it.
//!
//! Nothing here looks at a clock or at the kernel: frames and times come in as values, and what is to be done goes out.

mod groups;
mod message;
mod querier;
mod query;

use std::net::IpAddr;

use vswitch_common::packet::address::Address;
use vswitch_common::tables::{ListenerKey, NetworkNumber, PortNumber, VlanKey};

pub use groups::{Action, Group, Groups, MAX_GROUPS, PortFacts};
pub use message::{Change, Heard, Message, Question, Record, Unread, parse};
pub use querier::Rules;
pub use query::{Asker, Query};

/// Which of the two protocols: groups of IPv4 are IGMP's, those of IPv6 are MLD's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IGMP.
    Ipv4,
    /// MLD.
    Ipv6,
}

impl Family {
    /// That of an address.
    pub const fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::Ipv4 } else { Self::Ipv6 }
    }
}

/// A port that listens to a group. In the order in which people want to see them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Listener {
    /// The network.
    pub network: NetworkNumber,
    /// The VLAN in it.
    pub vlan: VlanKey,
    /// The group.
    pub group: IpAddr,
    /// The port.
    pub port: PortNumber,
}

impl From<Listener> for ListenerKey {
    fn from(listener: Listener) -> Self {
        let Listener { network, vlan, group, port } = listener;
        let group = match group {
            IpAddr::V4(group) => Address::mapped(group.octets()),
            IpAddr::V6(group) => Address::new(group.octets()),
        };
        Self { group, network, port, vlan, reserved: [0; 3] }
    }
}

impl From<ListenerKey> for Listener {
    fn from(key: ListenerKey) -> Self {
        let group = IpAddr::from(key.group.octets()).to_canonical();
        Self { network: key.network, vlan: key.vlan, group, port: key.port }
    }
}

/// Whether a group is one that ports listen to or not. The others are flooded, and nobody has to ask for them: what every
/// host is in, and what stays on a link (RFC 4541, 2.1.2 and 3; RFC 3810, 6).
pub fn is_snooped(group: IpAddr) -> bool {
    match group {
        IpAddr::V4(group) => group.is_multicast() && group.octets()[..3] != [224, 0, 0],
        IpAddr::V6(group) => {
            let [first, second, ..] = group.octets();
            // Scopes 0 and 1: reserved, and within one host.
            let leaves_the_host = first == 0xff && second & 0xf > 1;
            let all_nodes = group.segments() == [0xff02, 0, 0, 0, 0, 0, 0, 1];
            let solicited_node = group.octets()[..13] == [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff];
            leaves_the_host && !all_nodes && !solicited_node
        }
    }
}

/// The sum of RFC 1071 over bytes and what came before; 0xffff over what has its checksum in it.
fn sum(before: u32, bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    let sum = words.fold(u64::from(before), |sum, word| sum + u64::from(word));
    let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    let folded = (sum & 0xffff) + (sum >> 16);
    ((folded & 0xffff) + (folded >> 16)) as u32
}

/// The sum of the pseudo header before an ICMPv6 message (RFC 8200, 8.1).
fn pseudo_header(source: std::net::Ipv6Addr, destination: std::net::Ipv6Addr, length: usize) -> u32 {
    let next = vswitch_common::packet::protocol::ICMPV6;
    let addresses = sum(sum(0, &source.octets()), &destination.octets());
    sum(sum(addresses, &(length as u32).to_be_bytes()), &[0, 0, 0, next])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_always_flooded_is_not_snooped() {
        for group in
            ["224.0.0.1", "224.0.0.251", "ff02::1", "ff02::1:ff00:7", "ff00::5", "ff01::2", "ff11::3", "10.0.0.1"]
        {
            assert!(!is_snooped(group.parse().expect("an address")), "{group}");
        }
        for group in ["224.0.1.1", "239.1.2.3", "232.0.0.9", "ff02::fb", "ff05::2", "ff15::1234", "ff02::1:fe00:7"] {
            assert!(is_snooped(group.parse().expect("an address")), "{group}");
        }
    }

    #[test]
    fn a_listener_is_an_entry_of_the_table_and_back() {
        for group in ["239.1.2.3", "ff15::1234"] {
            let group = group.parse().expect("an address");
            let listener = Listener { network: NetworkNumber(3), vlan: VlanKey(30), group, port: PortNumber(7) };
            assert_eq!(Listener::from(ListenerKey::from(listener)), listener);
        }
    }
}
