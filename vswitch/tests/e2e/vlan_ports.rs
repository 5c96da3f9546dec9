//! Access ports and trunks: which VLAN a frame is in, and with which tag it leaves.

use crate::harness::{
    Attached, Frame, Host, Mac, Netns, Pinger, RawPort, Tag, eventually, packets::behind, ping, set_tx_checksumming,
    set_tx_vlan, tcp, udp,
};

/// A priority, 5, without a VLAN.
const PRIORITY: Tag = Tag { tpid: 0x8100, tci: 0xa000 };
const TEN: Tag = Tag::customer(10);
const TWENTY: Tag = Tag::customer(20);
const THIRTY: Tag = Tag::customer(30);
/// VLAN 10 with that priority.
const URGENT_TEN: Tag = Tag { tpid: 0x8100, tci: 0xa00a };

/// Endpoints of one network, by their flags.
struct Segment<const N: usize> {
    host: Host,
    at: [Attached; N],
    ports: [RawPort; N],
    containers: [Netns; N],
}

fn segment<const N: usize>(datapath: &str, network: &[&str], flags: [&[&str]; N]) -> Segment<N> {
    let host = Host::up(&["--datapath", datapath]);
    host.ok(&[&["network", "create", "--subnet", "10.136.0.0/24"], network, &["lan"]].concat());
    let containers = std::array::from_fn(|number| Netns::new(&format!("c{number}")));
    let at = std::array::from_fn(|number: usize| {
        host.attach(&containers[number], &[&["--network", "lan"], flags[number]].concat())
    });
    let ports = std::array::from_fn(|number: usize| RawPort::open(&containers[number], "eth0"));
    Segment { host, at, ports, containers }
}

impl<const N: usize> Segment<N> {
    /// Sends a frame by a port. Those named have it with these tags, and nobody else has anything of it. No two frames of a
    /// test say the same.
    #[track_caller]
    fn passes(&self, from: usize, destination: Mac, tags: &[Tag], text: &str, to: &[(usize, &[Tag])]) {
        self.passes_from(self.at[from].mac, from, destination, tags, text, to);
    }

    #[track_caller]
    fn passes_from(
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
        self.nothing_more(text);
    }

    /// Sends a frame by a port, which is dropped for this reason.
    #[track_caller]
    fn dropped(&self, from: usize, destination: Mac, tags: &[Tag], text: &str, reason: &str) {
        let dropped = || self.host.counters(&self.at[from].name).dropped(reason);
        let before = dropped();
        self.send(from, &frame(destination, self.at[from].mac, tags, text));
        eventually(&format!("{text}: {reason}"), || (dropped() == before + 1).then_some(()));
        self.nothing_more(text);
    }

    /// Sends a frame and waits until it has been counted: what becomes of it is done in the same breath.
    #[track_caller]
    fn send(&self, from: usize, frame: &Frame) {
        let count = || self.host.counters(&self.at[from].name).rx_frames;
        let before = count();
        self.ports[from].send(frame);
        eventually("it has come in", || (count() > before).then_some(()));
    }

    #[track_caller]
    fn nothing_more(&self, text: &str) {
        for (number, port) in self.ports.iter().enumerate() {
            let heard = port.pending();
            let copies: Vec<_> = heard.iter().filter(|frame| says(frame, text)).collect();
            assert!(copies.is_empty(), "{text:?} at port {number}: {copies:02x?}");
        }
    }
}

/// A frame that says `text`, padded before its tags are put on: with other tags it is the same behind them.
fn frame(destination: Mac, source: Mac, tags: &[Tag], text: &str) -> Frame {
    let mut payload = [&[0x88, 0xb5], text.as_bytes()].concat();
    payload.resize(64, 0);
    behind(destination, source, tags, &payload)
}

