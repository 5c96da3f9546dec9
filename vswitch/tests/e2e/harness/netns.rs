//! A network namespace under /run/netns: a host, a container, or a machine at the far end of a wire.

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

use super::{Mac, command, netlink, unique};

/// A network namespace that lives as long as this value, or until [`delete`](Self::delete).
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes one, with its loopback up. The role is the last part of its name.
    pub fn new(role: &str) -> Self {
        let root = nix::unistd::geteuid().is_root();
        assert!(root, "the end-to-end tests make namespaces: run them as root (cargo xtask test)");
        let netns = Self { name: unique(role) };
        command::ok(Command::new("ip").args(["netns", "add", &netns.name]));
        netns.ip("link set lo up");
        netns
    }

    /// As many, numbered.
    pub fn several(role: &str, count: usize) -> Vec<Self> {
        (0..count).map(|number| Self::new(&format!("{role}{number}"))).collect()
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// [`path`](Self::path) for a command line.
    pub fn path_argument(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    /// `ip` inside; the test fails if it does.
    #[track_caller]
    pub fn ip(&self, arguments: &str) -> String {
        command::ok(Command::new("ip").args(["-n", &self.name]).args(arguments.split_whitespace()))
    }

    /// What `ip -j` prints, inside.
    #[track_caller]
    pub fn ip_json(&self, arguments: &str) -> Vec<Value> {
        let text = self.ip(&format!("-j -d {arguments}"));
        if text.trim().is_empty() {
            return Vec::new();
        }
        let rows: Vec<Value> =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("ip -j {arguments}: {error}: {text}"));
        // ip prints an empty object for each line that it left out.
        rows.into_iter().filter(|row| row.as_object().is_some_and(|fields| !fields.is_empty())).collect()
    }

    /// The devices inside, by name.
    pub fn devices(&self) -> BTreeSet<String> {
        netlink::links(self).into_iter().map(|(name, _)| name).collect()
    }

    /// A device inside, as `ip -j -d link` describes it.
    pub fn device(&self, ifname: &str) -> Option<Value> {
        self.ip_json("link show").into_iter().find(|link| link["ifname"] == ifname)
    }

    /// The MAC address of a device inside.
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

    /// How many frames a device inside did not send, because the queue at its other end was full.
    pub fn tx_dropped(&self, ifname: &str) -> u64 {
        let links = self.ip_json("-s link show");
        let link = links.iter().find(|link| link["ifname"] == ifname).expect("the device is there");
        link["stats64"]["tx"]["dropped"].as_u64().expect("a number")
    }

    /// Has a device inside receive and send nothing by itself: no addresses, no ARP, no IPv6.
    pub fn silence(&self, ifname: &str) {
        self.set(&format!("net/ipv6/conf/{ifname}/disable_ipv6"), "1");
        self.ip(&format!("address flush dev {ifname}"));
        self.ip(&format!("link set {ifname} arp off"));
    }

    /// The IPv4 addresses of a device inside.
    pub fn addresses(&self, ifname: &str) -> Vec<Ipv4Addr> {
        let rows = self.ip_json("-4 address show");
        rows.iter()
            .filter(|row| row["ifname"] == ifname)
            .flat_map(|row| row["addr_info"].as_array().cloned().unwrap_or_default())
            .filter_map(|address| address["local"].as_str()?.parse().ok())
            .collect()
    }

    /// The global IPv6 addresses of a device inside.
    pub fn addresses6(&self, ifname: &str) -> Vec<Ipv6Addr> {
        let rows = self.ip_json("-6 address show scope global");
        rows.iter()
            .filter(|row| row["ifname"] == ifname)
            .flat_map(|row| row["addr_info"].as_array().cloned().unwrap_or_default())
            .filter_map(|address| address["local"].as_str()?.parse().ok())
            .collect()
    }

    /// The default routes of one family: gateway and device.
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

    /// A setting below /proc/sys, inside.
    #[track_caller]
    pub fn set(&self, setting: &str, value: &str) {
        let path = Path::new("/proc/sys").join(setting);
        let written = self.inside(|| std::fs::write(&path, value));
        written.unwrap_or_else(|error| panic!("writing {value} to {}: {error}", path.display()));
    }

    /// What a setting below /proc/sys is, inside.
    #[track_caller]
    pub fn setting(&self, setting: &str) -> String {
        let path = Path::new("/proc/sys").join(setting);
        let read = self.inside(|| std::fs::read_to_string(&path));
        read.unwrap_or_else(|error| panic!("reading {}: {error}", path.display())).trim().to_owned()
    }

    /// A program inside that must succeed; what it prints.
    #[track_caller]
    pub fn ok(&self, program: &str, arguments: &str) -> String {
        command::ok(self.command(program).args(arguments.split_whitespace()))
    }

    /// A veth pair between this namespace and another: a wire.
    pub fn wire(&self, ifname: &str, far: &Self, far_ifname: &str) {
        self.ip(&format!("link add {ifname} type veth peer name {far_ifname} netns {}", far.name));
        self.ip(&format!("link set {ifname} up"));
        far.ip(&format!("link set {far_ifname} up"));
    }

    /// A program to be run inside. `setns` and not `ip netns exec`, which would remount /sys and hide bpffs.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let namespace = self.open();
        let mut command = Command::new(program);
        // SAFETY: between fork and exec, setns on a descriptor that the closure owns is one system call.
        unsafe {
            command.pre_exec(move || setns(&namespace, CloneFlags::CLONE_NEWNET).map_err(Into::into));
        }
        command
    }

    /// Runs `work` inside, on a thread of its own. Sockets made there stay there.
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

    /// Makes it anew under its name, as after a reboot.
    pub fn again(self) -> Self {
        let name = self.name.clone();
        drop(self);
        command::ok(Command::new("ip").args(["netns", "add", &name]));
        Self { name }
    }

    /// Deletes it under everybody's feet.
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
