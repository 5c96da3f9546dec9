//! Names, published ports and the way out beside the firewalls of the host: an INPUT policy of drop,
//! ufw, firewalld, and with them Docker and NetworkManager. All start, reload and stop in both orders
//! of every pair.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use serde_json::Value;

use crate::harness::{
    Answer, Attached, Docker, Host, Machine, Netns, Service, Site, Stream, Uplinks, addresses, ask_tcp, eventually,
    fetch, run, settles, try_ask, try_get,
};

/// The time after which an attempt is repeated.
const ATTEMPT: Duration = Duration::from_secs(2);
/// The time after which nothing is expected any more.
const SILENCE: Duration = Duration::from_millis(400);

/// A host with an endpoint in an open network, which publishes port 8080, and one in an internal
/// network.
struct Field {
    // The instance goes down before its files and containers go.
    host: Host,
    web: Netns,
    db: Netns,
    outside: Netns,
    _outside2: Netns,
    at: Option<[Attached; 2]>,
    _sites: [Site; 3],
}

/// The port of the host's own service, which no firewall is told to open.
const CLOSED: u16 = 2222;
const DOCKERS: u16 = 8081;

impl Field {
    fn on(host: Host) -> Self {
        let Uplinks { outside, outside2, host } = Uplinks::of(host);
        let [web, db] = ["web", "db"].map(Netns::new);
        let _sites =
            [Site::open(&outside, 80, "outside"), Site::open(&web, 80, "web"), Site::open(&host.netns, CLOSED, "host")];
        Self { host, web, db, outside, _outside2: outside2, at: None, _sites }
    }

    /// Starts the switch. The first time it makes the networks.
    fn up(&mut self) {
        self.host.start(&[]);
        if self.at.is_some() {
            return;
        }
        for (options, number, name) in [(&[][..], 121, "front"), (&["--internal"], 124, "inside")] {
            let [ipv4, ipv6] = [format!("10.{number}.0.0/24"), format!("fd00:{number}::/64")];
            let create = ["network", "create", "--subnet", &ipv4, "--subnet", &ipv6];
            self.host.ok(&[&create, options, &[name]].concat());
        }
        let web = self.host.attach(&self.web, &["--network", "front", "--name", "web", "-p", "8080:80"]);
        let db = self.host.attach(&self.db, &["--network", "inside", "--name", "db"]);
        self.at = Some([web, db]);
    }

    /// Asserts that names, the published port and the way out work, in both families.
    #[track_caller]
    fn assert_switch_works(&self, when: &str) {
        let at = self.at.as_ref().expect("the switch was up");
        for ((outside, own), family) in addresses(Uplinks::OUTSIDE).into_iter().zip(addresses(Uplinks::HOST)).zip(0..) {
            let reached = |what: &str, from: &Netns, to: IpAddr, port: u16, site: &str, client: IpAddr| {
                let page = settles(&format!("{what} {when}, to {to}"), || try_get(from, (to, port).into(), ATTEMPT));
                assert_eq!((page.site.as_str(), page.client), (site, client), "{what} {when}");
            };
            reached("the way out", &self.web, outside, 80, "outside", own);
            reached("the published port", &self.outside, own, 8080, "web", outside);
            for (container, at) in [&self.web, &self.db].into_iter().zip(at) {
                let (gateways, own) = (
                    [at.gateway.map(IpAddr::V4), at.gateway6.map(IpAddr::V6)],
                    [Some(IpAddr::V4(at.ipv4)), at.ipv6.map(IpAddr::V6)],
                );
                let (Some(server), Some(address)) = (gateway(at, gateways[family], family), own[family]) else {
                    panic!("{at:?} has no address of family {family}")
                };
                let kind = ["A", "AAAA"][family];
                let answer = settles(&format!("names over UDP {when}, from {server}"), || {
                    try_ask(container, server, &at.name, kind, ATTEMPT)
                });
                assert_eq!(answer, Answer::of(&[&address]), "{when}");
                assert_eq!(ask_tcp(container, server, &at.name, kind), Answer::of(&[&address]), "{when}");
            }
        }
        // While it reloads, firewalld drops everything with a table of its own.
        settles(&format!("no firewall drops {when}"), || match self.dropping() {
            dropping if dropping.is_empty() => Ok(()),
            dropping => Err(dropping),
        });
    }

    /// Returns the firewalls that drop what the networks need, as `status` lists them.
    fn dropping(&self) -> Vec<String> {
        let status: Value = self.host.json(&["status"]);
        let firewalls = status["firewalls"].as_array().expect("a list");
        let dropping = firewalls.iter().filter(|firewall| firewall["drops"] == true);
        dropping.map(|firewall| firewall["found"].to_string()).collect()
    }

