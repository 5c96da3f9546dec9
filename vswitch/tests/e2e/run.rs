//! `run`: commands in a namespace of their own, which is attached for as long as they run.

use std::{collections::BTreeSet, fs, net::Ipv4Addr, os::unix::fs::MetadataExt as _, path::Path};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::harness::{BINARY, Host, Netns, Outcome, Surroundings, complaint, eventually, ping, processes, run, spawn};

/// Returns a script that creates a file when it has started, and then waits to be ended.
fn waiting_script(ready: &Path, before: &str) -> String {
    format!("{before}\n: > {}\nwhile :; do sleep 0.1; done", ready.display())
}

fn await_start(ready: &Path) {
    eventually("the command has started", || ready.exists().then_some(()));
}

/// Returns the processes in a network namespace.
fn processes_in(netns: u64) -> BTreeSet<Pid> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let processes = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).map(Pid::from_raw);
    processes
        .filter(|process| fs::metadata(format!("/proc/{process}/ns/net")).is_ok_and(|found| found.ino() == netns))
        .collect()
}

/// Returns the only endpoint as JSON, because an endpoint may have no interface.
fn only_endpoint(host: &Host) -> Value {
    let endpoints: Vec<Value> = host.json(&["ps"]);
    assert_eq!(endpoints.len(), 1, "{endpoints:#?}");
    endpoints[0].clone()
}

fn has_no_endpoint(host: &Host) -> bool {
    host.json::<Vec<Value>>(&["ps"]).is_empty()
}

#[test]
fn run_returns_the_exit_status_of_the_command() {
    let host = Host::up(&[]);
    let before = Surroundings::of(&host, &[]);
    for (script, code) in
        [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143), ("kill -KILL $$", 137), ("kill -40 $$", 168)]
    {
        let outcome = host.run(&["run", "--", "sh", "-c", script]);
        assert_eq!(outcome, Outcome { code: Some(code), stdout: String::new(), stderr: String::new() }, "{script}");
        assert!(has_no_endpoint(&host));
    }
    let unknown = host.fails(127, &["run", "vswitch-test-no-such-command"]);
    assert!(unknown.contains("vswitch-test-no-such-command") && unknown.contains("not found"), "{unknown}");
    let unable = host.fails(126, &["run", "/etc/passwd"]);
    assert!(unable.contains("/etc/passwd"), "{unable}");
    assert!(has_no_endpoint(&host));
    eventually("nothing is left of the endpoints", || (Surroundings::of(&host, &[]) == before).then_some(()));
}

#[test]
fn run_passes_stdout_and_stderr_through() {
    let host = Host::up(&[]);
    let outcome = host.run(&["run", "-q", "sh", "-c", "echo $0 $1; echo oops >&2; exit 3", "-q", "--name"]);
    assert_eq!((outcome.code, outcome.stdout.as_str(), outcome.stderr.as_str()), (Some(3), "-q --name\n", "oops\n"));
}

#[test]
fn a_command_has_the_names_and_addresses_of_its_endpoint() {
    let host = Host::up(&[]);
    let contents =
        || ["resolv.conf", "hosts", "hostname"].map(|name| fs::read_to_string(Path::new("/etc").join(name)).ok());
    let before = (contents(), nix::unistd::gethostname().unwrap());
    let script = "uname -n; cat /etc/hostname; echo --; cat /etc/resolv.conf; echo --; cat /etc/hosts; echo --;
                  ls /sys/class/net; cat /sys/class/net/eth0/address; echo --; stat -c %a /etc/resolv.conf /etc/hosts;
                  grep -c '/run/vswitch/.*tmpfs' /proc/self/mountinfo";
    let flags = ["--name", "web", "--hostname", "www.example", "--ip", "10.201.0.77", "--mac", "02:12:34:56:78:9a"];
    let outcome = host.run(&[&["run"], &flags[..], &["--", "sh", "-c", script]].concat());
    let parts: Vec<&str> = outcome.stdout.split("--\n").collect();
    let [names, resolv_conf, hosts, devices, rest] = parts[..] else { panic!("{outcome:#?}") };
    assert_eq!(names, "www.example\nwww.example\n");
    let nameservers: Vec<&str> = resolv_conf.lines().filter(|line| line.starts_with("nameserver")).collect();
    assert_eq!(nameservers, ["nameserver 10.201.0.1"], "{resolv_conf}");
    for line in ["127.0.0.1\tlocalhost", "10.201.0.77\twww.example web"] {
        assert!(hosts.lines().any(|found| found == line), "{hosts}");
    }
    assert!(hosts.lines().any(|line| line.starts_with("::1\tlocalhost")), "{hosts}");
    assert_eq!(devices, "eth0\nlo\n02:12:34:56:78:9a\n");
    assert_eq!(rest, "644\n644\n0\n");
    assert_eq!((contents(), nix::unistd::gethostname().unwrap()), before);

    let outcome = host.run(&["run", "--name", "plain", "--", "sh", "-c", "uname -n; getent hosts plain"]);
    let words: Vec<&str> = outcome.stdout.split_whitespace().collect();
    assert!(matches!(words[..], ["plain", address, "plain"] if address.starts_with("10.201.0.")), "{outcome:#?}");
}

