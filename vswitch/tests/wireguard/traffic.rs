//! Traffic between hosts that are peers.

use vswitch::wireguard::Backend;

use crate::harness::{ping_with, tcp, udp};
use crate::scene::{Scene, backends};

#[test]
fn two_peers_reach_each_other() {
    for backend in backends() {
        for ipv6 in [false, true] {
            let scene = Scene::with_peers(backend, 2, ipv6);
            let [a, b] = &scene.hosts[..] else { panic!("two hosts") };
            scene.reaches(0, 1);
            // Sizes with and without fragmentation; 1372 is the largest without.
            for bytes in [0, 56, 1372, 5000] {
                ping_with(&a.netns, b.inner(), bytes);
                ping_with(&b.netns, a.inner(), bytes);
            }
            udp(&a.netns, &b.netns, b.inner(), 1000, 200);
            tcp(&a.netns, &b.netns, b.inner(), 60 << 10);
            tcp(&b.netns, &a.netns, a.inner(), 3 << 20);
            let [peer] = &scene.run(a.device().peers()).expect("a list")[..] else { panic!("one peer") };
            assert_eq!((peer.key, peer.endpoint.map(|at| at.ip())), (b.public(), Some(b.outer(ipv6))));
            assert!(peer.last_handshake.is_some(), "{peer:?}");
            assert!(peer.received > 3 << 20 && peer.sent > 60 << 10, "{peer:?}");
        }
    }
}

#[test]
fn three_peers_reach_each_other() {
    for backend in backends() {
        let scene = Scene::with_peers(backend, 3, false);
        for (from, to) in [(0, 1), (1, 2), (2, 0), (1, 0), (2, 1), (0, 2)] {
            scene.reaches(from, to);
            tcp(&scene.hosts[from].netns, &scene.hosts[to].netns, scene.hosts[to].inner(), 60 << 10);
        }
    }
}

#[test]
fn hosts_with_different_backends_are_peers() {
    if !backends().contains(&Backend::Kernel) {
        println!("not run: this kernel has no WireGuard");
        return;
    }
    let mut scene = Scene::without_devices(Backend::Kernel, 2);
    scene.open(0);
    scene.backend = Backend::Userspace;
    scene.open(1);
    scene.add_peer(0, 1, false);
    scene.add_peer(1, 0, false);
    scene.reaches(0, 1);
    for (from, to) in [(0, 1), (1, 0)] {
        tcp(&scene.hosts[from].netns, &scene.hosts[to].netns, scene.hosts[to].inner(), 60 << 10);
    }
}

/// The host that is configured later starts the handshake.
#[test]
fn hosts_that_are_configured_one_after_the_other_connect() {
    for backend in backends() {
        let scene = Scene::new(backend, 2);
        scene.add_peer(0, 1, false);
        scene.does_not_reach(0, 1);
        scene.add_peer(1, 0, false);
        scene.reaches(0, 1);
        scene.reaches(1, 0);
    }
}
