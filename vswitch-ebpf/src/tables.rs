//! The maps as the core's [`Tables`].

use core::ops::Deref;

use aya_ebpf::maps::lpm_trie::Key;
use vswitch_common::packet::TunnelKey;
use vswitch_common::packet::address::Address;
use vswitch_common::tables::{
    FdbEntry, FdbKey, ListenerKey, MARK_PUBLISHED, NEAR_DEVICES, NeighborKey, Network, NetworkNumber, OwnKey, Port,
    PortNumber, StormWindow, Subnet, Tables, TunnelEnd, VlanKey, trunk_key,
};

use crate::maps::{
    DEVICES, FAR_DEVICES, FDB, LISTENERS, NEIGHBORS, NETWORKS, OWNED, PORTS, STORMS, SUBNETS, TRUNKS, TUNNELS, UNDERLAY,
};

/// The bit that marks connections to published ports. Set by the loader.
#[unsafe(no_mangle)]
static PUBLISHED_MARK: u32 = MARK_PUBLISHED;

/// The maps of this instance.
pub struct KernelTables;

impl Tables for KernelTables {
    #[inline(always)]
    fn port_of_device(&self, ifindex: u32) -> PortNumber {
        if ifindex < NEAR_DEVICES {
            return DEVICES.get(ifindex).copied().unwrap_or(PortNumber::NONE);
        }
        // SAFETY: a port number is one aligned word: an entry that is replaced meanwhile gives the
        // old or the new one.
        unsafe { FAR_DEVICES.get(ifindex) }.copied().unwrap_or(PortNumber::NONE)
    }

    #[inline(always)]
    fn published_mark(&self) -> u32 {
        // SAFETY: a valid static; volatile, because the compiler does not know the value that the
        // loader gives it.
        unsafe { core::ptr::read_volatile(&raw const PUBLISHED_MARK) }
    }

    #[inline(always)]
    fn port(&self, number: PortNumber) -> Option<impl Deref<Target = Port>> {
        // No copy: a field that is not read is not loaded. If the entry is rewritten meanwhile, one
        // frame sees a mix of the aligned words of two ports.
        PORTS.get(number.0).filter(|port| port.kind != 0)
    }

    #[inline(always)]
    fn fdb(&self, key: &FdbKey) -> Option<FdbEntry> {
        // SAFETY: if the entry is reused meanwhile, the copy is a mix of the aligned words of two
        // stations. The core checks that its port is in the same network, so at worst one frame is
        // flooded or goes to the old port.
        unsafe { FDB.get(key) }.copied()
    }

    #[inline(always)]
    fn network(&self, number: NetworkNumber) -> Network {
        NETWORKS.get(number.0).copied().unwrap_or_default()
    }

    #[inline(always)]
    fn subnet(&self, address: Address) -> Option<Subnet> {
        // The kernel replaces a rewritten node by a new one, so this is one entry, the old or the
        // new one.
        let key = SubnetKey(Key::new(u128::BITS, address));
        SUBNETS.get(&key.0).copied()
    }

    #[inline(always)]
    fn neighbor(&self, key: &NeighborKey) -> PortNumber {
        // SAFETY: one aligned word of the value is read.
        unsafe { NEIGHBORS.get(key) }.map_or(PortNumber::NONE, |neighbor| neighbor.port)
    }

    #[inline(always)]
    fn owns(&self, key: &OwnKey) -> bool {
        // SAFETY: the value is not read.
        unsafe { OWNED.get(key) }.is_some()
    }

    #[inline(always)]
    fn in_trunk(&self, port: PortNumber, vlan: VlanKey) -> bool {
        // SAFETY: the value is not read.
        unsafe { TRUNKS.get(trunk_key(port, vlan)) }.is_some()
    }

    #[inline(always)]
    fn listens(&self, key: &ListenerKey) -> bool {
        // SAFETY: the value is not read.
        unsafe { LISTENERS.get(key) }.is_some()
    }

    #[inline(always)]
    fn tunnel(&self, key: &TunnelKey) -> Option<PortNumber> {
        // SAFETY: a port number is one aligned word.
        unsafe { TUNNELS.get(key) }.copied()
    }

    #[inline(always)]
    fn tunnel_end(&self, own: Address) -> TunnelEnd {
        // SAFETY: two aligned words; the kernel replaces a rewritten node by a new one.
        unsafe { UNDERLAY.get(own) }.copied().unwrap_or_default()
    }

    #[inline(always)]
    fn storm(&self, port: PortNumber, class: u32) -> StormWindow {
        STORMS.get(StormWindow::index(port, class)).copied().unwrap_or_default()
    }
}

/// A key at an aligned address, so that it is written in words.
#[repr(C, align(8))]
struct SubnetKey(Key<Address>);
