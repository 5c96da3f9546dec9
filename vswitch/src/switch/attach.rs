//! `attach` and `network connect`: a namespace becomes an endpoint of a network.

mod given;

use std::net::{IpAddr, Ipv4Addr};

use time::OffsetDateTime;
use tokio::sync::OwnedMutexGuard;

use super::state::{NetworkEntry, PortHandle, State, Wanted};
use super::{Switch, SwitchError, WireError};
use crate::api::{AttachRequest, ConnectRequest, EndpointView};
use crate::apply::{ApplyError, Container, Made, Scene, apply};
use crate::drivers::{self, EndpointFacts};
use crate::kernel::netns::{self, Netns, NetnsId};
use crate::model::{
    Driver, Endpoint, EndpointAddress, EndpointId, NetnsRecord, Network, Phase, PublishSpec, Published, StationMac,
    TrunkVlans,
};
use crate::store::{Change, StoreError};
use given::Given;

/// An endpoint that has its addresses, its network, and the lock on it.
type Admitted = (Endpoint, Network, OwnedMutexGuard<()>);

/// Addresses that are found to be somebody's on the wire, one after the other, before it is given up.
const MOST_FOUND: usize = 8;

/// The interface that nobody has to name.
const DEFAULT_INTERFACE: &str = "eth0";

impl Switch {
    /// Attaches a namespace. When this returns, frames flow and its name resolves; where it fails, nothing has changed.
    ///
    /// # Errors
    /// What is wrong with the request, or what the machine refused.
    pub async fn attach(&self, request: AttachRequest) -> Result<EndpointView, SwitchError> {
        let _leave = self.leave().await?;
        self.join(Given::of_attach(request)?, None).await
    }

    /// Connects an endpoint to another network, while traffic flows in those that it is in.
    ///
    /// # Errors
    /// As of [`Switch::attach`].
    pub async fn connect(&self, network: String, request: ConnectRequest) -> Result<EndpointView, SwitchError> {
        let _leave = self.leave().await?;
        let (endpoint, expected) = {
            let state = self.state();
            let record = &state.endpoint(&request.endpoint)?[0].record;
            let netns = NetnsId { dev: record.netns.dev, inode: record.netns.inode };
            let network = &state.network(&network)?.record;
            if !network.driver.has_interfaces() {
                return Err(SwitchError::NotConnectable(network.name.clone()));
            }
            (record.clone(), netns)
        };
        self.join(Given::of_connect(network, request, endpoint)?, Some(expected)).await
    }

    /// Makes a namespace an endpoint of a network; `expected` is the one that its path has to lead to.
    async fn join(&self, mut given: Given, expected: Option<NetnsId>) -> Result<EndpointView, SwitchError> {
        let netns = self.open_for(&given).await?;
        if expected.is_some_and(|expected| expected != netns.id()) {
            return Err(SwitchError::AnotherProcess(given.netns));
        }
        let id = EndpointId::random()?;
        let leased = self.lease(&given.network, id, given.ip, given.ip6).await?;
        if let Some(leased) = &leased {
            // Whoever else wants them gets others, on whatever host.
            (given.ip, given.ip6) = (leased.ipv4, leased.ipv6);
        }
        let joined = self.enter_and_make(&given, id, netns, expected).await;
        if let (Err(_), Some(leased)) = (&joined, leased) {
            self.return_lease(leased).await;
        }
        joined
    }

