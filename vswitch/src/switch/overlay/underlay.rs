//! The underlay: no network of this host may have a subnet with an underlay address, because it
//! would take the address from the tunnels.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::model::Network;
use crate::plan::ipam::Occupied;
use crate::switch::error::SwitchError;
use crate::switch::overlay::{Overlay, OverlayError};
use crate::switch::routes::link_towards;
use crate::switch::state::State;

impl Overlay {
    /// Returns this host's own addresses on the underlay: the one that it announces to the cluster,
    /// and those of the devices with routes to peers.
    ///
    /// # Errors
    /// The addresses or routes cannot be read.
    pub async fn own_underlay(&self) -> Result<Vec<IpAddr>, SwitchError> {
        let mut own: Vec<IpAddr> = self.context.advertise.into_iter().collect();
        let peers: Vec<IpAddr> = self.context.state().peers.keys().copied().collect();
        if peers.is_empty() {
            return Ok(own);
        }
        let routes = self.context.netlink.routes().await?;
        let ways = peers.iter().filter_map(|peer| Some((link_towards(&routes, *peer)?, peer.is_ipv6())));
        let ways: BTreeSet<(u32, bool)> = ways.collect();
        let addresses = self.context.netlink.addresses(None).await?.into_iter();
        let there = addresses.map(|(index, address)| (index, address.addr()));
        own.extend(there.filter(|(index, own)| ways.contains(&(*index, own.is_ipv6()))).map(|(_, own)| own));
        Ok(own)
    }
}

impl State {
    /// Returns the addresses of the underlay with their owners: `own` are this host's.
    fn underlay(&self, own: &[IpAddr]) -> BTreeMap<IpAddr, String> {
        let peer = |host: Option<&str>| host.map_or_else(|| "the address of a peer".to_owned(), of_host);
        let peers = self.peers.iter();
        let peers =
            peers.map(|(address, entry)| (*address, peer(entry.record.host.as_ref().map(|host| host.name.as_str()))));
        // A host of the cluster becomes a peer a moment later.
        let others = self.others.hosts.values().map(|host| (host.address.to_canonical(), of_host(&host.name)));
        let own = own.iter().map(|address| (*address, "this host's own address".to_owned()));
        peers.chain(others).chain(own).collect()
    }

    /// Returns the addresses of the underlay, which no subnet may be chosen from.
    pub fn occupied_by_underlay(&self, own: &[IpAddr]) -> Vec<Occupied> {
        let underlay = self.underlay(own).into_iter();
        underlay.map(|(address, whose)| Occupied { net: address.into(), by: format!("{address}, {whose}") }).collect()
    }

    /// Checks that no subnet of a network contains an address of the underlay.
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

    /// Checks that no network's subnet contains the address of a peer.
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

/// Returns whether the subnets of a network exist on this host only. With an uplink or a parent
/// they are on a wire, where peers may be, too.
fn takes_subnets(network: &Network) -> bool {
    network.capabilities().switched && network.uplink().is_none()
}
