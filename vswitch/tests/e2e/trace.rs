//! `trace` reports the verdict on a frame without sending it and without changing any state.

use serde::Deserialize;
use serde_json::Value;

use crate::harness::{Attached, Counters, Frame, Host, Mac, Netns, RawPort, Tag, settles};

/// The part of the output of `trace` that is checked here.
#[derive(Clone, Debug, Deserialize)]
pub struct Trace {
    pub frame: TracedFrame,
    pub steps: Vec<Step>,
    pub verdict: Verdict,
    pub program: Program,
    pub agrees: Option<bool>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct TracedFrame {
    pub summary: String,
    pub hex: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Step {
    pub hook: String,
    pub text: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Verdict {
    pub action: String,
    pub to: Option<String>,
    pub to_host: bool,
    pub reason: Option<String>,
    pub explanation: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Program {
    pub name: String,
    pub hook: String,
    pub verdict: Option<Verdict>,
}

impl Trace {
    pub fn has_step(&self, text: &str) -> bool {
        self.steps.iter().any(|step| step.text.contains(text))
    }
}

#[track_caller]
pub fn trace(host: &Host, options: &[&str]) -> Trace {
    let trace: Trace = host.json(&[&["trace"], options].concat());
    assert_ne!(trace.agrees, Some(false), "{trace:#?}");
    if let Some(verdict) = &trace.program.verdict {
        assert_eq!(*verdict, trace.verdict);
    }
    trace
}

/// A network without IPv6, in which no endpoint sends frames on its own.
struct Pair {
    at_a: Attached,
    at_b: Attached,
    a: Netns,
    _b: Netns,
    host: Host,
}

fn start_pair(datapath: &str) -> Pair {
    let host = Host::down();
    // The host sends no frames on its own either.
    for device in ["all", "default"] {
        host.netns.set(&format!("net/ipv6/conf/{device}/disable_ipv6"), "1");
    }
    host.start(&["--datapath", datapath]);
    host.ok(&["network", "create", "--subnet", "10.201.9.0/24", "lan"]);
    let [a, b] = ["a", "b"].map(Netns::new);
    let at_a = host.attach(&a, &["--network", "lan"]);
    // Frames to unknown stations are copied to ports that learn.
    let at_b = host.attach(&b, &["--network", "lan", "-o", "learning=on"]);
    Pair { at_a, at_b, a, _b: b, host }
}

/// Returns everything that a frame could change.
fn state(host: &Host) -> (Value, Vec<(Mac, String)>) {
    let fdb = host.fdb(&[]).into_iter().map(|station| (station.mac, station.port)).collect();
    (host.json(&["stats"]), fdb)
}

#[test]
fn traces_with_tc_are_complete_and_change_nothing() {
    let pair = &start_pair("tc");
    check_that_trace_shows_every_step_and_changes_nothing(pair);
    check_that_invalid_traces_are_refused(pair);
    check_that_the_traced_verdict_is_that_of_a_real_frame(pair);
}

#[test]
fn traces_with_xdp_are_complete() {
    let pair = &start_pair("xdp");
    check_that_the_xdp_stage_comes_before_the_tc_stage(pair);
    check_that_the_traced_verdict_is_that_of_a_real_frame(pair);
}

fn check_that_trace_shows_every_step_and_changes_nothing(Pair { host, at_a, at_b, .. }: &Pair) {
    let (a, b) = (at_a.name.as_str(), at_b.name.as_str());
    let before = settles("no frames are sent", || {
        let before = state(host);
        std::thread::sleep(std::time::Duration::from_millis(100));
        if before == state(host) { Ok(before) } else { Err(before) }
    });
    let (ip_b, mac_b) = (at_b.ipv4.to_string(), at_b.mac.to_string());
    for protocol in ["tcp", "udp", "icmp"] {
        let traced = trace(host, &["--from", a, "--to", &ip_b, "--proto", protocol, "--sport", "7", "--dport", "9"]);
        assert_eq!(
            (traced.verdict.action.as_str(), traced.verdict.to.as_deref()),
            ("redirect", Some(b)),
            "{traced:#?}"
        );
        assert!(
            traced.has_step(&format!("({a})")) && traced.has_step(&format!("FDB: {mac_b} in network lan")),
            "{traced:#?}"
        );
        let summary = &traced.frame.summary;
        assert!(summary.contains(&format!("IPv4 {} > {ip_b}", at_a.ipv4)), "{summary}");
        assert_eq!((traced.program.name.as_str(), traced.program.hook.as_str()), ("from_container", "tc"));
    }
    assert_eq!(trace(host, &["--from", a, "--to", &mac_b]).verdict.to.as_deref(), Some(b));
    let question = trace(host, &["--from", a, "--to", &ip_b, "--proto", "arp"]);
    assert!(["flood_group", "answer_arp"].contains(&question.verdict.action.as_str()), "{question:#?}");
    // To an address behind the gateway, to the host itself, and to an unknown station.
    for (to, host_gets_it) in [("198.51.100.7", true), ("10.201.9.1", true)] {
        let traced = trace(host, &["--from", a, "--to", to]);
        assert_eq!((traced.verdict.action.as_str(), traced.verdict.to_host), ("redirect", host_gets_it), "{traced:#?}");
    }
    let unknown = trace(host, &["--from", a, "--to", "02:00:00:00:99:99"]);
    assert_eq!(unknown.verdict.action, "flood_unknown", "{unknown:#?}");
    assert!(unknown.has_step(": unknown") && unknown.has_step("a copy to port"), "{unknown:#?}");
    assert!(unknown.has_step(&format!("({b})")), "{unknown:#?}");
    let back = trace(host, &["--from", "host", "--to", &ip_b]);
    assert_eq!((back.verdict.to.as_deref(), back.program.name.as_str()), (Some(b), "from_host"));
    // The bytes of a traced frame can be traced again.
    let again = trace(host, &["--from", a, "--frame", &unknown.frame.hex]);
    assert_eq!(again.verdict, unknown.verdict);
    let forged = Frame::new(at_b.mac, Mac([2, 0, 0, 0, 0x88, 1]), "from a station behind a");
    trace(host, &["--from", a, "--frame", &hex(&forged)]);
    let spoofed = Frame::new(at_a.mac, at_b.mac, "from b, says a");
    let spoofed = trace(host, &["--from", a, "--frame", &hex(&spoofed)]);
    assert_eq!(spoofed.verdict.reason.as_deref(), Some("source_spoofed"));
    assert!(spoofed.verdict.explanation.contains("belongs to a station"), "{spoofed:#?}");
    assert_eq!(state(host), before, "tracing changed something");
    // The text output contains both the verdict and the decision of the program.
    let text = host.ok(&["trace", "--from", a, "--to", &ip_b]);
    assert!(text.contains("verdict  redirect: to port") && text.contains("decides the same"), "{text}");
}

fn check_that_the_xdp_stage_comes_before_the_tc_stage(Pair { host, at_a, at_b, .. }: &Pair) {
    let traced = trace(host, &["--from", &at_a.name, "--to", &at_b.ipv4.to_string()]);
    assert_eq!(traced.program.hook, "xdp", "{traced:#?}");
    assert_eq!(traced.verdict.to.as_deref(), Some(at_b.name.as_str()));
    let group = trace(host, &["--from", &at_a.name, "--to", &at_b.ipv4.to_string(), "--proto", "arp"]);
    let hooks: Vec<_> = group.steps.iter().map(|step| step.hook.as_str()).collect();
    assert_eq!((hooks.first(), hooks.last(), group.program.hook.as_str()), (Some(&"xdp"), Some(&"tc"), "tc"));
}

#[test]
fn frames_from_an_uplink_and_ipv6_are_traced() {
    let host = Host::down();
    let (a, wire) = (Netns::new("a"), Netns::new("wire"));
    host.netns.wire("phys0", &wire, "eth0");
    host.start(&[]);
    host.ok(&["network", "create", "--subnet", "10.201.9.0/24", "--ipv6", "-o", "uplink=phys0", "lan"]);
    let at_a = host.attach(&a, &["--network", "lan"]);
    let ipv6 = at_a.ipv6.expect("an IPv6 address").to_string();
    for to in [at_a.ipv4.to_string(), ipv6.clone(), at_a.mac.to_string()] {
        let traced = trace(&host, &["--from", "phys0", "--to", &to]);
        assert_eq!(
            (traced.verdict.to.as_deref(), traced.program.name.as_str()),
            (Some(at_a.name.as_str()), "from_uplink")
        );
    }
    let question = trace(&host, &["--from", "phys0", "--to", &ipv6, "--proto", "arp"]);
    assert!(question.frame.summary.contains("neighbor solicitation"), "{question:#?}");
    let tagged = trace(&host, &["--from", "phys0", "--to", &at_a.ipv4.to_string(), "--vlan", "30"]);
    assert!(tagged.frame.summary.contains("VLAN 30") && tagged.has_step("VLAN 30"), "{tagged:#?}");
}

fn check_that_invalid_traces_are_refused(Pair { host, at_a, .. }: &Pair) {
    let from = at_a.name.as_str();
    for (options, words) in [
        (&["--from", "nobody", "--to", "10.201.9.3"][..], "no port `nobody`"),
        (&["--from", from, "--to", "there"], "`there` is neither"),
        (&["--from", from, "--to", "10.201.9.77"], "no station is known to have the address 10.201.9.77"),
        (&["--from", from, "--to", "fd00::1"], "has no address to send to fd00::1 from"),
        (&["--from", from, "--frame", "0200"], "invalid frame `0200`"),
        (&["--from", from, "--frame", "xyz"], "invalid frame `xyz`"),
        (&["--from", from, "--to", "10.201.9.1", "--vlan", "5000"], "invalid VLAN `5000`"),
        (&["--from", from, "--to", "02:00:00:00:99:99", "--proto", "tcp"], "no IP address of 02:00:00:00:99:99"),
    ] {
        let complaint = host.fails(1, &[&["trace"], options].concat());
        assert!(complaint.contains(words), "{options:?}: {complaint}");
    }
}

/// Returns frames of all kinds from a: valid, unusual and malformed ones.
fn corpus(a: Mac, b: Mac, host: Mac) -> Vec<Frame> {
    let group = Mac([0x01, 0x00, 0x5e, 1, 2, 3]);
    let ip = |destination: Mac, to: [u8; 4]| {
        let header = [0x08, 0, 0x45, 0, 0, 28, 0, 1, 0, 0, 64, 17, 0, 0, 10, 201, 9, 2];
        Frame::raw(destination, a, &[&header[..], &to, &[0, 7, 0, 9, 0, 8, 0, 0]].concat())
    };
    let mut frames = vec![
        ip(b, [10, 201, 9, 3]),
        ip(host, [10, 201, 9, 1]),
        ip(host, [127, 0, 0, 1]),
        ip(Mac::BROADCAST, [255; 4]),
        Frame::raw(b, a, &[0x88, 0xb5]),
        Frame::raw(b, a, &[0, 3, 1, 2, 3]),
        Frame::raw(b, a, &[0x81, 0, 0, 5, 0x81, 0, 0, 7]),
        Frame::tagged(b, a, &[Tag::customer(30)], "tagged"),
        Frame::tagged(b, a, &[Tag::service(8), Tag::customer(30)], "twice"),
        Frame::new(b, group, "from a group"),
        Frame::new(b, Mac::ZERO, "from nobody"),
        Frame::new(Mac::ZERO, a, "to nobody"),
    ];
    let stations = [a, b, host, Mac::BROADCAST, group, Mac([1, 0x80, 0xc2, 0, 0, 0x0e]), Mac([2, 0, 0, 0, 0x99, 9])];
    for source in [a, b, host, Mac([2, 0, 0, 0, 0x88, 1])] {
        frames.extend(stations.map(|destination| Frame::new(destination, source, "of the corpus")));
    }
    frames
}

/// Returns the name of the counter for each frame that was counted.
fn changed_counters(before: &Counters, after: &Counters) -> Vec<String> {
    let mut counted = Vec::new();
    let mut add = |name: &str, before: u64, after: u64| counted.extend((before..after).map(|_| name.to_owned()));
    add("forwarded", before.forwarded, after.forwarded);
    add("flooded", before.flooded, after.flooded);
    add("to_host", before.to_host, after.to_host);
    add("passed", before.passed, after.passed);
    for (reason, after) in &after.drops {
        add(reason, before.dropped(reason), *after);
    }
    counted
}

fn counter_of(verdict: &Verdict) -> &str {
    match verdict.action.as_str() {
        "redirect" if verdict.to_host => "to_host",
        "redirect" => "forwarded",
        "pass" => "passed",
        "drop" => verdict.reason.as_deref().expect("a drop has a reason"),
        answer if answer.starts_with("answer_") => "to_host",
        flood if flood.starts_with("flood_") => "flooded",
        other => panic!("unexpected verdict on a received frame: {other}"),
    }
}

fn check_that_the_traced_verdict_is_that_of_a_real_frame(Pair { host, at_a, at_b, a, .. }: &Pair) {
    let at_host = host.fdb(&["--static"]).into_iter().find(|station| station.port.ends_with("-lan"));
    let sender = RawPort::open(a, "eth0");
    for frame in corpus(at_a.mac, at_b.mac, at_host.expect("the station of the host").mac) {
        let traced = trace(host, &["--from", &at_a.name, "--frame", &hex(&frame)]);
        let before = host.counters(&at_a.name);
        sender.send(&frame);
        let after = settles("the frame is counted", || {
            let after = host.counters(&at_a.name);
            if after.rx_frames > before.rx_frames { Ok(after) } else { Err(after) }
        });
        let context = format!("{frame:02x?}: {traced:#?}");
        assert_eq!(changed_counters(&before, &after), [counter_of(&traced.verdict)], "{context}");
    }
}

pub fn hex(Frame(bytes): &Frame) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
