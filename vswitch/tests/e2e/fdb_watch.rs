//! Sticky FDB entries, and `fdb watch`.

use std::io::{BufRead as _, BufReader, Lines};
use std::process::{Child, ChildStdout, Stdio};

use serde_json::Value;

use crate::harness::{Frame, Host, Mac, Netns, RawPort, eventually};

/// A running `fdb watch`. It is killed when dropped.
struct Watch {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Watch {
    /// Starts the command, and returns once it reports changes: it has reported an entry that this
    /// function adds and removes repeatedly.
    fn start(host: &Host, options: &[&str]) -> Self {
        let mut command = host.command(&["fdb", "watch", "--format", "json"]);
        let mut process = command.args(options).stdout(Stdio::piped()).spawn().expect("a process");
        let stdout = process.stdout.take().expect("a pipe");
        let probe = "02:00:00:00:00:f0";
        let (add, del) = (["fdb", "add", probe, "bridge", "a"], ["fdb", "del", probe, "bridge"]);
        let ready = std::thread::scope(|scope| {
            let first = scope.spawn(|| {
                let mut lines = BufReader::new(stdout).lines();
                (lines.next(), lines)
            });
            while !first.is_finished() {
                host.ok(&add);
                std::thread::sleep(std::time::Duration::from_millis(300));
                host.ok(&del);
                std::thread::sleep(std::time::Duration::from_millis(300));
            }
            first.join().expect("the reader ends")
        });
        ready.0.expect("a first line").expect("readable");
        let mut watch = Self { process, lines: ready.1 };
        // Skips the remaining changes of that entry.
        host.ok(&add);
        host.ok(&["fdb", "add", "02:00:00:00:00:f1", "bridge", "a"]);
        while watch.next()["mac"] != "02:00:00:00:00:f1" {}
        host.ok(&del);
        watch.next();
        watch
    }

