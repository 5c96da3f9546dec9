//! Requests to etcd: each has a deadline, is repeated until then where another member may answer, and says in plain words
//! what came of it.
//!
//! A request that was repeated, or that failed, may have been carried out all the same. So whatever is asked here must come
//! to the same when it is asked twice.

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use etcd_client::{
    Certificate, Client, ConnectOptions, GetOptions, GetResponse, Identity, KeyValue, LeaseTimeToLiveOptions,
    PutOptions, TlsOptions, Txn, TxnOp, TxnResponse, WatchOptions, WatchStream,
};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::error::{ClusterError, Meaning, meaning};
use super::health::Monitor;
use super::options::Options;

/// How long a request may take, with all its repetitions.
pub(super) const DEADLINE: Duration = Duration::from_secs(5);
/// How long one member may take before another is asked: one that hangs would take all the time there is.
const ATTEMPT: Duration = Duration::from_secs(1);
/// How long a member may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(1);
/// How often a connection is tried out. More often than every 5 s, etcd takes it for an attack.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// The first pause before a request is repeated, which doubles each time, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));
/// How many keys are read at once: a message has at most 4 MB.
const PAGE: i64 = 1000;

/// The connection to etcd.
pub(super) struct Etcd {
    options: Options,
    connect: ConnectOptions,
    client: Mutex<Option<Client>>,
    /// Learns what each request comes to.
    pub(super) monitor: Monitor,
}

/// Keys and values as they were at one revision.
pub(super) struct Read {
    /// The revision.
    pub(super) revision: i64,
    /// The etcd cluster that they are from.
    pub(super) cluster: u64,
    /// Keys and values, in order of the keys.
    pub(super) found: Vec<KeyValue>,
}

impl Etcd {
    /// Where it is, for people.
    pub(super) fn addresses(&self) -> String {
        self.options.to_string()
    }

    /// Reads the files that the options name; nothing is connected yet.
    ///
    /// # Errors
    /// [`ClusterError::File`].
    pub(super) async fn new(options: Options) -> Result<Self, ClusterError> {
        let mut connect = ConnectOptions::new()
            .with_connect_timeout(CONNECT)
            .with_keep_alive(KEEP_ALIVE, DEADLINE)
            // etcd ends a connection that is tried out while nothing is asked on it.
            .with_keep_alive_while_idle(false)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if options.uses_tls() {
            let mut tls = TlsOptions::new();
            tls = match options.authority() {
                Some(path) => tls.ca_certificate(Certificate::from_pem(
                    pem("the authority's certificate", path, CERTIFICATE).await?,
                )),
                None => tls.with_enabled_roots(),
            };
            if let Some(identity) = options.identity() {
                let certificate = pem("this host's certificate", &identity.certificate, CERTIFICATE).await?;
                let key = pem("this host's key", &identity.key, KEY).await?;
                tls = tls.identity(Identity::from_pem(certificate, key));
            }
            connect = connect.with_tls(tls);
        }
        if let Some(user) = options.user() {
            let password = read("the password for etcd", &user.password).await?;
            connect = connect.with_user(&user.name, password.trim_end_matches(['\r', '\n']));
        }
        Ok(Self { options, connect, client: Mutex::new(None), monitor: Monitor::new() })
    }

    /// A transaction.
    ///
    /// # Errors
    /// Those of [`Etcd::run`].
    pub(super) async fn txn(&self, doing: &str, txn: Txn) -> Result<TxnResponse, ClusterError> {
        let request = |mut client: Client| {
            let txn = txn.clone();
            async move { client.txn(txn).await }
        };
        let answer = self.run(doing, request).await?;
        self.monitor.saw(answer.header().map_or(0, |header| header.revision()));
        Ok(answer)
    }

    /// One key.
    ///
    /// # Errors
    /// Those of [`Etcd::run`].
    pub(super) async fn get(&self, doing: &str, key: &str) -> Result<Option<KeyValue>, ClusterError> {
        let mut answer = self.range(doing, key.to_owned(), GetOptions::new()).await?;
        Ok(answer.take_kvs().into_iter().next())
    }

    /// All keys that begin with `prefix`, as they were at a revision, or are now.
    ///
    /// # Errors
    /// Those of [`Etcd::run`]; [`ClusterError::Compacted`] if the revision is forgotten.
    pub(super) async fn read(&self, doing: &str, prefix: &str, at: Option<i64>) -> Result<Read, ClusterError> {
        self.pages(doing, prefix.to_owned(), end_of(prefix), at, GetOptions::new()).await
    }

