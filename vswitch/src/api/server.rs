//! The API's server: every path is one use case of the switch.

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, Path, Query, Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt as _, stream};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot};
use utoipa::openapi::{InfoBuilder, OpenApi, OpenApiBuilder};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{
    AttachRequest, ConnectRequest, DetachRequest, Detached, DisconnectRequest, DownRequest, EndpointDetails,
    EndpointView, ErrorBody, ErrorDocument, FdbChange, FdbFilter, FdbFlush, FdbFlushed, FdbKeyRequest, FdbStatic,
    FrameMessage, FramesFilter, MdbFilter, MulticastGroupView, NetworkDetails, NetworkRequest, NetworkView, PREFIX,
    PeerRequest, PeerView, PortHealth, PortView, Pruned, StationView, StatsFilter, Status, TraceRequest, TraceView,
};
use crate::switch::{ErrorKind, FdbWatch, Switch, SwitchError};

/// `down`, on its way to the daemon: what to forget, and whom to answer.
pub type DownCall = (DownRequest, oneshot::Sender<Result<(), ErrorBody>>);

/// What the handlers share.
#[derive(Clone, Debug)]
struct Service {
    switch: Arc<Switch>,
    down: mpsc::Sender<DownCall>,
}

/// The API of a switch. What ends the daemon goes to `down`.
pub fn router(switch: Arc<Switch>, down: mpsc::Sender<DownCall>) -> Router {
    let (router, _document) = paths().split_for_parts();
    router.fallback(nowhere).with_state(Service { switch, down })
}

/// The API as OpenAPI describes it.
pub fn document() -> OpenApi {
    paths().into_openapi()
}

/// The one list of what is served. A handler says in `#[utoipa::path]` where it is, and is described by that, too.
fn paths() -> OpenApiRouter<Service> {
    let versioned = OpenApiRouter::new()
        .routes(routes!(status))
        .routes(routes!(take_down))
        .routes(routes!(networks, create_network))
        .routes(routes!(prune_networks))
        .routes(routes!(inspect_network, remove_network))
        .routes(routes!(connect))
        .routes(routes!(disconnect))
        .routes(routes!(endpoints, attach))
        .routes(routes!(inspect))
        .routes(routes!(detach))
        .routes(routes!(peers, add_peer))
        .routes(routes!(public_key))
        .routes(routes!(remove_peer))
        .routes(routes!(health))
        .routes(routes!(stats))
        .routes(routes!(trace))
        .routes(routes!(frames))
        .routes(routes!(stations, add_station, remove_station))
        .routes(routes!(flush_stations))
        .routes(routes!(watch_stations))
        .routes(routes!(multicast_groups));
    let info = InfoBuilder::new().title("vswitch").version(env!("CARGO_PKG_VERSION"));
    let info = info.description(Some("The API of the vswitch daemon, on the Unix socket of an instance."));
    OpenApiRouter::with_openapi(OpenApiBuilder::new().info(info.build()).build())
        .nest(PREFIX, versioned)
        .routes(routes!(metrics))
        .routes(routes!(openapi))
}

/// The state of it all.
#[utoipa::path(get, path = "/status", tag = "switch", responses((status = 200, description = "The answer", body = Status), (status = "default", description = "Why not", body = ErrorDocument)))]
async fn status(State(service): State<Service>) -> Response {
    looked_up(service, |switch| switch.status()).await
}

/// Stops the switch and removes everything that it made.
#[utoipa::path(post, path = "/down", tag = "switch", request_body = DownRequest, responses((status = 200, description = "It is done: null"), (status = "default", description = "Why not", body = ErrorDocument)))]
async fn take_down(State(service): State<Service>, Body(request): Body<DownRequest>) -> Response {
    let (answer, answered) = oneshot::channel();
    if service.down.send((request, answer)).await.is_err() {
        return failure(&SwitchError::ShuttingDown);
    }
    match answered.await {
        Ok(Ok(())) => Json(()).into_response(),
        Ok(Err(error)) => respond(StatusCode::INTERNAL_SERVER_ERROR, error),
        Err(_) => failure(&SwitchError::ShuttingDown),
    }
}

/// All networks, by name.
#[utoipa::path(get, path = "/networks", tag = "networks", responses((status = 200, description = "The answer", body = Vec<NetworkView>), (status = "default", description = "Why not", body = ErrorDocument)))]
async fn networks(State(service): State<Service>) -> Response {
    Json(service.switch.networks()).into_response()
}

