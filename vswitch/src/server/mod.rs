//! The API's server: translates each request into a use case of the switch, and its result into an
//! answer.

mod metrics;
mod pools;
mod requests;
mod views;

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, Path, Query, Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt as _, stream};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinError;
use utoipa::openapi::{Content, InfoBuilder, OpenApi, OpenApiBuilder, Ref, ResponseBuilder};
use utoipa::{PartialSchema as _, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::api::{
    AttachRequest, CollectRequest, ConnectRequest, DetachRequest, Detached, DisconnectRequest, DownRequest,
    EndpointDetails, EndpointFilter, EndpointView, ErrorBody, ErrorDocument, FdbChange, FdbFilter, FdbFlush,
    FdbFlushed, FdbKeyRequest, FdbStatic, FrameMessage, FramesFilter, MdbFilter, MulticastGroupView, NamesRequest,
    NetworkDetails, NetworkNameRequest, NetworkRequest, NetworkView, PREFIX, PeerRequest, PeerView, PortHealth,
    PortView, Pruned, PublishedRequest, Repaired, SENT_HEADER, STALE, SandboxRequest, StationView, StatsFilter, Status,
    TraceRequest, TraceView, age,
};
use crate::model::EngineKey;
use crate::plan::apply::ApplyError;
use crate::switch::{ErrorKind, Switch, SwitchError};
use metrics::Exposition;

/// A `down` request on its way to the daemon, with the channel for the answer.
pub type DownCall = (DownRequest, oneshot::Sender<Result<(), ErrorBody>>);

/// The state that the handlers share.
#[derive(Clone, Debug)]
struct Service {
    switch: Arc<Switch>,
    down: mpsc::Sender<DownCall>,
}

/// Returns the API of a switch. A request that ends the daemon goes to `down`.
pub fn router(switch: Arc<Switch>, down: mpsc::Sender<DownCall>) -> Router {
    let (router, _document) = paths().split_for_parts();
    router.fallback(nowhere).layer(from_fn(refuse_stale)).with_state(Service { switch, down })
}

/// Returns the OpenAPI document of the API.
pub fn document() -> OpenApi {
    paths().into_openapi()
}

/// Returns the router of all paths. The `#[utoipa::path]` attribute of a handler gives its path and
/// its description.
fn paths() -> OpenApiRouter<Service> {
    let versioned = OpenApiRouter::new()
        .routes(routes!(alive))
        .routes(routes!(status))
        .routes(routes!(repair))
        .routes(routes!(take_down))
        .routes(routes!(networks, create_network))
        .routes(routes!(prune_networks))
        .routes(routes!(inspect_network, remove_network, rename_network))
        .routes(routes!(connect))
        .routes(routes!(disconnect))
        .routes(routes!(endpoints, attach, detach_owned))
        .routes(routes!(collect))
        .routes(routes!(inspect, rename_endpoint))
        .routes(routes!(set_sandbox))
        .routes(routes!(set_published))
        .routes(routes!(detach))
        .routes(routes!(pools::pools, pools::request_pool))
        .routes(routes!(pools::release_pool))
        .routes(routes!(pools::request_address))
        .routes(routes!(pools::release_address))
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
    let mut router = OpenApiRouter::with_openapi(OpenApiBuilder::new().info(info.build()).build())
        .nest(PREFIX, versioned)
        .routes(routes!(metrics));
    describe_answers(router.get_openapi_mut());
    router.routes(routes!(openapi))
}

/// Adds to every operation of the document the common parts: the answer to a failed request, and
/// the description of an answer that the handler does not describe.
fn describe_answers(document: &mut OpenApi) {
    let schemas = &mut document.components.get_or_insert_default().schemas;
    schemas.insert(ErrorDocument::name().into_owned(), ErrorDocument::schema());
    let mut referenced = Vec::new();
    ErrorDocument::schemas(&mut referenced);
    schemas.extend(referenced);
    let content = Content::new(Some(Ref::from_schema_name(ErrorDocument::name())));
    let failure = ResponseBuilder::new().description("The request failed").content("application/json", content).build();
    for path in document.paths.paths.values_mut() {
        for operation in
            [&mut path.get, &mut path.post, &mut path.put, &mut path.patch, &mut path.delete].into_iter().flatten()
        {
            let responses = &mut operation.responses.responses;
            for answer in responses.values_mut() {
                if let utoipa::openapi::RefOr::T(answer) = answer
                    && answer.description.is_empty()
                {
                    "The result".clone_into(&mut answer.description);
                }
            }
            responses.insert("default".to_owned(), failure.clone().into());
        }
    }
}

/// Returns the state of the daemon.
#[utoipa::path(get, path = "/status", tag = "switch", responses((status = 200, body = Status)))]
async fn status(State(service): State<Service>) -> Response {
    looked_up(service, |switch| Ok(Status::from(switch.status()?))).await
}

/// Answers at once if the daemon works. A client whose request takes long asks this beside it.
#[utoipa::path(get, path = "/alive", tag = "switch", responses((status = 200, description = "It works: null")))]
async fn alive(State(service): State<Service>) -> Response {
    service.switch.works().await;
    Json(()).into_response()
}

/// Compares everything that the switch made with the kernel, and mends what is missing.
#[utoipa::path(post, path = "/repair", tag = "switch", responses((status = 200, body = Repaired)))]
async fn repair(State(service): State<Service>) -> Response {
    carried_out(async move { Ok(Repaired { mended: service.switch.repair().await? }) }).await
}

/// Stops the switch and removes everything that it made.
#[utoipa::path(post, path = "/down", tag = "switch", request_body = DownRequest, responses((status = 200, description = "Done; the body is null")))]
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

/// Lists all networks by name.
#[utoipa::path(get, path = "/networks", tag = "networks", responses((status = 200, body = Vec<NetworkView>)))]
async fn networks(State(service): State<Service>) -> Response {
    Json(translate::<NetworkView, _>(service.switch.networks())).into_response()
}

/// Creates a network.
#[utoipa::path(post, path = "/networks", tag = "networks", request_body = NetworkRequest, responses((status = 200, body = NetworkView)))]
async fn create_network(State(service): State<Service>, Body(request): Body<NetworkRequest>) -> Response {
    carried_out(async move { Ok(NetworkView::from(service.switch.create_network(request.try_into()?).await?)) }).await
}

/// Returns the details of a network.
#[utoipa::path(get, path = "/networks/{network}", tag = "networks", params(("network" = String, Path, description = "Name or id")), responses((status = 200, body = NetworkDetails)))]
async fn inspect_network(State(service): State<Service>, Path(network): Path<String>) -> Response {
    answer(service.switch.inspect_network(&network).map(NetworkDetails::from))
}

/// Removes a network.
#[utoipa::path(delete, path = "/networks/{network}", tag = "networks", params(("network" = String, Path, description = "Name or id")), responses((status = 200, body = String)))]
async fn remove_network(State(service): State<Service>, Path(network): Path<String>) -> Response {
    carried_out(async move { service.switch.remove_network(&network).await }).await
}

/// Removes all networks without endpoints.
#[utoipa::path(post, path = "/networks/prune", tag = "networks", responses((status = 200, body = Pruned)))]
async fn prune_networks(State(service): State<Service>) -> Response {
    carried_out(async move { Ok(Pruned::from(service.switch.prune_networks().await)) }).await
}

/// Connects an endpoint to another network.
#[utoipa::path(post, path = "/networks/{network}/connect", tag = "networks", request_body = ConnectRequest, params(("network" = String, Path, description = "Name or id")), responses((status = 200, body = EndpointView)))]
async fn connect(
    State(service): State<Service>,
    Path(network): Path<String>,
    Body(request): Body<ConnectRequest>,
) -> Response {
    carried_out(async move {
        let endpoint = service.switch.connect(network, request.try_into()?).await?;
        Ok(EndpointView::from(&endpoint))
    })
    .await
}

/// Disconnects an endpoint from a network.
#[utoipa::path(post, path = "/networks/{network}/disconnect", tag = "networks", request_body = DisconnectRequest, params(("network" = String, Path, description = "Name or id")), responses((status = 200, body = Detached)))]
async fn disconnect(
    State(service): State<Service>,
    Path(network): Path<String>,
    Body(request): Body<DisconnectRequest>,
) -> Response {
    carried_out(async move { Ok(Detached { detached: service.switch.disconnect(&network, &request.endpoint).await? }) })
        .await
}

/// Gives a network of an engine another name.
#[utoipa::path(patch, path = "/networks/{network}", tag = "networks", request_body = NetworkNameRequest, params(("network" = String, Path, description = "Name or id")), responses((status = 200, body = NetworkView)))]
async fn rename_network(
    State(service): State<Service>,
    Path(network): Path<String>,
    Body(request): Body<NetworkNameRequest>,
) -> Response {
    carried_out(async move {
        let name = request.name.parse().map_err(SwitchError::from)?;
        Ok(NetworkView::from(service.switch.rename_network(&network, name).await?))
    })
    .await
}

/// Lists all endpoints by name.
#[utoipa::path(get, path = "/endpoints", tag = "endpoints", params(EndpointFilter), responses((status = 200, body = Vec<EndpointView>)))]
async fn endpoints(State(service): State<Service>, Query(filter): Query<EndpointFilter>) -> Response {
    let all = service.switch.endpoints();
    let mut views: Vec<EndpointView> = all.iter().map(EndpointView::from).collect();
    views.retain(|view| {
        filter.owner.as_ref().is_none_or(|owner| view.owner == *owner)
            && filter.key.as_ref().is_none_or(|key| view.key.as_ref() == Some(key))
            && filter.network.as_ref().is_none_or(|network| view.network == *network)
    });
    Json(views).into_response()
}

/// Detaches the endpoint to which an engine gave this key. A missing one is no error.
#[utoipa::path(delete, path = "/endpoints", tag = "endpoints", params(EndpointFilter), responses((status = 200, body = Detached)))]
async fn detach_owned(State(service): State<Service>, Query(filter): Query<EndpointFilter>) -> Response {
    carried_out(async move {
        let key = EngineKey::new(&filter.owner.unwrap_or_default(), &filter.key.unwrap_or_default())?;
        Ok(Detached { detached: service.switch.detach_owned(&key).await? })
    })
    .await
}

/// Detaches the endpoints of an engine that it does not know any more.
#[utoipa::path(post, path = "/endpoints/gc", tag = "endpoints", request_body = CollectRequest, responses((status = 200, body = Detached)))]
async fn collect(State(service): State<Service>, Body(request): Body<CollectRequest>) -> Response {
    carried_out(async move {
        let CollectRequest { owner, network, valid } = request;
        Ok(Detached { detached: service.switch.collect(&owner, network.as_deref(), &valid).await? })
    })
    .await
}

/// Gives an endpoint other names.
#[utoipa::path(patch, path = "/endpoints/{endpoint}", tag = "endpoints", request_body = NamesRequest, params(("endpoint" = String, Path, description = "Name, id or owner:key")), responses((status = 200, body = EndpointView)))]
async fn rename_endpoint(
    State(service): State<Service>,
    Path(endpoint): Path<String>,
    Body(request): Body<NamesRequest>,
) -> Response {
    carried_out(async move {
        let names = requests::names(request)?;
        Ok(EndpointView::from(&service.switch.rename_endpoint(&endpoint, names).await?))
    })
    .await
}

/// Notes where an engine moves the interface of an endpoint.
#[utoipa::path(put, path = "/endpoints/{endpoint}/sandbox", tag = "endpoints", request_body = SandboxRequest, params(("endpoint" = String, Path, description = "Name, id or owner:key")), responses((status = 200, body = EndpointView)))]
async fn set_sandbox(
    State(service): State<Service>,
    Path(endpoint): Path<String>,
    Body(request): Body<SandboxRequest>,
) -> Response {
    carried_out(async move { Ok(EndpointView::from(&service.switch.set_sandbox(&endpoint, request.netns).await?)) })
        .await
}

/// Replaces the published ports of an endpoint.
#[utoipa::path(put, path = "/endpoints/{endpoint}/published", tag = "endpoints", request_body = PublishedRequest, params(("endpoint" = String, Path, description = "Name, id or owner:key")), responses((status = 200, body = EndpointView)))]
async fn set_published(
    State(service): State<Service>,
    Path(endpoint): Path<String>,
    Body(request): Body<PublishedRequest>,
) -> Response {
    carried_out(async move {
        let ports = requests::ports(&request.ports)?;
        let endpoint = service.switch.set_published(&endpoint, ports, request.hold.unwrap_or(true)).await?;
        Ok(EndpointView::from(&endpoint))
    })
    .await
}

/// Attaches a network namespace.
#[utoipa::path(post, path = "/endpoints", tag = "endpoints", request_body = AttachRequest, responses((status = 200, body = EndpointView)))]
async fn attach(State(service): State<Service>, Body(request): Body<AttachRequest>) -> Response {
    carried_out(async move {
        let mut request = request;
        let endpoint = match request.ensure.take() {
            Some(network) => service.switch.attach_ensured(network.try_into()?, request.try_into()?).await?,
            None => service.switch.attach(request.try_into()?).await?,
        };
        Ok(EndpointView::from(&endpoint))
    })
    .await
}

/// Returns the details of an endpoint.
#[utoipa::path(get, path = "/endpoints/{endpoint}", tag = "endpoints", params(("endpoint" = String, Path, description = "Name or id")), responses((status = 200, body = EndpointDetails)))]
async fn inspect(State(service): State<Service>, Path(endpoint): Path<String>) -> Response {
    let not_found = || SwitchError::EndpointNotFound(endpoint.clone());
    let details = service.switch.inspect(&endpoint);
    answer(details.and_then(|details| views::endpoint_details(details).ok_or_else(not_found)))
}

/// Detaches an endpoint, or all endpoints of a namespace.
#[utoipa::path(post, path = "/detach", tag = "endpoints", request_body = DetachRequest, responses((status = 200, body = Detached)))]
async fn detach(State(service): State<Service>, Body(request): Body<DetachRequest>) -> Response {
    carried_out(async move { Ok(Detached { detached: service.switch.detach(request.into()).await? }) }).await
}

/// Lists the peers by address.
#[utoipa::path(get, path = "/peers", tag = "peers", responses((status = 200, body = Vec<PeerView>)))]
async fn peers(State(service): State<Service>) -> Response {
    carried_out(async move { Ok(translate::<PeerView, _>(service.switch.peers().await?)) }).await
}

/// Adds a peer.
#[utoipa::path(post, path = "/peers", tag = "peers", request_body = PeerRequest, responses((status = 200, body = PeerView)))]
async fn add_peer(State(service): State<Service>, Body(request): Body<PeerRequest>) -> Response {
    carried_out(async move {
        let (address, key) = requests::peer(&request)?;
        Ok(PeerView::from(service.switch.add_peer(address, key).await?))
    })
    .await
}

/// Returns this host's public key for WireGuard, and creates the key if none exists.
#[utoipa::path(post, path = "/key", tag = "peers", responses((status = 200, body = String)))]
async fn public_key(State(service): State<Service>) -> Response {
    carried_out(async move { Ok(service.switch.public_key().await?.to_string()) }).await
}

/// Removes a peer.
#[utoipa::path(delete, path = "/peers/{address}", tag = "peers", params(("address" = String, Path, description = "Address of the peer")), responses((status = 200, body = String)))]
async fn remove_peer(State(service): State<Service>, Path(address): Path<String>) -> Response {
    carried_out(async move {
        let address = requests::peer_address(&address)?;
        service.switch.remove_peer(address).await?;
        Ok(address.to_string())
    })
    .await
}

/// Returns the present and the required settings of the ports' devices.
#[utoipa::path(get, path = "/health", tag = "looking", responses((status = 200, body = Vec<PortHealth>)))]
async fn health(State(service): State<Service>) -> Response {
    carried_out(async move { Ok(translate::<PortHealth, _>(service.switch.health().await?)) }).await
}

/// Returns the counters of the ports.
#[utoipa::path(get, path = "/stats", tag = "looking", params(StatsFilter), responses((status = 200, body = Vec<PortView>)))]
async fn stats(State(service): State<Service>, Query(filter): Query<StatsFilter>) -> Response {
    let of = filter.of;
    looked_up(service, move |switch| {
        let stats = if filter.sum { switch.network_stats(of.as_deref()) } else { switch.stats(of.as_deref()) };
        Ok(translate::<PortView, _>(stats?))
    })
    .await
}

/// Streams frames as they enter, and optionally as they leave, until the client disconnects.
#[utoipa::path(get, path = "/frames", tag = "looking", params(FramesFilter), responses((status = 200, description = "A line of JSON for each frame", body = FrameMessage, content_type = "application/x-ndjson")))]
async fn frames(State(service): State<Service>, Query(filter): Query<FramesFilter>) -> Response {
    let frames = match service.switch.observe(&filter.into()) {
        Ok(frames) => frames,
        Err(error) => return failure(&error),
    };
    // A client that disconnects drops the stream, and with it the observation.
    lines(stream::unfold(frames, |mut frames| async move {
        let messages = frames.next().await?;
        Some((translate::<FrameMessage, _>(messages), frames))
    }))
}

/// Returns metrics for Prometheus in OpenMetrics format. The path has no API version.
#[utoipa::path(get, path = "/metrics", tag = "looking", responses((status = 200, description = "OpenMetrics text", body = String, content_type = "application/openmetrics-text")))]
async fn metrics(State(service): State<Service>) -> Response {
    let measured = tokio::task::spawn_blocking(move || service.switch.measure()).await;
    match measured.map_err(died).flatten() {
        Ok(measured) => match Exposition(&measured).text() {
            Ok(text) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
            Err(error) => respond(StatusCode::INTERNAL_SERVER_ERROR, ErrorBody::new("metrics", &error.to_string())),
        },
        Err(error) => failure(&error),
    }
}

/// Returns the decision about a frame, step by step. Changes nothing.
#[utoipa::path(post, path = "/trace", tag = "looking", request_body = TraceRequest, responses((status = 200, body = TraceView)))]
async fn trace(State(service): State<Service>, Body(request): Body<TraceRequest>) -> Response {
    looked_up(service, move |switch| Ok(TraceView::from(switch.trace(&request.try_into()?)?))).await
}

/// Lists the stations in the FDB.
#[utoipa::path(get, path = "/fdb", tag = "fdb", params(FdbFilter), responses((status = 200, body = Vec<StationView>)))]
async fn stations(State(service): State<Service>, Query(filter): Query<FdbFilter>) -> Response {
    looked_up(service, move |switch| Ok(translate::<StationView, _>(switch.stations(&filter.try_into()?)?))).await
}

/// Adds a station to the FDB.
#[utoipa::path(post, path = "/fdb", tag = "fdb", request_body = FdbStatic, responses((status = 200, description = "Done; the body is null")))]
async fn add_station(State(service): State<Service>, Body(request): Body<FdbStatic>) -> Response {
    carried_out(async move {
        let FdbStatic { key, port, sticky } = request;
        service.switch.add_station(&key.try_into()?, &port, sticky).await
    })
    .await
}

/// Removes a station.
#[utoipa::path(delete, path = "/fdb", tag = "fdb", params(FdbKeyRequest), responses((status = 200, body = FdbFlushed)))]
async fn remove_station(State(service): State<Service>, Query(request): Query<FdbKeyRequest>) -> Response {
    carried_out(async move {
        let removed = service.switch.remove_station(&request.try_into()?).await?;
        Ok(FdbFlushed { removed: usize::from(removed) })
    })
    .await
}

/// Removes learned stations.
#[utoipa::path(post, path = "/fdb/flush", tag = "fdb", request_body = FdbFlush, responses((status = 200, body = FdbFlushed)))]
async fn flush_stations(State(service): State<Service>, Body(request): Body<FdbFlush>) -> Response {
    carried_out(async move { Ok(FdbFlushed { removed: service.switch.flush_stations(&request.try_into()?).await? }) })
        .await
}

/// Lists the multicast groups that have listeners.
#[utoipa::path(get, path = "/mdb", tag = "fdb", params(MdbFilter), responses((status = 200, body = Vec<MulticastGroupView>)))]
async fn multicast_groups(State(service): State<Service>, Query(filter): Query<MdbFilter>) -> Response {
    looked_up(service, move |switch| {
        Ok(translate::<MulticastGroupView, _>(switch.multicast_groups(filter.network.as_deref())?))
    })
    .await
}

/// Streams changes of the FDB as JSON lines, until the client disconnects or the switch goes down.
#[utoipa::path(get, path = "/fdb/watch", tag = "fdb", params(FdbFilter), responses((status = 200, description = "A line of JSON for each change", body = FdbChange, content_type = "application/x-ndjson")))]
async fn watch_stations(State(service): State<Service>, Query(filter): Query<FdbFilter>) -> Response {
    let watch = tokio::task::spawn_blocking(move || service.switch.watch_stations(&filter.try_into()?)).await;
    match watch.map_err(died).flatten() {
        Ok(watch) => lines(stream::unfold(watch, |mut watch| async move {
            let changes = watch.changes().await?;
            Some((translate::<FdbChange, _>(changes), watch))
        })),
        Err(error) => failure(&error),
    }
}

/// Streams documents, a line of JSON each.
fn lines<T: Serialize>(batches: impl Stream<Item = Vec<T>> + Send + 'static) -> Response {
    let text = batches.map(|batch| {
        let lines: Result<String, _> = batch.iter().map(|item| Ok(serde_json::to_string(item)? + "\n")).collect();
        lines.map_err(|error: serde_json::Error| error)
    });
    ([(CONTENT_TYPE, "application/x-ndjson")], axum::body::Body::from_stream(text)).into_response()
}

/// Returns this document.
#[utoipa::path(get, path = "/openapi.json", tag = "switch", responses((status = 200, description = "OpenAPI 3.1", body = serde_json::Value)))]
async fn openapi() -> Response {
    Json(document()).into_response()
}

/// Refuses a request that waited so long in the socket that its client has given up.
async fn refuse_stale(request: Request, next: Next) -> Response {
    let sent = request.headers().get(SENT_HEADER).and_then(|sent| sent.to_str().ok());
    match sent.and_then(age).filter(|age| *age > STALE) {
        None => next.run(request).await,
        Some(age) => {
            let message = format!(
                "the daemon came to this request only after {} s, and did not begin it (try again)",
                age.as_secs()
            );
            respond(StatusCode::SERVICE_UNAVAILABLE, ErrorBody::new("stale_request", &message))
        }
    }
}

async fn nowhere(request: Request) -> Response {
    let message = format!("no {} {} in this API", request.method(), request.uri().path());
    respond(StatusCode::NOT_FOUND, ErrorBody::new("no_such_path", &message))
}

/// Runs a change to completion, even if the client disconnects meanwhile.
async fn carried_out<T: Serialize + Send + 'static>(
    change: impl Future<Output = Result<T, SwitchError>> + Send + 'static,
) -> Response {
    answer(tokio::spawn(change).await.map_err(died).flatten())
}

