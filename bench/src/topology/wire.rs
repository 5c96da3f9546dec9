//! vswitch's macvlan and ipvlan: a container on the network of the wire that a parent of the host is the near end of.

use std::path::Path;

use anyhow::Result;

use super::{Addressed, Injection, SERVER, Uplink, Variant, finish_frames, wire};
use crate::{bpf::Tagging, instance::Instance, measure::CLIENT_CPU, namespaces::Netns};

const PARENT: &str = "parent";
/// Of [`Variant::MacvlanVlan`].
const VLAN: u16 = 30;

/// The network that a variant is measured on, as `vswitch network create` takes it.
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
            // Off for all others: a veth keeps a tag beside the frame, where no XDP program sees it.
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

/// The VLAN that the far end of the wire is set up for: none, or with programs there that set no tag.
fn tagging(variant: Variant) -> Option<Option<u16>> {
    match variant {
        Variant::MacvlanVlan => Some(Some(VLAN)),
        Variant::MacvlanUntagged => Some(None),
        _ => None,
    }
}

pub fn uplink(variant: Variant, vswitch: &Path, options: &[&str]) -> Result<Uplink> {
    let (far, container) = (Netns::create("wire-far")?, Netns::create("wire-c")?);
    let host = Netns::create("wire-host")?;
    let from = wire(&host, &far, PARENT)?;
    if variant == Variant::MacvlanXdp {
        finish_frames(&far)?;
    }
    let tagging = match tagging(variant) {
        Some(vlan) => {
            let ifindex = far.device(&from.ifname)?.ifindex;
            Some(far.inside(CLIENT_CPU, || Tagging::attach(ifindex, vlan))?)
        }
        None => None,
    };

    let instance = Instance::up(vswitch, &host, options)?;
    Network::of(variant).create(&instance)?;
    let attached = instance.attach(&container, &["--network", "wire", "--ip", &SERVER.to_string()])?;
    let container_end = attached.endpoint(&container);
    from.reach(&container_end)?;

    let injection = match variant {
        Variant::MacvlanXdp => Injection::Pinned(instance.pinned("from_parent_xdp")),
        _ => Injection::Pass,
    };
    let to = match variant {
        Variant::MacvlanVlan => Addressed::MacInVlan(VLAN),
        Variant::IpvlanL2 => Addressed::Ip(host.device(PARENT)?.address),
        _ => Addressed::Mac,
    };
    Ok(Uplink {
        variant,
        host: host.name(),
        ifname: PARENT.to_owned(),
        injection,
        wire_mac: far.device(&from.ifname)?.address,
        wire: from,
        container: container_end,
        to,
        instance: Some(instance),
        _tagging: tagging,
        _namespaces: vec![far, container, host],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vlan_is_named_by_the_parent() {
        let network = Network::of(Variant::MacvlanVlan);
        assert_eq!(network, Network { driver: "macvlan", parent: "parent=parent.30".to_owned(), xdp: "xdp=off" });
    }

    #[test]
    fn only_one_variant_is_switched_in_xdp() {
        let native: Vec<_> =
            Variant::WIRES.into_iter().filter(|variant| Network::of(*variant).xdp == "xdp=native").collect();
        assert_eq!(native, [Variant::MacvlanXdp]);
    }

    #[test]
    fn what_stands_beside_the_vlan_differs_by_its_tags_alone() {
        assert_eq!(tagging(Variant::MacvlanVlan), Some(Some(VLAN)));
        assert_eq!(tagging(Variant::MacvlanUntagged), Some(None));
        assert_eq!(tagging(Variant::MacvlanTcx), None);
    }
}