#[test]
fn a_command_reaches_endpoints_and_is_reached() {
    let host = Host::up(&[]);
    let peer = Netns::new("peer");
    let at_peer = host.attach(&peer, &[]);
    for address in [at_peer.ipv4, Ipv4Addr::new(10, 201, 0, 1), Ipv4Addr::LOCALHOST] {
        let outcome = host.run(&["run", "--", "ping", "-n", "-c", "1", "-W", "30", &address.to_string()]);
        assert_eq!(outcome.code, Some(0), "{outcome:#?}");
    }
    let server = spawn(&mut host.command(&["run", "--name", "server", "--", "sleep", "10000"]));
    let endpoint =
        eventually("the command is attached", || host.ps().into_iter().find(|endpoint| endpoint.name == "server"));
    ping(&peer, endpoint.ipv4);
    kill(server.id(), Signal::SIGTERM).unwrap();
    assert_eq!(server.outcome().code, Some(143));
    assert_eq!(host.ps(), [at_peer]);
}

#[test]
fn an_endpoint_is_named_after_the_process_by_default() {
    let host = Host::up(&[]);
    let runs = [(); 2].map(|()| spawn(&mut host.command(&["run", "sleep", "10000"])));
    let names = runs.each_ref().map(|run| format!("run-{}", run.id()));
    eventually("both commands are attached", || {
        let found: BTreeSet<String> = host.ps().into_iter().map(|endpoint| endpoint.name).collect();
        (found == names.iter().cloned().collect()).then_some(())
    });
    for run in runs {
        kill(run.id(), Signal::SIGTERM).unwrap();
        assert_eq!(run.outcome().code, Some(143));
    }
    assert_eq!(host.ps(), []);
}

#[test]
fn signals_are_forwarded_to_the_command() {
    let host = Host::up(&[]);
    let directory = tempfile::tempdir().unwrap();
    for signal in [
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGWINCH,
        Signal::SIGCONT,
    ] {
        let name = signal.as_str().trim_start_matches("SIG");
        let ready = directory.path().join(name);
        let script = waiting_script(&ready, &format!("trap 'echo {name}; exit 42' {name}"));
        let command = spawn(&mut host.command(&["run", "--", "sh", "-c", &script]));
        await_start(&ready);
        kill(command.id(), signal).unwrap();
        let outcome = command.outcome();
        assert_eq!((outcome.code, outcome.stdout), (Some(42), format!("{name}\n")), "{}", outcome.stderr);
        assert!(has_no_endpoint(&host), "{name}");
    }
}

#[test]
fn a_killed_run_leaves_no_process_and_no_endpoint() {
    let host = Host::up(&[]);
    let before = Surroundings::of(&host, &[]);
    let directory = tempfile::tempdir().unwrap();
    for network in ["bridge", "none"] {
        let ready = directory.path().join(network);
        // Processes that a command may leave: children, a session of its own, and one without a
        // parent.
        let script = waiting_script(&ready, "sleep 10000 &\nsetsid sleep 10001 &\n(trap '' TERM HUP; sleep 10002 &)");
        let command = spawn(&mut host.command(&["run", "--network", network, "--", "sh", "-c", &script]));
        await_start(&ready);
        let endpoint = only_endpoint(&host);
        let netns = fs::metadata(endpoint["netns"].as_str().unwrap()).unwrap().ino();
        assert!(processes_in(netns).len() >= 4);
        kill(command.id(), Signal::SIGKILL).unwrap();
        assert_eq!(command.outcome().code, None);
        eventually("the processes of the command are gone", || processes_in(netns).is_empty().then_some(()));
        eventually("the endpoint is gone", || has_no_endpoint(&host).then_some(()));
        eventually("nothing is left", || (Surroundings::of(&host, &[]) == before).then_some(()));
    }
}

#[test]
fn a_command_ends_with_its_guard_process() {
    let host = Host::up(&[]);
    let command = spawn(&mut host.command(&["run", "--name", "victim", "--", "sleep", "10000"]));
    eventually("the command is attached", || (!has_no_endpoint(&host)).then_some(()));
    let netns = fs::metadata(only_endpoint(&host)["netns"].as_str().unwrap()).unwrap().ino();
    let guard = processes(host.instance())
        .into_iter()
        .find(|process| {
            let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
            status.contains(&format!("PPid:\t{}\n", command.id()))
        })
        .expect("the guard is a child of the process that was started");
    kill(guard, Signal::SIGKILL).unwrap();
    assert_eq!(command.outcome().code, Some(137));
    eventually("the processes of the command are gone", || processes_in(netns).is_empty().then_some(()));
    eventually("the endpoint is gone", || has_no_endpoint(&host).then_some(()));
}

