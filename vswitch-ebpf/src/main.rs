//! The eBPF programs of vswitch. Each reads its context, asks the core, and has the decision carried out.
#![no_std]
#![no_main]
#![expect(missing_docs, reason = "the attribute macros make functions of the same name, without the comments")]

mod act;
mod frame;
mod maps;
mod tables;
mod trace;

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action};
use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use vswitch_common::forward::{forward_early, forward_from_host, forward_from_station};
use vswitch_common::tables::{PortKind, tick};
use vswitch_common::verdict::action;

use crate::frame::Frame;
use crate::tables::KernelTables;

/// What a container sends, at the host side of its veth.
#[classifier]
pub fn from_container(context: TcContext) -> i32 {
    switch::<false>(&context, TC_ACT_SHOT)
}

/// What the host sends into a network, at the switch's side of the veth whose other side is `vsw-NETWORK`.
#[classifier]
pub fn from_host(context: TcContext) -> i32 {
    switch::<true>(&context, TC_ACT_SHOT)
}

/// What arrives on a physical interface, behind GRO. A device that is no port is the host's own and left alone.
#[classifier]
pub fn from_uplink(context: TcContext) -> i32 {
    switch::<false>(&context, TC_ACT_UNSPEC)
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
fn now() -> u32 {
    // SAFETY: a helper without arguments.
    tick(unsafe { bpf_ktime_get_coarse_ns() })
}

/// Switches a packet; `unknown` is what becomes of one whose device is no port (yet, or no more).
#[inline(always)]
fn switch<const HOST: bool>(context: &TcContext, unknown: i32) -> i32 {
    let now = now();
    // SAFETY: the context's skb pointer is valid as long as the program runs.
    let ifindex = unsafe { (*context.skb.skb).ifindex };
    let frame = Frame::of_tc(context);
    let decision = if HOST {
        forward_from_host(ifindex, &frame, &KernelTables, now)
    } else {
        forward_from_station(ifindex, &frame, &KernelTables, now)
    };
    if trace::requested() {
        return trace::record(decision, now) as i32;
    }
    if unknown == TC_ACT_UNSPEC && decision.ingress.0 == 0 {
        return unknown;
    }
    act::tc(context, &decision, now)
}

#[inline(always)]
fn switch_early(context: &XdpContext, kind: PortKind) -> u32 {
    let now = now();
    let ifindex = context.ingress_ifindex() as u32;
    let decision = forward_early(ifindex, kind, &Frame::of_xdp(context), &KernelTables, now);
    if trace::requested() {
        return trace::record(decision, now);
    }
    if decision.action == action::LEAVE {
        return xdp_action::XDP_PASS;
    }
    act::xdp(context, &decision, (context.data_end() - context.data()) as u64, now)
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
