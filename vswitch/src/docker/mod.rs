//! Docker's plugin: a remote network driver and IPAM driver, served on a Unix socket of the
//! instance.
//!
//! Docker sends each request as POST with a JSON body to `/NetworkDriver.NAME` or
//! `/IpamDriver.NAME` (libnetwork's remote driver and IPAM protocols, plugin API 1.2). A refusal is
//! an answer with a message, which Docker shows to its user. Docker repeats a request whose
//! connection broke with an empty body, so every request may be empty.

mod engine;
mod ipam;
mod messages;
mod names;
mod network;

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::Uri;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::switch::{Switch, SwitchError};
use messages::Request;

pub use names::follow;

/// The owner of Docker's endpoints, networks and pools.
const OWNER: &str = "docker";

/// What the handlers share.
#[derive(Clone, Debug)]
struct Service {
    switch: Arc<Switch>,
    /// Docker knows the plugin.
    activated: Arc<Notify>,
}

/// Returns the plugin of a switch. `activated` is told when Docker asks for it.
pub fn router(switch: Arc<Switch>, activated: Arc<Notify>) -> Router {
    Router::new().fallback(post(serve)).with_state(Service { switch, activated })
}

async fn serve(State(service): State<Service>, uri: Uri, body: Bytes) -> Response {
    let method = uri.path().trim_start_matches('/').to_owned();
    // A request runs to its end, even if Docker gives up.
    let answered = tokio::spawn(async move { answer(&service, &method, &body).await });
    let answer = match answered.await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => refusal(&one_line(&error)),
        Err(error) => refusal(&format!("a task of the vswitch daemon failed: {error} (see its log)")),
    };
    Json(answer).into_response()
}

/// Returns the message of an error in Docker's words, in one line.
fn one_line(error: &SwitchError) -> String {
    error.to_string().lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

async fn answer(service: &Service, method: &str, body: &[u8]) -> Result<Value, SwitchError> {
    let request = Request::read(body);
    let switch = &service.switch;
    Ok(match method {
        "Plugin.Activate" => {
            service.activated.notify_one();
            json!({ "Implements": ["NetworkDriver", "IpamDriver"] })
        }
        "NetworkDriver.GetCapabilities" => json!({ "Scope": "local", "ConnectivityScope": "global" }),
        "NetworkDriver.CreateNetwork" => network::create(switch, &request).await?,
        "NetworkDriver.DeleteNetwork" => network::delete(switch, &request).await?,
        "NetworkDriver.CreateEndpoint" => network::create_endpoint(switch, &request).await?,
        "NetworkDriver.DeleteEndpoint" => network::delete_endpoint(switch, &request).await?,
        "NetworkDriver.EndpointOperInfo" => network::look(switch, &request),
        "NetworkDriver.Join" => network::join(switch, &request).await?,
        "NetworkDriver.Leave" => network::leave(switch, &request).await?,
        "NetworkDriver.ProgramExternalConnectivity" => network::publish(switch, &request).await?,
        "NetworkDriver.RevokeExternalConnectivity" => network::withdraw(switch, &request).await?,
        // Docker tells of other nodes and their endpoints, which the switch finds by itself.
        "NetworkDriver.DiscoverNew" | "NetworkDriver.DiscoverDelete" => json!({}),
        "IpamDriver.GetCapabilities" => json!({ "RequiresMACAddress": false, "RequiresRequestReplay": false }),
        "IpamDriver.GetDefaultAddressSpaces" => {
            json!({ "LocalDefaultAddressSpace": ipam::LOCAL, "GlobalDefaultAddressSpace": ipam::GLOBAL })
        }
        "IpamDriver.RequestPool" => ipam::request_pool(switch, &request).await?,
        "IpamDriver.ReleasePool" => ipam::release_pool(switch, &request).await?,
        "IpamDriver.RequestAddress" => ipam::request_address(switch, &request).await?,
        "IpamDriver.ReleaseAddress" => ipam::release_address(switch, &request).await?,
        _ => refusal(&format!("vswitch does not know {method} (use a newer vswitch)")),
    })
}

/// Returns a refusal. Network drivers have the message at `Err`, IPAM drivers at `Error`.
fn refusal(message: &str) -> Value {
    json!({ "Err": message, "Error": message })
}
