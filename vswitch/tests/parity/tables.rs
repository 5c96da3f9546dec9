//! The tables behind the decisions, and the copies of floods.

use std::net::IpAddr;
use std::process::Command;

use aya::maps::{Array, HashMap, LpmTrie, Map, MapData};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use vswitch::datapath::{Datapath, DatapathError, Mode, NetworkSpec, Options, PortRules, PortSpec, Remote, Xdp};
use vswitch_common::Mac;
use vswitch_common::packet::address::Address;
use vswitch_common::tables::{
    FdbEntry, FdbKey, MARK_PUBLISHED, MAX_SUBNETS, Neighbor, NeighborKey, Network, NetworkNumber, PortCounters,
    PortKind, PortNumber, Subnet, VlanKey,
};
use vswitch_common::verdict::DropReason;

use crate::shared::{Sandbox, veth};

/// Returns the entries of the pinned table of subnets: prefix length, network, flags.
fn subnets(sandbox: &Sandbox) -> Vec<(u32, u32, u32)> {
    let pin = MapData::from_pin(sandbox.bpffs.join("maps/SUBNETS")).expect("the pinned table");
    let table = LpmTrie::<_, Address, Subnet>::try_from(Map::LpmTrie(pin)).expect("its layout");
    let entries = table.iter().map(|entry| entry.expect("an entry"));
    let mut rows: Vec<_> = entries.map(|(key, subnet)| (key.prefix_len(), subnet.network.0, subnet.flags)).collect();
    rows.sort_unstable();
    rows
}

/// Returns the entry of a network in the pinned table.
pub fn network(sandbox: &Sandbox, number: u32) -> Network {
    let pin = MapData::from_pin(sandbox.bpffs.join("maps/NETWORKS")).expect("the pinned table");
    Array::try_from(Map::Array(pin)).expect("its layout").get(&number, 0).expect("an entry")
}

#[test]
fn networks_follow_their_spec_and_survive_ports_and_daemons() {
    let sandbox = Sandbox::new();
    let datapath = sandbox.datapath();
    let subnet =
        |subnet: &str, gateway: &str| (subnet.parse().expect("a subnet"), gateway.parse().expect("an address"));
    let spec = |number, internal, subnets| NetworkSpec { number: NetworkNumber(number), internal, subnets, vni: None };
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

    // The network stays internal when ports are added and removed.
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
    let datapath = sandbox.datapath();
    assert!(datapath.taken_over());
    assert_eq!(subnets(&sandbox), sorted(&[&of_one, &of_two]));
    datapath.remove_port(number).expect("remove the port");
    assert_eq!(network(&sandbox, 1), Network { flags: Network::INTERNAL, ..Network::default() });

    datapath.set_network(&spec(1, false, vec![subnet("10.1.0.0/24", "10.1.0.254")])).expect("change it");
    assert_eq!(subnets(&sandbox), sorted(&[&[(120, 1, 0), (128, 1, Subnet::GATEWAY)], &of_two]));
    assert_eq!(network(&sandbox, 1).flags, 0);

    // One network takes all remaining entries.
    let many = (0..MAX_SUBNETS / 2 - 2).map(|n| {
        let [a, b, c, d] = (n + 1).to_be_bytes().map(u16::from);
        subnet(&format!("fd03:{a}:{b}:{c}:{d}::/80"), &format!("fd03:{a}:{b}:{c}:{d}::1"))
    });
    datapath.set_network(&spec(3, false, many.collect())).expect("a large network");
    let before = subnets(&sandbox);
    let two = spec(4, true, vec![subnet("10.4.0.0/24", "10.4.0.1")]);
    let refused = datapath.set_network(&two).expect_err("the table is full");
    assert!(matches!(refused, DatapathError::NoRoomForSubnets { limit: MAX_SUBNETS }), "{refused}");
    assert_eq!((subnets(&sandbox), network(&sandbox, 4).flags), (before, 0), "nothing has changed");
    datapath.remove_network(NetworkNumber(3)).expect("remove it");
    datapath.remove_network(NetworkNumber(3)).expect("it is gone already");
    datapath.set_network(&two).expect("the table has room");
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
    let open = |fdb_size| {
        Datapath::open(Options {
            directory: sandbox.bpffs.clone(),
            mode: Mode::Auto,
            fdb_size,
            cluster: false,
            published_mark: MARK_PUBLISHED,
        })
    };
    drop(open(4096).expect("load the programs"));
    assert!(open(4096).expect("take over").taken_over());
    assert!(!open(8192).expect("start anew").taken_over());
    std::fs::remove_file(sandbox.bpffs.join("maps/PORTS")).expect("unpin");
    assert!(!open(8192).expect("start anew").taken_over());
}

