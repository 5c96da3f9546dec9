//! Overlay networks: the tunnels of each network to each peer, kept in line with what there is of both.

mod encryption;
mod ends;
mod error;
mod host_mtu;
mod path_mtu;
mod peers;
mod too_big;
mod underlay;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use tokio::sync::mpsc;
use vswitch_common::tables::{Port, PortKind, PortNumber};

pub(in crate::switch) use encryption::{Encryption, remove_guard};
use ends::Ends;
pub use error::OverlayError;
pub(in crate::switch) use peers::PeerEntry;

use super::state::PortHandle;
use super::{DEFAULT_MTU, Switch, SwitchError};
use crate::apply::{ApplyError, apply};
use crate::datapath::{Receiver, UnderlaySpec, WayOut};
use crate::drivers;
use crate::kernel::netlink::{Link, Netlink, NetlinkError, Route};
use crate::kernel::xfrm;
use crate::model::{Network, NetworkId};

/// What a tunnel over IPv4 puts before an inner packet: its Ethernet header, VXLAN, UDP and IP (RFC 7348, 5).
const OVERHEAD: u32 = 14 + 8 + 8 + 20;
/// An IPv6 header is as much longer.
const IPV6_MORE: u32 = 20;

/// What is noted while tunnels could not be made.
const NOTE: &str = "tunnels";
/// For how long more changes of links, addresses and routes are waited for.
const SETTLED: Duration = Duration::from_millis(100);
/// For how long the ways to peers are not looked at again.
const REFRESHED: Duration = Duration::from_secs(1);

/// What a tunnel to a peer puts before an inner packet.
const fn overhead(peer: IpAddr) -> u32 {
    OVERHEAD + if peer.is_ipv6() { IPV6_MORE } else { 0 }
}

/// What is to be done to the tunnels.
#[derive(Debug, Default)]
struct Work {
    gone: Vec<(NetworkId, IpAddr, PortNumber)>,
    /// With the peer, where the tunnel to it ends, and its MTU.
    missing: Vec<(Network, IpAddr, IpAddr, u32)>,
    /// Whether there is any network that needs the device.
    needed: bool,
}

impl Switch {
    /// Brings the tunnels in line: one for each overlay network and peer, and a device for all of them.
    ///
    /// # Errors
    /// What the kernel refused; what was done so far stays.
    pub(super) async fn follow_tunnels(&self) -> Result<(), SwitchError> {
        self.bring_in_line().await?;
        self.note(NOTE, None);
        Ok(())
    }

    /// The same, where nobody waits for it: that it failed is noted, and it is tried again when routes are looked at.
    pub(super) async fn try_tunnels(&self) -> Result<(), SwitchError> {
        let done = self.follow_tunnels().await;
        if let Err(error) = &done {
            // What is here works without them.
            self.note(NOTE, Some(format!("no tunnels to other hosts: {error}")));
        }
        done
    }

