//! References to endpoints and networks by name and by id.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::harness::{AtRest, Host, Netns, ping};

#[test]
fn the_start_of_an_id_removes_and_changes_nothing() {
    let host = Host::up(&[]);
    let [web, other] = ["web", "other"].map(Netns::new);
    host.ok(&["network", "create", "--subnet", "10.101.0.0/24", "front"]);
    host.ok(&["network", "create", "--subnet", "10.102.0.0/24", "unused"]);
    let at_web = host.attach(&web, &["--network", "front", "--name", "web-prod"]);
    let at_other = host.attach(&other, &["--network", "front", "--name", "other"]);
    let network_id =
        |name| host.json::<Vec<Value>>(&["network", "inspect", name])[0]["id"].as_str().unwrap().to_owned();
    let (front, unused) = (network_id("front"), network_id("unused"));
    let before = host.ps();
    for digits in [3, 8, 11] {
        let (endpoint, front, unused) = (&at_web.id[..digits], &front[..digits], &unused[..digits]);
        // Commands that only look find it. No other id begins with so many of its digits.
        if digits >= 8 {
            assert_eq!(host.json::<Value>(&["inspect", endpoint])["name"], "web-prod");
            assert!(host.ports(&[endpoint]).contains_key("web-prod"));
        }
        // An endpoint of this name may have been detached before.
        assert_eq!(host.ok(&["detach", endpoint]), "");
        let at_rest = AtRest::new(&host, &[&web, &other]);
        at_rest.refuses(&["network", "rm", unused], &[unused, "no network"]);
        at_rest.refuses(&["network", "rm", "unused", unused], &[unused, "no network"]);
        at_rest.refuses(&["network", "disconnect", "front", endpoint], &[endpoint, "no endpoint"]);
        at_rest.refuses(&["network", "disconnect", front, "web-prod"], &[front, "no network"]);
        at_rest.refuses(&["network", "connect", unused, "web-prod"], &[unused, "no network"]);
        at_rest.refuses(&["network", "connect", "unused", endpoint], &[endpoint, "no endpoint"]);
        at_rest.refuses(&["attach", "--netns", &web.path_argument(), "--network", unused], &[unused, "no network"]);
        at_rest.refuses(&["fdb", "add", "02:00:00:00:00:07", front, "web-prod"], &[front, "no network"]);
        at_rest.refuses(&["fdb", "add", "02:00:00:00:00:07", "front", endpoint], &[endpoint, "no port"]);
        at_rest.refuses(&["fdb", "del", "02:00:00:00:00:07", front], &[front, "no network"]);
        at_rest.refuses(&["fdb", "flush", "--network", front], &[front, "no network"]);
        at_rest.refuses(&["fdb", "flush", "--port", endpoint], &[endpoint, "no port"]);
        assert_eq!(host.ok(&["detach", "web-prod", "--network", front]), "");
        assert_eq!(host.ps(), before);
    }
    ping(&web, at_other.ipv4);
    // 12 digits, as tables show them, are enough, and so is the whole id.
    host.ok(&["network", "connect", &unused[..12], &at_web.id[..12]]);
    host.ok(&["network", "disconnect", &unused, &at_web.id]);
    assert_eq!(host.ok(&["detach", &at_web.id[..12]]), "web-prod\n");
    assert_eq!(host.ok(&["detach", &at_other.id]), "other\n");
    assert_eq!(host.ok(&["network", "rm", &front[..12], &unused]), "front\nunused\n");
}

#[test]
fn an_ambiguous_reference_lists_what_it_could_mean() {
    let host = Host::up(&[]);
    let mut by_digit: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    // Two of 17 ids begin with the same digit.
    for number in 0..17 {
        let name = format!("n{number}");
        let id = host.ok(&["network", "create", &name]).trim().to_owned();
        by_digit.entry(id[..1].to_owned()).or_default().push((name, id[..12].to_owned()));
    }
    for (name, id) in
        host.json::<Vec<Value>>(&["network", "ls"]).iter().map(|network| (&network["name"], &network["id"]))
    {
        let (name, id) = (name.as_str().unwrap(), id.as_str().unwrap());
        if matches!(name, "bridge" | "host" | "none") {
            by_digit.entry(id[..1].to_owned()).or_default().push((name.to_owned(), id[..12].to_owned()));
        }
    }
    let (digit, candidates) = by_digit.into_iter().find(|(_, ids)| ids.len() > 1).expect("two of 17");
    let line = host.fails(1, &["network", "inspect", &digit]);
    assert!(line.contains(&format!("`{digit}`")), "{line}");
    for (name, id) in candidates {
        assert!(line.contains(&format!("{name} ({id})")), "{line}");
    }
}
