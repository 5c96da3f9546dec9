//! CNI's plugin protocol (containernetworking/cni, SPEC.md, versions 0.3.0 to 1.1.0): the command
//! in the environment, the configuration of the network on standard input, the result on standard
//! output.

mod conf;
mod environment;
mod ipam;
mod result;

use std::io::Read as _;

use serde_json::{Value, json};

use super::ports::PortMapping;
use super::{connect, detach, message};
use crate::api::{
    AttachRequest, Client, ClientError, CollectRequest, Detached, EndpointView, NetworkRequest, NetworkView, query,
};
use crate::model::Instance;
use conf::{Conf, VERSIONS};
use environment::Environment;
use ipam::Assigned;

/// The owner of CNI's endpoints and networks.
const OWNER: &str = "cni";

/// The codes of errors that the specification names.
mod code {
    pub const VERSION: u32 = 1;
    pub const UNSUPPORTED: u32 = 2;
    pub const UNKNOWN_CONTAINER: u32 = 3;
    pub const ENVIRONMENT: u32 = 4;
    pub const IO: u32 = 5;
    pub const DECODING: u32 = 6;
    pub const CONFIGURATION: u32 = 7;
    pub const TRY_AGAIN: u32 = 11;
    pub const NOT_AVAILABLE: u32 = 50;
    /// The daemon refused a request.
    pub const REFUSED: u32 = 100;
    /// A container is not as it was attached.
    pub const CHANGED: u32 = 101;
}

/// A refusal, with the code of the specification or one of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    code: u32,
    message: String,
}

impl Refusal {
    fn new(code: u32, message: impl Into<String>) -> Self {
        Self { code, message: message.into().replace('\n', "; ") }
    }
}

impl From<ClientError> for Refusal {
    fn from(error: ClientError) -> Self {
        let code = match &error {
            ClientError::NotRunning { .. } | ClientError::NotAnswering(_) => code::TRY_AGAIN,
            _ => code::REFUSED,
        };
        Self::new(code, message(&error))
    }
}

/// Runs the command in `CNI_COMMAND`.
///
/// # Errors
/// The answer of a failure: version, code and message.
pub async fn run(instance: &Instance) -> Result<Option<Value>, Value> {
    let mut text = String::new();
    let read = std::io::stdin().read_to_string(&mut text);
    let environment = Environment::of_process();
    let version = conf::version_of(&text);
    let answered = match read {
        Ok(_) => answer(&text, &environment, instance).await,
        Err(error) => Err(Refusal::new(code::IO, format!("cannot read the configuration: {error}"))),
    };
    answered.map_err(|Refusal { code, message }| json!({ "cniVersion": version, "code": code, "msg": message }))
}

async fn answer(text: &str, environment: &Environment, instance: &Instance) -> Result<Option<Value>, Refusal> {
    let command = environment.command.as_str();
    if command == "VERSION" {
        return Ok(Some(json!({ "cniVersion": VERSIONS[VERSIONS.len() - 1], "supportedVersions": VERSIONS })));
    }
    let conf = Conf::parse(text)?;
    match command {
        "ADD" => add(&conf, text, &environment.complete(true)?, instance).await.map(Some),
        "DEL" => delete(&conf, text, &environment.complete(false)?, instance).await.map(|()| None),
        "CHECK" => check(&conf, text, &environment.complete(true)?, instance).await.map(|()| None),
        "GC" => collect(&conf, text, environment, instance).await.map(|()| None),
        "STATUS" => match connect(instance).await {
            Ok(_) => Ok(None),
            Err(error) => Err(Refusal::new(code::NOT_AVAILABLE, message(&error))),
        },
        "" => Err(Refusal::new(code::ENVIRONMENT, "CNI_COMMAND is missing (a container runtime sets it)")),
        other => Err(Refusal::new(
            code::ENVIRONMENT,
            format!("CNI_COMMAND `{other}` is unknown (vswitch knows ADD, DEL, CHECK, GC, STATUS and VERSION)"),
        )),
    }
}

/// Returns the key of an interface of a container.
fn key(environment: &Environment) -> String {
    format!("{}/{}", environment.container, environment.ifname)
}

