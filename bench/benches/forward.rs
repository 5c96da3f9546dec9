//! Criterion benches of the forwarding core on the host, with tables in memory: time per decision
//! for several frames and FDB sizes.
//!
//! These tables are hash maps, not the kernel's maps. `vswitch-bench run --only cost` measures the
//! loaded programs.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use vswitch_common::{
    Mac, forward,
    forward::forward_xdp,
    tables::{FdbEntry, FdbKey, NetworkNumber, Port, PortKind, PortNumber, VlanKey, memory::MemoryTables},
    verdict::action,
};

const A: Mac = Mac([2, 0, 0, 0, 0, 0xa]);
const B: Mac = Mac([2, 0, 0, 0, 0, 0xb]);
const UPLINK: Mac = Mac([2, 0, 0, 0, 0, 0x20]);
const STATION: Mac = Mac([6, 0, 0, 0, 0, 0]);
const STRANGER: Mac = Mac([2, 0, 0, 0, 0, 0x99]);
const NETWORK: NetworkNumber = NetworkNumber(1);
const NOW: u32 = 1000;

/// Returns tables with containers on devices 11 and 12 and an uplink on device 14.
fn tables() -> MemoryTables {
    let mut tables = MemoryTables::default();
    for (number, ifindex, mac, kind) in
        [(1, 11, A, PortKind::Container), (2, 12, B, PortKind::Container), (3, 14, UPLINK, PortKind::Uplink)]
    {
        let port = Port {
            ifindex,
            egress_ifindex: ifindex,
            network: NETWORK,
            mac,
            kind: kind as u8,
            flags: Port::XDP_EGRESS | Port::LEARN | Port::TRUNK | Port::ALL_VLANS,
            fdb_limit: u32::MAX,
            ..Port::default()
        };
        tables.add_port(PortNumber(number), port);
    }
    tables.fdb.insert(key(STATION), learned());
    tables
}

fn key(mac: Mac) -> FdbKey {
    FdbKey { network: NETWORK, vlan: VlanKey::NONE, mac }
}

fn learned() -> FdbEntry {
    FdbEntry { port: PortNumber(3), seen: NOW, ..FdbEntry::default() }
}

/// Returns a 60-byte frame. `tag` may be empty.
fn frame(destination: Mac, source: Mac, tag: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut frame = [&destination.0[..], &source.0, tag, payload].concat();
    frame.resize(60, 0);
    frame
}

const UDP: [u8; 22] = [8, 0, 0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 99, 0, 1, 10, 99, 0, 2];
const ARP: [u8; 10] = [8, 6, 0, 1, 8, 0, 6, 4, 0, 1];
const VLAN_30: [u8; 4] = [0x81, 0, 0, 30];

fn frames(criterion: &mut Criterion) {
    let tables = tables();
    let broadcast = Mac([0xff; 6]);
    let cases = [
        ("container to container", 11, frame(B, A, &[], &UDP), action::REDIRECT),
        ("container to a station behind the uplink", 11, frame(STATION, A, &[], &UDP), action::REDIRECT),
        ("uplink to container", 14, frame(A, STATION, &[], &UDP), action::REDIRECT),
        ("unknown destination", 11, frame(STRANGER, A, &[], &UDP), action::FLOOD_UNKNOWN),
        ("unknown destination in a VLAN", 11, frame(STRANGER, A, &VLAN_30, &UDP), action::FLOOD_UNKNOWN),
        ("broadcast ARP", 11, frame(broadcast, A, &[], &ARP), action::FLOOD_GROUP),
        ("forged source", 11, frame(A, B, &[], &UDP), action::DROP),
    ];
    let mut group = criterion.benchmark_group("forward");
    for (name, ifindex, frame, expected) in &cases {
        // The check guards against a fast result for the wrong path.
        assert_eq!(forward(*ifindex, frame.as_slice(), &tables, NOW).action, *expected, "{name}");
        group.bench_function(*name, |bencher| {
            bencher.iter(|| forward(black_box(*ifindex), black_box(frame.as_slice()), &tables, NOW));
        });
    }
    group.finish();
}

/// Measures the decision in XDP, which also looks at the protocol.
fn early(criterion: &mut Criterion) {
    let tables = tables();
    let frame = frame(A, STATION, &[], &UDP);
    let decide = |frame: &[u8]| forward_xdp(14, PortKind::Uplink, frame, &tables, NOW);
    assert_eq!(decide(&frame).action, action::REDIRECT);
    criterion.bench_function("forward_xdp, uplink to container", |bencher| {
        bencher.iter(|| decide(black_box(frame.as_slice())));
    });
}

/// Measures a frame from the uplink at several FDB sizes. It takes two FDB lookups, of its source
/// and its destination.
fn fdb_sizes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("forward, uplink to container, stations in the FDB");
    for stations in [10u32, 1_000, 100_000] {
        let mut tables = tables();
        let macs: Vec<Mac> = (0..stations)
            .map(|number| {
                let [a, b, c, d] = number.to_be_bytes();
                Mac([6, 0, a, b, c, d])
            })
            .collect();
        tables.fdb.extend(macs.iter().map(|mac| (key(*mac), learned())));
        let frames: Vec<_> = macs.iter().map(|mac| frame(A, *mac, &[], &UDP)).collect();
        // Each frame has another sender. The stride defeats the prefetcher.
        let mut next = 0;
        group.bench_function(BenchmarkId::from_parameter(stations), |bencher| {
            bencher.iter(|| {
                next = (next + 7_919) % frames.len();
                forward(black_box(14), black_box(frames[next].as_slice()), &tables, NOW)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, frames, early, fdb_sizes);
criterion_main!(benches);
