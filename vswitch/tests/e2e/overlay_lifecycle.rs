//! Events in the life of overlay networks: peers are removed and added, daemons die, devices are
//! removed.

use crate::harness::{Cloud, Family, Flow, Frame, Mac, Netns, Pinger, RawPort, eventually, ping, reaches, tcp};

#[test]
fn a_removed_peer_is_unknown_until_it_is_added_again() {
    let cloud = Cloud::up(3, Family::V4);
    for (one, other) in cloud.pairs() {
        ping(&cloud.containers[one], cloud.at[other].ipv4);
    }
    let flow = Flow::start(&cloud.containers[0], &cloud.containers[2], cloud.at[2].ipv4);
    let mac = cloud.at[1].mac;
    assert_eq!(cloud.port_of(0, mac), Some(cloud.peer(1)));
    for _ in 0..2 {
        flow.goes_on(50);
        cloud.hosts[0].ok(&["peer", "rm", &cloud.peer(1)]);
        assert_eq!(cloud.port_of(0, mac), None, "the stations behind the peer are removed");
        assert!(!cloud.hosts[0].ports(&["net"]).contains_key(&cloud.peer(1)));
        for (one, other) in [(0, 1), (1, 0)] {
            let (from, to) = (&cloud.containers[one], &cloud.containers[other]);
            assert_eq!(reaches(from, to, cloud.at[other].ipv4.into(), false).to_string(), "no");
        }
        // Broadcasts do not pass in either direction.
        let ports = [0, 1].map(|number| RawPort::open(&cloud.containers[number], "eth0"));
        for (from, to) in [(0, 1), (1, 0)] {
            let hello = Frame::new(Mac::BROADCAST, cloud.at[from].mac, "hello?");
            let mark = Frame::new(Mac::BROADCAST, cloud.at[2].mac, &format!("mark {from}"));
            ports[from].send(&hello);
            RawPort::open(&cloud.containers[2], "eth0").send(&mark);
            assert!(!ports[to].expect(&mark).contains(&hello));
        }
        assert_eq!(cloud.port_of(0, mac), None);
        ping(&cloud.containers[1], cloud.at[2].ipv4);
        flow.goes_on(50);
        cloud.hosts[0].ok(&["peer", "add", &cloud.peer(1)]);
        ping(&cloud.containers[0], cloud.at[1].ipv4);
        tcp(&cloud.containers[1], &cloud.containers[0], cloud.at[0].ipv4, 1 << 20);
        assert_eq!(cloud.port_of(0, mac), Some(cloud.peer(1)));
    }
    flow.assert_complete();
}

#[test]
fn static_entries_of_a_peer_are_removed_with_it() {
    let cloud = Cloud::with(2, Family::V4, &[], &["-o", "learning=off"]);
    let host = &cloud.hosts[0];
    let mac = cloud.at[1].mac;
    let static_port = || host.fdb(&[]).into_iter().find(|station| station.mac == mac).map(|station| station.port);
    for sticky in [&[][..], &["--sticky"]] {
        for taken_over in [false, true] {
            host.ok(&[&["fdb", "add", &mac.to_string(), "net", &cloud.peer(1)], sticky].concat());
            assert_eq!(static_port(), Some(cloud.peer(1)));
            if taken_over {
                host.kill_daemon();
                host.start(&[]);
                assert_eq!(static_port(), Some(cloud.peer(1)));
            }
            host.ok(&["peer", "rm", &cloud.peer(1)]);
            assert_eq!(static_port(), None);
            host.ok(&["peer", "add", &cloud.peer(1)]);
            // If the entry still led to the removed port, the station's frames would be dropped as
            // spoofed.
            ping(&cloud.containers[0], cloud.at[1].ipv4);
            let spoofed = host.ports(&["net"])[&cloud.peer(1)].dropped("source_spoofed");
            assert_eq!(spoofed, 0, "{sticky:?}, taken over: {taken_over}");
        }
    }
}

#[test]
fn a_takeover_loses_no_frame_between_hosts() {
    for family in [Family::V4, Family::V6] {
        let cloud = Cloud::up(2, family);
        let [one, other] = [&cloud.containers[0], &cloud.containers[1]];
        ping(one, cloud.at[1].ipv4);
        let device = cloud.tunnels(0).expect("the device")["ifindex"].clone();
        let flows = [Flow::start(one, other, cloud.at[1].ipv4), Flow::start(other, one, cloud.at[0].ipv4)];
        let mut pinger = Pinger::new(one, cloud.at[1].ipv4);
        flows.iter().for_each(|flow| flow.goes_on(100));
        cloud.hosts[0].kill_daemon();
        (0..20).for_each(|_| pinger.ping(56));
        flows.iter().for_each(|flow| flow.goes_on(100));
        std::thread::scope(|scope| {
            let up = scope.spawn(|| cloud.hosts[0].start(&[]));
            while !up.is_finished() {
                pinger.ping(56);
            }
        });
        flows.iter().for_each(|flow| flow.goes_on(100));
        flows.into_iter().for_each(Flow::assert_complete);
        assert_eq!(cloud.tunnels(0).expect("the device")["ifindex"], device, "the new daemon keeps the device");
        assert_eq!(cloud.port_of(0, cloud.at[1].mac), Some(cloud.peer(1)), "the new daemon keeps learned stations");
        assert_eq!(cloud.peers(0).len(), 1);
        cloud.hosts[0].ok(&["peer", "rm", &cloud.peer(1)]);
        assert_eq!(reaches(one, other, cloud.addresses(1)[0], false).to_string(), "no");
    }
}

