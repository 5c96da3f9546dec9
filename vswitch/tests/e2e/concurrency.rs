//! Many clients run commands at the same time.

use std::{collections::BTreeSet, net::Ipv4Addr};

use crate::harness::{Attached, Host, Mac, Netns, Surroundings, ping, spawn};

const CLIENTS: usize = 32;

#[test]
fn thirty_two_clients_attach_and_detach_at_once() {
    let host = Host::up(&[]);
    let containers = Netns::several("c", CLIENTS);
    let all: Vec<&Netns> = containers.iter().collect();
    let before = Surroundings::of(&host, &all);

    let attaching: Vec<_> = containers
        .iter()
        .map(|container| {
            spawn(&mut host.command(&["attach", "--format", "json", "--netns", &container.path_argument()]))
        })
        .collect();
    let endpoints: Vec<Attached> = attaching
        .into_iter()
        .map(|client| {
            let outcome = client.outcome();
            assert_eq!(outcome.code, Some(0), "{outcome:#?}");
            serde_json::from_str(&outcome.stdout).unwrap()
        })
        .collect();
    let addresses: BTreeSet<Ipv4Addr> = endpoints.iter().map(|endpoint| endpoint.ipv4).collect();
    let stations: BTreeSet<Mac> = endpoints.iter().map(|endpoint| endpoint.mac).collect();
    let ids: BTreeSet<&str> = endpoints.iter().map(|endpoint| endpoint.id.as_str()).collect();
    assert_eq!((addresses.len(), stations.len(), ids.len()), (CLIENTS, CLIENTS, CLIENTS));
    let mut sorted = endpoints.clone();
    sorted.sort_by(|one, other| one.name.cmp(&other.name));
    let mut listed = host.ps();
    listed.sort_by(|one, other| one.name.cmp(&other.name));
    assert_eq!(listed, sorted);
    assert_eq!(host.fdb(&["--static"]).iter().filter(|station| stations.contains(&station.mac)).count(), CLIENTS);

    for (index, endpoint) in endpoints.iter().enumerate() {
        assert_eq!(containers[index].addresses("eth0"), [endpoint.ipv4]);
        ping(&host.netns, endpoint.ipv4);
        ping(&containers[index], endpoints[(index + 1) % CLIENTS].ipv4);
    }

    let detaching: Vec<_> =
        endpoints.iter().map(|endpoint| spawn(&mut host.command(&["detach", &endpoint.name]))).collect();
    for client in detaching {
        let outcome = client.outcome();
        assert_eq!(outcome.code, Some(0), "{outcome:#?}");
    }
    assert_eq!(host.ps(), []);
    assert_eq!(Surroundings::of(&host, &all), before);
}

#[test]
fn one_of_many_concurrent_clients_gets_an_address_or_a_name() {
    let host = Host::up(&[]);
    let containers = Netns::several("c", 8);
    let compete = |options: fn(usize) -> Vec<String>| {
        let clients: Vec<_> = containers
            .iter()
            .enumerate()
            .map(|(index, container)| {
                let (path, options) = (container.path_argument(), options(index));
                let words: Vec<&str> =
                    ["attach", "--netns", &path].into_iter().chain(options.iter().map(String::as_str)).collect();
                spawn(&mut host.command(&words))
            })
            .collect();
        let codes: Vec<_> = clients.into_iter().map(|client| client.outcome().code).collect();
        assert_eq!(codes.iter().filter(|code| **code == Some(0)).count(), 1, "{codes:?}");
        assert_eq!(codes.iter().filter(|code| **code == Some(1)).count(), 7, "{codes:?}");
        let endpoints = host.ps();
        assert_eq!(endpoints.len(), 1);
        host.ok(&["detach", &endpoints[0].name]);
        assert!(containers.iter().all(|container| container.devices().len() == 1), "the others have only lo");
    };
    compete(|index| ["--ip", "10.201.0.50", "--name", &format!("n{index}")].map(str::to_owned).to_vec());
    compete(|_| ["--name", "web"].map(str::to_owned).to_vec());
}

#[test]
fn concurrent_attach_and_detach_of_one_container_leave_nothing() {
    let host = Host::up(&[]);
    let container = Netns::new("a");
    let before = Surroundings::of(&host, &[&container]);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..4 {
                    let attached = host.run(&["attach", "--netns", &container.path_argument()]);
                    assert!(matches!(attached.code, Some(0 | 1)), "{attached:#?}");
                    let detached = host.run(&["detach", "--netns", &container.path_argument()]);
                    assert_eq!(detached.code, Some(0), "{detached:#?}");
                }
            });
        }
    });
    assert_eq!(host.ps(), []);
    assert_eq!(Surroundings::of(&host, &[&container]), before);
}
