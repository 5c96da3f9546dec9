//! netavark's plugin protocol, for podman: a network or a container as JSON on standard input, the
//! answer on standard output.
//!
//! podman chooses the addresses itself, unless a network has the IPAM driver `none`, and holds the
//! host ports of published ports. It does not say when a network is removed: the network is made
//! for its first container, and goes with the last.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::ports::PortMapping;
use super::{connect, detach, message};
use crate::api::{
    AttachRequest, Client, ClientError, EndpointView, NetworkRequest, NetworkView, PoolRequest, PoolView, path,
};
use crate::model::{Instance, Subnet};
use crate::switch::NewNetwork;

/// The owner of podman's endpoints and networks.
const OWNER: &str = "podman";
/// Version of netavark's plugin API.
const API: &str = "1.0.0";
/// The folder in which podman records its networks.
const NETWORKS: &str = "/etc/containers/networks";
/// The most subnets that are tried for a network.
const MOST_TRIED: usize = 256;

/// The commands of netavark.
#[derive(Debug, Subcommand)]
pub enum NetavarkCommand {
    /// Print the version of the plugin
    #[command(after_help = "Example:\n  vswitch plugin netavark info")]
    Info,
    /// Complete the description of a network
    #[command(after_help = "Example:\n  vswitch plugin netavark create < network.json")]
    Create,
    /// Attach a container
    #[command(after_help = "Example:\n  vswitch plugin netavark setup /run/netns/c < container.json")]
    Setup {
        /// The namespace of the container
        netns: PathBuf,
    },
    /// Detach a container
    #[command(after_help = "Example:\n  vswitch plugin netavark teardown /run/netns/c < container.json")]
    Teardown {
        /// The namespace of the container
        netns: PathBuf,
    },
}

/// A subnet of a network.
#[derive(Debug, Deserialize)]
struct SubnetEntry {
    subnet: IpNet,
    gateway: Option<IpAddr>,
}

/// A network of podman.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NetworkEntry {
    id: String,
    name: String,
    subnets: Vec<SubnetEntry>,
    ipv6_enabled: bool,
    internal: bool,
    dns_enabled: Option<bool>,
    network_dns_servers: Option<Vec<IpAddr>>,
    options: Option<BTreeMap<String, String>>,
    routes: Option<Vec<Value>>,
}

/// A container in one network.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Container {
    container_id: String,
    container_name: String,
    port_mappings: Option<Vec<PortMapping>>,
    network: NetworkEntry,
    network_options: ContainerOptions,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ContainerOptions {
    aliases: Option<Vec<String>>,
    interface_name: String,
    static_ips: Option<Vec<IpAddr>>,
    static_mac: Option<String>,
    options: Option<BTreeMap<String, String>>,
}

/// Runs a command. The answer is JSON, also that of a failure.
///
/// # Errors
/// The answer of a failure.
pub async fn run(command: NetavarkCommand, instance: &Instance) -> Result<Option<Value>, Value> {
    let failed = |message: String| json!({ "error": message.replace('\n', "; ") });
    let mut text = String::new();
    if !matches!(command, NetavarkCommand::Info) {
        let read = std::io::stdin().read_to_string(&mut text);
        read.map_err(|error| failed(format!("cannot read the request of netavark: {error}")))?;
    }
    match command {
        NetavarkCommand::Info => {
            Ok(Some(json!({ "version": env!("CARGO_PKG_VERSION"), "api_version": API, "extra_info": null })))
        }
        NetavarkCommand::Create => create(&text, instance).await.map(Some).map_err(failed),
        NetavarkCommand::Setup { netns } => setup(&text, &netns, instance).await.map(Some).map_err(failed),
        NetavarkCommand::Teardown { netns: _ } => teardown(&text, instance).await.map(|()| None).map_err(failed),
    }
}

fn unreadable(error: &serde_json::Error) -> String {
    format!("the request of netavark is not as expected: {error} (vswitch knows API {API})")
}