/// Makes a network.
#[utoipa::path(post, path = "/networks", tag = "networks", request_body = NetworkRequest, responses((status = 200, description = "The answer", body = NetworkView), (status = "default", description = "Why not", body = ErrorDocument)))]
async fn create_network(State(service): State<Service>, Body(request): Body<NetworkRequest>) -> Response {
    carried_out(async move { service.switch.create_network(request).await }).await
}

/// All about a network.
#[utoipa::path(get, path = "/networks/{network}", tag = "networks", params(("network" = String, Path, description = "Name or id")), responses((status = 200, description = "The answer", body = NetworkDetails), (status = "default", description = "Why not", body = ErrorDocument)))]
async fn inspect_network(State(service): State<Service>, Path(network): Path<String>) -> Response {
    answer(service.switch.inspect_network(&network))
}

/// Removes a network.
#[utoipa::path(delete, path = "/networks/{network}", tag = "networks", params(("network" = String, Path, description = "Name or id")), responses((status = 200, description = "The answer", body = String), (status = "default", description = "Why not", body = ErrorDocument)))]
async fn remove_network(State(service): State<Service>, Path(network): Path<String>) -> Response {
    carried_out(async move { service.switch.remove_network(&network).await }).await
}

/// Removes all networks without endpoints.
#[utoipa::path(post, path = "/networks/prune", tag = "networks", responses((status = 200, description = "The answer", body = Pruned), (status = "default", description = "Why not", body = ErrorDocument)))]
async fn prune_networks(State(service): State<Service>) -> Response {
    carried_out(async move { Ok(service.switch.prune_networks().await) }).await
}

/// Connects an endpoint to another network.
#[utoipa::path(post, path = "/networks/{network}/connect", tag = "networks", request_body = ConnectRequest, params(("network" = String, Path, description = "Name or id")), responses((status = 200, description = "The answer", body = EndpointView), (status = "default", description = "Why not", body = ErrorDocument)))]
async fn connect(
    State(service): State<Service>,
    Path(network): Path<String>,
    Body(request): Body<ConnectRequest>,
) -> Response {
    carried_out(async move { service.switch.connect(network, request).await }).await
}

/// Disconnects an endpoint from a network.
#[utoipa::path(post, path = "/networks/{network}/disconnect", tag = "networks", request_body = DisconnectRequest, params(("network" = String, Path, description = "Name or id")), responses((status = 200, description = "The answer", body = Detached), (status = "default", description = "Why not", body = ErrorDocument)))]
async fn disconnect(
    State(service): State<Service>,
    Path(network): Path<String>,
    Body(request): Body<DisconnectRequest>,
) -> Response {
    carried_out(async move { service.switch.disconnect(&network, &request).await }).await
}

/// All endpoints, by name.
#[utoipa::path(get, path = "/endpoints", tag = "endpoints", responses((status = 200, description = "The answer", body = Vec<EndpointView>), (status = "default", description = "Why not", body = ErrorDocument)))]
async fn endpoints(State(service): State<Service>) -> Response {
    Json(service.switch.endpoints()).into_response()
}

/// Attaches a network namespace.
#[utoipa::path(post, path = "/endpoints", tag = "endpoints", request_body = AttachRequest, responses((status = 200, description = "The answer", body = EndpointView), (status = "default", description = "Why not", body = ErrorDocument)))]
async fn attach(State(service): State<Service>, Body(request): Body<AttachRequest>) -> Response {
    carried_out(async move { service.switch.attach(request).await }).await
}

/// All about an endpoint.
#[utoipa::path(get, path = "/endpoints/{endpoint}", tag = "endpoints", params(("endpoint" = String, Path, description = "Name or id")), responses((status = 200, description = "The answer", body = EndpointDetails), (status = "default", description = "Why not", body = ErrorDocument)))]
async fn inspect(State(service): State<Service>, Path(endpoint): Path<String>) -> Response {
    answer(service.switch.inspect(&endpoint))
}

/// Detaches an endpoint, or whatever is attached at a namespace.
#[utoipa::path(post, path = "/detach", tag = "endpoints", request_body = DetachRequest, responses((status = 200, description = "The answer", body = Detached), (status = "default", description = "Why not", body = ErrorDocument)))]
async fn detach(State(service): State<Service>, Body(request): Body<DetachRequest>) -> Response {
    carried_out(async move { service.switch.detach(request).await }).await
}

