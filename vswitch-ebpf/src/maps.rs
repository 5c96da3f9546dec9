//! The maps, as the daemon pins them in the instance's bpffs. Sizes are defaults; the loader sets them.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, PerCpuArray, ProgramArray, RingBuf};
use vswitch_common::carrier::Carrier;
use vswitch_common::packet::TunnelKey;
use vswitch_common::packet::address::Address;
use vswitch_common::tables::{
    FdbEntry, FdbKey, ListenerKey, MAX_LISTENERS, MAX_NEIGHBORS, MAX_OWNED, MAX_PORTS, MAX_SUBNETS, MAX_TRUNK_VLANS,
    MAX_TUNNELS, MAX_UNDERLAY, NEAR_DEVICES, Neighbor, NeighborKey, Network, OwnKey, Port, PortCounters, PortNumber,
    StormWindow, Subnet, TunnelEnd, Way,
};
use vswitch_common::trace::Trace;
use vswitch_common::watch::{Watch, Watched};

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

/// Stations learned from each port, all in all and over its life; number 0 counts those of all ports.
#[map]
pub static LEARNED: Array<u64> = Array::with_max_entries(MAX_PORTS, 0);

/// Of those the ones that the daemon has forgotten since. The difference is how many are in the FDB.
#[map]
pub static FORGOTTEN: Array<u64> = Array::with_max_entries(MAX_PORTS, 0);

/// Stations that may be learned in all, at index 0: what is beyond in the FDB is kept for static ones.
#[map]
pub static LEARNABLE: Array<u64> = Array::with_max_entries(1, 0);

/// Whose station has an IP address.
#[map]
pub static NEIGHBORS: HashMap<NeighborKey, Neighbor> = HashMap::with_max_entries(MAX_NEIGHBORS, BPF_F_NO_PREALLOC);

/// Addresses that stations have in other networks.
#[map]
pub static OWNED: HashMap<OwnKey, u32> = HashMap::with_max_entries(MAX_OWNED, BPF_F_NO_PREALLOC);

/// The VLANs of trunks.
#[map]
pub static TRUNKS: HashMap<u32, u32> = HashMap::with_max_entries(MAX_TRUNK_VLANS, BPF_F_NO_PREALLOC);

/// The ports of tunnels, by what the tunnel says.
#[map]
pub static TUNNELS: HashMap<TunnelKey, PortNumber> = HashMap::with_max_entries(MAX_TUNNELS, BPF_F_NO_PREALLOC);

/// How tunnels end, by our address.
#[map]
pub static UNDERLAY: HashMap<Address, TunnelEnd> = HashMap::with_max_entries(MAX_UNDERLAY, BPF_F_NO_PREALLOC);

/// How packets of tunnels leave, by the number of the port.
#[map]
pub static WAYS: Array<Way> = Array::with_max_entries(MAX_PORTS, 0);

/// Who listens to which multicast group.
#[map]
pub static LISTENERS: HashMap<ListenerKey, u32> = HashMap::with_max_entries(MAX_LISTENERS, BPF_F_NO_PREALLOC);

/// What ports have used of their allowances.
#[map]
pub static STORMS: Array<StormWindow> = Array::with_max_entries(StormWindow::ENTRIES, 0);

/// The programs that others call by their tails, as [`Carrier`] numbers them: so each is verified by itself.
#[map]
pub static CARRIERS: ProgramArray = ProgramArray::with_max_entries(Carrier::ALL.len() as u32, 0);

/// What is to be shown, at index 0.
#[map]
pub static WATCH: Array<Watch> = Array::with_max_entries(1, 0);

/// What each CPU has shown.
#[map]
pub static WATCHED: PerCpuArray<Watched> = PerCpuArray::with_max_entries(1, 0);

/// Frames that are shown.
#[map]
pub static FRAMES: RingBuf = RingBuf::with_byte_size(4 << 20, 0);

/// What the daemon has to know.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(256 << 10, 0);

/// What went through each port; number 0 counts what came from devices that are no ports.
#[map]
pub static COUNTERS: PerCpuArray<PortCounters> = PerCpuArray::with_max_entries(MAX_PORTS, 0);

/// The decision of a traced run.
#[map]
pub static TRACE: Array<Trace> = Array::with_max_entries(1, 0);