    /// The keys from `first` to `last`, which count, too; no values.
    ///
    /// # Errors
    /// Those of [`Etcd::run`].
    pub(super) async fn keys(&self, doing: &str, first: &str, last: &str) -> Result<Vec<KeyValue>, ClusterError> {
        let options = GetOptions::new().with_keys_only();
        Ok(self.pages(doing, first.to_owned(), format!("{last}\0"), None, options).await?.found)
    }

    async fn pages(
        &self,
        doing: &str,
        start: String,
        end: String,
        at: Option<i64>,
        options: GetOptions,
    ) -> Result<Read, ClusterError> {
        let begin = || Read { revision: at.unwrap_or(0), cluster: 0, found: Vec::new() };
        let (mut read, mut first) = (begin(), start.clone());
        loop {
            let page = options.clone().with_range(end.as_str()).with_limit(PAGE).with_revision(read.revision);
            let mut answer = match self.range(doing, first.clone(), page).await {
                // Forgotten between two pages: all of them once more, as they are now.
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
            read.found.extend(answer.take_kvs());
            match read.found.last() {
                Some(last) if more => first = format!("{}\0", String::from_utf8_lossy(last.key())),
                _ => return Ok(read),
            }
        }
    }

    async fn range(&self, doing: &str, key: String, options: GetOptions) -> Result<GetResponse, ClusterError> {
        let request = |mut client: Client| {
            let (key, options) = (key.clone(), options.clone());
            async move { client.get(key, Some(options)).await }
        };
        let answer = self.run(doing, request).await?;
        self.monitor.saw(answer.header().map_or(0, |header| header.revision()));
        Ok(answer)
    }

    /// A new lease, of which the id is returned.
    ///
    /// # Errors
    /// Those of [`Etcd::run`].
    pub(super) async fn grant(&self, doing: &str) -> Result<i64, ClusterError> {
        let seconds = i64::try_from(self.options.lease().as_secs()).unwrap_or(i64::MAX);
        let request = |mut client: Client| async move { client.lease_grant(seconds, None).await };
        self.run(doing, request).await.map(|answer| answer.id())
    }

    /// Gives a lease its full time again.
    ///
    /// # Errors
    /// Those of [`Etcd::run`]; [`ClusterError::LeaseLost`].
    pub(super) async fn keep_alive(&self, doing: &str, lease: i64) -> Result<(), ClusterError> {
        let request = |mut client: Client| async move { client.lease_keep_alive(lease).await };
        self.run(doing, request).await.map(drop)
    }

    /// The keys that are attached to a lease.
    ///
    /// # Errors
    /// Those of [`Etcd::run`].
    pub(super) async fn attached(&self, doing: &str, lease: i64) -> Result<Vec<Vec<u8>>, ClusterError> {
        let request = |mut client: Client| async move {
            let keys = LeaseTimeToLiveOptions::new().with_keys();
            client.lease_time_to_live(lease, Some(keys)).await
        };
        self.run(doing, request).await.map(|answer| answer.keys().to_vec())
    }

    /// Ends a lease, and all that is attached to it.
    ///
    /// # Errors
    /// Those of [`Etcd::run`]; [`ClusterError::LeaseLost`].
    pub(super) async fn revoke(&self, doing: &str, lease: i64) -> Result<(), ClusterError> {
        let request = |mut client: Client| async move { client.lease_revoke(lease).await };
        self.run(doing, request).await.map(drop)
    }

    /// How many members etcd has.
    ///
    /// # Errors
    /// Those of [`Etcd::run`].
    pub(super) async fn members(&self, doing: &str) -> Result<usize, ClusterError> {
        let request = |mut client: Client| async move { client.member_list().await };
        self.run(doing, request).await.map(|answer| answer.members().len())
    }

    /// Watches all keys that begin with `prefix` from a revision on.
    ///
    /// # Errors
    /// Those of [`Etcd::run`].
    pub(super) async fn watch(&self, doing: &str, prefix: &str, from: i64) -> Result<WatchStream, ClusterError> {
        let request = |mut client: Client| {
            let options = WatchOptions::new().with_prefix().with_start_revision(from).with_progress_notify();
            let prefix = prefix.to_owned();
            async move { client.watch(prefix, Some(options)).await }
        };
        self.run(doing, request).await
    }

    /// Asks for a new token, where there is a user. Whether it is given shows in the next request.
    pub(super) async fn log_in_again(&self) {
        let client = self.client.lock().await.clone();
        if let Some(client) = client
            && let Ok(Err(error)) = timeout(ATTEMPT, client.refresh_token()).await
        {
            tracing::debug!("no new token from etcd: {error}");
        }
    }

    /// Carries out a request, again and again until it is answered or [`DEADLINE`] has passed.
    ///
    /// # Errors
    /// [`ClusterError::Unreachable`], [`ClusterError::Tls`], [`ClusterError::Auth`], [`ClusterError::Refused`];
    /// [`ClusterError::LeaseLost`] and [`ClusterError::Compacted`] from requests that have a lease or a revision.
    async fn run<T, F>(&self, doing: &str, mut request: impl FnMut(Client) -> F) -> Result<T, ClusterError>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let deadline = Instant::now() + DEADLINE;
        let mut pause = PAUSES.0;
        let (mut failure, mut logged_in) = (None, false);
        while Instant::now() < deadline {
            let attempt = async { request(self.client().await?).await };
            let until = deadline.min(Instant::now() + ATTEMPT);
            match timeout_at(until, attempt).await {
                Ok(Ok(answer)) => {
                    self.monitor.reached();
                    return Ok(answer);
                }
                Ok(Err(error)) => match meaning(&error) {
                    // A connection that breaks right away says less than why it was made to.
                    Meaning::Transient(_) if matches!(failure, Some(Meaning::Certificate(_))) => {}
                    transient @ (Meaning::Transient(_) | Meaning::Certificate(_)) => failure = Some(transient),
                    // A token that etcd does not know any more; the client asks for another by itself, but not for streams.
                    Meaning::Auth(_) if self.options.user().is_some() && !logged_in => {
                        logged_in = true;
                        self.log_in_again().await;
                    }
                    definite => return Err(self.definite(definite, doing)),
                },
                // What another member said says more than this one's silence.
                Err(_) => {}
            }
            sleep(pause.min(deadline.saturating_duration_since(Instant::now()))).await;
            pause = (pause * 2).min(PAUSES.1);
        }
        let silence = || Meaning::Transient(format!("no answer within {} s", DEADLINE.as_secs()));
        Err(self.definite(failure.unwrap_or_else(silence), doing))
    }

