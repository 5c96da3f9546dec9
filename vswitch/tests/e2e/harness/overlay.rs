//! Overlay networks: hosts on one underlay, each with an instance of its own and a container.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};

use serde::Deserialize;
use serde_json::Value;

use super::{Attached, Host, Netns, Running, both, eventually, reaches, spawn};

/// The address family of the underlay.
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

/// The hosts, each with the device `under0` on the underlay, and their containers and endpoints.
pub struct Cloud {
    pub at: Vec<Attached>,
    pub containers: Vec<Netns>,
    pub hosts: Vec<Host>,
    pub underlay: Netns,
    pub family: Family,
}

impl Cloud {
    /// The VNI of the network `net`.
    pub const VNI: &str = "5000";

    /// Returns `count` hosts on an underlay, whose instances are not started.
    pub fn down(count: usize, family: Family) -> Self {
        let underlay = Netns::new("under");
        underlay.ip("link add br0 type bridge mcast_snooping 0");
        underlay.silence("br0");
        underlay.ip("link set br0 up");
        let cloud = Self {
            at: Vec::new(),
            containers: Vec::new(),
            hosts: (0..count).map(|number| Host::with_hostname(&Self::hostname(number))).collect(),
            underlay,
            family,
        };
        for number in 0..count {
            cloud.plug(&cloud.hosts[number].netns, number);
        }
        cloud
    }

    /// Connects a machine to the underlay, with the port name and the addresses of host `number`.
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

    /// Returns hosts whose instances are up and have each other as peers, with the network `net`
    /// and a container in it on each host. The containers are attached once every host has all its
    /// peers.
    #[track_caller]
    pub fn up(count: usize, family: Family) -> Self {
        Self::with(count, family, &[], &[])
    }

    /// Returns the same with additional flags for `up` and for `network create`.
    #[track_caller]
    pub fn with(count: usize, family: Family, up: &[&str], network: &[&str]) -> Self {
        let mut cloud = Self::down(count, family);
        for number in 0..count {
            cloud.hosts[number].start(up);
            cloud.add_all_peers(number);
            cloud.create(number, "net", Self::VNI, network);
        }
        for number in 0..count {
            cloud.attach_container(number);
        }
        cloud
    }

    /// Returns the same with an encrypted network. The hosts have each other's public keys.
    #[track_caller]
    pub fn encrypted(count: usize, family: Family, up: &[&str], network: &[&str]) -> Self {
        let mut cloud = Self::down(count, family);
        (0..count).for_each(|number| drop(cloud.hosts[number].start(up)));
        for number in 0..count {
            for other in (0..count).filter(|other| *other != number) {
                cloud.add_peer(number, other);
            }
            cloud.create(number, "net", Self::VNI, &[&["-o", "encrypted=true"], network].concat());
            cloud.attach_container(number);
        }
        cloud.wait_for_reach();
        cloud
    }

    /// Waits until all containers reach each other. After two handshakes of WireGuard cross, it
    /// retries only after five seconds (REKEY_TIMEOUT), longer than a single ping waits.
    #[track_caller]
    pub fn wait_for_reach(&self) {
        for (one, other) in self.pairs() {
            let reach = reaches(&self.containers[one], &self.containers[other], self.addresses(other)[0], true);
            assert_eq!(reach.to_string(), "yes", "from host {one} to host {other}");
        }
    }

    /// Attaches the next container, on a host.
    #[track_caller]
    pub fn attach_container(&mut self, number: usize) {
        self.attach_container_with(number, &[]);
    }

    /// Attaches the next container, on a host, with additional flags for `attach`.
    #[track_caller]
    pub fn attach_container_with(&mut self, number: usize, flags: &[&str]) {
        let container = Netns::new(&format!("c{number}"));
        self.at.push(self.hosts[number].attach(&container, &[&["--network", "net"], flags].concat()));
        self.containers.push(container);
    }

    /// Returns a host's public key.
    #[track_caller]
    pub fn key(&self, number: usize) -> String {
        self.hosts[number].ok(&["peer", "key"]).trim_end().to_owned()
    }

    /// Adds a host as a peer of another host, with its public key.
    #[track_caller]
    pub fn add_peer(&self, to: usize, peer: usize) {
        self.hosts[to].ok(&["peer", "add", &self.peer(peer), "--public-key", &self.key(peer)]);
    }

    /// Returns the WireGuard device of a host.
    pub fn wireguard(&self, number: usize) -> Option<Value> {
        let links = self.hosts[number].netns.ip_json("-d link show");
        links.into_iter().find(|link| link["ifname"].as_str().is_some_and(|name| name.ends_with("-wg")))
    }

    /// Returns the name of the host device of the network `net` on a host.
    pub fn host_device(&self, number: usize) -> String {
        let devices = self.hosts[number].netns.devices();
        devices.into_iter().find(|name| name.ends_with("-net")).expect("the host device")
    }

