//! Requests to etcd, with a deadline, retries, and classified errors.
//!
//! A request that was repeated, or that failed, may have been carried out. Every request must
//! therefore have the same result when it is carried out twice.

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use etcd_client::{
    Certificate, Client, ConnectOptions, GetOptions, GetResponse, Identity, KeyValue, LeaseTimeToLiveOptions,
    PutOptions, TlsOptions, Txn, TxnOp, TxnResponse, WatchOptions, WatchStream,
};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::error::{ClusterError, ErrorClass, classify};
use super::health::Monitor;
use super::options::Options;

/// Time limit for a request, including all attempts.
pub(super) const DEADLINE: Duration = Duration::from_secs(5);
/// Time limit for one attempt. A member that hangs must not use up the time for the others.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(1);
/// Time limit for a connection to be established.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Interval of HTTP/2 pings. etcd treats more than one per 5 s as an attack.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// First pause between two attempts, doubled each time, and the longest pause.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));
/// Number of keys per read. A message of etcd has at most 4 MB.
const PAGE_SIZE: i64 = 1000;

/// Client of etcd.
pub(super) struct Etcd {
    options: Options,
    connect: ConnectOptions,
    client: Mutex<Option<Client>>,
    /// Records the result of every request.
    pub(super) monitor: Monitor,
}

/// Keys and values at one revision.
pub(super) struct RangeRead {
    /// The revision.
    pub(super) revision: i64,
    /// Id of the etcd cluster that sent them.
    pub(super) cluster: u64,
    /// Keys and values in key order.
    pub(super) entries: Vec<KeyValue>,
}

impl Etcd {
    /// Returns the addresses of etcd for messages.
    pub(super) fn addresses(&self) -> String {
        self.options.to_string()
    }

    /// Reads the files that the options name. Does not connect yet.
    ///
    /// # Errors
    /// [`ClusterError::File`].
    pub(super) async fn new(options: Options) -> Result<Self, ClusterError> {
        let mut connect = ConnectOptions::new()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_keep_alive(PING_INTERVAL, DEADLINE)
            // etcd closes a connection that is pinged while no request is in progress.
            .with_keep_alive_while_idle(false)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if options.uses_tls() {
            let mut tls = TlsOptions::new();
            tls = match options.authority() {
                Some(path) => tls.ca_certificate(Certificate::from_pem(
                    read_pem("the authority's certificate", path, CERTIFICATE).await?,
                )),
                None => tls.with_enabled_roots(),
            };
            if let Some(identity) = options.identity() {
                let certificate = read_pem("this host's certificate", &identity.certificate, CERTIFICATE).await?;
                let key = read_pem("this host's key", &identity.key, KEY).await?;
                tls = tls.identity(Identity::from_pem(certificate, key));
            }
            connect = connect.with_tls(tls);
        }
        if let Some(user) = options.user() {
            let password = read_file("the password for etcd", &user.password).await?;
            connect = connect.with_user(&user.name, password.trim_end_matches(['\r', '\n']));
        }
        Ok(Self { options, connect, client: Mutex::new(None), monitor: Monitor::new() })
    }

    /// Runs a transaction.
    ///
    /// # Errors
    /// Those of [`Etcd::run`].
    pub(super) async fn txn(&self, purpose: &str, txn: Txn) -> Result<TxnResponse, ClusterError> {
        let request = |mut client: Client| {
            let txn = txn.clone();
            async move { client.txn(txn).await }
        };
        let answer = self.run(purpose, request).await?;
        self.monitor.note_revision(answer.header().map_or(0, |header| header.revision()));
        Ok(answer)
    }

    /// Reads one key.
    ///
    /// # Errors
    /// Those of [`Etcd::run`].
    pub(super) async fn get(&self, purpose: &str, key: &str) -> Result<Option<KeyValue>, ClusterError> {
        let mut answer = self.range(purpose, key.to_owned(), GetOptions::new()).await?;
        Ok(answer.take_kvs().into_iter().next())
    }

    /// Reads all keys that start with `prefix`, at revision `at` or at the newest one.
    ///
    /// # Errors
    /// Those of [`Etcd::run`]. [`ClusterError::Compacted`] if the revision is compacted.
    pub(super) async fn read(&self, purpose: &str, prefix: &str, at: Option<i64>) -> Result<RangeRead, ClusterError> {
        self.read_range(purpose, prefix.to_owned(), prefix_end(prefix), at, GetOptions::new()).await
    }

    /// Lists the keys from `first` to `last` inclusive, without values.
    ///
    /// # Errors
    /// Those of [`Etcd::run`].
    pub(super) async fn keys(&self, purpose: &str, first: &str, last: &str) -> Result<Vec<KeyValue>, ClusterError> {
        let options = GetOptions::new().with_keys_only();
        Ok(self.read_range(purpose, first.to_owned(), format!("{last}\0"), None, options).await?.entries)
    }

