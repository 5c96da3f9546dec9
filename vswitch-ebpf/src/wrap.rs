//! Sends packets into tunnels: wrapped here and sent directly to the peer, or by the tunnel's
//! device.

use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC;
use aya_ebpf::bindings::{
    __sk_buff, BPF_ADJ_ROOM_ENCAP_L2_SHIFT, BPF_F_ADJ_ROOM_ENCAP_L2_ETH, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4,
    BPF_F_ADJ_ROOM_ENCAP_L4_UDP, BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_RECOMPUTE_CSUM, TC_ACT_SHOT,
};
use aya_ebpf::helpers::generated::{
    bpf_get_hash_recalc, bpf_get_prandom_u32, bpf_redirect, bpf_redirect_neigh, bpf_skb_adjust_room,
    bpf_skb_store_bytes,
};
use vswitch_common::packet::ethernet::HEADER;
use vswitch_common::packet::vxlan::{Headers, Outer, ROOM};
use vswitch_common::packet::{Packet as _, ethertype, ipv4, ipv6, protocol};
use vswitch_common::tables::{NetworkNumber, PortNumber};

use crate::frame::TcFrame;
use crate::maps::{NETWORKS, PORTS, WAYS};
use crate::tunnel_key;

/// Returned by [`direct`] if it has not changed the packet.
pub const NOT_DIRECT: u64 = 0;

/// Wraps a packet and sends it directly to the peer of a port, as a frame of a network. Takes IPv4
/// and IPv6 packets that fit, which is the same for all packets of a flow. Returns the program's
/// return value, or [`NOT_DIRECT`]. Not inlined, like [`by_device`], so that it has a stack of its
/// own.
#[inline(never)]
pub fn direct(skb: *mut __sk_buff, port: u32, network: u32) -> u64 {
    // All 64 bits of the result are set (see `vswitch_common::verifier`).
    wrap(skb, port, network).map_or(NOT_DIRECT, |sent| sent as u64)
}

/// Sends a packet to the peer of a port by the tunnel's device, as a frame of a network. Returns
/// the program's return value.
#[inline(never)]
pub fn by_device(skb: *mut __sk_buff, port: u32, network: u32, device: u32) -> u64 {
    if !tunnel_key::write(skb, PortNumber(port), NetworkNumber(network)) {
        return TC_ACT_SHOT as u64;
    }
    // SAFETY: a helper without pointers.
    unsafe { bpf_redirect(device, 0) as u64 }
}

/// The inner packet is in Ethernet in UDP in IPv4 then. The size of its segments does not change.
const ENCAPSULATION: u64 = (BPF_F_ADJ_ROOM_FIXED_GSO
    | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4
    | BPF_F_ADJ_ROOM_ENCAP_L4_UDP
    | BPF_F_ADJ_ROOM_ENCAP_L2_ETH) as u64
    | (HEADER as u64) << BPF_ADJ_ROOM_ENCAP_L2_SHIFT;

/// Bytes of the longest inner frame: the length field of the outer IP header has 16 bits.
const MAX_INNER: u32 = 65535 - ROOM as u32;

#[inline(always)]
fn wrap(skb: *mut __sk_buff, port: u32, network: u32) -> Option<i32> {
    let route = WAYS.get(port).filter(|route| route.ifindex != 0)?;
    let (port, network) = (PORTS.get(port)?, NETWORKS.get(network)?);
    // SAFETY: the skb is the context of the program that runs.
    let (length, segment, kind, tagged) =
        unsafe { ((*skb).len, (*skb).gso_size, (*skb).protocol, (*skb).vlan_present) };
    let is_ipv6 = kind == u32::from(ethertype::IPV6.to_be());
    if !is_ipv6 && kind != u32::from(ethertype::IPV4.to_be()) || tagged != 0 || length > MAX_INNER {
        return None;
    }
    let frame = TcFrame::of_skb(skb);
    let ethernet = frame.read::<HEADER>(0)?;
    let [first, second] = frame.read(HEADER)?;
    // The traffic class of IPv6 is behind the version (RFC 8200, 3).
    let service = if is_ipv6 { first << 4 | second >> 4 } else { second };
    if longest_packet(&frame, length, segment, is_ipv6)? > u32::from(route.mtu) {
        return None;
    }
    let [.., remote] = port.peer().words();
    // SAFETY: the skb is the context of the program that runs; the other helper has no arguments.
    let (hash, id) = unsafe { (bpf_get_hash_recalc(skb), bpf_get_prandom_u32() as u16) };
    let (source, port) = (route.source, route.port);
    let outer = Outer { source, remote, port, vni: network.vni, hash, id, service, length: length as u16 };
    let headers = outer.headers();
    let ifindex = route.ifindex;
    // SAFETY: the skb is the context of the program that runs, and the bytes are as many as given.
    unsafe {
        if bpf_skb_adjust_room(skb, ROOM as i32, BPF_ADJ_ROOM_MAC, ENCAPSULATION) != 0 {
            return None;
        }
        let (inner, flags) = (size_of::<Headers>() as u32, u64::from(BPF_F_RECOMPUTE_CSUM));
        if bpf_skb_store_bytes(skb, HEADER as u32, (&raw const headers).cast(), inner, flags) != 0
            || bpf_skb_store_bytes(skb, HEADER as u32 + inner, ethernet.as_ptr().cast(), HEADER as u32, flags) != 0
        {
            return Some(TC_ACT_SHOT);
        }
        Some(bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) as i32)
    }
}

/// Returns the bytes of the longest IP packet that a frame becomes, whole or in segments. `None` for
/// a GSO packet that is not TCP behind an IP header without options or extension headers.
#[inline(always)]
fn longest_packet(frame: &TcFrame, length: u32, segment: u32, is_ipv6: bool) -> Option<u32> {
    if segment == 0 {
        return Some(length - HEADER as u32);
    }
    let (carries, header) = if is_ipv6 {
        let [next] = frame.read(HEADER + 6)?;
        (next, ipv6::HEADER)
    } else {
        let [first] = frame.read(HEADER)?;
        if first != 0x45 {
            return None;
        }
        let [carries] = frame.read(HEADER + 9)?;
        (carries, ipv4::HEADER)
    };
    if carries != protocol::TCP {
        return None;
    }
    let [offset] = frame.read(HEADER + header + 12)?;
    Some(segment + header as u32 + u32::from(offset >> 4) * 4)
}