    /// The error for what it comes to in the end.
    fn definite(&self, meaning: Meaning, doing: &str) -> ClusterError {
        let endpoints = self.options.to_string();
        match &meaning {
            Meaning::Transient(why) | Meaning::Certificate(why) | Meaning::Auth(why) => self.monitor.failed(why),
            Meaning::LeaseLost | Meaning::Compacted | Meaning::Refused(_) => self.monitor.reached(),
        }
        match meaning {
            Meaning::Transient(mut message) => {
                // With TLS 1.3 the server says so after the handshake, and the client may see nothing but the end.
                if self.options.uses_tls() && self.options.identity().is_none() {
                    message.push_str("; it may want a client certificate");
                }
                ClusterError::Unreachable { endpoints, message, doing: doing.to_owned() }
            }
            Meaning::Certificate(message) => ClusterError::Tls { endpoints, message },
            Meaning::Auth(message) => ClusterError::Auth { endpoints, message },
            Meaning::LeaseLost => ClusterError::LeaseLost,
            Meaning::Compacted => ClusterError::Compacted,
            Meaning::Refused(message) => ClusterError::Refused { endpoints, message },
        }
    }

    /// The client. With a user, the first one to ask logs in.
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

/// The first key after all that begin with `prefix`, which ends with `/`.
pub(super) fn end_of(prefix: &str) -> String {
    let stem = prefix.strip_suffix('/').unwrap_or(prefix);
    format!("{stem}0")
}

/// Puts a key; it lives as long as the lease.
pub(super) fn put(key: &str, value: impl Into<Vec<u8>>, lease: Option<i64>) -> TxnOp {
    TxnOp::put(key, value, lease.map(|lease| PutOptions::new().with_lease(lease)))
}

async fn read(what: &'static str, path: &Path) -> Result<String, ClusterError> {
    let failed = |error: std::io::Error| ClusterError::File { what, path: path.to_owned(), message: error.to_string() };
    tokio::fs::read_to_string(path).await.map_err(failed)
}

/// What the first line of a part in PEM ends with (RFC 7468); of keys there are several kinds.
const CERTIFICATE: &str = "CERTIFICATE-----";
const KEY: &str = "PRIVATE KEY-----";

/// A file in PEM with such a part. rustls would say later, of all of them together, that something is wrong.
async fn pem(what: &'static str, path: &Path, part: &str) -> Result<String, ClusterError> {
    let text = read(what, path).await?;
    if text.lines().any(|line| line.starts_with("-----BEGIN ") && line.trim_end().ends_with(part)) {
        return Ok(text);
    }
    let message = format!("it holds no {} in PEM format", part.trim_end_matches('-'));
    Err(ClusterError::File { what, path: path.to_owned(), message })
}
