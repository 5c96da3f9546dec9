//! After `up`: recorded objects are restored, running ones are taken over, stray devices are
//! removed.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::kernel::netlink::Link;
use crate::model::{EndpointId, Network, NetworkId, Owner};
use crate::plan::reconcile::{Found, compare};
use crate::plan::store::Recorded;
use crate::switch::Switch;
use crate::switch::endpoints::Release;
use crate::switch::error::SwitchError;
use crate::switch::state::{EndpointEntry, NetworkEntry, PeerEntry, PortHandle};

/// The most endpoints that are attached at the same time.
const AT_ONCE: usize = 8;

/// The result of restoring the records.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// The endpoints that ran on while no daemon did.
    pub running: usize,
    /// The endpoints that were attached again.
    pub attached: usize,
    /// The endpoints that were released.
    pub released: Vec<Release>,
    /// Problems that the operator has to solve.
    #[serde(default)]
    pub warnings: Vec<String>,
}

impl Switch {
    /// Restores the recorded networks and endpoints, and creates the predefined networks.
    ///
    /// # Errors
    /// The kernel refused a step that no network can do without. An endpoint that cannot be
    /// restored keeps no other from it: it is released, or `status` has a note.
    pub async fn restore(&self, recorded: Recorded) -> Result<Restored, SwitchError> {
        let links = self.context.netlink.links().await?;
        let ports: Vec<_> =
            self.context.datapath.ports()?.into_iter().map(|(number, port)| (number, port.ifindex)).collect();
        let found = Found { links: &links, ports: &ports };
        let difference = compare(&self.context.instance, &recorded.networks, &recorded.endpoints, found);
        for port in difference.stray_ports {
            if let Err(error) = self.multicast.remove_port(port).await {
                tracing::error!("port {} is left over, and cannot be removed: {error}", port.0);
            }
        }
        for (index, name) in difference.stray_links {
            tracing::info!("device {name} is left over, and is removed");
            if let Err(error) = self.context.netlink.delete_link(index).await {
                tracing::error!("device {name} is left over, and cannot be removed: {error}");
            }
        }

        self.take_in(recorded).await?;
        self.restore_networks(&links).await?;
        self.overlay.adopt_tunnels()?;
        if let Err(error) = self.overlay.try_tunnels().await {
            tracing::error!("tunnels: {error}");
        }
        self.networks.create_predefined().await?;
        let port_of = |ifindex: u32| {
            let found = ports.iter().find(|(_, index)| *index == ifindex);
            found.map(|(number, _)| PortHandle { ifindex, number: *number })
        };
        for (id, ifindex) in difference.leaving {
            // A device without a port has no number yet.
            let port = ifindex.map(|ifindex| port_of(ifindex).unwrap_or(PortHandle::unnumbered(ifindex)));
            if let Err(error) = self.endpoints.finish_detach(id, port).await {
                self.endpoints.note_failure(id, "is not detached", &error);
            }
        }
        self.nat.reserve_again();
        self.nat.update_nat("what was recorded").await;

        self.context.note_address().await?;
        let warnings: Vec<String> = self.context.note_without_cluster().into_iter().collect();
        warnings.iter().for_each(|warning| tracing::error!("{warning}"));
        let mut restored = Restored { warnings, ..Restored::default() };
        let half_there: BTreeSet<EndpointId> = difference.unfinished.into_iter().collect();
        let mut missing = difference.missing;
        for (id, ifindex) in difference.running {
            let Some(link) = links.iter().find(|link| link.index == ifindex) else { continue };
            match self.endpoints.take_over(id, link).await {
                Ok(()) => restored.running += 1,
                // The device was removed meanwhile, with its namespace or by hand.
                Err(_) if !self.context.is_ours(ifindex, &Owner::Endpoint(id)).await? => {
                    if let Some(port) = port_of(ifindex) {
                        self.multicast.remove_port(port.number).await?;
                    }
                    missing.push(id);
                }
                Err(error) => restored.warnings.extend(self.endpoints.note_failure(id, "is not taken over", &error)),
            }
        }
        let attach = |id| async move { (id, self.endpoints.attach_again(id).await) };
        let mut missing = futures::stream::iter(missing).map(attach).buffer_unordered(AT_ONCE);
        while let Some((id, outcome)) = missing.next().await {
            match outcome {
                // The endpoint ran already, but its record did not say so yet.
                None if half_there.contains(&id) => restored.running += 1,
                None => restored.attached += 1,
                Some(release) => restored.released.push(release),
            }
        }
        let followers: Vec<NetworkId> = {
            let state = self.context.state();
            let on_wire =
                state.networks.values().filter(|entry| entry.record.parent().is_some() && entry.uplink.is_none());
            // A parent may have got another MAC address while no daemon ran.
            on_wire.map(|entry| entry.record.id).chain(state.with_former_macs()).collect()
        };
        for network in followers {
            self.macvlan.follow_parent(network).await;
        }
        self.endpoints.settle_all().await;
        self.endpoints.sweep_etc();
        // While no daemon ran, other programs may have changed the host.
        self.networks.mend_everything().await?;
        restored.released.sort_by(|one, other| one.endpoint.cmp(&other.endpoint));
        for Release { endpoint, netns, reason } in &restored.released {
            tracing::warn!("endpoint {endpoint} at {} is released: {reason}", netns.display());
        }
        Ok(restored)
    }

    /// Adds the recorded objects to the state.
    async fn take_in(&self, recorded: Recorded) -> Result<(), SwitchError> {
        self.context.state().peers =
            recorded.peers.into_iter().map(|record| (record.address, PeerEntry::new(record))).collect();
        self.context.state().pools = recorded.pools.into_iter().map(|pool| (pool.id, pool)).collect();
        for record in recorded.networks {
            let mtu = self.networks.mtu(&record, record.has_family(false), record.has_family(true)).await?;
            let mut entry = NetworkEntry::new(record, mtu);
            entry.ready = true;
            self.context.state().networks.insert(entry.record.id, entry);
        }
        let mut state = self.context.state();
        for record in recorded.endpoints {
            let exclusive = Arc::new(Mutex::new(()));
            state.endpoints.insert(record.id, EndpointEntry { record, port: None, exclusive });
        }
        state.continue_after_newest();
        Ok(())
    }

    async fn restore_networks(&self, links: &[Link]) -> Result<(), SwitchError> {
        let networks: Vec<Network> = self.context.state().networks.values().map(|entry| entry.record.clone()).collect();
        for mut network in networks {
            self.networks.add_host_port(&network).await?;
            let Some(interface) = network.interface().cloned() else { continue };
            let Some(link) = links.iter().find(|link| link.name == interface.as_str()) else {
                tracing::warn!(
                    "the uplink {interface} of network {} is not there; it is taken in when it comes",
                    network.name
                );
                continue;
            };
            // `down` removes the recorded settings, so any recorded ones were read before a daemon
            // that died changed the interface.
            if network.uplink_before.as_ref().is_none_or(|before| before.index != link.index) {
                network.uplink_before = Some(self.macvlan.uplink_before(&interface, link, network.xdp()));
                self.context.record_network(&network).await?;
            }
            if let Err(error) = self.macvlan.add_uplink(&network, link).await {
                // The host and the rest of the network work without the uplink.
                tracing::error!("{interface} cannot be the uplink of network {} now: {error}", network.name);
            }
        }
        Ok(())
    }
}
