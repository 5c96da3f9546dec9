//! The underlay: what is a tunnel's and not sound goes no further, what is worth it is unwrapped here.

use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC;
use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::generated::{
    bpf_redirect, bpf_skb_adjust_room, bpf_skb_ecn_set_ce, bpf_skb_store_bytes, bpf_skb_vlan_pop, bpf_skb_vlan_push,
};
use aya_ebpf::programs::TcContext;
use vswitch_common::forward::half;
use vswitch_common::forward::underlay::{Arrival, INNER, arrival, arrive};
use vswitch_common::packet::address::Address;
use vswitch_common::packet::ethernet::HEADER;
use vswitch_common::packet::{Packet, Tag, TunnelKey, ethertype, ipv4};
use vswitch_common::tables::{PortKind, PortNumber, TunnelEnd};
use vswitch_common::verdict::{Decision, DropReason, action};

use crate::act;
use crate::frame::TcFrame;
use crate::maps::{NETWORKS, PORTS, UNDERLAY};
use crate::tables::KernelTables;
use crate::{now, trace};

/// An inner frame that has been unwrapped here.
struct Unwrapped {
    frame: TcFrame,
    key: TunnelKey,
}

impl Packet for Unwrapped {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.frame.read(offset)
    }

    #[inline(always)]
    fn offloaded_tag(&self) -> Option<Tag> {
        None
    }

    #[inline(always)]
    fn forget(&self, number: u32) -> u32 {
        self.frame.forget(number)
    }

    #[inline(always)]
    fn length(&self) -> usize {
        self.frame.length()
    }

    #[inline(always)]
    fn segment(&self) -> u32 {
        self.frame.segment()
    }

    #[inline(always)]
    fn tunnel(&self) -> Option<TunnelKey> {
        Some(self.key)
    }
}

/// Judges a packet on the underlay, and carries that out.
#[inline(always)]
pub fn take(context: &TcContext) -> i32 {
    let Arrival { key, what, reason, port, receiver, congested, .. } = arrive(&TcFrame::of_tc(context), &KernelTables);
    match what {
        arrival::UNWRAP | arrival::GATHER => {}
        arrival::TRAIN => {
            trains_arrive(context);
            return TC_ACT_UNSPEC;
        }
        arrival::DROP => {
            let decision = Decision { reason, ..Decision::new(action::DROP, PortNumber::NONE) };
            if trace::requested() {
                return trace::record(decision, 0) as i32;
            }
            return act::tc(context, &decision, 0);
        }
        _ => return TC_ACT_UNSPEC,
    }
    if !unwrap(context) {
        return TC_ACT_SHOT;
    }
    if congested != 0 {
        // SAFETY: the context is valid as long as the program runs. What cannot be marked passes without.
        unsafe { bpf_skb_ecn_set_ce(context.skb.skb) };
    }
    // A traced run ends here, with what the receiver's program would decide.
    if what == arrival::GATHER && !trace::requested() {
        return gather(context, port, receiver);
    }
    switch(context, key)
}

/// Decides about an inner frame, and has it done.
#[inline(always)]
fn switch(context: &TcContext, key: TunnelKey) -> i32 {
    let now = now();
    let frame = Unwrapped { frame: TcFrame::of_tc(context), key };
    let decision = half::unicast_from_tunnel(0, &frame, &KernelTables, now);
    if trace::requested() {
        return trace::record(decision, now) as i32;
    }
    act::tc(context, &decision, now)
}

/// The kind of the tag that carries a port's number to the receiver. It is kept beside the frame, and GRO puts no two packets
/// together that have different ones.
const CARRIED: u16 = ethertype::VLAN;

/// Sends an inner frame into the receiver, with the number of its port in a tag.
#[inline(always)]
fn gather(context: &TcContext, port: PortNumber, receiver: u32) -> i32 {
    // SAFETY: the context is valid as long as the program runs.
    unsafe {
        if bpf_skb_vlan_push(context.skb.skb, CARRIED.to_be(), port.0 as u16) != 0 {
            return TC_ACT_SHOT;
        }
        bpf_redirect(receiver, 0) as i32
    }
}

/// Takes what has been gathered behind the receiver.
#[inline(always)]
pub fn gathered(context: &TcContext) -> i32 {
    match carried(context) {
        Some(key) => switch(context, key),
        None => {
            let decision = Decision::drop(DropReason::UnknownPort, PortNumber::NONE);
            act::tc(context, &decision, 0)
        }
    }
}

/// What the outer header said, by the port whose number is in the tag, which is taken off.
#[inline(always)]
fn carried(context: &TcContext) -> Option<TunnelKey> {
    let tag = TcFrame::of_tc(context).offloaded_tag()?;
    let port = PORTS.get(u32::from(tag.tci)).filter(|port| port.kind == PortKind::Tunnel as u8)?;
    let network = NETWORKS.get(port.network.0)?;
    let key = TunnelKey::new(port.ipv6, network.vni);
    // SAFETY: the context is valid as long as the program runs.
    (unsafe { bpf_skb_vlan_pop(context.skb.skb) } == 0).then_some(key)
}

/// Notes at the address that a packet came for that trains of segments arrive there.
#[inline(always)]
fn trains_arrive(context: &TcContext) {
    let Some(own) = TcFrame::of_tc(context).read::<4>(HEADER + ipv4::HEADER - 4) else { return };
    if let Some(end) = UNDERLAY.get_ptr_mut(Address::mapped(own)) {
        // SAFETY: an aligned half of a word of a map that lives as long as the program; all write the same to it.
        unsafe { (*end).flags |= TunnelEnd::TRAINS };
    }
}

/// Takes the outer headers off: all but Ethernet's, which becomes the inner one. False if the kernel refuses, and then the
/// packet is no use any more.
#[inline(always)]
fn unwrap(context: &TcContext) -> bool {
    let Some(inner) = TcFrame::of_tc(context).read::<HEADER>(INNER) else { return false };
    // SAFETY: the context is valid as long as the program runs, and the bytes are as many as said. The helper takes away what
    // is behind the first header.
    unsafe {
        bpf_skb_adjust_room(context.skb.skb, -(INNER as i32), BPF_ADJ_ROOM_MAC, 0) == 0
            && bpf_skb_store_bytes(context.skb.skb, 0, inner.as_ptr().cast(), HEADER as u32, 0) == 0
    }
}