/// Completes the description of a network: subnets, if there is none, and gateways.
async fn create(text: &str, instance: &Instance) -> Result<Value, String> {
    let mut network: Value = serde_json::from_str(text).map_err(|error| unreadable(&error))?;
    let entry: NetworkEntry = serde_json::from_value(network.clone()).map_err(|error| unreadable(&error))?;
    let is_missing = |ipv6: bool| !entry.subnets.iter().any(|entry| entry.subnet.addr().is_ipv6() == ipv6);
    let mut missing = Vec::new();
    if entry.subnets.is_empty() {
        missing.push(false);
    }
    if entry.ipv6_enabled && is_missing(true) {
        missing.push(true);
    }
    let mut subnets: Vec<Value> = network["subnets"].as_array().cloned().unwrap_or_default();
    if !missing.is_empty() {
        let mut client = connect(instance).await.map_err(|error| message(&error))?;
        let used = recorded_subnets(Path::new(NETWORKS));
        for ipv6 in missing {
            let subnet = free_subnet(&mut client, ipv6, &used).await?;
            subnets.push(json!({ "subnet": subnet }));
        }
    }
    for subnet in &mut subnets {
        let net = subnet["subnet"].as_str().and_then(|net| net.parse::<Subnet>().ok());
        if let (Some(net), true) = (net, subnet["gateway"].is_null() && !entry.internal) {
            subnet["gateway"] = json!(net.first_host());
        }
    }
    network["subnets"] = json!(subnets);
    // What the daemon would refuse at the first container is refused now.
    let whole: NetworkEntry = serde_json::from_value(network.clone()).map_err(|error| unreadable(&error))?;
    check(&whole)?;
    NewNetwork::try_from(network_request(whole)).map_err(|error| error.to_string())?;
    Ok(network)
}

/// Returns the subnets of podman's networks. Those without a running container are unknown to the
/// daemon.
fn recorded_subnets(folder: &Path) -> BTreeSet<IpNet> {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let texts = files.filter_map(|file| std::fs::read_to_string(file.path()).ok());
    let networks = texts.filter_map(|text| serde_json::from_str::<NetworkEntry>(&text).ok());
    networks.flat_map(|network| network.subnets).map(|entry| entry.subnet.trunc()).collect()
}

/// Returns a subnet that neither the daemon nor podman uses. The daemon keeps its pools only until
/// one is found: podman does not say when a network is removed.
async fn free_subnet(client: &mut Client, ipv6: bool, used: &BTreeSet<IpNet>) -> Result<IpNet, String> {
    let mut pools: Vec<PoolView> = Vec::new();
    let mut found = Err("no free subnet was found (give one with --subnet)".to_owned());
    for _ in 0..MOST_TRIED {
        let request = PoolRequest { owner: OWNER.to_owned(), ipv6, ..PoolRequest::default() };
        match client.post::<PoolView>("/ipam/pools", &request).await {
            Ok(pool) => {
                let net = pool.subnet.net();
                pools.push(pool);
                if !used.iter().any(|other| other.contains(&net) || net.contains(other)) {
                    found = Ok(net);
                    break;
                }
            }
            Err(error) => {
                found = Err(message(&error));
                break;
            }
        }
    }
    for pool in pools {
        let released: Result<(), ClientError> = client.delete(&path(&["ipam", "pools", &pool.id.to_string()])).await;
        released.map_err(|error| message(&error))?;
    }
    found
}

/// Refuses what vswitch does not have.
fn check(network: &NetworkEntry) -> Result<(), String> {
    match network.routes.iter().flatten().next() {
        Some(route) => Err(format!("route {route} is not supported by vswitch (leave out --route)")),
        None => Ok(()),
    }
}

