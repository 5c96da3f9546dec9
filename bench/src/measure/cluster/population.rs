//! A simulated cluster: the records of 1,000 hosts with 100,000 endpoints, in the format that these
//! hosts would write.

use std::{collections::BTreeMap, net::Ipv4Addr};

use anyhow::{Context as _, Result};
use etcd_client::{Client, PutOptions, Txn, TxnOp, TxnResponse};
use time::OffsetDateTime;
use tokio::task::JoinSet;
use vswitch::{
    cluster::{Host, Key, Keys, Owner, SharedEndpoint, SharedNetwork, Vni},
    model::{EndpointId, HostId, NetworkId, SubnetConfig},
};

use crate::command::stop_if_interrupted;

pub const HOSTS: usize = 1_000;
pub const NETWORKS: usize = 100;
/// Endpoints per network.
pub const ENDPOINTS: usize = 1_000;
/// Number of hosts per network. Each of them has ten endpoints in it, and is in ten networks.
const SPREAD: usize = 100;

/// Operations per transaction. The limit of etcd is 128.
const BATCH: usize = 120;
/// Transactions in flight at once.
const AT_ONCE: usize = 16;
/// Lease time in seconds, longer than any run.
const LEASE: i64 = 24 * 3600;

/// The simulated hosts and their leases.
pub struct Population {
    keys: Keys,
    leases: Vec<i64>,
}

impl Population {
    /// Creates an empty population.
    pub fn new() -> Self {
        Self { keys: Keys::new("/vswitch"), leases: Vec::new() }
    }

    /// Returns the name of a network.
    pub fn network(number: usize) -> String {
        format!("net{number}")
    }

    /// Returns the tunnel address of a host.
    pub fn address(host: usize) -> Ipv4Addr {
        let number = host as u16 + 1;
        Ipv4Addr::new(198, 18, (number >> 8) as u8, (number & 0xff) as u8)
    }

    /// Returns the host of an endpoint after `moves` moves.
    pub fn host_of(network: usize, number: usize, moves: usize) -> usize {
        (network * SPREAD / 10 + (number / 10 + moves) % SPREAD) % HOSTS
    }

    /// Returns the MAC address of an endpoint.
    pub fn mac(network: usize, number: usize) -> String {
        let [high, low] = (number as u16).to_be_bytes();
        format!("02:00:00:{network:02x}:{high:02x}:{low:02x}")
    }

    /// Writes the records of the networks.
    pub async fn write_networks(&self, client: &Client) -> Result<()> {
        let mut puts = Vec::new();
        for number in 0..NETWORKS {
            let subnets = [format!("10.{number}.0.0/16"), format!("fd00:98:{number}::/64")];
            let config = |subnet: String| anyhow::Ok(SubnetConfig::new(subnet.parse()?, None, None)?);
            let network = SharedNetwork {
                id: network_id(number),
                name: Self::network(number).parse()?,
                vni: vni(number)?,
                subnets: subnets.into_iter().map(config).collect::<Result<_>>()?,
                internal: false,
                options: BTreeMap::new(),
                labels: BTreeMap::new(),
                created: OffsetDateTime::UNIX_EPOCH,
            };
            let id = network.id;
            puts.push(self.put(&Key::Id(id), network.name.to_string(), None));
            puts.push(self.put(&Key::Vni(network.vni), id.to_string(), None));
            puts.push(self.put(&Key::Network(network.name.clone()), serde_json::to_string(&network)?, None));
        }
        write_all(client, puts).await
    }

    /// Writes the records of the hosts, each under its own lease.
    pub async fn write_hosts(&mut self, client: &Client) -> Result<()> {
        let mut puts = Vec::new();
        for number in 0..HOSTS {
            let lease = client.clone().lease_grant(LEASE, None).await.context("requesting a lease")?.id();
            self.leases.push(lease);
            let host = Host {
                id: host_id(number),
                name: format!("host{number}"),
                address: Self::address(number).into(),
                public_key: None,
            };
            puts.push(self.put(&Key::Host(host.id), serde_json::to_string(&host)?, Some(lease)));
        }
        write_all(client, puts).await
    }

    /// Writes the records of all endpoints, with their names and addresses.
    pub async fn write_endpoints(&self, client: &Client) -> Result<()> {
        let mut puts = Vec::with_capacity(5 * NETWORKS * ENDPOINTS);
        for network in 0..NETWORKS {
            for number in 0..ENDPOINTS {
                let endpoint = endpoint(network, number, 0)?;
                let lease = Some(self.leases[Self::host_of(network, number, 0)]);
                let owner = Owner { host: endpoint.host, endpoint: endpoint.id }.to_string();
                for address in [endpoint.ipv4.map(Into::into), endpoint.ipv6.map(Into::into)].into_iter().flatten() {
                    puts.push(self.put(&Key::Address(endpoint.network, address), owner.clone(), lease));
                }
                puts.push(self.put(&Key::Name(endpoint.network, endpoint.name.clone()), owner, lease));
                puts.push(self.announcement(&endpoint, lease)?);
            }
        }
        write_all(client, puts).await
    }

