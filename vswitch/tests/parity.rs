//! The loaded programs and the core on the host decide alike, frame by frame, over a generated corpus.
//!
//! Each frame goes through the program in the kernel (BPF_PROG_TEST_RUN on live maps) and through `forward()` over the
//! same tables in memory; the two decisions have to be equal in every field.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use aya::maps::{Array, HashMap, LpmTrie, Map, MapData};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use etherparse::PacketBuilder;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use vswitch::datapath::{
    Datapath, DatapathError, Mode, NetworkSpec, Options, PortRules, PortSpec, SHORTEST, Trunk, Xdp,
};
use vswitch_common::forward::{forward, forward_early};
use vswitch_common::packet::{Marked, address::Address};
use vswitch_common::tables::memory::MemoryTables;
use vswitch_common::tables::{
    FdbKey, MARK_PUBLISHED, MAX_SUBNETS, NeighborKey, Network, NetworkNumber, OwnKey, PortCounters, PortKind,
    PortNumber, StormWindow, Subnet, VlanKey,
};
use vswitch_common::verdict::{DropReason, Verdict};
use vswitch_common::{Mac, tables::FdbEntry};

/// Frames that go through each of the two decisions at every port.
const FRAMES: usize = 100_000;

/// A network namespace and a bpffs of this thread's own; both go with it.
struct Sandbox {
    bpffs: PathBuf,
}

impl Sandbox {
    fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "this test loads eBPF programs and needs root");
        unshare(CloneFlags::CLONE_NEWNET).expect("unshare the network namespace");
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let bpffs = std::env::temp_dir().join(format!("vswitch-parity-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&bpffs).expect("make the mount point");
        mount(Some("bpf"), &bpffs, Some("bpf"), MsFlags::empty(), None::<&str>).expect("mount a bpffs");
        Self { bpffs }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = umount2(&self.bpffs, MntFlags::MNT_DETACH);
        let _ = std::fs::remove_dir(&self.bpffs);
    }
}

fn veth(name: &str) -> u32 {
    let peer = format!("{name}p");
    let status = Command::new("ip").args(["link", "add", name, "type", "veth", "peer", &peer]).status();
    assert!(status.expect("run ip").success(), "ip link add {name}");
    nix::net::if_::if_nametoindex(name).expect("the device just made")
}

/// Numbers that look random and are the same in every run (Marsaglia's xorshift64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }
}

/// Stations of the ports, and others.
fn stations() -> Vec<Mac> {
    let mut stations: Vec<Mac> = (1..=ports().len() as u8).map(|last| Mac([2, 0, 0, 0, 0, last])).collect();
    stations.extend([Mac::ZERO, Mac::BROADCAST, Mac([1, 0, 0x5e, 0, 0, 1]), Mac([0x33, 0x33, 0, 0, 0, 1])]);
    stations.extend((0..=16).map(|last| Mac([1, 0x80, 0xc2, 0, 0, last])));
    stations.extend((0..8).map(|last| Mac([0x0a, 0, 0, 0, 1, last])));
    stations
}

