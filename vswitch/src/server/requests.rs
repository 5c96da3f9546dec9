//! Requests: the text of the API's messages parsed into the types of the switch.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use vswitch_common::tables::{NetworkNumber, VlanKey};

use crate::api::{
    AttachRequest, ConnectRequest, DetachRequest, FdbFilter, FdbFlush, FdbKeyRequest, FramesFilter, NamesRequest,
    NetworkRequest, PeerRequest, TraceRequest,
};
use crate::model::{
    Driver, EndpointName, EndpointOptions, EngineEndpoint, EngineKey, EngineNetwork, GatewayMode, InvalidOption,
    LeftInterface, Network, NetworkId, Peer, PublishSpec, Subnet, SubnetConfig,
};
use crate::plan;
use crate::switch::{
    FrameFilter, NewConnection, NewEndpoint, NewNames, NewNetwork, OverlayError, Selection, StationFilter, StationKey,
    SwitchError, TraceContent, TraceError, TraceFrame, TraceQuery, now,
};
use crate::wireguard::PublicKey;

/// The network of an endpoint if the request names none.
const DEFAULT_NETWORK: &str = "bridge";
/// The driver of a network if the request names none.
const DEFAULT_DRIVER: &str = "bridge";

impl TryFrom<AttachRequest> for NewEndpoint {
    type Error = SwitchError;

    fn try_from(request: AttachRequest) -> Result<Self, SwitchError> {
        let engine = engine(&request)?;
        Ok(Self {
            name: match (&request.name, &engine) {
                (Some(name), _) => name.parse()?,
                (None, Some(engine)) => short_name(engine)?,
                (None, None) => default_name(&request.netns)?,
            },
            netns: request.netns,
            network: request.network.unwrap_or_else(|| DEFAULT_NETWORK.to_owned()),
            ifname: request.ifname.as_deref().map(str::parse).transpose()?,
            ip: address(request.ip.as_ref())?,
            ip6: address(request.ip6.as_ref())?,
            mac: request.mac.as_deref().map(str::parse).transpose()?,
            hostname: request.hostname,
            aliases: request.aliases,
            publish: request.publish.iter().map(|text| text.parse()).collect::<Result<_, _>>()?,
            waiting: Vec::new(),
            gw_priority: request.gw_priority,
            port: port(&request.options, request.vlan.as_deref(), request.trunk.as_deref())?,
            options: request.options,
            labels: request.labels,
            engine,
            bare: request.configure == Some(false),
            unheld: request.hold == Some(false),
        })
    }
}

/// Parses the identity that an engine gives an endpoint.
fn engine(request: &AttachRequest) -> Result<Option<EngineEndpoint>, SwitchError> {
    let AttachRequest { owner, key, container, leave_here, .. } = request;
    let Some(key) = key.as_ref().filter(|_| !owner.is_empty()) else {
        let without = [
            ("owner", !owner.is_empty()),
            ("key", key.is_some()),
            ("container", container.is_some()),
            ("leave_here", leave_here.is_some()),
        ];
        return match without.into_iter().find(|(_, given)| *given) {
            Some((what, _)) => Err(SwitchError::NoOwner(what)),
            None => Ok(None),
        };
    };
    let left = leave_here.as_ref().map(|name| -> Result<_, SwitchError> {
        Ok(LeftInterface { name: name.parse()?, sandbox: None, since: now() })
    });
    Ok(Some(EngineEndpoint {
        id: EngineKey::new(owner, key)?,
        container: container.clone().unwrap_or_else(|| key.clone()),
        left: left.transpose()?,
        asked: request.publish.iter().map(|text| text.parse()).collect::<Result<_, _>>()?,
    }))
}

/// Returns the name of an engine's endpoint if the engine gives none: the start of the container's.
fn short_name(engine: &EngineEndpoint) -> Result<EndpointName, SwitchError> {
    let short: String = engine.container.chars().filter(char::is_ascii_alphanumeric).take(12).collect();
    Ok(format!("{}-{short}", engine.id.owner()).parse()?)
}

