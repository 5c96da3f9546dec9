//! The eBPF programs of vswitch. Each program reads its context, asks the core for a decision, and
//! carries it out.
//!
//! A module depends on modules of the rows above it alone:
//!
//! | modules | what they do |
//! | --- | --- |
//! | `maps` | declare the maps |
//! | `clock`, `count`, `marks`, `recording`, `rings`, `tables`, `tags` | wrap helpers and maps |
//! | `tunnel_key` | reads and writes the tunnel metadata of a packet |
//! | `frame` | reads packet memory as the core's `Packet` |
//! | `learn`, `answer`, `wrap`, `copies` | carry out one part of a decision each |
//! | `act` | carries out a decision |
//! | `bind` | decides about bind(2) of processes of the host |
//! | `unwrap`, `wireguard_device` | the programs of the underlay and of the WireGuard device |
//! | `main` | the programs |
//!
//! The names of programs and maps never change: pins and takeovers rely on them.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(internal_features, reason = "the atomic addition of the BPF target has no other name")]
#![expect(missing_docs, reason = "the attribute macros make functions of the same name, without the comments")]

mod act;
mod answer;
mod bind;
mod clock;
mod copies;
mod count;
mod frame;
mod learn;
mod maps;
mod marks;
mod recording;
mod rings;
mod tables;
mod tags;
mod tunnel_key;
mod unwrap;
mod wireguard_device;
mod wrap;

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, xdp_action};
use aya_ebpf::macros::{cgroup_sock_addr, classifier, xdp};
use aya_ebpf::programs::{SockAddrContext, TcContext, XdpContext};
use vswitch_common::forward::{forward_xdp, part};
use vswitch_common::packet::Packet as _;
use vswitch_common::tables::{MARK_FROM_CHILD, PortKind, PortNumber, Tables as _};
use vswitch_common::tail_call::TailCall;
use vswitch_common::verdict::{Decision, action};

use crate::clock::now;
use crate::frame::{TcFrame, XdpFrame};
use crate::tables::KernelTables;

/// Frames from a container, at the host side of its veth.
#[classifier]
pub fn from_container(context: TcContext) -> i32 {
    switch(&context, TC_ACT_SHOT, TailCall::GuardedGroupFromContainer, part::unicast_from_container)
}

/// Frames from the host into a network, at the switch's side of the veth whose other side is
/// `vsw-NETWORK`.
#[classifier]
pub fn from_host(context: TcContext) -> i32 {
    switch(&context, TC_ACT_SHOT, TailCall::GroupFromHost, part::unicast_from_host)
}

/// Frames that arrive on a physical interface, after GRO. A device that is no port is the host's
/// own and left alone.
#[classifier]
pub fn from_uplink(context: TcContext) -> i32 {
    switch(&context, TC_ACT_UNSPEC, TailCall::GroupFromUplink, part::unicast_from_uplink)
}

/// Frames from a child, at the host side of its veth.
#[classifier]
pub fn from_child(context: TcContext) -> i32 {
    switch(&context, TC_ACT_SHOT, TailCall::GuardedGroupFromChild, part::unicast_from_child)
}

/// Frames that arrive on a parent, after GRO. A frame that a child sends to the host passes, with
/// its mark cleared.
#[classifier]
pub fn from_parent(context: TcContext) -> i32 {
    // SAFETY: the context's skb pointer is valid as long as the program runs.
    let mark = unsafe { &mut (*context.skb.skb).mark };
    if *mark & MARK_FROM_CHILD != 0 {
        *mark &= !MARK_FROM_CHILD;
        return TC_ACT_UNSPEC;
    }
    switch(&context, TC_ACT_UNSPEC, TailCall::GroupFromParent, part::unicast_from_parent)
}

/// Frames that leave by a parent, where children and the host may reach each other. Frames of
/// children go out unchanged.
#[classifier]
pub fn to_parent(context: TcContext) -> i32 {
    // SAFETY: the context's skb pointer is valid as long as the program runs.
    let from = unsafe { (*context.skb.skb).ingress_ifindex };
    if from != 0 && from != ifindex(&context) && KernelTables.port_of_device(from) != PortNumber::NONE {
        return TC_ACT_UNSPEC;
    }
    if from == 0 {
        return decide(&context, TC_ACT_UNSPEC, TailCall::Carry, part::to_parent);
    }
    decide(&context, TC_ACT_UNSPEC, TailCall::Carry, part::through_parent)
}

/// Frames out of tunnels, at the tunnels' device.
#[classifier]
pub fn from_tunnel(context: TcContext) -> i32 {
    switch(&context, TC_ACT_SHOT, TailCall::GroupFromTunnel, part::unicast_from_tunnel)
}

/// Packets that arrive on a device that leads to peers. Packets that are no tunnel's pass to the
/// host's stack.
#[classifier]
pub fn from_underlay(context: TcContext) -> i32 {
    unwrap::underlay(&context)
}

/// Packets out of WireGuard, at its device.
#[classifier]
pub fn from_wireguard(context: TcContext) -> i32 {
    wireguard_device::ingress(&context)
}

/// Packets into WireGuard.
#[classifier]
pub fn to_wireguard(context: TcContext) -> i32 {
    wireguard_device::egress(&context)
}

/// Packets behind the receiver, where GRO has merged TCP of tunnels.
#[classifier]
pub fn from_receiver(context: TcContext) -> i32 {
    unwrap::receiver(&context)
}

