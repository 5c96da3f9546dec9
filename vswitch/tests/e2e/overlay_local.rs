//! Tunnels take as a peer's only what came in by the underlay: not what a process of this host or a
//! container of another engine sends to the port of the tunnels in the name of a peer.

use std::net::{IpAddr, Ipv4Addr};

use crate::harness::packets::{ipv4, ipv6, protocol};
use crate::harness::{Cloud, Family, Frame, Mac, Netns, RawPort, ping, settles};

const VNI: u32 = 5000;
const PORT: u16 = 4789;

/// Returns a frame in the tunnel's packet from one host to another, behind its EtherType.
fn tunneled(from: IpAddr, to: IpAddr, Frame(inner): &Frame) -> Vec<u8> {
    let vxlan = [&[8, 0, 0, 0][..], &(VNI << 8).to_be_bytes(), inner].concat();
    let length = 8 + vxlan.len() as u16;
    let mut udp = [50_000, PORT, length, 0].map(u16::to_be_bytes).concat();
    udp.extend(vxlan);
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ipv4(from, to, protocol::UDP, &udp),
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let pseudo =
                [&from.octets()[..], &to.octets(), &u32::from(length).to_be_bytes(), &[0, 0, 0, 17], &udp].concat();
            let sum = pseudo.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], *word.get(1).unwrap_or(&0)])));
            let mut sum: u32 = sum.sum();
            while sum > 0xffff {
                sum = (sum & 0xffff) + (sum >> 16);
            }
            udp[6..8].copy_from_slice(&(!(sum as u16)).to_be_bytes());
            ipv6(from, to, protocol::UDP, &udp)
        }
        _ => panic!("two families"),
    }
}

#[test]
fn packets_of_this_host_in_the_name_of_a_peer_are_dropped() {
    for family in [Family::V4, Family::V6] {
        let cloud = Cloud::up(2, family);
        ping(&cloud.containers[0], cloud.at[1].ipv4);
        let [own, peer] = [0, 1].map(|number| Cloud::address(family, number));
        let target: &Netns = &cloud.hosts[0].netns;
        // A container of another engine, on a bridge of its own.
        let stranger = Netns::new("stranger");
        target.wire("other0", &stranger, "eth0");
        target.ip("address add 172.31.9.1/24 dev other0");
        for (name, value) in [("rp_filter", "0"), ("accept_local", "1")] {
            for device in ["all", "lo", "other0"] {
                target.set(&format!("net/ipv4/conf/{device}/{name}"), value);
            }
        }
        let listener = RawPort::open(&cloud.containers[0], "eth0");
        let dropped = || {
            let ports = cloud.hosts[0].ports(&[]);
            ports.iter().find(|(name, _)| name.ends_with("-vxlan")).expect("a row").1.dropped("unknown_peer")
        };
        let group = Mac::BROADCAST;
        for (number, (netns, device, mac)) in
            [(target, "lo", Mac([0; 6])), (&stranger, "eth0", target.mac("other0"))].into_iter().enumerate()
        {
            for to in [cloud.at[0].mac, group] {
                let before = dropped();
                let forged = Frame::new(to, cloud.at[1].mac, &format!("forged {number}"));
                let packet = tunneled(peer, own, &forged);
                let outer = [&mac.0[..], &[2, 0, 0, 0, 0, 5], &packet].concat();
                RawPort::open(netns, device).send(&Frame(outer));
                settles("the packet is dropped as that of an unknown peer", || {
                    let count = dropped();
                    if count == before + 1 { Ok(()) } else { Err((count, before, device)) }
                });
                let mark = Frame::new(group, cloud.at[1].mac, &format!("mark {number} {to}"));
                RawPort::open(&cloud.containers[1], "eth0").send(&mark);
                assert!(!listener.expect(&mark).contains(&forged));
            }
        }
        // From the peer itself the same packet is accepted.
        let genuine = Frame::new(group, cloud.at[1].mac, "genuine");
        let packet = tunneled(peer, own, &genuine);
        let outer = [&target.mac("under0").0[..], &cloud.hosts[1].netns.mac("under0").0, &packet].concat();
        RawPort::open(&cloud.hosts[1].netns, "under0").send(&Frame(outer));
        listener.expect(&genuine);
        assert_ne!(own, IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    }
}
