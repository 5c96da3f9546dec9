//! The host is not the switch's alone: other programs flush addresses and routes, switch devices
//! off, rename them, and change settings. What belongs to a network comes back by itself.

use std::net::{IpAddr, Ipv4Addr};

use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};

use crate::harness::{
    Answer, Attached, Host, Netns, Outcome, Site, Uplinks, addresses, ask, ask_tcp, both, eventually, get, ping, run,
};

/// Returns the host's device of a network, and the switch's end of it.
fn devices(host: &Host, network: &str) -> [String; 2] {
    let shown: Vec<Value> = host.json(&["network", "inspect", network]);
    let device = shown[0]["host_device"].as_str().expect("a host device").to_owned();
    let link = host.netns.device(&device).expect("the host device exists");
    [device, link["link"].as_str().expect("a veth pair").to_owned()]
}

/// Returns everything about a device that other programs change, in a form that can be compared.
fn state(netns: &Netns, device: &str) -> Value {
    let Some(link) = netns.device(device) else { return Value::Null };
    let sorted = |mut all: Vec<String>| {
        all.sort();
        all
    };
    let rows = netns.ip_json("address show").into_iter().filter(|row| row["ifname"] == device);
    let on_device = rows.flat_map(|row| row["addr_info"].as_array().cloned().unwrap_or_default());
    let on_device = on_device.map(|row| format!("{}/{}", row["local"], row["prefixlen"]));
    // What the kernel derives from a MAC address of another program may stay.
    let on_device = sorted(on_device.filter(|address| !address.contains("fe80::ff:fe00:77")).collect());
    let routes = ["-4", "-6"].map(|family| {
        let routes = netns.ip_json(&format!("{family} route show"));
        let own = routes.iter().filter(|route| route["dev"] == device);
        let global = own.filter(|route| !route["dst"].as_str().is_some_and(|to| to.starts_with("fe80")));
        sorted(global.map(|route| format!("{} {} {}", route["dst"], route["prefsrc"], route["metric"])).collect())
    });
    let settings = ["ipv4/conf/{}/route_localnet", "ipv4/conf/{}/forwarding", "ipv6/conf/{}/disable_ipv6"]
        .map(|setting| setting.replace("{}", device))
        .into_iter()
        .chain(["ipv4/ip_forward", "ipv6/conf/all/forwarding"].map(str::to_owned));
    // Those of a device vanish with it, and those of IPv6 also with its MTU.
    let read = |setting: String| std::fs::read_to_string(format!("/proc/sys/net/{setting}")).ok();
    let settings: Vec<Option<String>> = netns.inside(|| settings.map(read).collect());
    let up = link["flags"].as_array().is_some_and(|flags| flags.contains(&json!("UP")));
    json!([link["address"], link["mtu"], link["ifalias"], link["master"], up, on_device, routes, settings])
}

/// Breaks something, and waits until the devices are as they were.
#[track_caller]
fn comes_back(netns: &Netns, devices: &[&str], what: &str, break_it: impl FnOnce()) {
    let before: Vec<Value> = devices.iter().map(|device| state(netns, device)).collect();
    break_it();
    eventually(what, || {
        let now: Vec<Value> = devices.iter().map(|device| state(netns, device)).collect();
        (now == before).then_some(())
    });
}

/// Checks everything that an endpoint gets by the host: the gateway, names, the way out, and its
/// published port, from outside and from the host itself.
#[track_caller]
fn assert_served(uplinks: &Uplinks, container: &Netns, at: &Attached) {
    let gateways = [at.gateway.map(IpAddr::from), at.gateway6.map(IpAddr::from)].map(|gateway| gateway.expect("both"));
    for gateway in gateways {
        ping(container, gateway);
        assert_eq!(ask(container, gateway, &at.name, "A"), Answer::of(&[&at.ipv4]));
        assert_eq!(ask_tcp(container, gateway, &at.name, "A"), Answer::of(&[&at.ipv4]));
    }
    for (to, own) in addresses(Uplinks::OUTSIDE).into_iter().zip(addresses(Uplinks::HOST)) {
        assert_eq!(get(container, to, 80).site, "outside");
        assert_eq!(get(&uplinks.outside, own, 8080).site, "a");
        // The host itself reaches the endpoint by its own address.
        assert_eq!(get(&uplinks.host.netns, own, 8080).site, "a");
    }
    assert_eq!(get(&uplinks.host.netns, Ipv4Addr::LOCALHOST, 8080).site, "a");
    for own in both(at) {
        assert_eq!(get(&uplinks.host.netns, own, 80).site, "a");
    }
}

