//! The removal of networks.

use std::collections::BTreeMap;

use crate::cluster::ClusterError;
use crate::model::{EndpointName, Network, Owner};
use crate::plan::store::Change;
use crate::switch::context::note_about_mtu;
use crate::switch::error::SwitchError;
use crate::switch::info::Pruned;
use crate::switch::networks::Networks;
use crate::switch::networks::host_port::names_note;

impl Networks {
    /// Removes all networks without endpoints but the predefined ones. A network that cannot be
    /// removed is returned with the reason.
    pub async fn prune_networks(&self) -> Pruned {
        let unused: Vec<_> = {
            let state = self.context.state();
            let networks = state.networks.values().filter(|entry| entry.ready && !entry.record.is_predefined());
            let unused = networks.filter(|entry| state.endpoints_of(entry.record.id).next().is_none());
            unused.map(|entry| (entry.record.id, entry.record.name.to_string())).collect()
        };
        let mut pruned = Pruned::default();
        for (id, network) in unused {
            match self.remove_network(&id.to_string()).await {
                Ok(name) => pruned.deleted.push(name),
                // An endpoint was attached meanwhile, or the network was removed.
                Err(SwitchError::ActiveEndpoints { .. } | SwitchError::NetworkNotFound(_)) => {}
                // The network has endpoints on another host.
                Err(SwitchError::Cluster(ClusterError::NetworkInUse { .. })) => {}
                Err(error) => pruned.kept.push((network, error)),
            }
        }
        pruned.deleted.sort();
        pruned.kept.sort_by(|(one, _), (other, _)| one.cmp(other));
        pruned
    }

    /// Removes a network and restores its uplink. Returns the name of the network.
    ///
    /// # Errors
    /// The network does not exist or is in use, or the kernel refused a change; then the network
    /// still exists.
    pub async fn remove_network(&self, reference: &str) -> Result<String, SwitchError> {
        let _change = self.context.begin_change().await?;
        let (network, exclusive) = {
            let mut state = self.context.state();
            let network = state.network(reference)?.record.clone();
            if network.is_predefined() {
                return Err(SwitchError::Predefined(network.name));
            }
            let mut endpoints: Vec<EndpointName> =
                state.endpoints_of(network.id).map(|entry| entry.record.name.clone()).collect();
            if !endpoints.is_empty() {
                endpoints.sort();
                if let Some(error) = self.context.shared_in_use(&state, &network, &endpoints) {
                    return Err(error.into());
                }
                return Err(SwitchError::ActiveEndpoints { network: network.name, endpoints });
            }
            // No other request finds the network from here on.
            let Some(entry) = state.networks.get_mut(&network.id) else { return Ok(network.name.to_string()) };
            entry.ready = false;
            (network, entry.exclusive.clone())
        };
        let _exclusive = exclusive.lock().await;
        let removed = async {
            self.context.remove_shared(&network).await?;
            self.unmake(&network).await
        };
        let removed = removed.await;
        if removed.is_err() {
            // The network stays, so its host port has to exist again.
            if let Err(error) = self.add_host_port(&network).await {
                tracing::warn!("network {} is still there, but without the host: {error}", network.name);
            }
            if let Some(entry) = self.context.state().networks.get_mut(&network.id) {
                entry.ready = true;
            }
        }
        removed.map(|()| network.name.to_string())
    }

    /// Removes the devices, ports and tables of a network, and its record.
    pub async fn unmake(&self, network: &Network) -> Result<(), SwitchError> {
        // The uplink may have returned since, which changed the record.
        let record = self.context.state().networks.get(&network.id).map(|entry| entry.record.clone());
        self.macvlan.release_uplink(record.as_ref().unwrap_or(network)).await?;
        let tunnels = self.context.state().networks.get_mut(&network.id).and_then(|entry| entry.tunnels.take());
        for port in tunnels.into_iter().flat_map(BTreeMap::into_values) {
            self.multicast.remove_port(port.number).await?;
        }
        self.dns.stop(network.id);
        self.context.note(&names_note(network.id), None);
        self.context.note(&note_about_mtu(network.id), None);
        let device = self.context.instance.host_device(network.device_name());
        if let Some(link) = self.context.netlink.link_by_name(&device).await? {
            self.context.delete_device(link.index, &Owner::Host).await?;
        }
        let port = self.context.state().networks.get(&network.id).and_then(|entry| entry.host_port);
        if let Some(port) = port {
            self.multicast.remove_port(port.number).await?;
        }
        if network.parent().is_none() {
            let number = network.number;
            self.context.in_datapath(move |datapath| datapath.remove_network(number)).await?;
        }
        self.context.store.commit(vec![Change::RemoveNetwork(network.id)]).await?;
        self.context.state().networks.remove(&network.id);
        self.context.note_without_cluster();
        if network.overlay().is_some() {
            self.context.forget_shared(network.id);
            // The last overlay network removes the device of the tunnels.
            self.overlay.follow_tunnels().await?;
            self.overlay.sync_networks(&[network.id].into()).await?;
        }
        self.multicast.networks_changed();
        self.nat.update_nat(network.name.as_str()).await;
        Ok(())
    }
}
