//! What the tunnels go over: a network of this host that had an address of it in a subnet would take it from them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::{OverlayError, link_towards};
use crate::model::Network;
use crate::switch::state::State;
use crate::switch::{Switch, SwitchError};

impl Switch {
    /// This host's own addresses on the underlay: the one that it tells the cluster of, and those of the devices that lead to
    /// peers.
    ///
    /// # Errors
    /// What the kernel does not tell.
    pub(in crate::switch) async fn own_underlay(&self) -> Result<Vec<IpAddr>, SwitchError> {
        let mut own: Vec<IpAddr> = self.membership.iter().map(|member| member.address()).collect();
        let peers: Vec<IpAddr> = self.state().peers.keys().copied().collect();
        if peers.is_empty() {
            return Ok(own);
        }
        let routes = self.netlink.routes().await?;
        let ways = peers.iter().filter_map(|peer| Some((link_towards(&routes, *peer)?, peer.is_ipv6())));
        let ways: BTreeSet<(u32, bool)> = ways.collect();
        let addresses = self.netlink.addresses(None).await?.into_iter();
        let there = addresses.map(|(index, address)| (index, address.addr()));
        own.extend(there.filter(|(index, own)| ways.contains(&(*index, own.is_ipv6()))).map(|(_, own)| own));
        Ok(own)
    }
}

impl State {
    /// The addresses of the underlay, each with whose it is: this host's `own`, and those of all hosts that it knows.
    fn underlay(&self, own: &[IpAddr]) -> BTreeMap<IpAddr, String> {
        let peer = |host: Option<&str>| host.map_or_else(|| "the address of a peer".to_owned(), of_host);
        let peers = self.peers.iter();
        let peers =
            peers.map(|(address, entry)| (*address, peer(entry.record.host.as_ref().map(|host| host.name.as_str()))));
        // Hosts that the cluster has told of are peers a moment later.
        let others = self.others.hosts.values().map(|host| (host.address.to_canonical(), of_host(&host.name)));
        let own = own.iter().map(|address| (*address, "this host's own address".to_owned()));
        peers.chain(others).chain(own).collect()
    }

    /// The same, as routes that no subnet is to be chosen from.
    pub fn underlay_routes(&self, own: &[IpAddr]) -> Vec<IpNet> {
        self.underlay(own).into_keys().map(IpNet::from).collect()
    }

    /// Checks that no subnet that a network is given holds an address of the underlay.
    ///
    /// # Errors
    /// [`OverlayError::HoldsUnderlay`].
    pub fn check_underlay(&self, network: &Network, own: &[IpAddr]) -> Result<(), OverlayError> {
        if !takes_subnets(network) {
            return Ok(());
        }
        let underlay = self.underlay(own);
        for subnet in network.subnets.iter().map(|config| config.subnet) {
            if let Some((address, whose)) = underlay.iter().find(|(address, _)| subnet.net().contains(*address)) {
                let (network, address, whose) = (network.name.clone(), *address, whose.clone());
                return Err(OverlayError::HoldsUnderlay { subnet, network, address, whose });
            }
        }
        Ok(())
    }

    /// Checks that the address of a peer is in no network's subnet.
    ///
    /// # Errors
    /// [`OverlayError::PeerInNetwork`].
    pub fn check_peer(&self, address: IpAddr) -> Result<(), OverlayError> {
        let networks = self.networks.values().map(|entry| &entry.record).filter(|network| takes_subnets(network));
        for network in networks {
            if let Some(config) = network.subnet_of(address) {
                let (subnet, network) = (config.subnet, network.name.clone());
                return Err(OverlayError::PeerInNetwork { address, subnet, network });
            }
        }
        Ok(())
    }
}

fn of_host(name: &str) -> String {
    format!("the address of host {name}")
}

/// Whether what is in the network's subnets is nowhere else. With an uplink, or on a parent, it is on a wire: so may peers be.
fn takes_subnets(network: &Network) -> bool {
    network.driver.is_switched() && network.bridge.uplink.is_none()
}
