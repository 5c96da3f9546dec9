//! Multicast reaches those who asked for it, and nobody else.

use std::net::IpAddr;

use serde_json::Value;
use vswitch::multicast::{Asker, Family, Query};

use crate::harness::{Attached, Frame, Group, Host, Mac, Member, Netns, RawPort, eventually, saying, send_to_group};

const GROUPS: [&str; 2] = ["239.1.2.3", "ff15::1234"];

/// Endpoints in a network with both families.
struct Segment {
    ports: Vec<RawPort>,
    at: Vec<Attached>,
    containers: Vec<Netns>,
    host: Host,
}

impl Segment {
    fn new(count: usize, options: &[&str]) -> Self {
        let host = Host::up(&[]);
        let create = ["network", "create", "--subnet", "10.98.0.0/24", "--subnet", "fd00:98::/64"];
        host.ok(&[&create, options, &["mc"]].concat());
        let containers = Netns::several("c", count);
        let at = containers.iter().map(|container| host.attach(container, &["--network", "mc"])).collect();
        let ports = containers.iter().map(|container| RawPort::open(container, "eth0")).collect();
        Self { ports, at, containers, host }
    }

    /// Has the last endpoint send datagrams to a group. `listener` has them all, and of the others, the last not counted,
    /// those that `reached` returns have as many.
    #[track_caller]
    fn send(&self, group: IpAddr, text: &str, listener: Option<&Member>) -> Vec<usize> {
        const COUNT: usize = 5;
        let last = self.containers.len() - 1;
        send_to_group(&self.containers[last], "eth0", group, text, COUNT);
        if let Some(listener) = listener {
            listener.expect(text, COUNT);
        }
        let mark = Frame::new(Mac::BROADCAST, self.at[last].mac, &format!("mark after {text}"));
        self.ports[last].send(&mark);
        let counts = self.ports[..last].iter().map(|port| saying(&port.expect(&mark), text)).collect::<Vec<_>>();
        assert!(counts.iter().all(|count| [0, COUNT].contains(count)), "{text}: {counts:?}");
        (0..last).filter(|index| counts[*index] != 0).collect()
    }

