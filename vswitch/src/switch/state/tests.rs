//! Tests of the assignment of names, addresses and numbers.

use super::*;
use crate::model::{
    BridgeOptions, EndpointAddress, EndpointOptions, EngineEndpoint, EngineKey, LeftInterface, NetnsRecord,
    NetworkKind, SwitchOptions, UplinkOptions, XdpChoice,
};
use crate::plan::ipam::IpamError;

fn draft(name: &str, subnet: Option<&str>) -> Network {
    let config = |text: &str| SubnetConfig::new(text.parse().expect("a subnet"), None, None).expect("valid");
    Network {
        id: NetworkId::random().expect("random bytes"),
        name: name.parse().expect("a name"),
        number: NetworkNumber::default(),
        kind: NetworkKind::Bridge(BridgeOptions::default()),
        subnets: subnet.map(config).into_iter().collect(),
        internal: false,
        options: BTreeMap::new(),
        labels: BTreeMap::new(),
        created: time::OffsetDateTime::UNIX_EPOCH,
        uplink_before: None,
        engine: None,
    }
}

fn sized(network: Network, mtu: u32) -> WantedNetwork {
    WantedNetwork { network, families: Families { ipv4: true, ipv6: false }, mtu }
}

fn wanted(network: &Network, name: &str, inode: u64) -> Wanted {
    let endpoint = Endpoint {
        id: EndpointId::random().expect("random bytes"),
        name: name.parse().expect("a name"),
        network: network.id,
        netns: NetnsRecord { path: "/run/netns/x".into(), dev: 4, inode, cookie: None, process: None },
        address: Some(EndpointAddress {
            ifname: "eth0".parse().expect("a name"),
            mac: StationMac::generated(&network.id, name, 0),
            ipv4: None,
            ipv6: None,
            mtu: 0,
        }),
        hostname: None,
        aliases: Vec::new(),
        published: Vec::new(),
        waiting: Vec::new(),
        gw_priority: 0,
        options: BTreeMap::new(),
        port: EndpointOptions::default(),
        labels: BTreeMap::new(),
        created: time::OffsetDateTime::UNIX_EPOCH,
        phase: Phase::Attaching,
        engine: None,
        bare: false,
        unheld: false,
    };
    Wanted {
        endpoint,
        ip: None,
        ip6: None,
        mac: None,
        parent_mac: None,
        ifname: None,
        taken: BTreeMap::new(),
        interfaces: BTreeSet::new(),
        station: None,
    }
}

/// Returns a state with one network that is ready.
fn with_network(subnet: &str) -> (State, Network) {
    let mut state = State::default();
    let (network, _) = state.admit_network(sized(draft("front", Some(subnet)), 1400), &[], &[]).expect("admitted");
    state.networks.get_mut(&network.id).expect("there").ready = true;
    (state, network)
}

fn address(endpoint: &Endpoint) -> EndpointAddress {
    endpoint.address.clone().expect("it has one")
}

#[test]
fn networks_get_numbers_and_subnets_of_their_own() {
    let pools = ["10.5.0.0/22".parse().expect("a subnet")];
    let routes = [Occupied { net: "10.5.1.0/24".parse().expect("a route"), by: "a route".to_owned() }];
    let mut state = State::default();
    let mut admitted = |name, subnet| {
        let (network, _) = state.admit_network(sized(draft(name, subnet), 1500), &pools, &routes)?;
        Ok::<_, SwitchError>((network.number.0, network.subnets[0].subnet.to_string()))
    };
    assert_eq!(admitted("a", None).expect("the first"), (1, "10.5.0.0/24".to_owned()));
    assert_eq!(admitted("b", None).expect("past the route"), (2, "10.5.2.0/24".to_owned()));
    assert_eq!(admitted("c", Some("10.5.3.0/25")).expect("its own"), (3, "10.5.3.0/25".to_owned()));
    assert!(matches!(admitted("d", None), Err(SwitchError::Pool(IpamError::NoSubnet { .. }))));
    assert!(matches!(admitted("a", Some("10.6.0.0/24")), Err(SwitchError::NetworkExists(_))));
    let overlap = admitted("e", Some("10.5.0.128/25")).expect_err("it overlaps a's");
    assert!(matches!(&overlap, SwitchError::SubnetOverlap { network, .. } if network.as_str() == "a"));
    assert!(overlap.to_string().starts_with("Pool overlaps with other one on this address space"), "{overlap}");
}

