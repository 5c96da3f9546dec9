//! The API's client: one connection, which serves one request at a time.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, FromRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use bytes::BytesMut;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::patience::{self, Silence, patiently};
use super::{ErrorBody, ErrorDocument, PREFIX, SENT_HEADER};
use crate::model::Instance;

/// The characters that are escaped in a path or a query: all but the unreserved ones (RFC 3986,
/// section 2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// The longest time that a daemon whose connection broke takes to exit. Until then its socket
/// exists.
const DYING: Duration = Duration::from_secs(5);

/// The reason why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The daemon does not run.
    #[error("instance {instance} is not up (start it with `{command} up`)")]
    NotRunning {
        /// The instance.
        instance: String,
        /// The command line of the instance.
        command: String,
    },
    /// The socket's permissions exclude this user.
    #[error("no permission to use {socket} (be root, or in the group vswitch)", socket = .0.display())]
    Permission(PathBuf),
    /// The connection failed.
    #[error("cannot talk to the daemon at {socket}: {message} (see its log beside the socket)", socket = socket.display())]
    Connection {
        /// The socket.
        socket: PathBuf,
        /// The cause.
        message: String,
    },
    /// The daemon does not answer.
    #[error("{0}")]
    NotAnswering(Silence),
    /// The daemon refused the request.
    #[error("{}", .0.message)]
    Refused(ErrorBody),
}

impl ClientError {
    /// Returns the error code.
    pub fn code(&self) -> &str {
        match self {
            Self::NotRunning { .. } => "not_running",
            Self::Permission(_) => "permission_denied",
            Self::Connection { .. } => "connection",
            Self::NotAnswering(_) => "not_answering",
            Self::Refused(error) => &error.code,
        }
    }
}

/// A connection to the daemon of an instance.
#[derive(Debug)]
pub struct Client {
    sender: SendRequest<Full<Bytes>>,
    instance: Instance,
    socket: PathBuf,
    /// The daemon's process; `None` if it has ended or is not visible.
    process: Option<OwnedFd>,
    /// The same process by its number.
    pid: Option<i32>,
    /// The daemon did not answer a request. Further requests fail at once.
    silent: bool,
}

impl Client {
    /// Connects to the daemon of an instance.
    ///
    /// # Errors
    /// Returns [`ClientError::NotRunning`] if the socket does not exist or no process accepts
    /// connections.
    pub async fn connect(instance: &Instance) -> Result<Self, ClientError> {
        let socket = instance.socket();
        let stream = match patience::connect(&socket).await {
            Ok(stream) => stream,
            Err(error) => return Err(unreachable(instance, socket, &error)),
        };
        let peer = getsockopt(&stream.as_fd(), PeerCredentials).ok();
        // A process in another PID namespace has the number 0.
        let pid = peer.map(|peer| peer.pid()).filter(|pid| *pid > 0);
        let process = pid.and_then(open_process);
        match handshake(TokioIo::new(stream)).await {
            Ok((sender, connection)) => {
                tokio::spawn(connection);
                Ok(Self { sender, instance: instance.clone(), socket, process, pid, silent: false })
            }
            Err(error) => Err(ClientError::Connection { socket, message: error.to_string() }),
        }
    }

    /// Sends a GET request. `path` is below the API's version; see [`path`] and [`query`].
    ///
    /// # Errors
    /// Returns [`ClientError::Refused`] with the daemon's error, or an error of the connection.
    pub async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, ClientError> {
        self.call(Method::GET, path, None::<&()>).await
    }

    /// Sends a POST request.
    ///
    /// # Errors
    /// Fails as [`Client::get`] does.
    pub async fn post<T: DeserializeOwned>(&mut self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        self.call(Method::POST, path, Some(body)).await
    }

    /// Sends a DELETE request.
    ///
    /// # Errors
    /// Fails as [`Client::get`] does.
    pub async fn delete<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, ClientError> {
        self.call(Method::DELETE, path, None::<&()>).await
    }

