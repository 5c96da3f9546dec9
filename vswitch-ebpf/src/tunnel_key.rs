//! The tunnel metadata of a packet: what the outer header said, and what it has to say.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::{__sk_buff, BPF_F_TUNINFO_IPV6, BPF_F_ZERO_CSUM_TX, bpf_tunnel_key};
use aya_ebpf::helpers::generated::{bpf_skb_get_tunnel_key, bpf_skb_set_tunnel_key};
use vswitch_common::packet::TunnelKey;
use vswitch_common::packet::address::Address;
use vswitch_common::tables::{NetworkNumber, PortNumber};
use vswitch_common::verifier::bpf::zeroed;

use crate::maps::{NETWORKS, PORTS};
use crate::marks::mark_encrypted;
use crate::recording;

/// The TTL of outer packets.
const TTL: u8 = 64;

/// Returns the tunnel metadata of a packet, `None` if it came out of no tunnel.
#[inline(always)]
pub fn read(skb: *const __sk_buff) -> Option<TunnelKey> {
    if recording::requested() {
        // A traced run comes out of no tunnel: the metadata is in the control block.
        // SAFETY: the skb is the context of the program that runs.
        return Some(TunnelKey::from_words(unsafe { (*skb).cb }));
    }
    let mut place = MaybeUninit::uninit();
    let key = empty(&mut place);
    // The helper returns the metadata of the one version of IP that it is asked for.
    if get(skb, key, 0) {
        // SAFETY: the kernel has written an IPv4 address, in host byte order.
        let remote = unsafe { key.__bindgen_anon_1.remote_ipv4 };
        return Some(TunnelKey::new(Address::mapped(remote.to_be_bytes()), key.tunnel_id));
    }
    if get(skb, key, u64::from(BPF_F_TUNINFO_IPV6)) {
        // SAFETY: the kernel has written an IPv6 address, in the byte order of the wire.
        let remote = unsafe { key.__bindgen_anon_1.remote_ipv6 };
        return Some(TunnelKey::new(Address::of_words(remote), key.tunnel_id));
    }
    None
}

/// Sets the tunnel metadata of a packet: to the peer of a port, with the VNI of a network, from this
/// host's source address of tunnels if it has one. Returns whether the kernel has set it.
#[inline(always)]
pub fn write(skb: *mut __sk_buff, port: PortNumber, network: NetworkNumber) -> bool {
    let (Some(port), Some(network), Some(own)) =
        (PORTS.get(port.0), NETWORKS.get(network.0), PORTS.get(PortNumber::NONE.0))
    else {
        return false;
    };
    let mut place = MaybeUninit::uninit();
    let key = empty(&mut place);
    key.tunnel_id = network.vni;
    key.tunnel_ttl = TTL;
    let remote = port.peer().words();
    let flags = if port.peer().is_mapped() {
        let [.., four] = remote;
        key.__bindgen_anon_1.remote_ipv4 = u32::from_be(four);
        key.__bindgen_anon_3.local_ipv4 = u32::from_be(own.ipv4);
        // No UDP checksum, as in RFC 7348 (4.1) and in Linux by default.
        u64::from(BPF_F_ZERO_CSUM_TX)
    } else {
        key.__bindgen_anon_1.remote_ipv6 = remote;
        // Packets inside WireGuard have an inner address, which the route chooses.
        if !port.peer().is_inner() {
            key.__bindgen_anon_3.local_ipv6 = own.ipv6.words();
        }
        // Over IPv6 a receiver may refuse packets without a checksum (RFC 6935).
        u64::from(BPF_F_TUNINFO_IPV6)
    };
    if port.peer().is_inner() {
        // For the program at the WireGuard device: the outer packet has the mark of the inner one.
        mark_encrypted(skb);
    }
    // SAFETY: the skb is the context of the program that runs, and the key has the given size.
    unsafe { bpf_skb_set_tunnel_key(skb, key, size_of::<bpf_tunnel_key>() as u32, flags) == 0 }
}

#[inline(always)]
fn get(skb: *const __sk_buff, key: &mut bpf_tunnel_key, flags: u64) -> bool {
    // SAFETY: the skb is the context of the program that runs, and the key has the given size. The
    // kernel does not write to the packet.
    unsafe { bpf_skb_get_tunnel_key(skb.cast_mut(), key, size_of::<bpf_tunnel_key>() as u32, flags) == 0 }
}

#[inline(always)]
fn empty(place: &mut MaybeUninit<bpf_tunnel_key>) -> &mut bpf_tunnel_key {
    // SAFETY: the struct consists of aligned words, and zeros are valid in all of its fields.
    unsafe { zeroed(place) }
}
