//! Masquerade and published ports: the rules that all networks and endpoints together need in the
//! host's IP stack.

use std::sync::Arc;

use tokio::sync::Mutex;

use crate::kernel::conntrack::{self, Flows};
use crate::model::{Endpoint, Instance, Protocol, Published};
use crate::nat::{self, NatError, NatNetwork, NatStatus, PortForward, Reservations, Wanted};
use crate::switch::context::Context;
use crate::switch::error::SwitchError;
use crate::switch::state::State;

/// The subject of the note on missing rules.
const NAT_NOTE: &str = "nat";

/// Masquerade and published ports of this host.
#[derive(Debug)]
pub struct Nat {
    context: Arc<Context>,
    nat: Arc<nat::Nat>,
    /// Held while the rules are updated.
    turn: Mutex<()>,
    /// The host ports that are published.
    pub reservations: Reservations,
}

impl Nat {
    /// Returns the owner without any rule yet.
    pub fn new(context: Arc<Context>) -> Self {
        let nat = Arc::new(nat::Nat::new(&context.instance));
        Self { context, nat, turn: Mutex::default(), reservations: Reservations::default() }
    }

    /// Returns the state of the rules.
    pub fn status(&self) -> NatStatus {
        self.nat.status()
    }

    /// Removes all rules, those of an earlier daemon, too.
    ///
    /// # Errors
    /// nft or iptables refused a change.
    pub async fn remove(&self) -> Result<(), NatError> {
        // An empty rule set keeps the follower from restoring anything.
        let emptied = self.nat.apply(Wanted::default()).await;
        emptied.and(nat::remove(&self.context.instance).await)
    }

    /// Updates the rules to match the networks and endpoints.
    pub async fn apply_nat(&self) -> Result<(), SwitchError> {
        // Reads the state under the lock, so that the later of two calls sees all changes of the
        // earlier.
        let _turn = self.turn.lock().await;
        let wanted = wanted(&self.context.state(), &self.context.instance, self.context.vxlan_port);
        self.nat.apply(wanted).await?;
        self.context.note(NAT_NOTE, None);
        Ok(())
    }

    /// Like [`Nat::apply_nat`], but notes a failure in `status` instead of returning it.
    pub async fn update_nat(&self, about: &str) {
        if let Err(error) = self.apply_nat().await {
            tracing::warn!("{about}: no way outside: {error}");
            self.context.note(NAT_NOTE, Some(format!("no way outside: {error}")));
        }
    }

    /// Repeats a change of the rules that failed.
    pub async fn retry_nat(&self) -> Result<(), SwitchError> {
        let _change = self.context.begin_change().await?;
        if self.context.has_note(NAT_NOTE) {
            self.update_nat("another attempt").await;
        }
        Ok(())
    }

    /// Restores rules that other programs flush, for as long as the daemon lives.
    pub fn follow_firewall(&self) -> impl Future<Output = ()> + Send + use<> {
        self.nat.clone().follow()
    }

    /// Publishes the ports of an endpoint.
    pub async fn publish_ports(&self, endpoint: &Endpoint) -> Result<(), SwitchError> {
        if endpoint.published.is_empty() {
            return Ok(());
        }
        self.apply_nat().await?;
        self.forget_flows(&endpoint.published).await;
        Ok(())
    }

    /// Removes the rules of an endpoint's published ports. Has to run before the endpoint is
    /// forgotten, because another endpoint may get its address then.
    pub async fn unpublish_ports(&self, endpoint: &Endpoint) {
        if endpoint.published.is_empty() {
            return;
        }
        if let Some(entry) = self.context.state().endpoints.get_mut(&endpoint.id) {
            entry.record.published.clear();
        }
        self.update_nat(endpoint.name.as_str()).await;
        self.forget_flows(&endpoint.published).await;
    }

    /// Reserves the host ports of all recorded endpoints again.
    pub fn reserve_again(&self) {
        let endpoints: Vec<Endpoint> =
            self.context.state().endpoints.values().map(|entry| entry.record.clone()).collect();
        for endpoint in endpoints {
            if let Err(error) = self.reservations.hold(&endpoint.published) {
                // The other process keeps the port. Packets from other hosts still reach the
                // endpoint.
                tracing::warn!("endpoint {}: {error}", endpoint.name);
            }
        }
    }

    /// Removes the conntrack entries of published ports. A UDP flow would go on to the endpoint
    /// that had the port before.
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
}

/// Returns the rules that all networks and endpoints together need.
fn wanted(state: &State, instance: &Instance, vxlan_port: u16) -> Wanted {
    let bridges = || state.networks.values().map(|entry| &entry.record).filter(|record| record.capabilities().switched);
    let networks = bridges().map(|network| NatNetwork {
        device: instance.host_device(&network.name),
        subnets: network.subnets.iter().map(|config| config.subnet.net()).collect(),
        masquerade: network.switch().is_some_and(|switch| switch.masquerade) && !network.internal,
        internal: network.internal,
        names: if network.capabilities().names { network.gateways().collect() } else { Vec::new() },
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
