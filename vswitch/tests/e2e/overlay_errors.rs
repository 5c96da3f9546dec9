//! Overlay networks and peers that cannot be: one clear line with the way out, and nothing left.

use crate::harness::{Cloud, Family, Host, Surroundings, eventually, ping};

/// A command that fails, names these, and changes nothing.
#[track_caller]
fn refused(host: &Host, arguments: &[&str], names: &[&str]) {
    // What an earlier one took back may take the kernel a moment.
    let before = Surroundings::of(host, &[]);
    let line = host.fails(1, arguments);
    for name in names {
        assert!(line.contains(name), "`{line}` does not name {name}");
    }
    eventually("nothing has changed", || (Surroundings::of(host, &[]) == before).then_some(()));
}

/// `network create` of an overlay network with these flags.
fn create<'a>(flags: &[&'a str], name: &'a str) -> Vec<&'a str> {
    [&["network", "create", "-d", "overlay"], flags, &[name]].concat()
}

const SUBNET: [&str; 4] = ["--subnet", "10.10.0.0/16", "--ip-range", "10.10.1.0/24"];

#[test]
fn what_is_no_peer_is_refused() {
    let cloud = Cloud::down(2, Family::V4);
    let host = &cloud.hosts[0];
    host.start(&[]);
    for own in [cloud.peer(0), Cloud::address(Family::V6, 0).to_string()] {
        refused(host, &["peer", "add", &own], &[&own, "this host's own address", "under0", "peer add"]);
    }
    for (text, why) in [
        ("nowhere", "192.0.2.7"),
        ("192.0.2.0/24", "192.0.2.7"),
        ("127.0.0.1", "this host's own"),
        ("224.0.0.1", "a group's"),
        ("0.0.0.0", "no address"),
        ("fe80::1", "of one link alone"),
    ] {
        refused(host, &["peer", "add", text], &[text, why]);
    }
    let other = cloud.peer(1);
    refused(host, &["peer", "rm", &other], &[&other, "peer ls"]);
    host.ok(&["peer", "add", &other]);
    refused(host, &["peer", "add", &other], &[&other, "already", "peer ls"]);
    refused(host, &["peer", "add", &format!("::ffff:{other}")], &[&other, "already"]);
    host.ok(&["peer", "rm", &other]);
    refused(host, &["peer", "rm", &other], &[&other]);
    assert_eq!(cloud.peers(0).len(), 0);
}

#[test]
fn overlay_networks_that_cannot_be_are_refused() {
    let cloud = Cloud::down(1, Family::V4);
    let host = &cloud.hosts[0];
    host.start(&[]);
    refused(host, &create(&[], "net"), &["net", "no IPv4 subnet", "--subnet", "--ip-range"]);
    for vni in ["0", "16777216", "x", "-1"] {
        let option = format!("vni={vni}");
        refused(host, &create(&[&SUBNET[..], &["-o", &option]].concat(), "net"), &["vni", vni, "1 to 16777215"]);
    }
    for option in ["uplink=eth0", "parent=eth0"] {
        refused(host, &create(&[&SUBNET[..], &["-o", option]].concat(), "net"), &["overlay", "vni"]);
    }
    assert!(cloud.tunnels(0).is_none());
    cloud.create(0, "net", Cloud::VNI, &[]);
    let again = ["-o", "vni=5000", "--subnet", "10.11.0.0/16"];
    refused(host, &create(&again, "other"), &["5000", "net", "vni=N"]);
    assert!(cloud.tunnels(0).is_some());
    host.ok(&["network", "rm", "net"]);
    assert!(cloud.tunnels(0).is_none(), "nobody needs it any more");
}

#[test]
fn where_the_udp_port_is_taken_the_network_is_refused() {
    let cloud = Cloud::down(1, Family::V4);
    let host = &cloud.hosts[0];
    host.start(&[]);
    let network = create(&SUBNET, "net");
    let way_out = ["4789", "in use", "--vxlan-port"];
    for kind in ["external", "id 9 remote 192.0.2.2", "external udp6zerocsumrx nolearning"] {
        host.netns.ip(&format!("link add vx0 type vxlan {kind} dstport 4789"));
        host.netns.ip("link set vx0 up");
        refused(host, &network, &way_out);
        host.netns.ip("link del vx0");
    }
    let socket = host.netns.inside(|| std::net::UdpSocket::bind(("0.0.0.0", 4789))).expect("the port is free");
    refused(host, &network, &way_out);
    drop(socket);
    host.ok(&network);
    assert!(cloud.tunnels(0).is_some());
}

#[test]
fn of_two_instances_on_a_host_the_second_takes_another_udp_port() {
    let cloud = Cloud::down(1, Family::V4);
    let host = &cloud.hosts[0];
    host.start(&[]);
    host.ok(&create(&SUBNET, "net"));
    let beside = Host::beside(&host.netns);
    beside.start(&[]);
    let network = create(&["--subnet", "10.12.0.0/16", "-o", "vni=77"], "net");
    refused(&beside, &network, &["4789", "in use", "--vxlan-port"]);
    beside.stop(&[]);
    beside.start(&["--vxlan-port", "4790"]);
    beside.ok(&network);
    assert_eq!(host.netns.ip_json("link show type vxlan").len(), 2);
}

