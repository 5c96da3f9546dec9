//! Overlay networks: the tunnels of each network to each peer, kept in line with what there is of both.

mod error;
mod path_mtu;
mod peers;
mod too_big;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use nix::errno::Errno;
use vswitch_common::tables::{PortKind, PortNumber};

pub use error::OverlayError;
pub(in crate::switch) use peers::PeerEntry;

use super::state::{NetworkEntry, PortHandle};
use super::{DEFAULT_MTU, Switch, SwitchError};
use crate::apply::{ApplyError, apply};
use crate::datapath::UnderlaySpec;
use crate::drivers;
use crate::kernel::netlink::{Link, NetlinkError, Route};
use crate::model::{Network, NetworkId};

/// What a tunnel over IPv4 puts before an inner packet: its Ethernet header, VXLAN, UDP and IP (RFC 7348, 5).
const OVERHEAD: u32 = 14 + 8 + 8 + 20;
/// An IPv6 header is as much longer.
const IPV6_MORE: u32 = 20;

/// What a tunnel to a peer puts before an inner packet.
const fn overhead(peer: IpAddr) -> u32 {
    OVERHEAD + if peer.is_ipv6() { IPV6_MORE } else { 0 }
}

/// What is to be done to the tunnels.
#[derive(Debug, Default)]
struct Work {
    gone: Vec<(NetworkId, IpAddr, PortNumber)>,
    missing: Vec<(Network, IpAddr, u32)>,
    /// Whether there is any network that needs the device.
    needed: bool,
}

impl Switch {
    /// Brings the tunnels in line: one for each overlay network and peer, and a device for all of them.
    ///
    /// # Errors
    /// What the kernel refused; what was done so far stays.
    pub(super) async fn follow_tunnels(&self) -> Result<(), SwitchError> {
        let _turn = self.tunnelling.lock().await;
        let device = self.netlink.link_by_name(&self.instance.tunnel_device()).await?;
        let work = self.work_on_tunnels(device.as_ref().map(|link| link.index));
        let mut changed = BTreeSet::new();
        for (network, peer, number) in work.gone {
            changed.insert(network);
            self.remove_port(number).await?;
            if let Some(tunnels) = self.state().networks.get_mut(&network).and_then(|entry| entry.tunnels.as_mut()) {
                tunnels.remove(&peer);
            }
        }
        self.remove_stray_tunnels().await?;
        if !work.needed {
            if let Some(device) = device {
                self.netlink.delete_link(device.index).await?;
            }
            self.sync_networks(&changed).await?;
            return self.follow_underlay().await;
        }
        apply(&drivers::tunnels(&self.instance, self.vxlan_port), self.scene())
            .await
            .map_err(|error| self.refused(error))?;
        for (network, peer, mtu) in work.missing {
            let made = apply(&drivers::tunnel(&self.instance, &network, peer, mtu), self.scene()).await?;
            let port = made.port.map(|(ifindex, number)| PortHandle { ifindex, number });
            changed.insert(network.id);
            let mut state = self.state();
            let tunnels = state.networks.get_mut(&network.id).and_then(|entry| entry.tunnels.as_mut());
            if let (Some(tunnels), Some(port)) = (tunnels, port) {
                tunnels.insert(peer, port);
            }
        }
        // Before anything else: until then what goes there is flooded.
        self.sync_networks(&changed).await?;
        self.follow_underlay().await
    }

    /// Brings in line what looks at the underlay: on the devices that lead to peers, as long as there are tunnels.
    async fn follow_underlay(&self) -> Result<(), SwitchError> {
        let peers: BTreeSet<IpAddr> = {
            let state = self.state();
            let tunnels = state.networks.values().filter_map(|entry| entry.tunnels.as_ref());
            tunnels.flat_map(BTreeMap::keys).copied().collect()
        };
        let mut spec = UnderlaySpec { port: self.vxlan_port, ..UnderlaySpec::default() };
        if !peers.is_empty() {
            let routes = self.netlink.routes().await?;
            let indexes: BTreeSet<u32> = peers.iter().filter_map(|peer| link_towards(&routes, *peer)).collect();
            let links = self.netlink.links().await?;
            // Without Ethernet there is nothing that this program knows how to read.
            let devices = links.into_iter().filter(|link| indexes.contains(&link.index) && link.mac.is_some());
            spec.devices = devices.map(|link| (link.index, link.name)).collect();
            spec.addresses =
                self.netlink.addresses(None).await?.into_iter().map(|(_, address)| address.addr()).collect();
        }
        self.in_datapath(move |datapath| datapath.set_underlay(&spec)).await
    }

    /// Nobody looks at the underlay any more.
    pub(super) async fn release_underlay(&self) -> Result<(), SwitchError> {
        let _turn = self.tunnelling.lock().await;
        self.in_datapath(|datapath| datapath.set_underlay(&UnderlaySpec::default())).await
    }

    /// Routes and addresses may have changed since.
    pub(super) async fn refresh_underlay(&self) -> Result<(), SwitchError> {
        let _turn = self.tunnelling.lock().await;
        self.follow_underlay().await
    }

