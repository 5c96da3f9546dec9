//! Firewalls on the host, as Docker and administrators set them up.

use vswitch::model::Protocol::{Tcp, Udp};
use vswitch::nat::NatNetwork;

use crate::harness::{eventually, run};
use crate::scene::{A1, B1, CLIENT, Daemon, Scene, UPLINK, publish};
use crate::services::{assert_client_address, assert_unreached, serve};

/// The gateways of both networks, where the host answers name queries.
const GATEWAYS: [[&str; 2]; 2] = [["10.91.1.1", "fd00:91:1::1"], ["10.91.2.1", "fd00:91:2::1"]];

/// Returns the variants of iptables that this machine and its kernel support.
fn variants() -> Vec<&'static str> {
    let scene = Scene::new();
    let works = |variant: &&str| {
        let works = run(scene.host.command("sh").args(["-c", &format!("iptables-{variant} -w -S")])).code == Some(0);
        if !works {
            println!("SKIPPED: no iptables-{variant} here");
        }
        works
    };
    ["nft", "legacy"].into_iter().filter(works).collect()
}

/// Runs both iptables and ip6tables of a variant.
fn iptables(scene: &Scene, variant: &str, arguments: &str) {
    for program in ["iptables", "ip6tables"] {
        scene.program(&format!("{program}-{variant}"), &format!("-w {arguments}"));
    }
}

fn rules(scene: &Scene, variant: &str) -> String {
    ["iptables", "ip6tables"].map(|program| scene.program(&format!("{program}-{variant}"), "-w -S")).concat()
}

#[track_caller]
fn assert_everything_passes(scene: &Scene) {
    for family in 0..2 {
        assert_client_address(&scene.a1, Tcp, CLIENT[family], 80, UPLINK[family]);
        assert_client_address(&scene.client, Tcp, UPLINK[family], 8080, CLIENT[family]);
        assert_client_address(&scene.a2, Tcp, UPLINK[family], 8080, ["10.91.1.1", "fd00:91:1::1"][family]);
    }
}

fn scene() -> Scene {
    let scene = Scene::new();
    serve(&scene.a1, Tcp, 80);
    serve(&scene.client, Tcp, 80);
    scene
}

#[test]
fn traffic_passes_a_policy_of_drop_which_is_restored() {
    for variant in variants() {
        let scene = scene();
        let daemon = Daemon::new(&scene.host);
        iptables(&scene, variant, "-P FORWARD DROP");
        iptables(&scene, variant, "-A FORWARD -i eth9 -j ACCEPT");
        let before = rules(&scene, variant);
        let wanted = scene.wanted(&[publish(Tcp, 8080, 80)]);
        daemon.apply(wanted.clone());
        assert_everything_passes(&scene);
        // Ports that are not published stay closed.
        scene.client.ip("route add 10.91.1.0/24 via 192.0.2.1");
        assert_unreached(&scene.client, Tcp, A1[0], 80);
        daemon.apply(wanted);
        assert_eq!(rules(&scene, variant).matches(&format!("-A FORWARD -j {}", daemon.chain())).count(), 2);
        let notes = daemon.status().notes;
        assert!(notes.iter().any(|note| note.starts_with(&format!("iptables-{variant} drops"))), "{notes:?}");
        daemon.remove();
        assert_eq!(rules(&scene, variant), before, "{variant}");
    }
}

#[test]
fn rules_follow_a_later_docker_and_a_flush() {
    for variant in variants() {
        let scene = scene();
        let daemon = Daemon::following(&scene.host);
        if variant == "legacy" {
            rules(&scene, variant);
        }
        daemon.apply(scene.wanted(&[publish(Tcp, 8080, 80)]));
        let chain = daemon.chain();
        assert!(!scene.nft("list ruleset").contains(&chain), "without a policy of drop, no rules are needed");
        let await_jump = |what: &str, jump: &str| {
            let jump = format!("-A {jump} -j {chain}");
            eventually(what, || (rules(&scene, variant).matches(&jump).count() == 2).then_some(()));
            assert_everything_passes(&scene);
        };
        iptables(&scene, variant, "-P FORWARD DROP");
        await_jump("the policy is noticed", "FORWARD");
        iptables(&scene, variant, "-F FORWARD");
        await_jump("the flush is noticed", "FORWARD");
        iptables(&scene, variant, "-N DOCKER-USER");
        iptables(&scene, variant, "-A DOCKER-USER -j RETURN");
        iptables(&scene, variant, "-I FORWARD -j DOCKER-USER");
        await_jump("Docker is noticed", "DOCKER-USER");
        assert!(!rules(&scene, variant).contains(&format!("-A FORWARD -j {chain}")), "one jump is enough");
        iptables(&scene, variant, &format!("-F {chain}"));
        let accepts = format!("-A {chain} -i vsw-a -j ACCEPT");
        eventually("our rules are restored", || (rules(&scene, variant).matches(&accepts).count() == 2).then_some(()));
        assert_everything_passes(&scene);
    }
}

