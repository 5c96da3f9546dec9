//! The daemon: wires the parts, serves, and shuts down.

mod cluster;

use std::fs::{self, DirBuilder};
use std::io;
use std::net::IpAddr;
use std::os::fd::{FromRawFd as _, RawFd};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::Group;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::api::ErrorBody;
use crate::datapath::{Datapath, DatapathError, Mode};
use crate::docker;
use crate::kernel::bpffs::{self, BpffsError};
use crate::kernel::capabilities::{Capabilities, Unable};
use crate::kernel::limits;
use crate::kernel::netlink::{Netlink, NetlinkError};
use crate::kernel::netns::{Netns, NetnsError};
use crate::lock::{Lock, LockError};
use crate::model::{Instance, Subnet};
use crate::observe::{ObserveError, Observer};
use crate::plan::apply::{datapath_hint, netlink_hint};
use crate::plan::store::{Store, StoreError};
use crate::served_namespace::{self, RecordError};
use crate::server::{DownCall, router};
use crate::switch::{Parts, RemoveError, Restored, Switch, SwitchError, remove_files, remove_leftovers};

pub use cluster::{ClusterOptions, JoinError};

/// The default number of learned FDB entries.
pub const FDB_SIZE: u32 = 65_536;
/// The group whose members may use the socket, if the group exists.
const GROUP: &str = "vswitch";
/// The mode of a socket that the group may use.
const GROUP_MODE: u32 = 0o660;
/// The names under which systemd passes the socket of Docker's plugin.
const PLUGIN_NAMES: [&str; 2] = ["docker", "vswitch-docker.socket"];
/// The time that pending requests get when the daemon ends.
const GRACE: Duration = Duration::from_secs(10);
/// The interval between the signs of life of a daemon that starts.
const WORKING: Duration = Duration::from_secs(2);

/// The options of `up`.
#[derive(Clone, Debug)]
pub struct Options {
    /// The instance.
    pub instance: Instance,
    /// The requested hooks.
    pub mode: Mode,
    /// The pools that subnets are chosen from.
    pub pools: Vec<Subnet>,
    /// The number of learned FDB entries; `None` keeps the present table.
    pub fdb_size: Option<u32>,
    /// The bit of a packet's mark for connections to published ports.
    pub published_mark: u32,
    /// The UDP port of the tunnels of overlay networks.
    pub vxlan_port: u16,
    /// The UDP port of WireGuard, which carries the tunnels of encrypted networks.
    pub wireguard_port: u16,
    /// The cluster to join.
    pub cluster: Option<ClusterOptions>,
    /// The source address of tunnels, to which other hosts send theirs; `None` for the source
    /// address of packets to etcd, or without a cluster to each peer.
    pub advertise: Option<IpAddr>,
}