    async fn enter_and_make(
        &self,
        given: &Given,
        id: EndpointId,
        netns: Netns,
        expected: Option<NetnsId>,
    ) -> Result<EndpointView, SwitchError> {
        let mut taken = self.host_addresses(&given.network).await?;
        // Binds, and may read all of /proc to say who has a port.
        let published = tokio::task::block_in_place(|| self.publish(given))?;
        let mut found = 0;
        let ((endpoint, network, _exclusive), recorded) = loop {
            let admitted = self.enter(given, id, &netns, expected, taken.clone(), &published).await;
            match admitted {
                Err(SwitchError::Wire(WireError::InUse { address, parent, .. })) if !given.asks_for(address) => {
                    // Some machine has it: the next one, then.
                    found += 1;
                    if found == MOST_FOUND {
                        self.reservations.release(&published);
                        return Err(WireError::AllInUse { parent, tried: found, address }.into());
                    }
                    taken.push(address);
                }
                Err(error) => {
                    self.reservations.release(&published);
                    return Err(error);
                }
                Ok(admitted) => break admitted,
            }
        };
        let made = async {
            recorded.await?;
            self.announce(&network, &endpoint).await?;
            let made = self.make(&network, &endpoint, netns).await?;
            match self.open_outside(&endpoint).await {
                Ok(()) => Ok(made),
                Err(error) => {
                    made.undo(self.scene()).await;
                    Err(error)
                }
            }
        };
        match made.await {
            Ok(made) => {
                let view = self.complete(endpoint.clone(), &network, &made);
                self.settle_endpoint(&endpoint, false).await;
                tracing::info!("endpoint {} is attached to {} at {}", view.name, view.network, view.netns.display());
                Ok(view)
            }
            Err(error) => {
                self.close_outside(&endpoint).await;
                self.forget(endpoint.id).await;
                Err(error)
            }
        }
    }

    /// Gives an endpoint its addresses, which no machine on a wire has, and records it.
    async fn enter(
        &self,
        given: &Given,
        id: EndpointId,
        netns: &Netns,
        expected: Option<NetnsId>,
        taken: Vec<IpAddr>,
        published: &[Published],
    ) -> Result<(Admitted, impl Future<Output = Result<(), StoreError>> + use<>), SwitchError> {
        let admitted = {
            let mut state = self.state();
            let detached = expected.is_some() && state.connections(given.name.as_str()).is_empty();
            let wanted = if detached {
                Err(SwitchError::EndpointNotFound(given.name.to_string()))
            } else {
                wanted(&state, given, id, netns, taken, published.to_vec())
            };
            wanted.and_then(|wanted| state.admit_endpoint(wanted)).map(|admitted| {
                let recorded = self.store.commit(vec![Change::PutEndpoint(admitted.0.clone())]);
                (admitted, recorded)
            })
        };
        let (admitted, recorded) = admitted?;
        let (endpoint, network, _) = &admitted;
        if let Err(error) = self.probe(network, endpoint).await {
            self.forget(endpoint.id).await;
            return Err(error);
        }
        Ok((admitted, recorded))
    }

    /// Makes what an endpoint needs in the kernel, or finishes what is half made.
    pub(super) async fn make(&self, network: &Network, endpoint: &Endpoint, netns: Netns) -> Result<Made, ApplyError> {
        let path = endpoint.netns.path.clone();
        let container = tokio::task::block_in_place(|| Container::open(netns, &path))?;
        let facts = self.facts_of(network, endpoint);
        let plan = drivers::plan(&self.instance, network, endpoint, facts);
        apply(&plan, Scene { container: Some(&container), ..self.scene() }).await
    }

    /// What the plan of an endpoint depends on besides the records.
    pub(super) fn facts_of(&self, network: &Network, endpoint: &Endpoint) -> EndpointFacts {
        let state = self.state();
        let uplink = state.networks.get(&network.id).and_then(|entry| entry.uplink.as_ref());
        let first = state.sharing(endpoint).first().map(|entry| entry.record.id);
        EndpointFacts {
            mode: self.mode,
            xdp_uplink: uplink.is_some_and(|uplink| uplink.xdp),
            default_route: first.is_none_or(|first| first == endpoint.id),
        }
    }