    /// Requests a stream of JSON lines. The connection serves no other request meanwhile.
    ///
    /// # Errors
    /// Fails as [`Client::get`] does.
    pub async fn stream<T>(&mut self, path: &str) -> Result<Stream<T>, ClientError> {
        let body = self.send(Method::GET, path, None::<&()>).await?.into_body();
        let (instance, socket, pid) = (self.instance.clone(), self.socket.clone(), self.pid);
        Ok(Stream { body, received: BytesMut::new(), instance, socket, pid, lines: PhantomData })
    }

    /// Requests a stream and calls `each` on every item, until `each` returns false or the daemon
    /// ends the stream.
    ///
    /// # Errors
    /// Fails as [`Client::get`] does, or with the error of `each`.
    pub async fn follow<T: DeserializeOwned, E: From<ClientError>>(
        &mut self,
        path: &str,
        mut each: impl FnMut(T) -> Result<bool, E>,
    ) -> Result<(), E> {
        let mut stream = self.stream(path).await?;
        while let Some(item) = stream.next().await? {
            if !each(item)? {
                break;
            }
        }
        Ok(())
    }

    /// Waits until the daemon's process has ended, at most for `patience`.
    pub async fn ended(self, patience: Duration) {
        if let Some(process) = self.process {
            ended(process, patience).await;
        }
    }

    /// Returns the reason why the connection broke. The socket of a dying daemon still exists for a
    /// moment after the connection broke.
    async fn why_broken(&self, error: &hyper::Error) -> ClientError {
        if let Some(process) = self.process.as_ref().and_then(|process| process.try_clone().ok()) {
            ended(process, DYING).await;
        }
        match Self::connect(&self.instance).await {
            Err(gone) => gone,
            Ok(_) => ClientError::Connection { socket: self.socket.clone(), message: broken(error) },
        }
    }

    async fn call<T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, ClientError> {
        let socket = self.socket.clone();
        let failed = |message: String| ClientError::Connection { socket: socket.clone(), message };
        let response = self.send(method, path, body).await?;
        let bytes = self.whole(response).await?;
        serde_json::from_slice(&bytes).map_err(|error| failed(format!("unexpected answer: {error}")))
    }

    async fn whole(&mut self, response: Response<Incoming>) -> Result<Bytes, ClientError> {
        match patiently(&self.socket, response.into_body().collect()).await {
            Some(Ok(body)) => Ok(body.to_bytes()),
            Some(Err(error)) => Err(self.why_broken(&error).await),
            None => Err(self.silence()),
        }
    }

    /// Returns the error of a daemon that does not answer, and keeps further requests from waiting.
    fn silence(&mut self) -> ClientError {
        self.silent = true;
        ClientError::NotAnswering(Silence::of(&self.instance, self.pid))
    }

    /// Sends a request and returns the answer, unless the daemon refused the request.
    async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Response<Incoming>, ClientError> {
        let socket = self.socket.clone();
        let failed = |message: String| ClientError::Connection { socket: socket.clone(), message };
        let body = body.map(serde_json::to_vec).transpose().map_err(|error| failed(error.to_string()))?;
        let request = Request::builder()
            .method(method)
            .uri(format!("{PREFIX}{path}"))
            .header("host", "vswitch")
            .header("content-type", "application/json")
            .header(SENT_HEADER, patience::now())
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(|error| failed(error.to_string()))?;
        if self.silent {
            return Err(self.silence());
        }
        let response = match patiently(&self.socket, self.sender.send_request(request)).await {
            Some(Ok(response)) => response,
            Some(Err(error)) => return Err(self.why_broken(&error).await),
            None => return Err(self.silence()),
        };
        let status = response.status();
        if status == StatusCode::OK {
            return Ok(response);
        }
        let bytes = self.whole(response).await?;
        match serde_json::from_slice::<ErrorDocument>(&bytes) {
            Ok(document) => Err(ClientError::Refused(document.error)),
            Err(_) => Err(failed(format!("unexpected answer: {status}"))),
        }
    }
}

