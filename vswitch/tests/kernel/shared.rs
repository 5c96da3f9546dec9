//! Fixtures of these tests: namespaces, veth pairs, and the output of `ip`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use vswitch::kernel::netlink::{Netlink, VethSpec};
use vswitch::kernel::netns::Netns;
use vswitch::kernel::probe::ProbeOn;
use vswitch_common::Mac;

/// A network namespace of `ip netns`, removed when dropped.
pub struct Namespace {
    name: String,
}

impl Namespace {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        assert!(nix::unistd::geteuid().is_root(), "these tests make namespaces and need root");
        let name = format!("vk{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let made = Command::new("ip").args(["netns", "add", &name]).status().expect("run ip");
        assert!(made.success(), "ip netns add {name}");
        Self { name }
    }

    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    pub fn open(&self) -> Netns {
        Netns::open(&self.path()).expect("open the namespace just made")
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

pub fn veth<'a>(name: &'a str, peer_name: &'a str, peer_netns: Option<&'a Netns>) -> VethSpec<'a> {
    VethSpec {
        name,
        mac: Some(Mac([2, 0, 0, 0, 0, 1])),
        mtu: 1400,
        alias: Some("vswitch:test:net:x"),
        peer_name,
        peer_mac: Some(Mac([2, 0, 0, 0, 0, 2])),
        peer_netns,
    }
}

pub fn ip(address: &str) -> IpAddr {
    address.parse().expect("an address")
}

/// Runs `ip` in a namespace and returns its output, one object per line.
pub fn ip_output(netns: &Netns, arguments: &str) -> String {
    let run = || Command::new("ip").args(arguments.split(' ')).output().expect("run ip");
    let output = netns.enter(run).expect("enter");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// Creates a veth pair between two namespaces and switches both ends on. Returns the parameters for
/// probes on the first end, and the interface index of the second.
pub async fn veth_between(near: &Netns, far: &Netns) -> (ProbeOn, u32) {
    let (near_netlink, far_netlink) =
        (Netlink::open_in(near).expect("a socket"), Netlink::open_in(far).expect("a socket"));
    let index = near_netlink.create_veth(&veth("vp0", "eth0", Some(far))).await.expect("create the veth pair");
    let peer = far_netlink.link_by_name("eth0").await.expect("query").expect("the link").index;
    far_netlink.set_up(peer).await.expect("switch on");
    near_netlink.set_up(index).await.expect("switch on");
    (ProbeOn { index, mac: Mac([2, 0, 0, 0, 0, 1]), vlan: 0 }, peer)
}
