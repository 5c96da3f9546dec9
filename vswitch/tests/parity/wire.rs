//! macvlan and ipvlan: frames that arrive on and leave by parents, and frames of children of every
//! mode.
//!
//! The programs in the kernel are compared with the core over the same tables in memory.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use vswitch::datapath::{Datapath, DatapathError, ParentRules, PortRules, PortSpec, Trunk, Xdp};
use vswitch_common::Mac;
use vswitch_common::forward::{forward, forward_xdp, part};
use vswitch_common::packet::address::Address;
use vswitch_common::packet::{Ethernet, Received, ethertype};
use vswitch_common::tables::memory::MemoryTables;
use vswitch_common::tables::{
    FdbEntry, FdbKey, MARK_FROM_CHILD, Network, NetworkNumber, PortKind, PortNumber, VlanKey,
};
use vswitch_common::trace::Trace;
use vswitch_common::verdict::{Decision, DropReason, Verdict};

use crate::frames::{addresses, control_frame, damage, stations};
use crate::shared::{Compared, Numbers, Sandbox, add_elsewhere, add_neighbors, add_station, guarded, renew, veth};
use crate::tables;

/// The number of frames. Frames at parents go through four decisions.
const FRAMES: usize = 100_000;

/// The VLAN of some children.
const VLAN: u16 = 30;

/// Returns the ports: network, kind and rules. Network 2 has a single child with passthru; the
/// parent of network 3 is removed.
fn ports() -> Vec<(u32, PortKind, PortRules)> {
    use PortKind::{Child, Parent};
    let parent = |parent| PortRules { learning: false, trunk: Trunk::All, parent, ..PortRules::default() };
    let plain = PortRules::default();
    let guarded = guarded();
    let nested = PortRules { learning: true, trunk: Trunk::All, group_fwd_mask: 0xc001, ..guarded.clone() };
    let stormy = PortRules { storm_pps: 1, ..plain.clone() };
    let isolated = |rules: &PortRules| PortRules { isolated: true, ..rules.clone() };
    let tagged = |rules: &PortRules| PortRules { vlan: VLAN, ..rules.clone() };
    let at = |parent, rules: &PortRules| (1, Child, PortRules { parent, ..rules.clone() });
    let bridge = ParentRules::default();
    let private = ParentRules { apart: true, ..bridge };
    let vepa = ParentRules { apart: true, reflected: true, ..bridge };
    let l2 = ParentRules { by_address: true, ..bridge };
    let l3 = ParentRules { routed: true, ..l2 };
    let l3s = ParentRules { stack: true, ..l3 };
    let passthru = ParentRules { passthru: true, ..bridge };
    let with_host = |rules| ParentRules { host_access: true, ..rules };
    let by_address = |rules: ParentRules| ParentRules { by_address: true, ..rules };
    let routed = |rules: ParentRules| ParentRules { routed: true, ..by_address(rules) };
    vec![
        (1, Parent, parent(with_host(l2))),
        (2, Parent, parent(passthru)),
        (3, Parent, parent(l2)),
        at(bridge, &plain),
        at(bridge, &guarded),
        at(with_host(bridge), &guarded),
        at(with_host(bridge), &nested),
        at(bridge, &tagged(&plain)),
        at(with_host(bridge), &tagged(&guarded)),
        at(bridge, &isolated(&plain)),
        at(private, &plain),
        at(private, &guarded),
        at(with_host(private), &nested),
        at(vepa, &plain),
        at(vepa, &tagged(&guarded)),
        at(with_host(vepa), &guarded),
        at(l2, &plain),
        at(l2, &guarded),
        at(with_host(l2), &guarded),
        at(with_host(l2), &tagged(&guarded)),
        at(l2, &isolated(&guarded)),
        at(l2, &stormy),
        at(by_address(private), &guarded),
        at(by_address(vepa), &guarded),
        at(with_host(by_address(vepa)), &plain),
        at(l3, &plain),
        at(with_host(l3), &guarded),
        at(l3, &tagged(&guarded)),
        at(l3, &isolated(&guarded)),
        at(routed(private), &guarded),
        at(routed(vepa), &guarded),
        at(l3s, &guarded),
        at(with_host(l3s), &plain),
        (2, Child, PortRules { parent: passthru, ..plain.clone() }),
        (3, Child, PortRules { parent: bridge, ..plain.clone() }),
        (3, Child, PortRules { parent: l3, ..guarded }),
    ]
}

