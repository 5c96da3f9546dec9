//! The API's client: one connection, one request after the other.

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
use tokio::net::UnixStream;

use super::{ErrorBody, ErrorDocument, PREFIX};
use crate::model::Instance;

/// What stands for itself in a path or a query (RFC 3986, 2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// How long a daemon may take to die whose connection broke: until then its socket is there.
const DYING: Duration = Duration::from_secs(5);

/// Why a request got no answer, or which error it got.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("instance {instance} is not up (start it with `{command} up`)")]
    NotRunning {
        /// The instance.
        instance: String,
        /// The command line for it.
        command: String,
    },
    /// Not for us.
    #[error("no permission to use {socket} (be root, or in the group vswitch)", socket = .0.display())]
    Permission(PathBuf),
    /// The connection failed.
    #[error("cannot talk to the daemon at {socket}: {message} (see its log beside the socket)", socket = socket.display())]
    Connection {
        /// The socket.
        socket: PathBuf,
        /// What went wrong.
        message: String,
    },
    /// The daemon said no.
    #[error("{}", .0.message)]
    Refused(ErrorBody),
}

impl ClientError {
    /// The name for programs.
    pub fn code(&self) -> &str {
        match self {
            Self::NotRunning { .. } => "not_running",
            Self::Permission(_) => "permission_denied",
            Self::Connection { .. } => "connection",
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
    /// The daemon's process; none if it has ended, or cannot be seen.
    process: Option<OwnedFd>,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// [`ClientError::NotRunning`] where there is no socket, or nobody behind it.
    pub async fn connect(instance: &Instance) -> Result<Self, ClientError> {
        let socket = instance.socket();
        let stream = match UnixStream::connect(&socket).await {
            Ok(stream) => stream,
            Err(error) => return Err(unreachable(instance, socket, &error)),
        };
        let peer = getsockopt(&stream.as_fd(), PeerCredentials).ok();
        let process = peer.and_then(|peer| open_process(peer.pid()));
        match handshake(TokioIo::new(stream)).await {
            Ok((sender, connection)) => {
                tokio::spawn(connection);
                Ok(Self { sender, instance: instance.clone(), socket, process })
            }
            Err(error) => Err(ClientError::Connection { socket, message: error.to_string() }),
        }
    }

    /// Asks for something. `path` is below the API's version; see [`path`] and [`query`].
    ///
    /// # Errors
    /// [`ClientError::Refused`] with what the daemon says, or a broken connection.
    pub async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, ClientError> {
        self.call(Method::GET, path, None::<&()>).await
    }

    /// Sends something.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn post<T: DeserializeOwned>(&mut self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        self.call(Method::POST, path, Some(body)).await
    }

    /// Removes something.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn delete<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, ClientError> {
        self.call(Method::DELETE, path, None::<&()>).await
    }

    /// Asks for something that is streamed, a line of JSON after the other. Nothing else can be asked for meanwhile.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn stream<T>(&mut self, path: &str) -> Result<Stream<T>, ClientError> {
        let body = self.send(Method::GET, path, None::<&()>).await?.into_body();
        Ok(Stream { body, received: BytesMut::new(), socket: self.socket.clone(), lines: PhantomData })
    }

    /// Asks for what comes as it happens, until `each` has had enough (false) or the daemon ends it.
    ///
    /// # Errors
    /// As [`Client::get`], or what `each` failed with.
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

    /// Waits until the daemon's process has ended, at most so long.
    pub async fn ended(self, patience: Duration) {
        if let Some(process) = self.process {
            ended(process, patience).await;
        }
    }

    /// Why the connection broke: a daemon that dies breaks it while its socket is still there for a moment.
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

    async fn whole(&self, response: Response<Incoming>) -> Result<Bytes, ClientError> {
        match response.into_body().collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) => Err(self.why_broken(&error).await),
        }
    }

    /// Sends a request; the answer, if it is no refusal.
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
            .body(Full::new(Bytes::from(body.unwrap_or_default())))
            .map_err(|error| failed(error.to_string()))?;
        let response = match self.sender.send_request(request).await {
            Ok(response) => response,
            Err(error) => return Err(self.why_broken(&error).await),
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

/// Lines of JSON, as they come.
#[derive(Debug)]
pub struct Stream<T> {
    body: Incoming,
    received: BytesMut,
    socket: PathBuf,
    lines: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Stream<T> {
    /// The next line; none when the daemon has ended it. Nothing is lost if this is given up while it waits.
    ///
    /// # Errors
    /// The connection broke, or what came is something else.
    pub async fn next(&mut self) -> Result<Option<T>, ClientError> {
        loop {
            if let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                let line = self.received.split_to(end + 1);
                let line = serde_json::from_slice(&line[..end]);
                return line.map(Some).map_err(|error| self.failed(format!("unexpected answer: {error}")));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.received.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => return Err(self.failed(broken(&error))),
            }
        }
    }

    /// Whether there is a line already.
    pub fn has_next(&self) -> bool {
        self.received.contains(&b'\n')
    }

    fn failed(&self, message: String) -> ClientError {
        ClientError::Connection { socket: self.socket.clone(), message }
    }
}

/// A path below the API's version, of segments that may hold anything.
pub fn path(segments: &[&str]) -> String {
    segments.iter().map(|segment| format!("/{}", utf8_percent_encode(segment, RESERVED))).collect()
}

/// A query of those that have a value.
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
        _ => ClientError::Connection { socket, message: error.to_string() },
    }
}

/// A descriptor that tells when a process ends (pidfd_open(2)); `None` if it has.
fn open_process(pid: i32) -> Option<OwnedFd> {
    // SAFETY: no pointers; what is returned is a descriptor of ours, or an error.
    let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let descriptor = i32::try_from(descriptor).ok().filter(|descriptor| *descriptor >= 0)?;
    // SAFETY: it was just opened, and nobody else knows it.
    Some(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

async fn ended(process: OwnedFd, patience: Duration) {
    // SAFETY: the descriptor is owned by what is registered, and stays the same.
    let registered = unsafe { AsyncFd::register_with_interest(process, Interest::READABLE) };
    if let Ok(process) = registered {
        // Readable when it has ended.
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
