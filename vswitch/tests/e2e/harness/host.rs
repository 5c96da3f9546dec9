//! A host: a network namespace and an instance that serves it. Tests drive the instance through the
//! command line, as users do.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::unix::{net::UnixStream, process::CommandExt as _},
    path::{Path, PathBuf},
    process::Command,
    str::FromStr,
};

use nix::{
    sched::{CloneFlags, unshare},
    sys::{
        signal::{Signal, kill},
        socket::{getsockopt, sockopt::PeerCredentials},
    },
    unistd::{Pid, sethostname},
};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};

use super::{BpfObject, Mac, Netns, Outcome, eventually, leftovers, mounts::PrivateMounts, run, unique};

/// Path of the command line under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_vswitch");

/// A namespace with an instance. Dropping it runs `down --purge` and fails the test if anything is
/// left behind.
pub struct Host {
    pub netns: std::sync::Arc<Netns>,
    instance: String,
    /// Mount namespace with files of this host's own in place of the machine's.
    mounts: Option<PrivateMounts>,
    /// Hostname, if it differs from that of the machine.
    hostname: Option<String>,
    /// BPF objects seen while the instance ran. None of them may outlive it.
    objects: std::sync::Mutex<BTreeSet<BpfObject>>,
}

/// An endpoint as `attach` prints it, and `ps` for each endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Attached {
    pub id: String,
    pub name: String,
    pub network: String,
    pub ifname: String,
    #[serde(deserialize_with = "parsed")]
    pub mac: Mac,
    pub ipv4: Ipv4Addr,
    pub ipv6: Option<Ipv6Addr>,
    pub gateway: Option<Ipv4Addr>,
    pub gateway6: Option<Ipv6Addr>,
    pub nameservers: Vec<IpAddr>,
    pub mtu: u32,
    pub netns: PathBuf,
    pub published: Vec<Published>,
}

/// A published port.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Published {
    pub protocol: String,
    pub host_ip: Option<IpAddr>,
    pub host_port: u16,
    pub container_port: u16,
}

/// A row of `fdb show`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Station {
    #[serde(deserialize_with = "parsed")]
    pub mac: Mac,
    pub network: String,
    pub vlan: u16,
    pub service_tag: bool,
    pub port: String,
    pub kind: String,
    pub age: Option<u64>,
    pub moves: u64,
    pub held: bool,
}

/// A row of `mdb show`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Group {
    pub network: String,
    pub group: IpAddr,
    pub vlan: u16,
    pub service_tag: bool,
    pub ports: Vec<String>,
    pub expires_in: Option<u64>,
}

/// The counters of a port, as `stats` shows them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Counters {
    pub rx_frames: u64,
    pub rx_bytes: u64,
    pub tx_frames: u64,
    pub tx_bytes: u64,
    pub forwarded: u64,
    pub flooded: u64,
    pub to_host: u64,
    pub passed: u64,
    pub tx_failed: u64,
    pub learned: u64,
    pub learn_failed: u64,
    pub drops: BTreeMap<String, u64>,
}

impl Counters {
    /// Returns how many received frames the counters account for, over all outcomes and drop
    /// reasons.
    pub fn accounted(&self) -> u64 {
        self.forwarded + self.flooded + self.to_host + self.passed + self.drops.values().sum::<u64>()
    }

    pub fn dropped(&self, reason: &str) -> u64 {
        self.drops.get(reason).copied().unwrap_or_default()
    }
}

fn parsed<'de, D: Deserializer<'de>, T: FromStr<Err: Display>>(deserializer: D) -> Result<T, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

impl Host {
    /// Returns a host whose instance is up.
    #[track_caller]
    pub fn up(options: &[&str]) -> Self {
        let host = Self::down();
        host.start(options);
        host
    }

    /// Returns a host whose instance has not been started.
    pub fn down() -> Self {
        Self::beside(&std::sync::Arc::new(Netns::new("host")))
    }

    /// Returns another instance in a namespace that already has one. The new one is not started.
    pub fn beside(netns: &std::sync::Arc<Netns>) -> Self {
        Self {
            netns: netns.clone(),
            instance: unique("i"),
            mounts: None,
            hostname: None,
            objects: std::sync::Mutex::default(),
        }
    }

