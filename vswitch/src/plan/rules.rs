//! Rules of ports, from the options of the network and of the endpoint.

use vswitch_common::tables::PortKind;

use crate::model::{EndpointOptions, Learning, PortOptions, PortRules, SwitchOptions, Trunk, TrunkVlans};

/// Default of `storm_pps`, in copies per second.
const STORM_PPS: u32 = 10_000;
/// Default of `fdb_limit` behind an endpoint, in stations.
const FDB_LIMIT: u32 = 1024;
/// Default of `fdb_limit` behind an uplink or a tunnel, in stations: a quarter of the FDB's usual
/// size, and more than one segment usually has.
const FDB_LIMIT_OUTSIDE: u32 = 16_384;
/// Bit of the group 01:80:c2:00:00:00, to which bridges send BPDUs (IEEE 802.1D, 7.12.3).
const SPANNING_TREE: u16 = 1 << 0;

/// Returns the rules of a port. Ports that belong to no endpoint pass the default endpoint options.
pub(super) fn rules(network: &SwitchOptions, kind: PortKind, endpoint: &EndpointOptions) -> PortRules {
    let ports = merge(&endpoint.ports, &network.ports);
    let common = PortRules {
        arp_suppress: ports.arp_suppress.unwrap_or(true),
        snooping: network.mcast_snooping,
        group_fwd_mask: network.group_fwd_mask,
        ..PortRules::default()
    };
    let learning = ports.learning.unwrap_or_default();
    match kind {
        PortKind::Host => PortRules { learning: false, ..common },
        PortKind::Uplink => PortRules {
            learning: learning != Learning::Off,
            fdb_limit: ports.fdb_limit.unwrap_or(FDB_LIMIT_OUTSIDE),
            storm_pps: ports.storm_pps.unwrap_or(STORM_PPS),
            trunk: Trunk::All,
            ..common
        },
        // The sender's host has already limited the frames. Requests from the peer's endpoints are
        // answered there.
        PortKind::Tunnel => PortRules {
            learning: learning != Learning::Off,
            fdb_limit: ports.fdb_limit.unwrap_or(FDB_LIMIT_OUTSIDE),
            storm_pps: ports.storm_pps.unwrap_or(STORM_PPS),
            arp_suppress: false,
            trunk: Trunk::All,
            ..common
        },
        // The interface stays the host's: the switch learns, answers and limits nothing there.
        PortKind::Parent => PortRules {
            learning: false,
            arp_suppress: false,
            snooping: false,
            trunk: Trunk::All,
            ..PortRules::default()
        },
        PortKind::Container | PortKind::Child => {
            let spoof_guard = ports.spoof_guard.unwrap_or(true);
            PortRules {
                isolated: endpoint.isolated.unwrap_or(!network.icc),
                hairpin: endpoint.hairpin,
                learning: match learning {
                    Learning::Auto => !spoof_guard,
                    Learning::On => true,
                    Learning::Off => false,
                },
                fdb_limit: ports.fdb_limit.unwrap_or(FDB_LIMIT),
                spoof_guard,
                ra_guard: ports.ra_guard.unwrap_or(true),
                dhcp_guard: ports.dhcp_guard.unwrap_or(true),
                // If a network forwards BPDUs, its endpoints contain bridges.
                bpdu_guard: ports.bpdu_guard.unwrap_or(network.group_fwd_mask & SPANNING_TREE == 0),
                router: endpoint.mcast_router,
                storm_pps: ports.storm_pps.unwrap_or(STORM_PPS),
                vlan: endpoint.vlan.map_or(0, |vlan| vlan.get()),
                trunk: match &endpoint.trunk {
                    TrunkVlans::None => Trunk::None,
                    TrunkVlans::Listed(vlans) => Trunk::Vlans(vlans.iter().map(|vlan| vlan.get()).collect()),
                    TrunkVlans::All => Trunk::All,
                },
                ..common
            }
        }
    }
}

