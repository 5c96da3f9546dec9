//! Answers: a request is made into its reply and goes back where it came from.

use aya_ebpf::bindings::BPF_F_RECOMPUTE_CSUM;
use aya_ebpf::helpers::generated::{bpf_skb_change_tail, bpf_skb_store_bytes};
use aya_ebpf::programs::TcContext;
use vswitch_common::Mac;
use vswitch_common::packet::address::Address;
use vswitch_common::packet::arp::Arp;
use vswitch_common::packet::neighbor::{ANSWER, Solicitation};
use vswitch_common::packet::{Ethernet, Packet as _};
use vswitch_common::tables::{FdbKey, NeighborKey, Port, PortKind};
use vswitch_common::verdict::{Decision, action};

use crate::frame::TcFrame;
use crate::maps::{NEIGHBORS, PORTS};

/// Makes a request into the reply that was decided. False if it is not what the decision took it for, or the kernel
/// has no memory. A function of its own, with a stack of its own.
#[inline(never)]
pub fn reply(context: &TcContext, decision: &Decision) -> bool {
    make(context, &TcFrame::of_tc(context), decision).is_some()
}

#[inline(always)]
fn make(context: &TcContext, frame: &TcFrame, decision: &Decision) -> Option<()> {
    let owner = PORTS.get(decision.to.port.0)?;
    let is_host = owner.kind == PortKind::Host as u8;
    let ethernet = Ethernet::parse(frame).ok()?;
    let payload = ethernet.payload;
    if decision.action == action::ANSWER_ARP {
        let arp = Arp::parse(frame, payload).ok()?;
        let mac = mac(owner, Address::mapped(arp.target.octets()), decision)?;
        store(context, payload, &arp.reply(mac))?;
        return address(context, ethernet.source, mac);
    }
    let solicitation = Solicitation::read(frame, payload)?;
    let mac = mac(owner, solicitation.target, decision)?;
    let advertisement = solicitation.advertisement(mac, is_host);
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

/// The MAC address of whoever has an IP address: the station of its port, or one of many behind a tunnel.
#[inline(always)]
fn mac(owner: &Port, address: Address, decision: &Decision) -> Option<Mac> {
    if owner.kind != PortKind::Tunnel as u8 {
        return Some(owner.mac);
    }
    let FdbKey { network, vlan, .. } = decision.station;
    // SAFETY: at worst it is rewritten meanwhile, and the answer is one that was right a moment ago, or will be.
    unsafe { NEIGHBORS.get(NeighborKey { address, network, vlan, reserved: 0 }) }.map(|neighbor| neighbor.mac)
}

/// Writes the addresses of the Ethernet header.
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
