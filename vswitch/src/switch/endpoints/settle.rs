//! The settings that all networks of an endpoint share: the default route, the DNS servers, and the
//! addresses that it may send from in other networks.

use std::net::IpAddr;

use vswitch_common::tables::PortNumber;

use crate::etc_files::{Etc, Owner, WriteOutcome};
use crate::kernel::netlink::{Netlink, SourceRoute};
use crate::model::{Endpoint, EndpointAddress, Network};
use crate::switch::endpoints::Endpoints;
use crate::switch::error::SwitchError;
use crate::switch::info::{gateway, nameservers};
use crate::switch::state::EndpointEntry;

impl Endpoints {
    /// Updates the settings that an endpoint's networks share: default route, DNS servers,
    /// addresses in other networks. A failure is logged, because the endpoint works without them.
    /// An endpoint in its first network got its default route from the plan; `complete` is true for
    /// all others.
    pub async fn settle_endpoint(&self, endpoint: &Endpoint, complete: bool) {
        // Reads and changes under one lock, so that the later of two calls sees the result of the
        // earlier.
        let _turn = self.settling.lock().await;
        let (left, nameservers, renewed, elsewhere) = {
            let state = self.context.state();
            let entries = state.sharing(endpoint);
            let elsewhere: Vec<_> = entries.iter().filter_map(|entry| elsewhere(entry, &entries)).collect();
            // A new namespace may be attached at the same path before the old one is known to be
            // gone.
            let renewed = entries.is_empty()
                && state.endpoints.values().any(|entry| entry.record.netns.path == endpoint.netns.path);
            let nameservers = entries.iter().flat_map(|entry| {
                let network = state.networks.get(&entry.record.network).map(|entry| &entry.record);
                network.map(|network| nameservers(network, &entry.record)).unwrap_or_default()
            });
            (entries.len(), nameservers.collect::<Vec<IpAddr>>(), renewed, elsewhere)
        };
        for (port, addresses) in elsewhere {
            if let Err(error) = self.context.datapath.set_addresses_elsewhere(port, &addresses) {
                tracing::warn!("{} cannot speak from its addresses in other networks: {error}", endpoint.name);
            }
        }
        // Another program sets the routes of a bare interface, and of one that an engine moves.
        let ours = endpoint.left().is_none() && !endpoint.bare;
        if ours
            && (left > 1 || left == 1 && complete)
            && let Err(error) = self.follow_gateway(endpoint).await
        {
            tracing::warn!("the default route of {} could not be changed: {error}", endpoint.name);
        }
        if left > 1 || left == 1 && complete {
            self.nat.follow_default_route(endpoint).await;
        }
        if !renewed && ours {
            self.write_etc(endpoint, &nameservers);
        }
    }

    /// Writes the DNS servers for `ip netns exec` into /etc/netns, for a named namespace.
    fn write_etc(&self, endpoint: &Endpoint, nameservers: &[IpAddr]) {
        let owner = Owner { instance: self.context.instance.name(), endpoint: &endpoint.name };
        let path = &endpoint.netns.path;
        let done = if nameservers.is_empty() {
            Etc::default().remove_resolv_conf(path, owner.instance).map(drop)
        } else {
            Etc::default().write_resolv_conf(path, owner, nameservers).map(|written| {
                if let WriteOutcome::Foreign(file) = written {
                    tracing::info!("{} was written by another program, and stays unchanged", file.display());
                }
            })
        };
        if let Err(error) = done {
            tracing::warn!("endpoint {}: {error}", endpoint.name);
        }
    }

    /// Makes packets from an endpoint's address in a network leave by that network, where several
    /// networks have a way out. Without that, the answers of a published port would take the default
    /// route, which may lead through another network, and strict reverse path filters would drop
    /// them.
    async fn follow_sources(&self, netlink: &Netlink, connections: &[(Endpoint, Network)]) -> Result<(), SwitchError> {
        let mut wanted = Vec::new();
        for ipv6 in [false, true] {
            let mut of_family = Vec::new();
            for (endpoint, network) in connections {
                let Some(address) = &endpoint.address else { continue };
                let Some(gateway) = gateway(network, endpoint, address, ipv6) else { continue };
                let own = address.ips().find(|ip| ip.is_ipv6() == ipv6);
                let Some((source, config)) = own.and_then(|own| Some((own, network.subnet_of(own)?))) else { continue };
                let Some(link) = netlink.link_by_name(address.ifname.as_str()).await? else { continue };
                of_family.push(SourceRoute { source, subnet: config.subnet.net(), gateway, index: link.index });
            }
            if of_family.len() > 1 {
                wanted.append(&mut of_family);
            }
        }
        Ok(netlink.set_source_routes(&wanted).await?)
    }

    /// Sets the default routes of an endpoint to those of its first network. A foreign default
    /// route stays.
    async fn follow_gateway(&self, endpoint: &Endpoint) -> Result<(), SwitchError> {
        let (connections, ours) = {
            let state = self.context.state();
            let entries = state.sharing(endpoint);
            let connections: Vec<(Endpoint, Network)> = entries
                .into_iter()
                // Only connections whose device exists.
                .filter(|entry| entry.port.is_some())
                .filter_map(|entry| {
                    Some((entry.record.clone(), state.networks.get(&entry.record.network)?.record.clone()))
                })
                .collect();
            let ours: Vec<IpAddr> = state.networks.values().flat_map(|entry| entry.record.gateways()).collect();
            (connections, ours)
        };
        let Some((first, _)) = connections.first() else { return Ok(()) };
        let netns = self.context.open_netns(&first.netns.path).await?;
        if (netns.id().dev, netns.id().inode) != (first.netns.dev, first.netns.inode) {
            return Err(SwitchError::AnotherProcess(first.netns.path.clone()));
        }
        let netlink = tokio::task::block_in_place(|| Netlink::open_in(&netns))?;
        let sources = self.follow_sources(&netlink, &connections).await.err().map(|error| {
            tracing::warn!("endpoint {}: {error}", endpoint.name);
            format!(
                "endpoint {} answers by its default route alone: {error} (connect it to one network with a way out, or \
                 load a kernel with CONFIG_IP_MULTIPLE_TABLES)",
                endpoint.name
            )
        });
        self.context.note(&format!("source routes of {}", endpoint.name), sources);
        let routes = netlink.routes().await?;
        for ipv6 in [false, true] {
            let by = |(endpoint, network): &(Endpoint, Network)| {
                let address = endpoint.address.as_ref()?;
                let gateway = gateway(network, endpoint, address, ipv6)?;
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

/// Returns the port of one connection of an endpoint, and the addresses of the endpoint's other
/// connections.
fn elsewhere(entry: &EndpointEntry, all: &[&EndpointEntry]) -> Option<(PortNumber, Vec<IpAddr>)> {
    let others =
        all.iter().filter(|other| other.record.id != entry.record.id || other.record.network != entry.record.network);
    let addresses = others.filter_map(|other| other.record.address.as_ref());
    entry.port.map(|port| (port.number, addresses.flat_map(EndpointAddress::ips).collect()))
}
