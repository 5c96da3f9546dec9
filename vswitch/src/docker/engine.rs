//! A client of Docker's own API, which says what the plugin protocol does not: names.

use std::io;
use std::path::Path;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::handshake;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

/// The socket of Docker.
const SOCKET: &str = "/var/run/docker.sock";
/// The time after which a question is given up. Docker answers none about a container that it is
/// starting.
const PATIENCE: Duration = Duration::from_secs(2);
/// The largest answer that is read.
const LONGEST: usize = 64 << 20;

/// Asks Docker. `None` if it does not answer.
pub async fn get(path: &str) -> Option<Value> {
    let answer = async {
        let mut response = request(path).await.ok().filter(|response| response.status().is_success())?;
        let mut body = Vec::new();
        while let Some(frame) = response.body_mut().frame().await {
            let data = frame.ok()?.into_data().unwrap_or_default();
            if body.len() + data.len() > LONGEST {
                return None;
            }
            body.extend_from_slice(&data);
        }
        serde_json::from_slice(&body).ok()
    };
    tokio::time::timeout(PATIENCE, answer).await.ok()?
}

/// Sends a request. The body is read by the caller.
///
/// # Errors
/// Docker does not run, or breaks the connection.
pub async fn request(path: &str) -> io::Result<Response<Incoming>> {
    let stream = UnixStream::connect(Path::new(SOCKET)).await?;
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::spawn(connection);
    let request = Request::get(path).header("host", "docker").body(Empty::<Bytes>::new()).map_err(io::Error::other)?;
    sender.send_request(request).await.map_err(io::Error::other)
}

/// Returns a text as it stands in a path.
pub fn escaped(text: &str) -> String {
    text.chars().filter(|character| character.is_ascii_alphanumeric() || "_.-".contains(*character)).collect()
}
