//! Devices and peers that are created, changed and removed.

use std::net::{SocketAddr, UdpSocket};

use vswitch::wireguard::{Backend, PrivateKey, WireguardError};

use crate::harness::eventually;
use crate::scene::{DEVICE, PORT, Scene, backends};

#[test]
fn no_packets_to_or_from_a_removed_peer() {
    for backend in backends() {
        let scene = Scene::with_peers(backend, 2, false);
        scene.reaches(0, 1);
        let [a, b] = &scene.hosts[..] else { panic!("two hosts") };
        for _ in 0..2 {
            scene.run(b.device().remove_peer(&a.public())).expect("the peer is removed");
        }
        assert!(scene.run(b.device().peers()).expect("a list").is_empty());
        assert!(!b.netns.ip("-6 route show table main").contains(&a.inner().to_string()));
        scene.does_not_reach(0, 1);
        scene.does_not_reach(1, 0);
        scene.add_peer(1, 0, false);
        scene.reaches(1, 0);
        scene.reaches(0, 1);
    }
}

#[test]
fn a_peer_that_is_set_again_keeps_its_session() {
    for backend in backends() {
        let scene = Scene::with_peers(backend, 2, false);
        scene.reaches(0, 1);
        let before = scene.run(scene.hosts[0].device().peers()).expect("a list");
        scene.add_peer(0, 1, false);
        let after = scene.run(scene.hosts[0].device().peers()).expect("a list");
        assert_eq!((after.len(), after[0].key, after[0].endpoint), (1, before[0].key, before[0].endpoint));
        assert!(after[0].last_handshake.is_some());
        scene.reaches(0, 1);
        // Over IPv6 instead of IPv4.
        scene.add_peer(0, 1, true);
        scene.add_peer(1, 0, true);
        scene.reaches(0, 1);
        let moved = scene.run(scene.hosts[0].device().peers()).expect("a list");
        assert_eq!(moved[0].endpoint, Some(SocketAddr::new(scene.hosts[1].outer(true), PORT)));
    }
}

#[test]
fn a_host_with_a_new_key_is_an_unknown_peer() {
    for backend in backends() {
        let mut scene = Scene::with_peers(backend, 2, false);
        scene.reaches(0, 1);
        let old = scene.hosts[0].public();
        scene.close(0);
        scene.hosts[0].key = PrivateKey::generate();
        scene.open(0);
        scene.add_peer(0, 1, false);
        // The other host does not have this key as a peer yet.
        scene.does_not_reach(0, 1);
        scene.run(scene.hosts[1].device().remove_peer(&old)).expect("the peer is removed");
        scene.add_peer(1, 0, false);
        scene.reaches(0, 1);
        scene.reaches(1, 0);
    }
}

#[test]
fn a_closed_device_leaves_nothing_behind() {
    for backend in backends() {
        let mut scene = Scene::with_peers(backend, 2, false);
        scene.reaches(0, 1);
        let host = &scene.hosts[0];
        assert!(host.netns.devices().contains(DEVICE));
        let in_use = host.netns.inside(|| UdpSocket::bind(("0.0.0.0", PORT)));
        assert_eq!(in_use.map(drop).map_err(|error| error.kind()), Err(std::io::ErrorKind::AddrInUse));
        let addresses = host.netns.ip(&format!("-6 address show dev {DEVICE}"));
        assert!(addresses.contains(&format!("{}/128", host.inner())) && !addresses.contains("fe80"), "{addresses}");
        scene.close(0);
        let host = &scene.hosts[0];
        assert!(!host.netns.devices().contains(DEVICE));
        for address in ["0.0.0.0", "::"] {
            host.netns.inside(|| UdpSocket::bind((address, PORT))).expect("the port is free");
        }
        let routes = host.netns.ip("-6 route show table all");
        assert!(!routes.contains(DEVICE) && !routes.contains(&scene.hosts[1].inner().to_string()), "{routes}");
        scene.close(1);
        let metrics = scene.runtime.metrics();
        eventually("all tasks end", || (metrics.num_alive_tasks() == 0).then_some(()));
    }
}

#[test]
fn conflicting_ports_and_devices_are_reported_and_kept() {
    for backend in backends() {
        let scene = Scene::without_devices(backend, 1);
        let host = &scene.hosts[0];
        let refused = |what: &str| {
            let error = scene.try_open(0, Some(backend)).err();
            error.unwrap_or_else(|| panic!("the device opened despite {what}"))
        };
        let occupied = host.netns.inside(|| UdpSocket::bind(("0.0.0.0", PORT))).expect("a socket");
        let error = refused("a port in use");
        assert!(matches!(error, WireguardError::Port { port: PORT, .. }), "{error:?}");
        assert!(error.to_string().contains("51820"), "{error}");
        assert!(!host.netns.devices().contains(DEVICE));
        drop(occupied);
        host.netns.ip(&format!("link add {DEVICE} type bridge"));
        assert!(matches!(refused("another device of this name"), WireguardError::Taken { .. }));
        assert!(host.netns.devices().contains(DEVICE));
        host.netns.ip(&format!("link delete {DEVICE}"));
        let device = scene.try_open(0, Some(backend)).expect("a device");
        let own_key = scene.run(device.set_peer(host.public(), "192.0.2.9:1".parse().expect("an address")));
        assert!(matches!(own_key, Err(WireguardError::OwnKey(_))), "{own_key:?}");
        for endpoint in ["0.0.0.0:1", "192.0.2.9:0", "[ff02::1]:1"] {
            let unknown = PrivateKey::generate().public();
            let refused_endpoint = scene.run(device.set_peer(unknown, endpoint.parse().expect("an address")));
            assert!(matches!(refused_endpoint, Err(WireguardError::Endpoint { .. })), "{refused_endpoint:?}");
        }
        scene.run(device.close()).expect("the device closes");
    }
}

/// Simulates a restart of the daemon: the kernel's device continues and is taken over with its
/// sessions.
#[test]
fn the_kernel_device_outlives_the_daemon() {
    if !backends().contains(&Backend::Kernel) {
        println!("not run: this kernel has no WireGuard");
        return;
    }
    let mut scene = Scene::with_peers(Backend::Kernel, 2, false);
    scene.reaches(0, 1);
    drop(scene.hosts[0].device.take());
    scene.reaches(0, 1);
    scene.open(0);
    let peers = scene.run(scene.hosts[0].device().peers()).expect("a list");
    assert_eq!((peers.len(), peers[0].key), (1, scene.hosts[1].public()));
    assert!(peers[0].last_handshake.is_some());
    scene.reaches(0, 1);
}
