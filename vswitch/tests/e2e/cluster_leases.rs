//! Addresses, names and networks are unique in a cluster.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    thread,
};

use crate::harness::{Attached, Clustered, Family, Netns, Outcome, both, complaint, eventually, ping, run, settles};

/// Number of namespaces per host. All are attached to one network that has room for only a few
/// more.
const EACH: usize = 67;
/// Number of commands that run at the same time on each host.
const AT_ONCE: usize = 8;

/// Runs a command for each namespace of each host, on all hosts at once.
fn run_on_all(cluster: &Clustered, crowds: &[Vec<Netns>], command: &[&str]) -> Vec<(usize, Outcome)> {
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for (number, crowd) in crowds.iter().enumerate() {
            for part in crowd.chunks(EACH.div_ceil(AT_ONCE)) {
                threads.push(scope.spawn(move || {
                    let run = |netns: &Netns| {
                        let path = netns.path_argument();
                        let words = [command, &["--netns", &path, "--format", "json"]].concat();
                        (number, cluster.hosts[number].run(&words))
                    };
                    part.iter().map(run).collect::<Vec<_>>()
                }));
            }
        }
        threads.into_iter().flat_map(|thread| thread.join().expect("the thread ends")).collect()
    })
}

#[test]
fn two_hundred_concurrent_attaches_on_three_hosts_get_distinct_addresses() {
    let cluster = Clustered::down(3, Family::V4);
    (0..3).for_each(|number| drop(cluster.join(number)));
    let create =
        ["network", "create", "-d", "overlay", "--subnet", "10.77.0.0/24", "--subnet", "fd00:77::/64", "crowd"];
    cluster.hosts[0].ok(&create);
    (0..3).for_each(|number| cluster.wait_for_network(number, "crowd"));
    let crowds: Vec<_> = (0..3).map(|number| Netns::several(&format!("h{number}"), EACH)).collect();

    let attached: Vec<(usize, Attached)> = run_on_all(&cluster, &crowds, &["attach", "--network", "crowd"])
        .into_iter()
        .map(|(number, outcome)| {
            assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""), "{outcome:#?}");
            (number, serde_json::from_str(&outcome.stdout).expect("JSON"))
        })
        .collect();
    let all = 3 * EACH;
    let addresses: BTreeSet<IpAddr> = attached.iter().flat_map(|(_, at)| both(at)).collect();
    assert_eq!(addresses.len(), 2 * all, "an address was handed out twice");
    let gateways =
        [attached[0].1.gateway.expect("a gateway").into(), attached[0].1.gateway6.expect("a gateway").into()];
    assert!(gateways.iter().all(|gateway: &IpAddr| !addresses.contains(gateway)));
    let [names, macs] = [
        attached.iter().map(|(_, at)| at.name.clone()).collect::<BTreeSet<_>>(),
        attached.iter().map(|(_, at)| at.mac.to_string()).collect(),
    ];
    assert_eq!((names.len(), macs.len()), (all, all));
    let kinds = ["addresses", "names", "endpoints"].map(|kind| cluster.keys(kind).len());
    assert_eq!(kinds, [2 * all, all, all]);

    // Every host has static FDB entries for all endpoints of the other hosts.
    for number in 0..3 {
        let expected: BTreeMap<_, _> = attached
            .iter()
            .filter(|(place, _)| *place != number)
            .map(|(place, at)| (at.mac.to_string(), cluster.peer(*place)))
            .collect();
        settles(&format!("host {number} has all static entries"), || {
            let stations = cluster.hosts[number].fdb(&["--network", "crowd", "--static"]);
            let peers: BTreeMap<_, _> = stations
                .into_iter()
                .filter(|station| (0..3).any(|peer| station.port == cluster.peer(peer)))
                .map(|station| (station.mac.to_string(), station.port))
                .collect();
            if peers == expected { Ok(()) } else { Err((peers.len(), expected.len())) }
        });
        assert_eq!(cluster.status(number).endpoints, 2 * EACH);
    }
    for (place, at) in attached.iter().filter(|(place, _)| *place != 0).step_by(10) {
        both(at).into_iter().for_each(|address| ping(&crowds[0][*place], address));
    }

    for (_, outcome) in run_on_all(&cluster, &crowds, &["detach"]) {
        assert_eq!(outcome.code, Some(0), "{outcome:#?}");
    }
    eventually("all claims are released", || {
        ["addresses", "names", "endpoints"].iter().all(|kind| cluster.keys(kind).is_empty()).then_some(())
    });
    for number in 0..3 {
        eventually(&format!("host {number} sees no endpoint"), || {
            (cluster.status(number).endpoints == 0).then_some(())
        });
    }
    cluster.hosts[2].ok(&["network", "rm", "crowd"]);
}

