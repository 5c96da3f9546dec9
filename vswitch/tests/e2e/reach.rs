//! Reachability between containers, host and wire in each mode of macvlan and ipvlan, compared with
//! the drivers of the kernel.

use std::{collections::BTreeMap, fmt::Write as _, net::IpAddr, process::Command, sync::Arc, thread};

use crate::harness::{Host, Netns, Wire, both, broadcast_reaches, on_the_wire, reaches, run};

/// A way to connect containers to a physical network.
#[derive(Clone, Copy)]
struct Kind {
    driver: &'static str,
    mode: &'static str,
    flag: &'static str,
    /// The physical network returns traffic from the host to the host: by a reflecting switch, or
    /// by a router in the modes without frames (l3, l3s).
    reflected: bool,
    host_access: bool,
}

const MACVLAN: Kind = Kind { driver: "macvlan", mode: "bridge", flag: "", reflected: false, host_access: false };
const IPVLAN: Kind = Kind { driver: "ipvlan", mode: "l2", flag: "bridge", ..MACVLAN };

impl Kind {
    fn macvlan() -> Vec<Self> {
        let modes = [("bridge", false), ("private", false), ("private", true), ("vepa", false), ("vepa", true)];
        let modes = modes.into_iter().chain([("passthru", false)]);
        modes.map(|(mode, reflected)| Self { mode, reflected, ..MACVLAN }).collect()
    }

    fn ipvlan(mode: &'static str) -> Vec<Self> {
        let flags = [("bridge", false), ("private", false), ("private", true), ("vepa", false), ("vepa", true)];
        flags.map(|(flag, reflected)| Self { mode, flag, reflected, ..IPVLAN }).to_vec()
    }

    fn name(self) -> String {
        let words = [
            self.driver,
            self.mode,
            self.flag,
            if self.reflected { "reflected" } else { "" },
            if self.host_access { "with host access" } else { "" },
        ];
        words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
    }

    /// Reports whether the containers are in a subnet of their own, routed by the host.
    fn is_routed(self) -> bool {
        self.mode.starts_with("l3")
    }

    fn containers(self) -> usize {
        if self.mode == "passthru" { 1 } else { 2 }
    }

    /// Returns the expected result between two ends: `yes`, `no`, or `?` if it depends on
    /// circumstances that this test does not control.
    fn expected(self, way: &str) -> &'static str {
        let yes = |reaches| if reaches { "yes" } else { "no" };
        match way {
            "container to wire" | "wire to container" => "yes",
            // Our driver uses the host's route to the endpoint, the kernel's driver its default
            // route (decision 16).
            "container to container" if (self.mode, self.flag, self.reflected) == ("l3s", "vepa", true) => "?",
            "container to container" => yes(match (self.mode, self.flag) {
                ("private", _) | (_, "private") => false,
                ("vepa", _) | (_, "vepa") => self.reflected,
                _ => true,
            }),
            // A reflecting switch makes every address on the wire reachable.
            "container to host" | "host to container" if self.reflected => "?",
            "container to host" | "host to container" => yes(self.host_access),
            // The only container owns the parent.
            "host to wire" | "wire to host" if self.mode == "passthru" => "?",
            "host to wire" | "wire to host" => "yes",
            "broadcast from wire" | "broadcast from container" => yes(!self.is_routed()),
            _ => unreachable!("{way}"),
        }
    }
}

/// A host on a physical network. One kind is connected after the other.
struct Lab {
    wire: Wire,
    /// The instance that connects the containers, or `None` for the kernel's driver. Dropped before
    /// the namespace that it runs in.
    switch: Option<Host>,
    host: Arc<Netns>,
    xdp: &'static str,
}

/// A container with its addresses.
type Container = (Netns, [IpAddr; 2]);

const ROUTED: [&str; 2] = ["10.141.0.0/24", "fd00:141::/64"];

impl Lab {
    /// Sets up a host and a wire for an instance of vswitch, which is started.
    fn with_vswitch(xdp: &'static str) -> Self {
        let host = Host::down();
        let netns = host.netns.clone();
        let wire = Self::set_up_wire(&netns, xdp);
        host.start(&[]);
        Self { wire, switch: Some(host), host: netns, xdp }
    }

