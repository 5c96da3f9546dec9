//! Networks: creation, removal, the host port, the DNS server.

mod create;
mod host_port;
mod remove;

use std::sync::Arc;

use crate::dns::{DnsServer, ResolverFiles};
use crate::model::Network;
use crate::switch::context::{Context, DEFAULT_MTU};
use crate::switch::directory::Directory;
use crate::switch::error::SwitchError;
use crate::switch::macvlan::Macvlan;
use crate::switch::multicast::Multicast;
use crate::switch::nat::Nat;
use crate::switch::overlay::Overlay;
use crate::switch::routes::default_route_link;

/// A network to create. The switch gives it a number, the missing subnets and, in an overlay
/// network, a VNI.
#[derive(Clone, Debug)]
pub struct NewNetwork {
    /// The record as far as the user determined it.
    pub network: Network,
    /// Whether the network gets an IPv6 subnet even if the user named none.
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
        Self { context, multicast, nat, overlay, macvlan, dns }
    }

    /// Returns the MTU of a network: the option, but no more than its interface passes; else that
    /// of its interface, of the tunnels or of the default route's device, else 1500.
    pub async fn mtu(&self, network: &Network) -> Result<u32, SwitchError> {
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
        let link = default_route_link(&self.context.netlink).await?;
        Ok(link.map_or(DEFAULT_MTU, |link| link.mtu))
    }
}
