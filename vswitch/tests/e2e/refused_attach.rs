//! Invalid `attach` and `network` commands: the refusal is one line that names the value, and
//! nothing is left behind.

use std::{os::unix::fs::symlink, path::Path};

use nix::unistd::{Gid, Uid, chown};
use serde_json::Value;

use crate::harness::{AtRest, Host, Netns, ping};

#[test]
fn paths_that_are_no_foreign_network_namespace_are_refused() {
    let host = Host::up(&[]);
    let container = Netns::new("a");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let fifo = directory.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let (file, fifo) = (file.to_string_lossy(), fifo.to_string_lossy());
    let own = host.netns.path_argument();
    let daemon = format!("/proc/{}/ns/net", host.daemon().unwrap());
    let cases: [(&str, &str); 9] = [
        ("/run/netns/vst-no-such-namespace", "no such"),
        ("/proc/4194304/ns/net", ""),
        (&file, "namespace"),
        (&fifo, "namespace"),
        ("/etc", "namespace"),
        ("/dev/null", "namespace"),
        ("/proc/self/ns/mnt", "network namespace"),
        (&own, "own"),
        (&daemon, "own"),
    ];
    let at_rest = AtRest::new(&host, &[&container]);
    for (path, reason) in cases {
        at_rest.refuses(&["attach", "--netns", path, "--name", "x"], &[path, reason]);
    }
}

#[test]
fn symlinks_that_other_users_can_change_are_refused() {
    let host = Host::up(&[]);
    let container = Netns::new("a");
    let (uid, gid) = (Uid::from_raw(65534), Gid::from_raw(65534));
    let theirs = tempfile::tempdir().unwrap();
    chown(theirs.path(), Some(uid), Some(gid)).unwrap();
    let ours = tempfile::tempdir().unwrap();

    let their_link = theirs.path().join("theirs");
    symlink(container.path(), &their_link).unwrap();
    std::os::unix::fs::lchown(&their_link, Some(uid.as_raw()), Some(gid.as_raw())).unwrap();
    // A link of root in a directory of the other user, who could replace it.
    let replaceable = theirs.path().join("ours");
    symlink(container.path(), &replaceable).unwrap();
    // A path of root through a link of the other user.
    let directory_link = theirs.path().join("directory");
    symlink("/run/netns", &directory_link).unwrap();
    std::os::unix::fs::lchown(&directory_link, Some(uid.as_raw()), Some(gid.as_raw())).unwrap();
    let through = directory_link.join(container.name());
    let chain = ours.path().join("chain");
    symlink(&their_link, &chain).unwrap();

    let at_rest = AtRest::new(&host, &[&container]);
    for path in [&their_link, &replaceable, &through, &chain] {
        let path = path.to_string_lossy();
        at_rest.refuses(&["attach", "--netns", &path, "--name", "x"], &["symbolic link", &path]);
    }
}

#[test]
fn invalid_interface_names_are_refused() {
    let host = Host::up(&[]);
    let (container, elsewhere) = (Netns::new("a"), Netns::new("b"));
    container.wire("eth0", &elsewhere, "far0");
    let at_rest = AtRest::new(&host, &[&container]);
    let path = container.path_argument();
    at_rest.refuses(&["attach", "--netns", &path, "--ifname", "eth0"], &["eth0", "(", ")"]);
    at_rest.refuses(&["attach", "--netns", &path, "--ifname", "lo"], &["lo"]);
    at_rest.refuses(&["attach", "--netns", &path, "--ifname", "sixteen-letters0"], &["sixteen-letters0", "15"]);
    for name in ["a/b", "a b", ".", "..", "a:b", ""] {
        at_rest.refuses(&["attach", "--netns", &path, "--ifname", name], &[name]);
    }
    drop(at_rest);
    let endpoint = host.attach(&container, &["--ifname", "fifteen-letters"]);
    assert_eq!(endpoint.ifname.len(), 15);
    ping(&host.netns, endpoint.ipv4);
}

#[test]
fn a_second_attach_and_values_in_use_are_refused() {
    let host = Host::up(&[]);
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    let endpoint = host.attach(&a, &["--name", "web", "--mac", "02:00:00:00:00:aa"]);
    let at_rest = AtRest::new(&host, &[&a, &b]);
    at_rest.refuses(&["attach", "--netns", &a.path_argument()], &["already", "bridge"]);
    at_rest.refuses(
        &["attach", "--netns", &a.path_argument(), "--ifname", "eth1", "--name", "second"],
        &["already", "bridge"],
    );
    let other = b.path_argument();
    at_rest.refuses(&["attach", "--netns", &other, "--name", "web"], &["web"]);
    at_rest.refuses(
        &["attach", "--netns", &other, "--ip", &endpoint.ipv4.to_string()],
        &[&endpoint.ipv4.to_string(), "web"],
    );
    at_rest.refuses(&["attach", "--netns", &other, "--mac", "02:00:00:00:00:aa"], &["02:00:00:00:00:aa"]);
    ping(&host.netns, endpoint.ipv4);
}

