//! The resolv.conf of containers, and hosts whose first resolvers are slow, dead or oddly written.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, UdpSocket},
};

use crate::harness::{Answer, Host, Netns, Resolver, ask, ask_tcp, getent};

#[test]
fn names_of_containers_come_before_search_domains_and_dead_resolvers_delay_one_query() {
    let host = Host::with_resolv_conf("nameserver 192.0.2.53\nsearch example.com\noptions timeout:3\n");
    let wire = Netns::new("wire");
    host.netns.wire("up0", &wire, "eth0");
    host.netns.ip("address add 192.0.2.1/24 dev up0");
    for address in ["192.0.2.53", "192.0.2.54"] {
        wire.ip(&format!("address add {address}/24 dev eth0"));
    }
    let [wildcard, www] = [7, 8].map(|last| Ipv4Addr::new(198, 51, 100, last));
    // The search domain has an answer for every name, as a wildcard does.
    let names = [("db.example.com", wildcard), ("db.front.example.com", wildcard), ("www.example.com", www)];
    let resolver = Resolver::start(&wire, Ipv4Addr::new(192, 0, 2, 53), &names);
    host.start(&[]);
    host.ok(&["network", "create", "--subnet", "10.101.0.0/24", "front"]);
    let [db, client] = ["db", "client"].map(Netns::new);
    let at_db = host.attach(&db, &["--network", "front", "--name", "db"]);
    host.attach(&client, &["--network", "front", "--name", "client"]);
    let server = at_db.gateway.unwrap();

    let file = std::fs::read_to_string(format!("/etc/netns/{}/resolv.conf", client.name())).unwrap();
    let lines: Vec<&str> = file.lines().skip(1).collect();
    assert_eq!(lines, ["nameserver 10.101.0.1", "search example.com", "options timeout:3", "options ndots:0"]);
    for name in ["db", "db.front"] {
        assert_eq!(getent(&client, "ahostsv4", name), [at_db.ipv4.to_string()], "{name}");
        let outcome = host.run(&["run", "--network", "front", "--", "getent", "ahostsv4", name]);
        assert!(outcome.stdout.starts_with(&format!("{} ", at_db.ipv4)), "{name}: {outcome:#?}");
    }
    // The search domain is still there for other names.
    assert_eq!(getent(&client, "ahostsv4", "www"), [www.to_string()]);
    let outcome = host.run(&["run", "--network", "front", "--", "cat", "/etc/resolv.conf"]);
    assert_eq!(outcome.stdout.lines().collect::<Vec<_>>(), lines, "{outcome:#?}");

    // A silent resolver gets the first query. It is not waited for again.
    let silent = wire.inside(|| UdpSocket::bind("192.0.2.54:53")).unwrap();
    silent.set_nonblocking(true).unwrap();
    host.write_resolv_conf("nameserver 192.0.2.54\nnameserver 192.0.2.53\n");
    let asked_silent = || {
        let queries = std::iter::repeat_with(|| silent.recv(&mut [0; 512]));
        queries.take_while(|query| query.as_ref().map_err(std::io::Error::kind) != Err(ErrorKind::WouldBlock)).count()
    };
    for _ in 0..5 {
        assert_eq!(ask(&client, server, "www.example.com", "A"), Answer::of(&[&www]));
    }
    assert_eq!(asked_silent(), 1);

    // An address with a port, and a resolver without a link: the second is used.
    for first in ["192.0.2.54", "192.0.2.77", "203.0.113.1", "127.0.0.53"] {
        host.write_resolv_conf(&format!("nameserver {first}\nnameserver 192.0.2.53#53\n"));
        assert_eq!(ask(&client, server, "www.example.com", "A"), Answer::of(&[&www]), "{first}");
    }
    assert!(resolver.asked().iter().all(|name| name != "db.example.com"), "{:?}", resolver.asked());
    assert_eq!(ask_tcp(&client, server, "db", "A"), Answer::of(&[&at_db.ipv4]));
}
