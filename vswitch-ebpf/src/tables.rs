//! The BPF maps as the core's [`Tables`].

use aya_ebpf::maps::lpm_trie::Key;
use vswitch_common::packet::address::Address;
use vswitch_common::tables::{
    FdbEntry, FdbKey, NEAR_DEVICES, Network, NetworkNumber, Port, PortNumber, Subnet, Tables,
};

use crate::maps::{DEVICES, FAR_DEVICES, FDB, NETWORKS, PORTS, SUBNETS};

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
    fn port(&self, number: PortNumber) -> Option<Port> {
        PORTS.get(number.0).copied().filter(|port| port.kind != 0)
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
}

/// A key at an address where it is written in words.
#[repr(C, align(8))]
struct SubnetKey(Key<Address>);
