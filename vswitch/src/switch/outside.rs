//! What belongs to an endpoint or a network outside of the switch: published ports and the way out, the default route,
//! names.

use std::net::IpAddr;

use vswitch_common::tables::PortNumber;

use super::state::{EndpointEntry, State};
use super::{Switch, SwitchError};

use crate::etc::{Etc, Owner, Written};
use crate::kernel::conntrack::{self, Flows};
use crate::kernel::netlink::Netlink;
use crate::model::{Endpoint, Instance, Network, Protocol, Published};
use crate::outside::{OutsideNetwork, PortForward, Wanted};

/// What the note is about that there is no way out.
const OUTSIDE: &str = "outside";

impl Switch {
    /// Brings masquerade and published ports in line with what there is.
    pub(super) async fn sync_outside(&self) -> Result<(), SwitchError> {
        // What is wanted is looked at in turn: of two at once, the later one sees what the first has seen.
        let _turn = self.outside_turn.lock().await;
        let wanted = wanted(&self.state(), &self.instance, self.vxlan_port);
        self.outside.apply(wanted).await?;
        self.note(OUTSIDE, None);
        Ok(())
    }

    /// The same where nobody waits for it: what cannot be done is noted in `status`.
    pub(super) async fn follow_outside(&self, about: &str) {
        if let Err(error) = self.sync_outside().await {
            tracing::warn!("{about}: no way outside: {error}");
            self.note(OUTSIDE, Some(format!("no way outside: {error}")));
        }
    }

    /// Tries again what could not be done.
    pub(super) async fn retry_outside(&self) -> Result<(), SwitchError> {
        let _leave = self.leave().await?;
        if self.has_note(OUTSIDE) {
            self.follow_outside("another attempt").await;
        }
        Ok(())
    }

    /// Restores what somebody else flushes, for as long as the daemon lives.
    pub fn follow_firewall(&self) -> impl Future<Output = ()> + Send + use<> {
        self.outside.clone().follow()
    }

    /// Opens the published ports of an endpoint.
    pub(super) async fn open_outside(&self, endpoint: &Endpoint) -> Result<(), SwitchError> {
        if endpoint.published.is_empty() {
            return Ok(());
        }
        self.sync_outside().await?;
        self.forget_flows(&endpoint.published).await;
        Ok(())
    }

    /// Closes the published ports of an endpoint. Before it is forgotten: its address may be somebody else's from then on.
    pub(super) async fn close_outside(&self, endpoint: &Endpoint) {
        self.close_host_routes(endpoint).await;
        if endpoint.published.is_empty() {
            return;
        }
        if let Some(entry) = self.state().endpoints.get_mut(&endpoint.id) {
            entry.record.published.clear();
        }
        self.follow_outside(endpoint.name.as_str()).await;
        self.reservations.release(&endpoint.published);
        self.forget_flows(&endpoint.published).await;
    }

    /// Has flows that are under way looked at anew: those of UDP would go on to whoever had the port before.
    async fn forget_flows(&self, ports: &[Published]) {
        let ports = ports.iter().filter(|port| port.protocol != Protocol::Tcp);
        let flows = ports.map(|port| Flows::ToPort {
            protocol: port.protocol.number(),
            port: port.host_port,
            address: port.host_ip.filter(|address| !address.is_unspecified()),
        });
        if let Err(error) = conntrack::forget(flows.collect()).await {
            tracing::warn!("flows to published ports may go on to where they went: {error}");
        }
    }

    /// Brings in line what depends on all networks of an endpoint together: its default route, and where it asks for
    /// names. What cannot be done is logged: the endpoint works without. An endpoint that is in its first network has
    /// been given its default route with the rest: `complete` is for all others.
    pub(super) async fn settle_endpoint(&self, endpoint: &Endpoint, complete: bool) {
        // What is looked at and what is changed go together: of two at once, the later one sees what the first has done.
        let _turn = self.settling.lock().await;
        let (left, nameservers, renewed, elsewhere) = {
            let state = self.state();
            let entries = state.sharing(endpoint);
            let elsewhere: Vec<_> = entries.iter().filter_map(|entry| elsewhere(entry, &entries)).collect();
            // Another namespace may have come to the path before this one was known to be gone.
            let renewed = entries.is_empty()
                && state.endpoints.values().any(|entry| entry.record.netns.path == endpoint.netns.path);
            let nameservers = entries.iter().flat_map(|entry| {
                let network = state.networks.get(&entry.record.network).map(|entry| &entry.record);
                network.map(|network| super::views::nameservers(network, &entry.record)).unwrap_or_default()
            });
            (entries.len(), nameservers.collect::<Vec<IpAddr>>(), renewed, elsewhere)
        };
        for (port, addresses) in elsewhere {
            if let Err(error) = self.datapath.set_addresses_elsewhere(port, &addresses) {
                tracing::warn!("{} cannot speak from its addresses in other networks: {error}", endpoint.name);
            }
        }
        if (left > 1 || left == 1 && complete)
            && let Err(error) = self.follow_gateway(endpoint).await
        {
            tracing::warn!("the default route of {} could not be changed: {error}", endpoint.name);
        }
        if !renewed {
            self.write_etc(endpoint, &nameservers);
        }
    }

