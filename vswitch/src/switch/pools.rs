//! Address pools of engines. An engine asks for a subnet before it creates a network, and for an
//! address before it creates an endpoint. Both are on disk before the answer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use time::Duration;

use super::context::now;
use super::routes::Surroundings;
use super::state::State;
use super::{Switch, SwitchError};
use crate::model::{EndpointAddress, Lease, Pool, PoolId, Subnet, SubnetConfig, check_owner};
use crate::plan::ipam::{self, IpamError};
use crate::plan::store::Change;

/// The time for which an address waits for an endpoint, and stays with one that is gone.
const WAIT_FOR_ENDPOINT: Duration = Duration::seconds(60);

impl Switch {
    /// Reserves a subnet for a network of an engine: this one, or a free one.
    ///
    /// # Errors
    /// The subnet overlaps a network or another pool, or none is left.
    pub async fn request_pool(
        &self,
        owner: &str,
        ipv6: bool,
        subnet: Option<Subnet>,
        ip_range: Option<IpNet>,
    ) -> Result<Pool, SwitchError> {
        check_owner(owner)?;
        let _change = self.context.begin_change().await?;
        let occupied = Surroundings::read(&self.context.netlink).await?.occupied(None);
        let id = PoolId::random()?;
        let (pool, recorded) = {
            let mut state = self.context.state();
            let ipv6 = subnet.map_or(ipv6, |subnet| subnet.is_ipv6());
            let subnet = state.choose_pool(subnet, ipv6, &self.context.pools, &occupied, id)?;
            // Checks the range.
            let ip_range = SubnetConfig::new(subnet, None, ip_range)?.ip_range;
            let (leases, created) = (BTreeMap::new(), now());
            let pool = Pool { id, owner: owner.to_owned(), subnet, ip_range, leases, last: None, created };
            state.pools.insert(id, pool.clone());
            (pool.clone(), self.context.store.commit(vec![Change::PutPool(pool)]))
        };
        recorded.await?;
        Ok(pool)
    }

    /// Releases a pool. A missing one is no error. The network keeps its subnet.
    ///
    /// # Errors
    /// The record cannot be written.
    pub async fn release_pool(&self, id: PoolId) -> Result<(), SwitchError> {
        let _change = self.context.begin_change().await?;
        let recorded = {
            let mut state = self.context.state();
            if state.pools.remove(&id).is_none() {
                return Ok(());
            }
            self.context.store.commit(vec![Change::RemovePool(id)])
        };
        Ok(recorded.await?)
    }

    /// Gives an address of a pool out: this one, or a free one; with `gateway` the first.
    ///
    /// # Errors
    /// The address is in use or not in the subnet, or none is left.
    pub async fn request_address(
        &self,
        id: PoolId,
        address: Option<IpAddr>,
        gateway: bool,
    ) -> Result<IpNet, SwitchError> {
        let _change = self.context.begin_change().await?;
        let (address, recorded) = {
            let mut state = self.context.state();
            let pool = state.pools.get(&id).cloned().ok_or_else(|| SwitchError::PoolNotFound(id.short()))?;
            let (address, ends) = choose(&state, &pool, address, gateway)?;
            let Some(entry) = state.pools.get_mut(&id) else { return Err(SwitchError::PoolNotFound(id.short())) };
            entry.leases.insert(address, Lease { ends, since: now() });
            entry.last = Some(address).filter(|_| ends).or(entry.last);
            (pool.subnet.with_prefix(address), self.context.store.commit(vec![Change::PutPool(entry.clone())]))
        };
        recorded.await?;
        Ok(address)
    }

    /// Takes an address back. A missing pool or address is no error.
    ///
    /// # Errors
    /// The record cannot be written.
    pub async fn release_address(&self, id: PoolId, address: IpAddr) -> Result<(), SwitchError> {
        let _change = self.context.begin_change().await?;
        let recorded = {
            let mut state = self.context.state();
            let Some(pool) = state.pools.get_mut(&id) else { return Ok(()) };
            if pool.leases.remove(&address).is_none() {
                return Ok(());
            }
            self.context.store.commit(vec![Change::PutPool(pool.clone())])
        };
        Ok(recorded.await?)
    }

