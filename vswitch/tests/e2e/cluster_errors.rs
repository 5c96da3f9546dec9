//! What cannot be in a cluster: one clear line with the way out, and nothing is changed.

use std::fs;

use crate::harness::{AtRest, Clustered, Family, Host, Netns, Surroundings, eventually, ping, run, settles};

/// `up` with these flags, which fails with one line that names these, and leaves nothing.
#[track_caller]
fn refused(host: &Host, flags: &[&str], names: &[&str]) {
    let before = Surroundings::of(host, &[]);
    let outcome = run(host.command(&["up"]).args(flags));
    let line = match outcome.code {
        // The command line itself is wrong; clap shows the usage with it.
        Some(2) => outcome.stderr,
        _ => crate::harness::complaint(1, &outcome),
    };
    for name in names {
        assert!(line.contains(name), "up {flags:?}: `{line}` does not name {name}");
    }
    assert_eq!(Surroundings::of(host, &[]), before, "up {flags:?} left something");
}

#[test]
fn a_cluster_that_cannot_be_joined_is_refused_and_nothing_is_left() {
    let mut cluster = Clustered::down(1, Family::V4);
    let host = &cluster.hosts[0];
    let url = cluster.etcd.url();
    // Nobody has this address, and nobody listens there.
    for silent in ["etcd://192.0.2.99:2379", "etcd://192.0.2.20:1"] {
        refused(host, &["--cluster", silent], &["cannot reach etcd", silent.trim_start_matches("etcd://")]);
    }
    refused(host, &["--cluster", "etcd://nosuchname.invalid"], &["cannot resolve nosuchname.invalid: ", "/etc/hosts"]);
    refused(host, &["--cluster", "http://192.0.2.20:2379"], &["http://192.0.2.20:2379", "etcd://"]);
    refused(host, &["--cluster", "etcd://192.0.2.20:x"], &["192.0.2.20:x", "HOST:PORT"]);
    refused(host, &["--cluster", "etcd://me:secret@192.0.2.20:2379"], &["password in a file"]);
    for foreign in ["192.0.2.77", "127.0.0.1", "224.0.0.1", "0.0.0.0"] {
        refused(host, &["--cluster", &url, "--advertise", foreign], &[foreign, "--advertise"]);
    }
    refused(host, &["--cluster", &url, "--cluster-lease", "1"], &["a lease of 1 s", "from 2"]);
    refused(host, &["--cluster", &url, "--cluster-prefix", "vswitch"], &["vswitch", "begins with `/`"]);
    refused(host, &["--cluster", &url, "--cluster-cert", "/etc/hostname"], &["--cluster-key"]);
    refused(host, &["--cluster", &url, "--cluster-user", "vswitch"], &["--cluster-password-file"]);
    refused(host, &["--advertise", "192.0.2.1"], &["--cluster"]);
    refused(host, &["--cluster", &url, "--cluster-ca", "/nonexistent"], &["/nonexistent"]);
    assert_eq!(cluster.keys("hosts"), Vec::<String>::new(), "none of these has left itself in etcd");

    cluster.etcd.stop_all();
    refused(&cluster.hosts[0], &["--cluster", &url], &["cannot reach etcd", "192.0.2.21:2379"]);
    cluster.start_etcd();
    cluster.join(0);
    cluster.is_joined(0, 1);
}

#[test]
fn a_password_that_is_wrong_is_refused() {
    let cluster = Clustered::down(1, Family::V4);
    cluster.need_users();
    let host = &cluster.hosts[0];
    let url = cluster.etcd.url();
    let [right, wrong] = ["secret", "guess"].map(|password| {
        let file = cluster.etcd.directory().join(password);
        fs::write(&file, format!("{password}\n")).expect("a file of our own");
        file.to_str().expect("text").to_owned()
    });
    let user = |file| ["--cluster", &url, "--cluster-user", "vswitch", "--cluster-password-file", file];
    let hint = ["refuses this host", "check user and password"];
    refused(host, &["--cluster", &url], &hint);
    refused(host, &user(&wrong), &hint);
    refused(host, &[&user(&right)[..], &["--cluster-prefix", "/other"]].concat(), &hint);
    refused(host, &user("/nonexistent"), &["/nonexistent", "password"]);
    host.start(&user(&right));
    cluster.is_joined(0, 1);
    host.ok(&["network", "create", "-d", "overlay", "net"]);
    // What nobody is to see is not shown.
    let outcome = host.run(&["status", "--format", "json"]);
    assert!(!outcome.stdout.contains("secret\""), "{}", outcome.stdout);
}

