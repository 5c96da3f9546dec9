//! The endpoints of this host in networks of the cluster: their addresses are leased in etcd, and
//! their records are announced to the other hosts.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::cluster::{ClusterError, SharedEndpoint};
use crate::model::{Endpoint, EndpointId, Network, NetworkId, SubnetConfig};
use crate::plan::ipam;
use crate::switch::error::SwitchError;
use crate::switch::etcd::Etcd;
use crate::switch::membership::{Membership, is_shared};
use crate::switch::others::addresses;
use crate::switch::state::{EndpointEntry, State};

/// The addresses that are leased to an endpoint in the whole cluster.
#[derive(Clone, Copy, Debug)]
pub struct Leased {
    network: NetworkId,
    endpoint: EndpointId,
    pub ipv4: Option<Ipv4Addr>,
    pub ipv6: Option<Ipv6Addr>,
}

/// The addresses of a network that are tried last.
struct Taken {
    /// The addresses of endpoints on this host.
    here: BTreeSet<IpAddr>,
    /// The addresses of endpoints on this host and, as of the last update, on the other hosts.
    known: BTreeSet<IpAddr>,
    /// The addresses that this host leased last, IPv4 and IPv6.
    last: [Option<IpAddr>; 2],
}

impl Etcd {
    /// Leases the requested addresses, or the first free ones. Returns `None` in a network of this
    /// host alone.
    ///
    /// # Errors
    /// The network does not exist, a requested address is not in it or in use, or etcd failed; then
    /// nothing is leased.
    pub async fn lease(
        &self,
        network: &str,
        endpoint: EndpointId,
        ip: Option<Ipv4Addr>,
        ip6: Option<Ipv6Addr>,
    ) -> Result<Option<Leased>, SwitchError> {
        let (network, taken) = {
            let state = self.context.state();
            let entry = state.network(network)?;
            let record = &entry.record;
            if !is_shared(record) {
                return Ok(None);
            }
            // Checked here, because etcd does not know this host's addresses while the host has no
            // lease.
            for asked in ip.map(IpAddr::V4).into_iter().chain(ip6.map(IpAddr::V6)) {
                refuse_own(&state, record, asked)?;
            }
            let here = state.endpoints_of(record.id).filter_map(|entry| entry.record.address.as_ref());
            let here: BTreeSet<IpAddr> = here.flat_map(|address| address.ips().collect::<Vec<_>>()).collect();
            let known = here.iter().copied().chain(state.others.addresses_in(record.id)).collect();
            let last = [entry.last(false), entry.last(true)];
            (record.clone(), Taken { here, known, last })
        };
        let member = self.context.member_for(&network.name)?;
        let mut leased = Leased { network: network.id, endpoint, ipv4: None, ipv6: None };
        for (ipv6, asked) in [(false, ip.map(IpAddr::V4)), (true, ip6.map(IpAddr::V6))] {
            match lease_one(member, &network, endpoint, ipv6, asked, &taken).await {
                Ok(Some(IpAddr::V4(address))) => leased.ipv4 = Some(address),
                Ok(Some(IpAddr::V6(address))) => leased.ipv6 = Some(address),
                Ok(None) => continue,
                Err(error) => {
                    self.return_lease(leased).await;
                    return Err(error);
                }
            }
            let address = if ipv6 { leased.ipv6.map(IpAddr::V6) } else { leased.ipv4.map(IpAddr::V4) };
            if let (None, Some(address)) = (asked, address)
                && let Some(entry) = self.context.state().networks.get_mut(&network.id)
            {
                entry.assigned(address);
            }
        }
        Ok(Some(leased))
    }

    /// Releases leased addresses, and the record of their endpoint. While etcd is unreachable, the
    /// release is queued.
    pub async fn return_lease(&self, leased: Leased) {
        let Some(member) = &self.context.membership else { return };
        let Leased { network, endpoint, ipv4, ipv6 } = leased;
        member.cluster.remove_endpoint(network, endpoint).await;
        for address in ipv4.map(IpAddr::V4).into_iter().chain(ipv6.map(IpAddr::V6)) {
            member.cluster.release_address(network, endpoint, address).await;
        }
    }

    /// Announces an endpoint of a network of the cluster to the other hosts, and makes the tunnels
    /// that it needs.
    ///
    /// # Errors
    /// Another host has an endpoint with this name, etcd is unreachable, or the kernel refused a
    /// change.
    pub async fn announce(&self, network: &Network, endpoint: &Endpoint) -> Result<(), SwitchError> {
        if !is_shared(network) {
            return Ok(());
        }
        let member = self.context.member_for(&network.name)?;
        let record = shared(member, endpoint)?;
        member.cluster.put_endpoint(record).await?;
        let lacks = self.context.state().lacks_tunnels(network.id);
        if lacks { self.overlay.follow_tunnels().await } else { Ok(()) }
    }

