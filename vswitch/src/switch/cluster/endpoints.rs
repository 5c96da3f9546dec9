//! This host's endpoints in networks of the cluster: their addresses are leased, and others are told of them.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Membership, is_shared};
use crate::cluster::{ClusterError, SharedEndpoint};
use crate::ipam;
use crate::model::{Endpoint, EndpointId, Network, NetworkId, SubnetConfig};
use crate::switch::state::{EndpointEntry, State};
use crate::switch::{Switch, SwitchError};

/// Addresses that an endpoint has got for itself in the whole cluster.
#[derive(Clone, Copy, Debug)]
pub(in crate::switch) struct Leased {
    network: NetworkId,
    endpoint: EndpointId,
    pub ipv4: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6Addr>,
}

/// Addresses of a network that need not be asked for.
struct Taken {
    /// Those of endpoints here.
    here: BTreeSet<IpAddr>,
    /// These, and what others have, as it was told last.
    known: BTreeSet<IpAddr>,
}

impl Switch {
    /// Leases the addresses that are asked for, or the first that are free; nothing in a network of this host alone.
    ///
    /// # Errors
    /// There is no such network, what is asked for is no address in it, or etcd's; then nothing is leased.
    pub(in crate::switch) async fn lease(
        &self,
        network: &str,
        endpoint: EndpointId,
        ip: Option<Ipv4Addr>,
        ip6: Option<Ipv6Addr>,
    ) -> Result<Option<Leased>, SwitchError> {
        let (network, taken) = {
            let state = self.state();
            let record = &state.network(network)?.record;
            if !is_shared(record) {
                return Ok(None);
            }
            // Not for etcd to say: while this host has no lease, nobody has it there.
            for asked in ip.map(IpAddr::V4).into_iter().chain(ip6.map(IpAddr::V6)) {
                refuse_own(&state, record, asked)?;
            }
            let here = state.endpoints_of(record.id).filter_map(|entry| entry.record.address.as_ref());
            let here: BTreeSet<IpAddr> = here.flat_map(|address| address.ips().collect::<Vec<_>>()).collect();
            let known = here.iter().copied().chain(state.others.addresses_in(record.id)).collect();
            (record.clone(), Taken { here, known })
        };
        let member = self.member_for(&network.name)?;
        let mut leased = Leased { network: network.id, endpoint, ipv4: None, ipv6: None };
        for (ipv6, asked) in [(false, ip.map(IpAddr::V4)), (true, ip6.map(IpAddr::V6))] {
            match lease_one(member, &network, endpoint, ipv6, asked, &taken).await {
                Ok(Some(IpAddr::V4(address))) => leased.ipv4 = Some(address),
                Ok(Some(IpAddr::V6(address))) => leased.ipv6 = Some(address),
                Ok(None) => {}
                Err(error) => {
                    self.return_lease(leased).await;
                    return Err(error);
                }
            }
        }
        Ok(Some(leased))
    }

    /// Gives leased addresses back, and whatever was announced of their endpoint. It never fails.
    pub(in crate::switch) async fn return_lease(&self, leased: Leased) {
        let Some(member) = &self.membership else { return };
        let Leased { network, endpoint, ipv4, ipv6 } = leased;
        member.cluster.remove_endpoint(network, endpoint).await;
        for address in ipv4.map(IpAddr::V4).into_iter().chain(ipv6.map(IpAddr::V6)) {
            member.cluster.release_address(network, endpoint, address).await;
        }
    }

    /// Tells the others of an endpoint, if it is in a network of the cluster, and opens the way to theirs.
    ///
    /// # Errors
    /// Another host has an endpoint of that name, or etcd does not answer; or what the kernel refused.
    pub(in crate::switch) async fn announce(&self, network: &Network, endpoint: &Endpoint) -> Result<(), SwitchError> {
        if !is_shared(network) {
            return Ok(());
        }
        let member = self.member_for(&network.name)?;
        let record = shared(member, endpoint)?;
        member.cluster.put_endpoint(record).await?;
        let lacks = self.state().lacks_tunnels(network.id);
        if lacks { self.follow_tunnels().await } else { Ok(()) }
    }

    /// Announces an endpoint that was there before the daemon was: at once, or when etcd takes it.
    ///
    /// # Errors
    /// Somebody else has its name or an address by now, or the network is gone.
    pub(in crate::switch) async fn announce_again(
        &self,
        network: &Network,
        endpoint: &Endpoint,
    ) -> Result<(), SwitchError> {
        if !is_shared(network) {
            return Ok(());
        }
        let member = self.member_for(&network.name)?;
        let record = shared(member, endpoint)?;
        let addresses: Vec<IpAddr> = super::others::addresses(&record).collect();
        if member.cluster.health().unreachable.is_none() {
            match claim(member, &record, &addresses).await {
                // It may be possible later, and until then nobody else has what it has.
                Err(SwitchError::Cluster(error)) if !error.is_lost() => {
                    tracing::warn!("others do not know of endpoint {} yet: {error}", endpoint.name);
                }
                done => return done,
            }
        }
        self.announce_running(network, endpoint)
    }

