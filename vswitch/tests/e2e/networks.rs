//! `network create`, `ls`, `inspect`, `rm` and `prune`, compared with the behaviour of `docker
//! network`.

use serde_json::{Value, json};

use crate::harness::{AtRest, Host, Netns, ping, tcp};

/// Returns a network as `network inspect` shows it.
#[track_caller]
fn inspect(host: &Host, network: &str) -> Value {
    let mut networks: Vec<Value> = host.json(&["network", "inspect", network]);
    assert_eq!(networks.len(), 1, "{networks:#?}");
    networks.remove(0)
}

/// Returns the names that `network ls` lists with these flags.
#[track_caller]
fn list(host: &Host, flags: &[&str]) -> Vec<String> {
    let networks: Vec<Value> = host.json(&[&["network", "ls"], flags].concat());
    networks.iter().map(|network| network["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_network_has_the_subnets_given_at_creation() {
    let host = Host::up(&[]);
    let id = host.ok(&[
        "network",
        "create",
        "-d",
        "bridge",
        "--subnet",
        "10.61.0.0/24",
        "--subnet",
        "10.62.0.0/16",
        "--subnet",
        "fd00:61::/64",
        "--gateway",
        "10.61.0.254",
        "--gateway",
        "fd00:61::fe",
        "--ip-range",
        "10.61.0.128/25",
        "--aux-address",
        "printer=10.61.0.129",
        "--label",
        "tier=front",
        "--label",
        "empty=",
        "-o",
        "icc=yes",
        "front",
    ]);
    let shown = inspect(&host, "front");
    assert_eq!(shown["id"], id.trim());
    assert!(id.trim().len() == 64 && id.trim().bytes().all(|digit| digit.is_ascii_hexdigit()), "{id}");
    let subnets = json!([
        {"subnet": "10.61.0.0/24", "gateway": "10.61.0.254", "ip_range": "10.61.0.128/25",
         "aux_addresses": {"printer": "10.61.0.129"}},
        {"subnet": "10.62.0.0/16", "gateway": "10.62.0.1", "ip_range": null, "aux_addresses": {}},
        {"subnet": "fd00:61::/64", "gateway": "fd00:61::fe", "ip_range": null, "aux_addresses": {}},
    ]);
    assert_eq!(shown["subnets"], subnets);
    assert_eq!(
        (&shown["driver"], &shown["internal"], &shown["endpoints"]),
        (&json!("bridge"), &json!(false), &json!(0))
    );
    assert_eq!(shown["labels"], json!({"tier": "front", "empty": ""}));
    assert_eq!(shown["options"], json!({"icc": "yes"}));
    let created = shown["created"].as_str().unwrap();
    assert!(created.len() >= 20 && created.as_bytes()[10] == b'T' && created.ends_with('Z'), "RFC 3339: {created}");

    let [a, b, c] = ["a", "b", "c"].map(Netns::new);
    let at_a = host.attach(&a, &["--network", "front"]);
    let at_b = host.attach(&b, &["--network", &id[..12]]);
    assert_eq!((at_a.ipv4.to_string(), at_b.ipv4.to_string()), ("10.61.0.128".into(), "10.61.0.130".into()));
    assert_eq!(at_a.gateway.unwrap().to_string(), "10.61.0.254");
    assert_eq!(at_a.gateway6.unwrap().to_string(), "fd00:61::fe");
    let at_c = host.attach(&c, &["--network", "front", "--ip", "10.62.9.7", "--ip6", "fd00:61::77"]);
    assert_eq!((at_c.ipv4.to_string(), at_c.gateway.unwrap().to_string()), ("10.62.9.7".into(), "10.62.0.1".into()));
    ping(&a, at_b.ipv4);
    ping(&a, at_c.ipv6.unwrap());
    tcp(&b, &c, at_c.ipv6.unwrap(), 1 << 16);
    for gateway in ["10.61.0.254", "10.62.0.1", "fd00:61::fe"] {
        let gateway: std::net::IpAddr = gateway.parse().unwrap();
        ping(&a, gateway);
        ping(&c, gateway);
    }
    // The two subnets belong to one network, and the host routes between them.
    ping(&a, at_c.ipv4);
    assert_eq!(inspect(&host, "front")["endpoints"], 3);
}

#[test]
fn a_network_without_a_subnet_gets_an_unused_one() {
    let host = Host::down();
    let wire = Netns::new("wire");
    host.netns.wire("phys0", &wire, "eth0");
    // An address on another interface of the host, as the route of a VPN would be.
    host.netns.ip("address add 10.55.1.9/24 dev phys0");
    host.start(&["--pool", "10.55.0.0/22"]);
    let subnets = |name: &str| inspect(&host, name)["subnets"][0]["subnet"].as_str().unwrap().to_owned();
    assert_eq!(subnets("bridge"), "10.55.0.0/24");
    for (name, subnet) in [("one", "10.55.2.0/24"), ("two", "10.55.3.0/24")] {
        host.ok(&["network", "create", name]);
        assert_eq!(subnets(name), subnet);
    }
    AtRest::new(&host, &[])
        .refuses(&["network", "create", "three"], &["no subnet is left", "10.55.0.0/22", "--subnet"]);
    host.ok(&["network", "rm", "one"]);
    host.ok(&["network", "create", "three"]);
    assert_eq!(subnets("three"), "10.55.2.0/24");
}

#[test]
fn ipv6_without_a_subnet_gets_a_unique_local_prefix() {
    let host = Host::up(&[]);
    host.ok(&["network", "create", "--ipv6", "one"]);
    host.ok(&["network", "create", "--ipv6", "--subnet", "10.64.0.0/24", "two"]);
    let [one, two] = ["one", "two"].map(|name| {
        let shown = inspect(&host, name);
        assert_eq!(shown["subnets"].as_array().unwrap().len(), 2, "{shown:#}");
        shown["subnets"][1]["subnet"].as_str().unwrap().to_owned()
    });
    for subnet in [&one, &two] {
        assert!(subnet.starts_with("fd") && subnet.ends_with("/64"), "RFC 4193: {subnet}");
    }
    assert_ne!(one, two);
    assert_eq!(inspect(&host, "two")["subnets"][0]["subnet"], "10.64.0.0/24");
    let [a, b] = ["a", "b"].map(Netns::new);
    host.attach(&a, &["--network", "one"]);
    let at_b = host.attach(&b, &["--network", "one"]);
    ping(&a, at_b.ipv6.unwrap());
}

#[test]
fn option_names_of_docker_are_accepted() {
    let host = Host::up(&[]);
    let options = [
        ("com.docker.network.driver.mtu", "1300"),
        ("com.docker.network.bridge.enable_icc", "false"),
        ("com.docker.network.bridge.enable_ip_masquerade", "0"),
        ("com.docker.network.bridge.host_binding_ipv4", "127.0.0.1"),
    ];
    let words: Vec<String> = options.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let flags: Vec<&str> = words.iter().flat_map(|word| ["--opt", word]).collect();
    host.ok(&[&["network", "create"], &flags[..], &["front"]].concat());
    let shown = inspect(&host, "front");
    for (name, value) in options {
        assert_eq!(shown["options"][name], value, "shown under the name that was given: {shown:#}");
    }
    let [a, b] = ["a", "b"].map(Netns::new);
    let at_a = host.attach(&a, &["--network", "front"]);
    let at_b = host.attach(&b, &["--network", "front"]);
    assert_eq!((at_a.mtu, &a.device("eth0").unwrap()["mtu"]), (1300, &json!(1300)));
    ping(&a, at_a.gateway.unwrap());
    let frame = crate::harness::Frame::new(at_b.mac, at_a.mac, "to a neighbor");
    crate::harness::RawPort::open(&a, "eth0").send(&frame);
    crate::harness::eventually("frames between endpoints are dropped", || {
        (host.counters(a.name()).dropped("isolated") > 0).then_some(())
    });
}

#[test]
fn network_ls_filters_networks() {
    let host = Host::up(&[]);
    host.ok(&["network", "create", "--label", "tier=front", "--subnet", "10.65.0.0/24", "web"]);
    host.ok(&["network", "create", "--label", "tier=back", "--internal", "--subnet", "10.66.0.0/24", "db"]);
    let a = Netns::new("a");
    host.attach(&a, &["--network", "web"]);
    assert_eq!(list(&host, &[]), ["bridge", "db", "host", "none", "web"]);
    for (filter, names) in [
        ("name=b", &["bridge", "db", "web"][..]),
        ("driver=bridge", &["bridge", "db", "web"]),
        ("driver=none", &["none"]),
        ("label=tier", &["db", "web"]),
        ("label=tier=back", &["db"]),
        ("label=tier=none", &[]),
        ("internal=true", &["db"]),
        ("type=custom", &["db", "web"]),
        ("type=builtin", &["bridge", "host", "none"]),
        ("dangling=false", &["web"]),
    ] {
        assert_eq!(list(&host, &["--filter", filter]), names, "{filter}");
    }
    assert_eq!(list(&host, &["-f", "label=tier", "-f", "internal=yes"]), ["db"]);
    let id = inspect(&host, "web")["id"].as_str().unwrap().to_owned();
    assert_eq!(list(&host, &["--filter", &format!("id={}", &id[..10])]), ["web"]);
    for filter in ["tier=front", "internal=perhaps", "type=other"] {
        let line = host.fails(1, &["network", "ls", "--filter", filter]);
        assert!(line.contains(filter) && line.contains("label"), "{line}");
    }

    let table = host.ok(&["network", "ls", "--filter", "name=web"]);
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["NETWORK", "ID", "NAME", "DRIVER", "SUBNETS", "ENDPOINTS"]);
    assert_eq!(rows[1], [&id[..12], "web", "bridge", "10.65.0.0/24", "1"]);
    assert_eq!(host.ok(&["network", "ls", "-q", "--filter", "name=web"]).trim(), &id[..12]);
    let one: Vec<Value> = host.json(&["network", "ls", "--filter", "name=web"]);
    for field in ["id", "name", "driver", "subnets", "internal", "options", "labels", "endpoints", "created"] {
        assert!(!one[0][field].is_null(), "{field} of {one:#?}");
    }
    let two: Vec<Value> = host.json(&["network", "inspect", "db", "web"]);
    assert_eq!((two.len(), &two[0]["name"], &two[1]["name"]), (2, &json!("db"), &json!("web")));
}

#[test]
fn only_networks_without_endpoints_are_removed() {
    let host = Host::up(&[]);
    let before = host.netns.devices();
    for name in ["one", "two", "three", "four"] {
        host.ok(&["network", "create", name]);
    }
    let a = Netns::new("a");
    host.attach(&a, &["--network", "one", "--name", "web"]);
    AtRest::new(&host, &[&a]).refuses(&["network", "rm", "one"], &["network one has active endpoints", "web"]);
    AtRest::new(&host, &[&a]).refuses(&["network", "rm", "two", "three", "nowhere"], &["no network `nowhere`"]);
    let id = inspect(&host, "three")["id"].as_str().unwrap()[..12].to_owned();
    assert_eq!(host.ok(&["network", "rm", "two", &id]), "two\nthree\n");
    let declined = host.run(&["network", "prune"]);
    assert_eq!((declined.code, declined.stdout.as_str()), (Some(1), ""));
    let complaint = declined.stderr.lines().last().unwrap();
    assert!(complaint.starts_with("vswitch: nothing is removed"), "{}", declined.stderr);
    assert_eq!(host.ok(&["network", "prune", "-f"]), "four\n");
    assert_eq!(host.json::<Value>(&["network", "prune", "--force"]), json!({"deleted": []}));
    assert_eq!(list(&host, &[]), ["bridge", "host", "none", "one"]);
    host.ok(&["detach", "web"]);
    host.ok(&["network", "rm", "one"]);
    assert_eq!(host.netns.devices(), before);
}

#[test]
fn predefined_networks_cannot_be_created_or_removed() {
    let host = Host::up(&[]);
    let at_rest = AtRest::new(&host, &[]);
    for name in ["bridge", "host", "none"] {
        at_rest.refuses(&["network", "rm", name], &["pre-defined network", name]);
        at_rest.refuses(&["network", "create", name], &["already exists", name]);
    }
    let id = inspect(&host, "bridge")["id"].as_str().unwrap().to_owned();
    at_rest.refuses(&["network", "rm", &id], &["bridge is a pre-defined network and cannot be removed"]);
    for driver in ["host", "none"] {
        at_rest.refuses(&["network", "create", "-d", driver, "another"], &[driver]);
    }
}

#[test]
fn invalid_networks_are_refused_in_the_words_of_docker() {
    let host = Host::up(&[]);
    host.ok(&["network", "create", "--subnet", "10.67.0.0/24", "--subnet", "fd00:67::/64", "front"]);
    let at_rest = AtRest::new(&host, &[]);
    let refuses = |flags: &str, names: &[&str]| {
        let words: Vec<&str> = ["network", "create"].into_iter().chain(flags.split_whitespace()).collect();
        at_rest.refuses(&words, names);
    };
    let overlap = "Pool overlaps with other one on this address space";
    refuses("--subnet 10.67.0.128/25 x", &[overlap, "10.67.0.128/25", "10.67.0.0/24", "front"]);
    refuses("--subnet fd00:67::/48 x", &[overlap, "fd00:67::/48", "front"]);
    refuses("--subnet 10.201.0.0/16 x", &[overlap, "10.201.0.0/24", "bridge"]);
    refuses("--subnet 10.68.0.0/24 --subnet 10.68.0.0/25 x", &[overlap, "10.68.0.0/25"]);
    refuses("front", &["network with name front already exists"]);
    refuses("--subnet 10.68.0.0/24 --gateway 10.69.0.1 x", &["no matching subnet for gateway", "10.69.0.1"]);
    refuses("--subnet 10.68.0.0/24 --ip-range 10.69.0.0/25 x", &["no matching subnet for range", "10.69.0.0/25"]);
    refuses("--subnet 10.68.0.0/24 --aux-address p=10.69.0.1 x", &["no matching subnet for aux-address", "10.69.0.1"]);
    refuses("--gateway 10.69.0.1 x", &["no matching subnet for gateway", "--subnet"]);
    refuses("--subnet 10.68.0.0/24 --gateway 10.68.0.255 x", &["gateway 10.68.0.255", "10.68.0.0/24"]);
    refuses("--subnet 10.68.0.0/24 --gateway 10.68.0.1 --gateway 10.68.0.2 x", &["multiple gateways", "10.68.0.0/24"]);
    refuses("--subnet 10.68.0.0/24 --aux-address p=10.68.0.1 x", &["p=10.68.0.1", "already in use", "gateway"]);
    refuses(
        "--subnet 10.68.0.0/24 --aux-address p=10.68.0.9 --aux-address q=10.68.0.9 x",
        &["q=10.68.0.9", "already in use", "address p"],
    );
    refuses("--subnet 10.68.0.0/33 x", &["invalid subnet", "10.68.0.0/33"]);
    refuses("--subnet 10.68.0.9/24 x", &["10.68.0.9/24", "10.68.0.0/24"]);
    refuses("--subnet 10.68.0.0/24 --ip-range everything x", &["everything"]);
    refuses("-d warp x", &["warp", "bridge"]);
    let known = ["ageing", "host_binding", "icc", "masquerade", "mtu", "uplink"];
    refuses("-o speed=high x", &[&["unknown option", "speed=high"], &known[..]].concat());
    refuses("-o com.docker.network.bridge.name=br7 x", &["unknown option", "com.docker.network.bridge.name=br7"]);
    refuses("-o icc=perhaps x", &["icc", "perhaps", "true or false"]);
    refuses("-o mtu=67 x", &["mtu", "67"]);
    refuses("-o mtu=high x", &["mtu", "high"]);
    refuses("-o icc x", &["KEY=VALUE"]);
    refuses("--label tier x", &["KEY=VALUE"]);
    refuses("../x", &["../x"]);
    at_rest.refuses(&["network", "inspect", "nowhere"], &["no network `nowhere`"]);
    at_rest.refuses(&["network", "rm", "nowhere"], &["no network `nowhere`"]);

    let outcome = host.run(&["network", "create", "front", "--format", "json"]);
    let error: Value = serde_json::from_str(&outcome.stderr).unwrap();
    assert_eq!((outcome.code, &error["error"]["code"]), (Some(1), &json!("network_exists")), "{error:#}");
}

#[test]
fn unavailable_addresses_are_refused() {
    let host = Host::up(&[]);
    let create = "network create --subnet 10.70.0.0/29 --ip-range 10.70.0.4/31 --aux-address nas=10.70.0.6 small";
    host.ok(&create.split(' ').collect::<Vec<_>>());
    host.ok(&["network", "create", "--subnet", "10.71.0.0/24", "--subnet", "fd00:71::/64", "large"]);
    let [a, b, c] = ["a", "b", "c"].map(Netns::new);
    for (container, name) in [(&a, "web"), (&b, "db")] {
        host.attach(container, &["--network", "small", "--name", name]);
    }
    let at_rest = AtRest::new(&host, &[&a, &b, &c]);
    let refuses = |flags: &str, names: &[&str]| {
        let path = c.path_argument();
        let words = ["attach", "--netns", &path, "--network"].into_iter().chain(flags.split_whitespace());
        at_rest.refuses(&words.collect::<Vec<_>>(), names);
    };
    refuses("small", &["no available address", "small", "10.70.0.4/31"]);
    refuses("small --ip 10.70.0.4", &["10.70.0.4", "already in use", "endpoint web"]);
    refuses("small --ip 10.70.0.1", &["10.70.0.1", "already in use", "gateway"]);
    refuses("small --ip 10.70.0.6", &["10.70.0.6", "already in use", "nas"]);
    refuses("small --ip 10.70.0.7", &["10.70.0.7", "10.70.0.0/29"]);
    refuses("small --ip 10.71.0.2", &["10.71.0.2", "10.70.0.0/29"]);
    refuses("bridge --ip6 fd00:71::9", &["fd00:71::9", "supported only when the network has IPv6 subnets"]);
    refuses("large --ip6 fd00:72::9", &["fd00:72::9", "fd00:71::/64"]);
    refuses("large --ip6 10.71.0.2", &["10.71.0.2", "--ip"]);
    refuses("large --ip fd00:71::2", &["fd00:71::2", "--ip6"]);
    refuses("nowhere", &["no network `nowhere`"]);
    drop(at_rest);
    // An address outside the range may be assigned if it is given explicitly.
    let at_c = host.attach(&c, &["--network", "small", "--ip", "10.70.0.2"]);
    ping(&c, at_c.gateway.unwrap());
}
