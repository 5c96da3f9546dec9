//! Addresses from a DHCP server on the wire: dnsmasq there, busybox's udhcpc in the container.

use std::{
    fs::{self, Permissions},
    net::Ipv4Addr,
    os::unix::fs::PermissionsExt as _,
    process::Command,
};

use crate::harness::{Netns, OnWire, Outcome, PATIENCE, Running, ping, run, settles, spawn, tcp};

/// dnsmasq on a machine, or `None`, said aloud, where there is none.
fn dnsmasq(machine: &Netns) -> Option<Running> {
    if Command::new("dnsmasq").arg("--version").output().is_err() {
        eprintln!("THERE IS NO dnsmasq on this machine: DHCP from the wire is NOT tried");
        return None;
    }
    let mut command = machine.command("dnsmasq");
    command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--pid-file=", "--log-facility=-"]);
    command.args(["--port=0", "--interface=eth0", "--bind-interfaces", "--dhcp-authoritative", "--no-ping"]);
    command.args(["--leasefile-ro", "--dhcp-range=10.140.0.150,10.140.0.180,255.255.255.0,1h"]);
    let running = spawn(&mut command);
    settles("dnsmasq serves", || {
        let said = running.complained();
        if said.contains("DHCP, sockets bound") { Ok(()) } else { Err(said) }
    });
    Some(running)
}

/// udhcpc, which says what it has got.
fn udhcpc(netns: &Netns, flags: &[&str]) -> Outcome {
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("script");
    fs::write(&script, "#!/bin/sh\n[ \"$1\" != bound ] || echo \"leased $ip\"\n").unwrap();
    fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
    let mut command = netns.command("busybox");
    run(command.args(["udhcpc", "-f", "-n", "-q", "-i", "eth0", "-T", "1", "-s"]).arg(&script).args(flags))
}

/// Asks for an address every second until there is one; which it is.
#[track_caller]
fn lease(container: &Netns, flags: &[&str]) -> Ipv4Addr {
    let tries = PATIENCE.as_secs().saturating_sub(10).to_string();
    let outcome = udhcpc(container, &[&["-t", &tries], flags].concat());
    let leased = outcome.stdout.lines().find_map(|line| line.strip_prefix("leased "));
    let leased = leased.unwrap_or_else(|| panic!("{} has no address: {outcome:#?}", container.name()));
    leased.parse().unwrap_or_else(|error| panic!("{leased}: {error}"))
}

#[test]
fn a_server_on_the_wire_gives_addresses_to_macvlan_endpoints() {
    for xdp in ["off", "native"] {
        let lan = OnWire::<2>::new("macvlan", xdp, &["spoof_guard=off"]);
        let machine = &lan.wire.hosts[0];
        let Some(_server) = dnsmasq(machine) else { return };
        let leased = lan.containers.each_ref().map(|container| lease(container, &[]));
        assert_ne!(leased[0], leased[1]);
        for (container, address) in lan.containers.iter().zip(leased) {
            assert!((150..=180).contains(&address.octets()[3]), "{address}");
            container.ip("-4 address flush dev eth0");
            container.ip(&format!("address add {address}/24 dev eth0"));
            ping(machine, address);
            tcp(container, machine, Ipv4Addr::new(10, 140, 0, 200), 1 << 20);
        }
    }
}

#[test]
fn a_server_on_the_wire_answers_ipvlan_endpoints_that_ask_for_broadcasts() {
    for xdp in ["off", "native"] {
        let lan = OnWire::<2>::new("ipvlan", xdp, &["spoof_guard=off", "ipvlan_mode=l2"]);
        let Some(_server) = dnsmasq(&lan.wire.hosts[0]) else { return };
        // All have one MAC address: the server knows them by what else they say.
        let leased = [0, 1].map(|number| {
            let id = format!("0x3d:ff00000{number}00010203");
            lease(&lan.containers[number], &["-B", "-C", "-x", &id])
        });
        assert_ne!(leased[0], leased[1], "xdp {xdp}");
    }
}

#[test]
fn a_container_gives_no_addresses_to_the_wire() {
    // The guard against DHCP servers is that of every port.
    let lan = OnWire::<1>::new("macvlan", "off", &[]);
    let Some(_server) = dnsmasq(&lan.containers[0]) else { return };
    let outcome = udhcpc(&lan.wire.hosts[0], &["-t", "2"]);
    assert!(!outcome.stdout.contains("leased"), "{outcome:#?}");
    assert!(lan.host.counters(&lan.at[0].name).dropped("dhcp_server") > 0);
}
