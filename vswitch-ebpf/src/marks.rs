//! The bits of a packet's mark (`skb->mark`) that programs set for each other.

use aya_ebpf::bindings::__sk_buff;
use vswitch_common::tables::{MARK_ENCRYPTED, MARK_FROM_CHILD, MARK_UNDERLAY};

/// Sets or clears the mark by which the program at a parent knows packets of children for the host.
#[inline(always)]
pub fn mark_from_child(skb: *mut __sk_buff, on: bool) {
    // SAFETY: the skb is the context of the program that runs.
    let mark = unsafe { &mut (*skb).mark };
    if on { *mark |= MARK_FROM_CHILD } else { *mark &= !MARK_FROM_CHILD }
}

/// Sets the mark of packets that arrived by the underlay.
#[inline(always)]
pub fn mark_underlay(skb: *mut __sk_buff) {
    // SAFETY: the skb is the context of the program that runs.
    unsafe { (*skb).mark |= MARK_UNDERLAY };
}

/// Sets the mark of packets that arrived by WireGuard or have to leave by it.
#[inline(always)]
pub fn mark_encrypted(skb: *mut __sk_buff) {
    // SAFETY: the skb is the context of the program that runs.
    unsafe { (*skb).mark |= MARK_ENCRYPTED };
}

/// Clears that mark after a tunnel has got a copy of a packet. The next copy may be the host's own,
/// and the host believes of a packet with this mark that it arrived by WireGuard.
#[inline(always)]
pub fn clear_encrypted(skb: *mut __sk_buff) {
    // SAFETY: the skb is the context of the program that runs.
    unsafe { (*skb).mark &= !MARK_ENCRYPTED };
}
