//! Carries decisions out: the only code that redirects frames or writes tables.

use core::ffi::c_void;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{__sk_buff, BPF_EXIST, BPF_F_INGRESS, BPF_NOEXIST, TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action};
use aya_ebpf::helpers::generated::{
    bpf_clone_redirect, bpf_loop, bpf_redirect, bpf_redirect_peer, bpf_skb_change_type,
};
use aya_ebpf::programs::TcContext;
use aya_log_ebpf::debug;
use vswitch_common::tables::{
    DROP_REASONS, FdbEntry, FdbKey, MAX_PORTS, NetworkNumber, Port, PortCounters, PortKind, PortNumber,
};
use vswitch_common::verdict::{Decision, Delivery, action};

use crate::maps::{COUNTERS, FDB, NETWORKS, PORTS};

/// `skb->pkt_type` of a packet for this host (linux/if_packet.h).
const PACKET_HOST: u32 = 0;

/// The kernel's answer where the key is there already (errno-base.h).
const EEXIST: i32 = -17;

/// Runs `count` on a port's counters on this CPU.
#[inline(always)]
fn counted(port: PortNumber, count: impl FnOnce(&mut PortCounters)) {
    if let Some(counters) = COUNTERS.get_ptr_mut(port.0) {
        // SAFETY: the entry is this CPU's own and lives as long as the map. A program that interrupts another on the
        // same CPU can lose a count between load and store, never corrupt one.
        count(unsafe { &mut *counters });
    }
}

#[inline(always)]
fn count_out(port: PortNumber, bytes: u64) {
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
            action::FLOOD_GROUP | action::FLOOD_UNKNOWN | action::FLOOD_APART => counters.flooded += 1,
            action::PASS => counters.passed += 1,
            _ => counters.drops[decision.reason as usize % DROP_REASONS] += 1,
        }
    });
}

/// Writes a station into the FDB. The key comes by value: a decision whose address is handed to a helper would live in
/// memory as a whole, unused fields and all, which the verifier refuses.
#[inline(always)]
fn learn<C: EbpfContext>(context: &C, key: FdbKey, port: PortNumber, now: u32) {
    let moves = match FDB.get_ptr_mut(key) {
        // SAFETY: the pointer is to an entry of the map. Only `seen` is written through it: should the entry have
        // been recycled for another station meanwhile, that one counts as heard, no more.
        Some(entry) => unsafe {
            if (*entry).is_static() {
                return;
            }
            if (*entry).port == port {
                (*entry).seen = now;
                return;
            }
            Some((*entry).moves)
        },
        None => None,
    };
    let (flags, moves) = match moves {
        Some(moves) => (BPF_EXIST, moves + 1),
        None => (BPF_NOEXIST, 0),
    };
    let entry = FdbEntry { port, seen: now, moves, ..FdbEntry::default() };
    let written = FDB.insert(key, entry, u64::from(flags));
    counted(port, |counters| match written {
        Ok(()) => counters.learned += 1,
        // Another CPU was first.
        Err(EEXIST) => {}
        Err(_) => counters.learn_failed += 1,
    });
    debug!(context, "learned {:mac} in network {} on port {}", key.mac.0, key.network.0, port.0);
}

/// Carries out in XDP what XDP takes: a redirect or a drop.
#[inline(always)]
pub fn xdp<C: EbpfContext>(context: &C, decision: &Decision, bytes: u64, now: u32) -> u32 {
    if decision.learns != 0 {
        learn(context, decision.station, decision.ingress, now);
    }
    count_in(decision, bytes);
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
    if decision.learns != 0 {
        learn(context, decision.station, decision.ingress, now);
    }
    count_in(decision, bytes);
    match decision.action {
        action::REDIRECT => deliver(context, &decision.to, bytes),
        action::FLOOD_GROUP | action::FLOOD_UNKNOWN | action::FLOOD_APART => flood(context, decision, bytes),
        // Not "accept" but "as if we were not here": the next program on the device has its say.
        action::PASS => TC_ACT_UNSPEC,
        _ => TC_ACT_SHOT,
    }
}

