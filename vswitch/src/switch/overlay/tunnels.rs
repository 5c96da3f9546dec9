//! The tunnels: one for each overlay network and peer, on one device, updated to match the records.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use tokio::sync::mpsc;
use vswitch_common::tables::{Port, PortKind, PortNumber};

use super::encryption;
use super::ends::Ends;
use super::overhead::{OVERHEAD, overhead};
use crate::datapath::{DirectPath, Receiver, UnderlaySpec};
use crate::kernel::netlink::{Link, Netlink, NetlinkError};
use crate::kernel::xfrm;
use crate::model::{Network, NetworkId};
use crate::plan;
use crate::plan::apply::{ApplyError, apply};
use crate::switch::context::DEFAULT_MTU;
use crate::switch::error::SwitchError;
use crate::switch::overlay::{Overlay, OverlayError};
use crate::switch::routes::{default_route_mtu, link_towards};
use crate::switch::state::PortHandle;

/// The subject of the note on missing tunnels.
const NOTE: &str = "tunnels";
/// The time for which further changes of links, addresses and routes are awaited.
const SETTLED: Duration = Duration::from_millis(100);
/// The least time between two updates of the routes to peers.
const REFRESHED: Duration = Duration::from_secs(1);

/// The changes of tunnels.
#[derive(Debug, Default)]
struct Work {
    gone: Vec<(NetworkId, IpAddr, PortNumber)>,
    /// Missing tunnels: network, peer, tunnel destination and MTU.
    missing: Vec<(Network, IpAddr, IpAddr, u32)>,
    /// Whether any network needs the device.
    needed: bool,
}

impl Overlay {
    /// Updates the tunnels: one for each overlay network and peer, and one device for all.
    ///
    /// # Errors
    /// The kernel refused a change; earlier changes stay.
    pub async fn follow_tunnels(&self) -> Result<(), SwitchError> {
        self.bring_in_line().await?;
        self.context.note(NOTE, None);
        Ok(())
    }

    /// Like [`Overlay::follow_tunnels`], but also notes the failure. It is retried when routes
    /// change.
    pub async fn try_tunnels(&self) -> Result<(), SwitchError> {
        let done = self.follow_tunnels().await;
        if let Err(error) = &done {
            // The endpoints of this host work without tunnels.
            self.context.note(NOTE, Some(format!("no tunnels to other hosts: {error}")));
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
            self.multicast.remove_port(number).await?;
            self.forget_behind(number).await;
            if let Some(tunnels) =
                self.context.state().networks.get_mut(&network).and_then(|entry| entry.tunnels.as_mut())
            {
                tunnels.remove(&peer);
            }
        }
        self.remove_stray_tunnels(secured).await?;
        if !work.needed
            && let Some(device) = &device
        {
            self.context.netlink.delete_link(device.index).await?;
        }
        self.follow_keys().await?;
        self.secured(opened)?;
        if !work.needed {
            self.context.in_datapath(|datapath| datapath.guard_tunnels(None)).await?;
            self.sync_networks(&changed).await?;
            // Once this is done, no packet is sent to the receiver device.
            self.follow_underlay().await?;
            let [receiver, _] = self.context.instance.receiver_devices();
            if let Some(receiver) = self.context.netlink.link_by_name(&receiver).await? {
                self.context.netlink.delete_link(receiver.index).await?;
            }
            return Ok(());
        }
        apply(&plan::tunnels(&self.context.instance, self.context.vxlan_port), self.context.scene())
            .await
            .map_err(|error| self.refused(error))?;
        for (network, peer, remote, mtu) in work.missing {
            let made =
                apply(&plan::tunnel(&self.context.instance, &network, remote, mtu), self.context.scene()).await?;
            let port = made.port.map(|(ifindex, number)| PortHandle { ifindex, number });
            changed.insert(network.id);
            let mut state = self.context.state();
            let tunnels = state.networks.get_mut(&network.id).and_then(|entry| entry.tunnels.as_mut());
            if let (Some(tunnels), Some(port)) = (tunnels, port) {
                tunnels.insert(peer, port);
            }
        }
        // The entries come first: until they are written, frames to these endpoints are flooded.
        self.sync_networks(&changed).await?;
        self.follow_underlay().await
    }

