//! Typed access to the pinned maps.

use std::borrow::BorrowMut;

use aya::Ebpf;
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray};
use vswitch_common::observe::{FrameFilter, Shown};
use vswitch_common::packet::TunnelKey;
use vswitch_common::packet::address::Address;
use vswitch_common::tables::{
    DirectRoute, FdbEntry, FdbKey, ListenerKey, MAX_PORTS, NEAR_DEVICES, Neighbor, NeighborKey, Network, NetworkNumber,
    OwnKey, Port, PortCounters, PortNumber, StormWindow, TunnelEnd,
};

use super::DatapathError;
use super::load::Pins;
use super::networks::SubnetTable;

/// The maps of an instance.
pub(super) struct Maps {
    devices: Array<MapData, PortNumber>,
    far_devices: HashMap<MapData, u32, PortNumber>,
    pub(super) ports: Array<MapData, Port>,
    pub(super) networks: Array<MapData, Network>,
    pub(super) subnets: SubnetTable,
    pub(super) fdb: HashMap<MapData, FdbKey, FdbEntry>,
    pub(super) counters: PerCpuArray<MapData, PortCounters>,
    pub(super) learned: Array<MapData, u64>,
    pub(super) forgotten: Array<MapData, u64>,
    pub(super) learnable: Array<MapData, u64>,
    pub(super) network_stations: Array<MapData, u64>,
    pub(super) neighbors: HashMap<MapData, NeighborKey, Neighbor>,
    pub(super) owned: HashMap<MapData, OwnKey, u32>,
    pub(super) trunks: HashMap<MapData, u32, u32>,
    pub(super) listeners: HashMap<MapData, ListenerKey, u32>,
    pub(super) tunnels: HashMap<MapData, TunnelKey, PortNumber>,
    pub(super) underlay: HashMap<MapData, Address, TunnelEnd>,
    pub(super) ways: Array<MapData, DirectRoute>,
    pub(super) watch: Array<MapData, FrameFilter>,
    pub(super) watched: PerCpuArray<MapData, Shown>,
    pub(super) storms: Array<MapData, StormWindow>,
}

impl Maps {
    /// Opens the pinned maps.
    pub(super) fn pinned(pins: &Pins<'_>) -> Result<Self, DatapathError> {
        Ok(Self {
            devices: open(pins, "DEVICES")?,
            far_devices: open(pins, "FAR_DEVICES")?,
            ports: open(pins, "PORTS")?,
            networks: open(pins, "NETWORKS")?,
            subnets: SubnetTable::read(open(pins, "SUBNETS")?)?,
            fdb: open(pins, "FDB")?,
            counters: open(pins, "COUNTERS")?,
            learned: open(pins, "LEARNED")?,
            forgotten: open(pins, "FORGOTTEN")?,
            learnable: open(pins, "LEARNABLE")?,
            network_stations: open(pins, "NETWORK_STATIONS")?,
            neighbors: open(pins, "NEIGHBORS")?,
            owned: open(pins, "OWNED")?,
            trunks: open(pins, "TRUNKS")?,
            listeners: open(pins, "LISTENERS")?,
            tunnels: open(pins, "TUNNELS")?,
            underlay: open(pins, "UNDERLAY")?,
            ways: open(pins, "WAYS")?,
            watch: open(pins, "WATCH")?,
            watched: open(pins, "WATCHED")?,
            storms: open(pins, "STORMS")?,
        })
    }

    /// Returns the port of a device, from the map in which the programs look it up.
    pub(super) fn port_of_device(&self, ifindex: u32) -> Result<PortNumber, MapError> {
        if ifindex < NEAR_DEVICES { self.devices.get(&ifindex, 0) } else { self.far_devices.get(&ifindex, 0) }
    }

    /// Sets the port of a device; [`PortNumber::NONE`] removes it.
    pub(super) fn set_device(&mut self, ifindex: u32, number: PortNumber) -> Result<(), DatapathError> {
        if ifindex < NEAR_DEVICES {
            return set(&mut self.devices, "DEVICES", ifindex, number);
        }
        let table = "FAR_DEVICES";
        if number == PortNumber::NONE {
            return removed(self.far_devices.remove(&ifindex), table).map(drop);
        }
        self.far_devices.insert(ifindex, number, 0).map_err(|cause| DatapathError::Table { table, cause })
    }

    /// Changes the entry of a network. Fields that `change` does not modify stay as they are.
    pub(super) fn change_network(
        &mut self,
        number: NetworkNumber,
        change: impl FnOnce(&mut Network),
    ) -> Result<(), DatapathError> {
        let table = "NETWORKS";
        let mut network = self.networks.get(&number.0, 0).map_err(|cause| DatapathError::Table { table, cause })?;
        change(&mut network);
        set(&mut self.networks, table, number.0, network)
    }

    /// Returns the entries of the port table that are in use, ordered by number.
    pub(super) fn used_ports(&self) -> Result<Vec<(PortNumber, Port)>, DatapathError> {
        let mut ports = Vec::new();
        for number in 1..MAX_PORTS {
            let port = self.ports.get(&number, 0).map_err(|cause| DatapathError::Table { table: "PORTS", cause })?;
            if port.kind != 0 {
                ports.push((PortNumber(number), port));
            }
        }
        Ok(ports)
    }
}

/// Opens a pinned map.
pub(super) fn open<T: TryFrom<Map, Error = MapError>>(
    pins: &Pins<'_>,
    table: &'static str,
) -> Result<T, DatapathError> {
    let failed = |cause| DatapathError::Table { table, cause };
    let map = Map::from_map_data(pins.open_map(table)?).map_err(failed)?;
    T::try_from(map).map_err(failed)
}

/// Moves a map out of an object.
pub(super) fn take<T: TryFrom<Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    table: &'static str,
) -> Result<T, DatapathError> {
    match ebpf.take_map(table) {
        Some(map) => T::try_from(map).map_err(|cause| DatapathError::Table { table, cause }),
        None => unreachable!("the object has a map {table}"),
    }
}

/// Reports whether a removal removed an entry. A missing entry is no error.
pub(super) fn removed(result: Result<(), MapError>, table: &'static str) -> Result<bool, DatapathError> {
    match result {
        Ok(()) => Ok(true),
        Err(MapError::KeyNotFound) => Ok(false),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(cause) => Err(DatapathError::Table { table, cause }),
    }
}

/// Writes one entry of an array.
pub(super) fn set<D: BorrowMut<MapData>, T: aya::Pod>(
    array: &mut Array<D, T>,
    table: &'static str,
    index: u32,
    value: T,
) -> Result<(), DatapathError> {
    array.set(index, value, 0).map_err(|cause| DatapathError::Table { table, cause })
}
