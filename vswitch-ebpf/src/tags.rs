//! Changes VLAN tags. The kernel keeps a tag beside the packet afterwards, wherever it was before.

use aya_ebpf::helpers::generated::{bpf_skb_vlan_pop, bpf_skb_vlan_push};
use aya_ebpf::programs::TcContext;
use vswitch_common::packet::ethertype;
use vswitch_common::tables::VlanKey;
use vswitch_common::verdict::{Decision, tag};

/// Returns a tag as a word, TPID << 16 | TCI or 0 for none, after one of the changes of [`tag`].
#[inline(always)]
pub fn changed(came_with: u32, change: u32, vlan: VlanKey) -> u32 {
    let with = |priority: u32| u32::from(tpid(vlan)) << 16 | priority | u32::from(vlan.0 & 0xfff);
    match change as u8 {
        tag::POP => 0,
        tag::PUSH => with(0),
        // The priority (three bits of 802.1Q) and the drop-eligible bit stay.
        tag::NUMBER => with(came_with & 0xf000),
        _ => came_with,
    }
}

/// Returns the TPID of a VLAN's tags.
#[inline(always)]
fn tpid(vlan: VlanKey) -> u16 {
    if vlan.0 & VlanKey::SERVICE == 0 { ethertype::VLAN } else { ethertype::SERVICE_VLAN }
}

/// Takes the packet's tag off, or adds the tag of its VLAN, as a decision says. Returns false if
/// the kernel has no memory.
#[inline(always)]
pub fn change(context: &TcContext, decision: &Decision) -> bool {
    // SAFETY: the context is valid as long as the program runs.
    unsafe {
        if decision.to.tag == tag::POP {
            return bpf_skb_vlan_pop(context.skb.skb) == 0;
        }
        let vlan = decision.station.vlan;
        bpf_skb_vlan_push(context.skb.skb, tpid(vlan).to_be(), vlan.0 & 0xfff) == 0
    }
}

/// Replaces one tag by another. Returns false if the kernel has no memory. The packet then has lost
/// its tag or has the old one, and must not be sent.
#[inline(always)]
pub fn set(context: &TcContext, from: u32, to: u32) -> bool {
    // SAFETY: the context is valid as long as the program runs.
    unsafe {
        if from != 0 && bpf_skb_vlan_pop(context.skb.skb) != 0 {
            return false;
        }
        to == 0 || bpf_skb_vlan_push(context.skb.skb, ((to >> 16) as u16).to_be(), to as u16) == 0
    }
}