#[test]
fn a_peer_without_a_network_or_a_way_to_it_is_shown_so() {
    let cloud = Cloud::down(2, Family::V4);
    let host = &cloud.hosts[0];
    host.start(&[]);
    cloud.acquaint(0);
    host.ok(&["peer", "add", "203.0.113.9"]);
    let peers = cloud.peers(0);
    let states: Vec<_> =
        peers.iter().map(|peer| (peer.address.to_string(), peer.state.as_str(), peer.networks)).collect();
    assert_eq!(states, [(cloud.peer(1), "silent", 0), ("203.0.113.9".to_owned(), "no_route", 0)]);
    assert_eq!((peers[0].interface.as_deref(), peers[1].interface.as_deref()), (Some("under0"), None));
    let table = host.ok(&["peer", "ls"]);
    for word in ["PEER", "STATE", "LAST SEEN", "RX BYTES", "silent", "no route", "never", "under0", "203.0.113.9"] {
        assert!(table.contains(word), "{word}: {table}");
    }
    cloud.create(0, "net", Cloud::VNI, &[]);
    assert!(cloud.peers(0).iter().all(|peer| peer.networks == 1 && peer.last_seen_seconds.is_none()));
    ping(&host.netns, std::net::Ipv4Addr::new(192, 0, 2, 2));
}

#[test]
fn keys_that_cannot_be_a_peers_are_refused() {
    let cloud = Cloud::down(2, Family::V4);
    let host = &cloud.hosts[0];
    (0..2).for_each(|number| drop(cloud.hosts[number].start(&[])));
    let (own, other) = (cloud.key(0), cloud.key(1));
    assert_eq!(own, cloud.key(0), "it stays the same");
    let status: serde_json::Value = host.json(&["status"]);
    assert_eq!(status["public_key"], own);
    let peer = cloud.peer(1);
    for key in ["x", "", "c2hvcnQ=", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="] {
        refused(host, &["peer", "add", &peer, "--public-key", key], &[&format!("`{key}` is no key"), "peer key"]);
    }
    refused(host, &["peer", "add", &peer, "--public-key", &own], &[&own, "own", "peer key"]);
    host.ok(&["peer", "add", &peer]);
    assert_eq!(cloud.peers(0)[0].public_key, None);
    refused(host, &["peer", "add", &peer], &[&peer, "already"]);
    // One that is a peer without a key gets one.
    host.ok(&["peer", "add", &peer, "--public-key", &other]);
    assert_eq!(cloud.peers(0)[0].public_key.as_deref(), Some(other.as_str()));
    refused(host, &["peer", "add", &peer, "--public-key", &other], &[&peer, "already"]);
    refused(host, &["peer", "add", "192.0.2.9", "--public-key", &other], &["192.0.2.9", &other, &peer][1..]);
    let file = host.state_directory().join("wireguard.key");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(file).expect("the key").permissions());
    assert_eq!(mode & 0o7777, 0o600);
}

#[test]
fn where_the_port_of_wireguard_is_taken_the_network_is_refused() {
    let cloud = Cloud::down(1, Family::V4);
    let host = &cloud.hosts[0];
    host.start(&[]);
    // What is made for it all, and stays.
    cloud.key(0);
    let network = create(&[&SUBNET[..], &["-o", "encrypted=true"]].concat(), "net");
    let socket = host.netns.inside(|| std::net::UdpSocket::bind(("0.0.0.0", 51872))).expect("the port is free");
    refused(host, &network, &["51872", "in use", "--wireguard-port"]);
    host.stop(&[]);
    host.start(&["--wireguard-port", "51873"]);
    host.ok(&network);
    assert!(cloud.wireguard(0).is_some());
    host.ok(&["network", "rm", "net"]);
    assert!(cloud.wireguard(0).is_none(), "nobody needs it any more");
    assert!(!host.netns.ip("-6 route show table main").contains("fd76:7377:6974::/48"));
    drop(socket);
}

#[test]
fn a_subnet_that_would_take_the_underlay_is_refused() {
    let cloud = Cloud::down(2, Family::V4);
    let host = &cloud.hosts[0];
    host.start(&[]);
    cloud.acquaint(0);
    for driver in ["bridge", "overlay"] {
        for subnet in ["192.0.2.0/24", "192.0.0.0/16", "192.0.2.0/30"] {
            let create = ["network", "create", "-d", driver, "--subnet", subnet, "under"];
            refused(host, &create, &[subnet, "under", "192.0.2.1", "own address", "choose another subnet"]);
        }
    }
    ping(&host.netns, std::net::Ipv4Addr::new(192, 0, 2, 2));
    // A peer that is not on the link, and the network that would hide it.
    host.ok(&["network", "create", "--subnet", "203.0.113.0/24", "hides"]);
    refused(host, &["peer", "add", "203.0.113.9"], &["203.0.113.9", "203.0.113.0/24", "hides"]);
    host.ok(&["network", "rm", "hides"]);
    host.ok(&["peer", "add", "203.0.113.9"]);
    let hides = ["network", "create", "--subnet", "203.0.113.0/24", "hides"];
    refused(host, &hides, &["203.0.113.0/24", "203.0.113.9", "a peer", "choose another subnet"]);
    // Nothing is chosen that holds one.
    host.ok(&["peer", "add", "10.201.1.9"]);
    host.ok(&["network", "create", "chosen"]);
    assert!(host.ok(&["network", "ls"]).contains("10.201.2.0/24"), "{}", host.ok(&["network", "ls"]));
}
