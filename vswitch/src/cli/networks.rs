//! `network create`, `ls`, `inspect`, `rm`.

use super::arguments::NetworkCreate;
use super::failure::Failure;
use super::output::{Output, json, list, say};
use crate::api::{Client, NetworkDetails, NetworkRequest, NetworkView, path};

pub async fn create(client: &mut Client, arguments: NetworkCreate, output: Output) -> Result<(), Failure> {
    let request = NetworkRequest {
        name: arguments.name,
        driver: arguments.driver,
        subnets: arguments.subnet,
        gateways: arguments.gateway,
        ip_ranges: arguments.ip_range,
        options: arguments.option.into_iter().collect(),
        labels: arguments.label.into_iter().collect(),
    };
    let network: NetworkView = client.post("/networks", &request).await?;
    output.print(&network, |network| format!("{}\n", network.id))
}

pub async fn ls(client: &mut Client, output: Output) -> Result<(), Failure> {
    let networks: Vec<NetworkView> = client.get("/networks").await?;
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
    json(&details)
}

pub async fn rm(client: &mut Client, networks: &[String]) -> Result<(), Failure> {
    for network in networks {
        let removed: String = client.delete(&path(&["networks", network])).await?;
        say(&format!("{removed}\n"))?;
    }
    Ok(())
}
