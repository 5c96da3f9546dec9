//! `network create`, `ls`, `inspect`, `rm`, `prune`, `connect`, `disconnect`.

use super::arguments::{NetworkConnect, NetworkCreate};
use super::failure::Failure;
use super::output::{Output, list, print_json};
use crate::api::{
    Client, ConnectRequest, Detached, DisconnectRequest, EndpointView, KeptNetwork, NetworkDetails, NetworkRequest,
    NetworkView, Pruned, path,
};
use crate::model::{SHORT_DIGITS, predefined};

pub async fn create(client: &mut Client, arguments: NetworkCreate, output: Output) -> Result<(), Failure> {
    let request = NetworkRequest {
        name: arguments.name,
        driver: arguments.driver,
        subnets: arguments.subnet,
        gateways: arguments.gateway,
        ip_ranges: arguments.ip_range,
        aux_addresses: arguments.aux_address.into_iter().collect(),
        internal: arguments.internal,
        ipv4: Some(arguments.ipv4),
        ipv6: arguments.ipv6,
        options: arguments.option.into_iter().collect(),
        labels: arguments.label.into_iter().collect(),
        ..NetworkRequest::default()
    };
    let network: NetworkView = client.post("/networks", &request).await?;
    output.print(&network, |network| format!("{}\n", network.id))
}

pub async fn ls(client: &mut Client, filters: &[(String, String)], output: Output) -> Result<(), Failure> {
    let mut networks: Vec<NetworkView> = client.get("/networks").await?;
    for (key, value) in filters {
        let filter = Filter::parse(key, value)?;
        networks.retain(|network| filter.matches(network));
    }
    let header = ["NETWORK ID", "NAME", "DRIVER", "SUBNETS", "ENDPOINTS"];
    output.rows(
        &networks,
        |network| network.id.short(),
        header,
        |network| {
            let subnets: Vec<_> = network.subnets.iter().map(|subnet| subnet.subnet).collect();
            [
                network.id.short(),
                network.name.clone(),
                network.driver.to_string(),
                list(&subnets),
                network.endpoints.to_string(),
            ]
        },
    )
}

pub async fn inspect(client: &mut Client, networks: &[String]) -> Result<(), Failure> {
    let mut details: Vec<NetworkDetails> = Vec::new();
    for network in networks {
        details.push(client.get(&path(&["networks", network])).await?);
    }
    print_json(&details)
}

pub async fn prune(client: &mut Client, force: bool, output: Output) -> Result<(), Failure> {
    if !force {
        eprint!("WARNING! This will remove all networks without endpoints. Are you sure you want to continue? [y/N] ");
        let mut answer = String::new();
        let read = std::io::stdin().read_line(&mut answer);
        if !answer.ends_with('\n') {
            // The input ended without a newline, so the line of the question is still open.
            eprintln!();
        }
        if read.is_err() || !matches!(answer.trim(), "y" | "Y" | "yes") {
            return Err(Failure::new("not_confirmed", "nothing is removed (answer y, or use --force)"));
        }
    }
    let pruned: Pruned = client.post("/networks/prune", &()).await?;
    output.print(&pruned, |pruned| pruned.deleted.iter().map(|name| format!("{name}\n")).collect())?;
    // As in `rm`: networks that can be removed are removed, and the first failure is reported.
    let Some(KeptNetwork { network, error }) = pruned.kept.first() else { return Ok(()) };
    Err(Failure::new(&error.code, &format!("network {network} is kept: {}", error.message)))
}

pub async fn connect(client: &mut Client, arguments: NetworkConnect, output: Output) -> Result<(), Failure> {
    let connection = arguments.connection;
    let request = ConnectRequest {
        endpoint: arguments.endpoint,
        ifname: connection.ifname,
        ip: connection.ip,
        ip6: connection.ip6,
        mac: connection.mac,
        aliases: connection.alias,
        gw_priority: connection.gw_priority,
        options: connection.option.into_iter().collect(),
        vlan: connection.vlan,
        trunk: connection.trunk,
    };
    let path = path(&["networks", &arguments.network, "connect"]);
    let endpoint: EndpointView = client.post(&path, &request).await?;
    output.print(&endpoint, |endpoint| format!("{}\n", endpoint.name))
}