#[test]
fn one_of_several_concurrent_claims_succeeds() {
    let cluster = Clustered::up(3, Family::V4, Clustered::LONG);
    let rivals = Netns::several("rival", 3);
    // Runs one command on each host at the same time. Returns the host that succeeded, and checks
    // the messages of the others.
    let race = |command: &dyn Fn(usize) -> Vec<String>, words: &[&str]| -> usize {
        let commands: Vec<_> = (0..3).map(command).collect();
        let outcomes: Vec<Outcome> = thread::scope(|scope| {
            let cluster = &cluster;
            let start = |(number, command): (usize, &Vec<String>)| {
                let words: Vec<String> = command.clone();
                scope.spawn(move || {
                    let words: Vec<&str> = words.iter().map(String::as_str).collect();
                    run(&mut cluster.hosts[number].command(&words))
                })
            };
            let threads: Vec<_> = commands.iter().enumerate().map(start).collect();
            threads.into_iter().map(|thread| thread.join().expect("the thread ends")).collect()
        });
        let winners: Vec<usize> = (0..3).filter(|number| outcomes[*number].code == Some(0)).collect();
        assert_eq!(winners.len(), 1, "{outcomes:#?}");
        for loser in (0..3).filter(|number| *number != winners[0]) {
            let line = complaint(1, &outcomes[loser]);
            words.iter().for_each(|word| assert!(line.contains(word), "{word}: {line}"));
        }
        winners[0]
    };
    let text = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    for round in 0..4 {
        let netns = |number: usize| rivals[number].path_argument();
        let by_name =
            |number: usize| text(&["attach", "--network", "net", "--name", "same", "--netns", &netns(number)]);
        let winner = race(&by_name, &["same", "already exists"]);
        cluster.hosts[winner].ok(&["detach", "--netns", &netns(winner)]);
        let ip = format!("10.10.99.{}", round + 2);
        let by_address = |number: usize| text(&["attach", "--network", "net", "--ip", &ip, "--netns", &netns(number)]);
        let winner = race(&by_address, &[&ip, "in use"]);
        cluster.hosts[winner].ok(&["detach", "--netns", &netns(winner)]);
        let network = format!("n{round}");
        let by_network = |_| text(&["network", "create", "-d", "overlay", &network]);
        race(&by_network, &[&network, "already exists"]);
    }
    // The refused commands have left nothing in etcd.
    eventually("the claims of the losers are released", || {
        let left = ["addresses", "names", "endpoints", "networks"].map(|kind| cluster.keys(kind).len());
        (left == [6, 3, 3, 5]).then_some(())
    });
    // Different networks created at the same time get a VNI and a subnet each.
    let mut number = 0..;
    for _ in 0..2 {
        let created = thread::scope(|scope| {
            let threads: Vec<_> = (0..3)
                .map(|host| {
                    let (cluster, name) = (&cluster, format!("x{}", number.next().expect("endless")));
                    scope.spawn(move || cluster.hosts[host].run(&["network", "create", "-d", "overlay", &name]))
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("the thread ends")).collect::<Vec<_>>()
        });
        assert!(created.iter().all(|outcome| outcome.code == Some(0)), "{created:#?}");
    }
    assert_eq!(cluster.keys("vnis").len(), 11);
}

#[test]
fn an_endpoint_connected_later_is_known_on_other_hosts() {
    let cluster = Clustered::up(2, Family::V4, Clustered::LONG);
    cluster.hosts[1].ok(&["network", "create", "local"]);
    let web = Netns::new("web");
    cluster.hosts[1].attach(&web, &["--network", "local", "--name", "web"]);
    cluster.hosts[1].ok(&["network", "connect", "--alias", "www", "net", "web"]);
    let at = cluster.hosts[1]
        .ps()
        .into_iter()
        .find(|at| at.name == "web" && at.network == "net")
        .expect("the endpoint is attached");
    cluster.wait_for_entry(0, at.mac, 1);
    cluster.wait_for_name(0, "web", &at);
    cluster.wait_for_name(0, "www", &at);
    both(&at).into_iter().for_each(|address| ping(&cluster.containers[0], address));
    assert_eq!(cluster.keys("endpoints").len(), 3, "the endpoint of the local network is not in etcd");
    cluster.hosts[1].ok(&["network", "disconnect", "net", "web"]);
    cluster.wait_for_no_entry(0, at.mac);
    cluster.wait_for_no_name(0, "www.net");
    eventually("its addresses are released", || (cluster.keys("addresses").len() == 4).then_some(()));
}

#[test]
fn a_full_network_is_reported_and_a_released_address_is_usable_on_another_host() {
    let cluster = Clustered::up(2, Family::V4, Clustered::LONG);
    cluster.hosts[0].ok(&["network", "create", "-d", "overlay", "--subnet", "10.77.0.0/30", "small"]);
    cluster.wait_for_network(1, "small");
    let [one, other] = ["one", "other"].map(Netns::new);
    let (of_one, of_other) = (one.path_argument(), other.path_argument());
    for round in 0..10 {
        let (here, there) = (round % 2, 1 - round % 2);
        cluster.hosts[here].attach(&one, &["--network", "small"]);
        eventually(&format!("host {there} sees the endpoint"), || (cluster.status(there).endpoints == 2).then_some(()));
        for number in [here, there] {
            let line = cluster.hosts[number].fails(1, &["attach", "--network", "small", "--netns", &of_other]);
            assert!(line.contains("no available address: all 1 in question"), "{line}");
        }
        cluster.hosts[here].ok(&["detach", "--netns", &of_one]);
    }
}
