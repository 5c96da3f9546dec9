//! The daemon is killed at arbitrary moments, and the next daemon cleans up or takes over what it
//! finds.

use std::{collections::BTreeSet, thread, time::Duration};

use crate::harness::{Host, Netns, PATIENCE, Surroundings, eventually, ping, processes, spawn, tcp};

#[test]
fn a_daemon_killed_during_attach_leaves_no_partial_endpoints() {
    let host = Host::up(&[]);
    let peer = Netns::new("peer");
    let at_peer = host.attach(&peer, &[]);
    let containers = Netns::several("c", 6);
    let bare = host.netns.devices().len();
    // A different moment in each round. An attach takes about 10 ms.
    for delay in [0, 3, 6, 9, 14, 20] {
        let clients: Vec<_> = containers
            .iter()
            .map(|container| spawn(&mut host.command(&["attach", "--netns", &container.path_argument()])))
            .collect();
        thread::sleep(Duration::from_millis(delay));
        host.kill_daemon();
        let outcomes: Vec<_> = clients.into_iter().map(|client| client.outcome().code).collect();
        assert!(outcomes.iter().all(|code| matches!(code, Some(0 | 1 | 3))), "{outcomes:?}");
        host.start(&[]);

        let endpoints = host.ps();
        let attached: BTreeSet<_> = endpoints.iter().map(|endpoint| endpoint.netns.clone()).collect();
        for (container, code) in containers.iter().zip(outcomes) {
            let is_attached = attached.contains(&container.path());
            assert!(
                is_attached || code != Some(0),
                "{} is not attached although the client succeeded",
                container.name()
            );
            let devices = container.devices();
            assert_eq!(devices.contains("eth0"), is_attached, "{devices:?} after {delay} ms");
            if is_attached {
                ping(container, at_peer.ipv4);
            }
        }
        assert_eq!(host.netns.devices().len(), bare + endpoints.len() - 1, "one device per endpoint after {delay} ms");
        let stations = host.fdb(&["--static"]);
        assert_eq!(stations.len(), endpoints.len() + 1, "the endpoints and the host: {stations:#?}");
        for container in &containers {
            host.ok(&["detach", "--netns", &container.path_argument()]);
        }
        assert_eq!(host.netns.devices().len(), bare);
    }
}

#[test]
fn a_daemon_killed_during_detach_leaves_no_partial_endpoints() {
    let host = Host::up(&[]);
    let containers = Netns::several("c", 6);
    let bare = host.netns.devices().len();
    for delay in [0, 2, 5, 9] {
        for container in &containers {
            host.attach(container, &[]);
        }
        let clients: Vec<_> = containers
            .iter()
            .map(|container| spawn(&mut host.command(&["detach", "--netns", &container.path_argument()])))
            .collect();
        thread::sleep(Duration::from_millis(delay));
        host.kill_daemon();
        for client in clients {
            client.outcome();
        }
        host.start(&[]);
        let attached: BTreeSet<_> = host.ps().into_iter().map(|endpoint| endpoint.netns).collect();
        for container in &containers {
            let is_attached = attached.contains(&container.path());
            assert_eq!(container.devices().contains("eth0"), is_attached, "{} after {delay} ms", container.name());
            host.ok(&["detach", "--netns", &container.path_argument()]);
        }
        assert_eq!(host.netns.devices().len(), bare, "after {delay} ms");
    }
}

#[test]
fn a_daemon_killed_during_up_does_not_block_the_next_one() {
    let host = Host::down();
    for delay in [5, 10, 16, 24, 35, 50, 80, 150] {
        let up = spawn(&mut host.command(&["up"]));
        thread::sleep(Duration::from_millis(delay));
        eventually("all processes are dead", || {
            let alive = processes(host.instance());
            for process in &alive {
                // `up` itself may have ended already.
                let _already_dead = nix::sys::signal::kill(*process, nix::sys::signal::Signal::SIGKILL);
            }
            alive.is_empty().then_some(())
        });
        up.outcome();
        host.start(&[]);
        host.stop(&["--purge"]);
    }
    host.start(&[]);
    let [a, b] = ["a", "b"].map(Netns::new);
    host.attach(&a, &[]);
    let at_b = host.attach(&b, &[]);
    ping(&a, at_b.ipv4);
}

#[test]
fn concurrent_ups_start_one_daemon() {
    let host = Host::down();
    let ups: Vec<_> = (0..5).map(|_| spawn(&mut host.command(&["up"]))).collect();
    for up in ups {
        let outcome = up.outcome();
        assert_eq!(outcome.code, Some(0), "{outcome:#?}");
    }
    assert_eq!(processes(host.instance()).len(), 1, "one daemon");
    let container = Netns::new("a");
    host.attach(&container, &[]);
}