pub async fn disconnect(client: &mut Client, network: &str, endpoint: String, output: Output) -> Result<(), Failure> {
    let path = path(&["networks", network, "disconnect"]);
    let detached: Detached = client.post(&path, &DisconnectRequest { endpoint }).await?;
    output.print(&detached, |detached| detached.detached.iter().map(|name| format!("{name}\n")).collect())
}

/// A `--filter` of `network ls`, with the keys of `docker network ls`.
enum Filter<'a> {
    Name(&'a str),
    Id(&'a str),
    Driver(&'a str),
    /// A label as `KEY` or `KEY=VALUE`.
    Label(&'a str),
    Internal(bool),
    /// Whether the network is a predefined one.
    Builtin(bool),
    /// Whether the network has no endpoints.
    Dangling(bool),
}

impl<'a> Filter<'a> {
    fn parse(key: &str, value: &'a str) -> Result<Self, Failure> {
        let boolean = || match value {
            "true" | "1" | "yes" => Some(true),
            "false" | "0" | "no" => Some(false),
            _ => None,
        };
        let filter = match (key, value) {
            ("name", _) => Some(Self::Name(value)),
            ("id", _) => Some(Self::Id(value)),
            ("driver", _) => Some(Self::Driver(value)),
            ("label", _) => Some(Self::Label(value)),
            ("internal", _) => boolean().map(Self::Internal),
            ("dangling", _) => boolean().map(Self::Dangling),
            ("type", "builtin" | "custom") => Some(Self::Builtin(value == "builtin")),
            _ => None,
        };
        filter.ok_or_else(|| {
            let message = format!(
                "invalid filter `{key}={value}` (name, id, driver, label, internal=true|false, dangling=true|false or type=builtin|custom)"
            );
            Failure::new("invalid_filter", &message)
        })
    }

    fn matches(&self, network: &NetworkView) -> bool {
        match self {
            Self::Name(part) => network.name.contains(part),
            Self::Id(prefix) => network.id.to_string().starts_with(prefix),
            Self::Driver(name) => network.driver.name() == *name,
            Self::Label(label) => match label.split_once('=') {
                Some((key, value)) => network.labels.get(key).is_some_and(|found| found == value),
                None => network.labels.contains_key(*label),
            },
            Self::Internal(internal) => network.internal == *internal,
            Self::Builtin(builtin) => predefined().iter().any(|(name, _)| *name == network.name) == *builtin,
            Self::Dangling(dangling) => (network.endpoints == 0) == *dangling,
        }
    }
}

pub async fn rm(client: &mut Client, networks: &[String], output: Output) -> Result<(), Failure> {
    // All names are looked up first, so that a mistyped name removes nothing.
    for network in networks {
        let details: NetworkDetails = client.get(&path(&["networks", network])).await?;
        let id = details.network.id.to_string();
        // The daemon shows a network by the start of its id, and removes none by it.
        if details.network.name != *network && (network.len() < SHORT_DIGITS || !id.starts_with(network)) {
            let message =
                format!("no network `{network}` (to remove one by its id, give at least {SHORT_DIGITS} digits)");
            return Err(Failure::new("network_not_found", &message));
        }
    }
    let (mut removed, mut failed) = (Vec::new(), None);
    // From here on as Docker does: networks that can be removed are removed, and the first failure
    // is reported.
    for network in networks {
        match client.delete::<String>(&path(&["networks", network])).await {
            Ok(name) => removed.push(name),
            Err(error) => drop(failed.get_or_insert(error)),
        }
    }
    if !removed.is_empty() {
        output.print(&removed, |removed| removed.iter().map(|name| format!("{name}\n")).collect())?;
    }
    failed.map_or(Ok(()), |error| Err(error.into()))
}
