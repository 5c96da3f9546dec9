//! Devices and peers that come, change and go.

use std::net::{SocketAddr, UdpSocket};

use vswitch::wireguard::{Backend, PrivateKey, WireguardError};

use crate::harness::eventually;
use crate::scene::{DEVICE, PORT, Scene, backends};

#[test]
fn a_removed_peer_is_not_reached_and_not_heard() {
    for backend in backends() {
        let scene = Scene::acquainted(backend, 2, false);
        scene.reaches(0, 1);
        let [a, b] = &scene.hosts[..] else { panic!("two hosts") };
        for _ in 0..2 {
            scene.run(b.device().remove_peer(&a.public())).expect("it goes");
        }
        assert!(scene.run(b.device().peers()).expect("a list").is_empty());
        assert!(!b.netns.ip("-6 route show table main").contains(&a.inner().to_string()));
        scene.reaches_not(0, 1);
        scene.reaches_not(1, 0);
        scene.introduce(1, 0, false);
        scene.reaches(1, 0);
        scene.reaches(0, 1);
    }
}

#[test]
fn a_peer_that_is_set_again_is_as_before() {
    for backend in backends() {
        let scene = Scene::acquainted(backend, 2, false);
        scene.reaches(0, 1);
        let before = scene.run(scene.hosts[0].device().peers()).expect("a list");
        scene.introduce(0, 1, false);
        let after = scene.run(scene.hosts[0].device().peers()).expect("a list");
        assert_eq!((after.len(), after[0].key, after[0].endpoint), (1, before[0].key, before[0].endpoint));
        assert!(after[0].last_handshake.is_some());
        scene.reaches(0, 1);
        // By another way.
        scene.introduce(0, 1, true);
        scene.introduce(1, 0, true);
        scene.reaches(0, 1);
        let moved = scene.run(scene.hosts[0].device().peers()).expect("a list");
        assert_eq!(moved[0].endpoint, Some(SocketAddr::new(scene.hosts[1].outer(true), PORT)));
    }
}

#[test]
fn a_host_with_a_new_key_is_another_host() {
    for backend in backends() {
        let mut scene = Scene::acquainted(backend, 2, false);
        scene.reaches(0, 1);
        let old = scene.hosts[0].public();
        scene.close(0);
        scene.hosts[0].key = PrivateKey::generate();
        scene.open(0);
        scene.introduce(0, 1, false);
        // Nobody knows it by this key yet.
        scene.reaches_not(0, 1);
        scene.run(scene.hosts[1].device().remove_peer(&old)).expect("it goes");
        scene.introduce(1, 0, false);
        scene.reaches(0, 1);
        scene.reaches(1, 0);
    }
}

#[test]
fn nothing_is_left_when_it_is_closed() {
    for backend in backends() {
        let mut scene = Scene::acquainted(backend, 2, false);
        scene.reaches(0, 1);
        let host = &scene.hosts[0];
        assert!(host.netns.devices().contains(DEVICE));
        let taken = host.netns.inside(|| UdpSocket::bind(("0.0.0.0", PORT)));
        assert_eq!(taken.map(drop).map_err(|error| error.kind()), Err(std::io::ErrorKind::AddrInUse));
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
fn what_is_in_the_way_is_named_and_left_alone() {
    for backend in backends() {
        let scene = Scene::without_devices(backend, 1);
        let host = &scene.hosts[0];
        let refused = |what: &str| {
            let error = scene.try_open(0, Some(backend)).err();
            error.unwrap_or_else(|| panic!("it opened, with {what}"))
        };
        let occupied = host.netns.inside(|| UdpSocket::bind(("0.0.0.0", PORT))).expect("a socket");
        let error = refused("a port that is taken");
        assert!(matches!(error, WireguardError::Port { port: PORT, .. }), "{error:?}");
        assert!(error.to_string().contains("51820"), "{error}");
        assert!(!host.netns.devices().contains(DEVICE));
        drop(occupied);
        host.netns.ip(&format!("link add {DEVICE} type bridge"));
        assert!(matches!(refused("another device"), WireguardError::Taken { .. }));
        assert!(host.netns.devices().contains(DEVICE));
        host.netns.ip(&format!("link delete {DEVICE}"));
        let device = scene.try_open(0, Some(backend)).expect("nothing is in the way");
        let own = scene.run(device.set_peer(host.public(), "192.0.2.9:1".parse().expect("an address")));
        assert!(matches!(own, Err(WireguardError::OwnKey(_))), "{own:?}");
        for endpoint in ["0.0.0.0:1", "192.0.2.9:0", "[ff02::1]:1"] {
            let stranger = PrivateKey::generate().public();
            let nowhere = scene.run(device.set_peer(stranger, endpoint.parse().expect("an address")));
            assert!(matches!(nowhere, Err(WireguardError::Endpoint { .. })), "{nowhere:?}");
        }
        scene.run(device.close()).expect("it can be closed");
    }
}

/// As when the daemon dies and comes back: the kernel's device goes on, and is taken over with its sessions.
#[test]
fn the_kernels_device_outlives_the_daemon() {
    if !backends().contains(&Backend::Kernel) {
        println!("not run: this kernel has no WireGuard");
        return;
    }
    let mut scene = Scene::acquainted(Backend::Kernel, 2, false);
    scene.reaches(0, 1);
    drop(scene.hosts[0].device.take());
    scene.reaches(0, 1);
    scene.open(0);
    let peers = scene.run(scene.hosts[0].device().peers()).expect("a list");
    assert_eq!((peers.len(), peers[0].key), (1, scene.hosts[1].public()));
    assert!(peers[0].last_handshake.is_some());
    scene.reaches(0, 1);
}
