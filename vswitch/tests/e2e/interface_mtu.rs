//! The MTU of an uplink, a parent or the underlay changes while endpoints run: they follow, and so
//! do those that are attached later.

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::harness::{Attached, Cloud, Family, Host, Netns, Wire, both, eventually, ping, ping_with, run, spawn, tcp};

/// A container in a network on a wire of its own.
struct OnWire {
    at: Attached,
    container: Netns,
    network: String,
    /// The host routes the packets, so the machines do not reach the container without a route.
    routed: bool,
    wire: Wire,
}

impl OnWire {
    fn attach(host: &Host, number: usize, driver: &str, options: &[&str]) -> Self {
        let wire = Wire::numbered(number, &host.netns, "off", 1);
        let network = format!("lan{number}");
        if driver == "bridge" {
            let [subnet, range, six] = [
                format!("10.{}.0.0/24", 140 + number),
                format!("10.{}.0.0/25", 140 + number),
                format!("fd00:{}::/64", 140 + number),
            ];
            let gateways = [format!("10.{}.0.250", 140 + number), format!("fd00:{}::250", 140 + number)];
            let uplink = format!("uplink={}", wire.parent());
            let create =
                ["network", "create", "-o", &uplink, "--subnet", &subnet, "--ip-range", &range, "--subnet", &six];
            let gateways = ["--gateway", &gateways[0], "--gateway", &gateways[1]];
            let options: Vec<&str> = options.iter().flat_map(|option| ["-o", option]).collect();
            host.ok(&[&create[..], &gateways, &options, &[&network]].concat());
        } else {
            wire.create_network(host, driver, options, &network);
        }
        let container = Netns::new(&format!("c{number}"));
        let at = host.attach(&container, &["--network", &network]);
        let routed = options.iter().any(|option| option.contains("mode=l3"));
        Self { at, container, network, routed, wire }
    }

    /// Sets the MTU of the whole segment.
    fn set_mtu(&self, host: &Host, mtu: u32) {
        self.wire.hosts[0].ip(&format!("link set eth0 mtu {mtu}"));
        for device in ["w0", "up0"] {
            self.wire.netns.ip(&format!("link set {device} mtu {mtu}"));
        }
        host.netns.ip(&format!("link set {} mtu {mtu}", self.wire.parent()));
    }

    /// Waits until the endpoint has this MTU, inside and in `ps`.
    #[track_caller]
    fn wait_for(&self, host: &Host, mtu: u32) {
        eventually(&format!("the MTU is {mtu} in {}", self.network), || {
            let inside = self.container.device("eth0").expect("the interface")["mtu"] == mtu;
            let shown = host.ps().iter().all(|endpoint| endpoint.id != self.at.id || endpoint.mtu == mtu);
            (inside && shown).then_some(())
        });
    }
}

/// Sends one ping with or without DF and 1,472 bytes of data. Returns whether it was answered, and
/// the output.
fn ping_of_1500(from: &Netns, to: IpAddr, fragment: &str) -> (bool, String) {
    let size = if to.is_ipv4() { "1472" } else { "1452" };
    let mut ping = from.command("ping");
    let output = run(ping.args(["-M", fragment, "-c", "1", "-W", "20", "-s", size, &to.to_string()]));
    (output.code == Some(0), output.stdout + &output.stderr)
}

/// Checks that packets of the old size arrive in fragments, and that a sender with DF is told.
#[track_caller]
fn check_narrow(one: &Netns, other: &Netns, addresses: [[IpAddr; 2]; 2], mtu: u32) {
    for (from, to, addresses) in [(one, other, addresses[1]), (other, one, addresses[0])] {
        for address in addresses {
            let (answered, output) = ping_of_1500(from, address, "do");
            let reports = |text: String| output.contains(&text);
            let told =
                reports(format!("mtu={mtu}")) || reports(format!("mtu: {mtu}")) || reports(format!("mtu = {mtu}"));
            assert!(!answered && told, "{address}: {output}");
            ping_with(from, address, 1472);
            ping_with(from, address, mtu as usize - 48);
            tcp(from, to, address, 1 << 20);
        }
    }
}

