//! Addresses from a DHCP server on the wire: dnsmasq runs there, and udhcpc of busybox in the
//! container.

use std::{
    fs::{self, Permissions},
    net::Ipv4Addr,
    os::unix::fs::PermissionsExt as _,
    process::Command,
    sync::Arc,
};

use crate::harness::{Host, Netns, OnWire, Outcome, PATIENCE, Running, Wire, ping, run, settles, spawn, tcp};

/// Starts dnsmasq on a machine. Returns `None` with a note on stderr if it is not installed.
fn dnsmasq(machine: &Netns) -> Option<Running> {
    if Command::new("dnsmasq").arg("--version").output().is_err() {
        eprintln!("dnsmasq IS NOT INSTALLED: DHCP from the wire is NOT tested");
        return None;
    }
    let mut command = machine.command("dnsmasq");
    command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--pid-file=", "--log-facility=-"]);
    command.args(["--port=0", "--interface=eth0", "--bind-interfaces", "--dhcp-authoritative", "--no-ping"]);
    command.args(["--leasefile-ro", "--dhcp-range=10.140.0.150,10.140.0.180,255.255.255.0,1h"]);
    let running = spawn(&mut command);
    settles("dnsmasq serves", || {
        let output = running.stderr();
        if output.contains("DHCP, sockets bound") { Ok(()) } else { Err(output) }
    });
    Some(running)
}

/// Runs udhcpc, which prints the address that it leased.
fn udhcpc(netns: &Netns, flags: &[&str]) -> Outcome {
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("script");
    fs::write(&script, "#!/bin/sh\n[ \"$1\" != bound ] || echo \"leased $ip\"\n").unwrap();
    fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
    let mut command = netns.command("busybox");
    run(command.args(["udhcpc", "-f", "-n", "-q", "-i", "eth0", "-T", "1", "-s"]).arg(&script).args(flags))
}

/// Requests an address every second until one is leased, and returns it.
#[track_caller]
fn lease(container: &Netns, flags: &[&str]) -> Ipv4Addr {
    let tries = PATIENCE.as_secs().saturating_sub(10).to_string();
    let outcome = udhcpc(container, &[&["-t", &tries], flags].concat());
    let leased = outcome.stdout.lines().find_map(|line| line.strip_prefix("leased "));
    let leased = leased.unwrap_or_else(|| panic!("{} has no address: {outcome:#?}", container.name()));
    leased.parse().unwrap_or_else(|error| panic!("{leased}: {error}"))
}

#[test]
fn endpoints_get_addresses_from_a_dhcp_server_on_the_wire() {
    let host = Arc::new(Host::up(&[]));
    for xdp in ["off", "native"] {
        let wire = Wire::new(&host.netns, xdp, 2);
        let Some(_server) = dnsmasq(&wire.hosts[0]) else { return };

        let lan = OnWire::<2>::on(&host, wire, "macvlan", &["spoof_guard=off"]);
        let machine = &lan.wire.hosts[0];
        let leased = lan.containers.each_ref().map(|container| lease(container, &[]));
        assert_ne!(leased[0], leased[1]);
        for (container, address) in lan.containers.iter().zip(leased) {
            assert!((150..=180).contains(&address.octets()[3]), "{address}");
            container.ip("-4 address flush dev eth0");
            container.ip(&format!("address add {address}/24 dev eth0"));
            ping(machine, address);
            tcp(container, machine, Ipv4Addr::new(10, 140, 0, 200), 1 << 20);
        }

        // The reply to an ipvlan endpoint is a broadcast, because all endpoints have the same MAC
        // address. The server distinguishes them by their client identifiers.
        let lan = OnWire::<2>::on(&host, lan.remove(), "ipvlan", &["spoof_guard=off", "ipvlan_mode=l2"]);
        let leased = [0, 1].map(|number| {
            let id = format!("0x3d:ff00000{number}00010203");
            lease(&lan.containers[number], &["-B", "-C", "-x", &id])
        });
        assert_ne!(leased[0], leased[1], "xdp {xdp}");
        let _wire = lan.remove();
        // The kernel removes devices of a deleted namespace later, but the next wire needs the name.
        host.netns.ip("link del phys0");
    }
    check_that_a_container_cannot_be_a_dhcp_server(&host);
}

/// DHCP servers are blocked by the same guard as on every other port.
fn check_that_a_container_cannot_be_a_dhcp_server(host: &Arc<Host>) {
    let lan = OnWire::<1>::on(host, Wire::new(&host.netns, "off", 1), "macvlan", &[]);
    let Some(_server) = dnsmasq(&lan.containers[0]) else { return };
    let outcome = udhcpc(&lan.wire.hosts[0], &["-t", "2"]);
    assert!(!outcome.stdout.contains("leased"), "{outcome:#?}");
    assert!(host.counters(&lan.at[0].name).dropped("dhcp_server") > 0);
}
