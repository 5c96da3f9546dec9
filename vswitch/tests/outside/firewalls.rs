//! Firewalls beside us, as Docker and administrators set them up.

use vswitch::model::Protocol::Tcp;

use crate::harness::{eventually, run};
use crate::scene::{A1, CLIENT, Daemon, Scene, UPLINK, publish};
use crate::services::{sees, serve, unreached};

/// The flavours of iptables that this machine and its kernel have.
fn flavours() -> Vec<&'static str> {
    let scene = Scene::new();
    let works = |flavour: &&str| {
        let works = run(scene.host.command("sh").args(["-c", &format!("iptables-{flavour} -w -S")])).code == Some(0);
        if !works {
            println!("SKIPPED: no iptables-{flavour} here");
        }
        works
    };
    ["nft", "legacy"].into_iter().filter(works).collect()
}

/// Both families of a flavour.
fn iptables(scene: &Scene, flavour: &str, arguments: &str) {
    for program in ["iptables", "ip6tables"] {
        scene.program(&format!("{program}-{flavour}"), &format!("-w {arguments}"));
    }
}

fn rules(scene: &Scene, flavour: &str) -> String {
    ["iptables", "ip6tables"].map(|program| scene.program(&format!("{program}-{flavour}"), "-w -S")).concat()
}

#[track_caller]
fn everything_passes(scene: &Scene) {
    for family in 0..2 {
        sees(&scene.a1, Tcp, CLIENT[family], 80, UPLINK[family]);
        sees(&scene.client, Tcp, UPLINK[family], 8080, CLIENT[family]);
        sees(&scene.a2, Tcp, UPLINK[family], 8080, ["10.91.1.1", "fd00:91:1::1"][family]);
    }
}

fn scene() -> Scene {
    let scene = Scene::new();
    serve(&scene.a1, Tcp, 80);
    serve(&scene.client, Tcp, 80);
    scene
}

#[test]
fn a_policy_of_drop_lets_ours_pass_and_is_left_as_it_was() {
    for flavour in flavours() {
        let scene = scene();
        let daemon = Daemon::new(&scene.host);
        iptables(&scene, flavour, "-P FORWARD DROP");
        iptables(&scene, flavour, "-A FORWARD -i eth9 -j ACCEPT");
        let before = rules(&scene, flavour);
        let wanted = scene.wanted(&[publish(Tcp, 8080, 80)]);
        daemon.apply(wanted.clone());
        everything_passes(&scene);
        // What was not published stays closed.
        scene.client.ip("route add 10.91.1.0/24 via 192.0.2.1");
        unreached(&scene.client, Tcp, A1[0], 80);
        daemon.apply(wanted);
        assert_eq!(rules(&scene, flavour).matches(&format!("-A FORWARD -j {}", daemon.chain())).count(), 2);
        let notes = daemon.status().notes;
        assert!(notes.iter().any(|note| note.starts_with(&format!("iptables-{flavour} drops"))), "{notes:?}");
        daemon.remove();
        assert_eq!(rules(&scene, flavour), before, "{flavour}");
    }
}

#[test]
fn docker_that_comes_later_is_noticed_and_so_is_a_flush() {
    for flavour in flavours() {
        let scene = scene();
        let daemon = Daemon::following(&scene.host);
        if flavour == "legacy" {
            rules(&scene, flavour);
        }
        daemon.apply(scene.wanted(&[publish(Tcp, 8080, 80)]));
        let chain = daemon.chain();
        assert!(!scene.nft("list ruleset").contains(&chain), "nobody drops, so there is nothing to do");
        let noticed = |what: &str, jump: &str| {
            let jump = format!("-A {jump} -j {chain}");
            eventually(what, || (rules(&scene, flavour).matches(&jump).count() == 2).then_some(()));
            everything_passes(&scene);
        };
        iptables(&scene, flavour, "-P FORWARD DROP");
        noticed("the policy is noticed", "FORWARD");
        iptables(&scene, flavour, "-F FORWARD");
        noticed("the flush is noticed", "FORWARD");
        iptables(&scene, flavour, "-N DOCKER-USER");
        iptables(&scene, flavour, "-A DOCKER-USER -j RETURN");
        iptables(&scene, flavour, "-I FORWARD -j DOCKER-USER");
        noticed("Docker is noticed", "DOCKER-USER");
        assert!(!rules(&scene, flavour).contains(&format!("-A FORWARD -j {chain}")), "one jump is enough");
        iptables(&scene, flavour, &format!("-F {chain}"));
        let accepts = format!("-A {chain} -i vsw-a -j ACCEPT");
        eventually("our rules are back", || (rules(&scene, flavour).matches(&accepts).count() == 2).then_some(()));
        everything_passes(&scene);
    }
}

#[test]
fn a_chain_of_nftables_that_drops_is_told_of_and_left_alone() {
    let scene = scene();
    let daemon = Daemon::following(&scene.host);
    daemon.apply(scene.wanted(&[]));
    assert_eq!(daemon.status().notes, Vec::<String>::new());
    scene.nft("add table inet strict");
    scene.nft("add chain inet strict strict_forward { type filter hook forward priority 0 ; policy drop ; }");
    let note = eventually("it is noticed", || daemon.status().notes.first().cloned());
    assert!(note.starts_with("forwarding is dropped by the chain strict_forward of the table inet strict"), "{note}");
    assert_eq!(scene.nft("list chain inet strict strict_forward").lines().count(), 5, "nothing was added");
    scene.nft("delete table inet strict");
    eventually("its end is noticed", || daemon.status().notes.is_empty().then_some(()));
}
