//! What is recorded: networks and endpoints, in a redb file that survives the daemon and the machine.
//!
//! A record of an endpoint is an intent, on disk before the kernel is changed, and removed after the kernel has been
//! changed back; that it is all there (`Phase::Attached`) is noted without waiting for the disk, because what it says
//! can be found again by looking. One thread writes; whatever waits when it comes round shares one fsync.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::JoinHandle;

use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition, TableError};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use crate::model::{Endpoint, EndpointId, Network, NetworkId, Peer};

/// The layout of what is recorded; another number is another layout.
const SCHEMA: u64 = 1;

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const NETWORKS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("networks");
const ENDPOINTS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("endpoints");
/// By their addresses as text.
const PEERS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("peers");

/// Memory for pages; all that a switch records fits many times.
const CACHE: usize = 1 << 20;

/// The record could not be read or written.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// Reading or writing failed.
    #[error("cannot use the recorded state in {path}: {message}")]
    Access {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        message: String,
    },
    /// Written by another version.
    #[error(
        "the recorded state in {path} has layout {found}, and this version reads layout {SCHEMA} (use the version that wrote it, or forget it with `down --purge`)"
    )]
    Schema {
        /// The file.
        path: PathBuf,
        /// Its layout.
        found: u64,
    },
}

/// One change of the record.
#[derive(Clone, Debug)]
pub enum Change {
    /// A network is new or different.
    PutNetwork(Network),
    /// A network is gone.
    RemoveNetwork(NetworkId),
    /// An endpoint is new or different.
    PutEndpoint(Endpoint),
    /// An endpoint is gone.
    RemoveEndpoint(EndpointId),
    /// A peer is new.
    PutPeer(Peer),
    /// A peer is gone.
    RemovePeer(IpAddr),
}

/// Everything that is recorded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recorded {
    /// The networks.
    pub networks: Vec<Network>,
    /// The endpoints.
    pub endpoints: Vec<Endpoint>,
    /// The peers.
    pub peers: Vec<Peer>,
}

/// The open record. Dropping it writes what is still to be written.
#[derive(Debug)]
pub struct Store {
    requests: Option<mpsc::Sender<Request>>,
    writer: Option<JoinHandle<()>>,
    path: PathBuf,
}

struct Request {
    changes: Vec<Change>,
    /// Whom to tell once it is on disk; nobody waits for the rest.
    done: Option<oneshot::Sender<Result<(), StoreError>>>,
}

impl Store {
    /// Opens or creates the record.
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

    /// Records changes, all or none; the answer comes when they are on disk. They are in line when this returns, so
    /// that changes decided under one lock and recorded under it are written in their order.
    pub fn commit(&self, changes: Vec<Change>) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        let (done, answer) = oneshot::channel();
        self.send(Request { changes, done: Some(done) });
        let path = self.path.clone();
        async move {
            let stopped = || StoreError::Access { path, message: "the thread that writes it has stopped".to_owned() };
            answer.await.map_err(|_| stopped())?
        }
    }

    /// Records changes that can be found again by looking: nobody waits for the disk.
    pub fn note(&self, changes: Vec<Change>) {
        self.send(Request { changes, done: None });
    }

    fn send(&self, request: Request) {
        if let Some(requests) = &self.requests {
            // A writer that has stopped drops the request, and with it whom to tell: that is the answer.
            let _ = requests.send(request);
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(writer) = self.writer.take() {
            // A panic there has been reported as such.
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
            // Elsewhere first: a daemon that is killed at it leaves no half of a record behind.
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

/// Makes the tables if they are missing; returns the layout.
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
        peers: match transaction.open_table(PEERS) {
            Ok(table) => read_table(&table)?,
            // Written before there were any.
            Err(TableError::TableDoesNotExist(_)) => Vec::new(),
            Err(error) => return Err(error.into()),
        },
    })
}

fn read_table<T: DeserializeOwned>(
    table: &redb::ReadOnlyTable<&'static [u8], &'static [u8]>,
) -> Result<Vec<T>, Failure> {
    table.iter()?.map(|row| Ok(serde_json::from_slice(row?.1.value())?)).collect()
}

/// The writer's thread: takes what has gathered, writes it as one transaction, tells everybody.
fn write_all(database: &Database, queue: &mpsc::Receiver<Request>, path: &Path) {
    while let Ok(first) = queue.recv() {
        let batch: Vec<Request> = std::iter::once(first).chain(queue.try_iter()).collect();
        let durable = batch.iter().any(|request| request.done.is_some());
        let written = write(database, batch.iter().flat_map(|request| &request.changes), durable);
        let written = written.map_err(|error| error.at(path));
        if let Err(error) = &written {
            tracing::error!("{error}");
        }
        for done in batch.into_iter().filter_map(|request| request.done) {
            // Who asked may have gone.
            let _ = done.send(written.clone());
        }
    }
    // What was only noted becomes durable with this.
    if let Err(error) = write(database, std::iter::empty(), true) {
        tracing::error!("{}", error.at(path));
    }
}