    /// The same for one that runs, and stays whatever others say: what it cannot have any more, `status` shows.
    ///
    /// # Errors
    /// This host is in no cluster.
    pub(in crate::switch) fn announce_running(
        &self,
        network: &Network,
        endpoint: &Endpoint,
    ) -> Result<(), SwitchError> {
        if !is_shared(network) {
            return Ok(());
        }
        let member = self.member_for(&network.name)?;
        let record = shared(member, endpoint)?;
        let addresses: Vec<IpAddr> = super::others::addresses(&record).collect();
        member.cluster.announce_later(record, &addresses);
        Ok(())
    }

    /// An endpoint is gone: others may have its addresses and its name.
    pub(in crate::switch) async fn withdraw(&self, endpoint: &Endpoint) {
        let shared = self.state().networks.get(&endpoint.network).is_some_and(|entry| is_shared(&entry.record));
        let (true, Some(address)) = (shared, &endpoint.address) else { return };
        let (network, id) = (endpoint.network, endpoint.id);
        self.return_lease(Leased { network, endpoint: id, ipv4: Some(address.ipv4), ipv6: address.ipv6 }).await;
        let is_last = self.state().endpoints_of(network).next().is_none();
        if !is_last {
            if let Err(error) = self.sync_rivals(endpoint).await {
                tracing::warn!(
                    "an endpoint of another host that has what {} had is not known here: {error}",
                    endpoint.name
                );
            }
            return;
        }
        if let Err(error) = self.follow_tunnels().await {
            tracing::warn!("tunnels of a network without endpoints here are left: {error}");
        }
        if let Err(error) = self.displace_unused(network).await {
            tracing::warn!("a network that was removed from the cluster is still here: {error}");
        }
    }
}

/// Refuses an address that an endpoint here has.
fn refuse_own(state: &State, network: &Network, address: IpAddr) -> Result<(), SwitchError> {
    let has =
        |entry: &&EndpointEntry| entry.record.address.as_ref().is_some_and(|given| given.ips().any(|ip| ip == address));
    match state.endpoints_of(network.id).find(has) {
        Some(holder) => {
            let holder = format!("endpoint {}", holder.record.name);
            Err(SwitchError::AddressInUse { address, network: network.name.clone(), holder })
        }
        None => Ok(()),
    }
}

async fn lease_one(
    member: &Membership,
    network: &Network,
    endpoint: EndpointId,
    ipv6: bool,
    asked: Option<IpAddr>,
    taken: &Taken,
) -> Result<Option<IpAddr>, SwitchError> {
    let configs: Vec<SubnetConfig> =
        network.subnets.iter().filter(|config| config.subnet.is_ipv6() == ipv6).cloned().collect();
    if let Some(address) = asked {
        // Whether somebody has it is for etcd to say, which knows who.
        let checked = ipam::allocate(configs.iter(), &BTreeSet::new(), Some(address));
        checked.map_err(|source| SwitchError::Ipam { network: network.name.clone(), source })?;
        return Ok(Some(member.cluster.claim_address(network.id, endpoint, address).await?));
    }
    if configs.is_empty() {
        return Ok(None);
    }
    lease_first(member, network.id, endpoint, configs, taken).await.map(Some)
}

/// Leases the first address that is free in these subnets.
async fn lease_first(
    member: &Membership,
    network: NetworkId,
    endpoint: EndpointId,
    configs: Vec<SubnetConfig>,
    taken: &Taken,
) -> Result<IpAddr, SwitchError> {
    // Some of what others had they may have given back since that was told: it is asked for only if nothing else is left.
    for taken in [&taken.known, &taken.here] {
        let candidates = ipam::candidates(configs.clone(), taken.clone());
        match member.cluster.lease_address(network, endpoint, candidates).await {
            Err(ClusterError::Full { .. }) => {}
            leased => return Ok(leased?),
        }
    }
    // Not only those that were asked for.
    let tried = ipam::candidates(configs, BTreeSet::new()).count();
    Err(ClusterError::Full { tried }.into())
}

async fn claim(member: &Membership, record: &SharedEndpoint, addresses: &[IpAddr]) -> Result<(), SwitchError> {
    for address in addresses {
        member.cluster.claim_address(record.network, record.id, *address).await?;
    }
    Ok(member.cluster.put_endpoint(record.clone()).await?)
}

/// An endpoint as others are told of it.
fn shared(member: &Membership, endpoint: &Endpoint) -> Result<SharedEndpoint, SwitchError> {
    let address = endpoint.address.as_ref();
    let address = address.ok_or_else(|| SwitchError::EndpointNotFound(endpoint.name.to_string()))?;
    Ok(SharedEndpoint {
        id: endpoint.id,
        network: endpoint.network,
        host: member.host.id,
        name: endpoint.name.clone(),
        aliases: endpoint.aliases.iter().chain(&endpoint.hostname).cloned().collect(),
        mac: address.mac,
        ipv4: Some(address.ipv4).filter(|ipv4| !ipv4.is_unspecified()),
        ipv6: address.ipv6,
        vlan: endpoint.port.vlan.map_or(0, |vlan| vlan.get()),
    })
}