    /// Moves all endpoints of the first `networks` networks to the next host.
    pub async fn move_endpoints(&self, client: &Client, networks: usize, moves: usize) -> Result<()> {
        let mut puts = Vec::new();
        for network in 0..networks {
            for number in 0..ENDPOINTS {
                let lease = self.leases[Self::host_of(network, number, moves)];
                puts.push(self.announcement(&endpoint(network, number, moves)?, Some(lease))?);
            }
        }
        write_all(client, puts).await
    }

    fn announcement(&self, endpoint: &SharedEndpoint, lease: Option<i64>) -> Result<TxnOp> {
        Ok(self.put(&Key::Endpoint(endpoint.network, endpoint.id), serde_json::to_string(endpoint)?, lease))
    }

    fn put(&self, key: &Key, value: String, lease: Option<i64>) -> TxnOp {
        let options = lease.map(|lease| PutOptions::new().with_lease(lease));
        TxnOp::put(self.keys.encode(key), value, options)
    }
}

/// Writes all operations, many at a time.
async fn write_all(client: &Client, puts: Vec<TxnOp>) -> Result<()> {
    let mut in_flight = JoinSet::<Result<TxnResponse, etcd_client::Error>>::new();
    for batch in puts.chunks(BATCH) {
        if in_flight.len() >= AT_ONCE
            && let Some(done) = in_flight.join_next().await
        {
            done?.context("writing to etcd")?;
            stop_if_interrupted()?;
        }
        let (mut client, txn) = (client.clone(), Txn::new().and_then(batch.to_vec()));
        in_flight.spawn(async move { client.txn(txn).await });
    }
    while let Some(done) = in_flight.join_next().await {
        done?.context("writing to etcd")?;
    }
    Ok(())
}

fn endpoint(network: usize, number: usize, moves: usize) -> Result<SharedEndpoint> {
    // The host bits start behind the addresses that the measured host assigns itself at the
    // beginning of the subnet.
    let last = number as u16 + 256;
    let [high, low] = last.to_be_bytes();
    Ok(SharedEndpoint {
        id: EndpointId::from_bytes(id_bytes(3, network, number)),
        network: network_id(network),
        host: host_id(Population::host_of(network, number, moves)),
        name: format!("e{number}").parse()?,
        aliases: Vec::new(),
        mac: Population::mac(network, number).parse()?,
        ipv4: Some(Ipv4Addr::new(10, network as u8, high, low)),
        ipv6: Some(format!("fd00:98:{network}::{last:x}").parse()?),
        vlan: 0,
    })
}

fn vni(number: usize) -> Result<Vni> {
    Ok(Vni::try_from(Vni::FIRST_AUTOMATIC.number() + number as u32)?)
}

fn host_id(number: usize) -> HostId {
    HostId::from_bytes(id_bytes(1, number, 0))
}

fn network_id(number: usize) -> NetworkId {
    NetworkId::from_bytes(id_bytes(2, number, 0))
}

/// Returns the bytes of an id. They start as differently as random bytes, because short ids are
/// their first digits.
fn id_bytes(kind: u8, first: usize, second: usize) -> [u8; 32] {
    let mut id_bytes = [kind; 32];
    let mixed = ((first as u64) << 32 | second as u64 | u64::from(kind) << 56).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    id_bytes[..8].copy_from_slice(&mixed.to_be_bytes());
    id_bytes
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ids_and_addresses_are_unique_and_hosts_have_equally_many() {
        let mut ids = BTreeSet::new();
        let mut macs = BTreeSet::new();
        let mut per_host = vec![0; HOSTS];
        for network in 0..NETWORKS {
            let mut addresses = BTreeSet::new();
            for number in 0..ENDPOINTS {
                let endpoint = endpoint(network, number, 0).unwrap();
                assert!(ids.insert(endpoint.id.short()), "{network} {number}");
                assert!(macs.insert(endpoint.mac) && addresses.insert(endpoint.ipv4) && endpoint.ipv6.is_some());
                per_host[Population::host_of(network, number, 0)] += 1;
            }
        }
        assert!(per_host.iter().all(|count| *count == NETWORKS * ENDPOINTS / HOSTS), "{per_host:?}");
    }

    #[test]
    fn endpoints_move_to_another_host_of_the_network() {
        for number in 0..ENDPOINTS {
            let (before, after) = (Population::host_of(99, number, 0), Population::host_of(99, number, 1));
            assert_ne!(before, after);
            assert!((0..ENDPOINTS).any(|other| Population::host_of(99, other, 0) == after));
        }
    }
}
