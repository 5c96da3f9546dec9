//! etcd goes, in part or altogether, and comes back.

use std::{thread, time::Duration};

use crate::harness::{AtRest, Clustered, Family, Flow, Netns, eventually, ping, tcp};

#[test]
fn without_etcd_traffic_goes_on_and_nothing_new_comes_over_ipv4() {
    without_etcd(Family::V4);
}

#[test]
fn without_etcd_traffic_goes_on_and_nothing_new_comes_over_ipv6() {
    without_etcd(Family::V6);
}

fn without_etcd(family: Family) {
    let mut cluster = Clustered::up(3, family, Clustered::BRIEF);
    let [extra, late] = ["extra", "late"].map(Netns::new);
    let extra_at = cluster.hosts[0].attach(&extra, &["--network", "net", "--name", "extra"]);
    (1..3).for_each(|number| cluster.knows(number, extra_at.mac, 0));
    cluster.hosts[0].ok(&["network", "create", "-d", "overlay", "idle"]);
    cluster.has_network(1, "idle");
    let flow = Flow::start(&cluster.containers[1], &cluster.containers[2], cluster.at[2].ipv4);

    cluster.etcd.stop_all();
    (0..3).for_each(|number| eventually("it says so", || (!cluster.status(number).connected).then_some(())));
    {
        let at_rest = AtRest::new(&cluster.hosts[1], &[&late, &cluster.containers[1]]);
        let late = late.path_argument();
        at_rest.refuses(&["attach", "--netns", &late, "--network", "net"], &["etcd", "existing traffic goes on"]);
        at_rest.refuses(&["network", "create", "-d", "overlay", "new"], &["etcd", "existing traffic goes on"]);
        at_rest.refuses(&["network", "rm", "idle"], &["etcd", "existing traffic goes on"]);
        let own = cluster.at[1].ipv4.to_string();
        let taken = ["attach", "--netns", &late, "--network", "net", "--ip", &own];
        at_rest.refuses(&taken, &[&own, "already in use", "endpoint c1"]);
        // What is this host's alone asks nobody.
        cluster.hosts[1].ok(&["network", "create", "local"]);
        cluster.hosts[1].ok(&["attach", "--netns", &late, "--network", "local", "--name", "late"]);
        cluster.hosts[1].ok(&["detach", "--netns", &late]);
        cluster.hosts[1].ok(&["network", "rm", "local"]);
    }
    let own = ["own1", "own2", "own3"];
    own.iter().for_each(|name| drop(cluster.hosts[1].ok(&["network", "create", name])));
    let pruned = cluster.hosts[1].run(&["network", "prune", "-f"]);
    assert_eq!((pruned.code, pruned.stdout.as_str()), (Some(1), "own1\nown2\nown3\n"), "{pruned:#?}");
    assert!(pruned.stderr.contains("etcd") && pruned.stderr.contains("idle"), "{pruned:#?}");
    cluster.has_network(1, "idle");
    cluster.hosts[0].ok(&["detach", "--netns", &extra.path_argument()]);
    assert_eq!(cluster.status(0).pending, 3, "two addresses and a name");
    // Longer than the leases: while nobody counts, none ends.
    thread::sleep(Duration::from_secs(5));
    for (one, other) in cluster.pairs() {
        assert_eq!(cluster.told(one, cluster.at[other].mac), Some(cluster.peer(other)));
        cluster.finds(one, &format!("c{other}"), &cluster.at[other]);
        for address in cluster.addresses(other) {
            ping(&cluster.containers[one], address);
            tcp(&cluster.containers[one], &cluster.containers[other], address, 60 << 10);
        }
    }

    cluster.start_etcd();
    for number in 0..3 {
        cluster.is_joined(number, 3);
        cluster.forgets(number, extra_at.mac);
    }
    eventually("what was given up is free", || (cluster.keys("addresses").len() == 6).then_some(()));
    let ip = extra_at.ipv4.to_string();
    let at = cluster.hosts[1].attach(&late, &["--network", "net", "--name", "extra", "--ip", &ip]);
    for number in [0, 2] {
        cluster.knows(number, at.mac, 1);
        ping(&cluster.containers[number], at.ipv4);
    }
    cluster.hosts[1].ok(&["network", "rm", "idle"]);
    cluster.has_no_network(0, "idle");
    flow.assert_complete();
}

#[test]
fn one_member_of_etcd_is_not_missed() {
    let mut cluster = Clustered::up(3, Family::V4, Clustered::BRIEF);
    let guests = Netns::several("guest", 3);
    for member in 0..3 {
        cluster.etcd.stop_member(member);
        let name = format!("m{member}");
        cluster.hosts[member].ok(&["network", "create", "-d", "overlay", &name]);
        for (number, guest) in guests.iter().enumerate() {
            let at = cluster.hosts[number].attach(guest, &["--network", "net", "--name", &format!("g{number}")]);
            for other in (0..3).filter(|other| *other != number) {
                cluster.knows(other, at.mac, number);
                ping(&cluster.containers[other], at.ipv4);
            }
            cluster.has_network(number, &name);
        }
        for (number, guest) in guests.iter().enumerate() {
            cluster.hosts[number].ok(&["detach", "--netns", &guest.path_argument()]);
        }
        for (one, other) in cluster.pairs() {
            ping(&cluster.containers[one], cluster.at[other].ipv4);
            assert_eq!(cluster.told(one, cluster.at[other].mac), Some(cluster.peer(other)));
        }
        assert_eq!(cluster.keys("endpoints").len(), 3);
        cluster.start_etcd();
        cluster.in_step(member);
    }
    (0..3).for_each(|number| cluster.is_joined(number, 3));
}
