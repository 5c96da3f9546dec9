//! Direct access to the pinned tables of a switch, without its daemon.

use anyhow::{Context as _, Result};
use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray};
use vswitch_common::{
    observe::FrameFilter,
    tables::{FdbEntry, FdbKey, NetworkNumber, Port, PortCounters, PortNumber, VlanKey},
};

use crate::{bpf, command::stop_if_interrupted, instance::Instance};

/// Returns the port of a device in the instance's namespace.
pub fn port_of(instance: &Instance, ifindex: u32) -> Result<PortNumber> {
    let devices: Array<_, PortNumber> = Array::try_from(Map::Array(open(instance, "DEVICES")?))?;
    devices.get(&ifindex, 0).with_context(|| format!("looking up device {ifindex}"))
}

/// Returns the network of a port.
pub fn network_of(instance: &Instance, port: PortNumber) -> Result<NetworkNumber> {
    let ports: Array<_, Port> = Array::try_from(Map::Array(open(instance, "PORTS")?))?;
    Ok(ports.get(&port.0, 0).with_context(|| format!("looking up port {}", port.0))?.network)
}

/// Returns the counters of a port, summed over all CPUs.
pub fn counters(instance: &Instance, port: PortNumber) -> Result<PortCounters> {
    let counters: PerCpuArray<_, PortCounters> = PerCpuArray::try_from(Map::PerCpuArray(open(instance, "COUNTERS")?))?;
    let cpus = counters.get(&port.0, 0).with_context(|| format!("looking up the counters of port {}", port.0))?;
    Ok(cpus.iter().fold(PortCounters::default(), PortCounters::plus))
}

/// Returns whether the programs report frames to a monitor.
pub fn is_monitored(instance: &Instance) -> Result<bool> {
    let watch: Array<_, FrameFilter> = Array::try_from(Map::Array(open(instance, "WATCH")?))?;
    Ok(watch.get(&0, 0).context("reading the monitoring state")?.mode != 0)
}

/// Adds stations 0 to `stations` to the FDB, all behind one port. The entries are static, so that
/// they do not age. This makes no difference for a frame to a station.
pub fn fill_fdb(instance: &Instance, port: PortNumber, stations: u32) -> Result<()> {
    let network = network_of(instance, port)?;
    let mut fdb: HashMap<_, FdbKey, FdbEntry> = HashMap::try_from(Map::HashMap(open(instance, "FDB")?))?;
    let entry = FdbEntry { port, flags: FdbEntry::STATIC, ..FdbEntry::default() };
    for number in 0..stations {
        let mac = vswitch_common::mac::Mac(bpf::station(number));
        let key = FdbKey { network, vlan: VlanKey::NONE, mac };
        fdb.insert(key, entry, 0).with_context(|| format!("writing station {number} of {stations}"))?;
        if number.is_multiple_of(10_000) {
            stop_if_interrupted()?;
        }
    }
    Ok(())
}

/// Returns the number of FDB entries for endpoints of other hosts.
pub fn remote_entries(instance: &Instance) -> Result<usize> {
    let fdb: HashMap<_, FdbKey, FdbEntry> = HashMap::try_from(Map::HashMap(open(instance, "FDB")?))?;
    let entries = fdb.iter().map(|entry| entry.context("reading the FDB"));
    entries.map(|entry| Ok(usize::from(entry?.1.flags & FdbEntry::REMOTE != 0))).sum()
}

fn open(instance: &Instance, name: &str) -> Result<MapData> {
    let path = instance.pinned_map(name);
    MapData::from_pin(&path).with_context(|| format!("opening {}", path.display()))
}