fn says(Frame(bytes): &Frame, text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn access_ports_are_in_one_vlan_and_trunks_in_several() {
    for datapath in ["tc", "xdp"] {
        const TRUNK: &[&str] = &["--trunk", "10,20"];
        const ACCESS_TEN: &[&str] = &["--vlan", "10"];
        let segment = segment(datapath, &[], [ACCESS_TEN, TRUNK, TRUNK, &["--vlan", "20"], &[], ACCESS_TEN]);
        let [ten, trunk, trunk2, twenty, plain, ten2] = [0, 1, 2, 3, 4, 5];
        let mac = |number: usize| segment.at[number].mac;
        let all = Mac::BROADCAST;

        // To everybody in a VLAN, and nobody else.
        let in_ten: &[(usize, &[Tag])] = &[(trunk, &[TEN]), (trunk2, &[TEN]), (ten2, &[])];
        segment.passes(ten, all, &[], "from access 10", in_ten);
        segment.passes(trunk, all, &[TEN], "from the trunk", &[(ten, &[]), (trunk2, &[TEN]), (ten2, &[])]);
        segment.passes(trunk, all, &[TWENTY], "in 20", &[(trunk2, &[TWENTY]), (twenty, &[])]);
        segment.passes(twenty, all, &[], "from access 20", &[(trunk, &[TWENTY]), (trunk2, &[TWENTY])]);
        segment.passes(trunk, all, &[], "untagged", &[(trunk2, &[]), (plain, &[])]);
        segment.passes(plain, all, &[], "from a plain one", &[(trunk, &[]), (trunk2, &[])]);

        // To one that is known there.
        segment.passes(ten, mac(ten2), &[], "access to access", &[(ten2, &[])]);
        segment.passes(ten, mac(trunk), &[], "access to trunk", &[(trunk, &[TEN])]);
        segment.passes(trunk, mac(ten), &[TEN], "trunk to access", &[(ten, &[])]);
        segment.passes(trunk, mac(twenty), &[TWENTY], "trunk to access 20", &[(twenty, &[])]);
        segment.passes(trunk, mac(plain), &[], "trunk to plain", &[(plain, &[])]);
        // The second trunk has not spoken in VLAN 10 yet: everybody there is asked, and then only that one.
        let unknown: &[(usize, &[Tag])] = &[(ten, &[]), (trunk2, &[TEN]), (ten2, &[])];
        segment.passes(trunk, mac(trunk2), &[TEN], "trunk to unknown", unknown);
        segment.passes(trunk2, mac(trunk), &[TEN], "back", &[(trunk, &[TEN])]);
        segment.passes(trunk, mac(trunk2), &[TEN], "trunk to trunk", &[(trunk2, &[TEN])]);
        // One of another VLAN is a stranger.
        let strange: &[(usize, &[Tag])] = &[(trunk, &[TEN]), (trunk2, &[TEN]), (ten2, &[])];
        segment.passes(ten, mac(twenty), &[], "from 10 to 20", strange);

        // A priority is kept, wherever there is a tag to keep it in.
        segment.passes(trunk, mac(trunk2), &[URGENT_TEN], "urgent", &[(trunk2, &[URGENT_TEN])]);
        segment.passes(trunk, mac(ten), &[URGENT_TEN], "urgent to access", &[(ten, &[])]);
        segment.passes(ten, mac(trunk), &[PRIORITY], "urgent from access", &[(trunk, &[URGENT_TEN])]);
        segment.passes(ten, mac(ten2), &[PRIORITY], "urgent among access", &[(ten2, &[PRIORITY])]);
        let urgent: &[(usize, &[Tag])] = &[(trunk, &[URGENT_TEN]), (trunk2, &[URGENT_TEN]), (ten2, &[PRIORITY])];
        segment.passes(ten, all, &[PRIORITY], "urgent to all", urgent);
        // What is in a VLAN may have tags of its own.
        segment.passes(trunk, mac(trunk2), &[TEN, TWENTY], "tag in tag", &[(trunk2, &[TEN, TWENTY])]);
        segment.passes(trunk, mac(ten), &[TEN, TWENTY], "tag in tag to access", &[(ten, &[TWENTY])]);

        // Where it is not, a port says nothing.
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
                segment.dropped(from, to, tags, &format!("refused {index} to {to}"), "vlan_not_allowed");
            }
        }
    }
}

#[test]
fn untagged_frames_of_a_trunk_are_in_its_own_vlan() {
    for datapath in ["tc", "xdp"] {
        let flags: [&[&str]; 5] =
            [&["--trunk", "10,20", "--vlan", "30"], &["--vlan", "30"], &["--trunk", "all"], &["--vlan", "10"], &[]];
        let segment = segment(datapath, &[], flags);
        let [native, thirty, every, ten, plain] = [0, 1, 2, 3, 4];
        let mac = |number: usize| segment.at[number].mac;
        let all = Mac::BROADCAST;
        segment.passes(native, all, &[], "untagged", &[(thirty, &[]), (every, &[THIRTY])]);
        segment.passes(thirty, mac(native), &[], "to it", &[(native, &[])]);
        segment.passes(every, mac(native), &[THIRTY], "to it with a tag", &[(native, &[])]);
        segment.passes(native, all, &[TEN], "in another", &[(every, &[TEN]), (ten, &[])]);
        segment.passes(ten, all, &[], "from another", &[(native, &[TEN]), (every, &[TEN])]);
        segment.passes(every, all, &[], "in none", &[(plain, &[])]);
        segment.passes(every, all, &[Tag::service(10)], "of a provider", &[]);
        // Its own VLAN has no tag there.
        segment.dropped(native, all, &[THIRTY], "with its own tag", "vlan_not_allowed");
    }
}

