//! The tunnel: what its header said about a frame, and what it is to say.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC;
use aya_ebpf::bindings::{
    __sk_buff, BPF_ADJ_ROOM_ENCAP_L2_SHIFT, BPF_F_ADJ_ROOM_ENCAP_L2_ETH, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4,
    BPF_F_ADJ_ROOM_ENCAP_L4_UDP, BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_RECOMPUTE_CSUM, BPF_F_TUNINFO_IPV6,
    BPF_F_ZERO_CSUM_TX, TC_ACT_SHOT, bpf_tunnel_key,
};
use aya_ebpf::helpers::generated::{
    bpf_get_hash_recalc, bpf_get_prandom_u32, bpf_redirect, bpf_redirect_neigh, bpf_skb_adjust_room,
    bpf_skb_get_tunnel_key, bpf_skb_set_tunnel_key, bpf_skb_store_bytes,
};
use vswitch_common::packet::address::Address;
use vswitch_common::packet::ethernet::HEADER;
use vswitch_common::packet::vxlan::{Headers, Outer, ROOM};
use vswitch_common::packet::{Packet as _, TunnelKey, ethertype, ipv4, protocol};
use vswitch_common::tables::{MARK_ENCRYPTED, NetworkNumber, PortNumber};

use crate::frame::TcFrame;
use crate::maps::{NETWORKS, PORTS, WAYS};
use crate::trace;

/// How many routers the outer packet may meet.
const TTL: u8 = 64;

/// What the tunnel said about a packet; `None` if it came out of none.
#[inline(always)]
pub fn said(skb: *const __sk_buff) -> Option<TunnelKey> {
    if trace::requested() {
        // In a traced run there is no tunnel: what it would have said is in the control block.
        // SAFETY: the skb is the context of the program that runs.
        let [vni, a, b, c, d] = unsafe { (*skb).cb };
        return Some(TunnelKey::new(Address::of_words([a, b, c, d]), vni));
    }
    let mut key = empty();
    // Of the two versions of IP the helper tells one that it is asked for.
    if get(skb, &mut key, 0) {
        // SAFETY: the kernel has written an IPv4 address, as host byte order has it.
        let remote = unsafe { key.__bindgen_anon_1.remote_ipv4 };
        return Some(TunnelKey::new(Address::mapped(remote.to_be_bytes()), key.tunnel_id));
    }
    if get(skb, &mut key, u64::from(BPF_F_TUNINFO_IPV6)) {
        // SAFETY: the kernel has written an IPv6 address, as it was on the wire.
        let remote = unsafe { key.__bindgen_anon_1.remote_ipv6 };
        return Some(TunnelKey::new(Address::of_words(remote), key.tunnel_id));
    }
    None
}

/// Sends a packet to the peer of a port, as a frame of a network, by the tunnel's device. Returns what the program is to return.
#[inline(never)]
pub fn by_device(skb: *mut __sk_buff, port: u32, network: u32, device: u32) -> u64 {
    if !send_to(skb, PortNumber(port), NetworkNumber(network)) {
        return TC_ACT_SHOT as u64;
    }
    // SAFETY: a helper without pointers.
    unsafe { bpf_redirect(device, 0) as u64 }
}

/// The inner packet stays one of IPv4, in a frame in UDP in IPv4. Its segments stay as long as they are.
const WRAPPED: u64 = (BPF_F_ADJ_ROOM_FIXED_GSO
    | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4
    | BPF_F_ADJ_ROOM_ENCAP_L4_UDP
    | BPF_F_ADJ_ROOM_ENCAP_L2_ETH) as u64
    | (HEADER as u64) << BPF_ADJ_ROOM_ENCAP_L2_SHIFT;

/// What [`straight`] returns if it has left a packet as it was.
pub const NOT_STRAIGHT: u64 = 0;

/// Wraps a packet and sends it straight to the peer: what is IPv4 and fits, as it is on all of a flow. Returns what the program is
/// to return, or [`NOT_STRAIGHT`]. By itself, as is [`by_device`], for the stack of its own.
#[inline(never)]
pub fn straight(skb: *mut __sk_buff, port: u32, network: u32) -> u64 {
    // All 64 bits of what it returns are its own: of fewer, caller and called may take the others to be different.
    wrap(skb, port, network).map_or(NOT_STRAIGHT, |sent| sent as u64)
}

