//! Endpoints on other hosts of a cluster: the tunnels that lead to them and the owners of their IP
//! addresses, known without ARP or neighbor discovery.

use std::collections::BTreeSet;
use std::net::IpAddr;

use vswitch_common::packet::address::Address;
use vswitch_common::tables::{FdbEntry, FdbKey, Neighbor, NeighborKey, PortNumber};

use super::entry::mapped;
use super::load::State;
use super::ports::PortTable;
use super::tables::removed;
use super::tunnels::is_tunnel;
use super::{Datapath, DatapathError};

/// An endpoint on another host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// The tunnel port behind which the endpoint is.
    pub port: PortNumber,
    /// Network, VLAN and MAC address of the endpoint.
    pub station: FdbKey,
    /// IP addresses of the endpoint.
    pub addresses: Vec<IpAddr>,
}

impl Datapath {
    /// Adds or moves an endpoint on another host. A local endpoint with the same MAC or IP address
    /// keeps it. Does nothing if the tunnel no longer exists.
    ///
    /// # Errors
    /// Returns the error of the kernel, for instance that a table is full.
    pub fn put_remote(&self, remote: &Remote) -> Result<(), DatapathError> {
        self.state().put_remote(remote)
    }

    /// Removes the entries that [`Datapath::put_remote`] made. Entries that meanwhile belong to
    /// another port stay.
    ///
    /// # Errors
    /// Returns the error of the kernel.
    pub fn remove_remote(&self, remote: &Remote) -> Result<(), DatapathError> {
        self.state().remove_remote(remote)
    }

    /// Removes all remote stations that are not in `wanted`, such as those of an earlier daemon,
    /// and returns their number.
    ///
    /// # Errors
    /// Returns the error of the kernel.
    pub fn keep_remotes(&self, wanted: &BTreeSet<(PortNumber, FdbKey)>) -> Result<usize, DatapathError> {
        let mut state = self.state();
        let there = state.ports.remotes.iter().flat_map(|(port, keys)| keys.iter().map(|key| (*port, *key)));
        let stray: Vec<_> = there.filter(|place| !wanted.contains(place)).collect();
        for (port, station) in &stray {
            state.remove_station_of(*port, station)?;
        }
        // The IP addresses of a removed endpoint go too. An address stays if its MAC address is
        // still wanted.
        let macs = |port| move |key: &&(PortNumber, FdbKey)| key.0 == port;
        let ports: Vec<PortNumber> = state.ports.remotes.keys().copied().collect();
        for port in ports {
            let known: BTreeSet<_> = wanted.iter().filter(macs(port)).map(|(_, key)| key.mac).collect();
            let keys: Vec<NeighborKey> = state.ports.neighbors.get(&port).into_iter().flatten().copied().collect();
            for key in keys {
                if state.maps.neighbors.get(&key, 0).is_ok_and(|neighbor| !known.contains(&neighbor.mac)) {
                    state.forget_address(port, &key)?;
                }
            }
        }
        Ok(stray.len())
    }
}

impl State {
    fn put_remote(&mut self, remote: &Remote) -> Result<(), DatapathError> {
        let Remote { port, station, .. } = *remote;
        if !self.ports.ports.get(&port).is_some_and(is_tunnel) {
            return Ok(());
        }
        let own = |port: PortNumber, ports: &PortTable| ports.ports.get(&port).is_some_and(|port| !is_tunnel(port));
        let before = self.maps.fdb.get(&station, 0);
        if !before.is_ok_and(|entry| entry.is_static() && own(entry.port, &self.ports)) {
            self.write(station, FdbEntry { port, flags: FdbEntry::STATIC | FdbEntry::REMOTE, ..FdbEntry::default() })?;
            self.ports.remotes.entry(port).or_default().insert(station);
        }
        for key in keys(remote) {
            if self.maps.neighbors.get(&key, 0).is_ok_and(|owner| own(owner.port, &self.ports)) {
                continue;
            }
            let neighbor = Neighbor { port, mac: station.mac, reserved: 0 };
            let failed = |cause| DatapathError::Table { table: "NEIGHBORS", cause };
            self.maps.neighbors.insert(key, neighbor, 0).map_err(failed)?;
            self.ports.neighbors.entry(port).or_default().insert(key);
        }
        Ok(())
    }

    fn remove_remote(&mut self, remote: &Remote) -> Result<(), DatapathError> {
        for key in keys(remote) {
            self.forget_address(remote.port, &key)?;
        }
        self.remove_station_of(remote.port, &remote.station)
    }

    fn forget_address(&mut self, port: PortNumber, key: &NeighborKey) -> Result<(), DatapathError> {
        self.forget_neighbor(port, key)?;
        if let Some(known) = self.ports.neighbors.get_mut(&port) {
            known.remove(key);
        }
        Ok(())
    }

    fn remove_station_of(&mut self, port: PortNumber, station: &FdbKey) -> Result<(), DatapathError> {
        if let Some(known) = self.ports.remotes.get_mut(&port) {
            known.remove(station);
        }
        let remote = |entry: FdbEntry| entry.port == port && entry.flags & FdbEntry::REMOTE != 0;
        if self.maps.fdb.get(station, 0).is_ok_and(remote) {
            removed(self.maps.fdb.remove(station), "FDB")?;
        }
        Ok(())
    }

    /// Removes the endpoints behind a tunnel that is removed.
    pub(super) fn forget_remotes(&mut self, port: PortNumber) -> Result<(), DatapathError> {
        for station in self.ports.remotes.remove(&port).unwrap_or_default() {
            self.remove_station_of(port, &station)?;
        }
        Ok(())
    }
}

/// Returns the NEIGHBORS keys of an endpoint: all its addresses, and the link-local address derived
/// from its MAC address.
fn keys(remote: &Remote) -> impl Iterator<Item = NeighborKey> + use<> {
    let FdbKey { network, vlan, mac } = remote.station;
    let given: Vec<Address> = remote.addresses.iter().map(|address| mapped(*address)).collect();
    let key = move |address| NeighborKey { address, network, vlan, reserved: 0 };
    given.into_iter().chain([Address::link_local(mac)]).map(key)
}