/// The peers, by address.
#[utoipa::path(get, path = "/peers", tag = "peers", responses((status = 200, description = "The answer", body = Vec<PeerView>), (status = "default", description = "Why not", body = ErrorDocument)))]
async fn peers(State(service): State<Service>) -> Response {
    carried_out(async move { service.switch.peers().await }).await
}

/// Makes another host a peer.
#[utoipa::path(post, path = "/peers", tag = "peers", request_body = PeerRequest, responses((status = 200, description = "The answer", body = PeerView), (status = "default", description = "Why not", body = ErrorDocument)))]
async fn add_peer(State(service): State<Service>, Body(request): Body<PeerRequest>) -> Response {
    carried_out(async move { service.switch.add_peer(request).await }).await
}

/// This host's public key for WireGuard, which is made if there is none.
#[utoipa::path(post, path = "/key", tag = "peers", responses((status = 200, description = "The answer", body = String), (status = "default", description = "Why not", body = ErrorDocument)))]
async fn public_key(State(service): State<Service>) -> Response {
    carried_out(async move { Ok(service.switch.public_key().await?.to_string()) }).await
}

/// Makes another host a stranger again.
#[utoipa::path(delete, path = "/peers/{address}", tag = "peers", params(("address" = String, Path, description = "Its address")), responses((status = 200, description = "The answer", body = String), (status = "default", description = "Why not", body = ErrorDocument)))]
async fn remove_peer(State(service): State<Service>, Path(address): Path<String>) -> Response {
    carried_out(async move { service.switch.remove_peer(&address).await }).await
}

/// How the devices of the ports are set, and how they have to be.
#[utoipa::path(get, path = "/health", tag = "looking", responses((status = 200, description = "The answer", body = Vec<PortHealth>), (status = "default", description = "Why not", body = ErrorDocument)))]
async fn health(State(service): State<Service>) -> Response {
    carried_out(async move { service.switch.health().await }).await
}

/// What went through the ports.
#[utoipa::path(get, path = "/stats", tag = "looking", params(StatsFilter), responses((status = 200, description = "The answer", body = Vec<PortView>), (status = "default", description = "Why not", body = ErrorDocument)))]
async fn stats(State(service): State<Service>, Query(filter): Query<StatsFilter>) -> Response {
    let of = filter.of;
    looked_up(
        service,
        move |switch| {
            if filter.sum { switch.network_stats(of.as_deref()) } else { switch.stats(of.as_deref()) }
        },
    )
    .await
}

/// Frames as they come in, and if asked for as they leave, until the client has had enough.
#[utoipa::path(get, path = "/frames", tag = "looking", params(FramesFilter), responses((status = 200, description = "A line of JSON for each frame", body = FrameMessage, content_type = "application/x-ndjson"), (status = "default", description = "Why not", body = ErrorDocument)))]
async fn frames(State(service): State<Service>, Query(filter): Query<FramesFilter>) -> Response {
    let frames = match service.switch.watch(&filter) {
        Ok(frames) => frames,
        Err(error) => return failure(&error),
    };
    // A client that goes away drops the stream, and what it watches with it.
    lines(stream::unfold(frames, |mut frames| async move {
        let messages = frames.next().await?;
        Some((messages, frames))
    }))
}

/// What Prometheus collects, where it looks for it: not below the API's version, and in a format of its own.
#[utoipa::path(get, path = "/metrics", tag = "looking", responses((status = 200, description = "OpenMetrics text", body = String, content_type = "application/openmetrics-text"), (status = "default", description = "Why not", body = ErrorDocument)))]
async fn metrics(State(service): State<Service>) -> Response {
    let measured = tokio::task::spawn_blocking(move || service.switch.measure()).await;
    match measured.map_err(|error| SwitchError::from(crate::apply::ApplyError::from(error))) {
        Ok(Ok(measured)) => match measured.exposition() {
            Ok(text) => ([(CONTENT_TYPE, super::metrics::CONTENT_TYPE)], text).into_response(),
            Err(error) => respond(StatusCode::INTERNAL_SERVER_ERROR, ErrorBody::new("metrics", &error.to_string())),
        },
        Ok(Err(error)) | Err(error) => failure(&error),
    }
}

