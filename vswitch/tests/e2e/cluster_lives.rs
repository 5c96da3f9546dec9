//! Changes in the life of a cluster: containers move, hosts are lost and return, daemons die.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use crate::harness::{Cloud, Clustered, Family, Flow, Netns, Pinger, eventually, ping, reaches, settles, tcp};

#[test]
fn an_endpoint_that_moved_is_reached() {
    let cluster = Clustered::up(3, Family::V4, Clustered::LONG);
    let (nomad, flags) = (Netns::new("nomad"), ["--network", "net", "--name", "nomad", "--ip", "10.10.200.9"]);
    let (stop, answers) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut pinger = Pinger::new(&cluster.containers[0], [10, 10, 200, 9]);
            while !stop.load(Ordering::Relaxed) {
                // While the endpoint is detached, there may be no route to it.
                let _unreachable = pinger.try_send(56);
                thread::sleep(Duration::from_millis(10));
                answers.fetch_add(pinger.answered().into(), Ordering::Relaxed);
            }
        });
        // The pinger must end even if this part panics.
        let moves = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mac = ["--mac", "02:00:00:00:44:01"];
            // First with a given MAC address, then with the one derived from the name. Every host
            // must get the new entry after each move.
            for (place, more) in [(1, &mac[..]), (2, &mac), (0, &mac), (1, &[]), (2, &[])] {
                let host = &cluster.hosts[place];
                let at = host.attach(&nomad, &[&flags[..], more].concat());
                for other in (0..3).filter(|other| *other != place) {
                    cluster.wait_for_entry(other, at.mac, place);
                    cluster.wait_for_name(other, "nomad", &at);
                }
                let before = answers.load(Ordering::Relaxed);
                eventually("the endpoint answers", || (answers.load(Ordering::Relaxed) >= before + 10).then_some(()));
                for number in 0..3 {
                    tcp(&cluster.containers[number], &nomad, at.ipv4, 60 << 10);
                }
                host.ok(&["detach", "--netns", &nomad.path_argument()]);
                for other in 0..3 {
                    cluster.wait_for_no_entry(other, at.mac);
                    cluster.wait_for_no_name(other, "nomad.net");
                }
            }
        }));
        stop.store(true, Ordering::Relaxed);
        moves.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

#[test]
fn a_lost_host_is_removed_after_its_lease_and_can_return_over_ipv4() {
    check_lost_and_returning_host(Family::V4);
}

#[test]
fn a_lost_host_is_removed_after_its_lease_and_can_return_over_ipv6() {
    check_lost_and_returning_host(Family::V6);
}

fn check_lost_and_returning_host(family: Family) {
    let cluster = Clustered::up(3, family, Clustered::BRIEF);
    let [one, two, three] = [0, 1, 2].map(|number| &cluster.containers[number]);
    let lost = &cluster.at[2];
    let flow = Flow::start(one, two, cluster.at[1].ipv4);
    cluster.hosts[2].kill_daemon();
    cluster.set_link(2, false);
    for number in 0..2 {
        cluster.wait_for_no_entry(number, lost.mac);
        cluster.wait_for_members(number, &[1 - number]);
        cluster.wait_until_joined(number, 2);
        cluster.wait_for_no_name(number, "c2.net");
        assert_eq!(cluster.status(number).endpoints, 1);
    }
    assert_eq!(
        (cluster.keys("endpoints").len(), cluster.keys("addresses").len(), cluster.keys("hosts").len()),
        (2, 4, 2)
    );
    flow.goes_on(50);

    cluster.set_link(2, true);
    cluster.join(2);
    for number in 0..2 {
        cluster.wait_for_entry(number, lost.mac, 2);
        cluster.wait_for_entry(2, cluster.at[number].mac, number);
        cluster.wait_for_members(number, &[1 - number, 2]);
        cluster.wait_for_name(number, "c2", lost);
    }
    assert_eq!(cluster.hosts[2].ps(), cluster.at[2..], "the endpoints are unchanged");
    for address in cluster.addresses(2) {
        // Tried again and again: on a slow machine so short a lease may expire once more, and its
        // tunnels with it.
        assert_eq!(reaches(one, three, address, true).to_string(), "yes", "{address}");
        tcp(two, three, address, 60 << 10);
    }
    flow.goes_on(50);
    flow.assert_complete();
}

