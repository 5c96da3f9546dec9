//! What happens to the hosts of a cluster: containers move, hosts are lost and come back, daemons die.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use crate::harness::{Cloud, Clustered, Family, Flow, Netns, Pinger, eventually, ping, settles, tcp};

#[test]
fn an_endpoint_that_moves_is_reached_wherever_it_is() {
    let cluster = Clustered::up(3, Family::V4, Clustered::LONG);
    let (nomad, flags) = (Netns::new("nomad"), ["--network", "net", "--name", "nomad", "--ip", "10.10.200.9"]);
    let (stop, answers) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut pinger = Pinger::new(&cluster.containers[0], [10, 10, 200, 9]);
            while !stop.load(Ordering::Relaxed) {
                // Where it is nowhere, there may be no way to it.
                let _no_way = pinger.try_send(56);
                thread::sleep(Duration::from_millis(10));
                answers.fetch_add(pinger.answered().into(), Ordering::Relaxed);
            }
        });
        // Whatever comes of it, the pinger ends.
        let moves = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mac = ["--mac", "02:00:00:00:44:01"];
            // With its MAC address, and without: then there is another each time, of which all have to hear.
            for (place, more) in [(1, &mac[..]), (2, &mac), (0, &mac), (1, &[]), (2, &[])] {
                let host = &cluster.hosts[place];
                let at = host.attach(&nomad, &[&flags[..], more].concat());
                for other in (0..3).filter(|other| *other != place) {
                    cluster.knows(other, at.mac, place);
                    cluster.finds(other, "nomad", &at);
                }
                let before = answers.load(Ordering::Relaxed);
                eventually("it answers", || (answers.load(Ordering::Relaxed) >= before + 10).then_some(()));
                for number in 0..3 {
                    tcp(&cluster.containers[number], &nomad, at.ipv4, 60 << 10);
                }
                host.ok(&["detach", "--netns", &nomad.path_argument()]);
                for other in 0..3 {
                    cluster.forgets(other, at.mac);
                    cluster.finds_none(other, "nomad.net");
                }
            }
        }));
        stop.store(true, Ordering::Relaxed);
        moves.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

#[test]
fn over_ipv4_a_lost_host_is_forgotten_after_its_lease_and_known_again_when_it_is_back() {
    lost_and_back(Family::V4);
}

#[test]
fn over_ipv6_a_lost_host_is_forgotten_after_its_lease_and_known_again_when_it_is_back() {
    lost_and_back(Family::V6);
}

fn lost_and_back(family: Family) {
    let cluster = Clustered::up(3, family, Clustered::BRIEF);
    let [one, two, three] = [0, 1, 2].map(|number| &cluster.containers[number]);
    let lost = &cluster.at[2];
    let flow = Flow::start(one, two, cluster.at[1].ipv4);
    cluster.hosts[2].kill_daemon();
    cluster.plugged(2, false);
    for number in 0..2 {
        cluster.forgets(number, lost.mac);
        cluster.has_members(number, &[1 - number]);
        cluster.is_joined(number, 2);
        cluster.finds_none(number, "c2.net");
        assert_eq!(cluster.status(number).endpoints, 1);
    }
    assert_eq!(
        (cluster.keys("endpoints").len(), cluster.keys("addresses").len(), cluster.keys("hosts").len()),
        (2, 4, 2)
    );
    flow.goes_on(50);

    cluster.plugged(2, true);
    cluster.join(2);
    for number in 0..2 {
        cluster.knows(number, lost.mac, 2);
        cluster.knows(2, cluster.at[number].mac, number);
        cluster.has_members(number, &[1 - number, 2]);
        cluster.finds(number, "c2", lost);
    }
    assert_eq!(cluster.hosts[2].ps(), cluster.at[2..], "it has what it had");
    for address in cluster.addresses(2) {
        ping(one, address);
        tcp(two, three, address, 60 << 10);
    }
    flow.goes_on(50);
    flow.assert_complete();
}