/// Parses the names of an endpoint.
pub(super) fn names(request: NamesRequest) -> Result<NewNames, SwitchError> {
    let name = request.name.as_deref().map(str::parse).transpose()?;
    Ok(NewNames { name, aliases: request.aliases, hostname: request.hostname })
}

/// Parses published ports.
pub(super) fn ports(texts: &[String]) -> Result<Vec<PublishSpec>, SwitchError> {
    Ok(texts.iter().map(|text| text.parse()).collect::<Result<_, _>>()?)
}

impl TryFrom<ConnectRequest> for NewConnection {
    type Error = SwitchError;

    fn try_from(request: ConnectRequest) -> Result<Self, SwitchError> {
        Ok(Self {
            endpoint: request.endpoint,
            ifname: request.ifname.as_deref().map(str::parse).transpose()?,
            ip: address(request.ip.as_ref())?,
            ip6: address(request.ip6.as_ref())?,
            mac: request.mac.as_deref().map(str::parse).transpose()?,
            aliases: request.aliases,
            gw_priority: request.gw_priority,
            port: port(&request.options, request.vlan.as_deref(), request.trunk.as_deref())?,
            options: request.options,
        })
    }
}

impl From<DetachRequest> for Selection {
    fn from(DetachRequest { endpoint, netns, network }: DetachRequest) -> Self {
        Self { endpoint, netns, network }
    }
}

impl TryFrom<NetworkRequest> for NewNetwork {
    type Error = SwitchError;

    fn try_from(request: NetworkRequest) -> Result<Self, SwitchError> {
        let driver: Driver = request.driver.as_deref().unwrap_or(DEFAULT_DRIVER).parse()?;
        if !driver.is_creatable() {
            return Err(SwitchError::PredefinedDriver(driver.name()));
        }
        let (ipv4, ipv6, gateways) = (request.ipv4.unwrap_or(true), request.ipv6, !request.gateways.is_empty());
        let network = draft(request, driver)?;
        if !ipv4 {
            if let Some(config) = network.of_family(false).first() {
                return Err(SwitchError::Ipv4Subnet(config.subnet));
            }
            if !ipv6 && !network.has_family(true) {
                return Err(SwitchError::NoFamily);
            }
        }
        Ok(Self { network, ipv4, ipv6, gateways })
    }
}

/// Parses the address of a peer.
pub(super) fn peer_address(text: &str) -> Result<IpAddr, SwitchError> {
    Ok(Peer::parse_address(text).map_err(OverlayError::from)?)
}

/// Parses the address and the public key of a peer.
pub(super) fn peer(request: &PeerRequest) -> Result<(IpAddr, Option<PublicKey>), SwitchError> {
    let address = peer_address(&request.address)?;
    let key = request.public_key.as_deref().map(str::parse).transpose().map_err(OverlayError::from)?;
    Ok((address, key))
}

impl TryFrom<FdbFilter> for StationFilter {
    type Error = SwitchError;

    fn try_from(FdbFilter { network, port, kind, vlan: text }: FdbFilter) -> Result<Self, SwitchError> {
        Ok(Self { network, port, kind, vlan: text.as_deref().map(vlan).transpose()? })
    }
}

impl TryFrom<FdbFlush> for StationFilter {
    type Error = SwitchError;

    fn try_from(FdbFlush { network, port, vlan: text }: FdbFlush) -> Result<Self, SwitchError> {
        Ok(Self { network, port, kind: None, vlan: text.as_deref().map(vlan).transpose()? })
    }
}

impl TryFrom<FdbKeyRequest> for StationKey {
    type Error = SwitchError;

