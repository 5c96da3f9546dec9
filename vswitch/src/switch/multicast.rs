//! Multicast snooping: groups are learned from IGMP and MLD reports, written to the datapath, and
//! shown. The switch is the querier where no router is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use tokio::sync::Notify;
use vswitch_common::observe::Event;
use vswitch_common::packet::address::Address;
use vswitch_common::tables::{NetworkNumber, Port, PortNumber, VlanKey};

use crate::kernel::packet;
use crate::multicast::{Action, Groups, Listener, MAX_GROUPS, PortFacts, QuerierSettings, Query, QuerySource, parse};
use crate::observe::{Observed, Observer};
use crate::plan::apply::ApplyError;
use crate::switch::context::Context;
use crate::switch::error::SwitchError;

/// The interval at which all networks and ports are compared, in case an event was missed.
const LOOK: Duration = Duration::from_secs(60);
/// The subject of notes.
const NOTE: &str = "multicast";
/// The most frames that are processed at once.
const BATCH: usize = 64;

/// A network with multicast snooping.
struct Snooping {
    number: NetworkNumber,
    querier: bool,
    gateway: Option<Ipv4Addr>,
    host_port: PortNumber,
}

/// A multicast group with its listeners.
#[derive(Clone, Debug)]
pub struct MulticastGroup {
    /// The name of the network.
    pub network: String,
    /// The address of the group.
    pub group: IpAddr,
    /// The VLAN.
    pub vlan: VlanKey,
    /// The names of the listening ports, sorted.
    pub ports: Vec<String>,
    /// The time until the last listener expires; `None` for a group that does not expire.
    pub expires_in: Option<Duration>,
}

/// The multicast groups and their listeners.
#[derive(Debug)]
pub struct Multicast {
    context: Arc<Context>,
    observer: Arc<Observer>,
    groups: Mutex<Groups>,
    /// Signalled when a network is created or removed.
    changed: Notify,
}

impl Multicast {
    /// Returns the owner without any group yet.
    pub fn new(context: Arc<Context>, observer: Arc<Observer>) -> Self {
        Self { context, observer, groups: Mutex::default(), changed: Notify::new() }
    }

    /// Requests an update of the groups to match the networks.
    pub fn networks_changed(&self) {
        self.changed.notify_one();
    }