#[test]
fn copies_of_a_flood_go_to_ports_that_the_sender_may_reach() {
    let sandbox = Sandbox::new();
    // Without IPv6 the kernel sends no frames of its own.
    std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").expect("switch IPv6 off");
    let datapath = sandbox.datapath();
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
            // The device sends nothing until the kernel has detected its carrier.
            let is_up = || {
                let shown = Command::new("ip").args(["link", "show", &device]).output().expect("run ip");
                String::from_utf8_lossy(&shown.stdout).contains("state UP")
            };
            while !is_up() {
                std::thread::sleep(std::time::Duration::from_millis(10));
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
                addresses: Vec::new(),
                mtu: 0,
                // The first two of the three containers are isolated.
                rules: PortRules { isolated: last < 3, ..PortRules::default() },
            };
            (ifindex, datapath.add_port(&spec).expect("add a port"))
        })
        .collect();
    let counters = || ports.iter().map(|(_, port)| datapath.counters(*port).expect("its counters")).collect::<Vec<_>>();
    // Runs the program on a frame from a container. Returns the copies of each port and the drops
    // of the sender as isolated.
    let send = |from: usize, destination: Mac, packet: &[u8]| {
        let program = SchedClassifier::from_pin(datapath.program_pin(PortKind::Container)).expect("the program");
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
    assert_eq!(send(0, Mac::BROADCAST, &arp), (vec![0, 0, 1, 1, 1], 0), "from an isolated endpoint");
    assert_eq!(send(2, Mac::BROADCAST, &arp), (vec![1, 1, 0, 1, 1], 0), "from one that is not isolated");
    assert_eq!(send(0, unknown, &arp), (vec![0, 0, 1, 0, 1], 0), "unknown unicast");
    assert_eq!(send(0, station(2), &arp), (vec![0; 5], 1), "unicast between isolated endpoints");
    // The host must not get an IP broadcast that would leave an internal network.
    let internal = NetworkSpec { number: NetworkNumber(1), internal: true, subnets: Vec::new(), vni: None };
    datapath.set_network(&internal).expect("make it internal");
    let ip = [8, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 1, 0, 2, 192, 0, 2, 1];
    assert_eq!(send(2, Mac::BROADCAST, &ip), (vec![1, 1, 0, 0, 1], 0), "the host gets no copy");
    assert_eq!(send(2, Mac::BROADCAST, &arp), (vec![1, 1, 0, 1, 1], 0), "the host gets a copy of ARP");
}

#[test]
fn remote_endpoints_last_as_long_as_their_tunnel_and_yield_to_local_ones() {
    let sandbox = Sandbox::new();
    let mut datapath = sandbox.datapath();
    let spec = NetworkSpec { number: NetworkNumber(1), internal: false, subnets: Vec::new(), vni: Some(77) };
    datapath.set_network(&spec).expect("a network");
    let ifindex = veth("t1");
    let port = |kind, ifindex, device: &str, mac, addresses: &[IpAddr]| PortSpec {
        ifindex,
        egress_ifindex: ifindex,
        device: device.to_owned(),
        network: NetworkNumber(1),
        kind,
        mac,
        xdp: Xdp::Off,
        xdp_egress: false,
        addresses: addresses.to_vec(),
        mtu: 0,
        rules: PortRules::default(),
    };
    let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
    let tunnel = port(PortKind::Tunnel, ifindex, "t1", Mac::ZERO, &[ip("192.0.2.2")]);
    let number = datapath.add_port(&tunnel).expect("a tunnel");
    let remote = |last: u8| Remote {
        port: number,
        station: FdbKey { network: NetworkNumber(1), vlan: VlanKey::NONE, mac: Mac([2, 0, 0, 0, 0, last]) },
        addresses: vec![IpAddr::from([10, 0, 0, last]), ip(&format!("fd00::{last}"))],
    };
    // The FDB entry of a remote station, and the number of IP addresses known at a port.
    let place = |datapath: &Datapath, last| {
        datapath.fdb_entry(&remote(last).station).expect("read").map(|entry| (entry.port, entry.flags))
    };
    let known = |of: PortNumber| {
        let map = MapData::from_pin(sandbox.bpffs.join("maps/NEIGHBORS")).expect("the map");
        let map: HashMap<_, NeighborKey, Neighbor> = Map::HashMap(map).try_into().expect("its type");
        map.iter().filter(|entry| entry.as_ref().expect("read").1.port == of).count()
    };
    for last in 1..=3 {
        datapath.put_remote(&remote(last)).expect("put");
        datapath.put_remote(&remote(last)).expect("the same again");
    }
    let there = Some((number, FdbEntry::STATIC | FdbEntry::REMOTE));
    assert_eq!((place(&datapath, 1), known(number)), (there, 9), "two addresses each, and a link-local one");
    datapath.remove_remote(&remote(1)).expect("remove");
    datapath.remove_remote(&remote(1)).expect("it is gone already");
    assert_eq!((place(&datapath, 1), known(number)), (None, 6));

    // A local endpoint with the same addresses has priority, in either order.
    let here = veth("c1");
    let own = port(PortKind::Container, here, "c1", remote(2).station.mac, &remote(2).addresses);
    let container = datapath.add_port(&own).expect("an endpoint");
    datapath.put_remote(&remote(2)).expect("put again");
    datapath.remove_remote(&remote(2)).expect("and gone");
    assert_eq!(place(&datapath, 2).map(|(port, _)| port), Some(container));
    assert_eq!((known(container), known(number)), (3, 3));

    // The next daemon finds the remote endpoints, and removes those that are not wanted.
    drop(datapath);
    datapath = sandbox.datapath();
    assert!(datapath.taken_over());
    assert_eq!(datapath.add_port(&tunnel).expect("the same tunnel"), number);
    assert_eq!((place(&datapath, 3), known(number)), (there, 3));
    datapath.put_remote(&remote(4)).expect("put");
    let wanted = [(number, remote(4).station)].into();
    assert_eq!(datapath.keep_remotes(&wanted).expect("sweep"), 1);
    assert_eq!((place(&datapath, 3), place(&datapath, 4), known(number)), (None, there, 3));
    datapath.remove_port(number).expect("the tunnel goes");
    assert_eq!((place(&datapath, 4), known(number)), (None, 0));
    datapath.put_remote(&remote(4)).expect("its tunnel is gone");
    assert_eq!((place(&datapath, 4), known(number)), (None, 0));
}
