//! Masquerade and published ports: the rules that all networks and endpoints together need in the
//! host's IP stack.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use crate::kernel::conntrack::{self, Flows};
use crate::kernel::sysctl::SysctlError;
use crate::model::{Endpoint, EndpointId, Instance, Protocol, Published};
use crate::nat::{self, NatError, NatNetwork, NatStatus, PortForward, Reservations, Wanted};
use crate::switch::bind_hook::Hook;
use crate::switch::context::Context;
use crate::switch::error::SwitchError;
use crate::switch::state::{Closing, State};

/// The subject of the note on missing rules.
const NAT_NOTE: &str = "nat";
/// The interval at which ports are tried that could not be held.
const RETRY_HOLD: Duration = Duration::from_secs(1);
/// The port of DNS.
const DNS: u16 = 53;

/// The time after which a change of the rules is given up: nft hangs, or another program holds its
/// lock. A command waits for no more than that.
const LONGEST_CHANGE: Duration = Duration::from_secs(10);

/// Masquerade and published ports of this host.
#[derive(Debug)]
pub struct Nat {
    context: Arc<Context>,
    nat: Arc<nat::Nat>,
    /// Held while the rules are updated.
    turn: Mutex<()>,
    /// Held while a change that failed is repeated.
    retrying: Mutex<()>,
    /// The host ports that are published.
    pub reservations: Reservations,
}

impl Nat {
    /// Returns the owner without any rule yet.
    pub fn new(context: Arc<Context>) -> Self {
        let mark = context.datapath.published_mark();
        let nat = Arc::new(nat::Nat::new(&context.instance).with_mark(mark));
        let hook = Arc::new(Hook(context.datapath.clone()));
        let reservations = Reservations::with_hook(hook, context.instance.reserved_ports_file());
        Self { context, nat, turn: Mutex::default(), retrying: Mutex::default(), reservations }
    }

    /// Returns the state of the rules and of published ports.
    pub fn status(&self) -> NatStatus {
        let mut status = self.nat.status();
        status.notes.extend(self.reservations.notes());
        status
    }

    /// Removes all rules, those of an earlier daemon, too.
    ///
    /// # Errors
    /// nft or iptables refused a change.
    pub async fn remove(&self) -> Result<(), NatError> {
        // An empty rule set keeps the follower from restoring anything.
        let emptied = self.nat.apply(Wanted::default()).await;
        if let Err(error) = Reservations::restore_settings(&self.context.instance.reserved_ports_file()) {
            tracing::warn!("{error}");
        }
        emptied.and(nat::remove(&self.context.instance).await)
    }