/// Returns the station at a port. Children that are found by IP address or have passthru share the
/// MAC address of their parent.
fn station(ports: &[(u32, PortKind, PortRules)], place: usize) -> Mac {
    let own = |place: usize| Mac([2, 0, 0, 0, 0, place as u8 + 1]);
    match ports.get(place) {
        Some((network, PortKind::Child, rules)) if rules.parent.by_address || rules.parent.passthru => {
            own(parent_of(*network))
        }
        _ => own(place),
    }
}

/// Returns the place of a network's parent among the ports.
fn parent_of(network: u32) -> usize {
    network as usize - 1
}

/// Returns the link-local address of a child that shares its MAC address.
fn link_local(place: usize) -> Ipv6Addr {
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, place as u16 + 1)
}

/// Returns a frame between children, the wire and the host.
fn passing_frame(numbers: &mut Numbers, ports: &[(u32, PortKind, PortRules)], place: usize) -> Vec<u8> {
    let unknown = Mac([0x0a, 0, 0, 0, 1, numbers.below(8) as u8]);
    let network = ports.get(place).map_or(1, |(network, ..)| *network);
    let parent = station(ports, parent_of(network));
    let at_parent = ports.get(place).is_none_or(|(_, kind, _)| *kind == PortKind::Parent);
    // The places of the sender and the receiver.
    let from = if at_parent || numbers.below(16) == 0 { numbers.below(ports.len()) } else { place };
    let to = numbers.below(ports.len() + 4);
    let source = match numbers.below(8) {
        0..3 if at_parent => unknown,
        3..5 if at_parent => parent,
        0 => unknown,
        _ => station(ports, from),
    };
    let groups = [Mac::BROADCAST, Mac([1, 0, 0x5e, 1, 2, 3]), Mac([0x33, 0x33, 0, 0, 0, 1])];
    let destination = match numbers.below(8) {
        0..4 => station(ports, to),
        4..6 => parent,
        6 => unknown,
        _ => numbers.pick(&groups),
    };
    let mut frame = [destination.0, source.0].concat();
    let tag = if at_parent { numbers.below(10) } else { numbers.below(30) };
    let number = VLAN as u8;
    match tag {
        0..3 => frame.extend([0x81, 0, 0, number]),
        3 => frame.extend([0x81, 0, 0xe0, numbers.pick(&[0, number])]),
        4 => frame.extend([numbers.pick(&[0x81, 0x88]), numbers.pick(&[0, 0xa8]), 0, number + 1]),
        5 => frame.extend([0x81, 0, 0x20, 0]),
        _ => {}
    }
    let network_of = |place: usize| ports.get(place).map_or(1, |(network, ..)| *network);
    let (from4, from6) = addresses(network_of(from), from);
    let (to4, to6) = addresses(network_of(to), to);
    let (mut from6, mut to6) = (from6, to6);
    if numbers.below(6) == 0 {
        (from6, to6) = (link_local(from), link_local(to));
    }
    let length = numbers.pick(&[1, 46, 46, 200]);
    let mut payload = numbers.bytes(length);
    let protocol = numbers.pick(&[6, 17, 17, 50]);
    match numbers.below(8) {
        0..3 => {
            frame.extend([8, 0, 0x45, 0, 0, 20 + length as u8, 0, 0, 0x40, 0, 64, protocol, 0, 0]);
            frame.extend([from4.octets(), to4.octets()].concat());
        }
        3..5 => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, length as u8, protocol, 64]);
            frame.extend([from6.octets(), to6.octets()].concat());
        }
        5..7 => {
            frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, numbers.pick(&[1, 2])]);
            frame.extend(source.0);
            frame.extend(from4.octets());
            frame.extend([0; 6]);
            frame.extend(to4.octets());
        }
        _ => frame.extend(numbers.pick(&[[0x88_u8, 0xcc], [0x88, 0x63], [0, 46]])),
    }
    frame.append(&mut payload);
    if numbers.below(3) == 0 {
        damage(numbers, &mut frame);
    }
    frame
}

