//! Path MTU: a path between hosts with a smaller MTU than their interfaces is reported to the
//! senders in the network.

use crate::harness::{Attached, Cloud, Family, Host, Netns, both, eventually, ping, run, tcp, udp_broadcast_of};

/// The MTU of the link in the middle after it has shrunk.
const NARROW: u32 = 1400;

/// Two hosts behind two routers, with a container on each host. The containers are dropped before
/// the hosts, and the hosts before the routers.
struct Path {
    at: Vec<Attached>,
    containers: Vec<Netns>,
    hosts: Vec<Host>,
    routers: Vec<Netns>,
    family: Family,
}

impl Path {
    #[track_caller]
    fn up(family: Family) -> Self {
        let routers = Netns::several("router", 2);
        routers[0].wire("mid", &routers[1], "mid");
        let hosts: Vec<Host> = (0..2).map(|_| Host::down()).collect();
        for (number, (router, host)) in routers.iter().zip(&hosts).enumerate() {
            router.set("net/ipv4/ip_forward", "1");
            router.set("net/ipv6/conf/all/forwarding", "1");
            router.wire("host", &host.netns, "under0");
            for (device, four, six) in [
                ("host", format!("10.9.{number}.1/24"), format!("fd09:{number}::1/64")),
                ("mid", format!("10.9.9.{}/24", number + 1), format!("fd09:9::{}/64", number + 1)),
            ] {
                router.ip(&format!("address add {four} dev {device}"));
                router.ip(&format!("address add {six} dev {device} nodad"));
            }
            router.ip(&format!("route add default via 10.9.9.{}", 2 - number));
            router.ip(&format!("route add default via fd09:9::{}", 2 - number));
            host.netns.ip(&format!("address add 10.9.{number}.2/24 dev under0"));
            host.netns.ip(&format!("address add fd09:{number}::2/64 dev under0 nodad"));
            host.netns.ip(&format!("route add default via 10.9.{number}.1"));
            host.netns.ip(&format!("route add default via fd09:{number}::1"));
        }
        let mut path = Self { at: Vec::new(), containers: Vec::new(), hosts, routers, family };
        for number in 0..2 {
            let ranges = [format!("10.10.{}.0/24", number + 1), format!("fd00:10::{}:0/112", number + 1)];
            let host = &path.hosts[number];
            host.start(&[]);
            host.ok(&["peer", "add", &path.peer(1 - number)]);
            let vni = format!("vni={}", Cloud::VNI);
            let four = ["--subnet", "10.10.0.0/16", "--ip-range", &ranges[0]];
            let six = ["--subnet", "fd00:10::/64", "--ip-range", &ranges[1]];
            let create = ["network", "create", "-d", "overlay", "-o", &vni];
            host.ok(&[&create[..], &four, &six, &["net"]].concat());
            let container = Netns::new(&format!("c{number}"));
            path.at.push(host.attach(&container, &["--network", "net"]));
            path.containers.push(container);
        }
        path
    }

    fn peer(&self, number: usize) -> String {
        match self.family {
            Family::V4 => format!("10.9.{number}.2"),
            Family::V6 => format!("fd09:{number}::2"),
        }
    }

    fn shrink(&self) {
        for router in &self.routers {
            router.ip(&format!("link set mid mtu {NARROW}"));
        }
    }

    /// Makes a host's kernel learn the path MTU. Over IPv4 the routers fragment outer packets and
    /// send no ICMP errors for them.
    #[track_caller]
    fn learn_path_mtu(&self, number: usize) {
        let peer = self.peer(1 - number);
        eventually("the host's kernel learns the path MTU", || {
            let mut ping = self.hosts[number].netns.command("ping");
            let output = run(ping.args(["-M", "do", "-c", "1", "-W", "1", "-s", "1430", &peer]));
            (output.stdout + &output.stderr).contains(&format!("mtu={NARROW}")).then_some(())
        });
    }