/// What becomes of a frame, step by step. Nothing changes by it.
#[utoipa::path(post, path = "/trace", tag = "looking", request_body = TraceRequest, responses((status = 200, description = "The answer", body = TraceView), (status = "default", description = "Why not", body = ErrorDocument)))]
async fn trace(State(service): State<Service>, Body(request): Body<TraceRequest>) -> Response {
    looked_up(service, move |switch| switch.trace(&request)).await
}

/// The stations that the switch knows.
#[utoipa::path(get, path = "/fdb", tag = "fdb", params(FdbFilter), responses((status = 200, description = "The answer", body = Vec<StationView>), (status = "default", description = "Why not", body = ErrorDocument)))]
async fn stations(State(service): State<Service>, Query(filter): Query<FdbFilter>) -> Response {
    looked_up(service, move |switch| switch.stations(&filter)).await
}

/// Says where a station is, for good.
#[utoipa::path(post, path = "/fdb", tag = "fdb", request_body = FdbStatic, responses((status = 200, description = "It is done: null"), (status = "default", description = "Why not", body = ErrorDocument)))]
async fn add_station(State(service): State<Service>, Body(request): Body<FdbStatic>) -> Response {
    carried_out(async move { service.switch.add_station(&request).await }).await
}

/// Removes a station.
#[utoipa::path(delete, path = "/fdb", tag = "fdb", params(FdbKeyRequest), responses((status = 200, description = "The answer", body = FdbFlushed), (status = "default", description = "Why not", body = ErrorDocument)))]
async fn remove_station(State(service): State<Service>, Query(request): Query<FdbKeyRequest>) -> Response {
    carried_out(async move { service.switch.remove_station(&request).await }).await
}

/// Removes the stations that were learned.
#[utoipa::path(post, path = "/fdb/flush", tag = "fdb", request_body = FdbFlush, responses((status = 200, description = "The answer", body = FdbFlushed), (status = "default", description = "Why not", body = ErrorDocument)))]
async fn flush_stations(State(service): State<Service>, Body(request): Body<FdbFlush>) -> Response {
    carried_out(async move { service.switch.flush_stations(&request).await }).await
}

/// The multicast groups that somebody listens to.
#[utoipa::path(get, path = "/mdb", tag = "fdb", params(MdbFilter), responses((status = 200, description = "The answer", body = Vec<MulticastGroupView>), (status = "default", description = "Why not", body = ErrorDocument)))]
async fn multicast_groups(State(service): State<Service>, Query(filter): Query<MdbFilter>) -> Response {
    looked_up(service, move |switch| switch.multicast_groups(&filter)).await
}

/// Changes as they come, a line of JSON each, until the client has had enough or the switch goes down.
#[utoipa::path(get, path = "/fdb/watch", tag = "fdb", params(FdbFilter), responses((status = 200, description = "A line of JSON for each change", body = FdbChange, content_type = "application/x-ndjson"), (status = "default", description = "Why not", body = ErrorDocument)))]
async fn watch_stations(State(service): State<Service>, Query(filter): Query<FdbFilter>) -> Response {
    match tokio::task::spawn_blocking(move || FdbWatch::begin(service.switch, &filter)).await {
        Ok(Ok(watch)) => lines(stream::unfold(watch, |mut watch| async move {
            let changes = watch.changes().await?;
            Some((changes, watch))
        })),
        Ok(Err(error)) => failure(&error),
        Err(error) => failure(&SwitchError::from(crate::apply::ApplyError::from(error))),
    }
}

/// An answer that goes on: documents, a line of JSON each.
fn lines<T: Serialize>(batches: impl Stream<Item = Vec<T>> + Send + 'static) -> Response {
    let text = batches.map(|batch| {
        let lines: Result<String, _> = batch.iter().map(|item| Ok(serde_json::to_string(item)? + "\n")).collect();
        lines.map_err(|error: serde_json::Error| error)
    });
    ([(CONTENT_TYPE, "application/x-ndjson")], axum::body::Body::from_stream(text)).into_response()
}

/// This document.
#[utoipa::path(get, path = "/openapi.json", tag = "switch", responses((status = 200, description = "OpenAPI 3.1", body = serde_json::Value)))]
async fn openapi() -> Response {
    Json(document()).into_response()
}

