//! Path MTU: a tunnel accepts packets up to the MTU of its path, and senders of longer ones get an
//! ICMP error.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vswitch_common::forward;
use vswitch_common::observe::Event;
use vswitch_common::packet::Ethernet;
use vswitch_common::tables::{PortKind, PortNumber};

use super::encryption::{self, is_encrypted};
use super::overhead::overhead;
use super::too_big;
use crate::kernel::{packet, path};
use crate::observe::Observed;
use crate::switch::error::SwitchError;
use crate::switch::overlay::Overlay;

/// The interval at which the path MTUs are read: no event reports a change.
const LOOK: Duration = Duration::from_secs(1);
/// The time for which a sender gets no further error: packets that it sent before the first error
/// are still on the way.
const AGAIN: Duration = Duration::from_millis(100);
/// The most packets that are processed at once.
const BATCH: usize = 64;
/// The most senders and destinations that are remembered.
const REMEMBERED: usize = 4096;

/// The time of the last error by port, sender and destination.
type Lately = HashMap<(PortNumber, IpAddr, IpAddr), Instant>;

/// A tunnel with the values that its MTU depends on.
#[derive(Clone, Copy, Debug)]
struct Tunnel {
    number: PortNumber,
    /// The peer's address, or its WireGuard inner address.
    remote: IpAddr,
    /// The MTU of its network.
    mtu: u32,
    /// The bytes that the tunnel adds to a packet.
    overhead: u32,
}

impl Overlay {
    /// Updates the MTU of tunnels to match their paths, for as long as the daemon lives.
    pub async fn follow_path_mtus(self: Arc<Self>) {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut failing = false;
        loop {
            look.tick().await;
            let switch = self.clone();
            let looked = tokio::task::spawn_blocking(move || switch.look_at_paths()).await;
            match looked {
                Ok(Err(error)) if !failing => {
                    tracing::warn!("tunnels do not follow their paths' MTU: {error}");
                    failing = true;
                }
                Ok(Ok(())) => failing = false,
                _ => {}
            }
        }
    }

    fn look_at_paths(&self) -> Result<(), SwitchError> {
        let mut tunnels: BTreeMap<IpAddr, Vec<Tunnel>> = BTreeMap::new();
        {
            let state = self.context.state();
            for entry in state.networks.values() {
                let encrypted = is_encrypted(&entry.record);
                let remotes = state.remotes(&entry.record, true);
                for (peer, port) in entry.tunnels.iter().flatten() {
                    let Some(remote) = remotes.get(peer).copied() else { continue };
                    let overhead = if encrypted { encryption::overhead(*peer) } else { overhead(*peer) };
                    let tunnel = Tunnel { number: port.number, remote, mtu: entry.mtu, overhead };
                    tunnels.entry(*peer).or_default().push(tunnel);
                }
            }
        }
        for (peer, ports) in tunnels {
            // Without a route, the MTU stays.
            let Ok(path) = path::mtu(peer) else { continue };
            for Tunnel { number, remote, mtu, overhead } in ports {
                let fits = path.saturating_sub(overhead).max(1);
                let mtu = u16::try_from(mtu.min(fits)).unwrap_or(0);
                if let Some(before) = self.context.datapath.set_tunnel_mtu(number, remote, mtu)? {
                    tracing::info!("packets to peer {peer} may have {mtu} bytes from now on, not {before}");
                }
            }
        }
        Ok(())
    }

    /// Sends ICMP errors to senders of packets that are too long, for as long as the daemon lives.
    pub async fn tell_too_big(self: Arc<Self>) {
        let mut events = self.observer.subscribe(Event::TOO_BIG);
        let mut lately = Lately::new();
        let mut batch = Vec::with_capacity(BATCH);
        while events.recv_many(&mut batch, BATCH).await > 0 {
            let (switch, frames) = (self.clone(), std::mem::take(&mut batch));
            // A change of ports may hold the lock for a while.
            let told = tokio::task::spawn_blocking(move || {
                for frame in &frames {
                    switch.tell_of(frame, &mut lately);
                }
                lately
            });
            lately = told.await.unwrap_or_default();
        }
    }

    fn tell_of(&self, told: &Observed, lately: &mut Lately) {
        let decision = told.event.decision;
        let in_network =
            |number| self.context.datapath.port(number).filter(|port| port.network == decision.station.network);
        let (Some(sender), Some(tunnel)) = (in_network(decision.ingress), in_network(decision.to.port)) else { return };
        if tunnel.kind() != Some(PortKind::Tunnel) || tunnel.mtu == 0 {
            return;
        }
        let Ok(ethernet) = Ethernet::parse(&told.bytes[..]) else { return };
        let tags = [told.event.tag != 0, ethernet.tag.is_some(), ethernet.double].map(u32::from);
        let taken = forward::tags(tags.iter().sum(), decision.station.vlan, &tunnel);
        let mtu = tunnel.mtu.saturating_sub(u16::try_from(taken).unwrap_or(u16::MAX));
        let Some(answer) = too_big::answer(&told.bytes, told.event.tag, mtu) else { return };
        let now = Instant::now();
        if lately.len() >= REMEMBERED {
            lately.retain(|_, at| now.duration_since(*at) < AGAIN);
        }
        let key = (decision.ingress, answer.to, answer.of);
        let recent = lately.get(&key).is_some_and(|at| now.duration_since(*at) < AGAIN);
        if recent || lately.len() >= REMEMBERED {
            return;
        }
        lately.insert(key, now);
        if let Err(error) = packet::send(sender.ifindex, &answer.frame) {
            tracing::debug!("cannot send an ICMP error to port {}: {error}", decision.ingress.0);
        }
    }
}
