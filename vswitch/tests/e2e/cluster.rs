//! Hosts that share networks through etcd. Their containers form one segment without any peer added
//! by hand.

use crate::harness::{
    Clustered, Family, Frame, Mac, Netns, RawPort, count_broadcasts, decapsulate, packets::SOLICITATION, ping,
    ping_with, settles, tcp, udp,
};

/// Checks membership, names, traffic, broadcasts and FDB entries between three hosts.
fn check_one_segment(family: Family) {
    let cluster = Clustered::up(3, family, Clustered::LONG);
    for number in 0..3 {
        let others: Vec<usize> = (0..3).filter(|other| *other != number).collect();
        cluster.wait_for_members(number, &others);
        cluster.wait_until_joined(number, 3);
        assert_eq!(cluster.status(number).endpoints, 2);
    }
    for (one, other) in cluster.pairs() {
        let (from, to) = (&cluster.containers[one], &cluster.containers[other]);
        let name = format!("c{other}");
        for name in [&name, &format!("{name}.net")] {
            cluster.wait_for_name(one, name, &cluster.at[other]);
        }
        for address in cluster.addresses(other) {
            ping(from, address);
            ping_with(from, address, 4000);
            udp(from, to, address, 18, 50);
            udp(from, to, address, 1300, 50);
            // Every byte is compared with the one expected at its position, which is stricter than
            // a checksum.
            tcp(from, to, address, 60 << 10);
        }
    }
    for number in 0..3 {
        let others: Vec<&Netns> =
            (0..3).filter(|other| *other != number).map(|other| &cluster.containers[other]).collect();
        for _ in 0..5 {
            assert_eq!(
                count_broadcasts(&cluster.containers[number], cluster.at[number].ipv4, &others),
                [1, 1],
                "from {number}"
            );
        }
    }
    // An address with a static entry from the cluster is not learned as well.
    for (one, other) in cluster.pairs() {
        let mac = cluster.at[other].mac;
        assert_eq!((cluster.static_port_of(one, mac), cluster.port_of(one, mac)), (Some(cluster.peer(other)), None));
    }
}

#[test]
fn containers_on_hosts_of_a_cluster_are_one_segment_over_ipv4() {
    check_one_segment(Family::V4);
}

#[test]
fn containers_on_hosts_of_a_cluster_are_one_segment_over_ipv6() {
    check_one_segment(Family::V6);
}

/// Reports whether a frame is an ARP request or a neighbor solicitation for the address of another
/// station. Requests for the sender's own address or from the unspecified address announce or probe
/// an address (RFC 5227, RFC 4862). They are excluded, because they must reach all hosts.
fn is_address_request(frame: &Frame) -> bool {
    let bytes = &frame.0;
    match bytes.get(12..14) {
        Some([0x08, 0x06]) => bytes.get(28..32) != bytes.get(38..42) && bytes.get(28..32) != Some(&[0; 4]),
        Some([0x86, 0xdd]) => {
            let is_solicitation = bytes.get(20) == Some(&58) && bytes.get(54) == Some(&SOLICITATION);
            is_solicitation && bytes.get(22..38) != Some(&[0; 16])
        }
        _ => false,
    }
}

#[test]
fn known_stations_are_sent_to_their_host_only_and_not_resolved_over_tunnels() {
    let cluster = Clustered::up(3, Family::V4, Clustered::LONG);
    // The announcements that containers send when they are attached go to all hosts, so they must
    // be over first.
    for (one, other) in cluster.pairs() {
        cluster.addresses(other).into_iter().for_each(|address| ping(&cluster.containers[one], address));
    }
    // Captures what the hosts send, at the other end of their wires.
    let sent = [0, 1].map(|number| RawPort::open(&cluster.underlay, &format!("u{number}")));
    for container in &cluster.containers {
        container.ip("neigh flush dev eth0 nud all");
    }
    for (one, other) in [(0, 1), (1, 0)] {
        let (from, to) = (&cluster.containers[one], &cluster.containers[other]);
        for address in cluster.addresses(other) {
            ping(from, address);
            udp(from, to, address, 1000, 20);
            tcp(from, to, address, 60 << 10);
        }
        assert!(
            from.ip("neigh show dev eth0").contains(&cluster.at[other].mac.to_string()),
            "the address was resolved again"
        );
    }
    let third = cluster.peer(2);
    for (number, sent) in sent.iter().enumerate() {
        // Frames arrive in order, so nothing sent before the mark comes after it. The mark is a
        // broadcast, so it reaches the third host, too.
        let mark = Frame::new(Mac::BROADCAST, cluster.at[number].mac, "mark");
        RawPort::open(&cluster.containers[number], "eth0").send(&mark);
        let mut inside = Vec::new();
        sent.expect_such("the mark", |frame| {
            let Some((to, frame)) = decapsulate(frame) else { return false };
            let is_mark = frame == mark && to.to_string() == third;
            inside.push((to.to_string(), frame));
            is_mark
        });
        let to_other = inside.iter().filter(|(to, _)| *to == cluster.peer(1 - number)).count();
        assert!(to_other > 40, "only {to_other} frames were sent to the other host");
        for (to, frame) in &inside {
            assert!(!is_address_request(frame), "a request was sent to {to}: {frame:02x?}");
            let is_unicast = frame.0[0] & 1 == 0;
            assert!(!is_unicast || *to != third, "a unicast frame was sent to {to}, too: {frame:02x?}");
        }
    }
}

