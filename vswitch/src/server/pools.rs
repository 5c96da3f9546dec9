//! Address pools over the API.

use axum::extract::{Path, State};
use axum::response::Response;

use super::requests::address;
use super::{Body, Service, carried_out};
use crate::api::{LeaseRequest, LeaseView, PoolRequest, PoolView};
use crate::model::{Pool, PoolId};
use crate::switch::SwitchError;

impl From<Pool> for PoolView {
    fn from(Pool { id, owner, subnet, ip_range, leases, .. }: Pool) -> Self {
        Self { id, owner, subnet, ip_range, addresses: leases.into_keys().collect() }
    }
}

/// Lists the address pools of engines.
#[utoipa::path(get, path = "/ipam/pools", tag = "ipam", responses((status = 200, body = Vec<PoolView>)))]
pub(super) async fn pools(State(service): State<Service>) -> Response {
    carried_out(async move { Ok(service.switch.pools().into_iter().map(PoolView::from).collect::<Vec<_>>()) }).await
}

/// Reserves a subnet for a network that an engine is about to create.
#[utoipa::path(post, path = "/ipam/pools", tag = "ipam", request_body = PoolRequest, responses((status = 200, body = PoolView)))]
pub(super) async fn request_pool(State(service): State<Service>, Body(request): Body<PoolRequest>) -> Response {
    carried_out(async move {
        let subnet = request.subnet.as_deref().map(str::parse).transpose()?;
        let range = |text: &String| text.parse().map_err(|_| SwitchError::Range(text.clone()));
        let ip_range = request.ip_range.as_ref().map(range).transpose()?;
        Ok(PoolView::from(service.switch.request_pool(&request.owner, request.ipv6, subnet, ip_range).await?))
    })
    .await
}

/// Releases an address pool. A missing one is no error.
#[utoipa::path(delete, path = "/ipam/pools/{pool}", tag = "ipam", params(("pool" = String, Path, description = "Id")), responses((status = 200, description = "Done; the body is null")))]
pub(super) async fn release_pool(State(service): State<Service>, Path(pool): Path<String>) -> Response {
    carried_out(async move {
        match pool.parse() {
            Ok(pool) => service.switch.release_pool(pool).await,
            // No pool has such an id.
            Err(_) => Ok(()),
        }
    })
    .await
}

/// Gives an address of a pool out.
#[utoipa::path(post, path = "/ipam/pools/{pool}/addresses", tag = "ipam", request_body = LeaseRequest, params(("pool" = String, Path, description = "Id")), responses((status = 200, body = LeaseView)))]
pub(super) async fn request_address(
    State(service): State<Service>,
    Path(pool): Path<String>,
    Body(request): Body<LeaseRequest>,
) -> Response {
    carried_out(async move {
        let pool: PoolId = pool.parse().map_err(|_| SwitchError::PoolNotFound(pool))?;
        let wanted = address(request.address.as_ref())?;
        Ok(LeaseView { address: service.switch.request_address(pool, wanted, request.gateway).await? })
    })
    .await
}

/// Takes an address back. A missing pool or address is no error.
#[utoipa::path(delete, path = "/ipam/pools/{pool}/addresses/{address}", tag = "ipam", params(("pool" = String, Path, description = "Id"), ("address" = String, Path, description = "Address")), responses((status = 200, description = "Done; the body is null")))]
pub(super) async fn release_address(
    State(service): State<Service>,
    Path((pool, given)): Path<(String, String)>,
) -> Response {
    carried_out(async move {
        let wanted = given.parse().map_err(|_| SwitchError::Address(given))?;
        match pool.parse() {
            Ok(pool) => service.switch.release_address(pool, wanted).await,
            Err(_) => Ok(()),
        }
    })
    .await
}
