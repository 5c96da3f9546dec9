//! What macvlan and ipvlan refuse: one clear line that names the value, and nothing left behind.

use crate::harness::{AtRest, Host, Netns, Wire, on_the_wire};

/// A network with these flags, which is refused; its complaint names all of these.
#[track_caller]
fn refused(at_rest: &AtRest<'_>, driver: &str, flags: &[&str], names: &[&str]) {
    at_rest.refuses(&[&["network", "create", "-d", driver], flags, &["new"]].concat(), names);
}

#[test]
fn parents_that_cannot_be() {
    let host = Host::down();
    let _wire = Wire::new(&host.netns, "off", 1);
    host.start(&[]);
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
    let at_rest = AtRest::new(&host, &[&container]);
    let subnet = ["--subnet", "10.140.0.0/24"];
    for driver in ["macvlan", "ipvlan"] {
        refused(&at_rest, driver, &subnet, &["parent"]);
        for parent in ["lo", "nosuch0", "nosuch0.30", "", "sixteen-letters0", "a/b"] {
            let option = format!("parent={parent}");
            refused(&at_rest, driver, &[&subnet[..], &["-o", &option]].concat(), &[parent]);
        }
        for parent in &own {
            let option = format!("parent={parent}");
            refused(&at_rest, driver, &[&subnet[..], &["-o", &option]].concat(), &[parent]);
        }
        for id in ["0", "4095", "4096", "65566", "-1", "x", "", "030x", "3 0"] {
            let parent = format!("phys0.{id}");
            let option = format!("parent={parent}");
            refused(&at_rest, driver, &[&subnet[..], &["-o", &option]].concat(), &[&parent]);
        }
    }
}

#[test]
fn an_uplink_of_a_bridge_network_is_no_parent() {
    let host = Host::down();
    let _wire = Wire::new(&host.netns, "off", 1);
    host.start(&[]);
    host.ok(&["network", "create", "--subnet", "10.144.0.0/24", "-o", "uplink=phys0", "bridged"]);
    let at_rest = AtRest::new(&host, &[]);
    refused(&at_rest, "macvlan", &["--subnet", "10.140.0.0/24", "-o", "parent=phys0"], &["phys0", "bridged"]);
    drop(at_rest);
    host.ok(&["network", "rm", "bridged"]);
    host.ok(&["network", "create", "-d", "macvlan", "--subnet", "10.140.0.0/24", "-o", "parent=phys0", "lan"]);
    let at_rest = AtRest::new(&host, &[]);
    at_rest.refuses(
        &["network", "create", "--subnet", "10.144.0.0/24", "-o", "uplink=phys0", "bridged"],
        &["phys0", "lan"],
    );
}

#[test]
fn subnets_and_gateways_that_cannot_be() {
    let host = Host::down();
    let _wire = Wire::new(&host.netns, "off", 1);
    host.start(&[]);
    host.ok(&["network", "create", "-d", "macvlan", "--subnet", "10.140.0.0/24", "-o", "parent=phys0", "first"]);
    host.ok(&["network", "create", "-d", "ipvlan", "--subnet", "10.150.0.0/24", "-o", "parent=phys0.30", "tagged"]);
    let at_rest = AtRest::new(&host, &[]);
    for driver in ["macvlan", "ipvlan"] {
        for (parent, subnet, other) in [
            ("phys0", "10.140.0.0/24", "first"),
            ("phys0", "10.140.0.128/25", "first"),
            ("phys0", "10.140.0.0/16", "first"),
            ("phys0.30", "10.150.0.0/25", "tagged"),
        ] {
            let option = format!("parent={parent}");
            refused(&at_rest, driver, &["--subnet", subnet, "-o", &option], &[subnet, other]);
        }
        let gateway = ["--subnet", "10.151.0.0/24", "--gateway", "10.152.0.1", "-o", "parent=phys0"];
        refused(&at_rest, driver, &gateway, &["10.152.0.1"]);
        let range = ["--subnet", "10.151.0.0/24", "--ip-range", "10.152.0.0/25", "-o", "parent=phys0"];
        refused(&at_rest, driver, &range, &["10.152.0.0/25"]);
    }
    drop(at_rest);
    // In another VLAN it is another's.
    host.ok(&["network", "create", "-d", "macvlan", "--subnet", "10.150.0.0/24", "-o", "parent=phys0.31", "other"]);
}