    /// Sets up a host and a wire for the kernel's driver.
    fn with_kernel_driver() -> Self {
        let host = Arc::new(Netns::new("host"));
        let wire = Self::set_up_wire(&host, "off");
        Self { wire, switch: None, host, xdp: "off" }
    }

    fn set_up_wire(host: &Netns, xdp: &str) -> Wire {
        let wire = Wire::new(host, xdp, 2);
        for machine in &wire.hosts {
            machine.ip(&format!("route add {} via {}", ROUTED[0], Wire::HOST[0]));
            machine.ip(&format!("-6 route add {} via {}", ROUTED[1], Wire::HOST[1]));
        }
        wire
    }

    /// Makes the physical network and the host ready for a kind, whatever kind was there before.
    fn prepare(&self, kind: Kind) {
        let switch = |on: bool| if on { "1" } else { "0" };
        let set_forwarding = |netns: &Netns, on: bool| {
            netns.set("net/ipv4/ip_forward", switch(on));
            netns.set("net/ipv6/conf/all/forwarding", switch(on));
        };
        if kind.mode == "l3s" {
            set_forwarding(&self.host, true);
        }
        let by_router = kind.reflected && kind.is_routed();
        self.wire.set_hairpin(kind.reflected && !by_router);
        let router = &self.wire.hosts[0];
        set_forwarding(router, by_router);
        if by_router {
            let [ipv4, ipv6] = Wire::address(0);
            self.host.ip(&format!("route replace default via {ipv4}"));
            self.host.ip(&format!("-6 route replace default via {ipv6}"));
            for setting in ["all", "eth0"] {
                router.set(&format!("net/ipv4/conf/{setting}/send_redirects"), "0");
            }
        } else {
            self.host.ip("-4 route flush default");
            self.host.ip("-6 route flush default");
        }
        for netns in self.wire.hosts.iter().chain([&*self.host]) {
            netns.ip("neigh flush all");
        }
    }

    /// Connects the containers of a kind, measures, and removes all of it.
    fn measure(&self, kind: Kind) -> Table {
        self.prepare(kind);
        let containers = match &self.switch {
            Some(host) => self.connect_with_vswitch(host, kind),
            None => self.connect_with_kernel_driver(kind),
        };
        let table = self.measure_between(&containers, kind);
        for (container, _) in &containers {
            match &self.switch {
                Some(host) => host.ok(&["detach", container.name()]),
                None => container.ip("link del eth0"),
            };
        }
        if let Some(host) = &self.switch {
            host.ok(&["network", "rm", "lan"]);
        }
        table
    }

    fn connect_with_vswitch(&self, host: &Host, kind: Kind) -> Vec<Container> {
        let options = match kind.driver {
            "macvlan" => vec![format!("macvlan_mode={}", kind.mode)],
            _ => vec![format!("ipvlan_mode={}", kind.mode), format!("ipvlan_flag={}", kind.flag)],
        };
        let mut options = [options, vec!["parent=phys0".to_owned(), format!("xdp={}", self.xdp)]].concat();
        if kind.host_access {
            options.push("host_access=true".to_owned());
        }
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let mut flags = on_the_wire(kind.driver, &options);
        if kind.is_routed() {
            flags = vec!["network", "create", "-d", kind.driver, "--subnet", ROUTED[0], "--subnet", ROUTED[1]];
            flags.extend(options.iter().flat_map(|option| ["-o", option]));
        }
        host.ok(&[&flags[..], &["lan"]].concat());
        let containers = Netns::several("c", kind.containers()).into_iter().map(|container| {
            let addresses = both(&host.attach(&container, &["--network", "lan"]));
            (container, addresses)
        });
        containers.collect()
    }

