//! The tunnel: what its header said about a frame, and what it is to say.

use aya_ebpf::bindings::{
    __sk_buff, BPF_F_TUNINFO_IPV6, BPF_F_ZERO_CSUM_TX, bpf_tunnel_key, bpf_tunnel_key__bindgen_ty_1,
    bpf_tunnel_key__bindgen_ty_2, bpf_tunnel_key__bindgen_ty_3,
};
use aya_ebpf::helpers::generated::{bpf_skb_get_tunnel_key, bpf_skb_set_tunnel_key};
use vswitch_common::packet::TunnelKey;
use vswitch_common::packet::address::Address;
use vswitch_common::tables::{MARK_ENCRYPTED, NetworkNumber, PortNumber};

use crate::maps::{NETWORKS, PORTS};
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

#[inline(always)]
fn empty() -> bpf_tunnel_key {
    bpf_tunnel_key {
        tunnel_id: 0,
        __bindgen_anon_1: bpf_tunnel_key__bindgen_ty_1 { remote_ipv6: [0; 4] },
        tunnel_tos: 0,
        tunnel_ttl: 0,
        __bindgen_anon_2: bpf_tunnel_key__bindgen_ty_2 { tunnel_ext: 0 },
        tunnel_label: 0,
        __bindgen_anon_3: bpf_tunnel_key__bindgen_ty_3 { local_ipv6: [0; 4] },
    }
}
