//! The eBPF programs of vswitch. Each reads its context, asks the core, and has the decision carried out.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![expect(internal_features, reason = "the atomic addition of the BPF target has no other name")]
#![expect(missing_docs, reason = "the attribute macros make functions of the same name, without the comments")]

mod act;
mod answer;
mod flood;
mod frame;
mod learn;
mod maps;
mod tables;
mod tags;
mod trace;
mod tunnel;
mod underlay;
mod watch;
mod wireguard;

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action};
use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use vswitch_common::carrier::Carrier;
use vswitch_common::forward::{forward_early, half};
use vswitch_common::packet::Packet as _;
use vswitch_common::tables::{MARK_FROM_CHILD, PortKind, PortNumber, Tables as _, tick};
use vswitch_common::verdict::{Decision, action};

use crate::frame::{TcFrame, XdpFrame};
use crate::tables::KernelTables;

/// What a container sends, at the host side of its veth.
#[classifier]
pub fn from_container(context: TcContext) -> i32 {
    switch(&context, TC_ACT_SHOT, Carrier::GuardedGroupFromContainer, half::unicast_from_container)
}

/// What the host sends into a network, at the switch's side of the veth whose other side is `vsw-NETWORK`.
#[classifier]
pub fn from_host(context: TcContext) -> i32 {
    switch(&context, TC_ACT_SHOT, Carrier::GroupFromHost, half::unicast_from_host)
}

/// What arrives on a physical interface, behind GRO. A device that is no port is the host's own and left alone.
#[classifier]
pub fn from_uplink(context: TcContext) -> i32 {
    switch(&context, TC_ACT_UNSPEC, Carrier::GroupFromUplink, half::unicast_from_uplink)
}

/// What a child sends: an endpoint of a macvlan or ipvlan network, at the host side of its veth.
#[classifier]
pub fn from_child(context: TcContext) -> i32 {
    switch(&context, TC_ACT_SHOT, Carrier::GuardedGroupFromChild, half::unicast_from_child)
}

/// What arrives on a parent, behind GRO. What a child has sent to the host passes, with the mark taken off.
#[classifier]
pub fn from_parent(context: TcContext) -> i32 {
    // SAFETY: the context's skb pointer is valid as long as the program runs.
    let mark = unsafe { &mut (*context.skb.skb).mark };
    if *mark & MARK_FROM_CHILD != 0 {
        *mark &= !MARK_FROM_CHILD;
        return TC_ACT_UNSPEC;
    }
    switch(&context, TC_ACT_UNSPEC, Carrier::GroupFromParent, half::unicast_from_parent)
}

/// What leaves by a parent, where children and the host may reach each other. What children sent goes on its way.
#[classifier]
pub fn to_parent(context: TcContext) -> i32 {
    // SAFETY: the context's skb pointer is valid as long as the program runs.
    let from = unsafe { (*context.skb.skb).ingress_ifindex };
    if from != 0 && from != ifindex(&context) && KernelTables.port_of_device(from) != PortNumber::NONE {
        return TC_ACT_UNSPEC;
    }
    if from == 0 {
        return carry_out(&context, TC_ACT_UNSPEC, Carrier::Carry, half::to_parent);
    }
    carry_out(&context, TC_ACT_UNSPEC, Carrier::Carry, half::through_parent)
}

/// What comes out of the tunnel, at its device.
#[classifier]
pub fn from_tunnel(context: TcContext) -> i32 {
    switch(&context, TC_ACT_SHOT, Carrier::GroupFromTunnel, half::unicast_from_tunnel)
}

/// What arrives on a device that leads to peers: it stays the host's own but for what is a tunnel's.
#[classifier]
pub fn from_underlay(context: TcContext) -> i32 {
    underlay::take(&context)
}

/// What comes out of WireGuard, at its device.
#[classifier]
pub fn from_wireguard(context: TcContext) -> i32 {
    wireguard::take_in(&context)
}

/// What is to go into WireGuard.
#[classifier]
pub fn to_wireguard(context: TcContext) -> i32 {
    wireguard::let_out(&context)
}

/// What arrives behind the receiver, where TCP of tunnels has been gathered.
#[classifier]
pub fn from_receiver(context: TcContext) -> i32 {
    underlay::gathered(&context)
}

/// The other half of `from_tunnel`.
#[classifier]
pub fn group_from_tunnel(context: TcContext) -> i32 {
    carry_out(&context, TC_ACT_SHOT, Carrier::Carry, half::group_from_tunnel)
}

/// The guards of what children send to groups.
#[classifier]
pub fn guarded_group_from_child(context: TcContext) -> i32 {
    carry_out(&context, TC_ACT_SHOT, Carrier::GroupFromChild, half::guarded_group_from_child)
}

