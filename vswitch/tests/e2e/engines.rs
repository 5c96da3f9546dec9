//! The API for container engines: identity, interfaces that engines move, published sets, garbage.
//! `curl` and `ip` do here what an engine does.

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::harness::{Host, Netns, eventually, ping, run};

/// Sends a request, and returns the status with the answer.
fn call(host: &Host, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let url = format!("http://vswitch/v1{path}");
    let format = ["-sS", "-w", "\n%{http_code}", "-H", "content-type: application/json", "-X", method, "--unix-socket"];
    let mut command = host.netns.command("curl");
    let outcome = run(command.args(format).arg(host.socket()).args(["-d", &body.to_string()]).arg(url));
    assert_eq!(outcome.code, Some(0), "{outcome:#?}");
    let (body, status) = outcome.stdout.rsplit_once('\n').expect("a body and a status");
    (status.parse().expect("a number"), serde_json::from_str(body).unwrap_or_else(|error| panic!("{body}: {error}")))
}

fn ok(host: &Host, method: &str, path: &str, body: &Value) -> Value {
    let (status, answer) = call(host, method, path, body);
    assert_eq!(status, 200, "{method} {path}: {answer}");
    answer
}

/// Returns the message of a refused request with this code.
fn refused(host: &Host, method: &str, path: &str, body: &Value, code: &str) -> String {
    let (status, answer) = call(host, method, path, body);
    assert!(status >= 400 && answer["error"]["code"] == code, "{method} {path}: {status} {answer}");
    answer["error"]["message"].as_str().expect("a message").to_owned()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

fn address(value: &Value) -> IpAddr {
    text(value).parse().expect("an address")
}

/// Moves an interface into a container under another name, and configures it, as Docker does.
fn take(host: &Host, left: &str, container: &Netns, ifname: &str, endpoint: &Value) {
    host.netns.ip(&format!("link set {left} netns {}", container.name()));
    container.ip(&format!("link set {left} name {ifname}"));
    container.ip(&format!("addr add {}/16 dev {ifname}", text(&endpoint["ipv4"])));
    container.ip(&format!("link set {ifname} up"));
    container.ip(&format!("route add default via {}", text(&endpoint["gateway"])));
}

#[test]
fn an_engine_moves_an_interface_and_finds_it_again_by_its_key() {
    let host = Host::up(&[]);
    let [sandbox, peer] = [Netns::new("sandbox"), Netns::new("peer")];
    let at_peer = host.attach(&peer, &["--name", "peer"]);
    let request = json!({"owner": "docker", "key": "ep1", "leave_here": "vs1234567890", "name": "web", "mac": "02:00:00:00:12:34"});
    let web = ok(&host, "POST", "/endpoints", &request);
    assert_eq!((text(&web["owner"]), text(&web["key"]), text(&web["ifname"])), ("docker", "ep1", "vs1234567890"));
    let device = host.netns.device("vs1234567890").expect("the interface is in the host's namespace");
    assert_eq!((text(&device["address"]), text(&device["operstate"])), ("02:00:00:00:12:34", "DOWN"));
    assert!(host.netns.addresses("vs1234567890").is_empty());
    refused(&host, "POST", "/endpoints", &request, "endpoint_exists");

    // The path of the sandbox is told before it exists, as Docker 20 to 26 does.
    let path = sandbox.path();
    ok(&host, "PUT", "/endpoints/docker:ep1/sandbox", &json!({"netns": path}));
    take(&host, "vs1234567890", &sandbox, "eth0", &web);
    ping(&peer, address(&web["ipv4"]));
    ping(&sandbox, IpAddr::from(at_peer.ipv4));
    eventually("the name in the container is known", || {
        let web: Value = host.json(&["inspect", "web"]);
        (web["ifname"] == "eth0" && web["netns"] == path.display().to_string()).then_some(())
    });

    // A killed daemon's successor finds the interface wherever it is.
    host.kill_daemon();
    host.start(&[]);
    let found = ok(&host, "GET", "/endpoints?owner=docker&key=ep1", &json!({}));
    assert_eq!((found.as_array().map(Vec::len), &found[0]["ipv4"]), (Some(1), &web["ipv4"]));
    ping(&peer, address(&web["ipv4"]));

    // `down` and `up` with a running container: the interface is back, with its name and addresses.
    host.ok(&["down"]);
    assert!(sandbox.device("eth0").is_none());
    host.start(&[]);
    ping(&peer, address(&web["ipv4"]));
    assert_eq!(sandbox.mac("eth0").to_string(), "02:00:00:00:12:34");

    // The engine takes it back, and ends it.
    sandbox.ip("link set eth0 down");
    sandbox.ip("link set eth0 name vs1234567890");
    run(sandbox.command("ip").args(["link", "set", "vs1234567890", "netns", host.netns.name()]));
    ok(&host, "PUT", "/endpoints/docker:ep1/sandbox", &json!({"netns": null}));
    for detached in [json!(["web"]), json!([])] {
        assert_eq!(ok(&host, "DELETE", "/endpoints?owner=docker&key=ep1", &json!({}))["detached"], detached);
    }
    assert!(host.netns.device("vs1234567890").is_none());
    assert_eq!(host.ps().len(), 1);
}

#[test]
fn published_ports_are_replaced_as_a_set_and_belong_to_the_container() {
    let host = Host::up(&[]);
    host.ok(&["network", "create", "front"]);
    let [web, other] = [Netns::new("web"), Netns::new("other")];
    let attach = |network: &str, key: &str, netns: &Netns, container: &str| {
        let request = json!({
            "owner": "podman", "key": key, "container": container, "netns": netns.path(), "network": network,
            "name": container,
        });
        ok(&host, "POST", "/endpoints", &request)
    };
    attach("bridge", "web/bridge", &web, "web");
    attach("front", "web/front", &web, "web");
    attach("bridge", "other/bridge", &other, "other");
    let publish = |key: &str, ports: Value, hold: bool| {
        let path = format!("/endpoints/podman:{}/published", key.replace('/', "%2F"));
        call(&host, "PUT", &path, &json!({"ports": ports, "hold": hold}))
    };
    let ports = |answer: (u16, Value)| {
        assert_eq!(answer.0, 200, "{answer:?}");
        let published = answer.1["published"].as_array().expect("a list").clone();
        published.iter().map(|port| port["host_port"].as_u64().expect("a port")).collect::<Vec<_>>()
    };
    assert_eq!(ports(publish("web/bridge", json!(["8080:80", "8081:81"]), true)), [8080, 8081]);
    assert_eq!(ports(publish("web/bridge", json!(["8081:81", "8082:82"]), true)), [8081, 8082], "8080 is withdrawn");
    // A second connection of the container asks for the same: one publication.
    assert_eq!(ports(publish("web/front", json!(["8081:81"]), true)).len(), 0);
    let (status, error) = publish("other/bridge", json!(["8082:80"]), true);
    assert!(status == 409 && text(&error["error"]["message"]).contains("port is already allocated"), "{error}");
    assert_eq!(ports(publish("other/bridge", json!(["8080:80"]), true)), [8080], "it is free");
    // The other connection publishes what it asked for when the first does not any more.
    assert_eq!(ports(publish("web/bridge", json!([]), true)).len(), 0);
    let front = host.ps().into_iter().find(|endpoint| endpoint.name == "web" && endpoint.network == "front");
    assert_eq!(front.expect("attached").published.len(), 1);
    // Another process holds the port: it is bound already, and that is no conflict.
    let _bound = host.netns.inside(|| std::net::TcpListener::bind("0.0.0.0:8090")).expect("bound");
    let (status, error) = publish("web/bridge", json!(["8090:90"]), true);
    assert!(status == 409, "{error}");
    assert_eq!(ports(publish("web/bridge", json!(["8090:90"]), false)), [8090]);
    // All of this is there for the next daemon.
    host.kill_daemon();
    host.start(&[]);
    let web: Vec<_> = host.ps().into_iter().filter(|endpoint| endpoint.name == "web").collect();
    assert_eq!(web.iter().map(|endpoint| endpoint.published.len()).collect::<Vec<_>>(), [1, 1]);
}

#[test]
fn engines_share_names_and_networks_come_and_go_with_their_endpoints() {
    let host = Host::up(&[]);
    let [one, two] = [Netns::new("one"), Netns::new("two")];
    let request = |owner: &str, netns: &Netns| {
        let network = json!({
            "name": format!("{owner}-net"), "owner": owner, "external_id": "id1", "remove_when_empty": true,
        });
        json!({"owner": owner, "key": "k", "netns": netns.path(), "name": "web", "ensure": network})
    };
    let at_one = ok(&host, "POST", "/endpoints", &request("docker", &one));
    ok(&host, "POST", "/endpoints", &request("podman", &two));
    assert_eq!(at_one["network"], "docker-net");
    let message = host.fails(1, &["inspect", "web"]);
    assert!(message.contains("could mean") && message.contains("docker") && message.contains("podman"), "{message}");
    let message = host.fails(1, &["network", "connect", "bridge", "docker:k"]);
    assert!(message.contains("belongs to docker"), "{message}");
    // Learned later: the name of the container, and that of the network. The device keeps its own.
    let network: Value = host.json::<Vec<Value>>(&["network", "inspect", "docker-net"]).remove(0);
    let device = text(&network["host_device"]).to_owned();
    ok(&host, "PATCH", "/endpoints/docker:k", &json!({"name": "shop", "aliases": ["www"]}));
    ok(&host, "PATCH", "/networks/docker-net", &json!({"name": "shops"}));
    refused(&host, "PATCH", "/networks/bridge", &json!({"name": "other"}), "not_renamable");
    host.kill_daemon();
    host.start(&[]);
    let shop: Value = host.json(&["inspect", "shop"]);
    assert_eq!((&shop["network"], &shop["aliases"]), (&json!("shops"), &json!(["www"])));
    assert!(host.netns.device(&device).is_some());
    ping(&one, address(&at_one["gateway"]));
    // A second request for the network of an engine finds that of the first.
    let again = json!({"name": "shops", "owner": "docker", "external_id": "id1"});
    assert_eq!(ok(&host, "POST", "/networks", &again)["external_id"], "id1");
    refused(&host, "POST", "/networks", &json!({"name": "x", "owner": "docker"}), "invalid_owner");

    // What the engine does not know any more goes, and so does the network of the last endpoint.
    let gc = json!({"owner": "podman", "network": null, "valid": ["k"]});
    assert_eq!(ok(&host, "POST", "/endpoints/gc", &gc)["detached"], json!([]));
    let gc = json!({"owner": "docker", "network": null, "valid": ["other"]});
    assert_eq!(ok(&host, "POST", "/endpoints/gc", &gc)["detached"], json!(["shop"]));
    let networks: Vec<Value> = host.json(&["network", "ls"]);
    assert!(networks.iter().all(|network| network["owner"] != "docker"), "{networks:?}");
    // The namespace of the other ends without a word of its engine.
    two.delete();
    eventually("its network is removed", || {
        let networks: Vec<Value> = host.json(&["network", "ls"]);
        networks.iter().all(|network| network["owner"] == "").then_some(())
    });
}

#[test]
fn one_container_may_have_several_interfaces_in_a_network() {
    let host = Host::up(&[]);
    let [pod, peer] = [Netns::new("pod"), Netns::new("peer")];
    host.attach(&peer, &["--name", "peer"]);
    let mut addresses = Vec::new();
    for ifname in ["eth0", "net1"] {
        let key = format!("id/{ifname}");
        let request = json!({"owner": "cni", "key": key, "container": "id", "netns": pod.path(), "ifname": ifname, "name": "pod"});
        addresses.push(ok(&host, "POST", "/endpoints", &request)["ipv4"].clone());
    }
    for one in &addresses {
        ping(&peer, address(one));
    }
    assert_eq!(ok(&host, "DELETE", "/endpoints?owner=cni&key=id%2Fnet1", &json!({}))["detached"], json!(["pod"]));
    ping(&peer, address(&addresses[0]));
    assert!(pod.device("net1").is_none() && pod.device("eth0").is_some());
}

#[test]
fn pools_and_their_addresses_are_kept_for_the_engine() {
    let host = Host::up(&["--pool", "10.201.0.0/16"]);
    let request = |body: Value| ok(&host, "POST", "/ipam/pools", &body);
    let pool = request(json!({"owner": "docker", "subnet": "10.44.0.0/24", "ip_range": "10.44.0.128/25"}));
    let chosen = request(json!({"owner": "docker"}));
    let six = request(json!({"owner": "docker", "ipv6": true}));
    assert!(text(&chosen["subnet"]).starts_with("10.201.") && text(&six["subnet"]).starts_with("fd"));
    for (subnet, code) in
        [("10.44.0.0/25", "subnet_overlap"), ("10.201.0.0/24", "subnet_overlap"), ("nonsense", "invalid_subnet")]
    {
        refused(&host, "POST", "/ipam/pools", &json!({"owner": "cni", "subnet": subnet}), code);
    }
    // Networks of others leave the pools alone, given or chosen.
    let message = host.fails(1, &["network", "create", "--subnet", "10.44.0.0/24", "own"]);
    assert!(message.contains("an address pool of docker"), "{message}");
    host.ok(&["network", "create", "other"]);
    let other: Vec<Value> = host.json(&["network", "inspect", "other"]);
    assert_ne!(other[0]["subnets"][0]["subnet"], chosen["subnet"]);

    let addresses = format!("/ipam/pools/{}/addresses", text(&pool["id"]));
    let lease = |body: Value| ok(&host, "POST", &addresses, &body)["address"].clone();
    assert_eq!(lease(json!({"gateway": true})), "10.44.0.1/24");
    assert_eq!(lease(json!({"address": "10.44.0.129"})), "10.44.0.129/24", "auxiliary");
    let network = json!({"name": "front", "owner": "docker", "external_id": "n", "subnets": ["10.44.0.0/24"]});
    ok(&host, "POST", "/networks", &network);
    assert_eq!([lease(json!({})), lease(json!({}))], ["10.44.0.128/24", "10.44.0.130/24"]);
    let message = refused(&host, "POST", &addresses, &json!({"address": "10.44.0.1"}), "address_in_use");
    assert!(message.contains("gateway") || message.contains("lease"), "{message}");
    // An endpoint by hand gets no leased address, the engine's own gets what it leased.
    let [hand, own] = ["hand", "own"].map(Netns::new);
    let at_hand = host.attach(&hand, &["--network", "front", "--ip", "10.44.0.131"]);
    assert_eq!(at_hand.ipv4.to_string(), "10.44.0.131");
    let own_path = own.path_argument();
    let message = host.fails(1, &["attach", "--netns", &own_path, "--network", "front", "--ip", "10.44.0.128"]);
    assert!(message.contains("a lease of an address pool"), "{message}");
    let attach = json!({"owner": "docker", "key": "e", "netns": own.path(), "network": "front", "ip": "10.44.0.128", "name": "e"});
    ok(&host, "POST", "/endpoints", &attach);
    // All of it is there for the next daemon.
    let before = ok(&host, "GET", "/ipam/pools", &json!({}));
    host.kill_daemon();
    host.start(&[]);
    assert_eq!(ok(&host, "GET", "/ipam/pools", &json!({})), before);
    assert_eq!(lease(json!({})), "10.44.0.132/24", "the next one");
    // Either order of release, and twice.
    for _ in 0..2 {
        ok(&host, "DELETE", &format!("{addresses}/10.44.0.130"), &json!({}));
        ok(&host, "DELETE", &format!("/ipam/pools/{}", text(&pool["id"])), &json!({}));
        ok(&host, "DELETE", &format!("/ipam/pools/{}", text(&six["id"])), &json!({}));
    }
    ok(&host, "DELETE", "/endpoints?owner=docker&key=e", &json!({}));
    hand.delete();
    eventually("the network is empty", || host.run(&["network", "rm", "front"]).code.filter(|code| *code == 0));
    ok(&host, "DELETE", &format!("/ipam/pools/{}", text(&chosen["id"])), &json!({}));
    assert_eq!(ok(&host, "GET", "/ipam/pools", &json!({})), json!([]));
}
