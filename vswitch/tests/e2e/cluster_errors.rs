//! Refused cluster options and cluster operations: one clear error message with a remedy, and no
//! change.

use std::fs;

use crate::harness::{AtRest, Clustered, Family, Host, Netns, Surroundings, eventually, ping, run, settles};

/// Runs `up` with these flags. It must fail with a one-line message that contains all of `names`,
/// and change nothing.
#[track_caller]
fn assert_refused(host: &Host, flags: &[&str], names: &[&str]) {
    let before = Surroundings::of(host, &[]);
    let outcome = run(host.command(&["up"]).args(flags));
    let line = match outcome.code {
        // An error in the command line itself: clap prints the usage with it.
        Some(2) => outcome.stderr,
        _ => crate::harness::complaint(1, &outcome),
    };
    for name in names {
        assert!(line.contains(name), "up {flags:?}: `{line}` does not contain {name}");
    }
    assert_eq!(Surroundings::of(host, &[]), before, "up {flags:?} left something behind");
}

#[test]
fn up_fails_if_it_cannot_join_the_cluster_and_leaves_nothing() {
    let mut cluster = Clustered::down(1, Family::V4);
    let host = &cluster.hosts[0];
    let url = cluster.etcd.url();
    // The first address does not exist, and nothing listens on the second.
    for silent in ["etcd://192.0.2.99:2379", "etcd://192.0.2.20:1"] {
        assert_refused(host, &["--cluster", silent], &["cannot reach etcd", silent.trim_start_matches("etcd://")]);
    }
    assert_refused(
        host,
        &["--cluster", "etcd://nosuchname.invalid"],
        &["cannot resolve nosuchname.invalid: ", "/etc/hosts"],
    );
    assert_refused(host, &["--cluster", "http://192.0.2.20:2379"], &["http://192.0.2.20:2379", "etcd://"]);
    assert_refused(host, &["--cluster", "etcd://192.0.2.20:x"], &["192.0.2.20:x", "HOST:PORT"]);
    assert_refused(host, &["--cluster", "etcd://me:secret@192.0.2.20:2379"], &["password in a file"]);
    for foreign in ["192.0.2.77", "127.0.0.1", "224.0.0.1", "0.0.0.0"] {
        assert_refused(host, &["--cluster", &url, "--advertise", foreign], &[foreign, "--advertise"]);
    }
    assert_refused(host, &["--cluster", &url, "--cluster-lease", "1"], &["a lease of 1 s", "from 2"]);
    assert_refused(host, &["--cluster", &url, "--cluster-prefix", "vswitch"], &["vswitch", "begins with `/`"]);
    assert_refused(host, &["--cluster", &url, "--cluster-cert", "/etc/hostname"], &["--cluster-key"]);
    assert_refused(host, &["--cluster", &url, "--cluster-user", "vswitch"], &["--cluster-password-file"]);
    assert_refused(host, &["--cluster", &url, "--cluster-ca", "/nonexistent"], &["/nonexistent"]);
    assert_eq!(cluster.keys("hosts"), Vec::<String>::new(), "no refused host is recorded in etcd");

    cluster.etcd.stop_all();
    assert_refused(&cluster.hosts[0], &["--cluster", &url], &["cannot reach etcd", "192.0.2.21:2379"]);
    cluster.start_etcd();
    cluster.join(0);
    cluster.wait_until_joined(0, 1);
}

#[test]
fn a_wrong_password_is_refused() {
    let cluster = Clustered::down(1, Family::V4);
    cluster.require_users();
    let host = &cluster.hosts[0];
    let url = cluster.etcd.url();
    let [right, wrong] = ["secret", "guess"].map(|password| {
        let file = cluster.etcd.directory().join(password);
        fs::write(&file, format!("{password}\n")).expect("writing the file");
        file.to_str().expect("text").to_owned()
    });
    let user = |file| ["--cluster", &url, "--cluster-user", "vswitch", "--cluster-password-file", file];
    let hint = ["refuses this host", "check user and password"];
    assert_refused(host, &["--cluster", &url], &hint);
    assert_refused(host, &user(&wrong), &hint);
    assert_refused(host, &[&user(&right)[..], &["--cluster-prefix", "/other"]].concat(), &hint);
    assert_refused(host, &user("/nonexistent"), &["/nonexistent", "password"]);
    host.start(&user(&right));
    cluster.wait_until_joined(0, 1);
    host.ok(&["network", "create", "-d", "overlay", "net"]);
    // The password is not shown.
    let outcome = host.run(&["status", "--format", "json"]);
    assert!(!outcome.stdout.contains("secret\""), "{}", outcome.stdout);
}

#[test]
fn a_wrong_certificate_is_refused() {
    let cluster = Clustered::with_tls(1);
    let host = &cluster.hosts[0];
    let url = cluster.etcd.url();
    let files = cluster.etcd.certificates();
    let [ca, foreign, cert, key] =
        [&files.authority, &files.stranger, &files.client, &files.client_key].map(|file| file.to_str().expect("text"));
    let identity = ["--cluster-cert", cert, "--cluster-key", key];
    let with = |ca| [&["--cluster", &url, "--cluster-ca", ca], &identity[..]].concat();
    assert_refused(host, &with(foreign), &["TLS", "192.0.2.21:2379", "authority"]);
    assert_refused(host, &["--cluster", &url, "--cluster-ca", ca], &["192.0.2.21:2379"]);
    assert_refused(host, &["--cluster", &url], &["192.0.2.21:2379"]);
    assert_refused(host, &with("/etc/hostname"), &["/etc/hostname"]);
    let swapped = ["--cluster", &url, "--cluster-ca", ca, "--cluster-cert", key, "--cluster-key", cert];
    assert_refused(host, &swapped, &[key, "certificate"]);
    host.start(&with(ca));
    cluster.wait_until_joined(0, 1);
    host.ok(&["network", "create", "-d", "overlay", "net"]);
}

