//! A daemon that is stopped or stuck: every command ends, says why, and leaves nothing half done.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::{AtRest, Host, Netns, complaint, eventually, ping, processes, spawn};

/// A stopped process, which continues when this value is dropped.
struct Stopped(Pid);

impl Stopped {
    fn new(process: Pid) -> Self {
        kill(process, Signal::SIGSTOP).expect("stopping a process");
        eventually("the process is stopped", || {
            let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
            stat.rsplit(") ").next()?.starts_with('T').then_some(())
        });
        Self(process)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _gone = kill(self.0, Signal::SIGCONT);
    }
}

#[test]
fn every_command_ends_when_the_daemon_is_stopped() {
    let host = Host::up(&[]);
    host.ok(&["network", "create", "front"]);
    let [a, b] = ["a", "b"].map(Netns::new);
    let at_a = host.attach(&a, &[]);
    let at_rest = AtRest::new(&host, &[&a, &b]);
    let daemon = host.daemon().expect("it runs");
    let stopped = Stopped::new(daemon);
    let netns = b.path_argument();
    let name = a.name();
    let commands: &[&[&str]] = &[
        &["up"],
        &["down"],
        &["status"],
        &["doctor"],
        &["attach", "--netns", &netns],
        &["run", "--", "true"],
        &["detach", name],
        &["ps"],
        &["inspect", name],
        &["network", "create", "new"],
        &["network", "ls"],
        &["network", "inspect", "front", "bridge"],
        &["network", "rm", "front", "bridge", "none"],
        &["network", "prune", "-f"],
        &["network", "connect", "front", name],
        &["network", "disconnect", "bridge", name],
        &["peer", "add", "192.0.2.7"],
        &["peer", "ls"],
        &["peer", "key"],
        &["fdb", "show"],
        &["fdb", "flush"],
        &["fdb", "watch"],
        &["mdb", "show"],
        &["stats"],
        &["monitor"],
        &["capture", name],
        &["top", "--once"],
        &["trace", "--from", name, "--to", "10.201.0.1"],
    ];
    let running: Vec<_> = commands.iter().map(|command| spawn(&mut host.command(command))).collect();
    for (command, running) in commands.iter().zip(running) {
        let mut outcome = running.outcome();
        if *command == ["doctor"] {
            // What it found out about the machine is printed all the same.
            outcome.stdout.clear();
        }
        let message = complaint(1, &outcome);
        let expected =
            [format!("the daemon of instance {} does not answer", host.instance()), format!("`kill -CONT {daemon}`")];
        assert!(expected.iter().all(|part| message.contains(part)), "{command:?}: {message}");
    }
    drop(stopped);
    // The daemon comes to the requests now. It carries none of them out: the same attach succeeds.
    host.attach(&b, &[]);
    ping(&b, at_a.ipv4);
    host.ok(&["detach", b.name()]);
    drop(at_rest);
}

#[test]
fn a_request_whose_client_has_given_up_is_refused() {
    let host = Host::up(&[]);
    let request = |header: &str| {
        let mut stream = UnixStream::connect(host.socket()).expect("connecting");
        let body = r#"{"name":"late"}"#;
        let request = format!(
            "POST /v1/networks HTTP/1.1\r\nhost: vswitch\r\ncontent-type: application/json\r\n{header}connection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).expect("sending");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    };
    let late = request("vswitch-sent: 1000\r\n");
    assert!(late.starts_with("HTTP/1.1 503") && late.contains("stale_request"), "{late}");
    assert_eq!(host.ok(&["network", "ls", "-q"]).lines().count(), 3);
    let timely = request("");
    assert!(timely.starts_with("HTTP/1.1 200"), "{timely}");
    assert_eq!(host.ok(&["network", "ls", "-q"]).lines().count(), 4);
}

#[test]
fn up_ends_when_the_starting_daemon_is_stopped() {
    let host = Host::down();
    let (up, stopped) = loop {
        let up = spawn(&mut host.command(&["up"]));
        let starting = eventually("the daemon starts", || {
            let is_daemon = |process: &Pid| {
                let words = std::fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
                words.split(|byte| *byte == 0).any(|word| word == b"--detached")
            };
            // From then on it holds the lock of the instance.
            let locked = host.run_directory().join("bpf").exists();
            processes(host.instance()).into_iter().find(is_daemon).filter(|_| locked)
        });
        let stopped = Stopped::new(starting);
        if host.socket().exists() {
            // It served already: too late.
            drop(stopped);
            up.outcome();
            host.stop(&["--purge"]);
            continue;
        }
        break (up, stopped);
    };
    let message = complaint(1, &up.outcome());
    assert!(message.contains("no sign of life") && message.contains("kill -CONT"), "{message}");
    // Another `up`, and `down`, find the lock held.
    let others = ["up", "down"].map(|command| spawn(&mut host.command(&[command])));
    for other in others {
        let message = complaint(1, &other.outcome());
        assert!(message.contains("starting or stopping"), "{message}");
    }
    let daemon = stopped.0;
    drop(stopped);
    eventually("the daemon goes on", || (host.daemon() == Some(daemon)).then_some(()));
    assert!(host.run(&["up"]).stdout.contains("is up already"));
}
