//! Overlay networks: frames out of tunnels, and frames of containers and the host beside tunnels.
//!
//! The programs in the kernel are compared with the core over the same tables in memory. A test run
//! has no tunnel: the metadata is in the control block.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use vswitch::datapath::{
    Datapath, DatapathError, Mode, NetworkSpec, Options, PortRules, PortSpec, SHORTEST, Trunk, UnderlaySpec, Xdp,
};
use vswitch_common::Mac;
use vswitch_common::forward::{forward, part};
use vswitch_common::packet::address::Address;
use vswitch_common::packet::{Received, TunnelKey};
use vswitch_common::tables::memory::MemoryTables;
use vswitch_common::tables::{
    FdbEntry, FdbKey, MARK_PUBLISHED, MARK_UNDERLAY, NeighborKey, NetworkNumber, PortKind, PortNumber, VlanKey,
};
use vswitch_common::trace::Trace;
use vswitch_common::verdict::{Decision, DropReason, Verdict};

use crate::frames::{addresses, control_frame, random_frame, stations};
use crate::shared::{Numbers, Sandbox, renew, veth};
use crate::tables;

/// The number of frames.
const FRAMES: usize = 40_000;
/// The device of all tunnels.
const DEVICE: &str = "tunnels";
/// The VNIs of the networks.
const VNI: [u32; 3] = [1, 5000, 0xff_ffff];

fn peers() -> [IpAddr; 3] {
    [
        Ipv4Addr::new(192, 0, 2, 7).into(),
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7).into(),
        [198, 51, 100, 9].into(),
    ]
}

/// Returns the local ports: network, kind and rules.
fn ports() -> Vec<(u32, PortKind, PortRules)> {
    use PortKind::{Container, Host};
    let plain = PortRules { trunk: Trunk::All, arp_suppress: true, snooping: true, ..PortRules::default() };
    let guarded = PortRules {
        learning: false,
        spoof_guard: true,
        ra_guard: true,
        dhcp_guard: true,
        bpdu_guard: true,
        storm_pps: 1000,
        ..plain.clone()
    };
    let isolated = PortRules { isolated: true, ..guarded.clone() };
    let access = PortRules { vlan: 3, trunk: Trunk::None, ..guarded.clone() };
    let host = PortRules { learning: false, split_horizon: true, trunk: Trunk::None, ..plain.clone() };
    vec![
        (1, Container, guarded.clone()),
        (1, Container, isolated.clone()),
        (1, Container, access),
        (1, Host, host.clone()),
        (2, Container, plain.clone()),
        (2, Container, guarded),
        (2, Host, host.clone()),
        (3, Container, isolated),
        (3, Container, plain),
        (3, Host, host),
    ]
}

/// Returns the rules of the tunnels of a network.
fn tunnel_rules(network: u32) -> PortRules {
    let plain = PortRules { trunk: Trunk::All, snooping: true, storm_pps: 1000, ..PortRules::default() };
    match network {
        1 => plain,
        2 => PortRules { storm_pps: 1, group_fwd_mask: 0xc001, ..plain },
        _ => PortRules { learning: false, snooping: false, ..plain },
    }
}

/// Writes ports and tunnels into both tables. Returns the devices of the ports and the device of
/// the tunnels.
fn add_ports(sandbox: &Sandbox, datapath: &Datapath, tables: &mut MemoryTables) -> (Vec<(u32, PortKind)>, u32) {
    for (number, vni) in (1..).zip(VNI) {
        let number = NetworkNumber(number);
        let spec = NetworkSpec { number, internal: false, subnets: Vec::new(), vni: Some(vni) };
        datapath.set_network(&spec).expect("set a network");
        assert_eq!(tables::network(sandbox, number.0).vni, vni);
        tables.networks.entry(number).or_default().vni = vni;
    }
    let mut devices = Vec::new();
    for (place, (network, kind, rules)) in ports().into_iter().enumerate() {
        let device = format!("t{place}");
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
            xdp_egress: false,
            addresses: vec![four.into(), six.into()],
            mtu: if place % 3 == 1 { 150 } else { 0 },
            rules,
        };
        let number = datapath.add_port(&spec).expect("add a port");
        for address in [Address::mapped(four.octets()), Address::new(six.octets()), Address::link_local(spec.mac)] {
            let vlan = VlanKey(spec.rules.vlan);
            tables.neighbors.insert(NeighborKey { address, network: spec.network, vlan, reserved: 0 }, number);
        }
    }
    for (number, port) in datapath.ports().expect("read the ports") {
        tables.add_port(number, port);
    }
    let ifindex = veth(DEVICE);
    for (network, vni) in (1..).zip(VNI) {
        for (place, peer) in peers().into_iter().enumerate() {
            let spec = PortSpec {
                ifindex,
                egress_ifindex: ifindex,
                device: DEVICE.to_owned(),
                network: NetworkNumber(network),
                kind: PortKind::Tunnel,
                mac: Mac::ZERO,
                xdp: Xdp::Off,
                xdp_egress: false,
                addresses: vec![peer],
                mtu: if place == 1 { 150 } else { 0 },
                rules: tunnel_rules(network),
            };
            let number = datapath.add_port(&spec).expect("add a tunnel");
            assert_eq!(datapath.add_port(&spec).expect("add it again"), number, "it is the same");
            let port = datapath.port(number).expect("it is there");
            tables.add_tunnel(number, port, vni);
        }
    }
    // The last peer is removed from the second network.
    let gone = tables.tunnels.remove(&TunnelKey::new(table_address(peers()[2]), VNI[1])).expect("it was there");
    datapath.remove_port(gone).expect("remove the tunnel");
    tables.ports.remove(&gone);
    // A station behind each tunnel.
    let tunnels: Vec<_> = datapath.ports().expect("read the ports").into_iter().filter(is_tunnel).collect();
    assert_eq!(tunnels.len(), 8);
    for (last, (number, port)) in (0..).zip(&tunnels) {
        let mac = Mac([0x0a, 0, 0, 0, 1, last]);
        let key = FdbKey { network: port.network, vlan: VlanKey::NONE, mac };
        datapath.fdb_add_static(key, *number).expect("add a static entry");
    }
    tables.fdb = datapath.fdb().expect("read the FDB").into_iter().collect();
    (devices, ifindex)
}