#[test]
fn a_takeover_with_another_vxlan_port_moves_the_tunnels() {
    for family in [Family::V4, Family::V6] {
        let cloud = Cloud::up(2, family);
        let [one, other] = [&cloud.containers[0], &cloud.containers[1]];
        ping(one, cloud.at[1].ipv4);
        for port in [4790, 4789] {
            for host in &cloud.hosts {
                host.kill_daemon();
                host.start(&["--vxlan-port", &port.to_string()]);
            }
            for number in 0..2 {
                assert_eq!(cloud.tunnels(number).expect("the device")["linkinfo"]["info_data"]["port"], port);
            }
            assert_eq!(reaches(one, other, cloud.addresses(1)[0], true).to_string(), "yes", "{family:?}, {port}");
            tcp(other, one, cloud.at[0].ipv4, 1 << 20);
            assert_eq!(cloud.port_of(0, cloud.at[1].mac), Some(cloud.peer(1)));
        }
    }
}

#[test]
fn down_removes_the_tunnels_and_up_restores_them() {
    let cloud = Cloud::up(2, Family::V4);
    let [one, other] = [&cloud.containers[0], &cloud.containers[1]];
    ping(one, cloud.at[1].ipv4);
    let host = &cloud.hosts[0];
    let networks: serde_json::Value = host.json(&["network", "ls"]);
    host.stop(&[]);
    assert!(cloud.tunnels(0).is_none(), "down removes the VXLAN device");
    assert_eq!(host.netns.devices().len(), 2, "only lo and the underlay remain: {:?}", host.netns.devices());
    host.start(&[]);
    assert_eq!(host.json::<serde_json::Value>(&["network", "ls"]), networks);
    assert_eq!(cloud.peers(0).iter().map(|peer| peer.address.to_string()).collect::<Vec<_>>(), [cloud.peer(1)]);
    assert_eq!(host.ps(), cloud.at[..1]);
    ping(one, cloud.at[1].ipv4);
    tcp(other, one, cloud.at[0].ipv4, 1 << 20);
}

#[test]
fn a_removed_vxlan_device_is_created_again() {
    let cloud = Cloud::up(3, Family::V4);
    ping(&cloud.containers[0], cloud.at[1].ipv4);
    for _ in 0..3 {
        let device = cloud.tunnels(0).expect("the device");
        let name = device["ifname"].as_str().expect("a name");
        cloud.hosts[0].netns.ip(&format!("link del {name}"));
        eventually("the device is created again", || {
            cloud.tunnels(0).filter(|now| now["ifindex"] != device["ifindex"] && now["operstate"] != "DOWN")
        });
        for other in [1, 2] {
            let [there, back] = [(0, other), (other, 0)].map(|(from, to)| {
                let (from, address) = (&cloud.containers[from], cloud.addresses(to)[0]);
                reaches(from, &cloud.containers[to], address, true).to_string()
            });
            assert_eq!([there.as_str(), back.as_str()], ["yes"; 2]);
        }
    }
}

#[test]
fn tunnels_follow_the_route_to_a_peer_to_another_interface() {
    let mut cloud = Cloud::down(2, Family::V4);
    let [one, other] = [0, 1].map(|number| cloud.hosts[number].netns.clone());
    one.wire("second", &other, "second");
    // The hosts use addresses that are on neither of the two links.
    let address = |number: usize| format!("203.0.113.{}", number + 1);
    let set_route = |number: usize, device: &str, net: &str| {
        let (to, from) = (1 - number, address(number));
        let route = format!("route replace {} via {net}.{} dev {device} src {from}", address(to), to + 1);
        [&one, &other][number].ip(&route);
    };
    for (number, netns) in [&one, &other].into_iter().enumerate() {
        netns.ip(&format!("address add 198.51.100.{}/24 dev second", number + 1));
        netns.ip(&format!("address add {}/32 dev lo", address(number)));
        set_route(number, "under0", "192.0.2");
        cloud.hosts[number].start(&[]);
        cloud.hosts[number].ok(&["peer", "add", &address(1 - number)]);
        cloud.create(number, "net", Cloud::VNI, &[]);
        cloud.attach_container(number);
    }
    let assert_reachable = |cloud: &Cloud| {
        for (from, to) in cloud.pairs() {
            let (from, address, to): (&Netns, _, _) =
                (&cloud.containers[from], cloud.addresses(to)[0], &cloud.containers[to]);
            assert_eq!(reaches(from, to, address, true).to_string(), "yes");
        }
    };
    assert_reachable(&cloud);
    for (gone, device, net) in [("under0", "second", "198.51.100"), ("second", "under0", "192.0.2")] {
        [0, 1].into_iter().for_each(|number| drop(cloud.hosts[number].netns.ip(&format!("link set {device} up"))));
        one.ip(&format!("link set {gone} down"));
        [0, 1].into_iter().for_each(|number| set_route(number, device, net));
        assert_reachable(&cloud);
        assert_eq!(cloud.peers(0)[0].interface.as_deref(), Some(device));
    }
}

#[test]
fn tunnels_are_created_once_the_vxlan_port_is_free() {
    let cloud = Cloud::up(2, Family::V4);
    let host = &cloud.hosts[0];
    host.stop(&[]);
    host.netns.ip("link add other0 up type vxlan external dstport 4789");
    let notes = || host.json::<serde_json::Value>(&["status"])["notes"].to_string();
    host.start(&[]);
    assert!(notes().contains("no tunnels to other hosts") && notes().contains("4789"), "{}", notes());
    host.netns.ip("link del other0");
    let (from, to) = (&cloud.containers[0], &cloud.containers[1]);
    assert_eq!(reaches(from, to, cloud.addresses(1)[0], true).to_string(), "yes");
    eventually("the note disappears", || (!notes().contains("tunnels")).then_some(()));
}
