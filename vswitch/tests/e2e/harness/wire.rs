//! A physical network: machines on a Linux bridge, to which a host's `phys0` leads. Tags are put on and taken off for hosts
//! in a VLAN by the tests themselves: not every kernel has VLANs.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{Attached, Frame, Host, Netns, RawPort, Running, eventually, set_tx_checksumming, set_tx_vlan, spawn};

/// The bridge and the machines on it. The host's `phys0` has the first address of its network.
pub struct Wire {
    pub hosts: Vec<Netns>,
    pub netns: Netns,
    xdp: String,
}

impl Wire {
    /// What a network of containers there is made with.
    pub const SUBNETS: [&str; 2] = ["10.140.0.0/24", "fd00:140::/64"];
    /// The host's own addresses on `phys0`.
    pub const HOST: [&str; 2] = ["10.140.0.1", "fd00:140::1"];

    /// `phys0` in a host's namespace, for an XDP program or not, and so many machines.
    pub fn new(host: &Netns, xdp: &str, count: usize) -> Self {
        let netns = Netns::new("wire");
        netns.ip("link add br0 type bridge mcast_snooping 0");
        netns.silence("br0");
        netns.ip("link set br0 up");
        let hosts = Netns::several("w", count);
        let wire = Self { hosts, netns, xdp: xdp.to_owned() };
        wire.plug(host, "phys0");
        for (number, far) in wire.hosts.iter().enumerate() {
            let port = format!("w{number}");
            wire.join(&port, far, "eth0");
            let [ipv4, ipv6] = Self::address(number);
            give(far, "eth0", [&ipv4.to_string(), &ipv6.to_string()]);
        }
        wire
    }

    /// The addresses of a machine, IPv4 and IPv6. The first is the way out.
    pub fn address(number: usize) -> [IpAddr; 2] {
        [format!("10.140.0.{}", 200 + number), format!("fd00:140::{}", 200 + number)]
            .map(|text| text.parse().expect("an address"))
    }

    /// Joins the host by a device of this name, which has the host's addresses. It may have been there before.
    pub fn plug(&self, host: &Netns, ifname: &str) {
        self.join("up0", host, ifname);
        give(host, ifname, Self::HOST);
    }

    /// Switches that send a frame back where it came from, too.
    pub fn reflecting(&self, on: bool) {
        let value = if on { "on" } else { "off" };
        self.netns.ip(&format!("link set dev up0 type bridge_slave hairpin {value}"));
    }

    /// All that comes out of the host.
    pub fn listen(&self) -> RawPort {
        RawPort::open(&self.netns, "up0")
    }

    /// `tcpdump` on what comes out of the host and goes there; `None`, said aloud, where there is none.
    pub fn tcpdump(&self, filter: &str) -> Option<Running> {
        let mut command = self.netns.command("tcpdump");
        command.args(["-Z", "root", "--immediate-mode", "-l", "-n", "-e", "-i", "up0"]).args(filter.split(' '));
        if std::process::Command::new("tcpdump").arg("--version").output().is_err() {
            eprintln!("there is no tcpdump on this machine: nobody else looks at the tags");
            return None;
        }
        let running = spawn(&mut command);
        eventually("tcpdump listens", || running.complained().contains("listening on").then_some(()));
        Some(running)
    }

    /// A machine in a VLAN, with these addresses: it sends and receives untagged frames, the bridge has them with a tag.
    pub fn vlan_host(&self, name: &str, id: u16, addresses: [&str; 2]) -> VlanHost {
        let netns = Netns::new(name);
        let [access, trunk, relay] = ["a", "t", "r"].map(|kind| format!("{kind}-{name}"));
        self.netns.wire(&access, &netns, "eth0");
        self.join(&trunk, &self.netns, &relay);
        for ifname in [&access, &relay] {
            self.netns.silence(ifname);
        }
        // Those who copy frames by hand want them whole.
        set_tx_checksumming(&netns, "eth0", false);
        set_tx_checksumming(&self.netns, &trunk, false);
        let [access, relay] = [access, relay].map(|ifname| Arc::new(RawPort::open(&self.netns, &ifname)));
        let stop = Arc::new(AtomicBool::new(false));
        let [from_host, to_host] = [(access.clone(), relay.clone()), (relay, access)];
        let tag = [[0x81, 0x00], id.to_be_bytes()].concat();
        let threads = vec![
            copy(from_host, stop.clone(), move |bytes| {
                bytes.splice(12..12, tag.iter().copied());
                true
            }),
            copy(to_host, stop.clone(), move |bytes| {
                let ours = bytes.len() > 16
                    && bytes[12..14] == [0x81, 0x00]
                    && u16::from_be_bytes([bytes[14], bytes[15]]) & 0xfff == id;
                if ours {
                    bytes.drain(12..16);
                }
                ours
            }),
        ];
        give(&netns, "eth0", addresses);
        VlanHost { netns, stop, threads }
    }

