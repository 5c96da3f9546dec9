//! The addresses of this host that the programs on the underlay accept as tunnel ends.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use vswitch_common::tables::MAX_UNDERLAY;

use crate::model::Owner;
use crate::switch::overlay::Overlay;

/// The subject of the note on addresses that do not fit into the table.
const NOTE: &str = "underlay: addresses";

/// The addresses, and the number of those that do not fit.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ends {
    pub(super) addresses: BTreeSet<IpAddr>,
    pub(super) left_out: usize,
}

impl Ends {
    /// Selects from all addresses, by the index of their device. `towards` are the devices with
    /// routes to peers, `owned` the devices of the instance.
    pub fn of(
        addresses: impl IntoIterator<Item = (u32, IpNet)>,
        towards: &BTreeSet<u32>,
        owned: &BTreeMap<u32, Owner>,
    ) -> Self {
        // The kernel's VXLAN device receives packets to omitted addresses, except those that come
        // through WireGuard.
        let ranked: BTreeSet<(u8, IpAddr)> = addresses
            .into_iter()
            .map(|(index, address)| (index, address.addr()))
            .filter(|(_, address)| may_be_an_end(*address))
            .filter_map(|(index, address)| match owned.get(&index) {
                Some(Owner::Wireguard) => Some((0, address)),
                // The host devices of networks: containers are behind them.
                Some(_) => None,
                None => Some((if towards.contains(&index) { 1 } else { 2 }, address)),
            })
            .collect();
        let mut ends = Self::default();
        for (_, address) in ranked {
            if ends.addresses.contains(&address) {
                continue;
            }
            if ends.addresses.len() < MAX_UNDERLAY as usize {
                ends.addresses.insert(address);
            } else {
                ends.left_out += 1;
            }
        }
        ends
    }
}

/// Returns whether another host may use the address as its peer's.
const fn may_be_an_end(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !address.is_loopback(),
        IpAddr::V6(address) => !address.is_loopback() && !address.is_unicast_link_local(),
    }
}

impl Overlay {
    /// Notes and logs once that addresses do not fit.
    pub fn note_ends(&self, ends: &Ends) {
        if ends.left_out == 0 {
            return self.context.note(NOTE, None);
        }
        let note = format!(
            "{} addresses of this host are known as ends of tunnels, {} more do not fit: the kernel decapsulates packets to those, which is slower (remove unused addresses)",
            ends.addresses.len(),
            ends.left_out
        );
        if !self.context.has_note(NOTE) {
            tracing::warn!("{note}");
        }
        self.context.note(NOTE, Some(note));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOWARDS: [u32; 1] = [2];
    const OWNED: [(u32, Owner); 2] = [(3, Owner::Host), (4, Owner::Wireguard)];

    fn net(text: &str) -> IpNet {
        text.parse().expect("an address")
    }

    #[test]
    fn addresses_that_no_peer_uses_are_left_out() {
        let addresses = [
            (1, "127.0.0.1/8"),
            (1, "::1/128"),
            (1, "192.0.2.9/32"),
            (2, "198.51.100.1/24"),
            (2, "fe80::1/64"),
            (2, "2001:db8::1/64"),
            (3, "10.10.0.1/16"),
            (3, "fe80::2/64"),
            (4, "fd76:7377:6974::1/128"),
        ];
        let ends = Ends::of(addresses.map(|(index, text)| (index, net(text))), &TOWARDS.into(), &OWNED.into());
        let wanted = ["192.0.2.9", "198.51.100.1", "2001:db8::1", "fd76:7377:6974::1"];
        let wanted = wanted.map(|text| text.parse().expect("an address"));
        assert_eq!(ends, Ends { addresses: wanted.into(), left_out: 0 });
    }

    #[test]
    fn a_full_table_holds_the_addresses_on_devices_with_routes_to_peers() {
        let many = (0..MAX_UNDERLAY).map(|number| (1, net(&format!("10.0.{}.{}/32", number / 256, number % 256))));
        let last = [(2, net("198.51.100.1/24")), (4, net("fd76:7377:6974::1/128"))];
        // One of the addresses is on two devices.
        let twice = [(2, net("10.0.0.0/32"))];
        let ends = Ends::of(many.chain(last).chain(twice), &TOWARDS.into(), &OWNED.into());
        assert_eq!((ends.addresses.len(), ends.left_out), (MAX_UNDERLAY as usize, 2));
        assert!(last.iter().chain(&twice).all(|(_, address)| ends.addresses.contains(&address.addr())));
    }
}
