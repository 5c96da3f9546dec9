//! A host with engines: namespaces over a root file system of Debian.

use std::{
    collections::BTreeSet,
    env, fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::de::DeserializeOwned;

use super::{Docker, Outcome, command, roots, roots::Root, settles, weight};

/// The script that runs a host until it is killed.
const SCRIPT: &str = include_str!("host.sh");

/// Runs a program in a host: joins its groups, then its namespaces. `$1` is the host's name, `$2`
/// its init.
const ENTER: &str = r#"
for group in /sys/fs/cgroup/"$1"/init /sys/fs/cgroup/*/"$1"; do
    if [ -e "$group/cgroup.procs" ]; then echo $$ > "$group/cgroup.procs"; fi
done
init=$2
shift 2
exec nsenter --target "$init" --mount --uts --ipc --net --pid --cgroup --root --wd \
    env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 TERM=dumb \
    PODMAN_IGNORE_CGROUPSV1_WARNING=1 "$@"
"#;

/// A host. Dropping it kills everything in it, and fails the test if anything is left.
pub struct Host {
    name: String,
    script: Child,
    init: Pid,
}

impl Host {
    /// Starts a host with Docker, podman and containerd. Returns `None`, with a notice, if its root
    /// file system has not been made: outside of CI only.
    pub fn start(role: &str) -> Option<Self> {
        Self::on(&roots::TRIXIE, role)
    }

    /// Starts a host with the engines of this root.
    #[track_caller]
    pub fn on(root: &Root, role: &str) -> Option<Self> {
        if !root.exists() {
            let missing = format!(
                "{} is missing (`cargo xtask setup --engines{}` makes it)",
                root.directory().display(),
                if root.name == roots::TRIXIE.name { "" } else { " --all" }
            );
            // CI runs the tests of the first root, `cargo xtask engines` those of all.
            let required = env::var_os("CI").is_some() && root.name == roots::TRIXIE.name;
            assert!(!required && env::var_os(roots::ALL_REQUIRED).is_none(), "{missing}");
            eprintln!("SKIPPED: {missing}");
            return None;
        }
        weight::wait_for_turn();
        assert!(
            nix::unistd::geteuid().is_root(),
            "these tests make namespaces: run them as root (cargo xtask engines)"
        );
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("vse{}-{}-{role}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, "host.sh"]).arg(root.directory()).arg(&name).arg(env!("CARGO_BIN_EXE_vswitch"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut script = command.spawn().expect("sh is everywhere");
        let mut line = String::new();
        BufReader::new(script.stdout.take().expect("piped")).read_line(&mut line).expect("reading a pipe");
        let init = line.trim().strip_prefix("ready ").and_then(|number| number.parse().ok());
        let init = Pid::from_raw(init.unwrap_or_else(|| panic!("the host {name} did not start: {line:?}")));
        Some(Self { name, script, init })
    }

    /// Returns the path by which the machine sees a file of the host.
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init))
    }

    /// Writes a file of the host.
    #[track_caller]
    pub fn write(&self, path: &str, text: &str) {
        let file = self.path(path);
        fs::create_dir_all(file.parent().expect("a file in a directory")).expect("a directory of our own");
        fs::write(&file, text).unwrap_or_else(|error| panic!("writing {path}: {error}"));
    }

    /// Returns a command that runs in the host.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", ENTER, "enter", &self.name, &self.init.to_string(), program]);
        command
    }

    fn shell(&self, line: &str) -> Command {
        let mut command = self.command("bash");
        command.args(["-c", line]);
        command
    }

    /// Runs a line of the shell, which may succeed or fail.
    #[track_caller]
    pub fn run(&self, line: &str) -> Outcome {
        command::run(&mut self.shell(line))
    }

    /// Runs a line of the shell that must succeed. Returns what it prints, without the last newline.
    #[track_caller]
    pub fn ok(&self, line: &str) -> String {
        let outcome = self.run(line);
        assert_eq!(outcome.code, Some(0), "{line}: {outcome:#?}\n{}", self.logs());
        outcome.stdout.trim_end().to_owned()
    }

    /// Runs a line of the shell that must fail. Returns what it prints on stderr.
    #[track_caller]
    pub fn fails(&self, line: &str) -> String {
        let outcome = self.run(line);
        assert_ne!(outcome.code, Some(0), "{line} succeeded: {outcome:#?}\n{}", self.logs());
        outcome.stderr.trim_end().to_owned()
    }

    /// Runs a line of the shell until it succeeds, and returns what it prints.
    #[track_caller]
    pub fn settles(&self, line: &str) -> String {
        settles(line, || {
            let outcome = self.run(line);
            if outcome.code == Some(0) { Ok(outcome.stdout.trim_end().to_owned()) } else { Err(outcome) }
        })
    }

    /// Runs a line of the shell that must succeed, and parses the JSON that it prints.
    #[track_caller]
    pub fn json<T: DeserializeOwned>(&self, line: &str) -> T {
        let text = self.ok(line);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{line}: {error}: {text}"))
    }

    /// Starts a program in the background, with a log of its own. Returns its number in the host.
    #[track_caller]
    pub fn daemon(&self, log: &str, line: &str) -> Pid {
        let number = self
            .ok(&format!("exec 3>&1; exec > /var/log/{log}.log 2>&1 < /dev/null; setsid {line} 3>&- & echo $! >&3"));
        Pid::from_raw(number.parse().unwrap_or_else(|error| panic!("{number}: {error}")))
    }

    /// Starts the switch.
    #[track_caller]
    pub fn vswitch_up(&self) {
        self.ok("vswitch up");
    }

    /// Runs the command line of the switch, which must succeed.
    #[track_caller]
    pub fn vswitch(&self, arguments: &str) -> String {
        self.ok(&format!("vswitch {arguments}"))
    }

    /// Kills the switch's daemon as the kernel's OOM killer does.
    #[track_caller]
    pub fn kill_vswitch(&self) {
        self.ok("kill -9 $(pidof vswitch); while pidof vswitch; do sleep 0.02; done");
    }

    /// Returns the endpoints of the switch.
    #[track_caller]
    pub fn endpoints(&self) -> Vec<serde_json::Value> {
        self.json("vswitch ps --format json")
    }

    /// Starts dockerd and imports the image `busybox`.
    #[track_caller]
    pub fn docker(&self) -> Docker<'_> {
        Docker::start(self, "")
    }

    /// Returns the ends of the logs of the host's daemons.
    fn logs(&self) -> String {
        self.run("tail -n 15 /var/log/*.log /run/vswitch/*.log 2> /dev/null").stdout
    }

    /// Returns the hardware addresses of the host's own devices.
    fn hardware_addresses(&self) -> BTreeSet<String> {
        let listed = self.run("cat /sys/class/net/*/address").stdout;
        listed.lines().map(str::to_owned).filter(|address| !address.starts_with("00:00:00")).collect()
    }

    /// Asserts that nothing is left: no process (it would keep a group), no mount, no device.
    fn assert_gone(&self, hardware_addresses: &BTreeSet<String>) {
        let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
        let groups = hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]).map(|hierarchy| hierarchy.join(&self.name));
        let groups: Vec<_> = groups.filter(|group| group.exists()).collect();
        assert!(groups.is_empty(), "groups with processes: {groups:?}");
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
        let mounts: Vec<_> = mounts.lines().filter(|line| line.contains(&self.name)).collect();
        assert!(mounts.is_empty(), "mounts: {mounts:?}");
        let files: Vec<_> = [env::temp_dir().as_path(), Path::new("/run/netns")]
            .iter()
            .flat_map(|directory| fs::read_dir(directory).into_iter().flatten().flatten())
            .filter(|entry| entry.file_name().to_string_lossy().contains(&self.name))
            .collect();
        assert!(files.is_empty(), "files: {files:?}");
        let devices = fs::read_dir("/sys/class/net").into_iter().flatten().flatten().map(|entry| entry.path());
        let devices: Vec<_> = devices
            .filter(|device| {
                let address = fs::read_to_string(device.join("address")).unwrap_or_default();
                hardware_addresses.contains(address.trim())
            })
            .collect();
        assert!(devices.is_empty(), "devices in the namespace of the machine: {devices:?}");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let panicking = std::thread::panicking();
        if panicking {
            eprintln!("{}", self.logs());
        }
        let hardware_addresses = if panicking { BTreeSet::new() } else { self.hardware_addresses() };
        let _gone = kill(self.init, Signal::SIGKILL);
        let _ended = self.script.wait();
        if !panicking {
            self.assert_gone(&hardware_addresses);
        }
    }
}