#[test]
fn a_host_that_is_cut_off_is_back_by_itself() {
    let cluster = Clustered::up(3, Family::V4, Clustered::BRIEF);
    let gone = Netns::new("gone");
    let gone_at = cluster.hosts[2].attach(&gone, &["--network", "net", "--name", "gone"]);
    cluster.knows(0, gone_at.mac, 2);
    cluster.plugged(2, false);
    for number in 0..2 {
        cluster.forgets(number, cluster.at[2].mac);
        cluster.has_members(number, &[1 - number]);
    }
    eventually("it says so", || (!cluster.status(2).connected).then_some(()));
    // Nobody can be asked for an address there; what is there can go.
    let line = cluster.hosts[2].fails(1, &["attach", "--netns", &gone.path_argument(), "--network", "net"]);
    assert!(line.contains("etcd"), "{line}");
    cluster.hosts[2].ok(&["detach", "--netns", &gone.path_argument()]);
    // Two on that host still reach each other, and their gateway.
    ping(&cluster.containers[2], cluster.at[2].gateway.expect("a gateway"));

    cluster.plugged(2, true);
    for number in 0..2 {
        cluster.knows(number, cluster.at[2].mac, 2);
        cluster.has_members(number, &[1 - number, 2]);
        cluster.is_joined(2, 3);
        assert_eq!(cluster.told(number, gone_at.mac), None, "what went meanwhile is not back");
    }
    for (one, other) in cluster.pairs() {
        ping(&cluster.containers[one], cluster.at[other].ipv4);
    }
    // Its address is anybody's now.
    let at = cluster.hosts[0].attach(&gone, &["--network", "net", "--name", "gone", "--ip", &gone_at.ipv4.to_string()]);
    cluster.knows(2, at.mac, 0);
}

#[test]
fn what_another_took_while_a_host_was_lost_stays_with_it() {
    let cluster = Clustered::up(2, Family::V4, Clustered::BRIEF);
    let lost = cluster.at[1].clone();
    let heir = Netns::new("heir");
    // Once there is something newer, what was attached is on the disk: the next daemon takes it over as it runs.
    cluster.hosts[1].attach(&heir, &["--network", "net"]);
    cluster.hosts[1].ok(&["detach", "--netns", &heir.path_argument()]);
    cluster.hosts[1].kill_daemon();
    cluster.plugged(1, false);
    cluster.forgets(0, lost.mac);
    let ip = lost.ipv4.to_string();
    // Its MAC address would be the same, too, as it is made of the name: then nobody could tell who is told of whom.
    let mac = ["--mac", "02:00:00:00:44:02"];
    let heirs = [&["--network", "net", "--name", &lost.name, "--ip", &ip], &mac[..]].concat();
    let at = cluster.hosts[0].attach(&heir, &heirs);
    assert_eq!(at.ipv4, lost.ipv4);
    cluster.plugged(1, true);
    cluster.join(1);
    assert_eq!(cluster.hosts[1].ps(), cluster.at[1..], "it runs, so it stays");
    cluster.knows(1, at.mac, 0);
    eventually("it says what it cannot have", || {
        let conflicts = cluster.status(1).conflicts;
        let text = cluster.hosts[1].ok(&["status"]);
        (conflicts.iter().any(|line| line.contains(&ip) && text.contains(line.as_str()))).then_some(())
    });
    let conflict = cluster.status(1).conflicts.into_iter().find(|line| line.contains(&ip)).expect("it was there");
    let whose = format!("address {ip} of endpoint {0} was taken meanwhile by endpoint {0}", lost.name);
    assert_eq!(conflict, format!("{whose} on host host0.test (192.0.2.1) (detach the endpoint, and attach it again)"));
    assert_eq!(cluster.told(0, lost.mac), None);
    ping(&cluster.containers[0], at.ipv4);
    cluster.finds(0, &lost.name, &at);
    // As the log says: detached and attached again, it has another.
    cluster.hosts[1].ok(&["detach", "--netns", &cluster.containers[1].path_argument()]);
    let again = cluster.hosts[1].attach(&cluster.containers[1], &["--network", "net", "--name", "other"]);
    assert_ne!(again.ipv4, lost.ipv4);
    cluster.knows(0, again.mac, 1);
    ping(&cluster.containers[1], at.ipv4);
    assert_eq!(cluster.status(1).conflicts, Vec::<String>::new());
}

