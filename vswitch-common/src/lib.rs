//! The forwarding core of vswitch, shared word for word by the eBPF programs, the daemon and the tests.
//!
//! `forward` reads a frame through [`packet::Packet`] and tables through [`tables::Tables`], and returns a
//! [`verdict::Decision`]: what becomes of the frame and which state to update. It does no I/O, keeps no state, has no
//! unsafe code and gets the time as a value, so the same code decides in the kernel, in unit tests and in `vswitch trace`.
#![cfg_attr(not(feature = "std"), no_std)]

pub mod carrier;
pub mod forward;
pub mod mac;
pub mod packet;
pub mod tables;
pub mod trace;
pub mod verdict;
pub mod watch;

pub use forward::forward;
pub use mac::Mac;
