//! Packets on the underlay are VXLAN as in RFC 7348, and other implementations understand them.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use crate::harness::{Cloud, Family, Netns, count_broadcasts, ping, tcp, udp};

#[test]
fn tshark_finds_vxlan_with_the_vni_and_a_source_port_for_each_flow() {
    if std::process::Command::new("tshark").arg("-v").output().is_err() {
        eprintln!("tshark is not installed: the packets on the wire are not checked with it");
        return;
    }
    for family in [Family::V4, Family::V6] {
        let cloud = Cloud::up(2, family);
        ping(&cloud.containers[0], cloud.at[1].ipv4);
        let fields = ["vxlan.vni", "udp.srcport", "udp.dstport", "ip.dst", "ipv6.dst", "udp.checksum", "vxlan.flags"];
        let mut options = vec!["-f", "udp port 4789", "-T", "fields", "-E", "separator=;", "-E", "occurrence=f"];
        for field in fields {
            options.extend(["-e", field]);
        }
        let tshark = cloud.tshark(0, &options);
        let remote = cloud.peer(1);
        let rows = || -> Vec<Vec<String>> {
            let printed = tshark.stdout();
            let rows = printed.lines().map(|line| line.split(';').map(str::to_owned).collect::<Vec<_>>());
            rows.filter(|row| row.len() == 7 && (row[3] == remote || row[4] == remote)).collect()
        };
        let rows = crate::harness::settles("tshark prints all packets", || {
            // Each call is a flow of its own, with another source port.
            udp(&cloud.containers[0], &cloud.containers[1], cloud.at[1].ipv4, 100, 1);
            let rows = rows();
            if rows.len() >= 16 { Ok(rows) } else { Err((tshark.stdout(), tshark.stderr())) }
        });
        for row in &rows {
            assert_eq!((row[0].as_str(), row[2].as_str()), (Cloud::VNI, "4789"), "{row:?}");
            assert_eq!(row[6].trim_start_matches("0x").trim_start_matches('0'), "800", "{row:?}");
            // The checksum is zero over IPv4 (RFC 7348, 4.1) and set over IPv6.
            assert_eq!(row[5] == "0x0000", family == Family::V4, "{row:?}");
        }
        let ports: BTreeSet<_> = rows.iter().map(|row| row[1].clone()).collect();
        assert!(ports.len() > 4, "{ports:?}");
        assert!(ports.iter().all(|port| port.parse::<u16>().is_ok_and(|port| port >= 1024)), "{ports:?}");
    }
}

#[test]
fn hosts_can_use_another_vxlan_port() {
    let cloud = Cloud::with(2, Family::V4, &["--vxlan-port", "8472"], &[]);
    let device = cloud.tunnels(0).expect("the VXLAN device");
    assert_eq!(device["linkinfo"]["info_data"]["port"], 8472, "{device:#}");
    for (one, other) in cloud.pairs() {
        ping(&cloud.containers[one], cloud.at[other].ipv4);
        tcp(&cloud.containers[one], &cloud.containers[other], cloud.addresses(other)[1], 1 << 20);
    }
}

/// A host with a VXLAN device and a bridge of the kernel instead of an instance, and a container on
/// it.
struct Reference {
    host: Netns,
    container: Netns,
}

impl Reference {
    const ADDRESS: [&str; 2] = ["10.10.99.9", "fd00:10::9:9"];

    /// Creates one as the host with this number on the underlay.
    fn new(cloud: &Cloud, number: usize, learning: &str) -> Self {
        let [host, container] = ["reference", "theirs"].map(Netns::new);
        cloud.plug(&host, number);
        let local = cloud.peer(number);
        let (vni, zeros) = (Cloud::VNI, "00:00:00:00:00:00");
        host.ip(&format!("link add vx0 type vxlan id {vni} local {local} dstport 4789 {learning}"));
        host.ip("link add br0 type bridge mcast_snooping 0");
        for device in ["vx0", "br0"] {
            host.silence(device);
        }
        host.wire("c0", &container, "eth0");
        host.silence("c0");
        for device in ["vx0", "c0"] {
            host.ip(&format!("link set {device} master br0 up"));
        }
        host.ip("link set br0 up");
        for peer in 0..number {
            host.ok("bridge", &format!("fdb append {zeros} dev vx0 dst {}", cloud.peer(peer)));
        }
        container.ip("link set eth0 mtu 1430");
        container.ip(&format!("address add {}/16 dev eth0", Self::ADDRESS[0]));
        container.ip(&format!("address add {}/64 dev eth0 nodad", Self::ADDRESS[1]));
        Self { host, container }
    }
}

#[test]
fn the_kernels_vxlan_device_and_bridge_work_as_a_peer() {
    for (family, learning) in [(Family::V4, "nolearning"), (Family::V4, "learning"), (Family::V6, "learning")] {
        let cloud = Cloud::up(2, family);
        let reference = Reference::new(&cloud, 2, learning);
        for number in 0..2 {
            cloud.hosts[number].ok(&["peer", "add", &cloud.peer(2)]);
        }
        let theirs: [IpAddr; 2] = Reference::ADDRESS.map(|text| text.parse().expect("an address"));
        for number in 0..2 {
            for (address, own) in theirs.into_iter().zip(cloud.addresses(number)) {
                let (ours, other) = (&cloud.containers[number], &reference.container);
                ping(ours, address);
                ping(other, own);
                udp(ours, other, address, 1000, 20);
                tcp(ours, other, address, 2 << 20);
                tcp(other, ours, own, 2 << 20);
            }
            assert_eq!(cloud.port_of(number, reference.container.mac("eth0")), Some(cloud.peer(2)));
        }
        let others = [&cloud.containers[0], &cloud.containers[1]];
        let address: Ipv4Addr = Reference::ADDRESS[0].parse().expect("an address");
        assert_eq!(count_broadcasts(&reference.container, address, &others), [1, 1], "{family:?} {learning}");
        let others = [&cloud.containers[1], &reference.container];
        assert_eq!(count_broadcasts(&cloud.containers[0], cloud.at[0].ipv4, &others), [1, 1], "{family:?} {learning}");
        drop(reference.host);
    }
}
