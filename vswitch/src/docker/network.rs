//! Docker's network driver: networks, endpoints, and their published ports.

use serde_json::{Map, Value, json};

use super::OWNER;
use super::messages::{Request, without_prefix};
use crate::api::{AttachRequest, NetworkRequest};
use crate::model::{EngineKey, NetworkKind};
use crate::switch::{EndpointInfo, Switch, SwitchError, gateway};

/// The number of digits of Docker's ids in our names.
const DIGITS: usize = 12;
/// The number of digits of an endpoint's id in the name of its interface, which has at most 15
/// characters.
const DEVICE_DIGITS: usize = 10;

/// Docker's subnet for a network without addresses (`--ipam-driver null`).
const NO_SUBNET: &str = "0.0.0.0/0";

fn digits(id: &str, count: usize) -> String {
    id.chars().filter(char::is_ascii_alphanumeric).take(count).collect()
}

pub async fn create(switch: &Switch, request: &Request) -> Result<Value, SwitchError> {
    let id = request.text("NetworkID");
    let mut options = request.user_options();
    let docker = request.object("Options");
    let mut wanted = NetworkRequest {
        // Docker does not say the name: `names` learns it.
        name: format!("{OWNER}-{}", digits(id, DIGITS)),
        driver: options.remove("driver"),
        internal: docker.is("com.docker.network.internal"),
        ipv6: docker.is("com.docker.network.enable_ipv6"),
        owner: OWNER.to_owned(),
        external_id: Some(id.to_owned()),
        options,
        ..NetworkRequest::default()
    };
    let given = [request.list("IPv4Data"), request.list("IPv6Data")].concat();
    let given: Vec<&Request> = given.iter().filter(|data| !["", NO_SUBNET].contains(&data.text("Pool"))).collect();
    let pools = switch.pools();
    for data in &given {
        wanted.subnets.push(data.text("Pool").to_owned());
        wanted.gateways.extend(data.given("Gateway").map(without_prefix));
        let auxiliary = data.object("AuxAddresses").texts().into_iter();
        wanted.aux_addresses.extend(auxiliary.map(|(name, address)| (name, without_prefix(&address))));
        // The range is known to the pool alone.
        let pool = pools.iter().find(|pool| pool.owner == OWNER && pool.subnet.to_string() == data.text("Pool"));
        wanted.ip_ranges.extend(pool.and_then(|pool| pool.ip_range).map(|range| range.to_string()));
    }
    let has_ipv4 = given.iter().any(|data| !data.text("Pool").contains(':'));
    wanted.ipv4 = Some(has_ipv4 || given.is_empty());
    switch.create_network(wanted.try_into()?).await?;
    Ok(json!({}))
}

pub async fn delete(switch: &Switch, request: &Request) -> Result<Value, SwitchError> {
    let Some(network) = switch.network_of(OWNER, request.text("NetworkID")) else { return Ok(json!({})) };
    let id = network.network.id.to_string();
    // Docker removes a network when it has no endpoint of it any more.
    switch.collect(OWNER, Some(&id), &[]).await?;
    match switch.remove_network(&id).await {
        Ok(_) | Err(SwitchError::NetworkNotFound(_)) => Ok(json!({})),
        Err(error) => Err(error),
    }
}

pub async fn create_endpoint(switch: &Switch, request: &Request) -> Result<Value, SwitchError> {
    let (network, endpoint) = (request.text("NetworkID"), request.text("EndpointID"));
    let found = switch.network_of(OWNER, network).ok_or_else(|| SwitchError::NetworkNotFound(network.to_owned()))?;
    let interface = request.object("Interface");
    let mut options = request.user_options();
    let address = interface.given("Address").map(without_prefix);
    // Docker says the name later: `names` learns it. The MAC address is made of this one, and
    // Docker's id of an endpoint changes with each start.
    let name = match address.as_ref().or(interface.given("AddressIPv6").map(without_prefix).as_ref()) {
        Some(address) => format!("{OWNER}-{}", address.replace(['.', ':'], "-")),
        None => format!("{OWNER}-{}", digits(endpoint, DIGITS)),
    };
    let wanted = AttachRequest {
        network: Some(found.network.id.to_string()),
        name: Some(name),
        owner: OWNER.to_owned(),
        key: Some(endpoint.to_owned()),
        leave_here: Some(format!("vs{}", digits(endpoint, DEVICE_DIGITS))),
        ip6: interface.given("AddressIPv6").map(without_prefix),
        mac: interface.given("MacAddress").map(str::to_owned),
        vlan: options.remove("vlan"),
        trunk: options.remove("trunk"),
        options,
        ip: address,
        ..AttachRequest::default()
    };
    let made = switch.attach(wanted.try_into()?).await?;
    Ok(json!({ "Interface": answer(&interface, &made) }))
}

