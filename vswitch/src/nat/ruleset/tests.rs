use super::*;

use crate::model::{GatewayMode, Protocol};
use crate::nat::NatNetwork;

fn network(device: &str, subnets: &[&str]) -> NatNetwork {
    let subnets = subnets.iter().map(|subnet| subnet.parse().expect("a subnet")).collect();
    NatNetwork { device: device.to_owned(), subnets, masquerade: true, ..NatNetwork::default() }
}

fn forward(host_ip: Option<&str>, host_port: u16, to: &str) -> PortForward {
    PortForward {
        device: "vsw-a".to_owned(),
        protocol: Protocol::Tcp,
        host_ip: host_ip.map(|address| address.parse().expect("an address")),
        host_port,
        to: to.parse().expect("an address"),
        to_port: 80,
        masquerade: false,
    }
}

fn wanted(forwards: Vec<PortForward>) -> Wanted {
    Wanted { networks: vec![network("vsw-a", &["10.1.0.0/24", "fd00:1::/64"])], forwards, tunnels: None }
}

fn planned(wanted: &Wanted) -> String {
    let commands = plan("vswitch-t", wanted, 0x800).expect("it can be").expect("something is wanted");
    serde_json::to_string(&commands).expect("it is JSON")
}

#[test]
fn nothing_is_made_for_nothing() {
    assert_eq!(plan("vswitch-t", &Wanted::default(), 0x800).expect("it can be"), None);
    let closed = NatNetwork { internal: true, ..network("vsw-a", &["10.1.0.0/24"]) };
    assert_eq!(
        plan("vswitch-t", &Wanted { networks: vec![closed], forwards: Vec::new(), tunnels: None }, 0x800)
            .expect("it can be"),
        None
    );
}