/// Hands a packet to one port.
#[inline(always)]
fn deliver(context: &TcContext, to: &Delivery, bytes: u64) -> i32 {
    count_out(to.port, bytes);
    if to.kind == PortKind::Container as u8 {
        // The host-side veth took the packet for somebody else's, as the address is not its own; in the container
        // nobody looks again (redirect_peer skips eth_type_trans), and IP would drop it.
        // SAFETY: the context is valid as long as the program runs.
        unsafe {
            bpf_skb_change_type(context.skb.skb, PACKET_HOST);
            return bpf_redirect_peer(to.ifindex, 0) as i32;
        }
    }
    let flags = if to.local != 0 { u64::from(BPF_F_INGRESS) } else { 0 };
    // SAFETY: a helper without pointers.
    unsafe { bpf_redirect(to.ifindex, flags) as i32 }
}

/// The state of a walk over the ports of a network.
#[repr(C)]
struct Walk {
    skb: *mut __sk_buff,
    bytes: u64,
    next: PortNumber,
    network: NetworkNumber,
    ingress: PortNumber,
    /// Whether the host gets a copy.
    host: u32,
    /// [`Port::ISOLATED`] if the frame is from an isolated port, else 0.
    isolated: u32,
}

/// Sends a copy to every other port of the network. Not by redirect_peer, which would mark the copies as addressed to
/// their receivers.
#[inline(always)]
fn flood(context: &TcContext, decision: &Decision, bytes: u64) -> i32 {
    let ingress = decision.ingress;
    let Some(port) = PORTS.get(ingress.0).filter(|port| port.kind != 0) else {
        return TC_ACT_SHOT;
    };
    let Some(network) = NETWORKS.get(port.network.0) else {
        return TC_ACT_SHOT;
    };
    let mut walk = Walk {
        skb: context.skb.skb,
        bytes,
        next: network.first,
        network: port.network,
        ingress,
        // The host is always known by its address; it has no unknown stations behind it.
        host: u32::from(decision.action == action::FLOOD_GROUP),
        isolated: port.flags & Port::ISOLATED,
    };
    // SAFETY: the callback has the signature that bpf_loop asks for, and `walk` outlives the call.
    unsafe {
        bpf_loop(MAX_PORTS, copy_to_next as *mut c_void, (&raw mut walk).cast(), 0);
    }
    // What came from the wire and is for nobody that we know may be for somebody on the host: its own stack, if it is a
    // broadcast, or a macvlan of the kernel's on the same interface.
    if matches!(port.kind(), Some(PortKind::Uplink)) { TC_ACT_UNSPEC } else { TC_ACT_SHOT }
}

/// One step of the walk; 1 ends it.
unsafe extern "C" fn copy_to_next(_index: u64, walk: *mut Walk) -> u64 {
    // SAFETY: bpf_loop hands us the pointer that `flood` gave it.
    let walk = unsafe { &mut *walk };
    let number = walk.next;
    let Some(port) = PORTS.get(number.0).filter(|port| number.0 != 0 && port.network == walk.network) else {
        return 1;
    };
    walk.next = port.next;
    if number == walk.ingress || port.flags & walk.isolated != 0 {
        return 0;
    }
    let flags = match PortKind::from_number(port.kind) {
        Some(PortKind::Host) if walk.host == 0 => return 0,
        Some(PortKind::Host) => u64::from(BPF_F_INGRESS),
        _ => 0,
    };
    // SAFETY: the skb is the context of the program that runs this loop.
    let sent = unsafe { bpf_clone_redirect(walk.skb, port.egress_ifindex, flags) };
    if sent == 0 {
        count_out(number, walk.bytes);
    } else {
        counted(number, |counters| counters.tx_failed += 1);
    }
    0
}