/// Returns the request to create a network.
fn network_request(network: NetworkEntry) -> NetworkRequest {
    let mut options = network.options.unwrap_or_default();
    let family = |ipv6: bool| network.subnets.iter().any(|entry| entry.subnet.addr().is_ipv6() == ipv6);
    NetworkRequest {
        name: network.name,
        driver: options.remove("driver"),
        subnets: network.subnets.iter().map(|entry| entry.subnet.trunc().to_string()).collect(),
        gateways: network.subnets.iter().filter_map(|entry| entry.gateway).map(|gateway| gateway.to_string()).collect(),
        internal: network.internal,
        ipv4: Some(family(false) || network.subnets.is_empty()),
        ipv6: network.ipv6_enabled || family(true),
        options,
        owner: OWNER.to_owned(),
        external_id: Some(network.id),
        remove_when_empty: true,
        ..NetworkRequest::default()
    }
}

/// Returns the key of a container in a network.
fn key(container: &Container) -> String {
    format!("{}/{}", container.container_id, container.network.id)
}

/// Returns the request to attach a container.
fn request(container: Container, netns: &Path) -> AttachRequest {
    let key = key(&container);
    let Container { container_id, container_name, port_mappings, network, network_options } = container;
    let ensure = network_request(network);
    let ips = network_options.static_ips.unwrap_or_default();
    let ip = |ipv6: bool| ips.iter().find(|ip| ip.is_ipv6() == ipv6).map(IpAddr::to_string);
    let mut endpoint = network_options.options.unwrap_or_default();
    AttachRequest {
        netns: netns.to_owned(),
        name: Some(container_name).filter(|name| !name.is_empty()),
        ifname: Some(network_options.interface_name).filter(|name| !name.is_empty()),
        ip: ip(false),
        ip6: ip(true),
        mac: network_options.static_mac,
        aliases: network_options.aliases.unwrap_or_default(),
        publish: port_mappings.iter().flatten().flat_map(PortMapping::published).collect(),
        vlan: endpoint.remove("vlan"),
        trunk: endpoint.remove("trunk"),
        options: endpoint,
        owner: OWNER.to_owned(),
        key: Some(key),
        container: Some(container_id),
        // podman binds the host ports before it calls the plugin.
        hold: Some(false),
        ensure: Some(ensure),
        ..AttachRequest::default()
    }
}

async fn setup(text: &str, netns: &Path, instance: &Instance) -> Result<Value, String> {
    let container: Container = serde_json::from_str(text).map_err(|error| unreadable(&error))?;
    let (key, dns) = (key(&container), container.network.dns_enabled != Some(false));
    let servers = container.network.network_dns_servers.clone().unwrap_or_default();
    check(&container.network)?;
    let request = request(container, netns);
    let mut client = connect(instance).await.map_err(|error| message(&error))?;
    let attached = match client.post::<EndpointView>("/endpoints", &request).await {
        // podman did not tear down what it set up before it died.
        Err(ClientError::Refused(error)) if error.code == "endpoint_exists" => {
            detach(&mut client, OWNER, &key).await.map_err(|error| message(&error))?;
            client.post("/endpoints", &request).await
        }
        attached => attached,
    };
    let attached = attached.map_err(|error| message(&error))?;
    let network: Result<Vec<NetworkView>, ClientError> = client.get("/networks").await;
    let network =
        network.map_err(|error| message(&error))?.into_iter().find(|network| network.name == attached.network);
    Ok(status(&attached, network.as_ref(), dns, &servers))
}