    fn next(&mut self) -> Value {
        let line = self.lines.next().expect("another line").expect("readable");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn watch_reports_changes_as_they_happen() {
    let host = Host::up(&[]);
    let [a, b] = ["a", "b"].map(Netns::new);
    let at_a = host.attach(&a, &["--name", "a", "-o", "spoof_guard=off"]);
    host.attach(&b, &["--name", "b", "-o", "spoof_guard=off"]);
    let mut watch = Watch::start(&host, &["--network", "bridge"]);
    let [port_a, port_b] = [&a, &b].map(|netns| RawPort::open(netns, "eth0"));
    let nomad: Mac = "02:00:00:00:77:05".parse().unwrap();
    let hello = Frame::new(Mac::BROADCAST, nomad, "here I am");
    let summary = |change: &Value| {
        let field = |name: &str| change[name].as_str().unwrap_or("-").to_owned();
        ["change", "mac", "network", "port", "kind", "from"].map(field)
    };
    let expected = |rest: [&str; 5]| {
        let [change, network, port, kind, from] = rest.map(str::to_owned);
        [change, nomad.to_string(), network, port, kind, from]
    };
    port_a.send(&hello);
    let first = watch.next();
    assert_eq!(summary(&first), expected(["add", "bridge", "a", "dynamic", "-"]), "{first:#}");
    assert!(first["time"].as_str().is_some_and(|time| time.ends_with('Z')), "{first:#}");
    port_b.send(&hello);
    let second = watch.next();
    assert_eq!(summary(&second), expected(["move", "bridge", "b", "dynamic", "a"]), "{second:#}");
    host.ok(&["fdb", "flush"]);
    assert_eq!(summary(&watch.next()), expected(["del", "bridge", "b", "dynamic", "-"]));
    host.ok(&["fdb", "add", &nomad.to_string(), "bridge", "a", "--sticky"]);
    assert_eq!(summary(&watch.next()), expected(["add", "bridge", "a", "sticky", "-"]));
    host.ok(&["detach", "a"]);
    let mut gone: Vec<_> = (0..2).map(|_| watch.next()["mac"].as_str().unwrap().to_owned()).collect();
    gone.retain(|mac| *mac == at_a.mac.to_string() || *mac == nomad.to_string());
    assert!(!gone.is_empty(), "the entries of the detached port are reported");
}

#[test]
fn watch_ends_after_its_count_or_when_the_instance_goes_down() {
    let host = Host::up(&[]);
    let [a, b] = ["a", "b"].map(Netns::new);
    host.attach(&a, &["--name", "a"]);
    host.attach(&b, &["--name", "b"]);
    let line = host.fails(1, &["fdb", "watch", "--network", "nowhere"]);
    assert!(line.contains("nowhere"), "{line}");
    let line = host.fails(1, &["fdb", "watch", "--port", "nobody"]);
    assert!(line.contains("nobody"), "{line}");
    assert_eq!(host.ok(&["fdb", "watch", "--count", "0"]), "");
    let mut counted = host.command(&["fdb", "watch", "--count", "1", "--port", "b"]);
    let mut counted = counted.stdout(Stdio::piped()).spawn().expect("a process");
    let mut watch = Watch::start(&host, &[]);
    // Changes at another port are not reported, regardless of when the command began. The first
    // change at its own port is.
    let mut vlans = 1..4095;
    eventually("the command has ended", || {
        let vlan = vlans.next().expect("enough").to_string();
        host.ok(&["fdb", "add", "02:00:00:00:44:0b", "bridge", "a", "--vlan", &vlan]);
        host.ok(&["fdb", "add", "02:00:00:00:44:09", "bridge", "b", "--vlan", &vlan]);
        counted.try_wait().unwrap()
    });
    let output = counted.wait_with_output().expect("the command has ended");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.lines().count() == 1, "{output:?}");
    assert!(text.contains(" add  02:00:00:00:44:09 bridge vlan ") && text.ends_with(" b static\n"), "{text}");
    host.stop(&[]);
    let ended = eventually("the watch ends", || watch.process.try_wait().unwrap());
    assert!(ended.success(), "{ended:?}");
}

#[test]
fn a_sticky_entry_is_not_flushed_but_ages_out() {
    let host = Host::up(&[]);
    host.ok(&["network", "create", "--subnet", "10.96.0.0/24", "-o", "ageing=2", "-o", "spoof_guard=off", "short"]);
    let [a, b] = ["a", "b"].map(Netns::new);
    host.attach(&a, &["--network", "short", "--name", "a"]);
    host.attach(&b, &["--network", "short", "--name", "b"]);
    let mac = "02:00:00:00:44:08";
    let entry = |host: &Host| host.fdb(&["--sticky"]).into_iter().find(|station| station.mac.to_string() == mac);
    host.ok(&["fdb", "add", mac, "short", "a", "--sticky"]);
    let station = entry(&host).expect("the entry exists");
    assert_eq!((station.port.as_str(), station.kind.as_str(), station.held), ("a", "sticky", false));
    assert!(station.age.is_some());
    host.ok(&["fdb", "flush"]);
    assert!(entry(&host).is_some());
    assert!(host.ok(&["fdb", "show"]).lines().next().is_some_and(|header| header.ends_with("HELD")));
    eventually("the entry is aged out", || entry(&host).is_none().then_some(()));
}

#[test]
fn a_flush_can_be_limited_to_one_vlan() {
    let host = Host::up(&[]);
    let [a, b] = ["a", "b"].map(Netns::new);
    let at_a = host.attach(&a, &["--name", "a", "-o", "spoof_guard=off", "--trunk", "all"]);
    host.attach(&b, &["--name", "b", "--trunk", "all"]);
    let [port_a, port_b] = [&a, &b].map(|netns| RawPort::open(netns, "eth0"));
    let nested: Mac = "02:00:00:00:77:06".parse().unwrap();
    for vlan in [30, 31] {
        let tag = crate::harness::Tag::customer(vlan);
        let hello = Frame::tagged(Mac::BROADCAST, nested, &[tag], "hello");
        port_a.send(&hello);
        port_b.expect(&hello);
    }
    host.ok(&["fdb", "add", "02:00:00:00:44:0a", "bridge", "a", "--vlan", "30"]);
    let vlans = |options: &[&str]| -> Vec<(u16, String)> {
        host.fdb(options).into_iter().map(|station| (station.vlan, station.kind)).collect()
    };
    assert_eq!(host.ok(&["fdb", "flush", "--vlan", "30"]), "1\n");
    assert_eq!(vlans(&["--vlan", "30"]), [(30, "static".to_owned())]);
    assert_eq!(vlans(&["--vlan", "31"]), [(31, "dynamic".to_owned())]);
    let line = host.fails(1, &["fdb", "flush", "--vlan", "5000"]);
    assert!(line.contains("invalid VLAN `5000`"), "{line}");
    assert!(host.fdb(&["--vlan", "0"]).iter().any(|station| station.mac == at_a.mac));
}
