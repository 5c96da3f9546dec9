//! The ring buffers: frames for observers, and events for the daemon.

use aya_ebpf::bindings::{__sk_buff, xdp_md};
use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_skb_load_bytes, bpf_xdp_load_bytes};
use aya_ebpf::maps::RingBuf;
use aya_ebpf::programs::{TcContext, XdpContext};
use vswitch_common::observe::{Event, FrameFilter, Record};
use vswitch_common::tables::{NetworkNumber, PortNumber, tick};
use vswitch_common::verdict::{Decision, Delivery, action};
use vswitch_common::verifier::bounded;

use crate::maps::{EVENTS, FRAMES, WATCH, WATCHED};

/// Returns whether frames are observed.
#[inline(always)]
fn is_observed() -> bool {
    WATCH.get(0).is_some_and(|filter| filter.mode != 0)
}

/// Returns whether frames are observed as they leave.
#[inline(always)]
pub fn is_leaving_observed() -> bool {
    WATCH.get(0).is_some_and(|filter| filter.leaving != 0)
}

/// Sends a packet that came in to observers, with its decision.
#[inline(always)]
pub fn show_entering(context: &TcContext, decision: &Decision) {
    if is_observed() {
        show_skb(context.skb.skb, &copy(decision), Event::ENTERING);
    }
}

/// The same for a frame that XDP takes.
#[inline(always)]
pub fn show_entering_xdp(context: &XdpContext, decision: &Decision) {
    if is_observed() {
        show_xdp(context.ctx, (context.data_end() - context.data()) as u32, &copy(decision));
    }
}

/// Sends a packet that leaves by a port to observers.
#[inline(always)]
pub fn show_leaving(skb: *mut __sk_buff, by: PortNumber, network: NetworkNumber, ingress: PortNumber) {
    let mut decision = Decision::new(action::REDIRECT, ingress);
    decision.to = Delivery { port: by, ..decision.to };
    decision.station.network = network;
    show_skb(skb, &decision, Event::LEAVING);
}

/// Copies a decision field by field, so that the original stays in registers (see
/// `vswitch_common::verifier`).
#[inline(always)]
fn copy(decision: &Decision) -> Decision {
    let to = Delivery { ..decision.to };
    Decision { to, ..*decision }
}

/// Returns the filter, if a frame with this decision passes it.
#[inline(always)]
fn passed_filter(decision: &Decision) -> Option<&'static FrameFilter> {
    let filter = WATCH.get(0)?;
    let dropped = decision.action == action::DROP || decision.reason != 0;
    let port = filter.port == 0 || filter.port == decision.ingress.0 || filter.port == decision.to.port.0;
    let network = filter.network == 0 || filter.network == decision.station.network.0;
    (filter.mode != 0 && port && network && (filter.drops == 0 || dropped)).then_some(filter)
}

/// Counts a frame against the limit of this CPU in this tick. Returns the number of frames not
/// shown before it, `None` if the frame is beyond the limit.
#[inline(always)]
fn count_shown(filter: &FrameFilter, now: u32) -> Option<u32> {
    let shown = WATCHED.get_ptr_mut(0)?;
    // SAFETY: this CPU's own entry, which lives as long as the map.
    let shown = unsafe { &mut *shown };
    if shown.tick != now {
        shown.tick = now;
        shown.count = 0;
    }
    if shown.count >= filter.limit {
        shown.lost += 1;
        return None;
    }
    shown.count += 1;
    let lost = shown.lost;
    shown.lost = 0;
    Some(lost)
}

#[inline(always)]
fn count_lost() {
    if let Some(shown) = WATCHED.get_ptr_mut(0) {
        // SAFETY: this CPU's own entry, which lives as long as the map.
        unsafe { (*shown).lost += 1 };
    }
}

#[inline(never)]
fn show_skb(skb: *mut __sk_buff, decision: &Decision, kind: u32) {
    let Some(filter) = passed_filter(decision) else { return };
    // SAFETY: a helper without arguments.
    let time = unsafe { bpf_ktime_get_ns() };
    let Some(lost) = count_shown(filter, tick(time)) else { return };
    let event = skb_event(skb, decision, kind, time, lost);
    let written = if filter.mode == FrameFilter::FRAMES {
        write_skb::<{ Event::FRAME }>(&FRAMES, skb, event)
    } else {
        write_skb::<{ Event::HEADERS }>(&FRAMES, skb, event)
    };
    if !written {
        count_lost();
    }
}

