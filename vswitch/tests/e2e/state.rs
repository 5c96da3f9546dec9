//! Networks and endpoints are restored after `down`, after the daemon was killed, and after a
//! reboot, as far as possible.

use std::net::Ipv6Addr;

use serde_json::{Value, json};

use crate::harness::{Host, Netns, ask, getent, ping, tcp};

/// A host in full use: networks of several kinds, endpoints in several of them, names, labels and
/// published ports.
struct Scene {
    web: Netns,
    db: Netns,
    lone: Netns,
    host: Host,
}

impl Scene {
    fn new() -> Self {
        let host = Host::up(&[]);
        let create = |words: &str| {
            host.ok(&["network", "create"].into_iter().chain(words.split_whitespace()).collect::<Vec<_>>());
        };
        create(
            "--subnet 10.111.0.0/24 --subnet fd00:111::/64 --gateway 10.111.0.254 --ip-range 10.111.0.64/26 \
             --aux-address printer=10.111.0.70 -o mtu=1400 -o masquerade=false --label tier=front front",
        );
        create("--internal --ipv6 --subnet 10.112.0.0/24 back");
        create("--subnet 10.113.0.0/24 -o com.docker.network.bridge.enable_icc=false apart");
        let [web, db, lone] = ["web", "db", "lone"].map(Netns::new);
        host.attach(
            &web,
            &[
                "--network",
                "front",
                "--name",
                "web",
                "--hostname",
                "www.example",
                "--alias",
                "api",
                "--label",
                "tier=front",
                "--ip6",
                "fd00:111::99",
                "-p",
                "127.0.0.1:8080:80",
                "-p",
                "5353:53/udp",
                "-p",
                "90",
            ],
        );
        host.ok(&["network", "connect", "--alias", "shop", "--ifname", "lan7", "--gw-priority", "-3", "back", "web"]);
        host.ok(&["network", "connect", "--mac", "02:aa:bb:cc:dd:02", "apart", "web"]);
        host.attach(&db, &["--network", "back", "--name", "db"]);
        host.ok(&["network", "connect", "--ip", "10.111.0.99", "front", "db"]);
        host.ok(&["attach", "--netns", &lone.path_argument(), "--network", "none", "--name", "lone"]);
        Self { web, db, lone, host }
    }

    /// Returns everything that is shown of networks and endpoints, except the counters.
    fn shown(&self) -> Value {
        let host = &self.host;
        let inspect = |name: &str| {
            let mut endpoint: Value = host.json(&["inspect", name]);
            let fields = endpoint.as_object_mut().unwrap();
            fields.remove("counters");
            endpoint
        };
        let devices = |netns: &Netns| {
            let addresses = |ifname: &str| json!([netns.addresses(ifname), netns.addresses6(ifname)]);
            let devices = netns.devices().into_iter().map(|ifname| (ifname.clone(), addresses(&ifname)));
            let routes = [false, true].map(|ipv6| netns.default_routes(ipv6));
            json!([devices.collect::<std::collections::BTreeMap<_, _>>(), routes])
        };
        json!({
            "networks": host.json::<Value>(&["network", "inspect", "bridge", "front", "back", "apart"]),
            "list": host.json::<Value>(&["network", "ls"]),
            "ps": host.json::<Value>(&["ps"]),
            "endpoints": (["web", "db", "lone"].map(inspect)),
            "devices": ([&self.web, &self.db, &self.lone].map(devices)),
        })
    }

    /// Checks traffic and names in each of the networks.
    fn assert_works(&self) {
        let Self { web, db, host, .. } = self;
        ping(db, "fd00:111::99".parse::<Ipv6Addr>().unwrap());
        tcp(web, db, web_and_db_in_back(host)[1], 1 << 16);
        ping(web, std::net::Ipv4Addr::new(10, 113, 0, 1));
        assert_eq!(getent(db, "ahostsv6", "api"), ["fd00:111::99"]);
        let in_back = web_and_db_in_back(host)[0].to_string();
        assert_eq!(ask(db, std::net::Ipv4Addr::new(10, 112, 0, 1), "shop", "A").data, [in_back]);
    }
}

fn web_and_db_in_back(host: &Host) -> [std::net::Ipv4Addr; 2] {
    let rows: Vec<Value> = host.json(&["ps"]);
    ["web", "db"].map(|name| {
        let row = rows.iter().find(|row| row["name"] == name && row["network"] == "back").unwrap();
        row["ipv4"].as_str().unwrap().parse().unwrap()
    })
}