/// The reason why the daemon did not start, or ended with an error.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The kernel or the process lacks a capability.
    #[error("{0} ({hint})", hint = unable_hint(.0))]
    Unable(#[from] Unable),
    /// The capabilities of the machine cannot be read.
    #[error("cannot find out what this machine can do: {0} (is /proc mounted?)")]
    Capabilities(#[source] io::Error),
    /// A file or directory cannot be used.
    #[error("cannot {action} {path}: {source} (make room for it)", path = path.display())]
    File {
        /// The action.
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
    /// The instance serves another namespace.
    #[error("instance {instance} serves another network namespace (take it down first: `{command} down`)")]
    OtherNamespace {
        /// The instance.
        instance: String,
        /// The command line of the instance.
        command: String,
    },
    /// The lock of the instance.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The file with the served namespace.
    #[error(transparent)]
    Note(#[from] RecordError),
    /// The daemon's own namespace.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The bpffs of the instance.
    #[error("{0} (`mount` shows what is there)")]
    Bpffs(#[from] BpffsError),
    /// The programs and maps.
    #[error("{0} ({hint})", hint = datapath_hint(.0))]
    Datapath(#[from] DatapathError),
    /// The rings of frames and events.
    #[error("{0} (raise `ulimit -n` if there are too few descriptors)")]
    Observer(#[from] ObserveError),
    /// The rtnetlink sockets.
    #[error("{0} ({hint})", hint = netlink_hint(.0))]
    Netlink(#[from] NetlinkError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The switch.
    #[error(transparent)]
    Switch(Box<SwitchError>),
    /// The cluster.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// Files that cannot be removed.
    #[error(transparent)]
    Remove(#[from] RemoveError),
    /// The runtime, or its signal handlers.
    #[error("cannot start: {0}")]
    Runtime(#[source] io::Error),
}

impl DaemonError {
    /// Returns the stable code of the error for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unable(Unable::Privilege { .. }) => "not_root",
            Self::Unable(Unable::Kernel { .. }) => "kernel_too_old",
            Self::Unable(Unable::Bpf { .. }) => "kernel_without_bpf",
            Self::Unable(Unable::Btf { .. }) => "kernel_without_btf",
            Self::Capabilities(_) => "capabilities",
            Self::File { .. } | Self::Remove(_) => "file",
            Self::OtherNamespace { .. } => "other_namespace",
            Self::Lock(LockError::Held) => "locked",
            Self::Lock(LockError::Io { .. }) | Self::Note(_) => "file",
            Self::Netns(_) => "netns_unusable",
            Self::Bpffs(_) => "bpffs",
            Self::Datapath(_) | Self::Observer(_) => "datapath",
            Self::Netlink(_) => "netlink",
            Self::Store(_) => "store",
            Self::Switch(error) => error.code(),
            Self::Join(error) => error.code(),
            Self::Runtime(_) => "runtime",
        }
    }
}

impl From<SwitchError> for DaemonError {
    fn from(error: SwitchError) -> Self {
        Self::Switch(Box::new(error))
    }
}

const fn unable_hint(unable: &Unable) -> &'static str {
    match unable {
        Unable::Privilege { .. } => "run it as root: `sudo vswitch up`",
        Unable::Kernel { .. } => "it needs Linux 6.1 or newer",
        Unable::Bpf { .. } => "it needs the bpf system call: CONFIG_BPF_SYSCALL, and no seccomp filter that forbids it",
        Unable::Btf { .. } => "it needs a kernel with CONFIG_DEBUG_INFO_BTF, as distributions build it",
    }
}

/// Checks whether vswitch can run on this machine. Changes nothing.
///
/// # Errors
/// The first missing capability.
pub fn check_machine() -> Result<Capabilities, DaemonError> {
    let capabilities = Capabilities::detect().map_err(DaemonError::Capabilities)?;
    capabilities.require()?;
    Ok(capabilities)
}

/// Checks that a running instance serves the namespace of this process. Returns false if the
/// namespace that it served is gone.
///
/// # Errors
/// [`DaemonError::OtherNamespace`].
pub fn check_namespace(instance: &Instance) -> Result<bool, DaemonError> {
    let own = Netns::current()?.id();
    match served_namespace::read(instance).filter(|served| *served != own) {
        None => Ok(true),
        Some(served) if served_namespace::find(served)?.is_none() => Ok(false),
        Some(_) => {
            let (instance, command) = (instance.name().to_string(), instance.command());
            Err(DaemonError::OtherNamespace { instance, command })
        }
    }
}

/// Creates the run directory of an instance.
///
/// # Errors
/// The directory cannot be created.
pub fn make_run_directory(instance: &Instance) -> Result<(), DaemonError> {
    make_directory(&instance.run_directory(), 0o755)
}

/// Runs the daemon until `down` or a signal ends it. Calls `working` again and again while the
/// daemon works on its start, until it returns false, and `ready` once the daemon serves.
///
/// # Errors
/// The daemon could not start, and everything that it made is removed; or it could not shut down
/// cleanly.
pub fn run(
    options: &Options,
    working: impl Fn() -> bool + Send + 'static,
    ready: impl FnOnce(&Restored),
) -> Result<(), DaemonError> {
    let capabilities = check_machine()?;
    make_run_directory(&options.instance)?;
    let lock = Lock::acquire(&options.instance.lock_file())?;
    if let Err(error) = limits::raise_open_files() {
        tracing::warn!("the limit of open files stays as it is: {error}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(32)
        .enable_all()
        .build()
        .map_err(DaemonError::Runtime)?;
    runtime.spawn(async move {
        while working() {
            tokio::time::sleep(WORKING).await;
        }
    });
    let outcome = runtime.block_on(live(options, &capabilities, ready));
    runtime.shutdown_timeout(GRACE);
    drop(lock);
    outcome
}

async fn live(
    options: &Options,
    capabilities: &Capabilities,
    ready: impl FnOnce(&Restored),
) -> Result<(), DaemonError> {
    let instance = &options.instance;
    let before = Before::look(instance);
    let started = start(options, capabilities, &before).await;
    let Serving { switch, listener, plugin, restored } = match started {
        Ok(serving) => serving,
        Err(error) => {
            before.restore(instance).await;
            return Err(error);
        }
    };
    let hooks = switch.hooks();
    tracing::info!(
        "instance {} serves ({} on endpoints, {} endpoints)",
        instance.name(),
        hooks.container,
        restored.running + restored.attached
    );
    ready(&restored);
    serve(instance, switch, listener, plugin).await
}

/// The state before the daemon started, which a failed start restores.
struct Before {
    /// The programs of an earlier daemon run.
    running: bool,
    /// A state directory exists.
    recorded: bool,
}

impl Before {
    fn look(instance: &Instance) -> Self {
        Self { running: bpffs::is_mounted(&instance.bpf_directory()), recorded: instance.state_directory().exists() }
    }

    /// Removes everything that a failed start made. Programs that ran before run on.
    async fn restore(self, instance: &Instance) {
        if self.running {
            return;
        }
        if let Ok(netlink) = Netlink::open()
            && let Err(error) = remove_leftovers(&netlink, instance).await
        {
            tracing::error!("{error}");
        }
        if let Err(error) = remove_files(instance, !self.recorded) {
            tracing::error!("{error}");
        }
    }
}

/// A daemon that is ready to serve.
struct Serving {
    switch: Arc<Switch>,
    listener: UnixListener,
    /// The socket of Docker's plugin.
    plugin: UnixListener,
    restored: Restored,
}

async fn start(options: &Options, capabilities: &Capabilities, before: &Before) -> Result<Serving, DaemonError> {
    let instance = &options.instance;
    if before.running && !check_namespace(instance)? {
        // The namespace that the programs served is gone with its devices.
        bpffs::remove(&instance.bpf_directory())?;
    }
    make_directory(&instance.state_directory(), 0o700)?;
    let (store, recorded) = Store::open(&instance.store_file())?;
    let netlink = Netlink::open()?;
    // First, because nothing has to be undone yet if it fails.
    let membership = match &options.cluster {
        Some(cluster) => Some(cluster::join(cluster, options.advertise, instance, &netlink).await?),
        None => None,
    };
    let advertise = match &membership {
        Some(membership) => Some(membership.address()),
        None => cluster::advertised(options.advertise, instance, &netlink).await?,
    };
    served_namespace::write(instance, Netns::current()?.id())?;
    bpffs::ensure(&instance.bpf_directory())?;
    let directory = instance.bpf_directory();
    // A table of another size is a new one without the learned entries, so the size changes only on
    // request.
    let fdb_size = options.fdb_size.or_else(|| Datapath::fdb_size(&directory)).unwrap_or(FDB_SIZE);
    let cluster = membership.is_some();
    let datapath = crate::datapath::Options {
        directory,
        mode: options.mode,
        fdb_size,
        cluster,
        published_mark: options.published_mark,
    };
    // The verifier may take seconds; no other task runs yet.
    let datapath = Arc::new(Datapath::open(datapath)?);
    datapath.follow_log();
    let observer = Observer::start(&datapath)?;
    // Subscribed before the state of the kernel is read, so that no event is missed.
    let events = Netlink::link_events()?;
    let path_events = Netlink::path_events(None)?;
    let parts = Parts {
        instance: instance.clone(),
        mode: options.mode,
        pools: options.pools.clone(),
        kernel: capabilities.release.text.clone(),
        netlink,
        datapath,
        observer,
        store,
        vxlan_port: options.vxlan_port,
        wireguard_port: options.wireguard_port,
        membership,
        advertise,
    };
    let switch = Arc::new(Switch::new(parts)?);
    let restored = match switch.restore(recorded).await {
        Ok(restored) => restored,
        Err(error) => {
            if !before.running {
                // Restores the uplinks; the caller removes everything else.
                let _ = switch.tear_down().await;
            }
            return Err(error.into());
        }
    };
    let listeners =
        listen(&instance.socket(), GROUP_MODE).and_then(|listener| Ok((listener, plugin_socket(instance)?)));
    let (listener, plugin) = match listeners {
        Ok(listeners) => listeners,
        Err(error) => {
            if !before.running {
                let _ = switch.tear_down().await;
            }
            return Err(error);
        }
    };
    switch.start(events, path_events);
    Ok(Serving { switch, listener, plugin, restored })
}

/// Serves until `down` or a signal.
async fn serve(
    instance: &Instance,
    switch: Arc<Switch>,
    listener: UnixListener,
    plugin: UnixListener,
) -> Result<(), DaemonError> {
    let (down, mut downs) = mpsc::channel::<DownCall>(1);
    let (stop, stopped) = oneshot::channel::<()>();
    let app = router(switch.clone(), down);
    let server = axum::serve(listener, app).with_graceful_shutdown(async move {
        // A dropped sender ends the server, too.
        let _ = stopped.await;
    });
    let server = tokio::spawn(server.into_future());
    let activated = Arc::new(Notify::new());
    tokio::spawn(axum::serve(plugin, docker::router(switch.clone(), activated.clone())).into_future());
    tokio::spawn(docker::follow(switch.clone(), activated));
    let mut terminate = signal(SignalKind::terminate()).map_err(DaemonError::Runtime)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(DaemonError::Runtime)?;
    let down = tokio::select! {
        down = downs.recv() => down,
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
    };
    notify(&[sd_notify::NotifyState::Stopping]);
    // An open monitor or capture must not delay the shutdown.
    switch.close_observer();

    let outcome = match down {
        Some((request, answer)) => {
            let outcome = take_down(instance, &switch, request.purge).await;
            let answered = outcome.as_ref().map_err(|error| ErrorBody::new(error.code(), &error.to_string()));
            // A client that disconnected does not need the answer.
            let _ = answer.send(answered.copied());
            outcome
        }
        None => {
            switch.close().await;
            remove_socket(&instance.socket())
        }
    };
    // Sends this answer and those of pending requests.
    let _ = stop.send(());
    let _ = tokio::time::timeout(GRACE, server).await;
    tracing::info!("the daemon ends");
    outcome
}

async fn take_down(instance: &Instance, switch: &Switch, purge: bool) -> Result<(), DaemonError> {
    switch.tear_down().await?;
    Ok(remove_files(instance, purge)?)
}

/// Notifies systemd, if it started the daemon.
pub fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("cannot tell systemd: {error}");
    }
}

/// Takes the socket of Docker's plugin from systemd, or opens one for root alone.
fn plugin_socket(instance: &Instance) -> Result<UnixListener, DaemonError> {
    let path = instance.docker_socket();
    let failed = |source| DaemonError::File { action: "listen at", path: path.clone(), source };
    let passed = sd_notify::listen_fds_with_names().map_err(failed)?;
    let Some((descriptor, _)) = passed.into_iter().find(|(_, name)| PLUGIN_NAMES.contains(&name.as_str())) else {
        return listen(&path, 0o600);
    };
    let listener = received_listener(descriptor);
    listener.set_nonblocking(true).map_err(failed)?;
    UnixListener::from_std(listener).map_err(failed)
}

/// Takes over a socket that systemd passed.
#[expect(unsafe_code, reason = "the descriptor is only a number in the environment")]
fn received_listener(descriptor: RawFd) -> std::os::unix::net::UnixListener {
    // SAFETY: the service manager passed the descriptor to this process, and nothing else in it
    // uses the descriptor.
    unsafe { std::os::unix::net::UnixListener::from_raw_fd(descriptor) }
}

/// Opens a socket for root, and with [`GROUP_MODE`] for the group. Replaces the socket of a dead daemon: the lock of the
/// instance proves that it is dead.
fn listen(path: &Path, mode: u32) -> Result<UnixListener, DaemonError> {
    remove_socket(path)?;
    let failed = |action| move |source| DaemonError::File { action, path: path.to_owned(), source };
    // No client can connect before the socket has its owner and mode.
    let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
    let bound = UnixListener::bind(path);
    nix::sys::stat::umask(before);
    let listener = bound.map_err(failed("listen at"))?;
    let group = Group::from_name(GROUP).ok().flatten().filter(|_| mode == GROUP_MODE);
    if let Some(group) = group {
        chown(path, None, Some(group.gid.as_raw())).map_err(failed("set the group of"))?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed("set the mode of"))?;
    Ok(listener)
}

fn remove_socket(path: &Path) -> Result<(), DaemonError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(DaemonError::File { action: "remove", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

fn make_directory(path: &Path, mode: u32) -> Result<(), DaemonError> {
    let failed = |source| DaemonError::File { action: "make the directory", path: path.to_owned(), source };
    let parent = path.parent().unwrap_or(path);
    DirBuilder::new().recursive(true).mode(0o755).create(parent).map_err(failed)?;
    DirBuilder::new().recursive(true).mode(mode).create(path).map_err(failed)
}
