//! `monitor` and `capture`: the frames that pass through the switch, with their verdicts.

use std::{path::Path, process::Command};

use aya::maps::{Array, MapData};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;
use vswitch_common::observe::FrameFilter;

use crate::harness::{Attached, Frame, Host, Mac, Netns, Outcome, RawPort, Running, Tag, eventually, ping, run, spawn};

/// Returns the settings that tell the programs which frames to report.
fn settings(host: &Host) -> FrameFilter {
    let map = MapData::from_pin(host.run_directory().join("bpf/maps/WATCH")).expect("a pinned map");
    let map: Array<_, FrameFilter> = aya::maps::Map::Array(map).try_into().expect("an array of FrameFilter");
    map.get(&0, 0).expect("its only entry")
}

/// Starts `monitor` or `capture`, and waits until the programs report frames to it.
#[track_caller]
fn start(host: &Host, arguments: &[&str]) -> Running {
    let before = settings(host);
    let running = spawn(&mut host.command(arguments));
    eventually("the programs report different frames", || (settings(host) != before).then_some(()));
    running
}

/// Interrupts the program as Ctrl-C does. Its exit status must be 0.
#[track_caller]
fn interrupt(running: Running) -> Outcome {
    kill(running.id(), Signal::SIGINT).expect("the program runs");
    let outcome = running.outcome();
    assert_eq!(outcome.code, Some(0), "{outcome:#?}");
    outcome
}

/// Interrupts the program once it has printed a line with all of these parts, which is the last one
/// expected.
#[track_caller]
fn interrupt_after(running: Running, parts: &[&str]) -> Outcome {
    let has = |line: &str| parts.iter().all(|part| line.contains(part));
    eventually("the last frame is printed", || running.stdout().lines().any(has).then_some(()));
    interrupt(running)
}

fn attach_two(host: &Host) -> ([Netns; 2], [Attached; 2]) {
    let containers = ["a", "b"].map(Netns::new);
    let attached = containers.each_ref().map(|container| host.attach(container, &[]));
    (containers, attached)
}

/// Returns a frame that one of the first checks drops.
fn dropped_frame(to: Mac) -> Frame {
    Frame::new(to, Mac([3, 0, 0, 0, 0, 9]), "from a group")
}

#[test]
fn monitor_shows_frames_with_their_verdicts() {
    for datapath in ["tc", "xdp"] {
        let host = Host::up(&["--datapath", datapath]);
        let ([a, _b], [at_a, at_b]) = attach_two(&host);
        let monitor = start(&host, &["monitor", "--port", &at_a.name]);
        ping(&a, at_b.ipv4);
        ping(&a, at_a.gateway.expect("a gateway"));
        RawPort::open(&a, "eth0").send(&dropped_frame(at_b.mac));
        let outcome = interrupt_after(monitor, &["drop: source_multicast"]);

        let line = |parts: &[&str]| {
            let found = outcome.stdout.lines().any(|line| parts.iter().all(|part| line.contains(part)));
            assert!(found, "{datapath}: {parts:?} in\n{}", outcome.stdout);
        };
        let addresses = format!("IPv4 {} > {}: ICMP echo request", at_a.ipv4, at_b.ipv4);
        let macs = format!(" {}  {} > {}, ", at_a.name, at_a.mac, at_b.mac);
        line(&[&macs, &addresses, &format!("  -> {}", at_b.name)]);
        line(&[&format!(" {}  ", at_b.name), "ICMP echo reply", &format!("  -> {}", at_a.name)]);
        line(&[&format!(" {}  ", at_a.name), "ICMP echo request", "  host"]);
        line(&[&format!(" {}  ", at_a.name), "ethertype 0x88b5, length 60", "  drop: source_multicast"]);
        assert_eq!(outcome.stderr, "");
    }
}