#[test]
fn what_other_programs_take_from_the_host_comes_back() {
    let uplinks = Uplinks::up();
    let (host, netns) = (&uplinks.host, &uplinks.host.netns);
    let a = Netns::new("a");
    let at = host.attach(&a, &["--network", "front", "-p", "8080:80"]);
    let _sites = [Site::open(&uplinks.outside, 80, "outside"), Site::open(&a, 80, "a")];
    let [device, port] = &devices(host, "front");
    let endpoint = a.device("eth0").expect("the interface")["link_index"].as_u64().expect("an index");
    let endpoint = netns.ip_json("link show").into_iter().find(|link| link["ifindex"] == endpoint).expect("the port");
    let endpoint = endpoint["ifname"].as_str().expect("a name");
    let elsewhere = Netns::new("elsewhere");
    assert_served(&uplinks, &a, &at);

    let ip = [
        "address flush dev DEVICE",
        "-6 address flush dev DEVICE scope link",
        "address del 10.121.0.1/24 dev DEVICE",
        "link set DEVICE down",
        "link set PORT down",
        "link set ENDPOINT down",
        "route flush dev DEVICE",
        "-6 route flush dev DEVICE",
        "route flush dev DEVICE proto kernel",
        "link set DEVICE address 02:00:00:00:00:77",
        "link set DEVICE mtu 1300",
        // Below 1280 bytes there is no IPv6.
        "link set DEVICE mtu 1000",
        "link set PORT mtu 1000",
        "link set DEVICE alias mine",
        "link set DEVICE name renamed0",
        "link set PORT name renamed1",
    ];
    for line in ip {
        let line = line.replace("DEVICE", device).replace("PORT", port).replace("ENDPOINT", endpoint);
        comes_back(netns, &[device, port, endpoint], &format!("ip {line}"), || drop(netns.ip(&line)));
        assert_served(&uplinks, &a, &at);
    }
    comes_back(netns, &[device, port], "down and up at once", || {
        netns.ip_lines([format!("link set {device} down"), format!("link set {device} up")]);
    });
    assert_served(&uplinks, &a, &at);
    netns.ip("link add br0 type bridge");
    comes_back(netns, &[device], "in a bridge", || drop(netns.ip(&format!("link set {device} master br0"))));
    for setting in [
        format!("net/ipv4/conf/{device}/route_localnet"),
        "net/ipv4/ip_forward".to_owned(),
        format!("net/ipv4/conf/{device}/forwarding"),
        "net/ipv6/conf/all/forwarding".to_owned(),
    ] {
        comes_back(netns, &[device], &setting, || netns.set(&setting, "0"));
        assert_served(&uplinks, &a, &at);
    }
    comes_back(netns, &[device, port, endpoint], "IPv6 off", || {
        netns.set(&format!("net/ipv6/conf/{device}/disable_ipv6"), "1");
    });
    comes_back(netns, &[device, port, endpoint], "IPv6 off and on again, for the whole host", || {
        for value in ["1", "0"] {
            netns.set("net/ipv6/conf/all/disable_ipv6", value);
        }
    });
    // The addresses of the host's own interfaces are not the switch's.
    netns.ip(&format!("-6 address replace {}/64 dev up0 nodad", Uplinks::HOST[1]));
    netns.ip(&format!("-6 route replace default via {}", Uplinks::OUTSIDE[1]));
    assert_served(&uplinks, &a, &at);
    comes_back(netns, &[device], "in another namespace", || {
        netns.ip(&format!("link set {device} netns {}", elsewhere.name()));
    });
    assert_served(&uplinks, &a, &at);
}

#[test]
fn every_device_has_a_mac_address_from_the_switch_so_that_udev_keeps_it() {
    let host = Host::up(&[]);
    let a = Netns::new("a");
    host.attach(&a, &[]);
    for line in ["network create -d overlay -o vni=78 --subnet 10.133.0.0/24 over", "peer add 192.0.2.9"] {
        host.ok(&line.split(' ').collect::<Vec<_>>());
    }
    // /sys shows the devices of the namespace that it was mounted in, as this command does.
    let show = |netns: &Netns| {
        let words = ["netns", "exec", netns.name(), "sh", "-c", "grep -H '' /sys/class/net/*/addr_assign_type"];
        run(std::process::Command::new("ip").args(words)).stdout
    };
    for netns in [&*host.netns, &a] {
        let shown = show(netns);
        for device in netns.devices().iter().filter(|device| *device != "lo") {
            let line = format!("/sys/class/net/{device}/addr_assign_type:3");
            assert!(shown.lines().any(|shown| shown == line), "{device} in {shown}");
        }
    }
}