#[test]
fn names_addresses_and_networks_in_use_on_another_host_are_refused() {
    let cluster = Clustered::up(2, Family::V4, Clustered::LONG);
    let guest = Netns::new("guest");
    {
        let at_rest = AtRest::new(&cluster.hosts[1], &[&guest]);
        let netns = guest.path_argument();
        // This host has no copy of the other host's endpoint names; etcd refuses the duplicates.
        let attach = ["attach", "--network", "net", "--netns", &netns];
        let with = |flags: &[&'static str]| [&attach[..], flags].concat();
        at_rest.refuses(&with(&["--name", "c0"]), &["c0", "already exists", "host0.test (192.0.2.1)"]);
        let ip = cluster.at[0].ipv4.to_string();
        at_rest.refuses(
            &[&attach[..], &["--ip", &ip]].concat(),
            &[&ip, "already in use", "c0 on host host0.test (192.0.2.1)"],
        );
        let ip6 = cluster.at[0].ipv6.expect("an address").to_string();
        at_rest.refuses(&[&attach[..], &["--ip6", &ip6]].concat(), &[&ip6, "already in use", "host0.test"]);

        let create = ["network", "create", "-d", "overlay"];
        let with = |flags: &[&'static str]| [&create[..], flags].concat();
        at_rest.refuses(&with(&["net"]), &["net", "already exists"]);
        at_rest.refuses(&with(&["-o", "vni=4096", "other"]), &["4096", "network net", "vni=N"]);
        at_rest.refuses(&with(&["--subnet", "10.10.128.0/24", "other"]), &["10.10.128.0/24", "overlaps", "net"]);
        at_rest.refuses(
            &["network", "rm", "net"],
            &["net", "active endpoints", "c0 on host host0.test (192.0.2.1), c1 on host host1.test (192.0.2.2)"],
        );
        for peer in [cluster.peer(0), "192.0.2.50".to_owned()] {
            at_rest.refuses(&["peer", "add", &peer], &[&peer, "cluster"]);
        }
        at_rest.refuses(&["peer", "rm", &cluster.peer(0)], &[&cluster.peer(0), "cluster"]);
    }
    // The operations refused on one host left nothing that another host can see.
    assert_eq!(cluster.status(0).endpoints, 1);
    assert_eq!(["addresses", "names", "networks", "vnis"].map(|kind| cluster.keys(kind).len()), [4, 2, 1, 1]);
    ping(&cluster.containers[0], cluster.at[1].ipv4);
    // A network of another kind belongs to this host only. It needs no cluster and is not recorded
    // in etcd.
    cluster.hosts[1].ok(&["network", "create", "own"]);
    assert_eq!(cluster.keys("networks"), ["net"]);
}

#[test]
fn a_subnet_that_contains_an_underlay_address_is_refused() {
    let cluster = Clustered::down(3, Family::V4);
    (0..2).for_each(|number| drop(cluster.join(number)));
    cluster.wait_for_members(1, &[0]);
    let create = |subnet| ["network", "create", "-d", "overlay", "--subnet", subnet, "under"];
    let line = cluster.hosts[1].fails(1, &create("192.0.2.0/24"));
    for name in ["192.0.2.0/24", "under", "192.0.2.1", "host0.test", "choose another subnet"] {
        assert!(line.contains(name), "`{line}` does not contain {name}");
    }
    assert_eq!(cluster.keys("networks"), Vec::<String>::new());
    // The third host has not joined yet, so its address in this subnet is unknown. It joins without
    // the network.
    cluster.hosts[2].netns.ip("address add 198.51.100.3/24 dev under0");
    cluster.hosts[1].ok(&create("198.51.100.0/24"));
    let url = cluster.etcd.url();
    cluster.hosts[2].start(&["--cluster", &url, "--advertise", "198.51.100.3"]);
    cluster.wait_until_joined(2, 3);
    eventually("status names the reason", || {
        let status = cluster.hosts[2].ok(&["status"]);
        let names = ["network under of the cluster is not on this host", "198.51.100.3", "198.51.100.0/24"];
        names.iter().all(|name| status.contains(name)).then_some(())
    });
    assert!(!cluster.networks(2).contains(&"under".to_owned()));
    cluster.wait_for_network(0, "under");
    cluster.hosts[1].ok(&["network", "rm", "under"]);
    eventually("the note is gone", || (!cluster.hosts[2].ok(&["status"]).contains("network under")).then_some(()));
}

#[test]
fn a_network_is_created_once_the_conflicting_device_is_gone() {
    let cluster = Clustered::down(2, Family::V4);
    (0..2).for_each(|number| drop(cluster.join(number)));
    cluster.hosts[0].ok(&["network", "create", "-d", "overlay", "net"]);
    cluster.wait_for_network(1, "net");
    let device = cluster.host_device(1).replace("-net", "-late");
    let netns = &cluster.hosts[1].netns;
    netns.ip(&format!("link add {device} type bridge"));
    cluster.hosts[0].ok(&["network", "create", "-d", "overlay", "late"]);
    settles("status names the device", || {
        let notes = cluster.hosts[1].json::<serde_json::Value>(&["status"])["notes"].to_string();
        if notes.contains("late") && notes.contains(&device) { Ok(()) } else { Err(notes) }
    });
    netns.ip(&format!("link delete {device}"));
    cluster.wait_for_network(1, "late");
    eventually("the note is gone", || {
        let notes = cluster.hosts[1].json::<serde_json::Value>(&["status"])["notes"].to_string();
        (!notes.contains("late")).then_some(())
    });
}
