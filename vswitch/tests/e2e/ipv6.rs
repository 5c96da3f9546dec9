//! IPv6 works in all respects as IPv4 does.

use std::net::{IpAddr, Ipv6Addr};

use serde_json::{Value, json};

use crate::harness::{Frame, Host, Mac, Netns, Pinger, RawPort, ping, ping_with, tcp, udp};

const GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x81, 0, 0, 0, 0, 0, 1);

fn network(host: &Host) {
    host.ok(&["network", "create", "--subnet", "10.81.0.0/24", "--subnet", "fd00:81::/64", "six"]);
}

#[test]
fn an_endpoint_has_an_address_and_a_default_route_of_each_family() {
    let host = Host::up(&[]);
    network(&host);
    let a = Netns::new("a");
    let at_a = host.attach(&a, &["--network", "six"]);
    let own: Ipv6Addr = "fd00:81::2".parse().unwrap();
    assert_eq!((at_a.ipv6, at_a.gateway6), (Some(own), Some(GATEWAY)));
    assert_eq!(at_a.nameservers, [IpAddr::V4(at_a.gateway.unwrap()), GATEWAY.into()]);
    assert_eq!(a.addresses6("eth0"), [own]);
    assert_eq!(a.default_routes(true), [(Some(GATEWAY.into()), "eth0".to_owned())]);
    assert_eq!(a.default_routes(false), [(Some(at_a.gateway.unwrap().into()), "eth0".to_owned())]);

    assert_eq!(host.ps(), std::slice::from_ref(&at_a));
    let shown: Value = host.json(&["inspect", a.name()]);
    assert_eq!((&shown["ipv6"], &shown["gateway6"]), (&json!("fd00:81::2"), &json!("fd00:81::1")), "{shown:#}");
    assert_eq!(shown["networks"][0]["ipv6"], "fd00:81::2", "{shown:#}");
    let text = host.ok(&["inspect", a.name()]);
    assert!(text.contains("fd00:81::2") && text.contains("fd00:81::1"), "{text}");
}

#[test]
fn a_network_without_ipv6_has_none() {
    let host = Host::up(&[]);
    let a = Netns::new("a");
    let at_a = host.attach(&a, &[]);
    assert_eq!((at_a.ipv6, at_a.gateway6), (None, None));
    assert_eq!((a.addresses6("eth0"), a.default_routes(true).len()), (vec![], 0));
}

#[test]
fn router_advertisements_of_neighbors_are_ignored() {
    let host = Host::up(&[]);
    network(&host);
    for (name, names) in [("bridge", ["a", "b"]), ("six", ["c", "d"])] {
        let [sender, receiver] = names.map(Netns::new);
        let at_receiver = host.attach(&receiver, &["--network", name]);
        // The guards of the sender are off, so the advertisement arrives. The receiver must ignore
        // it.
        host.attach(&sender, &["--network", name, "-o", "ra_guard=off", "-o", "spoof_guard=off"]);
        let before = (receiver.addresses6("eth0"), receiver.default_routes(true));
        let (out, seen) = (RawPort::open(&sender, "eth0"), RawPort::open(&receiver, "eth0"));
        let advertisement = advertisement(sender.mac("eth0"));
        out.send(&advertisement);
        seen.expect(&advertisement);
        // The reply to a later packet shows that the stack has processed the advertisement.
        ping(&sender, at_receiver.ipv4);
        assert_eq!((receiver.addresses6("eth0"), receiver.default_routes(true)), before, "network {name}");
    }
}