#[test]
fn no_frame_is_lost_when_a_daemon_dies_and_the_next_one_knows_what_it_missed() {
    let cluster = Clustered::up(3, Family::V4, Clustered::LONG);
    let [gone, came] = ["gone", "came"].map(Netns::new);
    let gone_at = cluster.hosts[1].attach(&gone, &["--network", "net", "--name", "gone"]);
    cluster.knows(0, gone_at.mac, 1);
    let flows = flows(&cluster);
    cluster.hosts[0].kill_daemon();
    flows.iter().for_each(|flow| flow.goes_on(100));
    // While nobody listens there, things happen elsewhere.
    cluster.hosts[1].ok(&["detach", "--netns", &gone.path_argument()]);
    let came_at = cluster.hosts[2].attach(&came, &["--network", "net", "--name", "came"]);
    cluster.hosts[2].ok(&["network", "create", "-d", "overlay", "later"]);
    cluster.join(0);
    flows.iter().for_each(|flow| flow.goes_on(100));
    cluster.knows(0, came_at.mac, 2);
    cluster.forgets(0, gone_at.mac);
    cluster.finds(0, "came", &came_at);
    cluster.has_network(0, "later");
    for other in 1..3 {
        cluster.knows(0, cluster.at[other].mac, other);
        cluster.knows(other, cluster.at[0].mac, 0);
    }
    flows.into_iter().for_each(Flow::assert_complete);
    ping(&cluster.containers[0], came_at.ipv4);
}

#[test]
fn a_daemon_starts_again_without_etcd_and_catches_up_with_it() {
    let mut cluster = Clustered::up(3, Family::V4, Clustered::LONG);
    let flows = flows(&cluster);
    cluster.etcd.stop_all();
    cluster.hosts[0].kill_daemon();
    flows.iter().for_each(|flow| flow.goes_on(100));
    cluster.join(0);
    flows.iter().for_each(|flow| flow.goes_on(100));
    eventually("it says so", || (!cluster.status(0).connected).then_some(()));
    for other in 1..3 {
        assert_eq!(cluster.told(0, cluster.at[other].mac), Some(cluster.peer(other)), "it knows what it knew");
        cluster.addresses(other).into_iter().for_each(|address| ping(&cluster.containers[0], address));
        tcp(&cluster.containers[other], &cluster.containers[0], cluster.at[0].ipv4, 60 << 10);
    }
    let extra = Netns::new("extra");
    let line = cluster.hosts[0].fails(1, &["attach", "--netns", &extra.path_argument(), "--network", "net"]);
    assert!(line.contains("etcd"), "{line}");

    cluster.start_etcd();
    (0..3).for_each(|number| cluster.is_joined(number, 3));
    let at = cluster.hosts[0].attach(&extra, &["--network", "net"]);
    (1..3).for_each(|number| cluster.knows(number, at.mac, 0));
    for other in 1..3 {
        cluster.knows(0, cluster.at[other].mac, other);
        cluster.knows(other, cluster.at[0].mac, 0);
        cluster.finds(0, &format!("c{other}"), &cluster.at[other]);
    }
    flows.into_iter().for_each(Flow::assert_complete);
}

