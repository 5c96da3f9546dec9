//! `down`: has the daemon remove everything and end, or does it itself where the daemon is dead.

use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use vswitch_common::tables::PortKind;

use super::arguments::Down;
use super::failure::Failure;
use super::output::{Output, say};
use crate::api::{Client, ClientError, DownRequest};
use crate::apply::Scene;
use crate::daemon::{self, DaemonError};
use crate::datapath::{Datapath, Mode, release_underlay};
use crate::etc::Etc;
use crate::kernel::bpffs;
use crate::kernel::netlink::Netlink;
use crate::lock::{Lock, LockError};
use crate::model::{Instance, Network};
use crate::outside;
use crate::served;
use crate::store::{Change, Store};
use crate::switch::{remove_files, remove_leftovers, restore_uplink};

/// How long a daemon may take to end after it has removed everything, or was killed.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked whether it has.
const PAUSE: Duration = Duration::from_millis(50);

pub fn run(arguments: &Down, instance: &Instance, output: Output) -> Result<(), Failure> {
    let begun = Instant::now();
    loop {
        let mut outcome = Ok(());
        super::asking(async {
            outcome = ask_daemon(instance, arguments.purge).await;
            Ok(())
        })?;
        match outcome {
            Ok(()) => break,
            Err(ClientError::NotRunning { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let there = instance.run_directory().exists();
        if there || (arguments.purge && instance.state_directory().exists()) {
            match without_daemon(instance, arguments.purge) {
                Ok(()) => {}
                // An `up` that is not quite done, or a daemon that was killed and is not quite dead.
                Err(DaemonError::Lock(LockError::Held)) if begun.elapsed() < PATIENCE => {
                    thread::sleep(PAUSE);
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
        }
        if there {
            break;
        }
        return told(output, &format!("vswitch is not up (instance {})\n", instance.name()));
    }
    told(output, &format!("vswitch is down (instance {})\n", instance.name()))
}

fn told(output: Output, text: &str) -> Result<(), Failure> {
    if output.quiet || output.format == super::arguments::Format::Json { Ok(()) } else { say(text) }
}

/// Has the daemon do it, and waits until its process has ended.
async fn ask_daemon(instance: &Instance, purge: bool) -> Result<(), ClientError> {
    let mut client = Client::connect(instance).await?;
    client.post::<()>("/down", &DownRequest { purge }).await?;
    // If it takes its time, everything is removed all the same.
    client.ended(PATIENCE).await;
    Ok(())
}

/// Removes what a dead daemon has left.
fn without_daemon(instance: &Instance, purge: bool) -> Result<(), DaemonError> {
    daemon::check_machine()?;
    if !instance.run_directory().exists() {
        return Ok(remove_files(instance, purge)?);
    }
    let lock = Lock::acquire(&instance.lock_file())?;
    // Its devices are where it served. If that namespace is gone, so are they.
    let served = served::read(instance).map(served::find).transpose()?;
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
        // What is recorded may be unreadable. The programs go with the bpffs all the same.
        tracing::warn!("{error}");
    }
    if let Err(error) = outside::remove(instance).await {
        tracing::warn!("{error}");
    }
    if let Err(error) = Etc::default().remove_all(instance.name(), |_| false) {
        tracing::warn!("{error}");
    }
    Ok(remove_leftovers(&netlink, instance).await?)
}

/// Gives the uplinks back as they were found.
async fn release_uplinks(instance: &Instance, netlink: &Netlink) -> Result<(), DaemonError> {
    if !instance.store_file().exists() || !bpffs::is_mounted(&instance.bpf_directory()) {
        return Ok(());
    }
    let (store, recorded) = Store::open(&instance.store_file())?;
    if !recorded.peers.is_empty() {
        // Which of them led to peers is not recorded; elsewhere there is nothing to release.
        netlink.links().await?.iter().for_each(|link| release_underlay(link.index));
    }
    let networks: Vec<Network> =
        recorded.networks.into_iter().filter(|network| network.uplink_before.is_some()).collect();
    if networks.is_empty() {
        return Ok(());
    }
    let directory = instance.bpf_directory();
    // As it is: nothing is to be made anew on the way out.
    let fdb_size = Datapath::fdb_size(&directory).unwrap_or(daemon::FDB_SIZE);
    let cluster = Datapath::was_in_cluster(&directory);
    let options = crate::datapath::Options { directory, mode: Mode::Auto, fdb_size, cluster };
    let datapath = Arc::new(Datapath::open(options)?);
    for (number, _) in
        datapath.ports()?.iter().filter(|(_, port)| matches!(port.kind(), Some(PortKind::Uplink | PortKind::Parent)))
    {
        datapath.remove_port(*number)?;
    }
    let scene = Scene { host: netlink, container: None, datapath: &datapath };
    for before in networks.iter().filter_map(|network| network.uplink_before.as_ref()) {
        restore_uplink(before, scene).await;
    }
    let forgotten = networks.into_iter().map(|network| Change::PutNetwork(Network { uplink_before: None, ..network }));
    Ok(store.commit(forgotten.collect()).await?)
}
