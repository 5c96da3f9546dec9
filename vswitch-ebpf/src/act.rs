//! Carries decisions out: the only code that redirects frames or writes tables.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{BPF_F_INGRESS, TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action};
use aya_ebpf::helpers::generated::{bpf_redirect, bpf_redirect_peer, bpf_skb_change_type};
use aya_ebpf::programs::{TcContext, XdpContext};
use vswitch_common::tables::{DROP_REASONS, NetworkNumber, PortCounters, PortKind, PortNumber, StormWindow, VlanKey};
use vswitch_common::verdict::{Decision, action, tag};

use crate::answer::reply;
use crate::flood::flood;
use crate::frame::Frame;
use crate::learn::learn;
use crate::maps::{CARRIERS, COUNTERS, PORTS, STORMS};
use crate::{tags, watch};

/// `skb->pkt_type` of a packet for this host (linux/if_packet.h).
const PACKET_HOST: u32 = 0;

/// Runs `count` on a port's counters on this CPU.
#[inline(always)]
pub fn counted(port: PortNumber, count: impl FnOnce(&mut PortCounters)) {
    if let Some(counters) = COUNTERS.get_ptr_mut(port.0) {
        // SAFETY: the entry is this CPU's own and lives as long as the map. A program that interrupts another on the
        // same CPU can lose a count between load and store, never corrupt one.
        count(unsafe { &mut *counters });
    }
}

#[inline(always)]
pub fn count_out(port: PortNumber, bytes: u64) {
    counted(port, |counters| {
        counters.tx_frames += 1;
        counters.tx_bytes += bytes;
    });
}

/// Counts a frame into its port and by its verdict.
#[inline(always)]
fn count_in(decision: &Decision, bytes: u64) {
    counted(decision.ingress, |counters| {
        counters.rx_frames += 1;
        counters.rx_bytes += bytes;
        match decision.action {
            action::REDIRECT if decision.to.local != 0 => counters.to_host += 1,
            action::REDIRECT => counters.forwarded += 1,
            action::PASS => counters.passed += 1,
            action::ANSWER_ARP | action::ANSWER_NEIGHBOR => {
                counters.to_host += 1;
                counters.answered += 1;
            }
            action::FLOOD_GROUP
            | action::FLOOD_UNKNOWN
            | action::FLOOD_APART
            | action::FLOOD_LISTENERS
            | action::FLOOD_LISTENERS_APART
            | action::FLOOD_ROUTERS => counters.flooded += 1,
            _ => counters.drops[decision.reason as usize % DROP_REASONS] += 1,
        }
    });
}

/// Learns the sender, if it is to be learned, and reports one that is held from now on.
#[inline(always)]
fn learn_sender<C: EbpfContext>(context: &C, decision: &Decision, now: u32) {
    if decision.learns != 0 && learn(context, decision.station, decision.ingress, now) {
        watch::held(&Decision { ..*decision });
    }
}

/// Carries out in XDP what XDP takes: a redirect or a drop.
#[inline(always)]
pub fn xdp(context: &XdpContext, decision: &Decision, now: u32) -> u32 {
    let bytes = (context.data_end() - context.data()) as u64;
    learn_sender(context, decision, now);
    count_in(decision, bytes);
    watch::entering_early(context, decision);
    if decision.action != action::REDIRECT {
        return xdp_action::XDP_DROP;
    }
    count_out(decision.to.port, bytes);
    // SAFETY: a helper without pointers.
    unsafe { bpf_redirect(decision.to.ifindex, 0) as u32 }
}

/// Carries a decision out in tc.
#[inline(always)]
pub fn tc(context: &TcContext, decision: &Decision, now: u32) -> i32 {
    let bytes = u64::from(context.len());
    learn_sender(context, decision, now);
    count_in(decision, bytes);
    watch::entering(context, decision);
    match decision.action {
        action::REDIRECT => deliver(context, decision, bytes),
        action::FLOOD_GROUP
        | action::FLOOD_UNKNOWN
        | action::FLOOD_APART
        | action::FLOOD_LISTENERS
        | action::FLOOD_LISTENERS_APART
        | action::FLOOD_ROUTERS => {
            if decision.storm != 0 {
                use_allowance(decision, now);
            }
            hand_over(context, decision)
        }
        action::ANSWER_ARP | action::ANSWER_NEIGHBOR => hand_over(context, decision),
        // Not "accept" but "as if we were not here": the next program on the device has its say.
        action::PASS => TC_ACT_UNSPEC,
        _ => TC_ACT_SHOT,
    }
}

