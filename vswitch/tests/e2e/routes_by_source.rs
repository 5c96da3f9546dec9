//! Published ports follow the connection that they were published on, whichever network has the
//! default route: also with strict reverse path filtering, and after `disconnect` and `connect`.

use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

use crate::harness::{
    Attached, Caller, Host, Netns, PATIENCE, Page, Site, Uplinks, addresses, eventually, get, ping, try_get,
};

fn page(site: &str, client: impl Into<IpAddr>) -> Page {
    Page { site: site.to_owned(), client: client.into() }
}

fn addresses_of(endpoint: &Attached) -> [IpAddr; 2] {
    [endpoint.ipv4.into(), endpoint.ipv6.unwrap().into()]
}

/// Drops packets that come in by another way than the answer would go (RFC 3704, strict).
fn filter_reverse_paths(netns: &Netns) {
    for name in ["all", "default"] {
        netns.set(&format!("net/ipv4/conf/{name}/rp_filter"), "1");
    }
    for device in netns.devices() {
        netns.set(&format!("net/ipv4/conf/{device}/rp_filter"), "1");
    }
}

fn in_network(host: &Host, network: &str) -> Attached {
    host.ps().into_iter().find(|endpoint| endpoint.network == network && endpoint.name == "web").expect("it is there")
}

/// Returns the rules in a container besides those of the kernel.
fn rules(netns: &Netns) -> Vec<Value> {
    let both = ["-4", "-6"].into_iter().flat_map(|family| netns.ip_json(&format!("{family} rule show")));
    both.filter(|rule| !matches!(rule["priority"].as_u64(), Some(0 | 32766 | 32767))).collect()
}

#[test]
fn a_published_port_answers_by_the_network_it_was_published_in() {
    let uplinks = Uplinks::new();
    let Uplinks { outside, outside2, host } = &uplinks;
    filter_reverse_paths(&host.netns);
    host.start(&[]);
    // By their names, `aaa` has the default route and `zzz` has not.
    for (number, name) in [(150, "aaa"), (151, "mmm"), (152, "zzz")] {
        let [ipv4, ipv6] = [format!("10.{number}.0.0/24"), format!("fd00:{number}::/64")];
        host.ok(&["network", "create", "--subnet", &ipv4, "--subnet", &ipv6, name]);
    }
    let [web, beside, far] = ["web", "beside", "far"].map(Netns::new);
    filter_reverse_paths(&web);
    let flags = ["--network", "mmm", "--name", "web", "-p", "8080:80", "-p", "8080:80/udp"];
    let at_web = host.attach(&web, &flags);
    filter_reverse_paths(&host.netns);
    let at_beside = host.attach(&beside, &["--network", "aaa"]);
    let at_far = host.attach(&far, &["--network", "zzz"]);
    let _sites = [Site::open(&web, 80, "web"), Site::open(outside, 80, "outside")];
    let reached = |when: &str| {
        for family in 0..2 {
            let gateway: IpAddr =
                if family == 0 { at_web.gateway.unwrap().into() } else { at_web.gateway6.unwrap().into() };
            let near = addresses(Uplinks::HOST)[family];
            for (from, to, client) in [
                (outside, near, addresses(Uplinks::OUTSIDE)[family]),
                (outside2, addresses(Uplinks::HOST2)[family], addresses(Uplinks::OUTSIDE2)[family]),
                (&*host.netns, gateway, gateway),
                // These are in the other networks of `web`: the answer takes the way by the host,
                // not the short one.
                (&beside, near, addresses_of(&at_beside)[family]),
                (&far, near, addresses_of(&at_far)[family]),
                (&web, near, gateway),
            ] {
                let at = SocketAddr::new(to, 8080);
                let got = try_get(from, at, PATIENCE / 40)
                    .unwrap_or_else(|error| panic!("{when}: {at} from {}: {error}", from.name()));
                // From the container itself, the address that it asks from is another one.
                if !std::ptr::eq(from, &web) {
                    assert_eq!(got, page("web", client), "{when}: {at} from {}", from.name());
                }
                let called = Caller::new(from, to, 8080).try_call(PATIENCE / 40);
                called.unwrap_or_else(|error| panic!("{when}: {at} by UDP from {}: {error}", from.name()));
            }
            let client = addresses(Uplinks::OUTSIDE)[family];
            assert_eq!(get(&web, client, 80), page("outside", near), "{when}");
        }
    };
    reached("in one network");
    assert_eq!(rules(&web), Vec::<Value>::new(), "one network needs none");
    // Before and behind the publishing network, and both.
    for networks in [&["aaa"][..], &["zzz"], &["aaa", "zzz"], &["zzz", "aaa"]] {
        for network in networks {
            host.ok(&["network", "connect", network, "web"]);
            filter_reverse_paths(&web);
            filter_reverse_paths(&host.netns);
        }
        reached(&format!("with {networks:?}"));
        // Neighbors are reached directly in each network.
        if networks.contains(&"aaa") {
            addresses_of(&at_beside).into_iter().for_each(|to| ping(&web, to));
        }
        // A daemon that died while it changed them.
        if networks.len() == 2 {
            web.ip("rule flush");
            web.ip("rule add from all lookup main pref 32766");
            host.kill_daemon();
            host.start(&[]);
            reached("after a restart");
        }
        for network in networks {
            host.ok(&["network", "disconnect", network, "web"]);
        }
        assert_eq!(rules(&web), Vec::<Value>::new(), "{networks:?} are left");
        reached("in one network again");
    }
}