#[test]
fn monitor_can_show_only_drops() {
    let host = Host::up(&[]);
    let ([a, _b], [at_a, at_b]) = attach_two(&host);
    let port = RawPort::open(&a, "eth0");
    let monitor = start(&host, &["monitor", "--drops", "--count", "2", "--format", "json"]);
    assert_eq!(settings(&host).drops, 1);
    ping(&a, at_b.ipv4);
    port.send(&dropped_frame(at_b.mac));
    ping(&a, at_b.ipv4);
    port.send(&dropped_frame(at_b.mac));
    let outcome = monitor.outcome();
    assert_eq!(outcome.code, Some(0), "{outcome:#?}");
    let drops: Vec<Value> = outcome.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(drops.len(), 2, "{drops:?}");
    for drop in drops {
        assert_eq!(
            (&drop["type"], &drop["port"], &drop["network"], &drop["direction"]),
            (&"frame".into(), &at_a.name.as_str().into(), &"bridge".into(), &"entering".into())
        );
        assert_eq!(drop["verdict"], serde_json::json!({"action": "drop", "reason": "source_multicast"}));
        assert_eq!(drop["length"], 60);
    }
    eventually("the programs report no frames", || (settings(&host) == FrameFilter::default()).then_some(()));
}

#[test]
fn monitor_reports_the_number_of_frames_not_shown() {
    let host = Host::up(&[]);
    let ([a, _b], [at_a, at_b]) = attach_two(&host);
    let monitor = start(&host, &["monitor", "--rate", "1", "--count", "3", "--port", &at_a.name]);
    let outcome = std::thread::scope(|scope| {
        let ended = scope.spawn(|| monitor.outcome());
        while !ended.is_finished() {
            ping(&a, at_b.ipv4);
        }
        ended.join().expect("the thread does not panic")
    });
    assert_eq!(outcome.code, Some(0), "{outcome:#?}");
    let (lost, shown): (Vec<&str>, Vec<&str>) =
        outcome.stdout.lines().partition(|line| line.starts_with('(') && line.ends_with(" frames not shown)"));
    assert!(!lost.is_empty() && shown.len() == 3, "{outcome:#?}");
}

#[test]
fn a_capture_opens_in_tshark_with_its_verdicts() {
    let host = Host::up(&[]);
    let ([a, b], [at_a, at_b]) = attach_two(&host);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.pcapng");
    std::fs::write(&path, "what was there before").expect("a file");
    let file = path.to_str().expect("UTF-8");

    let capture = start(&host, &["capture", &at_a.name, "-w", file]);
    assert_eq!(settings(&host).mode, FrameFilter::FRAMES);
    ping(&a, at_b.ipv4);
    let ports = [&a, &b].map(|container| RawPort::open(container, "eth0"));
    let tagged = |tci| Frame::tagged(Mac::BROADCAST, at_a.mac, &[Tag { tpid: 0x8100, tci }], &"x".repeat(1200));
    let (priority, of_vlan) = (tagged(0xe000), tagged(30));
    ports[0].send(&of_vlan);
    ports[0].send(&priority);
    ports[1].expect(&priority);
    ports[0].send(&dropped_frame(at_b.mac));
    eventually("the last frame is written", || {
        let written = std::fs::read(&path).expect("the file");
        written.windows(22).any(|bytes| bytes == b"drop: source_multicast").then_some(())
    });
    let outcome = interrupt(capture);
    assert!(outcome.stderr.contains(" frames written, 0 lost\n"), "{outcome:#?}");
    assert_eq!(outcome.stdout, "");

    let fields =
        ["frame.interface_name", "frame.comment", "frame.packet_flags_direction", "icmp.type", "vlan.id", "frame.len"];
    let Some(frames) = tshark(&path, &fields) else { return };
    let has = |wanted: [&str; 6]| assert!(frames.iter().any(|frame| frame == &wanted), "{wanted:?} in {frames:#?}");
    let (name_a, name_b) = (at_a.name.as_str(), at_b.name.as_str());
    let (to_a, to_b) = (format!("to {name_a}, from {name_b}"), format!("to {name_b}, from {name_a}"));
    let length = ping_length(&frames);
    has([name_a, &format!("-> {name_b}"), "1", "8", "", &length]);
    has([name_b, &to_b, "2", "8", "", &length]);
    has([name_b, &format!("-> {name_a}"), "1", "0", "", &length]);
    has([name_a, &to_a, "2", "0", "", &length]);
    has([name_a, "drop: source_multicast", "1", "", "", "60"]);
    // In the file, the tag has the position that it has on the wire, in both directions.
    let length = priority.0.len().to_string();
    has([name_a, "drop: vlan_not_allowed", "1", "", "30", &length]);
    has([name_a, "flood group", "1", "", "0", &length]);
    has([name_b, &to_b, "2", "", "0", &length]);
}