    /// Updates the rules to match the networks and endpoints.
    pub async fn apply_nat(&self) -> Result<(), SwitchError> {
        // Reads the state under the lock, so that the later of two calls sees all changes of the
        // earlier.
        let changed = async {
            let _turn = self.turn.lock().await;
            let (wanted, closed) = {
                let state = self.context.state();
                let closing: Vec<_> = state.closing.iter().map(|closing| closing.endpoint).collect();
                (wanted(&state, &self.context.instance, self.context.vxlan_port), closing)
            };
            self.nat.apply(wanted).await.map(|()| closed)
        };
        let closed = match tokio::time::timeout(LONGEST_CHANGE, changed).await {
            Ok(closed) => closed?,
            Err(_) => return Err(NatError::TooSlow(LONGEST_CHANGE).into()),
        };
        // No rule leads to them any more.
        let closed: Vec<_> = {
            let is_closed = |closing: &mut Closing| closed.contains(&closing.endpoint);
            self.context.state().closing.extract_if(.., is_closed).collect()
        };
        closed.iter().for_each(|closing| self.reservations.release(&closing.ports));
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

    /// Repeats a change of the rules that failed. Does nothing while another repetition runs.
    pub async fn retry_nat(&self) -> Result<(), SwitchError> {
        let Ok(_only) = self.retrying.try_lock() else { return Ok(()) };
        let _change = self.context.begin_change().await?;
        if self.context.has_note(NAT_NOTE) {
            self.update_nat("another attempt").await;
        }
        Ok(())
    }

    /// Returns the settings of the host that the rules need and that another program switched off.
    pub fn lost_settings(&self) -> Vec<Vec<String>> {
        self.nat.lost_settings()
    }

    /// Switches a setting of the host on again.
    ///
    /// # Errors
    /// The setting cannot be written.
    pub fn restore_setting(&self, setting: &[String]) -> Result<(), SysctlError> {
        self.nat.restore_setting(setting)
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

    /// Follows a change of the network with the default route, for the published UDP ports of an
    /// endpoint.
    pub async fn follow_default_route(&self, endpoint: &Endpoint) {
        let published: Vec<Published> = {
            let state = self.context.state();
            let connections = state.sharing(endpoint).into_iter();
            connections.flat_map(|entry| entry.record.published.iter().copied()).collect()
        };
        if published.iter().any(|port| port.protocol == Protocol::Udp) {
            self.update_nat(endpoint.name.as_str()).await;
            self.forget_flows(&published).await;
        }
    }

    /// Removes the rules of an endpoint's published ports. Has to run before the endpoint is
    /// forgotten, because another endpoint may get its address then. If the rules cannot be removed
    /// now, its addresses and host ports are not free until they are.
    pub async fn unpublish_ports(&self, endpoint: &Endpoint) {
        if endpoint.published.is_empty() {
            return;
        }
        {
            let mut state = self.context.state();
            if let Some(entry) = state.endpoints.get_mut(&endpoint.id) {
                entry.record.published.clear();
            }
            // The next change that succeeds removes this.
            state.closing.push(Closing {
                endpoint: endpoint.id,
                network: endpoint.network,
                addresses: endpoint.address.iter().flat_map(|address| address.ips()).collect(),
                ports: Vec::new(),
            });
        }
        self.update_nat(endpoint.name.as_str()).await;
        self.forget_flows(&endpoint.published).await;
    }

    /// Releases host ports of an endpoint that is gone, once no rule leads to it.
    pub fn release_ports(&self, endpoint: EndpointId, ports: &[Published]) {
        {
            let mut state = self.context.state();
            if let Some(closing) = state.closing.iter_mut().find(|closing| closing.endpoint == endpoint) {
                closing.ports.extend(ports);
                return;
            }
        }
        self.reservations.release(ports);
    }

    /// Returns whether rules of endpoints that are gone may still be there.
    pub fn is_closing(&self) -> bool {
        !self.context.state().closing.is_empty()
    }

    /// Reserves the host ports of all recorded endpoints again. A port that another process has waits
    /// until it is free; packets from other hosts reach the endpoint in the meantime.
    pub fn reserve_again(&self) {
        let ports = |record: &Endpoint| (record.name.to_string(), record.held_ports().copied().collect());
        let endpoints: Vec<(String, Vec<Published>)> = {
            let state = self.context.state();
            let held = state.endpoints.values().filter(|entry| !entry.record.unheld);
            held.map(|entry| ports(&entry.record)).collect()
        };
        tokio::task::block_in_place(|| self.reservations.hold(&endpoints));
    }

    /// Holds ports that could not be held, as soon as they can be, for as long as the daemon lives.
    pub async fn follow_ports(self: Arc<Self>) {
        let mut again = tokio::time::interval(RETRY_HOLD);
        again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            again.tick().await;
            let Ok(_change) = self.context.begin_change().await else { return };
            let nat = self.clone();
            if let Err(error) = tokio::task::spawn_blocking(move || nat.reservations.retry()).await {
                tracing::error!("published ports are not followed: {error}");
            }
        }
    }

    /// Leaves the port of DNS free at the addresses at which networks have a name server.
    pub fn leave_to_names(&self) {
        let addresses = names(&self.context.state());
        self.reservations.leave_to_names(addresses);
    }

    /// Removes the conntrack entries of published ports. A UDP flow would go on to the endpoint
    /// that had the port before.
    pub async fn forget_flows(&self, ports: &[Published]) {
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
        device: instance.host_device(network.device_name()),
        subnets: network.subnets.iter().map(|config| config.subnet.net()).collect(),
        masquerade: network.switch().is_some_and(|switch| switch.masquerade) && !network.internal,
        internal: network.internal,
        modes: [false, true].map(|ipv6| network.gateway_mode(ipv6)),
        names: if network.capabilities().names { network.gateways().collect() } else { Vec::new() },
    });
    let forwards = state.endpoints.values().flat_map(|entry| {
        let record = &entry.record;
        let network = state.networks.get(&record.network).map(|entry| &entry.record);
        // Where another network of the endpoint has the default route.
        let first = if record.published.is_empty() { None } else { state.sharing(record).first().copied() };
        let masquerade = first.is_some_and(|first| first.record.id != record.id);
        let ports = record.published.iter().flat_map(move |port| {
            let addresses = record.address.iter().flat_map(|address| address.ips());
            let addresses = addresses.filter(|to| port.host_ip.is_none_or(|host| host.is_ipv4() == to.is_ipv4()));
            addresses.filter_map(move |to| {
                Some(PortForward {
                    device: instance.host_device(network?.device_name()),
                    protocol: port.protocol,
                    host_ip: port.host_ip,
                    host_port: port.host_port,
                    to,
                    to_port: port.container_port,
                    masquerade: masquerade && port.protocol == Protocol::Udp,
                })
            })
        });
        ports.collect::<Vec<_>>()
    });
    let mut forwards: Vec<PortForward> = forwards.collect();
    let beside = beside_names(&forwards, names(state));
    forwards.extend(beside);
    let tunnels = state.networks.values().any(|entry| entry.tunnels.is_some()).then_some(vxlan_port);
    Wanted { networks: networks.collect(), forwards, tunnels }
}

/// Returns the addresses at which networks have a name server.
fn names(state: &State) -> BTreeSet<IpAddr> {
    let records = state.networks.values().map(|entry| &entry.record).filter(|record| record.capabilities().names);
    records.flat_map(|record| record.gateways()).collect()
}

/// Returns forwards that leave packets to our name servers where they are, if the port of DNS is
/// published at all addresses. They take precedence, because they are for one address.
fn beside_names(forwards: &[PortForward], names: BTreeSet<IpAddr>) -> Vec<PortForward> {
    let is_all = |forward: &&PortForward| forward.host_ip.is_none_or(|address| address.is_unspecified());
    let at_all = forwards.iter().filter(|forward| forward.host_port == DNS).filter(is_all);
    let mut beside = Vec::new();
    for forward in at_all.filter(|forward| forward.protocol != Protocol::Sctp) {
        let of_family = names.iter().copied().filter(|name| name.is_ipv4() == forward.to.is_ipv4());
        let taken = |name: &IpAddr| {
            forwards
                .iter()
                .any(|other| (other.protocol, other.host_port, other.host_ip) == (forward.protocol, DNS, Some(*name)))
        };
        beside.extend(of_family.filter(|name| !taken(name)).map(|name| PortForward {
            host_ip: Some(name),
            to: name,
            to_port: DNS,
            ..forward.clone()
        }));
    }
    beside
}