#[test]
fn a_dropping_nftables_chain_is_reported_and_not_changed() {
    let scene = scene();
    let daemon = Daemon::following(&scene.host);
    daemon.apply(scene.wanted(&[]));
    assert_eq!(daemon.status().notes, Vec::<String>::new());
    scene.nft("add table inet strict");
    scene.nft("add chain inet strict strict_forward { type filter hook forward priority 0 ; policy drop ; }");
    let note = eventually("the chain is reported", || daemon.status().notes.first().cloned());
    assert!(note.starts_with("forwarding is dropped by the chain strict_forward of the table inet strict"), "{note}");
    assert_eq!(scene.nft("list chain inet strict strict_forward").lines().count(), 5, "nothing was added");
    scene.nft("delete table inet strict");
    eventually("the removal of the chain is noticed", || daemon.status().notes.is_empty().then_some(()));
}

/// Returns the first note, once there is one that begins so.
fn note(daemon: &Daemon, beginning: &str) -> String {
    eventually(&format!("the note `{beginning}`"), || {
        daemon.status().notes.into_iter().find(|note| note.starts_with(beginning))
    })
}

/// Runs the commands that a note gives between backquotes.
fn follow_advice(scene: &Scene, note: &str) {
    for command in note.split('`').skip(1).step_by(2) {
        let outcome = run(scene.host.command("sh").args(["-c", command]));
        assert_eq!(outcome.code, Some(0), "{command}: {outcome:#?}");
    }
}

/// A scene in which the host answers queries; the second network is internal.
fn scene_with_names() -> (Scene, vswitch::nat::Wanted) {
    let scene = scene();
    serve(&scene.host, Udp, 53);
    serve(&scene.host, Tcp, 53);
    serve(&scene.host, Tcp, 54);
    let mut wanted = scene.wanted(&[publish(Tcp, 8080, 80)]);
    wanted.networks[1] = NatNetwork { internal: true, ..wanted.networks[1].clone() };
    (scene, wanted)
}

#[track_caller]
fn assert_names_and_answers(scene: &Scene) {
    for (container, network, own) in [(&scene.a1, 0, A1), (&scene.b1, 1, B1)] {
        for family in 0..2 {
            for protocol in [Udp, Tcp] {
                assert_client_address(container, protocol, GATEWAYS[network][family], 53, own[family]);
            }
            // Another port of the host, and the address in another network, stay closed.
            assert_unreached(container, Tcp, GATEWAYS[network][family], 54);
            assert_unreached(container, Udp, GATEWAYS[1 - network][family], 53);
        }
    }
    // The host itself reaches a published port: the answer, and over IPv6 the neighbor, come in.
    for (to, own) in UPLINK.into_iter().zip(UPLINK) {
        let own = if to.contains(':') { GATEWAYS[0][1] } else { own };
        let seen = crate::services::request(&scene.host, Tcp, to, 8080, crate::harness::PATIENCE);
        assert!(seen.is_some(), "{to} from the host itself ({own})");
    }
}

