//! A daemon that is killed at any moment, and what the next one makes of what it finds.

use std::{collections::BTreeSet, thread, time::Duration};

use crate::harness::{Host, Netns, PATIENCE, Surroundings, eventually, ping, processes, spawn, tcp};

#[test]
fn a_daemon_killed_in_the_middle_of_attaching_leaves_no_half_endpoints() {
    let host = Host::up(&[]);
    let peer = Netns::new("peer");
    let at_peer = host.attach(&peer, &[]);
    let containers = Netns::several("c", 6);
    let bare = host.netns.devices().len();
    // At another moment each time: an attach takes some 10 ms.
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
            assert!(is_attached || code != Some(0), "{} was told that it is attached", container.name());
            let devices = container.devices();
            assert_eq!(devices.contains("eth0"), is_attached, "{devices:?} after {delay} ms");
            if is_attached {
                ping(container, at_peer.ipv4);
            }
        }
        assert_eq!(host.netns.devices().len(), bare + endpoints.len() - 1, "one device an endpoint after {delay} ms");
        let stations = host.fdb(&["--static"]);
        assert_eq!(stations.len(), endpoints.len() + 1, "the endpoints and the host: {stations:#?}");
        for container in &containers {
            host.ok(&["detach", "--netns", &container.path_argument()]);
        }
        assert_eq!(host.netns.devices().len(), bare);
    }
}

#[test]
fn a_daemon_killed_in_the_middle_of_detaching_leaves_no_half_endpoints() {
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
fn a_daemon_killed_while_it_comes_up_leaves_the_way_free() {
    let host = Host::down();
    for delay in [5, 10, 16, 24, 35, 50, 80, 150] {
        let up = spawn(&mut host.command(&["up"]));
        thread::sleep(Duration::from_millis(delay));
        eventually("all are dead", || {
            let alive = processes(host.instance());
            for process in &alive {
                // Gone already, if it was `up` itself and done.
                let _gone = nix::sys::signal::kill(*process, nix::sys::signal::Signal::SIGKILL);
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
fn of_many_ups_at_once_one_starts_the_daemon() {
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
fn up_and_down_at_once_end_in_one_or_the_other() {
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
fn down_waits_for_a_daemon_that_is_not_quite_dead() {
    let host = Host::up(&[]);
    host.kill_daemon();
    // As a thread of it has it that is still in the kernel.
    let lock = std::fs::File::open(host.run_directory().join("lock")).expect("it is there");
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
fn what_belongs_to_a_state_that_is_lost_is_removed() {
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
    assert_eq!(host.fdb(&[]).len(), 1, "the host's own");
    host.attach(&a, &[]);
    let at_b = host.attach(&b, &[]);
    tcp(&a, &b, at_b.ipv4, 1 << 20);
}

#[test]
fn a_state_that_cannot_be_read_is_named_and_kept() {
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
fn a_client_that_goes_away_in_the_middle_changes_nothing() {
    let host = Host::up(&[]);
    let containers = Netns::several("c", 6);
    let bare = host.netns.devices().len();
    for (delay, container) in [0, 1, 3, 6, 10, 15].into_iter().zip(&containers) {
        let client = spawn(&mut host.command(&["attach", "--netns", &container.path_argument()]));
        thread::sleep(Duration::from_millis(delay));
        drop(client);
        // Attached or not: it comes to one of them, and can be detached.
        host.ok(&["detach", "--netns", &container.path_argument()]);
    }
    let begun = std::time::Instant::now();
    eventually("all is as before", || {
        // A request whose client is gone may still have been under way when its container was detached.
        for container in &containers {
            host.ok(&["detach", "--netns", &container.path_argument()]);
        }
        assert!(begun.elapsed() < PATIENCE);
        (host.ps().is_empty() && host.netns.devices().len() == bare).then_some(())
    });
    assert!(containers.iter().all(|container| container.devices().len() == 1));
}
