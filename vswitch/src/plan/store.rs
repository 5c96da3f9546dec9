//! The store: records of networks, endpoints and peers, in a redb file that survives the daemon and
//! the machine.
//!
//! The record of an endpoint is an intent: it is on disk before the kernel is changed, and it is
//! removed after the kernel has been changed back. Phases that the kernel shows too are written
//! without waiting for the disk, and are there within a second. One thread writes. Requests that
//! are queued when it starts a transaction share one fsync.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition, TableError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use crate::model::{Endpoint, EndpointId, Network, NetworkId, Peer, Pool, PoolId};

/// Version of the layout of the file.
const SCHEMA: u64 = 1;

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const NETWORKS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("networks");
const ENDPOINTS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("endpoints");
/// The key is the peer's address as text.
const PEERS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("peers");
const POOLS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("pools");

/// Size in bytes of the page cache. All records of an instance fit in it many times.
const CACHE: usize = 1 << 20;

/// Time after which a change is on disk that no caller waits for, and pause before another attempt
/// if that fails.
const SOON: Duration = Duration::from_millis(250);
const RETRY: Duration = Duration::from_secs(5);

/// The store could not be read or written.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// Reading or writing failed.
    #[error("cannot use the recorded state in {path}: {message}")]
    Access {
        /// The file.
        path: PathBuf,
        /// The error of redb, serde or the file system.
        message: String,
    },
    /// The file has the layout of another version.
    #[error(
        "the recorded state in {path} has layout {found}, and this version reads layout {SCHEMA} (use the version that wrote it, or forget it with `down --purge`)"
    )]
    Schema {
        /// The file.
        path: PathBuf,
        /// Layout of the file.
        found: u64,
    },
}

/// A change of one record.
#[derive(Clone, Debug)]
pub enum Change {
    /// Adds or replaces a network.
    PutNetwork(Network),
    /// Removes a network.
    RemoveNetwork(NetworkId),
    /// Adds or replaces an endpoint.
    PutEndpoint(Endpoint),
    /// Removes an endpoint.
    RemoveEndpoint(EndpointId),
    /// Adds or replaces a peer.
    PutPeer(Peer),
    /// Removes a peer.
    RemovePeer(IpAddr),
    /// Adds or replaces an address pool.
    PutPool(Pool),
    /// Removes an address pool.
    RemovePool(PoolId),
}

/// All records of the store.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recorded {
    /// The networks.
    pub networks: Vec<Network>,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
    /// The peers.
    pub peers: Vec<Peer>,
    /// The address pools.
    pub pools: Vec<Pool>,
}

/// The open store. Dropping it writes all queued changes.
#[derive(Debug)]
pub struct Store {
    requests: Option<mpsc::Sender<Request>>,
    writer: Option<JoinHandle<()>>,
    path: PathBuf,
}

struct Request {
    changes: Vec<Change>,
    /// Receiver of the result, once the changes are on disk; `None` if the caller does not wait.
    done: Option<oneshot::Sender<Result<(), StoreError>>>,
}

impl Store {
    /// Opens the store, or creates it. Returns all records.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(path: &Path) -> Result<(Self, Recorded), StoreError> {
        let database = open(path)?;
        let recorded = read(&database).map_err(|error| error.at(path))?;
        let (requests, queue) = mpsc::channel();
        let at = path.to_owned();
        let writer =
            std::thread::Builder::new().name("store".to_owned()).spawn(move || write_all(&database, &queue, &at));
        let writer =
            writer.map_err(|error| StoreError::Access { path: path.to_owned(), message: error.to_string() })?;
        Ok((Self { requests: Some(requests), writer: Some(writer), path: path.to_owned() }, recorded))
    }

    /// Writes changes, all or none. The future completes when they are on disk. The changes are
    /// queued when this function returns, so changes that are decided and queued under one lock are
    /// written in the order of their decisions.
    pub fn commit(&self, changes: Vec<Change>) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        let (done, answer) = oneshot::channel();
        self.send(Request { changes, done: Some(done) });
        let path = self.path.clone();
        async move {
            let stopped = || StoreError::Access { path, message: "the thread that writes it has stopped".to_owned() };
            answer.await.map_err(|_| stopped())?
        }
    }

    /// Writes changes without waiting for the disk, which has them within a second. Only for state
    /// that the kernel shows too.
    pub fn note(&self, changes: Vec<Change>) {
        self.send(Request { changes, done: None });
    }

    fn send(&self, request: Request) {
        if let Some(requests) = &self.requests {
            // A writer that has stopped drops the request with its sender, which the caller sees as
            // an error.
            let _ = requests.send(request);
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(writer) = self.writer.take() {
            // A panic of the writer is already reported.
            let _ = writer.join();
        }
    }
}