    /// Returns a host with a hostname of its own. Its instance is not started.
    pub fn with_hostname(hostname: &str) -> Self {
        let mut host = Self::down();
        host.hostname = Some(hostname.to_owned());
        host
    }

    /// Returns a host with files of its own in /run and in these directories of the machine, for
    /// daemons beside the switch. Its instance is not started.
    pub fn with_machine(directory: &Path, copied: &[&'static str]) -> Self {
        let mut host = Self::down();
        host.mounts = Some(PrivateMounts::of_a_machine(directory, copied));
        host
    }

    /// Returns the command that runs a program in the namespaces of this host.
    pub fn program(&self, program: &str) -> Command {
        let mut command = self.netns.command(program);
        if let Some(mounts) = &self.mounts {
            mounts.enter(&mut command);
        }
        command
    }

    /// Returns a host with an /etc/resolv.conf of its own, in a mount namespace that leaves the
    /// machine's file unchanged. Its instance is not started.
    pub fn with_resolv_conf(text: &str) -> Self {
        let mut host = Self::down();
        host.mounts = Some(PrivateMounts::with("/etc/resolv.conf", text));
        host
    }

    /// Returns a host in a mount namespace without control groups of version 2. Its instance is not
    /// started.
    pub fn without_cgroups() -> Self {
        let mut host = Self::down();
        host.mounts = Some(PrivateMounts::without("cgroup2"));
        host
    }

    /// Overwrites this host's own /etc/resolv.conf.
    pub fn write_resolv_conf(&self, text: &str) {
        self.mounts.as_ref().expect("a host made by with_resolv_conf").write(text);
    }

    /// Runs `vswitch up`, which must succeed, and returns its output.
    #[track_caller]
    pub fn start(&self, options: &[&str]) -> String {
        let outcome = run(self.command(&["up"]).args(options));
        assert_eq!(outcome.code, Some(0), "up {options:?}: {outcome:#?}");
        outcome.stdout
    }

    pub fn instance(&self) -> &str {
        &self.instance
    }

    pub fn run_directory(&self) -> PathBuf {
        Path::new("/run/vswitch").join(&self.instance)
    }

    pub fn state_directory(&self) -> PathBuf {
        Path::new("/var/lib/vswitch").join(&self.instance)
    }

    pub fn socket(&self) -> PathBuf {
        self.run_directory().join("api.sock")
    }

    /// Returns the command line for this instance, to be run in the host's namespace.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.program(BINARY);
        if let Some(hostname) = self.hostname.clone() {
            // SAFETY: between fork and exec, the closure makes two system calls and reads a string
            // that it owns.
            unsafe {
                command.pre_exec(move || {
                    unshare(CloneFlags::CLONE_NEWUTS)?;
                    Ok(sethostname(&hostname)?)
                });
            }
        }
        command.args(["--instance", &self.instance]).args(arguments);
        command
    }