#[test]
fn a_new_daemon_mends_what_changed_while_none_ran() {
    let uplinks = Uplinks::up();
    let (host, netns) = (&uplinks.host, &uplinks.host.netns);
    let a = Netns::new("a");
    let at = host.attach(&a, &["--network", "front", "-p", "8080:80"]);
    let _sites = [Site::open(&uplinks.outside, 80, "outside"), Site::open(&a, 80, "a")];
    let [device, port] = &devices(host, "front");
    let before = [state(netns, device), state(netns, port)];
    host.kill_daemon();
    netns.ip_lines([
        format!("link set {port} mtu 1100"),
        format!("link set {device} mtu 1290 address 02:00:00:00:00:77 alias vswitch:{}:front:host", host.instance()),
        format!("link set {device} down"),
        format!("address flush dev {device}"),
    ]);
    for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv4/conf/DEVICE/route_localnet"] {
        netns.set(&format!("net/{}", setting.replace("DEVICE", device)), "0");
    }
    host.start(&[]);
    assert_eq!([state(netns, device), state(netns, port)], before);
    assert_served(&uplinks, &a, &at);
}

/// Returns the notes of `status`.
fn notes(host: &Host) -> String {
    host.json::<Value>(&["status"])["notes"].to_string()
}

#[test]
fn status_names_what_is_undone_again_and_again_and_a_second_up_mends_it() {
    let uplinks = Uplinks::up();
    let (host, netns) = (&uplinks.host, &uplinks.host.netns);
    let [device, _] = &devices(host, "front");
    let before = state(netns, device);
    assert!(!notes(host).contains("again and again"), "{}", notes(host));
    // Another program that configures the device, as NetworkManager may, and one that writes a
    // setting.
    let fact = format!("{device} has the address 10.121.0.1/24");
    let undo = || {
        if netns.addresses(device).contains(&Ipv4Addr::new(10, 121, 0, 1)) {
            netns.ip(&format!("address del 10.121.0.1/24 dev {device}"));
        }
        netns.set("net/ipv4/ip_forward", "0");
    };
    eventually("the switch gives up, and says so", || {
        undo();
        let notes = notes(host);
        (notes.contains(&fact) && notes.contains("net.ipv4.ip_forward is 1")).then_some(())
    });
    let shown = notes(host);
    assert!(shown.contains("again and again") && shown.contains("`vswitch --instance"), "{shown}");
    // Other facts are still mended.
    undo();
    netns.ip(&format!("-6 address del fd00:121::1/64 dev {device}"));
    eventually("the IPv6 address is back", || {
        netns.addresses6(device).contains(&"fd00:121::1".parse().unwrap()).then_some(())
    });
    assert!(!netns.addresses(device).contains(&Ipv4Addr::new(10, 121, 0, 1)));
    assert_eq!(netns.setting("net/ipv4/ip_forward"), "0");
    // A second `up` is a repair, and says what it did.
    let again = host.json::<Value>(&["up"]);
    let mended = again["mended"].to_string();
    assert_eq!(again["started"], false, "{again:#}");
    assert!(mended.contains(&fact) && mended.contains("net.ipv4.ip_forward is 1"), "{mended}");
    assert_eq!(state(netns, device), before);
    assert!(!notes(host).contains("again and again"), "{}", notes(host));
    let Outcome { code, stdout, .. } = run(&mut host.command(&["up"]));
    assert_eq!((code, stdout.contains("is up already"), stdout.contains("mended")), (Some(0), true, false), "{stdout}");
}

#[test]
fn what_cannot_be_mended_is_noted_with_the_reason_until_it_is() {
    let host = Host::with_resolv_conf("nameserver 192.0.2.53\n");
    host.start(&[]);
    host.ok(&["network", "create", "--subnet", "10.121.0.0/24", "front"]);
    let [device, _] = &devices(&host, "front");
    let before = state(&host.netns, device);
    // In the daemon's own mount namespace, settings cannot be written.
    let daemon = host.daemon().expect("it runs");
    let in_its_mounts = |arguments: &str| {
        let mut command = std::process::Command::new("nsenter");
        let outcome = run(command.arg(format!("--mount=/proc/{daemon}/ns/mnt")).args(arguments.split(' ')));
        assert_eq!(outcome.code, Some(0), "{arguments}: {outcome:#?}");
    };
    in_its_mounts("mount --bind /proc/sys /proc/sys");
    in_its_mounts("mount -o remount,bind,ro /proc/sys");
    host.netns.set("net/ipv4/ip_forward", "0");
    let note = eventually("a note", || {
        let notes = notes(&host);
        notes.contains("net.ipv4.ip_forward is 1").then_some(notes)
    });
    assert!(note.contains("cannot be mended") && note.contains("no permission"), "{note}");
    in_its_mounts("umount /proc/sys");
    eventually("it is mended", || (state(&host.netns, device) == before).then_some(()));
    eventually("the note is gone", || (!notes(&host).contains("cannot be mended")).then_some(()));
}

