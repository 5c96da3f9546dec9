//! WireGuard between hosts: real namespaces on a bridge of Linux, real packets, no switch. Every test is run with the
//! daemon's own WireGuard, and with the kernel's where it has one; each says which. They need root.

#[expect(dead_code, unused_imports, reason = "it is made for more than is used here")]
#[path = "../e2e/harness/mod.rs"]
mod harness;

mod forged;
mod lifecycle;
mod scene;
mod secrecy;
mod traffic;
