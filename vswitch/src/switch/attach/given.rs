//! What `attach` and `network connect` are given.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use crate::api::{AttachRequest, ConnectRequest};
use crate::model::{Endpoint, EndpointName, EndpointOptions, InterfaceName, PublishSpec, StationMac};
use crate::switch::SwitchError;

/// The network that nobody has to name.
const DEFAULT_NETWORK: &str = "bridge";

/// What was given, in types that cannot be wrong.
pub(super) struct Given {
    pub netns: PathBuf,
    pub network: String,
    pub name: EndpointName,
    pub ifname: Option<InterfaceName>,
    pub ip: Option<Ipv4Addr>,
    pub ip6: Option<Ipv6Addr>,
    pub mac: Option<StationMac>,
    pub hostname: Option<String>,
    pub aliases: Vec<String>,
    pub publish: Vec<PublishSpec>,
    pub gw_priority: i32,
    pub options: BTreeMap<String, String>,
    pub port: EndpointOptions,
    pub labels: BTreeMap<String, String>,
}

impl Given {
    /// Whether it is to have this very address.
    pub fn asks_for(&self, address: IpAddr) -> bool {
        self.ip.map(IpAddr::from) == Some(address) || self.ip6.map(IpAddr::from) == Some(address)
    }

    pub fn of_attach(request: AttachRequest) -> Result<Self, SwitchError> {
        Ok(Self {
            name: match &request.name {
                Some(name) => name.parse()?,
                None => default_name(&request.netns)?,
            },
            netns: request.netns,
            network: request.network.unwrap_or_else(|| DEFAULT_NETWORK.to_owned()),
            ifname: request.ifname.as_deref().map(str::parse).transpose()?,
            ip: address(request.ip.as_ref())?,
            ip6: address(request.ip6.as_ref())?,
            mac: request.mac.as_deref().map(str::parse).transpose()?,
            hostname: request.hostname,
            aliases: request.aliases,
            publish: request.publish.iter().map(|text| text.parse()).collect::<Result<_, _>>()?,
            gw_priority: request.gw_priority,
            port: port(&request.options, request.vlan.as_deref(), request.trunk.as_deref())?,
            options: request.options,
            labels: request.labels,
        })
    }

    pub fn of_connect(network: String, request: ConnectRequest, endpoint: Endpoint) -> Result<Self, SwitchError> {
        Ok(Self {
            netns: endpoint.netns.path,
            network,
            name: endpoint.name,
            ifname: request.ifname.as_deref().map(str::parse).transpose()?,
            ip: address(request.ip.as_ref())?,
            ip6: address(request.ip6.as_ref())?,
            mac: request.mac.as_deref().map(str::parse).transpose()?,
            hostname: endpoint.hostname,
            aliases: request.aliases,
            publish: Vec::new(),
            gw_priority: request.gw_priority,
            port: port(&request.options, request.vlan.as_deref(), request.trunk.as_deref())?,
            options: request.options,
            labels: endpoint.labels,
        })
    }
}

fn address<T: std::str::FromStr>(text: Option<&String>) -> Result<Option<T>, SwitchError> {
    text.map(|text| text.parse().map_err(|_| SwitchError::Address(text.clone()))).transpose()
}

/// What an endpoint is asked to be.
fn port(
    options: &BTreeMap<String, String>,
    vlan: Option<&str>,
    trunk: Option<&str>,
) -> Result<EndpointOptions, SwitchError> {
    Ok(EndpointOptions {
        vlan: vlan.map(str::parse).transpose()?,
        trunk: trunk.map(str::parse).transpose()?.unwrap_or_default(),
        ..EndpointOptions::parse(options)?
    })
}

/// The last part of the path; for the namespace of a process, whose path ends in `net`, `pid-` and its number.
fn default_name(path: &Path) -> Result<EndpointName, SwitchError> {
    let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
    let name = match &parts[..] {
        [root, proc, pid, .., ns, net] if root == "/" && proc == "proc" && ns == "ns" && net == "net" => {
            format!("pid-{pid}")
        }
        [.., last] => last.to_string(),
        [] => String::new(),
    };
    name.parse().map_err(|_| SwitchError::NoDefaultName { path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_name_is_the_last_part_of_the_path() {
        for (path, name) in [
            ("/run/netns/web", "web"),
            ("/run/docker/netns/3f2a", "3f2a"),
            ("/proc/4711/ns/net", "pid-4711"),
            ("/proc/4711/task/4712/ns/net", "pid-4711"),
            ("/srv/proc/1/ns/net", "net"),
        ] {
            assert_eq!(default_name(Path::new(path)).expect("a name").as_str(), name);
        }
        for path in ["/", "/run/netns/my container", "/run/netns/-x"] {
            assert!(matches!(default_name(Path::new(path)), Err(SwitchError::NoDefaultName { .. })), "{path}");
        }
    }
}
