//! A network namespace under /run/netns: a host, a container, or a machine at the far end of a
//! wire.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs::File,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use netlink_packet_route::link::LinkAttribute;
use nix::sched::{CloneFlags, setns};
use serde_json::Value;

use super::{Mac, command, netlink, unique, weight};

/// A network namespace that lives as long as this value, or until [`delete`](Self::delete).
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Creates a namespace and sets its loopback device up. The role is the last part of its name.
    pub fn new(role: &str) -> Self {
        weight::wait_for_turn();
        let root = nix::unistd::geteuid().is_root();
        assert!(root, "the end-to-end tests make namespaces: run them as root (cargo xtask test)");
        Self::named(unique(role))
    }

    /// Creates a namespace with a name that is recorded somewhere, and with its loopback up.
    pub fn named(name: String) -> Self {
        let netns = Self { name };
        command::ok(Command::new("ip").args(["netns", "add", &netns.name]));
        netns.ip("link set lo up");
        netns
    }

    /// Creates `count` namespaces with numbered roles.
    pub fn several(role: &str, count: usize) -> Vec<Self> {
        (0..count).map(|number| Self::new(&format!("{role}{number}"))).collect()
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Path of the file on which the namespace is mounted.
    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// Returns [`path`](Self::path) as a string for command lines.
    pub fn path_argument(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    /// Runs `ip` inside. Panics if it fails.
    #[track_caller]
    pub fn ip(&self, arguments: &str) -> String {
        command::ok(Command::new("ip").args(["-n", &self.name]).args(arguments.split_whitespace()))
    }

    /// Runs `ip` inside once for several lines of arguments. The test fails if any of them does.
    #[track_caller]
    pub fn ip_lines<const N: usize>(&self, lines: [String; N]) {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), lines.join("\n") + "\n").expect("writing a temporary file");
        command::ok(Command::new("ip").args(["-n", &self.name, "-batch"]).arg(file.path()));
    }

    /// Runs `ip -j -d` inside, and returns the rows that it prints.
    #[track_caller]
    pub fn ip_json(&self, arguments: &str) -> Vec<Value> {
        let text = self.ip(&format!("-j -d {arguments}"));
        if text.trim().is_empty() {
            return Vec::new();
        }
        let rows: Vec<Value> =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("ip -j {arguments}: {error}: {text}"));
        // ip prints an empty object for each row that it filtered out.
        rows.into_iter().filter(|row| row.as_object().is_some_and(|fields| !fields.is_empty())).collect()
    }

    /// Returns the names of the devices inside.
    pub fn devices(&self) -> BTreeSet<String> {
        netlink::links(self).into_iter().map(|(name, _)| name).collect()
    }

    /// Returns a device inside as `ip -j -d link` describes it.
    pub fn device(&self, ifname: &str) -> Option<Value> {
        self.ip_json("link show").into_iter().find(|link| link["ifname"] == ifname)
    }

    /// Returns the MAC address of a device inside.
    #[track_caller]
    pub fn mac(&self, ifname: &str) -> Mac {
        let link = netlink::links(self).into_iter().find(|(name, _)| name == ifname);
        let (_, link) = link.unwrap_or_else(|| panic!("{} has no {ifname}", self.name));
        let address = link.attributes.into_iter().find_map(|attribute| match attribute {
            LinkAttribute::Address(bytes) => bytes.try_into().ok(),
            _ => None,
        });
        Mac(address.expect("an Ethernet device has an address of six bytes"))
    }

    /// Returns how many frames a device inside could not send because the queue at its other end
    /// was full.
    pub fn tx_dropped(&self, ifname: &str) -> u64 {
        let links = self.ip_json("-s link show");
        let link = links.iter().find(|link| link["ifname"] == ifname).expect("the device exists");
        link["stats64"]["tx"]["dropped"].as_u64().expect("a number")
    }

    /// Keeps the kernel from sending and receiving by itself on a device inside: no addresses, no
    /// ARP, no IPv6.
    pub fn silence(&self, ifname: &str) {
        self.set(&format!("net/ipv6/conf/{ifname}/disable_ipv6"), "1");
        self.ip(&format!("address flush dev {ifname}"));
        self.ip(&format!("link set {ifname} arp off"));
    }

    /// Returns the IPv4 addresses of a device inside.
    pub fn addresses(&self, ifname: &str) -> Vec<Ipv4Addr> {
        let rows = self.ip_json("-4 address show");
        rows.iter()
            .filter(|row| row["ifname"] == ifname)
            .flat_map(|row| row["addr_info"].as_array().cloned().unwrap_or_default())
            .filter_map(|address| address["local"].as_str()?.parse().ok())
            .collect()
    }

    /// Returns the global IPv6 addresses of a device inside.
    pub fn addresses6(&self, ifname: &str) -> Vec<Ipv6Addr> {
        let rows = self.ip_json("-6 address show scope global");
        rows.iter()
            .filter(|row| row["ifname"] == ifname)
            .flat_map(|row| row["addr_info"].as_array().cloned().unwrap_or_default())
            .filter_map(|address| address["local"].as_str()?.parse().ok())
            .collect()
    }

    /// Returns the default routes of one family: gateway and device.
    pub fn default_routes(&self, ipv6: bool) -> Vec<(Option<IpAddr>, String)> {
        let family = if ipv6 { "-6" } else { "-4" };
        let routes = self.ip_json(&format!("{family} route show default"));
        let text = |route: &Value, field: &str| route[field].as_str().map(str::to_owned);
        routes
            .iter()
            .map(|route| {
                let gateway = text(route, "gateway").and_then(|gateway| gateway.parse().ok());
                (gateway, text(route, "dev").unwrap_or_default())
            })
            .collect()
    }

    /// Writes a setting below /proc/sys, inside.
    #[track_caller]
    pub fn set(&self, setting: &str, value: &str) {
        let path = Path::new("/proc/sys").join(setting);
        let written = self.inside(|| std::fs::write(&path, value));
        written.unwrap_or_else(|error| panic!("writing {value} to {}: {error}", path.display()));
    }

    /// Reads a setting below /proc/sys, inside.
    #[track_caller]
    pub fn setting(&self, setting: &str) -> String {
        let path = Path::new("/proc/sys").join(setting);
        let read = self.inside(|| std::fs::read_to_string(&path));
        read.unwrap_or_else(|error| panic!("reading {}: {error}", path.display())).trim().to_owned()
    }

    /// Runs a program inside that must succeed, and returns what it prints.
    #[track_caller]
    pub fn ok(&self, program: &str, arguments: &str) -> String {
        command::ok(self.command(program).args(arguments.split_whitespace()))
    }

    /// Creates a veth pair between this namespace and another.
    pub fn wire(&self, ifname: &str, far: &Self, far_ifname: &str) {
        self.ip(&format!("link add {ifname} type veth peer name {far_ifname} netns {}", far.name));
        self.ip(&format!("link set {ifname} up"));
        far.ip(&format!("link set {far_ifname} up"));
    }

    /// Returns a command that runs inside. Uses `setns` instead of `ip netns exec`, which would
    /// remount /sys and hide bpffs.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let namespace = self.open();
        let mut command = Command::new(program);
        // SAFETY: between fork and exec, the closure makes one system call, setns on a descriptor
        // that it owns.
        unsafe {
            command.pre_exec(move || setns(&namespace, CloneFlags::CLONE_NEWNET).map_err(Into::into));
        }
        command
    }

    /// Runs `work` inside, on a thread of its own. Sockets created there stay in this namespace.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let namespace = self.open();
        let outcome = std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                setns(namespace, CloneFlags::CLONE_NEWNET).expect("entering a namespace of our own");
                work()
            });
            thread.join()
        });
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Deletes the namespace and creates it again under the same name, as after a reboot.
    pub fn recreate(self) -> Self {
        let name = self.name.clone();
        drop(self);
        command::ok(Command::new("ip").args(["netns", "add", &name]));
        Self { name }
    }

    /// Deletes the namespace while others may still use it.
    pub fn delete(self) {
        drop(self);
    }

    fn open(&self) -> File {
        File::open(self.path()).unwrap_or_else(|error| panic!("opening namespace {}: {error}", self.name))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let outcome = command::run(Command::new("ip").args(["netns", "del", &self.name]));
        if outcome.code != Some(0) && !std::thread::panicking() {
            panic!("removing namespace {}: {outcome:?}", self.name);
        }
    }
}
