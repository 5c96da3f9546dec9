//! Packets that leave a network get the host's address, and no others do.

use vswitch::model::Protocol::Tcp;
use vswitch::nat::{NatNetwork, Wanted};

use crate::scene::{A1, B1, CLIENT, CLIENT2, Daemon, Scene, UPLINK, UPLINK2};
use crate::services::{assert_client_address, assert_unreached, serve};

#[test]
fn packets_get_the_address_of_the_uplink_through_which_they_leave() {
    let scene = Scene::new();
    let daemon = Daemon::new(&scene.host);
    serve(&scene.client, Tcp, 80);
    serve(&scene.client2, Tcp, 80);
    assert_unreached(&scene.a1, Tcp, CLIENT[0], 80);
    daemon.apply(scene.wanted(&[]));
    for family in 0..2 {
        assert_client_address(&scene.a1, Tcp, CLIENT[family], 80, UPLINK[family]);
        assert_client_address(&scene.b1, Tcp, CLIENT[family], 80, UPLINK[family]);
        assert_client_address(&scene.a1, Tcp, CLIENT2[family], 80, UPLINK2[family]);
    }
}

#[test]
fn addresses_are_kept_between_networks_and_without_masquerade() {
    let scene = Scene::new();
    let daemon = Daemon::new(&scene.host);
    serve(&scene.b1, Tcp, 80);
    serve(&scene.a2, Tcp, 80);
    serve(&scene.client, Tcp, 80);
    daemon.apply(scene.wanted(&[]));
    for family in 0..2 {
        // An instance would drop these packets in eBPF. Without one, they pass and keep the
        // address.
        assert_client_address(&scene.a1, Tcp, B1[family], 80, A1[family]);
        assert_client_address(&scene.a1, Tcp, crate::scene::A2[family], 80, A1[family]);
    }
    let plain = scene.networks().into_iter().map(|network| NatNetwork { masquerade: false, ..network });
    daemon.apply(Wanted { networks: plain.collect(), forwards: Vec::new(), tunnels: None });
    scene.client.ip("route add 10.91.1.0/24 via 192.0.2.1");
    assert_client_address(&scene.a1, Tcp, CLIENT[0], 80, A1[0]);
}

#[test]
fn forwarding_is_enabled_and_reported_and_advertised_routes_are_kept() {
    let scene = Scene::new();
    let daemon = Daemon::new(&scene.host);
    let [ipv4, ipv6] = ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"];
    assert_eq!(["0", "0"], [ipv4, ipv6].map(|name| scene.setting(name)));
    let ipv4_only = scene.networks().into_iter().map(|mut network| {
        network.subnets.truncate(1);
        network
    });
    daemon.apply(Wanted { networks: ipv4_only.collect(), forwards: Vec::new(), tunnels: None });
    assert_eq!(
        ["1", "0"],
        [ipv4, ipv6].map(|name| scene.setting(name)),
        "IPv6 forwarding stays off for an IPv4 network"
    );
    daemon.apply(scene.wanted(&[]));
    assert_eq!(scene.setting(ipv6), "1");
    assert_eq!(scene.setting("net/ipv6/conf/up0/accept_ra"), "2");
    assert_eq!(scene.setting("net/ipv6/conf/vsw-a/accept_ra"), "1", "routes are not accepted from a network");
    let status = daemon.status();
    assert_eq!(status.table, Some(daemon.table()));
    let reported = |name: &str| {
        let setting = status.forwarding.iter().find(|setting| setting.name == name).expect(name);
        (setting.value.clone(), setting.before.clone())
    };
    assert_eq!(reported("net.ipv4.ip_forward"), ("1".to_owned(), Some("0".to_owned())));
    assert_eq!(reported("net.ipv6.conf.all.forwarding"), ("1".to_owned(), Some("0".to_owned())));
    assert_eq!(reported("net.ipv6.conf.up0.accept_ra"), ("2".to_owned(), Some("1".to_owned())));
}

#[test]
fn the_table_exists_only_while_needed() {
    let scene = Scene::new();
    let daemon = Daemon::new(&scene.host);
    daemon.remove();
    daemon.apply(Wanted::default());
    let internal = scene.networks().into_iter().map(|network| NatNetwork { internal: true, ..network });
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
    assert_eq!(scene.setting("net/ipv4/ip_forward"), "1", "forwarding stays on, because others may rely on it");
}