/// The ports: network, kind, and what they may do. Network 3 is internal.
fn ports() -> Vec<(u32, PortKind, PortRules)> {
    use PortKind::{Container, Host, Uplink};
    let plain = PortRules { trunk: Trunk::All, ..PortRules::default() };
    let guarded = PortRules {
        learning: false,
        spoof_guard: true,
        ra_guard: true,
        dhcp_guard: true,
        bpdu_guard: true,
        arp_suppress: true,
        snooping: true,
        storm_pps: 1000,
        ..PortRules::default()
    };
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

/// The address of a port's station: that of the same number in its network.
fn addresses(network: u32, place: usize) -> (Ipv4Addr, Ipv6Addr) {
    let last = place as u8 + 1;
    let network = network as u8;
    (Ipv4Addr::new(10, network, 0, last), Ipv6Addr::new(0xfd00, network.into(), 0, 0, 0, 0, 0, last.into()))
}

/// Addresses in the networks' subnets, the host's own, loopback ones and others.
fn ipv4(numbers: &mut Numbers) -> [u8; 4] {
    match numbers.below(8) {
        0 => numbers.pick(&[[127, 0, 0, 1], [192, 0, 2, 1], [224, 0, 0, 1], [255; 4], [0; 4]]),
        _ => [10, numbers.pick(&[0, 1, 1, 2, 2, 3, 4]), 0, numbers.pick(&[1, 1, 2, 2, 5, 6, 11, 14, 15, 200])],
    }
}

fn ipv6(numbers: &mut Numbers) -> [u8; 16] {
    let mut address = [0; 16];
    match numbers.below(8) {
        0 => address[15] = numbers.pick(&[0, 1]),
        1 => (address[0], address[1]) = numbers.pick(&[(0xfe, 0x80), (0xff, 2), (0x20, 1)]),
        3 => address = Address::link_local(Mac([2, 0, 0, 0, 0, numbers.pick(&[1, 2, 6])])).octets(),
        2 => address = Address::mapped(ipv4(numbers)).octets(),
        _ => {
            (address[0], address[3], address[15]) =
                (0xfd, numbers.pick(&[1, 1, 2, 2, 3, 4]), numbers.pick(&[1, 1, 2, 2, 5, 6, 11, 14, 15]));
        }
    }
    address
}

fn random_frame(numbers: &mut Numbers, stations: &[Mac]) -> Vec<u8> {
    let random = Mac(numbers.bytes(6).try_into().expect("six bytes"));
    let mut station = || if numbers.below(10) == 0 { random } else { numbers.pick(stations) };
    let (destination, mut source) = (station(), station());
    if source.is_multicast() {
        source = station();
    }
    let ethernet = PacketBuilder::ethernet2(source.0, destination.0);
    let (from4, to4, from6, to6) = (ipv4(numbers), ipv4(numbers), ipv6(numbers), ipv6(numbers));
    let length = numbers.pick(&[0, 4, 46, 200]);
    let payload = numbers.bytes(length);
    let mut frame = Vec::new();
    let write = match numbers.below(6) {
        0 => ethernet.ipv4(from4, to4, 64).udp(1, 2).write(&mut frame, &payload),
        1 => ethernet.ipv4(from4, to4, 64).tcp(1, 2, 3, 4).write(&mut frame, &payload),
        2 => ethernet.ipv6(from6, to6, 64).tcp(1, 2, 3, 4).write(&mut frame, &payload),
        3 => ethernet.ipv6(from6, to6, 64).udp(1, 2).write(&mut frame, &payload),
        4 => {
            let vlan = etherparse::VlanId::try_new(numbers.below(5) as u16).expect("small");
            ethernet.single_vlan(vlan).ipv4(from4, to4, 9).icmpv4_echo_request(1, 1).write(&mut frame, &payload)
        }
        _ => {
            let (outer, inner) = (numbers.below(4) as u16, numbers.below(4096) as u16);
            let id = |id| etherparse::VlanId::try_new(id).expect("below 4096");
            ethernet.double_vlan(id(outer), id(inner)).ipv6(from6, to6, 9).udp(1, 2).write(&mut frame, &payload)
        }
    };
    write.expect("a frame in memory");
    // One in three is damaged: a byte or an EtherType changed, cut short, or extension headers claimed.
    match numbers.below(12) {
        0 => {
            let place = numbers.below(frame.len().min(64));
            frame[place] = numbers.next() as u8;
        }
        1 => {
            let types = [[0x81_u8, 0], [0x88, 0xa8], [0x86, 0xdd], [8, 0], [8, 6], [0, 46]];
            frame[12..14].copy_from_slice(&numbers.pick(&types));
        }
        2 => frame.truncate(SHORTEST + numbers.below(frame.len() - SHORTEST)),
        3 if frame.len() > 54 => frame[20] = numbers.pick(&[0, 43, 44, 51, 60, 135]),
        _ => {}
    }
    frame
}

/// A frame of those that guards, answers, multicast and VLANs are about, from the station at a port as often as not.
fn control_frame(numbers: &mut Numbers, stations: &[Mac], place: usize) -> Vec<u8> {
    let own = Mac([2, 0, 0, 0, 0, place as u8 + 1]);
    let network = ports().get(place).map_or(1, |(network, ..)| *network);
    let (own4, own6) = addresses(network, place);
    let source = if numbers.below(4) == 0 { numbers.pick(stations) } else { own };
    let group = [
        Mac::BROADCAST,
        Mac([0x33, 0x33, 0xff, 0, 0, 2]),
        Mac([1, 0, 0x5e, 1, 2, 3]),
        Mac([0x33, 0x33, 0, 0, 0, 0x16]),
        Mac([1, 0x80, 0xc2, 0, 0, 0]),
        Mac([1, 0x80, 0xc2, 0, 0, 0xe]),
    ];
    let destination = if numbers.below(4) == 0 { numbers.pick(stations) } else { numbers.pick(&group) };
    let mut frame = [destination.0, source.0].concat();
    for _ in 0..numbers.pick(&[0, 0, 0, 1, 1, 2, 3]) {
        frame.extend(numbers.pick(&[[0x81_u8, 0], [0x81, 0], [0x88, 0xa8]]));
        frame.extend([numbers.pick(&[0_u8, 0xe0]), numbers.pick(&[0_u8, 0, 2, 3, 5])]);
    }
    if numbers.below(12) == 0 {
        frame.extend([0, 60, numbers.pick(&[0xaa, 0x42, 0xe0]), numbers.pick(&[0xaa, 0x42, 0xe0]), 3]);
        frame.extend(numbers.pick(&[[0_u8, 0, 0], [0, 0, 0xf8], [0, 0, 0x0c]]));
        if numbers.below(4) == 0 {
            frame.extend([1, 0x0b]);
        }
    }
    let from4 = if numbers.below(3) == 0 { ipv4(numbers) } else { own4.octets() };
    let from6 = match numbers.below(6) {
        0 => ipv6(numbers),
        1 => Address::link_local(own).octets(),
        2 => [0; 16],
        _ => own6.octets(),
    };
    let (to4, to6) = (ipv4(numbers), ipv6(numbers));
    let says = if numbers.below(4) == 0 { numbers.pick(stations) } else { own };
    let group4 = numbers.pick(&[[239, 1, 2, 3], [224, 0, 0, 251], [224, 0, 1, 1], to4, to4]);
    let mut group6 = to6;
    if numbers.below(2) == 0 {
        group6 = [
            0xff,
            numbers.pick(&[1, 2, 5]),
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            numbers.pick(&[0, 1]),
            numbers.pick(&[0, 0xff]),
            0,
            0,
            1,
        ];
    }
    let packet6 = |next: &[u8], message: &[u8], hops: u8| {
        let mut packet = vec![0x86, 0xdd, 0x60, 0, 0, 0, 0, (next.len() + message.len() - 1) as u8, next[0], hops];
        packet.extend(from6);
        packet.extend(group6);
        packet.extend(&next[1..]);
        packet.extend(message);
        packet
    };
    match numbers.below(8) {
        0 | 1 => {
            frame.extend([8, 6, 0, 1, 8, 0, 6, numbers.pick(&[4, 4, 4, 16]), 0, numbers.pick(&[1, 1, 2])]);
            frame.extend(says.0);
            frame.extend(from4);
            frame.extend([0; 6]);
            frame.extend(to4);
        }
        2 => {
            let (port, to) = numbers.pick(&[(67_u16, 68_u16), (68, 67), (5353, 5353)]);
            frame.extend([
                8,
                0,
                numbers.pick(&[0x45, 0x45, 0x46, 0x41]),
                0,
                0,
                40,
                0,
                0,
                numbers.pick(&[0, 0, 0x20]),
                numbers.pick(&[0, 0, 1]),
                9,
                17,
                0,
                0,
            ]);
            frame.extend(from4);
            frame.extend(group4);
            frame.extend([port.to_be_bytes(), to.to_be_bytes()].concat());
            frame.extend([0; 16]);
        }
        3 => {
            let (header, options): (u8, &[u8]) = numbers.pick(&[(0x45, &[][..]), (0x46, &[0x94, 4, 0, 0])]);
            frame.extend([8, 0, header, 0, 0, 32, 0, 0, 0, 0, 1, 2, 0, 0]);
            frame.extend(from4);
            frame.extend(group4);
            frame.extend(options);
            frame.extend([numbers.pick(&[0x11, 0x12, 0x16, 0x17, 0x22, 0x99]), 0, 0, 0, 239, 1, 2, 3]);
        }
        4 => {
            let mut message = vec![numbers.pick(&[130, 131, 132, 143]), 0, 0, 0];
            message.extend([0; 20]);
            frame.extend(packet6(&[0, 58, 0, 5, 2, 0, 0, 1, 0], &message, 1));
        }
        5 => {
            let (next, port) = numbers.pick(&[(17_u8, 547_u16), (17, 546), (6, 547)]);
            let chain: &[u8] = numbers.pick(&[
                &[][..],
                &[60, 0, 1, 4, 0, 0, 0, 0],
                &[44, 0, 0, 0, 0, 0, 0, 0],
                &[44, 0, 0, 8, 0, 0, 0, 0],
                &[
                    60, 60, 0, 0, 0, 0, 0, 0, 60, 60, 0, 0, 0, 0, 0, 0, 60, 60, 0, 0, 0, 0, 0, 0, 60, 60, 0, 0, 0, 0,
                    0, 0,
                ],
            ]);
            let mut headers = vec![chain.first().copied().unwrap_or(next)];
            if let Some((_, rest)) = chain.split_first() {
                headers.extend([rest, &[0]].concat());
                // The last header of the chain names the transport's.
                let last = headers.len() - 8;
                headers[last] = next;
            }
            frame.extend(packet6(&headers, &[&port.to_be_bytes()[..], &[0; 30]].concat(), 64));
        }
        _ => {
            let mut message =
                vec![numbers.pick(&[135, 135, 135, 136, 134, 137, 128]), numbers.pick(&[0, 0, 0, 1]), 0, 0, 0, 0, 0, 0];
            message.extend(if numbers.below(2) == 0 { to6 } else { own6.octets() });
            for _ in 0..numbers.pick(&[0, 1, 1, 2, 3]) {
                message.extend([numbers.pick(&[1, 2, 14]), numbers.pick(&[1, 1, 1, 0])]);
                message.extend(says.0);
            }
            frame.extend(packet6(&[58], &message, numbers.pick(&[255, 255, 64])));
        }
    }
    if numbers.below(12) == 0 {
        frame.truncate(SHORTEST + numbers.below(frame.len() - SHORTEST));
    }
    frame
}

/// What changes by the clock, in the kernel's tables and ours: allowances that are used up, and a station that is held.
fn keep_up(sandbox: &Sandbox, tables: &mut MemoryTables, held: FdbKey) {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC_COARSE).expect("the clock");
    let now = vswitch_common::tables::tick(now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64);
    let pin = |name: &str| MapData::from_pin(sandbox.bpffs.join("maps").join(name)).expect("a pinned table");
    let mut storms: Array<_, StormWindow> = Array::try_from(Map::Array(pin("STORMS"))).expect("its layout");
    for port in 1..=ports().len() as u32 {
        for class in 1..=3 {
            let window = StormWindow { tick: now, count: 2 };
            storms.set(StormWindow::index(PortNumber(port), class), window, 0).expect("write");
            tables.storms.insert((PortNumber(port), class), window);
        }
    }
    let mut fdb: HashMap<_, FdbKey, FdbEntry> = HashMap::try_from(Map::HashMap(pin("FDB"))).expect("its layout");
    let entry = FdbEntry { port: PortNumber(2), seen: now, flags: FdbEntry::HELD, since: now, ..FdbEntry::default() };
    fdb.insert(held, entry, 0).expect("write");
    tables.fdb.insert(held, entry);
}

