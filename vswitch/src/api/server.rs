//! The API's server: every path is one use case of the switch.

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, Path, Query, Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot};

use super::{
    AttachRequest, ConnectRequest, DetachRequest, DisconnectRequest, DownRequest, ErrorBody, FdbFilter, FdbFlush,
    FdbKeyRequest, FdbStatic, NetworkRequest, PREFIX, StatsFilter, TraceRequest,
};
use crate::switch::{ErrorKind, Switch, SwitchError};

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
    let paths = Router::new()
        .route("/status", get(status))
        .route("/down", post(take_down))
        .route("/networks", get(networks).post(create_network))
        .route("/networks/prune", post(prune_networks))
        .route("/networks/{network}", get(inspect_network).delete(remove_network))
        .route("/networks/{network}/connect", post(connect))
        .route("/networks/{network}/disconnect", post(disconnect))
        .route("/endpoints", get(endpoints).post(attach))
        .route("/endpoints/{endpoint}", get(inspect))
        .route("/detach", post(detach))
        .route("/stats", get(stats))
        .route("/trace", post(trace))
        .route("/fdb", get(stations).post(add_station).delete(remove_station))
        .route("/fdb/flush", post(flush_stations));
    Router::new()
        .nest(PREFIX, paths)
        .route("/metrics", get(metrics))
        .fallback(nowhere)
        .with_state(Service { switch, down })
}

async fn status(State(service): State<Service>) -> Response {
    looked_up(service, |switch| switch.status()).await
}

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

async fn networks(State(service): State<Service>) -> Response {
    Json(service.switch.networks()).into_response()
}

async fn create_network(State(service): State<Service>, Body(request): Body<NetworkRequest>) -> Response {
    carried_out(async move { service.switch.create_network(request).await }).await
}

async fn inspect_network(State(service): State<Service>, Path(network): Path<String>) -> Response {
    answer(service.switch.inspect_network(&network))
}

async fn remove_network(State(service): State<Service>, Path(network): Path<String>) -> Response {
    carried_out(async move { service.switch.remove_network(&network).await }).await
}

async fn prune_networks(State(service): State<Service>) -> Response {
    carried_out(async move { service.switch.prune_networks().await }).await
}

async fn connect(
    State(service): State<Service>,
    Path(network): Path<String>,
    Body(request): Body<ConnectRequest>,
) -> Response {
    carried_out(async move { service.switch.connect(network, request).await }).await
}

async fn disconnect(
    State(service): State<Service>,
    Path(network): Path<String>,
    Body(request): Body<DisconnectRequest>,
) -> Response {
    carried_out(async move { service.switch.disconnect(&network, &request).await }).await
}

async fn endpoints(State(service): State<Service>) -> Response {
    Json(service.switch.endpoints()).into_response()
}

async fn attach(State(service): State<Service>, Body(request): Body<AttachRequest>) -> Response {
    carried_out(async move { service.switch.attach(request).await }).await
}

async fn inspect(State(service): State<Service>, Path(endpoint): Path<String>) -> Response {
    answer(service.switch.inspect(&endpoint))
}

async fn detach(State(service): State<Service>, Body(request): Body<DetachRequest>) -> Response {
    carried_out(async move { service.switch.detach(request).await }).await
}

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

/// Not below the API's version: it is where Prometheus looks, and has a format of its own.
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

async fn trace(State(service): State<Service>, Body(request): Body<TraceRequest>) -> Response {
    looked_up(service, move |switch| switch.trace(&request)).await
}

async fn stations(State(service): State<Service>, Query(filter): Query<FdbFilter>) -> Response {
    looked_up(service, move |switch| switch.stations(&filter)).await
}

async fn add_station(State(service): State<Service>, Body(request): Body<FdbStatic>) -> Response {
    carried_out(async move { service.switch.add_station(&request).await }).await
}

async fn remove_station(State(service): State<Service>, Query(request): Query<FdbKeyRequest>) -> Response {
    carried_out(async move { service.switch.remove_station(&request).await }).await
}

async fn flush_stations(State(service): State<Service>, Body(request): Body<FdbFlush>) -> Response {
    carried_out(async move { service.switch.flush_stations(&request).await }).await
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
    (status, Json(super::ErrorDocument { error })).into_response()
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
