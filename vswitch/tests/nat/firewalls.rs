//! Firewalls on the host, as Docker and administrators set them up.

use vswitch::model::Protocol::Tcp;

use crate::harness::{eventually, run};
use crate::scene::{A1, CLIENT, Daemon, Scene, UPLINK, publish};
use crate::services::{assert_client_address, assert_unreached, serve};

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
