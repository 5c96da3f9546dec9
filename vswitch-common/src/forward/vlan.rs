//! VLANs: which one a frame is in, and what becomes of its tag on the way out.

use crate::packet::{Ethernet, Tag};
use crate::tables::{Port, PortNumber, Tables, VlanKey};
use crate::verdict::tag;

/// The VLAN of a frame that came in by a port; `None` if the port is not in it. Without a tag, or with one that holds a
/// priority alone (802.1Q, 9.6), it is the port's own; else the one that the tag says, which trunks alone are in.
#[inline(always)]
pub(super) fn of<T: Tables>(ethernet: &Ethernet, port: &Port, number: PortNumber, tables: &T) -> Option<VlanKey> {
    let tagged = ethernet.vlan();
    if tagged == VlanKey::NONE {
        return Some(port.vlan);
    }
    (port.has(Port::TRUNK) && (port.has(Port::ALL_VLANS) || tables.in_trunk(number, tagged))).then_some(tagged)
}

/// Whether a port is in a VLAN.
#[inline(always)]
pub(super) fn has<T: Tables>(port: &Port, number: PortNumber, vlan: VlanKey, tables: &T) -> bool {
    if vlan == port.vlan {
        return true;
    }
    vlan != VlanKey::NONE && port.has(Port::TRUNK) && (port.has(Port::ALL_VLANS) || tables.in_trunk(number, vlan))
}

/// What becomes of the tag of a frame of a VLAN that goes out by a port: its own VLAN goes without, others with it.
#[inline(always)]
pub(super) fn on_the_way_out(came_with: Option<Tag>, vlan: VlanKey, port: &Port) -> u8 {
    let leaves_with = vlan != port.vlan;
    match came_with {
        None if leaves_with => tag::PUSH,
        Some(came_with) if came_with.id() != 0 && !leaves_with => tag::POP,
        Some(came_with) if came_with.id() == 0 && leaves_with => tag::NUMBER,
        _ => tag::KEEP,
    }
}