    /// Shows the endpoint to everybody.
    pub(super) fn complete(&self, mut endpoint: Endpoint, network: &Network, made: &Made) -> EndpointView {
        endpoint.phase = Phase::Attached;
        let view = super::views::endpoint(&endpoint, network);
        let mut state = self.state();
        // That it is all there can be seen, so nobody waits for the disk.
        self.store.note(vec![Change::PutEndpoint(endpoint.clone())]);
        if let Some(entry) = state.endpoints.get_mut(&endpoint.id) {
            entry.record = endpoint;
            entry.port = made.port.map(|(ifindex, number)| PortHandle { ifindex, number });
        }
        view
    }

    /// Takes an endpoint out of the record and gives its addresses free: there is nothing of it in the kernel.
    pub(super) async fn forget(&self, id: EndpointId) {
        let removed = self.store.commit(vec![Change::RemoveEndpoint(id)]);
        if let Err(error) = removed.await {
            // It will be found without a device, or in a namespace that is gone, and be released then.
            tracing::warn!("{error}");
        }
        let gone = self.state().endpoints.remove(&id);
        if let Some(entry) = gone {
            self.withdraw(&entry.record).await;
        }
    }

    /// The namespace; the host's own only for the host's network, and no other for that.
    async fn open_for(&self, given: &Given) -> Result<Netns, SwitchError> {
        let (driver, name) = {
            let state = self.state();
            let network = &state.network(&given.network)?.record;
            (network.driver, network.name.clone())
        };
        match (driver, self.open_netns(&given.netns).await) {
            (Driver::Host, Err(SwitchError::OwnNamespace(_))) => Ok(Netns::current()?),
            (Driver::Host, Ok(_)) => Err(SwitchError::HostNetwork(name)),
            (_, opened) => opened,
        }
    }

    /// Takes the host ports that are asked for.
    fn publish(&self, given: &Given) -> Result<Vec<Published>, SwitchError> {
        if given.publish.is_empty() {
            return Ok(Vec::new());
        }
        let (specs, taken) = {
            let state = self.state();
            let network = &state.network(&given.network)?.record;
            let why = match network.driver {
                Driver::Host => Some("whose endpoints have the host's ports themselves"),
                Driver::None => Some("which has loopback alone"),
                Driver::Bridge | Driver::Overlay if network.internal => Some("which is internal"),
                Driver::Bridge | Driver::Overlay if !given.port.reaches_host() => {
                    Some("whose VLANs the host is not in")
                }
                Driver::Macvlan | Driver::Ipvlan => Some("whose endpoints are on the wire with all their ports"),
                Driver::Bridge | Driver::Overlay => None,
            };
            if let Some(why) = why {
                return Err(cannot(why, &given.publish, network));
            }
            let binding = network.bridge.host_binding;
            let specs: Vec<_> = given.publish.iter().map(|spec| spec.or_at(binding)).collect();
            let ipv6 = network.subnets.iter().any(|config| config.subnet.is_ipv6());
            if !ipv6 && specs.iter().any(|spec| spec.host_ip().is_some_and(|address| address.is_ipv6())) {
                return Err(cannot("which has no IPv6, at an IPv6 address", &given.publish, network));
            }
            (specs, published(&state))
        };
        let mut reserved: Vec<Published> = Vec::new();
        for spec in specs {
            let own = reserved.iter().map(|port| (*port, given.name.to_string()));
            let taken: Vec<_> = taken.iter().cloned().chain(own).collect();
            match self.reservations.reserve(&spec, &taken) {
                Ok(ports) => reserved.extend(ports),
                Err(error) => {
                    self.reservations.release(&reserved);
                    return Err(error.into());
                }
            }
        }
        Ok(reserved)
    }

    /// The addresses that the host itself has on the wire of the network, where it has one.
    async fn host_addresses(&self, network: &str) -> Result<Vec<IpAddr>, SwitchError> {
        if self.state().network(network)?.record.interface().is_none() {
            return Ok(Vec::new());
        }
        let addresses = self.netlink.addresses(None).await?;
        Ok(addresses.into_iter().map(|(_, address)| address.addr()).collect())
    }
}