    /// Reports whether the kernel implements WireGuard. Encrypted traffic then continues without a
    /// daemon.
    pub fn in_kernel(&self) -> bool {
        self.wireguard(0).is_some_and(|link| link["linkinfo"]["info_kind"] == "wireguard")
    }

    /// Adds all other hosts as peers of a host.
    #[track_caller]
    pub fn add_all_peers(&self, number: usize) {
        for other in (0..self.hosts.len()).filter(|other| *other != number) {
            self.hosts[number].ok(&["peer", "add", &self.peer(other)]);
        }
    }

    /// Creates an overlay network on a host. The subnets are the same on all hosts, the allocation
    /// ranges differ.
    #[track_caller]
    pub fn create(&self, number: usize, name: &str, vni: &str, flags: &[&str]) {
        let vni = format!("vni={vni}");
        let ranges = [format!("10.10.{}.0/24", number + 1), format!("fd00:10::{}:0/112", number + 1)];
        let create =
            ["network", "create", "-d", "overlay", "-o", &vni, "--subnet", "10.10.0.0/16", "--ip-range", &ranges[0]];
        let six = ["--subnet", "fd00:10::/64", "--ip-range", &ranges[1]];
        self.hosts[number].ok(&[&create[..], &six, flags, &[name]].concat());
    }

    /// Returns the hostname of a host.
    pub fn hostname(number: usize) -> String {
        format!("host{number}.test")
    }

    /// Returns the address of a host on the underlay.
    pub fn address(family: Family, number: usize) -> IpAddr {
        let text = match family {
            Family::V4 => format!("192.0.2.{}", number + 1),
            Family::V6 => format!("2001:db8::{}", number + 1),
        };
        text.parse().expect("an address")
    }

    /// Returns the address by which other hosts add a host as a peer.
    pub fn peer(&self, number: usize) -> String {
        Self::address(self.family, number).to_string()
    }

    /// Returns the IPv4 and the IPv6 address of a host's container.
    pub fn addresses(&self, number: usize) -> [IpAddr; 2] {
        both(&self.at[number])
    }

    /// Returns all ordered pairs of hosts.
    pub fn pairs(&self) -> Vec<(usize, usize)> {
        let all = 0..self.hosts.len();
        all.clone()
            .flat_map(|one| all.clone().map(move |other| (one, other)))
            .filter(|(one, other)| one != other)
            .collect()
    }

    /// Returns the rows of a host's `peer ls`.
    #[track_caller]
    pub fn peers(&self, number: usize) -> Vec<PeerRow> {
        self.hosts[number].json(&["peer", "ls"])
    }

    /// Returns the VXLAN device of a host.
    pub fn tunnels(&self, number: usize) -> Option<Value> {
        let links = self.hosts[number].netns.ip_json("link show type vxlan");
        links.into_iter().find(|link| link["ifname"].as_str().is_some_and(|name| name.ends_with("-vxlan")))
    }

    /// Returns the port of a station's learned FDB entry on a host.
    #[track_caller]
    pub fn port_of(&self, number: usize, mac: super::Mac) -> Option<String> {
        self.hosts[number]
            .fdb(&["--dynamic"])
            .into_iter()
            .find(|station| station.mac == mac)
            .map(|station| station.port)
    }

    /// Starts tshark on a host's underlay device. `options` select the packets and the fields that
    /// it prints.
    pub fn tshark(&self, number: usize, options: &[&str]) -> Running {
        let mut command = self.hosts[number].netns.command("tshark");
        command.args(["-l", "-n", "-i", "under0"]).args(options);
        let running = spawn(&mut command);
        eventually("tshark captures", || running.stderr().contains("Capturing on").then_some(()));
        running
    }

    /// Opens a UDP socket on a machine of the underlay, for sending invalid packets.
    pub fn socket(&self, netns: &Netns, number: usize) -> UdpSocket {
        let address = Self::address(self.family, number);
        netns.inside(|| UdpSocket::bind((address, 0))).expect("a socket")
    }
}

/// Sends one broadcast datagram from an address of one namespace, and returns how often each of the
/// other namespaces received it. A mark that is sent afterwards ends the count, because no copy can
/// arrive after it.
#[track_caller]
pub fn count_broadcasts(from: &Netns, address: Ipv4Addr, others: &[&Netns]) -> Vec<usize> {
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
    for text in ["broadcast", "mark"] {
        sender.send_to(text.as_bytes(), (Ipv4Addr::BROADCAST, port)).expect("sending a broadcast");
    }
    let count = |receiver: UdpSocket| {
        let mut buffer = [0; 64];
        let mut count = 0;
        loop {
            let (length, source) = receiver.recv_from(&mut buffer).expect("the mark arrives");
            assert_eq!(source.ip(), IpAddr::from(address));
            match &buffer[..length] {
                b"broadcast" => count += 1,
                _ => return count,
            }
        }
    };
    receivers.into_iter().map(count).collect()
}