#[test]
fn an_operators_rules_and_routes_stay() {
    let Uplinks { outside, host, .. } = &Uplinks::up();
    let web = Netns::new("web");
    host.attach(&web, &["--network", "front", "--name", "web", "-p", "8080:80"]);
    web.ip("rule add from 10.0.0.0/8 to 203.0.113.0/24 lookup 77 pref 100");
    web.ip("-6 rule add from fd00::/8 to 2001:db8:77::/48 lookup 77 pref 100");
    web.ip("route add 203.0.113.0/24 via 10.121.0.1 table 77");
    let before = rules(&web);
    host.ok(&["network", "connect", "back", "web"]);
    let _site = Site::open(&web, 80, "web");
    assert_eq!(get(outside, addresses(Uplinks::HOST)[0], 8080).site, "web");
    host.ok(&["network", "disconnect", "back", "web"]);
    assert_eq!(rules(&web), before);
    assert_eq!(web.ip("route show table 77").lines().count(), 1);
}

#[test]
fn a_network_that_is_connected_again_publishes_its_ports_again() {
    let Uplinks { outside, host, .. } = &Uplinks::up();
    let [web, late] = ["web", "late"].map(Netns::new);
    let ports = ["-p", "8080:80", "-p", "192.0.2.1:8081:80", "-p", "9000-9002:80-82/udp"];
    host.attach(&web, &[&["--network", "front", "--name", "web"][..], &ports].concat());
    let published = in_network(host, "front").published;
    let _site = Site::open(&web, 80, "web");
    let [near, near6] = addresses(Uplinks::HOST);
    let reached = || {
        for to in [near, near6] {
            assert_eq!(get(outside, to, 8080).site, "web");
            assert_eq!(Caller::new(outside, to, 9000).call().site, "web");
        }
        assert_eq!(get(outside, near, 8081).site, "web");
    };
    let held = |by_late: &str| {
        let path = late.path_argument();
        let attach = ["attach", "--netns", &path, "--network", "back", "--name", "late", "-p", by_late];
        let error = host.fails(1, &attach);
        assert!(error.contains("web"), "{error}");
    };
    host.ok(&["network", "connect", "back", "web"]);
    for round in 0..2 {
        host.ok(&["network", "disconnect", "front", "web"]);
        let there = host.ps().into_iter().filter(|endpoint| endpoint.name == "web").collect::<Vec<_>>();
        assert_eq!(there.iter().map(|endpoint| endpoint.network.as_str()).collect::<Vec<_>>(), ["back"]);
        let closed = try_get(outside, SocketAddr::new(near, 8080), PATIENCE);
        assert!(closed.is_err(), "{closed:?}");
        // Meanwhile no other endpoint gets the port.
        held("8080:80");
        held("9001:80/udp");
        if round == 1 {
            host.kill_daemon();
            host.start(&[]);
            held("8080:80");
        }
        host.ok(&["network", "connect", "front", "web"]);
        assert_eq!(in_network(host, "front").published, published);
        reached();
    }
    // By way of a third network: the ports wait as long as the endpoint lives.
    host.ok(&["network", "disconnect", "front", "web"]);
    host.ok(&["network", "connect", "bridge", "web"]);
    host.ok(&["network", "disconnect", "back", "web"]);
    host.ok(&["network", "connect", "front", "web"]);
    assert_eq!(in_network(host, "front").published, published);
    reached();
    // They are free with the endpoint, also while they wait.
    host.ok(&["network", "disconnect", "front", "web"]);
    host.ok(&["detach", "web"]);
    let at_late = host.attach(&late, &["--network", "front", "-p", "8080:80", "-p", "9001:80/udp"]);
    assert_eq!(at_late.published.len(), 2);
    // The last network of an endpoint ends it, with its ports.
    host.ok(&["network", "disconnect", "front", late.name()]);
    eventually("the ports are free", || {
        let attached = host.run(&["attach", "--netns", &web.path_argument(), "--network", "back", "-p", "8080:80"]);
        (attached.code == Some(0)).then_some(())
    });
}
