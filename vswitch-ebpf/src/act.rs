//! Carries decisions out: the only code that redirects frames or writes tables.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{__sk_buff, BPF_F_INGRESS, TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action};
use aya_ebpf::helpers::generated::{bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer, bpf_skb_change_type};
use aya_ebpf::programs::{TcContext, XdpContext};
use aya_log_ebpf::debug;
use vswitch_common::carrier::Carrier;
use vswitch_common::packet::Packet;
use vswitch_common::tables::{
    DROP_REASONS, MARK_FROM_CHILD, NetworkNumber, PortCounters, PortKind, PortNumber, StormWindow, VlanKey,
};
use vswitch_common::verdict::{Decision, Delivery, action, tag};

use crate::answer::reply;
use crate::flood::flood;
use crate::frame::{TcFrame, XdpFrame};
use crate::learn::{Heard, learn, learned};
use crate::maps::{CARRIERS, COUNTERS, PORTS, STORMS};
use crate::{now, tags, tunnel, watch};

/// Packets from one port that are told of as too big, in one tick.
const TOLD: u32 = 64;
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
            action::REDIRECT if decision.to.way == Delivery::LOCAL => counters.to_host += 1,
            action::REDIRECT => counters.forwarded += 1,
            action::PASS => counters.passed += 1,
            action::ANSWER_ARP | action::ANSWER_NEIGHBOR | action::ANSWER_TOO_BIG => {
                counters.to_host += 1;
                counters.answered += 1;
            }
            action::FLOOD_GROUP
            | action::FLOOD_UNKNOWN
            | action::FLOOD_APART
            | action::FLOOD_LISTENERS
            | action::FLOOD_LISTENERS_APART
            | action::FLOOD_ROUTERS
            | action::FLOOD_REFLECTED
            | action::FLOOD_CHILDREN => counters.flooded += 1,
            _ => counters.drops[decision.reason as usize % DROP_REASONS] += 1,
        }
    });
}

/// Learns the sender, if it is to be learned, and reports one that is held from now on.
#[inline(always)]
fn learn_sender<C: EbpfContext>(context: &C, decision: &Decision, now: u32) {
    if decision.learns == 0 {
        return;
    }
    let heard = Heard { station: decision.station, port: decision.ingress, now };
    match learn(&heard) {
        learned::NEW => tell(context, &heard),
        learned::HELD => watch::held(&Decision { ..*decision }),
        _ => {}
    }
}

/// Writes a station that was learned into the log, if somebody reads it.
#[inline(never)]
fn tell<C: EbpfContext>(context: &C, heard: &Heard) {
    debug!(
        context,
        "learned {:mac} in network {} on port {}", heard.station.mac.0, heard.station.network.0, heard.port.0
    );
}

/// The same decision, of which the verifier does not know any more on which path it was made: what follows is gone through
/// once, not once for each reason to drop a frame.
#[inline(always)]
fn forgotten<P: Packet>(frame: &P, decision: &Decision) -> Decision {
    let small = |number: u8| frame.forget(number.into()) as u8;
    let to = Delivery {
        port: PortNumber(frame.forget(decision.to.port.0)),
        ifindex: frame.forget(decision.to.ifindex),
        kind: small(decision.to.kind),
        way: small(decision.to.way),
        tag: small(decision.to.tag),
        xdp: small(decision.to.xdp),
    };
    Decision {
        action: frame.forget(decision.action),
        reason: frame.forget(decision.reason),
        learns: small(decision.learns),
        snoops: small(decision.snoops),
        storm: frame.forget(decision.storm.into()) as u16,
        to,
        ..*decision
    }
}