#[test]
fn invalid_addresses_are_refused() {
    let host = Host::up(&[]);
    let container = Netns::new("a");
    let path = container.path_argument();
    let at_rest = AtRest::new(&host, &[&container]);
    let refuse = |option: &str, value: &str| {
        at_rest.refuses(&["attach", "--netns", &path, option, value], &[value]);
    };
    for address in [
        "10.202.0.5",
        "192.0.2.1",
        "10.201.0.0",
        "10.201.0.255",
        "10.201.0.1",
        "0.0.0.0",
        "10.201.0.300",
        "fe80::1",
        "nonsense",
    ] {
        refuse("--ip", address);
    }
    for mac in [
        "01:00:5e:00:00:01",
        "ff:ff:ff:ff:ff:ff",
        "00:00:00:00:00:00",
        "02:00:00:00:00",
        "02:00:00:00:00:0g",
        "020000000001",
    ] {
        refuse("--mac", mac);
    }
}

#[test]
fn invalid_names_are_refused() {
    let host = Host::up(&[]);
    let container = Netns::new("a");
    let path = container.path_argument();
    let long = "x".repeat(64);
    let at_rest = AtRest::new(&host, &[&container]);
    for name in ["-x", ".x", "a/b", "a b", "ä", "", &long] {
        let option = format!("--name={name}");
        at_rest.refuses(&["attach", "--netns", &path, &option], &[name]);
    }
    drop(at_rest);
    let longest = "x".repeat(63);
    assert_eq!(host.attach(&container, &["--name", &longest]).name, longest);
}

#[test]
fn attach_is_refused_when_all_addresses_are_in_use() {
    let host = Host::up(&[]);
    host.ok(&["network", "create", "--subnet", "10.88.0.0/29", "tiny"]);
    let containers = Netns::several("c", 6);
    let all: Vec<&Netns> = containers.iter().collect();
    let mut addresses = Vec::new();
    for container in &containers[..5] {
        addresses.push(host.attach(container, &["--network", "tiny"]).ipv4.to_string());
    }
    assert_eq!(addresses, ["10.88.0.2", "10.88.0.3", "10.88.0.4", "10.88.0.5", "10.88.0.6"]);
    let at_rest = AtRest::new(&host, &all);
    let last = containers[5].path_argument();
    at_rest.refuses(&["attach", "--netns", &last, "--network", "tiny"], &["10.88.0.0/29", "tiny"]);
    drop(at_rest);
    host.ok(&["detach", containers[2].name()]);
    assert_eq!(host.attach(&containers[5], &["--network", "tiny"]).ipv4.to_string(), "10.88.0.4");
}

#[test]
fn unknown_networks_and_endpoints_are_refused() {
    let host = Host::up(&[]);
    let container = Netns::new("a");
    let at_rest = AtRest::new(&host, &[&container]);
    let path = container.path_argument();
    at_rest.refuses(&["attach", "--netns", &path, "--network", "nowhere"], &["nowhere"]);
    at_rest.refuses(&["network", "inspect", "nowhere"], &["nowhere"]);
    at_rest.refuses(&["network", "rm", "nowhere"], &["nowhere"]);
    at_rest.refuses(&["inspect", "nobody"], &["nobody"]);
    at_rest.refuses(&["stats", "nobody"], &["nobody"]);
    at_rest.refuses(&["fdb", "show", "--network", "nowhere"], &["nowhere"]);
}

