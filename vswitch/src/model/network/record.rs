//! The stored form of a network: one object for all kinds, with the keys `driver`, `bridge`, `wire`
//! and `overlay`.
//!
//! Instances are upgraded and downgraded in place, so this form does not change with [`Network`]. A
//! network has the same bytes in every version that has all of these keys; earlier versions lack
//! some of them, and later ones read their records with the defaults.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use vswitch_common::tables::NetworkNumber;

use super::{Driver, Network, NetworkKind, UplinkBefore};
use crate::model::{
    BridgeOptions, EngineNetwork, GatewayMode, InterfaceName, InvalidVni, Layer, NetworkId, NetworkName,
    OverlayOptions, ParentOptions, Passage, PortOptions, SubnetConfig, SwitchOptions, UplinkOptions, VlanId, Vni,
    XdpChoice,
};

/// A record that describes no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRecord {
    /// The options of the network's driver are missing.
    #[error("the record of network {network} has no `{key}`, which a network with driver {driver} needs")]
    Missing {
        /// Name of the network.
        network: NetworkName,
        /// Key of the options.
        key: &'static str,
        /// Driver of the network.
        driver: Driver,
    },
    /// The VNI is out of range.
    #[error("the record of network {network} has an {source}")]
    Vni {
        /// Name of the network.
        network: NetworkName,
        /// The error of the VNI.
        source: InvalidVni,
    },
}

/// A network as it is stored.
#[derive(Serialize, Deserialize)]
pub(super) struct NetworkRecord {
    id: NetworkId,
    name: NetworkName,
    #[serde(with = "number")]
    number: NetworkNumber,
    driver: Driver,
    subnets: Vec<SubnetConfig>,
    #[serde(default)]
    internal: bool,
    options: BTreeMap<String, String>,
    bridge: BridgeRecord,
    #[serde(default)]
    wire: Option<ParentRecord>,
    #[serde(default)]
    overlay: Option<OverlayRecord>,
    labels: BTreeMap<String, String>,
    #[serde(with = "time::serde::rfc3339")]
    created: OffsetDateTime,
    uplink_before: Option<UplinkBefore>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    engine: Option<EngineNetwork>,
}

/// Options of a bridge network, and those of the other kinds' switches, ports and interfaces.
#[derive(Serialize, Deserialize)]
#[serde(default)]
struct BridgeRecord {
    mtu: Option<u32>,
    uplink: Option<InterfaceName>,
    xdp: XdpChoice,
    ageing: u32,
    icc: bool,
    masquerade: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway_mode_ipv4: Option<GatewayMode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway_mode_ipv6: Option<GatewayMode>,
    host_binding: Option<IpAddr>,
    group_fwd_mask: u16,
    mcast_snooping: bool,
    mcast_querier: bool,
    ports: PortOptions,
}

/// Options of a macvlan or ipvlan network; its MTU, XDP and port options are in [`BridgeRecord`].
#[derive(Serialize, Deserialize)]
struct ParentRecord {
    parent: InterfaceName,
    vlan: Option<VlanId>,
    passage: Passage,
    layer: Layer,
    host_access: bool,
}

/// Options of an overlay network; those of its switch are in [`BridgeRecord`].
#[derive(Serialize, Deserialize)]
struct OverlayRecord {
    /// The VNI, 1 to 16777215; 0 until one is chosen.
    vni: u32,
    encrypted: bool,
    #[serde(default)]
    shared: bool,
}

impl Default for BridgeRecord {
    fn default() -> Self {
        SwitchOptions::default().into()
    }
}

impl From<SwitchOptions> for BridgeRecord {
    fn from(options: SwitchOptions) -> Self {
        let SwitchOptions {
            mtu,
            ageing,
            icc,
            masquerade,
            gateway_mode_ipv4,
            gateway_mode_ipv6,
            host_binding,
            group_fwd_mask,
            mcast_snooping,
            mcast_querier,
            ports,
        } = options;
        Self {
            mtu,
            uplink: None,
            xdp: XdpChoice::default(),
            ageing,
            icc,
            masquerade,
            gateway_mode_ipv4,
            gateway_mode_ipv6,
            host_binding,
            group_fwd_mask,
            mcast_snooping,
            mcast_querier,
            ports,
        }
    }
}