/// Builds a router advertisement (RFC 4861, 4.2) to all nodes, with a lifetime and the prefix
/// 2001:db8:bad::/64.
fn advertisement(from: Mac) -> Frame {
    let mut router = vec![134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    // Prefix information (RFC 4861, 4.6.2): on-link and autonomous, valid for an hour.
    router.extend([3, 4, 64, 0xc0, 0, 0, 14, 16, 0, 0, 14, 16, 0, 0, 0, 0]);
    router.extend("2001:db8:bad::".parse::<Ipv6Addr>().unwrap().octets());
    let (source, all_nodes): (Ipv6Addr, Ipv6Addr) = ("fe80::bad".parse().unwrap(), "ff02::1".parse().unwrap());
    let length = router.len() as u16;
    let pseudo =
        [&source.octets()[..], &all_nodes.octets(), &[0, 0], &length.to_be_bytes(), &[0, 0, 0, 58], &router].concat();
    let sum: u32 = pseudo.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !(((folded & 0xffff) + (folded >> 16)) as u16);
    router[2..4].copy_from_slice(&checksum.to_be_bytes());
    let header =
        [&[0x60, 0, 0, 0][..], &length.to_be_bytes(), &[58, 255], &source.octets(), &all_nodes.octets()].concat();
    let group: Mac = "33:33:00:00:00:01".parse().unwrap();
    Frame::raw(group, from, &[&[0x86, 0xdd][..], &header, &router].concat())
}

#[test]
fn containers_and_the_host_reach_each_other_by_ipv6() {
    for datapath in ["auto", "xdp"] {
        let host = Host::up(&["--datapath", datapath]);
        network(&host);
        let [a, b] = ["a", "b"].map(Netns::new);
        let [at_a, at_b] = [&a, &b].map(|container| host.attach(container, &["--network", "six"]).ipv6.unwrap());
        for (from, to, address) in
            [(&a, &b, at_b), (&b, &a, at_a), (&a, &*host.netns, GATEWAY), (&*host.netns, &b, at_b)]
        {
            ping(from, address);
            ping_with(from, address, 1400);
            // Larger than a frame, so it is sent in fragments.
            ping_with(from, address, 4000);
            tcp(from, to, address, 1 << 20);
            udp(from, to, address, 1400, 50);
        }
    }
}

#[test]
fn an_ipv6_address_can_be_used_at_once() {
    let host = Host::up(&[]);
    network(&host);
    let [a, b] = ["a", "b"].map(Netns::new);
    let at_a = host.attach(&a, &["--network", "six"]).ipv6.unwrap();
    // Duplicate address detection would take a second, during which the address could not be bound.
    let socket = a.inside(|| std::net::UdpSocket::bind((at_a, 0)));
    assert!(socket.is_ok(), "{socket:?}");
    assert_eq!(a.ip("-6 address show dev eth0 scope global tentative"), "");
    let at_b = host.attach(&b, &["--network", "six"]).ipv6.unwrap();
    // A single request that is never repeated.
    Pinger::new(&b, at_a).ping(56);
    Pinger::new(&a, at_b).ping(56);
    Pinger::new(&host.netns, at_b).ping(56);
}

#[test]
fn the_host_device_is_usable_at_once_also_after_it_was_down() {
    let host = Host::up(&[]);
    // The kernel's own duplicate address detection takes up to two seconds.
    for all in ["0", "1"] {
        host.netns.set("net/ipv6/conf/all/accept_dad", all);
        let network = format!("net{all}");
        host.ok(&["network", "create", "--ipv6", &network]);
        let device =
            host.netns.devices().into_iter().find(|name| name.ends_with(&format!("-{network}"))).expect("made");
        let tentative = || host.netns.ip(&format!("-6 address show dev {device} tentative"));
        assert_eq!(tentative(), "", "accept_dad of all: {all}");
        assert!(host.netns.ip(&format!("-6 address show dev {device} scope link")).contains("fe80::"));
    }
    host.netns.set("net/ipv6/conf/all/accept_dad", "0");
    let device = host.netns.devices().into_iter().find(|name| name.ends_with("-net0")).expect("made");
    host.netns.ip(&format!("link set {device} down"));
    host.netns.ip(&format!("link set {device} up"));
    assert_eq!(host.netns.ip(&format!("-6 address show dev {device} tentative")), "");
    assert!(host.netns.ip(&format!("-6 address show dev {device} scope link")).contains("fe80::"));
}
