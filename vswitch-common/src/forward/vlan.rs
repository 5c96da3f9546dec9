//! VLANs: which one a frame is in, and how its tag changes when it leaves.

use crate::packet::ethernet::{is_old_tag, is_tag};
use crate::packet::{Ethernet, Tag};
use crate::tables::{Port, PortNumber, Tables, VlanKey};
use crate::verdict::{DropReason, tag};

/// Returns the VLAN of a frame that came in by a port, `None` if the port is not in it. A frame
/// without a tag, or with tags that have only a priority (802.1Q, 9.6), is in the port's own VLAN.
/// Any other is in the VLAN of the first tag that has one, in which only trunks are.
#[inline(always)]
pub(super) fn of<T: Tables>(ethernet: &Ethernet, port: &Port, number: PortNumber, tables: &T) -> Option<VlanKey> {
    let tagged = ethernet.vlan();
    if tagged == VlanKey::NONE {
        // Further tags than are read have a VLAN that is not known. A trunk of all VLANs is in it.
        let unread = is_tag(ethernet.ethertype) || is_old_tag(ethernet.ethertype);
        return (!unread || port.has(Port::ALL_VLANS)).then_some(port.vlan);
    }
    (port.has(Port::TRUNK) && (port.has(Port::ALL_VLANS) || tables.in_trunk(number, tagged))).then_some(tagged)
}

/// Returns the reason to drop a frame whose port is not in its VLAN.
#[inline(always)]
pub(super) fn why_not(ethernet: &Ethernet) -> DropReason {
    if ethernet.vlan() == VlanKey::NONE && is_tag(ethernet.ethertype) {
        DropReason::Truncated
    } else {
        DropReason::VlanNotAllowed
    }
}

/// Returns whether a port is in a VLAN.
#[inline(always)]
pub(super) fn has<T: Tables>(port: &Port, number: PortNumber, vlan: VlanKey, tables: &T) -> bool {
    if vlan == port.vlan {
        return true;
    }
    vlan != VlanKey::NONE && port.has(Port::TRUNK) && (port.has(Port::ALL_VLANS) || tables.in_trunk(number, vlan))
}

/// Returns the change of the tag of a frame that leaves by a port: frames of the port's own VLAN
/// leave untagged, others tagged.
#[inline(always)]
pub(super) fn tag_change(came_with: Option<Tag>, vlan: VlanKey, port: &Port) -> u8 {
    let leaves_with = vlan != port.vlan;
    match came_with {
        None if leaves_with => tag::PUSH,
        Some(came_with) if came_with.id() != 0 && !leaves_with => tag::POP,
        Some(came_with) if came_with.id() == 0 && leaves_with => tag::NUMBER,
        _ => tag::KEEP,
    }
}