    /// Updates the programs on the underlay: they run on the devices with routes to peers, as long
    /// as tunnels exist.
    async fn follow_underlay(&self) -> Result<(), SwitchError> {
        let peers: BTreeSet<IpAddr> = {
            let state = self.context.state();
            let tunnels = state.networks.values().filter_map(|entry| entry.tunnels.as_ref());
            tunnels.flat_map(BTreeMap::keys).copied().collect()
        };
        let mut spec = UnderlaySpec { port: self.context.vxlan_port, ..UnderlaySpec::default() };
        let mut ends = Ends::default();
        if !peers.is_empty() {
            let routes = self.context.netlink.routes().await?;
            let indexes: BTreeSet<u32> = peers.iter().filter_map(|peer| link_towards(&routes, *peer)).collect();
            let links = self.context.netlink.links().await?;
            spec.receiver = self.receiver(&links);
            let addresses = self.context.netlink.addresses(None).await?;
            let is_here = |own: &IpAddr| addresses.iter().any(|(_, address)| address.addr() == *own);
            // Packets with a source that is none of this host's would be lost.
            spec.sources = self.context.advertise.into_iter().filter(is_here).collect();
            spec.direct_paths = self.direct_paths(&peers, &links, &spec.sources).await?;
            let owner = |link: &Link| self.context.instance.owner(link.alias.as_deref()?);
            let owned = links.iter().filter_map(|link| Some((link.index, owner(link)?))).collect();
            // The program parses Ethernet only.
            let devices = links.into_iter().filter(|link| indexes.contains(&link.index) && link.mac.is_some());
            spec.devices = devices.map(|link| (link.index, link.name)).collect();
            let led = |peer: &&IpAddr| {
                link_towards(&routes, **peer)
                    .is_some_and(|index| spec.devices.iter().any(|(device, _)| *device == index))
            };
            spec.guarded = peers.iter().filter(led).copied().collect();
            ends = Ends::of(addresses, &indexes, &owned);
        }
        self.note_ends(&ends);
        spec.addresses = ends.addresses;
        self.context.in_datapath(move |datapath| datapath.set_underlay(&spec)).await
    }

    /// Returns how packets to peers leave without the tunnels' device: over IPv4 and Ethernet, from
    /// one of the source addresses of tunnels.
    async fn direct_paths(
        &self,
        peers: &BTreeSet<IpAddr>,
        links: &[Link],
        sources: &[IpAddr],
    ) -> Result<BTreeMap<Ipv4Addr, DirectPath>, NetlinkError> {
        let mut paths = BTreeMap::new();
        let own = sources.iter().find_map(|own| if let IpAddr::V4(own) = own { Some(*own) } else { None });
        // Packets that bypass the device also bypass IPsec, so all of them use the device if a
        // policy exists.
        match tokio::task::spawn_blocking(xfrm::policies_out).await {
            Ok(Ok(0)) => {}
            Ok(Ok(_)) => return Ok(paths),
            Ok(Err(error)) => {
                tracing::warn!("whether IPsec protects the way to peers is not known: {error}");
                return Ok(paths);
            }
            Err(_) => return Ok(paths),
        }
        for peer in peers {
            let IpAddr::V4(peer) = *peer else { continue };
            let Some(path) = self.context.netlink.path(peer).await? else { continue };
            let Some(link) = links.iter().find(|link| link.index == path.index) else { continue };
            let mtu = path.mtu.unwrap_or(link.mtu).min(link.mtu).saturating_sub(OVERHEAD);
            if link.mac.is_some() && !link.loopback && mtu > 0 {
                let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
                paths.insert(peer, DirectPath { source: own.unwrap_or(path.source), ifindex: link.index, mtu });
            }
        }
        Ok(paths)
    }

    /// Returns the veth pair that TCP segments are received through, for GRO.
    fn receiver(&self, links: &[Link]) -> Option<Receiver> {
        let [receiver, behind] = self.context.instance.receiver_devices();
        let of = |name: &str| links.iter().find(|link| link.name == name && link.up).map(|link| link.index);
        Some(Receiver { into: of(&receiver)?, out_of: of(&behind)?, device: behind })
    }

