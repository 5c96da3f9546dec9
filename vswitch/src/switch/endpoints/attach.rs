//! `attach` and `network connect`: a namespace becomes an endpoint of a network.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use tokio::sync::OwnedMutexGuard;
use vswitch_common::tables::{FdbKey, PortNumber, VlanKey};

use super::undo::Undo;
use crate::kernel::netlink::Netlink;
use crate::kernel::netns::{self, Netns, NetnsId};
use crate::model::{
    Endpoint, EndpointAddress, EndpointId, LeftInterface, NetnsRecord, Network, Phase, Published, StationMac,
    TrunkVlans, WaitingPorts,
};
use crate::plan;
use crate::plan::apply::{ApplyError, Container, Made, apply_endpoint};
use crate::plan::store::{Change, StoreError};
use crate::switch::context::now;
use crate::switch::endpoints::{Endpoints, NewConnection, NewEndpoint};
use crate::switch::error::SwitchError;
use crate::switch::info::EndpointInfo;
use crate::switch::macvlan::ParentError;
use crate::switch::routes::Surroundings;
use crate::switch::state::{NetworkEntry, PortHandle, State, Wanted};

/// The most addresses in use on the wire that an attach skips before it fails.
const MOST_FOUND: usize = 8;

/// The interface in the namespace if the user names none and no other network has it.
const DEFAULT_INTERFACE: &str = "eth0";

/// An admitted endpoint: its record with all addresses, its network, and the lock on it.
type Admitted = (Endpoint, Network, OwnedMutexGuard<()>);

impl Endpoints {
    /// Attaches a namespace. When this returns, frames flow and the endpoint's name resolves.
    ///
    /// # Errors
    /// The request does not fit what exists, or the machine refused a step; then nothing has
    /// changed.
    pub async fn attach(&self, request: NewEndpoint) -> Result<EndpointInfo, SwitchError> {
        let _change = self.context.begin_change().await?;
        self.join(request, None).await
    }

    /// Connects an endpoint to a further network, while traffic flows in its other networks.
    ///
    /// # Errors
    /// Fails as [`Endpoints::attach`] does.
    pub async fn connect(&self, network: String, request: NewConnection) -> Result<EndpointInfo, SwitchError> {
        let _change = self.context.begin_change().await?;
        let (endpoint, expected, waiting) = {
            let state = self.context.state();
            let record = &state.endpoint(&request.endpoint)?[0].record;
            let netns = NetnsId { dev: record.netns.dev, inode: record.netns.inode };
            let network = &state.network(&network)?.record;
            if network.capabilities().interfaces.is_err() {
                return Err(SwitchError::NotConnectable(network.name.clone()));
            }
            if let Some(engine) = &record.engine {
                return Err(SwitchError::OfEngine {
                    endpoint: record.name.clone(),
                    owner: engine.id.owner().to_owned(),
                });
            }
            (record.clone(), netns, state.waiting_ports(record, network.id))
        };
        self.join(request.to(network, endpoint, waiting), Some(expected)).await
    }

    /// Makes a namespace an endpoint of a network, or undoes every step. Makes room in a network
    /// without a free address if remains have some.
    async fn join(&self, given: NewEndpoint, expected: Option<NetnsId>) -> Result<EndpointInfo, SwitchError> {
        match self.join_once(given.clone(), expected).await {
            Err(full) if full.is_full() && self.displace_remains_of(&given.network).await? > 0 => {
                tracing::debug!("{full}: addresses of endpoints whose namespaces are gone are free now");
                self.join_once(given, expected).await
            }
            joined => joined,
        }
    }

    async fn join_once(&self, given: NewEndpoint, expected: Option<NetnsId>) -> Result<EndpointInfo, SwitchError> {
        let mut undo = Undo::default();
        let joined = self.try_join(given, expected, &mut undo).await;
        if joined.is_err() {
            undo.run_to(0).await;
        }
        joined
    }

