//! Access ports and trunks: the VLAN of a frame, and the tag with which it leaves.

use crate::harness::{
    Attached, Frame, Host, Mac, Netns, Pinger, RawPort, Tag, eventually, packets::behind, ping, set_tx_checksumming,
    set_tx_vlan, tcp, udp,
};

/// Priority 5 without a VLAN.
const PRIORITY: Tag = Tag { tpid: 0x8100, tci: 0xa000 };
const TEN: Tag = Tag::customer(10);
const TWENTY: Tag = Tag::customer(20);
const THIRTY: Tag = Tag::customer(30);
/// VLAN 10 with this priority.
const URGENT_TEN: Tag = Tag { tpid: 0x8100, tci: 0xa00a };

/// The endpoints of one network, with a raw port on each.
struct Segment<'a, const N: usize> {
    host: &'a Host,
    network: String,
    at: [Attached; N],
    ports: [RawPort; N],
    containers: [Netns; N],
}

/// Creates a network with endpoints on an instance.
fn add_segment<'a, const N: usize>(
    host: &'a Host,
    network: &str,
    options: &[&str],
    flags: [&[&str]; N],
) -> Segment<'a, N> {
    host.ok(&[&["network", "create"], options, &[network]].concat());
    let containers = std::array::from_fn(|number| Netns::new(&format!("c{number}")));
    let at = std::array::from_fn(|number: usize| {
        host.attach(&containers[number], &[&["--network", network], flags[number]].concat())
    });
    let ports = std::array::from_fn(|number: usize| RawPort::open(&containers[number], "eth0"));
    Segment { host, network: network.to_owned(), at, ports, containers }
}

impl<const N: usize> Segment<'_, N> {
    /// Sends a frame through a port. Asserts that the ports in `to` receive it with these tags, and
    /// that no other port receives it. The texts in one test must differ.
    #[track_caller]
    fn assert_delivered(&self, from: usize, destination: Mac, tags: &[Tag], text: &str, to: &[(usize, &[Tag])]) {
        self.assert_delivered_from(self.at[from].mac, from, destination, tags, text, to);
    }

    #[track_caller]
    fn assert_delivered_from(
        &self,
        source: Mac,
        from: usize,
        destination: Mac,
        tags: &[Tag],
        text: &str,
        to: &[(usize, &[Tag])],
    ) {
        self.send(from, &frame(destination, source, tags, text));
        for (port, tags) in to {
            self.ports[*port].expect(&frame(destination, source, tags, text));
        }
        self.assert_no_other_copies(text);
    }

    /// Sends a frame through a port, and asserts that it is dropped for this reason.
    #[track_caller]
    fn assert_dropped(&self, from: usize, destination: Mac, tags: &[Tag], text: &str, reason: &str) {
        let dropped = || self.host.counters(&self.at[from].name).dropped(reason);
        let before = dropped();
        self.ports[from].send(&frame(destination, self.at[from].mac, tags, text));
        eventually(&format!("{text}: {reason}"), || (dropped() == before + 1).then_some(()));
        self.assert_no_other_copies(text);
    }

    /// Sends a frame and waits until it is counted. By then it is also delivered or dropped.
    #[track_caller]
    fn send(&self, from: usize, frame: &Frame) {
        let count = || self.host.counters(&self.at[from].name).rx_frames;
        let before = count();
        self.ports[from].send(frame);
        eventually("the frame is counted", || (count() > before).then_some(()));
    }

    #[track_caller]
    fn assert_no_other_copies(&self, text: &str) {
        for (number, port) in self.ports.iter().enumerate() {
            let heard = port.pending();
            let copies: Vec<_> = heard.iter().filter(|frame| contains(frame, text)).collect();
            assert!(copies.is_empty(), "{text:?} at port {number}: {copies:02x?}");
        }
    }
}

/// Returns a frame that contains `text`, padded before the tags are added: with other tags, it has
/// the same contents behind them.
fn frame(destination: Mac, source: Mac, tags: &[Tag], text: &str) -> Frame {
    let mut payload = [&[0x88, 0xb5], text.as_bytes()].concat();
    payload.resize(64, 0);
    behind(destination, source, tags, &payload)
}