    /// Tells whoever enters a named namespace by `ip netns exec` where to ask for names.
    fn write_etc(&self, endpoint: &Endpoint, nameservers: &[IpAddr]) {
        let owner = Owner { instance: self.instance.name(), endpoint: &endpoint.name };
        let path = &endpoint.netns.path;
        let done = if nameservers.is_empty() {
            Etc::default().remove_resolv_conf(path, owner.instance).map(drop)
        } else {
            Etc::default().write_resolv_conf(path, owner, nameservers).map(|written| {
                if let Written::LeftTo(file) = written {
                    tracing::info!("{} is somebody else's, and is left as it is", file.display());
                }
            })
        };
        if let Err(error) = done {
            tracing::warn!("endpoint {}: {error}", endpoint.name);
        }
    }

    /// Gives an endpoint the default routes by the first of its networks. A route that is none of ours stays.
    async fn follow_gateway(&self, endpoint: &Endpoint) -> Result<(), SwitchError> {
        let (connections, ours) = {
            let state = self.state();
            let entries = state.sharing(endpoint);
            let connections: Vec<(Endpoint, Network)> = entries
                .into_iter()
                // Made, not only recorded as such.
                .filter(|entry| entry.port.is_some())
                .filter_map(|entry| {
                    Some((entry.record.clone(), state.networks.get(&entry.record.network)?.record.clone()))
                })
                .collect();
            let ours: Vec<IpAddr> = state.networks.values().flat_map(|entry| entry.record.gateways()).collect();
            (connections, ours)
        };
        let Some((first, _)) = connections.first() else { return Ok(()) };
        let netns = self.open_netns(&first.netns.path).await?;
        if (netns.id().dev, netns.id().inode) != (first.netns.dev, first.netns.inode) {
            return Err(SwitchError::AnotherProcess(first.netns.path.clone()));
        }
        let netlink = tokio::task::block_in_place(|| Netlink::open_in(&netns))?;
        let routes = netlink.routes().await?;
        for ipv6 in [false, true] {
            let by = |(endpoint, network): &(Endpoint, Network)| {
                let address = endpoint.address.as_ref()?;
                let gateway = super::views::gateway(network, endpoint, address, ipv6)?;
                Some((gateway, address.ifname.to_string()))
            };
            let Some((gateway, ifname)) = connections.iter().find_map(by) else { continue };
            let default = routes
                .iter()
                .find(|route| route.destination.prefix_len() == 0 && route.destination.addr().is_ipv6() == ipv6);
            let Some(link) = netlink.link_by_name(&ifname).await? else { continue };
            match default {
                Some(route) if route.gateway == Some(gateway) && route.index == Some(link.index) => {}
                Some(route) if route.gateway.is_none_or(|gateway| !ours.contains(&gateway)) => {}
                _ => netlink.replace_default_route(gateway, link.index).await?,
            }
        }
        Ok(())
    }
}

/// What all networks and endpoints together want of the host's IP stack.
fn wanted(state: &State, instance: &Instance, vxlan_port: u16) -> Wanted {
    let bridges = || state.networks.values().map(|entry| &entry.record).filter(|record| record.driver.is_switched());
    let networks = bridges().map(|network| OutsideNetwork {
        device: instance.host_device(&network.name),
        subnets: network.subnets.iter().map(|config| config.subnet.net()).collect(),
        masquerade: network.bridge.masquerade && !network.internal,
        internal: network.internal,
    });
    let forwards = state.endpoints.values().flat_map(|entry| {
        let record = &entry.record;
        let network = state.networks.get(&record.network).map(|entry| &entry.record);
        let ports = record.published.iter().flat_map(move |port| {
            let addresses = record.address.iter().flat_map(|address| address.ips());
            let addresses = addresses.filter(|to| port.host_ip.is_none_or(|host| host.is_ipv4() == to.is_ipv4()));
            addresses.filter_map(move |to| {
                Some(PortForward {
                    device: instance.host_device(&network?.name),
                    protocol: port.protocol,
                    host_ip: port.host_ip,
                    host_port: port.host_port,
                    to,
                    to_port: port.container_port,
                })
            })
        });
        ports.collect::<Vec<_>>()
    });
    let tunnels = state.networks.values().any(|entry| entry.tunnels.is_some()).then_some(vxlan_port);
    Wanted { networks: networks.collect(), forwards: forwards.collect(), tunnels }
}

/// The port of one connection of an endpoint, and the addresses that it has by the others.
fn elsewhere(entry: &EndpointEntry, all: &[&EndpointEntry]) -> Option<(PortNumber, Vec<IpAddr>)> {
    let others =
        all.iter().filter(|other| other.record.id != entry.record.id || other.record.network != entry.record.network);
    let addresses = others.filter_map(|other| other.record.address.as_ref());
    let addresses = addresses.flat_map(|address| [Some(address.ipv4.into()), address.ipv6.map(Into::into)]);
    entry.port.map(|port| (port.number, addresses.flatten().collect()))
}
