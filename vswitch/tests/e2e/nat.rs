//! Traffic between containers and the outside: masquerade, published ports and forwarding, also
//! beside the firewalls of the host.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

use crate::harness::{Caller, Host, Netns, Page, Site, Uplinks, addresses, eventually, get, ping, run, tcp, try_get};

fn page(site: &str, client: impl Into<IpAddr>) -> Page {
    Page { site: site.to_owned(), client: client.into() }
}

/// Returns the nftables table of an instance, or `None` if it does not exist.
fn table(host: &Host) -> Option<String> {
    let name = format!("vswitch-{}", host.instance());
    let outcome = run(host.netns.command("nft").args(["-s", "list", "table", "inet", &name]));
    (outcome.code == Some(0)).then_some(outcome.stdout)
}

#[test]
fn outgoing_traffic_is_masqueraded_with_the_hosts_address() {
    let Uplinks { outside, outside2, host } = &Uplinks::up();
    let a = Netns::new("a");
    host.attach(&a, &["--network", "front"]);
    let bridge = Netns::new("b");
    host.attach(&bridge, &[]);
    let _sites = [Site::open(outside, 80, "outside"), Site::open(outside2, 80, "outside2")];
    // With several uplinks, the source address is that of the uplink through which the packet
    // leaves.
    for (to, from, site) in
        [(Uplinks::OUTSIDE, Uplinks::HOST, "outside"), (Uplinks::OUTSIDE2, Uplinks::HOST2, "outside2")]
    {
        for (to, from) in addresses(to).into_iter().zip(addresses(from)) {
            ping(&a, to);
            assert_eq!(get(&a, to, 80), page(site, from));
            assert_eq!(Caller::new(&a, to, 80).call(), page(site, from));
        }
        assert_eq!(get(&bridge, addresses(to)[0], 80), page(site, addresses(from)[0]));
    }
    for to in addresses(Uplinks::OUTSIDE) {
        tcp(&a, outside, to, 4 << 20);
    }
    // Traffic of the host itself, and traffic between containers and the host, is not masqueraded.
    let at_host = Site::open(&host.netns, 80, "host");
    let own = host.ps().into_iter().find(|endpoint| endpoint.name == a.name()).unwrap();
    assert_eq!(get(&a, own.gateway.unwrap(), 80), page("host", own.ipv4));
    assert_eq!(get(&a, own.gateway6.unwrap(), 80), page("host", own.ipv6.unwrap()));
    drop(at_host);
}

#[test]
fn without_masquerade_the_container_keeps_its_address() {
    let Uplinks { outside, host, .. } = &Uplinks::up();
    let create = "network create --subnet 10.123.0.0/24 --subnet fd00:123::/64 -o masquerade=false routed";
    host.ok(&create.split(' ').collect::<Vec<_>>());
    outside.ip(&format!("route add 10.123.0.0/24 via {}", Uplinks::HOST[0]));
    outside.ip(&format!("-6 route add fd00:123::/64 via {}", Uplinks::HOST[1]));
    let a = Netns::new("a");
    let at_a = host.attach(&a, &["--network", "routed"]);
    let _site = Site::open(outside, 80, "outside");
    let [ipv4, ipv6] = addresses(Uplinks::OUTSIDE);
    assert_eq!(get(&a, ipv4, 80), page("outside", at_a.ipv4));
    assert_eq!(get(&a, ipv6, 80), page("outside", at_a.ipv6.unwrap()));
    assert_eq!(Caller::new(&a, ipv6, 80).call(), page("outside", at_a.ipv6.unwrap()));
    // Hosts outside reach the container at its own address.
    ping(outside, at_a.ipv4);
    ping(outside, at_a.ipv6.unwrap());
}

#[test]
fn an_internal_network_has_no_route_outside_beside_an_external_one() {
    let Uplinks { outside, host, .. } = &Uplinks::up();
    host.ok(&["network", "create", "--internal", "--subnet", "10.124.0.0/24", "--subnet", "fd00:124::/64", "inside"]);
    let a = Netns::new("a");
    host.attach(&a, &["--network", "inside"]);
    a.ip("route add default via 10.124.0.1");
    a.ip("-6 route add default via fd00:124::1");
    let _site = Site::open(outside, 80, "outside");
    for to in addresses(Uplinks::OUTSIDE) {
        let before = host.counters(a.name()).dropped("internal");
        let _caller = Caller::new(&a, to, 80).try_call(std::time::Duration::from_millis(1));
        eventually("the packet is dropped as internal", || {
            (host.counters(a.name()).dropped("internal") > before).then_some(())
        });
    }
    // An endpoint of an internal network that is also in an external one uses the route of that
    // one.
    a.ip("route del default");
    a.ip("-6 route del default");
    host.ok(&["network", "connect", "front", a.name()]);
    for (to, from) in addresses(Uplinks::OUTSIDE).into_iter().zip(addresses(Uplinks::HOST)) {
        assert_eq!(get(&a, to, 80), page("outside", from));
    }
}

#[test]
fn a_flushed_table_is_restored() {
    let Uplinks { outside, host, .. } = &Uplinks::up();
    let [a, c] = ["a", "c"].map(Netns::new);
    host.attach(&a, &["--network", "front", "-p", "8080:80"]);
    host.attach(&c, &["--network", "back"]);
    let _sites = [Site::open(outside, 80, "outside"), Site::open(&a, 80, "a")];
    let before = table(host).expect("a table");
    let name = format!("vswitch-{}", host.instance());
    for flush in ["flush ruleset", &format!("delete table inet {name}"), &format!("flush table inet {name}")] {
        host.netns.ok("nft", flush);
        eventually("the table has its old contents", || (table(host)? == before).then_some(()));
        for (index, (to, from)) in addresses(Uplinks::OUTSIDE).into_iter().zip(addresses(Uplinks::HOST)).enumerate() {
            assert_eq!(get(&c, to, 80), page("outside", from));
            assert_eq!(get(outside, from, 8080), page("a", addresses(Uplinks::OUTSIDE)[index]));
        }
    }
    // Tables of other programs stay.
    host.netns.ok("nft", "add table inet mine");
    host.ok(&["network", "create", "another"]);
    host.stop(&[]);
    assert_eq!(host.netns.ok("nft", "list tables"), "table inet mine\n");
}

