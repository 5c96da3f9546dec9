//! Frames with VLAN tags between containers.

use crate::harness::{Frame, Host, Mac, Netns, RawPort, Tag};

#[test]
fn tagged_frames_pass_unchanged_and_are_learned_by_vlan() {
    for datapath in ["tc", "xdp"] {
        let host = Host::up(&["--datapath", datapath]);
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
            // Nobody has spoken in this VLAN: flooded.
            let unknown = Frame::tagged(at_b.mac, at_a.mac, tags, "anybody there?");
            port_a.send(&unknown);
            port_b.expect(&unknown);
            let broadcast = Frame::tagged(Mac::BROADCAST, at_b.mac, tags, "here I am");
            port_b.send(&broadcast);
            for port in [&port_a, &port_c] {
                port.expect(&broadcast);
            }
            // Known: it goes to b and nobody else.
            let unicast = Frame::tagged(at_b.mac, at_a.mac, tags, "good to know");
            port_a.send(&unicast);
            port_b.expect(&unicast);
            let mark = Frame::tagged(Mac::BROADCAST, at_a.mac, tags, "mark");
            port_a.send(&mark);
            assert!(!port_c.expect(&mark).contains(&unicast), "{datapath}: {tags:?} was flooded");
        }

        let stations = host.fdb(&[]).into_iter().filter(|station| station.mac == at_b.mac);
        let mut vlans: Vec<(bool, u16)> = stations.map(|station| (station.service_tag, station.vlan)).collect();
        vlans.sort_unstable();
        // Priority alone is no VLAN, the two kinds of tag number for themselves, and of two the outer counts.
        assert_eq!(vlans, [(false, 0), (false, 30), (false, 4094), (true, 7), (true, 30)], "{datapath}");
    }
}

#[test]
fn the_largest_tagged_frame_passes() {
    let host = Host::up(&[]);
    let [a, b] = ["a", "b"].map(Netns::new);
    let [at_a, at_b] = [&a, &b].map(|container| host.attach(container, &["--trunk", "all"]));
    let [port_a, port_b] = [&a, &b].map(|container| RawPort::open(container, "eth0"));
    let large = Frame::tagged(at_b.mac, at_a.mac, &[Tag::customer(5)], &"x".repeat(1500));
    assert_eq!(large.0.len(), 1518);
    port_a.send(&large);
    port_b.expect(&large);
}