    /// Announces an endpoint that an earlier daemon attached: at once, or as soon as etcd is
    /// reachable.
    ///
    /// # Errors
    /// Another endpoint has its name or one of its addresses by now, or the network was removed.
    pub async fn announce_again(&self, network: &Network, endpoint: &Endpoint) -> Result<(), SwitchError> {
        if !is_shared(network) {
            return Ok(());
        }
        let member = self.context.member_for(&network.name)?;
        let record = shared(member, endpoint)?;
        let addresses: Vec<IpAddr> = addresses(&record).collect();
        if member.cluster.health().unreachable.is_none() {
            match claim(member, &record, &addresses).await {
                // Announcing may succeed later. Until then no other endpoint gets the addresses.
                Err(SwitchError::Cluster(error)) if !error.is_lost() => {
                    tracing::warn!("others do not know of endpoint {} yet: {error}", endpoint.name);
                }
                done => return done,
            }
        }
        self.announce_running(network, endpoint)
    }

    /// Announces a running endpoint, which stays attached in any case. A conflict is shown by
    /// `status`.
    ///
    /// # Errors
    /// This host is in no cluster.
    pub fn announce_running(&self, network: &Network, endpoint: &Endpoint) -> Result<(), SwitchError> {
        if !is_shared(network) {
            return Ok(());
        }
        let member = self.context.member_for(&network.name)?;
        let record = shared(member, endpoint)?;
        let addresses: Vec<IpAddr> = addresses(&record).collect();
        member.cluster.announce_later(record, &addresses);
        Ok(())
    }

    /// Releases the name and the addresses of an endpoint that is gone.
    pub async fn withdraw(&self, endpoint: &Endpoint) {
        let shared = self.context.state().networks.get(&endpoint.network).is_some_and(|entry| is_shared(&entry.record));
        let (true, Some(address)) = (shared, &endpoint.address) else { return };
        let (network, id) = (endpoint.network, endpoint.id);
        self.return_lease(Leased { network, endpoint: id, ipv4: address.ipv4, ipv6: address.ipv6 }).await;
        let is_last = self.context.state().endpoints_of(network).next().is_none();
        if !is_last {
            if let Err(error) = self.overlay.sync_rivals(endpoint).await {
                tracing::warn!(
                    "an endpoint of another host that has what {} had is not known here: {error}",
                    endpoint.name
                );
            }
            return;
        }
        if let Err(error) = self.overlay.follow_tunnels().await {
            tracing::warn!("tunnels of a network without endpoints here are left: {error}");
        }
        if let Err(error) = self.displace_unused(network).await {
            tracing::warn!("a network that was removed from the cluster is still here: {error}");
        }
    }
}

/// Refuses an address of another endpoint on this host.
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
    let configs = network.of_family(ipv6);
    if let Some(address) = asked {
        // Etcd checks whether the address is in use, and names the holder.
        let checked = ipam::allocate(&configs, &BTreeSet::new(), Some(address), None);
        checked.map_err(|source| SwitchError::Ipam { network: network.name.clone(), source })?;
        return Ok(Some(member.cluster.claim_address(network.id, endpoint, address).await?));
    }
    if configs.is_empty() {
        return Ok(None);
    }
    lease_first(member, network.id, endpoint, configs, taken).await.map(Some)
}

/// Leases the first free address of these subnets.
async fn lease_first(
    member: &Membership,
    network: NetworkId,
    endpoint: EndpointId,
    configs: Vec<SubnetConfig>,
    taken: &Taken,
) -> Result<IpAddr, SwitchError> {
    let last = configs.first().and_then(|config| taken.last[usize::from(config.subnet.is_ipv6())]);
    // The snapshot may be stale, so addresses that it shows as taken are tried last.
    for taken in [&taken.known, &taken.here] {
        let candidates = ipam::candidates(configs.clone(), taken.clone(), last);
        match member.cluster.lease_address(network, endpoint, candidates).await {
            Err(ClusterError::Full { .. }) => {}
            leased => return Ok(leased?),
        }
    }
    // Counts all candidates, not only those that were tried.
    let tried = ipam::candidates(configs, BTreeSet::new(), None).count();
    Err(ClusterError::Full { tried }.into())
}

async fn claim(member: &Membership, record: &SharedEndpoint, addresses: &[IpAddr]) -> Result<(), SwitchError> {
    for address in addresses {
        member.cluster.claim_address(record.network, record.id, *address).await?;
    }
    Ok(member.cluster.put_endpoint(record.clone()).await?)
}

/// Returns the record of an endpoint for the other hosts.
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
        ipv4: address.ipv4,
        ipv6: address.ipv6,
        vlan: endpoint.port.vlan.map_or(0, |vlan| vlan.get()),
    })
}
