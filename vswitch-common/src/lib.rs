//! The forwarding core of vswitch. The eBPF programs, the daemon and the tests share this code.
//!
//! [`forward()`] reads a frame through [`packet::Packet`] and tables through [`tables::Tables`],
//! and returns a [`verdict::Decision`]: what happens to the frame and which state to update. It
//! does no I/O, keeps no state, and gets the time as a value, so the same code decides in the
//! kernel, in unit tests and in `vswitch trace`. It has no unsafe code; on the BPF target the
//! module [`verifier`] has some.
//!
//! Dependencies go one way, from right to left:
//!
//! `mac` < `packet` < `tables` < `verdict` < `verifier` < `forward`
//!
//! `tables` takes from `packet` only the types that its keys consist of: addresses, VLANs and
//! tunnel metadata. `held` is a decision of its own, about bind(2). Beside these, the modules `handover`, `observe`, `trace`, `tail_call` and
//! `map_layout` describe what programs and daemon exchange.
#![cfg_attr(not(any(test, feature = "std")), no_std)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch, core_intrinsics))]
#![cfg_attr(target_arch = "bpf", expect(internal_features, reason = "is_val_statically_known has no other name"))]

mod drop_reason;
pub mod forward;
pub mod handover;
pub mod held;
pub mod mac;
pub mod map_layout;
pub mod observe;
pub mod packet;
pub mod tables;
pub mod tail_call;
pub mod trace;
pub mod verdict;
pub mod verifier;

pub use forward::forward;
pub use mac::Mac;
