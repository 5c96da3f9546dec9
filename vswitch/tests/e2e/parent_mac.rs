//! The parent of an ipvlan network has another MAC address after a reboot, or gets one while no
//! daemon runs: its endpoints have it, too.

use crate::harness::{Host, Netns, Wire, both, eventually, ping, tcp};

#[test]
fn ipvlan_endpoints_have_the_present_mac_address_of_their_parent_after_up() {
    let host = &Host::down();
    let modes = ["ipvlan_mode=l2", "ipvlan_mode=l3"];
    let wires = [0, 1].map(|number| Wire::numbered(number, &host.netns, "off", 1));
    host.start(&[]);
    let containers = Netns::several("c", 2);
    for (number, wire) in wires.iter().enumerate() {
        wire.create_network(host, "ipvlan", &[modes[number], "host_access=true"], &format!("lan{number}"));
        host.attach(&containers[number], &["--network", &format!("lan{number}")]);
    }
    for (round, reboot) in [false, true].into_iter().enumerate() {
        if reboot {
            host.stop(&[]);
        } else {
            host.kill_daemon();
        }
        for (number, wire) in wires.iter().enumerate() {
            let mac = format!("02:00:00:00:{:02x}:{number:02x}", 0x50 + round);
            host.netns.ip(&format!("link set {} address {mac}", wire.parent()));
        }
        host.start(&[]);
        for (number, wire) in wires.iter().enumerate() {
            let inside = &containers[number];
            let own = host.netns.mac(&wire.parent());
            eventually("the interface has the parent's MAC address", || (inside.mac("eth0") == own).then_some(()));
            let at = host.ps().into_iter().find(|at| at.network == format!("lan{number}")).expect("attached");
            assert_eq!(at.mac, own, "reboot: {reboot}");
            for (address, of_host) in both(&at).into_iter().zip(wire.host_addresses()) {
                ping(&host.netns, address);
                tcp(inside, &host.netns, of_host, 1 << 20);
                if number == 0 {
                    wire.hosts[0].ip("neighbor flush all");
                    ping(&wire.hosts[0], address);
                    tcp(&wire.hosts[0], inside, address, 1 << 20);
                }
            }
        }
    }
}