#[test]
fn a_pair_whose_other_end_is_gone_is_made_again() {
    let uplinks = Uplinks::up();
    let (host, netns) = (&uplinks.host, &uplinks.host.netns);
    let a = Netns::new("a");
    let at = host.attach(&a, &["--network", "front", "-p", "8080:80"]);
    let _sites = [Site::open(&uplinks.outside, 80, "outside"), Site::open(&a, 80, "a")];
    let [device, port] = &devices(host, "front");
    let elsewhere = Netns::new("elsewhere");
    // The new pair has another MAC address at the switch's end.
    comes_back(netns, &[device], "the switch's end is elsewhere", || {
        netns.ip(&format!("link set {port} netns {}", elsewhere.name()));
    });
    assert_served(&uplinks, &a, &at);
    // A stopped daemon mends nothing, and a continued one everything.
    let daemon = host.daemon().expect("it runs");
    comes_back(netns, &[device], "what changed while the daemon was stopped", || {
        kill(daemon, Signal::SIGSTOP).expect("stopping the daemon");
        netns.ip(&format!("link set {device} down"));
        netns.ip(&format!("address flush dev {device}"));
        kill(daemon, Signal::SIGCONT).expect("continuing the daemon");
    });
    assert_served(&uplinks, &a, &at);
}

#[test]
fn interfaces_and_routes_of_other_drivers_come_back() {
    let uplinks = Uplinks::new();
    let Uplinks { host, outside2, .. } = &uplinks;
    let netns = &host.netns;
    netns.wire("up2", outside2, "eth2");
    host.start(&[]);
    for create in [
        "network create -d ipvlan -o parent=up1 -o ipvlan_mode=l3s --subnet 10.130.0.0/24 routed",
        "network create -o uplink=up2 --subnet 10.131.0.0/24 bridged",
        "network create -d overlay -o vni=77 --subnet 10.132.0.0/24 --subnet fd00:132::/64 over",
        "peer add 192.0.2.9",
    ] {
        host.ok(&create.split(' ').collect::<Vec<_>>());
    }
    let c = Netns::new("c");
    let at = host.attach(&c, &["--network", "routed"]);
    outside2.ip(&format!("route add 10.130.0.0/24 via {}", Uplinks::HOST2[0]));
    let routes =
        || netns.ip_json("route show dev up1").iter().map(|route| route["dst"].to_string()).collect::<Vec<_>>();
    ping(outside2, at.ipv4);
    let before = routes();
    assert!(before.iter().any(|route| route.contains(&at.ipv4.to_string())), "{before:?}");
    netns.ip(&format!("route flush dev up1 {}/32", at.ipv4));
    eventually("the host's route", || (routes() == before).then_some(()));
    ping(outside2, at.ipv4);
    netns.ip_lines(["down", "up"].map(|state| format!("link set up1 {state}")));
    eventually("the host's route, after the parent was down", || (routes() == before).then_some(()));
    ping(outside2, at.ipv4);

    let is_promiscuous = || {
        let link = netns.device("up2").expect("the uplink");
        link["flags"].as_array().is_some_and(|flags| flags.contains(&json!("PROMISC")))
    };
    assert!(is_promiscuous());
    netns.ip("link set up2 promisc off");
    eventually("the uplink receives all frames", || is_promiscuous().then_some(()));

    let [device, port] = &devices(host, "over");
    comes_back(netns, &[device, port], "the overlay's host device", || {
        netns.ip(&format!("link set {device} down"));
        netns.ip(&format!("address flush dev {device}"));
    });
    let tunnels = netns.devices().into_iter().find(|name| name.ends_with("-vxlan")).expect("the tunnels' device");
    netns.ip(&format!("link set {tunnels} down"));
    eventually("the tunnels' device is up", || {
        let link = netns.device(&tunnels)?;
        link["flags"].as_array()?.contains(&json!("UP")).then_some(())
    });
}