/// Counts a flood against its port's allowance. Two CPUs that count at the same time may both count the same.
#[inline(always)]
fn use_allowance(decision: &Decision, now: u32) {
    if let Some(window) = STORMS.get_ptr_mut(StormWindow::index(decision.ingress, decision.storm.into())) {
        // SAFETY: two aligned words of a map that lives as long as the program.
        let window = unsafe { &mut *window };
        if window.tick != now {
            *window = StormWindow { tick: now, count: 0 };
        }
        window.count += 1;
    }
}

/// Hands a packet to one port.
#[inline(always)]
fn deliver(context: &TcContext, decision: &Decision, bytes: u64) -> i32 {
    let to = &decision.to;
    if to.tag != tag::KEEP {
        let came_with = Frame::of_tc(context).tag_word();
        if !tags::set(context, came_with, tags::changed(came_with, to.tag.into(), decision.station.vlan)) {
            counted(to.port, |counters| counters.tx_failed += 1);
            return TC_ACT_SHOT;
        }
    }
    count_out(to.port, bytes);
    if watch::is_on_for_leaving() {
        watch::leaving(context.skb.skb, to.port, decision.station.network, decision.ingress);
    }
    if to.kind == PortKind::Container as u8 {
        return into_container(context, to.ifindex);
    }
    let flags = if to.local != 0 { u64::from(BPF_F_INGRESS) } else { 0 };
    // SAFETY: a helper without pointers.
    unsafe { bpf_redirect(to.ifindex, flags) as i32 }
}

#[inline(always)]
fn into_container(context: &TcContext, ifindex: u32) -> i32 {
    // The host-side veth took the packet for somebody else's, as the address is not its own; in the container
    // nobody looks again (redirect_peer skips eth_type_trans), and IP would drop it.
    // SAFETY: the context is valid as long as the program runs.
    unsafe {
        bpf_skb_change_type(context.skb.skb, PACKET_HOST);
        bpf_redirect_peer(ifindex, 0) as i32
    }
}

/// Hands a packet to the program that floods and answers, with what it needs of the decision in the packet's control
/// block. Where a device has many ports to send it to, a tail call does not count.
#[inline(always)]
fn hand_over(context: &TcContext, decision: &Decision) -> i32 {
    // SAFETY: the context's skb pointer is valid as long as the program runs.
    let cb = unsafe { &mut (*context.skb.skb).cb };
    cb[0] = decision.action | u32::from(decision.snoops) << 8 | u32::from(decision.station.vlan.0) << 16;
    cb[1] = decision.ingress.0;
    cb[2] = decision.station.network.0;
    cb[3] = decision.to.port.0;
    // SAFETY: the map has programs of this type alone; it comes back only if there is none.
    unsafe { CARRIERS.tail_call(context, 0) };
    counted(decision.ingress, |counters| counters.tx_failed += 1);
    TC_ACT_SHOT
}

/// What [`hand_over`] handed over.
#[inline(always)]
pub fn taken_over(context: &TcContext) -> Decision {
    // SAFETY: the context's skb pointer is valid as long as the program runs.
    let [what, ingress, network, to, _] = unsafe { (*context.skb.skb).cb };
    let mut decision = Decision::new(what & 0xff, PortNumber(ingress));
    decision.snoops = (what >> 8) as u8;
    decision.station.vlan = VlanKey((what >> 16) as u16);
    decision.station.network = NetworkNumber(network);
    decision.to.port = PortNumber(to);
    decision
}

/// Carries out what was handed over: a flood or an answer.
#[inline(always)]
pub fn carry(context: &TcContext) -> i32 {
    let decision = taken_over(context);
    if decision.snoops != 0 {
        watch::snooped(context.skb.skb, &decision);
    }
    match decision.action {
        action::ANSWER_ARP | action::ANSWER_NEIGHBOR => answer(context, &decision),
        _ => flood(context, &decision, u64::from(context.len())),
    }
}

/// Sends a request back as its reply.
#[inline(always)]
fn answer(context: &TcContext, decision: &Decision) -> i32 {
    let Some(port) = PORTS.get(decision.ingress.0) else { return TC_ACT_SHOT };
    if !reply(context, decision) {
        counted(decision.ingress, |counters| counters.tx_failed += 1);
        return TC_ACT_SHOT;
    }
    count_out(decision.ingress, u64::from(context.len()));
    if watch::is_on_for_leaving() {
        watch::leaving(context.skb.skb, decision.ingress, decision.station.network, decision.to.port);
    }
    match port.kind() {
        Some(PortKind::Container) => into_container(context, port.egress_ifindex),
        // SAFETY: a helper without pointers.
        Some(PortKind::Host) => unsafe { bpf_redirect(port.egress_ifindex, u64::from(BPF_F_INGRESS)) as i32 },
        // SAFETY: as above.
        _ => unsafe { bpf_redirect(port.egress_ifindex, 0) as i32 },
    }
}
