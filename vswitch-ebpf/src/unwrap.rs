//! The programs on the underlay: they drop invalid packets of tunnels, and unwrap valid ones before
//! the host's stack sees them.

use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC;
use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::generated::{
    bpf_redirect, bpf_skb_adjust_room, bpf_skb_ecn_set_ce, bpf_skb_store_bytes, bpf_skb_vlan_pop, bpf_skb_vlan_push,
};
use aya_ebpf::programs::TcContext;
use vswitch_common::forward::part;
use vswitch_common::forward::underlay::{Arrival, INNER, arrival, arrive};
use vswitch_common::packet::address::Address;
use vswitch_common::packet::ethernet::HEADER;
use vswitch_common::packet::{Packet, Tag, TunnelKey, ethertype, ipv4};
use vswitch_common::tables::{MARK_UNDERLAY, PortKind, PortNumber, TunnelEnd};
use vswitch_common::verdict::{self, Decision, DropReason};

use crate::act;
use crate::clock::now;
use crate::frame::TcFrame;
use crate::maps::{NETWORKS, PORTS, UNDERLAY};
use crate::marks::mark_underlay;
use crate::recording;
use crate::tables::KernelTables;

/// An inner frame that was unwrapped here, with the metadata of its tunnel.
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
    fn mark(&self) -> u32 {
        MARK_UNDERLAY
    }

    #[inline(always)]
    fn tunnel(&self) -> Option<TunnelKey> {
        Some(self.key)
    }
}

/// Decides about a packet on the underlay, and carries the decision out.
#[inline(always)]
pub fn underlay(context: &TcContext) -> i32 {
    let Arrival { key, action, reason, port, receiver, congested, marked } =
        arrive(&TcFrame::of_tc(context), &KernelTables);
    match action {
        arrival::UNWRAP | arrival::GATHER => {}
        arrival::DROP => {
            let decision = Decision { reason, ..Decision::new(verdict::action::DROP, PortNumber::NONE) };
            if recording::requested() {
                return recording::record(decision, 0) as i32;
            }
            return act::tc(context, &decision, 0);
        }
        _ => {
            if marked != 0 {
                mark_underlay(context.skb.skb);
            }
            if action == arrival::GSO {
                note_gso(context);
            }
            return TC_ACT_UNSPEC;
        }
    }
    if !unwrap(context) {
        return TC_ACT_SHOT;
    }
    if congested != 0 {
        // A packet that cannot be marked passes unmarked.
        // SAFETY: the context is valid as long as the program runs.
        unsafe { bpf_skb_ecn_set_ce(context.skb.skb) };
    }
    // A traced run records here what the receiver's program would decide.
    if action == arrival::GATHER && !recording::requested() {
        return send_to_receiver(context, port, receiver);
    }
    switch(context, key)
}

/// Decides about an inner frame, and carries the decision out.
#[inline(always)]
fn switch(context: &TcContext, key: TunnelKey) -> i32 {
    let now = now();
    let frame = Unwrapped { frame: TcFrame::of_tc(context), key };
    let decision = part::unicast_from_tunnel(0, &frame, &KernelTables, now);
    if recording::requested() {
        return recording::record(decision, now) as i32;
    }
    act::tc(context, &decision, now)
}

/// The TPID of the tag that carries a port's number to the receiver. The tag is kept beside the
/// frame, and GRO merges no packets with different tags.
const PORT_TAG: u16 = ethertype::VLAN;

/// Sends an inner frame into the receiver, with the number of its port in a tag.
#[inline(always)]
fn send_to_receiver(context: &TcContext, port: PortNumber, receiver: u32) -> i32 {
    // SAFETY: the context is valid as long as the program runs.
    unsafe {
        if bpf_skb_vlan_push(context.skb.skb, PORT_TAG.to_be(), port.0 as u16) != 0 {
            return TC_ACT_SHOT;
        }
        bpf_redirect(receiver, 0) as i32
    }
}

/// Switches a packet that GRO has merged behind the receiver.
#[inline(always)]
pub fn receiver(context: &TcContext) -> i32 {
    match metadata(context) {
        Some(key) => switch(context, key),
        None => {
            let decision = Decision::drop(DropReason::UnknownPort, PortNumber::NONE);
            act::tc(context, &decision, 0)
        }
    }
}

/// Returns the tunnel metadata of a packet by the port whose number is in its tag, and takes the
/// tag off.
#[inline(always)]
fn metadata(context: &TcContext) -> Option<TunnelKey> {
    let tag = TcFrame::of_tc(context).offloaded_tag()?;
    let port = PORTS.get(u32::from(tag.tci)).filter(|port| port.kind == PortKind::Tunnel as u8)?;
    let network = NETWORKS.get(port.network.0)?;
    let key = TunnelKey::new(port.peer(), network.vni);
    // SAFETY: the context is valid as long as the program runs.
    (unsafe { bpf_skb_vlan_pop(context.skb.skb) } == 0).then_some(key)
}

/// Records at the destination address of a packet that GSO packets arrive there.
#[inline(always)]
fn note_gso(context: &TcContext) {
    let Some(own) = TcFrame::of_tc(context).read::<4>(HEADER + ipv4::HEADER - 4) else { return };
    if let Some(end) = UNDERLAY.get_ptr_mut(Address::mapped(own)) {
        // SAFETY: an aligned half of a word of a map that lives as long as the program; every CPU
        // writes the same value to it.
        unsafe { (*end).flags |= TunnelEnd::GSO_ARRIVES };
    }
}

/// Takes the outer headers off. The outer Ethernet header is overwritten with the inner one.
/// Returns false if the kernel refuses; the packet may be damaged then, and has to be dropped.
#[inline(always)]
fn unwrap(context: &TcContext) -> bool {
    let Some(inner) = TcFrame::of_tc(context).read::<HEADER>(INNER) else { return false };
    // The helper removes bytes behind the Ethernet header.
    // SAFETY: the context is valid as long as the program runs, and the bytes are as many as given.
    unsafe {
        bpf_skb_adjust_room(context.skb.skb, -(INNER as i32), BPF_ADJ_ROOM_MAC, 0) == 0
            && bpf_skb_store_bytes(context.skb.skb, 0, inner.as_ptr().cast(), HEADER as u32, 0) == 0
    }
}