    /// Removes the programs from the underlay.
    pub async fn release_underlay(&self) -> Result<(), SwitchError> {
        let _turn = self.tunnelling.lock().await;
        self.context.in_datapath(|datapath| datapath.set_underlay(&UnderlaySpec::default())).await
    }

    /// Updates the tunnels after links, routes or addresses changed, and retries what failed.
    pub async fn refresh_underlay(&self) -> Result<(), SwitchError> {
        let _change = self.context.begin_change().await?;
        self.context.note_address().await?;
        let needed = self.context.state().networks.values().any(|entry| entry.tunnels.is_some());
        if !needed {
            return Ok(());
        }
        // The tunnels' devices are made for the MTU of the networks.
        let fitted = self.refresh_overlay_mtus().await;
        self.try_tunnels().await.and(fitted)
    }

    /// Follows the routes to peers, for as long as the daemon lives.
    pub async fn follow_paths(self: Arc<Self>, mut events: mpsc::Receiver<()>) {
        let mut failing = false;
        loop {
            if events.recv().await.is_none() {
                // The socket failed. The update below covers the missed events.
                tokio::time::sleep(REFRESHED).await;
                match Netlink::path_events(None) {
                    Ok(again) => events = again,
                    Err(error) => tracing::error!("no events of routes: {error}"),
                }
            }
            // Related changes come together.
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

    /// Returns the device of the tunnels, if it exists. Removes the device of an earlier daemon
    /// with another UDP port, because the port of a device cannot be changed; then all tunnels are
    /// made again.
    async fn tunnels_there(&self) -> Result<Option<Link>, SwitchError> {
        let name = self.context.instance.tunnel_device();
        let Some(device) = self.context.netlink.link_by_name(&name).await? else { return Ok(None) };
        let ours = device.alias.as_deref() == Some(&self.context.instance.tunnel_mark());
        match device.vxlan_port {
            Some(port) if ours && port != self.context.vxlan_port => {
                tracing::info!("{name} is created again for UDP port {} instead of {port}", self.context.vxlan_port);
                self.context.netlink.delete_link(device.index).await?;
                Ok(None)
            }
            _ => Ok(Some(device)),
        }
    }

    /// Compares the needed tunnels with the existing ones. `device` is the index of the tunnels'
    /// device.
    fn work_on_tunnels(&self, device: Option<u32>, secured: bool) -> Result<Work, SwitchError> {
        let ends: BTreeMap<PortNumber, IpAddr> =
            self.context.datapath.ports()?.into_iter().map(|(number, port)| (number, remote_of(&port))).collect();
        let state = self.context.state();
        let mut work = Work::default();
        for entry in state.networks.values() {
            let Some(tunnels) = &entry.tunnels else { continue };
            work.needed = true;
            let remotes = state.remotes(&entry.record, secured);
            // A tunnel on a former device, or to a former address of the peer, is gone.
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

    /// Removes tunnels of an earlier daemon that no network needs.
    async fn remove_stray_tunnels(&self, secured: bool) -> Result<(), SwitchError> {
        let wanted: BTreeSet<(u32, IpAddr)> = {
            let state = self.context.state();
            let networks = state.networks.values().filter(|entry| entry.tunnels.is_some());
            let ends = networks.flat_map(|entry| {
                let remotes = state.remotes(&entry.record, secured).into_values();
                remotes.map(|remote| (entry.record.number.0, remote))
            });
            ends.collect()
        };
        for (number, port) in self.context.datapath.ports()? {
            if port.kind() == Some(PortKind::Tunnel) && !wanted.contains(&(port.network.0, remote_of(&port))) {
                self.multicast.remove_port(number).await?;
            }
        }
        Ok(())
    }

    fn refused(&self, error: ApplyError) -> SwitchError {
        match error {
            ApplyError::Netlink(NetlinkError::Kernel { errno: Errno::EADDRINUSE, .. }) => {
                OverlayError::PortInUse { port: self.context.vxlan_port }.into()
            }
            // Another device with this port exists in the namespace.
            ApplyError::Netlink(NetlinkError::Exists { object, .. })
                if object == self.context.instance.tunnel_device() =>
            {
                OverlayError::PortInUse { port: self.context.vxlan_port }.into()
            }
            error => error.into(),
        }
    }

    /// Makes the tunnels again after one of their devices was removed by hand.
    pub async fn tunnels_lost(&self) -> Result<(), SwitchError> {
        let _change = self.context.begin_change().await?;
        let [receiver, _] = self.context.instance.receiver_devices();
        let mut missing = Vec::new();
        for device in [self.context.instance.tunnel_device(), receiver] {
            if self.context.netlink.link_by_name(&device).await?.is_none() {
                missing.push(device);
            }
        }
        if missing.is_empty() || !self.context.state().networks.values().any(|entry| entry.tunnels.is_some()) {
            return Ok(());
        }
        tracing::warn!("{} of the tunnels was removed by hand, and is created again", missing.join(" and "));
        self.try_tunnels().await
    }

    /// Returns the MTU of overlay networks without an MTU option: that of the underlay, or of the
    /// default route, less the overhead.
    pub async fn overlay_mtu(&self, encrypted: bool) -> Result<u32, SwitchError> {
        if let Some(mtu) = self.underlay_mtu(encrypted).await? {
            return Ok(mtu);
        }
        let outside = default_route_mtu(&self.context.netlink, true, true).await?;
        let mtu = outside.map_or(DEFAULT_MTU, |mtu| mtu.min(DEFAULT_MTU));
        let four = Ipv4Addr::UNSPECIFIED.into();
        Ok(mtu.saturating_sub(if encrypted { encryption::overhead(four) } else { overhead(four) }))
    }

    /// Returns the MTU of the smallest device with a route to a peer, less the overhead; `None`
    /// without such a route. A host with an address for its tunnels will be reached by the
    /// interface with that address.
    async fn underlay_mtu(&self, encrypted: bool) -> Result<Option<u32>, SwitchError> {
        let overhead = |peer| if encrypted { encryption::overhead(peer) } else { overhead(peer) };
        let peers: Vec<IpAddr> = self.context.state().peers.keys().copied().collect();
        let routes = self.context.netlink.routes().await?;
        let links: BTreeMap<u32, Link> =
            self.context.netlink.links().await?.into_iter().map(|link| (link.index, link)).collect();
        let left = |index: u32, peer: IpAddr| {
            let mtu = links.get(&index)?.mtu;
            Some(mtu.saturating_sub(overhead(peer)))
        };
        let own = match self.context.advertise {
            Some(own) => {
                let addresses = self.context.netlink.addresses(None).await?;
                addresses.iter().find(|(_, address)| address.addr() == own).and_then(|(index, _)| left(*index, own))
            }
            None => None,
        };
        let towards = peers.iter().filter_map(|peer| left(link_towards(&routes, *peer)?, *peer));
        Ok(towards.chain(own).min())
    }

    /// Updates the MTU of overlay networks, their endpoints and their host devices after a peer was
    /// added or the underlay changed. Without a route to any peer the MTU stays.
    pub async fn refresh_overlay_mtus(&self) -> Result<(), SwitchError> {
        let (Some(plain), Some(encrypted)) = (self.underlay_mtu(false).await?, self.underlay_mtu(true).await?) else {
            return Ok(());
        };
        let mut changed = BTreeSet::new();
        for entry in self.context.state().networks.values_mut() {
            let mtu = if encryption::is_encrypted(&entry.record) { encrypted } else { plain };
            let detects = entry.record.overlay().is_some() && entry.record.mtu().is_none();
            if detects && entry.mtu != mtu {
                tracing::info!("the MTU of network {} is {mtu} from now on, not {}", entry.record.name, entry.mtu);
                entry.mtu = mtu;
                changed.insert(entry.record.id);
            }
        }
        self.context.fit_networks(changed).await
    }
}

/// Returns the destination of a tunnel.
fn remote_of(port: &Port) -> IpAddr {
    IpAddr::from(port.peer().octets()).to_canonical()
}
