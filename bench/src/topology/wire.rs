//! vswitch's macvlan and ipvlan: a container in the network of the wire whose near end is a parent
//! of the host.

use std::path::Path;

use anyhow::Result;

use super::{
    parts::{SERVER, create_wire, disable_checksum_offload},
    uplink::{FrameAddress, Injection, Uplink},
    variant::Variant,
};
use crate::{bpf::VlanTagger, cpus::CLIENT_CPU, instance::Instance, namespaces::Netns};

const PARENT: &str = "parent";
/// The VLAN of [`Variant::MacvlanVlan`].
const VLAN: u16 = 30;

/// The network of a variant, as arguments of `vswitch network create`.
#[derive(Debug, Eq, PartialEq)]
struct Network {
    driver: &'static str,
    parent: String,
    xdp: &'static str,
}

impl Network {
    fn of(variant: Variant) -> Self {
        Self {
            driver: if variant == Variant::IpvlanL2 { "ipvlan" } else { "macvlan" },
            parent: match variant {
                Variant::MacvlanVlan => format!("parent={PARENT}.{VLAN}"),
                _ => format!("parent={PARENT}"),
            },
            // XDP is disabled for all others: a veth keeps the tag beside the frame, where no XDP
            // program sees it.
            xdp: if variant == Variant::MacvlanXdp { "xdp=native" } else { "xdp=off" },
        }
    }

    fn create(&self, instance: &Instance) -> Result<()> {
        let mut create = vec!["network", "create", "-d", self.driver, "--subnet", "10.99.0.0/24"];
        create.extend(["-o", &self.parent, "-o", self.xdp]);
        if self.driver == "ipvlan" {
            create.extend(["-o", "ipvlan_mode=l2"]);
        }
        create.push("wire");
        instance.run(&create)?;
        Ok(())
    }
}

/// Returns the VLAN to set at the far end of the wire. `None` attaches no programs there,
/// `Some(None)` attaches programs that set no tag.
fn vlan_at_far_end(variant: Variant) -> Option<Option<u16>> {
    match variant {
        Variant::MacvlanVlan => Some(Some(VLAN)),
        Variant::MacvlanUntagged => Some(None),
        _ => None,
    }
}

pub fn uplink(variant: Variant, vswitch: &Path, options: &[&str]) -> Result<Uplink> {
    let (far, container) = (Netns::create("wire-far")?, Netns::create("wire-c")?);
    let host = Netns::create("wire-host")?;
    let wire_end = create_wire(&host, &far, PARENT)?;
    if variant == Variant::MacvlanXdp {
        disable_checksum_offload(&far)?;
    }
    let tagger = match vlan_at_far_end(variant) {
        Some(vlan) => {
            let ifindex = far.device(&wire_end.ifname)?.ifindex;
            Some(far.inside(CLIENT_CPU, || VlanTagger::attach(ifindex, vlan))?)
        }
        None => None,
    };

    let instance = Instance::up(vswitch, &host, options)?;
    Network::of(variant).create(&instance)?;
    let attached = instance.attach(&container, &["--network", "wire", "--ip", &SERVER.to_string()])?;
    let container_end = attached.endpoint(&container);
    wire_end.reach(&container_end)?;

    let injection = match variant {
        Variant::MacvlanXdp => Injection::Pinned(instance.pinned("from_parent_xdp")),
        _ => Injection::Pass,
    };
    let address = match variant {
        Variant::MacvlanVlan => FrameAddress::MacInVlan(VLAN),
        Variant::IpvlanL2 => FrameAddress::Ip(host.device(PARENT)?.address),
        _ => FrameAddress::Mac,
    };
    Ok(Uplink {
        variant,
        host: host.name(),
        ifname: PARENT.to_owned(),
        injection,
        wire_mac: far.device(&wire_end.ifname)?.address,
        wire: wire_end,
        container: container_end,
        address,
        instance: Some(instance),
        _tagger: tagger,
        _namespaces: vec![far, container, host],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vlan_is_part_of_the_parent_name() {
        let network = Network::of(Variant::MacvlanVlan);
        assert_eq!(network, Network { driver: "macvlan", parent: "parent=parent.30".to_owned(), xdp: "xdp=off" });
    }

    #[test]
    fn only_the_xdp_variant_uses_native_xdp() {
        let native: Vec<_> =
            Variant::WIRES.into_iter().filter(|variant| Network::of(*variant).xdp == "xdp=native").collect();
        assert_eq!(native, [Variant::MacvlanXdp]);
    }

    #[test]
    fn untagged_variant_attaches_programs_without_a_vlan() {
        assert_eq!(vlan_at_far_end(Variant::MacvlanVlan), Some(Some(VLAN)));
        assert_eq!(vlan_at_far_end(Variant::MacvlanUntagged), Some(None));
        assert_eq!(vlan_at_far_end(Variant::MacvlanTcx), None);
    }
}
