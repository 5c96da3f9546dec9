//! TCP, UDP and ICMP between containers and with the host, in every datapath.

use std::net::Ipv4Addr;

use serde_json::Value;

use crate::harness::{Host, Netns, ping_with, tcp, udp, udp_broadcast, udp_segmented};

/// Returns the hook at which frames of containers are switched.
fn container_hook(host: &Host) -> String {
    let status: Value = host.json(&["status"]);
    status["hooks"]["container"].as_str().unwrap_or_else(|| panic!("no hook: {status:#}")).to_owned()
}

/// Sends all kinds of traffic in both directions over one datapath.
fn check_all_traffic(datapath: &str) {
    let host = Host::up(&["--datapath", datapath]);
    let gateway = Ipv4Addr::new(10, 201, 0, 1);
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    let at_a = host.attach(&a, &[]);
    let at_b = host.attach(&b, &[]);
    assert_eq!(container_hook(&host).contains("xdp"), datapath == "xdp");

    let pairs = [(&a, &b, at_b.ipv4), (&b, &a, at_a.ipv4), (&a, &*host.netns, gateway), (&*host.netns, &b, at_b.ipv4)];
    for (from, to, address) in pairs {
        // The last size does not fit into one frame and is sent as IP fragments.
        for bytes in [0, 56, 1472, 8000] {
            ping_with(from, address, bytes);
        }
        for size in [1, 18, 64, 1472, 9000] {
            udp(from, to, address, size, 50);
        }
        // Smaller than a frame, as large as one, slightly larger, and many frames.
        for bytes in [1, 1448, 1460, 4000, 1 << 20] {
            tcp(from, to, address, bytes);
        }
    }
    tcp(&a, &b, at_b.ipv4, 8 << 20);
    tcp(&b, &host.netns, gateway, 4 << 20);
    if datapath != "xdp" {
        // XDP takes no GSO packets, and kernels before 6.11 do not segment UDP if the device
        // computes no checksums.
        udp_segmented(&a, &b, at_b.ipv4, 1400, 40);
        udp_segmented(&host.netns, &a, at_a.ipv4, 1000, 60);
        udp_segmented(&b, &host.netns, gateway, 1000, 60);
    }
    udp_broadcast(&a, at_a.ipv4, &[&b, &*host.netns]);
}

#[test]
fn all_traffic_passes_with_tc() {
    check_all_traffic("tc");
}

#[test]
fn all_traffic_passes_with_xdp() {
    check_all_traffic("xdp");
}

#[test]
fn many_streams_pass_and_networks_have_their_mtu() {
    let host = &Host::up(&[]);
    // By default, traffic takes the same way as with `--datapath tc`.
    assert!(!container_hook(host).contains("xdp"));
    check_many_concurrent_streams(host);
    check_a_small_mtu(host);
    check_jumbo_frames(host);
}

fn check_many_concurrent_streams(host: &Host) {
    let containers = Netns::several("c", 4);
    let addresses: Vec<Ipv4Addr> = containers.iter().map(|container| host.attach(container, &[]).ipv4).collect();
    std::thread::scope(|scope| {
        for (from, container) in containers.iter().enumerate() {
            for step in 1..4 {
                let to = (from + step) % 4;
                let (peer, address) = (&containers[to], addresses[to]);
                scope.spawn(move || tcp(container, peer, address, 2 << 20));
            }
        }
    });
}

fn check_a_small_mtu(host: &Host) {
    host.ok(&["network", "create", "--subnet", "10.91.0.0/24", "-o", "mtu=1280", "small"]);
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    host.attach(&a, &["--network", "small"]);
    let at_b = host.attach(&b, &["--network", "small"]);
    assert_eq!((at_b.mtu, &b.device("eth0").unwrap()["mtu"]), (1280, &Value::from(1280)));
    ping_with(&a, at_b.ipv4, 4000);
    tcp(&a, &b, at_b.ipv4, 1 << 20);
}

fn check_jumbo_frames(host: &Host) {
    host.ok(&["network", "create", "--subnet", "10.92.0.0/24", "-o", "mtu=9000", "jumbo"]);
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    host.attach(&a, &["--network", "jumbo"]);
    let at_b = host.attach(&b, &["--network", "jumbo"]);
    ping_with(&a, at_b.ipv4, 8972);
    udp(&a, &b, at_b.ipv4, 8972, 50);
    tcp(&a, &b, at_b.ipv4, 4 << 20);
    tcp(&a, &host.netns, Ipv4Addr::new(10, 92, 0, 1), 1 << 20);
}