    /// The steps: open, displace, lease, reserve, admit, probe, record, announce, plan and apply,
    /// publish, complete, settle. `expected` is the namespace that the path has to lead to.
    async fn try_join<'a>(
        &'a self,
        mut given: NewEndpoint,
        expected: Option<NetnsId>,
        undo: &mut Undo<'a>,
    ) -> Result<EndpointInfo, SwitchError> {
        let netns = self.open_for(&given).await?;
        if expected.is_some_and(|expected| expected != netns.id()) {
            return Err(SwitchError::AnotherProcess(given.netns));
        }
        self.displace_remains(&given).await?;
        let place = match given.left() {
            Some(left) => nowhere(left),
            None => NetnsRecord {
                path: given.netns.clone(),
                dev: netns.id().dev,
                inode: netns.id().inode,
                // A kernel without cookies has inode numbers all the same.
                cookie: tokio::task::block_in_place(|| netns.cookie()).ok(),
                process: netns::process_behind(&given.netns),
            },
        };

        // In a network of the cluster, etcd decides on the addresses.
        let id = EndpointId::random()?;
        if let Some(leased) = self.etcd.lease(&given.network, id, given.ip, given.ip6).await? {
            undo.push(self.etcd.return_lease(leased));
            (given.ip, given.ip6) = (leased.ipv4, leased.ipv6);
        }

        let mut around = self.surroundings(&given, &netns).await?;
        let mut published = tokio::task::block_in_place(|| self.reserve_ports(&given))?;
        let reserved = published.clone();
        undo.push(async move { self.nat.release_ports(id, &reserved) });
        published.extend(&given.waiting);

        // Addresses that a machine on the wire has are skipped, unless the user requested them.
        let mut found = 0;
        let (mut endpoint, network, recorded) = loop {
            let mark = undo.mark();
            let ((endpoint, network, exclusive), recorded) =
                self.admit(&given, id, &place, expected, &around, &published)?;
            let admitted = endpoint.clone();
            undo.push(async move {
                self.unpublish(&admitted).await;
                self.forget(id).await;
                drop(exclusive);
            });
            match self.macvlan.probe(&network, &endpoint).await {
                Ok(()) => break (endpoint, network, recorded),
                Err(SwitchError::Parent(ParentError::InUse { address, mac, parent })) if !given.requests(address) => {
                    found += 1;
                    if found == MOST_FOUND {
                        return Err(ParentError::AllInUse { parent, tried: found, address }.into());
                    }
                    undo.run_to(mark).await;
                    around.taken.insert(address, format!("the machine {mac} on {parent}"));
                }
                Err(error) => return Err(error),
            }
        };
        recorded.await?;
        self.etcd.announce(&network, &endpoint).await?;

        self.enter(&mut endpoint, Phase::Attaching);
        let made = self.make(&network, &endpoint, netns).await?;
        let port = made.port;
        undo.push(made.undo(self.context.scene()));
        self.nat.publish_ports(&endpoint).await?;

        let info = self.complete(endpoint, &network, port);
        if let Some(entry) = self.context.state().networks.get_mut(&network.id) {
            let addresses = info.endpoint.address.iter().flat_map(EndpointAddress::ips);
            addresses.filter(|ip| !given.requests(*ip)).for_each(|ip| entry.assigned(ip));
        }
        self.settle_endpoint(&info.endpoint, false).await;
        let (name, netns) = (&info.endpoint.name, &info.endpoint.netns);
        match info.endpoint.left() {
            Some(left) => tracing::info!("endpoint {name} is attached to {}, and waits as {}", network.name, left.name),
            None => tracing::info!("endpoint {name} is attached to {} at {}", network.name, netns.path.display()),
        }
        Ok(info)
    }

    /// Decides on the name, the addresses and the MAC address of an endpoint, and records it. The
    /// returned future ends when the record is on disk.
    fn admit(
        &self,
        given: &NewEndpoint,
        id: EndpointId,
        place: &NetnsRecord,
        expected: Option<NetnsId>,
        around: &Around,
        published: &[Published],
    ) -> Result<(Admitted, impl Future<Output = Result<(), StoreError>> + use<>), SwitchError> {
        let mut state = self.context.state();
        if expected.is_some() && state.endpoints_named(given.name.as_str())?.is_empty() {
            // The endpoint was detached meanwhile.
            return Err(SwitchError::EndpointNotFound(given.name.to_string()));
        }
        let wanted = wanted(&state, given, id, place, around.clone(), published.to_vec())?;
        let admitted = state.admit_endpoint(wanted)?;
        let recorded = self.context.store.commit(vec![Change::PutEndpoint(admitted.0.clone())]);
        Ok((admitted, recorded))
    }

    /// Makes the devices, addresses, routes and the port of an endpoint, or completes them.
    pub async fn make(&self, network: &Network, endpoint: &Endpoint, netns: Netns) -> Result<Made, ApplyError> {
        let path = endpoint.netns.path.clone();
        let container = tokio::task::block_in_place(|| Container::open(netns, &path))?;
        let facts = self.context.facts_of(network, endpoint);
        let mut plan = plan::endpoint(&self.context.instance, network, endpoint, facts);
        if endpoint.left().is_some_and(|left| left.sandbox.is_none()) {
            plan.leave_here();
        } else if endpoint.bare {
            plan.leave_bare();
        }
        apply_endpoint(&plan, self.context.scene(), &container).await
    }

    /// Makes an endpoint visible: in `ps`, in DNS, for its network.
    pub fn complete(&self, mut endpoint: Endpoint, network: &Network, port: Option<(u32, PortNumber)>) -> EndpointInfo {
        endpoint.phase = Phase::Attached;
        let info = EndpointInfo { endpoint: endpoint.clone(), network: network.clone() };
        let mut state = self.context.state();
        // The attach does not wait for the disk: until the disk has it, the next daemon finds the
        // device.
        self.context.store.note(vec![Change::PutEndpoint(endpoint.clone())]);
        // The ports that waited for this connection are its own now.
        for entry in state.endpoints.values_mut().filter(|entry| entry.record.is_with(&endpoint)) {
            let before = entry.record.waiting.len();
            entry.record.waiting.retain(|waiting| waiting.network != endpoint.network);
            if entry.record.waiting.len() != before {
                self.context.store.note(vec![Change::PutEndpoint(entry.record.clone())]);
            }
        }
        if let Some(entry) = state.endpoints.get_mut(&endpoint.id) {
            entry.record = endpoint;
            entry.port = port.map(|(ifindex, number)| PortHandle { ifindex, number });
        }
        info
    }

    /// Enters a phase. The disk has it within a second.
    pub fn enter(&self, endpoint: &mut Endpoint, phase: Phase) {
        endpoint.phase = phase;
        let mut state = self.context.state();
        if let Some(entry) = state.endpoints.get_mut(&endpoint.id) {
            entry.record.phase = phase;
            self.context.store.note(vec![Change::PutEndpoint(endpoint.clone())]);
        }
    }

    /// Removes an endpoint from the record and from the cluster, and frees its addresses. Its
    /// devices are gone already.
    pub async fn forget(&self, id: EndpointId) {
        let removed = self.context.store.commit(vec![Change::RemoveEndpoint(id)]);
        // The next daemon finishes a detach that it finds begun, so nothing waits for the disk.
        let begun = self.context.state().endpoints.get(&id).is_some_and(|entry| entry.record.phase == Phase::Detaching);
        if !begun && let Err(error) = removed.await {
            // The next daemon finds the record without a device or without its namespace, and
            // releases it then.
            tracing::warn!("{error}");
        }
        self.context.note(&endpoint_note(id), None);
        let gone = self.context.state().endpoints.remove(&id);
        if let Some(entry) = gone {
            self.etcd.withdraw(&entry.record).await;
        }
    }

    /// Removes the host's routes and the NAT rules of an endpoint, but keeps its host ports
    /// reserved.
    async fn unpublish(&self, endpoint: &Endpoint) {
        self.macvlan.close_host_routes(endpoint).await;
        self.nat.unpublish_ports(endpoint).await;
    }

    /// Hands the waiting ports of a connection that ends to another connection of the endpoint, and
    /// with `published` the published ones, too. Returns the ports that no connection takes.
    fn hand_on(&self, endpoint: &Endpoint, published: bool) -> Vec<Published> {
        let mut waiting = endpoint.waiting.clone();
        let mut left = Vec::new();
        if published && !endpoint.published.is_empty() {
            waiting.push(WaitingPorts { network: endpoint.network, ports: endpoint.published.clone() });
        } else {
            left.extend(&endpoint.published);
        }
        let mut state = self.context.state();
        let heir =
            state.endpoints.values_mut().find(|entry| entry.record.id != endpoint.id && entry.record.is_with(endpoint));
        match heir {
            Some(heir) if !waiting.is_empty() => {
                heir.record.waiting.extend(waiting);
                self.context.store.note(vec![Change::PutEndpoint(heir.record.clone())]);
            }
            Some(_) => {}
            None => left.extend(waiting.into_iter().flat_map(|waiting| waiting.ports)),
        }
        // A connection that was not completed has the ports that still wait for it.
        let others = state.endpoints.values().filter(|entry| entry.record.id != endpoint.id);
        let held: Vec<Published> = others.flat_map(|entry| entry.record.held_ports().copied()).collect();
        left.retain(|port| !held.contains(port));
        left
    }

    /// Removes everything of an endpoint but its devices and its port: host routes, NAT rules, host
    /// ports, the record, and what depended on it in its other networks.
    pub async fn release(&self, endpoint: &Endpoint) {
        self.release_connection(endpoint, false).await;
    }

    /// Like [`Endpoints::release`]; with `keep_ports`, the published ports wait for the endpoint to
    /// be connected again, if it has another connection.
    pub async fn release_connection(&self, endpoint: &Endpoint, keep_ports: bool) {
        let free = self.hand_on(endpoint, keep_ports);
        self.unpublish(endpoint).await;
        self.nat.release_ports(endpoint.id, &free);
        self.forget(endpoint.id).await;
        self.settle_endpoint(endpoint, true).await;
    }

    /// Opens the namespace of a request. The host network takes the host's namespace only, and no
    /// other network takes it.
    async fn open_for(&self, given: &NewEndpoint) -> Result<Netns, SwitchError> {
        if given.left().is_some() {
            let state = self.context.state();
            let network = &state.network(&given.network)?.record;
            return match network.capabilities().interfaces {
                Ok(()) => Ok(Netns::current()?),
                Err(has) => Err(SwitchError::NoInterface { option: "leave_here", network: network.name.clone(), has }),
            };
        }
        let (on_host, name) = {
            let state = self.context.state();
            let network = &state.network(&given.network)?.record;
            (network.capabilities().host_namespace, network.name.clone())
        };
        match (on_host, self.context.open_netns(&given.netns).await) {
            (true, Err(SwitchError::OwnNamespace(_))) => Ok(Netns::current()?),
            (true, Ok(_)) => Err(SwitchError::HostNetwork(name)),
            (_, opened) => opened,
        }
    }

    /// Reads what else is in the places that an endpoint comes to: its namespace and its segment.
    async fn surroundings(&self, given: &NewEndpoint, netns: &Netns) -> Result<Around, SwitchError> {
        let (network, vlan) = {
            let state = self.context.state();
            let record = &state.network(&given.network)?.record;
            let vlan = record.parent().and_then(|options| options.vlan).or(given.port.vlan);
            (record.clone(), vlan.map_or(VlanKey::NONE, |vlan| VlanKey(vlan.get())))
        };
        let mut around = Around::default();
        if network.capabilities().interfaces.is_err() {
            return Ok(around);
        }
        if let Some(interface) = network.interface() {
            around.taken = Surroundings::read(&self.context.netlink).await?.taken(Some(interface.as_str()));
        }
        if let Some(mac) = given.mac {
            around.station = self.station(FdbKey { network: network.number, vlan, mac: mac.get() }).await?;
        }
        if given.ifname.is_none() && given.left().is_none() {
            let netlink = tokio::task::block_in_place(|| Netlink::open_in(netns))?;
            around.interfaces = netlink.links().await?.into_iter().map(|link| link.name).collect();
        }
        Ok(around)
    }

    /// Describes the station of an FDB entry. A station behind a tunnel is none: an endpoint that
    /// moves to this host keeps its MAC address.
    async fn station(&self, key: FdbKey) -> Result<Option<String>, SwitchError> {
        let Some(entry) = self.context.in_datapath(move |datapath| datapath.fdb_entry(&key)).await? else {
            return Ok(None);
        };
        let port = self.context.ports_by_number().remove(&entry.port).filter(|port| port.kind != "tunnel");
        let behind = |name| format!("a station behind {name}; if it is gone, `vswitch fdb del` removes it");
        Ok(port.map(|port| behind(port.name)))
    }
}