fn ping_length(frames: &[Vec<String>]) -> String {
    frames.iter().find(|frame| frame[3] == "8").unwrap_or_else(|| panic!("no ping in {frames:#?}"))[5].clone()
}

/// Returns fields of each frame in a file, or `None` with a note on stderr if tshark is not
/// installed.
#[track_caller]
fn tshark(path: &Path, fields: &[&str]) -> Option<Vec<Vec<String>>> {
    if Command::new("tshark").arg("--version").output().is_err() {
        eprintln!("tshark is not installed: the capture is not read by another program");
        return None;
    }
    let mut command = Command::new("tshark");
    command.arg("-r").arg(path).args(["-T", "fields"]);
    for field in fields {
        command.args(["-e", field]);
    }
    let outcome = run(&mut command);
    assert_eq!(outcome.code, Some(0), "{outcome:#?}");
    // Some versions print flags as 0x00000001, some as 1.
    let field = |text: &str| text.strip_prefix("0x0000000").unwrap_or(text).to_owned();
    Some(outcome.stdout.lines().map(|line| line.split('\t').map(field).collect()).collect())
}

#[test]
fn a_capture_without_a_file_shows_both_sides() {
    let host = Host::up(&[]);
    let ([a, _b], [at_a, at_b]) = attach_two(&host);
    let capture = start(&host, &["capture", "bridge"]);
    ping(&a, at_b.ipv4);
    let outcome = interrupt_after(capture, &[" out  ", "ICMP echo reply"]);
    let has = |parts: [&str; 3]| {
        let found = outcome.stdout.lines().any(|line| parts.iter().all(|part| line.contains(part)));
        assert!(found, "{parts:?} in\n{}", outcome.stdout);
    };
    let (name_a, name_b) = (&at_a.name, &at_b.name);
    has([&format!(" {name_a} in  "), "ICMP echo request", &format!("  -> {name_b}")]);
    has([&format!(" {name_b} out  "), "ICMP echo request", &format!("  to {name_b}, from {name_a}")]);
}

#[test]
fn a_capture_ends_after_a_count_and_can_be_written_to_a_pipe() {
    let host = Host::up(&[]);
    let ([a, _b], [at_a, at_b]) = attach_two(&host);
    let capture = start(&host, &["capture", &at_a.name, "--count", "2", "-w", "-", "-q"]);
    ping(&a, at_b.ipv4);
    let outcome = capture.outcome();
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""));
    assert!(outcome.stdout.starts_with("\n\r\r\n"), "no pcapng: {:?}", &outcome.stdout);
}

#[test]
fn the_programs_report_only_what_the_observers_need() {
    let host = Host::up(&[]);
    assert_eq!(settings(&host), FrameFilter::default());
    let (_containers, [at_a, at_b]) = attach_two(&host);
    let one = start(&host, &["monitor", "--port", &at_a.name, "--rate", "7"]);
    let alone = settings(&host);
    assert_eq!((alone.mode, alone.drops, alone.limit), (FrameFilter::HEADERS, 0, 7));
    assert_ne!(alone.port, 0);
    let other = start(&host, &["monitor", "--port", &at_b.name, "--drops", "--rate", "9"]);
    assert_eq!(settings(&host), FrameFilter { mode: FrameFilter::HEADERS, limit: 9, ..FrameFilter::default() });
    // The settings are updated however an observer ends: both are killed here.
    kill(other.id(), Signal::SIGKILL).expect("the program runs");
    eventually("only the first observer is left", || (settings(&host) == alone).then_some(()));
    kill(one.id(), Signal::SIGKILL).expect("the program runs");
    eventually("no observer is left", || (settings(&host) == FrameFilter::default()).then_some(()));
}