/// Returns the answer about an attached container.
fn status(attached: &EndpointView, network: Option<&NetworkView>, dns: bool, servers: &[IpAddr]) -> Value {
    let ips = attached.ipv4.map(IpAddr::V4).into_iter().chain(attached.ipv6.map(IpAddr::V6));
    let subnets = ips.map(|ip| {
        let subnet = network.and_then(|network| network.subnets.iter().find(|entry| entry.subnet.net().contains(&ip)));
        let length = subnet.map_or(if ip.is_ipv6() { 64 } else { 24 }, |entry| entry.subnet.net().prefix_len());
        let gateway = match ip {
            IpAddr::V4(_) => attached.gateway.map(IpAddr::V4),
            IpAddr::V6(_) => attached.gateway6.map(IpAddr::V6),
        };
        json!({ "ipnet": format!("{ip}/{length}"), "gateway": gateway })
    });
    let interface = json!({ "mac_address": attached.mac, "subnets": subnets.collect::<Vec<_>>() });
    let mut interfaces = Map::new();
    interfaces.insert(attached.ifname.clone().unwrap_or_default(), interface);
    let nameservers = if dns { attached.nameservers.clone() } else { Vec::new() };
    let nameservers = if servers.is_empty() { nameservers } else { servers.to_vec() };
    json!({ "interfaces": interfaces, "dns_server_ips": nameservers, "dns_search_domains": [] })
}

async fn teardown(text: &str, instance: &Instance) -> Result<(), String> {
    let container: Container = serde_json::from_str(text).map_err(|error| unreadable(&error))?;
    let mut client = connect(instance).await.map_err(|error| message(&error))?;
    detach(&mut client, OWNER, &key(&container)).await.map(drop).map_err(|error| message(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What podman 5.4 sends for `podman run --network nv2 -p 9000-9002:9000-9002/udp`.
    const SETUP: &str = r#"{"container_id":"c1","container_name":"pa","port_mappings":[{"container_port":9000,"host_ip":"",
        "host_port":9000,"protocol":"udp","range":3}],"network":{"name":"nv2","id":"n1","driver":"vswitch",
        "created":"0001-01-01T00:00:00Z","subnets":[{"subnet":"10.71.0.0/24","gateway":"10.71.0.1",
        "lease_range":{"start_ip":"10.71.0.129","end_ip":"10.71.0.255"}},{"subnet":"fd71::/64","gateway":"fd71::1"}],
        "routes":[],"ipv6_enabled":true,"internal":false,"dns_enabled":true,"network_dns_servers":[],"labels":{},
        "options":{"mtu":"1400"}},"network_options":{"aliases":["paa","c1"],"interface_name":"eth0",
        "static_ips":["10.71.0.3","fd71::3"],"static_mac":null,"options":null}}"#;

    #[test]
    fn a_container_of_podman_is_attached_with_its_network() {
        let request = request(serde_json::from_str(SETUP).expect("a container"), Path::new("/run/netns/c"));
        assert_eq!(request.key.as_deref(), Some("c1/n1"));
        assert_eq!((request.ip.as_deref(), request.ip6.as_deref()), (Some("10.71.0.3"), Some("fd71::3")));
        assert_eq!((request.publish, request.hold), (vec!["9000-9002:9000-9002/udp".to_owned()], Some(false)));
        let network = request.ensure.expect("a network");
        assert_eq!(network.subnets, ["10.71.0.0/24", "fd71::/64"]);
        assert_eq!(network.gateways, ["10.71.0.1", "fd71::1"]);
        assert_eq!((network.ipv4, network.ipv6, network.remove_when_empty), (Some(true), true, true));
        assert_eq!(network.options.get("mtu").map(String::as_str), Some("1400"));
    }

    #[test]
    fn subnets_of_recorded_networks_are_read_and_other_files_are_not() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("a.json"), r#"{"name":"a","subnets":[{"subnet":"10.5.0.0/24"}]}"#)
            .expect("written");
        std::fs::write(folder.path().join("b.json"), "no JSON").expect("written");
        assert_eq!(recorded_subnets(folder.path()), ["10.5.0.0/24".parse().expect("a subnet")].into());
        assert_eq!(recorded_subnets(Path::new("/nowhere/at/all")), BTreeSet::new());
    }

    #[test]
    fn a_request_that_is_not_as_expected_is_an_error() {
        for text in ["", "{", "{\"network\":5}", "null"] {
            assert!(serde_json::from_str::<Container>(text).is_err(), "{text}");
        }
    }
}