async fn add(conf: &Conf, text: &str, environment: &Environment, instance: &Instance) -> Result<Value, Refusal> {
    if conf.prev_result.is_some() {
        return Err(Refusal::new(
            code::CONFIGURATION,
            "vswitch is not the first plugin of the list (put it before those that change its interface)",
        ));
    }
    let assigned = match &conf.ipam {
        Some(plugin) => ipam::run(plugin, "ADD", text, environment).await?,
        None => Assigned::default(),
    };
    let attached = async {
        let request = request(conf, environment, &assigned)?;
        let mut client = connect(instance).await?;
        let attached: EndpointView = client.post("/endpoints", &request).await?;
        let networks: Vec<NetworkView> = client.get("/networks").await?;
        let network = networks.into_iter().find(|network| network.name == attached.network);
        Ok((attached, network))
    };
    match attached.await {
        Ok((attached, network)) => Ok(result::of(conf, environment, &attached, network.as_ref(), &assigned)),
        Err(refusal) => {
            if let Some(plugin) = &conf.ipam {
                // The refusal of the attach is the one that counts.
                let _ = ipam::run(plugin, "DEL", text, environment).await;
            }
            Err(refusal)
        }
    }
}

/// Returns the request to attach an interface.
fn request(conf: &Conf, environment: &Environment, assigned: &Assigned) -> Result<AttachRequest, Refusal> {
    let runtime = &conf.runtime;
    if let Some((name, value)) = runtime.unsupported() {
        return Err(Refusal::new(
            code::UNSUPPORTED,
            format!("runtimeConfig `{name}`: {value} is not supported by vswitch (chain the plugin of that name)"),
        ));
    }
    let arguments = environment.arguments()?;
    let given: Vec<String> = [&assigned.addresses[..], &runtime.ips[..]].concat();
    let given = given.iter().map(|ip| ip.split('/').next().unwrap_or_default().to_owned());
    let given: Vec<String> = given.chain(arguments.ips).collect();
    let ip = |ipv6: bool| given.iter().find(|ip| ip.contains(':') == ipv6).cloned();
    let ensure = conf.network.is_none().then(|| network(conf, assigned)).transpose()?;
    Ok(AttachRequest {
        netns: environment.netns.clone().into(),
        network: conf.network.clone(),
        name: arguments.name,
        ifname: Some(environment.ifname.clone()),
        ip: ip(false),
        ip6: ip(true),
        mac: runtime.mac.clone().or(arguments.mac),
        aliases: runtime.aliases.get(&conf.name).cloned().unwrap_or_default(),
        publish: runtime.port_mappings.iter().flat_map(PortMapping::published).collect(),
        vlan: conf.vlan.clone(),
        trunk: conf.trunk.clone(),
        options: conf.endpoint_options.clone(),
        owner: OWNER.to_owned(),
        key: Some(key(environment)),
        container: Some(environment.container.clone()),
        // podman holds the host ports itself, after this, and fails if another process has them.
        hold: Some(conf.hold),
        ensure,
        ..AttachRequest::default()
    })
}

/// Returns the network of a configuration that names no existing one.
fn network(conf: &Conf, assigned: &Assigned) -> Result<NetworkRequest, Refusal> {
    let mut subnets = conf.subnets();
    let mut gateways: Vec<String> = conf.gateway.iter().cloned().collect();
    if subnets.is_empty() {
        subnets = conf.runtime.ranges();
    }
    if subnets.is_empty() {
        subnets = assigned.subnets()?;
        gateways.extend(assigned.gateways.iter().cloned());
    }
    let has_ipv4 = subnets.iter().any(|subnet| !subnet.contains(':'));
    Ok(NetworkRequest {
        name: conf.name.clone(),
        driver: conf.driver.clone(),
        ipv4: Some(has_ipv4 || subnets.is_empty()),
        ipv6: conf.ipv6,
        subnets,
        gateways,
        ip_ranges: conf.ip_range.iter().cloned().collect(),
        internal: conf.internal,
        options: conf.options.clone(),
        owner: OWNER.to_owned(),
        external_id: Some(conf.name.clone()),
        remove_when_empty: true,
        ..NetworkRequest::default()
    })
}

async fn delete(conf: &Conf, text: &str, environment: &Environment, instance: &Instance) -> Result<(), Refusal> {
    let mut client = connect(instance).await?;
    detach(&mut client, OWNER, &key(environment)).await?;
    if let Some(plugin) = &conf.ipam {
        ipam::run(plugin, "DEL", text, environment).await?;
    }
    Ok(())
}

async fn check(conf: &Conf, text: &str, environment: &Environment, instance: &Instance) -> Result<(), Refusal> {
    if let Some(plugin) = &conf.ipam {
        ipam::run(plugin, "CHECK", text, environment).await?;
    }
    let mut client = connect(instance).await?;
    let attached = attached(&mut client, &key(environment)).await?;
    let missing = || {
        let message = format!("container {} has no interface {} here", environment.container, environment.ifname);
        Refusal::new(code::UNKNOWN_CONTAINER, message)
    };
    let attached = attached.ok_or_else(missing)?;
    let own = attached.ipv4.map(|ip| ip.to_string()).into_iter().chain(attached.ipv6.map(|ip| ip.to_string()));
    let expected = conf.expected_addresses();
    let lost: Vec<String> = own.filter(|ip| !expected.is_empty() && !expected.contains(ip)).collect();
    if !lost.is_empty() {
        let message = format!("{} has {}, and the result of ADD does not", environment.ifname, lost.join(", "));
        return Err(Refusal::new(code::CHANGED, message));
    }
    Ok(())
}

