//! A host with a switch of its own: a network namespace, and an instance that serves it. Commands go through the
//! command line, as a user's would.

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

/// The command line under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_vswitch");

/// A namespace with an instance. Its drop takes the instance down and fails the test if anything stays behind.
pub struct Host {
    pub netns: std::sync::Arc<Netns>,
    instance: String,
    /// Where it has files of its own in the place of the machine's.
    mounts: Option<PrivateMounts>,
    /// What it is called where that is not what the machine is called.
    hostname: Option<String>,
    /// BPF objects seen while it ran; none may outlive it.
    objects: std::sync::Mutex<BTreeSet<BpfObject>>,
}

/// What `attach` prints, and `ps` for each endpoint.
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

/// What went through a port, as `stats` shows it.
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
    /// Where the frames that came in have gone, all together.
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
    /// A host whose switch is up.
    #[track_caller]
    pub fn up(options: &[&str]) -> Self {
        let host = Self::down();
        host.start(options);
        host
    }

    /// A host whose switch has not been started.
    pub fn down() -> Self {
        Self::beside(&std::sync::Arc::new(Netns::new("host")))
    }

    /// Another instance in a namespace that has one already; not started.
    pub fn beside(netns: &std::sync::Arc<Netns>) -> Self {
        Self {
            netns: netns.clone(),
            instance: unique("i"),
            mounts: None,
            hostname: None,
            objects: std::sync::Mutex::default(),
        }
    }

    /// A host with a name of its own; not started.
    pub fn called(hostname: &str) -> Self {
        let mut host = Self::down();
        host.hostname = Some(hostname.to_owned());
        host
    }

    /// A host with a /etc/resolv.conf of its own; not started. It is in a mount namespace, of which the machine's files
    /// know nothing.
    pub fn with_resolv_conf(text: &str) -> Self {
        let mut host = Self::down();
        host.mounts = Some(PrivateMounts::with("/etc/resolv.conf", text));
        host
    }

    /// Writes this host's own /etc/resolv.conf anew.
    pub fn write_resolv_conf(&self, text: &str) {
        self.mounts.as_ref().expect("a host made with a file of its own").write(text);
    }

    /// `vswitch up`.
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

    /// The command line, aimed at this instance, run in the host's namespace.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.netns.command(BINARY);
        if let Some(mounts) = &self.mounts {
            mounts.enter(&mut command);
        }
        if let Some(hostname) = self.hostname.clone() {
            // SAFETY: between fork and exec, two system calls, on a text that the closure owns.
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

    /// Runs a command; anything may come of it.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Outcome {
        run(&mut self.command(arguments))
    }

    /// Runs a command that succeeds and says nothing on stderr; what it prints.
    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        let outcome = self.run(arguments);
        assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""), "vswitch {arguments:?}: {outcome:#?}");
        outcome.stdout
    }

    /// Runs a command with `--format json`; its answer.
    #[track_caller]
    pub fn json<T: DeserializeOwned>(&self, arguments: &[&str]) -> T {
        let text = self.ok(&[arguments, &["--format", "json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("vswitch {arguments:?}: {error}: {text}"))
    }

    /// Runs a command that fails with this exit status and one clear line, which is returned without its prefix.
    #[track_caller]
    pub fn fails(&self, code: i32, arguments: &[&str]) -> String {
        complaint(code, &run(&mut self.command(arguments)))
    }

    /// Attaches a container.
    #[track_caller]
    pub fn attach(&self, container: &Netns, options: &[&str]) -> Attached {
        self.json(&[&["attach", "--netns", &container.path_argument()], options].concat())
    }

    /// All endpoints.
    #[track_caller]
    pub fn ps(&self) -> Vec<Attached> {
        self.json(&["ps"])
    }

    /// The stations that the switch knows.
    #[track_caller]
    pub fn fdb(&self, options: &[&str]) -> Vec<Station> {
        self.json(&[&["fdb", "show"], options].concat())
    }

    /// Who listens to a multicast group.
    #[track_caller]
    pub fn listening(&self, group: IpAddr) -> Vec<String> {
        let groups: Vec<Group> = self.json(&["mdb", "show"]);
        groups.into_iter().filter(|row| row.group == group).flat_map(|row| row.ports).collect()
    }

    /// The counters of an endpoint's port.
    #[track_caller]
    pub fn counters(&self, endpoint: &str) -> Counters {
        let counters = self.ports(&[endpoint]);
        counters.into_values().next().unwrap_or_else(|| panic!("stats {endpoint} shows no port"))
    }

    /// The counters of ports, by port.
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

    /// The process that serves the socket, if one does.
    pub fn daemon(&self) -> Option<Pid> {
        let stream = UnixStream::connect(self.socket()).ok()?;
        let pid = getsockopt(&stream, PeerCredentials).ok()?.pid();
        (pid != 0).then(|| Pid::from_raw(pid))
    }

    /// Kills the daemon as the kernel would for want of memory, and waits for its death.
    #[track_caller]
    pub fn kill_daemon(&self) {
        let daemon = self.daemon().expect("a daemon is running");
        self.note_objects();
        kill(daemon, Signal::SIGKILL).expect("killing the daemon");
        eventually("the daemon is dead", || (!leftovers::alive(daemon)).then_some(()));
    }

    /// `vswitch down` with these options, and a look at what it left.
    #[track_caller]
    pub fn stop(&self, options: &[&str]) {
        let objects = self.note_objects();
        let outcome = self.run(&[&["down"], options].concat());
        assert_eq!(outcome.code, Some(0), "down {options:?}: {outcome:#?}");
        leftovers::assert_gone(self, &objects);
    }

    /// BPF objects that the instance has had so far.
    pub fn note_objects(&self) -> BTreeSet<BpfObject> {
        let mut objects = self.objects.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        objects.extend(BpfObject::pinned_below(&self.run_directory()));
        for process in leftovers::processes(&self.instance) {
            objects.extend(BpfObject::held_by(process));
        }
        objects.clone()
    }
}

/// Asserts that a command failed as the command line promises, and returns its complaint.
#[track_caller]
pub fn complaint(code: i32, outcome: &Outcome) -> String {
    assert_eq!(outcome.code, Some(code), "{outcome:#?}");
    assert_eq!(outcome.stdout, "", "an error belongs on stderr: {outcome:#?}");
    let line = outcome.stderr.strip_suffix('\n').unwrap_or_else(|| panic!("not a line: {outcome:#?}"));
    assert!(!line.contains('\n'), "more than one line: {outcome:#?}");
    line.strip_prefix("vswitch: ").unwrap_or_else(|| panic!("does not start with `vswitch: `: {outcome:#?}")).to_owned()
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            leftovers::remove(self);
            return;
        }
        let objects = self.note_objects();
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
