//! Support for the end-to-end tests: network namespaces as hosts and containers, an instance that
//! serves one of them, traffic generators, and checks for leftovers. Every object made here is
//! owned by a guard that removes it.

mod at_rest;
mod bpf;
#[path = "../../cluster/harness/certificates.rs"]
mod certificates;
mod cluster;
mod command;
mod devices;
mod dns;
#[expect(dead_code, reason = "the library's own tests use more of it")]
#[path = "../../cluster/harness/etcd.rs"]
mod etcd;
mod flow;
mod frames;
mod host;
mod http;
mod icmp;
mod leftovers;
mod machine;
mod mounts;
mod multicast;
mod netlink;
mod netns;
mod overlay;
pub mod packets;
mod reach;
pub mod segments;
mod stream;
mod stuck;
mod tap;
mod tcp;
mod udp;
mod uplinks;
mod weight;
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
pub use cluster::{Clustered, decapsulate};
pub use command::{Outcome, Running, run, spawn};
pub use devices::{set_tx_checksumming, set_tx_vlan};
pub use dns::{Answer, Resolver, ask, ask_tcp, dig, getent, try_ask};
pub use etcd::Etcd;
pub use flow::Flow;
pub use frames::{Frame, Mac, RawPort, Tag};
pub use host::{Attached, BINARY, Counters, Group, Host, Published, Station, complaint};
pub use http::{Caller, Page, Site, fetch, get, try_get};
pub use icmp::{Pinger, ping, ping_with};
pub use leftovers::{Surroundings, processes, resolv_confs_of};
pub use machine::{Docker, Machine, Service};
pub use multicast::{Member, count_containing, send_to_group};
pub use netns::Netns;
pub use overlay::{Cloud, Family, count_broadcasts};
pub use reach::{broadcast_reaches, reaches};
pub use stream::Stream;
pub use tap::{Tap, TapCounts};
pub use tcp::tcp;
pub use udp::{udp, udp_broadcast, udp_broadcast_at, udp_broadcast_of, udp_segmented};
pub use uplinks::{Uplinks, addresses};
pub use wire::{OnWire, VlanHost, Wire, both, on_the_wire};

/// Longest time that a test waits for an event before it fails. The value is large because kernels
/// under emulation are slow; no test here measures time.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// Calls `probe` until it returns a value, and returns that value. Panics after [`PATIENCE`].
#[track_caller]
pub fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    settles(what, || probe().ok_or("the probe found nothing"))
}

/// Calls `probe` until it succeeds, and returns its value. Panics after [`PATIENCE`] with the last
/// error.
#[track_caller]
pub fn settles<T, E: Debug>(what: &str, mut probe: impl FnMut() -> Result<T, E>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match probe() {
            Ok(found) => return found,
            Err(error) => assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}: {error:#?}"),
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Returns a name that no other test of this run or of a concurrent run uses.
pub fn unique(role: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("vst{}-{}-{role}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