async fn attached(client: &mut Client, key: &str) -> Result<Option<EndpointView>, Refusal> {
    let path = format!("/endpoints{}", query(&[("owner", Some(OWNER)), ("key", Some(key))]));
    let found: Vec<EndpointView> = client.get(&path).await?;
    Ok(found.into_iter().next())
}

async fn collect(conf: &Conf, text: &str, environment: &Environment, instance: &Instance) -> Result<(), Refusal> {
    let mut client = connect(instance).await?;
    let request = CollectRequest {
        owner: OWNER.to_owned(),
        network: Some(conf.network.clone().unwrap_or_else(|| conf.name.clone())),
        valid: conf.valid.iter().map(|valid| format!("{}/{}", valid.container, valid.ifname)).collect(),
    };
    let _: Detached = client.post("/endpoints/gc", &request).await?;
    match &conf.ipam {
        Some(plugin) => ipam::run(plugin, "GC", text, environment).await.map(drop),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment() -> Environment {
        Environment {
            command: "ADD".to_owned(),
            container: "c1".to_owned(),
            ifname: "eth0".to_owned(),
            netns: "/run/netns/netns-1".to_owned(),
            arguments: "IgnoreUnknown=1;K8S_POD_NAME=web;MAC=02:00:00:00:00:07;IP=10.9.0.7".to_owned(),
            path: String::new(),
        }
    }

    /// What podman 4.3 sends.
    const ADD: &str = r#"{"capabilities":{"portMappings":true},"cniVersion":"1.0.0","name":"vsnet","type":"vswitch",
        "subnet":"10.9.0.0/24","options":{"mtu":"1400"},"runtimeConfig":{"portMappings":[{"hostPort":8088,
        "containerPort":80,"protocol":"tcp","hostIP":""}],"aliases":{"vsnet":["w3","c1"]}}}"#;

    #[test]
    fn a_container_of_podman_is_attached_with_its_network() {
        let conf = Conf::parse(ADD).expect("a configuration");
        let request = request(&conf, &environment(), &Assigned::default()).expect("a request");
        assert_eq!(request.key.as_deref(), Some("c1/eth0"));
        assert_eq!((request.name.as_deref(), request.ip.as_deref()), (Some("web"), Some("10.9.0.7")));
        assert_eq!((request.mac.as_deref(), request.hold), (Some("02:00:00:00:00:07"), Some(false)));
        assert_eq!(
            (request.publish, request.aliases),
            (vec!["8088:80/tcp".to_owned()], vec!["w3".to_owned(), "c1".to_owned()])
        );
        let network = request.ensure.expect("a network");
        assert_eq!((network.name.as_str(), network.subnets), ("vsnet", vec!["10.9.0.0/24".to_owned()]));
    }

    #[test]
    fn an_existing_network_is_not_made() {
        let conf = Conf::parse(r#"{"cniVersion":"0.3.1","name":"n","type":"vswitch","network":"front"}"#);
        let request =
            request(&conf.expect("a configuration"), &environment(), &Assigned::default()).expect("a request");
        assert_eq!((request.network.as_deref(), request.ensure.is_none()), (Some("front"), true));
    }

    #[test]
    fn addresses_of_an_ipam_plugin_go_before_others_and_make_the_network() {
        let conf = Conf::parse(r#"{"cniVersion":"1.0.0","name":"n","type":"vswitch","ipam":{"type":"host-local"}}"#);
        let conf = conf.expect("a configuration");
        let assigned = Assigned {
            addresses: vec!["10.5.0.9/24".to_owned()],
            gateways: vec!["10.5.0.1".to_owned()],
            ..Assigned::default()
        };
        let request = request(&conf, &environment(), &assigned).expect("a request");
        assert_eq!(request.ip.as_deref(), Some("10.5.0.9"));
        let network = request.ensure.expect("a network");
        assert_eq!((network.subnets, network.gateways), (vec!["10.5.0.0/24".to_owned()], vec!["10.5.0.1".to_owned()]));
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        let text = ADD.replace("\"aliases\"", "\"bandwidth\":{\"ingressRate\":5},\"aliases\"");
        let conf = Conf::parse(&text).expect("a configuration");
        let refusal = request(&conf, &environment(), &Assigned::default()).expect_err("refused");
        assert_eq!(refusal.code, code::UNSUPPORTED);
        assert!(refusal.message.contains("`bandwidth`: {\"ingressRate\":5}"), "{}", refusal.message);
    }
}
