//! Containers, the host and uplinks.
//!
//! Each frame goes through the program in the kernel (BPF_PROG_TEST_RUN on live maps) and through
//! `forward()` over the same tables in memory. The two decisions have to be equal in every field.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use vswitch::datapath::{Datapath, NetworkSpec, PortRules, PortSpec, Trunk, Xdp};
use vswitch_common::forward::{forward, forward_xdp};
use vswitch_common::packet::{Received, address::Address};
use vswitch_common::tables::memory::MemoryTables;
use vswitch_common::tables::{FdbKey, MARK_PUBLISHED, Network, NetworkNumber, PortKind, PortNumber, Subnet, VlanKey};
use vswitch_common::verdict::{DropReason, Verdict};
use vswitch_common::{Mac, tables::FdbEntry};

use crate::frames::{addresses, control_frame, random_frame, stations};
use crate::shared::{Compared, Numbers, Sandbox, add_elsewhere, add_neighbors, add_station, guarded, renew, veth};

/// The number of frames. Each goes through the decision of tc and of two XDP programs.
const FRAMES: usize = 100_000;

/// Returns the ports: network, kind and rules. Network 3 is internal.
fn ports() -> Vec<(u32, PortKind, PortRules)> {
    use PortKind::{Container, Host, Uplink};
    let plain = PortRules { trunk: Trunk::All, ..PortRules::default() };
    let guarded = PortRules { arp_suppress: true, snooping: true, ..guarded() };
    let nested = PortRules { learning: true, trunk: Trunk::All, group_fwd_mask: 0xc001, ..guarded.clone() };
    let stormy = PortRules { spoof_guard: false, learning: true, storm_pps: 1, ..guarded.clone() };
    let trunk = PortRules { trunk: Trunk::Vlans(BTreeSet::from([2, 3])), ..guarded.clone() };
    let quiet = PortRules { arp_suppress: true, snooping: true, ..plain.clone() };
    let isolated = |rules: &PortRules| PortRules { isolated: true, ..rules.clone() };
    vec![
        (1, Container, isolated(&guarded)),
        (1, Container, nested),
        (1, Container, isolated(&plain)),
        (1, Host, quiet.clone()),
        (1, Uplink, quiet.clone()),
        (2, Container, trunk),
        (2, Host, quiet.clone()),
        (3, Container, quiet.clone()),
        (3, Host, quiet),
        (3, Uplink, plain.clone()),
        (2, Container, PortRules { vlan: 3, ..guarded.clone() }),
        (2, Container, PortRules { hairpin: true, ..plain }),
        (2, Container, stormy),
        (1, Container, isolated(&guarded)),
        (1, Container, guarded),
    ]
}