impl BridgeRecord {
    fn switch(self) -> SwitchOptions {
        let Self { mtu, ageing, icc, masquerade, host_binding, group_fwd_mask, mcast_snooping, .. } = self;
        let Self { mcast_querier, ports, gateway_mode_ipv4, gateway_mode_ipv6, .. } = self;
        SwitchOptions {
            mtu,
            ageing,
            icc,
            masquerade,
            gateway_mode_ipv4,
            gateway_mode_ipv6,
            host_binding,
            group_fwd_mask,
            mcast_snooping,
            mcast_querier,
            ports,
        }
    }
}

impl From<Network> for NetworkRecord {
    fn from(network: Network) -> Self {
        let driver = network.driver();
        let Network { id, name, number, kind, subnets, internal, .. } = network;
        let Network { options, labels, created, uplink_before, engine, .. } = network;
        let mut wire = None;
        let mut overlay = None;
        let bridge = match kind {
            NetworkKind::Bridge(BridgeOptions { switch, uplink }) => {
                let xdp = uplink.as_ref().map_or_else(XdpChoice::default, |uplink| uplink.xdp);
                BridgeRecord { uplink: uplink.map(|uplink| uplink.interface), xdp, ..switch.into() }
            }
            NetworkKind::Macvlan(options) | NetworkKind::Ipvlan(options) => {
                let ParentOptions { parent, vlan, passage, layer, host_access, mtu, xdp, ports } = options;
                wire = Some(ParentRecord { parent, vlan, passage, layer, host_access });
                BridgeRecord { mtu, xdp, ports, ..BridgeRecord::default() }
            }
            NetworkKind::Overlay(options) => {
                let vni = options.vni_number();
                overlay = Some(OverlayRecord { vni, encrypted: options.encrypted, shared: options.shared });
                options.switch.into()
            }
            NetworkKind::Host | NetworkKind::None => BridgeRecord::default(),
        };
        Self {
            id,
            name,
            number,
            driver,
            subnets,
            internal,
            options,
            bridge,
            wire,
            overlay,
            labels,
            created,
            uplink_before,
            engine,
        }
    }
}

impl TryFrom<NetworkRecord> for Network {
    type Error = InvalidRecord;

    fn try_from(record: NetworkRecord) -> Result<Self, InvalidRecord> {
        let NetworkRecord { id, name, number, driver, subnets, internal, options, .. } = record;
        let NetworkRecord { bridge, wire, overlay, labels, created, uplink_before, engine, .. } = record;
        let missing = |key| InvalidRecord::Missing { network: name.clone(), key, driver };
        let parent = |bridge: BridgeRecord| {
            let ParentRecord { parent, vlan, passage, layer, host_access } = wire.ok_or_else(|| missing("wire"))?;
            let BridgeRecord { mtu, xdp, ports, .. } = bridge;
            Ok(ParentOptions { parent, vlan, passage, layer, host_access, mtu, xdp, ports })
        };
        let kind = match driver {
            Driver::Bridge => {
                let uplink = bridge.uplink.clone().map(|interface| UplinkOptions { interface, xdp: bridge.xdp });
                NetworkKind::Bridge(BridgeOptions { switch: bridge.switch(), uplink })
            }
            Driver::Macvlan => NetworkKind::Macvlan(parent(bridge)?),
            Driver::Ipvlan => NetworkKind::Ipvlan(parent(bridge)?),
            Driver::Overlay => {
                let OverlayRecord { vni, encrypted, shared } = overlay.ok_or_else(|| missing("overlay"))?;
                let invalid = |source| InvalidRecord::Vni { network: name.clone(), source };
                let vni = Some(vni).filter(|vni| *vni != 0).map(Vni::try_from).transpose().map_err(invalid)?;
                NetworkKind::Overlay(OverlayOptions { switch: bridge.switch(), vni, encrypted, shared })
            }
            Driver::Host => NetworkKind::Host,
            Driver::None => NetworkKind::None,
        };
        Ok(Self { id, name, number, kind, subnets, internal, options, labels, created, uplink_before, engine })
    }
}