#[test]
fn the_mtu_leaves_room_for_tunnels_before_other_hosts_join() {
    for (family, mtu) in [(Family::V4, 1450), (Family::V6, 1430)] {
        let cluster = Clustered::down(2, family);
        cluster.join(0);
        cluster.hosts[0].ok(&["network", "create", "-d", "overlay", "--subnet", "10.10.0.0/16", "net"]);
        let inside = Netns::several("first", 2);
        let first = cluster.hosts[0].attach(&inside[0], &["--network", "net"]);
        cluster.join(1);
        cluster.wait_for_network(1, "net");
        let second = cluster.hosts[1].attach(&inside[1], &["--network", "net"]);
        assert_eq!([first.mtu, second.mtu], [mtu; 2], "{family:?}");
        ping_with(&inside[0], second.ipv4, mtu as usize - 28);
    }
}

#[test]
fn networks_are_created_and_removed_on_all_hosts() {
    let cluster = Clustered::down(3, Family::V4);
    (0..3).for_each(|number| drop(cluster.join(number)));
    for (number, name) in ["red", "green", "blue"].into_iter().enumerate() {
        cluster.hosts[number].ok(&["network", "create", "-d", "overlay", "--label", "made=here", name]);
    }
    // VNIs are assigned from 4096 on. Each network has a subnet of its own.
    let details = |number: usize, name: &str| -> serde_json::Value {
        cluster.hosts[number].json::<Vec<serde_json::Value>>(&["network", "inspect", name]).remove(0)
    };
    for (place, name) in ["red", "green", "blue"].into_iter().enumerate() {
        (0..3).for_each(|number| cluster.wait_for_network(number, name));
        let first = details(0, name);
        assert_eq!((&first["vni"], &first["driver"]), (&(4096 + place).into(), &"overlay".into()), "{first:#}");
        assert_eq!(first["labels"]["made"], "here");
        for number in 1..3 {
            let other = details(number, name);
            for field in ["id", "vni", "subnets", "options", "labels", "internal", "mtu", "created"] {
                assert_eq!(other[field], first[field], "{field} of {name} on host {number}");
            }
        }
    }
    let subnets = ["red", "green", "blue"].map(|name| details(0, name)["subnets"][0]["subnet"].to_string());
    assert!(subnets[0] != subnets[1] && subnets[1] != subnets[2] && subnets[0] != subnets[2], "{subnets:?}");

    // Two containers on different hosts reach each other in a network whose VNI and subnet were
    // assigned.
    let inside = ["one", "two"].map(Netns::new);
    let at = [0, 2].map(|number| cluster.hosts[number].attach(&inside[number / 2], &["--network", "green"]));
    settles("both hosts have an entry for the other container", || {
        let ports = [cluster.static_port_of(0, at[1].mac), cluster.static_port_of(2, at[0].mac)];
        if ports == [Some(cluster.peer(2)), Some(cluster.peer(0))] { Ok(()) } else { Err(ports) }
    });
    // Host 1 has no endpoint in this network, so it does not install entries for it.
    assert_eq!(cluster.static_port_of(1, at[0].mac), None);
    ping(&inside[0], at[1].ipv4);
    tcp(&inside[1], &inside[0], at[0].ipv4, 60 << 10);

    // Any host can remove a network that another host created. `prune` removes the networks that
    // have no endpoint on any host.
    cluster.hosts[2].ok(&["network", "rm", "red"]);
    assert_eq!(cluster.hosts[1].ok(&["network", "prune", "-f"]), "blue\n");
    for number in 0..3 {
        ["red", "blue"].into_iter().for_each(|name| cluster.wait_for_no_network(number, name));
        assert!(cluster.networks(number).contains(&"green".to_owned()));
    }
    let line = cluster.hosts[1].fails(1, &["network", "rm", "green"]);
    for word in ["green", "active endpoints", &at[0].name, &at[1].name, "host0.test", "host2.test"] {
        assert!(line.contains(word), "{word}: {line}");
    }
    cluster.hosts[0].ok(&["detach", "--netns", &inside[0].path_argument()]);
    let line = cluster.hosts[0].fails(1, &["network", "rm", "green"]);
    assert!(line.contains(&at[1].name) && !line.contains(&at[0].name), "{line}");
    cluster.hosts[2].ok(&["detach", "--netns", &inside[1].path_argument()]);
    cluster.hosts[1].ok(&["network", "rm", "green"]);
    (0..3).for_each(|number| cluster.wait_for_no_network(number, "green"));
    for kind in ["networks", "ids", "vnis", "addresses", "names", "endpoints"] {
        assert_eq!(cluster.keys(kind), Vec::<String>::new(), "{kind} in etcd");
    }
}