/// What else is in the places that an endpoint comes to.
#[derive(Clone, Debug, Default)]
struct Around {
    /// The addresses that are in use outside of the switch, with their holders.
    taken: BTreeMap<IpAddr, String>,
    /// The names of the interfaces in the namespace, if the user named none.
    interfaces: BTreeSet<String>,
    /// The station that has the requested MAC address.
    station: Option<String>,
}

/// Returns the place of an interface that an engine moves: the path where the engine says that it
/// is, and no identity, because the engine may say so before the namespace is there.
pub fn nowhere(left: &LeftInterface) -> NetnsRecord {
    let path = left.sandbox.clone().unwrap_or_default();
    NetnsRecord { path, dev: 0, inode: 0, cookie: None, process: None }
}

/// Returns the subject of the note on an endpoint in `status`.
pub fn endpoint_note(id: EndpointId) -> String {
    format!("endpoint {id}")
}

fn wanted(
    state: &State,
    given: &NewEndpoint,
    endpoint: EndpointId,
    place: &NetnsRecord,
    around: Around,
    published: Vec<Published>,
) -> Result<Wanted, SwitchError> {
    let network = state.network(&given.network)?;
    let (record, mtu) = (&network.record, network.mtu);
    let address = match record.capabilities().interfaces {
        Ok(()) => Some(EndpointAddress {
            ifname: DEFAULT_INTERFACE.parse()?,
            // `State::admit_endpoint` sets the other fields.
            mac: StationMac::generated(&record.id, given.name.as_str(), 0),
            ipv4: None,
            ipv6: None,
            mtu,
        }),
        Err(has) => {
            let options = [
                ("--ifname", given.ifname.is_some()),
                ("--ip", given.ip.is_some()),
                ("--ip6", given.ip6.is_some()),
                ("--mac", given.mac.is_some()),
                ("--vlan", given.port.vlan.is_some()),
                ("--trunk", given.port.trunk != TrunkVlans::None),
                ("--opt", !given.options.is_empty()),
            ];
            if let Some((option, _)) = options.into_iter().find(|(_, given)| *given) {
                return Err(SwitchError::NoInterface { option, network: record.name.clone(), has });
            }
            None
        }
    };
    let endpoint = Endpoint {
        id: endpoint,
        name: given.name.clone(),
        network: record.id,
        netns: place.clone(),
        address,
        hostname: given.hostname.clone(),
        aliases: given.aliases.clone(),
        published,
        waiting: Vec::new(),
        gw_priority: given.gw_priority,
        options: given.options.clone(),
        port: given.port.clone(),
        labels: given.labels.clone(),
        created: now(),
        phase: Phase::Reserved,
        engine: given.engine.clone().map(Box::new),
        bare: given.bare,
        unheld: given.unheld,
    };
    let NewEndpoint { ip, ip6, mac, .. } = *given;
    let parent_mac = parent_mac(network, given, state)?;
    let Around { taken, interfaces, station } = around;
    let ifname = given.left().map(|left| &left.name).or(given.ifname.as_ref()).cloned();
    Ok(Wanted { endpoint, ip, ip6, mac, parent_mac, ifname, taken, interfaces, station })
}

/// Returns the MAC address of the parent, if endpoints share it. Refuses options that no endpoint
/// on a parent can have.
fn parent_mac(network: &NetworkEntry, given: &NewEndpoint, state: &State) -> Result<Option<StationMac>, SwitchError> {
    let (record, name) = (&network.record, &network.record.name);
    let Some(options) = record.parent() else { return Ok(None) };
    let parent = || options.parent.clone();
    for (option, is_given) in [("--vlan", given.port.vlan.is_some()), ("--trunk", given.port.trunk != TrunkVlans::None)]
    {
        if is_given {
            return Err(ParentError::EndpointVlan { option, network: name.clone(), parent: parent() }.into());
        }
    }
    if options.shares_mac() && given.mac.is_some() {
        return Err(ParentError::SharedMac { network: name.clone(), parent: parent() }.into());
    }
    if let Some(endpoint) = state.only_endpoint(record) {
        return Err(ParentError::OnlyOne { network: name.clone(), endpoint }.into());
    }
    let gone = || ParentError::Gone { parent: parent(), network: name.clone() };
    let mac = StationMac::try_from(network.uplink.as_ref().ok_or_else(gone)?.mac)?;
    Ok(Some(mac).filter(|_| options.shares_mac()))
}
