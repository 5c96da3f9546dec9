//! Follows what no event of the kernel reports: the host's stations on uplinks, and the routes and
//! addresses by which the host and the endpoints of a network with an uplink reach each other.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use vswitch_common::Mac;

use crate::kernel::netlink::{Netlink, Route};
use crate::model::{Endpoint, EndpointId, Network, NetworkId, Phase};
use crate::plan::apply::apply;
use crate::plan::{self, HostStep};
use crate::switch::error::SwitchError;
use crate::switch::macvlan::Macvlan;
use crate::switch::state::UplinkPort;

/// The interval at which the interfaces are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// A bridge network with an uplink whose interface exists.
#[derive(Clone, Debug)]
struct Bridged {
    network: Network,
    uplink: UplinkPort,
    endpoints: Vec<Endpoint>,
}

impl Macvlan {
    /// Follows the interfaces of networks, for as long as the daemon lives.
    pub async fn follow_interfaces(self: Arc<Self>) {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut strict, mut failing) = (None, false);
        loop {
            look.tick().await;
            match self.look_at_interfaces(&mut strict).await {
                Ok(()) | Err(SwitchError::ShuttingDown) => failing = false,
                Err(error) => {
                    if !failing {
                        tracing::warn!("networks do not follow their interfaces: {error}");
                    }
                    (strict, failing) = (None, true);
                }
            }
        }
    }

    /// `strict` is a connection for lists of one link, opened at its first use.
    async fn look_at_interfaces(&self, strict: &mut Option<Netlink>) -> Result<(), SwitchError> {
        let _change = self.context.begin_change().await?;
        // Endpoints whose attach began before their network's MTU changed, and those that could not
        // be reached then.
        let outdated = self.context.state().outdated_mtus();
        self.context.fit_networks(outdated).await?;
        let bridged = self.bridged();
        if bridged.is_empty() {
            return Ok(());
        }
        let strict = match strict {
            Some(strict) => strict,
            None => strict.insert(Netlink::open_strict()?),
        };
        let routes = self.context.netlink.routes().await?;
        for Bridged { network, uplink, endpoints } in bridged {
            self.follow_stations(&uplink, strict).await?;
            let device = self.context.instance.host_device(network.device_name());
            // A device that was removed by hand is created again.
            let Some(device) = self.context.netlink.link_by_name(&device).await?.filter(|link| link.up) else {
                continue;
            };
            self.follow_proxies(&network, &uplink, device.index).await?;
            for endpoint in endpoints.iter().filter(|endpoint| lacks_route(endpoint, device.index, &routes)) {
                self.open_host_routes(endpoint.id, network.id).await?;
            }
        }
        Ok(())
    }

    /// Returns the bridge networks with an uplink, with their running endpoints.
    fn bridged(&self) -> Vec<Bridged> {
        let state = self.context.state();
        let networks = state.networks.values().filter(|entry| entry.ready && entry.record.uplink().is_some());
        let bridged = networks.filter_map(|entry| {
            let running = state.endpoints_of(entry.record.id).filter(|endpoint| endpoint.port.is_some());
            let running = running.filter(|endpoint| endpoint.record.phase == Phase::Attached);
            let endpoints = running.map(|endpoint| endpoint.record.clone()).collect();
            Some(Bridged { network: entry.record.clone(), uplink: entry.uplink.clone()?, endpoints })
        });
        bridged.collect()
    }

    /// Tells the datapath which stations the host has on an uplink: frames for them are not flooded.
    async fn follow_stations(&self, uplink: &UplinkPort, strict: &Netlink) -> Result<(), SwitchError> {
        let stations = strict.stations(uplink.port.ifindex).await?;
        let stations: BTreeSet<Mac> = stations.into_iter().filter(|mac| *mac != uplink.mac).collect();
        let number = uplink.port.number;
        self.context.in_datapath(move |datapath| datapath.set_host_stations(number, &stations)).await
    }

    /// Makes the host device answer the endpoints' neighbor solicitations for the IPv6 addresses
    /// that the uplink's interface has in the network. In IPv4 the kernel does so by itself.
    async fn follow_proxies(&self, network: &Network, uplink: &UplinkPort, device: u32) -> Result<(), SwitchError> {
        if network.internal || !network.subnets.iter().any(|config| config.subnet.is_ipv6()) {
            return Ok(());
        }
        let addresses = self.context.netlink.addresses(Some(uplink.port.ifindex)).await?;
        let addresses = addresses.into_iter().map(|(_, address)| address.addr());
        let in_network = addresses.filter(|address| address.is_ipv6() && network.subnet_of(*address).is_some());
        let wanted: BTreeSet<IpAddr> = in_network.collect();
        let there: BTreeSet<IpAddr> = self.context.netlink.proxies(device).await?.into_iter().collect();
        for address in wanted.difference(&there) {
            self.context.netlink.add_proxy(device, *address).await?;
        }
        for address in there.difference(&wanted) {
            self.context.netlink.remove_proxy(device, *address).await?;
        }
        Ok(())
    }

    /// Adds the host's routes to an endpoint again, unless the endpoint is being detached.
    async fn open_host_routes(&self, id: EndpointId, network: NetworkId) -> Result<(), SwitchError> {
        let Some(exclusive) = self.context.state().endpoints.get(&id).map(|entry| entry.exclusive.clone()) else {
            return Ok(());
        };
        let _exclusive = exclusive.lock().await;
        let found = {
            let state = self.context.state();
            let endpoint = state.endpoints.get(&id).filter(|entry| entry.port.is_some());
            endpoint
                .map(|entry| entry.record.clone())
                .zip(state.networks.get(&network).map(|entry| entry.record.clone()))
        };
        let Some((endpoint, network)) = found else { return Ok(()) };
        let facts = self.context.facts_of(&network, &endpoint);
        let mut plan = plan::endpoint(&self.context.instance, &network, &endpoint, facts).host;
        plan.retain(|step| matches!(step, HostStep::HostRoute { .. }));
        if let Err(error) = apply(&plan, self.context.scene()).await {
            // The device disappeared meanwhile. The next look finds it again.
            tracing::debug!("no routes to endpoint {} yet: {error}", endpoint.name);
        }
        Ok(())
    }
}

/// Returns whether a route of the host to an endpoint is missing.
fn lacks_route(endpoint: &Endpoint, device: u32, routes: &[Route]) -> bool {
    let has = |ip: IpAddr| routes.iter().any(|route| route.index == Some(device) && route.destination == ip.into());
    let mut ips = endpoint.address.iter().flat_map(|address| address.ips());
    endpoint.port.reaches_host() && ips.any(|ip| !has(ip))
}
