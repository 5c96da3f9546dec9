//! etcd fails, in part or completely, and comes back.

use std::{thread, time::Duration};

use crate::harness::{AtRest, Clustered, Family, Flow, Netns, eventually, ping, tcp};

#[test]
fn without_etcd_traffic_continues_and_changes_are_refused_over_ipv4() {
    check_outage(Family::V4);
}

#[test]
fn without_etcd_traffic_continues_and_changes_are_refused_over_ipv6() {
    check_outage(Family::V6);
}

fn check_outage(family: Family) {
    let mut cluster = Clustered::up(3, family, Clustered::BRIEF);
    let [extra, late] = ["extra", "late"].map(Netns::new);
    let extra_at = cluster.hosts[0].attach(&extra, &["--network", "net", "--name", "extra"]);
    (1..3).for_each(|number| cluster.wait_for_entry(number, extra_at.mac, 0));
    cluster.hosts[0].ok(&["network", "create", "-d", "overlay", "idle"]);
    cluster.wait_for_network(1, "idle");
    let flow = Flow::start(&cluster.containers[1], &cluster.containers[2], cluster.at[2].ipv4);

    cluster.etcd.stop_all();
    (0..3).for_each(|number| {
        eventually("the host is disconnected", || (!cluster.status(number).connected).then_some(()));
    });
    {
        let at_rest = AtRest::new(&cluster.hosts[1], &[&late, &cluster.containers[1]]);
        let late = late.path_argument();
        at_rest.refuses(&["attach", "--netns", &late, "--network", "net"], &["etcd", "existing traffic goes on"]);
        at_rest.refuses(&["network", "create", "-d", "overlay", "new"], &["etcd", "existing traffic goes on"]);
        at_rest.refuses(&["network", "rm", "idle"], &["etcd", "existing traffic goes on"]);
        let own = cluster.at[1].ipv4.to_string();
        let taken = ["attach", "--netns", &late, "--network", "net", "--ip", &own];
        at_rest.refuses(&taken, &[&own, "already in use", "endpoint c1"]);
        // Networks that belong to this host only do not need etcd.
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
    cluster.wait_for_network(1, "idle");
    cluster.hosts[0].ok(&["detach", "--netns", &extra.path_argument()]);
    assert_eq!(cluster.status(0).pending, 3, "two addresses and a name");
    // Longer than the leases, which do not expire while etcd is stopped.
    thread::sleep(Duration::from_secs(5));
    for (one, other) in cluster.pairs() {
        assert_eq!(cluster.static_port_of(one, cluster.at[other].mac), Some(cluster.peer(other)));
        cluster.wait_for_name(one, &format!("c{other}"), &cluster.at[other]);
        for address in cluster.addresses(other) {
            ping(&cluster.containers[one], address);
            tcp(&cluster.containers[one], &cluster.containers[other], address, 60 << 10);
        }
    }

    cluster.start_etcd();
    for number in 0..3 {
        cluster.wait_until_joined(number, 3);
        cluster.wait_for_no_entry(number, extra_at.mac);
    }
    eventually("the claims are released", || (cluster.keys("addresses").len() == 6).then_some(()));
    let ip = extra_at.ipv4.to_string();
    let at = cluster.hosts[1].attach(&late, &["--network", "net", "--name", "extra", "--ip", &ip]);
    for number in [0, 2] {
        cluster.wait_for_entry(number, at.mac, 1);
        ping(&cluster.containers[number], at.ipv4);
    }
    cluster.hosts[1].ok(&["network", "rm", "idle"]);
    cluster.wait_for_no_network(0, "idle");
    flow.assert_complete();
}

#[test]
fn the_cluster_works_without_one_member_of_etcd() {
    let mut cluster = Clustered::with_three_members(3, Family::V4, Clustered::BRIEF);
    let guests = Netns::several("guest", 3);
    for member in 0..3 {
        cluster.etcd.stop_member(member);
        let name = format!("m{member}");
        cluster.hosts[member].ok(&["network", "create", "-d", "overlay", &name]);
        for (number, guest) in guests.iter().enumerate() {
            let at = cluster.hosts[number].attach(guest, &["--network", "net", "--name", &format!("g{number}")]);
            for other in (0..3).filter(|other| *other != number) {
                cluster.wait_for_entry(other, at.mac, number);
                ping(&cluster.containers[other], at.ipv4);
            }
            cluster.wait_for_network(number, &name);
        }
        for (number, guest) in guests.iter().enumerate() {
            cluster.hosts[number].ok(&["detach", "--netns", &guest.path_argument()]);
        }
        for (one, other) in cluster.pairs() {
            ping(&cluster.containers[one], cluster.at[other].ipv4);
            assert_eq!(cluster.static_port_of(one, cluster.at[other].mac), Some(cluster.peer(other)));
        }
        assert_eq!(cluster.keys("endpoints").len(), 3);
        cluster.start_etcd();
        cluster.wait_for_etcd_member(member);
    }
    (0..3).for_each(|number| cluster.wait_until_joined(number, 3));
}
