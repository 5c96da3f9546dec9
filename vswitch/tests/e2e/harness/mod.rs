//! What the tests stand on: network namespaces as hosts and containers, a switch on one of them, traffic through it,
//! and a look at what is left when it is gone. Everything made here is owned by a guard and removed with it.

mod at_rest;
mod bpf;
#[path = "../../cluster/harness/certificates.rs"]
mod certificates;
mod cluster;
mod command;
mod devices;
mod dns;
#[expect(dead_code, reason = "those who test the library alone do more with it")]
#[path = "../../cluster/harness/etcd.rs"]
mod etcd;
mod flow;
mod frames;
mod host;
mod http;
mod icmp;
mod leftovers;
mod mounts;
mod multicast;
mod netlink;
mod netns;
mod overlay;
pub mod packets;
mod reach;
mod stream;
mod stuck;
mod tap;
mod tcp;
mod udp;
mod uplinks;
mod wire;

use std::{
    fmt::Debug,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

pub use at_rest::AtRest;
pub use bpf::{BpfObject, ForeignXdp};
pub use certificates::Certificates;
pub use cluster::{Clustered, tunnelled};
pub use command::{Outcome, Running, run, spawn};
pub use devices::{set_tx_checksumming, set_tx_vlan};
pub use dns::{Answer, Resolver, ask, ask_tcp, dig, getent};
pub use etcd::Etcd;
pub use flow::Flow;
pub use frames::{Frame, Mac, RawPort, Tag};
pub use host::{Attached, BINARY, Counters, Group, Host, Published, Station, complaint};
pub use http::{Caller, Page, Site, get, try_get};
pub use icmp::{Pinger, ping, ping_with};
pub use leftovers::{Surroundings, processes, written_for_namespaces};
pub use multicast::{Member, saying, send_to_group};
pub use netns::Netns;
pub use overlay::{Cloud, Family, heard};
pub use reach::{broadcast_reaches, reaches};
pub use stream::Stream;
pub use tap::{Overheard, Tap};
pub use tcp::tcp;
pub use udp::{udp, udp_broadcast, udp_broadcast_at, udp_broadcast_of, udp_segmented};
pub use uplinks::{Uplinks, addresses};
pub use wire::{OnWire, VlanHost, Wire, both, on_the_wire};

/// How long an event may take before a test calls it a hang. Generous: kernels under emulation are slow, and nothing
/// here is about time.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// Waits until `probe` finds what it looks for.
#[track_caller]
pub fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    settles(what, || probe().ok_or("no more is known"))
}

/// The same for a probe that can say what it finds instead.
#[track_caller]
pub fn settles<T, E: Debug>(what: &str, mut probe: impl FnMut() -> Result<T, E>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match probe() {
            Ok(found) => return found,
            Err(instead) => assert!(Instant::now() < deadline, "after {PATIENCE:?} still not: {what}: {instead:#?}"),
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// A name that no other test, of this run or of one beside it, has.
pub fn unique(role: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("vst{}-{}-{role}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