/// Writes the ports into both tables. Returns their devices.
fn add_ports(sandbox: &Sandbox, datapath: &Datapath, tables: &mut MemoryTables) -> Vec<(u32, PortKind)> {
    let ports = ports();
    let mut devices = Vec::new();
    for (place, (network, kind, rules)) in ports.iter().cloned().enumerate() {
        let device = format!("w{place}");
        let ifindex = veth(&device);
        devices.push((ifindex, kind));
        let (four, six) = addresses(network, place);
        let of_child = (kind == PortKind::Child && rules.parent.by_address).then(|| link_local(place).into());
        let spec = PortSpec {
            ifindex,
            egress_ifindex: ifindex,
            device,
            network: NetworkNumber(network),
            kind,
            mac: station(&ports, place),
            xdp: Xdp::Off,
            xdp_egress: kind == PortKind::Child && place % 4 != 0,
            addresses: [four.into(), six.into()].into_iter().chain(of_child).collect(),
            mtu: if place % 3 == 0 { 150 } else { 0 },
            rules,
        };
        let number = datapath.add_port(&spec).expect("add a port");
        assert_eq!(number.0 as usize, place + 1);
        let entry = tables.networks.entry(spec.network).or_default();
        if kind == PortKind::Parent {
            entry.parent = number;
        } else if spec.rules.parent.passthru {
            entry.only = number;
        }
        let by_mac = Some(Address::link_local(spec.mac)).filter(|_| !spec.rules.parent.by_address);
        add_neighbors(tables, number, &spec, by_mac);
        if kind == PortKind::Child && place % 5 == 0 {
            add_elsewhere(datapath, tables, number, Ipv4Addr::new(10, 4, 0, 2));
        }
    }
    // The parent of network 3 is removed. Its children stay.
    let gone = PortNumber(parent_of(3) as u32 + 1);
    datapath.remove_port(gone).expect("remove the parent");
    tables.neighbors.retain(|_, owner| *owner != gone);
    tables.networks.entry(NetworkNumber(3)).or_default().parent = PortNumber::NONE;
    for (number, ours) in &tables.networks {
        let pinned = tables::network(sandbox, number.0);
        assert_eq!(pinned, Network { first: pinned.first, ..*ours }, "network {}", number.0);
    }
    for (number, port) in datapath.ports().expect("read the ports") {
        tables.add_port(number, port);
    }
    // Static entries: at a child; at the same child in a VLAN that it is not in; at a parent; at a
    // child of another network.
    let last = |last| Mac([0x0a, 0, 0, 0, 1, last]);
    for (vlan, mac, port) in [(0, last(1), 4), (VLAN, last(2), 4), (0, last(3), 1), (0, last(4), 34)] {
        let key = FdbKey { network: NetworkNumber(1), vlan: VlanKey(vlan), mac };
        datapath.fdb_add_static(key, PortNumber(port)).expect("add a static entry");
    }
    tables.fdb = datapath.fdb().expect("read the FDB").into_iter().collect();
    // Children that share their parent's MAC address have no entry of their own.
    let shares = |rules: &ParentRules| rules.by_address || rules.passthru;
    let hidden = |entry: &FdbEntry| {
        let (_, kind, rules) = &ports[entry.port.0 as usize - 1];
        *kind == PortKind::Child && shares(&rules.parent)
    };
    assert!(tables.fdb.iter().all(|(key, entry)| entry.is_static() && (key.mac == last(4) || !hidden(entry))));
    devices
}

/// The compared decisions, and how often each verdict was seen.
#[derive(Default)]
struct Seen {
    sums: Compared,
    names: BTreeMap<String, usize>,
}

impl Seen {
    /// Checks that the kernel's decision is equal to the core's, and counts it.
    fn compare(
        &mut self,
        side: &str,
        kernel: Result<Trace, DatapathError>,
        frame: &[u8],
        ifindex: u32,
        tables: &MemoryTables,
        core: impl Fn(u32) -> Decision,
    ) -> Decision {
        let Some(decision) = self.sums.agreed(&format!("{side}, on {ifindex}"), kernel, frame, &core) else {
            return core(0);
        };
        let to = decision.to;
        let mut saw = |name: String| *self.names.entry(format!("{side}: {name}")).or_default() += 1;
        match decision.verdict().expect("a verdict") {
            Verdict::Redirect(_) => {
                let kind = to.kind().expect("a kind");
                saw(format!("to {kind:?} by {}, way {}", found_by(frame, &decision, tables), to.way));
                saw(format!("to {kind:?}, tag {}", to.tag));
            }
            Verdict::Flood(flood) => {
                saw(format!("{flood:?}, way {}, but one: {}", to.way, to.port != PortNumber::NONE));
            }
            other => saw(format!("{other:?}")),
        }
        if decision.learn().is_some() {
            saw("learns".to_owned());
        }
        decision
    }
}