    /// Processes reports and sends queries, for as long as the daemon lives.
    pub async fn follow_multicast(self: Arc<Self>) {
        let mut snooped = self.observer.subscribe(Event::SNOOPED);
        self.look_at_multicast(true).await;
        let mut look = tokio::time::interval(LOOK);
        look.tick().await;
        let mut frames = Vec::with_capacity(BATCH);
        loop {
            let next = self.groups().next_poll();
            let due = async {
                match next {
                    Some(next) => tokio::time::sleep_until(next.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                1.. = snooped.recv_many(&mut frames, BATCH) => {
                    let frames = std::mem::take(&mut frames);
                    self.work_on_multicast(move |switch| switch.take_in_snooped(&frames)).await;
                }
                () = self.changed.notified() => self.look_at_multicast(false).await,
                _ = look.tick() => self.look_at_multicast(false).await,
                () = due => self.work_on_multicast(Self::ask_and_expire).await,
            }
        }
    }

    /// Returns the groups with listeners, by network, VLAN and address.
    ///
    /// # Errors
    /// The network does not exist.
    pub fn multicast_groups(&self, network: Option<&str>) -> Result<Vec<MulticastGroup>, SwitchError> {
        let only = {
            let state = self.context.snapshot();
            let only = network.map(|network| state.find_network(network)).transpose()?;
            only.map(|entry| entry.record.number)
        };
        let (names, ports) = (self.context.network_names(), self.context.ports_by_number());
        let groups = self.groups().groups(Instant::now());
        let groups = groups.into_iter().filter(|group| only.is_none_or(|only| group.network == only));
        let mut views: Vec<_> = groups
            .filter_map(|group| {
                let network = names.get(&group.network)?;
                let listening = group.ports.iter().filter_map(|port| Some(ports.get(port)?.name.clone()));
                let mut listening: Vec<String> = listening.collect();
                listening.sort();
                // A group without listeners is about to be removed.
                (!listening.is_empty()).then(|| MulticastGroup {
                    network: network.clone(),
                    group: group.group,
                    vlan: group.vlan,
                    ports: listening,
                    expires_in: group.expires_in,
                })
            })
            .collect();
        // The groups are sorted by network number so far.
        views.sort_by(|one, other| one.network.cmp(&other.network));
        Ok(views)
    }

    /// Removes a port from the datapath, and its listeners from the groups.
    pub async fn remove_port(&self, number: PortNumber) -> Result<(), SwitchError> {
        let datapath = self.context.datapath.clone();
        let removed = tokio::task::spawn_blocking(move || datapath.remove_port(number)).await;
        removed.map_err(ApplyError::from)??;
        self.forget_listener(number)
    }

    /// Removes the listeners of a port. The port is gone from the tables already, but a report may
    /// just have come in.
    pub fn forget_listener(&self, port: PortNumber) -> Result<(), SwitchError> {
        let mut groups = self.groups();
        let (listeners, refused) = groups.forget_port(port);
        if refused > 0 {
            tracing::info!("{} is gone; {refused} times it asked for one group too many", self.port_name(port));
        }
        for listener in listeners {
            self.context.datapath.unlisten(&listener.into())?;
        }
        Ok(())
    }

    fn groups(&self) -> MutexGuard<'_, Groups> {
        // The next report completes a change that a panic interrupted.
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs blocking work on the tables outside of the runtime's worker threads.
    async fn work_on_multicast(self: &Arc<Self>, work: impl FnOnce(&Self) -> Result<(), SwitchError> + Send + 'static) {
        let switch = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&switch)).await;
        if let Ok(Err(error)) = done
            && !self.context.has_note(NOTE)
        {
            // Logged once until the next comparison: a sender can fill the table as often as it
            // likes.
            tracing::warn!("multicast: {error}");
            self.context
                .note(NOTE, Some(format!("some listeners of multicast groups do not get their frames: {error}")));
        }
    }

    fn take_in_snooped(&self, frames: &[Observed]) -> Result<(), SwitchError> {
        // Held until the tables are written. Otherwise a port that is removed meanwhile would stay
        // in them.
        let mut groups = self.groups();
        let mut outcome = Ok(());
        for Observed { event, bytes } in frames {
            let station = event.decision.station;
            let port = event.decision.ingress;
            let heard = match parse(bytes) {
                Ok(heard) => heard,
                Err(error) => {
                    tracing::debug!("port {}: a frame about multicast groups is ignored: {error}", port.0);
                    continue;
                }
            };
            let Some(facts) = self.context.datapath.port(port).filter(|port| port.network == station.network) else {
                continue;
            };
            let place = (station.network, station.vlan, port);
            let actions = groups.process(Instant::now(), place, PortFacts::from(&facts), &heard);
            outcome = outcome.and(self.act_on(&mut groups, actions));
        }
        outcome
    }

    fn ask_and_expire(&self) -> Result<(), SwitchError> {
        let mut groups = self.groups();
        let actions = groups.poll(Instant::now());
        self.act_on(&mut groups, actions)
    }

    /// Updates the snooping networks and their queriers to match the state.
    async fn look_at_multicast(self: &Arc<Self>, first: bool) {
        let addresses = match self.context.netlink.addresses(None).await {
            Ok(addresses) => addresses,
            Err(error) => return tracing::warn!("multicast: {error}"),
        };
        self.context.note(NOTE, None);
        let networks = self.snooping_networks();
        let work = move |switch: &Self| switch.set_multicast(&networks, &addresses, first);
        self.work_on_multicast(work).await;
    }

    fn snooping_networks(&self) -> Vec<Snooping> {
        let state = self.context.state();
        let bridges = state.networks.values().filter(|entry| entry.record.capabilities().switched);
        let bridges = bridges.filter(|entry| entry.record.switch().is_some_and(|switch| switch.mcast_snooping));
        let snooping = bridges.filter_map(|entry| {
            let gateways = entry.record.gateways();
            let mut gateways = gateways.filter_map(|ip| if let IpAddr::V4(ip) = ip { Some(ip) } else { None });
            let (number, host_port) = (entry.record.number, entry.host_port?.number);
            let querier = entry.record.switch()?.mcast_querier;
            Some(Snooping { number, querier, gateway: gateways.next(), host_port })
        });
        snooping.collect()
    }

