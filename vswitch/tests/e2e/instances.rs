//! Several instances in one namespace.

use serde_json::Value;

use crate::harness::{Host, Netns, ping, tcp};

#[test]
fn instances_in_one_namespace_are_independent() {
    let first = Host::up(&[]);
    let second = Host::beside(&first.netns);
    second.start(&[]);
    let third = Host::beside(&first.netns);
    third.start(&["--datapath", "xdp"]);
    let all = [&first, &second, &third];
    let subnets = all.map(|host| {
        let networks: Vec<Value> = host.json(&["network", "ls"]);
        networks[0]["subnets"][0]["subnet"].as_str().unwrap().to_owned()
    });
    assert_eq!(subnets, ["10.201.0.0/24", "10.201.1.0/24", "10.201.2.0/24"]);

    let containers = all.map(|_| [Netns::new("a"), Netns::new("b")]);
    let addresses: Vec<_> = all
        .iter()
        .zip(&containers)
        .map(|(host, [a, b])| (host.attach(a, &["--name", "a"]).ipv4, host.attach(b, &["--name", "b"]).ipv4))
        .collect();
    for ([a, b], (_, address)) in containers.iter().zip(&addresses) {
        ping(a, *address);
        tcp(a, b, *address, 1 << 20);
    }
    for host in all {
        assert_eq!(host.ps().len(), 2);
    }

    first.stop(&[]);
    for ([a, b], (_, address)) in containers.iter().zip(&addresses).skip(1) {
        tcp(a, b, *address, 1 << 20);
    }
    second.kill_daemon();
    assert_eq!(third.ps().len(), 2);
    second.start(&[]);
    assert_eq!(second.ps().len(), 2);
    ping(&containers[1][0], addresses[1].1);
}

#[test]
fn a_container_of_one_instance_is_left_alone_by_another() {
    let first = Host::up(&[]);
    let second = Host::beside(&first.netns);
    second.start(&[]);
    let container = Netns::new("a");
    first.attach(&container, &["--name", "a"]);
    second.ok(&["detach", "a"]);
    second.ok(&["detach", "--netns", &container.path_argument()]);
    assert!(container.devices().contains("eth0"));
    // The interface name is used by the other instance.
    let line = second.fails(1, &["attach", "--netns", &container.path_argument(), "--ifname", "eth0"]);
    assert!(line.contains("eth0"), "{line}");
    assert_eq!(second.attach(&container, &[]).ifname, "eth1");
    first.stop(&[]);
    assert_eq!(container.devices(), ["lo", "eth1"].map(str::to_owned).into());
}
