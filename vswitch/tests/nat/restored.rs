//! The table is restored after other programs flush or change it.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use vswitch::model::Protocol::Tcp;
use vswitch::nat::PortForward;

use crate::harness::{PATIENCE, eventually};
use crate::scene::{CLIENT, Daemon, Scene, UPLINK, publish};
use crate::services::{assert_client_address, request, serve};

#[test]
fn a_changed_table_is_restored_within_a_second() {
    let scene = Scene::new();
    let daemon = Daemon::following(&scene.host);
    serve(&scene.a1, Tcp, 80);
    daemon.apply(scene.wanted(&[publish(Tcp, 8080, 80)]));
    let table = daemon.table();
    let original = listing(&scene, &table);
    let changes = [
        "flush ruleset".to_owned(),
        format!("delete table inet {table}"),
        format!("flush table inet {table}"),
        format!("flush chain inet {table} postrouting"),
        format!("add rule inet {table} forward drop"),
        format!("delete element inet {table} any4_addresses {{ tcp . 8080 }}"),
        format!("add element inet {table} our_devices {{ eth9 }}"),
        format!("add chain inet {table} mine"),
    ];
    for change in changes {
        scene.nft(&change);
        let changed = Instant::now();
        while listing(&scene, &table) != original {
            assert!(changed.elapsed() < Duration::from_secs(1), "`{change}` is not undone");
            std::thread::sleep(Duration::from_millis(5));
        }
        println!("{change}: undone after {:?}", changed.elapsed());
        assert_client_address(&scene.client, Tcp, UPLINK[0], 8080, CLIENT[0]);
    }
}

#[test]
fn connections_survive_replacements_and_flushes() {
    let scene = Scene::new();
    let daemon = Daemon::following(&scene.host);
    let wanted = |more: &[PortForward]| scene.wanted(&[publish(Tcp, 8080, 80), more.to_vec()]);
    daemon.apply(wanted(&[]));
    let listener = scene.a1.inside(|| TcpListener::bind("0.0.0.0:80")).expect("a free port");
    let mut client = scene.client.inside(|| TcpStream::connect((UPLINK[0], 8080))).expect("a connection");
    let (mut server, _) = listener.accept().expect("a connection");
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        stream.set_nodelay(true).expect("an option");
    }
    let mut exchange = || {
        let mut buffer = [0; 4];
        client.write_all(b"ping").and_then(|()| server.read_exact(&mut buffer)).expect("the connection lives");
        server.write_all(b"pong").and_then(|()| client.read_exact(&mut buffer)).expect("the connection lives");
    };
    let replaced = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Packets pass during the replacement all the time.
        scope.spawn(|| {
            while !replaced.load(Ordering::Relaxed) {
                exchange();
            }
        });
        for round in 0..20 {
            daemon.apply(wanted(&publish(Tcp, 8081 + round, 80)));
        }
        replaced.store(true, Ordering::Relaxed);
    });
    daemon.apply(wanted(&[]));
    // A packet that arrives between a flush and the restoration would be answered by the host,
    // which does not know the connection. A late acknowledgement would be enough.
    std::thread::sleep(Duration::from_millis(500));
    let original = listing(&scene, &daemon.table());
    scene.nft("flush ruleset");
    eventually("the table is restored", || (listing(&scene, &daemon.table()) == original).then_some(()));
    exchange();
}

#[test]
fn the_table_is_written_only_after_changes() {
    let scene = Scene::new();
    let daemon = Daemon::following(&scene.host);
    daemon.apply(scene.wanted(&[publish(Tcp, 8080, 80)]));
    let table = daemon.table();
    let handle = || scene.nft(&format!("-a list table inet {table}")).lines().next().map(str::to_owned);
    let first = handle();
    daemon.apply(scene.wanted(&[publish(Tcp, 8080, 80)]));
    // Changes of other tables, even many of them, do not cause a write either. The time is several
    // times as long as a check takes.
    for number in 0..20 {
        scene.nft(&format!("add table inet other{number}"));
        scene.nft(&format!("add chain inet other{number} forward {{ type filter hook forward priority 5 ; }}"));
    }
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(handle(), first);
    daemon.apply(scene.wanted(&[publish(Tcp, 8081, 80)]));
    assert_ne!(handle(), first);
}

#[test]
fn the_next_apply_restores_a_flushed_table() {
    let scene = Scene::new();
    let daemon = Daemon::new(&scene.host);
    serve(&scene.a1, Tcp, 80);
    daemon.apply(scene.wanted(&[publish(Tcp, 8080, 80)]));
    scene.nft("flush ruleset");
    // The next `apply` detects the flush without an event.
    daemon.apply(scene.wanted(&[publish(Tcp, 8080, 80)]));
    eventually("the port is reached", || request(&scene.client, Tcp, UPLINK[0], 8080, Duration::from_secs(1)));
}

#[test]
fn nft_can_read_the_table_that_it_prints() {
    let scene = Scene::new();
    let daemon = Daemon::new(&scene.host);
    daemon.apply(scene.wanted(&[publish(Tcp, 8080, 80)]));
    let printed = scene.nft("list ruleset");
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), &printed).expect("the file is written");
    scene.nft("flush ruleset");
    scene.nft(&format!("-f {}", file.path().display()));
    assert_eq!(scene.nft("list ruleset"), printed);
}

fn listing(scene: &Scene, table: &str) -> String {
    let outcome = crate::harness::run(scene.host.command("nft").args(["-s", "list", "table", "inet", table]));
    let mut lines: Vec<_> = outcome.stdout.lines().map(str::trim).collect();
    // nft prints the elements of a set in any order. The sets here are so small that sorting the
    // lines does not hide a difference.
    lines.sort_unstable();
    lines.join("\n").replace(['{', '}', ','], "")
}
