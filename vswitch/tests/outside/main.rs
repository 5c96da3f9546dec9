//! Between the host's IP stack and networks: real namespaces, real packets, no switch. A Linux bridge stands for the
//! network, so what is tested is what the host does. They need root.

#[expect(dead_code, unused_imports, reason = "it is made for more than is used here")]
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