#[test]
fn the_table_is_replaced_and_not_added_to() {
    let commands = planned(&wanted(Vec::new()));
    let table = r#"{"table":{"family":"inet","name":"vswitch-t"}}"#;
    let begin = format!(r#"{{"nftables":[{{"add":{table}}},{{"delete":{table}}},{{"add":{table}}},"#);
    assert!(commands.starts_with(&begin), "{commands}");
    assert!(!commands.contains(r#""flush""#));
}

#[test]
fn rules_do_not_grow_with_ports() {
    let rules = |count: u16| {
        let forwards = (1..=count).map(|port| forward(None, port, "10.1.0.2")).collect();
        planned(&wanted(forwards)).matches(r#"{"rule":"#).count()
    };
    assert_eq!(rules(1), rules(1000));
}

#[test]
fn each_kind_of_host_address_has_its_map() {
    let commands = planned(&wanted(vec![
        forward(None, 1, "10.1.0.2"),
        forward(Some("0.0.0.0"), 2, "10.1.0.2"),
        forward(Some("192.0.2.1"), 3, "10.1.0.2"),
        forward(None, 1, "fd00:1::2"),
        forward(Some("2001:db8::1"), 3, "fd00:1::2"),
    ]));
    for element in [
        r#"[{"concat":["tcp",1]},"10.1.0.2"]"#,
        r#"[{"concat":["tcp",2]},"10.1.0.2"]"#,
        r#"[{"concat":["tcp","192.0.2.1",3]},"10.1.0.2"]"#,
        r#"[{"concat":["tcp",1]},"fd00:1::2"]"#,
        r#"[{"concat":["tcp","2001:db8::1",3]},"fd00:1::2"]"#,
    ] {
        assert_eq!(commands.matches(element).count(), 1, "{element} in {commands}");
    }
    let at = commands.find("@at4_addresses").expect("a rule looks it up");
    assert!(at < commands.find("@any4_addresses").expect("a rule looks it up"), "all before one address");
}

#[test]
fn loopback_needs_what_it_needs_alone() {
    let needs = |forwards| planned(&wanted(forwards)).contains(r#""direction""#);
    assert!(needs(vec![forward(None, 1, "10.1.0.2")]));
    assert!(needs(vec![forward(Some("127.0.0.1"), 1, "10.1.0.2")]));
    assert!(!needs(vec![forward(Some("192.0.2.1"), 1, "10.1.0.2"), forward(None, 1, "fd00:1::2")]));
}

#[test]
fn only_what_may_leave_is_masqueraded() {
    let networks = vec![
        network("vsw-a", &["10.1.0.0/24"]),
        NatNetwork { masquerade: false, ..network("vsw-b", &["10.2.0.0/24"]) },
        NatNetwork { internal: true, ..network("vsw-c", &["10.3.0.0/24"]) },
    ];
    let commands = plan("vswitch-t", &Wanted { networks, forwards: Vec::new(), tunnels: None }, 0x800)
        .expect("it can be")
        .expect("wanted");
    let set = |wanted: &str| {
        let found = commands.objects.iter().find_map(|object| match object {
            NfObject::CmdObject(NfCmd::Add(NfListObject::Set(set))) if set.name == wanted => Some(set.elem.clone()),
            _ => None,
        });
        serde_json::to_string(&found.expect("the set").unwrap_or_default()).expect("it is JSON")
    };
    let masquerade = set("masquerade4");
    assert!(masquerade.contains("10.1.0.0") && !masquerade.contains("10.2") && !masquerade.contains("10.3"));
    assert_eq!(set("our_devices"), r#"["vsw-a","vsw-b"]"#);
    assert_eq!(set("internal_devices"), r#"["vsw-c"]"#);
    assert!(set("subnets4").contains("10.3.0.0"));
}

#[test]
fn modes_are_of_one_family() {
    use GatewayMode::{Isolated, Nat, NatUnprotected, Routed};
    let both = &["10.1.0.0/24", "fd00:1::/64"];
    let networks = vec![
        network("vsw-a", both),
        NatNetwork { modes: [Routed, Nat], ..network("vsw-b", &["10.2.0.0/24", "fd00:2::/64"]) },
        NatNetwork { modes: [NatUnprotected, Routed], ..network("vsw-c", &["10.3.0.0/24", "fd00:3::/64"]) },
        NatNetwork { modes: [Isolated; 2], internal: true, ..network("vsw-d", &["10.4.0.0/24", "fd00:4::/64"]) },
    ];
    let commands = plan("vswitch-t", &Wanted { networks, forwards: Vec::new(), tunnels: None }, 0x800);
    let commands = serde_json::to_value(commands.expect("it can be").expect("wanted")).expect("it is JSON");
    let set = |name: &str| {
        let commands = commands["nftables"].as_array().expect("a list");
        let set = commands.iter().map(|command| &command["add"]["set"]).find(|set| set["name"] == name);
        set.unwrap_or_else(|| panic!("the set {name}"))["elem"].to_string()
    };
    assert_eq!([set("closed4"), set("closed6")], [r#"["vsw-a"]"#, r#"["vsw-a","vsw-b"]"#]);
    assert_eq!([set("isolated4"), set("isolated6")], [r#"["vsw-d"]"#; 2]);
    let of = |name: &str| {
        [1, 2, 3, 4].map(|n| set(name).contains(&format!("10.{n}.")) || set(name).contains(&format!("fd00:{n}:")))
    };
    assert_eq!([of("masquerade4"), of("masquerade6")], [[true, false, true, false], [true, true, false, false]]);
    assert_eq!([of("private4"), of("private6")], [[true, false, false, true], [true, true, false, true]]);
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let conflict = plan("t", &wanted(vec![forward(None, 8080, "10.1.0.2"), forward(None, 8080, "10.1.0.3")]), 0x800);
    let error = conflict.expect_err("two at one port").to_string();
    assert!(error.starts_with("tcp port 8080 of the host leads to 10.1.0.2 and to 10.1.0.3 ("), "{error}");
    // A duplicate counts once.
    assert!(plan("t", &wanted(vec![forward(None, 1, "10.1.0.2"), forward(None, 1, "10.1.0.2")]), 0x800).is_ok());
    let family = plan("t", &wanted(vec![forward(Some("::1"), 8080, "10.1.0.2")]), 0x800);
    assert!(matches!(family, Err(NatError::Family { .. })));
}
