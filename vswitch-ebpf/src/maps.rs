//! The maps, as the daemon pins them in the instance's bpffs. Sizes are defaults; the loader sets them.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, PerCpuArray};
use vswitch_common::packet::address::Address;
use vswitch_common::tables::{
    FdbEntry, FdbKey, MAX_PORTS, MAX_SUBNETS, NEAR_DEVICES, Network, Port, PortCounters, PortNumber, Subnet,
};
use vswitch_common::trace::Trace;

/// Port number of each device, by its ifindex; 0 where it is no port.
#[map]
pub static DEVICES: Array<PortNumber> = Array::with_max_entries(NEAR_DEVICES, 0);

/// The same for devices with an ifindex beyond that array.
#[map]
pub static FAR_DEVICES: HashMap<u32, PortNumber> = HashMap::with_max_entries(MAX_PORTS, 0);

/// The ports, by number.
#[map]
pub static PORTS: Array<Port> = Array::with_max_entries(MAX_PORTS, 0);

/// The networks, by number: where the list of their ports begins, and what holds for all of them.
#[map]
pub static NETWORKS: Array<Network> = Array::with_max_entries(MAX_PORTS, 0);

/// Whose an IP address is.
#[map]
pub static SUBNETS: LpmTrie<Address, Subnet> = LpmTrie::with_max_entries(MAX_SUBNETS, 0);

/// The stations. Preallocated: learning never waits for memory, and a full table is full for new ones alone.
#[map]
pub static FDB: HashMap<FdbKey, FdbEntry> = HashMap::with_max_entries(65536, 0);

/// What went through each port; number 0 counts what came from devices that are no ports.
#[map]
pub static COUNTERS: PerCpuArray<PortCounters> = PerCpuArray::with_max_entries(MAX_PORTS, 0);

/// The decision of a traced run.
#[map]
pub static TRACE: Array<Trace> = Array::with_max_entries(1, 0);
