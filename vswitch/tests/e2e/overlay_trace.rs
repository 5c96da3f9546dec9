//! `trace` of frames between hosts: into the tunnel on one host, and out of it on the other.

use crate::harness::{Cloud, Clustered, Family, Frame, Mac, ping};
use crate::trace::{hex, trace};

/// Traces a frame from container 0 to container 1 on both hosts, step by step.
#[track_caller]
fn trace_both_ends(cloud: &Cloud, to: &str, wrapped: &str) {
    let (sender, receiver) = (&cloud.at[0], &cloud.at[1]);
    let sent = trace(&cloud.hosts[0], &["--from", &sender.name, "--to", to]);
    assert_eq!((sent.verdict.action.as_str(), sent.verdict.to.as_ref()), ("redirect", Some(&cloud.peer(1))));
    assert!(sent.verdict.explanation.contains(wrapped), "{}", sent.verdict.explanation);
    assert!(sent.has_step("is a tunnel for packets of up to"), "{:#?}", sent.steps);
    let from = cloud.peer(0);
    let arrived = trace(&cloud.hosts[1], &["--from", &from, "--frame", &sent.frame.hex]);
    assert_eq!((arrived.verdict.action.as_str(), arrived.verdict.to.as_deref()), ("redirect", Some(&*receiver.name)));
    assert_eq!((arrived.program.name.as_str(), arrived.program.hook.as_str()), ("from_tunnel", "tc"));
    assert!(arrived.program.verdict.is_some() && arrived.agrees == Some(true), "{arrived:#?}");
    assert!(arrived.has_step(" with VNI ") && arrived.has_step(&format!("({from})")), "{:#?}", arrived.steps);
    let built = trace(&cloud.hosts[1], &["--from", &from, "--to", &receiver.ipv4.to_string()]);
    assert_eq!(built.verdict.to.as_deref(), Some(&*receiver.name), "{built:#?}");
    // Tunnels are isolated from each other: a frame from one host goes neither to another host nor
    // back.
    let back = Frame::new(sender.mac, receiver.mac, "back to where it came from");
    let back = trace(&cloud.hosts[1], &["--from", &from, "--frame", &hex(&back)]);
    assert_eq!(back.verdict.action, "drop", "{back:#?}");
    let unknown = Frame::new(Mac([2, 0, 0, 0, 0x99, 0x99]), sender.mac, "for nobody");
    let unknown = trace(&cloud.hosts[1], &["--from", &from, "--frame", &hex(&unknown)]);
    assert_eq!(unknown.verdict.action, "flood_unknown", "{unknown:#?}");
}

#[test]
fn both_ends_of_a_tunnel_are_traced() {
    for family in [Family::V4, Family::V6] {
        let cloud = Cloud::up(2, family);
        ping(&cloud.containers[0], cloud.at[1].ipv4);
        let to = cloud.at[1].mac.to_string();
        trace_both_ends(&cloud, &to, "in VXLAN with VNI 5000, by port");
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
        let message = cloud.hosts[1].fails(1, &["trace", "--from", &from, "--frame", &frame]);
        assert!(message.contains(&from) && message.contains("--network"), "{message}");
        let traced = trace(&cloud.hosts[1], &["--from", &from, "--network", "net", "--frame", &frame]);
        assert_eq!(traced.verdict.to.as_deref(), Some(&*cloud.at[1].name));
        let traced = trace(&cloud.hosts[1], &["--from", &from, "--network", "other", "--frame", &frame]);
        assert_eq!(traced.verdict.action, "flood_unknown", "{traced:#?}");
        let message = cloud.hosts[1].fails(1, &["trace", "--from", &from, "--network", "nowhere", "--frame", &frame]);
        assert!(message.contains("nowhere"), "{message}");
    }
}

#[test]
fn both_ends_of_an_encrypted_tunnel_are_traced() {
    let cloud = Cloud::encrypted(2, Family::V4, &[], &[]);
    ping(&cloud.containers[0], cloud.at[1].ipv4);
    let to = cloud.at[1].mac.to_string();
    trace_both_ends(&cloud, &to, "in VXLAN with VNI 5000 inside WireGuard, by port");
}

#[test]
fn endpoints_of_other_members_are_traced_by_address() {
    let cluster = Clustered::up(2, Family::V4, Clustered::LONG);
    for to in cluster.addresses(1) {
        trace_both_ends(&cluster, &to.to_string(), "in VXLAN with VNI 4096, by port");
    }
}