#[test]
fn a_disconnected_host_rejoins_by_itself() {
    let cluster = Clustered::up(3, Family::V4, Clustered::BRIEF);
    let gone = Netns::new("gone");
    let gone_at = cluster.hosts[2].attach(&gone, &["--network", "net", "--name", "gone"]);
    cluster.wait_for_entry(0, gone_at.mac, 2);
    cluster.set_link(2, false);
    for number in 0..2 {
        cluster.wait_for_no_entry(number, cluster.at[2].mac);
        cluster.wait_for_members(number, &[1 - number]);
    }
    eventually("host 2 is disconnected", || (!cluster.status(2).connected).then_some(()));
    // Addresses cannot be claimed without etcd. Local endpoints can be detached.
    let line = cluster.hosts[2].fails(1, &["attach", "--netns", &gone.path_argument(), "--network", "net"]);
    assert!(line.contains("etcd"), "{line}");
    cluster.hosts[2].ok(&["detach", "--netns", &gone.path_argument()]);
    // A container on the disconnected host still reaches its gateway.
    ping(&cluster.containers[2], cluster.at[2].gateway.expect("a gateway"));

    cluster.set_link(2, true);
    for number in 0..2 {
        cluster.wait_for_entry(number, cluster.at[2].mac, 2);
        cluster.wait_for_members(number, &[1 - number, 2]);
        cluster.wait_until_joined(2, 3);
        assert_eq!(cluster.static_port_of(number, gone_at.mac), None, "the detached endpoint is not installed again");
    }
    for (one, other) in cluster.pairs() {
        ping(&cluster.containers[one], cluster.at[other].ipv4);
    }
    // The address of the detached endpoint is free again.
    let at = cluster.hosts[0].attach(&gone, &["--network", "net", "--name", "gone", "--ip", &gone_at.ipv4.to_string()]);
    cluster.wait_for_entry(2, at.mac, 0);
}

#[test]
fn an_address_claimed_while_its_host_was_lost_stays_with_the_new_owner() {
    let cluster = Clustered::up(2, Family::V4, Clustered::BRIEF);
    let lost = cluster.at[1].clone();
    let successor = Netns::new("successor");
    // A later change makes the record of the attached endpoint durable, so the next daemon takes
    // the endpoint over as a running one.
    cluster.hosts[1].attach(&successor, &["--network", "net"]);
    cluster.hosts[1].ok(&["detach", "--netns", &successor.path_argument()]);
    cluster.hosts[1].kill_daemon();
    cluster.set_link(1, false);
    cluster.wait_for_no_entry(0, lost.mac);
    let ip = lost.ipv4.to_string();
    // A MAC address is derived from the endpoint name. With equal ones, the FDB entries of the two
    // endpoints could not be told apart.
    let mac = ["--mac", "02:00:00:00:44:02"];
    let flags = [&["--network", "net", "--name", &lost.name, "--ip", &ip], &mac[..]].concat();
    let at = cluster.hosts[0].attach(&successor, &flags);
    assert_eq!(at.ipv4, lost.ipv4);
    cluster.set_link(1, true);
    cluster.join(1);
    assert_eq!(cluster.hosts[1].ps(), cluster.at[1..], "a running endpoint stays");
    cluster.wait_for_entry(1, at.mac, 0);
    eventually("status shows the conflict", || {
        let conflicts = cluster.status(1).conflicts;
        let text = cluster.hosts[1].ok(&["status"]);
        (conflicts.iter().any(|line| line.contains(&ip) && text.contains(line.as_str()))).then_some(())
    });
    let conflict =
        cluster.status(1).conflicts.into_iter().find(|line| line.contains(&ip)).expect("the conflict is still shown");
    let claim = format!("address {ip} of endpoint {0} was taken meanwhile by endpoint {0}", lost.name);
    assert_eq!(conflict, format!("{claim} on host host0.test (192.0.2.1) (detach the endpoint, and attach it again)"));
    assert_eq!(cluster.static_port_of(0, lost.mac), None);
    ping(&cluster.containers[0], at.ipv4);
    cluster.wait_for_name(0, &lost.name, &at);
    // After the remedy that the message names (detach, attach again), the endpoint has another
    // address.
    cluster.hosts[1].ok(&["detach", "--netns", &cluster.containers[1].path_argument()]);
    let again = cluster.hosts[1].attach(&cluster.containers[1], &["--network", "net", "--name", "other"]);
    assert_ne!(again.ipv4, lost.ipv4);
    cluster.wait_for_entry(0, again.mac, 1);
    ping(&cluster.containers[1], at.ipv4);
    assert_eq!(cluster.status(1).conflicts, Vec::<String>::new());
}