    /// Returns the address pools.
    pub fn pools(&self) -> Vec<Pool> {
        self.context.snapshot().pools.values().cloned().collect()
    }

    /// Ends the leases whose endpoint never came, or is gone for a while.
    pub(super) fn end_leases(&self) {
        let mut state = self.context.state();
        let pools: Vec<Pool> = state.pools.values().cloned().collect();
        for mut pool in pools {
            let owners = owners(&state, &pool);
            let before = pool.clone();
            for (address, lease) in &mut pool.leases {
                // Not at each look: every change makes a new snapshot of the state.
                if owners.contains(address) && now() - lease.since > WAIT_FOR_ENDPOINT / 3 {
                    lease.since = now();
                }
            }
            let over = |lease: &Lease| lease.ends && now() - lease.since > WAIT_FOR_ENDPOINT;
            pool.leases.retain(|address, lease| {
                let over = over(lease);
                if over {
                    tracing::info!("address {address} of {} is free: no endpoint has it", before.subnet);
                }
                !over
            });
            // A lease in use is not written again and again: after a restart it begins anew.
            let ended = pool.leases.len() != before.leases.len();
            if ended {
                self.context.store.note(vec![Change::PutPool(pool.clone())]);
            }
            if pool != before {
                state.pools.insert(pool.id, pool);
            }
        }
    }

    /// Begins the time of all leases anew: no daemon saw whether endpoints had them.
    pub(super) fn renew_leases(&self) {
        for pool in self.context.state().pools.values_mut() {
            pool.leases.values_mut().for_each(|lease| lease.since = now());
        }
    }
}

/// Returns the addresses of a pool that endpoints have.
fn owners(state: &State, pool: &Pool) -> BTreeSet<IpAddr> {
    let addresses = state.endpoints.values().filter_map(|entry| entry.record.address.as_ref());
    addresses.flat_map(EndpointAddress::ips).filter(|address| pool.subnet.net().contains(address)).collect()
}

/// Chooses an address, or checks the one that was asked for. Returns it, and whether the lease ends
/// without an endpoint.
fn choose(state: &State, pool: &Pool, address: Option<IpAddr>, gateway: bool) -> Result<(IpAddr, bool), SwitchError> {
    let mut networks = state.networks.values().map(|entry| &entry.record);
    let config = networks.find_map(|network| network.subnets.iter().find(|config| config.subnet == pool.subnet));
    let leased: BTreeSet<IpAddr> = pool.leases.keys().copied().collect();
    let used: BTreeSet<IpAddr> = leased.iter().copied().chain(owners(state, pool)).collect();
    if gateway {
        let gateway = address.unwrap_or_else(|| pool.subnet.first_host());
        if leased.contains(&gateway) {
            return Err(in_use(pool, gateway, "another lease"));
        }
        return Ok((SubnetConfig::new(pool.subnet, Some(gateway), None)?.gateway, false));
    }
    // Before there is a network, the gateway is a lease like any other.
    let mut subnet = config.cloned().map_or_else(|| SubnetConfig::new(pool.subnet, None, None), Ok)?;
    subnet.ip_range = pool.ip_range;
    if config.is_none() && address == Some(subnet.gateway) && !used.contains(&subnet.gateway) {
        return Ok((subnet.gateway, false));
    }
    let given = ipam::allocate(std::slice::from_ref(&subnet), &used, address, pool.last);
    let given = given.map_err(|error| match error {
        IpamError::InUse(address) => {
            let holder = match () {
                () if address == subnet.gateway => "the gateway".to_owned(),
                () if leased.contains(&address) => "another lease".to_owned(),
                () => "an endpoint".to_owned(),
            };
            in_use(pool, address, &holder)
        }
        error => SwitchError::Pool(error),
    })?;
    let given = given.ok_or(SwitchError::NoFamily)?;
    Ok((given, config.is_some()))
}

fn in_use(pool: &Pool, address: IpAddr, holder: &str) -> SwitchError {
    SwitchError::LeaseInUse { address, subnet: pool.subnet, holder: holder.to_owned() }
}
