//! The ways to connect two containers, or a wire and a container. Each value owns everything that
//! it created.

mod bridge;
mod direct;
mod macvlan;
mod overlay;
mod pair;
mod parts;
mod published;
mod segment;
mod uplink;
mod variant;
mod vswitch;
mod wire;

use std::path::Path;

use anyhow::{Context as _, Result, bail};

pub use bridge::{Netfilter, attach_to_bridge, create_bridge_host};
pub use pair::Pair;
use parts::require_binary;
pub use published::Published;
pub use segment::Segment;
pub use uplink::{FrameAddress, Injection, Uplink};
pub use variant::Variant;

impl Pair {
    /// Builds the pair and checks that the two ends reach each other.
    pub fn build(variant: Variant, vswitch: Option<&Path>) -> Result<Self> {
        let pair = match variant {
            Variant::Direct => direct::pair(),
            Variant::Bridge => bridge::pair(Netfilter::Default),
            Variant::BridgeAlone => bridge::pair(Netfilter::Off),
            Variant::Macvlan => macvlan::pair(),
            Variant::Docker => bail!("Docker is measured only with published ports"),
            Variant::MacvlanPlain
            | Variant::MacvlanTcx
            | Variant::MacvlanXdp
            | Variant::MacvlanUntagged
            | Variant::MacvlanVlan
            | Variant::IpvlanL2 => bail!("{} is measured only from the wire", variant.label()),
            Variant::VxlanBridge | Variant::VxlanBridgeAlone | Variant::Overlay => overlay::pair(variant, vswitch),
            Variant::Vswitch | Variant::VswitchCrowd | Variant::UplinkTcx | Variant::UplinkXdp => {
                vswitch::pair(variant, require_binary(vswitch)?, &[])
            }
            Variant::VswitchOpen => vswitch::pair_without_guards(require_binary(vswitch)?),
            Variant::VswitchXdp => vswitch::pair(variant, require_binary(vswitch)?, &["--datapath", "xdp"]),
        };
        let pair = pair.with_context(|| format!("setting up {}", variant.label()))?;
        pair.client.reach(&pair.server).with_context(|| format!("through {}", variant.label()))?;
        Ok(pair)
    }
}

impl Uplink {
    /// Builds the uplink and checks that the far end of the wire reaches the container.
    pub fn build(variant: Variant, vswitch: Option<&Path>) -> Result<Self> {
        Self::build_with(variant, vswitch, &[])
    }

    /// As [`build`](Self::build), with options of `vswitch up`.
    pub fn build_with(variant: Variant, vswitch: Option<&Path>, options: &[&str]) -> Result<Self> {
        let uplink = match variant {
            Variant::Direct => direct::uplink(),
            Variant::Bridge => bridge::uplink(Netfilter::Default),
            Variant::BridgeAlone => bridge::uplink(Netfilter::Off),
            Variant::Macvlan | Variant::MacvlanPlain => macvlan::uplink(variant),
            Variant::MacvlanTcx
            | Variant::MacvlanXdp
            | Variant::MacvlanUntagged
            | Variant::MacvlanVlan
            | Variant::IpvlanL2 => wire::uplink(variant, require_binary(vswitch)?, options),
            Variant::Docker => bail!("Docker is measured only with published ports"),
            Variant::UplinkXdp => vswitch::uplink(variant, require_binary(vswitch)?, options),
            _ => vswitch::uplink(Variant::UplinkTcx, require_binary(vswitch)?, options),
        };
        uplink.with_context(|| format!("setting up {}", variant.label()))
    }
}
