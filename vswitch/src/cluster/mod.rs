//! Hosts that share networks, through etcd: who is there, which networks, whose endpoints and addresses.
//!
//! What can be had only once (names, VNIs, subnets, addresses) is taken in transactions (`claims`, `networks`). A host has
//! a lease (`session`), to which all that it announces is attached: when it dies, etcd takes that back. What it has it
//! remembers (`owned`), and announces again under a new lease; what it gives up while etcd is away it takes back later.
//! What others have comes by the watcher (`watch`), which begins with all there is, and begins anew after any gap.

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
mod snapshot;
mod vni;
mod watch;

pub use self::client::{Cluster, Released};
pub use self::error::ClusterError;
pub use self::health::{Health, Outage};
pub use self::keys::{Key, Keys};
pub use self::options::{EtcdAddress, Identity, InvalidOptions, Options, User};
pub use self::records::{Host, InvalidOwner, NetworkDraft, Owner, SharedEndpoint, SharedNetwork};
pub use self::snapshot::{Snapshot, Update};
pub use self::vni::{InvalidVni, Vni};