    /// Runs a command, which may succeed or fail.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Outcome {
        run(&mut self.command(arguments))
    }

    /// Runs a command that must succeed and print nothing on stderr. Returns its stdout.
    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        let outcome = self.run(arguments);
        assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""), "vswitch {arguments:?}: {outcome:#?}");
        outcome.stdout
    }

    /// Runs a command with `--format json`, and returns the parsed output.
    #[track_caller]
    pub fn json<T: DeserializeOwned>(&self, arguments: &[&str]) -> T {
        let text = self.ok(&[arguments, &["--format", "json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("vswitch {arguments:?}: {error}: {text}"))
    }

    /// Runs a command that must fail with this exit status and a one-line message. Returns the
    /// message without its prefix.
    #[track_caller]
    pub fn fails(&self, code: i32, arguments: &[&str]) -> String {
        complaint(code, &run(&mut self.command(arguments)))
    }

    /// Attaches a container.
    #[track_caller]
    pub fn attach(&self, container: &Netns, options: &[&str]) -> Attached {
        self.json(&[&["attach", "--netns", &container.path_argument()], options].concat())
    }

    /// Returns all endpoints.
    #[track_caller]
    pub fn ps(&self) -> Vec<Attached> {
        self.json(&["ps"])
    }

    /// Returns the rows of `fdb show`.
    #[track_caller]
    pub fn fdb(&self, options: &[&str]) -> Vec<Station> {
        self.json(&[&["fdb", "show"], options].concat())
    }

    /// Returns the ports that have joined a multicast group.
    #[track_caller]
    pub fn listeners(&self, group: IpAddr) -> Vec<String> {
        let groups: Vec<Group> = self.json(&["mdb", "show"]);
        groups.into_iter().filter(|row| row.group == group).flat_map(|row| row.ports).collect()
    }

    /// Returns the counters of an endpoint's port.
    #[track_caller]
    pub fn counters(&self, endpoint: &str) -> Counters {
        let counters = self.ports(&[endpoint]);
        counters.into_values().next().unwrap_or_else(|| panic!("stats {endpoint} shows no port"))
    }

    /// Returns the counters of the selected ports, keyed by port name.
    #[track_caller]
    pub fn ports(&self, which: &[&str]) -> BTreeMap<String, Counters> {
        #[derive(Deserialize)]
        struct Row {
            port: String,
            #[serde(flatten)]
            counters: Counters,
        }
        let rows: Vec<Row> = self.json(&[&["stats"], which].concat());
        rows.into_iter().map(|row| (row.port, row.counters)).collect()
    }

    /// Returns the process that listens on the API socket, if the daemon runs.
    pub fn daemon(&self) -> Option<Pid> {
        let stream = UnixStream::connect(self.socket()).ok()?;
        let pid = getsockopt(&stream, PeerCredentials).ok()?.pid();
        (pid != 0).then(|| Pid::from_raw(pid))
    }

    /// Kills the daemon with SIGKILL, as the kernel's OOM killer does, and waits until it is dead.
    #[track_caller]
    pub fn kill_daemon(&self) {
        let daemon = self.daemon().expect("a daemon is running");
        self.record_objects();
        kill(daemon, Signal::SIGKILL).expect("killing the daemon");
        eventually("the daemon is dead", || (!leftovers::alive(daemon)).then_some(()));
    }

    /// Runs `vswitch down` with these options, and checks that it left nothing behind.
    #[track_caller]
    pub fn stop(&self, options: &[&str]) {
        let objects = self.record_objects();
        let outcome = self.run(&[&["down"], options].concat());
        assert_eq!(outcome.code, Some(0), "down {options:?}: {outcome:#?}");
        leftovers::assert_gone(self, &objects);
    }

    /// Records the BPF objects that the instance has now, and returns all recorded so far.
    pub fn record_objects(&self) -> BTreeSet<BpfObject> {
        let mut objects = self.objects.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        objects.extend(BpfObject::pinned_below(&self.run_directory()));
        for process in leftovers::processes(&self.instance) {
            objects.extend(BpfObject::held_by(process));
        }
        objects.clone()
    }
}

/// Asserts that a command failed as documented (exit status, one line on stderr), and returns its
/// message.
#[track_caller]
pub fn complaint(code: i32, outcome: &Outcome) -> String {
    assert_eq!(outcome.code, Some(code), "{outcome:#?}");
    assert_eq!(outcome.stdout, "", "an error belongs on stderr: {outcome:#?}");
    let line = outcome.stderr.strip_suffix('\n').unwrap_or_else(|| panic!("no newline at the end: {outcome:#?}"));
    assert!(!line.contains('\n'), "more than one line: {outcome:#?}");
    line.strip_prefix("vswitch: ").unwrap_or_else(|| panic!("does not start with `vswitch: `: {outcome:#?}")).to_owned()
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            leftovers::remove(self);
            return;
        }
        let objects = self.record_objects();
        let outcome = self.run(&["down", "--purge"]);
        let state = self.state_directory();
        let purged = !state.exists();
        let check = std::panic::catch_unwind(|| leftovers::assert_gone(self, &objects));
        leftovers::remove(self);
        assert_eq!(outcome.code, Some(0), "down --purge: {outcome:#?}");
        if let Err(panic) = check {
            std::panic::resume_unwind(panic);
        }
        assert!(purged, "down --purge left {}", state.display());
    }
}
