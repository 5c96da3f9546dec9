//! Machines behind an uplink cannot speak in the name of the stations of this host.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::harness::packets::{ADVERTISEMENT, Payload, SOLICITATION, arp, behind, discovery, icmpv6, link_local};
use crate::harness::{Counters, Frame, Host, Mac, Netns, RawPort, ping, set_tx_checksumming, settles};

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 133, 0, 1);
const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x133, 0, 0, 0, 0, 0, 1);
const FOREIGN: Ipv4Addr = Ipv4Addr::new(10, 133, 0, 200);
const FOREIGN6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x133, 0, 0, 0, 0, 0, 0x200);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

#[test]
fn an_uplink_refuses_arp_and_neighbor_discovery_in_the_name_of_local_stations() {
    let host = Host::down();
    let [victim, wire] = ["victim", "wire"].map(Netns::new);
    for (number, xdp) in ["off", "native"].into_iter().enumerate() {
        let (uplink, network, far) = (format!("phys{number}"), format!("lan{number}"), format!("far{number}"));
        host.netns.wire(&uplink, &wire, &far);
        set_tx_checksumming(&wire, &far, false);
        if number == 0 {
            host.start(&[]);
        }
        let uplink_option = format!("uplink={uplink}");
        let xdp = format!("xdp={xdp}");
        let create = ["network", "create", "--subnet", "10.133.0.0/24", "--subnet", "fd00:133::/64"];
        let options = ["-o", &uplink_option, "-o", &xdp, "-o", "arp_suppress=off", "-o", "mcast_snooping=off"];
        host.ok(&[&create[..], &options, &[&network]].concat());
        let at = host.attach(&victim, &["--network", &network]);
        wire.ip(&format!("address add {FOREIGN}/24 dev {far}"));
        let [to_victim, from_wire] = [RawPort::open(&victim, &at.ifname), RawPort::open(&wire, &far)];
        let forger = Mac([2, 0, 0, 0, 0x55, 1]);
        let own6 = at.ipv6.expect("an IPv6 address");
        let gateway_link_local = link_local(host.netns.mac(&host_device(&host, &network)));

        let mut claims: Vec<(&str, Payload)> = Vec::new();
        for local in [GATEWAY, at.ipv4] {
            for operation in [1, 2] {
                claims.push(("arp_spoofed", arp(operation, (forger, local), (at.mac, at.ipv4))));
            }
            claims.push(("arp_spoofed", arp(1, (forger, local), (Mac::ZERO, local))));
        }
        for local in [GATEWAY6, gateway_link_local, own6, link_local(at.mac)] {
            let claim = discovery(ADVERTISEMENT, local, &[(2, forger)]);
            claims.push(("neighbor_spoofed", icmpv6(FOREIGN6, ALL_NODES, &claim)));
            let question = discovery(SOLICITATION, own6, &[(1, forger)]);
            claims.push(("neighbor_spoofed", icmpv6(local, ALL_NODES, &question)));
        }
        let advertisement = [&[134, 0, 0, 0, 64, 0, 7, 8][..], &[0; 8]].concat();
        claims.push(("neighbor_spoofed", icmpv6(gateway_link_local, ALL_NODES, &advertisement)));
        let honest = [
            arp(1, (forger, FOREIGN), (Mac::ZERO, at.ipv4)),
            arp(1, (forger, Ipv4Addr::UNSPECIFIED), (Mac::ZERO, at.ipv4)),
            icmpv6(FOREIGN6, ALL_NODES, &discovery(ADVERTISEMENT, FOREIGN6, &[(2, forger)])),
            icmpv6(Ipv6Addr::UNSPECIFIED, ALL_NODES, &discovery(SOLICITATION, own6, &[])),
        ];
        let before = counters(&host, &uplink);
        let mut refused = Vec::new();
        for to in [at.mac, Mac::BROADCAST, Mac([0x33, 0x33, 0, 0, 0, 1])] {
            refused.extend(claims.iter().map(|(_, payload)| behind(to, forger, &[], payload)));
            for payload in &honest {
                let frame = behind(to, forger, &[], payload);
                from_wire.send(&frame);
                to_victim.expect(&frame);
            }
        }
        refused.iter().for_each(|frame| from_wire.send(frame));
        let mark = Frame::new(at.mac, forger, "mark");
        from_wire.send(&mark);
        let arrived = to_victim.expect(&mark);
        assert!(!refused.iter().any(|frame| arrived.contains(frame)), "{arrived:02x?}");
        for reason in ["arp_spoofed", "neighbor_spoofed"] {
            let expected = 3 * claims.iter().filter(|(of, _)| *of == reason).count() as u64;
            settles("the claims are counted as drops", || {
                let dropped = counters(&host, &uplink).dropped(reason) - before.dropped(reason);
                if dropped == expected { Ok(()) } else { Err((reason, dropped, expected)) }
            });
        }
        // The machine on the wire and the endpoint reach each other, and the gateway.
        ping(&wire, at.ipv4);
        ping(&victim, GATEWAY);
        host.ok(&["detach", &at.name]);
        wire.ip(&format!("address del {FOREIGN}/24 dev {far}"));
        host.ok(&["network", "rm", &network]);
    }
}

fn host_device(host: &Host, network: &str) -> String {
    let inspected: serde_json::Value = host.json(&["network", "inspect", network]);
    inspected[0]["host_device"].as_str().expect("a device").to_owned()
}

fn counters(host: &Host, port: &str) -> Counters {
    host.ports(&[]).remove(port).expect("a row of the port")
}
