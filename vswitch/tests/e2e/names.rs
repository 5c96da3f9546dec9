//! DNS names: the answers of a gateway to a container, their effect on the C library's resolver,
//! and the questions that are forwarded to the host's resolvers.

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    net::{IpAddr, Ipv4Addr, TcpStream, UdpSocket},
    path::{Path, PathBuf},
};

use crate::harness::{
    Answer, Attached, Host, Netns, Resolver, Surroundings, ask, ask_tcp, dig, eventually, getent, resolv_confs_of,
};

/// Creates a network with the subnets 10.NUMBER.0.0/24 and fd00:NUMBER::/64.
fn create_network(host: &Host, number: u8, name: &str, options: &[&str]) {
    let [ipv4, ipv6] = [format!("10.{number}.0.0/24"), format!("fd00:{number}::/64")];
    host.ok(&[&["network", "create", "--subnet", &ipv4, "--subnet", &ipv6], options, &[name]].concat());
}

/// Returns the expected answers for an endpoint by record type.
fn answers_for(endpoint: &Attached) -> [(&'static str, Answer); 2] {
    [("A", Answer::of(&[&endpoint.ipv4])), ("AAAA", Answer::of(&[&endpoint.ipv6.unwrap()]))]
}

/// Returns the path of the file that `ip netns exec` mounts over /etc/resolv.conf.
fn resolv_conf(netns: &Netns) -> PathBuf {
    Path::new("/etc/netns").join(netns.name()).join("resolv.conf")
}

#[test]
fn an_endpoint_is_found_by_all_its_names() {
    let host = Host::up(&[]);
    create_network(&host, 101, "front", &[]);
    let [a, b] = ["a", "b"].map(Netns::new);
    let flags =
        ["--network", "front", "--name", "web", "--hostname", "www.example", "--alias", "api", "--alias", "Shop"];
    let at_a = host.attach(&a, &flags);
    host.attach(&b, &["--network", "front", "--name", "client"]);
    let servers: [IpAddr; 2] = [at_a.gateway.unwrap().into(), at_a.gateway6.unwrap().into()];
    for server in servers {
        let names =
            ["web", "WEB", "web.front", "api", "api.front", "shop", "www.example", "www.example.front", &at_a.id[..12]];
        for name in names {
            for (kind, answer) in answers_for(&at_a) {
                assert_eq!(ask(&b, server, name, kind), answer, "{name} {kind} @{server}");
                assert_eq!(ask_tcp(&b, server, name, kind), answer, "{name} {kind} @{server} by TCP");
            }
        }
        for address in [IpAddr::from(at_a.ipv4), at_a.ipv6.unwrap().into()] {
            let name = Answer::of(&[&"web.front."]);
            assert_eq!(ask(&b, server, &address.to_string(), "PTR"), name);
            assert_eq!(ask_tcp(&b, server, &address.to_string(), "PTR"), name);
        }
        // The name exists but has no record of this type: NOERROR with an empty answer.
        assert_eq!(ask(&b, server, "web", "TXT"), Answer::of(&[]));
        // An unassigned address of one of our subnets is answered NXDOMAIN and not forwarded.
        assert_eq!(ask(&b, server, "10.101.0.99", "PTR"), Answer::no_such_name());
        assert_eq!(ask(&b, server, "fd00:101::99", "PTR"), Answer::no_such_name());
    }
}

#[test]
fn dig_finds_endpoints() {
    let host = Host::up(&[]);
    create_network(&host, 101, "front", &[]);
    let [a, b] = ["a", "b"].map(Netns::new);
    let at_a = host.attach(&a, &["--network", "front", "--name", "web"]);
    host.attach(&b, &["--network", "front", "--name", "client"]);
    let (ipv4, ipv6) = (at_a.ipv4.to_string(), at_a.ipv6.unwrap().to_string());
    for server in [IpAddr::from(at_a.gateway.unwrap()), at_a.gateway6.unwrap().into()] {
        for transport in ["+notcp", "+tcp"] {
            for (words, answer) in [
                (&["web", "A"][..], ipv4.as_str()),
                (&["web", "AAAA"], &ipv6),
                (&["web.front"], &ipv4),
                (&["-x", &ipv4], "web.front."),
                (&["-x", &ipv6], "web.front."),
            ] {
                let Some(lines) = dig(&b, server, &[&[transport], words].concat()) else { return };
                assert_eq!(lines, [answer], "{words:?} {transport} @{server}");
            }
        }
    }
}

#[test]
fn programs_in_a_namespace_find_their_neighbors() {
    let host = Host::up(&[]);
    create_network(&host, 101, "front", &[]);
    let [a, b] = ["a", "b"].map(Netns::new);
    let at_a = host.attach(&a, &["--network", "front", "--name", "web", "--alias", "api"]);
    let at_b = host.attach(&b, &["--network", "front", "--name", "client"]);
    for name in ["web", "api", "web.front"] {
        assert_eq!(getent(&b, "ahostsv4", name), [at_a.ipv4.to_string()], "{name}");
        assert_eq!(getent(&b, "ahostsv6", name), [at_a.ipv6.unwrap().to_string()], "{name}");
    }
    assert_eq!(getent(&a, "ahostsv4", "client"), [at_b.ipv4.to_string()]);
    assert_eq!(getent(&b, "hosts", &at_a.ipv4.to_string()), ["web.front"]);
    assert_eq!(getent(&b, "hosts", &at_a.ipv6.unwrap().to_string()), ["web.front"]);
}

#[test]
fn names_work_on_the_predefined_network() {
    let host = Host::up(&[]);
    let [a, b] = ["a", "b"].map(Netns::new);
    let at_a = host.attach(&a, &["--name", "web"]);
    host.attach(&b, &["--name", "client"]);
    assert_eq!(getent(&b, "hosts", "web"), [at_a.ipv4.to_string()]);
    assert_eq!(ask(&b, at_a.gateway.unwrap(), "web.bridge", "A"), Answer::of(&[&at_a.ipv4]));
    assert_eq!(ask(&b, at_a.gateway.unwrap(), "web", "AAAA"), Answer::of(&[]));
    assert_eq!(ask(&b, at_a.gateway.unwrap(), &at_a.ipv4.to_string(), "PTR"), Answer::of(&[&"web.bridge."]));
}

#[test]
fn endpoints_with_one_alias_take_turns_in_answers() {
    let host = Host::up(&[]);
    create_network(&host, 101, "front", &[]);
    let containers = Netns::several("c", 3);
    let endpoints: Vec<Attached> =
        containers.iter().map(|container| host.attach(container, &["--network", "front", "--alias", "pool"])).collect();
    let client = Netns::new("client");
    host.attach(&client, &["--network", "front"]);
    let server = endpoints[0].gateway.unwrap();
    let all: BTreeSet<String> = endpoints.iter().map(|endpoint| endpoint.ipv4.to_string()).collect();
    let all6: BTreeSet<String> = endpoints.iter().map(|endpoint| endpoint.ipv6.unwrap().to_string()).collect();
    for (kind, all) in [("A", &all), ("AAAA", &all6)] {
        let mut first = BTreeSet::new();
        for _ in 0..3 {
            let answer = ask(&client, server, "pool", kind);
            assert_eq!(
                answer.data.iter().cloned().collect::<BTreeSet<_>>(),
                *all,
                "every answer has the addresses of all endpoints"
            );
            first.insert(answer.data[0].clone());
        }
        assert_eq!(first, *all, "each address is the first one in one of three answers");
    }
    host.ok(&["detach", containers[1].name()]);
    let left = ask(&client, server, "pool", "A").sorted().data;
    let mut expected = vec![endpoints[0].ipv4.to_string(), endpoints[2].ipv4.to_string()];
    expected.sort();
    assert_eq!(left, expected);
}

#[test]
fn a_name_resolves_only_in_the_networks_of_its_endpoint() {
    let host = Host::with_resolv_conf("");
    host.start(&[]);
    create_network(&host, 101, "front", &[]);
    create_network(&host, 102, "back", &[]);
    create_network(&host, 103, "far", &[]);
    let [web, db, client, outsider] = ["web", "db", "client", "outsider"].map(Netns::new);
    let at_web = host.attach(&web, &["--network", "front", "--name", "web"]);
    let at_db = host.attach(&db, &["--network", "back", "--name", "db", "--alias", "store"]);
    host.attach(&client, &["--network", "front", "--name", "client"]);
    let at_outsider = host.attach(&outsider, &["--network", "far", "--name", "outsider"]);
    let server = at_web.gateway.unwrap();
    let assert_unknown = |name: &str, kind: &str| {
        // No resolver is configured, so the question cannot be forwarded.
        assert_ne!(ask(&client, server, name, kind).code, hickory_proto::op::ResponseCode::NoError, "{name}");
    };
    for name in ["db", "store", "db.back", "outsider"] {
        assert_unknown(name, "A");
        assert_eq!(getent(&client, "hosts", name), Vec::<String>::new(), "{name}");
    }
    let alias = ["network", "connect", "--alias", "shop", "back", "client"];
    host.ok(&alias);
    // Both gateways of the client answer for all of the client's networks.
    for server in [at_web.gateway.unwrap(), at_db.gateway.unwrap()] {
        for name in ["db", "store", "db.back"] {
            assert_eq!(ask(&client, server, name, "A"), Answer::of(&[&at_db.ipv4]), "{name} @{server}");
        }
        assert_eq!(ask(&client, server, "web", "A"), Answer::of(&[&at_web.ipv4]));
        assert_eq!(ask(&client, server, &at_db.ipv4.to_string(), "PTR"), Answer::of(&[&"db.back."]));
    }
    assert_unknown("outsider", "A");
    assert_eq!(getent(&client, "ahostsv4", "db"), [at_db.ipv4.to_string()]);
    // An alias is valid only in the network for which it was given.
    let in_back =
        host.ps().into_iter().find(|endpoint| endpoint.name == "client" && endpoint.network == "back").unwrap();
    assert_eq!(ask(&db, at_db.gateway.unwrap(), "shop", "A"), Answer::of(&[&in_back.ipv4]));
    assert_ne!(ask(&web, server, "shop", "A").code, hickory_proto::op::ResponseCode::NoError);
    assert_eq!(ask(&outsider, at_outsider.gateway.unwrap(), "outsider", "A"), Answer::of(&[&at_outsider.ipv4]));

    host.ok(&["network", "disconnect", "back", "client"]);
    assert_unknown("db", "A");
    host.ok(&["detach", "web"]);
    assert_unknown("web", "A");
}

#[test]
fn a_reused_name_resolves_to_the_new_endpoint() {
    let host = Host::up(&[]);
    create_network(&host, 101, "front", &[]);
    let [a, b, client] = ["a", "b", "client"].map(Netns::new);
    host.attach(&client, &["--network", "front"]);
    let at_a = host.attach(&a, &["--network", "front", "--name", "web", "--ip", "10.101.0.50"]);
    assert_eq!(getent(&client, "ahostsv4", "web"), ["10.101.0.50"]);
    host.ok(&["detach", "web"]);
    let at_b = host.attach(&b, &["--network", "front", "--name", "web", "--ip", "10.101.0.60"]);
    assert_ne!(at_a.ipv4, at_b.ipv4);
    assert_eq!(getent(&client, "ahostsv4", "web"), ["10.101.0.60"]);
}

#[test]
fn a_network_that_is_removed_and_created_again_has_names_again() {
    let host = Host::up(&[]);
    let a = Netns::new("a");
    for _ in 0..3 {
        create_network(&host, 101, "front", &[]);
        let at_a = host.attach(&a, &["--network", "front", "--name", "web"]);
        assert_eq!(ask(&a, at_a.gateway.unwrap(), "web", "A"), Answer::of(&[&at_a.ipv4]));
        assert_eq!(ask_tcp(&a, at_a.gateway6.unwrap(), "web", "AAAA"), Answer::of(&[&at_a.ipv6.unwrap()]));
        host.ok(&["detach", "web"]);
        host.ok(&["network", "rm", "front"]);
    }
    let notes = host.json::<serde_json::Value>(&["status"])["notes"].to_string();
    assert!(!notes.contains("no names"), "{notes}");
}

#[test]
fn names_resolve_again_after_the_daemon_was_killed() {
    let host = Host::up(&[]);
    create_network(&host, 101, "front", &[]);
    let [a, b] = ["a", "b"].map(Netns::new);
    let at_a = host.attach(&a, &["--network", "front", "--name", "web", "--alias", "api"]);
    host.attach(&b, &["--network", "front"]);
    host.kill_daemon();
    host.start(&[]);
    assert_eq!(getent(&b, "ahostsv4", "api"), [at_a.ipv4.to_string()]);
    host.stop(&[]);
    host.start(&[]);
    assert_eq!(getent(&b, "ahostsv4", "api"), [at_a.ipv4.to_string()]);
}

/// Starts a host whose resolver is a machine on a link of the host.
fn start_with_upstream(names: &[(&str, Ipv4Addr)]) -> (Resolver, Netns, Host) {
    let host = Host::with_resolv_conf("nameserver 192.0.2.53\n");
    let wire = Netns::new("wire");
    host.netns.wire("up0", &wire, "eth0");
    host.netns.ip("address add 192.0.2.1/24 dev up0");
    wire.ip("address add 192.0.2.53/24 dev eth0");
    wire.ip("address add 192.0.2.54/24 dev eth0");
    let resolver = Resolver::start(&wire, Ipv4Addr::new(192, 0, 2, 53), names);
    host.start(&[]);
    (resolver, wire, host)
}

#[test]
fn other_names_are_forwarded_to_the_hosts_resolvers() {
    let example = Ipv4Addr::new(198, 51, 100, 7);
    let (resolver, wire, host) = start_with_upstream(&[("www.example.com", example)]);
    create_network(&host, 101, "front", &[]);
    let a = Netns::new("a");
    let at_a = host.attach(&a, &["--network", "front", "--name", "web"]);
    for server in [IpAddr::from(at_a.gateway.unwrap()), at_a.gateway6.unwrap().into()] {
        assert_eq!(ask(&a, server, "www.example.com", "A"), Answer::of(&[&example]));
        assert_eq!(ask(&a, server, "nowhere.example.com", "A"), Answer::no_such_name());
        assert_eq!(ask(&a, server, "web", "A"), Answer::of(&[&at_a.ipv4]));
    }
    assert_eq!(getent(&a, "ahostsv4", "www.example.com"), [example.to_string()]);
    let asked: BTreeSet<String> = resolver.asked().into_iter().collect();
    assert!(asked.contains("www.example.com") && !asked.contains("web"), "{asked:?}");

    // A changed resolv.conf takes effect from the next question on.
    let other = Ipv4Addr::new(198, 51, 100, 8);
    let second = Resolver::start(&wire, Ipv4Addr::new(192, 0, 2, 54), &[("www.example.com", other)]);
    host.write_resolv_conf("# changed\nnameserver 192.0.2.54\n");
    assert_eq!(ask(&a, at_a.gateway.unwrap(), "www.example.com", "A"), Answer::of(&[&other]));
    assert_eq!(second.asked(), ["www.example.com"]);
}

#[test]
fn an_internal_network_forwards_no_questions() {
    let (resolver, _wire, host) = start_with_upstream(&[("www.example.com", Ipv4Addr::new(198, 51, 100, 7))]);
    create_network(&host, 101, "inside", &["--internal"]);
    create_network(&host, 102, "front", &[]);
    let [a, b] = ["a", "b"].map(Netns::new);
    let at_a = host.attach(&a, &["--network", "inside", "--name", "web"]);
    host.attach(&b, &["--network", "inside", "--name", "client"]);
    assert_eq!(getent(&b, "ahostsv4", "web"), [at_a.ipv4.to_string()]);
    let server = Ipv4Addr::new(10, 101, 0, 1);
    for kind in ["A", "AAAA", "TXT"] {
        assert_eq!(ask(&b, server, "www.example.com", kind), Answer::no_such_name());
    }
    assert_eq!(ask_tcp(&b, server, "secret.example.com", "A"), Answer::no_such_name());
    assert_eq!(ask(&b, server, "8.8.8.8", "PTR"), Answer::no_such_name());
    assert_eq!(resolver.asked(), Vec::<String>::new());
    // An endpoint that is also in an external network may resolve external names.
    host.ok(&["network", "connect", "front", "client"]);
    assert_eq!(getent(&b, "ahostsv4", "www.example.com"), ["198.51.100.7"]);
}

#[test]
fn a_stalled_client_does_not_delay_other_clients() {
    // The resolver receives questions and never answers.
    let host = Host::with_resolv_conf("nameserver 192.0.2.53\n");
    let wire = Netns::new("wire");
    host.netns.wire("up0", &wire, "eth0");
    host.netns.ip("address add 192.0.2.1/24 dev up0");
    wire.ip("address add 192.0.2.53/24 dev eth0");
    let silent = wire.inside(|| UdpSocket::bind("192.0.2.53:53")).unwrap();
    host.start(&[]);
    create_network(&host, 101, "front", &[]);
    let [a, b] = ["a", "b"].map(Netns::new);
    let at_a = host.attach(&a, &["--network", "front", "--name", "web"]);
    host.attach(&b, &["--network", "front", "--name", "client"]);
    let server = at_a.gateway.unwrap();

    // Connections that send nothing or only a part of a question.
    let idle: Vec<TcpStream> =
        (0..10).map(|_| b.inside(|| TcpStream::connect((server, 53))).expect("a connection")).collect();
    for (number, stream) in idle.iter().enumerate() {
        let half = [0, 40, 7];
        let mut stream = stream;
        stream.write_all(&half[..number % 4]).unwrap();
    }
    // A question that the resolver never answers.
    let waiting = b.inside(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
    waiting.connect((server, 53)).unwrap();
    let mut question = hickory_proto::op::Message::query();
    let name = hickory_proto::rr::Name::from_ascii("slow.example.com.").unwrap();
    question.add_query(hickory_proto::op::Query::query(name, hickory_proto::rr::RecordType::A));
    waiting.send(&question.to_vec().unwrap()).unwrap();
    silent.set_read_timeout(Some(crate::harness::PATIENCE)).unwrap();
    silent.recv(&mut [0; 512]).expect("the question reaches the resolver");

    for _ in 0..20 {
        assert_eq!(ask(&b, server, "web", "A"), Answer::of(&[&at_a.ipv4]));
        assert_eq!(ask_tcp(&b, server, "web", "A"), Answer::of(&[&at_a.ipv4]));
        assert_eq!(ask_tcp(&a, server, "client.front", "AAAA").data.len(), 1);
    }
    // The server has closed none of the idle connections in the meantime.
    for stream in &idle {
        stream.set_nonblocking(true).unwrap();
        let peeked = stream.peek(&mut [0; 1]).map_err(|error| error.kind());
        assert_eq!(peeked, Err(std::io::ErrorKind::WouldBlock));
    }
}

#[test]
fn a_named_namespace_has_a_resolv_conf_while_it_is_attached() {
    let host = Host::with_resolv_conf("nameserver 192.0.2.53\nsearch example.com\noptions ndots:2\n");
    host.start(&[]);
    create_network(&host, 101, "front", &[]);
    create_network(&host, 102, "back", &[]);
    let a = Netns::new("a");
    let file = resolv_conf(&a);
    let nameservers = || {
        let text = fs::read_to_string(&file).unwrap();
        let lines = text.lines().filter_map(|line| line.strip_prefix("nameserver "));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    host.attach(&a, &["--network", "front", "--name", "web"]);
    assert_eq!(nameservers(), ["10.101.0.1", "fd00:101::1"]);
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("\nsearch example.com\n") && text.contains("\noptions ndots:2\n"), "{text}");
    host.ok(&["network", "connect", "back", "web"]);
    assert!(nameservers().contains(&"10.102.0.1".to_owned()), "{:?}", nameservers());
    host.ok(&["network", "disconnect", "front", "web"]);
    assert_eq!(nameservers(), ["10.102.0.1", "fd00:102::1"]);
    host.ok(&["detach", "web"]);
    assert!(!file.parent().unwrap().exists());

    host.attach(&a, &["--network", "front"]);
    host.stop(&[]);
    assert!(!file.parent().unwrap().exists());
    host.start(&[]);
    assert_eq!(nameservers(), ["10.101.0.1", "fd00:101::1"]);
    // After a daemon was killed, the next daemon or `down` removes the file.
    host.kill_daemon();
    host.stop(&[]);
    assert!(!file.parent().unwrap().exists());
    host.start(&[]);

    // The file is removed together with the namespace for which it was written.
    assert_eq!(resolv_confs_of(host.instance()), [file.clone()].into());
    a.delete();
    eventually("the file of the deleted namespace is removed", || {
        resolv_confs_of(host.instance()).is_empty().then_some(())
    });
    assert!(!file.parent().unwrap().exists());
}

/// A directory of the user in /etc/netns, removed when dropped.
struct OwnFiles(PathBuf);

impl Drop for OwnFiles {
    fn drop(&mut self) {
        let _removed = fs::remove_dir_all(&self.0);
        // Fails if other files are there, which must stay.
        let _emptied = fs::remove_dir("/etc/netns");
    }
}

#[test]
fn a_resolv_conf_written_by_the_user_is_kept() {
    let host = Host::up(&[]);
    let a = Netns::new("a");
    let file = resolv_conf(&a);
    let directory = OwnFiles(file.parent().unwrap().to_owned());
    fs::create_dir_all(&directory.0).unwrap();
    fs::write(&file, "nameserver 192.0.2.53\n").unwrap();
    let before = Surroundings::of(&host, &[&a]);
    host.attach(&a, &[]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "nameserver 192.0.2.53\n");
    host.ok(&["detach", a.name()]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "nameserver 192.0.2.53\n");
    eventually("detach restores the state from before attach", || {
        (Surroundings::of(&host, &[&a]) == before).then_some(())
    });
    host.attach(&a, &[]);
    host.stop(&[]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "nameserver 192.0.2.53\n");
}

#[test]
fn an_endpoint_on_the_host_is_found_by_its_name() {
    let host = Host::up(&[]);
    create_network(&host, 101, "front", &[]);
    let a = Netns::new("a");
    let at_a = host.attach(&a, &["--network", "front"]);
    let gateways = [IpAddr::from(at_a.gateway.unwrap()), at_a.gateway6.unwrap().into()];
    let running =
        crate::harness::spawn(&mut host.command(&["run", "--network", "host", "--name", "agent", "sleep", "10000"]));
    // The name resolves to the gateway, because the ports of the host are reached there from this
    // network.
    eventually("the name resolves", || {
        (ask(&a, gateways[0], "agent", "A") == Answer::of(&[&gateways[0]])).then_some(())
    });
    assert_eq!(ask(&a, gateways[0], "agent", "AAAA"), Answer::of(&[&gateways[1]]));
    nix::sys::signal::kill(running.id(), nix::sys::signal::Signal::SIGTERM).unwrap();
    running.outcome();
}