/// Returns what Docker does not know yet of an interface: Docker refuses an answer that repeats what
/// it said.
fn answer(asked: &Request, made: &EndpointInfo) -> Value {
    let mut answer = Map::new();
    let Some(address) = &made.endpoint.address else { return Value::Object(answer) };
    if asked.given("MacAddress").is_none() {
        answer.insert("MacAddress".to_owned(), json!(address.mac.to_string()));
    }
    for ip in address.ips() {
        let key = if ip.is_ipv6() { "AddressIPv6" } else { "Address" };
        let Some(config) = made.network.subnet_of(ip).filter(|_| asked.given(key).is_none()) else { continue };
        answer.insert(key.to_owned(), json!(config.subnet.with_prefix(ip).to_string()));
    }
    Value::Object(answer)
}

pub async fn delete_endpoint(switch: &Switch, request: &Request) -> Result<Value, SwitchError> {
    if let Ok(key) = EngineKey::new(OWNER, request.text("EndpointID")) {
        switch.detach_owned(&key).await?;
    }
    Ok(json!({}))
}

/// Answers from memory: Docker asks for each endpoint of a container at each inspection.
pub fn look(switch: &Switch, request: &Request) -> Value {
    let key = EngineKey::new(OWNER, request.text("EndpointID")).ok();
    let Some(found) = key.and_then(|key| switch.owned(&key)) else { return json!({ "Value": {} }) };
    let mac = found.endpoint.address.map(|address| address.mac.to_string());
    json!({ "Value": { "com.docker.network.endpoint.macaddress": mac } })
}

pub async fn join(switch: &Switch, request: &Request) -> Result<Value, SwitchError> {
    let key = EngineKey::new(OWNER, request.text("EndpointID"))?;
    let joined = switch.set_sandbox(&key.to_string(), Some(request.text("SandboxKey").into())).await?;
    let name = joined.endpoint.left().map(|left| left.name.to_string());
    let mut answer = json!({
        "InterfaceName": { "SrcName": name, "DstPrefix": "eth" },
        // Without this, Docker adds an interface of its own bridge.
        "DisableGatewayService": true,
    });
    if let Some(address) = &joined.endpoint.address {
        for (key, ipv6) in [("Gateway", false), ("GatewayIPv6", true)] {
            if let Some(gateway) = gateway(&joined.network, &joined.endpoint, address, ipv6) {
                answer[key] = json!(gateway);
            }
        }
        answer["StaticRoutes"] = json!(routes(&joined));
    }
    Ok(answer)
}

/// Returns the default routes without a gateway: the host routes the packets of such a network.
fn routes(joined: &EndpointInfo) -> Vec<Value> {
    /// libnetwork's number of a route through an interface.
    const CONNECTED: u8 = 1;
    let routed = match &joined.network.kind {
        NetworkKind::Macvlan(options) | NetworkKind::Ipvlan(options) => options.is_routed(),
        _ => false,
    };
    let families = joined.endpoint.address.iter().flat_map(|address| address.ips()).filter(|_| routed);
    let destination = |ipv6| if ipv6 { "::/0" } else { "0.0.0.0/0" };
    families.map(|ip| json!({ "Destination": destination(ip.is_ipv6()), "RouteType": CONNECTED })).collect()
}

pub async fn leave(switch: &Switch, request: &Request) -> Result<Value, SwitchError> {
    let Ok(key) = EngineKey::new(OWNER, request.text("EndpointID")) else { return Ok(json!({})) };
    // Docker does not always withdraw the ports first.
    withdraw(switch, request).await?;
    match switch.set_sandbox(&key.to_string(), None).await {
        Ok(_) | Err(SwitchError::EndpointNotFound(_)) => Ok(json!({})),
        Err(error) => Err(error),
    }
}

pub async fn publish(switch: &Switch, request: &Request) -> Result<Value, SwitchError> {
    let key = EngineKey::new(OWNER, request.text("EndpointID"))?;
    let ports = request.published().iter().map(|port| port.parse()).collect::<Result<Vec<_>, _>>()?;
    switch.set_published(&key.to_string(), ports, true).await?;
    Ok(json!({}))
}

pub async fn withdraw(switch: &Switch, request: &Request) -> Result<Value, SwitchError> {
    let Ok(key) = EngineKey::new(OWNER, request.text("EndpointID")) else { return Ok(json!({})) };
    match switch.set_published(&key.to_string(), Vec::new(), true).await {
        Ok(_) | Err(SwitchError::EndpointNotFound(_)) => Ok(json!({})),
        Err(error) => Err(error),
    }
}
