//! `attach`: a namespace becomes an endpoint.

use std::net::Ipv4Addr;
use std::path::Path;

use time::OffsetDateTime;

use super::state::{PortHandle, State, Wanted};
use super::{Switch, SwitchError};
use crate::api::{AttachRequest, EndpointView};
use crate::apply::{ApplyError, Container, Made, Scene, apply};
use crate::drivers::{self, EndpointFacts};
use crate::kernel::netns::Netns;
use crate::model::{
    Driver, Endpoint, EndpointAddress, EndpointId, EndpointName, InterfaceName, NetnsRecord, Network, Phase, StationMac,
};
use crate::store::Change;

/// The network and the interface that nobody has to name.
const DEFAULT_NETWORK: &str = "bridge";
const DEFAULT_INTERFACE: &str = "eth0";

impl Switch {
    /// Attaches a namespace. When this returns, frames flow; where it fails, nothing has changed.
    ///
    /// # Errors
    /// What is wrong with the request, or what the machine refused.
    pub async fn attach(&self, request: AttachRequest) -> Result<EndpointView, SwitchError> {
        let _leave = self.leave().await?;
        let given = Given::parse(&request)?;
        let netns = self.open_netns(&request.netns).await?;
        let host_addresses = self.host_addresses(&request).await?;

        let (endpoint, network, _exclusive, recorded) = {
            let mut state = self.state();
            let wanted = wanted(&state, given, &request, &netns, host_addresses)?;
            let (endpoint, network, exclusive) = state.admit_endpoint(wanted)?;
            let recorded = self.store.commit(vec![Change::PutEndpoint(endpoint.clone())]);
            (endpoint, network, exclusive, recorded)
        };
        if let Err(error) = recorded.await {
            self.forget(endpoint.id).await;
            return Err(error.into());
        }
        match self.make(&network, &endpoint, netns).await {
            Ok(made) => {
                let view = self.complete(endpoint, &network, &made);
                tracing::info!("endpoint {} is attached to {} at {}", view.name, view.network, view.netns.display());
                Ok(view)
            }
            Err(error) => {
                self.forget(endpoint.id).await;
                Err(error.into())
            }
        }
    }

    /// Makes what an endpoint needs in the kernel, or finishes what is half made.
    pub(super) async fn make(&self, network: &Network, endpoint: &Endpoint, netns: Netns) -> Result<Made, ApplyError> {
        let path = endpoint.netns.path.clone();
        let container = tokio::task::block_in_place(|| Container::open(netns, &path))?;
        let xdp_uplink = {
            let state = self.state();
            let uplink = state.networks.get(&network.id).and_then(|entry| entry.uplink.as_ref());
            uplink.is_some_and(|uplink| uplink.xdp)
        };
        let facts = EndpointFacts { mode: self.mode, xdp_uplink };
        let plan = drivers::plan(&self.instance, network, endpoint, facts);
        apply(&plan, Scene { container: Some(&container), ..self.scene() }).await
    }

    /// Shows the endpoint to everybody.
    pub(super) fn complete(&self, mut endpoint: Endpoint, network: &Network, made: &Made) -> EndpointView {
        endpoint.phase = Phase::Attached;
        let view = super::views::endpoint(&endpoint, network);
        let mut state = self.state();
        // That it is all there can be seen, so nobody waits for the disk.
        self.store.note(vec![Change::PutEndpoint(endpoint.clone())]);
        if let Some(entry) = state.endpoints.get_mut(&endpoint.id) {
            entry.record = endpoint;
            entry.port = made.port.map(|(ifindex, number)| PortHandle { ifindex, number });
        }
        view
    }

    /// Takes an endpoint out of the record and gives its addresses free: there is nothing of it in the kernel.
    pub(super) async fn forget(&self, id: EndpointId) {
        let removed = self.store.commit(vec![Change::RemoveEndpoint(id)]);
        if let Err(error) = removed.await {
            // It will be found without a device, or in a namespace that is gone, and be released then.
            tracing::warn!("{error}");
        }
        self.state().endpoints.remove(&id);
    }

    /// The addresses that the host itself has on the wire of the network, where it has one.
    async fn host_addresses(&self, request: &AttachRequest) -> Result<Vec<Ipv4Addr>, SwitchError> {
        let has_uplink = {
            let state = self.state();
            let network = state.network(request.network.as_deref().unwrap_or(DEFAULT_NETWORK))?;
            network.record.bridge.uplink.is_some()
        };
        if !has_uplink {
            return Ok(Vec::new());
        }
        let addresses = self.netlink.addresses(None).await?;
        let ipv4 = addresses.into_iter().filter_map(|(_, address)| match address.addr() {
            std::net::IpAddr::V4(address) => Some(address),
            std::net::IpAddr::V6(_) => None,
        });
        Ok(ipv4.collect())
    }
}

/// What was given, in types that cannot be wrong.
struct Given {
    name: EndpointName,
    ifname: InterfaceName,
    ip: Option<Ipv4Addr>,
    mac: Option<StationMac>,
}

impl Given {
    fn parse(request: &AttachRequest) -> Result<Self, SwitchError> {
        let ip = |text: &String| text.parse().map_err(|_| SwitchError::Address(text.clone()));
        Ok(Self {
            name: match &request.name {
                Some(name) => name.parse()?,
                None => default_name(&request.netns)?,
            },
            ifname: request.ifname.as_deref().unwrap_or(DEFAULT_INTERFACE).parse()?,
            ip: request.ip.as_ref().map(ip).transpose()?,
            mac: request.mac.as_deref().map(str::parse).transpose()?,
        })
    }
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

fn wanted(
    state: &State,
    given: Given,
    request: &AttachRequest,
    netns: &Netns,
    taken: Vec<Ipv4Addr>,
) -> Result<Wanted, SwitchError> {
    let network = state.network(request.network.as_deref().unwrap_or(DEFAULT_NETWORK))?;
    let (record, mtu) = (&network.record, network.mtu);
    let address = match record.driver {
        Driver::Bridge => Some(EndpointAddress {
            ifname: given.ifname,
            // Both are given with the rest, when the endpoint is admitted.
            mac: StationMac::generated(&record.id, given.name.as_str(), 0),
            ipv4: Ipv4Addr::UNSPECIFIED,
            mtu,
        }),
        Driver::Host => return Err(SwitchError::HostNetwork(record.name.clone())),
        Driver::None => {
            let options =
                [("--ifname", request.ifname.is_some()), ("--ip", given.ip.is_some()), ("--mac", given.mac.is_some())];
            if let Some((option, _)) = options.into_iter().find(|(_, given)| *given) {
                return Err(SwitchError::NoInterface { option, network: record.name.clone() });
            }
            None
        }
    };
    let id = netns.id();
    let endpoint = Endpoint {
        id: EndpointId::random()?,
        name: given.name,
        network: record.id,
        netns: NetnsRecord { path: request.netns.clone(), dev: id.dev, inode: id.inode },
        address,
        hostname: request.hostname.clone(),
        aliases: request.aliases.clone(),
        labels: request.labels.clone(),
        created: now(),
        phase: Phase::Attaching,
    };
    Ok(Wanted { endpoint, ip: given.ip, mac: given.mac, taken })
}

/// Now, to the second: what is recorded and shown needs no more.
pub(super) fn now() -> OffsetDateTime {
    let now = OffsetDateTime::now_utc();
    now.replace_nanosecond(0).unwrap_or(now)
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