    async fn bring_in_line(&self) -> Result<(), SwitchError> {
        let _turn = self.tunnelling.lock().await;
        let opened = self.open_encryption().await;
        let secured = opened.is_ok();
        let device = self.tunnels_there().await?;
        let work = self.work_on_tunnels(device.as_ref().map(|link| link.index), secured)?;
        let mut changed = BTreeSet::new();
        for (network, peer, number) in work.gone {
            changed.insert(network);
            self.remove_port(number).await?;
            self.forget_behind(number).await;
            if let Some(tunnels) = self.state().networks.get_mut(&network).and_then(|entry| entry.tunnels.as_mut()) {
                tunnels.remove(&peer);
            }
        }
        self.remove_stray_tunnels(secured).await?;
        if !work.needed
            && let Some(device) = &device
        {
            self.netlink.delete_link(device.index).await?;
        }
        self.follow_keys().await?;
        self.secured(opened)?;
        if !work.needed {
            self.in_datapath(|datapath| datapath.guard_tunnels(None)).await?;
            self.sync_networks(&changed).await?;
            // Nothing is sent there any more, once this is done.
            self.follow_underlay().await?;
            let [receiver, _] = self.instance.receiver_devices();
            if let Some(receiver) = self.netlink.link_by_name(&receiver).await? {
                self.netlink.delete_link(receiver.index).await?;
            }
            return Ok(());
        }
        apply(&drivers::tunnels(&self.instance, self.vxlan_port), self.scene())
            .await
            .map_err(|error| self.refused(error))?;
        for (network, peer, remote, mtu) in work.missing {
            let made = apply(&drivers::tunnel(&self.instance, &network, remote, mtu), self.scene()).await?;
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
        let mut ends = Ends::default();
        if !peers.is_empty() {
            let routes = self.netlink.routes().await?;
            let indexes: BTreeSet<u32> = peers.iter().filter_map(|peer| link_towards(&routes, *peer)).collect();
            let links = self.netlink.links().await?;
            spec.receiver = self.receiver(&links);
            spec.ways = self.ways(&peers, &links).await?;
            let owner = |link: &Link| self.instance.owner(link.alias.as_deref()?);
            let owned = links.iter().filter_map(|link| Some((link.index, owner(link)?))).collect();
            // Without Ethernet there is nothing that this program knows how to read.
            let devices = links.into_iter().filter(|link| indexes.contains(&link.index) && link.mac.is_some());
            spec.devices = devices.map(|link| (link.index, link.name)).collect();
            ends = Ends::of(self.netlink.addresses(None).await?, &indexes, &owned);
        }
        self.note_ends(&ends);
        spec.addresses = ends.addresses;
        self.in_datapath(move |datapath| datapath.set_underlay(&spec)).await
    }

    /// How packets leave for peers, where the tunnels' device may be left out: over IPv4, by Ethernet.
    async fn ways(&self, peers: &BTreeSet<IpAddr>, links: &[Link]) -> Result<BTreeMap<Ipv4Addr, WayOut>, NetlinkError> {
        let mut ways = BTreeMap::new();
        // What is sent straight does not pass by IPsec: where that protects anything, all goes by the device.
        match tokio::task::spawn_blocking(xfrm::policies_out).await {
            Ok(Ok(0)) => {}
            Ok(Ok(_)) => return Ok(ways),
            Ok(Err(error)) => {
                tracing::warn!("whether IPsec protects the way to peers is not known: {error}");
                return Ok(ways);
            }
            Err(_) => return Ok(ways),
        }
        for peer in peers {
            let IpAddr::V4(peer) = *peer else { continue };
            let Some(path) = self.netlink.path(peer).await? else { continue };
            let Some(link) = links.iter().find(|link| link.index == path.index) else { continue };
            let mtu = path.mtu.unwrap_or(link.mtu).min(link.mtu).saturating_sub(OVERHEAD);
            if link.mac.is_some() && !link.loopback && mtu > 0 {
                let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
                ways.insert(peer, WayOut { source: path.source, ifindex: link.index, mtu });
            }
        }
        Ok(ways)
    }

    /// The pair behind which TCP is gathered.
    fn receiver(&self, links: &[Link]) -> Option<Receiver> {
        let [receiver, behind] = self.instance.receiver_devices();
        let of = |name: &str| links.iter().find(|link| link.name == name && link.up).map(|link| link.index);
        Some(Receiver { into: of(&receiver)?, out_of: of(&behind)?, device: behind })
    }

    /// Nobody looks at the underlay any more.
    pub(super) async fn release_underlay(&self) -> Result<(), SwitchError> {
        let _turn = self.tunnelling.lock().await;
        self.in_datapath(|datapath| datapath.set_underlay(&UnderlaySpec::default())).await
    }

    /// Links, routes and addresses may have changed, and what failed before may go by now.
    pub(super) async fn refresh_underlay(&self) -> Result<(), SwitchError> {
        let _leave = self.leave().await?;
        let needed = self.state().networks.values().any(|entry| entry.tunnels.is_some());
        if needed { self.try_tunnels().await } else { Ok(()) }
    }

    /// Follows the ways to peers, for as long as the daemon lives.
    pub async fn follow_paths(self: Arc<Self>, mut events: mpsc::Receiver<()>) {
        let mut failing = false;
        loop {
            if events.recv().await.is_none() {
                // The socket broke. What it did not tell is found by looking.
                tokio::time::sleep(REFRESHED).await;
                match Netlink::path_events(None) {
                    Ok(again) => events = again,
                    Err(error) => tracing::error!("no events of routes: {error}"),
                }
            }
            // What belongs together comes together.
            tokio::time::sleep(SETTLED).await;
            let _seen = events.try_recv();
            match self.refresh_underlay().await {
                Ok(()) | Err(SwitchError::ShuttingDown) => failing = false,
                Err(error) if !failing => {
                    tracing::warn!("tunnels do not follow the routes to peers: {error}");
                    failing = true;
                }
                Err(_) => {}
            }
            tokio::time::sleep(REFRESHED).await;
        }
    }

    /// The device of the tunnels, if it is there. One that an earlier daemon made for another UDP port goes, as no device takes
    /// another one; then all tunnels are made anew.
    async fn tunnels_there(&self) -> Result<Option<Link>, SwitchError> {
        let name = self.instance.tunnel_device();
        let Some(device) = self.netlink.link_by_name(&name).await? else { return Ok(None) };
        let ours = device.alias.as_deref() == Some(&self.instance.tunnel_mark());
        match device.vxlan_port {
            Some(port) if ours && port != self.vxlan_port => {
                tracing::info!("{name} is made anew, for UDP port {} and no longer {port}", self.vxlan_port);
                self.netlink.delete_link(device.index).await?;
                Ok(None)
            }
            _ => Ok(Some(device)),
        }
    }

    /// What is wanted against what is there; `device` is the index of the tunnels' device, if it is there.
    fn work_on_tunnels(&self, device: Option<u32>, secured: bool) -> Result<Work, SwitchError> {
        let ends: BTreeMap<PortNumber, IpAddr> =
            self.datapath.ports()?.into_iter().map(|(number, port)| (number, remote_of(&port))).collect();
        let state = self.state();
        let mut work = Work::default();
        for entry in state.networks.values() {
            let Some(tunnels) = &entry.tunnels else { continue };
            work.needed = true;
            let remotes = state.remotes(&entry.record, secured);
            // One on a device that was there before is no tunnel any more, nor is one to where the peer no longer is.
            let stands = |peer: &IpAddr, port: &PortHandle| {
                let remote = remotes.get(peer);
                remote.is_some() && remote == ends.get(&port.number) && Some(port.ifindex) == device
            };
            let gone = tunnels.iter().filter(|(peer, port)| !stands(peer, port));
            work.gone.extend(gone.map(|(peer, port)| (entry.record.id, *peer, port.number)));
            let missing = remotes.iter().filter(|(peer, _)| tunnels.get(peer).is_none_or(|port| !stands(peer, port)));
            work.missing.extend(missing.map(|(peer, remote)| (entry.record.clone(), *peer, *remote, entry.mtu)));
        }
        Ok(work)
    }

    /// Removes the tunnels that an earlier daemon has left, and nobody wants.
    async fn remove_stray_tunnels(&self, secured: bool) -> Result<(), SwitchError> {
        let wanted: BTreeSet<(u32, IpAddr)> = {
            let state = self.state();
            let networks = state.networks.values().filter(|entry| entry.tunnels.is_some());
            let ends = networks.flat_map(|entry| {
                let remotes = state.remotes(&entry.record, secured).into_values();
                remotes.map(|remote| (entry.record.number.0, remote))
            });
            ends.collect()
        };
        for (number, port) in self.datapath.ports()? {
            if port.kind() == Some(PortKind::Tunnel) && !wanted.contains(&(port.network.0, remote_of(&port))) {
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

    /// A device of the tunnels was removed by somebody: it is made again, and all tunnels with it.
    pub(super) async fn tunnels_lost(&self) -> Result<(), SwitchError> {
        let _leave = self.leave().await?;
        let [receiver, _] = self.instance.receiver_devices();
        let mut missing = Vec::new();
        for device in [self.instance.tunnel_device(), receiver] {
            if self.netlink.link_by_name(&device).await?.is_none() {
                missing.push(device);
            }
        }
        if missing.is_empty() || !self.state().networks.values().any(|entry| entry.tunnels.is_some()) {
            return Ok(());
        }
        tracing::warn!("{} of the tunnels was removed by somebody, and is made again", missing.join(" and "));
        self.try_tunnels().await
    }

    /// The MTU of overlay networks that name none: what is left of the smallest way to a peer, or to the outside. In a
    /// cluster, hosts that nobody knows yet will come by the interface of this host's own address.
    pub(super) async fn overlay_mtu(&self, encrypted: bool) -> Result<u32, SwitchError> {
        let overhead = |peer: IpAddr| match (encrypted, peer) {
            (true, peer) => encryption::overhead(peer),
            (false, IpAddr::V4(_)) => OVERHEAD,
            (false, IpAddr::V6(_)) => OVERHEAD + IPV6_MORE,
        };
        let peers: Vec<IpAddr> = self.state().peers.keys().copied().collect();
        let routes = self.netlink.routes().await?;
        let links: BTreeMap<u32, Link> =
            self.netlink.links().await?.into_iter().map(|link| (link.index, link)).collect();
        let left = |index: u32, peer: IpAddr| {
            let mtu = links.get(&index)?.mtu;
            Some(mtu.saturating_sub(overhead(peer)))
        };
        let own = match self.membership.as_ref().map(|member| member.address()) {
            Some(own) => {
                let addresses = self.netlink.addresses(None).await?;
                addresses.iter().find(|(_, address)| address.addr() == own).and_then(|(index, _)| left(*index, own))
            }
            None => None,
        };
        let towards = peers.iter().filter_map(|peer| left(link_towards(&routes, *peer)?, *peer));
        if let Some(mtu) = towards.chain(own).min() {
            return Ok(mtu);
        }
        let outside = super::uplink::default_route_link(&self.netlink).await?;
        let mtu = outside.map_or(DEFAULT_MTU, |link| link.mtu.min(DEFAULT_MTU));
        Ok(mtu.saturating_sub(overhead(Ipv4Addr::UNSPECIFIED.into())))
    }

    /// A peer may be behind a smaller interface than those before it: new endpoints and the host send no more from then on.
    pub(super) async fn refresh_overlay_mtus(&self) -> Result<(), SwitchError> {
        let [plain, encrypted] = [self.overlay_mtu(false).await?, self.overlay_mtu(true).await?];
        let mut changed = BTreeSet::new();
        for entry in self.state().networks.values_mut() {
            let mtu = if encryption::is_encrypted(&entry.record) { encrypted } else { plain };
            let detects = entry.record.overlay.is_some() && entry.record.bridge.mtu.is_none();
            if detects && entry.mtu != mtu {
                tracing::info!("the MTU of network {} is {mtu} from now on, not {}", entry.record.name, entry.mtu);
                entry.mtu = mtu;
                changed.insert(entry.record.id);
            }
        }
        self.fit_host_ports(changed).await
    }
}

/// Where a tunnel ends.
fn remote_of(port: &Port) -> IpAddr {
    IpAddr::from(port.ipv6.octets()).to_canonical()
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