    fn set_multicast(&self, networks: &[Snooping], addresses: &[(u32, IpNet)], first: bool) -> Result<(), SwitchError> {
        let ports: BTreeMap<PortNumber, Port> = self.context.datapath.ports()?.into_iter().collect();
        let rules = networks.iter().filter_map(|network| {
            let port = ports.get(&network.host_port)?;
            let source = QuerySource {
                mac: port.mac,
                ipv4: network.gateway.unwrap_or(Ipv4Addr::UNSPECIFIED),
                link_local: link_local(addresses, port),
            };
            Some((network.number, QuerierSettings { querier: network.querier, source }))
        });
        let rules = rules.collect();
        let gone: BTreeSet<PortNumber> = {
            let mut groups = self.groups();
            let now = Instant::now();
            let mut actions = groups.set_networks(now, rules);
            if first {
                actions
                    .extend(groups.take_over(now, self.context.datapath.listeners()?.into_iter().map(Listener::from)));
            }
            self.act_on(&mut groups, actions)?;
            groups.ports().into_iter().filter(|port| !ports.contains_key(port)).collect()
        };
        gone.into_iter().try_for_each(|port| self.forget_listener(port))
    }

    /// Carries out all actions and returns the first error.
    fn act_on(&self, groups: &mut Groups, actions: Vec<Action>) -> Result<(), SwitchError> {
        let mut outcome = Ok(());
        for action in actions {
            let done = match action {
                Action::Listen(listener) => {
                    let done = self.context.datapath.listen(&listener.into());
                    if done.is_err() {
                        groups.forget(listener);
                    }
                    done
                }
                Action::Unlisten(listener) => self.context.datapath.unlisten(&listener.into()).map(drop),
                Action::SendQuery(network, query) => {
                    if let Some(rules) = groups.settings(network) {
                        self.ask(network, query, rules.source);
                    }
                    Ok(())
                }
                Action::LimitReached(port) => {
                    let name = self.port_name(port);
                    tracing::warn!("{name} listens to {MAX_GROUPS} multicast groups, and gets no more");
                    Ok(())
                }
            };
            outcome = outcome.and(done);
        }
        Ok(outcome?)
    }

    fn port_name(&self, port: PortNumber) -> String {
        let named = self.context.ports_by_number().remove(&port);
        named.map_or_else(|| format!("port {}", port.0), |port| port.name)
    }

    /// Sends a query into a network from the host's port, and to the host itself, which does not
    /// receive its own frames.
    fn ask(&self, network: NetworkNumber, query: Query, asker: QuerySource) {
        let host = {
            let state = self.context.state();
            let entry = state.networks.values().find(|entry| entry.record.number == network);
            entry.and_then(|entry| Some((entry.record.name.clone(), entry.host_port?.number)))
        };
        let Some((name, host)) = host else { return };
        let Some(port) = self.context.datapath.port(host) else { return };
        // The host drops packets from others that have its own source address, so this copy has
        // none.
        let to_host = query.frame(&QuerySource { ipv4: Ipv4Addr::UNSPECIFIED, ..asker });
        for (ifindex, frame) in [(port.egress_ifindex, query.frame(&asker)), (port.ifindex, to_host)] {
            if let Err(error) = packet::send(ifindex, &frame) {
                tracing::warn!("cannot send an IGMP or MLD query in network {name}: {error}");
            }
        }
    }
}

/// Returns the host's link-local address in a network, or the one that its MAC address yields: the
/// network may carry IPv6 although the host has no address there yet.
fn link_local(addresses: &[(u32, IpNet)], port: &Port) -> Ipv6Addr {
    let found = addresses.iter().find_map(|(of, address)| match address.addr() {
        IpAddr::V6(address) if *of == port.egress_ifindex && address.is_unicast_link_local() => Some(address),
        _ => None,
    });
    found.unwrap_or_else(|| Address::link_local(port.mac).octets().into())
}