#[test]
fn a_certificate_that_is_wrong_is_refused() {
    let cluster = Clustered::with_tls(1);
    let host = &cluster.hosts[0];
    let url = cluster.etcd.url();
    let files = cluster.etcd.certificates();
    let [ca, stranger, cert, key] =
        [&files.authority, &files.stranger, &files.client, &files.client_key].map(|file| file.to_str().expect("text"));
    let identity = ["--cluster-cert", cert, "--cluster-key", key];
    let with = |ca| [&["--cluster", &url, "--cluster-ca", ca], &identity[..]].concat();
    refused(host, &with(stranger), &["TLS", "192.0.2.21:2379", "authority"]);
    refused(host, &["--cluster", &url, "--cluster-ca", ca], &["192.0.2.21:2379"]);
    refused(host, &["--cluster", &url], &["192.0.2.21:2379"]);
    refused(host, &with("/etc/hostname"), &["/etc/hostname"]);
    let swapped = ["--cluster", &url, "--cluster-ca", ca, "--cluster-cert", key, "--cluster-key", cert];
    refused(host, &swapped, &[key, "certificate"]);
    host.start(&with(ca));
    cluster.is_joined(0, 1);
    host.ok(&["network", "create", "-d", "overlay", "net"]);
}

#[test]
fn what_does_not_fit_the_cluster_is_refused_on_every_host() {
    let cluster = Clustered::up(2, Family::V4, Clustered::LONG);
    let guest = Netns::new("guest");
    {
        let at_rest = AtRest::new(&cluster.hosts[1], &[&guest]);
        let netns = guest.path_argument();
        // It does not know the other host's endpoints by heart; etcd does.
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
    // Refused on one host, and so nothing of it is to be seen on another.
    assert_eq!(cluster.status(0).endpoints, 1);
    assert_eq!(["addresses", "names", "networks", "vnis"].map(|kind| cluster.keys(kind).len()), [4, 2, 1, 1]);
    ping(&cluster.containers[0], cluster.at[1].ipv4);
    // What is this host's own needs no cluster, and has none of its names.
    cluster.hosts[1].ok(&["network", "create", "own"]);
    assert_eq!(cluster.keys("networks"), ["net"]);
}

#[test]
fn a_subnet_that_would_take_the_underlay_is_nobodys_in_the_cluster() {
    let cluster = Clustered::down(3, Family::V4);
    (0..2).for_each(|number| drop(cluster.join(number)));
    cluster.has_members(1, &[0]);
    let create = |subnet| ["network", "create", "-d", "overlay", "--subnet", subnet, "under"];
    let line = cluster.hosts[1].fails(1, &create("192.0.2.0/24"));
    for name in ["192.0.2.0/24", "under", "192.0.2.1", "host0.test", "choose another subnet"] {
        assert!(line.contains(name), "`{line}` does not name {name}");
    }
    assert_eq!(cluster.keys("networks"), Vec::<String>::new());
    // The third is not there yet, and nobody knows that it will be in there: it does without.
    cluster.hosts[2].netns.ip("address add 198.51.100.3/24 dev under0");
    cluster.hosts[1].ok(&create("198.51.100.0/24"));
    let url = cluster.etcd.url();
    cluster.hosts[2].start(&["--cluster", &url, "--advertise", "198.51.100.3"]);
    cluster.is_joined(2, 3);
    eventually("it says why", || {
        let status = cluster.hosts[2].ok(&["status"]);
        let names = ["network under of the cluster is not on this host", "198.51.100.3", "198.51.100.0/24"];
        names.iter().all(|name| status.contains(name)).then_some(())
    });
    assert!(!cluster.networks(2).contains(&"under".to_owned()));
    cluster.has_network(0, "under");
    cluster.hosts[1].ok(&["network", "rm", "under"]);
    eventually("nothing is left to say", || {
        (!cluster.hosts[2].ok(&["status"]).contains("network under")).then_some(())
    });
}

#[test]
fn a_network_that_could_not_be_made_is_made_when_what_was_in_the_way_is_gone() {
    let cluster = Clustered::down(2, Family::V4);
    (0..2).for_each(|number| drop(cluster.join(number)));
    cluster.hosts[0].ok(&["network", "create", "-d", "overlay", "net"]);
    cluster.has_network(1, "net");
    let device = cluster.host_device(1).replace("-net", "-late");
    let netns = &cluster.hosts[1].netns;
    netns.ip(&format!("link add {device} type bridge"));
    cluster.hosts[0].ok(&["network", "create", "-d", "overlay", "late"]);
    settles("it says so", || {
        let notes = cluster.hosts[1].json::<serde_json::Value>(&["status"])["notes"].to_string();
        if notes.contains("late") && notes.contains(&device) { Ok(()) } else { Err(notes) }
    });
    netns.ip(&format!("link delete {device}"));
    cluster.has_network(1, "late");
    eventually("nothing is left to say", || {
        let notes = cluster.hosts[1].json::<serde_json::Value>(&["status"])["notes"].to_string();
        (!notes.contains("late")).then_some(())
    });
}
