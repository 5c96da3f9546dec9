//! Checks of the harness itself: everything passes over a plain wire, and lost frames, changed
//! frames and leftovers are noticed.

use std::{net::Ipv4Addr, panic::AssertUnwindSafe, panic::catch_unwind};

use crate::harness::{
    Flow, Frame, Host, Mac, Netns, RawPort, Surroundings, Tag, ping, ping_with, set_tx_checksumming, tcp, udp,
    udp_broadcast, udp_segmented,
};

const A: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const B: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);

fn wire() -> (Netns, Netns) {
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    a.wire("eth0", &b, "eth0");
    a.ip(&format!("address add {A}/24 dev eth0"));
    b.ip(&format!("address add {B}/24 dev eth0"));
    for netns in [&a, &b] {
        netns.ip("route add default dev eth0");
    }
    (a, b)
}

#[test]
fn everything_passes_over_a_plain_wire() {
    let (a, b) = wire();
    for tx_checksumming in [true, false] {
        for netns in [&a, &b] {
            set_tx_checksumming(netns, "eth0", tx_checksumming);
        }
        ping(&a, B);
        ping_with(&b, A, 8000);
        tcp(&a, &b, B, 16 << 20);
        tcp(&b, &a, A, 1);
        udp(&a, &b, B, 1472, 100);
        udp(&b, &a, A, 9000, 20);
        udp_broadcast(&a, A, &[&b]);
        if tx_checksumming {
            udp_segmented(&a, &b, B, 1400, 40);
        }
    }
    let flow = Flow::start(&a, &b, B);
    flow.goes_on(100);
    flow.assert_complete();
}

#[test]
fn frames_are_received_as_they_were_sent() {
    let (a, b) = wire();
    let (port_a, port_b) = (RawPort::open(&a, "eth0"), RawPort::open(&b, "eth0"));
    let (from, to) = (a.mac("eth0"), b.mac("eth0"));
    let mut sent = Vec::new();
    for tags in [&[][..], &[Tag::customer(5)], &[Tag::service(6)], &[Tag::service(6), Tag::customer(5)]] {
        for destination in [to, Mac::BROADCAST, "02:00:00:00:00:09".parse().unwrap()] {
            let frame = Frame::tagged(destination, from, tags, "hello");
            port_a.send(&frame);
            port_b.expect(&frame);
            sent.push(frame);
        }
    }
    let short = Frame::raw(to, from, &[8, 0]);
    port_a.send(&short);
    port_b.expect(&short);
    assert!(!port_a.pending().iter().any(|frame| sent.contains(frame)), "a port does not receive its own frames");
}

#[test]
fn lost_datagrams_are_noticed() {
    let (a, b) = wire();
    let flow = Flow::start(&a, &b, B);
    flow.goes_on(50);
    // A packet socket cannot drop frames of the flow, but a device with another MAC address does.
    // The neighbor entry stays.
    b.ip("link set eth0 arp off");
    a.ip(&format!("neighbor replace {B} lladdr {} dev eth0 nud permanent", b.mac("eth0")));
    b.ip("link set eth0 address 02:00:00:00:00:77");
    std::thread::sleep(std::time::Duration::from_millis(200));
    b.ip(&format!("link set eth0 address {}", a.ip_json("neighbor show")[0]["lladdr"].as_str().unwrap()));
    flow.goes_on(50);
    let message = catch_unwind(AssertUnwindSafe(|| flow.assert_complete())).expect_err("frames were lost");
    assert!(message.downcast_ref::<String>().is_some_and(|text| text.contains("did not arrive")));
}

#[test]
fn changed_surroundings_are_noticed() {
    let host = Host::down();
    let before = Surroundings::of(&host, &[]);
    assert_eq!(Surroundings::of(&host, &[]), before);
    let far = Netns::new("far");
    host.netns.wire("new0", &far, "eth0");
    let wired = Surroundings::of(&host, &[]);
    assert_ne!(wired, before);
    host.netns.ip("address add 10.1.0.1/24 dev new0");
    assert_ne!(Surroundings::of(&host, &[]), wired);
    std::fs::create_dir_all(host.run_directory().join("bpf")).unwrap();
    assert_ne!(Surroundings::of(&host, &[]), before);
    std::fs::remove_dir_all(host.run_directory()).unwrap();
}
