//! `up`, `status`, and commands without a daemon.

use std::{os::unix::fs::MetadataExt as _, os::unix::net::UnixDatagram};

use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::harness::{BINARY, BpfObject, Host, Netns, PATIENCE, Surroundings, complaint, eventually, ping, run, spawn};

#[test]
fn up_serves_the_predefined_networks() {
    let host = Host::up(&[]);
    let networks: Vec<Value> = host.json(&["network", "ls"]);
    let names: Vec<_> = networks
        .iter()
        .map(|network| (network["name"].as_str().unwrap(), network["driver"].as_str().unwrap()))
        .collect();
    assert_eq!(names, [("bridge", "bridge"), ("host", "host"), ("none", "none")], "{networks:#?}");
    let bridge = &networks[0];
    assert_eq!(bridge["subnets"][0]["subnet"], "10.201.0.0/24", "{bridge:#?}");
    assert_eq!(bridge["subnets"][0]["gateway"], "10.201.0.1", "{bridge:#?}");
    assert_eq!(bridge["endpoints"], 0);
    assert_eq!(bridge["internal"], false);
    let id = bridge["id"].as_str().unwrap();
    assert!(id.len() == 64 && id.bytes().all(|digit| digit.is_ascii_hexdigit()), "{id}");
    let inspected: Vec<Value> = host.json(&["network", "inspect", "bridge"]);
    assert_eq!(inspected[0]["id"], bridge["id"]);
}

#[test]
fn the_api_socket_is_accessible_to_its_group_only() {
    let host = Host::up(&[]);
    let socket = std::fs::metadata(host.socket()).unwrap();
    assert_eq!(socket.mode() & 0o7777, 0o660, "{:o}", socket.mode());
    assert_eq!(socket.uid(), 0);
}

