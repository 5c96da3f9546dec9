//! The checks of `doctor` on the ports of a running instance: offloads, MTUs, XDP on uplinks.

use std::collections::{BTreeMap, BTreeSet};

use super::{Finding, State};
use crate::api::PortHealth;

/// Checks all ports. Returns the findings for each port first, then those for each network.
pub(super) fn check(ports: &[PortHealth]) -> Vec<Finding> {
    let mut findings: Vec<_> = ports.iter().flat_map(|port| [Some(offloads(port)), xdp(port)]).flatten().collect();
    let mut networks = BTreeMap::<&str, Vec<&PortHealth>>::new();
    for port in ports {
        networks.entry(&port.network).or_default().push(port);
    }
    findings.extend(networks.into_iter().filter_map(|(network, ports)| mtu(network, &ports)));
    findings
}

/// Compares the offloads of a port with those that its path needs.
fn offloads(port: &PortHealth) -> Finding {
    let check = format!("offloads {}/{} ({})", port.port, port.device, port.network);
    if let Some(error) = &port.unseen {
        let advice = "check the offloads in the namespace with `ethtool -k`".to_owned();
        return Finding::new(check, State::Limited, format!("unknown: {error}"), Some(advice));
    }
    if port.mtu.is_none() {
        let advice = match port.kind.as_str() {
            "uplink" => "the interface is added to the network when it appears",
            _ => "the device was renamed or removed: detach the endpoint and attach it again",
        };
        let found = format!("no device {}", port.device);
        return Finding::new(check, State::Limited, found, Some(advice.to_owned()));
    }
    let on_off = |on: bool| if on { "on" } else { "off" };
    let found = port.offloads.iter().map(|(name, on)| format!("{name} {}", on_off(*on))).collect::<Vec<_>>().join(", ");
    let wrong = port.needs.iter().filter(|(name, on)| port.offloads.get(*name) != Some(*on));
    let settings: Vec<_> = wrong.map(|(name, on)| format!("{} {}", ethtool_name(name), on_off(*on))).collect();
    let prefix = port.netns.as_ref().map(|netns| format!("nsenter --net={} ", netns.display())).unwrap_or_default();
    let advice = (!settings.is_empty()).then(|| {
        format!(
            "XDP on the path of this port requires other offloads: `{prefix}ethtool -K {} {}`",
            port.device,
            settings.join(" ")
        )
    });
    let state = if advice.is_none() { State::Ok } else { State::Limited };
    Finding { offloads: Some(port.offloads.clone()), ..Finding::new(check, state, found, advice) }
}

/// Returns the name of an offload in `ethtool -K`.
fn ethtool_name(offload: &str) -> &str {
    match offload {
        "tx_checksum" => "tx",
        "rx_checksum" => "rx",
        "tx_vlan" => "txvlan",
        "rx_vlan" => "rxvlan",
        other => other,
    }
}

/// Reports whether an uplink runs XDP, and if not, why. Returns `None` for other ports.
fn xdp(port: &PortHealth) -> Option<Finding> {
    let hooks = port.hooks.as_ref().filter(|_| port.kind == "uplink")?;
    let check = format!("xdp {} ({})", port.port, port.network);
    if hooks.starts_with("xdp") {
        return Some(Finding::new(check, State::Ok, hooks.clone(), None));
    }
    if !hooks.contains("no XDP") {
        let found = format!("{hooks}, as requested with -o xdp=off or --datapath tc");
        return Some(Finding::new(check, State::Ok, found, None));
    }
    let advice =
        "the uplink works without XDP; native XDP requires driver support and no other XDP program on the device"
            .to_owned();
    Some(Finding::new(check, State::Limited, hooks.clone(), Some(advice)))
}