/// Returns the address by which the receiver of a frame was found.
fn found_by(frame: &[u8], decision: &Decision, tables: &MemoryTables) -> &'static str {
    let ethernet = Ethernet::parse(frame).expect("a frame that was sent on");
    let network = tables.networks[&decision.station.network];
    if network.only != PortNumber::NONE {
        return "passthru";
    }
    if tables.ports[&network.parent].mac != ethernet.destination {
        return "MAC";
    }
    match ethernet.ethertype {
        ethertype::IPV4 => "IPv4",
        ethertype::IPV6 => "IPv6",
        ethertype::ARP => "ARP",
        _ => "nothing",
    }
}

#[test]
fn the_loaded_programs_of_parents_decide_as_the_core_does() {
    let sandbox = Sandbox::new();
    let datapath = sandbox.datapath();
    let mut tables = MemoryTables::default();
    let ports = ports();
    let mut devices = add_ports(&sandbox, &datapath, &mut tables);
    // Devices that are no ports.
    let foreign = veth("none");
    devices.extend([(foreign, PortKind::Child), (veth("other"), PortKind::Parent)]);
    let mut tracer = datapath.tracer().expect("load the recording copy");
    let mut numbers = Numbers(0x7673_7769_7463_6822);
    let stations = stations(ports.len() as u8);
    let mut seen = Seen::default();
    let held = FdbKey { network: NetworkNumber(1), vlan: VlanKey::NONE, mac: Mac([0x0a, 0, 0, 0, 1, 7]) };
    for round in 0..FRAMES {
        if round % 500 == 0 {
            renew(&sandbox, &mut tables, ports.len() as u32, held, PortNumber(5));
        }
        // One frame in three at a parent that stays.
        let place = if numbers.below(3) == 0 { numbers.below(2) } else { numbers.below(devices.len()) };
        let (ifindex, kind) = devices[place];
        let frame = if round % 3 == 0 {
            let (network, own) = ports.get(place).map_or((1, place), |(network, ..)| (*network, place));
            let own = if kind == PortKind::Parent { numbers.below(ports.len()) } else { own };
            control_frame(&mut numbers, &stations, network, own, station(&ports, own))
        } else {
            passing_frame(&mut numbers, &ports, place)
        };
        let mark = numbers.pick(&[0, 0, 1, !MARK_FROM_CHILD]);
        let marked = Received { bytes: &frame, mark, tunnel: None };
        let side = if kind == PortKind::Parent { "wire" } else { "child" };
        let kernel = tracer.tc(kind, ifindex, mark, &frame);
        let core = seen.compare(side, kernel, &frame, ifindex, &tables, |now| forward(ifindex, &marked, &tables, now));
        if kind == PortKind::Parent {
            let xdp = tracer.xdp(kind, ifindex, &frame).map(|kernel| kernel.expect("a parent has an XDP program"));
            seen.compare("xdp", xdp, &frame, ifindex, &tables, |now| {
                forward_xdp(ifindex, kind, frame.as_slice(), &tables, now)
            });
            let out = tracer.tc_out(ifindex, 0, mark, &frame);
            seen.compare("host", out, &frame, ifindex, &tables, |now| part::to_parent(ifindex, &marked, &tables, now));
            let through = tracer.tc_out(ifindex, foreign, mark, &frame);
            seen.compare("through", through, &frame, ifindex, &tables, |now| {
                part::through_parent(ifindex, &marked, &tables, now)
            });
            if round % 100 == 0 {
                // Frames of a child to the host, and frames that a child sends out, pass without a
                // decision.
                let (child, _) = devices[3 + numbers.below(30)];
                for passed in [
                    tracer.tc(kind, ifindex, mark | MARK_FROM_CHILD, &frame),
                    tracer.tc_out(ifindex, child, mark, &frame),
                ] {
                    let refused = matches!(passed, Err(DatapathError::TraceRefused { .. }));
                    assert!(refused || matches!(passed, Err(DatapathError::Trace { .. })), "{passed:?}: {frame:02x?}");
                }
            }
        }
        // Some learned stations are written into both tables.
        if let Some(key) = core.learn().filter(|key| *key != held && numbers.below(50) == 0) {
            add_station(&datapath, &mut tables, key, core.ingress);
        }
    }
    let Seen { sums: Compared { compared, refused }, names } = seen;
    println!("{compared} decisions compared, {refused} frames too short for a test run of tc: {names:#?}");
    assert!(refused < FRAMES / 5 && compared > FRAMES, "{compared} compared, {refused} refused");
    check_coverage(&names);
}

