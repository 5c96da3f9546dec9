//! Frames from the wire for the host itself, on an interface that is an uplink: they are neither
//! flooded nor counted by storm control, in any VLAN and for devices of the kernel on the interface.

use std::net::Ipv4Addr;

use crate::harness::{Frame, Host, Mac, Netns, Pinger, RawPort, Tag, Wire, count_containing, eventually, ping, tcp};

/// The address of the macvlan device.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 140, 0, 77);

#[test]
fn frames_for_the_host_on_an_uplink_are_neither_flooded_nor_throttled() {
    for xdp in ["off", "native"] {
        let host = &Host::down();
        let wire = Wire::new(&host.netns, xdp, 1);
        host.start(&[]);
        let xdp = format!("xdp={xdp}");
        let create = ["network", "create", "-o", "uplink=phys0", "--subnet", "10.77.0.0/24", "-o", "storm_pps=1"];
        host.ok(&[&create[..], &["-o", &xdp, "-o", "spoof_guard=off", "lan"]].concat());
        let [container, beside] = ["c", "beside"].map(Netns::new);
        let at = host.attach(&container, &["--network", "lan", "--trunk", "all"]);
        let machine = &wire.hosts[0];
        let [inside, on_wire, of_host] = [(&container, "eth0"), (machine, "eth0"), (&*host.netns, "phys0")]
            .map(|(netns, name)| RawPort::open(netns, name));
        let storms = || host.ports(&["lan"])["phys0"].dropped("storm");

        // A macvlan device of the kernel, in another namespace.
        host.netns.ip(&format!("link add link phys0 name beside0 netns {} type macvlan mode bridge", beside.name()));
        beside.ip_lines([format!("address add {ADDRESS}/24 dev beside0"), "link set beside0 up".to_owned()]);
        let station = beside.mac("beside0");
        ping(machine, ADDRESS);
        let number = std::cell::Cell::new(0);
        eventually("the station is known to the switch", || {
            number.set(number.get() + 1);
            let before = storms();
            let text = format!("probe {}", number.get());
            on_wire.send(&Frame::new(station, machine.mac("eth0"), &text));
            let mark = Frame::new(at.mac, machine.mac("eth0"), &format!("mark {}", number.get()));
            on_wire.send(&mark);
            let flooded = count_containing(&inside.expect(&mark), &text) > 0;
            (!flooded && storms() == before).then_some(())
        });

        let (own, sender) = (host.netns.mac("phys0"), machine.mac("eth0"));
        let before = storms();
        // A container poses as the host's stations, to get their frames.
        for mac in [own, station] {
            inside.send(&Frame::tagged(Mac::BROADCAST, mac, &[Tag::customer(30)], "forged"));
        }
        let mut last = None;
        for number in 0..50 {
            for mac in [own, station] {
                for tags in [&[][..], &[Tag::customer(30)], &[Tag::service(40)]] {
                    let frame = Frame::tagged(mac, sender, tags, &format!("for the host {number}"));
                    on_wire.send(&frame);
                    last = Some(frame);
                }
            }
        }
        of_host.expect(&last.expect("frames were sent"));
        let mark = Frame::new(at.mac, sender, "the end");
        on_wire.send(&mark);
        let copies = inside.expect(&mark);
        assert_eq!(count_containing(&copies, "for the host"), 0, "{xdp}: {copies:02x?}");
        assert_eq!(storms(), before, "{xdp}");
        let mut pinger = Pinger::new(machine, ADDRESS);
        (0..50).for_each(|_| pinger.ping(56));
        tcp(machine, &beside, ADDRESS, 1 << 20);
        tcp(machine, &host.netns, wire.host_addresses()[0], 1 << 20);
    }
}