/// Returns the options of an endpoint, with those of the network where the endpoint has none.
fn merge(own: &PortOptions, network: &PortOptions) -> PortOptions {
    PortOptions {
        learning: own.learning.or(network.learning),
        spoof_guard: own.spoof_guard.or(network.spoof_guard),
        arp_suppress: own.arp_suppress.or(network.arp_suppress),
        ra_guard: own.ra_guard.or(network.ra_guard),
        dhcp_guard: own.dhcp_guard.or(network.dhcp_guard),
        bpdu_guard: own.bpdu_guard.or(network.bpdu_guard),
        storm_pps: own.storm_pps.or(network.storm_pps),
        fdb_limit: own.fdb_limit.or(network.fdb_limit),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::model::BridgeOptions;

    fn given(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn of(network: &[(&str, &str)], kind: PortKind, endpoint: &[(&str, &str)]) -> PortRules {
        let network = BridgeOptions::parse(&given(network)).expect("options").switch;
        rules(&network, kind, &EndpointOptions::parse(&given(endpoint)).expect("options"))
    }

    #[test]
    fn an_endpoint_has_all_guards_unless_options_turn_them_off() {
        let rules = of(&[], PortKind::Container, &[]);
        let expected = PortRules {
            learning: false,
            fdb_limit: 1024,
            spoof_guard: true,
            ra_guard: true,
            dhcp_guard: true,
            bpdu_guard: true,
            arp_suppress: true,
            snooping: true,
            storm_pps: 10_000,
            ..PortRules::default()
        };
        assert_eq!(rules, expected);
        let off = [("ra_guard", "off"), ("dhcp_guard", "off"), ("bpdu_guard", "off"), ("arp_suppress", "off")];
        let rules = of(&off, PortKind::Container, &[("dhcp_guard", "on"), ("storm_pps", "5"), ("fdb_limit", "3")]);
        assert!(!rules.ra_guard && !rules.bpdu_guard && !rules.arp_suppress && rules.dhcp_guard);
        assert_eq!((rules.storm_pps, rules.fdb_limit), (5, 3));
        assert!(of(&[("icc", "false")], PortKind::Container, &[]).isolated);
        assert!(!of(&[("icc", "false")], PortKind::Container, &[("isolated", "false")]).isolated);
        assert!(of(&[], PortKind::Container, &[("isolated", "true")]).isolated);
        let rules = of(&[], PortKind::Container, &[("hairpin", "true"), ("mcast_router", "on")]);
        assert!(rules.hairpin && rules.router);
    }

    #[test]
    fn learning_is_on_by_default_only_without_spoof_guard() {
        for (network, endpoint, learns) in [
            (&[][..], &[][..], false),
            (&[("spoof_guard", "off")], &[], true),
            (&[], &[("spoof_guard", "off")], true),
            (&[("spoof_guard", "off")], &[("spoof_guard", "on")], false),
            (&[("learning", "on")], &[], true),
            (&[("learning", "off")], &[("spoof_guard", "off")], false),
            (&[("learning", "off")], &[("learning", "on")], true),
            (&[("learning", "on")], &[("learning", "auto")], false),
        ] {
            assert_eq!(of(network, PortKind::Container, endpoint).learning, learns, "{network:?} {endpoint:?}");
        }
        for (learning, learns) in [("auto", true), ("on", true), ("off", false)] {
            let network = [("learning", learning)];
            assert_eq!(of(&network, PortKind::Uplink, &[]).learning, learns);
            assert!(!of(&network, PortKind::Host, &[]).learning);
        }
    }

    #[test]
    fn host_ports_and_uplinks_have_no_guards() {
        let expected = PortRules { learning: false, arp_suppress: true, snooping: true, ..PortRules::default() };
        assert_eq!(of(&[], PortKind::Host, &[]), expected);
        let uplink = of(&[("mcast_snooping", "off")], PortKind::Uplink, &[]);
        let limits = PortRules { storm_pps: 10_000, fdb_limit: 16_384, ..PortRules::default() };
        assert_eq!(uplink, PortRules { trunk: Trunk::All, arp_suppress: true, ..limits });
        assert_eq!(of(&[], PortKind::Tunnel, &[]).fdb_limit, 16_384);
        let limited = of(&[("fdb_limit", "9"), ("storm_pps", "0"), ("icc", "false")], PortKind::Uplink, &[]);
        assert_eq!((limited.fdb_limit, limited.storm_pps, limited.isolated), (9, 0, false));
    }

    #[test]
    fn a_network_that_forwards_bpdus_has_no_bpdu_guard() {
        let guarded =
            |network: &[(&str, &str)], endpoint: &[(&str, &str)]| of(network, PortKind::Container, endpoint).bpdu_guard;
        assert!(guarded(&[("group_fwd_mask", "0x4000")], &[]));
        assert!(!guarded(&[("group_fwd_mask", "0x4001")], &[]));
        assert!(guarded(&[("group_fwd_mask", "1"), ("bpdu_guard", "on")], &[]));
        assert!(guarded(&[("group_fwd_mask", "1")], &[("bpdu_guard", "on")]));
        assert_eq!(of(&[("group_fwd_mask", "16")], PortKind::Uplink, &[]).group_fwd_mask, 16);
    }

    #[test]
    fn vlan_and_trunk_come_from_the_endpoint() {
        let mut options = EndpointOptions { vlan: Some("30".parse().expect("a VLAN")), ..EndpointOptions::default() };
        let access = rules(&SwitchOptions::default(), PortKind::Container, &options);
        assert_eq!((access.vlan, access.trunk), (30, Trunk::None));
        options.trunk = "5-6".parse().expect("a trunk");
        let trunk = rules(&SwitchOptions::default(), PortKind::Container, &options);
        assert_eq!((trunk.vlan, trunk.trunk), (30, Trunk::Vlans(BTreeSet::from([5, 6]))));
        options.trunk = TrunkVlans::All;
        assert_eq!(rules(&SwitchOptions::default(), PortKind::Container, &options).trunk, Trunk::All);
    }
}