#[test]
fn a_restarted_daemon_catches_up_and_no_frame_is_lost() {
    let cluster = Clustered::up(3, Family::V4, Clustered::LONG);
    let [gone, came] = ["gone", "came"].map(Netns::new);
    let gone_at = cluster.hosts[1].attach(&gone, &["--network", "net", "--name", "gone"]);
    cluster.wait_for_entry(0, gone_at.mac, 1);
    let flows = flows(&cluster);
    cluster.hosts[0].kill_daemon();
    flows.iter().for_each(|flow| flow.goes_on(100));
    // Changes on other hosts while this host's daemon is dead.
    cluster.hosts[1].ok(&["detach", "--netns", &gone.path_argument()]);
    let came_at = cluster.hosts[2].attach(&came, &["--network", "net", "--name", "came"]);
    cluster.hosts[2].ok(&["network", "create", "-d", "overlay", "later"]);
    cluster.join(0);
    flows.iter().for_each(|flow| flow.goes_on(100));
    cluster.wait_for_entry(0, came_at.mac, 2);
    cluster.wait_for_no_entry(0, gone_at.mac);
    cluster.wait_for_name(0, "came", &came_at);
    cluster.wait_for_network(0, "later");
    for other in 1..3 {
        cluster.wait_for_entry(0, cluster.at[other].mac, other);
        cluster.wait_for_entry(other, cluster.at[0].mac, 0);
    }
    flows.into_iter().for_each(Flow::assert_complete);
    ping(&cluster.containers[0], came_at.ipv4);
}

#[test]
fn a_daemon_restarts_without_etcd_and_catches_up_later() {
    let mut cluster = Clustered::up(3, Family::V4, Clustered::LONG);
    let flows = flows(&cluster);
    cluster.etcd.stop_all();
    cluster.hosts[0].kill_daemon();
    flows.iter().for_each(|flow| flow.goes_on(100));
    cluster.join(0);
    flows.iter().for_each(|flow| flow.goes_on(100));
    eventually("host 0 is disconnected", || (!cluster.status(0).connected).then_some(()));
    for other in 1..3 {
        assert_eq!(cluster.static_port_of(0, cluster.at[other].mac), Some(cluster.peer(other)), "the entry is kept");
        cluster.addresses(other).into_iter().for_each(|address| ping(&cluster.containers[0], address));
        tcp(&cluster.containers[other], &cluster.containers[0], cluster.at[0].ipv4, 60 << 10);
    }
    let extra = Netns::new("extra");
    let line = cluster.hosts[0].fails(1, &["attach", "--netns", &extra.path_argument(), "--network", "net"]);
    assert!(line.contains("etcd"), "{line}");

    cluster.start_etcd();
    (0..3).for_each(|number| cluster.wait_until_joined(number, 3));
    let at = cluster.hosts[0].attach(&extra, &["--network", "net"]);
    (1..3).for_each(|number| cluster.wait_for_entry(number, at.mac, 0));
    for other in 1..3 {
        cluster.wait_for_entry(0, cluster.at[other].mac, other);
        cluster.wait_for_entry(other, cluster.at[0].mac, 0);
        cluster.wait_for_name(0, &format!("c{other}"), &cluster.at[other]);
    }
    flows.into_iter().for_each(Flow::assert_complete);
}

