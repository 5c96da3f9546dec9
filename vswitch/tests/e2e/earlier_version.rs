//! State that an earlier version recorded. That version wrote the fixtures: `state.redb` is the file
//! after its `down`, the other files are the output of its commands before.

use std::{
    fs::{self, DirBuilder, File},
    net::Ipv4Addr,
    os::unix::fs::DirBuilderExt as _,
};

use nix::fcntl::{Flock, FlockArg};
use serde_json::Value;

use crate::harness::{Host, Netns, ping};

const STATE: &[u8] = include_bytes!("fixtures/0.1.0/state.redb");
const NETWORKS: &str = include_str!("fixtures/0.1.0/networks.json");
const ENDPOINTS: &str = include_str!("fixtures/0.1.0/ps.json");

/// Returns what an array of objects has at the keys that the objects of another one have. Later
/// versions add keys.
fn with_keys_of(earlier: &Value, mut now: Value) -> Value {
    for (earlier, now) in earlier.as_array().into_iter().flatten().zip(now.as_array_mut().into_iter().flatten()) {
        let (Some(earlier), Some(now)) = (earlier.as_object(), now.as_object_mut()) else { continue };
        now.retain(|key, _| earlier.contains_key(key));
    }
    now
}

#[test]
fn an_instance_of_version_0_1_0_comes_up_with_its_networks_and_endpoints() {
    // The record names the namespaces, so two runs of this test take turns.
    let lock = File::create(std::env::temp_dir().join("vswitch-test-0.1.0.lock")).expect("create the lock");
    let _turn = Flock::lock(lock, FlockArg::LockExclusive).expect("take the lock");
    let [web, db, lan, _routed, _far, _lone] =
        ["web", "db", "lan", "ipv", "ovl", "lone"].map(|role| Netns::named(format!("vswitch-0.1.0-{role}")));
    let host = Host::down();
    let wire = Netns::new("wire");
    for (ifname, far, address) in [("phys0", "eth0", "172.30.9.1/24"), ("under0", "under0", "192.0.2.1/24")] {
        host.netns.wire(ifname, &wire, far);
        host.netns.ip(&format!("address add {address} dev {ifname}"));
    }
    wire.ip("address add 172.30.9.200/24 dev eth0");
    // Endpoints of an ipvlan network have the MAC address that their parent had then.
    host.netns.ip("link set under0 address 22:bf:65:1d:75:fa");
    DirBuilder::new().recursive(true).mode(0o700).create(host.state_directory()).expect("create the state directory");
    fs::write(host.state_directory().join("state.redb"), STATE).expect("write the state");

    let printed = host.start(&[]);
    assert!(printed.contains("7 endpoints attached again"), "{printed}");

    let expected: Value = serde_json::from_str(ENDPOINTS).expect("JSON");
    assert_eq!(with_keys_of(&expected, host.json(&["ps"])), expected);
    // The names of the host's devices contain the name of the instance.
    let without_devices = |mut networks: Value| {
        for network in networks.as_array_mut().expect("an array") {
            network.as_object_mut().expect("an object").remove("host_device");
        }
        networks
    };
    let networks = host.json(&["network", "inspect", "front", "back", "lan", "routed", "all"]);
    let expected: Value = serde_json::from_str(NETWORKS).expect("JSON");
    assert_eq!(without_devices(with_keys_of(&expected, networks)), without_devices(expected));
    let peers: Value = host.json(&["peer", "ls"]);
    assert_eq!(peers[0]["address"], "192.0.2.2");

    // The gateway of front.
    ping(&web, Ipv4Addr::new(10, 111, 0, 254));
    // A machine on the wire.
    ping(&lan, Ipv4Addr::new(172, 30, 9, 200));
    // The routed endpoint.
    ping(&host.netns, Ipv4Addr::new(10, 114, 0, 2));
    assert!(db.devices().contains("eth0"), "{:?}", db.devices());
}