/// Carries out in XDP what XDP takes: a redirect or a drop.
#[inline(always)]
pub fn xdp(context: &XdpContext, decision: &Decision, now: u32) -> u32 {
    let decision = &forgotten(&XdpFrame::of_xdp(context), decision);
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
    let frame = TcFrame::of_skb(context.skb.skb);
    // Apart: programs that only look at guards have nothing else to carry out, and are spared the rest.
    if decision.action == action::DROP {
        let (reason, learns) = (frame.forget(decision.reason), frame.forget(decision.learns.into()) as u8);
        let decision = &Decision { reason, learns, ..*decision };
        learn_sender(context, decision, now);
        count_in(decision, context.len().into());
        watch::entering(context, decision);
        return TC_ACT_SHOT;
    }
    let decision = &forgotten(&frame, decision);
    let bytes = u64::from(context.len());
    learn_sender(context, decision, now);
    count_in(decision, bytes);
    watch::entering(context, decision);
    match decision.action {
        // A number in a tag that has only a priority is rare, and written by the program that has the time.
        action::REDIRECT if decision.to.tag == tag::NUMBER => hand_over(context, decision),
        action::REDIRECT if decision.to.tag != tag::KEEP && !tags::change(context, decision) => {
            counted(decision.to.port, |counters| counters.tx_failed += 1);
            TC_ACT_SHOT
        }
        action::REDIRECT => deliver(context, decision, u64::from(context.len())),
        action::FLOOD_GROUP
        | action::FLOOD_UNKNOWN
        | action::FLOOD_APART
        | action::FLOOD_LISTENERS
        | action::FLOOD_LISTENERS_APART
        | action::FLOOD_ROUTERS
        | action::FLOOD_REFLECTED
        | action::FLOOD_CHILDREN => {
            if decision.storm != 0 {
                use_allowance(decision, now);
            }
            hand_over(context, decision)
        }
        action::ANSWER_ARP | action::ANSWER_NEIGHBOR | action::ANSWER_TOO_BIG => hand_over(context, decision),
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
    if to.kind == PortKind::Tunnel as u8 {
        return into_tunnel(context, decision, bytes);
    }
    count_out(to.port, bytes);
    if watch::is_on_for_leaving() {
        watch::leaving(context.skb.skb, to.port, decision.station.network, decision.ingress);
    }
    if (to.kind == PortKind::Container as u8 || to.kind == PortKind::Child as u8) && to.way != Delivery::FRONT {
        return into_container(context, to.ifindex);
    }
    if to.way == Delivery::ROUTED {
        // SAFETY: a helper without pointers: the kernel looks the next hop up by itself.
        return unsafe { bpf_redirect_neigh(to.ifindex, core::ptr::null_mut(), 0, 0) as i32 };
    }
    if to.way == Delivery::LOCAL && to.kind == PortKind::Parent as u8 {
        mark_from_child(context.skb.skb, true);
    }
    let flags = if to.way == Delivery::LOCAL { u64::from(BPF_F_INGRESS) } else { 0 };
    // SAFETY: a helper without pointers.
    unsafe { bpf_redirect(to.ifindex, flags) as i32 }
}

/// Hands a packet to a tunnel. It is shown as it is inside.
#[inline(always)]
fn into_tunnel(context: &TcContext, decision: &Decision, bytes: u64) -> i32 {
    let (to, network) = (&decision.to, decision.station.network);
    if watch::is_on_for_leaving() {
        watch::leaving(context.skb.skb, to.port, network, decision.ingress);
    }
    let straight = tunnel::straight(context.skb.skb, to.port.0, network.0);
    let sent = if straight == tunnel::NOT_STRAIGHT {
        tunnel::by_device(context.skb.skb, to.port.0, network.0, to.ifindex)
    } else {
        straight
    };
    if sent == TC_ACT_SHOT as u64 {
        counted(to.port, |counters| counters.tx_failed += 1);
    } else {
        count_out(to.port, bytes);
    }
    sent as i32
}

/// Puts the mark on a packet, or takes it off, by which the program at a parent knows what is for the host.
#[inline(always)]
pub fn mark_from_child(skb: *mut __sk_buff, on: bool) {
    // SAFETY: the skb is the context of the program that runs.
    let mark = unsafe { &mut (*skb).mark };
    if on { *mark |= MARK_FROM_CHILD } else { *mark &= !MARK_FROM_CHILD }
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

/// Hands a packet to the program that does what is rare, with what it needs of the decision in the packet's control
/// block. Where a device has many ports to send it to, a tail call does not count.
#[inline(always)]
fn hand_over(context: &TcContext, decision: &Decision) -> i32 {
    // SAFETY: the context's skb pointer is valid as long as the program runs.
    let cb = unsafe { &mut (*context.skb.skb).cb };
    let change = u32::from(decision.to.tag) << 12 | u32::from(decision.to.way) << 9;
    cb[0] = decision.action | u32::from(decision.snoops) << 8 | change | u32::from(decision.station.vlan.0) << 16;
    cb[1] = decision.ingress.0;
    cb[2] = decision.station.network.0;
    cb[3] = decision.to.port.0;
    leave_to(context, Carrier::Carry);
    counted(decision.ingress, |counters| counters.tx_failed += 1);
    TC_ACT_SHOT
}

/// Leaves a packet to another program. It comes back only if there is none.
#[inline(always)]
pub fn leave_to(context: &TcContext, carrier: Carrier) {
    // SAFETY: the map has programs of this type alone.
    unsafe { CARRIERS.tail_call(context, carrier as u32) };
}

/// What [`hand_over`] handed over.
#[inline(always)]
pub fn taken_over(context: &TcContext) -> Decision {
    // SAFETY: the context's skb pointer is valid as long as the program runs.
    let [what, ingress, network, to, _] = unsafe { (*context.skb.skb).cb };
    let mut decision = Decision::new(what & 0xff, PortNumber(ingress));
    decision.snoops = (what >> 8) as u8 & 1;
    decision.to.way = (what >> 9) as u8 & 7;
    decision.to.tag = (what >> 12) as u8 & 3;
    decision.station.vlan = VlanKey((what >> 16) as u16);
    decision.station.network = NetworkNumber(network);
    decision.to.port = PortNumber(to);
    decision
}

/// Carries out what was handed over: a flood, an answer, or a change of tag.
#[inline(always)]
pub fn carry(context: &TcContext) -> i32 {
    let decision = taken_over(context);
    if decision.snoops != 0 {
        watch::snooped(context.skb.skb, &decision);
    }
    match decision.action {
        action::ANSWER_ARP | action::ANSWER_NEIGHBOR => answer(context, &decision),
        action::ANSWER_TOO_BIG => too_big(context, &decision),
        action::REDIRECT => retag(context, &decision),
        _ => flood(context, &decision, u64::from(context.len())),
    }
}

/// Hands a packet to one port with its tag changed.
#[inline(always)]
fn retag(context: &TcContext, decision: &Decision) -> i32 {
    let Some(port) = PORTS.get(decision.to.port.0) else { return TC_ACT_SHOT };
    let came_with = TcFrame::of_tc(context).tag_word();
    if !tags::set(context, came_with, tags::changed(came_with, decision.to.tag.into(), decision.station.vlan)) {
        counted(decision.to.port, |counters| counters.tx_failed += 1);
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

/// Has the daemon tell the sender of a packet that no tunnel takes it: rare, as it sends shorter ones from then on, and in
/// place there is no making a plain packet of a GSO packet. One that does not listen is dropped without a word from some
/// number on.
#[inline(always)]
fn too_big(context: &TcContext, decision: &Decision) -> i32 {
    if let Some(window) = STORMS.get_ptr_mut(StormWindow::index(decision.ingress, StormWindow::TOO_BIG)) {
        // SAFETY: two aligned words of a map that lives as long as the program.
        let window = unsafe { &mut *window };
        let now = now();
        if window.tick != now {
            *window = StormWindow { tick: now, count: 0 };
        }
        if window.count < TOLD {
            window.count += 1;
            watch::too_big(context.skb.skb, decision);
        }
    }
    TC_ACT_SHOT
}