/// Frames on a parent, before the kernel makes packets of them.
#[xdp]
pub fn from_parent_xdp(context: XdpContext) -> u32 {
    switch_xdp(&context, PortKind::Parent)
}

/// Frames on a physical interface, before the kernel makes packets of them.
#[xdp]
pub fn from_uplink_xdp(context: XdpContext) -> u32 {
    switch_xdp(&context, PortKind::Uplink)
}

/// Frames from a container, with `--datapath xdp`.
#[xdp]
pub fn from_container_xdp(context: XdpContext) -> u32 {
    switch_xdp(&context, PortKind::Container)
}

/// bind(2) of IPv4 sockets.
#[cgroup_sock_addr(bind4)]
pub fn hold_ipv4(context: SockAddrContext) -> i32 {
    bind::ipv4(&context)
}

/// bind(2) of IPv6 sockets.
#[cgroup_sock_addr(bind6)]
pub fn hold_ipv6(context: SockAddrContext) -> i32 {
    bind::ipv6(&context)
}

/// Broadcast and multicast from a container: the guards. This program and those below are run by
/// tail calls.
#[classifier]
pub fn guarded_group_from_container(context: TcContext) -> i32 {
    decide(&context, TC_ACT_SHOT, TailCall::GroupFromContainer, part::guarded_group_from_container)
}

/// Broadcast and multicast from a container that have passed the guards.
#[classifier]
pub fn group_from_container(context: TcContext) -> i32 {
    decide(&context, TC_ACT_SHOT, TailCall::Carry, part::group_from_container)
}

/// Broadcast and multicast from the host.
#[classifier]
pub fn group_from_host(context: TcContext) -> i32 {
    decide(&context, TC_ACT_SHOT, TailCall::Carry, part::group_from_host)
}

/// Broadcast and multicast from an uplink.
#[classifier]
pub fn group_from_uplink(context: TcContext) -> i32 {
    decide(&context, TC_ACT_UNSPEC, TailCall::Carry, part::group_from_uplink)
}

/// Broadcast and multicast from a child: the guards.
#[classifier]
pub fn guarded_group_from_child(context: TcContext) -> i32 {
    decide(&context, TC_ACT_SHOT, TailCall::GroupFromChild, part::guarded_group_from_child)
}

/// Broadcast and multicast from a child that have passed the guards.
#[classifier]
pub fn group_from_child(context: TcContext) -> i32 {
    decide(&context, TC_ACT_SHOT, TailCall::Carry, part::group_from_child)
}

/// Broadcast and multicast from a parent.
#[classifier]
pub fn group_from_parent(context: TcContext) -> i32 {
    decide(&context, TC_ACT_UNSPEC, TailCall::Carry, part::group_from_parent)
}

/// Broadcast and multicast from a tunnel.
#[classifier]
pub fn group_from_tunnel(context: TcContext) -> i32 {
    decide(&context, TC_ACT_SHOT, TailCall::Carry, part::group_from_tunnel)
}

/// Floods, answers and rare changes of tags, for all other programs.
#[classifier]
pub fn carry(context: TcContext) -> i32 {
    act::handed_over(&context)
}

/// Switches a packet. Broadcast and multicast go to the program `group`: one program for both is
/// more than the verifiers of older kernels walk through, and slower for every frame. `unknown` is
/// the return value for a packet whose device is no port.
#[inline(always)]
fn switch(
    context: &TcContext,
    unknown: i32,
    group: TailCall,
    forward: impl Fn(u32, &TcFrame, &KernelTables, u32) -> Decision,
) -> i32 {
    if TcFrame::of_tc(context).read(0).is_some_and(|[first, _]| first & 1 != 0) {
        act::run(context, group);
        return unknown;
    }
    decide(context, unknown, TailCall::Carry, forward)
}

/// Decides about a packet and carries the decision out. A packet that this program defers goes to
/// the program `rest`.
#[inline(always)]
fn decide(
    context: &TcContext,
    unknown: i32,
    rest: TailCall,
    forward: impl Fn(u32, &TcFrame, &KernelTables, u32) -> Decision,
) -> i32 {
    let now = now();
    let frame = TcFrame::of_tc(context);
    let decision = forward(ifindex(context), &frame, &KernelTables, now);
    if decision.action == action::DEFER {
        act::run(context, rest);
        return unknown;
    }
    if recording::requested() {
        return recording::record(decision, now) as i32;
    }
    if unknown == TC_ACT_UNSPEC && decision.ingress.0 == 0 {
        return unknown;
    }
    act::tc(context, &decision, now)
}

/// Returns the ifindex of the device that a packet is on.
#[inline(always)]
fn ifindex(context: &TcContext) -> u32 {
    // SAFETY: the context's skb pointer is valid as long as the program runs.
    unsafe { (*context.skb.skb).ifindex }
}

#[inline(always)]
fn switch_xdp(context: &XdpContext, kind: PortKind) -> u32 {
    let now = now();
    let ifindex = context.ingress_ifindex() as u32;
    let decision = forward_xdp(ifindex, kind, &XdpFrame::of_xdp(context), &KernelTables, now);
    if recording::requested() {
        return recording::record(decision, now);
    }
    if decision.action == action::DEFER {
        return xdp_action::XDP_PASS;
    }
    act::xdp(context, &decision, now)
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: the optimised programs have no panicking path; the verifier refuses a program that
    // has one.
    unsafe { core::hint::unreachable_unchecked() }
}

/// The kernel provides the helpers for tracing and time only to GPL-compatible programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