#[test]
fn traffic_passes_a_forward_policy_of_drop() {
    let Uplinks { outside, host, .. } = &Uplinks::new();
    for program in ["iptables", "ip6tables"] {
        let set = std::process::Command::new(program).arg("-V").output().map(|_| {
            // As dockerd does.
            run(host.netns.command(program).args(["-w", "-P", "FORWARD", "DROP"]))
        });
        if !set.as_ref().is_ok_and(|outcome| outcome.code == Some(0)) {
            eprintln!("there is no {program} here that works ({set:?}): this test is skipped");
            return;
        }
    }
    let rules = || ["iptables", "ip6tables"].map(|program| host.netns.ok(program, "-w -S"));
    let before = rules();
    host.start(&[]);
    host.ok(&["network", "create", "--subnet", "10.121.0.0/24", "--subnet", "fd00:121::/64", "front"]);
    let a = Netns::new("a");
    let at_a = host.attach(&a, &["--network", "front", "-p", "8080:80"]);
    let _sites = [Site::open(outside, 80, "outside"), Site::open(&a, 80, "a")];
    for (index, (to, from)) in addresses(Uplinks::OUTSIDE).into_iter().zip(addresses(Uplinks::HOST)).enumerate() {
        assert_eq!(get(&a, to, 80), page("outside", from));
        assert_eq!(get(outside, from, 8080), page("a", addresses(Uplinks::OUTSIDE)[index]));
    }
    // Ports that are not published stay closed: our own table drops the packet before the policy does.
    outside.ip(&format!("route add 10.121.0.0/24 via {}", Uplinks::HOST[0]));
    let closed = try_get(outside, SocketAddr::from((at_a.ipv4, 80)), std::time::Duration::from_millis(300));
    assert!(closed.is_err(), "{closed:?}");
    let notes = host.json::<Value>(&["status"])["notes"].to_string();
    assert!(notes.contains("iptables"), "{notes}");
    host.ok(&["detach", a.name()]);
    host.stop(&[]);
    assert_eq!(rules(), before);
}

#[test]
fn status_shows_the_settings_changed_on_the_host() {
    let uplinks = Uplinks::new();
    let host = &uplinks.host;
    host.netns.set("net/ipv4/ip_forward", "0");
    host.netns.set("net/ipv6/conf/all/forwarding", "0");
    host.start(&[]);
    host.ok(&["network", "create", "--ipv6", "front"]);
    let status: Value = host.json(&["status"]);
    assert_eq!(status["firewall_table"], format!("vswitch-{}", host.instance()));
    for (setting, name) in [
        ("net/ipv4/ip_forward", "net.ipv4.ip_forward"),
        ("net/ipv6/conf/all/forwarding", "net.ipv6.conf.all.forwarding"),
    ] {
        assert_eq!(host.netns.setting(setting), "1");
        let settings = status["forwarding"].as_array().unwrap();
        let shown = settings.iter().find(|shown| shown["name"] == name);
        let shown = shown.unwrap_or_else(|| panic!("{name} is not in {status:#}"));
        assert_eq!((&shown["value"], &shown["before"]), (&json!("1"), &json!("0")));
    }
}

#[test]
fn the_mtu_is_that_of_the_default_route() {
    let uplinks = Uplinks::new();
    let Uplinks { outside, host, .. } = &uplinks;
    host.netns.ip("link set up0 mtu 1420");
    outside.ip("link set eth0 mtu 1420");
    host.start(&[]);
    host.ok(&["network", "create", "--subnet", "10.121.0.0/24", "--subnet", "fd00:121::/64", "front"]);
    host.ok(&["network", "create", "-o", "mtu=1300", "small"]);
    let [a, b, c] = ["a", "b", "c"].map(Netns::new);
    for (container, network, mtu) in [(&a, "bridge", 1420), (&b, "front", 1420), (&c, "small", 1300)] {
        let endpoint = host.attach(container, &["--network", network]);
        assert_eq!((endpoint.mtu, &container.device("eth0").unwrap()["mtu"]), (mtu, &json!(mtu)), "{network}");
        tcp(container, outside, addresses(Uplinks::OUTSIDE)[0], 1 << 20);
    }
    tcp(&b, outside, addresses(Uplinks::OUTSIDE)[1], 1 << 20);
    let shown: Vec<Value> = host.json(&["network", "inspect", "front", "small"]);
    assert_eq!((&shown[0]["mtu"], &shown[1]["mtu"]), (&json!(1420), &json!(1300)));
}

#[test]
fn outgoing_traffic_works_while_and_after_a_daemon_is_killed() {
    let Uplinks { outside, host, .. } = &Uplinks::up();
    let a = Netns::new("a");
    host.attach(&a, &["--network", "front"]);
    let _site = Site::open(outside, 80, "outside");
    host.kill_daemon();
    let assert_works = || {
        for (to, from) in addresses(Uplinks::OUTSIDE).into_iter().zip(addresses(Uplinks::HOST)) {
            assert_eq!(get(&a, to, 80), page("outside", from));
        }
    };
    assert_works();
    host.start(&[]);
    assert_works();
    host.kill_daemon();
    host.stop(&[]);
    assert_eq!(table(host), None);
    host.start(&[]);
    assert_works();
}