#[test]
fn networks_and_endpoints_survive_down_and_a_killed_daemon() {
    let scene = Scene::new();
    scene.assert_works();
    let before = scene.shown();
    let published = before["endpoints"][0]["networks"].as_array().unwrap();
    let front = published.iter().find(|network| network["network"] == "front").unwrap();
    let ports = front["published"].as_array().unwrap();
    assert_eq!(ports.len(), 3, "{front:#}");
    assert!(ports.iter().all(|port| port["host_port"].as_u64().is_some_and(|port| port > 0)), "{ports:#?}");
    scene.host.stop(&[]);
    for container in [&scene.web, &scene.db, &scene.lone] {
        assert_eq!(container.devices(), ["lo".to_owned()].into());
    }
    scene.host.start(&[]);
    assert_eq!(scene.shown(), before);
    scene.assert_works();
    for _ in 0..2 {
        scene.host.kill_daemon();
        // Traffic continues without a daemon.
        ping(&scene.db, "fd00:111::99".parse::<Ipv6Addr>().unwrap());
        let started: Value = scene.host.json(&["up"]);
        assert_eq!(started["released"], json!([]), "{started:#}");
        assert_eq!(scene.shown(), before);
        scene.assert_works();
    }
    // `down` also removes what a killed daemon left, and `up` restores it again.
    scene.host.kill_daemon();
    scene.host.stop(&[]);
    for container in [&scene.web, &scene.db, &scene.lone] {
        assert_eq!(container.devices(), ["lo".to_owned()].into());
    }
    scene.host.start(&[]);
    assert_eq!(scene.shown(), before);
    scene.assert_works();
}

#[test]
fn endpoints_that_cannot_be_restored_are_released_and_purge_removes_all() {
    let scene = Scene::new();
    scene.host.stop(&[]);
    let Scene { web, db, lone, host } = scene;
    let path = web.path_argument();
    web.delete();
    let started: Value = host.json(&["up"]);
    let released = started["released"].as_array().unwrap();
    assert!(!released.is_empty(), "{started:#}");
    for release in released {
        assert_eq!((&release["endpoint"], &release["netns"]), (&json!("web"), &json!(path)), "{release:#}");
        assert!(release["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{release:#}");
    }
    let rows: Vec<Value> = host.json(&["ps"]);
    assert!(rows.iter().all(|row| row["name"] != "web") && rows.len() == 3, "{rows:#?}");
    host.ok(&["network", "rm", "apart"]);
    assert_eq!(ask(&db, std::net::Ipv4Addr::new(10, 112, 0, 1), "shop", "A").data, Vec::<String>::new());
    // The endpoint's name, addresses and ports are free again.
    let again = Netns::new("again");
    let flags = ["--network", "front", "--name", "web", "--ip6", "fd00:111::99", "-p", "127.0.0.1:8080:80"];
    host.attach(&again, &flags);
    ping(&db, "fd00:111::99".parse::<Ipv6Addr>().unwrap());
    assert_eq!(lone.devices(), ["lo".to_owned()].into());

    host.stop(&["--purge"]);
    host.start(&[]);
    let networks: Vec<Value> = host.json(&["network", "ls"]);
    let names: Vec<&Value> = networks.iter().map(|network| &network["name"]).collect();
    assert_eq!(names, ["bridge", "host", "none"]);
    assert!(host.json::<Vec<Value>>(&["ps"]).is_empty());
}

#[test]
fn endpoints_are_restored_after_a_reboot_if_their_namespace_exists() {
    let host = Host::up(&[]);
    host.ok(&["network", "create", "--subnet", "10.114.0.0/24", "--subnet", "fd00:114::/64", "front"]);
    let [a, b] = ["a", "b"].map(Netns::new);
    let flags = ["--network", "front", "--ip", "10.114.0.44", "--name", "web"];
    let at_a = host.attach(&a, &flags);
    host.attach(&b, &["--network", "front"]);
    // As after a reboot, the namespace is created again under its name before the daemon starts.
    host.stop(&[]);
    let again = a.recreate();
    let started: Value = host.json(&["up"]);
    assert_eq!((&started["attached"], &started["released"]), (&json!(2), &json!([])), "{started:#}");
    assert_eq!(host.ps().into_iter().find(|endpoint| endpoint.name == "web"), Some(at_a.clone()));
    assert_eq!((again.mac("eth0"), again.addresses("eth0")), (at_a.mac, vec![at_a.ipv4]));
    ping(&b, at_a.ipv4);
    ping(&again, at_a.gateway6.unwrap());
}
