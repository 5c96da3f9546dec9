//! `trace` of frames that go from host to host: the step into the tunnel on the one, and out of it on the other.

use crate::harness::{Cloud, Clustered, Family, Frame, Mac, ping};
use crate::trace::{hex, trace};

/// What container 0 sends to container 1, step by step on both hosts.
#[track_caller]
fn both_ends(cloud: &Cloud, to: &str, wrapped: &str) {
    let (sender, receiver) = (&cloud.at[0], &cloud.at[1]);
    let sent = trace(&cloud.hosts[0], &["--from", &sender.name, "--to", to]);
    assert_eq!((sent.verdict.action.as_str(), sent.verdict.to.as_ref()), ("redirect", Some(&cloud.peer(1))));
    assert!(sent.verdict.explanation.contains(wrapped), "{}", sent.verdict.explanation);
    assert!(sent.says("is a tunnel for packets of up to"), "{:#?}", sent.steps);
    let from = cloud.peer(0);
    let arrived = trace(&cloud.hosts[1], &["--from", &from, "--frame", &sent.frame.hex]);
    assert_eq!((arrived.verdict.action.as_str(), arrived.verdict.to.as_deref()), ("redirect", Some(&*receiver.name)));
    assert_eq!((arrived.program.name.as_str(), arrived.program.hook.as_str()), ("from_tunnel", "tc"));
    assert!(arrived.program.verdict.is_some() && arrived.agrees == Some(true), "{arrived:#?}");
    assert!(arrived.says(" sends with VNI ") && arrived.says(&format!("({from})")), "{:#?}", arrived.steps);
    let built = trace(&cloud.hosts[1], &["--from", &from, "--to", &receiver.ipv4.to_string()]);
    assert_eq!(built.verdict.to.as_deref(), Some(&*receiver.name), "{built:#?}");
    // Isolated from each other: what came from one host does not go on to another, nor back.
    let back = Frame::new(sender.mac, receiver.mac, "back to where it came from");
    let back = trace(&cloud.hosts[1], &["--from", &from, "--frame", &hex(&back)]);
    assert_eq!(back.verdict.action, "drop", "{back:#?}");
    let stranger = Frame::new(Mac([2, 0, 0, 0, 0x99, 0x99]), sender.mac, "for nobody");
    let stranger = trace(&cloud.hosts[1], &["--from", &from, "--frame", &hex(&stranger)]);
    assert_eq!(stranger.verdict.action, "flood_unknown", "{stranger:#?}");
}

#[test]
fn both_ends_of_a_tunnel_are_traced() {
    for family in [Family::V4, Family::V6] {
        let cloud = Cloud::up(2, family);
        ping(&cloud.containers[0], cloud.at[1].ipv4);
        let to = cloud.at[1].mac.to_string();
        both_ends(&cloud, &to, "in VXLAN with VNI 5000, by port");
        // A peer that is in two networks.
        cloud.hosts[1].ok(&[
            "network",
            "create",
            "-d",
            "overlay",
            "-o",
            "vni=5001",
            "--subnet",
            "10.11.0.0/16",
            "other",
        ]);
        let from = cloud.peer(0);
        let frame = hex(&Frame::new(cloud.at[1].mac, cloud.at[0].mac, "text"));
        let said = cloud.hosts[1].fails(1, &["trace", "--from", &from, "--frame", &frame]);
        assert!(said.contains(&from) && said.contains("--network"), "{said}");
        let traced = trace(&cloud.hosts[1], &["--from", &from, "--network", "net", "--frame", &frame]);
        assert_eq!(traced.verdict.to.as_deref(), Some(&*cloud.at[1].name));
        let traced = trace(&cloud.hosts[1], &["--from", &from, "--network", "other", "--frame", &frame]);
        assert_eq!(traced.verdict.action, "flood_unknown", "{traced:#?}");
        let said = cloud.hosts[1].fails(1, &["trace", "--from", &from, "--network", "nowhere", "--frame", &frame]);
        assert!(said.contains("nowhere"), "{said}");
    }
}

#[test]
fn both_ends_of_an_encrypted_tunnel_are_traced() {
    let cloud = Cloud::encrypted(2, Family::V4, &[], &[]);
    ping(&cloud.containers[0], cloud.at[1].ipv4);
    let to = cloud.at[1].mac.to_string();
    both_ends(&cloud, &to, "in VXLAN with VNI 5000 inside WireGuard, by port");
}

#[test]
fn in_a_cluster_who_is_elsewhere_is_known_by_address() {
    let cluster = Clustered::up(2, Family::V4, Clustered::LONG);
    for to in cluster.addresses(1) {
        both_ends(&cluster, &to.to_string(), "in VXLAN with VNI 4096, by port");
    }
}