    /// What is wanted against what is there; `device` is the index of the tunnels' device, if it is there.
    fn work_on_tunnels(&self, device: Option<u32>) -> Work {
        let state = self.state();
        let mut work = Work::default();
        for entry in state.networks.values() {
            let Some(tunnels) = &entry.tunnels else { continue };
            work.needed = true;
            // One on a device that was there before is no tunnel any more.
            let wanted = state.wants_tunnels(entry.record.id);
            let stands = |peer: &IpAddr, port: &PortHandle| wanted.contains(peer) && Some(port.ifindex) == device;
            let gone = tunnels.iter().filter(|(peer, port)| !stands(peer, port));
            work.gone.extend(gone.map(|(peer, port)| (entry.record.id, *peer, port.number)));
            let missing = wanted.iter().filter(|peer| tunnels.get(peer).is_none_or(|port| !stands(peer, port)));
            work.missing.extend(missing.map(|peer| (entry.record.clone(), *peer, entry.mtu)));
        }
        work
    }

    /// Removes the tunnels that an earlier daemon has left, and nobody wants.
    async fn remove_stray_tunnels(&self) -> Result<(), SwitchError> {
        let wanted: BTreeSet<(u32, IpAddr)> = {
            let state = self.state();
            let networks = state.networks.values().filter(|entry| entry.tunnels.is_some());
            let tunnels = |entry: &NetworkEntry| {
                let wanted = state.wants_tunnels(entry.record.id);
                wanted.into_iter().map(|peer| (entry.record.number.0, peer)).collect::<Vec<_>>()
            };
            networks.flat_map(tunnels).collect()
        };
        for (number, port) in self.datapath.ports()? {
            let remote = IpAddr::from(port.ipv6.octets()).to_canonical();
            if port.kind() == Some(PortKind::Tunnel) && !wanted.contains(&(port.network.0, remote)) {
                self.remove_port(number).await?;
            }
        }
        Ok(())
    }

    fn refused(&self, error: ApplyError) -> SwitchError {
        match error {
            ApplyError::Netlink(NetlinkError::Kernel { errno: Errno::EADDRINUSE, .. }) => {
                OverlayError::PortInUse { port: self.vxlan_port }.into()
            }
            // Two devices of one port in one namespace.
            ApplyError::Netlink(NetlinkError::Exists { object, .. }) if object == self.instance.tunnel_device() => {
                OverlayError::PortInUse { port: self.vxlan_port }.into()
            }
            error => error.into(),
        }
    }

    /// The tunnels' device was removed by somebody: it is made again, and all tunnels with it.
    pub(super) async fn tunnels_lost(&self) -> Result<(), SwitchError> {
        let _leave = self.leave().await?;
        if self.netlink.link_by_name(&self.instance.tunnel_device()).await?.is_some() {
            return Ok(());
        }
        tracing::warn!("the device of the tunnels was removed by somebody, and is made again");
        self.follow_tunnels().await
    }

    /// The MTU of overlay networks that name none: what is left of the smallest way to a peer, or to the outside.
    pub(super) async fn overlay_mtu(&self) -> Result<u32, SwitchError> {
        let peers: Vec<IpAddr> = self.state().peers.keys().copied().collect();
        let routes = self.netlink.routes().await?;
        let links: BTreeMap<u32, Link> =
            self.netlink.links().await?.into_iter().map(|link| (link.index, link)).collect();
        let towards = |peer: &IpAddr| {
            let mtu = link_towards(&routes, *peer).and_then(|index| links.get(&index)).map(|link| link.mtu)?;
            Some(mtu.saturating_sub(overhead(*peer)))
        };
        if let Some(mtu) = peers.iter().filter_map(towards).min() {
            return Ok(mtu);
        }
        let outside = super::uplink::default_route_link(&self.netlink).await?;
        Ok(outside.map_or(DEFAULT_MTU, |link| link.mtu.min(DEFAULT_MTU)) - OVERHEAD)
    }

    /// A peer may be behind a smaller interface than those before it.
    async fn refresh_overlay_mtus(&self) -> Result<(), SwitchError> {
        let mtu = self.overlay_mtu().await?;
        for entry in self.state().networks.values_mut() {
            let detects = entry.record.overlay.is_some() && entry.record.bridge.mtu.is_none();
            if detects && entry.mtu != mtu {
                tracing::info!("the MTU of network {} is {mtu} from now on, not {}", entry.record.name, entry.mtu);
                entry.mtu = mtu;
            }
        }
        Ok(())
    }
}

/// By which link a packet leaves for an address.
pub(in crate::switch) fn link_towards(routes: &[Route], address: IpAddr) -> Option<u32> {
    let towards = routes.iter().filter(|route| route.destination.contains(&address));
    let best = towards.max_by_key(|route| (route.destination.prefix_len(), std::cmp::Reverse(route.metric)))?;
    best.index
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_and_the_lower_metric_lead() {
        let route = |destination: &str, index, metric| Route {
            destination: destination.parse().expect("a prefix"),
            index,
            gateway: None,
            metric,
        };
        let routes = [
            route("0.0.0.0/0", Some(1), 100),
            route("10.0.0.0/8", Some(2), 50),
            route("10.0.0.0/8", Some(3), 20),
            route("10.1.0.0/16", None, 0),
            route("fd00::/8", Some(4), 0),
        ];
        let towards = |address: &str| link_towards(&routes, address.parse().expect("an address"));
        assert_eq!((towards("192.0.2.1"), towards("10.9.0.1"), towards("10.1.0.1")), (Some(1), Some(3), None));
        assert_eq!((towards("fd00::9"), towards("2001:db8::1")), (Some(4), None));
    }
}