#[test]
fn down_leaves_the_cluster_at_once_and_up_restores_the_endpoints() {
    // The lease is so long that it does not expire during this test.
    let cluster = Clustered::up(2, Family::V4, Clustered::LONG);
    cluster.hosts[1].stop(&[]);
    cluster.wait_for_no_entry(0, cluster.at[1].mac);
    cluster.wait_for_members(0, &[]);
    assert_eq!((cluster.keys("hosts").len(), cluster.keys("endpoints").len()), (1, 1));
    cluster.join(1);
    cluster.wait_for_entry(0, cluster.at[1].mac, 1);
    cluster.wait_for_entry(1, cluster.at[0].mac, 0);
    assert_eq!(cluster.hosts[1].ps(), cluster.at[1..2]);
    for (one, other) in cluster.pairs() {
        tcp(&cluster.containers[one], &cluster.containers[other], cluster.at[other].ipv4, 60 << 10);
    }
}

#[test]
fn up_without_the_previous_cluster_prints_a_warning() {
    let cluster = Clustered::up(2, Family::V4, Clustered::LONG);
    let host = &cluster.hosts[0];
    host.ok(&["network", "create", "-d", "overlay", "more"]);
    let assert_warns = |text: &str| {
        let names = ["2 networks (more, net) are a cluster's", "in none", "up --cluster"];
        assert!(names.iter().all(|name| text.contains(name)), "{text}");
    };
    host.kill_daemon();
    let outcome = host.run(&["up"]);
    assert_eq!(outcome.code, Some(0), "{outcome:#?}");
    assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:#?}");
    assert_warns(&outcome.stderr);
    assert_warns(&host.ok(&["status"]));
    host.ok(&["network", "rm", "more"]);
    assert!(host.ok(&["status"]).contains("1 network (net) is a cluster's"));

    host.kill_daemon();
    cluster.join(0);
    // An instance that runs with the requested options prints no warning.
    let flags = cluster.flags(0);
    assert!(
        host.ok(&[&["up"], &flags.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat()).contains("already")
    );
    assert!(!host.ok(&["status"]).contains("a cluster's, and"));
    cluster.wait_for_entry(0, cluster.at[1].mac, 1);
    ping(&cluster.containers[0], cluster.at[1].ipv4);
}

#[test]
fn a_disconnected_host_starts_with_its_recorded_address() {
    let cluster = Clustered::up(2, Family::V4, Clustered::LONG);
    let host = &cluster.hosts[1];
    let own = cluster.peer(1);
    let assert_kept = || {
        assert_eq!(host.ps(), cluster.at[1..], "the endpoints are unchanged");
        let status: serde_json::Value = host.json(&["status"]);
        assert_eq!(
            (&status["cluster"]["address"], &status["cluster"]["connected"]),
            (&own.clone().into(), &false.into())
        );
        status["notes"].to_string()
    };
    // Without a route to etcd. The last host has no --advertise.
    host.kill_daemon();
    host.netns.ip("link set under0 down");
    cluster.join(1);
    assert!(!assert_kept().contains(&own));

    // With a name of etcd that cannot be resolved any more.
    host.kill_daemon();
    host.start(&["--cluster", "etcd://nosuchname.invalid", "--cluster-lease", Clustered::LONG]);
    assert_kept();

    // Before the interface has its address, with and without --advertise.
    host.netns.ip(&format!("address del {own}/24 dev under0"));
    for advertise in [&[][..], &["--advertise", &own]] {
        host.kill_daemon();
        let flags = cluster.flags(1);
        host.start(&[&flags.iter().map(String::as_str).collect::<Vec<_>>()[..], advertise].concat());
        assert!(assert_kept().contains(&format!("{own}, by which the other hosts")));
    }

    host.netns.ip(&format!("address add {own}/24 dev under0"));
    host.netns.ip("link set under0 up");
    cluster.wait_until_joined(1, 2);
    eventually("the note is gone", || (!host.ok(&["status"]).contains("by which the other hosts")).then_some(()));
    cluster.wait_for_entry(0, cluster.at[1].mac, 1);
    ping(&cluster.containers[0], cluster.at[1].ipv4);
}

/// Starts flows between the containers of the hosts 0 and 1, in both directions.
fn flows(cluster: &Clustered) -> [Flow; 2] {
    let [one, other] = [&cluster.containers[0], &cluster.containers[1]];
    let flows = [Flow::start(one, other, cluster.at[1].ipv4), Flow::start(other, one, cluster.at[0].ipv4)];
    flows.iter().for_each(|flow| flow.goes_on(100));
    flows
}

#[test]
fn networks_created_before_joining_a_cluster_keep_their_peers() {
    let mut cluster = Clustered::down(2, Family::V4);
    for number in 0..2 {
        cluster.hosts[number].start(&[]);
        cluster.add_all_peers(number);
        cluster.create(number, "net", Cloud::VNI, &[]);
    }
    (0..2).for_each(|number| cluster.cloud.attach_container(number));
    let reach_each_other = || {
        for (one, other) in cluster.pairs() {
            ping(&cluster.containers[one], cluster.at[other].ipv4);
        }
    };
    reach_each_other();
    (0..2).for_each(|number| cluster.hosts[number].stop(&[]));
    (0..2).for_each(|number| drop(cluster.join(number)));
    (0..2).for_each(|number| cluster.wait_for_members(number, &[1 - number]));
    // Once another network of the cluster works, everything that follows the membership change has
    // been done.
    cluster.hosts[0].ok(&["network", "create", "-d", "overlay", "shared"]);
    cluster.wait_for_network(1, "shared");
    reach_each_other();
    // A host that leaves the cluster remains a peer.
    cluster.hosts[1].stop(&[]);
    settles("the host has left the cluster", || {
        let members = cluster.members(0);
        let has_left = members.len() == 1 && members[0].host.is_none();
        if has_left { Ok(()) } else { Err(members) }
    });
    cluster.hosts[1].start(&[]);
    reach_each_other();
    cluster.hosts[0].stop(&[]);
    cluster.hosts[0].start(&[]);
    reach_each_other();
}

#[test]
fn a_network_removed_while_a_host_was_lost_goes_with_its_last_endpoint() {
    let cluster = Clustered::up(2, Family::V4, Clustered::BRIEF);
    cluster.set_link(1, false);
    cluster.wait_for_no_entry(0, cluster.at[1].mac);
    cluster.hosts[0].ok(&["detach", "--netns", &cluster.containers[0].path_argument()]);
    cluster.hosts[0].ok(&["network", "rm", "net"]);
    cluster.hosts[0].ok(&["network", "create", "-d", "overlay", "net"]);
    let id = |number: usize| {
        let networks: Vec<serde_json::Value> = cluster.hosts[number].json(&["network", "ls"]);
        networks.into_iter().find(|network| network["name"] == "net").map(|network| network["id"].clone())
    };
    let notes = || cluster.hosts[1].json::<serde_json::Value>(&["status"])["notes"].to_string();
    let before = id(1);
    cluster.set_link(1, true);
    settles("status names the conflicting network", || {
        let notes = notes();
        if notes.contains("removed from the cluster") && notes.contains("not on this host") {
            Ok(())
        } else {
            Err(notes)
        }
    });
    assert_eq!(id(1), before, "the network has an endpoint");
    cluster.hosts[1].ok(&["detach", "--netns", &cluster.containers[1].path_argument()]);
    assert_eq!(id(1), id(0), "the network of the cluster");
    let left = notes();
    assert!(!left.contains("network net"), "{left}");
    cluster.hosts[1].ok(&["network", "rm", "net"]);
    cluster.wait_for_no_network(0, "net");
}

#[test]
fn endpoints_stay_when_etcd_refuses_writes_at_start() {
    let cluster = Clustered::up(2, Family::V4, Clustered::LONG);
    cluster.hosts[1].stop(&[]);
    cluster.wait_for_no_entry(0, cluster.at[1].mac);
    cluster.set_etcd_full(true);
    cluster.join(1);
    assert_eq!(cluster.hosts[1].ps(), cluster.at[1..], "no other endpoint has these addresses");
    ping(&cluster.containers[1], cluster.at[1].gateway.expect("a gateway"));
    assert_eq!(cluster.static_port_of(0, cluster.at[1].mac), None);
    cluster.set_etcd_full(false);
    cluster.wait_until_joined(1, 2);
    cluster.wait_for_entry(0, cluster.at[1].mac, 1);
    ping(&cluster.containers[0], cluster.at[1].ipv4);
}

#[test]
fn entries_are_installed_again_after_the_tunnel_device_is_recreated() {
    let cluster = Clustered::up(2, Family::V4, Clustered::LONG);
    // A later change makes the record of the attached endpoint durable, so the next daemon takes
    // the endpoint over as a running one. After the takeover, the next free port number is that of
    // the tunnel that is removed below.
    let newer = Netns::new("newer");
    cluster.hosts[0].attach(&newer, &["--network", "net"]);
    cluster.hosts[0].ok(&["detach", "--netns", &newer.path_argument()]);
    cluster.hosts[0].kill_daemon();
    cluster.join(0);
    cluster.wait_for_members(0, &[1]);
    cluster.wait_for_entry(0, cluster.at[1].mac, 1);
    for _ in 0..3 {
        let before = cluster.tunnels(0).expect("the device");
        let name = before["ifname"].as_str().expect("a name");
        cluster.hosts[0].netns.ip(&format!("link delete {name}"));
        eventually("the device is created again", || {
            cluster.tunnels(0).filter(|device| device["ifindex"] != before["ifindex"]).map(drop)
        });
        cluster.wait_for_entry(0, cluster.at[1].mac, 1);
        ping(&cluster.containers[0], cluster.at[1].ipv4);
    }
}

#[test]
fn winner_entries_are_installed_after_the_loser_is_detached() {
    let cluster = Clustered::up(2, Family::V4, Clustered::BRIEF);
    let [successor, stays] = ["successor", "stays"].map(Netns::new);
    let at_stays = cluster.hosts[1].attach(&stays, &["--network", "net", "--name", "stays"]);
    cluster.hosts[1].kill_daemon();
    cluster.set_link(1, false);
    let lost = &cluster.at[1];
    cluster.wait_for_no_entry(0, lost.mac);
    let flags = ["--network", "net", "--name", &lost.name, "--ip", &lost.ipv4.to_string()];
    let at = cluster.hosts[0].attach(&successor, &flags);
    assert_eq!((at.mac, at.ipv4), (lost.mac, lost.ipv4), "the MAC address is derived from the name");
    cluster.set_link(1, true);
    cluster.join(1);
    eventually("status shows the conflict", || (!cluster.status(1).conflicts.is_empty()).then_some(()));
    cluster.wait_for_entry(1, cluster.at[0].mac, 0);
    assert_eq!(cluster.status(1).endpoints, 2);
    assert_ne!(cluster.static_port_of(1, at.mac), Some(cluster.peer(0)), "the local endpoint has the same MAC address");
    cluster.hosts[1].ok(&["detach", "--netns", &cluster.containers[1].path_argument()]);
    assert_eq!(cluster.static_port_of(1, at.mac), Some(cluster.peer(0)));
    cluster.wait_for_entry(0, at_stays.mac, 1);
    // The host was cut off a moment ago, and the first packet to its neighbors may be lost.
    let mut pinger = Pinger::new(&stays, at.ipv4);
    settles("the winner is reached", || {
        pinger.send(56);
        thread::sleep(Duration::from_millis(200));
        if pinger.answered() { Ok(()) } else { Err(cluster.hosts[1].fdb(&["--network", "net"])) }
    });
}

#[test]
fn a_host_with_a_new_id_does_not_become_its_own_peer() {
    let cluster = Clustered::up(2, Family::V4, Clustered::LONG);
    cluster.hosts[1].kill_daemon();
    std::fs::remove_file(cluster.hosts[1].state_directory().join("host-id")).expect("the host has joined before");
    cluster.join(1);
    // The record of the previous host id exists until its lease expires.
    cluster.wait_until_joined(1, 3);
    // Changes arrive in order: those that arrived before the first network have been carried out
    // before the second network exists.
    for name in ["first", "second"] {
        cluster.hosts[0].ok(&["network", "create", "-d", "overlay", name]);
        cluster.wait_for_network(1, name);
    }
    let members = cluster.members(1);
    assert!(members.len() == 1 && members[0].address.to_string() == cluster.peer(0), "{members:?}");
}
