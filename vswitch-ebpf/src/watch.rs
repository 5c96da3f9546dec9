//! Showing frames to whoever watches, and telling the daemon what it has to know.

use aya_ebpf::bindings::{__sk_buff, xdp_md};
use aya_ebpf::helpers::generated::{bpf_ktime_get_ns, bpf_skb_load_bytes, bpf_xdp_load_bytes};
use aya_ebpf::maps::RingBuf;
use aya_ebpf::programs::{TcContext, XdpContext};
use vswitch_common::tables::{NetworkNumber, PortNumber, tick};
use vswitch_common::verdict::{Decision, Delivery, action};
use vswitch_common::watch::{Event, Record, Watch};

use crate::maps::{EVENTS, FRAMES, WATCH, WATCHED};

/// Whether anybody watches.
#[inline(always)]
pub fn is_on() -> bool {
    WATCH.get(0).is_some_and(|watch| watch.mode != 0)
}

/// Shows a packet as it came in, with its verdict.
#[inline(always)]
pub fn entering(context: &TcContext, decision: &Decision) {
    if is_on() {
        // A copy, field by field: the decision itself stays in registers.
        show_skb(context.skb.skb, &copy(decision), Event::ENTERING);
    }
}

/// The same for a frame that XDP takes.
#[inline(always)]
pub fn entering_early(context: &XdpContext, decision: &Decision) {
    if is_on() {
        show_xdp(context.ctx, (context.data_end() - context.data()) as u32, &copy(decision));
    }
}

/// Whether anybody watches frames as they leave.
#[inline(always)]
pub fn is_on_for_leaving() -> bool {
    WATCH.get(0).is_some_and(|watch| watch.leaving != 0)
}

/// Shows a packet as it leaves by a port.
#[inline(always)]
pub fn leaving(skb: *mut __sk_buff, by: PortNumber, network: NetworkNumber, ingress: PortNumber) {
    let mut decision = Decision::new(action::REDIRECT, ingress);
    decision.to = Delivery { port: by, ..decision.to };
    decision.station.network = network;
    show_skb(skb, &decision, Event::LEAVING);
}

#[inline(always)]
fn copy(decision: &Decision) -> Decision {
    let to = Delivery { ..decision.to };
    Decision { to, ..*decision }
}

/// What is asked for, if it is this frame.
#[inline(always)]
fn asked(decision: &Decision) -> Option<&'static Watch> {
    let watch = WATCH.get(0)?;
    let dropped = decision.action == action::DROP;
    let by = watch.port == 0 || watch.port == decision.ingress.0 || watch.port == decision.to.port.0;
    let of = watch.network == 0 || watch.network == decision.station.network.0;
    (watch.mode != 0 && by && of && (watch.drops == 0 || dropped)).then_some(watch)
}

/// Whether this CPU may show one more frame in this tick; how many it has not shown since the last.
#[inline(always)]
fn allowed(watch: &Watch, now: u32) -> Option<u32> {
    let watched = WATCHED.get_ptr_mut(0)?;
    // SAFETY: this CPU's own entry, which lives as long as the map.
    let watched = unsafe { &mut *watched };
    if watched.tick != now {
        watched.tick = now;
        watched.count = 0;
    }
    if watched.count >= watch.limit {
        watched.lost += 1;
        return None;
    }
    watched.count += 1;
    let lost = watched.lost;
    watched.lost = 0;
    Some(lost)
}

#[inline(always)]
fn lose() {
    if let Some(watched) = WATCHED.get_ptr_mut(0) {
        // SAFETY: as above.
        unsafe { (*watched).lost += 1 };
    }
}

#[inline(never)]
fn show_skb(skb: *mut __sk_buff, decision: &Decision, kind: u32) {
    let Some(watch) = asked(decision) else { return };
    // SAFETY: a helper without arguments.
    let time = unsafe { bpf_ktime_get_ns() };
    let Some(lost) = allowed(watch, tick(time)) else { return };
    let event = skb_event(skb, decision, kind, time, lost);
    let shown = if watch.mode == Watch::FRAMES {
        write_skb::<{ Event::FRAME }>(&FRAMES, skb, event)
    } else {
        write_skb::<{ Event::HEADERS }>(&FRAMES, skb, event)
    };
    if !shown {
        lose();
    }
}

#[inline(never)]
fn show_xdp(xdp: *mut xdp_md, length: u32, decision: &Decision) {
    let Some(watch) = asked(decision) else { return };
    // SAFETY: a helper without arguments.
    let time = unsafe { bpf_ktime_get_ns() };
    let Some(lost) = allowed(watch, tick(time)) else { return };
    let event =
        Event { time, decision: *decision, kind: Event::ENTERING, length, captured: 0, tag: 0, segment: 0, lost };
    let shown = if watch.mode == Watch::FRAMES {
        write_xdp::<{ Event::FRAME }>(xdp, event)
    } else {
        write_xdp::<{ Event::HEADERS }>(xdp, event)
    };
    if !shown {
        lose();
    }
}

/// Hands the daemon a packet about multicast groups. What it cannot be handed is sent again by those who send it.
#[inline(never)]
pub fn snooped(skb: *mut __sk_buff, decision: &Decision) {
    // SAFETY: a helper without arguments.
    let time = unsafe { bpf_ktime_get_ns() };
    write_skb::<{ Event::FRAME }>(&EVENTS, skb, skb_event(skb, decision, Event::SNOOPED, time, 0));
}

/// Hands the daemon the headers of a packet whose sender is to be told that it is too big.
#[inline(never)]
pub fn too_big(skb: *mut __sk_buff, decision: &Decision) {
    // SAFETY: a helper without arguments.
    let time = unsafe { bpf_ktime_get_ns() };
    write_skb::<{ Event::HEADERS }>(&EVENTS, skb, skb_event(skb, decision, Event::TOO_BIG, time, 0));
}

/// Tells the daemon of a station that is held from now on.
#[inline(never)]
pub fn held(decision: &Decision) {
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

/// Writes a record with as much of the packet as fits.
#[inline(always)]
fn write_skb<const BYTES: usize>(ring: &RingBuf, skb: *mut __sk_buff, event: Event) -> bool {
    let Some(mut slot) = ring.reserve::<Record<BYTES>>(0) else { return false };
    let captured = bounded::<BYTES>(event.length);
    let record = slot.as_mut_ptr();
    // SAFETY: the slot has room for a record: its head is written whole, and `captured` bytes behind it.
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
    // SAFETY: the slot has room for a record: its head is written whole, and `captured` bytes behind it.
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

/// A length of at least one byte and at most `BYTES`, in a form that the verifiers see: that a number is not 0 tells those
/// before kernel 6.8 nothing of its least value. No packet has a length of 0.
#[inline(always)]
fn bounded<const BYTES: usize>(length: u32) -> u32 {
    let last = core::hint::black_box(length.wrapping_sub(1));
    let most = BYTES as u32 - 1;
    (if last > most { most } else { last }) + 1
}