#[test]
fn a_parent_without_an_address_has_no_subnet_to_give() {
    let host = Host::down();
    let _wire = Wire::new(&host.netns, "off", 0);
    host.netns.ip("-4 address flush dev phys0");
    host.start(&[]);
    let at_rest = AtRest::new(&host, &[]);
    for driver in ["macvlan", "ipvlan"] {
        // In a VLAN that it is not in itself, the parent has none in any case.
        for parent in ["phys0", "phys0.30"] {
            let option = format!("parent={parent}");
            refused(&at_rest, driver, &["-o", &option], &["subnet", parent]);
        }
    }
}

#[test]
fn options_that_cannot_be() {
    let host = Host::down();
    let _wire = Wire::new(&host.netns, "off", 1);
    host.start(&[]);
    let at_rest = AtRest::new(&host, &[]);
    for (driver, option, names) in [
        ("macvlan", "macvlan_mode=source", &["macvlan_mode", "source", "bridge"][..]),
        ("macvlan", "macvlan_mode=", &["macvlan_mode"]),
        ("macvlan", "ipvlan_mode=l2", &["ipvlan_mode"]),
        ("macvlan", "ipvlan_flag=private", &["ipvlan_flag"]),
        ("macvlan", "host_access=maybe", &["host_access", "maybe"]),
        ("macvlan", "xdp=generic", &["xdp", "generic"]),
        ("macvlan", "mtu=9000000", &["mtu", "9000000"]),
        ("macvlan", "uplink=phys0", &["uplink"]),
        ("ipvlan", "macvlan_mode=bridge", &["macvlan_mode"]),
        ("ipvlan", "ipvlan_mode=l4", &["ipvlan_mode", "l4", "l3s"]),
        ("ipvlan", "ipvlan_flag=passthru", &["ipvlan_flag", "passthru"]),
        ("ipvlan", "nosuch=1", &["nosuch", "ipvlan_mode"]),
    ] {
        let flags = ["--subnet", "10.140.0.0/24", "-o", "parent=phys0", "-o", option];
        refused(&at_rest, driver, &flags, names);
    }
    for (driver, option) in
        [("bridge", "parent=phys0"), ("bridge", "macvlan_mode=bridge"), ("bridge", "ipvlan_mode=l2")]
    {
        let name = option.split('=').next().unwrap();
        refused(&at_rest, driver, &["--subnet", "10.140.0.0/24", "-o", option], &[name]);
    }
}

#[test]
fn an_ipvlan_endpoint_has_no_mac_address_of_its_own() {
    let host = Host::down();
    let _wire = Wire::new(&host.netns, "off", 1);
    host.start(&[]);
    host.ok(&[&on_the_wire("ipvlan", &["parent=phys0"])[..], &["lan"]].concat());
    let container = Netns::new("a");
    let at_rest = AtRest::new(&host, &[&container]);
    let mac = "02:00:00:00:00:aa";
    let path = container.path_argument();
    at_rest.refuses(&["attach", "--netns", &path, "--network", "lan", "--mac", mac], &["--mac", "phys0"]);
}

#[test]
fn a_passthru_parent_is_for_one_network_and_one_endpoint() {
    let host = Host::down();
    let _wire = Wire::new(&host.netns, "off", 1);
    host.start(&[]);
    host.ok(&[&on_the_wire("macvlan", &["parent=phys0", "macvlan_mode=passthru"])[..], &["owner"]].concat());
    let [a, b] = ["a", "b"].map(Netns::new);
    host.attach(&a, &["--network", "owner"]);
    let at_rest = AtRest::new(&host, &[&a, &b]);
    let path = b.path_argument();
    at_rest.refuses(&["attach", "--netns", &path, "--network", "owner"], &["owner", a.name()]);
    for driver in ["macvlan", "ipvlan"] {
        for parent in ["phys0", "phys0.30"] {
            let option = format!("parent={parent}");
            let flags = ["--subnet", "10.153.0.0/24", "-o", &option];
            refused(&at_rest, driver, &flags, &["phys0", "owner"]);
        }
    }
    drop(at_rest);
    host.ok(&["detach", a.name()]);
    host.attach(&b, &["--network", "owner"]);
    host.ok(&["detach", b.name()]);
    host.ok(&["network", "rm", "owner"]);

    // The other way round.
    host.ok(&[&on_the_wire("macvlan", &["parent=phys0"])[..], &["first"]].concat());
    let at_rest = AtRest::new(&host, &[]);
    let flags = ["--subnet", "10.153.0.0/24", "-o", "parent=phys0", "-o", "macvlan_mode=passthru"];
    refused(&at_rest, "macvlan", &flags, &["phys0", "first"]);
}