    /// The host's device in the network.
    fn host_device(&self) -> String {
        let networks: Vec<Value> = self.host.json(&["network", "inspect", "mc"]);
        networks[0]["host_device"].as_str().expect("a bridge network has one").to_owned()
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[test]
fn one_listener_of_ten_gets_what_it_joined() {
    let segment = Segment::new(11, &[]);
    let Segment { at, containers, host, .. } = &segment;
    let versions = [(0, 0), (2, 1), (1, 2)];
    for (listener, (igmp, mld)) in versions.into_iter().enumerate() {
        containers[listener].set("net/ipv4/conf/eth0/force_igmp_version", &igmp.to_string());
        containers[listener].set("net/ipv6/conf/eth0/force_mld_version", &mld.to_string());
        for group in GROUPS.map(address) {
            let what = format!("{group} by IGMP {igmp} and MLD {mld}");
            assert_eq!(segment.send(group, &format!("too early for {what}"), None), [0; 0]);
            let member = Member::join(&containers[listener], "eth0", group);
            eventually(&what, || (host.listening(group) == [at[listener].name.clone()]).then_some(()));
            assert_eq!(segment.send(group, &what, Some(&member)), [listener]);
            drop(member);
            if igmp == 1 && group.is_ipv4() {
                // IGMPv1 has no word for it.
                continue;
            }
            eventually(&format!("{what} is left"), || host.listening(group).is_empty().then_some(()));
            assert_eq!(segment.send(group, &format!("too late for {what}"), None), [0; 0]);
        }
    }
}

#[test]
fn what_everybody_is_in_reaches_everybody() {
    let segment = Segment::new(4, &[]);
    for group in ["224.0.0.251", "ff02::1"].map(address) {
        assert_eq!(segment.send(group, &format!("to all by {group}"), None), [0, 1, 2]);
    }
    assert_eq!(segment.send(address("239.9.9.9"), "to nobody", None), [0; 0]);
    // Neighbors are found.
    crate::harness::ping(&segment.containers[3], segment.at[0].ipv6.expect("an IPv6 address"));
}

#[test]
fn a_listener_that_is_detached_is_forgotten() {
    let segment = Segment::new(3, &[]);
    let Segment { at, containers, host, .. } = &segment;
    let group = address(GROUPS[0]);
    let _members = [0, 1].map(|index| Member::join(&containers[index], "eth0", group));
    eventually("both listen", || (host.listening(group).len() == 2).then_some(()));
    host.ok(&["detach", &at[0].name]);
    assert_eq!(host.listening(group), [at[1].name.clone()]);
    let text = host.ok(&["mdb", "show", "--network", "mc"]);
    assert!(text.contains("239.1.2.3") && text.contains(&at[1].name), "{text}");
    assert!(!host.ok(&["mdb", "show", "--network", "bridge"]).contains("239.1.2.3"));
    host.fails(1, &["mdb", "show", "--network", "nowhere"]);
}

#[test]
fn the_host_listens_too() {
    let segment = Segment::new(3, &[]);
    let device = segment.host_device();
    for group in GROUPS.map(address) {
        let member = Member::join(&segment.host.netns, &device, group);
        let listening = [device.clone()];
        eventually("the host listens", || (segment.host.listening(group) == listening).then_some(()));
        assert_eq!(segment.send(group, "for the host", Some(&member)), [0; 0]);
        drop(member);
        eventually("it has left", || segment.host.listening(group).is_empty().then_some(()));
    }
}

#[test]
fn where_no_router_asks_the_switch_does() {
    let segment = Segment::new(1, &[]);
    let Segment { ports, host, .. } = &segment;
    // The first thing that a daemon does.
    host.kill_daemon();
    ports[0].pending();
    host.start(&[]);
    let gateway = host.netns.mac(&segment.host_device());
    let asked = ports[0].expect_such("a general query of IGMP", |Frame(bytes)| {
        bytes.len() >= 50 && bytes[..6] == [1, 0, 0x5e, 0, 0, 1] && bytes[38] == 0x11
    });
    // From the gateway, with TTL 1 and a router alert, of version 3: the interval is in it.
    let Frame(bytes) = &asked;
    assert_eq!((&bytes[6..12], &bytes[26..30]), (&gateway.0[..], &[10, 98, 0, 1][..]));
    assert_eq!((bytes[22], &bytes[34..36], bytes[47]), (1, &[0x94, 4][..], 125));
    let asked = ports[0].expect_such("a general query of MLD", |Frame(bytes)| {
        bytes.len() >= 90 && bytes[..6] == [0x33, 0x33, 0, 0, 0, 1] && bytes[62] == 130
    });
    // Link-local, with hop limit 1, and the interval.
    assert_eq!((asked.0[21], &asked.0[22..24], asked.0[87]), (1, &[0xfe, 0x80][..], 125));
}

#[test]
fn the_next_daemon_knows_who_listens_and_asks_who_else_does() {
    let segment = Segment::new(3, &[]);
    let Segment { at, containers, host, .. } = &segment;
    let device = segment.host_device();
    let known = address(GROUPS[0]);
    let member = Member::join(&containers[0], "eth0", known);
    eventually("it listens", || (!host.listening(known).is_empty()).then_some(()));
    host.kill_daemon();
    assert_eq!(segment.send(known, "nobody at home", Some(&member)), [0]);
    let missed: Vec<_> = GROUPS.iter().map(|group| Member::join(&containers[1], "eth0", address(group))).collect();
    let by_host = address("239.4.5.6");
    let _by_host = Member::join(&host.netns, &device, by_host);
    // Until the kernel has said it as often as it does.
    std::thread::sleep(std::time::Duration::from_secs(3));
    host.start(&[]);
    assert!(host.listening(known).contains(&at[0].name), "taken over");
    let mut both = [at[0].name.clone(), at[1].name.clone()];
    both.sort();
    eventually("those that it missed have answered", || (host.listening(known) == both).then_some(()));
    eventually("by MLD", || (host.listening(address(GROUPS[1])) == [at[1].name.clone()]).then_some(()));
    eventually("the host hears it, too", || (host.listening(by_host) == [device.as_str()]).then_some(()));
    assert_eq!(segment.send(known, "somebody at home", Some(&member)), [0, 1]);
    let groups: Vec<Group> = host.json(&["mdb", "show"]);
    assert!(groups.iter().all(|group| group.expires_in.is_some_and(|left| left <= 260)), "{groups:?}");
    drop(missed);
}

#[test]
fn the_wire_gets_reports_and_all_multicast() {
    let host = Host::down();
    let [a, b, wire] = ["a", "b", "wire"].map(Netns::new);
    host.netns.wire("phys0", &wire, "eth0");
    wire.ip("address add 10.97.0.200/24 dev eth0");
    host.start(&[]);
    let create =
        ["network", "create", "--subnet", "10.97.0.0/24", "--gateway", "10.97.0.9", "--ip-range", "10.97.0.64/26"];
    host.ok(&[&create[..], &["-o", "uplink=phys0", "lan"]].concat());
    let [at_a, at_b] = [&a, &b].map(|container| host.attach(container, &["--network", "lan"]));
    let [port_a, port_b, at_wire] = [&a, &b, &wire].map(|netns| RawPort::open(netns, "eth0"));
    let group = address(GROUPS[0]);

    let member = Member::join(&a, "eth0", group);
    let is_report = |Frame(bytes): &Frame| bytes.len() > 50 && bytes[38..39] == [0x22] && bytes[..4] == [1, 0, 0x5e, 0];
    at_wire.expect_such("a's report", |frame| is_report(frame) && frame.0[6..12] == at_a.mac.0);
    eventually("a listens", || (host.listening(group) == [at_a.name.clone()]).then_some(()));
    send_to_group(&wire, "eth0", group, "from the wire", 5);
    member.expect("from the wire", 5);
    let mark = Frame::new(Mac::BROADCAST, wire.mac("eth0"), "mark");
    at_wire.send(&mark);
    let seen = port_b.expect(&mark);
    assert_eq!(saying(&seen, "from the wire"), 0);
    assert!(!seen.iter().any(is_report), "what listeners say is for routers: {seen:02x?}");

    send_to_group(&b, "eth0", address("239.9.9.9"), "for whoever is out there", 1);
    at_wire.expect_such("b's datagram", |frame| saying(std::slice::from_ref(frame), "for whoever is out there") == 1);

    // A router on the wire asks everybody.
    let asker = Asker {
        mac: wire.mac("eth0"),
        ipv4: [10, 97, 0, 1].into(),
        link_local: "fe80::1".parse().expect("an address"),
    };
    let query = Frame(Query::General(Family::Ipv4).frame(&asker));
    at_wire.send(&query);
    for port in [&port_a, &port_b] {
        port.expect(&query);
    }
    at_wire.expect_such("a's answer", |frame| is_report(frame) && frame.0[6..12] == at_a.mac.0);
    assert_ne!(at_a.mac, at_b.mac);
}

#[test]
fn a_network_can_do_without() {
    let segment = Segment::new(3, &["-o", "mcast_snooping=false"]);
    let group = address(GROUPS[0]);
    let member = Member::join(&segment.containers[0], "eth0", group);
    assert_eq!(segment.send(group, "to everybody", Some(&member)), [0, 1]);
    segment.host.kill_daemon();
    segment.ports[0].pending();
    segment.host.start(&[]);
    assert_eq!(segment.send(group, "to everybody still", Some(&member)), [0, 1]);
    assert!(segment.host.listening(group).is_empty());
}

#[test]
fn a_vlan_has_listeners_of_its_own_who_are_not_forgotten_where_nobody_asks() {
    let host = Host::up(&[]);
    let [a, b, c, sender] = ["a", "b", "c", "sender"].map(Netns::new);
    let [at_a, ..] = [&a, &b].map(|container| host.attach(container, &["--vlan", "30"]));
    host.attach(&c, &[]);
    let at_sender = host.attach(&sender, &["--vlan", "30"]);
    let group = address(GROUPS[0]);
    let [in_a, in_c] = [&a, &c].map(|container| Member::join(container, "eth0", group));
    let listening = || -> Vec<(u16, bool, Vec<String>)> {
        let groups: Vec<Group> = host.json(&["mdb", "show"]);
        groups.into_iter().map(|group| (group.vlan, group.expires_in.is_some(), group.ports)).collect()
    };
    let expected = |vlan: u16, expires, port: &str| (vlan, expires, vec![port.to_owned()]);
    let at_c = host.ps().into_iter().find(|endpoint| endpoint.netns == c.path()).expect("it is attached").name;
    let both = [expected(0, true, &at_c), expected(30, false, &at_a.name)];
    eventually("both listen, each in its VLAN", || (listening() == both).then_some(()));

    let [port_b, port_c, port] = [&b, &c, &sender].map(|netns| RawPort::open(netns, "eth0"));
    send_to_group(&sender, "eth0", group, "in VLAN 30", 5);
    in_a.expect("in VLAN 30", 5);
    let mark = Frame::new(Mac::BROADCAST, at_sender.mac, "mark");
    port.send(&mark);
    assert_eq!(saying(&port_b.expect(&mark), "in VLAN 30"), 0);
    assert_eq!(saying(&port_c.pending(), "in VLAN 30"), 0);
    drop((in_a, in_c));
    eventually("both have left", || listening().is_empty().then_some(()));
}