#[test]
fn an_uplink_belongs_to_one_network() {
    let mut state = State::default();
    let uplinked = |name, subnet| {
        let mut network = draft(name, Some(subnet));
        let uplink = UplinkOptions { interface: "eth1".parse().expect("a name"), xdp: XdpChoice::Auto };
        let switch = SwitchOptions::default();
        network.kind = NetworkKind::Bridge(BridgeOptions { switch, uplink: Some(uplink) });
        network
    };
    assert!(state.admit_network(sized(uplinked("a", "10.1.0.0/24"), 1500), &[], &[]).is_ok());
    let second = state.admit_network(sized(uplinked("b", "10.2.0.0/24"), 1500), &[], &[]);
    assert!(matches!(second, Err(SwitchError::UplinkInUse { .. })));
}

#[test]
fn endpoints_get_unused_addresses() {
    let (mut state, network) = with_network("10.9.8.0/29");
    let mut given = BTreeSet::new();
    for (inode, name) in ["a", "b", "c", "d", "e"].into_iter().enumerate() {
        let admitted = state.admit_endpoint(wanted(&network, name, inode as u64));
        let (endpoint, _, _) = admitted.expect("there is room");
        let address = address(&endpoint);
        assert_eq!((address.mtu, address.ipv6), (1400, None));
        assert!(given.insert(address.ipv4) && address.ips().all(|ip| ip != network.subnets[0].gateway));
    }
    let full = state.admit_endpoint(wanted(&network, "f", 9)).expect_err("all are taken");
    assert_eq!((full.code(), full.to_string().contains("front")), ("no_available_address", true));
    // A freed address is assigned again.
    let freed = state.endpoint("c").expect("there")[0].record.clone();
    state.endpoints.remove(&freed.id);
    let (next, _, _) = state.admit_endpoint(wanted(&network, "f", 9)).expect("there is room");
    assert_eq!(address(&next).ipv4, address(&freed).ipv4);
}

#[test]
fn an_address_in_use_is_refused_with_its_holder() {
    let (mut state, network) = with_network("10.9.8.0/24");
    let (web, _, _) = state.admit_endpoint(wanted(&network, "web", 1)).expect("admitted");
    let refused = |wanted| state.admit_endpoint(wanted).expect_err("taken");
    let mut refused = refused;
    assert_eq!(refused(wanted(&network, "web", 2)).code(), "endpoint_exists");
    assert_eq!(refused(wanted(&network, "other", 1)).code(), "already_attached");
    for (ip, holder) in [("10.9.8.2", "endpoint web"), ("10.9.8.1", "the gateway"), ("10.9.8.77", "the host")] {
        let taken = BTreeMap::from([(IpAddr::from([10, 9, 8, 77]), "the host, on eth2".to_owned())]);
        let error = refused(Wanted { ip: ip.parse().ok(), taken, ..wanted(&network, "x", 3) });
        assert!(error.code() == "address_in_use" && error.to_string().contains(holder), "{error}");
    }
    let error = refused(Wanted { mac: Some(address(&web).mac), ..wanted(&network, "x", 3) });
    assert!(error.code() == "mac_in_use" && error.to_string().contains("endpoint web"), "{error}");
    assert_eq!(state.endpoints.len(), 1, "nothing of it stays");
}

