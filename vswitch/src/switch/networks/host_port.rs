//! The host port of a network, and its DNS server.

use std::collections::BTreeMap;

use crate::datapath::NetworkSpec;
use crate::model::{Network, NetworkId, Owner, Vni};
use crate::plan;
use crate::plan::apply::apply;
use crate::switch::error::SwitchError;
use crate::switch::networks::Networks;
use crate::switch::state::PortHandle;

impl Networks {
    /// Creates the host device and the host port of a switched network, or completes them.
    pub async fn add_host_port(&self, network: &Network) -> Result<(), SwitchError> {
        let mtus = self.context.state().host_mtus(network.id);
        let (true, Some(mtus)) = (network.capabilities().switched, mtus) else { return Ok(()) };
        let spec = NetworkSpec {
            number: network.number,
            internal: network.internal,
            subnets: network.subnets.iter().map(|config| (config.subnet.net(), config.gateway)).collect(),
            vni: network.overlay().and_then(|overlay| overlay.vni).map(Vni::number),
        };
        // The isolation of networks depends on this entry, so it exists before any frame can
        // arrive.
        self.context.in_datapath(move |datapath| datapath.set_network(&spec)).await?;
        let made =
            apply(&plan::host_port(&self.context.instance, network, mtus.device, mtus.port), self.context.scene())
                .await?;
        // An existing device has the MTU of earlier peers, or of the uplink as it was.
        self.context.fit_host_devices(network, mtus.device).await?;
        if let Some(entry) = self.context.state().networks.get_mut(&network.id) {
            entry.host_port = made.port.map(|(ifindex, number)| PortHandle { ifindex, number });
            if network.overlay().is_some() && entry.tunnels.is_none() {
                entry.tunnels = Some(BTreeMap::new());
            }
        }
        self.multicast.networks_changed();
        if network.capabilities().names {
            self.serve_names(network).await;
        }
        Ok(())
    }

    /// Starts the DNS server of a network. Without it the network works; a note in `status` gives
    /// the reason.
    pub(super) async fn serve_names(&self, network: &Network) {
        // The port of DNS may be published: our own servers may bind it at their addresses.
        self.nat.leave_to_names();
        let served = self.dns.serve(network.id, network.gateways().collect()).await;
        let note = served.err().map(|error| format!("no names in network {}: {error}", network.name));
        if let Some(note) = &note {
            tracing::warn!("{note}");
        }
        self.context.note(&names_note(network.id), note);
    }

    /// Stops all DNS servers.
    pub fn stop_names(&self) {
        let networks: Vec<NetworkId> = self.context.state().networks.keys().copied().collect();
        networks.into_iter().for_each(|network| self.dns.stop(network));
    }

    /// Creates the host device of a network again after it was removed by hand.
    pub async fn remake_host_port(&self, id: NetworkId, ifindex: u32) -> Result<(), SwitchError> {
        let _change = self.context.begin_change().await?;
        let Some(exclusive) = self.context.state().networks.get(&id).map(|entry| entry.exclusive.clone()) else {
            return Ok(());
        };
        let _exclusive = exclusive.lock().await;
        let found = {
            let state = self.context.state();
            state.networks.get(&id).filter(|entry| entry.ready).map(|entry| (entry.record.clone(), entry.host_port))
        };
        let Some((network, Some(port))) = found else { return Ok(()) };
        if port.ifindex != ifindex || self.context.netlink.link(ifindex).await?.is_some() {
            return Ok(());
        }
        self.multicast.remove_port(port.number).await?;
        // The pair is made as a whole. Its other end stays if this one was moved to another
        // namespace.
        let device = self.context.instance.host_device(network.device_name());
        if let Some(link) = self.context.netlink.link_by_name(&device).await? {
            self.context.delete_device(link.index, &Owner::Host).await?;
        }
        self.add_host_port(&network).await?;
        // The sysctl settings of the device are gone, too.
        self.nat.update_nat(network.name.as_str()).await;
        tracing::warn!("the host device of network {} was removed by hand, and is created again", network.name);
        Ok(())
    }
}

/// Returns the subject of the note on the DNS server of a network.
pub(super) fn names_note(network: NetworkId) -> String {
    format!("dns {network}")
}