#[inline(never)]
fn show_xdp(xdp: *mut xdp_md, length: u32, decision: &Decision) {
    let Some(filter) = passed_filter(decision) else { return };
    // SAFETY: a helper without arguments.
    let time = unsafe { bpf_ktime_get_ns() };
    let Some(lost) = count_shown(filter, tick(time)) else { return };
    let event =
        Event { time, decision: *decision, kind: Event::ENTERING, length, captured: 0, tag: 0, segment: 0, lost };
    let written = if filter.mode == FrameFilter::FRAMES {
        write_xdp::<{ Event::FRAME }>(xdp, event)
    } else {
        write_xdp::<{ Event::HEADERS }>(xdp, event)
    };
    if !written {
        count_lost();
    }
}

/// Sends a packet about multicast groups to the daemon. If the ring is full it is lost; senders
/// repeat such packets.
#[inline(never)]
pub fn report_snooped(skb: *mut __sk_buff, decision: &Decision) {
    // SAFETY: a helper without arguments.
    let time = unsafe { bpf_ktime_get_ns() };
    write_skb::<{ Event::FRAME }>(&EVENTS, skb, skb_event(skb, decision, Event::SNOOPED, time, 0));
}

/// Sends the headers of a packet that is too big to the daemon, which answers the sender.
#[inline(never)]
pub fn report_too_big(skb: *mut __sk_buff, decision: &Decision) {
    // SAFETY: a helper without arguments.
    let time = unsafe { bpf_ktime_get_ns() };
    write_skb::<{ Event::HEADERS }>(&EVENTS, skb, skb_event(skb, decision, Event::TOO_BIG, time, 0));
}

/// Reports a station that is held from now on to the daemon.
#[inline(never)]
pub fn report_held(decision: &Decision) {
    // SAFETY: a helper without arguments.
    let time = unsafe { bpf_ktime_get_ns() };
    let Some(mut slot) = EVENTS.reserve::<Event>(0) else { return };
    let decision = *decision;
    slot.write(Event { time, decision, kind: Event::HELD, length: 0, captured: 0, tag: 0, segment: 0, lost: 0 });
    slot.submit(0);
}

#[inline(always)]
fn skb_event(skb: *mut __sk_buff, decision: &Decision, kind: u32, time: u64, lost: u32) -> Event {
    // SAFETY: the skb is the context of the program that runs.
    let skb = unsafe { &*skb };
    let tpid = u32::from(u16::from_be(skb.vlan_proto as u16));
    let tag = if skb.vlan_present == 0 { 0 } else { tpid << 16 | skb.vlan_tci };
    Event { time, decision: *decision, kind, length: skb.len, captured: 0, tag, segment: skb.gso_size, lost }
}

/// Writes a record with as many bytes of the packet as fit. Returns whether it was written.
#[inline(always)]
fn write_skb<const BYTES: usize>(ring: &RingBuf, skb: *mut __sk_buff, event: Event) -> bool {
    let Some(mut slot) = ring.reserve::<Record<BYTES>>(0) else { return false };
    let captured = bounded::<BYTES>(event.length);
    let record = slot.as_mut_ptr();
    // SAFETY: the slot has room for a record. Its head is written whole, and `captured` bytes
    // behind it.
    let loaded = unsafe {
        (&raw mut (*record).event).write(Event { captured, ..event });
        bpf_skb_load_bytes(skb.cast(), 0, (&raw mut (*record).bytes).cast(), captured)
    };
    if loaded == 0 {
        slot.submit(0);
    } else {
        slot.discard(0);
    }
    loaded == 0
}

#[inline(always)]
fn write_xdp<const BYTES: usize>(xdp: *mut xdp_md, event: Event) -> bool {
    let Some(mut slot) = FRAMES.reserve::<Record<BYTES>>(0) else { return false };
    let captured = bounded::<BYTES>(event.length);
    let record = slot.as_mut_ptr();
    // SAFETY: the slot has room for a record. Its head is written whole, and `captured` bytes
    // behind it.
    let loaded = unsafe {
        (&raw mut (*record).event).write(Event { captured, ..event });
        bpf_xdp_load_bytes(xdp, 0, (&raw mut (*record).bytes).cast(), captured)
    };
    if loaded == 0 {
        slot.submit(0);
    } else {
        slot.discard(0);
    }
    loaded == 0
}
