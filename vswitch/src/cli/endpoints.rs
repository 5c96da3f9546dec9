//! `attach`, `detach`, `ps`, `inspect`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use time::format_description::well_known::Rfc3339;

use super::arguments::{Attach, AttachFlags, Detach};
use super::failure::Failure;
use super::output::{Output, list, or_dash, print_text, properties};
use crate::api::{AttachRequest, Client, DetachRequest, Detached, EndpointDetails, EndpointView, TrunkVlan, path};

pub async fn attach(client: &mut Client, arguments: Attach, output: Output) -> Result<(), Failure> {
    let netns = resolve(&arguments.netns)?;
    let request = request(arguments.flags, netns.clone());
    let endpoint: EndpointView = client.post("/endpoints", &request).await.map_err(|error| {
        let (sent, typed) = (netns.display().to_string(), arguments.netns.display().to_string());
        Failure::from(error).with_path_as_typed(&sent, &typed)
    })?;
    output.print(&endpoint, |endpoint| format!("{}\n", endpoint.name))
}

/// Builds the request to attach a namespace from the flags of `attach` or `run`.
pub fn request(flags: AttachFlags, netns: PathBuf) -> AttachRequest {
    let connection = flags.connection;
    AttachRequest {
        netns,
        network: flags.network,
        name: flags.name,
        ifname: connection.ifname,
        ip: connection.ip,
        ip6: connection.ip6,
        mac: connection.mac,
        hostname: flags.hostname,
        aliases: connection.alias,
        publish: flags.publish,
        gw_priority: connection.gw_priority,
        options: connection.option.into_iter().collect(),
        vlan: connection.vlan,
        trunk: connection.trunk,
        labels: flags.label.into_iter().collect(),
        ..AttachRequest::default()
    }
}

pub async fn detach(client: &mut Client, arguments: Detach, output: Output) -> Result<(), Failure> {
    let request = DetachRequest {
        endpoint: arguments.target.endpoint,
        netns: arguments.target.netns.as_deref().map(resolve).transpose()?,
        network: arguments.network,
    };
    let detached: Detached = client.post("/detach", &request).await?;
    output.print(&detached, |detached| detached.detached.iter().map(|name| format!("{name}\n")).collect())
}

pub async fn ps(client: &mut Client, filters: &[(String, String)], output: Output) -> Result<(), Failure> {
    let mut endpoints: Vec<EndpointView> = client.get("/endpoints").await?;
    for (key, value) in filters {
        let matches = filter(key, value)?;
        endpoints.retain(|endpoint| matches(endpoint, value));
    }
    let header = ["NAME", "NETWORK", "IPV4", "MAC", "IFNAME", "NETNS", "PUBLISHED"];
    output.rows(
        &endpoints,
        |endpoint| endpoint.name.clone(),
        header,
        |endpoint| {
            let endpoint = endpoint.clone();
            [
                endpoint.name,
                endpoint.network,
                or_dash(endpoint.ipv4),
                or_dash(endpoint.mac),
                or_dash(endpoint.ifname),
                endpoint.netns.display().to_string(),
                list(&endpoint.published),
            ]
        },
    )
}

/// A condition of `ps --filter` on an endpoint, with the value of the filter.
type Filter = fn(&EndpointView, &str) -> bool;

/// Returns the condition with this key, in Docker's words.
fn filter(key: &str, value: &str) -> Result<Filter, Failure> {
    let filter: Filter = match key {
        "name" => |endpoint, value| endpoint.name.contains(value),
        "id" => |endpoint, value| endpoint.id.to_string().starts_with(value),
        "network" => |endpoint, value| endpoint.network == value,
        "owner" => |endpoint, value| endpoint.owner == value,
        "label" => |endpoint, value| match value.split_once('=') {
            Some((key, value)) => endpoint.labels.get(key).is_some_and(|found| found == value),
            None => endpoint.labels.contains_key(value),
        },
        _ => {
            let message = format!("invalid filter `{key}={value}` (name, id, network, label or owner)");
            return Err(Failure::new("invalid_filter", &message));
        }
    };
    Ok(filter)
}