    /// Asserts that a service of the host is reached from outside, or that a firewall closes it.
    #[track_caller]
    fn assert_closed(&self, closed: bool, when: &str) {
        for own in addresses(Uplinks::HOST) {
            let attempt = || try_get(&self.outside, SocketAddr::new(own, CLOSED), SILENCE);
            settles(&format!("the firewall {when}: closed {closed}"), || match attempt() {
                Ok(page) if closed => Err(format!("{page:?}")),
                Err(error) if !closed => Err(error.to_string()),
                _ => Ok(()),
            });
        }
    }
}

/// Returns the address of the DNS server. An endpoint of an internal network has no gateway.
fn gateway(at: &Attached, gateway: Option<IpAddr>, family: usize) -> Option<IpAddr> {
    gateway.or_else(|| at.nameservers.iter().copied().find(|server| server.is_ipv4() == (family == 0)))
}

#[test]
fn names_pass_an_input_policy_of_drop() {
    let mut field = Field::on(Host::down());
    field.up();
    let rules = |host: &Host| ["iptables", "ip6tables"].map(|program| host.netns.ok(program, "-w -S"));
    for program in ["iptables", "ip6tables"] {
        field.host.netns.ok(program, "-w -P INPUT DROP");
        field.host.netns.ok(program, "-w -A INPUT -i lo -j ACCEPT");
    }
    field.host.netns.ok("ip6tables", "-w -A INPUT -i up0 -p ipv6-icmp -j ACCEPT");
    let before = rules(&field.host);
    field.assert_switch_works("with a policy of drop");
    let notes = |field: &Field| field.host.json::<Value>(&["status"])["notes"].to_string();
    eventually("status says what was done", || notes(&field).contains("drops what the host gets").then_some(()));
    // The policy was there before the switch.
    field.host.stop(&[]);
    assert_eq!(rules(&field.host), before);
    field.up();
    field.assert_switch_works("after a start with a policy of drop");
    field.host.netns.ok("nft", "add table inet strict");
    field.host.netns.ok("nft", "add chain inet strict entry { type filter hook input priority 0 ; policy drop ; }");
    let doctor = || {
        let findings: Vec<Value> = field.host.json(&["doctor"]);
        findings.into_iter().find(|finding| finding["check"] == "firewall inet strict entry")
    };
    let found = eventually("doctor names the chain", || doctor().filter(|finding| finding["state"] == "limited"));
    let advice = found["advice"].as_str().unwrap_or_default();
    assert!(notes(&field).contains("names and answers to the host"), "{}", notes(&field));
    for command in advice.split('`').skip(1).step_by(2) {
        let outcome = run(field.host.netns.command("sh").args(["-c", command]));
        assert_eq!(outcome.code, Some(0), "{command}: {outcome:#?}");
    }
    field.host.netns.ok("nft", "insert rule inet strict entry iifname { up0, lo } accept");
    eventually("the remedy is noticed", || field.dropping().is_empty().then_some(()));
    field.assert_switch_works("after the remedy");
    assert_eq!(doctor().expect("a finding")["state"], "ok");
}

/// A program beside the switch, or the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Party {
    Switch,
    Ufw,
    Firewalld,
    Manager,
    Docker,
}

/// What runs.
struct Running<'a> {
    machine: &'a Machine,
    field: Field,
    docker: Docker,
    firewalld: Option<Service>,
    manager: Option<Service>,
    /// Docker runs without its rules: firewalld flushes the tables of iptables when it stops, with or
    /// without a switch beside it, and Docker adds its rules again only when it starts.
    docker_is_flushed: bool,
    /// In the order in which they were started.
    parties: Vec<Party>,
}

