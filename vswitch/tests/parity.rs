//! The loaded programs and the core on the host decide alike, frame by frame, over a generated corpus.
//!
//! Each frame goes through the program in the kernel (BPF_PROG_TEST_RUN on live maps) and through `forward()` over the
//! same tables in memory; the two decisions have to be equal in every field.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use aya::maps::{Array, LpmTrie, Map, MapData};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use etherparse::PacketBuilder;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use vswitch::datapath::{Datapath, DatapathError, Mode, NetworkSpec, Options, PortRules, PortSpec, SHORTEST, Xdp};
use vswitch_common::forward::{forward, forward_early};
use vswitch_common::packet::{Marked, address::Address};
use vswitch_common::tables::memory::MemoryTables;
use vswitch_common::tables::{
    MARK_PUBLISHED, MAX_SUBNETS, Network, NetworkNumber, PortCounters, PortKind, PortNumber, Subnet,
};
use vswitch_common::verdict::DropReason;
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
    let mut stations: Vec<Mac> = (1..=PORTS.len() as u8).map(|last| Mac([2, 0, 0, 0, 0, last])).collect();
    stations.extend([Mac::ZERO, Mac::BROADCAST, Mac([1, 0, 0x5e, 0, 0, 1]), Mac([0x33, 0x33, 0, 0, 0, 1])]);
    stations.extend((0..=16).map(|last| Mac([1, 0x80, 0xc2, 0, 0, last])));
    stations.extend((0..8).map(|last| Mac([0x0a, 0, 0, 0, 1, last])));
    stations
}

/// The ports: network, kind, whether isolated. Network 3 is internal.
const PORTS: [(u32, PortKind, bool); 10] = [
    (1, PortKind::Container, true),
    (1, PortKind::Container, false),
    (1, PortKind::Container, true),
    (1, PortKind::Host, false),
    (1, PortKind::Uplink, false),
    (2, PortKind::Container, false),
    (2, PortKind::Host, false),
    (3, PortKind::Container, false),
    (3, PortKind::Host, false),
    (3, PortKind::Uplink, false),
];

/// Addresses in the networks' subnets, the host's own, loopback ones and others.
fn ipv4(numbers: &mut Numbers) -> [u8; 4] {
    match numbers.below(8) {
        0 => numbers.pick(&[[127, 0, 0, 1], [192, 0, 2, 1], [224, 0, 0, 1], [255; 4], [0; 4]]),
        _ => [10, numbers.pick(&[0, 1, 2, 3, 4]), 0, numbers.pick(&[1, 2, 200])],
    }
}

fn ipv6(numbers: &mut Numbers) -> [u8; 16] {
    let mut address = [0; 16];
    match numbers.below(8) {
        0 => address[15] = numbers.pick(&[0, 1]),
        1 => (address[0], address[1]) = numbers.pick(&[(0xfe, 0x80), (0xff, 2), (0x20, 1)]),
        2 => address = Address::mapped(ipv4(numbers)).octets(),
        _ => (address[0], address[3], address[15]) = (0xfd, numbers.pick(&[1, 2, 3, 4]), numbers.pick(&[1, 2])),
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
        tables.networks.insert(network, Network { first: PortNumber::NONE, flags });
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
    for (place, (network, kind, isolated)) in PORTS.into_iter().enumerate() {
        let device = format!("p{place}");
        let ifindex = veth(&device);
        devices.push((ifindex, kind));
        let spec = PortSpec {
            ifindex,
            egress_ifindex: ifindex,
            device,
            network: NetworkNumber(network),
            kind,
            mac: Mac([2, 0, 0, 0, 0, place as u8 + 1]),
            xdp: Xdp::Off,
            xdp_egress: place == 0 || place == 7,
            addresses: Vec::new(),
            mtu: 0,
            rules: PortRules { isolated, ..PortRules::default() },
        };
        datapath.add_port(&spec).expect("add a port");
    }
    // A device that is no port.
    devices.push((veth("none"), PortKind::Container));

    let mut tables = MemoryTables::default();
    for (number, port) in datapath.ports().expect("read the ports") {
        tables.add_port(number, port);
    }
    networks(&datapath, &mut tables);
    // A station wired to a port by hand, and one learned from port 2 in the kernel's table and ours.
    let fixed = vswitch_common::tables::FdbKey {
        network: NetworkNumber(1),
        vlan: vswitch_common::tables::VlanKey(3),
        mac: Mac([0x0a, 0, 0, 0, 1, 1]),
    };
    datapath.fdb_add_static(fixed, PortNumber(2)).expect("add a static entry");
    tables.fdb = datapath.fdb().expect("read the FDB").into_iter().collect();
    assert!(tables.fdb.values().all(FdbEntry::is_static));

    let mut tracer = datapath.tracer().expect("load the recording copy");
    let mut numbers = Numbers(0x7673_7769_7463_6821);
    let stations = stations();
    let (mut compared, mut refused) = (0_usize, 0_usize);
    let mut seen = std::collections::BTreeMap::<String, usize>::new();
    for _ in 0..FRAMES {
        let frame = random_frame(&mut numbers, &stations);
        let (ifindex, kind) = numbers.pick(&devices);
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
            vswitch_common::verdict::Verdict::Redirect(to) => format!("redirect to {:?}", to.kind()),
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
        if let Some(key) = core.learn().filter(|_| numbers.below(50) == 0) {
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
        "redirect to Some(Container)",
        "redirect to Some(Host)",
        "redirect to Some(Uplink)",
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
    assert_eq!(network(&sandbox, 1), Network { first: number, flags: Network::INTERNAL });
    assert_eq!(datapath.ports().expect("read the ports")[0].1.flags, 0, "the host is not isolated");
    drop(datapath);
    let datapath = open().expect("take over");
    assert!(datapath.taken_over());
    assert_eq!(subnets(&sandbox), sorted(&[&of_one, &of_two]));
    datapath.remove_port(number).expect("remove the port");
    assert_eq!(network(&sandbox, 1), Network { first: PortNumber::NONE, flags: Network::INTERNAL });

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
fn a_daemon_of_before_subnets_is_taken_over_and_one_with_other_ports_is_not() {
    let sandbox = Sandbox::new();
    let open = || Datapath::open(Options { directory: sandbox.bpffs.clone(), mode: Mode::Auto, fdb_size: 4096 });
    drop(open().expect("load the programs"));
    std::fs::remove_file(sandbox.bpffs.join("maps/SUBNETS")).expect("unpin");
    let datapath = open().expect("take over");
    assert!(datapath.taken_over());
    assert_eq!(subnets(&sandbox), []);
    drop(datapath);
    std::fs::remove_file(sandbox.bpffs.join("maps/PORTS")).expect("unpin");
    assert!(!open().expect("start anew").taken_over());
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
