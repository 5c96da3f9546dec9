//! Invalid overlay networks and peers: the refusal is one line that names the remedy, and nothing
//! is left behind.

use crate::harness::{Cloud, Family, Host, Surroundings, eventually, ping};

/// Runs a command that must fail, name these words, and change nothing.
#[track_caller]
fn assert_refused(host: &Host, arguments: &[&str], names: &[&str]) {
    // The kernel may still be undoing the changes of an earlier command.
    let before = Surroundings::of(host, &[]);
    let line = host.fails(1, arguments);
    for name in names {
        assert!(line.contains(name), "`{line}` does not contain `{name}`");
    }
    eventually("the refused command changed nothing", || (Surroundings::of(host, &[]) == before).then_some(()));
}

/// Returns the arguments of `network create` for an overlay network with these flags.
fn create<'a>(flags: &[&'a str], name: &'a str) -> Vec<&'a str> {
    [&["network", "create", "-d", "overlay"], flags, &[name]].concat()
}

const SUBNET: [&str; 4] = ["--subnet", "10.10.0.0/16", "--ip-range", "10.10.1.0/24"];

#[test]
fn invalid_peers_are_refused() {
    let cloud = Cloud::down(2, Family::V4);
    let host = &cloud.hosts[0];
    host.start(&[]);
    for own in [cloud.peer(0), Cloud::address(Family::V6, 0).to_string()] {
        assert_refused(host, &["peer", "add", &own], &[&own, "this host's own address", "under0", "peer add"]);
    }
    for (text, why) in [
        ("nowhere", "192.0.2.7"),
        ("192.0.2.0/24", "192.0.2.7"),
        ("127.0.0.1", "this host's own"),
        ("224.0.0.1", "a multicast address"),
        ("0.0.0.0", "no address"),
        ("fe80::1", "a link-local address"),
    ] {
        assert_refused(host, &["peer", "add", text], &[text, why]);
    }
    let other = cloud.peer(1);
    assert_refused(host, &["peer", "rm", &other], &[&other, "peer ls"]);
    host.ok(&["peer", "add", &other]);
    assert_refused(host, &["peer", "add", &other], &[&other, "already", "peer ls"]);
    assert_refused(host, &["peer", "add", &format!("::ffff:{other}")], &[&other, "already"]);
    host.ok(&["peer", "rm", &other]);
    assert_refused(host, &["peer", "rm", &other], &[&other]);
    assert_eq!(cloud.peers(0).len(), 0);
}

#[test]
fn invalid_overlay_networks_are_refused() {
    let cloud = Cloud::down(1, Family::V4);
    let host = &cloud.hosts[0];
    host.start(&[]);
    assert_refused(host, &create(&[], "net"), &["net", "no IPv4 subnet", "--subnet", "--ip-range"]);
    for vni in ["0", "16777216", "x", "-1"] {
        let option = format!("vni={vni}");
        assert_refused(host, &create(&[&SUBNET[..], &["-o", &option]].concat(), "net"), &["vni", vni, "1 to 16777215"]);
    }
    for option in ["uplink=eth0", "parent=eth0"] {
        assert_refused(host, &create(&[&SUBNET[..], &["-o", option]].concat(), "net"), &["overlay", "vni"]);
    }
    assert!(cloud.tunnels(0).is_none());
    cloud.create(0, "net", Cloud::VNI, &[]);
    let again = ["-o", "vni=5000", "--subnet", "10.11.0.0/16"];
    assert_refused(host, &create(&again, "other"), &["5000", "net", "vni=N"]);
    assert!(cloud.tunnels(0).is_some());
    host.ok(&["network", "rm", "net"]);
    assert!(cloud.tunnels(0).is_none(), "the last network that needs the device was removed");
}

#[test]
fn an_overlay_network_is_refused_if_the_vxlan_port_is_in_use() {
    let cloud = Cloud::down(1, Family::V4);
    let host = &cloud.hosts[0];
    host.start(&[]);
    let network = create(&SUBNET, "net");
    let remedy = ["4789", "in use", "--vxlan-port"];
    for kind in ["external", "id 9 remote 192.0.2.2", "external udp6zerocsumrx nolearning"] {
        host.netns.ip(&format!("link add vx0 type vxlan {kind} dstport 4789"));
        host.netns.ip("link set vx0 up");
        assert_refused(host, &network, &remedy);
        host.netns.ip("link del vx0");
    }
    let socket = host.netns.inside(|| std::net::UdpSocket::bind(("0.0.0.0", 4789))).expect("the port is free");
    assert_refused(host, &network, &remedy);
    drop(socket);
    host.ok(&network);
    assert!(cloud.tunnels(0).is_some());
}

