//! `top`: the rates of the ports, live on a terminal or once for a script.

use nix::sys::signal::{Signal, kill};
use serde::Deserialize;

use crate::harness::{Attached, Flow, Frame, Host, Mac, Netns, RawPort, settles};
use crate::run_terminal::Terminal;

/// A row of `top --once --format json`.
#[derive(Debug, Deserialize)]
struct Rate {
    port: String,
    network: String,
    rx_frames_per_second: f64,
    rx_bits_per_second: f64,
    drops_per_second: f64,
    worst_drop: Option<String>,
}

/// A container that sends about a thousand datagrams per second to another one.
struct Busy {
    at_a: Attached,
    _flow: Flow,
    a: Netns,
    _b: Netns,
    host: Host,
}

fn start_busy() -> Busy {
    let host = Host::up(&[]);
    let [a, b] = ["a", "b"].map(Netns::new);
    let [at_a, at_b] = [&a, &b].map(|container| host.attach(container, &[]));
    let flow = Flow::start(&a, &b, at_b.ipv4);
    flow.goes_on(10);
    Busy { at_a, _flow: flow, a, _b: b, host }
}

#[test]
fn top_shows_rates_once_and_live() {
    let busy = &start_busy();
    check_that_top_once_prints_one_table(busy);
    check_that_the_live_view_needs_a_terminal(busy);
    check_that_the_live_view_restores_the_terminal(busy);
}

fn check_that_top_once_prints_one_table(Busy { host, a, at_a, .. }: &Busy) {
    let sender = RawPort::open(a, "eth0");
    let row = settles("the drops are shown", || {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..50 {
                    sender.send(&Frame::new(at_a.mac, Mac::ZERO, "from nobody"));
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
            });
            let rows: Vec<Rate> = host.json(&["top", "--once", "--interval", "0.3", "bridge"]);
            let row = rows.into_iter().find(|row| row.port == at_a.name).expect("a row for the container");
            if row.drops_per_second > 0.0 { Ok(row) } else { Err(row) }
        })
    });
    assert_eq!((row.network.as_str(), row.worst_drop.as_deref()), ("bridge", Some("source_zero")));
    // Emulated processors are slow, so the bound is far below the thousand datagrams per second.
    assert!(row.rx_frames_per_second > 10.0 && row.rx_bits_per_second > 400.0 * row.rx_frames_per_second, "{row:?}");
    let table = host.ok(&["top", "--once", "--interval", "0.2"]);
    assert!(table.starts_with("PORT") && table.contains(&at_a.name), "{table}");
}

fn check_that_the_live_view_needs_a_terminal(Busy { host, .. }: &Busy) {
    assert!(host.fails(1, &["top"]).contains("requires a terminal"), "stdout is no terminal");
    let outcome = host.run(&["top", "--format", "json"]);
    assert!(outcome.code == Some(1) && outcome.stderr.contains("add --once"), "{outcome:#?}");
    assert!(host.fails(1, &["top", "--once", "nowhere"]).contains("no endpoint and no network `nowhere`"));
}

/// Starts `top`, and waits until it shows the container.
fn start_top(host: &Host, at: &Attached) -> Terminal {
    let terminal = Terminal::start(host.command(&["top", "--interval", "0.2"]).env("TERM", "xterm"));
    assert!(terminal.is_cooked());
    terminal.await_text("\x1b[?1049h");
    terminal.resize(160, 24);
    terminal.await_text(&at.name);
    assert!(!terminal.is_cooked());
    terminal
}

/// The live view restores the terminal, however it ends.
fn check_that_the_live_view_restores_the_terminal(Busy { host, at_a, .. }: &Busy) {
    let mut terminal = start_top(host, at_a);
    terminal.type_keys("f");
    terminal.await_text("bridge");
    let quits: [&dyn Fn(&mut Terminal); 3] =
        [&|terminal| terminal.type_keys("q"), &|terminal| terminal.type_keys("\x03"), &|terminal| {
            kill(terminal.process(), Signal::SIGTERM).expect("the signal is sent");
        }];
    for quit in quits {
        quit(&mut terminal);
        terminal.await_text("\x1b[?1049l");
        assert_eq!(terminal.await_end(), Some(0));
        assert!(terminal.is_cooked());
        terminal = start_top(host, at_a);
    }
    // When the daemon ends, `top` reports it and restores the terminal.
    host.kill_daemon();
    terminal.await_text(&format!("vswitch: instance {} is not up", host.instance()));
    assert_eq!(terminal.await_end(), Some(3));
    assert!(terminal.is_cooked());
    host.start(&[]);
}
