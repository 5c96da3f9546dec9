//! Invalid macvlan and ipvlan networks: the refusal is one line that names the value, and nothing
//! is left behind.

use crate::harness::{AtRest, Host, Netns, Wire, on_the_wire};

/// Creates a network with these flags, which must be refused with a message that contains all of
/// these words.
#[track_caller]
fn assert_refused(at_rest: &AtRest<'_>, driver: &str, flags: &[&str], names: &[&str]) {
    at_rest.refuses(&[&["network", "create", "-d", driver], flags, &["new"]].concat(), names);
}

#[test]
fn invalid_networks_on_a_parent_are_refused() {
    let host = Host::down();
    let _wire = Wire::new(&host.netns, "off", 1);
    host.start(&[]);
    refuse_invalid_parents_and_options(&host);
    refuse_a_parent_that_is_an_uplink(&host);
    refuse_invalid_subnets_and_gateways(&host);
    refuse_a_mac_address_of_an_ipvlan_endpoint(&host);
    refuse_a_second_network_or_endpoint_on_a_passthru_parent(&host);
}

/// Names, VLAN IDs and options that do not depend on the kernel are tested in `model/name.rs`,
/// `model/vlan.rs` and `model/options/parent.rs`.
fn refuse_invalid_parents_and_options(host: &Host) {
    let container = Netns::new("a");
    host.attach(&container, &["--name", "web"]);
    let mark = format!("vswitch:{}:", host.instance());
    let own: Vec<String> = host
        .netns
        .ip_json("link show")
        .iter()
        .filter(|link| link["ifalias"].as_str().is_some_and(|alias| alias.starts_with(&mark)))
        .map(|link| link["ifname"].as_str().unwrap().to_owned())
        .collect();
    assert!(!own.is_empty());
    let at_rest = AtRest::new(host, &[&container]);
    let subnet = ["--subnet", "10.140.0.0/24"];
    let others = ["lo", "nosuch0", "nosuch0.30", "phys0.4095", "a/b"].map(str::to_owned);
    for parent in own.iter().chain(&others) {
        let option = format!("parent={parent}");
        assert_refused(&at_rest, "macvlan", &[&subnet[..], &["-o", &option]].concat(), &[parent]);
    }
    for driver in ["macvlan", "ipvlan"] {
        assert_refused(&at_rest, driver, &subnet, &["parent"]);
    }
    let flags = ["--subnet", "10.140.0.0/24", "-o", "parent=phys0", "-o", "ipvlan_flag=passthru"];
    assert_refused(&at_rest, "ipvlan", &flags, &["ipvlan_flag", "passthru"]);
    drop(at_rest);
    host.ok(&["detach", "web"]);
}

fn refuse_a_parent_that_is_an_uplink(host: &Host) {
    host.ok(&["network", "create", "--subnet", "10.144.0.0/24", "-o", "uplink=phys0", "bridged"]);
    let at_rest = AtRest::new(host, &[]);
    assert_refused(&at_rest, "macvlan", &["--subnet", "10.140.0.0/24", "-o", "parent=phys0"], &["phys0", "bridged"]);
    drop(at_rest);
    host.ok(&["network", "rm", "bridged"]);
    host.ok(&["network", "create", "-d", "macvlan", "--subnet", "10.140.0.0/24", "-o", "parent=phys0", "lan"]);
    let at_rest = AtRest::new(host, &[]);
    at_rest.refuses(
        &["network", "create", "--subnet", "10.144.0.0/24", "-o", "uplink=phys0", "bridged"],
        &["phys0", "lan"],
    );
    drop(at_rest);
    host.ok(&["network", "rm", "lan"]);
}