#[test]
fn addresses_are_assigned_round_robin() {
    let (mut state, network) = with_network("10.9.8.0/29");
    let next = |state: &mut State, ip: Option<&str>| {
        let requested = ip.map(|ip| ip.parse().expect("an address"));
        let wanted = Wanted { ip: requested, ..wanted(&network, "web", 1) };
        let (endpoint, _, _) = state.admit_endpoint(wanted).expect("there is room");
        let given = address(&endpoint).ipv4.expect("IPv4").octets()[3];
        if ip.is_none() {
            let entry = state.networks.get_mut(&network.id).expect("there");
            address(&endpoint).ips().for_each(|ip| entry.assigned(ip));
        }
        state.endpoints.remove(&endpoint.id);
        given
    };
    assert_eq!([(); 3].map(|()| next(&mut state, None)), [2, 3, 4]);
    assert_eq!(next(&mut state, Some("10.9.8.2")), 2, "a requested address");
    assert_eq!([(); 3].map(|()| next(&mut state, None)), [5, 6, 2]);
    // The next daemon continues after the newest endpoint.
    state.admit_endpoint(wanted(&network, "stays", 2)).expect("admitted");
    state.networks.get_mut(&network.id).expect("there").last = [None; 2];
    state.continue_after_newest();
    assert_eq!(next(&mut state, None), 4);
}

#[test]
fn what_the_host_has_is_no_subnet_of_a_network_that_it_routes_to() {
    let (state, _) = with_network("10.9.8.0/24");
    let occupied = ["10.9.8.1/24", "10.44.0.0/16", "fc00::/7"]
        .map(|net| Occupied { net: net.parse().expect("a prefix"), by: net.to_owned() });
    let check = |subnet| state.check_occupied(&draft("x", Some(subnet)), &occupied);
    assert!(matches!(check("10.44.7.0/24"), Err(SwitchError::SubnetOccupied { by, .. }) if by == "10.44.0.0/16"));
    assert!(matches!(check("10.9.8.128/25"), Err(SwitchError::SubnetOverlap { .. })), "the network, not its device");
    assert!(check("10.45.0.0/16").is_ok());
    // Unique-local subnets are chosen beside what is occupied.
    let mut network = draft("x", Some("10.45.0.0/16"));
    let six = Families { ipv4: true, ipv6: true };
    let refused = state.check_network(&mut network, six, &[], &occupied).expect_err("all of them");
    assert!(refused.to_string().contains("fc00::/7"), "{refused}");
    let [a, b, c, d, e, ..] = *network.id.bytes();
    let first = Subnet::unique_local([a, b, c, d, e]);
    let occupied = [Occupied { net: first.net(), by: "a route".to_owned() }];
    state.check_network(&mut network, six, &[], &occupied).expect("another one");
    assert!(network.subnets[1].subnet.to_string().starts_with("fd") && network.subnets[1].subnet != first);
    // IPv6 alone.
    let mut network = draft("x", None);
    state.check_network(&mut network, Families { ipv4: false, ipv6: true }, &[], &[]).expect("IPv6 alone");
    assert!(network.subnets.len() == 1 && network.has_family(true));
}

#[test]
fn a_mac_address_of_the_segment_is_refused_with_its_owner() {
    let (mut state, network) = with_network("10.9.8.0/24");
    let refused = |state: &mut State, wanted| {
        let error = state.admit_endpoint(wanted).expect_err("taken");
        assert_eq!(error.code(), "mac_in_use");
        error.to_string()
    };
    let gateway = plan::host_mac(&network).and_then(|mac| StationMac::try_from(mac).ok());
    let text = refused(&mut state, Wanted { mac: gateway, ..wanted(&network, "x", 1) });
    assert!(text.contains("the gateway"), "{text}");
    let uplink: StationMac = "02:00:00:00:00:07".parse().expect("an address");
    let mut record = network.clone();
    let uplinked = UplinkOptions { interface: "eth1".parse().expect("a name"), xdp: XdpChoice::Auto };
    record.kind = NetworkKind::Bridge(BridgeOptions { switch: SwitchOptions::default(), uplink: Some(uplinked) });
    let entry = state.networks.get_mut(&network.id).expect("there");
    entry.record = record;
    entry.uplink = Some(UplinkPort {
        port: PortHandle { ifindex: 1, number: PortNumber(1) },
        mac: uplink.get(),
        mtu: 1500,
        addresses: Vec::new(),
        xdp: false,
        note: None,
    });
    let text = refused(&mut state, Wanted { mac: Some(uplink), ..wanted(&network, "x", 1) });
    assert!(text.contains("eth1, the uplink of the network"), "{text}");
    let station = Some("a station behind eth1".to_owned());
    let mac = "02:00:00:00:00:08".parse().ok();
    let text = refused(&mut state, Wanted { mac, station, ..wanted(&network, "x", 1) });
    assert!(text.contains("02:00:00:00:00:08") && text.contains("a station behind eth1"), "{text}");
    state.admit_endpoint(Wanted { mac, ..wanted(&network, "x", 1) }).expect("a free one");
}

