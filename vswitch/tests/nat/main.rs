//! Tests of what lies between the host's IP stack and networks, with real namespaces and real
//! packets, but without a switch. A Linux bridge stands for the network, so only the work of the
//! host is tested. These tests need root.

#[expect(dead_code, unused_imports, reason = "these tests use only a part of the harness")]
#[path = "../e2e/harness/mod.rs"]
mod harness;

mod conntrack;
mod firewalls;
mod masquerade;
mod published;
mod reservations;
mod restored;
mod scene;
mod services;
