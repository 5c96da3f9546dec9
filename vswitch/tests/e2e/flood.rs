//! An endpoint sends frames from a million source addresses. The other endpoints must not be
//! affected.

use crate::harness::{Attached, Flow, Frame, Host, Mac, Netns, RawPort, Stream, settles};

const MILLION: u64 = 1_000_000;

/// Returns a million different addresses without a pattern. The multiplier is odd, so
/// multiplication modulo a power of two never maps two numbers to the same result.
fn addresses() -> impl Iterator<Item = Mac> {
    (1..=MILLION).map(|number| {
        let [.., a, b, c, d, e] = (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) & 0xff_ffff_ffff).to_be_bytes();
        Mac([2, a, b, c, d, e])
    })
}

/// An endpoint that floods, and others that exchange traffic or have learned stations behind them.
struct Segment {
    host: Host,
    flooder: Netns,
    at_flooder: Attached,
    others: [Netns; 3],
    at: [Attached; 3],
    wire: Netns,
}

const NESTED: Mac = Mac([2, 0, 0, 0, 0x77, 1]);

impl Segment {
    fn new(up: &[&str], flags: &[&str]) -> Self {
        let host = Host::down();
        let [flooder, b, c, d, wire] = ["flooder", "b", "c", "d", "wire"].map(Netns::new);
        host.netns.wire("phys0", &wire, "eth0");
        host.start(up);
        host.ok(&["network", "create", "--subnet", "10.132.0.0/24", "-o", "uplink=phys0", "lan"]);
        let at_flooder = host.attach(&flooder, &[&["--network", "lan"], flags].concat());
        let others = [b, c, d];
        let at = others.each_ref().map(|other| host.attach(other, &["--network", "lan", "-o", "learning=on"]));
        Self { host, flooder, at_flooder, others, at, wire }
    }

    /// Returns the FDB entries that must survive the flood, with port and kind.
    fn stations(&self) -> Vec<(Mac, String, String)> {
        let stations = self.host.fdb(&["--network", "lan"]).into_iter();
        let others = stations.filter(|station| station.kind == "static" || station.port != self.at_flooder.name);
        others.map(|station| (station.mac, station.port, station.kind)).collect()
    }

    /// Sends the flood while the other endpoints exchange traffic. Returns how many of its frames
    /// came in by the flooder's port.
    fn flood(&self) -> u64 {
        let [b, c, d] = &self.others;
        let [at_b, at_c, at_d] = &self.at;
        // Two learned stations: one on the wire, and one nested in an endpoint.
        let port_b = RawPort::open(b, "eth0");
        for (netns, source) in [(d, NESTED), (&self.wire, self.wire.mac("eth0"))] {
            let hello = Frame::new(at_b.mac, source, "hello");
            RawPort::open(netns, "eth0").send(&hello);
            port_b.expect(&hello);
        }
        let stations = self.stations();
        for (mac, port) in [(NESTED, at_d.name.as_str()), (self.wire.mac("eth0"), "phys0")] {
            assert!(stations.contains(&(mac, port.to_owned(), "dynamic".to_owned())), "{stations:?}");
        }
        drop(port_b);

        let before = self.host.counters(&self.at_flooder.name).rx_frames;
        let refused = self.flooder.tx_dropped("eth0");
        let (flow, stream) = (Flow::start(b, c, at_c.ipv4), Stream::start(c, d, at_d.ipv4));
        flow.goes_on(50);
        let unknown = Mac([2, 0, 0, 0, 0x99, 9]);
        RawPort::open(&self.flooder, "eth0").send_from(&Frame::new(unknown, Mac::ZERO, "a flood"), addresses());
        flow.goes_on(50);
        stream.goes_on(1);
        flow.assert_complete();
        stream.assert_complete();

        // Frames that the kernel dropped before they reached the programs are not counted.
        let received = MILLION - (self.flooder.tx_dropped("eth0") - refused);
        let received = settles("the flood is counted", || {
            let counters = self.host.counters(&self.at_flooder.name);
            let counted = counters.rx_frames - before;
            if counted >= received && counters.rx_frames == counters.accounted() {
                Ok(counted)
            } else {
                Err((counted, received))
            }
        });
        let after = self.stations();
        let lost: Vec<_> = stations.iter().filter(|station| !after.contains(station)).collect();
        assert!(lost.is_empty(), "{lost:?}");
        received
    }

    fn learned(&self) -> usize {
        self.host.fdb(&["--network", "lan", "--dynamic", "--port", &self.at_flooder.name]).len()
    }
}