mod number {
    use serde::{Deserialize as _, Deserializer, Serializer};
    use vswitch_common::tables::NetworkNumber;

    pub fn serialize<S: Serializer>(number: &NetworkNumber, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(number.0)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<NetworkNumber, D::Error> {
        u32::deserialize(deserializer).map(NetworkNumber)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::DEFAULT_AGEING;

    /// Options of `bridge` at their defaults, up to `ports`.
    const PORTS: &str = r#""ports":{"learning":null,"spoof_guard":null,"arp_suppress":null,"ra_guard":null,"dhcp_guard":null,"bpdu_guard":null,"storm_pps":null,"fdb_limit":null}}"#;

    /// Returns a record in the stored form. `rest` holds the keys `wire` and `overlay`.
    fn record(driver: &str, options: &str, bridge: &str, rest: &str) -> String {
        let id = "01".repeat(32);
        let subnet = r#"{"subnet":"10.9.8.0/24","gateway":"10.9.8.1","ip_range":null,"auxiliary":{}}"#;
        format!(
            r#"{{"id":"{id}","name":"front","number":3,"driver":"{driver}","subnets":[{subnet}],"internal":false,"options":{{{options}}},"bridge":{{{bridge},{PORTS},{rest},"labels":{{"tier":"front"}},"created":"2026-01-02T03:04:05Z","uplink_before":null}}"#
        )
    }

    const SWITCH: &str = r#""ageing":300,"icc":true,"masquerade":true,"host_binding":null,"group_fwd_mask":0,"mcast_snooping":true,"mcast_querier":true"#;

    /// Reads a record and asserts that it is written as the same text.
    fn read(text: &str) -> Network {
        let network: Network = serde_json::from_str(text).expect("a record");
        assert_eq!(serde_json::to_string(&network).expect("JSON"), text);
        network
    }

    #[test]
    fn a_stored_bridge_network_is_read_and_written_as_the_same_text() {
        let bridge = r#""mtu":9000,"uplink":"eth1","xdp":"native","ageing":30,"icc":false,"masquerade":true,"host_binding":"127.0.0.1","group_fwd_mask":16384,"mcast_snooping":true,"mcast_querier":false"#;
        let before = r#"{"interface":"eth1","index":7,"promiscuous":false,"rx_vlan_offload":true}"#;
        let text = record("bridge", r#""mtu":"9000""#, bridge, r#""wire":null,"overlay":null"#)
            .replace(r#""uplink_before":null"#, &format!(r#""uplink_before":{before}"#));
        let network = read(&text);
        let switch = SwitchOptions {
            mtu: Some(9000),
            ageing: 30,
            icc: false,
            host_binding: Some([127, 0, 0, 1].into()),
            group_fwd_mask: 0x4000,
            mcast_querier: false,
            ..SwitchOptions::default()
        };
        let uplink = UplinkOptions { interface: "eth1".parse().expect("a name"), xdp: XdpChoice::Native };
        assert_eq!(network.kind, NetworkKind::Bridge(BridgeOptions { switch, uplink: Some(uplink) }));
        assert_eq!((network.number, network.uplink_before.map(|before| before.index)), (NetworkNumber(3), Some(7)));
    }

    #[test]
    fn stored_macvlan_and_ipvlan_networks_are_read_and_written_as_the_same_text() {
        let bridge = format!(r#""mtu":1400,"uplink":null,"xdp":"off",{SWITCH}"#);
        let wire = |passage, layer| {
            format!(
                r#""wire":{{"parent":"eth1","vlan":30,"passage":"{passage}","layer":"{layer}","host_access":true}},"overlay":null"#
            )
        };
        let expected = |passage, layer| ParentOptions {
            parent: "eth1".parse().expect("a name"),
            vlan: Some("30".parse().expect("a VLAN")),
            passage,
            layer,
            host_access: true,
            mtu: Some(1400),
            xdp: XdpChoice::Off,
            ports: PortOptions::default(),
        };
        let macvlan = read(&record("macvlan", r#""parent":"eth1.30""#, &bridge, &wire("vepa", "mac")));
        assert_eq!(macvlan.kind, NetworkKind::Macvlan(expected(Passage::Vepa, Layer::Mac)));
        let ipvlan = read(&record("ipvlan", r#""parent":"eth1.30""#, &bridge, &wire("bridge", "l3s")));
        assert_eq!(ipvlan.kind, NetworkKind::Ipvlan(expected(Passage::Bridge, Layer::L3s)));
    }

    #[test]
    fn stored_overlay_networks_are_read_and_written_as_the_same_text() {
        let bridge = format!(r#""mtu":null,"uplink":null,"xdp":"auto",{SWITCH}"#);
        let rest = r#""wire":null,"overlay":{"vni":4096,"encrypted":true,"shared":true}"#;
        let text = record("overlay", "", &bridge, rest);
        let vni = Some(Vni::FIRST_AUTOMATIC);
        let options = OverlayOptions { switch: SwitchOptions::default(), vni, encrypted: true, shared: true };
        assert_eq!(read(&text).kind, NetworkKind::Overlay(options));
        assert_eq!(read(&text.replace("4096", "0")).overlay().map(|overlay| overlay.vni), Some(None));
        let wrong = serde_json::from_str::<Network>(&text.replace("4096", "16777216"));
        assert!(wrong.expect_err("24 bits").to_string().contains("invalid VNI 16777216"));
    }

    #[test]
    fn stored_networks_host_and_none_are_read_and_written_as_the_same_text() {
        let bridge = format!(r#""mtu":null,"uplink":null,"xdp":"auto",{SWITCH}"#);
        for (driver, kind) in [("host", NetworkKind::Host), ("none", NetworkKind::None)] {
            assert_eq!(read(&record(driver, "", &bridge, r#""wire":null,"overlay":null"#)).kind, kind);
        }
    }

    #[test]
    fn a_record_without_the_keys_of_later_versions_is_read() {
        let id = "01".repeat(32);
        let bridge = r#"{"mtu":1400,"uplink":null,"xdp":"auto","ageing":30,"icc":false,"masquerade":true}"#;
        let old = format!(
            r#"{{"id":"{id}","name":"front","number":3,"driver":"bridge","subnets":[{{"subnet":"10.9.8.0/24","gateway":"10.9.8.1","ip_range":null}}],"options":{{}},"bridge":{bridge},"labels":{{}},"created":"2026-01-02T03:04:05Z","uplink_before":null}}"#
        );
        let network: Network = serde_json::from_str(&old).expect("a record");
        let switch = network.switch().expect("a switch");
        assert_eq!((switch.mtu, switch.ports, switch.mcast_snooping), (Some(1400), PortOptions::default(), true));
        assert_eq!((network.internal, network.uplink()), (false, None));
        assert_eq!(BridgeRecord::default().ageing, DEFAULT_AGEING);
    }

    #[test]
    fn a_record_without_the_options_of_its_driver_is_refused() {
        let bridge = format!(r#""mtu":null,"uplink":null,"xdp":"auto",{SWITCH}"#);
        for (driver, key) in [("macvlan", "wire"), ("ipvlan", "wire"), ("overlay", "overlay")] {
            let text = record(driver, "", &bridge, r#""wire":null,"overlay":null"#);
            let error = serde_json::from_str::<Network>(&text).expect_err("no options").to_string();
            assert!(error.contains(&format!("the record of network front has no `{key}`")), "{error}");
        }
    }
}
