//! Reactions to changes of devices that the switch did not make, and the ageing of stations.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use vswitch_common::tables::NetworkNumber;

use crate::kernel::netlink::{Link, LinkEvent, Netlink};
use crate::model::{DEFAULT_AGEING, EndpointId, NetworkId, Owner};
use crate::switch::Switch;
use crate::switch::error::SwitchError;
use crate::switch::state::NetworkEntry;

/// The interval at which all ports are compared with all links, in case an event was missed.
const RESYNC: Duration = Duration::from_secs(60);
/// The interval at which endpoints without a device are checked: no event reports the end of their
/// processes.
const VANISHED: Duration = Duration::from_secs(3);
/// The pause before the socket of link events is opened again.
const RETRY: Duration = Duration::from_secs(1);
/// The interval at which stations are aged, unless a network has a shorter ageing time.
const AGEING: Duration = Duration::from_secs(10);

/// The object that lost its device.
#[derive(Clone, Copy, Debug)]
enum Loss {
    Endpoint(EndpointId),
    HostPort(NetworkId),
    Uplink(NetworkId),
    Tunnels,
    Wireguard,
}

impl Switch {
    /// Follows the links of the host's namespace, for as long as the daemon lives.
    pub(super) async fn follow_links(self: Arc<Self>, mut events: mpsc::UnboundedReceiver<LinkEvent>) {
        let mut resync = tokio::time::interval(RESYNC);
        let mut vanished = tokio::time::interval(VANISHED);
        resync.tick().await;
        loop {
            let event = tokio::select! {
                event = events.recv() => event,
                _ = vanished.tick() => {
                    if let Ok(_change) = self.context.begin_change().await {
                        self.endpoints.release_vanished().await;
                    }
                    if self.nat.is_closing() {
                        self.repeat_nat();
                    }
                    continue;
                }
                _ = resync.tick() => Some(LinkEvent::Lost),
            };
            match event {
                Some(LinkEvent::Removed { index, .. }) => self.removed(index),
                Some(LinkEvent::Changed(link)) => self.changed(&link),
                Some(LinkEvent::Lost) => {
                    if let Err(error) = self.resync().await {
                        tracing::warn!("looking at all links again: {error}");
                    }
                }
                None => {
                    // The socket failed. A comparison finds the missed events once a new socket is
                    // open.
                    tokio::time::sleep(RETRY).await;
                    match Netlink::link_events() {
                        Ok(again) => events = again,
                        Err(error) => tracing::error!("no link events: {error}"),
                    }
                    resync.reset_immediately();
                }
            }
        }
    }

    fn removed(self: &Arc<Self>, ifindex: u32) {
        let losses = {
            let state = self.context.state();
            let endpoint =
                state.endpoints.values().find(|entry| entry.port.is_some_and(|port| port.ifindex == ifindex));
            let networks = || state.networks.values();
            let host = networks().find(|entry| entry.host_port.is_some_and(|port| port.ifindex == ifindex));
            let mut all_tunnels = networks().filter_map(|entry| entry.tunnels.as_ref()).flat_map(BTreeMap::values);
            let tunnels = all_tunnels.any(|port| port.ifindex == ifindex) || self.context.datapath.is_receiver(ifindex);
            let uplinks =
                networks().filter(|entry| entry.uplink.as_ref().is_some_and(|uplink| uplink.port.ifindex == ifindex));
            let one = None
                .or_else(|| endpoint.map(|entry| Loss::Endpoint(entry.record.id)))
                .or_else(|| host.map(|entry| Loss::HostPort(entry.record.id)))
                .or_else(|| tunnels.then_some(Loss::Tunnels))
                .or_else(|| self.overlay.encryption.is_device(ifindex).then_some(Loss::Wireguard));
            one.into_iter().chain(uplinks.map(|entry| Loss::Uplink(entry.record.id))).collect::<Vec<_>>()
        };
        for loss in losses {
            let switch = self.clone();
            tokio::spawn(async move { switch.settle(loss, ifindex).await });
        }
    }

    async fn settle(&self, loss: Loss, ifindex: u32) {
        let settled = match loss {
            Loss::Endpoint(id) => self.endpoints.reap(id, ifindex).await,
            Loss::HostPort(id) => self.networks.remake_host_port(id, ifindex).await,
            Loss::Uplink(id) => self.macvlan.uplink_removed(id, ifindex).await,
            Loss::Tunnels => self.overlay.tunnels_lost().await,
            Loss::Wireguard => self.overlay.wireguard_lost().await,
        };
        match settled {
            Ok(()) | Err(SwitchError::ShuttingDown) => {}
            Err(error) => {
                tracing::warn!("device {ifindex} is gone, and what belonged to it could not be settled: {error}");
            }
        }
    }