#[test]
fn a_host_that_goes_down_leaves_at_once_and_comes_back_with_what_it_had() {
    // Nobody waits for this lease.
    let cluster = Clustered::up(2, Family::V4, Clustered::LONG);
    cluster.hosts[1].stop(&[]);
    cluster.forgets(0, cluster.at[1].mac);
    cluster.has_members(0, &[]);
    assert_eq!((cluster.keys("hosts").len(), cluster.keys("endpoints").len()), (1, 1));
    cluster.join(1);
    cluster.knows(0, cluster.at[1].mac, 1);
    cluster.knows(1, cluster.at[0].mac, 0);
    assert_eq!(cluster.hosts[1].ps(), cluster.at[1..2]);
    for (one, other) in cluster.pairs() {
        tcp(&cluster.containers[one], &cluster.containers[other], cluster.at[other].ipv4, 60 << 10);
    }
}

#[test]
fn a_daemon_that_starts_without_its_cluster_says_so() {
    let cluster = Clustered::up(2, Family::V4, Clustered::LONG);
    let host = &cluster.hosts[0];
    host.ok(&["network", "create", "-d", "overlay", "more"]);
    let told = |text: &str| {
        let names = ["2 networks (more, net) are a cluster's", "in none", "up --cluster"];
        assert!(names.iter().all(|name| text.contains(name)), "{text}");
    };
    host.kill_daemon();
    let outcome = host.run(&["up"]);
    assert_eq!(outcome.code, Some(0), "{outcome:#?}");
    assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:#?}");
    told(&outcome.stderr);
    told(&host.ok(&["status"]));
    host.ok(&["network", "rm", "more"]);
    assert!(host.ok(&["status"]).contains("1 network (net) is a cluster's"));

    host.kill_daemon();
    cluster.join(0);
    // Whoever runs with what is asked for has nothing to say.
    let flags = cluster.flags(0);
    assert!(
        host.ok(&[&["up"], &flags.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat()).contains("already")
    );
    assert!(!host.ok(&["status"]).contains("a cluster's, and"));
    cluster.knows(0, cluster.at[1].mac, 1);
    ping(&cluster.containers[0], cluster.at[1].ipv4);
}

#[test]
fn a_host_that_is_cut_off_starts_its_daemon_with_the_address_it_had() {
    let cluster = Clustered::up(2, Family::V4, Clustered::LONG);
    let host = &cluster.hosts[1];
    let own = cluster.peer(1);
    let stands = || {
        assert_eq!(host.ps(), cluster.at[1..], "it has what it had");
        let status: serde_json::Value = host.json(&["status"]);
        assert_eq!(
            (&status["cluster"]["address"], &status["cluster"]["connected"]),
            (&own.clone().into(), &false.into())
        );
        status["notes"].to_string()
    };
    // Without a way to etcd; the last host names no address by itself.
    host.kill_daemon();
    host.netns.ip("link set under0 down");
    cluster.join(1);
    assert!(!stands().contains(&own));

    // Nor with a name that nobody can look up any more.
    host.kill_daemon();
    host.start(&["--cluster", "etcd://nosuchname.invalid", "--cluster-lease", Clustered::LONG]);
    stands();

    // Before it has its address: then whether it is found or named.
    host.netns.ip(&format!("address del {own}/24 dev under0"));
    for advertise in [&[][..], &["--advertise", &own]] {
        host.kill_daemon();
        let flags = cluster.flags(1);
        host.start(&[&flags.iter().map(String::as_str).collect::<Vec<_>>()[..], advertise].concat());
        assert!(stands().contains(&format!("{own}, by which the other hosts")));
    }

    host.netns.ip(&format!("address add {own}/24 dev under0"));
    host.netns.ip("link set under0 up");
    cluster.is_joined(1, 2);
    eventually("nothing is left to say", || (!host.ok(&["status"]).contains("by which the other hosts")).then_some(()));
    cluster.knows(0, cluster.at[1].mac, 1);
    ping(&cluster.containers[0], cluster.at[1].ipv4);
}

/// Between the first container and another, both ways.
fn flows(cluster: &Clustered) -> [Flow; 2] {
    let [one, other] = [&cluster.containers[0], &cluster.containers[1]];
    let flows = [Flow::start(one, other, cluster.at[1].ipv4), Flow::start(other, one, cluster.at[0].ipv4)];
    flows.iter().for_each(|flow| flow.goes_on(100));
    flows
}

#[test]
fn networks_from_before_the_cluster_keep_their_tunnels_to_the_peers_that_were_added_by_hand() {
    let mut cluster = Clustered::down(2, Family::V4);
    for number in 0..2 {
        cluster.hosts[number].start(&[]);
        cluster.acquaint(number);
        cluster.create(number, "net", Cloud::VNI, &[]);
    }
    (0..2).for_each(|number| cluster.cloud.inhabit(number));
    let reach_each_other = || {
        for (one, other) in cluster.pairs() {
            ping(&cluster.containers[one], cluster.at[other].ipv4);
        }
    };
    reach_each_other();
    (0..2).for_each(|number| cluster.hosts[number].stop(&[]));
    (0..2).for_each(|number| drop(cluster.join(number)));
    (0..2).for_each(|number| cluster.has_members(number, &[1 - number]));
    // What comes with the hosts is all done once another network of theirs works.
    cluster.hosts[0].ok(&["network", "create", "-d", "overlay", "shared"]);
    cluster.has_network(1, "shared");
    reach_each_other();
    // A host that leaves the cluster is still a peer.
    cluster.hosts[1].stop(&[]);
    settles("it is a host of the cluster no more", || {
        let members = cluster.members(0);
        let is_left = members.len() == 1 && members[0].host.is_none();
        if is_left { Ok(()) } else { Err(members) }
    });
    cluster.hosts[1].start(&[]);
    reach_each_other();
    cluster.hosts[0].stop(&[]);
    cluster.hosts[0].start(&[]);
    reach_each_other();
}

#[test]
fn a_network_that_was_removed_while_a_host_was_lost_goes_there_with_its_last_endpoint() {
    let cluster = Clustered::up(2, Family::V4, Clustered::BRIEF);
    cluster.plugged(1, false);
    cluster.forgets(0, cluster.at[1].mac);
    cluster.hosts[0].ok(&["detach", "--netns", &cluster.containers[0].path_argument()]);
    cluster.hosts[0].ok(&["network", "rm", "net"]);
    cluster.hosts[0].ok(&["network", "create", "-d", "overlay", "net"]);
    let id = |number: usize| {
        let networks: Vec<serde_json::Value> = cluster.hosts[number].json(&["network", "ls"]);
        networks.into_iter().find(|network| network["name"] == "net").map(|network| network["id"].clone())
    };
    let notes = || cluster.hosts[1].json::<serde_json::Value>(&["status"])["notes"].to_string();
    let before = id(1);
    cluster.plugged(1, true);
    settles("it says what is in the way", || {
        let notes = notes();
        if notes.contains("removed from the cluster") && notes.contains("not on this host") {
            Ok(())
        } else {
            Err(notes)
        }
    });
    assert_eq!(id(1), before, "it has an endpoint in it");
    cluster.hosts[1].ok(&["detach", "--netns", &cluster.containers[1].path_argument()]);
    assert_eq!(id(1), id(0), "the one that has the name in the cluster");
    let left = notes();
    assert!(!left.contains("network net"), "{left}");
    cluster.hosts[1].ok(&["network", "rm", "net"]);
    cluster.has_no_network(0, "net");
}

#[test]
fn endpoints_stay_when_etcd_refuses_what_a_daemon_that_starts_announces() {
    let cluster = Clustered::up(2, Family::V4, Clustered::LONG);
    cluster.hosts[1].stop(&[]);
    cluster.forgets(0, cluster.at[1].mac);
    cluster.fill_etcd(true);
    cluster.join(1);
    assert_eq!(cluster.hosts[1].ps(), cluster.at[1..], "nobody else has what it has");
    ping(&cluster.containers[1], cluster.at[1].gateway.expect("a gateway"));
    assert_eq!(cluster.told(0, cluster.at[1].mac), None);
    cluster.fill_etcd(false);
    cluster.is_joined(1, 2);
    cluster.knows(0, cluster.at[1].mac, 1);
    ping(&cluster.containers[0], cluster.at[1].ipv4);
}

#[test]
fn what_is_behind_a_tunnel_that_is_made_again_is_told_again() {
    let cluster = Clustered::up(2, Family::V4, Clustered::LONG);
    // Once there is something newer, what was attached is on the disk: the next daemon takes it over as it runs. At that it
    // looks last, so the next free number is that of the tunnel which goes.
    let newer = Netns::new("newer");
    cluster.hosts[0].attach(&newer, &["--network", "net"]);
    cluster.hosts[0].ok(&["detach", "--netns", &newer.path_argument()]);
    cluster.hosts[0].kill_daemon();
    cluster.join(0);
    cluster.has_members(0, &[1]);
    cluster.knows(0, cluster.at[1].mac, 1);
    for _ in 0..3 {
        let before = cluster.tunnels(0).expect("the device");
        let name = before["ifname"].as_str().expect("a name");
        cluster.hosts[0].netns.ip(&format!("link delete {name}"));
        eventually("there is another", || {
            cluster.tunnels(0).filter(|device| device["ifindex"] != before["ifindex"]).map(drop)
        });
        cluster.knows(0, cluster.at[1].mac, 1);
        ping(&cluster.containers[0], cluster.at[1].ipv4);
    }
}

#[test]
fn who_won_an_address_is_known_where_the_one_who_lost_it_is_detached() {
    let cluster = Clustered::up(2, Family::V4, Clustered::BRIEF);
    let [heir, stays] = ["heir", "stays"].map(Netns::new);
    cluster.hosts[1].attach(&stays, &["--network", "net", "--name", "stays"]);
    cluster.hosts[1].kill_daemon();
    cluster.plugged(1, false);
    let lost = &cluster.at[1];
    cluster.forgets(0, lost.mac);
    let flags = ["--network", "net", "--name", &lost.name, "--ip", &lost.ipv4.to_string()];
    let at = cluster.hosts[0].attach(&heir, &flags);
    assert_eq!((at.mac, at.ipv4), (lost.mac, lost.ipv4), "a MAC address is made of the name");
    cluster.plugged(1, true);
    cluster.join(1);
    eventually("it says what it cannot have", || (!cluster.status(1).conflicts.is_empty()).then_some(()));
    cluster.knows(1, cluster.at[0].mac, 0);
    assert_eq!(cluster.status(1).endpoints, 2);
    assert_ne!(cluster.told(1, at.mac), Some(cluster.peer(0)), "it is here, too");
    cluster.hosts[1].ok(&["detach", "--netns", &cluster.containers[1].path_argument()]);
    assert_eq!(cluster.told(1, at.mac), Some(cluster.peer(0)));
    ping(&stays, at.ipv4);
}

#[test]
fn a_host_that_comes_with_another_id_is_not_its_own_peer() {
    let cluster = Clustered::up(2, Family::V4, Clustered::LONG);
    cluster.hosts[1].kill_daemon();
    std::fs::remove_file(cluster.hosts[1].state_directory().join("host-id")).expect("it was in the cluster");
    cluster.join(1);
    // What it was before is there until its lease ends.
    cluster.is_joined(1, 3);
    // What was told before the first of these was carried out before the second is there.
    for name in ["first", "second"] {
        cluster.hosts[0].ok(&["network", "create", "-d", "overlay", name]);
        cluster.has_network(1, name);
    }
    let members = cluster.members(1);
    assert!(members.len() == 1 && members[0].address.to_string() == cluster.peer(0), "{members:?}");
}