/// Floods from a port with learning on, whose stations may take up to `most` entries.
fn check_flooded_table(up: &[&str], flags: &[&str], most: usize) {
    let segment = Segment::new(up, &[&["-o", "learning=on"], flags].concat());
    let before = segment.host.counters(&segment.at_flooder.name);
    segment.flood();
    let after = segment.host.counters(&segment.at_flooder.name);
    let learned = segment.learned();
    assert!(learned <= most, "{learned} of {most}");
    // The permitted entries were used.
    assert!(learned >= most - 10, "{learned} of {most}");
    assert_eq!(after.learned - before.learned, learned as u64);
    assert!(after.learn_failed - before.learn_failed > MILLION / 2, "{after:?}");
    assert_eq!(after.dropped("source_spoofed"), 0);
    // Frames to unknown destinations are flooded, which has a rate limit of its own.
    assert!(after.dropped("storm") > 0, "{after:?}");
}

#[test]
fn a_flood_of_source_addresses_displaces_no_other_entry() {
    check_flooded_table(&[], &[], 1024);
}

#[test]
fn a_full_table_keeps_its_entries() {
    // The flooder gets the whole table except for the two entries that existed before.
    check_flooded_table(&["--fdb-size", "3000"], &["-o", "fdb_limit=4000000"], 2998);
}

/// Returns the number of stations learned from an uplink.
fn learned_from(host: &Host, uplink: &str) -> usize {
    host.fdb(&["--dynamic", "--port", uplink]).len()
}

#[test]
fn a_lan_host_with_many_addresses_leaves_room_for_other_networks() {
    let host = Host::down();
    let [lan, other] = ["lan", "other"].map(Netns::new);
    host.netns.wire("phys0", &lan, "eth0");
    host.netns.wire("phys1", &other, "eth0");
    host.start(&["--fdb-size", "4000"]);
    let create = |name: &str, subnet: &str, options: &[&str]| {
        host.ok(&[&["network", "create", "--subnet", subnet, "-o", "storm_pps=0"], options, &[name]].concat());
    };
    create("lan", "10.133.0.0/24", &["-o", "uplink=phys0"]);
    let flooder = RawPort::open(&lan, "eth0");
    let flood = |from: u64, count: u64| {
        let sources = addresses().skip(from as usize).take(count as usize);
        flooder.send_from(&Frame::new(Mac([2, 0, 0, 0, 0x99, 9]), Mac::ZERO, "a flood"), sources);
    };
    // A single network may learn everything.
    flood(0, 20_000);
    settles("the table is full", || {
        let learned = learned_from(&host, "phys0");
        if learned >= 3990 { Ok(()) } else { Err(learned) }
    });
    // Another network finds its share: a quarter of the table.
    create("other", "10.134.0.0/24", &["-o", "uplink=phys1"]);
    flood(20_000, 20_000);
    let newcomer = RawPort::open(&other, "eth0");
    let sources = addresses().skip(50_000).take(1500);
    newcomer.send_from(&Frame::new(Mac([2, 0, 0, 0, 0x99, 9]), Mac::ZERO, "others"), sources);
    settles("the other network learns", || {
        let learned = [learned_from(&host, "phys0"), learned_from(&host, "phys1")];
        if learned[1] >= 990 { Ok(()) } else { Err(learned) }
    });
    assert!(learned_from(&host, "phys0") >= 2900);
}

#[test]
fn an_uplink_has_a_limit_of_its_own() {
    let host = Host::down();
    let lan = Netns::new("lan");
    host.netns.wire("phys0", &lan, "eth0");
    host.start(&[]);
    host.ok(&["network", "create", "--subnet", "10.133.0.0/24", "-o", "storm_pps=0", "-o", "uplink=phys0", "lan"]);
    let unknown = Frame::new(Mac([2, 0, 0, 0, 0x99, 9]), Mac::ZERO, "a flood");
    RawPort::open(&lan, "eth0").send_from(&unknown, addresses().take(65_536));
    let counters = settles("the limit is reached", || {
        let counters = host.ports(&[]).remove("phys0").expect("a row of the uplink");
        if counters.learn_failed > 0 && counters.learned >= 16_384 { Ok(counters) } else { Err(counters) }
    });
    assert_eq!(counters.learned, 16_384);
}

#[test]
fn with_the_spoof_guard_a_flood_is_dropped_and_not_learned() {
    let segment = Segment::new(&[], &[]);
    let received = segment.flood();
    let counters = segment.host.counters(&segment.at_flooder.name);
    assert!(received > MILLION / 2, "{received}");
    // The container's own stack may have sent some frames as well.
    assert!(received - counters.dropped("source_spoofed") < 20, "{received} frames received: {counters:?}");
    assert_eq!((segment.learned(), counters.learned, counters.learn_failed), (0, 0, 0));
}