fn is_tunnel((_, port): &(PortNumber, vswitch_common::tables::Port)) -> bool {
    port.kind() == Some(PortKind::Tunnel)
}

fn table_address(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(four) => Address::mapped(four.octets()),
        IpAddr::V6(six) => Address::new(six.octets()),
    }
}

/// Returns tunnel metadata, mostly of a known peer and VNI.
fn key(numbers: &mut Numbers) -> TunnelKey {
    let unknown = [
        Address::mapped([192, 0, 2, 8]),
        Address::new([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8]),
        Address::UNSPECIFIED,
    ];
    let remote = match numbers.below(12) {
        0 => numbers.pick(&unknown),
        _ => table_address(numbers.pick(&peers())),
    };
    let vni = match numbers.below(12) {
        0 => numbers.pick(&[0, 2, 5001, 0x00ff_fffe, VNI[1] << 8]),
        _ => numbers.pick(&VNI),
    };
    TunnelKey::new(remote, vni)
}

/// Checks that the kernel's decision is equal to the core's, and counts it in `seen`.
fn compare(
    side: &str,
    kernel: Result<Trace, DatapathError>,
    frame: &[u8],
    seen: &mut BTreeMap<String, usize>,
    core: impl Fn(u32) -> Decision,
) -> Decision {
    let mut saw = |name: String| *seen.entry(format!("{side}: {name}")).or_default() += 1;
    let decision = match kernel {
        Ok(kernel) => {
            let core = core(kernel.now);
            assert_eq!(kernel.decision, core, "{side}: {frame:02x?}");
            core
        }
        // The kernel's test run refuses short packets that a program gets on the wire.
        Err(DatapathError::TraceRefused { .. }) if frame.len() < SHORTEST + 40 => {
            saw("refused".to_owned());
            return core(0);
        }
        Err(error) => panic!("{side}: {error}: {frame:02x?}"),
    };
    saw("compared".to_owned());
    if decision.learn().is_some() {
        saw("learns".to_owned());
    }
    match decision.verdict().expect("a verdict") {
        Verdict::Redirect(to) => saw(format!("to {:?}, tag {}", to.kind().expect("a kind"), to.tag)),
        Verdict::Answer(answer, _) => saw(format!("answer {answer:?}")),
        other => saw(format!("{other:?}")),
    }
    decision
}