fn refuse_invalid_subnets_and_gateways(host: &Host) {
    host.ok(&["network", "create", "-d", "macvlan", "--subnet", "10.140.0.0/24", "-o", "parent=phys0", "first"]);
    host.ok(&["network", "create", "-d", "ipvlan", "--subnet", "10.150.0.0/24", "-o", "parent=phys0.30", "tagged"]);
    let at_rest = AtRest::new(host, &[]);
    for driver in ["macvlan", "ipvlan"] {
        for (parent, subnet, other) in [
            ("phys0", "10.140.0.0/24", "first"),
            ("phys0", "10.140.0.128/25", "first"),
            ("phys0", "10.140.0.0/16", "first"),
            ("phys0.30", "10.150.0.0/25", "tagged"),
        ] {
            let option = format!("parent={parent}");
            assert_refused(&at_rest, driver, &["--subnet", subnet, "-o", &option], &[subnet, other]);
        }
        let gateway = ["--subnet", "10.151.0.0/24", "--gateway", "10.152.0.1", "-o", "parent=phys0"];
        assert_refused(&at_rest, driver, &gateway, &["10.152.0.1"]);
        let range = ["--subnet", "10.151.0.0/24", "--ip-range", "10.152.0.0/25", "-o", "parent=phys0"];
        assert_refused(&at_rest, driver, &range, &["10.152.0.0/25"]);
    }
    drop(at_rest);
    // The same subnet is accepted in another VLAN.
    host.ok(&["network", "create", "-d", "macvlan", "--subnet", "10.150.0.0/24", "-o", "parent=phys0.31", "other"]);
    for network in ["first", "tagged", "other"] {
        host.ok(&["network", "rm", network]);
    }
}

fn refuse_a_mac_address_of_an_ipvlan_endpoint(host: &Host) {
    host.ok(&[&on_the_wire("ipvlan", &["parent=phys0"])[..], &["lan"]].concat());
    let container = Netns::new("a");
    let at_rest = AtRest::new(host, &[&container]);
    let mac = "02:00:00:00:00:aa";
    let path = container.path_argument();
    at_rest.refuses(&["attach", "--netns", &path, "--network", "lan", "--mac", mac], &["--mac", "phys0"]);
    drop(at_rest);
    host.ok(&["network", "rm", "lan"]);
}

fn refuse_a_second_network_or_endpoint_on_a_passthru_parent(host: &Host) {
    host.ok(&[&on_the_wire("macvlan", &["parent=phys0", "macvlan_mode=passthru"])[..], &["owner"]].concat());
    let [a, b] = ["a", "b"].map(Netns::new);
    host.attach(&a, &["--network", "owner"]);
    let at_rest = AtRest::new(host, &[&a, &b]);
    let path = b.path_argument();
    at_rest.refuses(&["attach", "--netns", &path, "--network", "owner"], &["owner", a.name()]);
    for driver in ["macvlan", "ipvlan"] {
        for parent in ["phys0", "phys0.30"] {
            let option = format!("parent={parent}");
            let flags = ["--subnet", "10.153.0.0/24", "-o", &option];
            assert_refused(&at_rest, driver, &flags, &["phys0", "owner"]);
        }
    }
    drop(at_rest);
    host.ok(&["detach", a.name()]);
    host.attach(&b, &["--network", "owner"]);
    host.ok(&["detach", b.name()]);
    host.ok(&["network", "rm", "owner"]);

    // Passthru is refused on a parent that another network uses.
    host.ok(&[&on_the_wire("macvlan", &["parent=phys0"])[..], &["first"]].concat());
    let at_rest = AtRest::new(host, &[]);
    let flags = ["--subnet", "10.153.0.0/24", "-o", "parent=phys0", "-o", "macvlan_mode=passthru"];
    assert_refused(&at_rest, "macvlan", &flags, &["phys0", "first"]);
}

#[test]
fn a_parent_without_an_address_gives_no_default_subnet() {
    let host = Host::down();
    let _wire = Wire::new(&host.netns, "off", 0);
    host.netns.ip("-4 address flush dev phys0");
    host.start(&[]);
    let at_rest = AtRest::new(&host, &[]);
    for driver in ["macvlan", "ipvlan"] {
        // The parent has no address in VLAN 30 in any case.
        for parent in ["phys0", "phys0.30"] {
            let option = format!("parent={parent}");
            assert_refused(&at_rest, driver, &["-o", &option], &["subnet", parent]);
        }
    }
}
