//! The BPF maps as the core's [`Tables`].

use core::ops::Deref;

use aya_ebpf::maps::lpm_trie::Key;
use vswitch_common::packet::TunnelKey;
use vswitch_common::packet::address::Address;
use vswitch_common::tables::{
    FdbEntry, FdbKey, ListenerKey, NEAR_DEVICES, NeighborKey, Network, NetworkNumber, OwnKey, Port, PortNumber,
    StormWindow, Subnet, Tables, TunnelEnd, VlanKey, trunk_key,
};

use crate::maps::{
    DEVICES, FAR_DEVICES, FDB, LISTENERS, NEIGHBORS, NETWORKS, OWNED, PORTS, STORMS, SUBNETS, TRUNKS, TUNNELS, UNDERLAY,
};

/// The maps of this instance.
pub struct KernelTables;

impl Tables for KernelTables {
    #[inline(always)]
    fn port_of_device(&self, ifindex: u32) -> PortNumber {
        if ifindex < NEAR_DEVICES {
            return DEVICES.get(ifindex).copied().unwrap_or(PortNumber::NONE);
        }
        // SAFETY: a port number is one aligned word; an entry that is replaced meanwhile gives the old or the new one.
        unsafe { FAR_DEVICES.get(ifindex) }.copied().unwrap_or(PortNumber::NONE)
    }

    #[inline(always)]
    fn port(&self, number: PortNumber) -> Option<impl Deref<Target = Port>> {
        // Not a copy: what is not looked at is not loaded. An entry that is rewritten meanwhile gives a mix of two ports
        // of aligned words, for one frame.
        PORTS.get(number.0).filter(|port| port.kind != 0)
    }

    #[inline(always)]
    fn fdb(&self, key: &FdbKey) -> Option<FdbEntry> {
        // SAFETY: an entry that is recycled meanwhile gives a mix of two stations of aligned words; the core checks
        // that the port it names is one of the same network, so the worst is one frame flooded or to the old place.
        unsafe { FDB.get(key) }.copied()
    }

    #[inline(always)]
    fn network(&self, number: NetworkNumber) -> Network {
        NETWORKS.get(number.0).copied().unwrap_or_default()
    }

    #[inline(always)]
    fn subnet(&self, address: Address) -> Option<Subnet> {
        // The kernel puts a new node in the place of one that is rewritten, so this is one entry, old or new.
        let key = SubnetKey(Key::new(u128::BITS, address));
        SUBNETS.get(&key.0).copied()
    }

    #[inline(always)]
    fn neighbor(&self, key: &NeighborKey) -> PortNumber {
        // SAFETY: of the value one aligned word is read.
        unsafe { NEIGHBORS.get(key) }.map_or(PortNumber::NONE, |neighbor| neighbor.port)
    }

    #[inline(always)]
    fn owns(&self, key: &OwnKey) -> bool {
        // SAFETY: the value is not looked at.
        unsafe { OWNED.get(key) }.is_some()
    }

    #[inline(always)]
    fn in_trunk(&self, port: PortNumber, vlan: VlanKey) -> bool {
        // SAFETY: the value is not looked at.
        unsafe { TRUNKS.get(trunk_key(port, vlan)) }.is_some()
    }

    #[inline(always)]
    fn listens(&self, key: &ListenerKey) -> bool {
        // SAFETY: the value is not looked at.
        unsafe { LISTENERS.get(key) }.is_some()
    }

    #[inline(always)]
    fn tunnel(&self, key: &TunnelKey) -> Option<PortNumber> {
        // SAFETY: a port number is one aligned word.
        unsafe { TUNNELS.get(key) }.copied()
    }

    #[inline(always)]
    fn tunnel_end(&self, own: Address) -> TunnelEnd {
        // SAFETY: two aligned words; the daemon puts a new node in the place of one that it rewrites.
        unsafe { UNDERLAY.get(own) }.copied().unwrap_or_default()
    }

    #[inline(always)]
    fn storm(&self, port: PortNumber, class: u32) -> StormWindow {
        STORMS.get(StormWindow::index(port, class)).copied().unwrap_or_default()
    }
}

/// A key at an address where it is written in words.
#[repr(C, align(8))]
struct SubnetKey(Key<Address>);