    async fn read_range(
        &self,
        purpose: &str,
        start: String,
        end: String,
        at: Option<i64>,
        options: GetOptions,
    ) -> Result<RangeRead, ClusterError> {
        let begin = || RangeRead { revision: at.unwrap_or(0), cluster: 0, entries: Vec::new() };
        let (mut read, mut first) = (begin(), start.clone());
        loop {
            let page = options.clone().with_range(end.as_str()).with_limit(PAGE_SIZE).with_revision(read.revision);
            let mut answer = match self.range(purpose, first.clone(), page).await {
                // The revision was compacted between two pages: start again at the newest one.
                Err(ClusterError::Compacted) if at.is_none() => {
                    (read, first) = (begin(), start.clone());
                    continue;
                }
                other => other?,
            };
            if let Some(header) = answer.header() {
                read.cluster = header.cluster_id();
                if read.revision == 0 {
                    read.revision = header.revision();
                }
            }
            let more = answer.more();
            read.entries.extend(answer.take_kvs());
            match read.entries.last() {
                Some(last) if more => first = format!("{}\0", String::from_utf8_lossy(last.key())),
                _ => return Ok(read),
            }
        }
    }

    async fn range(&self, purpose: &str, key: String, options: GetOptions) -> Result<GetResponse, ClusterError> {
        let request = |mut client: Client| {
            let (key, options) = (key.clone(), options.clone());
            async move { client.get(key, Some(options)).await }
        };
        let answer = self.run(purpose, request).await?;
        self.monitor.note_revision(answer.header().map_or(0, |header| header.revision()));
        Ok(answer)
    }

    /// Requests a lease and returns its id.
    ///
    /// # Errors
    /// Those of [`Etcd::run`].
    pub(super) async fn grant(&self, purpose: &str) -> Result<i64, ClusterError> {
        let seconds = i64::try_from(self.options.lease().as_secs()).unwrap_or(i64::MAX);
        let request = |mut client: Client| async move { client.lease_grant(seconds, None).await };
        self.run(purpose, request).await.map(|answer| answer.id())
    }

    /// Renews a lease to its full period.
    ///
    /// # Errors
    /// Those of [`Etcd::run`], and [`ClusterError::LeaseLost`].
    pub(super) async fn keep_alive(&self, purpose: &str, lease: i64) -> Result<(), ClusterError> {
        let request = |mut client: Client| async move { client.lease_keep_alive(lease).await };
        self.run(purpose, request).await.map(drop)
    }

    /// Lists the keys that are attached to a lease.
    ///
    /// # Errors
    /// Those of [`Etcd::run`].
    pub(super) async fn attached(&self, purpose: &str, lease: i64) -> Result<Vec<Vec<u8>>, ClusterError> {
        let request = |mut client: Client| async move {
            let keys = LeaseTimeToLiveOptions::new().with_keys();
            client.lease_time_to_live(lease, Some(keys)).await
        };
        self.run(purpose, request).await.map(|answer| answer.keys().to_vec())
    }

    /// Revokes a lease. etcd deletes all attached keys.
    ///
    /// # Errors
    /// Those of [`Etcd::run`], and [`ClusterError::LeaseLost`].
    pub(super) async fn revoke(&self, purpose: &str, lease: i64) -> Result<(), ClusterError> {
        let request = |mut client: Client| async move { client.lease_revoke(lease).await };
        self.run(purpose, request).await.map(drop)
    }

    /// Returns the number of members of etcd.
    ///
    /// # Errors
    /// Those of [`Etcd::run`].
    pub(super) async fn members(&self, purpose: &str) -> Result<usize, ClusterError> {
        let request = |mut client: Client| async move { client.member_list().await };
        self.run(purpose, request).await.map(|answer| answer.members().len())
    }

    /// Watches all keys that start with `prefix`, from a revision on.
    ///
    /// # Errors
    /// Those of [`Etcd::run`].
    pub(super) async fn watch(&self, purpose: &str, prefix: &str, from: i64) -> Result<WatchStream, ClusterError> {
        let request = |mut client: Client| {
            let options = WatchOptions::new().with_prefix().with_start_revision(from).with_progress_notify();
            let prefix = prefix.to_owned();
            async move { client.watch(prefix, Some(options)).await }
        };
        self.run(purpose, request).await
    }

    /// Requests a new token if a user is set. A failure shows in the next request.
    pub(super) async fn renew_token(&self) {
        let client = self.client.lock().await.clone();
        if let Some(client) = client
            && let Ok(Err(error)) = timeout(ATTEMPT_TIMEOUT, client.refresh_token()).await
        {
            tracing::debug!("etcd gave no new token: {error}");
        }
    }

