//! What leaves a network takes the host's address, and nothing else does.

use vswitch::model::Protocol::Tcp;
use vswitch::outside::{OutsideNetwork, Wanted};

use crate::scene::{A1, B1, CLIENT, CLIENT2, Daemon, Scene, UPLINK, UPLINK2};
use crate::services::{sees, serve, unreached};

#[test]
fn containers_leave_by_each_uplink_with_its_address() {
    let scene = Scene::new();
    let daemon = Daemon::new(&scene.host);
    serve(&scene.client, Tcp, 80);
    serve(&scene.client2, Tcp, 80);
    unreached(&scene.a1, Tcp, CLIENT[0], 80);
    daemon.apply(scene.wanted(&[]));
    for family in 0..2 {
        sees(&scene.a1, Tcp, CLIENT[family], 80, UPLINK[family]);
        sees(&scene.b1, Tcp, CLIENT[family], 80, UPLINK[family]);
        sees(&scene.a1, Tcp, CLIENT2[family], 80, UPLINK2[family]);
    }
}

#[test]
fn between_networks_and_without_masquerade_addresses_are_kept() {
    let scene = Scene::new();
    let daemon = Daemon::new(&scene.host);
    serve(&scene.b1, Tcp, 80);
    serve(&scene.a2, Tcp, 80);
    serve(&scene.client, Tcp, 80);
    daemon.apply(scene.wanted(&[]));
    for family in 0..2 {
        // eBPF would drop it; whoever lets it pass sees the address.
        sees(&scene.a1, Tcp, B1[family], 80, A1[family]);
        sees(&scene.a1, Tcp, crate::scene::A2[family], 80, A1[family]);
    }
    let plain = scene.networks().into_iter().map(|network| OutsideNetwork { masquerade: false, ..network });
    daemon.apply(Wanted { networks: plain.collect(), forwards: Vec::new(), tunnels: None });
    scene.client.ip("route add 10.91.1.0/24 via 192.0.2.1");
    sees(&scene.a1, Tcp, CLIENT[0], 80, A1[0]);
}

#[test]
fn forwarding_is_set_and_told_and_advertised_routes_are_kept() {
    let scene = Scene::new();
    let daemon = Daemon::new(&scene.host);
    let [ipv4, ipv6] = ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"];
    assert_eq!(["0", "0"], [ipv4, ipv6].map(|name| scene.setting(name)));
    let ipv4_only = scene.networks().into_iter().map(|mut network| {
        network.subnets.truncate(1);
        network
    });
    daemon.apply(Wanted { networks: ipv4_only.collect(), forwards: Vec::new(), tunnels: None });
    assert_eq!(["1", "0"], [ipv4, ipv6].map(|name| scene.setting(name)), "no IPv6 is forwarded for IPv4's sake");
    daemon.apply(scene.wanted(&[]));
    assert_eq!(scene.setting(ipv6), "1");
    assert_eq!(scene.setting("net/ipv6/conf/up0/accept_ra"), "2");
    assert_eq!(scene.setting("net/ipv6/conf/vsw-a/accept_ra"), "1", "a network is no place to take routes from");
    let status = daemon.status();
    assert_eq!(status.table, Some(daemon.table()));
    let told = |name: &str| {
        let setting = status.forwarding.iter().find(|setting| setting.name == name).expect(name);
        (setting.value.clone(), setting.before.clone())
    };
    assert_eq!(told("net.ipv4.ip_forward"), ("1".to_owned(), Some("0".to_owned())));
    assert_eq!(told("net.ipv6.conf.all.forwarding"), ("1".to_owned(), Some("0".to_owned())));
    assert_eq!(told("net.ipv6.conf.up0.accept_ra"), ("2".to_owned(), Some("1".to_owned())));
}

#[test]
fn nothing_is_made_until_something_is_wanted_and_nothing_is_left() {
    let scene = Scene::new();
    let daemon = Daemon::new(&scene.host);
    daemon.remove();
    daemon.apply(Wanted::default());
    let internal = scene.networks().into_iter().map(|network| OutsideNetwork { internal: true, ..network });
    daemon.apply(Wanted { networks: internal.collect(), forwards: Vec::new(), tunnels: None });
    assert_eq!(scene.nft("list ruleset"), "");
    assert_eq!(scene.setting("net/ipv4/ip_forward"), "0");
    assert_eq!(daemon.status().table, None);
    scene.nft("add table inet mine");
    let before = scene.nft("list ruleset");
    daemon.apply(scene.wanted(&[]));
    daemon.apply(Wanted::default());
    assert_eq!(scene.nft("list ruleset"), before);
    daemon.apply(scene.wanted(&[]));
    daemon.remove();
    assert_eq!(scene.nft("list ruleset"), before);
    assert_eq!(scene.setting("net/ipv4/ip_forward"), "1", "others may rely on it");
}
