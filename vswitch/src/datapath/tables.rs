//! The pinned maps, typed.

use std::borrow::BorrowMut;

use aya::Ebpf;
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, ProgramArray};
use vswitch_common::packet::TunnelKey;
use vswitch_common::packet::address::Address;
use vswitch_common::tables::{
    FdbEntry, FdbKey, ListenerKey, MAX_PORTS, NEAR_DEVICES, Neighbor, NeighborKey, Network, NetworkNumber, OwnKey,
    Port, PortCounters, PortNumber, StormWindow, TunnelEnd, Way,
};
use vswitch_common::watch::{Watch, Watched};

use super::DatapathError;
use super::networks::SubnetTable;

/// The maps of one instance.
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
    pub(super) neighbors: HashMap<MapData, NeighborKey, Neighbor>,
    pub(super) owned: HashMap<MapData, OwnKey, u32>,
    pub(super) trunks: HashMap<MapData, u32, u32>,
    pub(super) carriers: ProgramArray<MapData>,
    pub(super) listeners: HashMap<MapData, ListenerKey, u32>,
    pub(super) tunnels: HashMap<MapData, TunnelKey, PortNumber>,
    pub(super) underlay: HashMap<MapData, Address, TunnelEnd>,
    pub(super) ways: Array<MapData, Way>,
    pub(super) watch: Array<MapData, Watch>,
    pub(super) watched: PerCpuArray<MapData, Watched>,
    pub(super) storms: Array<MapData, StormWindow>,
}

impl Maps {
    /// Takes the maps out of a loaded object.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        Ok(Self {
            devices: take(ebpf, "DEVICES")?,
            far_devices: take(ebpf, "FAR_DEVICES")?,
            ports: take(ebpf, "PORTS")?,
            networks: take(ebpf, "NETWORKS")?,
            subnets: SubnetTable::read(take(ebpf, "SUBNETS")?)?,
            fdb: take(ebpf, "FDB")?,
            counters: take(ebpf, "COUNTERS")?,
            learned: take(ebpf, "LEARNED")?,
            forgotten: take(ebpf, "FORGOTTEN")?,
            learnable: take(ebpf, "LEARNABLE")?,
            neighbors: take(ebpf, "NEIGHBORS")?,
            owned: take(ebpf, "OWNED")?,
            trunks: take(ebpf, "TRUNKS")?,
            carriers: take(ebpf, "CARRIERS")?,
            listeners: take(ebpf, "LISTENERS")?,
            tunnels: take(ebpf, "TUNNELS")?,
            underlay: take(ebpf, "UNDERLAY")?,
            ways: take(ebpf, "WAYS")?,
            watch: take(ebpf, "WATCH")?,
            watched: take(ebpf, "WATCHED")?,
            storms: take(ebpf, "STORMS")?,
        })
    }

    /// Which port a device is, where the programs look it up.
    pub(super) fn port_of_device(&self, ifindex: u32) -> Result<PortNumber, MapError> {
        if ifindex < NEAR_DEVICES { self.devices.get(&ifindex, 0) } else { self.far_devices.get(&ifindex, 0) }
    }

    /// Says which port a device is; [`PortNumber::NONE`] if it is none any more.
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

    /// Changes what is known of a network. What `change` leaves as it is stays.
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

    /// The entries of the port table in use, by number.
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

pub(super) fn take<T: TryFrom<Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    table: &'static str,
) -> Result<T, DatapathError> {
    match ebpf.take_map(table) {
        Some(map) => T::try_from(map).map_err(|cause| DatapathError::Table { table, cause }),
        None => unreachable!("the object has a map {table}"),
    }
}

/// Whether a removal removed something; that it was gone is no error.
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
