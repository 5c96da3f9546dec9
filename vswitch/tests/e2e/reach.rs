//! Who reaches whom in each mode of macvlan and ipvlan, and that it is as with the kernel's own devices.

use std::{collections::BTreeMap, fmt::Write as _, net::IpAddr, process::Command, sync::Arc, thread};

use crate::harness::{Host, Netns, Wire, both, broadcast_reaches, on_the_wire, reaches, run};

/// A way to put containers on a physical network.
#[derive(Clone, Copy)]
struct Kind {
    driver: &'static str,
    mode: &'static str,
    flag: &'static str,
    /// The wire takes back to the host what comes from it: a reflecting switch, or a router where there are no frames.
    back: bool,
    host_access: bool,
}

const MACVLAN: Kind = Kind { driver: "macvlan", mode: "bridge", flag: "", back: false, host_access: false };
const IPVLAN: Kind = Kind { driver: "ipvlan", mode: "l2", flag: "bridge", ..MACVLAN };

impl Kind {
    fn macvlan() -> Vec<Self> {
        let modes = [("bridge", false), ("private", false), ("private", true), ("vepa", false), ("vepa", true)];
        let modes = modes.into_iter().chain([("passthru", false)]);
        modes.map(|(mode, back)| Self { mode, back, ..MACVLAN }).collect()
    }

    fn ipvlan(mode: &'static str) -> Vec<Self> {
        let flags = [("bridge", false), ("private", false), ("private", true), ("vepa", false), ("vepa", true)];
        flags.map(|(flag, back)| Self { mode, flag, back, ..IPVLAN }).to_vec()
    }

    fn all() -> Vec<Self> {
        [Self::macvlan(), Self::ipvlan("l2"), Self::ipvlan("l3"), Self::ipvlan("l3s")].concat()
    }

    fn name(self) -> String {
        let words = [
            self.driver,
            self.mode,
            self.flag,
            if self.back { "and back" } else { "" },
            if self.host_access { "with host access" } else { "" },
        ];
        words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
    }

    /// Whether its containers are in a subnet of their own, behind the host.
    fn is_routed(self) -> bool {
        self.mode.starts_with("l3")
    }

    fn containers(self) -> usize {
        if self.mode == "passthru" { 1 } else { 2 }
    }

    /// What must be between two ends: `yes`, `no`, or `?` where it depends on what is no part of this.
    fn expected(self, way: &str) -> &'static str {
        let yes = |reaches| if reaches { "yes" } else { "no" };
        match way {
            "container to wire" | "wire to container" => "yes",
            // Ours goes by the host's route to the endpoint, the kernel's by its default route (decision 16).
            "container to container" if (self.mode, self.flag, self.back) == ("l3s", "vepa", true) => "?",
            "container to container" => yes(match (self.mode, self.flag) {
                ("private", _) | (_, "private") => false,
                ("vepa", _) | (_, "vepa") => self.back,
                _ => true,
            }),
            // By way of a reflecting switch, everybody on the wire is reached.
            "container to host" | "host to container" if self.back => "?",
            "container to host" | "host to container" => yes(self.host_access),
            // One container owns the parent.
            "host to wire" | "wire to host" if self.mode == "passthru" => "?",
            "host to wire" | "wire to host" => "yes",
            "broadcast from wire" | "broadcast from container" => yes(!self.is_routed()),
            _ => unreachable!("{way}"),
        }
    }
}

/// Two containers on a physical network, by whatever means.
struct Segment {
    containers: Vec<(Netns, [IpAddr; 2])>,
    wire: Wire,
    // Before its namespace.
    _switch: Option<Host>,
    host: Arc<Netns>,
}

const ROUTED: [&str; 2] = ["10.141.0.0/24", "fd00:141::/64"];