fn write<'a>(database: &Database, changes: impl Iterator<Item = &'a Change>, durable: bool) -> Result<(), Failure> {
    let mut transaction = database.begin_write()?;
    let durability = if durable { redb::Durability::Immediate } else { redb::Durability::None };
    transaction.set_durability(durability)?;
    {
        let mut networks = transaction.open_table(NETWORKS)?;
        let mut endpoints = transaction.open_table(ENDPOINTS)?;
        let mut peers = transaction.open_table(PEERS)?;
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
            }
        }
    }
    Ok(transaction.commit()?)
}

fn json<T: Serialize>(value: &T) -> Result<Vec<u8>, Failure> {
    Ok(serde_json::to_vec(value)?)
}

/// An error of redb's or serde's, still without the path.
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

    use super::*;
    use crate::model::{
        BridgeOptions, Driver, EndpointAddress, EndpointOptions, NetnsRecord, Phase, Protocol, Published, StationMac,
        SubnetConfig,
    };

    fn network(seed: u8) -> Network {
        let subnet = SubnetConfig::new("10.9.8.0/24".parse().expect("a subnet"), None, None).expect("a configuration");
        Network {
            id: NetworkId::from_bytes([seed; 32]),
            name: format!("net{seed}").parse().expect("a name"),
            number: NetworkNumber(seed.into()),
            driver: Driver::Bridge,
            subnets: vec![subnet],
            internal: seed == 2,
            options: BTreeMap::from([("mtu".to_owned(), "1400".to_owned())]),
            bridge: BridgeOptions { mtu: Some(1400), ..BridgeOptions::default() },
            wire: None,
            overlay: None,
            labels: BTreeMap::from([("tier".to_owned(), "front".to_owned())]),
            created: OffsetDateTime::UNIX_EPOCH,
            uplink_before: None,
        }
    }

    fn endpoint(seed: u8, phase: Phase) -> Endpoint {
        let network = NetworkId::from_bytes([1; 32]);
        Endpoint {
            id: EndpointId::from_bytes([seed; 32]),
            name: format!("web{seed}").parse().expect("a name"),
            network,
            netns: NetnsRecord { path: "/run/netns/web".into(), dev: 4, inode: u64::MAX, process: None },
            address: Some(EndpointAddress {
                ifname: "eth0".parse().expect("a name"),
                mac: StationMac::generated(&network, "web", 0),
                ipv4: [10, 9, 8, seed].into(),
                ipv6: None,
                mtu: 1400,
            }),
            hostname: None,
            aliases: vec!["www".to_owned()],
            published: vec![Published { protocol: Protocol::Udp, host_ip: None, host_port: 8080, container_port: 80 }],
            gw_priority: -1,
            options: BTreeMap::new(),
            port: EndpointOptions::default(),
            labels: BTreeMap::new(),
            created: OffsetDateTime::UNIX_EPOCH,
            phase,
        }
    }

    #[tokio::test]
    async fn what_is_recorded_is_read_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("state.redb");
        let (store, recorded) = Store::open(&path).expect("a new record");
        assert_eq!(recorded, Recorded::default());
        store.commit(vec![Change::PutNetwork(network(1)), Change::PutNetwork(network(2))]).await.expect("written");
        store.commit(vec![Change::PutEndpoint(endpoint(5, Phase::Attaching))]).await.expect("written");
        store.commit(vec![Change::PutEndpoint(endpoint(6, Phase::Attaching))]).await.expect("written");
        store.note(vec![Change::PutEndpoint(endpoint(5, Phase::Attached))]);
        let peer =
            |last| Peer { address: [192, 0, 2, last].into(), public_key: None, added: OffsetDateTime::UNIX_EPOCH };
        store.note(vec![Change::PutPeer(peer(1)), Change::PutPeer(peer(2)), Change::RemovePeer(peer(1).address)]);
        store.note(vec![Change::RemoveEndpoint(endpoint(6, Phase::Attached).id), Change::RemoveNetwork(network(2).id)]);
        drop(store);
        let (_store, recorded) = Store::open(&path).expect("the same record");
        let (networks, endpoints) = (vec![network(1)], vec![endpoint(5, Phase::Attached)]);
        assert_eq!(recorded, Recorded { networks, endpoints, peers: vec![peer(2)] });
    }

    #[test]
    fn what_was_recorded_by_earlier_versions_is_read() {
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
    async fn many_at_once_are_all_written() {
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
    fn another_layout_is_refused_by_name() {
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
    fn a_file_that_is_no_record_is_an_error_with_its_path() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("state.redb");
        std::fs::write(&path, "x".repeat(5000)).expect("a file");
        let error = Store::open(&path).expect_err("not a database");
        assert!(error.to_string().contains("state.redb"), "{error}");
    }
}