    fn connect_with_kernel_driver(&self, kind: Kind) -> Vec<Container> {
        let of_kind = match kind.driver {
            "macvlan" => format!("macvlan mode {}", kind.mode),
            _ => format!("ipvlan mode {} {}", kind.mode, kind.flag),
        };
        let containers = Netns::several("c", kind.containers()).into_iter().enumerate().map(|(number, container)| {
            self.host.ip(&format!("link add link phys0 name eth0 netns {} type {of_kind}", container.name()));
            let last = 10 + number;
            let subnet = if kind.is_routed() { 141 } else { 140 };
            let [ipv4, ipv6] = [format!("10.{subnet}.0.{last}"), format!("fd00:{subnet}::{last}")];
            container.ip(&format!("address add {ipv4}/24 dev eth0"));
            container.ip(&format!("-6 address add {ipv6}/64 dev eth0 nodad"));
            container.ip("link set eth0 up");
            if kind.is_routed() {
                container.ip("route add default dev eth0");
                container.ip("-6 route add default dev eth0");
            }
            (container, [ipv4, ipv6].map(|text| text.parse().expect("an address")))
        });
        containers.collect()
    }

    /// Measures the reachability between all ends, as far as this test expects anything of it.
    fn measure_between(&self, containers: &[Container], kind: Kind) -> Table {
        let (container, own) = &containers[0];
        // Machine 0 may be the router.
        let (machine, of_machine) = (&self.wire.hosts[1], Wire::address(1));
        let of_host = Wire::HOST.map(|text| text.parse().expect("an address"));
        let mut ways = vec![
            ("container to wire", container, machine, of_machine),
            ("wire to container", machine, container, *own),
            ("container to host", container, &*self.host, of_host),
            ("host to container", &*self.host, container, *own),
            ("host to wire", &*self.host, machine, of_machine),
            ("wire to host", machine, &*self.host, of_host),
        ];
        if let Some((other, of_other)) = containers.get(1) {
            ways.push(("container to container", container, other, *of_other));
        }
        let shouts = [
            ("broadcast from wire", machine, of_machine, container),
            ("broadcast from container", container, *own, machine),
        ];
        let measure = |(way, from, to, addresses): (&'static str, &Netns, &Netns, [IpAddr; 2]), expected: bool| {
            let cells = thread::scope(|scope| {
                let tries = addresses.map(|address| scope.spawn(move || reaches(from, to, address, expected)));
                tries.map(|cell| cell.join().expect("the attempt does not panic").to_string())
            });
            ["IPv4", "IPv6"].into_iter().zip(cells).map(move |(family, cell)| ((way, family), cell))
        };
        let shout = |(way, from, addresses, to): (&'static str, &Netns, [IpAddr; 2], &Netns)| {
            let IpAddr::V4(address) = addresses[0] else { unreachable!("the first is IPv4") };
            let heard = broadcast_reaches(from, address, to, kind.expected(way) == "yes");
            ((way, "IPv4"), if heard { "yes" } else { "no" }.to_owned())
        };
        // Ways that must work are tried one at a time: otherwise a try could profit from neighbor
        // entries that another one created.
        let mut table = Table::new();
        for way in ways.iter().filter(|(way, ..)| kind.expected(way) == "yes") {
            table.extend(measure(*way, true));
        }
        // Ways that must not work may not work with such entries either.
        thread::scope(|scope| {
            let closed = ways.iter().filter(|(way, ..)| kind.expected(way) == "no");
            let closed: Vec<_> = closed.map(|way| scope.spawn(move || measure(*way, false))).collect();
            let shouts = shouts.map(|way| scope.spawn(move || shout(way)));
            for cells in closed {
                table.extend(cells.join().expect("the attempt does not panic"));
            }
            table.extend(shouts.map(|cell| cell.join().expect("the attempt does not panic")));
        });
        table
    }
}

/// The results by way and address family.
type Table = BTreeMap<(&'static str, &'static str), String>;

/// Returns the cells that differ from the expectation, one line per cell with the results of all
/// tables. Returns an empty string if there are none.
fn differences(kind: Kind, tables: &[(&str, &Table)]) -> String {
    let mut lines = String::new();
    for (way, family) in tables[0].1.keys() {
        let expected = kind.expected(way);
        let wrong = tables.iter().any(|(_, table)| table[&(*way, *family)] != expected);
        if wrong {
            let found: Vec<String> = tables
                .iter()
                .map(|(implementation, table)| format!("{implementation} {}", table[&(*way, *family)]))
                .collect();
            writeln!(lines, "{}: {way}, {family}: expected {expected}; {}", kind.name(), found.join(", ")).unwrap();
        }
    }
    lines
}