pub async fn inspect(client: &mut Client, endpoint: &str, output: Output) -> Result<(), Failure> {
    let details: EndpointDetails = client.get(&path(&["endpoints", endpoint])).await?;
    if output.quiet {
        return print_text(&format!("{}\n", details.endpoint.id));
    }
    output.print(&details, text)
}

fn text(details: &EndpointDetails) -> String {
    let endpoint = &details.endpoint;
    let labels: Vec<_> = details.endpoint.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let options: Vec<_> = endpoint.options.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let networks: Vec<_> = details
        .networks
        .iter()
        .map(|view| {
            let address = view.ipv4.map(IpAddr::V4).or(view.ipv6.map(IpAddr::V6));
            format!("{} ({} {})", view.network, or_dash(view.ifname.as_ref()), or_dash(address))
        })
        .collect();
    let mut text = properties([
        ("id", endpoint.id.to_string()),
        ("name", endpoint.name.clone()),
        ("network", endpoint.network.clone()),
        ("netns", endpoint.netns.display().to_string()),
        ("interface", or_dash(endpoint.ifname.as_ref())),
        ("mac", or_dash(endpoint.mac.as_ref())),
        ("ipv4", or_dash(endpoint.ipv4)),
        ("gateway", or_dash(endpoint.gateway)),
        ("ipv6", or_dash(endpoint.ipv6)),
        ("ipv6 gateway", or_dash(endpoint.gateway6)),
        ("published", list(&endpoint.published)),
        ("networks", list(&networks)),
        ("mtu", or_dash(endpoint.mtu)),
        ("device", or_dash(details.device.as_ref())),
        ("hooks", or_dash(details.hooks.as_ref())),
        ("hostname", or_dash(details.endpoint.hostname.as_ref())),
        ("aliases", list(&details.endpoint.aliases)),
        ("options", list(&options)),
        ("vlan", endpoint.vlan.to_string()),
        ("trunk", format_trunk(&endpoint.trunk)),
        ("labels", list(&labels)),
        ("owner", if endpoint.owner.is_empty() { "-" } else { &endpoint.owner }.to_owned()),
        ("key", or_dash(endpoint.key.as_ref())),
        ("container", or_dash(endpoint.container.as_ref())),
        ("attached", details.created.format(&Rfc3339).unwrap_or_default()),
    ]);
    if let Some(counters) = &details.counters {
        text += &properties([
            ("received", format!("{} frames, {} bytes", counters.rx_frames, counters.rx_bytes)),
            ("sent", format!("{} frames, {} bytes", counters.tx_frames, counters.tx_bytes)),
            ("drops", super::status::format_drops(counters)),
        ]);
    }
    text
}

/// Formats the VLANs of a trunk as `--trunk` accepts them, or as a dash if the list is empty.
fn format_trunk(vlans: &[TrunkVlan]) -> String {
    let numbers = vlans.iter().filter_map(|vlan| if let TrunkVlan::Id(id) = vlan { Some(id.get()) } else { None });
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    let range = |(first, last): &(u16, u16)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    match vlans {
        [TrunkVlan::All(_), ..] => "all".to_owned(),
        [] => "-".to_owned(),
        _ => ranges.iter().map(range).collect::<Vec<_>>().join(","),
    }
}

fn resolve(typed: &Path) -> Result<PathBuf, Failure> {
    let failure = |error| Failure::new("relative_path", &format!("cannot resolve {}: {error}", typed.display()));
    super::path::resolve_for_daemon(typed).map_err(failure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trunk_is_formatted_as_typed() {
        let vlans = |text: &str| serde_json::from_str::<Vec<TrunkVlan>>(text).expect("VLANs");
        for (json, shown) in [("[]", "-"), ("[10,20,21,22,4094]", "10,20-22,4094"), (r#"["all"]"#, "all")] {
            assert_eq!(format_trunk(&vlans(json)), shown);
            assert_eq!(serde_json::to_string(&vlans(json)).expect("JSON"), json);
        }
    }
}
