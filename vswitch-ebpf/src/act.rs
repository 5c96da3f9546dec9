//! Carries decisions out.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{BPF_F_INGRESS, TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action};
use aya_ebpf::helpers::generated::{bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer, bpf_skb_change_type};
use aya_ebpf::programs::{TcContext, XdpContext};
use aya_log_ebpf::debug;
use vswitch_common::handover::Handover;
use vswitch_common::tables::{PortKind, StormWindow};
use vswitch_common::tail_call::TailCall;
use vswitch_common::verdict::{Decision, Delivery, action, tag};
use vswitch_common::verifier::{forget_decision, forget_drop};

use crate::answer::reply;
use crate::clock::now;
use crate::copies::flood;
use crate::count::{count_failure, count_in, count_out};
use crate::frame::{TcFrame, XdpFrame};
use crate::learn::{Heard, learn, learned};
use crate::maps::{PORTS, STORMS, TAIL_CALLS};
use crate::marks::mark_from_child;
use crate::{rings, tags, wrap};

/// The number of packets from one port in one tick that are reported as too big.
const MAX_TOO_BIG: u32 = 64;
/// `skb->pkt_type` of a packet for this host (linux/if_packet.h).
const PACKET_HOST: u32 = 0;

/// Learns the sender of a frame if the decision says so, and reports a station that is held from
/// now on.
#[inline(always)]
fn learn_sender<C: EbpfContext>(context: &C, decision: &Decision, now: u32) {
    if decision.learns == 0 {
        return;
    }
    let announced = u32::from(decision.learns == Decision::ANNOUNCED);
    let heard = Heard { station: decision.station, port: decision.ingress, now, announced };
    match learn(&heard) {
        learned::NEW => log_learned(context, &heard),
        learned::HELD => rings::report_held(&Decision { ..*decision }),
        _ => {}
    }
}

/// Logs a learned station, if the log level asks for it.
#[inline(never)]
fn log_learned<C: EbpfContext>(context: &C, heard: &Heard) {
    debug!(
        context,
        "learned {:mac} in network {} on port {}", heard.station.mac.0, heard.station.network.0, heard.port.0
    );
}

/// Carries a decision out in XDP: a redirect or a drop.
#[inline(always)]
pub fn xdp(context: &XdpContext, decision: &Decision, now: u32) -> u32 {
    let decision = &forget_decision(&XdpFrame::of_xdp(context), decision);
    let bytes = (context.data_end() - context.data()) as u64;
    learn_sender(context, decision, now);
    count_in(decision, bytes);
    rings::show_entering_xdp(context, decision);
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
    let frame = TcFrame::of_skb(context.skb.skb);
    // Drops come first: programs of guards alone have no other action, and are spared the rest.
    if decision.action == action::DROP {
        let decision = &forget_drop(&frame, decision);
        learn_sender(context, decision, now);
        count_in(decision, context.len().into());
        rings::show_entering(context, decision);
        return TC_ACT_SHOT;
    }
    let decision = &forget_decision(&frame, decision);
    let bytes = u64::from(context.len());
    learn_sender(context, decision, now);
    count_in(decision, bytes);
    rings::show_entering(context, decision);
    match decision.action {
        // A VLAN written into a priority tag is rare. The program `carry` does it.
        action::REDIRECT if decision.to.tag == tag::NUMBER => hand_over(context, decision),
        action::REDIRECT if decision.to.tag != tag::KEEP && !tags::change(context, decision) => {
            count_failure(decision.to.port);
            TC_ACT_SHOT
        }
        action::REDIRECT => deliver(context, decision, u64::from(context.len())),
        action if action::is_flood(action) => hand_over(context, decision),
        action::ANSWER_ARP | action::ANSWER_NEIGHBOR | action::ANSWER_TOO_BIG => hand_over(context, decision),
        // Not TC_ACT_OK, which would end the chain: the next program on the device decides.
        action::PASS => TC_ACT_UNSPEC,
        _ => TC_ACT_SHOT,
    }
}

/// Delivers a packet to one port.
#[inline(always)]
fn deliver(context: &TcContext, decision: &Decision, bytes: u64) -> i32 {
    let to = &decision.to;
    if to.kind == PortKind::Tunnel as u8 {
        return into_tunnel(context, decision, bytes);
    }
    count_out(to.port, bytes);
    if rings::is_leaving_observed() {
        rings::show_leaving(context.skb.skb, to.port, decision.station.network, decision.ingress);
    }
    if (to.kind == PortKind::Container as u8 || to.kind == PortKind::Child as u8) && to.way != Delivery::FRONT {
        return into_container(context, to.ifindex);
    }
    if to.way == Delivery::ROUTED {
        // SAFETY: without pointers the kernel looks the next hop up itself.
        return unsafe { bpf_redirect_neigh(to.ifindex, core::ptr::null_mut(), 0, 0) as i32 };
    }
    if to.way == Delivery::LOCAL && to.kind == PortKind::Parent as u8 {
        mark_from_child(context.skb.skb, true);
    }
    let flags = if to.way == Delivery::LOCAL { u64::from(BPF_F_INGRESS) } else { 0 };
    // SAFETY: a helper without pointers.
    unsafe { bpf_redirect(to.ifindex, flags) as i32 }
}

