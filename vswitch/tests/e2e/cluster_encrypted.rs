//! Encrypted networks in a cluster: hosts tell each other their keys, and nobody has to be told of any.

use crate::harness::{Clustered, Family, Overheard, Tap, heard, ping, ping_with, reaches, settles, tcp, udp};

/// Said in each direction.
const SECRET: &[u8] = b"what only the other container may read";

/// All pairs reach each other in every way, once the hosts have told each other all that is new.
#[track_caller]
fn all_reach_each_other(cluster: &Clustered) {
    for (one, other) in cluster.pairs() {
        let (from, to) = (&cluster.containers[one], &cluster.containers[other]);
        for address in cluster.addresses(other) {
            settles("they reach each other", || {
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

/// Every host has the key of every other, as that says it is.
#[track_caller]
fn keys_are_known(cluster: &Clustered) {
    for (one, other) in cluster.pairs() {
        let (key, address) = (cluster.key(other), cluster.peer(other));
        settles("the key is known", || {
            let peers = cluster.peers(one);
            let known =
                peers.iter().find(|peer| peer.address.to_string() == address).and_then(|peer| peer.public_key.clone());
            if known.as_ref() == Some(&key) { Ok(()) } else { Err(known) }
        });
    }
}

#[test]
fn hosts_tell_each_other_their_keys_and_nothing_goes_in_the_clear() {
    for family in [Family::V4, Family::V6] {
        let cluster = Clustered::encrypted(3, family, Clustered::LONG);
        let stations: Vec<_> = cluster.at.iter().map(|at| at.mac).collect();
        let tap = Tap::on(&cluster, SECRET, &stations);
        keys_are_known(&cluster);
        all_reach_each_other(&cluster);
        cluster.finds(0, "c1", &cluster.at[1]);
        // What is for all goes to all, and in the dark, too.
        let others = [&cluster.containers[1], &cluster.containers[2]];
        assert_eq!(heard(&cluster.containers[0], cluster.at[0].ipv4, &others), [1, 1]);
        let Overheard { plain, encrypted } = tap.read();
        assert!(plain == 0 && encrypted > 20, "{plain} in the clear, {encrypted} encrypted");
        let peers = cluster.peers(0);
        assert!(peers.iter().all(|peer| peer.last_handshake_seconds.is_some()), "{peers:?}");
    }
}

#[test]
fn a_new_key_and_a_lost_host_are_told_to_all() {
    let cluster = Clustered::encrypted(3, Family::V4, Clustered::BRIEF);
    all_reach_each_other(&cluster);
    let host = &cluster.hosts[1];
    let before = cluster.key(1);
    host.kill_daemon();
    for number in [0, 2] {
        cluster.has_members(number, &[2 - number]);
    }
    std::fs::remove_file(host.state_directory().join("wireguard.key")).expect("the key is there");
    cluster.join(1);
    assert_ne!(cluster.key(1), before);
    for number in 0..3 {
        let others: Vec<usize> = (0..3).filter(|other| *other != number).collect();
        cluster.has_members(number, &others);
    }
    keys_are_known(&cluster);
    all_reach_each_other(&cluster);
}
