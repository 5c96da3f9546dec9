//! The maps. The daemon pins those of [`layout`] in the instance's bpffs.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, PerCpuArray, ProgramArray, RingBuf};
use vswitch_common::held::HeldKey;
use vswitch_common::map_layout as layout;
use vswitch_common::observe::{FrameFilter, Shown};
use vswitch_common::packet::TunnelKey;
use vswitch_common::packet::address::Address;
use vswitch_common::tables::{
    DirectRoute, FdbEntry, FdbKey, ListenerKey, Neighbor, NeighborKey, Network, OwnKey, Port, PortCounters, PortNumber,
    StormWindow, Subnet, TunnelEnd,
};
use vswitch_common::trace::Trace;

/// The port of each device with a small ifindex, by ifindex; 0 for a device that is no port.
#[map]
pub static DEVICES: Array<PortNumber> = Array::with_max_entries(layout::DEVICES.entries, 0);

/// The port of each device with a larger ifindex.
#[map]
pub static FAR_DEVICES: HashMap<u32, PortNumber> = HashMap::with_max_entries(layout::FAR_DEVICES.entries, 0);

/// The ports, by number.
#[map]
pub static PORTS: Array<Port> = Array::with_max_entries(layout::PORTS.entries, 0);

/// The networks, by number.
#[map]
pub static NETWORKS: Array<Network> = Array::with_max_entries(layout::NETWORKS.entries, 0);

/// The network of each range of IP addresses.
#[map]
pub static SUBNETS: LpmTrie<Address, Subnet> = LpmTrie::with_max_entries(layout::SUBNETS.entries, 0);

/// The FDB. It is preallocated: learning never waits for memory, and a full table refuses only new
/// stations. The number of entries is a default; the loader sets it.
#[map]
pub static FDB: HashMap<FdbKey, FdbEntry> = HashMap::with_max_entries(65536, 0);

/// The number of stations ever learned from each port; number 0 counts those of all ports.
#[map]
pub static LEARNED: Array<u64> = Array::with_max_entries(layout::LEARNED.entries, 0);

/// The number of those that the daemon has removed since. The difference is in the FDB.
#[map]
pub static FORGOTTEN: Array<u64> = Array::with_max_entries(layout::FORGOTTEN.entries, 0);

/// The number of stations that may be learned in all, at index 0. Further entries of the FDB are
/// kept for static ones.
#[map]
pub static LEARNABLE: Array<u64> = Array::with_max_entries(layout::LEARNABLE.entries, 0);

/// The number of stations ever learned in each network, and of those that the daemon has removed
/// since, at the indices of
/// [`vswitch_common::tables::Shares`]; and the shares of the networks.
#[map]
pub static NETWORK_STATIONS: Array<u64> = Array::with_max_entries(layout::NETWORK_STATIONS.entries, 0);

/// The station of each known IP address.
#[map]
pub static NEIGHBORS: HashMap<NeighborKey, Neighbor> =
    HashMap::with_max_entries(layout::NEIGHBORS.entries, BPF_F_NO_PREALLOC);

/// IP addresses that stations have in other networks.
#[map]
pub static OWNED: HashMap<OwnKey, u32> = HashMap::with_max_entries(layout::OWNED.entries, BPF_F_NO_PREALLOC);

/// The VLANs on the lists of trunks.
#[map]
pub static TRUNKS: HashMap<u32, u32> = HashMap::with_max_entries(layout::TRUNKS.entries, BPF_F_NO_PREALLOC);

/// The ports of tunnels, by tunnel metadata.
#[map]
pub static TUNNELS: HashMap<TunnelKey, PortNumber> =
    HashMap::with_max_entries(layout::TUNNELS.entries, BPF_F_NO_PREALLOC);

/// The ends of tunnels, by address of this host.
#[map]
pub static UNDERLAY: HashMap<Address, TunnelEnd> =
    HashMap::with_max_entries(layout::UNDERLAY.entries, BPF_F_NO_PREALLOC);

/// The routes of packets to peers without the tunnel's device, by port number.
#[map]
pub static WAYS: Array<DirectRoute> = Array::with_max_entries(layout::WAYS.entries, 0);

/// The listeners of multicast groups.
#[map]
pub static LISTENERS: HashMap<ListenerKey, u32> =
    HashMap::with_max_entries(layout::LISTENERS.entries, BPF_F_NO_PREALLOC);

/// What ports have flooded, at [`StormWindow::index`].
#[map]
pub static STORMS: Array<StormWindow> = Array::with_max_entries(layout::STORMS.entries, 0);

/// The programs that others run by a tail call, at the entries of
/// [`vswitch_common::tail_call::TailCall`]. The kernel name stays `CARRIERS`: a later daemon finds
/// the pinned map of an earlier one by it, and a takeover replaces the programs in that map.
#[map(name = "CARRIERS")]
pub static TAIL_CALLS: ProgramArray = ProgramArray::with_max_entries(layout::TAIL_CALLS.entries, 0);

/// Which frames are sent to observers, at index 0.
#[map]
pub static WATCH: Array<FrameFilter> = Array::with_max_entries(layout::WATCH.entries, 0);

/// How many frames each CPU has sent to observers.
#[map]
pub static WATCHED: PerCpuArray<Shown> = PerCpuArray::with_max_entries(layout::WATCHED.entries, 0);

/// The ring of frames for observers.
#[map]
pub static FRAMES: RingBuf = RingBuf::with_byte_size(layout::FRAMES.entries, 0);

/// The ring of events for the daemon.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(layout::EVENTS.entries, 0);

/// The counters of each port; number 0 counts frames of devices that are no ports.
#[map]
pub static COUNTERS: PerCpuArray<PortCounters> = PerCpuArray::with_max_entries(layout::COUNTERS.entries, 0);

/// The host ports that processes must not bind.
#[map]
pub static HELD: Array<u64> = Array::with_max_entries(layout::HELD.entries, 0);

/// The addresses of ports that are not held at all addresses.
#[map]
pub static HELD_AT: HashMap<HeldKey, u32> = HashMap::with_max_entries(layout::HELD_AT.entries, BPF_F_NO_PREALLOC);

/// The cookie of the network namespace whose ports are held, at index 0.
#[map]
pub static HELD_IN: Array<u64> = Array::with_max_entries(layout::HELD_IN.entries, 0);

/// The decision of a traced run. This map is not pinned.
#[map]
pub static TRACE: Array<Trace> = Array::with_max_entries(1, 0);