fn open(path: &Path) -> Result<Database, StoreError> {
    let create = |at: &Path| -> Result<(Database, u64), Failure> {
        let database = Database::builder().set_cache_size(CACHE).create(at)?;
        let found = prepare(&database)?;
        Ok((database, found))
    };
    let opened = || {
        if !path.exists() {
            // Under another name first: a daemon that is killed here leaves no incomplete store.
            let new = path.with_extension("new");
            if new.exists() {
                std::fs::remove_file(&new)?;
            }
            drop(create(&new)?);
            std::fs::rename(&new, path)?;
        }
        create(path)
    };
    let (database, found) = opened().map_err(|error: Failure| error.at(path))?;
    if found == SCHEMA { Ok(database) } else { Err(StoreError::Schema { path: path.to_owned(), found }) }
}

/// Creates missing tables. Returns the layout.
fn prepare(database: &Database) -> Result<u64, Failure> {
    let transaction = database.begin_write()?;
    let found = {
        let mut meta = transaction.open_table(META)?;
        transaction.open_table(NETWORKS)?;
        transaction.open_table(ENDPOINTS)?;
        let found = meta.get("schema")?.map(|schema| schema.value());
        if found.is_none() {
            meta.insert("schema", SCHEMA)?;
        }
        found
    };
    match found {
        Some(_) => transaction.abort()?,
        None => transaction.commit()?,
    }
    Ok(found.unwrap_or(SCHEMA))
}

fn read(database: &Database) -> Result<Recorded, Failure> {
    let transaction = database.begin_read()?;
    Ok(Recorded {
        networks: read_table(&transaction.open_table(NETWORKS)?)?,
        endpoints: read_table(&transaction.open_table(ENDPOINTS)?)?,
        peers: read_later_table(&transaction, PEERS)?,
        pools: read_later_table(&transaction, POOLS)?,
    })
}