    /// Repeats a request until it is answered or [`DEADLINE`] has passed.
    ///
    /// # Errors
    /// [`ClusterError::Unreachable`], [`ClusterError::Tls`], [`ClusterError::Auth`],
    /// [`ClusterError::Refused`]. [`ClusterError::LeaseLost`] and [`ClusterError::Compacted`] for
    /// requests with a lease or a revision.
    async fn run<T, F>(&self, purpose: &str, mut request: impl FnMut(Client) -> F) -> Result<T, ClusterError>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let deadline = Instant::now() + DEADLINE;
        let mut pause = PAUSES.0;
        let (mut failure, mut renewed) = (None, false);
        while Instant::now() < deadline {
            let attempt = async { request(self.client().await?).await };
            let until = deadline.min(Instant::now() + ATTEMPT_TIMEOUT);
            match timeout_at(until, attempt).await {
                Ok(Ok(answer)) => {
                    self.monitor.note_success();
                    return Ok(answer);
                }
                Ok(Err(error)) => match classify(&error) {
                    // After a certificate error the connection may just break. Keep the certificate
                    // error: it explains more.
                    ErrorClass::Transient(_) if matches!(failure, Some(ErrorClass::Certificate(_))) => {}
                    transient @ (ErrorClass::Transient(_) | ErrorClass::Certificate(_)) => failure = Some(transient),
                    // etcd does not know the token any more. The client requests a new one by
                    // itself, but not for streams.
                    ErrorClass::Auth(_) if self.options.user().is_some() && !renewed => {
                        renewed = true;
                        self.renew_token().await;
                    }
                    definite => return Err(self.final_error(definite, purpose)),
                },
                // This member did not answer. Keep the error of another member: it explains more
                // than a timeout.
                Err(_) => {}
            }
            sleep(pause.min(deadline.saturating_duration_since(Instant::now()))).await;
            pause = (pause * 2).min(PAUSES.1);
        }
        let timed_out = || ErrorClass::Transient(format!("no answer within {} s", DEADLINE.as_secs()));
        Err(self.final_error(failure.unwrap_or_else(timed_out), purpose))
    }

    /// Converts the final failure of a request and notes it in the health.
    fn final_error(&self, class: ErrorClass, purpose: &str) -> ClusterError {
        let endpoints = self.options.to_string();
        match &class {
            ErrorClass::Transient(reason) | ErrorClass::Certificate(reason) | ErrorClass::Auth(reason) => {
                self.monitor.note_failure(reason);
            }
            ErrorClass::LeaseLost | ErrorClass::Compacted | ErrorClass::Refused(_) => self.monitor.note_success(),
        }
        match class {
            ErrorClass::Transient(mut message) => {
                // With TLS 1.3, the server rejects a missing certificate after the handshake. The
                // client may only see the connection close.
                if self.options.uses_tls() && self.options.identity().is_none() {
                    message.push_str("; it may require a client certificate");
                }
                ClusterError::Unreachable { endpoints, message, purpose: purpose.to_owned() }
            }
            ErrorClass::Certificate(message) => ClusterError::Tls { endpoints, message },
            ErrorClass::Auth(message) => ClusterError::Auth { endpoints, message },
            ErrorClass::LeaseLost => ClusterError::LeaseLost,
            ErrorClass::Compacted => ClusterError::Compacted,
            ErrorClass::Refused(message) => ClusterError::Refused { endpoints, message },
        }
    }

    /// Returns the client. The first call connects, and logs in if a user is set.
    async fn client(&self) -> Result<Client, etcd_client::Error> {
        let mut client = self.client.lock().await;
        if let Some(client) = &*client {
            return Ok(client.clone());
        }
        let connected = Client::connect(self.options.urls(), Some(self.connect.clone())).await?;
        *client = Some(connected.clone());
        Ok(connected)
    }
}

/// Returns the first key after all that start with `prefix`, which ends with `/`.
pub(super) fn prefix_end(prefix: &str) -> String {
    let stem = prefix.strip_suffix('/').unwrap_or(prefix);
    format!("{stem}0")
}

/// Builds the write of a key. With a lease, etcd deletes the key when the lease ends.
pub(super) fn put(key: &str, value: impl Into<Vec<u8>>, lease: Option<i64>) -> TxnOp {
    TxnOp::put(key, value, lease.map(|lease| PutOptions::new().with_lease(lease)))
}

async fn read_file(what: &'static str, path: &Path) -> Result<String, ClusterError> {
    let failed = |error: std::io::Error| ClusterError::File { what, path: path.to_owned(), message: error.to_string() };
    tokio::fs::read_to_string(path).await.map_err(failed)
}

/// Ends of the first line of a PEM section (RFC 7468). Private keys have several kinds of labels.
const CERTIFICATE: &str = "CERTIFICATE-----";
const KEY: &str = "PRIVATE KEY-----";

/// Reads a PEM file and checks that it has the given section. rustls would only report later that
/// one of all the files is invalid.
async fn read_pem(what: &'static str, path: &Path, part: &str) -> Result<String, ClusterError> {
    let text = read_file(what, path).await?;
    if text.lines().any(|line| line.starts_with("-----BEGIN ") && line.trim_end().ends_with(part)) {
        return Ok(text);
    }
    let message = format!("the file contains no {} in PEM format", part.trim_end_matches('-'));
    Err(ClusterError::File { what, path: path.to_owned(), message })
}
