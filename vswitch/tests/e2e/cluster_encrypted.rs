//! Encrypted networks in a cluster: the hosts exchange their public keys through etcd, so none is
//! configured by hand.

use crate::harness::{
    Clustered, Family, Tap, TapCounts, count_broadcasts, ping, ping_with, reaches, settles, tcp, udp,
};

/// The text that is looked for in the clear on the underlay.
const SECRET: &[u8] = b"the text that must not be readable";

/// Checks that all pairs of containers reach each other with every protocol, once the hosts have
/// received each other's records.
#[track_caller]
fn all_reach_each_other(cluster: &Clustered) {
    for (one, other) in cluster.pairs() {
        let (from, to) = (&cluster.containers[one], &cluster.containers[other]);
        for address in cluster.addresses(other) {
            settles(&format!("container {one} reaches container {other}"), || {
                let reach = reaches(from, to, address, false);
                if reach.to_string() == "yes" { Ok(()) } else { Err(reach.to_string()) }
            });
            ping(from, address);
            ping_with(from, address, 4000);
            udp(from, to, address, 1300, 1);
            tcp(from, to, address, 60 << 10);
        }
    }
}

/// Waits until every host has the public key that each other host reports for itself.
#[track_caller]
fn wait_for_keys(cluster: &Clustered) {
    for (one, other) in cluster.pairs() {
        let (key, address) = (cluster.key(other), cluster.peer(other));
        settles(&format!("host {one} has the key of host {other}"), || {
            let peers = cluster.peers(one);
            let known =
                peers.iter().find(|peer| peer.address.to_string() == address).and_then(|peer| peer.public_key.clone());
            if known.as_ref() == Some(&key) { Ok(()) } else { Err(known) }
        });
    }
}

#[test]
fn hosts_exchange_keys_and_all_traffic_is_encrypted() {
    for family in [Family::V4, Family::V6] {
        let cluster = Clustered::encrypted(3, family, Clustered::LONG);
        let stations: Vec<_> = cluster.at.iter().map(|at| at.mac).collect();
        let tap = Tap::start(&cluster, SECRET, &stations);
        wait_for_keys(&cluster);
        all_reach_each_other(&cluster);
        cluster.wait_for_name(0, "c1", &cluster.at[1]);
        // Broadcasts reach all hosts, encrypted as well.
        let others = [&cluster.containers[1], &cluster.containers[2]];
        assert_eq!(count_broadcasts(&cluster.containers[0], cluster.at[0].ipv4, &others), [1, 1]);
        let TapCounts { plain, encrypted } = tap.read();
        assert!(plain == 0 && encrypted > 20, "{plain} in the clear, {encrypted} encrypted");
        let peers = cluster.peers(0);
        assert!(peers.iter().all(|peer| peer.last_handshake_seconds.is_some()), "{peers:?}");
    }
}

#[test]
fn a_new_key_and_a_lost_host_are_known_to_all_hosts() {
    let cluster = Clustered::encrypted(3, Family::V4, Clustered::BRIEF);
    all_reach_each_other(&cluster);
    let host = &cluster.hosts[1];
    let before = cluster.key(1);
    host.kill_daemon();
    for number in [0, 2] {
        cluster.wait_for_members(number, &[2 - number]);
    }
    std::fs::remove_file(host.state_directory().join("wireguard.key")).expect("the key file exists");
    cluster.join(1);
    assert_ne!(cluster.key(1), before);
    for number in 0..3 {
        let others: Vec<usize> = (0..3).filter(|other| *other != number).collect();
        cluster.wait_for_members(number, &others);
    }
    wait_for_keys(&cluster);
    all_reach_each_other(&cluster);
}