/// Tells both sides of three networks.
fn networks(datapath: &Datapath, tables: &mut MemoryTables) {
    for number in 1..=3_u8 {
        let network = NetworkNumber(number.into());
        let internal = number == 3;
        let subnets = [format!("10.{number}.0.0/24 10.{number}.0.1"), format!("fd00:{number}::/64 fd00:{number}::1")];
        let subnets = subnets.iter().map(|text| {
            let (subnet, gateway) = text.split_once(' ').expect("two");
            (subnet.parse().expect("a subnet"), gateway.parse().expect("an address"))
        });
        let spec = NetworkSpec { number: network, internal, subnets: subnets.collect() };
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
    let options = Options { directory: sandbox.bpffs.clone(), mode: Mode::Auto, fdb_size: 4096 };
    let datapath = Datapath::open(options).expect("load the programs");
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
        let vlan = VlanKey(spec.rules.vlan);
        let known = spec.addresses.iter().map(|address| match address {
            IpAddr::V4(four) => Address::mapped(four.octets()),
            IpAddr::V6(six) => Address::new(six.octets()),
        });
        for address in known.chain([Address::link_local(spec.mac)]) {
            let key = NeighborKey { address, network: NetworkNumber(network), vlan, reserved: 0 };
            tables.neighbors.insert(key, number);
        }
        if place == 14 {
            // It has an address in another network, which it may speak from here, too.
            let address = Ipv4Addr::new(10, 3, 0, 2);
            datapath.set_addresses_elsewhere(number, &[address.into()]).expect("tell it");
            tables.owned.insert(OwnKey { address: Address::mapped(address.octets()), port: number, reserved: 0 });
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
    // A station wired to a port by hand, and one learned from port 2 in the kernel's table and ours.
    let fixed = FdbKey { network: NetworkNumber(1), vlan: VlanKey(3), mac: Mac([0x0a, 0, 0, 0, 1, 1]) };
    datapath.fdb_add_static(fixed, PortNumber(2)).expect("add a static entry");
    tables.fdb = datapath.fdb().expect("read the FDB").into_iter().collect();
    assert!(tables.fdb.values().all(FdbEntry::is_static));

    let mut tracer = datapath.tracer().expect("load the recording copy");
    let mut numbers = Numbers(0x7673_7769_7463_6821);
    let stations = stations();
    let (mut compared, mut refused) = (0_usize, 0_usize);
    let mut seen = std::collections::BTreeMap::<String, usize>::new();
    let held = FdbKey { network: NetworkNumber(1), vlan: VlanKey::NONE, mac: Mac([0x0a, 0, 0, 0, 1, 7]) };
    for round in 0..FRAMES {
        if round % 500 == 0 {
            keep_up(&sandbox, &mut tables, held);
        }
        let place = numbers.below(devices.len());
        let (ifindex, kind) = devices[place];
        let frame = match round % 2 {
            0 => random_frame(&mut numbers, &stations),
            _ => control_frame(&mut numbers, &stations, place),
        };
        let mark = numbers.pick(&[0, 0, MARK_PUBLISHED, !MARK_PUBLISHED, u32::MAX]);
        let marked = Marked { bytes: &frame, mark };
        let core = match tracer.tc(kind, ifindex, mark, &frame) {
            Ok(kernel) => {
                let core = forward(ifindex, &marked, &tables, kernel.now);
                assert_eq!(kernel.decision, core, "tc {kind:?} on {ifindex}, mark {mark:#x}: {frame:02x?}");
                compared += 1;
                core
            }
            // The kernel's test run has its own idea of the shortest packet; on the wire the program gets these too.
            Err(DatapathError::TraceRefused { .. }) if frame.len() < SHORTEST + 40 => {
                refused += 1;
                forward(ifindex, &marked, &tables, 0)
            }
            Err(error) => panic!("run the tc program on {frame:02x?}: {error}"),
        };
        let name = match core.verdict().expect("a verdict") {
            Verdict::Redirect(to) => format!("redirect to {:?}, tag {}", to.kind(), to.tag),
            Verdict::Answer(answer, _) => format!("answer {answer:?}"),
            other => format!("{other:?}"),
        };
        *seen.entry(name).or_default() += 1;
        for kind in [PortKind::Container, PortKind::Uplink] {
            let Some(kernel) = tracer.xdp(kind, ifindex, &frame).expect("run the XDP program") else { continue };
            let core = forward_early(ifindex, kind, frame.as_slice(), &tables, kernel.now);
            assert_eq!(kernel.decision, core, "XDP {kind:?} on {ifindex}: {frame:02x?}");
            compared += 1;
        }
        // Learned stations take part in what follows, on both sides.
        if let Some(key) = core.learn().filter(|key| *key != held && numbers.below(50) == 0) {
            datapath.fdb_add_static(key, core.ingress).expect("write the station");
            let entry = FdbEntry { port: core.ingress, flags: FdbEntry::STATIC, ..FdbEntry::default() };
            tables.fdb.insert(key, entry);
        }
    }
    println!("{compared} decisions compared, {refused} frames too short for a test run of tc: {seen:?}");
    assert!(refused < FRAMES / 10 && compared == 3 * FRAMES - refused, "{compared} compared, {refused} refused");
    // The corpus has to reach every verdict, or the agreement says little.
    for reason in DropReason::ALL {
        let reached = seen.contains_key(&format!("Drop({reason:?})"));
        // Nothing in a decision fails a delivery: that happens afterwards.
        assert_eq!(reached, reason != DropReason::DeliveryFailed, "{reason:?} reached: {reached}");
    }
    for verdict in [
        "Pass",
        "Flood(Group)",
        "Flood(UnknownUnicast)",
        "Flood(Apart)",
        "Flood(Listeners)",
        "Flood(ListenersApart)",
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

/// The table of subnets as it is pinned: prefix length, network, flags.
fn subnets(sandbox: &Sandbox) -> Vec<(u32, u32, u32)> {
    let pin = MapData::from_pin(sandbox.bpffs.join("maps/SUBNETS")).expect("the pinned table");
    let table = LpmTrie::<_, Address, Subnet>::try_from(Map::LpmTrie(pin)).expect("its layout");
    let entries = table.iter().map(|entry| entry.expect("an entry"));
    let mut rows: Vec<_> = entries.map(|(key, subnet)| (key.prefix_len(), subnet.network.0, subnet.flags)).collect();
    rows.sort_unstable();
    rows
}

fn network(sandbox: &Sandbox, number: u32) -> Network {
    let pin = MapData::from_pin(sandbox.bpffs.join("maps/NETWORKS")).expect("the pinned table");
    Array::try_from(Map::Array(pin)).expect("its layout").get(&number, 0).expect("an entry")
}

#[test]
fn what_is_known_of_a_network_follows_its_spec_and_survives_ports_and_daemons() {
    let sandbox = Sandbox::new();
    let open = || Datapath::open(Options { directory: sandbox.bpffs.clone(), mode: Mode::Auto, fdb_size: 4096 });
    let datapath = open().expect("load the programs");
    let subnet =
        |subnet: &str, gateway: &str| (subnet.parse().expect("a subnet"), gateway.parse().expect("an address"));
    let spec = |number, internal, subnets| NetworkSpec { number: NetworkNumber(number), internal, subnets };
    let (four, six) = (subnet("10.1.0.0/24", "10.1.0.1"), subnet("fd01::/64", "fd01::1"));
    datapath.set_network(&spec(1, true, vec![four, six])).expect("set a network");
    datapath.set_network(&spec(2, false, vec![subnet("10.2.0.0/16", "10.2.0.1")])).expect("set another");
    let of_two = [(112, 2, 0), (128, 2, Subnet::GATEWAY)];
    let of_one = [(64, 1, 0), (120, 1, 0), (128, 1, Subnet::GATEWAY), (128, 1, Subnet::GATEWAY)];
    let sorted = |rows: &[&[(u32, u32, u32)]]| {
        let mut rows = rows.concat();
        rows.sort_unstable();
        rows
    };
    assert_eq!(subnets(&sandbox), sorted(&[&of_one, &of_two]));

    // Ports come and go; the network stays internal.
    let ifindex = veth("q0");
    let port = PortSpec {
        ifindex,
        egress_ifindex: ifindex,
        device: "q0".to_owned(),
        network: NetworkNumber(1),
        kind: PortKind::Host,
        mac: Mac([2, 0, 0, 0, 0, 1]),
        xdp: Xdp::Off,
        xdp_egress: false,
        addresses: Vec::new(),
        mtu: 0,
        rules: PortRules { isolated: true, ..PortRules::default() },
    };
    let number = datapath.add_port(&port).expect("add a port");
    assert_eq!(network(&sandbox, 1), Network { first: number, flags: Network::INTERNAL, ..Network::default() });
    assert_eq!(datapath.ports().expect("read the ports")[0].1.flags, 0, "the host is not isolated");
    drop(datapath);
    let datapath = open().expect("take over");
    assert!(datapath.taken_over());
    assert_eq!(subnets(&sandbox), sorted(&[&of_one, &of_two]));
    datapath.remove_port(number).expect("remove the port");
    assert_eq!(network(&sandbox, 1), Network { flags: Network::INTERNAL, ..Network::default() });

    datapath.set_network(&spec(1, false, vec![subnet("10.1.0.0/24", "10.1.0.254")])).expect("change it");
    assert_eq!(subnets(&sandbox), sorted(&[&[(120, 1, 0), (128, 1, Subnet::GATEWAY)], &of_two]));
    assert_eq!(network(&sandbox, 1).flags, 0);

    // One network takes all the room that is left.
    let many = (0..MAX_SUBNETS / 2 - 2).map(|n| {
        let [a, b, c, d] = (n + 1).to_be_bytes().map(u16::from);
        subnet(&format!("fd03:{a}:{b}:{c}:{d}::/80"), &format!("fd03:{a}:{b}:{c}:{d}::1"))
    });
    datapath.set_network(&spec(3, false, many.collect())).expect("a large network");
    let before = subnets(&sandbox);
    let two = spec(4, true, vec![subnet("10.4.0.0/24", "10.4.0.1")]);
    let refused = datapath.set_network(&two).expect_err("no room");
    assert!(matches!(refused, DatapathError::NoRoomForSubnets { limit: MAX_SUBNETS }), "{refused}");
    assert_eq!((subnets(&sandbox), network(&sandbox, 4).flags), (before, 0), "nothing has changed");
    datapath.remove_network(NetworkNumber(3)).expect("remove it");
    datapath.remove_network(NetworkNumber(3)).expect("it is gone already");
    datapath.set_network(&two).expect("now there is room");
    datapath.remove_network(NetworkNumber(4)).expect("remove it");
    datapath.remove_network(NetworkNumber(1)).expect("remove it");
    assert_eq!((subnets(&sandbox), network(&sandbox, 4).flags), (of_two.to_vec(), 0));
    for number in [0, 4096] {
        let refused = datapath.set_network(&spec(number, false, Vec::new())).expect_err("no such network");
        assert!(matches!(refused, DatapathError::NoSuchNetwork { .. }), "{refused}");
    }
}

#[test]
fn tables_of_another_layout_are_not_taken_over() {
    let sandbox = Sandbox::new();
    let open = |fdb_size| Datapath::open(Options { directory: sandbox.bpffs.clone(), mode: Mode::Auto, fdb_size });
    drop(open(4096).expect("load the programs"));
    assert!(open(4096).expect("take over").taken_over());
    assert!(!open(8192).expect("start anew").taken_over());
    std::fs::remove_file(sandbox.bpffs.join("maps/PORTS")).expect("unpin");
    assert!(!open(8192).expect("start anew").taken_over());
}

#[test]
fn copies_of_a_flood_go_to_those_alone_that_the_sender_may_reach() {
    let sandbox = Sandbox::new();
    // No frames but ours.
    std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").expect("switch IPv6 off");
    let options = Options { directory: sandbox.bpffs.clone(), mode: Mode::Auto, fdb_size: 4096 };
    let datapath = Datapath::open(options).expect("load the programs");
    let station = |last| Mac([2, 0, 0, 0, 0, last]);
    let kinds = [PortKind::Container, PortKind::Container, PortKind::Container, PortKind::Host, PortKind::Uplink];
    let ports: Vec<(u32, PortNumber)> = (1..)
        .zip(kinds)
        .map(|(last, kind)| {
            let device = format!("f{last}");
            let ifindex = veth(&device);
            for end in [device.clone(), format!("{device}p")] {
                let up = Command::new("ip").args(["link", "set", &end, "up"]).status();
                assert!(up.expect("run ip").success(), "ip link set {end} up");
            }
            let spec = PortSpec {
                ifindex,
                egress_ifindex: ifindex,
                device,
                network: NetworkNumber(1),
                kind,
                mac: station(last),
                xdp: Xdp::Off,
                xdp_egress: false,
                // Of the three containers the first two are.
                addresses: Vec::new(),
                mtu: 0,
                rules: PortRules { isolated: last < 3, ..PortRules::default() },
            };
            (ifindex, datapath.add_port(&spec).expect("add a port"))
        })
        .collect();
    let counters = || ports.iter().map(|(_, port)| datapath.counters(*port).expect("its counters")).collect::<Vec<_>>();
    // The program itself on a frame from one of the containers: who gets a copy, and what it counts of drops.
    let send = |from: usize, destination: Mac, packet: &[u8]| {
        let program = SchedClassifier::from_pin(sandbox.bpffs.join("programs/from_container")).expect("the program");
        let mut frame = [&destination.0[..], &station(from as u8 + 1).0, packet].concat();
        frame.resize(60, 0);
        let mut context = [0_u8; 192];
        context[40..44].copy_from_slice(&ports[from].0.to_ne_bytes());
        let before = counters();
        let options = TestRunOptions { data_in: Some(&frame), ctx_in: Some(&context), ..TestRunOptions::new() };
        program.test_run(options).expect("run the program");
        let after = counters();
        let copies: Vec<u64> =
            after.iter().zip(&before).map(|(after, before)| after.tx_frames - before.tx_frames).collect();
        assert!(after.iter().all(|port| port.tx_failed == 0), "{after:?}");
        let drops = |counters: &PortCounters| counters.drops[DropReason::Isolated as usize];
        (copies, drops(&after[from]) - drops(&before[from]))
    };
    let (arp, unknown) = ([8, 6], Mac([2, 0, 0, 0, 9, 9]));
    assert_eq!(send(0, Mac::BROADCAST, &arp), (vec![0, 0, 1, 1, 1], 0), "from an isolated one");
    assert_eq!(send(2, Mac::BROADCAST, &arp), (vec![1, 1, 0, 1, 1], 0), "from the other");
    assert_eq!(send(0, unknown, &arp), (vec![0, 0, 1, 0, 1], 0), "unknown unicast");
    assert_eq!(send(0, station(2), &arp), (vec![0; 5], 1), "unicast between two isolated ones");
    // A broadcast of IP that an internal network's host must not have.
    let internal = NetworkSpec { number: NetworkNumber(1), internal: true, subnets: Vec::new() };
    datapath.set_network(&internal).expect("make it internal");
    let ip = [8, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 1, 0, 2, 192, 0, 2, 1];
    assert_eq!(send(2, Mac::BROADCAST, &ip), (vec![1, 1, 0, 0, 1], 0), "no copy for the host");
    assert_eq!(send(2, Mac::BROADCAST, &arp), (vec![1, 1, 0, 1, 1], 0), "but of ARP");
}
