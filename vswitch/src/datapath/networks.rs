//! The programs' tables of networks: the subnets, the host's addresses in them, and whether a
//! network is internal.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use aya::maps::lpm_trie::Key;
use aya::maps::{LpmTrie, MapData, MapError};
use ipnet::IpNet;
use vswitch_common::packet::TunnelKey;
use vswitch_common::packet::address::Address;
use vswitch_common::tables::{MAX_PORTS, MAX_SUBNETS, Network, NetworkNumber, PortNumber, Subnet};

use super::tables::{Maps, removed};
use super::{Datapath, DatapathError};

/// The properties by which the programs separate a network from the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkSpec {
    /// The network's number.
    pub number: NetworkNumber,
    /// Whether no packet is routed into the network or out of it.
    pub internal: bool,
    /// The subnets of the network, each with the host's own address in it. No other network has
    /// addresses in these subnets.
    pub subnets: Vec<(IpNet, IpAddr)>,
    /// The VNI of an overlay network, 24 bits; `None` for other networks.
    pub vni: Option<u32>,
}

/// Prefix length and prefix, as the SUBNETS table stores them.
type Prefix = (u32, Address);

impl Datapath {
    /// Updates the programs' tables of a network to match `spec`; the ports of the network stay.
    /// The caller calls this before it adds the network's first port, and for every network after
    /// [`Datapath::open`].
    ///
    /// # Errors
    /// Returns [`DatapathError::NoRoomForSubnets`], in which case nothing has changed, or the error
    /// of the kernel.
    pub fn set_network(&self, spec: &NetworkSpec) -> Result<(), DatapathError> {
        let wanted = spec.prefixes();
        let mut state = self.state();
        state.maps.set_network(spec.number, if spec.internal { Network::INTERNAL } else { 0 }, wanted)?;
        state.maps.set_vni(spec.number, spec.vni.unwrap_or(0))
    }

    /// Removes the entries that [`Datapath::set_network`] made for a network. Does nothing if no
    /// entries exist.
    ///
    /// # Errors
    /// Returns the error of the kernel.
    pub fn remove_network(&self, number: NetworkNumber) -> Result<(), DatapathError> {
        let mut state = self.state();
        state.maps.set_network(number, 0, BTreeMap::new())?;
        state.maps.set_vni(number, 0)
    }
}

impl NetworkSpec {
    /// Returns the network's entries for the SUBNETS table.
    fn prefixes(&self) -> BTreeMap<Prefix, Subnet> {
        let subnets = self.subnets.iter().map(|(subnet, _)| (prefix(*subnet), 0));
        // The gateways follow the subnets: in a subnet of a single address, the gateway's entry
        // replaces the subnet's.
        let gateways = self.subnets.iter().map(|(_, gateway)| (prefix(IpNet::from(*gateway)), Subnet::GATEWAY));
        subnets.chain(gateways).map(|(prefix, flags)| (prefix, Subnet { network: self.number, flags })).collect()
    }
}

fn prefix(subnet: IpNet) -> Prefix {
    match subnet {
        IpNet::V4(subnet) => (96 + u32::from(subnet.prefix_len()), Address::mapped(subnet.network().octets())),
        IpNet::V6(subnet) => (u32::from(subnet.prefix_len()), Address::new(subnet.network().octets())),
    }
}

/// The SUBNETS table with a copy of its contents, which saves searching the map. All of the copy
/// can be read back from the map.
pub(super) struct SubnetTable {
    table: LpmTrie<MapData, Address, Subnet>,
    present: BTreeMap<Prefix, Subnet>,
}

impl SubnetTable {
    pub(super) fn read(table: LpmTrie<MapData, Address, Subnet>) -> Result<Self, DatapathError> {
        let entry = |entry: Result<(Key<Address>, Subnet), MapError>| {
            entry.map(|(key, subnet)| ((key.prefix_len(), key.data()), subnet)).map_err(failed)
        };
        let present = table.iter().map(entry).collect::<Result<_, _>>()?;
        Ok(Self { table, present })
    }

    /// Returns the subnet of an address, by the longest matching prefix.
    pub(super) fn of(&self, address: Address) -> Result<Subnet, MapError> {
        self.table.get(&Key::new(u128::BITS, address), 0)
    }