#[test]
fn status_shows_version_kernel_hooks_and_counts() {
    let host = Host::up(&[]);
    let container = Netns::new("a");
    host.attach(&container, &[]);
    let status: Value = host.json(&["status"]);
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"), "{status:#}");
    assert_eq!(status["networks"], 3, "{status:#}");
    assert_eq!(status["endpoints"], 1, "{status:#}");
    assert!(status["uptime_seconds"].is_u64(), "{status:#}");
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert!(status["kernel"].to_string().contains(release.trim()), "{status:#}");
    let hooks = status["hooks"]["container"].as_str().unwrap_or_else(|| panic!("no hooks in {status:#}"));
    assert!(hooks.contains("tcx") || hooks.contains("clsact"), "{status:#}");
    assert!(host.ok(&["status"]).contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn subnets_come_from_the_given_pools() {
    let host = Host::up(&["--pool", "10.66.0.0/22", "--pool", "10.67.0.0/24"]);
    let networks: Vec<Value> = host.json(&["network", "ls"]);
    assert_eq!(networks[0]["subnets"][0]["subnet"], "10.66.0.0/24");
    for (name, subnet) in
        [("one", "10.66.1.0/24"), ("two", "10.66.2.0/24"), ("three", "10.66.3.0/24"), ("four", "10.67.0.0/24")]
    {
        host.ok(&["network", "create", name]);
        let inspected: Vec<Value> = host.json(&["network", "inspect", name]);
        assert_eq!(inspected[0]["subnets"][0]["subnet"], subnet);
    }
    let before = Surroundings::of(&host, &[]);
    let line = host.fails(1, &["network", "create", "five"]);
    assert!(line.contains("pool") || line.contains("subnet"), "{line}");
    assert_eq!(Surroundings::of(&host, &[]), before);
}

#[test]
fn a_subnet_that_the_host_has_a_route_to_is_skipped() {
    let host = Host::down();
    let neighbor = Netns::new("neighbor");
    host.netns.wire("phys0", &neighbor, "eth0");
    host.netns.ip("address add 10.201.0.9/23 dev phys0");
    host.start(&[]);
    let networks: Vec<Value> = host.json(&["network", "ls"]);
    assert_eq!(networks[0]["subnets"][0]["subnet"], "10.201.2.0/24", "{networks:#?}");
}

#[test]
fn a_second_up_reports_that_the_instance_is_up() {
    let host = Host::up(&[]);
    let daemon = host.daemon();
    let before = Surroundings::of(&host, &[]);
    let outcome = host.run(&["up"]);
    assert_eq!(outcome.code, Some(0), "{outcome:#?}");
    let output = format!("{}{}", outcome.stdout, outcome.stderr);
    assert!(output.contains("already"), "{outcome:#?}");
    assert_eq!(output.lines().count(), 1, "{outcome:#?}");
    assert_eq!(host.daemon(), daemon);
    assert_eq!(Surroundings::of(&host, &[]), before);
}

#[test]
fn a_second_up_names_the_options_that_do_not_apply() {
    let started = ["--vxlan-port", "4799", "--pool", "10.66.0.0/22", "--fdb-size", "1024"];
    let host = Host::up(&started);
    let second = |flags: &[&str]| {
        let outcome = host.run(&[&["up"], flags].concat());
        assert_eq!(outcome.code, Some(0), "{outcome:#?}");
        assert!(outcome.stdout.contains("is up already"), "{outcome:#?}");
        outcome.stderr
    };
    for flags in [&[][..], &started, &["--datapath", "auto", "--wireguard-port", "51872"]] {
        assert_eq!(second(flags), "", "{flags:?}");
    }
    for (flags, named) in [
        (&["--vxlan-port", "5555"][..], "with --vxlan-port 5555 ("),
        (&["--vxlan-port", "4789"], "with --vxlan-port 4789 ("),
        (&["--datapath", "tc", "--fdb-size", "1024"], "with --datapath tc ("),
        (&["--pool", "10.67.0.0/24", "--fdb-size", "2048"], "with --fdb-size 2048, --pool 10.67.0.0/24 ("),
        (
            &["--cluster", "etcd://192.0.2.9", "--advertise", "192.0.2.1", "--cluster-lease", "15"],
            "with --cluster etcd://192.0.2.9, --advertise 192.0.2.1, --cluster-lease 15 (",
        ),
    ] {
        let note = second(flags);
        assert!(note.starts_with("note: ") && note.contains(named) && note.contains(" down`"), "{flags:?}: {note}");
        assert_eq!(note.lines().count(), 1, "{note}");
    }
}

#[test]
fn an_instance_serves_one_namespace() {
    let host = Host::up(&[]);
    let elsewhere = Netns::new("elsewhere");
    let mut up = elsewhere.command(BINARY);
    up.args(["--instance", host.instance(), "up"]);
    let before = Surroundings::of(&host, &[&elsewhere]);
    let line = complaint(1, &run(&mut up));
    assert!(line.contains(host.instance()) && line.contains("namespace"), "{line}");
    assert_eq!(Surroundings::of(&host, &[&elsewhere]), before);
}

#[test]
fn commands_without_a_daemon_fail_with_one_line_and_status_3() {
    let host = Host::down();
    let container = Netns::new("a");
    assert_commands_find_no_daemon(&host, &container);
    assert_eq!(host.netns.devices().len(), 1, "only lo");
    assert!(!host.run_directory().exists());
    assert!(!host.state_directory().exists());
}

#[test]
fn commands_fail_with_status_3_on_the_socket_of_a_dead_daemon() {
    let host = Host::up(&[]);
    let container = Netns::new("a");
    host.kill_daemon();
    assert!(host.socket().exists(), "a killed daemon cannot remove its socket");
    assert_commands_find_no_daemon(&host, &container);
    host.start(&[]);
    host.attach(&container, &[]);
}

fn assert_commands_find_no_daemon(host: &Host, container: &Netns) {
    let path = container.path_argument();
    let commands: [&[&str]; 8] = [
        &["status"],
        &["ps"],
        &["attach", "--netns", &path],
        &["detach", "x"],
        &["inspect", "x"],
        &["network", "ls"],
        &["fdb", "show"],
        &["stats"],
    ];
    for command in commands {
        let line = host.fails(3, command);
        assert!(line.contains(host.instance()) && line.contains("up"), "{command:?}: {line}");
    }
}

#[test]
fn up_in_the_foreground_notifies_systemd_and_ends_on_sigterm() {
    let host = Host::down();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let notified = UnixDatagram::bind(&path).unwrap();
    notified.set_read_timeout(Some(PATIENCE)).unwrap();
    let daemon = spawn(host.command(&["up", "--foreground"]).env("NOTIFY_SOCKET", &path));
    let mut message = [0; 4096];
    loop {
        let length = notified.recv(&mut message).expect("READY=1");
        if message[..length].split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
            break;
        }
    }
    assert_eq!(host.daemon(), Some(daemon.id()));
    let (a, b) = (Netns::new("a"), Netns::new("b"));
    host.attach(&a, &[]);
    let b_address = host.attach(&b, &[]).ipv4;
    let objects = host.record_objects();
    kill(daemon.id(), Signal::SIGTERM).unwrap();
    let outcome = daemon.outcome();
    assert_eq!(outcome.code, Some(0), "{outcome:#?}");
    assert_eq!(host.daemon(), None);
    assert!(!host.socket().exists(), "a daemon that ends regularly removes its socket");
    // Frames are forwarded without a daemon.
    assert!(objects.iter().any(|object| matches!(object, BpfObject::Program(_)) && object.exists()));
    ping(&a, b_address);
}

#[test]
fn up_in_the_foreground_works_without_systemd() {
    let host = Host::down();
    let daemon = spawn(&mut host.command(&["up", "--foreground"]));
    eventually("the daemon serves", || (host.run(&["status"]).code == Some(0)).then_some(()));
    assert_eq!(host.daemon(), Some(daemon.id()));
    host.stop(&[]);
    assert_eq!(daemon.outcome().code, Some(0));
}

#[test]
fn wrong_usage_exits_with_status_2() {
    let host = Host::down();
    for command in [&["attach"][..], &["up", "--datapath", "warp"], &["teleport"], &["up", "--pool", "everything"]] {
        let outcome = host.run(command);
        assert_eq!(outcome.code, Some(2), "{command:?}: {outcome:#?}");
    }
}