    fn try_from(request: FdbKeyRequest) -> Result<Self, SwitchError> {
        let vlan = request.vlan.as_deref().map_or(Ok(VlanKey::NONE), vlan)?;
        Ok(Self { network: request.network, vlan, mac: request.mac.parse()? })
    }
}

impl From<FramesFilter> for FrameFilter {
    fn from(FramesFilter { of, network, port, drops, leaving, whole, rate }: FramesFilter) -> Self {
        Self { of, network, port, drops, leaving, whole, rate }
    }
}

impl TryFrom<TraceRequest> for TraceQuery {
    type Error = SwitchError;

    fn try_from(request: TraceRequest) -> Result<Self, SwitchError> {
        let frame = match (&request.frame, &request.to) {
            (Some(hex), _) => TraceFrame::from_hex(hex)?,
            (None, Some(to)) => TraceFrame::Built(TraceContent {
                to: to.parse()?,
                protocol: request.proto,
                source_port: request.sport,
                destination_port: request.dport,
                vlan: request.vlan.as_deref().map(vlan).transpose()?,
            }),
            (None, None) => return Err(TraceError::Nothing.into()),
        };
        Ok(Self { from: request.from, network: request.network, frame })
    }
}

pub(super) fn address<T: std::str::FromStr>(text: Option<&String>) -> Result<Option<T>, SwitchError> {
    text.map(|text| text.parse().map_err(|_| SwitchError::Address(text.clone()))).transpose()
}

/// Parses the options of an endpoint's port.
fn port(
    options: &BTreeMap<String, String>,
    vlan: Option<&str>,
    trunk: Option<&str>,
) -> Result<EndpointOptions, SwitchError> {
    Ok(EndpointOptions {
        vlan: vlan.map(str::parse).transpose()?,
        trunk: trunk.map(str::parse).transpose()?.unwrap_or_default(),
        ..EndpointOptions::parse(options)?
    })
}

/// Derives the name of an endpoint from the path of its namespace: the last part, or `pid-PID` for
/// a process, whose path ends in `net`.
fn default_name(path: &Path) -> Result<EndpointName, SwitchError> {
    let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
    let name = match &parts[..] {
        [root, proc, pid, .., ns, net] if root == "/" && proc == "proc" && ns == "ns" && net == "net" => {
            format!("pid-{pid}")
        }
        [.., last] => last.to_string(),
        [] => String::new(),
    };
    name.parse().map_err(|_| SwitchError::NoDefaultName { path: path.to_owned() })
}

/// Parses a VLAN: `30` for an 802.1Q tag, `s30` for a service tag, 0 for untagged.
fn vlan(text: &str) -> Result<VlanKey, SwitchError> {
    let invalid = || SwitchError::Vlan(text.to_owned());
    let (digits, service) = match text.strip_prefix('s') {
        Some(digits) => (digits, VlanKey::SERVICE),
        None => (text, 0),
    };
    let id: u16 = digits.parse().map_err(|_| invalid())?;
    match id {
        0 if service == 0 => Ok(VlanKey::NONE),
        1..=4094 => Ok(VlanKey(id | service)),
        _ => Err(invalid()),
    }
}

/// Parses the record of a network. The switch gives it a number and the missing subnets.
fn draft(request: NetworkRequest, driver: Driver) -> Result<Network, SwitchError> {
    let name = request.name.parse()?;
    let subnets = subnets(&request)?;
    let engine = match (&request.external_id, request.owner.as_str()) {
        (None, "") => None,
        (Some(external_id), owner) if !owner.is_empty() => {
            // Both are names as those of endpoints are.
            let key = EngineKey::new(owner, external_id)?;
            Some(EngineNetwork {
                owner: key.owner().to_owned(),
                external_id: key.key().to_owned(),
                remove_when_empty: request.remove_when_empty,
                first_name: None,
            })
        }
        _ => return Err(SwitchError::NoOwner("a network of an engine")),
    };
    let NetworkRequest { options, labels, internal, .. } = request;
    let kind = plan::parse(driver, &options)?;
    let network = Network {
        id: NetworkId::random()?,
        name,
        number: NetworkNumber::default(),
        kind,
        subnets,
        internal,
        options,
        labels,
        created: now(),
        uplink_before: None,
        engine,
    };
    if !internal && [false, true].into_iter().any(|ipv6| network.gateway_mode(ipv6) == GatewayMode::Isolated) {
        return Err(InvalidOption::IsolatedNotInternal.into());
    }
    Ok(network)
}