    /// A veth pair between the bridge and another namespace.
    fn join(&self, port: &str, far: &Netns, ifname: &str) {
        self.netns.wire(port, far, ifname);
        self.netns.silence(port);
        self.netns.ip(&format!("link set {port} master br0"));
        if self.xdp == "native" {
            // XDP sees frames as they are; a veth would hand it packets with unfinished checksums, and tags beside them.
            set_tx_checksumming(&self.netns, port, false);
            set_tx_vlan(&self.netns, port, false);
        }
    }
}

/// A machine in a VLAN.
pub struct VlanHost {
    pub netns: Netns,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Drop for VlanHost {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ended = thread.join();
        }
    }
}

/// Sends what comes in by one port by the other, as `change` has it, if that says so.
fn copy(
    (from, to): (Arc<RawPort>, Arc<RawPort>),
    stop: Arc<AtomicBool>,
    change: impl Fn(&mut Vec<u8>) -> bool + Send + 'static,
) -> JoinHandle<()> {
    thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            let Some(Frame(mut bytes)) = from.receive(Duration::from_millis(50)) else { continue };
            if change(&mut bytes) {
                // As a wire does: what cannot be sent is lost.
                let _lost = to.try_send(&Frame(bytes));
            }
        }
    })
}

/// Gives a device addresses, at once.
fn give(netns: &Netns, ifname: &str, [ipv4, ipv6]: [&str; 2]) {
    netns.ip(&format!("address replace {ipv4}/24 dev {ifname}"));
    netns.ip(&format!("-6 address replace {ipv6}/64 dev {ifname} nodad"));
}

/// The flags with which a network on [`Wire::SUBNETS`] is made: the first machine is the way out, and no container gets the
/// address of a machine.
pub fn on_the_wire<'a>(driver: &'a str, options: &[&'a str]) -> Vec<&'a str> {
    let [subnet, subnet6] = Wire::SUBNETS;
    let gateways = ["--gateway", "10.140.0.200", "--gateway", "fd00:140::200"];
    let mut flags = vec!["network", "create", "-d", driver, "--subnet", subnet, "--ip-range", "10.140.0.0/25"];
    flags.extend(["--subnet", subnet6]);
    flags.extend(gateways);
    for option in options {
        flags.extend(["-o", option]);
    }
    flags
}

/// A host and a physical network, with a network of containers on it.
pub struct OnWire<const N: usize> {
    pub at: [Attached; N],
    pub containers: [Netns; N],
    pub wire: Wire,
    pub host: Host,
}

impl<const N: usize> OnWire<N> {
    /// Network `lan` on `phys0`, with two machines on the wire.
    #[track_caller]
    pub fn new(driver: &str, xdp: &str, options: &[&str]) -> Self {
        let host = Host::down();
        let wire = Wire::new(&host.netns, xdp, 2);
        host.start(&[]);
        let xdp = format!("xdp={xdp}");
        let options = [&["parent=phys0", &xdp], options].concat();
        host.ok(&[&on_the_wire(driver, &options)[..], &["lan"]].concat());
        let containers = std::array::from_fn(|number| Netns::new(&format!("c{number}")));
        let at = std::array::from_fn(|number: usize| host.attach(&containers[number], &["--network", "lan"]));
        Self { at, containers, wire, host }
    }

    /// The addresses of a container.
    pub fn addresses(&self, number: usize) -> [IpAddr; 2] {
        both(&self.at[number])
    }
}

/// Both addresses of an endpoint.
#[track_caller]
pub fn both(endpoint: &Attached) -> [IpAddr; 2] {
    [endpoint.ipv4.into(), endpoint.ipv6.expect("the network has IPv6").into()]
}
