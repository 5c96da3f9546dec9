//! `down`: asks the daemon to remove everything and exit. Does the removal itself if the daemon is
//! dead.

use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use vswitch_common::tables::{MARK_PUBLISHED, PortKind};

use super::arguments::Down;
use super::failure::Failure;
use super::output::{Output, print_text};
use crate::api::{Client, ClientError, DownRequest};
use crate::daemon::{self, DaemonError};
use crate::datapath::{Datapath, Mode, release_underlay};
use crate::etc_files::Etc;
use crate::kernel::bpffs;
use crate::kernel::netlink::Netlink;
use crate::lock::{Lock, LockError};
use crate::model::{Instance, Network};
use crate::nat::{self, Reservations};
use crate::plan::apply::Scene;
use crate::plan::store::{Change, Store};
use crate::served_namespace;
use crate::switch::{remove_files, remove_leftovers, restore_uplink};

/// Time limit for a daemon to exit after it removed everything or was killed.
const TIME_LIMIT: Duration = Duration::from_secs(25);
/// Interval at which the lock is tried again.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

pub fn run(arguments: &Down, instance: &Instance, output: Output) -> Result<(), Failure> {
    let started_at = Instant::now();
    loop {
        let mut outcome = Ok(());
        super::block_on(async {
            outcome = request_down(instance, arguments.purge).await;
            Ok(())
        })?;
        match outcome {
            Ok(()) => break,
            Err(ClientError::NotRunning { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let has_run_directory = instance.run_directory().exists();
        if has_run_directory || (arguments.purge && instance.state_directory().exists()) {
            match remove_without_daemon(instance, arguments.purge) {
                Ok(()) => {}
                // The lock belongs to an `up` that is still starting, or to a killed daemon that is
                // still exiting.
                Err(DaemonError::Lock(LockError::Held)) if started_at.elapsed() < TIME_LIMIT => {
                    thread::sleep(RETRY_INTERVAL);
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
        }
        if has_run_directory {
            break;
        }
        return print_result(output, &format!("vswitch is not up (instance {})\n", instance.name()));
    }
    print_result(output, &format!("vswitch is down (instance {})\n", instance.name()))
}

fn print_result(output: Output, text: &str) -> Result<(), Failure> {
    if output.quiet || output.format == super::output::Format::Json { Ok(()) } else { print_text(text) }
}

/// Asks the daemon to remove everything, and waits until its process has exited.
async fn request_down(instance: &Instance, purge: bool) -> Result<(), ClientError> {
    let mut client = Client::connect(instance).await?;
    client.post::<()>("/down", &DownRequest { purge }).await?;
    // The daemon has removed everything already, even if its process takes longer to exit.
    client.ended(TIME_LIMIT).await;
    Ok(())
}

/// Removes what a dead daemon left behind.
fn remove_without_daemon(instance: &Instance, purge: bool) -> Result<(), DaemonError> {
    daemon::check_machine()?;
    if !instance.run_directory().exists() {
        return Ok(remove_files(instance, purge)?);
    }
    let lock = Lock::acquire(&instance.lock_file())?;
    // The devices are in the namespace that the daemon served. If the namespace is gone, they are
    // gone too.
    let served = served_namespace::read(instance).map(served_namespace::find).transpose()?;
    if let Some(Some(netns)) = &served {
        setns(netns.as_fd(), CloneFlags::CLONE_NEWNET).map_err(|errno| DaemonError::Runtime(errno.into()))?;
    }
    if served.is_none_or(|netns| netns.is_some()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        runtime.map_err(DaemonError::Runtime)?.block_on(remove_devices(instance))?;
    }
    remove_files(instance, purge)?;
    drop(lock);
    Ok(())
}

async fn remove_devices(instance: &Instance) -> Result<(), DaemonError> {
    let netlink = Netlink::open()?;
    if let Err(error) = release_uplinks(instance, &netlink).await {
        // The store may be unreadable. The programs are removed with the bpffs in any case.
        tracing::warn!("{error}");
    }
    if let Err(error) = Reservations::restore_settings(&instance.reserved_ports_file()) {
        tracing::warn!("{error}");
    }
    if let Err(error) = nat::remove(instance).await {
        tracing::warn!("{error}");
    }
    if let Err(error) = Etc::default().remove_all(instance.name(), |_| false) {
        tracing::warn!("{error}");
    }
    Ok(remove_leftovers(&netlink, instance).await?)
}

/// Restores the uplinks to their state before vswitch used them.
async fn release_uplinks(instance: &Instance, netlink: &Netlink) -> Result<(), DaemonError> {
    if !instance.store_file().exists() || !bpffs::is_mounted(&instance.bpf_directory()) {
        return Ok(());
    }
    let (store, recorded) = Store::open(&instance.store_file())?;
    if !recorded.peers.is_empty() {
        // The store does not say which links led to peers. On other links this call has no effect.
        netlink.links().await?.iter().for_each(|link| release_underlay(link.index));
    }
    let networks: Vec<Network> =
        recorded.networks.into_iter().filter(|network| network.uplink_before.is_some()).collect();
    if networks.is_empty() {
        return Ok(());
    }
    let directory = instance.bpf_directory();
    // The maps are opened with their present size and kind, so that none is created again before
    // removal.
    let fdb_size = Datapath::fdb_size(&directory).unwrap_or(daemon::FDB_SIZE);
    let cluster = Datapath::was_in_cluster(&directory);
    let options =
        crate::datapath::Options { directory, mode: Mode::Auto, fdb_size, cluster, published_mark: MARK_PUBLISHED };
    let datapath = Arc::new(Datapath::open(options)?);
    for (number, _) in
        datapath.ports()?.iter().filter(|(_, port)| matches!(port.kind(), Some(PortKind::Uplink | PortKind::Parent)))
    {
        datapath.remove_port(*number)?;
    }
    let scene = Scene { host: netlink, datapath: &datapath };
    for before in networks.iter().filter_map(|network| network.uplink_before.as_ref()) {
        restore_uplink(before, scene).await;
    }
    let changes = networks.into_iter().map(|network| Change::PutNetwork(Network { uplink_before: None, ..network }));
    Ok(store.commit(changes.collect()).await?)
}
