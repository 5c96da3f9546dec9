//! `up --advertise` without a cluster: tunnels leave from the advertised address, whichever of its
//! addresses the host would choose by its routes.

use serde_json::Value;

use crate::harness::{Cloud, Family, Host, complaint, eventually, ping, run, tcp, udp};

/// Returns two hosts that know each other by further addresses, one for each host.
fn cloud(advertised: [&str; 2], encrypted: bool) -> Cloud {
    let family = if advertised[0].contains(':') { Family::V6 } else { Family::V4 };
    let mut cloud = Cloud::down(2, family);
    let create: &[&str] = if encrypted { &["-o", "encrypted=true"] } else { &[] };
    for (number, address) in advertised.into_iter().enumerate() {
        let netns = &cloud.hosts[number].netns;
        if address.starts_with("198.51.") {
            netns.ip(&format!("address add {address}/32 dev lo"));
            let other = Cloud::address(family, number);
            cloud.hosts[1 - number].netns.ip(&format!("route add {address} via {other}"));
        } else {
            let length = if family == Family::V4 { "24" } else { "64 nodad" };
            // The kernel prefers the first address.
            netns.ip(&format!("address add {address}/{} dev under0{}", &length[..2], &length[2..]));
        }
        cloud.hosts[number].start(&["--advertise", address]);
    }
    for number in 0..2 {
        let key = cloud.key(1 - number);
        let add = ["peer", "add", advertised[1 - number]];
        let with_key = ["--public-key", &key];
        cloud.hosts[number].ok(&[&add[..], if encrypted { &with_key[..] } else { &[] }].concat());
        cloud.create(number, "net", Cloud::VNI, create);
    }
    for number in 0..2 {
        cloud.attach_container(number);
    }
    cloud
}

#[test]
fn tunnels_leave_from_the_advertised_address() {
    for (advertised, encrypted) in [
        (["192.0.2.101", "192.0.2.102"], false),
        (["198.51.100.1", "198.51.100.2"], false),
        (["2001:db8::101", "2001:db8::102"], false),
        (["192.0.2.101", "192.0.2.102"], true),
    ] {
        let cloud = cloud(advertised, encrypted);
        if encrypted {
            cloud.wait_for_reach();
        }
        for (from, to) in cloud.pairs() {
            let [one, other] = [&cloud.containers[from], &cloud.containers[to]];
            for address in cloud.addresses(to) {
                ping(one, address);
                udp(one, other, address, 1000, 10);
                // Fragments of outer packets and broadcasts leave by the tunnels' device.
                udp(one, other, address, 4000, 5);
                tcp(one, other, address, 1 << 20);
            }
            let unknown: u64 = cloud.hosts[to].ports(&[]).values().map(|port| port.dropped("unknown_peer")).sum();
            assert_eq!(unknown, 0, "{advertised:?}");
        }
    }
}

#[test]
fn an_advertised_address_of_another_host_is_refused_and_one_that_is_lost_is_in_status() {
    let host = Host::down();
    host.netns.ip("link add under0 type veth peer name under1");
    host.netns.ip("link set under0 up");
    host.netns.ip("address add 192.0.2.1/24 dev under0");
    for other in ["192.0.2.9", "127.0.0.1", "fe80::1"] {
        let message = complaint(1, &run(&mut host.command(&["up", "--advertise", other])));
        assert!(message.contains(other) && message.contains("--advertise"), "{message}");
        assert!(host.daemon().is_none());
    }
    host.start(&["--advertise", "192.0.2.1"]);
    host.ok(&["peer", "add", "192.0.2.2"]);
    host.ok(&["network", "create", "-d", "overlay", "-o", "vni=5000", "--subnet", "10.10.0.0/16", "net"]);
    assert!(host.start(&["--advertise", "192.0.2.1"]).contains("up"));
    let noted = || {
        let status: Value = host.json(&["status"]);
        status["notes"].as_array().expect("a list").iter().any(|note| note.to_string().contains("192.0.2.1,"))
    };
    assert!(!noted());
    host.netns.ip("address del 192.0.2.1/24 dev under0");
    eventually("the loss is in status", || noted().then_some(()));
    // A host that boots may get its address later.
    host.kill_daemon();
    host.start(&["--advertise", "192.0.2.1"]);
    assert!(noted());
    host.netns.ip("address add 192.0.2.1/24 dev under0");
    eventually("the note is gone", || (!noted()).then_some(()));
}