#[test]
fn queries_pass_an_input_policy_of_drop_which_is_restored() {
    for variant in variants() {
        for last in ["-P INPUT DROP", "-A INPUT -j REJECT", "-A INPUT -g LAST"] {
            let (scene, wanted) = scene_with_names();
            let daemon = Daemon::following(&scene.host);
            if variant == "legacy" {
                rules(&scene, variant);
            }
            daemon.apply(wanted.clone());
            let before_drop = daemon.status();
            assert!(before_drop.firewalls.iter().all(|firewall| !firewall.drops), "{before_drop:?}");
            if last.contains("LAST") {
                iptables(&scene, variant, "-N LAST");
                iptables(&scene, variant, "-A LAST -j DROP");
            }
            iptables(&scene, variant, last);
            let before: Vec<_> = rules(&scene, variant).lines().map(str::to_owned).collect();
            note(&daemon, &format!("iptables-{variant} drops what the host gets"));
            note(&daemon, &format!("ip6tables-{variant} drops what the host gets"));
            assert_names_and_answers(&scene);
            let jump = format!("-A INPUT -j {}", daemon.input_chain());
            assert_eq!(rules(&scene, variant).matches(&jump).count(), 2);
            iptables(&scene, variant, &format!("-D INPUT -j {}", daemon.input_chain()));
            eventually("the jump is restored", || (rules(&scene, variant).matches(&jump).count() == 2).then_some(()));
            assert_names_and_answers(&scene);
            daemon.apply(vswitch::nat::Wanted::default());
            daemon.remove();
            let after: Vec<_> = rules(&scene, variant).lines().map(str::to_owned).collect();
            assert_eq!(after.iter().filter(|rule| !before.contains(rule)).count(), 0, "{variant}: {after:?}");
            assert!(!after.iter().any(|rule| rule.contains(&daemon.input_chain())), "{after:?}");
        }
    }
}

#[test]
fn a_native_input_chain_is_named_and_its_remedy_works() {
    let (scene, wanted) = scene_with_names();
    let daemon = Daemon::following(&scene.host);
    daemon.apply(wanted);
    assert_eq!(daemon.status().notes, Vec::<String>::new());
    for (number, rule) in ["", "reject", "jump last"].into_iter().enumerate() {
        let table = format!("strict{number}");
        let policy = if rule.is_empty() { "drop" } else { "accept" };
        let chain = format!("{{ type filter hook input priority 0 ; policy {policy} ; }}");
        scene.nft(&format!("add table inet {table}"));
        scene.nft(&format!("add chain inet {table} last"));
        scene.nft(&format!("add rule inet {table} last log drop"));
        scene.nft(&format!("add chain inet {table} strict_input {chain}"));
        for accepted in ["iifname lo accept", "ip saddr 192.0.2.0/24 accept", "tcp dport 22 accept", rule] {
            if !accepted.is_empty() {
                scene.nft(&format!("add rule inet {table} strict_input {accepted}"));
            }
        }
        let chain = format!("are dropped by the chain strict_input of the table inet {table} (");
        let note = note(&daemon, "names and answers to the host and neighbor solicitations are dropped");
        assert!(note.contains(&chain), "{note}");
        let listed = daemon.status().firewalls;
        assert!(listed.iter().any(|found| found.firewall == format!("inet {table} strict_input") && found.drops));
        assert_unreached(&scene.b1, Udp, GATEWAYS[1][0], 53);
        follow_advice(&scene, &note);
        eventually("the remedy is noticed", || daemon.status().notes.is_empty().then_some(()));
        for (container, network) in [(&scene.a1, 0), (&scene.b1, 1)] {
            for (family, server) in GATEWAYS[network].into_iter().enumerate() {
                let own = [A1, B1][network][family];
                for protocol in [Udp, Tcp] {
                    assert_client_address(container, protocol, server, 53, own);
                }
            }
        }
        scene.nft(&format!("delete table inet {table}"));
    }
}

#[test]
fn the_remedy_for_a_native_forward_chain_works() {
    let scene = scene();
    let daemon = Daemon::following(&scene.host);
    daemon.apply(scene.wanted(&[publish(Tcp, 8080, 80)]));
    scene.nft("add table inet strict");
    scene.nft("add chain inet strict strict_forward { type filter hook forward priority 0 ; policy drop ; }");
    let note = note(&daemon, "forwarding is dropped by the chain strict_forward of the table inet strict");
    assert_unreached(&scene.a1, Tcp, CLIENT[0], 80);
    follow_advice(&scene, &note);
    eventually("the remedy is noticed", || daemon.status().notes.is_empty().then_some(()));
    assert_everything_passes(&scene);
}