    /// Reports whether the table has room for `wanted` in addition to the present entries, because
    /// old entries of the network stay until the new entries are added.
    fn has_room_for(&self, wanted: &BTreeMap<Prefix, Subnet>) -> bool {
        let new = wanted.keys().filter(|prefix| !self.present.contains_key(prefix)).count();
        self.present.len() + new <= MAX_SUBNETS as usize
    }

    fn add(&mut self, wanted: BTreeMap<Prefix, Subnet>) -> Result<(), DatapathError> {
        for (prefix, subnet) in wanted {
            if self.present.get(&prefix) != Some(&subnet) {
                self.table.insert(&Key::new(prefix.0, prefix.1), subnet, 0).map_err(failed)?;
                self.present.insert(prefix, subnet);
            }
        }
        Ok(())
    }

    fn remove(&mut self, stale: impl Fn(&Prefix, &Subnet) -> bool) -> Result<(), DatapathError> {
        let stale = self.present.iter().filter(|(prefix, subnet)| stale(prefix, subnet));
        for prefix in stale.map(|(prefix, _)| *prefix).collect::<Vec<_>>() {
            removed(self.table.remove(&Key::new(prefix.0, prefix.1)), "SUBNETS")?;
            self.present.remove(&prefix);
        }
        Ok(())
    }
}

impl Maps {
    fn set_network(
        &mut self,
        number: NetworkNumber,
        flags: u32,
        wanted: BTreeMap<Prefix, Subnet>,
    ) -> Result<(), DatapathError> {
        if !(1..MAX_PORTS).contains(&number.0) {
            return Err(DatapathError::NoSuchNetwork { number, limit: MAX_PORTS - 1 });
        }
        if !self.subnets.has_room_for(&wanted) {
            return Err(DatapathError::NoRoomForSubnets { limit: MAX_SUBNETS });
        }
        // Old entries are removed only after the new ones are added, so that an address that stays
        // in the network is known at all times.
        let prefixes: BTreeSet<_> = wanted.keys().copied().collect();
        self.subnets.add(wanted)?;
        self.change_network(number, |network| network.flags = flags)?;
        self.subnets.remove(|prefix, subnet| subnet.network == number && !prefixes.contains(prefix))
    }
}

impl Maps {
    /// Sets the VNI of a network; 0 means none. The caller adds the network's tunnels after this
    /// call with a VNI, and removes them before the VNI changes.
    fn set_vni(&mut self, number: NetworkNumber, vni: u32) -> Result<(), DatapathError> {
        let table = "NETWORKS";
        let before = self.networks.get(&number.0, 0).map_err(|cause| DatapathError::Table { table, cause })?.vni;
        if before != vni && before != 0 {
            removed(self.tunnels.remove(&TunnelKey::any_peer(before)), "TUNNELS")?;
        }
        self.change_network(number, |network| network.vni = vni)?;
        if vni == 0 {
            return Ok(());
        }
        let inserted = self.tunnels.insert(TunnelKey::any_peer(vni), PortNumber::NONE, 0);
        inserted.map_err(|cause| DatapathError::Table { table: "TUNNELS", cause })
    }
}

fn failed(cause: MapError) -> DatapathError {
    DatapathError::Table { table: "SUBNETS", cause }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_and_the_hosts_addresses_become_prefixes() {
        let number = NetworkNumber(7);
        let parse = |subnet: &str, gateway: &str| (subnet.parse().unwrap(), gateway.parse().unwrap());
        let subnets = vec![
            parse("10.1.2.3/16", "10.1.0.1"),
            parse("fd00:1::/64", "fd00:1::1"),
            parse("192.0.2.9/32", "192.0.2.9"),
        ];
        let entries = NetworkSpec { number, internal: false, subnets, vni: None }.prefixes();
        let subnet = Subnet { network: number, flags: 0 };
        let gateway = Subnet { network: number, flags: Subnet::GATEWAY };
        let six = |last| {
            let mut address = [0; 16];
            (address[0], address[3], address[15]) = (0xfd, 1, last);
            Address::new(address)
        };
        let expected = [
            ((64, six(0)), subnet),
            ((112, Address::mapped([10, 1, 0, 0])), subnet),
            ((128, Address::mapped([10, 1, 0, 1])), gateway),
            ((128, Address::mapped([192, 0, 2, 9])), gateway),
            ((128, six(1)), gateway),
        ];
        assert_eq!(entries, BTreeMap::from(expected));
    }
}