#[test]
fn a_second_instance_on_a_host_needs_another_vxlan_port() {
    let cloud = Cloud::down(1, Family::V4);
    let host = &cloud.hosts[0];
    host.start(&[]);
    host.ok(&create(&SUBNET, "net"));
    let beside = Host::beside(&host.netns);
    beside.start(&[]);
    let network = create(&["--subnet", "10.12.0.0/16", "-o", "vni=77"], "net");
    assert_refused(&beside, &network, &["4789", "in use", "--vxlan-port"]);
    beside.stop(&[]);
    beside.start(&["--vxlan-port", "4790"]);
    beside.ok(&network);
    assert_eq!(host.netns.ip_json("link show type vxlan").len(), 2);
}

#[test]
fn peers_without_a_network_or_a_route_are_shown_as_such() {
    let cloud = Cloud::down(2, Family::V4);
    let host = &cloud.hosts[0];
    host.start(&[]);
    cloud.add_all_peers(0);
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
fn invalid_peer_keys_are_refused() {
    let cloud = Cloud::down(2, Family::V4);
    let host = &cloud.hosts[0];
    (0..2).for_each(|number| drop(cloud.hosts[number].start(&[])));
    let (own, other) = (cloud.key(0), cloud.key(1));
    assert_eq!(own, cloud.key(0), "the key stays the same");
    let status: serde_json::Value = host.json(&["status"]);
    assert_eq!(status["public_key"], own);
    let peer = cloud.peer(1);
    for key in ["x", "", "c2hvcnQ=", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="] {
        assert_refused(
            host,
            &["peer", "add", &peer, "--public-key", key],
            &[&format!("`{key}` is no key"), "peer key"],
        );
    }
    assert_refused(host, &["peer", "add", &peer, "--public-key", &own], &[&own, "own", "peer key"]);
    host.ok(&["peer", "add", &peer]);
    assert_eq!(cloud.peers(0)[0].public_key, None);
    assert_refused(host, &["peer", "add", &peer], &[&peer, "already"]);
    // A peer without a key can get one later.
    host.ok(&["peer", "add", &peer, "--public-key", &other]);
    assert_eq!(cloud.peers(0)[0].public_key.as_deref(), Some(other.as_str()));
    assert_refused(host, &["peer", "add", &peer, "--public-key", &other], &[&peer, "already"]);
    assert_refused(host, &["peer", "add", "192.0.2.9", "--public-key", &other], &["192.0.2.9", &other, &peer][1..]);
    let file = host.state_directory().join("wireguard.key");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(file).expect("the key").permissions());
    assert_eq!(mode & 0o7777, 0o600);
}

#[test]
fn an_encrypted_network_is_refused_if_the_wireguard_port_is_in_use() {
    let cloud = Cloud::down(1, Family::V4);
    let host = &cloud.hosts[0];
    host.start(&[]);
    // Creates the key pair, which stays.
    cloud.key(0);
    let network = create(&[&SUBNET[..], &["-o", "encrypted=true"]].concat(), "net");
    let socket = host.netns.inside(|| std::net::UdpSocket::bind(("0.0.0.0", 51872))).expect("the port is free");
    assert_refused(host, &network, &["51872", "in use", "--wireguard-port"]);
    host.stop(&[]);
    host.start(&["--wireguard-port", "51873"]);
    host.ok(&network);
    assert!(cloud.wireguard(0).is_some());
    host.ok(&["network", "rm", "net"]);
    assert!(cloud.wireguard(0).is_none(), "the last network that needs the device was removed");
    assert!(!host.netns.ip("-6 route show table main").contains("fd76:7377:6974::/48"));
    drop(socket);
}

#[test]
fn a_subnet_that_overlaps_the_underlay_is_refused() {
    let cloud = Cloud::down(2, Family::V4);
    let host = &cloud.hosts[0];
    host.start(&[]);
    cloud.add_all_peers(0);
    for driver in ["bridge", "overlay"] {
        for subnet in ["192.0.2.0/24", "192.0.0.0/16", "192.0.2.0/30"] {
            let create = ["network", "create", "-d", driver, "--subnet", subnet, "under"];
            assert_refused(host, &create, &[subnet, "under", "192.0.2.1", "own address", "choose another subnet"]);
        }
    }
    ping(&host.netns, std::net::Ipv4Addr::new(192, 0, 2, 2));
    // A peer beyond a router, and a network whose subnet would hide that peer.
    host.ok(&["network", "create", "--subnet", "203.0.113.0/24", "hides"]);
    assert_refused(host, &["peer", "add", "203.0.113.9"], &["203.0.113.9", "203.0.113.0/24", "hides"]);
    host.ok(&["network", "rm", "hides"]);
    host.ok(&["peer", "add", "203.0.113.9"]);
    let hides = ["network", "create", "--subnet", "203.0.113.0/24", "hides"];
    assert_refused(host, &hides, &["203.0.113.0/24", "203.0.113.9", "a peer", "choose another subnet"]);
    // A subnet that contains a peer is not chosen automatically.
    host.ok(&["peer", "add", "10.201.1.9"]);
    host.ok(&["network", "create", "chosen"]);
    assert!(host.ok(&["network", "ls"]).contains("10.201.2.0/24"), "{}", host.ok(&["network", "ls"]));
}