#[test]
fn one_namespace_is_in_several_networks_under_one_name() {
    let (mut state, front) = with_network("10.9.8.0/24");
    let mut back = draft("back", Some("10.9.9.0/24"));
    back.internal = true;
    let (back, _) = state
        .admit_network(
            WantedNetwork { network: back, families: Families { ipv4: true, ipv6: true }, mtu: 1500 },
            &[],
            &[],
        )
        .expect("admitted");
    state.networks.get_mut(&back.id).expect("there").ready = true;
    assert!(back.subnets[1].subnet.to_string().starts_with("fd"), "unique local: {:?}", back.subnets);
    let (one, _, _) = state.admit_endpoint(wanted(&back, "web", 1)).expect("admitted");
    let (two, _, _) = state.admit_endpoint(wanted(&front, "web", 1)).expect("admitted");
    assert_eq!((address(&one).ifname.as_str(), address(&two).ifname.as_str()), ("eth0", "eth1"));
    assert!(back.subnets[1].subnet.is_host(address(&one).ipv6.expect("IPv6").into()));
    let elsewhere = state.admit_endpoint(wanted(&back, "web", 2)).expect_err("the name is another's");
    assert_eq!(elsewhere.code(), "endpoint_exists");
    let networks = |state: &State| {
        state.endpoint("web").expect("there").iter().map(|entry| entry.record.network).collect::<Vec<_>>()
    };
    assert_eq!(networks(&state), [front.id, back.id], "an internal network has no default route");
    assert_eq!(state.endpoint(&one.id.short()).expect("by id").len(), 2);
}

#[test]
fn a_generated_mac_address_avoids_a_requested_one() {
    let (mut state, network) = with_network("10.9.8.0/24");
    let squatted = StationMac::generated(&network.id, "web", 0);
    state.admit_endpoint(Wanted { mac: Some(squatted), ..wanted(&network, "squatter", 1) }).expect("admitted");
    let (web, _, _) = state.admit_endpoint(wanted(&network, "web", 2)).expect("admitted");
    assert_eq!(address(&web).mac, StationMac::generated(&network.id, "web", 1));
}

#[test]
fn a_name_is_not_taken_for_the_start_of_an_id() {
    let (mut state, network) = with_network("10.9.8.0/24");
    let (web, _, _) = state.admit_endpoint(wanted(&network, "web", 1)).expect("admitted");
    let hexadecimal = web.id.digits(2);
    assert_eq!(state.find_endpoint(&hexadecimal).expect("by its id").len(), 1);
    assert!(state.endpoints_named(&hexadecimal).expect("none").is_empty(), "no endpoint has this name");
    assert_eq!(state.endpoints_named("web").expect("one").len(), 1);
    // Two endpoint names at one namespace share the namespace's settings.
    let mut back = draft("back", Some("10.9.9.0/24"));
    let switch = SwitchOptions { masquerade: false, ..SwitchOptions::default() };
    back.kind = NetworkKind::Bridge(BridgeOptions { switch, uplink: None });
    let (back, _) = state.admit_network(sized(back, 1500), &[], &[]).expect("admitted");
    state.networks.get_mut(&back.id).expect("there").ready = true;
    let (api, _, _) = state.admit_endpoint(wanted(&back, "api", 1)).expect("another name");
    assert_eq!(state.sharing(&web).len(), 2);
    assert_eq!(state.sharing(&api)[0].record.network, back.id, "back comes before front");
}