#[test]
fn the_loaded_programs_of_tunnels_decide_as_the_core_does() {
    let sandbox = Sandbox::new();
    let options = Options {
        directory: sandbox.bpffs.clone(),
        mode: Mode::Auto,
        fdb_size: 4096,
        cluster: false,
        published_mark: MARK_PUBLISHED,
    };
    let datapath = Datapath::open(options).expect("load the programs");
    let mut tables = MemoryTables::default();
    let (devices, tunnels) = add_ports(&sandbox, &datapath, &mut tables);
    // Frames of some peers need the mark of the underlay.
    let guarded = peers().into_iter().take(2).collect();
    datapath.set_underlay(&UnderlaySpec { guarded, ..UnderlaySpec::default() }).expect("set the underlay");
    tables.ports.extend(datapath.ports().expect("read the ports"));
    let highest = tables.ports.keys().map(|number| number.0).max().expect("ports");
    let mut tracer = datapath.tracer().expect("load the recording copy");
    let mut numbers = Numbers(0x7673_7769_7463_6823);
    let stations = stations(ports().len() as u8);
    let held = FdbKey { network: NetworkNumber(1), vlan: VlanKey::NONE, mac: Mac([0x0a, 0, 0, 0, 1, 7]) };
    let mut seen = BTreeMap::new();
    for round in 0..FRAMES {
        if round % 500 == 0 {
            renew(&sandbox, &mut tables, highest, held, PortNumber(2));
        }
        let out = round % 2 == 0;
        let key = key(&mut numbers);
        let place = numbers.below(devices.len());
        let network = if out {
            VNI.iter().position(|vni| *vni == key.vni).map_or(1, |place| place as u32 + 1)
        } else {
            ports()[place].0
        };
        let mut frame = if numbers.below(2) == 0 {
            random_frame(&mut numbers, &stations)
        } else {
            let own = if out { numbers.pick(&stations) } else { Mac([2, 0, 0, 0, 0, place as u8 + 1]) };
            control_frame(&mut numbers, &stations, network, place, own)
        };
        if numbers.below(3) > 0 {
            // From a station behind a tunnel to a local one, or the other way round.
            let far = [0x0a, 0, 0, 0, 1, numbers.below(8) as u8];
            let near = [2, 0, 0, 0, 0, numbers.below(ports().len()) as u8 + 1];
            let destination = if out { near } else { far };
            if out {
                frame[6..12].copy_from_slice(&far);
            }
            if numbers.below(2) == 0 {
                frame[..6].copy_from_slice(&destination);
            }
        }
        let core = if out {
            let mark = numbers.pick(&[MARK_UNDERLAY, MARK_UNDERLAY, u32::MAX, !MARK_UNDERLAY, 0]);
            let received = Received { bytes: &frame, mark, tunnel: Some(key) };
            let kernel = tracer.out_of_tunnel(tunnels, &key, mark, &frame);
            compare("out", kernel, &frame, &mut seen, |now| {
                let whole = forward(tunnels, &received, &tables, now);
                let part = if frame[0] & 1 == 0 {
                    part::unicast_from_tunnel(tunnels, &received, &tables, now)
                } else {
                    part::group_from_tunnel(tunnels, &received, &tables, now)
                };
                assert_eq!(part, whole, "the part and the whole: {frame:02x?}");
                whole
            })
        } else {
            let (ifindex, kind) = devices[place];
            let side = if kind == PortKind::Host { "host" } else { "container" };
            let kernel = tracer.tc(kind, ifindex, 0, &frame);
            compare(side, kernel, &frame, &mut seen, |now| forward(ifindex, frame.as_slice(), &tables, now))
        };
        // Some learned stations are written into both tables.
        if let Some(key) = core.learn().filter(|key| *key != held && numbers.below(50) == 0) {
            datapath.fdb_add_static(key, core.ingress).expect("write the station");
            let entry = FdbEntry { port: core.ingress, flags: FdbEntry::STATIC, ..FdbEntry::default() };
            tables.fdb.insert(key, entry);
        }
    }
    println!("{seen:#?}");
    let count = |name: &str| seen.get(name).copied().unwrap_or(0);
    let compared = count("out: compared");
    assert!(compared > FRAMES / 3 && count("out: refused") < FRAMES / 10, "{compared} compared");
    check_coverage(&seen);
}

/// Checks that the corpus has reached every verdict. Otherwise the comparison proves little.
fn check_coverage(seen: &BTreeMap<String, usize>) {
    use DropReason::{
        DestinationZero, Isolated, LinkLocal, SamePort, SourceSpoofed, SourceZero, StationHeld, Storm, TooBig,
        Truncated, UnknownPeer, UnknownVni,
    };
    let drops = [
        Truncated,
        SourceZero,
        DestinationZero,
        LinkLocal,
        SourceSpoofed,
        SamePort,
        Isolated,
        Storm,
        StationHeld,
        TooBig,
        UnknownPeer,
        UnknownVni,
    ];
    let drops = drops.map(|reason| format!("out: Drop({reason:?})"));
    let ways = [
        "out: learns",
        "out: to Container, tag 0",
        "out: to Container, tag 1",
        "out: Flood(Group)",
        "out: Flood(UnknownUnicast)",
        "out: Flood(Listeners)",
        "out: Flood(Routers)",
        "container: to Tunnel, tag 0",
        "container: to Container, tag 0",
        "container: Drop(Isolated)",
        "container: Drop(TooBig)",
        "container: Flood(Group)",
        "container: Flood(UnknownUnicast)",
        "host: Drop(Isolated)",
        "host: Flood(Group)",
    ];
    let ways = ways.into_iter().map(str::to_owned).chain(drops);
    let missed: Vec<String> = ways.filter(|name| !seen.contains_key(name)).collect();
    assert!(missed.is_empty(), "no frame had these: {missed:#?}");
    // Frames out of a tunnel never go to the host or into another tunnel.
    let never = |name: &&String| {
        ["out: to Host", "out: to Tunnel", "host: to Tunnel", "out: answer"].iter().any(|never| name.starts_with(never))
    };
    let wrong: Vec<_> = seen.keys().filter(never).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}
