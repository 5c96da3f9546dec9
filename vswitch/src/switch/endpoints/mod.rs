//! Endpoints: attach, connect, detach, disconnect, and what follows from the loss of a device or of
//! the daemon.

mod attach;
mod detach;
mod displace;
mod engine;
mod publish;
mod request;
mod restore;
mod settle;
mod undo;

use std::sync::Arc;

use tokio::sync::Mutex;

use super::context::Context;
use super::etcd::Etcd;
use super::macvlan::Macvlan;
use super::multicast::Multicast;
use super::nat::Nat;
use crate::kernel::netns::{self, Netns};
use crate::model::NetnsRecord;
pub use detach::Selection;
pub use engine::NewNames;
pub use request::{NewConnection, NewEndpoint};
pub use restore::Release;

/// The endpoints of this host.
#[derive(Debug)]
pub struct Endpoints {
    context: Arc<Context>,
    multicast: Arc<Multicast>,
    nat: Arc<Nat>,
    macvlan: Arc<Macvlan>,
    etcd: Arc<Etcd>,
    /// Held while the settings that an endpoint's networks share are updated.
    settling: Mutex<()>,
}

impl Endpoints {
    /// Returns the owner.
    pub fn new(
        context: Arc<Context>,
        multicast: Arc<Multicast>,
        nat: Arc<Nat>,
        macvlan: Arc<Macvlan>,
        etcd: Arc<Etcd>,
    ) -> Self {
        Self { context, multicast, nat, macvlan, etcd, settling: Mutex::default() }
    }
}

/// Returns whether a record is of this namespace. Reads the cookie of the namespace only if the
/// inode number is the same, because the kernel reuses inode numbers.
fn is_at(record: &NetnsRecord, netns: &Netns) -> bool {
    let id = netns.id();
    let same_cookie = || match record.cookie {
        Some(recorded) => tokio::task::block_in_place(|| netns.cookie()).is_ok_and(|cookie| cookie == recorded),
        None => true,
    };
    (record.dev, record.inode) == (id.dev, id.inode) && same_cookie()
}

/// Returns whether the path of a record belongs to a process, and by now to another one.
fn has_another_process(record: &NetnsRecord) -> bool {
    record.process.is_some() && netns::process_behind(&record.path) != record.process
}