#[test]
fn objects_are_found_by_name_and_by_the_start_of_their_id() {
    let (mut state, network) = with_network("10.9.8.0/24");
    let (web, _, _) = state.admit_endpoint(wanted(&network, "web", 1)).expect("admitted");
    for reference in ["web".to_owned(), web.id.to_string(), web.id.digits(63), web.id.digits(12)] {
        assert_eq!(state.endpoint(&reference).expect("found")[0].record.id, web.id);
        assert_eq!(state.find_endpoint(&reference).expect("found")[0].record.id, web.id);
    }
    for reference in ["front".to_owned(), network.id.to_string(), network.id.digits(12)] {
        assert_eq!(state.network(&reference).expect("found").record.id, network.id);
    }
    // Fewer digits are enough to look, and not to change.
    for digits in [1, 11] {
        assert_eq!(state.find_endpoint(&web.id.digits(digits)).expect("found")[0].record.id, web.id);
        assert_eq!(state.find_network(&network.id.digits(digits)).expect("found").record.id, network.id);
        let (endpoint, network) = (state.endpoint(&web.id.digits(digits)), state.network(&network.id.digits(digits)));
        assert!(matches!(endpoint, Err(SwitchError::EndpointNotFound(_))));
        assert!(matches!(network, Err(SwitchError::NetworkNotFound(_))));
    }
    for nothing in ["", "x"] {
        assert!(matches!(state.endpoint(nothing), Err(SwitchError::EndpointNotFound(_))));
        assert!(matches!(state.find_endpoint(nothing), Err(SwitchError::EndpointNotFound(_))));
        assert!(matches!(state.network(nothing), Err(SwitchError::NetworkNotFound(_))));
        assert!(matches!(state.find_network(nothing), Err(SwitchError::NetworkNotFound(_))));
        assert!(matches!(state.find(nothing), Err(SwitchError::NothingFound(_))));
    }
}

#[test]
fn an_ambiguous_reference_lists_all_that_it_could_mean() {
    let (mut state, network) = with_network("10.9.8.0/24");
    let mut with_id = |name: &str, first: u8, inode| {
        let mut wanted = wanted(&network, name, inode);
        let mut bytes = *wanted.endpoint.id.bytes();
        bytes[0] = first;
        wanted.endpoint.id = EndpointId::from_bytes(bytes);
        state.admit_endpoint(wanted).expect("admitted").0
    };
    // Ids that begin like each other, and unlike that of the network.
    let first = network.id.bytes()[0] ^ 0x80;
    let (web, db) = (with_id("web", first, 1), with_id("db", first, 2));
    let reference = web.id.digits(2);
    let told = |found: Result<Vec<&EndpointEntry>, SwitchError>| found.expect_err("two begin like this").to_string();
    let expected = format!(
        "`{reference}` could mean endpoint db ({}), endpoint web ({}) (give the name, or more digits of the id)",
        db.id.short(),
        web.id.short()
    );
    assert_eq!(told(state.find_endpoint(&reference)), expected);
    assert_eq!(state.find(&reference).expect_err("two begin like this").to_string(), expected);
    // An endpoint and a network are two things, and an endpoint in two networks is one.
    let mut back = draft("back", Some("10.9.9.0/24"));
    let mut bytes = *back.id.bytes();
    bytes[0] = first;
    back.id = NetworkId::from_bytes(bytes);
    let (back, _) = state.admit_network(sized(back, 1500), &[], &[]).expect("admitted");
    state.networks.get_mut(&back.id).expect("there").ready = true;
    state.endpoints.remove(&db.id);
    let told = state.find(&reference).expect_err("an endpoint and a network").to_string();
    assert!(told.contains(&format!("endpoint web ({}), network back (", web.id.short())), "{told}");
    let mut again = wanted(&back, "web", 1);
    let mut bytes = *again.endpoint.id.bytes();
    bytes[0] = first;
    again.endpoint.id = EndpointId::from_bytes(bytes);
    state.admit_endpoint(again).expect("admitted");
    assert_eq!(state.find_endpoint(&reference).expect("one endpoint").len(), 2);
}