/// Checks that packets of 1,500 bytes pass.
#[track_caller]
fn check_wide(one: &Netns, other: &Netns, addresses: [[IpAddr; 2]; 2]) {
    for (from, to, addresses) in [(one, other, addresses[1]), (other, one, addresses[0])] {
        for address in addresses {
            // The kernel remembers for ten minutes which MTU a path had.
            from.ip("route flush cache");
            from.ip("-6 route flush cache");
            let (answered, output) = ping_of_1500(from, address, "do");
            assert!(answered, "{address}: {output}");
            tcp(from, to, address, 1 << 20);
        }
    }
}

#[test]
fn endpoints_follow_the_mtu_of_their_uplink_or_parent() {
    let host = &Host::up(&[]);
    let drivers: [(&str, &[&str]); 6] = [
        ("bridge", &[]),
        ("macvlan", &[]),
        ("macvlan", &["macvlan_mode=passthru"]),
        ("ipvlan", &[]),
        ("ipvlan", &["ipvlan_mode=l3"]),
        ("ipvlan", &["ipvlan_mode=l3s"]),
    ];
    for (number, (driver, options)) in drivers.into_iter().enumerate() {
        let on = OnWire::attach(host, number, driver, options);
        let (inside, machine) = (&on.container, &on.wire.hosts[0]);
        let addresses = [both(&on.at), on.wire.machine(0)];
        on.wait_for(host, 1500);
        if !on.routed {
            check_wide(inside, machine, addresses);
        }
        for mtu in [1400, 1300] {
            on.set_mtu(host, mtu);
            on.wait_for(host, mtu);
            if !on.routed {
                check_narrow(inside, machine, addresses, mtu);
            }
        }
        let inspected: Value = host.json(&["network", "inspect", &on.network]);
        assert_eq!(inspected[0]["mtu"], 1300);
        // The interface is found whatever its name is.
        inside.ip_lines(["link set eth0 down", "link set eth0 name lan0", "link set lan0 up"].map(str::to_owned));
        on.set_mtu(host, 1450);
        eventually("a renamed interface follows", || (inside.device("lan0").unwrap()["mtu"] == 1450).then_some(()));
        inside.ip_lines(["link set lan0 down", "link set lan0 name eth0", "link set eth0 up"].map(str::to_owned));
        if !options.contains(&"macvlan_mode=passthru") {
            let later = Netns::new("later");
            assert_eq!(host.attach(&later, &["--network", &on.network]).mtu, 1450);
            host.ok(&["detach", later.name()]);
        }
        on.set_mtu(host, 1500);
        on.wait_for(host, 1500);
        if driver == "bridge" {
            let device = host.netns.devices().into_iter().find(|name| name.ends_with("-lan0")).expect("a host device");
            let mtu = || host.netns.device(&device).expect("it is there")["mtu"].clone();
            eventually("the host device follows", || (mtu() == 1500).then_some(()));
        }
        if !on.routed && driver != "ipvlan" {
            // The first address of an interface that was down is the one without a subnet's route.
            ping(machine, on.at.ipv4);
        }
        host.ok(&["detach", inside.name()]);
        host.ok(&["network", "rm", &on.network]);
    }
}

#[test]
fn an_mtu_that_the_user_chose_is_a_limit_and_one_that_shrinks_below_ipv6_stays_at_its_minimum() {
    let host = &Host::up(&[]);
    for (number, driver) in ["bridge", "macvlan", "ipvlan"].into_iter().enumerate() {
        let on = OnWire::attach(host, number, driver, &["mtu=1400"]);
        on.wait_for(host, 1400);
        for (interface, endpoint) in [(1300, 1300), (1450, 1400), (1200, 1280), (9000, 1400)] {
            on.set_mtu(host, interface);
            on.wait_for(host, endpoint);
            assert_eq!(on.container.addresses6("eth0"), [on.at.ipv6.expect("an address")], "{driver}, {interface}");
        }
    }
}