#[test]
fn run_returns_the_exit_status_without_a_daemon() {
    let host = Host::up(&[]);
    let command = spawn(&mut host.command(&["run", "--name", "survivor", "--", "sleep", "10000"]));
    eventually("the command is attached", || (!has_no_endpoint(&host)).then_some(()));
    host.kill_daemon();
    kill(command.id(), Signal::SIGTERM).unwrap();
    let outcome = command.outcome();
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(143), ""));
    host.start(&[]);
    eventually("the endpoint is released", || has_no_endpoint(&host).then_some(()));
}

#[test]
fn network_none_has_only_a_loopback_that_is_up() {
    let host = Host::up(&[]);
    let script = "ip -o link; echo --; ping -n -c 1 -W 30 127.0.0.1 > /dev/null && echo alive;
                  cat /etc/resolv.conf; uname -n; ls /sys/class/net";
    let outcome = host.run(&["run", "--network", "none", "--name", "lonely", "--", "sh", "-c", script]);
    let (links, rest) = outcome.stdout.split_once("--\n").unwrap_or_else(|| panic!("{outcome:#?}"));
    assert!(links.lines().count() == 1 && links.contains("lo:") && links.contains("UP"), "{links}");
    assert_eq!(rest, "alive\nlonely\nlo\n");
    assert!(has_no_endpoint(&host));
}

#[test]
fn a_refused_run_does_not_start_the_command() {
    let host = Host::up(&[]);
    let container = Netns::new("a");
    let endpoint = host.attach(&container, &["--name", "web"]);
    let before = Surroundings::of(&host, &[&container]);
    let directory = tempfile::tempdir().unwrap();
    let trace = directory.path().join("trace");
    let trace = trace.to_str().unwrap();
    for (flags, expected) in [
        (&["--name", "web"][..], "web already exists"),
        (&["--network", "nowhere"], "nowhere"),
        (&["--ip", &endpoint.ipv4.to_string()], "already in use"),
        (&["--hostname", "a b"], "invalid hostname `a b`"),
        (&["--network", "none", "--ip", "10.201.0.9"], "loopback alone"),
    ] {
        let complaint = host.fails(1, &[&["run"], flags, &["--", "touch", trace]].concat());
        assert!(complaint.contains(expected), "{complaint}");
        assert!(!Path::new(trace).exists());
    }
    assert_eq!(host.ps(), [endpoint]);
    assert_eq!(Surroundings::of(&host, &[&container]), before);
}

#[test]
fn run_reports_a_missing_daemon_and_missing_privileges() {
    let host = Host::down();
    let message = host.fails(3, &["run", "true"]);
    assert!(message.contains("is not up"), "{message}");
    host.start(&[]);
    // A user that may open the socket, but may not create namespaces.
    nix::unistd::chown(&host.socket(), Some(65534.into()), None).unwrap();
    let mut command = std::process::Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", BINARY, "--instance", host.instance()]);
    let message = complaint(1, &run(command.args(["run", "true"])));
    assert!(message.contains("root"), "{message}");
    eventually("nothing is attached", || has_no_endpoint(&host).then_some(()));
}

#[test]
fn network_host_shares_the_hosts_stack() {
    let host = Host::up(&[]);
    let script = "readlink /proc/self/ns/net /proc/self/ns/uts /proc/self/ns/mnt; cat /etc/resolv.conf; uname -n";
    let outcome = host.run(&["run", "--network", "host", "--name", "native", "--", "sh", "-c", script]);
    let here = run(host.netns.command("sh").args(["-c", script]));
    assert_eq!((outcome.code, &outcome.stdout), (Some(0), &here.stdout), "{outcome:#?}");
    assert!(has_no_endpoint(&host));
    let command = spawn(&mut host.command(&["run", "--network", "host", "--name", "native", "--", "sleep", "10000"]));
    eventually("the command is attached", || (!has_no_endpoint(&host)).then_some(()));
    let endpoint = only_endpoint(&host);
    assert_eq!((&endpoint["network"], &endpoint["ifname"]), (&"host".into(), &Value::Null), "{endpoint:#}");
    kill(command.id(), Signal::SIGKILL).unwrap();
    assert_eq!(command.outcome().code, None);
    eventually("the endpoint is gone", || has_no_endpoint(&host).then_some(()));
    let message = host.fails(1, &["run", "--network", "host", "-p", "8080:80", "--", "true"]);
    assert!(message.contains("host") && message.contains("8080:80"), "{message}");
}