/// Returns a request of an engine. The key is the name with the owner.
fn by_engine(network: &Network, owner: &str, name: &str, inode: u64, left: bool) -> Wanted {
    let mut wanted = wanted(network, name, inode);
    let left = left.then(|| LeftInterface {
        name: format!("vs{inode}").parse().expect("a name"),
        sandbox: None,
        since: time::OffsetDateTime::UNIX_EPOCH,
    });
    wanted.endpoint.engine = Some(Box::new(EngineEndpoint {
        id: EngineKey::new(owner, &format!("{name}{inode}")).expect("a key"),
        container: format!("container{inode}"),
        left,
        asked: Vec::new(),
    }));
    wanted
}

#[test]
fn names_of_engines_repeat_and_their_keys_do_not() {
    let (mut state, network) = with_network("10.9.8.0/24");
    state.admit_endpoint(by_engine(&network, "docker", "web", 1, false)).expect("admitted");
    let (podman, _, _) = state.admit_endpoint(by_engine(&network, "podman", "web", 2, false)).expect("the same name");
    let again = state.admit_endpoint(by_engine(&network, "podman", "web", 2, false)).map(|_| ());
    assert!(matches!(again, Err(SwitchError::KeyExists(_))), "{again:?}");
    let which = state.endpoint("web").map(|found| found.len());
    let Err(SwitchError::Ambiguous { candidates, .. }) = which else { panic!("{which:?}") };
    assert_eq!(candidates.len(), 2);
    for owner in ["docker", "podman"] {
        assert!(candidates.iter().any(|candidate| candidate.contains(&format!(", {owner})"))), "{candidates:?}");
    }
    assert_eq!(state.endpoint("podman:web2").expect("by its key")[0].record.id, podman.id);
    // A name that was given by hand stands for that endpoint alone.
    let (own, _, _) = state.admit_endpoint(wanted(&network, "web", 3)).expect("the same name");
    assert_eq!(state.endpoint("web").expect("by hand")[0].record.id, own.id);
    assert_eq!(state.connections(&own).len(), 1);
}

#[test]
fn an_engine_may_want_several_interfaces_in_one_network() {
    let (mut state, network) = with_network("10.9.8.0/24");
    let with = |ifname: &str, name: &str| Wanted {
        ifname: Some(ifname.parse().expect("a name")),
        ..by_engine(&network, "cni", name, 7, false)
    };
    state.admit_endpoint(with("eth0", "pod")).expect("admitted");
    state.admit_endpoint(with("net1", "net1")).expect("another interface");
    let same = state.admit_endpoint(with("eth0", "more")).map(|_| ());
    assert!(matches!(same, Err(SwitchError::AlreadyAttached { .. })), "{same:?}");
}

#[test]
fn interfaces_that_engines_move_share_a_namespace_only_in_one_container() {
    let (mut state, network) = with_network("10.9.8.0/24");
    let (one, _, _) = state.admit_endpoint(by_engine(&network, "docker", "one", 0, true)).expect("admitted");
    let mut two = by_engine(&network, "docker", "two", 0, true);
    two.endpoint.engine.as_mut().expect("of an engine").container = "another".to_owned();
    let (two, _, _) = state.admit_endpoint(two).expect("no namespace is known of either");
    assert_eq!((state.sharing(&one).len(), state.sharing(&two).len()), (1, 1));
}
