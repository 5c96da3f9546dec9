//! Multicast: the groups that endpoints listen to are learned from what they say, told to the programs, and shown. Where
//! no router asks, the switch does.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use vswitch_common::packet::address::Address;
use vswitch_common::tables::{NetworkNumber, Port, PortNumber, VlanKey};
use vswitch_common::watch::Event;

use super::{Switch, SwitchError};
use crate::api::{MdbFilter, MulticastGroupView};
use crate::kernel::packet;
use crate::multicast::{Action, Asker, Groups, Listener, MAX_GROUPS, PortFacts, Query, Rules, parse};
use crate::watching::Told;

/// How often networks and ports are looked at again, should a change ever be missed.
const LOOK: Duration = Duration::from_secs(60);
/// What notes are about.
const NOTE: &str = "multicast";
/// Frames that are taken in at once.
const BATCH: usize = 64;

/// A network that has multicast to look after.
struct Snooping {
    number: NetworkNumber,
    querier: bool,
    gateway: Option<Ipv4Addr>,
    host_port: PortNumber,
}

impl Switch {
    /// Follows what is said about groups, and asks, for as long as the daemon lives.
    pub async fn follow_multicast(self: Arc<Self>) {
        let mut snooped = self.watching.subscribe(Event::SNOOPED);
        self.look_at_multicast(true).await;
        let mut look = tokio::time::interval(LOOK);
        look.tick().await;
        let mut frames = Vec::with_capacity(BATCH);
        loop {
            let next = self.multicast().next();
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
                () = self.multicast_changed.notified() => self.look_at_multicast(false).await,
                _ = look.tick() => self.look_at_multicast(false).await,
                () = due => self.work_on_multicast(Self::ask_and_expire).await,
            }
        }
    }

    /// The groups that are listened to, by network, VLAN and address.
    ///
    /// # Errors
    /// There is no such network.
    pub fn multicast_groups(&self, filter: &MdbFilter) -> Result<Vec<MulticastGroupView>, SwitchError> {
        let only = {
            let state = self.state();
            let only = filter.network.as_deref().map(|network| state.network(network)).transpose()?;
            only.map(|entry| entry.record.number)
        };
        let (names, ports) = (self.network_names(), self.ports_by_number());
        let groups = self.multicast().groups(Instant::now());
        let groups = groups.into_iter().filter(|group| only.is_none_or(|only| group.network == only));
        let mut views: Vec<_> = groups
            .filter_map(|group| {
                let network = names.get(&group.network)?;
                let listening = group.ports.iter().filter_map(|port| Some(ports.get(port)?.name.clone()));
                let mut listening: Vec<String> = listening.collect();
                listening.sort();
                // One of which nobody is left is about to go.
                (!listening.is_empty()).then(|| MulticastGroupView {
                    network: network.clone(),
                    group: group.group,
                    vlan: group.vlan.0 & !VlanKey::SERVICE,
                    service_tag: group.vlan.0 & VlanKey::SERVICE != 0,
                    ports: listening,
                    expires_in: group.expires_in.map(|left| left.as_secs()),
                })
            })
            .collect();
        // Networks have come in the order of their numbers.
        views.sort_by(|one, other| one.network.cmp(&other.network));
        Ok(views)
    }

    /// Forgets what a port listened to, which is gone from the tables already; but a message may just have come in.
    pub(super) fn forget_listener(&self, port: PortNumber) -> Result<(), SwitchError> {
        let mut groups = self.multicast();
        let (listeners, refused) = groups.forget_port(port);
        if refused > 0 {
            tracing::info!("{} is gone; {refused} times it asked for one group too many", self.port_name(port));
        }
        for listener in listeners {
            self.datapath.unlisten(&listener.into())?;
        }
        Ok(())
    }

    fn multicast(&self) -> MutexGuard<'_, Groups> {
        // What is left undone by a panic is mended by the next message.
        self.multicast.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something that waits for the tables, off the runtime's own threads.
    async fn work_on_multicast(self: &Arc<Self>, work: impl FnOnce(&Self) -> Result<(), SwitchError> + Send + 'static) {
        let switch = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&switch)).await;
        if let Ok(Err(error)) = done
            && !self.has_note(NOTE)
        {
            // Said once, until all is looked at again: whoever fills the table can do so as often as they like.
            tracing::warn!("multicast: {error}");
            self.note(NOTE, Some(format!("not all who listen to multicast get it: {error}")));
        }
    }

    fn take_in_snooped(&self, frames: &[Told]) -> Result<(), SwitchError> {
        // Held until the tables are written, or a port that goes meanwhile would stay in them.
        let mut groups = self.multicast();
        let mut outcome = Ok(());
        for Told { event, bytes } in frames {
            let station = event.decision.station;
            let port = event.decision.ingress;
            let heard = match parse(bytes) {
                Ok(heard) => heard,
                Err(error) => {
                    tracing::debug!("port {}: a frame about multicast groups is ignored: {error}", port.0);
                    continue;
                }
            };
            let Some(facts) = self.datapath.port(port).filter(|port| port.network == station.network) else { continue };
            let place = (station.network, station.vlan, port);
            let actions = groups.hear(Instant::now(), place, PortFacts::from(&facts), &heard);
            outcome = outcome.and(self.act_on(&mut groups, actions));
        }
        outcome
    }

    fn ask_and_expire(&self) -> Result<(), SwitchError> {
        let mut groups = self.multicast();
        let actions = groups.poll(Instant::now());
        self.act_on(&mut groups, actions)
    }

    /// Brings in line what networks there are, and by whom they are asked.
    async fn look_at_multicast(self: &Arc<Self>, first: bool) {
        let addresses = match self.netlink.addresses(None).await {
            Ok(addresses) => addresses,
            Err(error) => return tracing::warn!("multicast: {error}"),
        };
        self.note(NOTE, None);
        let networks = self.snooping_networks();
        let work = move |switch: &Self| switch.set_multicast(&networks, &addresses, first);
        self.work_on_multicast(work).await;
    }

    fn snooping_networks(&self) -> Vec<Snooping> {
        let state = self.state();
        let bridges = state.networks.values().filter(|entry| entry.record.driver.is_switched());
        let bridges = bridges.filter(|entry| entry.record.bridge.mcast_snooping);
        let snooping = bridges.filter_map(|entry| {
            let gateways = entry.record.gateways();
            let mut gateways = gateways.filter_map(|ip| if let IpAddr::V4(ip) = ip { Some(ip) } else { None });
            let (number, host_port) = (entry.record.number, entry.host_port?.number);
            let querier = entry.record.bridge.mcast_querier;
            Some(Snooping { number, querier, gateway: gateways.next(), host_port })
        });
        snooping.collect()
    }

    fn set_multicast(&self, networks: &[Snooping], addresses: &[(u32, IpNet)], first: bool) -> Result<(), SwitchError> {
        let ports: BTreeMap<PortNumber, Port> = self.datapath.ports()?.into_iter().collect();
        let rules = networks.iter().filter_map(|network| {
            let port = ports.get(&network.host_port)?;
            let asker = Asker {
                mac: port.mac,
                ipv4: network.gateway.unwrap_or(Ipv4Addr::UNSPECIFIED),
                link_local: link_local(addresses, port),
            };
            Some((network.number, Rules { querier: network.querier, asker }))
        });
        let rules = rules.collect();
        let gone: BTreeSet<PortNumber> = {
            let mut groups = self.multicast();
            let now = Instant::now();
            let mut actions = groups.set_networks(now, rules);
            if first {
                actions.extend(groups.take_over(now, self.datapath.listeners()?.into_iter().map(Listener::from)));
            }
            self.act_on(&mut groups, actions)?;
            groups.ports().into_iter().filter(|port| !ports.contains_key(port)).collect()
        };
        gone.into_iter().try_for_each(|port| self.forget_listener(port))
    }

    /// Does all of it, whatever of it fails; the first error.
    fn act_on(&self, groups: &mut Groups, actions: Vec<Action>) -> Result<(), SwitchError> {
        let mut outcome = Ok(());
        for action in actions {
            let done = match action {
                Action::Listen(listener) => {
                    let done = self.datapath.listen(&listener.into());
                    if done.is_err() {
                        groups.forget(listener);
                    }
                    done
                }
                Action::Unlisten(listener) => self.datapath.unlisten(&listener.into()).map(drop),
                Action::Ask(network, query) => {
                    if let Some(rules) = groups.rules(network) {
                        self.ask(network, query, rules.asker);
                    }
                    Ok(())
                }
                Action::Full(port) => {
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
        let named = self.ports_by_number().remove(&port);
        named.map_or_else(|| format!("port {}", port.0), |port| port.name)
    }

    /// Sends a query into a network, as the host's; and to the host itself, which would not hear its own.
    fn ask(&self, network: NetworkNumber, query: Query, asker: Asker) {
        let host = {
            let state = self.state();
            let entry = state.networks.values().find(|entry| entry.record.number == network);
            entry.and_then(|entry| Some((entry.record.name.clone(), entry.host_port?.number)))
        };
        let Some((name, host)) = host else { return };
        let Some(port) = self.datapath.port(host) else { return };
        // Without an address: the host takes no packet from others that has its own.
        let to_host = query.frame(&Asker { ipv4: Ipv4Addr::UNSPECIFIED, ..asker });
        for (ifindex, frame) in [(port.egress_ifindex, query.frame(&asker)), (port.ifindex, to_host)] {
            if let Err(error) = packet::send(ifindex, &frame) {
                tracing::warn!("cannot ask in network {name} who listens to multicast: {error}");
            }
        }
    }
}

/// The host's link-local address in a network; the one that goes with its station where it has none, or none yet: there
/// may be IPv6 in the network all the same.
fn link_local(addresses: &[(u32, IpNet)], port: &Port) -> Ipv6Addr {
    let found = addresses.iter().find_map(|(of, address)| match address.addr() {
        IpAddr::V6(address) if *of == port.egress_ifindex && address.is_unicast_link_local() => Some(address),
        _ => None,
    });
    found.unwrap_or_else(|| Address::link_local(port.mac).octets().into())
}