/// Writes three networks into both tables.
fn networks(datapath: &Datapath, tables: &mut MemoryTables) {
    for number in 1..=3_u8 {
        let network = NetworkNumber(number.into());
        let internal = number == 3;
        let subnets = [format!("10.{number}.0.0/24 10.{number}.0.1"), format!("fd00:{number}::/64 fd00:{number}::1")];
        let subnets = subnets.iter().map(|text| {
            let (subnet, gateway) = text.split_once(' ').expect("two");
            (subnet.parse().expect("a subnet"), gateway.parse().expect("an address"))
        });
        let spec = NetworkSpec { number: network, internal, subnets: subnets.collect(), vni: None };
        datapath.set_network(&spec).expect("set a network");

        let flags = if internal { Network::INTERNAL } else { 0 };
        tables.networks.insert(network, Network { flags, ..Network::default() });
        let six = |last| Address::new([0xfd, 0, 0, number, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
        for (address, length, flags) in [
            (Address::mapped([10, number, 0, 0]), 120, 0),
            (Address::mapped([10, number, 0, 1]), 128, Subnet::GATEWAY),
            (six(0), 64, 0),
            (six(1), 128, Subnet::GATEWAY),
        ] {
            tables.add_subnet(address, length, Subnet { network, flags });
        }
    }
}

#[test]
fn the_loaded_programs_decide_as_the_core_does() {
    let sandbox = Sandbox::new();
    let datapath = sandbox.datapath();
    let mut devices = Vec::new();
    let mut tables = MemoryTables::default();
    for (place, (network, kind, rules)) in ports().into_iter().enumerate() {
        let device = format!("p{place}");
        let ifindex = veth(&device);
        devices.push((ifindex, kind));
        let (four, six) = addresses(network, place);
        let spec = PortSpec {
            ifindex,
            egress_ifindex: ifindex,
            device,
            network: NetworkNumber(network),
            kind,
            mac: Mac([2, 0, 0, 0, 0, place as u8 + 1]),
            xdp: Xdp::Off,
            xdp_egress: place == 0 || place == 7,
            addresses: if place == 2 { Vec::new() } else { vec![four.into(), six.into()] },
            mtu: if place % 3 == 1 { 150 } else { 0 },
            rules,
        };
        let number = datapath.add_port(&spec).expect("add a port");
        add_neighbors(&mut tables, number, &spec, Some(Address::link_local(spec.mac)));
        if place == 14 {
            add_elsewhere(&datapath, &mut tables, number, Ipv4Addr::new(10, 3, 0, 2));
        }
        if let Trunk::Vlans(vlans) = &spec.rules.trunk {
            tables.trunks.extend(vlans.iter().map(|vlan| (number, VlanKey(*vlan))));
        }
    }
    // A device that is no port.
    devices.push((veth("none"), PortKind::Container));

    for (number, port) in datapath.ports().expect("read the ports") {
        tables.add_port(number, port);
    }
    networks(&datapath, &mut tables);
    // A static entry that is no port's own station.
    let fixed = FdbKey { network: NetworkNumber(1), vlan: VlanKey(3), mac: Mac([0x0a, 0, 0, 0, 1, 1]) };
    datapath.fdb_add_static(fixed, PortNumber(2)).expect("add a static entry");
    tables.fdb = datapath.fdb().expect("read the FDB").into_iter().collect();
    assert!(tables.fdb.values().all(FdbEntry::is_static));

    let mut tracer = datapath.tracer().expect("load the recording copy");
    let mut numbers = Numbers(0x7673_7769_7463_6821);
    let stations = stations(ports().len() as u8);
    let mut sums = Compared::default();
    let mut seen = BTreeMap::<String, usize>::new();
    let held = FdbKey { network: NetworkNumber(1), vlan: VlanKey::NONE, mac: Mac([0x0a, 0, 0, 0, 1, 7]) };
    for round in 0..FRAMES {
        if round % 500 == 0 {
            renew(&sandbox, &mut tables, ports().len() as u32, held, PortNumber(2));
        }
        let place = numbers.below(devices.len());
        let (ifindex, kind) = devices[place];
        let frame = match round % 2 {
            0 => random_frame(&mut numbers, &stations),
            _ => {
                let network = ports().get(place).map_or(1, |(network, ..)| *network);
                control_frame(&mut numbers, &stations, network, place, Mac([2, 0, 0, 0, 0, place as u8 + 1]))
            }
        };
        let mark = numbers.pick(&[0, 0, MARK_PUBLISHED, !MARK_PUBLISHED, u32::MAX]);
        let marked = Received { bytes: &frame, mark, tunnel: None };
        let context = format!("tc {kind:?} on {ifindex}, mark {mark:#x}");
        let decide = |now| forward(ifindex, &marked, &tables, now);
        let kernel = tracer.tc(kind, ifindex, mark, &frame);
        let core = sums.agreed(&context, kernel, &frame, decide).unwrap_or_else(|| decide(0));
        let name = match core.verdict().expect("a verdict") {
            Verdict::Redirect(to) => format!("redirect to {:?}, tag {}", to.kind(), to.tag),
            Verdict::Answer(answer, _) => format!("answer {answer:?}"),
            other => format!("{other:?}"),
        };
        *seen.entry(name).or_default() += 1;
        for kind in [PortKind::Container, PortKind::Uplink] {
            let Some(kernel) = tracer.xdp(kind, ifindex, &frame).expect("run the XDP program") else { continue };
            let context = format!("XDP {kind:?} on {ifindex}");
            sums.agreed(&context, Ok(kernel), &frame, |now| forward_xdp(ifindex, kind, frame.as_slice(), &tables, now));
        }
        // Some learned stations are written into both tables.
        if let Some(key) = core.learn().filter(|key| *key != held && numbers.below(50) == 0) {
            add_station(&datapath, &mut tables, key, core.ingress);
        }
    }
    let Compared { compared, refused } = sums;
    println!("{compared} decisions compared, {refused} frames too short for a test run of tc: {seen:?}");
    assert!(refused < FRAMES / 10 && compared == 3 * FRAMES - refused, "{compared} compared, {refused} refused");
    // The corpus has to reach every verdict, or the comparison proves little.
    for reason in DropReason::ALL {
        let reached = seen.contains_key(&format!("Drop({reason:?})"));
        // A delivery fails after the decision. The others are reasons of children and tunnels
        // alone.
        let other = [
            DropReason::DeliveryFailed,
            DropReason::ParentGone,
            DropReason::HostAccess,
            DropReason::NotRouted,
            DropReason::UnknownVni,
            DropReason::UnknownPeer,
            DropReason::VxlanHeader,
        ];
        assert_eq!(reached, !other.contains(&reason), "{reason:?} reached: {reached}");
    }
    for verdict in [
        "Pass",
        "Flood(Group)",
        "Flood(UnknownUnicast)",
        "Flood(ExceptHost)",
        "Flood(Listeners)",
        "Flood(ListenersExceptHost)",
        "Flood(Routers)",
        "answer Arp",
        "answer Neighbor",
        "redirect to Some(Container), tag 0",
        "redirect to Some(Container), tag 1",
        "redirect to Some(Container), tag 2",
        "redirect to Some(Container), tag 3",
        "redirect to Some(Host), tag 0",
        "redirect to Some(Uplink), tag 0",
    ] {
        assert!(seen.contains_key(verdict), "no frame had the verdict {verdict}");
    }
}
