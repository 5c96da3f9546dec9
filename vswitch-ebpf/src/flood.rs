//! Flooding: a copy to every port that is to get one.

use core::ffi::c_void;

use aya_ebpf::bindings::{__sk_buff, BPF_F_INGRESS, TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::generated::{bpf_clone_redirect, bpf_loop};
use aya_ebpf::programs::TcContext;
use vswitch_common::forward::{Copied, Flooded};
use vswitch_common::packet::Packet as _;
use vswitch_common::packet::address::Address;
use vswitch_common::tables::{MAX_PORTS, Port, PortKind, PortNumber};
use vswitch_common::verdict::{Decision, tag};

use crate::act::{count_out, counted, mark_from_child};
use crate::frame::TcFrame;
use crate::maps::{NETWORKS, PORTS};
use crate::tables::KernelTables;
use crate::{tags, tunnel, watch};

/// The state of a walk over the ports of a network.
#[repr(C)]
struct Walk {
    flooded: Flooded,
    skb: *mut __sk_buff,
    bytes: u64,
    next: PortNumber,
    /// Copies whose tag is changed like this go out in this walk.
    tag: u32,
    /// How the tag of those is changed that this walk left out.
    left: u32,
    /// Whether copies are shown to somebody who watches.
    watched: u32,
    /// Whether the host at a parent gets a copy.
    host: u32,
    /// 0.
    reserved: u32,
}

/// Sends a copy to every other port of the network. Not by redirect_peer, which would mark the copies as addressed to
/// their receivers.
#[inline(never)]
pub fn flood(context: &TcContext, decision: &Decision, bytes: u64) -> i32 {
    let Some(port) = PORTS.get(decision.ingress.0) else {
        return TC_ACT_SHOT;
    };
    let Some(network) = NETWORKS.get(port.network.0) else {
        return TC_ACT_SHOT;
    };
    let frame = TcFrame::of_tc(context);
    let flooded = Flooded::new(decision, &frame, port);
    // The walk is gone through once, not once for each kind of frame.
    let flooded = Flooded {
        action: frame.forget(flooded.action),
        length: frame.forget(flooded.length),
        cut_up: frame.forget(flooded.cut_up),
        tag: frame.forget(flooded.tag),
        all: frame.forget(flooded.all.into()) as u16,
        group: Address::of_words(flooded.group.words().map(|word| frame.forget(word))),
        ..flooded
    };
    let mut walk = Walk {
        flooded,
        skb: context.skb.skb,
        bytes,
        next: network.first,
        tag: u32::from(tag::KEEP),
        left: u32::from(tag::KEEP),
        watched: frame.forget(u32::from(watch::is_on_for_leaving())),
        host: port.flags & Port::HOST_ACCESS,
        reserved: 0,
    };
    copy_to_all(&mut walk);
    // What came from the wire and is for nobody that we know may be for somebody on the host: its own stack, if it is a
    // broadcast, or a macvlan of the kernel's on the same interface.
    let rest =
        if matches!(port.kind(), Some(PortKind::Uplink | PortKind::Parent)) { TC_ACT_UNSPEC } else { TC_ACT_SHOT };
    if walk.left != u32::from(tag::KEEP) {
        // Others get it with its tag changed, the same for all of them.
        let (came_with, changed_to) = (walk.flooded.tag, tags::changed(walk.flooded.tag, walk.left, walk.flooded.vlan));
        if tags::set(context, came_with, changed_to) {
            walk.next = network.first;
            walk.tag = walk.left;
            copy_to_all(&mut walk);
            if rest == TC_ACT_UNSPEC {
                tags::set(context, changed_to, came_with);
            }
        }
    }
    rest
}

#[inline(always)]
fn copy_to_all(walk: &mut Walk) {
    // SAFETY: the callback has the signature that bpf_loop asks for, and `walk` outlives the call.
    unsafe {
        bpf_loop(MAX_PORTS, copy_to_next as *mut c_void, (&raw mut *walk).cast(), 0);
    }
}

/// One step of the walk; 1 ends it.
unsafe extern "C" fn copy_to_next(_index: u64, walk: *mut Walk) -> u64 {
    // SAFETY: bpf_loop hands us the pointer that `copy_to_all` gave it.
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
                counted(number, |counters| counters.tx_failed += 1);
            }
        }
        Copied::Tag(change) if u32::from(change) != walk.tag => {
            walk.left = TcFrame::of_skb(walk.skb).forget(u32::from(change));
        }
        Copied::Tag(_) => {
            let flags = if matches!(port.kind(), Some(PortKind::Host)) { u64::from(BPF_F_INGRESS) } else { 0 };
            if walk.watched != 0 {
                watch::leaving(walk.skb, number, walk.flooded.network, walk.flooded.ingress);
            }
            if matches!(port.kind(), Some(PortKind::Parent)) && walk.host != 0 {
                mark_from_child(walk.skb, true);
                // SAFETY: the skb is the context of the program that runs this loop.
                let heard = unsafe { bpf_clone_redirect(walk.skb, port.egress_ifindex, u64::from(BPF_F_INGRESS)) };
                if heard != 0 {
                    counted(number, |counters| counters.tx_failed += 1);
                }
                mark_from_child(walk.skb, false);
            }
            let tunneled = matches!(port.kind(), Some(PortKind::Tunnel));
            if tunneled && !tunnel::send_to(walk.skb, number, walk.flooded.network) {
                tunnel::unmark(walk.skb);
                counted(number, |counters| counters.tx_failed += 1);
                return 0;
            }
            // SAFETY: the skb is the context of the program that runs this loop.
            let sent = unsafe { bpf_clone_redirect(walk.skb, port.egress_ifindex, flags) };
            if tunneled {
                tunnel::unmark(walk.skb);
            }
            if sent == 0 {
                count_out(number, walk.bytes);
            } else {
                counted(number, |counters| counters.tx_failed += 1);
            }
        }
    }
    0
}
