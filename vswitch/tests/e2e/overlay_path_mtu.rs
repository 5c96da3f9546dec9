//! A path between hosts that takes less than their interfaces: who sends into the network is told.

use crate::harness::{Attached, Cloud, Family, Host, Netns, both, eventually, ping, run, tcp, udp_broadcast_of};

/// What the link in the middle takes, once it has shrunk.
const NARROW: u32 = 1400;

/// Two hosts behind two routers, a container on each. They end before what they are on.
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

    /// Has a host's kernel hear of the path: over IPv4 outer packets are fragmented, and no router says a word.
    #[track_caller]
    fn hear(&self, number: usize) {
        let peer = self.peer(1 - number);
        eventually("the kernel has heard", || {
            let mut ping = self.hosts[number].netns.command("ping");
            let said = run(ping.args(["-M", "do", "-c", "1", "-W", "1", "-s", "1430", &peer]));
            (said.stdout + &said.stderr).contains(&format!("mtu={NARROW}")).then_some(())
        });
    }

    /// What a `ping` of one packet of so many bytes without fragments is told.
    fn ping(&self, from: usize, to: std::net::IpAddr, length: u32) -> (bool, String) {
        let size = (length - if to.is_ipv4() { 28 } else { 48 }).to_string();
        let mut ping = self.containers[from].command("ping");
        let said = run(ping.args(["-M", "do", "-c", "1", "-W", "1", "-s", &size, &to.to_string()]));
        (said.code == Some(0), said.stdout + &said.stderr)
    }

    /// The containers are told by ping what fits, and no other number.
    #[track_caller]
    fn told(&self, from: usize, fits: u32) {
        let before = self.at[from].mtu;
        for to in both(&self.at[1 - from]) {
            eventually("ping is told", || {
                let (_, said) = self.ping(from, to, before);
                let says = |mtu: u32| said.contains(&format!("mtu={mtu}")) || said.contains(&format!("mtu: {mtu}"));
                assert!(!says(before - 1), "{said}");
                says(fits).then_some(())
            });
            assert!(self.ping(from, to, fits).0, "{to}");
        }
    }
}

#[test]
fn over_ipv6_connections_go_on_when_the_path_shrinks() {
    let path = Path::up(Family::V6);
    let [c0, c1] = [&path.containers[0], &path.containers[1]];
    for to in both(&path.at[1]) {
        ping(c0, to);
        tcp(c0, c1, to, 1 << 20);
    }
    path.shrink();
    // The first large packets tell the host, the next ones the containers.
    for to in both(&path.at[1]) {
        tcp(c0, c1, to, 4 << 20);
    }
    for from in 0..2 {
        path.told(from, NARROW - 70);
    }
    // What was let be cut up cannot be where the outer packet cannot: its sender is told, and cuts it up himself.
    for (from, to) in [(0, 1), (1, 0)] {
        path.containers[from].ip("route flush cache");
        eventually("fragments go", || {
            let mut ping = path.containers[from].command("ping");
            let to = path.at[to].ipv4.to_string();
            (run(ping.args(["-c", "1", "-W", "1", "-s", "4000", &to])).code == Some(0)).then_some(())
        });
    }
    // What was answered is accounted for.
    eventually("all is accounted for", || {
        let counters = path.hosts[0].counters(&path.at[0].name);
        (counters.rx_frames == counters.accounted()).then_some(())
    });
    path.hosts[0].stop(&[]);
}

#[test]
fn over_ipv4_the_path_costs_speed_until_it_is_known() {
    let path = Path::up(Family::V4);
    let [c0, c1] = [&path.containers[0], &path.containers[1]];
    path.shrink();
    for to in both(&path.at[1]) {
        tcp(c0, c1, to, 1 << 20);
    }
    path.hear(0);
    path.hear(1);
    for from in 0..2 {
        path.told(from, NARROW - 50);
    }
    for to in both(&path.at[1]) {
        tcp(c0, c1, to, 4 << 20);
    }
    // Who lets his packets be cut up is not told, and gets through.
    crate::harness::ping_with(c0, path.at[1].ipv4, 5000);
    // Nor does anything of it get lost that is for all. A new container's kernel knows nothing of the path.
    let fresh = Netns::new("fresh");
    let at = path.hosts[0].attach(&fresh, &["--network", "net"]);
    udp_broadcast_of(&fresh, at.ipv4, &[c1], 3000);
}

#[test]
fn what_has_no_room_any_more_grows_back_with_the_path() {
    let path = Path::up(Family::V6);
    path.shrink();
    let to = both(&path.at[1])[1];
    path.told(0, NARROW - 70);
    path.hosts[0].netns.ip("-6 route flush cache");
    for router in &path.routers {
        router.ip("link set mid mtu 1500");
    }
    // The container's own memory, which lasts for ten minutes.
    path.containers[0].ip("-6 route flush cache");
    eventually("the largest goes again", || path.ping(0, to, path.at[0].mtu).0.then_some(()));
}