    /// Sends one ping with DF in a packet of this length. Returns whether it was answered, and the
    /// output.
    fn ping(&self, from: usize, to: std::net::IpAddr, length: u32) -> (bool, String) {
        let size = (length - if to.is_ipv4() { 28 } else { 48 }).to_string();
        let mut ping = self.containers[from].command("ping");
        let output = run(ping.args(["-M", "do", "-c", "1", "-W", "1", "-s", &size, &to.to_string()]));
        (output.code == Some(0), output.stdout + &output.stderr)
    }

    /// Asserts that ping in the container reports exactly this MTU.
    #[track_caller]
    fn assert_reported_mtu(&self, from: usize, fits: u32) {
        let before = self.at[from].mtu;
        for to in both(&self.at[1 - from]) {
            eventually("ping reports the MTU", || {
                let (_, output) = self.ping(from, to, before);
                let reports =
                    |mtu: u32| output.contains(&format!("mtu={mtu}")) || output.contains(&format!("mtu: {mtu}"));
                assert!(!reports(before - 1), "{output}");
                reports(fits).then_some(())
            });
            assert!(self.ping(from, to, fits).0, "{to}");
        }
    }
}

#[test]
fn connections_over_ipv6_survive_a_shrinking_path_mtu() {
    let path = Path::up(Family::V6);
    let [c0, c1] = [&path.containers[0], &path.containers[1]];
    for to in both(&path.at[1]) {
        ping(c0, to);
        tcp(c0, c1, to, 1 << 20);
    }
    path.shrink();
    // ICMP errors for the first large packets inform the host, those for the next ones the
    // containers.
    for to in both(&path.at[1]) {
        tcp(c0, c1, to, 4 << 20);
    }
    for from in 0..2 {
        path.assert_reported_mtu(from, NARROW - 70);
    }
    // Over IPv6, outer packets cannot be fragmented on the way, and thus inner packets without DF
    // cannot either. Their sender receives the MTU and fragments them itself.
    for (from, to) in [(0, 1), (1, 0)] {
        path.containers[from].ip("route flush cache");
        eventually("fragments arrive", || {
            let mut ping = path.containers[from].command("ping");
            let to = path.at[to].ipv4.to_string();
            (run(ping.args(["-c", "1", "-W", "1", "-s", "4000", &to])).code == Some(0)).then_some(())
        });
    }
    // Frames that were answered with an ICMP error are also in the counters.
    eventually("all frames are in the counters", || {
        let counters = path.hosts[0].counters(&path.at[0].name);
        (counters.rx_frames == counters.accounted()).then_some(())
    });
    path.hosts[0].stop(&[]);
}

#[test]
fn packets_over_ipv4_are_fragmented_until_the_path_mtu_is_known() {
    let path = Path::up(Family::V4);
    let [c0, c1] = [&path.containers[0], &path.containers[1]];
    path.shrink();
    for to in both(&path.at[1]) {
        tcp(c0, c1, to, 1 << 20);
    }
    path.learn_path_mtu(0);
    path.learn_path_mtu(1);
    for from in 0..2 {
        path.assert_reported_mtu(from, NARROW - 50);
    }
    for to in both(&path.at[1]) {
        tcp(c0, c1, to, 4 << 20);
    }
    // Packets without DF pass without an ICMP error.
    crate::harness::ping_with(c0, path.at[1].ipv4, 5000);
    // Long broadcasts pass, too. The kernel of a new container has no path MTU cached.
    let fresh = Netns::new("fresh");
    let at = path.hosts[0].attach(&fresh, &["--network", "net"]);
    udp_broadcast_of(&fresh, at.ipv4, &[c1], 3000);
}

#[test]
fn the_reported_mtu_grows_again_with_the_path() {
    let path = Path::up(Family::V6);
    path.shrink();
    let to = both(&path.at[1])[1];
    path.assert_reported_mtu(0, NARROW - 70);
    for router in &path.routers {
        router.ip("link set mid mtu 1500");
    }
    // Only now: until the path is wide again, a packet would teach the host the narrow MTU again.
    path.hosts[0].netns.ip("-6 route flush cache");
    // The container caches the path MTU for ten minutes.
    path.containers[0].ip("-6 route flush cache");
    eventually("the largest packet passes again", || path.ping(0, to, path.at[0].mtu).0.then_some(()));
}