#[test]
fn endpoints_follow_what_changed_while_no_daemon_ran_and_those_that_cannot_are_in_status() {
    let host = &Host::up(&[]);
    let on = OnWire::attach(host, 0, "macvlan", &[]);
    host.kill_daemon();
    on.set_mtu(host, 1400);
    host.start(&[]);
    on.wait_for(host, 1400);
    check_narrow(&on.container, &on.wire.hosts[0], [both(&on.at), on.wire.machine(0)], 1400);

    // The path of the namespace leads nowhere, but a process is in the namespace.
    let mut sleep = on.container.command("sleep");
    let held = spawn(sleep.arg("1000"));
    let path = on.container.path();
    let notes = || {
        let status: Value = host.json(&["status"]);
        status["notes"].as_array().expect("a list").iter().map(ToString::to_string).collect::<String>()
    };
    let hidden = path.with_extension("hidden");
    std::fs::File::create(&hidden).expect("a file");
    let mount = |arguments: &[&str]| assert_eq!(run(std::process::Command::new("mount").args(arguments)).code, Some(0));
    mount(&["--bind", &path.to_string_lossy(), &hidden.to_string_lossy()]);
    assert_eq!(run(std::process::Command::new("umount").args(["-l"]).arg(&path)).code, Some(0));
    on.set_mtu(host, 1300);
    eventually("status names the endpoint and the remedy", || {
        let notes = notes();
        (notes.contains(&on.at.name) && notes.contains("ip link set IFNAME mtu 1300")).then_some(())
    });
    mount(&["--bind", &hidden.to_string_lossy(), &path.to_string_lossy()]);
    assert_eq!(run(std::process::Command::new("umount").args(["-l"]).arg(&hidden)).code, Some(0));
    std::fs::remove_file(&hidden).expect("it is there");
    on.wait_for(host, 1300);
    eventually("the note is gone", || (!notes().contains("IFNAME")).then_some(()));
    drop(held);
}

#[test]
fn endpoints_of_overlay_networks_follow_the_mtu_of_the_underlay() {
    for (family, encrypted, overhead) in [(Family::V4, false, 50), (Family::V6, false, 70), (Family::V4, true, 130)] {
        let cloud = if encrypted { Cloud::encrypted(2, family, &[], &[]) } else { Cloud::up(2, family) };
        let set_mtu = |mtu: u32| {
            for number in 0..2 {
                cloud.underlay.ip(&format!("link set u{number} mtu {mtu}"));
                cloud.hosts[number].netns.ip(&format!("link set under0 mtu {mtu}"));
            }
        };
        let wait_for = |mtu: u32| {
            for number in 0..2 {
                let mtu_of = |netns: &Netns, device: &str| netns.device(device).expect("it is there")["mtu"].clone();
                eventually("endpoints and host devices have the MTU", || {
                    let inside = mtu_of(&cloud.containers[number], "eth0") == mtu;
                    let host = mtu_of(&cloud.hosts[number].netns, &cloud.host_device(number)) == mtu;
                    let shown = cloud.hosts[number].ps()[0].mtu == mtu;
                    (inside && host && shown).then_some(())
                });
            }
        };
        wait_for(1500 - overhead);
        let [one, other] = [&cloud.containers[0], &cloud.containers[1]];
        let addresses = [cloud.addresses(0), cloud.addresses(1)];
        set_mtu(1450);
        wait_for(1450 - overhead);
        check_narrow(one, other, addresses, 1450 - overhead);
        let later = Netns::new("later");
        assert_eq!(cloud.hosts[0].attach(&later, &["--network", "net"]).mtu, 1450 - overhead);
        cloud.hosts[0].ok(&["detach", later.name()]);
        set_mtu(1500 + overhead);
        wait_for(1500);
        eventually("the tunnels have grown, too", || {
            one.ip("route flush cache");
            ping_of_1500(one, addresses[1][0], "do").0.then_some(())
        });
        check_wide(one, other, addresses);
        // Without any route to a peer the MTU stays.
        cloud.hosts[0].netns.ip("link set under0 down");
        cloud.hosts[0].netns.ip("link set under0 up");
        assert_eq!(json!(cloud.hosts[0].ps()[0].mtu), 1500);
    }
}