    fn changed(self: &Arc<Self>, link: &Link) {
        let (changed, renamed) = {
            let state = self.context.state();
            let networks = state.networks.values();
            let changed = networks.clone().filter(|entry| match (&entry.uplink, entry.record.interface()) {
                (Some(uplink), _) => {
                    uplink.port.ifindex == link.index && (link.mac, link.mtu) != (Some(uplink.mac), uplink.mtu)
                }
                (None, Some(interface)) => entry.ready && interface.as_str() == link.name,
                (None, None) => false,
            });
            let renamed = networks.filter(|entry| {
                let here = entry.uplink.as_ref().is_some_and(|uplink| uplink.port.ifindex == link.index);
                here && entry.record.parent().is_some_and(|options| options.parent.as_str() != link.name)
            });
            let id = |entry: &NetworkEntry| entry.record.id;
            (changed.map(id).collect::<Vec<_>>(), renamed.map(id).collect::<Vec<_>>())
        };
        for id in renamed {
            let (switch, name) = (self.clone(), link.name.clone());
            tokio::spawn(async move {
                if let Err(error) = switch.macvlan.parent_renamed(id, &name).await {
                    tracing::warn!("the new name {name} of a parent was not recorded: {error}");
                }
            });
        }
        for id in changed {
            let (switch, link) = (self.clone(), link.clone());
            tokio::spawn(async move {
                let name = link.name.clone();
                match switch.macvlan.uplink_changed(id, link).await {
                    Ok(()) | Err(SwitchError::ShuttingDown) => {}
                    Err(error) => tracing::warn!("cannot make {name} an uplink again: {error}"),
                }
            });
        }
    }

    /// Compares all ports with all links, and reacts as to the missed events.
    pub(super) async fn resync(self: &Arc<Self>) -> Result<(), SwitchError> {
        let links = self.context.netlink.links().await?;
        let there: BTreeSet<u32> = links.iter().map(|link| link.index).collect();
        let ours: BTreeSet<EndpointId> = {
            let owners = links.iter().filter_map(|link| self.context.instance.owner(link.alias.as_deref()?));
            owners.filter_map(|owner| if let Owner::Endpoint(id) = owner { Some(id) } else { None }).collect()
        };
        let gone: Vec<u32> = {
            let state = self.context.state();
            let endpoints = state.endpoints.values().filter(|entry| !ours.contains(&entry.record.id));
            let endpoints = endpoints.filter_map(|entry| entry.port);
            let networks = state.networks.values();
            let hosts = networks.clone().filter_map(|entry| entry.host_port);
            let uplinks = networks.clone().filter_map(|entry| entry.uplink.as_ref()).map(|uplink| uplink.port);
            let tunnels =
                networks.filter_map(|entry| entry.tunnels.as_ref()).filter_map(|tunnels| tunnels.values().next());
            let others = hosts.chain(uplinks).chain(tunnels.copied()).filter(|port| !there.contains(&port.ifindex));
            endpoints.chain(others).map(|port| port.ifindex).collect()
        };
        gone.into_iter().for_each(|ifindex| self.removed(ifindex));
        links.iter().for_each(|link| self.changed(link));
        self.macvlan.refresh_parents().await?;
        self.overlay.refresh_underlay().await?;
        self.repeat_nat();
        Ok(())
    }

    /// Repeats a change of the NAT rules that failed, in a task of its own: nft may hang.
    fn repeat_nat(self: &Arc<Self>) {
        let switch = self.clone();
        tokio::spawn(async move {
            if let Err(error) = switch.nat.retry_nat().await {
                tracing::debug!("no further attempt to change the rules: {error}");
            }
        });
    }

    /// Removes stations that exceed the ageing time, for as long as the daemon lives.
    pub(super) async fn age_stations(self: Arc<Self>) {
        loop {
            let ages = self.ages();
            let shortest = ages.iter().map(|(_, age)| *age).min().unwrap_or(DEFAULT_AGEING);
            let interval = AGEING.min(Duration::from_secs(u64::from(shortest)) / 2).max(Duration::from_secs(1));
            tokio::time::sleep(interval).await;
            let switch = self.clone();
            let aged =
                tokio::task::spawn_blocking(move || switch.age(&switch.ages()).and(switch.overlay.hear_peers())).await;
            if let Ok(Err(error)) = aged {
                tracing::warn!("ageing stations: {error}");
            }
        }
    }

    fn ages(&self) -> Vec<(NetworkNumber, u32)> {
        self.context.state().networks.values().map(|entry| (entry.record.number, entry.record.ageing())).collect()
    }

    fn age(&self, ages: &[(NetworkNumber, u32)]) -> Result<(), SwitchError> {
        let longest = ages.iter().map(|(_, age)| *age).max().unwrap_or(DEFAULT_AGEING);
        let of = |network| ages.iter().find(|(number, _)| *number == network).map_or(longest, |(_, age)| *age);
        self.context.datapath.age(of)?;
        Ok(())
    }
}