/// Delivers a packet into a tunnel. Observers see the inner packet.
#[inline(always)]
fn into_tunnel(context: &TcContext, decision: &Decision, bytes: u64) -> i32 {
    let (to, network) = (&decision.to, decision.station.network);
    if rings::is_leaving_observed() {
        rings::show_leaving(context.skb.skb, to.port, network, decision.ingress);
    }
    let direct = wrap::direct(context.skb.skb, to.port.0, network.0);
    let sent = if direct == wrap::NOT_DIRECT {
        wrap::by_device(context.skb.skb, to.port.0, network.0, to.ifindex)
    } else {
        direct
    };
    if sent == TC_ACT_SHOT as u64 {
        count_failure(to.port);
    } else {
        count_out(to.port, bytes);
    }
    sent as i32
}

#[inline(always)]
fn into_container(context: &TcContext, ifindex: u32) -> i32 {
    // The host-side veth has classified the packet as one for another host, because the destination
    // is not its own address. In the container the packet is not classified again (redirect_peer
    // skips eth_type_trans), and IP would drop it. SAFETY: the context is valid as long as the
    // program runs.
    unsafe {
        bpf_skb_change_type(context.skb.skb, PACKET_HOST);
        bpf_redirect_peer(ifindex, 0) as i32
    }
}

/// Hands a packet to the program `carry` for a rare action. On a path with many copies the tail
/// call costs little.
#[inline(always)]
fn hand_over(context: &TcContext, decision: &Decision) -> i32 {
    // SAFETY: the context's skb pointer is valid as long as the program runs.
    let cb = unsafe { &mut (*context.skb.skb).cb };
    let [a, b, c, d] = Handover::of(decision).to_words();
    (cb[0], cb[1], cb[2], cb[3]) = (a, b, c, d);
    run(context, TailCall::Carry);
    count_failure(decision.ingress);
    TC_ACT_SHOT
}

/// Runs another program on the packet by a tail call. Returns only if the program array has no such
/// program.
#[inline(always)]
pub fn run(context: &TcContext, call: TailCall) {
    // SAFETY: the map has programs of this type alone.
    unsafe { TAIL_CALLS.tail_call(context, call as u32) };
}

/// Carries out what was handed over: a flood, an answer, or a change of the tag.
#[inline(always)]
pub fn handed_over(context: &TcContext) -> i32 {
    // SAFETY: the context's skb pointer is valid as long as the program runs.
    let [a, b, c, d, _] = unsafe { (*context.skb.skb).cb };
    let decision = Handover::from_words([a, b, c, d]).decision();
    if decision.snoops != 0 {
        rings::report_snooped(context.skb.skb, &decision);
    }
    match decision.action {
        action::ANSWER_ARP | action::ANSWER_NEIGHBOR => answer(context, &decision),
        action::ANSWER_TOO_BIG => too_big(context, &decision),
        action::REDIRECT => retag(context, &decision),
        _ => flood(context, &decision, u64::from(context.len())),
    }
}

/// Delivers a packet to one port with its tag changed.
#[inline(always)]
fn retag(context: &TcContext, decision: &Decision) -> i32 {
    let Some(port) = PORTS.get(decision.to.port.0) else { return TC_ACT_SHOT };
    let came_with = TcFrame::of_tc(context).tag_word();
    if !tags::set(context, came_with, tags::changed(came_with, decision.to.tag.into(), decision.station.vlan)) {
        count_failure(decision.to.port);
        return TC_ACT_SHOT;
    }
    let to = Delivery { ifindex: port.egress_ifindex, kind: port.kind, ..decision.to };
    deliver(context, &Decision { to, ..*decision }, u64::from(context.len()))
}

/// Sends a request back as its reply.
#[inline(always)]
fn answer(context: &TcContext, decision: &Decision) -> i32 {
    let Some(port) = PORTS.get(decision.ingress.0) else { return TC_ACT_SHOT };
    if !reply(context, decision) {
        count_failure(decision.ingress);
        return TC_ACT_SHOT;
    }
    count_out(decision.ingress, u64::from(context.len()));
    if rings::is_leaving_observed() {
        rings::show_leaving(context.skb.skb, decision.ingress, decision.station.network, decision.to.port);
    }
    match port.kind() {
        Some(PortKind::Container) => into_container(context, port.egress_ifindex),
        // SAFETY: a helper without pointers.
        Some(PortKind::Host) => unsafe { bpf_redirect(port.egress_ifindex, u64::from(BPF_F_INGRESS)) as i32 },
        // SAFETY: as above.
        _ => unsafe { bpf_redirect(port.egress_ifindex, 0) as i32 },
    }
}

/// Reports a packet that is too big for a tunnel to the daemon, which answers the sender. That is
/// rare, because the sender then sends shorter packets, and a GSO packet cannot be made a plain
/// packet in place. Beyond [`MAX_TOO_BIG`] packets are dropped unreported.
#[inline(always)]
fn too_big(context: &TcContext, decision: &Decision) -> i32 {
    if let Some(window) = STORMS.get_ptr_mut(StormWindow::index(decision.ingress, StormWindow::TOO_BIG)) {
        // SAFETY: two aligned words of a map that lives as long as the program.
        let window = unsafe { &mut *window };
        window.begin(now());
        if window.count < MAX_TOO_BIG {
            window.count += 1;
            rings::report_too_big(context.skb.skb, decision);
        }
    }
    TC_ACT_SHOT
}