/// A stream of JSON lines.
#[derive(Debug)]
pub struct Stream<T> {
    body: Incoming,
    received: BytesMut,
    instance: Instance,
    socket: PathBuf,
    pid: Option<i32>,
    lines: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Stream<T> {
    /// Returns the next line, or `None` at the end of the stream. The future may be dropped while
    /// it waits; no data is lost.
    ///
    /// # Errors
    /// Fails if the connection broke or the line is no valid `T`.
    pub async fn next(&mut self) -> Result<Option<T>, ClientError> {
        loop {
            if let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                let line = self.received.split_to(end + 1);
                let line = serde_json::from_slice(&line[..end]);
                return line.map(Some).map_err(|error| self.failed(format!("unexpected answer: {error}")));
            }
            match patiently(&self.socket, self.body.frame()).await {
                Some(None) => return Ok(None),
                Some(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        self.received.extend_from_slice(&data);
                    }
                }
                Some(Some(Err(error))) => return Err(self.failed(broken(&error))),
                None => return Err(ClientError::NotAnswering(Silence::of(&self.instance, self.pid))),
            }
        }
    }

    /// Reports whether a complete line was received already.
    pub fn has_next(&self) -> bool {
        self.received.contains(&b'\n')
    }

    fn failed(&self, message: String) -> ClientError {
        ClientError::Connection { socket: self.socket.clone(), message }
    }
}

/// Returns a path below the API's version. Segments may contain any characters.
pub fn path(segments: &[&str]) -> String {
    segments.iter().map(|segment| format!("/{}", utf8_percent_encode(segment, RESERVED))).collect()
}

/// Returns a query string of the pairs that have a value.
pub fn query(pairs: &[(&str, Option<&str>)]) -> String {
    let given = pairs.iter().filter_map(|(key, value)| Some((key, (*value)?)));
    let pairs: Vec<_> = given.map(|(key, value)| format!("{key}={}", utf8_percent_encode(value, RESERVED))).collect();
    if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
}

fn unreachable(instance: &Instance, socket: PathBuf, error: &io::Error) -> ClientError {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            ClientError::NotRunning { instance: instance.name().to_string(), command: instance.command() }
        }
        io::ErrorKind::PermissionDenied => ClientError::Permission(socket),
        io::ErrorKind::WouldBlock => ClientError::NotAnswering(Silence::of(instance, None)),
        _ => ClientError::Connection { socket, message: error.to_string() },
    }
}

/// Returns a descriptor that becomes readable when a process ends (pidfd_open(2)); `None` if the
/// process has ended.
fn open_process(pid: i32) -> Option<OwnedFd> {
    // SAFETY: no pointers are passed. The result is a new descriptor or an error.
    let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let descriptor = i32::try_from(descriptor).ok().filter(|descriptor| *descriptor >= 0)?;
    // SAFETY: the descriptor was just opened, and has no other owner.
    Some(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

async fn ended(process: OwnedFd, patience: Duration) {
    // SAFETY: the registered value owns the descriptor, which stays the same.
    let registered = unsafe { AsyncFd::register_with_interest(process, Interest::READABLE) };
    if let Ok(process) = registered {
        // The descriptor becomes readable when the process has ended.
        let _ = tokio::time::timeout(patience, process.readable()).await;
    }
}

fn broken(error: &hyper::Error) -> String {
    if error.is_incomplete_message() || error.is_closed() {
        "it went away before it answered".to_owned()
    } else {
        error.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anything_can_be_asked_for() {
        assert_eq!(path(&["endpoints", "web-1"]), "/endpoints/web-1");
        assert_eq!(path(&["endpoints", "../a b?"]), "/endpoints/..%2Fa%20b%3F");
        assert_eq!(query(&[("network", Some("a&b")), ("port", None)]), "?network=a%26b");
        assert_eq!(query(&[("port", None)]), "");
    }
}