#[test]
fn invalid_networks_are_refused() {
    let host = Host::up(&[]);
    let neighbor = Netns::new("neighbor");
    host.netns.wire("phys0", &neighbor, "eth0");
    host.netns.ip("address add 172.31.5.1/24 dev phys0");
    host.ok(&["network", "create", "--subnet", "10.89.0.0/24", "-o", "uplink=phys0", "mine"]);
    let cases: [(&[&str], &[&str]); 17] = [
        (&["-d", "warp", "x"], &["warp"]),
        (&["-o", "speed=ludicrous", "x"], &["speed", "uplink", "mtu"]),
        (&["-o", "uplink=phys0", "-o", "xdp=perhaps", "x"], &["xdp", "perhaps"]),
        (&["-o", "mtu=many", "x"], &["mtu", "many"]),
        (&["-o", "mtu=10", "x"], &["mtu", "10"]),
        (&["-o", "uplink=nowhere0", "x"], &["nowhere0"]),
        (&["-o", "uplink=lo", "x"], &["lo"]),
        (&["-o", "uplink=phys0", "x"], &["phys0", "mine"]),
        (&["-o", "ageing", "x"], &["ageing"]),
        (&["--subnet", "10.89.0.0/25", "x"], &["10.89.0.0/25", "mine"]),
        (&["--subnet", "10.300.0.0/24", "x"], &["10.300.0.0/24"]),
        (&["--subnet", "10.98.0.0/33", "x"], &["10.98.0.0/33"]),
        (&["--subnet", "10.98.0.0/24", "--gateway", "10.97.0.1", "x"], &["10.97.0.1", "10.98.0.0/24"]),
        (&["--subnet", "10.98.0.0/24", "--ip-range", "10.97.0.0/25", "x"], &["10.97.0.0/25", "10.98.0.0/24"]),
        (&["mine"], &["mine"]),
        (&["bridge"], &["bridge"]),
        (&["a/b"], &["a/b"]),
    ];
    let at_rest = AtRest::new(&host, &[]);
    for (arguments, names) in cases {
        at_rest.refuses(&[&["network", "create"], arguments].concat(), names);
    }
    at_rest.refuses(&["network", "rm", "bridge"], &["bridge"]);
    drop(at_rest);
    let container = Netns::new("a");
    host.attach(&container, &["--network", "mine", "--name", "web"]);
    AtRest::new(&host, &[&container]).refuses(&["network", "rm", "mine"], &["mine", "web"]);
}

#[test]
fn a_failed_attach_or_create_is_undone() {
    // A veth refuses an XDP program without support for fragments if its other end sends frames
    // larger than a page.
    let host = Host::down();
    let [a, b, wire] = ["a", "b", "wire"].map(Netns::new);
    host.netns.wire("phys0", &wire, "eth0");
    for (netns, device) in [(&*host.netns, "phys0"), (&wire, "eth0")] {
        netns.ip(&format!("link set {device} mtu 9000"));
    }
    host.start(&["--datapath", "xdp"]);
    {
        let at_rest = AtRest::new(&host, &[&wire]);
        let uplink = ["-o", "uplink=phys0", "-o", "xdp=native"];
        at_rest.refuses(&[&["network", "create", "lan"][..], &uplink].concat(), &["phys0", "(", ")"]);
    }
    host.ok(&["network", "create", "--subnet", "10.92.0.0/24", "-o", "mtu=9000", "jumbo"]);
    let at_rest = AtRest::new(&host, &[&a]);
    at_rest.refuses(&["attach", "--netns", &a.path_argument(), "--network", "jumbo"], &["(", ")"]);
    drop(at_rest);
    // Nothing is left behind that would prevent valid networks and endpoints.
    host.ok(&["network", "create", "lan", "-o", "uplink=phys0", "-o", "xdp=off"]);
    host.attach(&a, &[]);
    let at_b = host.attach(&b, &[]);
    ping(&a, at_b.ipv4);
}

#[test]
fn an_error_in_json_has_a_code_and_a_message() {
    let host = Host::up(&[]);
    let container = Netns::new("a");
    let cases = [
        (vec!["network", "inspect", "nowhere"], "network_not_found", "nowhere"),
        (vec!["inspect", "nobody"], "endpoint_not_found", "nobody"),
        (vec!["attach", "--netns", "/etc"], "", "/etc"),
    ];
    for (arguments, code, name) in cases {
        let outcome = host.run(&[&arguments[..], &["--format", "json"]].concat());
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(1), ""), "{outcome:#?}");
        let error: Value =
            serde_json::from_str(&outcome.stderr).unwrap_or_else(|error| panic!("{error}: {outcome:#?}"));
        let found = error["error"]["code"].as_str().unwrap_or_default();
        assert!(
            found.contains(code) && found.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'),
            "{error:#}"
        );
        assert!(
            !found.is_empty() && error["error"]["message"].as_str().is_some_and(|message| message.contains(name)),
            "{error:#}"
        );
    }
    host.stop(&[]);
    let outcome = host.run(&["attach", "--netns", &container.path_argument(), "--format", "json"]);
    assert_eq!(outcome.code, Some(3), "{outcome:#?}");
    let error: Value = serde_json::from_str(&outcome.stderr).unwrap_or_else(|error| panic!("{error}: {outcome:#?}"));
    assert!(error["error"]["code"].is_string(), "{error:#}");
    assert!(!Path::new(&host.socket()).exists());
}
