//! A physical network: machines on a Linux bridge that is connected to a host's `phys0`. The tests
//! themselves add and remove the tags of machines in a VLAN, because not every kernel has VLAN
//! devices.

use std::{
    fmt::Display,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{Attached, Frame, Host, Netns, RawPort, Running, eventually, set_tx_checksumming, set_tx_vlan, spawn};

/// The bridge and the machines on it. The host's `phys0` has the addresses [`Wire::HOST`].
pub struct Wire {
    pub hosts: Vec<Netns>,
    pub netns: Netns,
    xdp: String,
    number: usize,
}

impl Wire {
    /// The subnets of a container network on this wire.
    pub const SUBNETS: [&str; 2] = ["10.140.0.0/24", "fd00:140::/64"];
    /// The host's own addresses on `phys0`.
    pub const HOST: [&str; 2] = ["10.140.0.1", "fd00:140::1"];

    /// Connects `phys0` of a host, prepared for native XDP if `xdp` is "native", and `count`
    /// machines.
    pub fn new(host: &Netns, xdp: &str, count: usize) -> Self {
        Self::numbered(0, host, xdp, count)
    }

    /// Creates a wire that `phys{number}` leads to, with the subnets 10.{140 + number}.0.0/24 and
    /// fd00:{140 + number}::/64. A host can have several.
    pub fn numbered(number: usize, host: &Netns, xdp: &str, count: usize) -> Self {
        let netns = Netns::new("wire");
        // Its devices do not send anything of their own.
        netns.set("net/ipv6/conf/default/disable_ipv6", "1");
        netns.ip_lines(
            ["link add br0 type bridge mcast_snooping 0", "link set br0 arp off", "link set br0 up"].map(str::to_owned),
        );
        let hosts = Netns::several("w", count);
        let wire = Self { hosts, netns, xdp: xdp.to_owned(), number };
        wire.plug(host, &wire.parent());
        for (number, far) in wire.hosts.iter().enumerate() {
            let port = format!("w{number}");
            wire.join(&port, far, "eth0");
            set_addresses(far, "eth0", wire.machine(number));
        }
        wire
    }

    /// Returns the name of the host's device.
    pub fn parent(&self) -> String {
        format!("phys{}", self.number)
    }

    /// Returns the host's addresses on its device.
    pub fn host_addresses(&self) -> [IpAddr; 2] {
        self.addresses(1)
    }

    /// Returns the addresses of a machine.
    pub fn machine(&self, number: usize) -> [IpAddr; 2] {
        self.addresses(200 + number)
    }

    fn addresses(&self, last: usize) -> [IpAddr; 2] {
        let subnet = 140 + self.number;
        [format!("10.{subnet}.0.{last}"), format!("fd00:{subnet}::{last}")]
            .map(|text| text.parse().expect("an address"))
    }

    /// Creates a network on the host's device, with the wire's subnets. The first machine is the gateway, and no
    /// container gets the address of a machine.
    #[track_caller]
    pub fn create_network(&self, host: &Host, driver: &str, options: &[&str], name: &str) {
        let subnet = 140 + self.number;
        let mut flags = vec!["network".to_owned(), "create".to_owned(), "-d".to_owned(), driver.to_owned()];
        for (flag, value) in [
            ("--subnet", format!("10.{subnet}.0.0/24")),
            ("--ip-range", format!("10.{subnet}.0.0/25")),
            ("--subnet", format!("fd00:{subnet}::/64")),
            ("--gateway", self.machine(0)[0].to_string()),
            ("--gateway", self.machine(0)[1].to_string()),
            ("-o", format!("parent={}", self.parent())),
        ] {
            flags.extend([flag.to_owned(), value]);
        }
        for option in options {
            flags.extend(["-o".to_owned(), (*option).to_owned()]);
        }
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        host.ok(&[&flags[..], &[name]].concat());
    }

    /// The addresses of a machine, IPv4 and IPv6. The first is the way out.
    pub fn address(number: usize) -> [IpAddr; 2] {
        [format!("10.140.0.{}", 200 + number), format!("fd00:140::{}", 200 + number)]
            .map(|text| text.parse().expect("an address"))
    }

    /// Connects the host with a device of this name and gives the device the host's addresses. The
    /// device may have been connected before.
    pub fn plug(&self, host: &Netns, ifname: &str) {
        self.join("up0", host, ifname);
        set_addresses(host, ifname, self.host_addresses());
    }

    /// Turns hairpin mode of the host's bridge port on or off: the bridge then sends frames back to
    /// the port they came from.
    pub fn set_hairpin(&self, on: bool) {
        let value = if on { "on" } else { "off" };
        self.netns.ip(&format!("link set dev up0 type bridge_slave hairpin {value}"));
    }

    /// Opens the bridge's end of the host's wire, which receives every frame that the host sends.
    pub fn listen(&self) -> RawPort {
        RawPort::open(&self.netns, "up0")
    }

    /// Starts `tcpdump` on the host's wire. Prints a notice and returns `None` if tcpdump is not
    /// installed.
    pub fn tcpdump(&self, filter: &str) -> Option<Running> {
        let mut command = self.netns.command("tcpdump");
        command.args(["-Z", "root", "--immediate-mode", "-l", "-n", "-e", "-i", "up0"]).args(filter.split(' '));
        if std::process::Command::new("tcpdump").arg("--version").output().is_err() {
            eprintln!("tcpdump is not installed on this machine: only the test itself checks the tags");
            return None;
        }
        let running = spawn(&mut command);
        eventually("tcpdump captures", || running.stderr().contains("listening on").then_some(()));
        Some(running)
    }

    /// Connects a machine in a VLAN, with these addresses. The machine sends and receives untagged
    /// frames; they carry the tag on the bridge.
    pub fn vlan_host(&self, name: &str, id: u16, addresses: [&str; 2]) -> VlanHost {
        let netns = Netns::new(name);
        let [access, trunk, relay] = ["a", "t", "r"].map(|kind| format!("{kind}-{name}"));
        self.netns.wire(&access, &netns, "eth0");
        self.join(&trunk, &self.netns, &relay);
        self.netns.ip(&format!("link set {relay} up"));
        for ifname in [&access, &relay] {
            self.netns.silence(ifname);
        }
        // The threads that copy frames need finished checksums and no GSO packets.
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
                let in_vlan = bytes.len() > 16
                    && bytes[12..14] == [0x81, 0x00]
                    && u16::from_be_bytes([bytes[14], bytes[15]]) & 0xfff == id;
                if in_vlan {
                    bytes.drain(12..16);
                }
                in_vlan
            }),
        ];
        set_addresses(&netns, "eth0", addresses);
        VlanHost { netns, stop, threads }
    }

    /// Creates a veth pair between the bridge and another namespace.
    fn join(&self, port: &str, far: &Netns, ifname: &str) {
        self.netns.ip_lines([
            format!("link add {port} type veth peer name {ifname} netns {}", far.name()),
            format!("link set {port} arp off"),
            format!("link set {port} master br0"),
            format!("link set {port} up"),
        ]);
        if self.xdp == "native" {
            // XDP sees frames as they are. A veth would hand it packets with unfinished checksums
            // and with tags in the metadata.
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

/// Copies the frames that arrive on one port to another port, after `change` has modified them.
/// Drops those for which `change` returns false.
fn copy(
    (from, to): (Arc<RawPort>, Arc<RawPort>),
    stop: Arc<AtomicBool>,
    change: impl Fn(&mut Vec<u8>) -> bool + Send + 'static,
) -> JoinHandle<()> {
    thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            let Some(Frame(mut bytes)) = from.receive(Duration::from_millis(50)) else { continue };
            if change(&mut bytes) {
                // A frame that cannot be sent is lost, as on a wire.
                let _lost = to.try_send(&Frame(bytes));
            }
        }
    })
}

