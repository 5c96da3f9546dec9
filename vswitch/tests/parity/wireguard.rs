//! Encrypted networks: packets out of WireGuard, and frames out of tunnels inside it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use vswitch::datapath::{NetworkSpec, PortRules, PortSpec, UnderlaySpec, Xdp};
use vswitch_common::Mac;
use vswitch_common::forward::forward;
use vswitch_common::forward::wireguard::admit;
use vswitch_common::packet::address::Address;
use vswitch_common::packet::{Received, TunnelKey};
use vswitch_common::tables::memory::MemoryTables;
use vswitch_common::tables::{MARK_ENCRYPTED, NetworkNumber, PortKind, PortNumber};
use vswitch_common::verdict::{Decision, action};

use crate::shared::{Numbers, Sandbox, veth};

/// The number of packets.
const PACKETS: usize = 20_000;
const OWN: Ipv6Addr = Ipv6Addr::new(0xfd76, 0x7377, 0x6974, 1, 2, 3, 4, 5);
const PEER: Ipv6Addr = Ipv6Addr::new(0xfd76, 0x7377, 0x6974, 6, 7, 8, 9, 10);
const PORT: u16 = 4789;
const VNI: u32 = 5000;

/// Returns a packet of the peer's tunnel: IPv6, UDP, VXLAN and a frame.
fn valid_packet() -> Vec<u8> {
    let length = 8 + 8 + 14 + 46_u16;
    let mut bytes = [&[0x60, 0, 0, 0][..], &length.to_be_bytes(), &[17, 64], &PEER.octets(), &OWN.octets()].concat();
    bytes.extend([50_000, PORT, length, 7].map(u16::to_be_bytes).concat());
    bytes.extend([8, 0, 0, 0]);
    bytes.extend((VNI << 8).to_be_bytes());
    bytes.extend([0xff; 6]);
    bytes.extend([2, 9, 9, 9, 9, 9, 8, 0]);
    bytes.resize(40 + usize::from(length), 7);
    bytes
}

#[test]
fn the_loaded_programs_of_wireguard_decide_as_the_core_does() {
    let sandbox = Sandbox::new();
    let datapath = sandbox.datapath();
    let network = NetworkNumber(1);
    let spec = NetworkSpec { number: network, internal: false, subnets: Vec::new(), vni: Some(VNI) };
    datapath.set_network(&spec).expect("set a network");
    let addresses = [IpAddr::from(OWN)].into();
    datapath.set_underlay(&UnderlaySpec { port: PORT, addresses, ..UnderlaySpec::default() }).expect("set our address");
    let ifindex = veth("tunnels");
    let spec = PortSpec {
        ifindex,
        egress_ifindex: ifindex,
        device: "tunnels".to_owned(),
        network,
        kind: PortKind::Tunnel,
        mac: Mac::ZERO,
        xdp: Xdp::Off,
        xdp_egress: false,
        addresses: vec![PEER.into()],
        mtu: 0,
        rules: PortRules::default(),
    };
    let number = datapath.add_port(&spec).expect("add a tunnel");
    let mut tables = MemoryTables::default();
    tables.add_tunnel(number, datapath.port(number).expect("it is there"), VNI);
    tables.networks.entry(network).or_default().vni = VNI;
    tables
        .underlay
        .insert(Address::new(OWN.octets()), vswitch_common::tables::TunnelEnd { port: PORT, flags: 0, receiver: 0 });
    let mut tracer = datapath.tracer().expect("load the recording copy");

    let mut numbers = Numbers(0x7673_7769_7463_6877);
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..PACKETS {
        let mut packet = valid_packet();
        // Changes mostly bytes that the program reads.
        for _ in 0..numbers.below(3) {
            let at = numbers.below(64);
            packet[at] = numbers.pick(&[0, 1, 6, 17, 44, 58, 0x45, 0x60, 0xfd, 0xff, packet[at] ^ 1]);
        }
        if numbers.below(4) == 0 {
            packet.truncate(14 + numbers.below(packet.len() - 14));
        }
        let core = match admit(packet.as_slice(), &tables) {
            Some(reason) => Decision::drop(reason, PortNumber::NONE),
            None => Decision::new(action::PASS, PortNumber::NONE),
        };
        let kernel = tracer.out_of_wireguard(&packet).expect("it runs");
        assert_eq!(kernel.decision, core, "{packet:02x?}");
        *seen.entry(format!("{:?}", core.verdict().expect("a verdict"))).or_default() += 1;
    }
    for verdict in ["Pass", "Drop(Truncated)", "Drop(UnknownPeer)", "Drop(UnknownVni)", "Drop(VxlanHeader)"] {
        assert!(seen.get(verdict).is_some_and(|count| *count > 20), "{verdict}: {seen:?}");
    }

    // At the tunnels' device the mark of the outer packet decides.
    let frame = valid_packet()[56..].to_vec();
    for remote in [PEER, OWN, Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)] {
        for mark in [0, MARK_ENCRYPTED, !MARK_ENCRYPTED, u32::MAX] {
            let key = TunnelKey::new(Address::new(remote.octets()), VNI);
            let kernel = tracer.out_of_tunnel(ifindex, &key, mark, &frame).expect("it runs");
            let core = forward(ifindex, &Received { bytes: &frame, mark, tunnel: Some(key) }, &tables, kernel.now);
            assert_eq!(kernel.decision, core, "{key:?} {mark:x}");
            let taken = remote == PEER && mark & MARK_ENCRYPTED != 0;
            assert_eq!(core.ingress == number, taken, "{key:?} {mark:x}: {core:?}");
        }
    }
}
