//! Overlay networks: hosts on one underlay, each with a switch of its own, and a container on each.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};

use serde::Deserialize;
use serde_json::Value;

use super::{Attached, Host, Netns, Running, both, eventually, reaches, spawn};

/// What the tunnels go over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

/// A row of `peer ls`.
#[derive(Clone, Debug, Deserialize)]
pub struct PeerRow {
    pub address: IpAddr,
    pub state: String,
    pub interface: Option<String>,
    pub last_seen_seconds: Option<u64>,
    pub public_key: Option<String>,
    pub last_handshake_seconds: Option<u64>,
    pub networks: usize,
    pub rx_bytes: u64,
    pub rx_frames: u64,
}

/// The hosts, each with `under0` on the underlay, and what is on them.
pub struct Cloud {
    pub at: Vec<Attached>,
    pub containers: Vec<Netns>,
    pub hosts: Vec<Host>,
    pub underlay: Netns,
    pub family: Family,
}

impl Cloud {
    /// The network's VNI.
    pub const VNI: &str = "5000";

    /// So many hosts whose switches are not up.
    pub fn down(count: usize, family: Family) -> Self {
        let underlay = Netns::new("under");
        underlay.ip("link add br0 type bridge mcast_snooping 0");
        underlay.silence("br0");
        underlay.ip("link set br0 up");
        let cloud = Self {
            at: Vec::new(),
            containers: Vec::new(),
            hosts: (0..count).map(|number| Host::called(&Self::hostname(number))).collect(),
            underlay,
            family,
        };
        for number in 0..count {
            cloud.plug(&cloud.hosts[number].netns, number);
        }
        cloud
    }

    /// Joins a machine to the underlay, as its host of this number.
    pub fn plug(&self, netns: &Netns, number: usize) {
        let port = format!("u{number}");
        self.underlay.wire(&port, netns, "under0");
        self.underlay.silence(&port);
        self.underlay.ip(&format!("link set {port} master br0"));
        for address in [Self::address(Family::V4, number), Self::address(Family::V6, number)] {
            let (length, flags) = if address.is_ipv4() { (24, "") } else { (64, "nodad") };
            netns.ip(&format!("address add {address}/{length} dev under0 {flags}"));
        }
    }

    /// Hosts whose switches are up and know each other, with network `net` and a container in it on each. They begin when
    /// the last of all has been told of.
    #[track_caller]
    pub fn up(count: usize, family: Family) -> Self {
        Self::with(count, family, &[], &[])
    }

    /// The same with flags for `up` and for the network.
    #[track_caller]
    pub fn with(count: usize, family: Family, up: &[&str], network: &[&str]) -> Self {
        let mut cloud = Self::down(count, family);
        for number in 0..count {
            cloud.hosts[number].start(up);
            cloud.acquaint(number);
            cloud.create(number, "net", Self::VNI, network);
        }
        for number in 0..count {
            cloud.inhabit(number);
        }
        cloud
    }

    /// The same, whose network is encrypted, and who know each other's public keys.
    #[track_caller]
    pub fn encrypted(count: usize, family: Family, up: &[&str], network: &[&str]) -> Self {
        let mut cloud = Self::down(count, family);
        (0..count).for_each(|number| drop(cloud.hosts[number].start(up)));
        for number in 0..count {
            for other in (0..count).filter(|other| *other != number) {
                cloud.introduce(number, other);
            }
            cloud.create(number, "net", Self::VNI, &[&["-o", "encrypted=true"], network].concat());
            cloud.inhabit(number);
        }
        cloud.meet();
        cloud
    }

    /// Waits until all reach each other. WireGuard repeats a handshake that meets another after five seconds (REKEY_TIMEOUT),
    /// and no single ping waits that long.
    #[track_caller]
    pub fn meet(&self) {
        for (one, other) in self.pairs() {
            let reach = reaches(&self.containers[one], &self.containers[other], self.addresses(other)[0], true);
            assert_eq!(reach.to_string(), "yes", "from host {one} to host {other}");
        }
    }

    /// Attaches a container on a host, the next of all.
    #[track_caller]
    pub fn inhabit(&mut self, number: usize) {
        self.inhabit_with(number, &[]);
    }

    /// The same with flags for `attach`.
    #[track_caller]
    pub fn inhabit_with(&mut self, number: usize, flags: &[&str]) {
        let container = Netns::new(&format!("c{number}"));
        self.at.push(self.hosts[number].attach(&container, &[&["--network", "net"], flags].concat()));
        self.containers.push(container);
    }

    /// A host's public key.
    #[track_caller]
    pub fn key(&self, number: usize) -> String {
        self.hosts[number].ok(&["peer", "key"]).trim_end().to_owned()
    }

    /// Tells a host of another, with its public key.
    #[track_caller]
    pub fn introduce(&self, to: usize, peer: usize) {
        self.hosts[to].ok(&["peer", "add", &self.peer(peer), "--public-key", &self.key(peer)]);
    }

    /// The device of a host's WireGuard.
    pub fn wireguard(&self, number: usize) -> Option<Value> {
        let links = self.hosts[number].netns.ip_json("-d link show");
        links.into_iter().find(|link| link["ifname"].as_str().is_some_and(|name| name.ends_with("-wg")))
    }

