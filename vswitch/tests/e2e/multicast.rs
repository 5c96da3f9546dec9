//! Multicast frames reach the ports that have joined their group, and no others.

use std::net::IpAddr;

use serde_json::Value;
use vswitch::multicast::{Family, Query, QuerySource};

use crate::harness::{
    Attached, Frame, Group, Host, Mac, Member, Netns, RawPort, count_containing, eventually, send_to_group,
};

const GROUPS: [&str; 2] = ["239.1.2.3", "ff15::1234"];

/// Endpoints in a network with both address families.
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

    /// Sends datagrams from the last endpoint to a group. `listener` must receive all of them.
    /// Returns the indexes of the other endpoints whose ports received them. A port receives either
    /// all or none.
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
        let counts =
            self.ports[..last].iter().map(|port| count_containing(&port.expect(&mark), text)).collect::<Vec<_>>();
        assert!(counts.iter().all(|count| [0, COUNT].contains(count)), "{text}: {counts:?}");
        (0..last).filter(|index| counts[*index] != 0).collect()
    }

    /// Returns the name of the host device in the network.
    fn host_device(&self) -> String {
        let networks: Vec<Value> = self.host.json(&["network", "inspect", "mc"]);
        networks[0]["host_device"].as_str().expect("a bridge network has one").to_owned()
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[test]
fn one_listener_of_ten_receives_its_groups() {
    let segment = Segment::new(11, &[]);
    let Segment { at, containers, host, .. } = &segment;
    let versions = [(0, 0), (2, 1), (1, 2)];
    for (listener, (igmp, mld)) in versions.into_iter().enumerate() {
        containers[listener].set("net/ipv4/conf/eth0/force_igmp_version", &igmp.to_string());
        containers[listener].set("net/ipv6/conf/eth0/force_mld_version", &mld.to_string());
        for group in GROUPS.map(address) {
            let what = format!("{group} by IGMP {igmp} and MLD {mld}");
            assert_eq!(segment.send(group, &format!("too early: {what}"), None), [0; 0]);
            let member = Member::join(&containers[listener], "eth0", group);
            eventually(&what, || (host.listeners(group) == [at[listener].name.clone()]).then_some(()));
            assert_eq!(segment.send(group, &what, Some(&member)), [listener]);
            drop(member);
            if igmp == 1 && group.is_ipv4() {
                // IGMPv1 has no leave message.
                continue;
            }
            eventually(&format!("{what} is left"), || host.listeners(group).is_empty().then_some(()));
            assert_eq!(segment.send(group, &format!("too late: {what}"), None), [0; 0]);
        }
    }
}

#[test]
fn link_local_groups_reach_all_ports() {
    let segment = Segment::new(4, &[]);
    for group in ["224.0.0.251", "ff02::1"].map(address) {
        assert_eq!(segment.send(group, &format!("to all by {group}"), None), [0, 1, 2]);
    }
    assert_eq!(segment.send(address("239.9.9.9"), "without a listener", None), [0; 0]);
    // Neighbor discovery works.
    crate::harness::ping(&segment.containers[3], segment.at[0].ipv6.expect("an IPv6 address"));
}

#[test]
fn a_detached_listener_is_removed() {
    let segment = Segment::new(3, &[]);
    let Segment { at, containers, host, .. } = &segment;
    let group = address(GROUPS[0]);
    let _members = [0, 1].map(|index| Member::join(&containers[index], "eth0", group));
    eventually("both are members", || (host.listeners(group).len() == 2).then_some(()));
    host.ok(&["detach", &at[0].name]);
    assert_eq!(host.listeners(group), [at[1].name.clone()]);
    let text = host.ok(&["mdb", "show", "--network", "mc"]);
    assert!(text.contains("239.1.2.3") && text.contains(&at[1].name), "{text}");
    assert!(!host.ok(&["mdb", "show", "--network", "bridge"]).contains("239.1.2.3"));
    host.fails(1, &["mdb", "show", "--network", "nowhere"]);
}

#[test]
fn the_host_can_join_a_group() {
    let segment = Segment::new(3, &[]);
    let device = segment.host_device();
    for group in GROUPS.map(address) {
        let member = Member::join(&segment.host.netns, &device, group);
        let listening = [device.clone()];
        eventually("the host is a member", || (segment.host.listeners(group) == listening).then_some(()));
        assert_eq!(segment.send(group, "for the host", Some(&member)), [0; 0]);
        drop(member);
        eventually("the host has left", || segment.host.listeners(group).is_empty().then_some(()));
    }
}

#[test]
fn the_switch_sends_queries_where_no_router_does() {
    let segment = Segment::new(1, &[]);
    let Segment { ports, host, .. } = &segment;
    // A daemon sends general queries when it starts.
    host.kill_daemon();
    ports[0].pending();
    host.start(&[]);
    let gateway = host.netns.mac(&segment.host_device());
    let query_frame = ports[0].expect_such("a general query of IGMP", |Frame(bytes)| {
        bytes.len() >= 50 && bytes[..6] == [1, 0, 0x5e, 0, 0, 1] && bytes[38] == 0x11
    });
    // From the gateway, with TTL 1 and the router alert option. Its version is 3, so it contains
    // the query interval.
    let Frame(bytes) = &query_frame;
    assert_eq!((&bytes[6..12], &bytes[26..30]), (&gateway.0[..], &[10, 98, 0, 1][..]));
    assert_eq!((bytes[22], &bytes[34..36], bytes[47]), (1, &[0x94, 4][..], 125));
    let query_frame = ports[0].expect_such("a general query of MLD", |Frame(bytes)| {
        bytes.len() >= 90 && bytes[..6] == [0x33, 0x33, 0, 0, 0, 1] && bytes[62] == 130
    });
    // From a link-local address with hop limit 1. It contains the query interval.
    assert_eq!((query_frame.0[21], &query_frame.0[22..24], query_frame.0[87]), (1, &[0xfe, 0x80][..], 125));
}

#[test]
fn a_restarted_daemon_keeps_known_listeners_and_finds_new_ones() {
    let segment = Segment::new(3, &[]);
    let Segment { at, containers, host, .. } = &segment;
    let device = segment.host_device();
    let known = address(GROUPS[0]);
    let member = Member::join(&containers[0], "eth0", known);
    eventually("the port is a member", || (!host.listeners(known).is_empty()).then_some(()));
    host.kill_daemon();
    assert_eq!(segment.send(known, "without a daemon", Some(&member)), [0]);
    let missed: Vec<_> = GROUPS.iter().map(|group| Member::join(&containers[1], "eth0", address(group))).collect();
    let host_group = address("239.4.5.6");
    let _host_member = Member::join(&host.netns, &device, host_group);
    // Waits until the kernel has sent all its unsolicited reports.
    std::thread::sleep(std::time::Duration::from_secs(3));
    host.start(&[]);
    assert!(host.listeners(known).contains(&at[0].name), "the member is taken over");
    let mut both = [at[0].name.clone(), at[1].name.clone()];
    both.sort();
    eventually("the members that joined meanwhile have answered", || (host.listeners(known) == both).then_some(()));
    eventually("the MLD member has answered", || {
        (host.listeners(address(GROUPS[1])) == [at[1].name.clone()]).then_some(())
    });
    eventually("the host is a member", || (host.listeners(host_group) == [device.as_str()]).then_some(()));
    assert_eq!(segment.send(known, "with the next daemon", Some(&member)), [0, 1]);
    let groups: Vec<Group> = host.json(&["mdb", "show"]);
    assert!(groups.iter().all(|group| group.expires_in.is_some_and(|left| left <= 260)), "{groups:?}");
    drop(missed);
}

#[test]
fn an_uplink_gets_reports_and_all_multicast() {
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
    eventually("a is a member", || (host.listeners(group) == [at_a.name.clone()]).then_some(()));
    send_to_group(&wire, "eth0", group, "from the wire", 5);
    member.expect("from the wire", 5);
    let mark = Frame::new(Mac::BROADCAST, wire.mac("eth0"), "mark");
    at_wire.send(&mark);
    let seen = port_b.expect(&mark);
    assert_eq!(count_containing(&seen, "from the wire"), 0);
    assert!(!seen.iter().any(is_report), "reports are sent to routers only: {seen:02x?}");

    send_to_group(&b, "eth0", address("239.9.9.9"), "for the wire", 1);
    at_wire.expect_such("b's datagram", |frame| count_containing(std::slice::from_ref(frame), "for the wire") == 1);

    // A router on the wire sends a general query.
    let asker = QuerySource {
        mac: wire.mac("eth0"),
        ipv4: [10, 97, 0, 1].into(),
        link_local: "fe80::1".parse().expect("an address"),
    };
    let query = Frame(Query::General(Family::Ipv4).frame(&asker));
    at_wire.send(&query);
    for port in [&port_a, &port_b] {
        port.expect(&query);
    }
    at_wire.expect_such("a's report", |frame| is_report(frame) && frame.0[6..12] == at_a.mac.0);
    assert_ne!(at_a.mac, at_b.mac);
}

#[test]
fn without_snooping_multicast_is_flooded() {
    let segment = Segment::new(3, &["-o", "mcast_snooping=false"]);
    let group = address(GROUPS[0]);
    let member = Member::join(&segment.containers[0], "eth0", group);
    assert_eq!(segment.send(group, "flooded", Some(&member)), [0, 1]);
    segment.host.kill_daemon();
    segment.ports[0].pending();
    segment.host.start(&[]);
    assert_eq!(segment.send(group, "still flooded", Some(&member)), [0, 1]);
    assert!(segment.host.listeners(group).is_empty());
}

#[test]
fn listeners_are_kept_per_vlan_and_do_not_expire_without_a_querier() {
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
    eventually("both are members, each in its VLAN", || (listening() == both).then_some(()));

    let [port_b, port_c, port] = [&b, &c, &sender].map(|netns| RawPort::open(netns, "eth0"));
    send_to_group(&sender, "eth0", group, "in VLAN 30", 5);
    in_a.expect("in VLAN 30", 5);
    let mark = Frame::new(Mac::BROADCAST, at_sender.mac, "mark");
    port.send(&mark);
    assert_eq!(count_containing(&port_b.expect(&mark), "in VLAN 30"), 0);
    assert_eq!(count_containing(&port_c.pending(), "in VLAN 30"), 0);
    drop((in_a, in_c));
    eventually("both have left", || listening().is_empty().then_some(()));
}