/// Checks that the corpus has reached every verdict and every way. Otherwise the comparison proves
/// little.
fn check_coverage(names: &BTreeMap<String, usize>) {
    for reason in DropReason::ALL {
        let reached =
            ["child", "wire", "host"].iter().any(|side| names.contains_key(&format!("{side}: Drop({reason:?})")));
        // These are reasons of networks with a host port, of tunnels, or of no decision.
        let other = [
            DropReason::DeliveryFailed,
            DropReason::OtherNetwork,
            DropReason::Internal,
            DropReason::Martian,
            DropReason::UnknownVni,
            DropReason::UnknownPeer,
            DropReason::VxlanHeader,
        ];
        assert_eq!(reached, !other.contains(&reason), "{reason:?} reached: {reached}");
    }
    let ways = [
        "child: to Child by MAC, way 0",
        "child: to Child by IPv4, way 0",
        "child: to Child by IPv6, way 0",
        "child: to Child by ARP, way 0",
        // A child gets no tags, because all frames for it are in its own VLAN.
        "child: to Child, tag 0",
        "child: to Child, tag 1",
        "child: to Parent by MAC, way 0",
        "child: to Parent by IPv4, way 0",
        "child: to Parent by passthru, way 0",
        // To the host (way 1), and by its routes (way 2).
        "child: to Parent by MAC, way 1",
        "child: to Parent by IPv4, way 1",
        "child: to Parent by IPv6, way 1",
        "child: to Parent by ARP, way 1",
        "child: to Parent by MAC, way 2",
        "child: to Parent by IPv4, way 2",
        "child: to Parent by IPv6, way 2",
        "child: to Parent, tag 0",
        "child: to Parent, tag 2",
        "child: to Parent, tag 3",
        "child: Group, way 0, but one: false",
        "child: learns",
        "child: Drop(ParentGone)",
        "child: Drop(HostAccess)",
        "child: Drop(NotRouted)",
        "wire: to Child by MAC, way 0",
        "wire: to Child by IPv4, way 0",
        "wire: to Child by IPv6, way 0",
        "wire: to Child by ARP, way 0",
        "wire: to Child by passthru, way 0",
        "wire: to Child, tag 0",
        "wire: to Child, tag 1",
        "wire: Group, way 0, but one: false",
        // Sent back by the wire: frames of the host, of a child that is not apart, of a child that
        // is.
        "wire: Reflected, way 4, but one: false",
        "wire: Reflected, way 0, but one: true",
        "wire: Reflected, way 4, but one: true",
        "wire: Pass",
        "wire: Drop(SourceSpoofed)",
        "wire: Drop(TooBig)",
        "wire: Drop(UnknownPort)",
        "xdp: to Child by MAC, way 0",
        "xdp: to Child by IPv4, way 0",
        "xdp: to Child by IPv6, way 0",
        "xdp: to Child by ARP, way 0",
        "xdp: to Child by passthru, way 0",
        "xdp: Defer",
        "xdp: Drop(SourceSpoofed)",
        "xdp: Drop(TooBig)",
        "host: to Child by MAC, way 3",
        "host: to Child by IPv4, way 3",
        "host: to Child by IPv6, way 3",
        "host: to Child by ARP, way 3",
        "host: to Child, tag 0",
        "host: to Child, tag 1",
        "host: Children, way 0, but one: false",
        "host: Pass",
        "host: Drop(TooBig)",
        "host: Drop(UnknownPort)",
        "through: to Child by MAC, way 3",
        "through: to Child by IPv4, way 3",
        "through: to Child by IPv6, way 3",
        "through: to Child by ARP, way 3",
        "through: to Child, tag 1",
        "through: Children, way 0, but one: false",
        "through: Pass",
        "through: Drop(TooBig)",
    ];
    let missed: Vec<&str> = ways.into_iter().filter(|name| !names.contains_key(*name)).collect();
    assert!(missed.is_empty(), "no frame had these: {missed:#?}");
    // Frames that the host forwards also reach children behind its stack.
    let by_address = |side: &str| names[&format!("{side}: to Child by IPv4, way 3")];
    assert!(by_address("through") > by_address("host"), "no frame was forwarded to a child of the stack");
}