impl Segment {
    /// By the switch.
    fn ours(kind: Kind, xdp: &str) -> Self {
        let host = Host::down();
        let wire = Self::wire(&host.netns, kind, xdp);
        host.start(&[]);
        let options = match kind.driver {
            "macvlan" => vec![format!("macvlan_mode={}", kind.mode)],
            _ => vec![format!("ipvlan_mode={}", kind.mode), format!("ipvlan_flag={}", kind.flag)],
        };
        let mut options = [options, vec!["parent=phys0".to_owned(), format!("xdp={xdp}")]].concat();
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
        Self { containers: containers.collect(), wire, host: host.netns.clone(), _switch: Some(host) }
    }

    /// By the kernel's driver.
    fn reference(kind: Kind) -> Self {
        let host = Arc::new(Netns::new("host"));
        let wire = Self::wire(&host, kind, "off");
        let of_kind = match kind.driver {
            "macvlan" => format!("macvlan mode {}", kind.mode),
            _ => format!("ipvlan mode {} {}", kind.mode, kind.flag),
        };
        let containers = Netns::several("c", kind.containers()).into_iter().enumerate().map(|(number, container)| {
            host.ip(&format!("link add link phys0 name eth0 netns {} type {of_kind}", container.name()));
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
        Self { containers: containers.collect(), wire, _switch: None, host }
    }

    /// The host and the wire before there is any container.
    fn wire(host: &Netns, kind: Kind, xdp: &str) -> Wire {
        let wire = Wire::new(host, xdp, 2);
        if kind.mode == "l3s" {
            host.set("net/ipv4/ip_forward", "1");
            host.set("net/ipv6/conf/all/forwarding", "1");
        }
        if kind.is_routed() {
            for machine in &wire.hosts {
                machine.ip(&format!("route add {} via {}", ROUTED[0], Wire::HOST[0]));
                machine.ip(&format!("-6 route add {} via {}", ROUTED[1], Wire::HOST[1]));
            }
            if kind.back {
                let [ipv4, ipv6] = Wire::address(0);
                host.ip(&format!("route add default via {ipv4}"));
                host.ip(&format!("-6 route add default via {ipv6}"));
                let router = &wire.hosts[0];
                router.set("net/ipv4/ip_forward", "1");
                router.set("net/ipv6/conf/all/forwarding", "1");
                for setting in ["all", "eth0"] {
                    router.set(&format!("net/ipv4/conf/{setting}/send_redirects"), "0");
                }
            }
        }
        wire.reflecting(kind.back && !kind.is_routed());
        wire
    }

    /// Who reaches whom.
    fn measure(&self, kind: Kind) -> Table {
        let (container, own) = &self.containers[0];
        // Not the one that may be a router.
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
        if let Some((other, of_other)) = self.containers.get(1) {
            ways.push(("container to container", container, other, *of_other));
        }
        let shouts = [
            ("broadcast from wire", machine, of_machine, container),
            ("broadcast from container", container, *own, machine),
        ];
        // One way at a time, so that none finds the neighbors that another has asked for on its behalf.
        let mut table = Table::new();
        for (way, from, to, addresses) in ways {
            let expected = kind.expected(way) == "yes";
            let cells = thread::scope(|scope| {
                let tries = addresses.map(|address| scope.spawn(move || reaches(from, to, address, expected)));
                tries.map(|cell| cell.join().expect("it finds out").to_string())
            });
            for (family, cell) in ["IPv4", "IPv6"].into_iter().zip(cells) {
                table.insert((way, family), cell);
            }
        }
        for (way, from, addresses, to) in shouts {
            let IpAddr::V4(address) = addresses[0] else { unreachable!("the first is IPv4") };
            let heard = broadcast_reaches(from, address, to, kind.expected(way) == "yes");
            table.insert((way, "IPv4"), if heard { "yes" } else { "no" }.to_owned());
        }
        table
    }
}

/// What gets through, by way and family.
type Table = BTreeMap<(&'static str, &'static str), String>;

/// Where tables differ from what must be, one line a cell with all that there is about it; nothing where they do not.
fn differences(kind: Kind, tables: &[(&str, &Table)]) -> String {
    let mut lines = String::new();
    for (way, family) in tables[0].1.keys() {
        let expected = kind.expected(way);
        let wrong = expected != "?" && tables.iter().any(|(_, table)| table[&(*way, *family)] != expected);
        if wrong {
            let found: Vec<String> =
                tables.iter().map(|(whose, table)| format!("{whose} {}", table[&(*way, *family)])).collect();
            writeln!(lines, "{}: {way}, {family}: must be {expected}; {}", kind.name(), found.join(", ")).unwrap();
        }
    }
    lines
}

/// Tables side by side.
fn printed(kind: Kind, tables: &[(&str, &Table)]) -> String {
    let mut lines = format!("\n{:<34}{:>10}", kind.name(), "must be");
    for (whose, _) in tables {
        write!(lines, "{whose:>14}").unwrap();
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

fn as_it_must_be(kinds: &[Kind], xdp: &str) {
    let mut wrong = String::new();
    for kind in kinds {
        let table = Segment::ours(*kind, xdp).measure(*kind);
        let found = differences(*kind, &[("found", &table)]);
        if !found.is_empty() {
            eprintln!("{}", printed(*kind, &[("found", &table)]));
        }
        wrong += &found;
    }
    assert!(wrong.is_empty(), "with xdp={xdp}:\n{wrong}");
}

#[test]
fn macvlan_reaches_whom_its_mode_lets_it() {
    as_it_must_be(&Kind::macvlan(), "off");
}

#[test]
fn macvlan_reaches_whom_its_mode_lets_it_with_xdp() {
    as_it_must_be(&Kind::macvlan(), "native");
}

#[test]
fn ipvlan_l2_reaches_whom_its_flag_lets_it() {
    as_it_must_be(&Kind::ipvlan("l2"), "off");
}

#[test]
fn ipvlan_l2_reaches_whom_its_flag_lets_it_with_xdp() {
    as_it_must_be(&Kind::ipvlan("l2"), "native");
}

#[test]
fn ipvlan_l3_reaches_whom_its_flag_lets_it() {
    as_it_must_be(&Kind::ipvlan("l3"), "off");
}

#[test]
fn ipvlan_l3_reaches_whom_its_flag_lets_it_with_xdp() {
    as_it_must_be(&Kind::ipvlan("l3"), "native");
}

#[test]
fn ipvlan_l3s_reaches_whom_its_flag_lets_it() {
    as_it_must_be(&Kind::ipvlan("l3s"), "off");
}

#[test]
fn ipvlan_l3s_reaches_whom_its_flag_lets_it_with_xdp() {
    as_it_must_be(&Kind::ipvlan("l3s"), "native");
}

#[test]
fn with_host_access_the_host_and_its_containers_reach_each_other() {
    let kinds = [MACVLAN, Kind { mode: "private", ..MACVLAN }, IPVLAN];
    let kinds = kinds.map(|kind| Kind { host_access: true, ..kind });
    for xdp in ["off", "native"] {
        as_it_must_be(&kinds, xdp);
    }
}

/// Whether the kernel has a driver of its own.
fn kernel_has(driver: &str) -> bool {
    let [netns, far] = ["driver", "far"].map(Netns::new);
    netns.wire("phys0", &far, "eth0");
    let mut command = Command::new("ip");
    command.args(["-n", netns.name(), "link", "add", "link", "phys0", "name", "try0", "type", driver]);
    run(&mut command).code == Some(0)
}

/// Both, side by side, where the kernel has one.
fn compare(driver: &str) {
    if !kernel_has(driver) {
        eprintln!("THIS KERNEL HAS NO {driver}: ours is NOT compared with the kernel's own here");
        return;
    }
    let mut wrong = String::new();
    for kind in Kind::all().into_iter().filter(|kind| kind.driver == driver) {
        let reference = Segment::reference(kind).measure(kind);
        let ours = Segment::ours(kind, "off").measure(kind);
        let tables = [("the kernel's", &reference), ("ours", &ours)];
        eprintln!("{}", printed(kind, &tables));
        wrong += &differences(kind, &tables);
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn the_kernels_own_are_the_same_for_macvlan() {
    compare("macvlan");
}

#[test]
fn the_kernels_own_are_the_same_for_ipvlan() {
    compare("ipvlan");
}