/// Runs a lookup that may block outside of the runtime's worker threads.
async fn looked_up<T: Serialize + Send + 'static>(
    service: Service,
    look: impl FnOnce(&Switch) -> Result<T, SwitchError> + Send + 'static,
) -> Response {
    answer(tokio::task::spawn_blocking(move || look(&service.switch)).await.map_err(died).flatten())
}

fn answer<T: Serialize>(result: Result<T, SwitchError>) -> Response {
    match result {
        Ok(value) => Json(value).into_response(),
        Err(error) => failure(&error),
    }
}

/// Returns the error of a use case that panicked.
fn died(error: JoinError) -> SwitchError {
    ApplyError::from(error).into()
}

/// Translates the results of a use case one by one.
fn translate<View: From<T>, T>(results: Vec<T>) -> Vec<View> {
    results.into_iter().map(View::from).collect()
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
    respond(status, error.into())
}

fn respond(status: StatusCode, error: ErrorBody) -> Response {
    (status, Json(ErrorDocument { error })).into_response()
}

/// The JSON body of a request. An invalid body is answered as every error is.
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
    fn every_served_path_is_in_the_document() {
        // No handler bypasses the list with a route of its own.
        let code = |text: &'static str| text.split("#[cfg(test)]").next().expect("the code");
        let sources = [code(include_str!("mod.rs")), code(include_str!("pools.rs"))];
        assert!(sources.iter().all(|source| !source.contains(".route(")));
        let handlers: usize = sources.iter().map(|source| source.matches("#[utoipa::path(").count()).sum();
        let document = serde_json::to_value(document()).expect("JSON");
        let paths = document["paths"].as_object().expect("paths");
        let operations: usize = paths.values().filter_map(|path| Some(path.as_object()?.len())).sum();
        assert_eq!(handlers, operations);
    }
}
