//! Docker's IPAM driver: pools and addresses, which are records of the switch.

use serde_json::{Value, json};

use super::OWNER;
use super::messages::{Request, without_prefix};
use crate::model::PoolId;
use crate::switch::{Switch, SwitchError};

/// The address spaces. The networks of one have other subnets than Docker's own.
pub const LOCAL: &str = "vswitch-local";
pub const GLOBAL: &str = "vswitch-global";

/// The option by which Docker asks for a gateway.
const GATEWAY: &str = "com.docker.network.gateway";

pub async fn request_pool(switch: &Switch, request: &Request) -> Result<Value, SwitchError> {
    let subnet = request.given("Pool").map(str::parse).transpose()?;
    let range = |text: &str| text.parse().map_err(|_| SwitchError::Range(text.to_owned()));
    let range = request.given("SubPool").map(range).transpose()?;
    let pool = switch.request_pool(OWNER, request.is("V6"), subnet, range).await?;
    Ok(json!({ "PoolID": pool.id, "Pool": pool.subnet, "Data": {} }))
}

pub async fn release_pool(switch: &Switch, request: &Request) -> Result<Value, SwitchError> {
    if let Ok(pool) = request.text("PoolID").parse() {
        switch.release_pool(pool).await?;
    }
    Ok(json!({}))
}

pub async fn request_address(switch: &Switch, request: &Request) -> Result<Value, SwitchError> {
    let text = request.text("PoolID");
    let pool: PoolId = text.parse().map_err(|_| SwitchError::PoolNotFound(text.to_owned()))?;
    let address = |text: &str| text.parse().map_err(|_| SwitchError::Address(text.to_owned()));
    let address = request.given("Address").map(address).transpose()?;
    let gateway = request.object("Options").text("RequestAddressType") == GATEWAY;
    let address = switch.request_address(pool, address, gateway).await?;
    Ok(json!({ "Address": address, "Data": {} }))
}

pub async fn release_address(switch: &Switch, request: &Request) -> Result<Value, SwitchError> {
    if let (Ok(pool), Ok(address)) = (request.text("PoolID").parse(), without_prefix(request.text("Address")).parse()) {
        switch.release_address(pool, address).await?;
    }
    Ok(json!({}))
}