#[test]
fn concurrent_up_and_down_end_in_a_consistent_state() {
    let host = Host::down();
    for _ in 0..5 {
        let both = ["up", "down"].map(|command| spawn(&mut host.command(&[command])));
        for command in both {
            let outcome = command.outcome();
            assert!(matches!(outcome.code, Some(0 | 1)), "{outcome:#?}");
        }
        let running = host.run(&["status"]).code == Some(0);
        assert_eq!(processes(host.instance()).len(), usize::from(running));
        if !running {
            assert_eq!(host.netns.devices().len(), 1, "only lo");
        }
    }
    host.start(&[]);
}

#[test]
fn down_waits_until_the_daemon_has_released_its_lock() {
    let host = Host::up(&[]);
    host.kill_daemon();
    // Holds the lock, as a thread of the daemon does that has not left the kernel yet.
    let lock = std::fs::File::open(host.run_directory().join("lock")).expect("the lock file exists");
    lock.lock().expect("the daemon is dead");
    let down = spawn(&mut host.command(&["down"]));
    thread::sleep(Duration::from_millis(500));
    assert_eq!(host.netns.devices().len(), 3, "nothing is removed yet: {:?}", host.netns.devices());
    drop(lock);
    let outcome = down.outcome();
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""), "{outcome:#?}");
    assert_eq!(host.netns.devices().len(), 1, "only lo");
}

#[test]
fn leftovers_of_a_lost_state_directory_are_removed() {
    let host = Host::up(&[]);
    let [a, b] = ["a", "b"].map(Netns::new);
    let bare = host.netns.devices().len();
    host.ok(&["network", "create", "--subnet", "10.96.0.0/24", "lost"]);
    host.attach(&a, &[]);
    host.attach(&b, &["--network", "lost"]);
    host.kill_daemon();
    std::fs::remove_dir_all(host.state_directory()).unwrap();
    host.start(&[]);
    assert_eq!(host.ps(), []);
    assert_eq!(host.netns.devices().len(), bare, "{:?}", host.netns.devices());
    for container in [&a, &b] {
        assert_eq!(container.devices().len(), 1, "only lo");
    }
    assert_eq!(host.fdb(&[]).len(), 1, "the entry of the host");
    host.attach(&a, &[]);
    let at_b = host.attach(&b, &[]);
    tcp(&a, &b, at_b.ipv4, 1 << 20);
}

#[test]
fn an_unreadable_state_file_is_reported_and_kept() {
    let host = Host::up(&[]);
    host.ok(&["network", "create", "mine"]);
    host.stop(&[]);
    let state = host.state_directory();
    let files: Vec<_> = std::fs::read_dir(&state).unwrap().flatten().map(|entry| entry.path()).collect();
    let database =
        files.iter().find(|path| path.metadata().is_ok_and(|metadata| metadata.len() > 0)).expect("a record");
    let good = std::fs::read(database).unwrap();
    std::fs::write(database, "not a database").unwrap();
    let before = Surroundings::of(&host, &[]);
    let line = host.fails(1, &["up"]);
    assert!(line.contains(&*database.to_string_lossy()), "{line}");
    assert_eq!(Surroundings::of(&host, &[]), before);
    assert_eq!(std::fs::read(database).unwrap(), b"not a database");
    std::fs::write(database, good).unwrap();
    host.start(&[]);
    host.ok(&["network", "inspect", "mine"]);
}

#[test]
fn a_client_killed_during_attach_leaves_a_consistent_state() {
    let host = Host::up(&[]);
    let containers = Netns::several("c", 6);
    let bare = host.netns.devices().len();
    for (delay, container) in [0, 1, 3, 6, 10, 15].into_iter().zip(&containers) {
        let client = spawn(&mut host.command(&["attach", "--netns", &container.path_argument()]));
        thread::sleep(Duration::from_millis(delay));
        drop(client);
        // Whether the attach was completed or not, the detach must succeed.
        host.ok(&["detach", "--netns", &container.path_argument()]);
    }
    let begun = std::time::Instant::now();
    eventually("all is as before", || {
        // A request without its client may still have been in progress when its container was
        // detached.
        for container in &containers {
            host.ok(&["detach", "--netns", &container.path_argument()]);
        }
        assert!(begun.elapsed() < PATIENCE);
        (host.ps().is_empty() && host.netns.devices().len() == bare).then_some(())
    });
    assert!(containers.iter().all(|container| container.devices().len() == 1));
}
