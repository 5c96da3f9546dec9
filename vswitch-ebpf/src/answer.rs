//! Answers: an ARP request or neighbor solicitation is made into its reply.

use aya_ebpf::bindings::BPF_F_RECOMPUTE_CSUM;
use aya_ebpf::helpers::generated::{bpf_skb_change_tail, bpf_skb_store_bytes};
use aya_ebpf::programs::TcContext;
use vswitch_common::Mac;
use vswitch_common::packet::address::Address;
use vswitch_common::packet::arp::Arp;
use vswitch_common::packet::neighbor::{ANSWER, Solicitation};
use vswitch_common::packet::{Ethernet, Packet as _};
use vswitch_common::tables::{FdbKey, NeighborKey, PortKind};
use vswitch_common::verdict::{Decision, action};

use crate::frame::TcFrame;
use crate::maps::{NEIGHBORS, PORTS};

/// Makes a request into its reply. Returns false if the packet is no such request, the station is
/// gone, or the kernel has no memory.
#[inline(always)]
pub fn reply(context: &TcContext, decision: &Decision) -> bool {
    let owner = owner(context, decision);
    owner != 0 && write(context, decision, owner)
}

/// Set in the result of [`owner`] if the station is the host, which is a router.
const ROUTER: u64 = 1 << 48;

/// Returns the MAC address of the station with the requested IP address as a number, with
/// [`ROUTER`]; 0 if the station is gone. Not inlined, so that it has a stack of its own.
#[inline(never)]
fn owner(context: &TcContext, decision: &Decision) -> u64 {
    let Some(port) = PORTS.get(decision.to.port.0) else { return 0 };
    if port.kind != PortKind::Tunnel as u8 {
        return number(port.mac) | if port.kind == PortKind::Host as u8 { ROUTER } else { 0 };
    }
    // A tunnel has many stations, so the address is looked up.
    let frame = TcFrame::of_tc(context);
    let Ok(ethernet) = Ethernet::parse(&frame) else { return 0 };
    let address = if decision.action == action::ANSWER_ARP {
        let Ok(arp) = Arp::parse(&frame, ethernet.payload) else { return 0 };
        Address::mapped(arp.target.octets())
    } else {
        let Some(solicitation) = Solicitation::read(&frame, ethernet.payload) else { return 0 };
        solicitation.target
    };
    let FdbKey { network, vlan, .. } = decision.station;
    // SAFETY: if the entry is rewritten meanwhile, the answer has the address of a moment before or
    // after.
    match unsafe { NEIGHBORS.get(NeighborKey { address, network, vlan, reserved: 0 }) } {
        Some(neighbor) => number(neighbor.mac),
        None => 0,
    }
}

#[inline(always)]
const fn number(mac: Mac) -> u64 {
    let [a, b, c, d, e, f] = mac.0;
    u64::from_be_bytes([0, 0, a, b, c, d, e, f])
}

/// Writes the reply. Not inlined for the same reason.
#[inline(never)]
fn write(context: &TcContext, decision: &Decision, owner: u64) -> bool {
    let [_, _, a, b, c, d, e, f] = owner.to_be_bytes();
    make(context, &TcFrame::of_tc(context), decision, Mac([a, b, c, d, e, f]), owner & ROUTER != 0).is_some()
}

#[inline(always)]
fn make(context: &TcContext, frame: &TcFrame, decision: &Decision, mac: Mac, is_router: bool) -> Option<()> {
    let ethernet = Ethernet::parse(frame).ok()?;
    let payload = ethernet.payload;
    if decision.action == action::ANSWER_ARP {
        let reply = Arp::parse(frame, payload).ok()?.reply(mac);
        store(context, payload, &reply)?;
        return address(context, ethernet.source, mac);
    }
    let solicitation = Solicitation::read(frame, payload)?;
    let advertisement = solicitation.advertisement(mac, is_router);
    let asks = !solicitation.source.is_unspecified6();
    let to = if asks { ethernet.source } else { Mac([0x33, 0x33, 0, 0, 0, 1]) };
    let length = payload + ANSWER;
    if frame.length() != length {
        // SAFETY: the context is valid as long as the program runs.
        let changed = unsafe { bpf_skb_change_tail(context.skb.skb, length as u32, 0) };
        if changed != 0 {
            return None;
        }
    }
    store(context, payload, &advertisement)?;
    address(context, to, mac)
}

/// Writes the addresses into the Ethernet header.
#[inline(always)]
fn address(context: &TcContext, to: Mac, from: Mac) -> Option<()> {
    let ([a0, a1, a2, a3, a4, a5], [b0, b1, b2, b3, b4, b5]) = (to.0, from.0);
    store(context, 0, &[a0, a1, a2, a3, a4, a5, b0, b1, b2, b3, b4, b5])
}

#[inline(always)]
fn store<const N: usize>(context: &TcContext, offset: usize, bytes: &[u8; N]) -> Option<()> {
    let flags = u64::from(BPF_F_RECOMPUTE_CSUM);
    // SAFETY: `bytes` has N bytes, and the context is valid as long as the program runs.
    let stored = unsafe { bpf_skb_store_bytes(context.skb.skb, offset as u32, bytes.as_ptr().cast(), N as u32, flags) };
    (stored == 0).then_some(())
}