async fn nowhere(request: Request) -> Response {
    let message = format!("no {} {} in this API", request.method(), request.uri().path());
    respond(StatusCode::NOT_FOUND, ErrorBody::new("no_such_path", &message))
}

/// Carries a change out to its end, also if the client goes away: nothing stays half done.
async fn carried_out<T: Serialize + Send + 'static>(
    change: impl Future<Output = Result<T, SwitchError>> + Send + 'static,
) -> Response {
    match tokio::spawn(change).await {
        Ok(result) => answer(result),
        Err(error) => failure(&SwitchError::from(crate::apply::ApplyError::from(error))),
    }
}

/// Looks something up that may take a while, off the runtime's own threads.
async fn looked_up<T: Serialize + Send + 'static>(
    service: Service,
    look: impl FnOnce(&Switch) -> Result<T, SwitchError> + Send + 'static,
) -> Response {
    match tokio::task::spawn_blocking(move || look(&service.switch)).await {
        Ok(result) => answer(result),
        Err(error) => failure(&SwitchError::from(crate::apply::ApplyError::from(error))),
    }
}

fn answer<T: Serialize>(result: Result<T, SwitchError>) -> Response {
    match result {
        Ok(value) => Json(value).into_response(),
        Err(error) => failure(&error),
    }
}

fn failure(error: &SwitchError) -> Response {
    let status = match error.kind() {
        ErrorKind::Invalid => StatusCode::BAD_REQUEST,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Conflict => StatusCode::CONFLICT,
        ErrorKind::Failed => {
            tracing::error!("{error}");
            StatusCode::INTERNAL_SERVER_ERROR
        }
    };
    respond(status, ErrorBody::new(error.code(), &error.to_string()))
}

fn respond(status: StatusCode, error: ErrorBody) -> Response {
    (status, Json(ErrorDocument { error })).into_response()
}

/// A request's JSON; what cannot be read is answered like every error.
struct Body<T>(T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        match Json::<T>::from_request(request, state).await {
            Ok(Json(value)) => Ok(Self(value)),
            Err(rejection) => Err(unreadable(&rejection)),
        }
    }
}

fn unreadable(rejection: &JsonRejection) -> Response {
    respond(rejection.status(), ErrorBody::new("invalid_request", &rejection.body_text()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                for (name, field) in fields {
                    match field.as_str() {
                        Some(target) if name == "$ref" => drop(found.insert(target.to_owned())),
                        _ => references(field, found),
                    }
                }
            }
            Value::Array(values) => values.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn the_document_describes_every_path_and_every_message_in_it() {
        let document = serde_json::to_value(document()).expect("JSON");
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        assert!(found.len() > 20, "{found:#?}");
        for target in &found {
            let pointer = target.strip_prefix('#').expect("in this document");
            assert!(document.pointer(pointer).is_some(), "{target} is nowhere");
        }
        let paths = document["paths"].as_object().expect("paths");
        for path in ["/metrics", "/openapi.json", "/v1/status", "/v1/networks/{network}/connect", "/v1/fdb"] {
            assert!(paths.contains_key(path), "{path}: {:#?}", paths.keys());
        }
        let mut names = BTreeSet::new();
        for (path, operations) in paths {
            for (method, operation) in operations.as_object().expect("operations") {
                let name = operation["operationId"].as_str().unwrap_or_default();
                assert!(names.insert(name.to_owned()) && !name.is_empty(), "{method} {path}: {name}");
                assert!(operation["summary"].is_string(), "{method} {path} says nothing of itself");
                let in_path = path.matches('{').count();
                let parameters = operation["parameters"].as_array().map_or(&[][..], Vec::as_slice);
                let given = parameters.iter().filter(|parameter| parameter["in"] == "path").count();
                assert_eq!(in_path, given, "{method} {path}");
            }
        }
    }

    #[test]
    fn every_path_that_is_served_is_in_the_one_list() {
        // There is no other way in: nothing here goes past the list with a path of its own.
        let source = include_str!("server.rs").split("#[cfg(test)]").next().expect("the code");
        assert_eq!(source.matches(".route(").count(), 0);
        let handlers = source.matches("#[utoipa::path(").count();
        let document = serde_json::to_value(document()).expect("JSON");
        let paths = document["paths"].as_object().expect("paths");
        let operations: usize = paths.values().filter_map(|path| Some(path.as_object()?.len())).sum();
        assert_eq!(handlers, operations);
    }
}