/// Compares the MTUs of all devices of a network. Room that a port reserves for a VLAN tag counts
/// as MTU.
fn mtu(network: &str, ports: &[&PortHealth]) -> Option<Finding> {
    let frame_size = |port: &PortHealth| port.mtu.map(|mtu| mtu + port.tag_room);
    let sizes: BTreeSet<u32> = ports.iter().filter_map(|port| frame_size(port)).collect();
    let smallest = *sizes.first()?;
    let check = format!("mtu {network}");
    if sizes.len() == 1 {
        return Some(Finding::new(check, State::Ok, format!("{smallest} on all ports"), None));
    }
    let at = |size: &u32| {
        let names: Vec<_> =
            ports.iter().filter(|port| frame_size(port) == Some(*size)).map(|port| port.port.as_str()).collect();
        format!("{size} at {}", names.join(", "))
    };
    let found = sizes.iter().map(at).collect::<Vec<_>>().join("; ");
    let advice = format!(
        "frames longer than {smallest} do not reach all ports: set equal MTUs with `ip link set dev DEVICE mtu N`, or \
         create the network with -o mtu={smallest}"
    );
    Some(Finding::new(check, State::Limited, found, Some(advice)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(name: &str, kind: &str, mtu: u32) -> PortHealth {
        let offloads = [("gro", false), ("tso", true), ("tx_checksum", true)];
        PortHealth {
            port: name.to_owned(),
            kind: kind.to_owned(),
            network: "lan".to_owned(),
            device: "eth0".to_owned(),
            netns: (kind == "endpoint").then(|| "/run/netns/web".into()),
            hooks: Some("tcx".to_owned()),
            mtu: Some(mtu),
            tag_room: 0,
            offloads: offloads.into_iter().map(|(name, on)| (name.to_owned(), on)).collect(),
            needs: BTreeMap::new(),
            unseen: None,
        }
    }

    fn checked(ports: &[PortHealth]) -> Vec<(String, State, String, String)> {
        let finding = |finding: Finding| {
            assert_eq!(finding.advice.is_some(), finding.state != State::Ok, "{finding:?}");
            (finding.check, finding.state, finding.found, finding.advice.unwrap_or_default())
        };
        check(ports).into_iter().map(finding).collect()
    }

    #[test]
    fn offloads_are_ok_unless_the_path_needs_others() {
        let web = port("web", "endpoint", 1500);
        let found = "gro off, tso on, tx_checksum on";
        let checks = checked(std::slice::from_ref(&web));
        assert_eq!(checks[0], ("offloads web/eth0 (lan)".into(), State::Ok, found.into(), String::new()));
        assert_eq!(checks[1], ("mtu lan".into(), State::Ok, "1500 on all ports".into(), String::new()));
        let needs = [("gro", true), ("tx_checksum", false)].map(|(name, on)| (name.to_owned(), on));
        let needy = PortHealth { needs: needs.into_iter().collect(), ..web };
        let checks = checked(&[needy]);
        assert_eq!(checks[0].1, State::Limited);
        assert!(checks[0].3.ends_with("`nsenter --net=/run/netns/web ethtool -K eth0 gro on tx off`"), "{checks:?}");
    }

    #[test]
    fn unreadable_ports_are_reported() {
        let missing = PortHealth { mtu: None, offloads: BTreeMap::new(), ..port("web", "endpoint", 1) };
        assert_eq!(checked(&[missing])[0].2, "no device eth0");
        let unseen =
            PortHealth { unseen: Some("no such namespace: /run/netns/web".into()), ..port("web", "endpoint", 1) };
        assert_eq!(checked(&[unseen])[0].2, "unknown: no such namespace: /run/netns/web");
    }

    #[test]
    fn different_mtus_are_reported_with_their_ports() {
        let checks =
            checked(&[port("web", "endpoint", 9000), port("db", "endpoint", 9000), port("eth1", "host", 1500)]);
        let mtu = checks.last().expect("a finding");
        assert_eq!((mtu.1, mtu.2.as_str()), (State::Limited, "1500 at eth1; 9000 at web, db"));
        assert!(mtu.3.contains("-o mtu=1500"), "{mtu:?}");
        // An MTU of 1446 with 4 bytes reserved for a tag matches an MTU of 1450.
        let tagged = PortHealth { tag_room: 4, ..port("web", "endpoint", 1446) };
        let checks = checked(&[tagged, port("db", "endpoint", 1450)]);
        assert_eq!(checks.last().map(|check| check.1), Some(State::Ok), "{checks:?}");
    }

    #[test]
    fn uplink_without_xdp_is_reported_with_the_reason() {
        for (hooks, state, part) in [
            ("xdp+tcx", State::Ok, "xdp+tcx"),
            ("tcx", State::Ok, "as requested"),
            ("tcx (no XDP: its frames may have unfinished checksums)", State::Limited, "unfinished"),
        ] {
            let checks = checked(&[PortHealth { hooks: Some(hooks.to_owned()), ..port("eth1", "uplink", 1500) }]);
            assert_eq!((checks[1].0.as_str(), checks[1].1), ("xdp eth1 (lan)", state));
            assert!(checks[1].2.contains(part), "{checks:?}");
        }
    }
}