#[test]
fn stations_are_learned_in_each_vlan_for_itself() {
    let open: &[&str] = &["-o", "spoof_guard=off", "--vlan", "10"];
    let flags: [&[&str]; 4] = [
        open,
        &["-o", "spoof_guard=off", "--vlan", "20"],
        &["--trunk", "10,20"],
        &["-o", "spoof_guard=off", "--trunk", "10,20"],
    ];
    let segment = segment("auto", &[], flags);
    let [ten, twenty, trunk, other] = [0, 1, 2, 3];
    let nomad = Mac([2, 0, 0, 0, 0x77, 1]);
    let all = Mac::BROADCAST;
    // One address in two VLANs: two stations, which do not move.
    segment.passes_from(nomad, ten, all, &[], "in 10", &[(trunk, &[TEN]), (other, &[TEN])]);
    segment.passes_from(nomad, twenty, all, &[], "in 20", &[(trunk, &[TWENTY]), (other, &[TWENTY])]);
    let places = || {
        let stations = segment.host.fdb(&["--network", "lan"]).into_iter().filter(|station| station.mac == nomad);
        stations.map(|station| (station.vlan, station.port, station.moves)).collect::<Vec<_>>()
    };
    let name = |number: usize| segment.at[number].name.clone();
    assert_eq!(places(), [(10, name(ten), 0), (20, name(twenty), 0)]);
    segment.passes(trunk, nomad, &[TEN], "to it in 10", &[(ten, &[])]);
    segment.passes(trunk, nomad, &[TWENTY], "to it in 20", &[(twenty, &[])]);
    // It moves in one of them.
    segment.passes_from(nomad, other, all, &[TEN], "moved in 10", &[(ten, &[]), (trunk, &[TEN])]);
    assert_eq!(places(), [(10, name(other), 1), (20, name(twenty), 0)]);
    segment.passes(trunk, nomad, &[TEN], "after it in 10", &[(other, &[TEN])]);
    segment.passes(trunk, nomad, &[TWENTY], "still in 20", &[(twenty, &[])]);
}

#[test]
fn endpoints_of_one_vlan_talk_and_those_of_two_do_not() {
    for datapath in ["tc", "xdp"] {
        let segment = segment(datapath, &[], [&["--vlan", "10"], &["--vlan", "10"], &["--vlan", "20"], &[]]);
        let Segment { at, containers, ports, .. } = &segment;
        ping(&containers[0], at[1].ipv4);
        tcp(&containers[0], &containers[1], at[1].ipv4, 8 << 20);
        udp(&containers[1], &containers[0], at[0].ipv4, 1472, 50);
        for (index, stranger) in [2, 3].into_iter().enumerate() {
            // Even where the address is known.
            containers[0].ip(&format!("neigh replace {} lladdr {} dev eth0", at[stranger].ipv4, at[stranger].mac));
            let mut pinger = Pinger::new(&containers[0], at[stranger].ipv4);
            pinger.send(56);
            let mark = Frame::new(at[1].mac, at[0].mac, &format!("mark {index}"));
            ports[0].send(&mark);
            ports[1].expect(&mark);
            assert!(!pinger.answered());
            let from_it = |frame: &Frame| frame.0[6..12] == at[0].mac.0;
            assert!(!ports[stranger].pending().iter().any(from_it), "{stranger} hears of VLAN 10");
        }
    }
}

#[test]
fn an_uplink_carries_the_tags_of_all_vlans() {
    // Tags put on by the device, kept beside the frame, and put into it by the kernel.
    for (xdp, tx_vlan) in [("off", true), ("off", false), ("native", false)] {
        let host = Host::down();
        let [ten, trunk, plain, wire] = ["ten", "trunk", "plain", "wire"].map(Netns::new);
        host.netns.wire("phys0", &wire, "eth0");
        set_tx_checksumming(&wire, "eth0", xdp != "native");
        host.start(&[]);
        let option = format!("xdp={xdp}");
        let options = ["-o", "uplink=phys0", "-o", option.as_str()];
        host.ok(&[&["network", "create", "--subnet", "10.137.0.0/24"], &options[..], &["lan"]].concat());
        let attach = |netns: &Netns, flags: &[&str]| host.attach(netns, &[&["--network", "lan"], flags].concat()).mac;
        let macs = [attach(&ten, &["--vlan", "10"]), attach(&trunk, &["--trunk", "10,20"]), attach(&plain, &[])];
        for device in host.netns.devices().into_iter().filter(|device| device != "lo") {
            set_tx_vlan(&host.netns, &device, tx_vlan);
        }
        let ports = [&ten, &trunk, &plain].map(|netns| RawPort::open(netns, "eth0"));
        let at_wire = RawPort::open(&wire, "eth0");
        let far = wire.mac("eth0");
        // Where each is, with the tag that it has at the port and on the wire.
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
            // Broadcasts first: then each knows the other.
            for (to_far, to_near) in [(Mac::BROADCAST, Mac::BROADCAST), (far, macs[port])] {
                ports[port].send(&frame(to_far, macs[port], near_tags, &what));
                at_wire.expect(&frame(to_far, macs[port], far_tags, &what));
                // The priority is taken off with the tag.
                let arrives = if port == 0 { &[] } else { near_tags };
                at_wire.send(&frame(to_near, far, far_tags, &what));
                ports[port].expect(&frame(to_near, far, arrives, &what));
            }
        }
        // In a VLAN that nobody here is in, nobody hears anything.
        at_wire.send(&frame(Mac::BROADCAST, far, &[THIRTY], "for others"));
        for (port, tags) in [(0, &[TEN][..]), (1, &[TEN]), (2, &[])] {
            let mark = format!("mark {port}");
            at_wire.send(&frame(Mac::BROADCAST, far, tags, &mark));
            let arrives = if port == 0 { &[] } else { tags };
            let heard = ports[port].expect(&frame(Mac::BROADCAST, far, arrives, &mark));
            assert!(!heard.iter().any(|frame| says(frame, "for others")), "{heard:02x?}");
        }
    }
}