#[test]
fn observers_end_with_their_daemon() {
    let host = Host::up(&[]);
    let monitor = start(&host, &["monitor"]);
    host.kill_daemon();
    let outcome = monitor.outcome();
    assert_eq!(outcome.code, Some(1), "{outcome:#?}");
    assert_ne!(settings(&host), FrameFilter::default());
    host.start(&[]);
    assert_eq!(settings(&host), FrameFilter::default());
}

#[test]
fn down_does_not_wait_for_observers() {
    let host = Host::up(&[]);
    let monitor = start(&host, &["monitor"]);
    let began = std::time::Instant::now();
    host.stop(&[]);
    // The daemon waits up to ten seconds for requests in progress.
    assert!(began.elapsed() < std::time::Duration::from_secs(8), "{:?}", began.elapsed());
    let outcome = monitor.outcome();
    assert_eq!(outcome.code, Some(1), "{outcome:#?}");
    assert!(outcome.stderr.starts_with("vswitch: the daemon has ended"), "{outcome:#?}");
}

#[test]
fn a_station_that_moves_too_often_is_reported() {
    let host = Host::up(&[]);
    let containers = ["a", "b"].map(Netns::new);
    // The spoof guard would drop the frames of stations behind a container.
    let [at_a, _at_b] = containers.each_ref().map(|container| host.attach(container, &["-o", "spoof_guard=off"]));
    let ports = containers.each_ref().map(|container| RawPort::open(container, "eth0"));
    let nowhere = Mac([2, 0, 0, 0, 0x77, 1]);
    let roaming = Frame::new(nowhere, Mac([2, 0, 0, 0, 0x77, 2]), "I am here");
    assert_eq!(host.json::<Value>(&["status"])["held_stations"], 0);
    // The station is learned at one port and may move five times. The sixth move is refused, and
    // the station is held where it was first.
    for port in [0, 1, 0, 1, 0, 1, 0] {
        ports[port].send(&roaming);
    }
    let log = eventually("the move is logged", || {
        let log = std::fs::read_to_string(host.run_directory().join("daemon.log")).expect("the log");
        log.lines().find(|line| line.contains("moves too often")).map(str::to_owned)
    });
    assert_eq!(host.json::<Value>(&["status"])["held_stations"], 1);
    let (held, from) = (format!("held at {}", at_a.name), format!("from {}", at_a.name));
    for part in ["WARN", "02:00:00:00:77:02", "network bridge", &held, &from] {
        assert!(log.contains(part), "{part} in {log}");
    }
}

#[test]
fn invalid_observations_are_refused() {
    let host = Host::up(&[]);
    let folder = tempfile::tempdir().expect("a folder");
    let kept = folder.path().join("kept.pcapng");
    std::fs::write(&kept, "kept").expect("a file");
    for arguments in [
        &["monitor", "--network", "nowhere"][..],
        &["monitor", "--port", "nowhere"],
        &["capture", "nowhere", "-w", kept.to_str().expect("UTF-8")],
    ] {
        let complaint = host.fails(1, arguments);
        assert!(complaint.contains("nowhere"), "{complaint}");
    }
    assert_eq!(
        std::fs::read_to_string(&kept).expect("the file"),
        "kept",
        "a capture that is refused does not change the file"
    );
    let complaint = host.fails(1, &["capture", "bridge", "-w", "/nowhere/at/all.pcapng"]);
    assert!(complaint.contains("/nowhere/at/all.pcapng"), "{complaint}");
    assert_eq!(host.run(&["monitor", "--count", "0"]).code, Some(2));
    eventually("no observer is left", || (settings(&host) == FrameFilter::default()).then_some(()));
}
