//! IGMP and MLD snooping (RFC 4541): tracks the groups that ports listen to, and sends queries.
//!
//! The module is pure: it reads neither a clock nor the kernel. Frames and times are parameters,
//! and the functions return the actions to take.

mod groups;
mod message;
mod querier;
mod query;

use std::net::IpAddr;

use vswitch_common::packet::address::Address;
use vswitch_common::tables::{ListenerKey, NetworkNumber, PortNumber, VlanKey};

pub use groups::{Action, Group, Groups, MAX_GROUPS, PortFacts};
pub use message::{Change, Message, ParseError, Question, Record, SnoopedMessage, parse};
pub use querier::QuerierSettings;
pub use query::{Query, QuerySource};

/// Address family of a group, which determines the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4 groups, managed by IGMP.
    Ipv4,
    /// IPv6 groups, managed by MLD.
    Ipv6,
}

impl Family {
    /// Returns the family of an address.
    pub const fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::Ipv4 } else { Self::Ipv6 }
    }
}

/// A port that listens to a group. The order of the fields is the sort order of display.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Listener {
    /// Network of the port.
    pub network: NetworkNumber,
    /// VLAN in the network.
    pub vlan: VlanKey,
    /// Group address.
    pub group: IpAddr,
    /// Port that joined the group.
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

/// Reports whether frames of a group are sent only to its listeners. Frames of the other groups are
/// flooded without a join: groups that every host is in, and groups that stay on a link (RFC 4541
/// sections 2.1.2 and 3; RFC 3810 section 6).
pub fn is_snooped(group: IpAddr) -> bool {
    match group {
        IpAddr::V4(group) => group.is_multicast() && group.octets()[..3] != [224, 0, 0],
        IpAddr::V6(group) => {
            let [first, second, ..] = group.octets();
            // Scope 0 is reserved, and scope 1 stays within one host.
            let leaves_the_host = first == 0xff && second & 0xf > 1;
            let all_nodes = group.segments() == [0xff02, 0, 0, 0, 0, 0, 0, 1];
            let solicited_node = group.octets()[..13] == [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff];
            leaves_the_host && !all_nodes && !solicited_node
        }
    }
}

/// Returns the 16-bit one's complement sum (RFC 1071) of `bytes`, added to the sum `initial`. The
/// result is 0xffff for data that contains its correct checksum.
fn sum(initial: u32, bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    let sum = words.fold(u64::from(initial), |sum, word| sum + u64::from(word));
    let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    let folded = (sum & 0xffff) + (sum >> 16);
    ((folded & 0xffff) + (folded >> 16)) as u32
}

/// Returns the sum of the pseudo header of an ICMPv6 message with this length in bytes (RFC 8200
/// section 8.1).
fn pseudo_header(source: std::net::Ipv6Addr, destination: std::net::Ipv6Addr, length: usize) -> u32 {
    let next = vswitch_common::packet::protocol::ICMPV6;
    let addresses = sum(sum(0, &source.octets()), &destination.octets());
    sum(sum(addresses, &(length as u32).to_be_bytes()), &[0, 0, 0, next])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_that_are_always_flooded_are_not_snooped() {
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
    fn a_listener_survives_the_conversion_to_a_table_key() {
        for group in ["239.1.2.3", "ff15::1234"] {
            let group = group.parse().expect("an address");
            let listener = Listener { network: NetworkNumber(3), vlan: VlanKey(30), group, port: PortNumber(7) };
            assert_eq!(Listener::from(ListenerKey::from(listener)), listener);
        }
    }
}
