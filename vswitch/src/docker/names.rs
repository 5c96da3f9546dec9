//! The names of Docker's containers and networks. The plugin protocol has ids alone, so Docker's own
//! API is asked after each event: it does not answer about a container that it is starting. Without
//! an answer everything works, under other names.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use serde_json::Value;
use tokio::sync::Notify;

use super::OWNER;
use super::engine::{escaped, get, request};
use crate::model::{EngineKey, Network};
use crate::switch::{NewNames, Switch, SwitchError};

/// Docker's events about names.
const EVENTS: &str = "/events?filters=%7B%22event%22%3A%5B%22rename%22%2C%22connect%22%2C%22create%22%5D%7D";
/// The pause before Docker is asked again.
const RETRY: Duration = Duration::from_secs(2);

/// Gives a network the name that it has for Docker. Another network may have the name: then it keeps
/// its own.
async fn rename_network(switch: &Switch, network: &Network, name: &str) {
    let Ok(name) = name.parse() else { return };
    if let Err(error) = switch.rename_network(&network.id.to_string(), name).await {
        tracing::debug!("Docker's network {} keeps its name: {error}", network.name);
    }
}

/// Follows the names of containers and networks, for as long as the daemon lives. Begins when Docker
/// asks for the plugin, or at once if it has networks here.
pub async fn follow(switch: Arc<Switch>, activated: Arc<Notify>) {
    let has_networks = switch
        .networks()
        .iter()
        .any(|network| network.network.engine.as_ref().is_some_and(|engine| engine.owner == OWNER));
    if !has_networks {
        activated.notified().await;
    }
    loop {
        if let Ok(mut events) = request(EVENTS).await {
            read_all(&switch).await;
            let mut line = Vec::new();
            while let Some(Ok(frame)) = events.body_mut().frame().await {
                line.extend_from_slice(&frame.into_data().unwrap_or_default());
                while let Some(end) = line.iter().position(|byte| *byte == b'\n') {
                    let event: Vec<u8> = line.drain(..=end).collect();
                    if let Ok(event) = serde_json::from_slice(&event) {
                        learn(&switch, &event).await;
                    }
                }
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Reads the names of all containers and networks.
async fn read_all(switch: &Switch) {
    for network in get("/networks").await.as_ref().and_then(Value::as_array).into_iter().flatten() {
        learn_network(switch, network).await;
    }
    for container in get("/containers/json").await.as_ref().and_then(Value::as_array).into_iter().flatten() {
        if let Some(id) = container["Id"].as_str() {
            learn_container(switch, id).await;
        }
    }
}

async fn learn(switch: &Switch, event: &Value) {
    let actor = &event["Actor"];
    let id = actor["ID"].as_str().unwrap_or_default();
    match (event["Type"].as_str(), event["Action"].as_str()) {
        (Some("container"), Some("rename")) => learn_container(switch, id).await,
        (Some("network"), Some("connect")) => {
            learn_container(switch, actor["Attributes"]["container"].as_str().unwrap_or_default()).await;
        }
        (Some("network"), Some("create")) => {
            if let Some(network) = get(&format!("/networks/{}", escaped(id))).await {
                learn_network(switch, &network).await;
            }
        }
        _ => {}
    }
}

async fn learn_network(switch: &Switch, network: &Value) {
    let id = network["Id"].as_str().unwrap_or_default();
    if let (Some(found), Some(name)) = (switch.network_of(OWNER, id), network["Name"].as_str())
        && found.network.name.as_str() != name
    {
        rename_network(switch, &found.network, name).await;
    }
}

/// Reads the names that a container has in its networks.
async fn learn_container(switch: &Switch, id: &str) {
    let Some(container) = get(&format!("/containers/{}/json", escaped(id))).await else { return };
    let Some(name) = container["Name"].as_str().map(|name| name.trim_start_matches('/')) else { return };
    let hostname = text(&container["Config"]["Hostname"]);
    for (_, network) in container["NetworkSettings"]["Networks"].as_object().into_iter().flatten() {
        let Ok(key) = EngineKey::new(OWNER, network["EndpointID"].as_str().unwrap_or_default()) else { continue };
        let Some(found) = switch.owned(&key) else { continue };
        let mut aliases: Vec<String> = [&network["Aliases"], &network["DNSNames"]]
            .into_iter()
            .flat_map(|names| names.as_array().into_iter().flatten())
            .filter_map(text)
            .filter(|alias| alias != name && Some(alias) != hostname.as_ref())
            .collect();
        aliases.sort();
        aliases.dedup();
        let names = NewNames {
            name: name.parse().ok().filter(|name| *name != found.endpoint.name),
            aliases: Some(aliases).filter(|aliases| *aliases != found.endpoint.aliases),
            hostname: hostname.clone().filter(|hostname| found.endpoint.hostname.as_ref() != Some(hostname)),
        };
        if names.name.is_none() && names.aliases.is_none() && names.hostname.is_none() {
            continue;
        }
        match switch.rename_endpoint(&key.to_string(), names).await {
            // It was removed meanwhile.
            Ok(_) | Err(SwitchError::EndpointNotFound(_)) => {}
            Err(error) => tracing::warn!("Docker's container {name} has another name here: {error}"),
        }
    }
}

fn text(value: &Value) -> Option<String> {
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}
