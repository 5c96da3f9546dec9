//! Networks: creation, removal, the host port, the DNS server.

mod create;
mod disputes;
mod host_port;
mod items;
mod keep;
mod look;
mod remove;
mod rename;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use tokio::sync::Mutex as AsyncMutex;

use disputes::Disputes;

use crate::dns::{DnsServer, ResolverFiles};
use crate::model::Network;
use crate::switch::context::{Context, DEFAULT_MTU};
use crate::switch::directory::Directory;
use crate::switch::error::SwitchError;
use crate::switch::macvlan::Macvlan;
use crate::switch::multicast::Multicast;
use crate::switch::nat::Nat;
use crate::switch::overlay::Overlay;
use crate::switch::routes::default_route_mtu;
pub use create::{check_gateways, check_mtu};

/// A network to create. The switch gives it a number, the missing subnets and, in an overlay
/// network, a VNI.
#[derive(Clone, Debug)]
pub struct NewNetwork {
    /// The record as far as the user determined it.
    pub network: Network,
    /// Whether the network has IPv4, even if the user named no subnet.
    pub ipv4: bool,
    /// Whether the network has IPv6, even if the user named no subnet.
    pub ipv6: bool,
    /// Whether the user named gateways.
    pub gateways: bool,
}

/// The networks of this host.
#[derive(Debug)]
pub struct Networks {
    context: Arc<Context>,
    multicast: Arc<Multicast>,
    nat: Arc<Nat>,
    overlay: Arc<Overlay>,
    macvlan: Arc<Macvlan>,
    /// The DNS servers of the networks.
    dns: DnsServer,
    /// What other programs undo on the host.
    disputes: Mutex<Disputes>,
    /// The interface indexes of the host devices at the last comparison.
    known: Mutex<BTreeSet<u32>>,
    /// Held while the host is compared with the plans.
    keeping: AsyncMutex<()>,
}

impl Networks {
    /// Returns the owner.
    pub fn new(
        context: Arc<Context>,
        multicast: Arc<Multicast>,
        nat: Arc<Nat>,
        overlay: Arc<Overlay>,
        macvlan: Arc<Macvlan>,
    ) -> Self {
        let dns = DnsServer::new(Arc::new(Directory::new(context.clone())), ResolverFiles::default());
        let (disputes, known, keeping) = (Mutex::default(), Mutex::default(), AsyncMutex::default());
        Self { context, multicast, nat, overlay, macvlan, dns, disputes, known, keeping }
    }

    /// Returns the MTU of a network: the option, but no more than its interface passes; else that
    /// of its interface, of the tunnels or of the default routes' devices, else 1500. `ipv4` and
    /// `ipv6` are the families of the network.
    pub async fn mtu(&self, network: &Network, ipv4: bool, ipv6: bool) -> Result<u32, SwitchError> {
        if let Some(interface) = network.interface()
            && let Some(link) = self.context.netlink.link_by_name(interface.as_str()).await?
        {
            return Ok(network.mtu_on(link.mtu));
        }
        if let Some(mtu) = network.mtu() {
            return Ok(mtu);
        }
        if let Some(overlay) = network.overlay() {
            return self.overlay.overlay_mtu(overlay.encrypted).await;
        }
        if network.interface().is_some() {
            return Ok(DEFAULT_MTU);
        }
        Ok(default_route_mtu(&self.context.netlink, ipv4, ipv6).await?.unwrap_or(DEFAULT_MTU))
    }
}