fn cannot(why: &'static str, ports: &[PublishSpec], network: &Network) -> SwitchError {
    let ports: Vec<_> = ports.iter().map(PublishSpec::to_string).collect();
    SwitchError::CannotPublish { ports: ports.join(", "), network: network.name.clone(), why }
}

/// Every published port, with the endpoint's name.
fn published(state: &State) -> Vec<(Published, String)> {
    let ports = |record: &Endpoint| {
        let name = record.name.to_string();
        record.published.iter().map(|port| (*port, name.clone())).collect::<Vec<_>>()
    };
    state.endpoints.values().flat_map(|entry| ports(&entry.record)).collect()
}

fn wanted(
    state: &State,
    given: &Given,
    endpoint: EndpointId,
    netns: &Netns,
    taken: Vec<IpAddr>,
    published: Vec<Published>,
) -> Result<Wanted, SwitchError> {
    let network = state.network(&given.network)?;
    let (record, mtu) = (&network.record, network.mtu);
    let address = match record.driver {
        Driver::Bridge | Driver::Macvlan | Driver::Ipvlan | Driver::Overlay => Some(EndpointAddress {
            ifname: DEFAULT_INTERFACE.parse()?,
            // The rest is given when the endpoint is admitted.
            mac: StationMac::generated(&record.id, given.name.as_str(), 0),
            ipv4: Ipv4Addr::UNSPECIFIED,
            ipv6: None,
            mtu,
        }),
        Driver::Host | Driver::None => {
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
                let has = if record.driver == Driver::Host { "the host's own interfaces" } else { "loopback alone" };
                return Err(SwitchError::NoInterface { option, network: record.name.clone(), has });
            }
            None
        }
    };
    let id = netns.id();
    let endpoint = Endpoint {
        id: endpoint,
        name: given.name.clone(),
        network: record.id,
        netns: NetnsRecord {
            path: given.netns.clone(),
            dev: id.dev,
            inode: id.inode,
            process: netns::process_behind(&given.netns),
        },
        address,
        hostname: given.hostname.clone(),
        aliases: given.aliases.clone(),
        published,
        gw_priority: given.gw_priority,
        options: given.options.clone(),
        port: given.port.clone(),
        labels: given.labels.clone(),
        created: now(),
        phase: Phase::Attaching,
    };
    let Given { ip, ip6, mac, .. } = *given;
    let parent_mac = parent_mac(network, given, state)?;
    Ok(Wanted { endpoint, ip, ip6, mac, parent_mac, ifname: given.ifname.clone(), taken })
}

/// The parent's MAC address, where endpoints have that one; what cannot be on a wire is refused.
fn parent_mac(network: &NetworkEntry, given: &Given, state: &State) -> Result<Option<StationMac>, SwitchError> {
    let (record, name) = (&network.record, &network.record.name);
    let Some(wire) = &record.wire else { return Ok(None) };
    let parent = || wire.parent.clone();
    for (option, is_given) in [("--vlan", given.port.vlan.is_some()), ("--trunk", given.port.trunk != TrunkVlans::None)]
    {
        if is_given {
            return Err(WireError::EndpointVlan { option, network: name.clone(), parent: parent() }.into());
        }
    }
    if wire.shares_mac() && given.mac.is_some() {
        return Err(WireError::SharedMac { network: name.clone(), parent: parent() }.into());
    }
    if let Some(endpoint) = state.only_endpoint(record) {
        return Err(WireError::OnlyOne { network: name.clone(), endpoint }.into());
    }
    let gone = || WireError::Gone { parent: parent(), network: name.clone() };
    let mac = StationMac::try_from(network.uplink.as_ref().ok_or_else(gone)?.mac)?;
    Ok(Some(mac).filter(|_| wire.shares_mac()))
}

/// Now, to the second: what is recorded and shown needs no more.
pub(super) fn now() -> OffsetDateTime {
    let now = OffsetDateTime::now_utc();
    now.replace_nanosecond(0).unwrap_or(now)
}
