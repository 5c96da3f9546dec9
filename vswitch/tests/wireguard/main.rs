//! WireGuard between hosts: real namespaces on a Linux bridge, real packets, no switch. Every test
//! runs with the userspace backend and, if the kernel has WireGuard, with the kernel backend. Each
//! run prints its backend. The tests need root.

#[expect(dead_code, unused_imports, reason = "it is made for more than is used here")]
#[path = "../e2e/harness/mod.rs"]
mod harness;

mod forged;
mod lifecycle;
mod scene;
mod secrecy;
mod traffic;