#[test]
fn lldp_passes_where_the_mask_says_so() {
    let lldp = Mac([0x01, 0x80, 0xc2, 0, 0, 0x0e]);
    let lacp = Mac([0x01, 0x80, 0xc2, 0, 0, 0x02]);
    let flags: [&[&str]; 3] = [&["--trunk", "10"], &["--vlan", "10"], &[]];
    for datapath in ["tc", "xdp"] {
        let segment_without = segment(datapath, &[], flags);
        for tags in [&[][..], &[PRIORITY], &[TEN]] {
            segment_without.dropped(0, lldp, tags, &format!("neighbors? {tags:?}"), "link_local");
        }
        drop(segment_without);
        let segment = segment(datapath, &["-o", "group_fwd_mask=0x4000"], flags);
        segment.passes(0, lldp, &[], "neighbors?", &[(2, &[])]);
        segment.passes(0, lldp, &[PRIORITY], "urgent neighbors?", &[(2, &[PRIORITY])]);
        segment.passes(0, lldp, &[TEN], "neighbors in 10?", &[(1, &[])]);
        segment.dropped(0, lacp, &[], "a bundle?", "link_local");
    }
}

#[test]
fn frames_go_back_to_the_port_they_came_from_where_it_is_a_hairpin() {
    let [first, second] = [1, 2].map(|last| Mac([2, 0, 0, 0, 0x77, last]));
    for hairpin in [false, true] {
        let option = format!("hairpin={hairpin}");
        let segment = segment("auto", &[], [&["-o", option.as_str(), "-o", "spoof_guard=off"], &[]]);
        let back = |what: (usize, &'static [Tag])| if hairpin { vec![what] } else { vec![] };
        let all = Mac::BROADCAST;
        for (source, text) in [(first, "the first"), (second, "the second")] {
            segment.passes_from(source, 0, all, &[], text, &[&[(1, &[][..])], &back((0, &[]))[..]].concat());
        }
        let before = segment.host.counters(&segment.at[0].name).dropped("same_port");
        segment.passes_from(first, 0, second, &[], "from one to the other", &back((0, &[])));
        let dropped = segment.host.counters(&segment.at[0].name).dropped("same_port") - before;
        assert_eq!(dropped, u64::from(!hairpin));
        segment.passes_from(first, 0, segment.at[1].mac, &[], "to somebody else", &[(1, &[])]);
    }
}

#[test]
fn nothing_passes_between_isolated_endpoints() {
    const ISOLATED: &[&str] = &["-o", "isolated=true"];
    for datapath in ["tc", "xdp"] {
        let segment = segment(datapath, &[], [ISOLATED, ISOLATED, &[]]);
        let mac = |number: usize| segment.at[number].mac;
        segment.dropped(0, mac(1), &[], "straight", "isolated");
        segment.passes(0, mac(2), &[], "to one that is not", &[(2, &[])]);
        segment.passes(2, mac(1), &[], "from one that is not", &[(1, &[])]);
        for (to, text) in [(Mac::BROADCAST, "to all"), (Mac([2, 0, 0, 0, 0x99, 1]), "to a stranger")] {
            segment.passes(0, to, &[], text, &[(2, &[])]);
            segment.passes(2, to, &[], &format!("{text} from the other"), &[(0, &[]), (1, &[])]);
        }
        // By option of the endpoint, against its network's.
        ping(&segment.containers[0], segment.at[2].ipv4);
    }
    let segment = segment("auto", &["-o", "icc=false"], [&[], &[], &["-o", "isolated=false"]]);
    segment.dropped(0, segment.at[1].mac, &[], "icc=false", "isolated");
    segment.passes(0, segment.at[2].mac, &[], "to one that is let", &[(2, &[])]);
}
