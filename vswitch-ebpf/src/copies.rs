//! Sends the copies of a flood.

use core::ffi::c_void;
use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::bindings::{__sk_buff, BPF_F_INGRESS, TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::generated::{bpf_clone_redirect, bpf_loop};
use aya_ebpf::programs::TcContext;
use vswitch_common::forward::{Copied, Flooded};
use vswitch_common::packet::Packet as _;
use vswitch_common::tables::{MAX_PORTS, Port, PortKind, PortNumber, StormWindow};
use vswitch_common::verdict::{Decision, action, tag};

use crate::clock::now;
use crate::count::{count_failure, count_out};
use crate::frame::TcFrame;
use crate::maps::{NETWORKS, PORTS, STORMS};
use crate::marks::{clear_encrypted, mark_from_child};
use crate::tables::KernelTables;
use crate::{rings, tags, tunnel_key};

/// The state of a walk over the ports of a network.
#[repr(C)]
struct Walk {
    flooded: Flooded,
    skb: *mut __sk_buff,
    bytes: u64,
    /// The next port.
    next: PortNumber,
    /// The change of the tag of copies that are sent in this walk.
    tag: u32,
    /// The change of the tag of copies that this walk has left out.
    left: u32,
    /// 1 if copies are sent to observers.
    observed: u32,
    /// Not 0 if the host gets a copy at a parent.
    host: u32,
    /// The number of copies sent, without those for the host.
    copies: u32,
}

/// Sends a copy to every other port of the network that gets one. Copies are not sent by
/// `redirect_peer`, which would mark them as addressed to the receiver.
#[inline(never)]
pub fn flood(context: &TcContext, decision: &Decision, bytes: u64) -> i32 {
    let Some(port) = PORTS.get(decision.ingress.0) else {
        return TC_ACT_SHOT;
    };
    let Some(network) = NETWORKS.get(port.network.0) else {
        return TC_ACT_SHOT;
    };
    let frame = TcFrame::of_tc(context);
    let mut walk = Walk {
        flooded: Flooded::new(decision, &frame, port).forgotten(&frame),
        skb: context.skb.skb,
        bytes,
        next: network.first,
        tag: u32::from(tag::KEEP),
        left: u32::from(tag::KEEP),
        observed: frame.forget(u32::from(rings::is_leaving_observed())),
        host: port.flags & Port::HOST_ACCESS,
        copies: 0,
    };
    send_copies(&mut walk);
    // A frame from the wire may also be for the host: for its stack, if it is a broadcast, or for a
    // macvlan device of the kernel on the same interface.
    let rest =
        if matches!(port.kind(), Some(PortKind::Uplink | PortKind::Parent)) { TC_ACT_UNSPEC } else { TC_ACT_SHOT };
    if walk.left != u32::from(tag::KEEP) {
        // The other ports get copies with a changed tag, which is the same for all of them.
        let (came_with, changed_to) = (walk.flooded.tag, tags::changed(walk.flooded.tag, walk.left, walk.flooded.vlan));
        if tags::set(context, came_with, changed_to) {
            walk.next = network.first;
            walk.tag = walk.left;
            send_copies(&mut walk);
            if rest == TC_ACT_UNSPEC {
                tags::set(context, changed_to, came_with);
            }
        }
    }
    if decision.storm != 0 {
        count_storm(decision, walk.copies, now());
    }
    rest
}

/// Counts copies against the allowance of a port. Two CPUs that begin the window of a tick at the same
/// time may lose what one of them has counted in between, which is the copies of one frame.
#[inline(always)]
fn count_storm(decision: &Decision, copies: u32, now: u32) {
    let Some(window) = STORMS.get_ptr_mut(StormWindow::index(decision.ingress, decision.storm.into())) else { return };
    // SAFETY: two aligned words of a map that lives as long as the program. They are written as one,
    // and the count is changed by one instruction.
    unsafe {
        if (*window).tick != now {
            let [tick, count] = [now.to_ne_bytes(), [0; 4]];
            let both = [tick[0], tick[1], tick[2], tick[3], count[0], count[1], count[2], count[3]];
            window.cast::<u64>().write_volatile(u64::from_ne_bytes(both));
        }
        atomic_xadd::<u32, u32, { AtomicOrdering::Relaxed }>(&raw mut (*window).count, copies);
    }
}

#[inline(always)]
fn send_copies(walk: &mut Walk) {
    // SAFETY: the callback has the signature that bpf_loop expects, and `walk` outlives the call.
    unsafe {
        bpf_loop(MAX_PORTS, send_to_next as *mut c_void, (&raw mut *walk).cast(), 0);
    }
}

/// One step of the walk. Returns 1 to end it.
unsafe extern "C" fn send_to_next(_index: u64, walk: *mut Walk) -> u64 {
    // SAFETY: bpf_loop passes the pointer that `send_copies` gave it.
    let walk = unsafe { &mut *walk };
    let number = walk.next;
    let Some(port) = PORTS.get(number.0).filter(|port| number.0 != 0 && port.network == walk.flooded.network) else {
        return 1;
    };
    walk.next = port.next;
    match walk.flooded.copy(port, number, &KernelTables) {
        Copied::No => {}
        Copied::TooBig => {
            if walk.tag == u32::from(tag::KEEP) {
                count_failure(number);
            }
        }
        Copied::Tag(change) if u32::from(change) != walk.tag => {
            walk.left = TcFrame::of_skb(walk.skb).forget(u32::from(change));
        }
        Copied::Tag(_) => {
            let flags = if matches!(port.kind(), Some(PortKind::Host)) { u64::from(BPF_F_INGRESS) } else { 0 };
            if walk.observed != 0 {
                rings::show_leaving(walk.skb, number, walk.flooded.network, walk.flooded.ingress);
            }
            if matches!(port.kind(), Some(PortKind::Parent)) && walk.host != 0 {
                mark_from_child(walk.skb, true);
                // SAFETY: the skb is the context of the program that runs this loop.
                let sent = unsafe { bpf_clone_redirect(walk.skb, port.egress_ifindex, u64::from(BPF_F_INGRESS)) };
                if sent != 0 {
                    count_failure(number);
                }
                mark_from_child(walk.skb, false);
                if walk.flooded.action == action::FLOOD_HOST {
                    return 0;
                }
            }
            let tunneled = matches!(port.kind(), Some(PortKind::Tunnel));
            if tunneled && !tunnel_key::write(walk.skb, number, walk.flooded.network) {
                clear_encrypted(walk.skb);
                count_failure(number);
                return 0;
            }
            // SAFETY: the skb is the context of the program that runs this loop.
            let sent = unsafe { bpf_clone_redirect(walk.skb, port.egress_ifindex, flags) };
            if tunneled {
                clear_encrypted(walk.skb);
            }
            if sent == 0 {
                count_out(number, walk.bytes);
                walk.copies += u32::from(flags == 0);
            } else {
                count_failure(number);
            }
        }
    }
    0
}