/// Sets a device up and gives it addresses, at once.
fn set_addresses(netns: &Netns, ifname: &str, [ipv4, ipv6]: [impl Display; 2]) {
    netns.ip_lines([
        format!("link set {ifname} up"),
        format!("address replace {ipv4}/24 dev {ifname}"),
        format!("address replace {ipv6}/64 dev {ifname} nodad"),
    ]);
}

/// Returns the arguments that create a network on [`Wire::SUBNETS`]. Machine 0 is the gateway, and
/// no container gets the address of a machine.
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

/// A host connected to a physical network, with a container network on it.
pub struct OnWire<const N: usize> {
    pub at: [Attached; N],
    pub containers: [Netns; N],
    pub wire: Wire,
    pub network: String,
    pub driver: String,
    pub xdp: String,
    pub host: Arc<Host>,
}

impl<const N: usize> OnWire<N> {
    /// Creates the network `lan` on `phys0`, two machines on the wire, and attaches `N` containers.
    #[track_caller]
    pub fn new(driver: &str, xdp: &str, options: &[&str]) -> Self {
        let host = Host::down();
        let wire = Wire::new(&host.netns, xdp, 2);
        host.start(&[]);
        Self::on(&Arc::new(host), wire, driver, options)
    }

    /// Both drivers, without and with XDP, each on a wire of its own of the same host: the networks `lan` on `phys0`,
    /// `lan1` on `phys1`, and so on.
    #[track_caller]
    pub fn variants() -> [Self; 4] {
        Self::several([("macvlan", "off"), ("macvlan", "native"), ("ipvlan", "off"), ("ipvlan", "native")])
    }

    /// Networks of these drivers, with XDP or not, each on a wire of its own of the same host.
    #[track_caller]
    pub fn several<const M: usize>(variants: [(&str, &str); M]) -> [Self; M] {
        let host = Host::down();
        let mut number = 0;
        let wires = variants.map(|(driver, xdp)| {
            number += 1;
            (driver, Wire::numbered(number - 1, &host.netns, xdp, 2))
        });
        host.start(&[]);
        let host = Arc::new(host);
        wires.map(|(driver, wire)| Self::on(&host, wire, driver, &[]))
    }

    /// A network on a wire of a host that is up.
    #[track_caller]
    pub fn on(host: &Arc<Host>, wire: Wire, driver: &str, options: &[&str]) -> Self {
        let xdp = wire.xdp.clone();
        let option = format!("xdp={xdp}");
        let network = if wire.number == 0 { "lan".to_owned() } else { format!("lan{}", wire.number) };
        wire.create_network(host, driver, &[&[option.as_str()][..], options].concat(), &network);
        let containers = std::array::from_fn(|number| Netns::new(&format!("c{number}")));
        let at = std::array::from_fn(|number: usize| host.attach(&containers[number], &["--network", &network]));
        Self { at, containers, wire, network, driver: driver.to_owned(), xdp, host: host.clone() }
    }

    /// Detaches the containers and removes the network. Returns the wire, for the next network.
    #[track_caller]
    pub fn remove(self) -> Wire {
        for container in &self.containers {
            self.host.ok(&["detach", container.name()]);
        }
        self.host.ok(&["network", "rm", &self.network]);
        self.wire
    }

    /// Returns the addresses of a container.
    pub fn addresses(&self, number: usize) -> [IpAddr; 2] {
        both(&self.at[number])
    }
}

/// Returns the IPv4 and the IPv6 address of an endpoint.
#[track_caller]
pub fn both(endpoint: &Attached) -> [IpAddr; 2] {
    [endpoint.ipv4.into(), endpoint.ipv6.expect("the network has IPv6").into()]
}