    /// The host's own device in the network.
    pub fn host_device(&self, number: usize) -> String {
        let devices = self.hosts[number].netns.devices();
        devices.into_iter().find(|name| name.ends_with("-net")).expect("the host's device")
    }

    /// Whether the kernel does WireGuard's work: then it goes on without a daemon.
    pub fn in_kernel(&self) -> bool {
        self.wireguard(0).is_some_and(|link| link["linkinfo"]["info_kind"] == "wireguard")
    }

    /// Tells a host of all others.
    #[track_caller]
    pub fn acquaint(&self, number: usize) {
        for other in (0..self.hosts.len()).filter(|other| *other != number) {
            self.hosts[number].ok(&["peer", "add", &self.peer(other)]);
        }
    }

    /// Makes an overlay network on a host: everywhere the same subnets, and addresses of its own.
    #[track_caller]
    pub fn create(&self, number: usize, name: &str, vni: &str, flags: &[&str]) {
        let vni = format!("vni={vni}");
        let ranges = [format!("10.10.{}.0/24", number + 1), format!("fd00:10::{}:0/112", number + 1)];
        let create =
            ["network", "create", "-d", "overlay", "-o", &vni, "--subnet", "10.10.0.0/16", "--ip-range", &ranges[0]];
        let six = ["--subnet", "fd00:10::/64", "--ip-range", &ranges[1]];
        self.hosts[number].ok(&[&create[..], &six, flags, &[name]].concat());
    }

    /// What a host is called.
    pub fn hostname(number: usize) -> String {
        format!("host{number}.test")
    }

    /// The address of a host on the underlay.
    pub fn address(family: Family, number: usize) -> IpAddr {
        let text = match family {
            Family::V4 => format!("192.0.2.{}", number + 1),
            Family::V6 => format!("2001:db8::{}", number + 1),
        };
        text.parse().expect("an address")
    }

    /// What the others call a host.
    pub fn peer(&self, number: usize) -> String {
        Self::address(self.family, number).to_string()
    }

    /// The addresses of a host's container.
    pub fn addresses(&self, number: usize) -> [IpAddr; 2] {
        both(&self.at[number])
    }

    /// All pairs of hosts, both ways round.
    pub fn pairs(&self) -> Vec<(usize, usize)> {
        let all = 0..self.hosts.len();
        all.clone()
            .flat_map(|one| all.clone().map(move |other| (one, other)))
            .filter(|(one, other)| one != other)
            .collect()
    }

    /// `peer ls` of a host.
    #[track_caller]
    pub fn peers(&self, number: usize) -> Vec<PeerRow> {
        self.hosts[number].json(&["peer", "ls"])
    }

    /// The device of a host's tunnels.
    pub fn tunnels(&self, number: usize) -> Option<Value> {
        let links = self.hosts[number].netns.ip_json("link show type vxlan");
        links.into_iter().find(|link| link["ifname"].as_str().is_some_and(|name| name.ends_with("-vxlan")))
    }

    /// Where a host knows a station to be.
    #[track_caller]
    pub fn port_of(&self, number: usize, mac: super::Mac) -> Option<String> {
        self.hosts[number]
            .fdb(&["--dynamic"])
            .into_iter()
            .find(|station| station.mac == mac)
            .map(|station| station.port)
    }

    /// A dissector at a host's end of the underlay, which prints these fields of each packet that passes the filter.
    pub fn tshark(&self, number: usize, options: &[&str]) -> Running {
        let mut command = self.hosts[number].netns.command("tshark");
        command.args(["-l", "-n", "-i", "under0"]).args(options);
        let running = spawn(&mut command);
        eventually("tshark listens", || running.complained().contains("Capturing on").then_some(()));
        running
    }

    /// A socket of a machine on the underlay, to send packets by that are no good.
    pub fn socket(&self, netns: &Netns, number: usize) -> UdpSocket {
        let address = Self::address(self.family, number);
        netns.inside(|| UdpSocket::bind((address, 0))).expect("a socket")
    }
}

/// How often a datagram to all, from an address of one namespace, is heard in each of the others: sent once, and after it a
/// mark, after which no copy can come.
#[track_caller]
pub fn heard(from: &Netns, address: Ipv4Addr, others: &[&Netns]) -> Vec<usize> {
    let bind = |netns: &Netns, port| {
        let socket = netns.inside(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))).expect("binding");
        socket.set_read_timeout(Some(super::PATIENCE)).expect("a time limit");
        socket
    };
    let first = bind(others[0], 0);
    let port = first.local_addr().expect("it is bound").port();
    let rest = others[1..].iter().map(|netns| bind(netns, port));
    let receivers: Vec<UdpSocket> = std::iter::once(first).chain(rest).collect();
    let sender = from.inside(|| UdpSocket::bind((address, 0))).expect("binding");
    sender.set_broadcast(true).expect("SO_BROADCAST");
    for text in ["to all", "no more"] {
        sender.send_to(text.as_bytes(), (Ipv4Addr::BROADCAST, port)).expect("sending a broadcast");
    }
    let count = |receiver: UdpSocket| {
        let mut buffer = [0; 64];
        let mut count = 0;
        loop {
            let (length, source) = receiver.recv_from(&mut buffer).expect("the mark arrives");
            assert_eq!(source.ip(), IpAddr::from(address));
            match &buffer[..length] {
                b"to all" => count += 1,
                _ => return count,
            }
        }
    };
    receivers.into_iter().map(count).collect()
}