fn contains(Frame(bytes): &Frame, text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn ports_keep_to_their_vlans_with_tc() {
    check_vlans("tc");
}

#[test]
fn ports_keep_to_their_vlans_with_xdp() {
    check_vlans("xdp");
}

fn check_vlans(datapath: &str) {
    let host = &Host::up(&["--datapath", datapath]);
    check_access_ports_and_trunks(host);
    check_the_native_vlan_of_a_trunk(host);
    check_that_only_endpoints_of_the_same_vlan_reach_each_other(host);
    check_lldp(host);
    check_that_isolated_endpoints_do_not_reach_each_other(host);
    check_that_tagged_frames_pass_unchanged(host);
}

#[test]
fn options_of_ports_are_followed() {
    let host = &Host::up(&[]);
    check_that_stations_are_learned_separately_in_each_vlan(host);
    check_that_hairpin_returns_frames_to_the_port_they_came_from(host);
    check_that_isolation_of_a_network_can_be_overridden(host);
}

fn check_access_ports_and_trunks(host: &Host) {
    const TRUNK: &[&str] = &["--trunk", "10,20"];
    const ACCESS_TEN: &[&str] = &["--vlan", "10"];
    let segment = add_segment(host, "several", &[], [ACCESS_TEN, TRUNK, TRUNK, &["--vlan", "20"], &[], ACCESS_TEN]);
    let [ten, trunk, trunk2, twenty, plain, ten2] = [0, 1, 2, 3, 4, 5];
    let mac = |number: usize| segment.at[number].mac;
    let all = Mac::BROADCAST;

    // Broadcasts reach all ports of the VLAN, and no others.
    let in_ten: &[(usize, &[Tag])] = &[(trunk, &[TEN]), (trunk2, &[TEN]), (ten2, &[])];
    segment.assert_delivered(ten, all, &[], "from access 10", in_ten);
    segment.assert_delivered(trunk, all, &[TEN], "from the trunk", &[(ten, &[]), (trunk2, &[TEN]), (ten2, &[])]);
    segment.assert_delivered(trunk, all, &[TWENTY], "in 20", &[(trunk2, &[TWENTY]), (twenty, &[])]);
    segment.assert_delivered(twenty, all, &[], "from access 20", &[(trunk, &[TWENTY]), (trunk2, &[TWENTY])]);
    segment.assert_delivered(trunk, all, &[], "untagged", &[(trunk2, &[]), (plain, &[])]);
    segment.assert_delivered(plain, all, &[], "from a plain one", &[(trunk, &[]), (trunk2, &[])]);

    // Frames to known stations.
    segment.assert_delivered(ten, mac(ten2), &[], "access to access", &[(ten2, &[])]);
    segment.assert_delivered(ten, mac(trunk), &[], "access to trunk", &[(trunk, &[TEN])]);
    segment.assert_delivered(trunk, mac(ten), &[TEN], "trunk to access", &[(ten, &[])]);
    segment.assert_delivered(trunk, mac(twenty), &[TWENTY], "trunk to access 20", &[(twenty, &[])]);
    segment.assert_delivered(trunk, mac(plain), &[], "trunk to plain", &[(plain, &[])]);
    // The second trunk has not sent in VLAN 10 yet: the frame is flooded there, and the next
    // one is not. No unknown station is behind a guarded access port, which gets no copy.
    let unknown: &[(usize, &[Tag])] = &[(trunk2, &[TEN])];
    segment.assert_delivered(trunk, mac(trunk2), &[TEN], "trunk to unknown", unknown);
    segment.assert_delivered(trunk2, mac(trunk), &[TEN], "back", &[(trunk, &[TEN])]);
    segment.assert_delivered(trunk, mac(trunk2), &[TEN], "trunk to trunk", &[(trunk2, &[TEN])]);
    // A station of another VLAN is unknown in this one.
    let flooded: &[(usize, &[Tag])] = &[(trunk, &[TEN]), (trunk2, &[TEN])];
    segment.assert_delivered(ten, mac(twenty), &[], "from 10 to 20", flooded);

    // The priority is kept wherever the frame has a tag to carry it.
    segment.assert_delivered(trunk, mac(trunk2), &[URGENT_TEN], "urgent", &[(trunk2, &[URGENT_TEN])]);
    segment.assert_delivered(trunk, mac(ten), &[URGENT_TEN], "urgent to access", &[(ten, &[])]);
    segment.assert_delivered(ten, mac(trunk), &[PRIORITY], "urgent from access", &[(trunk, &[URGENT_TEN])]);
    segment.assert_delivered(ten, mac(ten2), &[PRIORITY], "urgent among access", &[(ten2, &[PRIORITY])]);
    let urgent: &[(usize, &[Tag])] = &[(trunk, &[URGENT_TEN]), (trunk2, &[URGENT_TEN]), (ten2, &[PRIORITY])];
    segment.assert_delivered(ten, all, &[PRIORITY], "urgent to all", urgent);
    // Frames in a VLAN may have further tags.
    segment.assert_delivered(trunk, mac(trunk2), &[TEN, TWENTY], "tag in tag", &[(trunk2, &[TEN, TWENTY])]);
    segment.assert_delivered(trunk, mac(ten), &[TEN, TWENTY], "tag in tag to access", &[(ten, &[TWENTY])]);

    // Frames in a VLAN that the port is not in are dropped.
    let refused: [(usize, &[Tag]); 8] = [
        (ten, &[TEN]),
        (ten, &[TWENTY]),
        (ten, &[TEN, TWENTY]),
        (twenty, &[TEN]),
        (trunk, &[THIRTY]),
        (trunk, &[Tag::service(10)]),
        (trunk, &[Tag::customer(4095)]),
        (plain, &[TEN]),
    ];
    for (index, (from, tags)) in refused.into_iter().enumerate() {
        for to in [all, mac(trunk2)] {
            segment.assert_dropped(from, to, tags, &format!("refused {index} to {to}"), "vlan_not_allowed");
        }
    }
}

/// Untagged frames of a trunk are in its native VLAN.
fn check_the_native_vlan_of_a_trunk(host: &Host) {
    let flags: [&[&str]; 5] =
        [&["--trunk", "10,20", "--vlan", "30"], &["--vlan", "30"], &["--trunk", "all"], &["--vlan", "10"], &[]];
    let segment = add_segment(host, "native", &[], flags);
    let [native, thirty, every, ten, plain] = [0, 1, 2, 3, 4];
    let mac = |number: usize| segment.at[number].mac;
    let all = Mac::BROADCAST;
    segment.assert_delivered(native, all, &[], "untagged", &[(thirty, &[]), (every, &[THIRTY])]);
    segment.assert_delivered(thirty, mac(native), &[], "to it", &[(native, &[])]);
    segment.assert_delivered(every, mac(native), &[THIRTY], "to it with a tag", &[(native, &[])]);
    segment.assert_delivered(native, all, &[TEN], "in another", &[(every, &[TEN]), (ten, &[])]);
    segment.assert_delivered(ten, all, &[], "from another", &[(native, &[TEN]), (every, &[TEN])]);
    segment.assert_delivered(every, all, &[], "in none", &[(plain, &[])]);
    segment.assert_delivered(every, all, &[Tag::service(10)], "of a provider", &[]);
    // The trunk's own VLAN has no tag there.
    segment.assert_dropped(native, all, &[THIRTY], "with its own tag", "vlan_not_allowed");
}

fn check_that_stations_are_learned_separately_in_each_vlan(host: &Host) {
    let open: &[&str] = &["-o", "spoof_guard=off", "--vlan", "10"];
    let flags: [&[&str]; 4] = [
        open,
        &["-o", "spoof_guard=off", "--vlan", "20"],
        &["--trunk", "10,20"],
        &["-o", "spoof_guard=off", "--trunk", "10,20"],
    ];
    let segment = add_segment(host, "learning", &[], flags);
    let [ten, twenty, trunk, other] = [0, 1, 2, 3];
    let roaming = Mac([2, 0, 0, 0, 0x77, 1]);
    let all = Mac::BROADCAST;
    // One address in two VLANs is two stations, which do not move.
    segment.assert_delivered_from(roaming, ten, all, &[], "in 10", &[(trunk, &[TEN]), (other, &[TEN])]);
    segment.assert_delivered_from(roaming, twenty, all, &[], "in 20", &[(trunk, &[TWENTY]), (other, &[TWENTY])]);
    let places = || {
        let stations = host.fdb(&["--network", &segment.network]).into_iter().filter(|station| station.mac == roaming);
        stations.map(|station| (station.vlan, station.port, station.moves)).collect::<Vec<_>>()
    };
    let name = |number: usize| segment.at[number].name.clone();
    assert_eq!(places(), [(10, name(ten), 0), (20, name(twenty), 0)]);
    segment.assert_delivered(trunk, roaming, &[TEN], "to it in 10", &[(ten, &[])]);
    segment.assert_delivered(trunk, roaming, &[TWENTY], "to it in 20", &[(twenty, &[])]);
    // The station moves in one of the VLANs.
    segment.assert_delivered_from(roaming, other, all, &[TEN], "moved in 10", &[(ten, &[]), (trunk, &[TEN])]);
    assert_eq!(places(), [(10, name(other), 1), (20, name(twenty), 0)]);
    segment.assert_delivered(trunk, roaming, &[TEN], "after it in 10", &[(other, &[TEN])]);
    segment.assert_delivered(trunk, roaming, &[TWENTY], "still in 20", &[(twenty, &[])]);
}

fn check_that_only_endpoints_of_the_same_vlan_reach_each_other(host: &Host) {
    let segment = add_segment(host, "reach", &[], [&["--vlan", "10"], &["--vlan", "10"], &["--vlan", "20"], &[]]);
    let Segment { at, containers, ports, .. } = &segment;
    ping(&containers[0], at[1].ipv4);
    tcp(&containers[0], &containers[1], at[1].ipv4, 2 << 20);
    udp(&containers[1], &containers[0], at[0].ipv4, 1472, 50);
    for (index, other) in [2, 3].into_iter().enumerate() {
        // Even if the sender knows the MAC address.
        containers[0].ip(&format!("neigh replace {} lladdr {} dev eth0", at[other].ipv4, at[other].mac));
        let mut pinger = Pinger::new(&containers[0], at[other].ipv4);
        pinger.send(56);
        let mark = Frame::new(at[1].mac, at[0].mac, &format!("mark {index}"));
        ports[0].send(&mark);
        ports[1].expect(&mark);
        assert!(!pinger.answered());
        let from_it = |frame: &Frame| frame.0[6..12] == at[0].mac.0;
        assert!(!ports[other].pending().iter().any(from_it), "port {other} received a frame of VLAN 10");
    }
}

#[test]
fn an_uplink_carries_the_tags_of_all_vlans() {
    // The tags are added by the device, kept beside the frame, or added to it by the kernel.
    let host = Host::up(&[]);
    for (number, (xdp, tx_vlan)) in [("off", true), ("off", false), ("native", false)].into_iter().enumerate() {
        let [ten, trunk, plain, wire] = ["ten", "trunk", "plain", "wire"].map(Netns::new);
        let uplink = format!("phys{number}");
        host.netns.wire(&uplink, &wire, "eth0");
        set_tx_checksumming(&wire, "eth0", xdp != "native");
        let [lan, uplink, option] = [format!("lan{number}"), format!("uplink={uplink}"), format!("xdp={xdp}")];
        host.ok(&["network", "create", "-o", &uplink, "-o", &option, &lan]);
        let attach = |netns: &Netns, flags: &[&str]| host.attach(netns, &[&["--network", &lan], flags].concat()).mac;
        let macs = [attach(&ten, &["--vlan", "10"]), attach(&trunk, &["--trunk", "10,20"]), attach(&plain, &[])];
        for device in host.netns.devices().into_iter().filter(|device| device != "lo") {
            set_tx_vlan(&host.netns, &device, tx_vlan);
        }
        let ports = [&ten, &trunk, &plain].map(|netns| RawPort::open(netns, "eth0"));
        let at_wire = RawPort::open(&wire, "eth0");
        let far = wire.mac("eth0");
        // The port, its tags there, and its tags on the wire.
        let ways: [(usize, &[Tag], &[Tag]); 6] = [
            (0, &[], &[TEN]),
            (0, &[PRIORITY], &[URGENT_TEN]),
            (1, &[TEN], &[TEN]),
            (1, &[URGENT_TEN], &[URGENT_TEN]),
            (1, &[TWENTY], &[TWENTY]),
            (2, &[], &[]),
        ];
        for (index, (port, near_tags, far_tags)) in ways.into_iter().enumerate() {
            let what = format!("way {index} with {xdp} and {tx_vlan}");
            // Broadcasts come first, so that both sides learn each other.
            for (to_far, to_near) in [(Mac::BROADCAST, Mac::BROADCAST), (far, macs[port])] {
                ports[port].send(&frame(to_far, macs[port], near_tags, &what));
                at_wire.expect(&frame(to_far, macs[port], far_tags, &what));
                // The priority is removed together with the tag.
                let arrives = if port == 0 { &[] } else { near_tags };
                at_wire.send(&frame(to_near, far, far_tags, &what));
                ports[port].expect(&frame(to_near, far, arrives, &what));
            }
        }
        // Frames in a VLAN that no port is in are not delivered.
        at_wire.send(&frame(Mac::BROADCAST, far, &[THIRTY], "for others"));
        for (port, tags) in [(0, &[TEN][..]), (1, &[TEN]), (2, &[])] {
            let mark = format!("mark {port}");
            at_wire.send(&frame(Mac::BROADCAST, far, tags, &mark));
            let arrives = if port == 0 { &[] } else { tags };
            let heard = ports[port].expect(&frame(Mac::BROADCAST, far, arrives, &mark));
            assert!(!heard.iter().any(|frame| contains(frame, "for others")), "{heard:02x?}");
        }
    }
}

/// LLDP passes if the mask allows it.
fn check_lldp(host: &Host) {
    let lldp = Mac([0x01, 0x80, 0xc2, 0, 0, 0x0e]);
    let lacp = Mac([0x01, 0x80, 0xc2, 0, 0, 0x02]);
    let flags: [&[&str]; 3] = [&["--trunk", "10"], &["--vlan", "10"], &[]];
    let segment_without = add_segment(host, "lldp", &[], flags);
    for tags in [&[][..], &[PRIORITY], &[TEN]] {
        segment_without.assert_dropped(0, lldp, tags, &format!("neighbors? {tags:?}"), "link_local");
    }
    let segment = add_segment(host, "lldp-mask", &["-o", "group_fwd_mask=0x4000"], flags);
    segment.assert_delivered(0, lldp, &[], "neighbors?", &[(2, &[])]);
    segment.assert_delivered(0, lldp, &[PRIORITY], "urgent neighbors?", &[(2, &[PRIORITY])]);
    segment.assert_delivered(0, lldp, &[TEN], "neighbors in 10?", &[(1, &[])]);
    segment.assert_dropped(0, lacp, &[], "a bundle?", "link_local");
}

fn check_that_hairpin_returns_frames_to_the_port_they_came_from(host: &Host) {
    let [first, second] = [1, 2].map(|last| Mac([2, 0, 0, 0, 0x77, last]));
    for hairpin in [false, true] {
        let option = format!("hairpin={hairpin}");
        let segment = add_segment(
            host,
            &format!("hairpin-{hairpin}"),
            &[],
            [&["-o", option.as_str(), "-o", "spoof_guard=off"], &[]],
        );
        let back = |what: (usize, &'static [Tag])| if hairpin { vec![what] } else { vec![] };
        let all = Mac::BROADCAST;
        for (source, text) in [(first, "the first"), (second, "the second")] {
            segment.assert_delivered_from(source, 0, all, &[], text, &[&[(1, &[][..])], &back((0, &[]))[..]].concat());
        }
        let before = host.counters(&segment.at[0].name).dropped("same_port");
        segment.assert_delivered_from(first, 0, second, &[], "from one to the other", &back((0, &[])));
        let dropped = host.counters(&segment.at[0].name).dropped("same_port") - before;
        assert_eq!(dropped, u64::from(!hairpin));
        segment.assert_delivered_from(first, 0, segment.at[1].mac, &[], "to another port", &[(1, &[])]);
    }
}

fn check_that_isolated_endpoints_do_not_reach_each_other(host: &Host) {
    const ISOLATED: &[&str] = &["-o", "isolated=true", "-o", "learning=on"];
    let segment = add_segment(host, "isolated", &[], [ISOLATED, ISOLATED, &["-o", "learning=on"]]);
    let mac = |number: usize| segment.at[number].mac;
    segment.assert_dropped(0, mac(1), &[], "straight", "isolated");
    segment.assert_delivered(0, mac(2), &[], "to one that is not", &[(2, &[])]);
    segment.assert_delivered(2, mac(1), &[], "from one that is not", &[(1, &[])]);
    for (to, text) in [(Mac::BROADCAST, "to all"), (Mac([2, 0, 0, 0, 0x99, 1]), "to an unknown station")] {
        segment.assert_delivered(0, to, &[], text, &[(2, &[])]);
        segment.assert_delivered(2, to, &[], &format!("{text} from the other"), &[(0, &[]), (1, &[])]);
    }
    ping(&segment.containers[0], segment.at[2].ipv4);
}

/// An option of the endpoint overrides that of its network.
fn check_that_isolation_of_a_network_can_be_overridden(host: &Host) {
    let segment = add_segment(host, "icc", &["-o", "icc=false"], [&[], &[], &["-o", "isolated=false"]]);
    segment.assert_dropped(0, segment.at[1].mac, &[], "icc=false", "isolated");
    segment.assert_delivered(0, segment.at[2].mac, &[], "to one that is let", &[(2, &[])]);
}

/// Tagged frames pass unchanged, and stations are learned by VLAN.
fn check_that_tagged_frames_pass_unchanged(host: &Host) {
    let [a, b, c] = ["a", "b", "c"].map(Netns::new);
    let [at_a, at_b, _] = [&a, &b, &c].map(|container| host.attach(container, &["--trunk", "all"]));
    let [port_a, port_b, port_c] = [&a, &b, &c].map(|container| RawPort::open(container, "eth0"));

    let priority = Tag { tpid: 0x8100, tci: 0xe000 };
    let with_priority = Tag { tpid: 0x8100, tci: 0xb01e };
    let stacks: [&[Tag]; 6] = [
        &[Tag::customer(30)],
        &[Tag::service(30)],
        &[Tag::customer(4094)],
        &[with_priority],
        &[priority],
        &[Tag::service(7), Tag::customer(30)],
    ];
    for tags in stacks {
        // The station is not known in this VLAN yet, so the frame is flooded.
        let unknown = Frame::tagged(at_b.mac, at_a.mac, tags, "anybody there?");
        port_a.send(&unknown);
        port_b.expect(&unknown);
        let broadcast = Frame::tagged(Mac::BROADCAST, at_b.mac, tags, "here I am");
        port_b.send(&broadcast);
        for port in [&port_a, &port_c] {
            port.expect(&broadcast);
        }
        // The station is known, so the frame goes to b alone.
        let unicast = Frame::tagged(at_b.mac, at_a.mac, tags, "good to know");
        port_a.send(&unicast);
        port_b.expect(&unicast);
        let mark = Frame::tagged(Mac::BROADCAST, at_a.mac, tags, "mark");
        port_a.send(&mark);
        assert!(!port_c.expect(&mark).contains(&unicast), "{tags:?} was flooded");
    }

    let stations = host.fdb(&[]).into_iter().filter(|station| station.mac == at_b.mac);
    let mut vlans: Vec<(bool, u16)> = stations.map(|station| (station.service_tag, station.vlan)).collect();
    vlans.sort_unstable();
    // A priority tag is no VLAN, each type of tag has VLAN IDs of its own, and of two tags the
    // outer one counts.
    assert_eq!(vlans, [(false, 0), (false, 30), (false, 4094), (true, 7), (true, 30)]);

    // The largest tagged frame passes, too.
    let large = Frame::tagged(at_b.mac, at_a.mac, &[Tag::customer(5)], &"x".repeat(1500));
    assert_eq!(large.0.len(), 1518);
    port_a.send(&large);
    port_b.expect(&large);
}