/// Pairs each subnet with the gateway, the range and the auxiliary addresses that lie in it, as
/// Docker does.
fn subnets(request: &NetworkRequest) -> Result<Vec<SubnetConfig>, SwitchError> {
    let address = |text: &String| text.parse::<IpAddr>().map_err(|_| SwitchError::Address(text.clone()));
    let range = |text: &String| text.parse::<IpNet>().map_err(|_| SwitchError::Range(text.clone()));
    let subnets = request.subnets.iter().map(|text| text.parse()).collect::<Result<Vec<Subnet>, _>>()?;
    let nowhere = |what, of: &String| SwitchError::NoMatchingSubnet { what, of: of.clone(), subnets: subnets.clone() };
    let mut gateways = BTreeMap::new();
    for text in &request.gateways {
        let gateway = address(text)?;
        let subnet = matching(&subnets, gateway).ok_or_else(|| nowhere("gateway", text))?;
        if gateways.insert(subnet, gateway).is_some() {
            return Err(SwitchError::SeveralInSubnet { what: "gateways", subnet });
        }
    }
    let mut ranges = BTreeMap::new();
    for text in &request.ip_ranges {
        let range = range(text)?;
        let subnet = matching(&subnets, range.addr())
            .filter(|subnet| subnet.net().contains(&range))
            .ok_or_else(|| nowhere("range", text))?;
        if ranges.insert(subnet, range).is_some() {
            return Err(SwitchError::SeveralInSubnet { what: "ranges", subnet });
        }
    }
    let configs = subnets
        .iter()
        .map(|subnet| Ok(SubnetConfig::new(*subnet, gateways.get(subnet).copied(), ranges.get(subnet).copied())?));
    let mut configs = configs.collect::<Result<Vec<_>, SwitchError>>()?;
    for (name, text) in &request.aux_addresses {
        let auxiliary = address(text)?;
        let config = configs.iter_mut().find(|config| config.subnet.net().contains(&auxiliary));
        config.ok_or_else(|| nowhere("aux-address", text))?.reserve(name.clone(), auxiliary)?;
    }
    Ok(configs)
}

