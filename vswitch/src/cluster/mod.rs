//! Clusters: hosts that share networks, endpoints and addresses through etcd.
//!
//! Names, VNIs, subnets and addresses are unique in the cluster. They are claimed in etcd
//! transactions (`claims`, `networks`). A host holds one etcd lease (`session`), and all its keys
//! except those of networks are attached to that lease: when the host dies, the lease expires and
//! etcd deletes the keys. The host remembers its claims (`owned`) and announces them again under a
//! new lease. A release that fails because etcd is unreachable is queued and repeated later.
//!
//! The watcher (`watch`) reports the records of all hosts: first a complete snapshot, then each
//! change, and a new snapshot after every gap.

mod addresses;
mod claims;
mod client;
mod endpoints;
mod error;
mod etcd;
mod health;
mod keys;
mod networks;
mod options;
mod owned;
mod queue;
mod records;
mod session;
mod shared;
mod snapshot;
mod watch;

pub use self::client::Cluster;
pub use self::error::ClusterError;
pub use self::health::{Health, Outage};
pub use self::keys::{Key, Keys};
pub use self::options::{EtcdAddress, Identity, InvalidOptions, Options, User};
pub use self::records::{Host, InvalidOwner, NetworkDraft, Owner, SharedEndpoint, SharedNetwork};
pub use self::shared::Released;
pub use self::snapshot::{Snapshot, Update};
pub use crate::model::{InvalidVni, Vni};