/// What comes behind them.
#[classifier]
pub fn group_from_child(context: TcContext) -> i32 {
    carry_out(&context, TC_ACT_SHOT, Carrier::Carry, half::group_from_child)
}

/// The other half of `from_parent`.
#[classifier]
pub fn group_from_parent(context: TcContext) -> i32 {
    carry_out(&context, TC_ACT_UNSPEC, Carrier::Carry, half::group_from_parent)
}

/// What arrives on a parent, before the kernel makes a packet of it.
#[xdp]
pub fn from_parent_xdp(context: XdpContext) -> u32 {
    switch_early(&context, PortKind::Parent)
}

/// The other half of `from_container`: broadcast and multicast. These are called by the programs' tails. Here are the
/// guards alone.
#[classifier]
pub fn guarded_group_from_container(context: TcContext) -> i32 {
    carry_out(&context, TC_ACT_SHOT, Carrier::GroupFromContainer, half::guarded_group_from_container)
}

/// What comes behind the guards.
#[classifier]
pub fn group_from_container(context: TcContext) -> i32 {
    carry_out(&context, TC_ACT_SHOT, Carrier::Carry, half::group_from_container)
}

/// The other half of `from_host`.
#[classifier]
pub fn group_from_host(context: TcContext) -> i32 {
    carry_out(&context, TC_ACT_SHOT, Carrier::Carry, half::group_from_host)
}

/// The other half of `from_uplink`.
#[classifier]
pub fn group_from_uplink(context: TcContext) -> i32 {
    carry_out(&context, TC_ACT_UNSPEC, Carrier::Carry, half::group_from_uplink)
}

/// Floods and answers of all of them.
#[classifier]
pub fn carry(context: TcContext) -> i32 {
    act::carry(&context)
}

/// What arrives on a physical interface, before the kernel makes a packet of it.
#[xdp]
pub fn from_uplink_xdp(context: XdpContext) -> u32 {
    switch_early(&context, PortKind::Uplink)
}

/// What a container sends, where `--datapath xdp` asked for it.
#[xdp]
pub fn from_container_xdp(context: XdpContext) -> u32 {
    switch_early(&context, PortKind::Container)
}

/// The FDB's clock.
#[inline(always)]
pub(crate) fn now() -> u32 {
    // SAFETY: a helper without arguments.
    tick(unsafe { bpf_ktime_get_coarse_ns() })
}

/// Switches a packet; `unknown` is what becomes of one whose device is no port (yet, or no more). Broadcast and multicast
/// are left to `group`, a program of their own: one for both is more than the verifiers of older kernels walk through,
/// and slower for all.
#[inline(always)]
fn switch(
    context: &TcContext,
    unknown: i32,
    group: Carrier,
    forward: impl Fn(u32, &TcFrame, &KernelTables, u32) -> Decision,
) -> i32 {
    if TcFrame::of_tc(context).read(0).is_some_and(|[first, _]| first & 1 != 0) {
        act::leave_to(context, group);
        return unknown;
    }
    carry_out(context, unknown, Carrier::Carry, forward)
}

/// Decides about a packet and has it done; `rest` decides about what this program leaves.
#[inline(always)]
fn carry_out(
    context: &TcContext,
    unknown: i32,
    rest: Carrier,
    forward: impl Fn(u32, &TcFrame, &KernelTables, u32) -> Decision,
) -> i32 {
    let now = now();
    let frame = TcFrame::of_tc(context);
    let decision = forward(ifindex(context), &frame, &KernelTables, now);
    if decision.action == action::LEAVE {
        act::leave_to(context, rest);
        return unknown;
    }
    if trace::requested() {
        return trace::record(decision, now) as i32;
    }
    if unknown == TC_ACT_UNSPEC && decision.ingress.0 == 0 {
        return unknown;
    }
    act::tc(context, &decision, now)
}

/// The device that a packet is on.
#[inline(always)]
fn ifindex(context: &TcContext) -> u32 {
    // SAFETY: the context's skb pointer is valid as long as the program runs.
    unsafe { (*context.skb.skb).ifindex }
}

#[inline(always)]
fn switch_early(context: &XdpContext, kind: PortKind) -> u32 {
    let now = now();
    let ifindex = context.ingress_ifindex() as u32;
    let decision = forward_early(ifindex, kind, &XdpFrame::of_xdp(context), &KernelTables, now);
    if trace::requested() {
        return trace::record(decision, now);
    }
    if decision.action == action::LEAVE {
        return xdp_action::XDP_PASS;
    }
    act::xdp(context, &decision, now)
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: the core has no panicking path left after optimisation; the verifier refuses the program if it has.
    unsafe { core::hint::unreachable_unchecked() }
}

/// The kernel only gives GPL-compatible programs the helpers for tracing and time.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
