//! The BPF maps as the core's [`Tables`].

use vswitch_common::tables::{FdbEntry, FdbKey, NEAR_DEVICES, Port, PortNumber, Tables};

use crate::maps::{DEVICES, FAR_DEVICES, FDB, PORTS};

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
}
