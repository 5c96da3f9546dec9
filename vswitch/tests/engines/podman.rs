//! netavark's plugin, with the real podman.

use serde_json::Value;

use crate::harness::{Host, eventually, roots, roots::Root};

/// Starts a host whose podman sees vswitch.
fn with_plugin(root: &Root, role: &str, engine: &str) -> Option<Host> {
    let host = Host::on(root, role)?;
    host.vswitch_up();
    host.vswitch(&format!("engine install {engine}"));
    host.ok("podman import -q /usr/share/vswitch/busybox.tar busybox");
    Some(host)
}

/// Starts a container that answers on port 80 with its name.
#[track_caller]
fn web(host: &Host, name: &str, flags: &str) {
    let serve = format!("sh -c 'mkdir -p /www; echo {name} > /www/index.html; exec httpd -f -p 80 -h /www'");
    host.ok(&format!("podman run -d --name {name} {flags} busybox {serve}"));
}

#[track_caller]
fn get(host: &Host, url: &str) -> String {
    host.settles(&format!("curl -sf --max-time 2 {url}"))
}

fn networks(host: &Host) -> usize {
    host.vswitch("network ls -q").lines().count()
}

#[test]
fn n01_networks_are_completed_and_go_with_their_last_container() {
    let Some(host) = with_plugin(&roots::TRIXIE, "n01", "podman") else { return };
    host.ok("podman network create -d vswitch plain");
    host.ok("podman network create -d vswitch --ipv6 dual");
    host.ok("podman network create -d vswitch --subnet 10.71.0.0/24 --ip-range 10.71.0.128/25 --internal inner");
    let made: Vec<Value> = host.json("podman network inspect plain dual inner");
    let subnets: Vec<&str> = made
        .iter()
        .flat_map(|network| network["subnets"].as_array().expect("a list"))
        .map(|entry| entry["subnet"].as_str().expect("a subnet"))
        .collect();
    let mut different = subnets.clone();
    different.sort_unstable();
    different.dedup();
    assert_eq!((subnets.len(), different.len()), (4, 4), "{subnets:?}");
    assert_eq!(made[2]["subnets"][0]["lease_range"]["start_ip"], "10.71.0.129");
    assert_eq!(networks(&host), 3, "a network is made for its first container");
    host.ok("podman run --rm --network dual --cap-add NET_RAW busybox ping -c 1 -6 $(podman network inspect dual | jq -r '.[0].subnets[1].gateway')");
    assert!(!host.ok("podman run --rm --network inner busybox ip route").contains("default"));
    eventually("the networks are gone", || (networks(&host) == 3).then_some(()));
    host.ok("podman network rm plain dual inner");
    for (flags, reason) in [
        ("-o nonsense=1", "unknown option `nonsense=1`"),
        ("--subnet 10.71.0.0/24 --gateway 10.99.0.1", "gateway"),
        ("--route 10.99.0.0/24,10.71.0.2", "not supported by vswitch"),
    ] {
        let refused = host.fails(&format!("podman network create -d vswitch {flags} bad"));
        assert!(refused.contains(reason), "{flags}: {refused}");
    }
    let refused = host.fails("vswitch down; podman network create -d vswitch late");
    assert!(refused.contains("the vswitch daemon is not running: systemctl start vswitch"), "{refused}");
}

#[test]
fn n02_published_ports_follow_the_container() {
    let Some(host) = with_plugin(&roots::TRIXIE, "n02", "podman") else { return };
    host.ok("podman network create -d vswitch one; podman network create -d vswitch two");
    web(&host, "web", "--network one -p 8088:80 -p 9000-9002:9000-9002/udp");
    let published = || -> Vec<(Value, usize)> {
        let count = |endpoint: &Value| endpoint["published"].as_array().map_or(0, Vec::len);
        host.endpoints().iter().map(|endpoint| (endpoint["network"].clone(), count(endpoint))).collect()
    };
    assert_eq!(published(), [("one".into(), 4)]);
    assert_eq!(get(&host, "http://127.0.0.1:8088/"), "web");
    host.ok("podman network connect two web");
    assert_eq!(published(), [("one".into(), 4), ("two".into(), 0)]);
    host.ok("podman network reload web");
    assert_eq!(get(&host, "http://127.0.0.1:8088/"), "web");
    host.ok("podman restart -t 0 web");
    assert_eq!(get(&host, "http://127.0.0.1:8088/"), "web");
    host.ok("podman network disconnect one web");
    assert_eq!(published(), [("two".into(), 4)]);
    assert_eq!(get(&host, "http://127.0.0.1:8088/"), "web");
    let refused = host.fails("podman run -d --name late --network two -p 8088:80 busybox sleep 1000");
    assert!(refused.contains("address already in use"), "{refused}");
    host.ok("podman rm -f -t 0 web late");
    eventually("nothing is left", || (host.endpoints().is_empty() && networks(&host) == 3).then_some(()));
}

#[test]
fn n03_names_are_ours() {
    let Some(host) = with_plugin(&roots::TRIXIE, "n03", "podman") else { return };
    host.ok("podman network create -d vswitch --ipv6 net");
    host.ok("podman run -d --name one --cap-add NET_RAW --network net busybox sleep 1000");
    host.ok("podman run -d --name two --network net --network-alias bee --hostname bhost busybox sleep 1000");
    for name in ["two", "bee", "bhost"] {
        host.ok(&format!("podman exec one ping -c 1 -4 {name}; podman exec one ping -c 1 -6 {name}"));
    }
    host.ok("podman rm -f -t 0 one two");
}

#[test]
fn c04_podman_4_uses_the_cni_plugin() {
    let Some(host) = with_plugin(&roots::BOOKWORM, "c04", "cni") else { return };
    host.write("/etc/containers/containers.conf", "[network]\nnetwork_backend=\"cni\"\n");
    for (name, plugins) in [
        ("own", r#"{"type":"vswitch","capabilities":{"portMappings":true,"aliases":true}}"#),
        (
            "chained",
            r#"{"type":"vswitch","capabilities":{"aliases":true}},{"type":"portmap","capabilities":{"portMappings":true},"snat":true}"#,
        ),
    ] {
        let conf = format!(r#"{{"cniVersion":"1.0.0","name":"{name}","plugins":[{plugins}]}}"#);
        host.write(&format!("/etc/cni/net.d/{name}.conflist"), &conf);
        web(&host, "web", &format!("--network {name} --network-alias www -p 8088:80"));
        assert_eq!(get(&host, "http://127.0.0.1:8088/"), "web", "{name}");
        host.ok(&format!("podman run --rm --cap-add NET_RAW --network {name} busybox ping -c 1 www"));
        host.ok("podman network reload web; podman restart -t 0 web");
        assert_eq!(get(&host, "http://127.0.0.1:8088/"), "web", "{name}");
        host.ok("podman rm -f -t 0 web");
        eventually("nothing is left", || host.endpoints().is_empty().then_some(()));
    }
    host.write(
        "/etc/cni/net.d/fixed.conflist",
        r#"{"cniVersion":"1.0.0","name":"fixed","plugins":[{"type":"vswitch","subnet":"10.72.0.0/24"}]}"#,
    );
    let shown =
        host.ok("podman run --rm --network fixed --ip 10.72.0.77 --mac-address 02:00:00:00:00:77 busybox ip address");
    assert!(shown.contains("10.72.0.77/24") && shown.contains("02:00:00:00:00:77"), "{shown}");
}
