//! The result of ADD, in the version that the runtime asked for.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::conf::Conf;
use super::environment::Environment;
use super::ipam::Assigned;
use crate::api::{EndpointView, NetworkView};

/// Returns the result about an attached interface.
pub fn of(
    conf: &Conf,
    environment: &Environment,
    attached: &EndpointView,
    network: Option<&NetworkView>,
    assigned: &Assigned,
) -> Value {
    let before_1_0 = conf.version.starts_with("0.");
    let addresses: Vec<IpAddr> =
        attached.ipv4.map(IpAddr::V4).into_iter().chain(attached.ipv6.map(IpAddr::V6)).collect();
    let gateway = |ip: &IpAddr| match ip {
        IpAddr::V4(_) => attached.gateway.map(IpAddr::V4),
        IpAddr::V6(_) => attached.gateway6.map(IpAddr::V6),
    };
    let ips: Vec<Value> = addresses
        .iter()
        .map(|ip| {
            let subnet =
                network.and_then(|network| network.subnets.iter().find(|entry| entry.subnet.net().contains(ip)));
            let length = subnet.map_or(if ip.is_ipv6() { 64 } else { 24 }, |entry| entry.subnet.net().prefix_len());
            let mut entry = json!({ "address": format!("{ip}/{length}"), "interface": 0 });
            if let Some(gateway) = gateway(ip) {
                entry["gateway"] = json!(gateway);
            }
            if before_1_0 {
                entry["version"] = json!(if ip.is_ipv6() { "6" } else { "4" });
            }
            entry
        })
        .collect();
    let routes: Vec<Value> = addresses
        .iter()
        .filter_map(|ip| Some((ip, gateway(ip)?)))
        .map(|(ip, gateway)| json!({ "dst": if ip.is_ipv6() { "::/0" } else { "0.0.0.0/0" }, "gw": gateway }))
        .collect();
    let mut interface = json!({ "name": attached.ifname, "mac": attached.mac, "sandbox": environment.netns });
    if conf.version == "1.1.0" {
        interface["mtu"] = json!(attached.mtu);
    }
    json!({
        "cniVersion": conf.version,
        "interfaces": [interface],
        "ips": ips,
        "routes": assigned.routes.clone().unwrap_or_else(|| json!(routes)),
        "dns": dns(conf, attached, assigned),
    })
}

/// Returns the DNS settings: those of the runtime, of the configuration, of the IPAM plugin, or
/// ours.
fn dns(conf: &Conf, attached: &EndpointView, assigned: &Assigned) -> Value {
    if let Some(runtime) = &conf.runtime.dns {
        return json!({
            "nameservers": runtime["servers"], "search": runtime["searches"], "options": runtime["options"],
        });
    }
    let has_servers = |dns: &&Value| dns["nameservers"].as_array().is_some_and(|servers| !servers.is_empty());
    let given = conf.dns.as_ref().filter(has_servers).or_else(|| assigned.dns.as_ref().filter(has_servers));
    given.cloned().unwrap_or_else(|| json!({ "nameservers": attached.nameservers }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attached() -> EndpointView {
        let text = r#"{"id":"ID","name":"web","network":"n","ifname":"eth0","mac":"02:00:00:00:00:01","ipv4":"10.9.0.7",
            "ipv6":null,"gateway":"10.9.0.1","gateway6":null,"nameservers":["10.9.0.1"],"mtu":1500,"netns":"/n",
            "published":[],"options":{},"vlan":0,"trunk":[]}"#;
        serde_json::from_str(&text.replace("ID", &"ab".repeat(32))).expect("an endpoint")
    }

    fn result(version: &str, rest: &str) -> Value {
        let conf = Conf::parse(&format!(r#"{{"cniVersion":"{version}","name":"n"{rest}}}"#)).expect("a configuration");
        let environment = Environment { netns: "/run/netns/c".to_owned(), ..Environment::default() };
        of(&conf, &environment, &attached(), None, &Assigned::default())
    }

    #[test]
    fn the_result_has_the_form_of_its_version() {
        let old = result("0.3.1", "");
        assert_eq!((&old["cniVersion"], &old["ips"][0]["version"]), (&json!("0.3.1"), &json!("4")));
        let new = result("1.1.0", "");
        assert_eq!((&new["ips"][0]["version"], &new["interfaces"][0]["mtu"]), (&Value::Null, &json!(1500)));
        assert_eq!(new["ips"][0]["address"], "10.9.0.7/24");
        assert_eq!(new["routes"], json!([{ "dst": "0.0.0.0/0", "gw": "10.9.0.1" }]));
        assert_eq!(new["dns"], json!({ "nameservers": ["10.9.0.1"] }));
    }

    #[test]
    fn dns_of_the_runtime_goes_before_ours() {
        let given =
            result("1.0.0", r#","runtimeConfig":{"dns":{"servers":["9.9.9.9"],"searches":["a"],"options":[]}}"#);
        assert_eq!(given["dns"]["nameservers"], json!(["9.9.9.9"]));
        let given = result("1.0.0", r#","dns":{"nameservers":["8.8.8.8"]}"#);
        assert_eq!(given["dns"]["nameservers"], json!(["8.8.8.8"]));
    }
}