impl Running<'_> {
    fn start(&mut self, party: Party) {
        match party {
            Party::Switch => self.field.up(),
            Party::Ufw => self.ok("ufw", "--force enable"),
            Party::Firewalld => self.firewalld = Some(self.machine.firewalld(&self.field.host)),
            Party::Manager => self.manager = Some(self.machine.network_manager(&self.field.host)),
            Party::Docker => {
                self.docker.start(&self.field.host);
                self.docker_is_flushed = false;
                if self.docker.try_client(&["inspect", "web"]).code != Some(0) {
                    self.docker.serve(DOCKERS, "docker");
                }
            }
        }
        self.parties.push(party);
    }

    fn reload(&mut self, party: Party) {
        match party {
            Party::Switch => {
                self.field.host.kill_daemon();
                self.field.host.start(&[]);
            }
            Party::Ufw => self.ok("ufw", "reload"),
            Party::Firewalld => self.ok("firewall-cmd", "--reload"),
            Party::Manager => self.ok("nmcli", "general reload"),
            Party::Docker => self.docker.hang_up(),
        }
    }

    fn stop(&mut self, party: Party) {
        match party {
            Party::Switch => self.field.host.stop(&[]),
            Party::Ufw => self.ok("ufw", "disable"),
            Party::Firewalld => {
                self.firewalld.take().expect("it runs").stop();
                self.docker_is_flushed = true;
            }
            Party::Manager => self.manager.take().expect("it runs").stop(),
            Party::Docker => self.docker.stop(),
        }
        self.parties.retain(|running| *running != party);
    }

    #[track_caller]
    fn ok(&self, program: &str, arguments: &str) {
        let outcome = run(self.field.host.program(program).args(arguments.split_whitespace()));
        assert_eq!(outcome.code, Some(0), "{program} {arguments}: {outcome:#?}");
    }

    fn position(&self, party: Party) -> Option<usize> {
        self.parties.iter().position(|running| *running == party)
    }

    /// Asserts that everything that runs works.
    #[track_caller]
    fn assert_works(&self, when: &str) {
        println!("{when}: {:?}", self.parties);
        let Field { host, outside, .. } = &self.field;
        let firewall = self.position(Party::Ufw).or_else(|| self.position(Party::Firewalld));
        if self.position(Party::Switch).is_some() {
            self.field.assert_switch_works(when);
        }
        self.field.assert_closed(firewall.is_some(), when);
        // Docker sets its zone of firewalld up only when it starts itself. Before that, firewalld
        // rejects packets for Docker's containers, with or without a switch beside it.
        let firewalld = self.position(Party::Firewalld);
        let docker =
            self.position(Party::Docker).filter(|docker| firewalld.is_none_or(|firewalld| firewalld < *docker));
        if docker.is_some() {
            let published = SocketAddr::new(addresses(Uplinks::HOST)[0], DOCKERS);
            settles(&format!("Docker's published port {when}"), || match fetch(outside, published, ATTEMPT) {
                Ok(body) if body == "docker" => Ok(()),
                other => Err(other),
            });
        }
        if docker.is_some() && !self.docker_is_flushed {
            // The client of busybox needs files of the C library to look up the name of its port.
            let request = format!(r"printf 'GET / HTTP/1.0\r\n\r\n' | /bin/busybox nc -w 2 {} 80", Uplinks::OUTSIDE[0]);
            let inside = ["exec", "web", "/bin/busybox", "sh", "-c", &request];
            settles(&format!("Docker's way out {when}"), || {
                let outcome = self.docker.try_client(&inside);
                if outcome.stdout.contains("outside ") { Ok(()) } else { Err(outcome) }
            });
        }
        if self.position(Party::Manager).is_some() {
            let listed = run(host.program("nmcli").args(["-t", "-f", "DEVICE,STATE", "device"])).stdout;
            let ours =
                host.netns.devices().into_iter().filter(|device| device.starts_with('v') && device.contains('-'));
            for device in ours.filter(|device| !device.starts_with("veth")) {
                assert!(listed.contains(&format!("{device}:unmanaged\n")), "{when}: {device} in {listed}");
            }
        }
    }
}

/// Starts, reloads and stops all parties in an order and in its reverse, so that each pair meets in
/// both orders.
fn all_meet(machine: &Machine, files: &[(&str, &str)], parties: &[Party]) {
    let host = machine.host();
    for (file, text) in files {
        machine.write("/etc/NetworkManager", file, text);
    }
    let _bus = machine.bus(&host);
    let field = Field::on(host);
    let mut running = Running {
        machine,
        field,
        docker: Docker::new(),
        firewalld: None,
        manager: None,
        docker_is_flushed: false,
        parties: Vec::new(),
    };
    let reversed: Vec<Party> = parties.iter().rev().copied().collect();
    for order in [parties, &reversed] {
        for party in order {
            running.start(*party);
            running.assert_works(&format!("after the start of {party:?}"));
        }
        let outside = addresses(Uplinks::OUTSIDE)[0];
        let stream = Stream::start(&running.field.web, &running.field.outside, outside);
        for party in order {
            running.reload(*party);
            stream.goes_on(1 << 16);
            running.assert_works(&format!("after the reload of {party:?}"));
        }
        stream.assert_complete();
        for party in order {
            running.stop(*party);
            running.assert_works(&format!("after the stop of {party:?}"));
        }
    }
}

#[test]
fn ufw_and_docker_in_every_order() {
    let Some(machine) = Machine::with(&["ufw", "dockerd", "docker", "dbus-daemon", "busybox"]) else { return };
    all_meet(&machine, &[], &[Party::Ufw, Party::Switch, Party::Docker]);
}

#[test]
fn firewalld_network_manager_and_docker_in_every_order() {
    let programs =
        ["firewalld", "firewall-cmd", "NetworkManager", "nmcli", "dockerd", "docker", "dbus-daemon", "busybox"];
    let Some(machine) = Machine::with(&programs) else { return };
    // The file names the devices of the default instance.
    let ours = include_str!("../../dist/NetworkManager/90-vswitch.conf").replace("vsw-*", "v????-*");
    // Without udev, NetworkManager would take every wire of the test.
    // It must not write the resolv.conf of the machine, which the host shares.
    let manager = "[main]\nplugins=keyfile\nno-auto-default=*\ndns=none\nrc-manager=unmanaged\n";
    let files = [("NetworkManager.conf", manager), ("conf.d/90-vswitch.conf", &*ours)];
    all_meet(&machine, &files, &[Party::Firewalld, Party::Switch, Party::Manager, Party::Docker]);
}