/// Formats tables side by side.
fn format_tables(kind: Kind, tables: &[(&str, &Table)]) -> String {
    let mut lines = format!("\n{:<34}{:>10}", kind.name(), "expected");
    for (implementation, _) in tables {
        write!(lines, "{implementation:>14}").unwrap();
    }
    lines.push('\n');
    for (way, family) in tables[0].1.keys() {
        write!(lines, "  {:<32}{:>10}", format!("{way}, {family}"), kind.expected(way)).unwrap();
        for (_, table) in tables {
            write!(lines, "{:>14}", table[&(*way, *family)]).unwrap();
        }
        lines.push('\n');
    }
    lines
}

fn assert_expected(kinds: &[Kind], xdp: &'static str) {
    let lab = Lab::with_vswitch(xdp);
    check(kinds, &[("ours", &lab)]);
}

/// The same without XDP, and compares both implementations, if the kernel has the driver.
fn assert_expected_and_as_the_kernel(kinds: &[Kind]) {
    let lab = Lab::with_vswitch("off");
    let driver = kinds[0].driver;
    if kernel_has(driver) {
        check(kinds, &[("ours", &lab), ("the kernel's", &Lab::with_kernel_driver())]);
    } else {
        eprintln!("THIS KERNEL HAS NO {driver}: our driver is NOT compared with the kernel's");
        check(kinds, &[("ours", &lab)]);
    }
}

fn check(kinds: &[Kind], labs: &[(&str, &Lab)]) {
    let mut wrong = String::new();
    for kind in kinds {
        // The implementations do not share anything, so they are measured at the same time.
        let tables: Vec<Table> = thread::scope(|scope| {
            let measurements: Vec<_> = labs.iter().map(|(_, lab)| scope.spawn(move || lab.measure(*kind))).collect();
            measurements.into_iter().map(|table| table.join().expect("the measurement does not panic")).collect()
        });
        let tables: Vec<(&str, &Table)> = labs.iter().map(|(name, _)| *name).zip(&tables).collect();
        eprintln!("{}", format_tables(*kind, &tables));
        wrong += &differences(*kind, &tables);
    }
    assert!(wrong.is_empty(), "with xdp={}:\n{wrong}", labs[0].1.xdp);
}

/// Reports whether the kernel has this driver.
fn kernel_has(driver: &str) -> bool {
    let [netns, far] = ["driver", "far"].map(Netns::new);
    netns.wire("phys0", &far, "eth0");
    let mut command = Command::new("ip");
    command.args(["-n", netns.name(), "link", "add", "link", "phys0", "name", "try0", "type", driver]);
    run(&mut command).code == Some(0)
}

#[test]
fn macvlan_reachability_follows_the_mode() {
    assert_expected_and_as_the_kernel(&Kind::macvlan());
}

#[test]
fn macvlan_reachability_follows_the_mode_with_xdp() {
    assert_expected(&Kind::macvlan(), "native");
}

#[test]
fn ipvlan_l2_reachability_follows_the_flag() {
    assert_expected_and_as_the_kernel(&Kind::ipvlan("l2"));
}

#[test]
fn ipvlan_l2_reachability_follows_the_flag_with_xdp() {
    assert_expected(&Kind::ipvlan("l2"), "native");
}

#[test]
fn ipvlan_l3_reachability_follows_the_flag() {
    assert_expected_and_as_the_kernel(&Kind::ipvlan("l3"));
}

#[test]
fn ipvlan_l3_reachability_follows_the_flag_with_xdp() {
    assert_expected(&Kind::ipvlan("l3"), "native");
}

#[test]
fn ipvlan_l3s_reachability_follows_the_flag() {
    assert_expected_and_as_the_kernel(&Kind::ipvlan("l3s"));
}

#[test]
fn ipvlan_l3s_reachability_follows_the_flag_with_xdp() {
    assert_expected(&Kind::ipvlan("l3s"), "native");
}

#[test]
fn host_access_connects_the_host_and_its_containers() {
    let kinds = [MACVLAN, Kind { mode: "private", ..MACVLAN }, IPVLAN];
    let kinds = kinds.map(|kind| Kind { host_access: true, ..kind });
    for xdp in ["off", "native"] {
        assert_expected(&kinds, xdp);
    }
}