#[inline(always)]
fn wrap(skb: *mut __sk_buff, port: u32, network: u32) -> Option<i32> {
    let way = WAYS.get(port).filter(|way| way.ifindex != 0)?;
    let (port, network) = (PORTS.get(port)?, NETWORKS.get(network)?);
    // SAFETY: the skb is the context of the program that runs.
    let (length, segment, kind, tagged) =
        unsafe { ((*skb).len, (*skb).gso_size, (*skb).protocol, (*skb).vlan_present) };
    if kind != u32::from(ethertype::IPV4.to_be()) || tagged != 0 || length > MOST {
        return None;
    }
    let frame = TcFrame::of_skb(skb);
    let ethernet = frame.read::<HEADER>(0)?;
    let [_, service] = frame.read(HEADER)?;
    if longest(&frame, length, segment)? > u32::from(way.mtu) {
        return None;
    }
    let [.., four] = port.ipv6.words();
    // SAFETY: the skb is the context of the program that runs; the other helper has no arguments.
    let (hash, id) = unsafe { (bpf_get_hash_recalc(skb), bpf_get_prandom_u32() as u16) };
    let outer = Outer { remote: four, vni: network.vni, hash, id, service, length: length as u16 };
    let headers = outer.headers(way);
    let ifindex = way.ifindex;
    // SAFETY: the skb is the context of the program that runs, and the bytes are as many as said.
    unsafe {
        if bpf_skb_adjust_room(skb, ROOM as i32, BPF_ADJ_ROOM_MAC, WRAPPED) != 0 {
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

/// Bytes of the longest inner frame: an outer IP packet is no longer than its length field can say.
const MOST: u32 = 65535 - ROOM as u32;

/// Bytes of the longest IP packet that leaves when this frame of IPv4 does, as it is or in segments. `None` if that is not plain.
#[inline(always)]
fn longest(frame: &TcFrame, length: u32, segment: u32) -> Option<u32> {
    if segment == 0 {
        return Some(length - HEADER as u32);
    }
    let [first] = frame.read(HEADER)?;
    let [carries] = frame.read(HEADER + 9)?;
    if first != 0x45 || carries != protocol::TCP {
        return None;
    }
    let [offset] = frame.read(HEADER + ipv4::HEADER + 12)?;
    Some(segment + ipv4::HEADER as u32 + u32::from(offset >> 4) * 4)
}

/// Says to the tunnel where a packet goes: to the peer of a port, as a frame of a network. False if it cannot.
#[inline(always)]
pub fn send_to(skb: *mut __sk_buff, port: PortNumber, network: NetworkNumber) -> bool {
    let (Some(port), Some(network)) = (PORTS.get(port.0), NETWORKS.get(network.0)) else {
        return false;
    };
    let mut key = empty();
    key.tunnel_id = network.vni;
    key.tunnel_ttl = TTL;
    let remote = port.ipv6.words();
    let flags = if port.ipv6.is_mapped() {
        let [.., four] = remote;
        key.__bindgen_anon_1.remote_ipv4 = u32::from_be(four);
        // As RFC 7348 has it (4.1), and Linux by itself.
        u64::from(BPF_F_ZERO_CSUM_TX)
    } else {
        key.__bindgen_anon_1.remote_ipv6 = remote;
        // Over IPv6 a receiver need not take a packet without (RFC 6935).
        u64::from(BPF_F_TUNINFO_IPV6)
    };
    if port.ipv6.is_inner() {
        // For the program at the device of WireGuard: the outer packet has the mark of the inner one.
        // SAFETY: the skb is the context of the program that runs.
        unsafe { (*skb).mark |= MARK_ENCRYPTED };
    }
    // SAFETY: the skb is the context of the program that runs, and the key is as long as said.
    unsafe { bpf_skb_set_tunnel_key(skb, &raw mut key, size_of::<bpf_tunnel_key>() as u32, flags) == 0 }
}

/// Takes the mark off again, of a packet of which a tunnel has got a copy: the next copy may be the host's own, and what the
/// host has with this mark is believed to have come by WireGuard.
#[inline(always)]
pub fn unmark(skb: *mut __sk_buff) {
    // SAFETY: the skb is the context of the program that runs.
    unsafe { (*skb).mark &= !MARK_ENCRYPTED };
}

#[inline(always)]
fn get(skb: *const __sk_buff, key: &mut bpf_tunnel_key, flags: u64) -> bool {
    // SAFETY: the skb is the context of the program that runs, and the key is as long as said. The kernel does not write
    // to the packet.
    unsafe { bpf_skb_get_tunnel_key(skb.cast_mut(), key, size_of::<bpf_tunnel_key>() as u32, flags) == 0 }
}

/// One that says nothing. Word by word: the compiler would have it done by a loop over its bytes.
#[inline(always)]
fn empty() -> bpf_tunnel_key {
    const WORDS: usize = size_of::<bpf_tunnel_key>() / size_of::<u32>();
    let mut key = MaybeUninit::<bpf_tunnel_key>::uninit();
    let words = key.as_mut_ptr().cast::<u32>();
    for word in 0..WORDS {
        // SAFETY: one of the aligned words that the key consists of.
        unsafe { words.add(word).write_volatile(0) };
    }
    // SAFETY: all of it is written, and zeros are valid numbers.
    unsafe { key.assume_init() }
}