/// Reads a table that a file of an earlier version does not have.
fn read_later_table<T: DeserializeOwned>(
    transaction: &redb::ReadTransaction,
    table: TableDefinition<'static, &'static [u8], &'static [u8]>,
) -> Result<Vec<T>, Failure> {
    match transaction.open_table(table) {
        Ok(table) => read_table(&table),
        Err(TableError::TableDoesNotExist(_)) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}

fn read_table<T: DeserializeOwned>(
    table: &redb::ReadOnlyTable<&'static [u8], &'static [u8]>,
) -> Result<Vec<T>, Failure> {
    table.iter()?.map(|row| Ok(serde_json::from_slice(row?.1.value())?)).collect()
}

/// Runs the writer: takes all queued requests, writes them in one transaction, and reports the
/// result to each caller. What no caller waits for is made durable after [`SOON`].
fn write_all(database: &Database, queue: &mpsc::Receiver<Request>, path: &Path) {
    let mut due = None;
    loop {
        let first = match due {
            None => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(due) => queue.recv_timeout(Instant::saturating_duration_since(&due, Instant::now())),
        };
        match first {
            Ok(first) => {
                let batch: Vec<Request> = std::iter::once(first).chain(queue.try_iter()).collect();
                let durable = batch.iter().any(|request| request.done.is_some());
                let written = written(database, batch.iter().flat_map(|request| &request.changes), durable, path);
                due = if durable && written.is_ok() { None } else { due.or_else(|| Some(Instant::now() + SOON)) };
                for done in batch.into_iter().filter_map(|request| request.done) {
                    // The caller may have stopped waiting.
                    let _ = done.send(written.clone());
                }
            }
            Err(RecvTimeoutError::Timeout) => {
                let written = written(database, std::iter::empty(), true, path);
                due = written.is_err().then(|| Instant::now() + RETRY);
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    // The error is logged, and nothing is left to report it to.
    let _ = written(database, std::iter::empty(), true, path);
}

/// Writes changes, and logs an error with the path.
fn written<'a>(
    database: &Database,
    changes: impl Iterator<Item = &'a Change>,
    durable: bool,
    path: &Path,
) -> Result<(), StoreError> {
    let written = write(database, changes, durable).map_err(|error| error.at(path));
    written.inspect_err(|error| tracing::error!("{error}"))
}

fn write<'a>(database: &Database, changes: impl Iterator<Item = &'a Change>, durable: bool) -> Result<(), Failure> {
    let mut transaction = database.begin_write()?;
    let durability = if durable { redb::Durability::Immediate } else { redb::Durability::None };
    transaction.set_durability(durability)?;
    {
        let mut networks = transaction.open_table(NETWORKS)?;
        let mut endpoints = transaction.open_table(ENDPOINTS)?;
        let mut peers = transaction.open_table(PEERS)?;
        let mut pools = transaction.open_table(POOLS)?;
        for change in changes {
            match change {
                Change::PutNetwork(network) => {
                    networks.insert(&network.id.bytes()[..], &json(network)?[..])?;
                }
                Change::RemoveNetwork(id) => {
                    networks.remove(&id.bytes()[..])?;
                }
                Change::PutEndpoint(endpoint) => {
                    endpoints.insert(&endpoint.id.bytes()[..], &json(endpoint)?[..])?;
                }
                Change::RemoveEndpoint(id) => {
                    endpoints.remove(&id.bytes()[..])?;
                }
                Change::PutPeer(peer) => {
                    peers.insert(peer.address.to_string().as_bytes(), &json(peer)?[..])?;
                }
                Change::RemovePeer(address) => {
                    peers.remove(address.to_string().as_bytes())?;
                }
                Change::PutPool(pool) => {
                    pools.insert(&pool.id.bytes()[..], &json(pool)?[..])?;
                }
                Change::RemovePool(id) => {
                    pools.remove(&id.bytes()[..])?;
                }
            }
        }
    }
    Ok(transaction.commit()?)
}

fn json<T: Serialize>(value: &T) -> Result<Vec<u8>, Failure> {
    Ok(serde_json::to_vec(value)?)
}

/// An error of redb or serde, without the path.
struct Failure(String);

impl Failure {
    fn at(self, path: &Path) -> StoreError {
        StoreError::Access { path: path.to_owned(), message: self.0 }
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use time::OffsetDateTime;
    use vswitch_common::tables::NetworkNumber;

    use super::super::testing;
    use super::*;
    use crate::model::{
        BridgeOptions, EndpointOptions, NetnsRecord, NetworkKind, Phase, Protocol, Published, SwitchOptions,
    };

    fn network(seed: u8) -> Network {
        let switch = SwitchOptions { mtu: Some(1400), ..SwitchOptions::default() };
        Network {
            id: NetworkId::from_bytes([seed; 32]),
            name: format!("net{seed}").parse().expect("a name"),
            number: NetworkNumber(seed.into()),
            kind: NetworkKind::Bridge(BridgeOptions { switch, uplink: None }),
            internal: seed == 2,
            options: BTreeMap::from([("mtu".to_owned(), "1400".to_owned())]),
            labels: BTreeMap::from([("tier".to_owned(), "front".to_owned())]),
            ..testing::network()
        }
    }

    fn endpoint(seed: u8, phase: Phase) -> Endpoint {
        let endpoint = testing::endpoint();
        Endpoint {
            id: EndpointId::from_bytes([seed; 32]),
            name: format!("web{seed}").parse().expect("a name"),
            netns: NetnsRecord { inode: u64::MAX, ..endpoint.netns.clone() },
            aliases: vec!["www".to_owned()],
            published: vec![Published { protocol: Protocol::Udp, host_ip: None, host_port: 8080, container_port: 80 }],
            waiting: Vec::new(),
            gw_priority: -1,
            phase,
            ..endpoint
        }
    }

    #[tokio::test]
    async fn records_are_read_after_a_restart() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("state.redb");
        let (store, recorded) = Store::open(&path).expect("a new record");
        assert_eq!(recorded, Recorded::default());
        store.commit(vec![Change::PutNetwork(network(1)), Change::PutNetwork(network(2))]).await.expect("written");
        store.commit(vec![Change::PutEndpoint(endpoint(5, Phase::Attaching))]).await.expect("written");
        store.commit(vec![Change::PutEndpoint(endpoint(6, Phase::Attaching))]).await.expect("written");
        store.note(vec![Change::PutEndpoint(endpoint(5, Phase::Attached))]);
        let peer = |last| Peer::new([192, 0, 2, last].into(), OffsetDateTime::UNIX_EPOCH);
        store.note(vec![Change::PutPeer(peer(1)), Change::PutPeer(peer(2)), Change::RemovePeer(peer(1).address)]);
        store.note(vec![Change::RemoveEndpoint(endpoint(6, Phase::Attached).id), Change::RemoveNetwork(network(2).id)]);
        drop(store);
        let (_store, recorded) = Store::open(&path).expect("the same record");
        let (networks, endpoints) = (vec![network(1)], vec![endpoint(5, Phase::Attached)]);
        assert_eq!(recorded, Recorded { networks, endpoints, peers: vec![peer(2)], pools: Vec::new() });
    }

    #[test]
    fn records_of_earlier_versions_are_read() {
        let mut old = serde_json::to_value(network(1)).expect("JSON");
        let fields = old.as_object_mut().expect("an object");
        fields.remove("internal");
        fields.remove("overlay");
        fields["subnets"][0].as_object_mut().expect("an object").remove("auxiliary");
        assert_eq!(serde_json::from_value::<Network>(old).expect("it is read"), network(1));
        let mut old = serde_json::to_value(endpoint(5, Phase::Attached)).expect("JSON");
        let fields = old.as_object_mut().expect("an object");
        assert!(fields.remove("published").is_some() && fields.remove("gw_priority").is_some());
        assert!(fields.remove("options").is_some() && fields.remove("port").is_some());
        fields["address"].as_object_mut().expect("an object").remove("ipv6");
        let read = serde_json::from_value::<Endpoint>(old).expect("it is read");
        assert_eq!((&read.options, &read.port), (&BTreeMap::new(), &EndpointOptions::default()));
        assert_eq!((read.published.len(), read.gw_priority, read.name), (0, 0, endpoint(5, Phase::Attached).name));
    }

    #[tokio::test]
    async fn concurrent_commits_are_all_written() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("state.redb");
        let (store, _) = Store::open(&path).expect("a new record");
        let commits: Vec<_> =
            (0..64).map(|seed| store.commit(vec![Change::PutEndpoint(endpoint(seed, Phase::Attaching))])).collect();
        for commit in commits {
            commit.await.expect("written");
        }
        drop(store);
        let (_store, recorded) = Store::open(&path).expect("the same record");
        assert_eq!(recorded.endpoints.len(), 64);
    }

    #[test]
    fn a_change_without_a_caller_that_waits_reaches_the_disk_without_another_change() {
        let directory = tempfile::tempdir().expect("a directory");
        let (path, copy) = (directory.path().join("state.redb"), directory.path().join("copy.redb"));
        let (store, _) = Store::open(&path).expect("a new record");
        store.note(vec![Change::PutEndpoint(endpoint(5, Phase::Attached))]);
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            // What a daemon that is killed now leaves on disk. The copy may be torn.
            std::fs::copy(&path, &copy).expect("copied");
            let found = Store::open(&copy).map(|(_, recorded)| recorded.endpoints).unwrap_or_default();
            if found == [endpoint(5, Phase::Attached)] {
                break;
            }
            assert!(Instant::now() < deadline, "the disk has {found:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
        drop(store);
    }

    #[test]
    fn another_layout_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("state.redb");
        let database = Database::create(&path).expect("a database");
        let transaction = database.begin_write().expect("a transaction");
        transaction.open_table(META).expect("a table").insert("schema", 7).expect("inserted");
        transaction.commit().expect("written");
        drop(database);
        assert!(matches!(Store::open(&path), Err(StoreError::Schema { found: 7, .. })));
    }

    #[test]
    fn a_file_that_is_no_store_is_an_error_with_its_path() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("state.redb");
        std::fs::write(&path, "x".repeat(5000)).expect("a file");
        let error = Store::open(&path).expect_err("not a database");
        assert!(error.to_string().contains("state.redb"), "{error}");
    }
}
