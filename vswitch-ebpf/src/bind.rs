//! The programs at bind(2): they refuse the host ports that are published.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_set_retval, bpf_skc_to_tcp6_sock, bpf_skc_to_udp6_sock};
use aya_ebpf::programs::SockAddrContext;
use vswitch_common::held::{Bind, HeldKey, HeldPorts, refuses};
use vswitch_common::packet::address::Address;

use crate::maps::{HELD, HELD_AT, HELD_IN};

/// The results of a program at bind(2).
const PASS: i32 = 1;
const REFUSE: i32 = 0;

/// `EADDRINUSE`, as if a process had the port.
const ADDRESS_IN_USE: i32 = 98;
const TCP: u32 = 6;

/// The byte of `struct sock_common` that holds `skc_ipv6only`, and the place of that bit. The layout
/// is the same since Linux 4.0. No field of the context says it, and no helper.
const IPV6_ONLY_BYTE: usize = 19;
const IPV6_ONLY: u8 = if cfg!(target_endian = "little") { 1 << 5 } else { 1 << 2 };

/// The maps as the core's [`HeldPorts`].
struct KernelTables;

impl HeldPorts for KernelTables {
    #[inline(always)]
    fn word(&self, index: u32) -> u64 {
        HELD.get(index).copied().unwrap_or_default()
    }

    #[inline(always)]
    fn at(&self, key: &HeldKey) -> u32 {
        // SAFETY: the value is one aligned word.
        unsafe { HELD_AT.get(key) }.copied().unwrap_or_default()
    }
}

/// Decides about the bind of an IPv4 socket.
#[inline(always)]
pub fn ipv4(context: &SockAddrContext) -> i32 {
    let call = context.sock_addr;
    // SAFETY: the context is valid as long as the program runs. A volatile load is not narrowed:
    // older verifiers take no load of a part of these fields.
    let address = unsafe { (&raw const (*call).user_ip4).read_volatile() };
    let address = Address::of_words([0, 0, 0xffff_u32.to_be(), address]);
    decide(context, address, || false)
}

/// Decides about the bind of an IPv6 socket.
#[inline(always)]
pub fn ipv6(context: &SockAddrContext) -> i32 {
    let call = context.sock_addr;
    // SAFETY: as above.
    let words = unsafe {
        let words: *const u32 = (&raw const (*call).user_ip6).cast();
        [
            words.read_volatile(),
            words.add(1).read_volatile(),
            words.add(2).read_volatile(),
            words.add(3).read_volatile(),
        ]
    };
    decide(context, Address::of_words(words), || is_only_ipv6(call))
}

#[inline(always)]
fn decide(context: &SockAddrContext, address: Address, only_ipv6: impl FnOnce() -> bool) -> i32 {
    let call = context.sock_addr;
    // SAFETY: as above.
    let (protocol, port) =
        unsafe { ((&raw const (*call).protocol).read_volatile(), (&raw const (*call).user_port).read_volatile()) };
    let bind = Bind { protocol, port: u32::from(u16::from_be(port as u16)), address };
    if !refuses(&KernelTables, bind, only_ipv6) {
        return PASS;
    }
    // SAFETY: the helper only reads the context.
    let namespace = unsafe { bpf_get_netns_cookie(context.as_ptr()) };
    if HELD_IN.get(0) != Some(&namespace) {
        return PASS;
    }
    // SAFETY: the helper has no pointer argument.
    unsafe { bpf_set_retval(-ADDRESS_IN_USE) };
    REFUSE
}

/// Reports whether the socket has the option `IPV6_V6ONLY`.
#[inline(always)]
fn is_only_ipv6(call: *mut bpf_sock_addr) -> bool {
    // SAFETY: the verifier knows what each of these helpers returns, a socket or null, and checks
    // that the byte is in it.
    unsafe {
        let socket = (*call).__bindgen_anon_1.sk;
        if socket.is_null() {
            return false;
        }
        let protocol = (&raw const (*call).protocol).read_volatile();
        let flags: *const u8 = if protocol == TCP {
            bpf_skc_to_tcp6_sock(socket.cast()).cast()
        } else {
            bpf_skc_to_udp6_sock(socket.cast()).cast()
        };
        !flags.is_null() && flags.add(IPV6_ONLY_BYTE).read_volatile() & IPV6_ONLY != 0
    }
}