fn matching(subnets: &[Subnet], address: IpAddr) -> Option<Subnet> {
    subnets.iter().copied().find(|subnet| subnet.net().contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_name_is_the_last_part_of_the_path() {
        for (path, name) in [
            ("/run/netns/web", "web"),
            ("/run/docker/netns/3f2a", "3f2a"),
            ("/proc/4711/ns/net", "pid-4711"),
            ("/proc/4711/task/4712/ns/net", "pid-4711"),
            ("/srv/proc/1/ns/net", "net"),
        ] {
            assert_eq!(default_name(Path::new(path)).expect("a name").as_str(), name);
        }
        for path in ["/", "/run/netns/my container", "/run/netns/-x"] {
            assert!(matches!(default_name(Path::new(path)), Err(SwitchError::NoDefaultName { .. })), "{path}");
        }
    }

    fn request() -> NetworkRequest {
        NetworkRequest { name: "front".to_owned(), ..NetworkRequest::default() }
    }

    #[test]
    fn an_invalid_network_request_is_refused() {
        let bridge = |request| draft(request, Driver::Bridge);
        assert!(bridge(request()).is_ok());
        let error = bridge(NetworkRequest { gateways: vec!["10.1.0.1".to_owned()], ..request() });
        assert!(matches!(error, Err(SwitchError::NoMatchingSubnet { what: "gateway", .. })));
        let options = BTreeMap::from([("speed".to_owned(), "high".to_owned())]);
        let error = bridge(NetworkRequest { options: options.clone(), ..request() });
        assert!(matches!(error, Err(SwitchError::Option(InvalidOption::Unknown { .. }))));
        let error = draft(NetworkRequest { options, ..request() }, Driver::None);
        assert!(matches!(error, Err(SwitchError::Option(InvalidOption::Unknown { driver: "none", .. }))));
    }
    #[test]
    fn gateways_ranges_and_auxiliary_addresses_go_to_the_subnets_that_they_lie_in() {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let asked = NetworkRequest {
            subnets: texts(&["10.1.0.0/24", "10.2.0.0/24", "fd00:7::/64"]),
            gateways: texts(&["fd00:7::99", "10.2.0.254"]),
            ip_ranges: texts(&["10.1.0.128/25"]),
            aux_addresses: BTreeMap::from([("printer".to_owned(), "10.1.0.200".to_owned())]),
            ..request()
        };
        let network = draft(asked.clone(), Driver::Bridge).expect("valid");
        let gateways: Vec<_> = network.gateways().map(|gateway| gateway.to_string()).collect();
        assert_eq!(gateways, ["10.1.0.1", "10.2.0.254", "fd00:7::99"]);
        assert_eq!(network.subnets[0].ip_range.map(|range| range.to_string()).as_deref(), Some("10.1.0.128/25"));
        assert_eq!(network.subnets[0].auxiliary.len(), 1);
        let two = NetworkRequest { gateways: texts(&["10.2.0.1", "10.2.0.2"]), ..asked.clone() };
        let error = draft(two, Driver::Bridge);
        assert!(matches!(error, Err(SwitchError::SeveralInSubnet { what: "gateways", .. })));
        let outside = NetworkRequest { ip_ranges: texts(&["10.3.0.0/25"]), ..asked.clone() };
        let error = draft(outside, Driver::Bridge).expect_err("in none of the subnets");
        assert!(
            error.to_string().starts_with("no matching subnet for range 10.3.0.0/25: it lies outside of 10.1.0.0/24,"),
            "{error}"
        );
        let wide = NetworkRequest { ip_ranges: texts(&["10.1.0.0/16"]), ..asked };
        assert!(draft(wide, Driver::Bridge).is_err());
    }

    #[test]
    fn a_network_has_ipv4_unless_it_is_switched_off_and_then_ipv6() {
        let families = |ipv4, ipv6, subnet: Option<&str>| {
            let subnets = subnet.map(str::to_owned).into_iter().collect();
            NewNetwork::try_from(NetworkRequest { ipv4, ipv6, subnets, ..request() }).map(|new| (new.ipv4, new.ipv6))
        };
        assert_eq!(families(None, false, None).ok(), Some((true, false)));
        assert_eq!(families(Some(false), true, None).ok(), Some((false, true)));
        assert_eq!(families(Some(false), false, Some("fd00::/64")).ok(), Some((false, false)));
        assert!(matches!(families(Some(false), false, None), Err(SwitchError::NoFamily)));
        assert!(matches!(families(Some(false), true, Some("10.1.0.0/24")), Err(SwitchError::Ipv4Subnet(_))));
    }

    #[test]
    fn vlans_are_numbers_and_service_tags_start_with_s() {
        assert_eq!(vlan("0").ok(), Some(VlanKey::NONE));
        assert_eq!(vlan("30").ok(), Some(VlanKey(30)));
        assert_eq!(vlan("s30").ok(), Some(VlanKey(VlanKey::SERVICE | 30)));
        for bad in ["", "s", "s0", "4095", "-1", "x"] {
            assert!(matches!(vlan(bad), Err(SwitchError::Vlan(_))), "{bad}");
        }
    }
}
