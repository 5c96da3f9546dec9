//! Encrypted networks: they are overlay networks like others, and of what is sent in them nothing is on the underlay.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::harness::{
    Cloud, Family, Flow, Frame, Host, Mac, Netns, Overheard, RawPort, Tap, eventually, ping, ping_with, reaches, tcp,
    udp,
};

/// What nobody but the containers may read.
const SECRET: &[u8] = b"what only the other container may read";
/// What the route looks like that keeps what belongs into WireGuard from going elsewhere.
const KEPT: &str = "unreachable fd76:7377:6974::/48";

/// How many rules keep what belongs into WireGuard from going elsewhere.
#[track_caller]
fn rules(host: &Host) -> usize {
    host.netns.ip("-6 rule show").matches("to fd76:7377:6974::/48").count()
}

/// A container that says the secret all the time: to all, to a station that is known and to one that is not.
struct Talker {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Talker {
    fn start(container: &Netns, own: Mac, other: Mac) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (port, stopped) = (RawPort::open(container, "eth0"), stop.clone());
        let text = std::str::from_utf8(SECRET).expect("text").to_owned();
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let begun = Instant::now();
                for destination in [Mac::BROADCAST, other, Mac([2, 0, 0, 0, 0x99, 0x99])] {
                    // Its interface may be gone.
                    let _gone = port.try_send(&Frame::new(destination, own, &text));
                }
                // Much of the way is walked while they are sent. An emulated machine has to come to other things, too: `up`
                // spends a minute there as it is.
                thread::sleep((begun.elapsed() * 20).max(Duration::from_millis(10)));
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Talker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

/// Waits until a container hears the secret from now on.
#[track_caller]
fn hears(container: &Netns, from: Mac) {
    let port = RawPort::open(container, "eth0");
    port.expect_such("the secret", |Frame(bytes)| Tap::holds(bytes, SECRET) && bytes[6..12] == from.0);
}

#[track_caller]
fn all_reach_each_other(cloud: &Cloud) {
    for (one, other) in cloud.pairs() {
        let (from, to) = (&cloud.containers[one], &cloud.containers[other]);
        for address in cloud.addresses(other) {
            ping(from, address);
            ping_with(from, address, 4000);
            // One at a time: from several CPUs, WireGuard does not keep their order.
            for size in [18, 18, 1300, 1300, 9000] {
                udp(from, to, address, size, 1);
            }
            tcp(from, to, address, 1 << 20);
        }
        assert_eq!(cloud.port_of(one, cloud.at[other].mac), Some(cloud.peer(other)), "learned behind its peer");
    }
}

#[test]
fn containers_on_three_hosts_are_one_segment_over_ipv4_and_ipv6() {
    for family in [Family::V4, Family::V6] {
        let cloud = Cloud::encrypted(3, family, &[], &[]);
        all_reach_each_other(&cloud);
        for number in 0..3 {
            let peers = cloud.peers(number);
            assert!(peers.iter().all(|peer| (peer.state.as_str(), peer.networks) == ("up", 1)), "{peers:?}");
            assert!(peers.iter().all(|peer| peer.public_key.is_some() && peer.last_handshake_seconds.is_some()));
            for (name, counters) in cloud.hosts[number].ports(&["net"]) {
                assert_eq!(counters.accounted(), counters.rx_frames, "{name}: {counters:?}");
            }
            assert!(cloud.hosts[number].netns.ip("-6 route show").contains(KEPT));
            assert_eq!(rules(&cloud.hosts[number]), 2);
        }
        let table = cloud.hosts[0].ok(&["peer", "ls"]);
        assert!(["KEY", "HANDSHAKE", "yes"].iter().all(|word| table.contains(word)), "{table}");
        let host = &cloud.hosts[0];
        host.stop(&[]);
        assert!(cloud.wireguard(0).is_none() && cloud.tunnels(0).is_none());
        assert!(!host.netns.ip("-6 route show").contains("fd76:"), "{}", host.netns.ip("-6 route show"));
        assert_eq!(rules(host), 0);
        host.start(&[]);
        cloud.meet();
    }
}

/// Has one container talk all the time, through all that happens to a network; what was on the underlay.
fn what_is_read(encrypted: bool) -> Overheard {
    let mut cloud = Cloud::down(3, Family::V4);
    let macs = [1, 2, 3].map(|number| Mac([2, 0, 0, 0x5e, 0xc4, number]));
    let tap = Tap::on(&cloud, SECRET, &macs);
    let flags: &[&str] = if encrypted { &["-o", "encrypted=true"] } else { &[] };
    // From the first moment: nobody knows anybody.
    for (number, mac) in macs.iter().enumerate() {
        cloud.hosts[number].start(&[]);
        cloud.create(number, "net", Cloud::VNI, flags);
        cloud.inhabit_with(number, &["--mac", &mac.to_string()]);
    }
    let talkers: Vec<Talker> =
        (0..3).map(|number| Talker::start(&cloud.containers[number], macs[number], macs[(number + 1) % 3])).collect();
    if encrypted {
        // Peers without a key.
        cloud.hosts[0].ok(&["peer", "add", &cloud.peer(1)]);
        let status: serde_json::Value = cloud.hosts[0].json(&["status"]);
        let notes = status["notes"].to_string();
        assert!(notes.contains(&cloud.peer(1)) && notes.contains("--public-key"), "{notes}");
        assert_eq!(cloud.peers(0)[0].networks, 0);
    }
    for (number, other) in cloud.pairs() {
        cloud.introduce(number, other);
    }
    for (from, to) in cloud.pairs() {
        hears(&cloud.containers[to], macs[from]);
    }
    // Another key.
    let host = &cloud.hosts[1];
    let before = cloud.key(1);
    host.kill_daemon();
    std::fs::remove_file(host.state_directory().join("wireguard.key")).expect("the key is there");
    host.start(&[]);
    assert_ne!(cloud.key(1), before);
    for other in [0, 2] {
        cloud.introduce(other, 1);
    }
    for other in [0, 2] {
        hears(&cloud.containers[other], macs[1]);
        hears(&cloud.containers[1], macs[other]);
    }
    // A peer that is removed, and comes again.
    cloud.hosts[0].ok(&["peer", "rm", &cloud.peer(2)]);
    let none = reaches(&cloud.containers[0], &cloud.containers[2], cloud.addresses(2)[0], false);
    assert_eq!(none.to_string(), "no");
    cloud.introduce(0, 2);
    hears(&cloud.containers[0], macs[2]);
    // A daemon that dies, and the next.
    cloud.hosts[0].kill_daemon();
    thread::sleep(Duration::from_millis(500));
    cloud.hosts[0].start(&[]);
    hears(&cloud.containers[0], macs[1]);
    hears(&cloud.containers[2], macs[0]);
    // A device that somebody removes.
    if encrypted {
        let device = cloud.wireguard(0).expect("the device");
        cloud.hosts[0].netns.ip(&format!("link del {}", device["ifname"].as_str().expect("a name")));
        eventually("it is made again", || cloud.wireguard(0).filter(|now| now["ifindex"] != device["ifindex"]));
        hears(&cloud.containers[2], macs[0]);
    }
    cloud.hosts[0].stop(&[]);
    drop(talkers);
    tap.read()
}

#[test]
fn nothing_of_an_encrypted_network_is_on_the_underlay_whatever_happens() {
    let Overheard { plain, encrypted } = what_is_read(true);
    assert!(plain == 0 && encrypted > 20, "{plain} in the clear, {encrypted} encrypted");
    // In the clear, it is found.
    let Overheard { plain, encrypted } = what_is_read(false);
    assert!(plain > 20 && encrypted == 0, "{plain} in the clear, {encrypted} encrypted");
}

/// The ways in which somebody makes a host lose routes and addresses of its IPv6.
const LOSSES: [fn(&Netns, &str); 4] = [
    |netns, _| ["1", "0"].iter().for_each(|off| netns.set("net/ipv6/conf/all/disable_ipv6", off)),
    |netns, _| ["down", "up"].iter().for_each(|state| drop(netns.ip(&format!("link set lo {state}")))),
    |netns, device| ["down", "up"].iter().for_each(|state| drop(netns.ip(&format!("link set {device} {state}")))),
    |netns, _| drop(netns.ip("-6 route flush proto 118")),
];

#[test]
fn nothing_leaves_in_the_clear_when_routes_are_lost_and_it_goes_on() {
    let cloud = Cloud::encrypted(2, Family::V4, &[], &[]);
    let (host, macs) = (&cloud.hosts[0].netns, [0, 1].map(|number| cloud.at[number].mac));
    // A router that takes whatever it is given.
    let way_out = || {
        host.ip("-6 address replace 2001:db8::1/64 dev under0 nodad");
        host.ip("-6 route replace default via 2001:db8::2 dev under0");
    };
    way_out();
    let tap = Tap::on(&cloud, SECRET, &macs);
    let talker = Talker::start(&cloud.containers[0], macs[0], macs[1]);
    hears(&cloud.containers[1], macs[0]);
    for lose in LOSSES {
        let device = cloud.wireguard(0).expect("the device");
        lose(host, device["ifname"].as_str().expect("a name"));
        way_out();
        hears(&cloud.containers[1], macs[0]);
    }
    let Overheard { plain, encrypted } = tap.read();
    assert!(plain == 0 && encrypted > LOSSES.len() as u64, "{plain} in the clear, {encrypted} encrypted");
    // It is the rules that hold it: without them, and somebody to make them again, it is found outside.
    cloud.hosts[0].kill_daemon();
    let outside = RawPort::open(&cloud.underlay, "u0");
    let rules = host.ip_json("-6 rule show");
    let ours: Vec<_> = rules.iter().filter(|rule| rule["protocol"] == "118").collect();
    assert_eq!(ours.len(), 2, "{rules:?}");
    ours.iter().for_each(|rule| drop(host.ip(&format!("-6 rule del pref {}", rule["priority"]))));
    host.ip("-6 route flush proto 118");
    way_out();
    outside.expect_such("the secret", |Frame(bytes)| Tap::holds(bytes, SECRET));
    drop(talker);
}

#[test]
fn what_fits_is_what_wireguard_leaves() {
    for (family, mtu) in [(Family::V4, 1370), (Family::V6, 1350)] {
        let cloud = Cloud::encrypted(2, family, &[], &[]);
        assert_eq!([cloud.at[0].mtu, cloud.at[1].mtu], [mtu; 2], "{family:?}");
        let taps = [0, 1].map(|number| RawPort::open(&cloud.underlay, &format!("u{number}")));
        for (from, to) in cloud.pairs() {
            // With DF, not one byte more.
            let text = cloud.at[to].ipv4.to_string();
            let ping = |size: u32| {
                let size = size.to_string();
                let mut ping = cloud.containers[from].command("ping");
                crate::harness::run(ping.args(["-M", "do", "-c", "1", "-W", "20", "-s", &size, &text]))
            };
            assert_eq!(ping(mtu - 28).code, Some(0), "{family:?}");
            assert_ne!(ping(mtu - 27).code, Some(0), "{family:?}");
        }
        // Whole: the longest is as long as the underlay takes.
        let longest = taps.iter().flat_map(RawPort::pending).map(|frame| frame.0.len()).max();
        assert_eq!(longest, Some(1514), "{family:?}");
    }
    // Where the underlay is larger, so is what fits, also in a network that was there before its peers.
    let mut cloud = Cloud::down(2, Family::V4);
    cloud.underlay.ip("link set br0 mtu 9000");
    for number in 0..2 {
        cloud.underlay.ip(&format!("link set u{number} mtu 9000"));
        cloud.hosts[number].netns.ip("link set under0 mtu 9000");
        cloud.hosts[number].start(&[]);
        cloud.create(number, "net", Cloud::VNI, &["-o", "encrypted=true"]);
    }
    cloud.pairs().into_iter().for_each(|(number, other)| cloud.introduce(number, other));
    (0..2).for_each(|number| cloud.inhabit(number));
    cloud.meet();
    assert_eq!([cloud.at[0].mtu, cloud.at[1].mtu], [8870; 2]);
    ping_with(&cloud.containers[0], cloud.at[1].ipv4, 8800);
    tcp(&cloud.containers[0], &cloud.containers[1], cloud.at[1].ipv4, 1 << 20);
}

#[test]
fn what_is_longer_is_cut_up_on_the_underlay_or_its_sender_told() {
    for (family, fits) in [(Family::V4, 1370), (Family::V6, 1350)] {
        let cloud = Cloud::encrypted(2, family, &[], &["-o", "mtu=2000"]);
        assert_eq!([cloud.at[0].mtu, cloud.at[1].mtu], [2000; 2]);
        let (one, to) = (&cloud.containers[0], cloud.at[1].ipv4);
        eventually("who wants no fragments is told what fits", || {
            let mut ping = one.command("ping");
            let said =
                crate::harness::run(ping.args(["-M", "do", "-c", "1", "-W", "1", "-s", "1900", &to.to_string()]));
            (said.stdout + &said.stderr).contains(&format!("mtu = {fits}")).then_some(())
        });
        // The answers are not the sender's to cut up: they may be, and WireGuard does.
        ping_with(one, to, 1900);
        tcp(one, &cloud.containers[1], to, 1 << 20);
        // Also of what is for all.
        crate::harness::udp_broadcast_of(one, cloud.at[0].ipv4, &[&cloud.containers[1]], 4000);
    }
}

#[test]
fn traffic_goes_on_without_a_daemon_where_the_kernel_has_wireguard() {
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
        // In whatever order: the sender moves from CPU to CPU, and each has a queue of its own.
        flow.assert_none_lost();
        assert_eq!(cloud.wireguard(0).expect("the device")["ifindex"], device, "it is the same device");
    } else {
        eprintln!("this kernel has no WireGuard: the daemon does its work, and traffic stops with it");
        cloud.hosts[0].kill_daemon();
        assert_eq!(reaches(one, other, cloud.addresses(1)[0], false).to_string(), "no");
        assert!(cloud.hosts[0].netns.ip("-6 route show").contains(KEPT), "it outlives the daemon");
        cloud.hosts[0].start(&[]);
        cloud.meet();
    }
    ping(one, cloud.at[1].ipv4);
    tcp(other, one, cloud.at[0].ipv4, 1 << 20);
    // What a dead daemon has left is removed, too.
    cloud.hosts[0].kill_daemon();
    cloud.hosts[0].stop(&[]);
    assert!(cloud.wireguard(0).is_none() && !cloud.hosts[0].netns.ip("-6 route show").contains("fd76:"));
}

#[test]
fn of_two_instances_on_a_host_each_has_its_own_and_leaves_the_others() {
    let cloud = Cloud::encrypted(2, Family::V4, &[], &[]);
    let host = &cloud.hosts[0];
    let beside = Host::beside(&host.netns);
    beside.start(&["--vxlan-port", "4790", "--wireguard-port", "51873"]);
    let network = ["-o", "encrypted=true", "-o", "vni=77", "--subnet", "10.12.0.0/16", "net"];
    beside.ok(&[&["network", "create", "-d", "overlay"][..], &network].concat());
    let routes = || host.netns.ip("-6 route show").matches(KEPT).count();
    assert_eq!((routes(), rules(host)), (2, 4));
    ping(&cloud.containers[0], cloud.at[1].ipv4);
    beside.stop(&[]);
    assert_eq!((routes(), rules(host)), (1, 2));
    ping(&cloud.containers[0], cloud.at[1].ipv4);
    host.ok(&["detach", "--netns", &cloud.containers[0].path_argument()]);
    host.ok(&["network", "rm", "net"]);
    assert_eq!((routes(), rules(host)), (0, 0));
    assert!(cloud.wireguard(0).is_none());
}
