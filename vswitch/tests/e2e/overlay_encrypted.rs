//! Encrypted overlay networks: they behave like other overlay networks, and nothing of their
//! traffic is in the clear on the underlay.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::harness::{
    Cloud, Family, Flow, Frame, Host, Mac, Netns, RawPort, Tap, TapCounts, eventually, ping, ping_with, reaches, tcp,
    udp,
};

/// Only the containers may see this text.
const SECRET: &[u8] = b"what only the other container may read";
/// The route that keeps packets for WireGuard from leaving through another interface.
const UNREACHABLE_ROUTE: &str = "unreachable fd76:7377:6974::/48";

/// Returns the number of rules that keep packets for WireGuard from leaving through another
/// interface.
#[track_caller]
fn count_rules(host: &Host) -> usize {
    host.netns.ip("-6 rule show").matches("to fd76:7377:6974::/48").count()
}

/// A container that sends the secret continuously: to the broadcast address, to a known and to an
/// unknown station.
struct SecretSender {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl SecretSender {
    fn start(container: &Netns, own: Mac, other: Mac) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (port, stopped) = (RawPort::open(container, "eth0"), stop.clone());
        let text = std::str::from_utf8(SECRET).expect("text").to_owned();
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let begun = Instant::now();
                for destination in [Mac::BROADCAST, other, Mac([2, 0, 0, 0, 0x99, 0x99])] {
                    // The interface may have been removed.
                    let _gone = port.try_send(&Frame::new(destination, own, &text));
                }
                // Most of the forwarding happens during the send call. The pause leaves an emulated
                // machine time for other work: `up` takes a minute there even without this load.
                thread::sleep((begun.elapsed() * 20).max(Duration::from_millis(10)));
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for SecretSender {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

/// Waits until a container receives the secret again.
#[track_caller]
fn await_secret(container: &Netns, from: Mac) {
    let port = RawPort::open(container, "eth0");
    port.expect_such("the secret", |Frame(bytes)| Tap::contains(bytes, SECRET) && bytes[6..12] == from.0);
}

#[track_caller]
fn assert_all_reach_each_other(cloud: &Cloud) {
    for (one, other) in cloud.pairs() {
        let (from, to) = (&cloud.containers[one], &cloud.containers[other]);
        for address in cloud.addresses(other) {
            ping(from, address);
            ping_with(from, address, 4000);
            // One datagram at a time: WireGuard does not keep the order of packets sent from
            // several CPUs.
            for size in [18, 18, 1300, 1300, 9000] {
                udp(from, to, address, size, 1);
            }
            tcp(from, to, address, 1 << 20);
        }
        assert_eq!(
            cloud.port_of(one, cloud.at[other].mac),
            Some(cloud.peer(other)),
            "the station is learned at the tunnel of its peer"
        );
    }
}

#[test]
fn containers_on_three_hosts_are_one_segment_over_ipv4_and_ipv6() {
    for family in [Family::V4, Family::V6] {
        let cloud = Cloud::encrypted(3, family, &[], &[]);
        assert_all_reach_each_other(&cloud);
        for number in 0..3 {
            let peers = cloud.peers(number);
            assert!(peers.iter().all(|peer| (peer.state.as_str(), peer.networks) == ("up", 1)), "{peers:?}");
            assert!(peers.iter().all(|peer| peer.public_key.is_some() && peer.last_handshake_seconds.is_some()));
            for (name, counters) in cloud.hosts[number].ports(&["net"]) {
                assert_eq!(counters.accounted(), counters.rx_frames, "{name}: {counters:?}");
            }
            assert!(cloud.hosts[number].netns.ip("-6 route show").contains(UNREACHABLE_ROUTE));
            assert_eq!(count_rules(&cloud.hosts[number]), 2);
        }
        let table = cloud.hosts[0].ok(&["peer", "ls"]);
        assert!(["KEY", "HANDSHAKE", "yes"].iter().all(|word| table.contains(word)), "{table}");
        let host = &cloud.hosts[0];
        host.stop(&[]);
        assert!(cloud.wireguard(0).is_none() && cloud.tunnels(0).is_none());
        assert!(!host.netns.ip("-6 route show").contains("fd76:"), "{}", host.netns.ip("-6 route show"));
        assert_eq!(count_rules(host), 0);
        host.start(&[]);
        cloud.wait_for_reach();
    }
}

/// Sends the secret continuously while a network goes through all events of its life. Returns what
/// was captured on the underlay.
fn capture_the_life_of_a_network(encrypted: bool) -> TapCounts {
    let mut cloud = Cloud::down(3, Family::V4);
    let macs = [1, 2, 3].map(|number| Mac([2, 0, 0, 0x5e, 0xc4, number]));
    let tap = Tap::start(&cloud, SECRET, &macs);
    let flags: &[&str] = if encrypted { &["-o", "encrypted=true"] } else { &[] };
    // From the start, when no host has a peer.
    for (number, mac) in macs.iter().enumerate() {
        cloud.hosts[number].start(&[]);
        cloud.create(number, "net", Cloud::VNI, flags);
        cloud.attach_container_with(number, &["--mac", &mac.to_string()]);
    }
    let senders: Vec<SecretSender> = (0..3)
        .map(|number| SecretSender::start(&cloud.containers[number], macs[number], macs[(number + 1) % 3]))
        .collect();
    if encrypted {
        // Peers without a key.
        cloud.hosts[0].ok(&["peer", "add", &cloud.peer(1)]);
        let status: serde_json::Value = cloud.hosts[0].json(&["status"]);
        let notes = status["notes"].to_string();
        assert!(notes.contains(&cloud.peer(1)) && notes.contains("--public-key"), "{notes}");
        assert_eq!(cloud.peers(0)[0].networks, 0);
    }
    for (number, other) in cloud.pairs() {
        cloud.add_peer(number, other);
    }
    for (from, to) in cloud.pairs() {
        await_secret(&cloud.containers[to], macs[from]);
    }
    // A new key of one host.
    let host = &cloud.hosts[1];
    let before = cloud.key(1);
    host.kill_daemon();
    std::fs::remove_file(host.state_directory().join("wireguard.key")).expect("the key is there");
    host.start(&[]);
    assert_ne!(cloud.key(1), before);
    for other in [0, 2] {
        cloud.add_peer(other, 1);
    }
    for other in [0, 2] {
        await_secret(&cloud.containers[other], macs[1]);
        await_secret(&cloud.containers[1], macs[other]);
    }
    // A peer that is removed and added again.
    cloud.hosts[0].ok(&["peer", "rm", &cloud.peer(2)]);
    let none = reaches(&cloud.containers[0], &cloud.containers[2], cloud.addresses(2)[0], false);
    assert_eq!(none.to_string(), "no");
    cloud.add_peer(0, 2);
    await_secret(&cloud.containers[0], macs[2]);
    // A daemon that is killed and started again.
    cloud.hosts[0].kill_daemon();
    thread::sleep(Duration::from_millis(500));
    cloud.hosts[0].start(&[]);
    await_secret(&cloud.containers[0], macs[1]);
    await_secret(&cloud.containers[2], macs[0]);
    // A WireGuard device that is removed by another program.
    if encrypted {
        let device = cloud.wireguard(0).expect("the device");
        cloud.hosts[0].netns.ip(&format!("link del {}", device["ifname"].as_str().expect("a name")));
        eventually("the device is created again", || {
            cloud.wireguard(0).filter(|now| now["ifindex"] != device["ifindex"])
        });
        await_secret(&cloud.containers[2], macs[0]);
    }
    cloud.hosts[0].stop(&[]);
    drop(senders);
    tap.read()
}

#[test]
fn an_encrypted_network_never_sends_in_the_clear() {
    let TapCounts { plain, encrypted } = capture_the_life_of_a_network(true);
    assert!(plain == 0 && encrypted > 20, "{plain} in the clear, {encrypted} encrypted");
    // Control: the secret is found if the network is not encrypted.
    let TapCounts { plain, encrypted } = capture_the_life_of_a_network(false);
    assert!(plain > 20 && encrypted == 0, "{plain} in the clear, {encrypted} encrypted");
}

/// The ways in which other programs make a host lose IPv6 routes and addresses.
const LOSSES: [fn(&Netns, &str); 4] = [
    |netns, _| ["1", "0"].iter().for_each(|off| netns.set("net/ipv6/conf/all/disable_ipv6", off)),
    |netns, _| ["down", "up"].iter().for_each(|state| drop(netns.ip(&format!("link set lo {state}")))),
    |netns, device| ["down", "up"].iter().for_each(|state| drop(netns.ip(&format!("link set {device} {state}")))),
    |netns, _| drop(netns.ip("-6 route flush proto 118")),
];

#[test]
fn lost_routes_are_restored_and_nothing_is_sent_in_the_clear() {
    let cloud = Cloud::encrypted(2, Family::V4, &[], &[]);
    let (host, macs) = (&cloud.hosts[0].netns, [0, 1].map(|number| cloud.at[number].mac));
    // A default route to a router that would accept any packet.
    let add_default_route = || {
        host.ip("-6 address replace 2001:db8::1/64 dev under0 nodad");
        host.ip("-6 route replace default via 2001:db8::2 dev under0");
    };
    add_default_route();
    let tap = Tap::start(&cloud, SECRET, &macs);
    let sender = SecretSender::start(&cloud.containers[0], macs[0], macs[1]);
    await_secret(&cloud.containers[1], macs[0]);
    for lose in LOSSES {
        let device = cloud.wireguard(0).expect("the device");
        lose(host, device["ifname"].as_str().expect("a name"));
        add_default_route();
        await_secret(&cloud.containers[1], macs[0]);
    }
    let TapCounts { plain, encrypted } = tap.read();
    assert!(plain == 0 && encrypted > LOSSES.len() as u64, "{plain} in the clear, {encrypted} encrypted");
    // Control: without the rules, and without a daemon that restores them, the secret leaves in the
    // clear.
    cloud.hosts[0].kill_daemon();
    let outside = RawPort::open(&cloud.underlay, "u0");
    let rules = host.ip_json("-6 rule show");
    let ours: Vec<_> = rules.iter().filter(|rule| rule["protocol"] == "118").collect();
    assert_eq!(ours.len(), 2, "{rules:?}");
    ours.iter().for_each(|rule| drop(host.ip(&format!("-6 rule del pref {}", rule["priority"]))));
    host.ip("-6 route flush proto 118");
    add_default_route();
    outside.expect_such("the secret", |Frame(bytes)| Tap::contains(bytes, SECRET));
    drop(sender);
}

#[test]
fn the_mtu_leaves_room_for_wireguard() {
    for (family, mtu) in [(Family::V4, 1370), (Family::V6, 1350)] {
        let cloud = Cloud::encrypted(2, family, &[], &[]);
        assert_eq!([cloud.at[0].mtu, cloud.at[1].mtu], [mtu; 2], "{family:?}");
        let taps = [0, 1].map(|number| RawPort::open(&cloud.underlay, &format!("u{number}")));
        for (from, to) in cloud.pairs() {
            // With DF set, a packet of this size passes, and one that is one byte longer does not.
            let text = cloud.at[to].ipv4.to_string();
            let ping = |size: u32| {
                let size = size.to_string();
                let mut ping = cloud.containers[from].command("ping");
                crate::harness::run(ping.args(["-M", "do", "-c", "1", "-W", "20", "-s", &size, &text]))
            };
            assert_eq!(ping(mtu - 28).code, Some(0), "{family:?}");
            assert_ne!(ping(mtu - 27).code, Some(0), "{family:?}");
        }
        // The frames are not fragmented: the longest one fills the underlay's MTU.
        let longest = taps.iter().flat_map(RawPort::pending).map(|frame| frame.0.len()).max();
        assert_eq!(longest, Some(1514), "{family:?}");
    }
    // A larger MTU of the underlay gives a larger MTU of the network, also if the network is older
    // than its peers.
    let mut cloud = Cloud::down(2, Family::V4);
    cloud.underlay.ip("link set br0 mtu 9000");
    for number in 0..2 {
        cloud.underlay.ip(&format!("link set u{number} mtu 9000"));
        cloud.hosts[number].netns.ip("link set under0 mtu 9000");
        cloud.hosts[number].start(&[]);
        cloud.create(number, "net", Cloud::VNI, &["-o", "encrypted=true"]);
    }
    cloud.pairs().into_iter().for_each(|(number, other)| cloud.add_peer(number, other));
    (0..2).for_each(|number| cloud.attach_container(number));
    cloud.wait_for_reach();
    assert_eq!([cloud.at[0].mtu, cloud.at[1].mtu], [8870; 2]);
    ping_with(&cloud.containers[0], cloud.at[1].ipv4, 8800);
    tcp(&cloud.containers[0], &cloud.containers[1], cloud.at[1].ipv4, 1 << 20);
}

#[test]
fn longer_packets_are_fragmented_on_the_underlay_or_reported_to_the_sender() {
    for (family, fits) in [(Family::V4, 1370), (Family::V6, 1350)] {
        let cloud = Cloud::encrypted(2, family, &[], &["-o", "mtu=2000"]);
        assert_eq!([cloud.at[0].mtu, cloud.at[1].mtu], [2000; 2]);
        let (one, to) = (&cloud.containers[0], cloud.at[1].ipv4);
        eventually("a sender with DF set receives the MTU", || {
            let mut ping = one.command("ping");
            let output =
                crate::harness::run(ping.args(["-M", "do", "-c", "1", "-W", "1", "-s", "1900", &to.to_string()]));
            (output.stdout + &output.stderr).contains(&format!("mtu = {fits}")).then_some(())
        });
        // The echo replies have no DF, so they may be fragmented, and WireGuard fragments them.
        ping_with(one, to, 1900);
        tcp(one, &cloud.containers[1], to, 1 << 20);
        // Long broadcasts are fragmented, too.
        crate::harness::udp_broadcast_of(one, cloud.at[0].ipv4, &[&cloud.containers[1]], 4000);
    }
}

#[test]
fn traffic_continues_without_a_daemon_if_the_kernel_has_wireguard() {
    let cloud = Cloud::encrypted(2, Family::V4, &[], &[]);
    let [one, other] = [&cloud.containers[0], &cloud.containers[1]];
    ping(one, cloud.at[1].ipv4);
    let device = cloud.wireguard(0).expect("the device")["ifindex"].clone();
    if cloud.in_kernel() {
        let flow = Flow::start(one, other, cloud.at[1].ipv4);
        flow.goes_on(50);
        cloud.hosts[0].kill_daemon();
        flow.goes_on(100);
        cloud.hosts[0].start(&[]);
        flow.goes_on(100);
        // Order is not checked: the sender moves between CPUs, and each CPU has a queue of its own.
        flow.assert_none_lost();
        assert_eq!(cloud.wireguard(0).expect("the device")["ifindex"], device, "the new daemon keeps the device");
    } else {
        eprintln!("this kernel has no WireGuard: the daemon encrypts, and traffic stops with the daemon");
        cloud.hosts[0].kill_daemon();
        assert_eq!(reaches(one, other, cloud.addresses(1)[0], false).to_string(), "no");
        assert!(cloud.hosts[0].netns.ip("-6 route show").contains(UNREACHABLE_ROUTE), "the route outlives the daemon");
        cloud.hosts[0].start(&[]);
        cloud.wait_for_reach();
    }
    ping(one, cloud.at[1].ipv4);
    tcp(other, one, cloud.at[0].ipv4, 1 << 20);
    // `down` also removes the device and routes that a killed daemon left.
    cloud.hosts[0].kill_daemon();
    cloud.hosts[0].stop(&[]);
    assert!(cloud.wireguard(0).is_none() && !cloud.hosts[0].netns.ip("-6 route show").contains("fd76:"));
}

#[test]
fn two_instances_on_a_host_have_separate_routes_and_rules() {
    let cloud = Cloud::encrypted(2, Family::V4, &[], &[]);
    let host = &cloud.hosts[0];
    let beside = Host::beside(&host.netns);
    beside.start(&["--vxlan-port", "4790", "--wireguard-port", "51873"]);
    let network = ["-o", "encrypted=true", "-o", "vni=77", "--subnet", "10.12.0.0/16", "net"];
    beside.ok(&[&["network", "create", "-d", "overlay"][..], &network].concat());
    let routes = || host.netns.ip("-6 route show").matches(UNREACHABLE_ROUTE).count();
    assert_eq!((routes(), count_rules(host)), (2, 4));
    ping(&cloud.containers[0], cloud.at[1].ipv4);
    beside.stop(&[]);
    assert_eq!((routes(), count_rules(host)), (1, 2));
    ping(&cloud.containers[0], cloud.at[1].ipv4);
    host.ok(&["detach", "--netns", &cloud.containers[0].path_argument()]);
    host.ok(&["network", "rm", "net"]);
    assert_eq!((routes(), count_rules(host)), (0, 0));
    assert!(cloud.wireguard(0).is_none());
}
