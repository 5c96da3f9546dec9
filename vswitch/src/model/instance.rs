//! Instances of vswitch: their files, device names, and the marks on their devices.

use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::{EndpointId, InstanceName, NetworkId, NetworkName};

/// Name of the default instance.
const DEFAULT_NAME: &str = "default";
/// Maximum length of an interface name.
const MAX_DEVICE_LENGTH: usize = 15;

/// An instance, identified by its name. Names everything that the instance creates on the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    name: InstanceName,
}

/// Owner of a device, as its mark says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Host port of a network.
    Host,
    /// Port of an endpoint.
    Endpoint(EndpointId),
    /// Tunnel device.
    Tunnel,
    /// WireGuard device.
    Wireguard,
}

impl Instance {
    /// Creates an instance from its name.
    pub const fn new(name: InstanceName) -> Self {
        Self { name }
    }

    /// Returns the name.
    pub const fn name(&self) -> &InstanceName {
        &self.name
    }

    /// Reports whether this is the default instance.
    pub fn is_default(&self) -> bool {
        self.name.as_str() == DEFAULT_NAME
    }

    /// Returns the command for this instance.
    pub fn command(&self) -> String {
        if self.is_default() { "vswitch".to_owned() } else { format!("vswitch --instance {}", self.name) }
    }

    /// Returns the directory of files that exist while the instance is up.
    pub fn run_directory(&self) -> PathBuf {
        Path::new("/run/vswitch").join(self.name.as_str())
    }

    /// Returns the directory of files that remain after `down`.
    pub fn state_directory(&self) -> PathBuf {
        Path::new("/var/lib/vswitch").join(self.name.as_str())
    }

    /// Returns the path of the API socket.
    pub fn socket(&self) -> PathBuf {
        self.run_directory().join("api.sock")
    }

    /// Returns the socket of the plugin that Docker uses.
    pub fn docker_socket(&self) -> PathBuf {
        self.run_directory().join("docker.sock")
    }

    /// Returns the mount point of the bpffs.
    pub fn bpf_directory(&self) -> PathBuf {
        self.run_directory().join("bpf")
    }

    /// Returns the file that the daemon keeps locked while it runs.
    pub fn lock_file(&self) -> PathBuf {
        self.run_directory().join("lock")
    }

    /// Returns the file that lists the ports that the kernel must not choose because they are
    /// published.
    pub fn reserved_ports_file(&self) -> PathBuf {
        self.run_directory().join("reserved-ports")
    }

    /// Returns the log file of the daemon.
    pub fn log_file(&self) -> PathBuf {
        self.run_directory().join("daemon.log")
    }

    /// Returns the file that identifies the served network namespace, for a `down` after the daemon
    /// has died.
    pub fn netns_file(&self) -> PathBuf {
        self.run_directory().join("netns.json")
    }

    /// Returns the file of recorded state.
    pub fn store_file(&self) -> PathBuf {
        self.state_directory().join("state.redb")
    }

    /// Returns the file with this host's WireGuard private key.
    pub fn key_file(&self) -> PathBuf {
        self.state_directory().join("wireguard.key")
    }

    /// Returns the name of the host device of a network.
    pub fn host_device(&self, network: &NetworkName) -> String {
        let prefix = if self.is_default() { "vsw".to_owned() } else { format!("v{}", self.tag()) };
        let name = format!("{prefix}-{network}");
        let reserved = [self.tunnel_device(), self.wireguard_device()];
        if name.len() <= MAX_DEVICE_LENGTH && !reserved.contains(&name) && !self.receiver_devices().contains(&name) {
            return name;
        }
        // Shorten the name and append a hash of the whole, so that networks with a common prefix
        // stay distinct.
        let hash = hex(&Sha256::digest(network.as_str()), 4);
        format!("{}.{hash}", &name[..name.len().min(MAX_DEVICE_LENGTH - 5)])
    }

    /// Returns the name of the tunnel device.
    pub fn tunnel_device(&self) -> String {
        if self.is_default() { "vsw-vxlan".to_owned() } else { format!("v{}-vxlan", self.tag()) }
    }

    /// Returns the name of the WireGuard device, which carries the tunnels of encrypted networks.
    pub fn wireguard_device(&self) -> String {
        if self.is_default() { "vsw-wg".to_owned() } else { format!("v{}-wg", self.tag()) }
    }

    /// Returns the names of the veth pair that aggregates TCP segments from tunnels (GRO): first
    /// its input, then its output.
    pub fn receiver_devices(&self) -> [String; 2] {
        ["rx0", "rx1"]
            .map(|end| if self.is_default() { format!("vsw-{end}") } else { format!("v{}-{end}", self.tag()) })
    }

    /// Returns the metric of the unreachable route that stops unencrypted packets to inner
    /// addresses. The metric distinguishes the routes of several instances in one namespace.
    pub fn route_metric(&self) -> u32 {
        const BASE: u32 = 0x7600_0000;
        let [a, b, c, ..] = <[u8; 32]>::from(Sha256::digest(self.name.as_str()));
        BASE | u32::from_be_bytes([0, a, b, c])
    }

    /// Returns the priority of the first of two rules that stop unencrypted packets to inner
    /// addresses. Usually, it comes before rules of VPNs and operators, and differs from that of
    /// other instances in the namespace.
    pub fn rule_priority(&self) -> u32 {
        const BASE: u32 = 100;
        BASE + (self.route_metric() & 0xfff) * 2
    }

    /// Returns the name of a network's host port: the switch's end of the host device.
    pub fn host_port_device(&self, network: &NetworkId) -> String {
        format!("vh{}{}", self.tag(), network.digits(8))
    }

    /// Returns the name of an endpoint's port: the switch's end of its veth pair.
    pub fn port_device(&self, endpoint: &EndpointId) -> String {
        format!("vp{}{}", self.tag(), endpoint.digits(8))
    }

    /// Returns the name of the nftables table. All characters of an instance name are valid in it.
    pub fn nft_table(&self) -> String {
        format!("vswitch-{}", self.name)
    }

    /// Returns the name of the iptables chain, for hosts whose iptables rules would drop vswitch's
    /// traffic.
    pub fn iptables_chain(&self) -> String {
        format!("VSWITCH-{}", self.tag())
    }

    /// Returns the name of the iptables chain for packets from networks to the host.
    pub fn iptables_input_chain(&self) -> String {
        format!("VSWITCH-IN-{}", self.tag())
    }

    /// Returns the pattern of the names of all devices in the host's namespace that belong to
    /// networks, in the syntax of iptables and firewalld.
    pub fn device_pattern(&self) -> String {
        if self.is_default() { "vsw-+".to_owned() } else { format!("v{}-+", self.tag()) }
    }

    /// Reports whether the device has a name that only this instance gives to its ports.
    pub fn is_port_device(&self, device: &str) -> bool {
        let tag = self.tag();
        ["vp", "vh"].iter().any(|kind| device.strip_prefix(kind).is_some_and(|rest| rest.starts_with(&tag)))
    }

    /// Reports whether the device has a name that this instance gives to its devices.
    pub fn is_own_device(&self, device: &str) -> bool {
        let prefix = if self.is_default() { "vsw-".to_owned() } else { format!("v{}-", self.tag()) };
        device.starts_with(&prefix) || self.is_port_device(device)
    }

    /// Returns the mark of a device, which is stored as its alias.
    pub fn mark(&self, network: &NetworkName, owner: Owner) -> String {
        match owner {
            Owner::Host => format!("vswitch:{}:{network}:host", self.name),
            Owner::Endpoint(id) => format!("vswitch:{}:{network}:{id}", self.name),
            Owner::Tunnel => self.tunnel_mark(),
            Owner::Wireguard => self.wireguard_mark(),
        }
    }

    /// Returns the mark of the tunnel device, which all networks share.
    pub fn tunnel_mark(&self) -> String {
        format!("vswitch:{}::tunnel", self.name)
    }

    /// Returns the mark of the WireGuard device, which all encrypted networks share.
    pub fn wireguard_mark(&self) -> String {
        format!("vswitch:{}::wireguard", self.name)
    }

    /// Returns the owner of a device from its alias; `None` if the alias is not a mark of this
    /// instance.
    pub fn owner(&self, alias: &str) -> Option<Owner> {
        let (_network, owner) =
            alias.strip_prefix("vswitch:")?.strip_prefix(self.name.as_str())?.strip_prefix(':')?.split_once(':')?;
        match owner {
            "host" => Some(Owner::Host),
            "tunnel" => Some(Owner::Tunnel),
            "wireguard" => Some(Owner::Wireguard),
            id => id.parse().ok().map(Owner::Endpoint),
        }
    }

    /// Reports whether the alias is the mark of any instance.
    pub fn is_marked(alias: &str) -> bool {
        alias.starts_with("vswitch:")
    }

    /// Returns four hex digits that distinguish the device names of instances in one namespace.
    fn tag(&self) -> String {
        hex(&Sha256::digest(self.name.as_str()), 4)
    }
}

fn hex(bytes: &[u8], digits: usize) -> String {
    let mut text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    text.truncate(digits);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(name: &str) -> Instance {
        Instance::new(name.parse().expect("a name"))
    }

    fn network(name: &str) -> NetworkName {
        name.parse().expect("a name")
    }

    #[test]
    fn device_names_fit_and_are_distinct() {
        let (default, other) = (instance("default"), instance("h1"));
        assert_eq!(default.host_device(&network("bridge")), "vsw-bridge");
        assert_ne!(default.host_device(&network("bridge")), other.host_device(&network("bridge")));
        let (one, two) = (network("a-long-name-one"), network("a-long-name-two"));
        for instance in [&default, &other] {
            assert_ne!(instance.host_device(&one), instance.host_device(&two));
            for name in [&one, &two, &network("bridge")] {
                assert!(instance.host_device(name).len() <= MAX_DEVICE_LENGTH, "{}", instance.host_device(name));
            }
        }
        // A network may be named like the tunnel device, the WireGuard device or the receiver's
        // devices.
        for instance in [&default, &other] {
            let [rx0, rx1] = instance.receiver_devices();
            let devices = [instance.tunnel_device(), instance.wireguard_device(), rx0, rx1];
            for (name, device) in ["vxlan", "wg", "rx0", "rx1"].into_iter().zip(devices) {
                assert!(device.len() <= MAX_DEVICE_LENGTH);
                assert_ne!(instance.host_device(&network(name)), device);
                assert!(instance.host_device(&network(name)).len() <= MAX_DEVICE_LENGTH);
            }
        }
        assert_ne!(default.route_metric(), other.route_metric());
        let id = EndpointId::from_bytes([0xab; 32]);
        assert_eq!(default.port_device(&id).len(), 14);
        assert!(default.is_port_device(&default.port_device(&id)) && !other.is_port_device(&default.port_device(&id)));
        assert_ne!(default.port_device(&id), other.port_device(&id));
        for (own, foreign) in [(&default, &other), (&other, &default)] {
            for device in [own.port_device(&id), own.host_device(&one), own.tunnel_device(), own.wireguard_device()] {
                assert!(own.is_own_device(&device) && !foreign.is_own_device(&device), "{device}");
            }
        }
    }

    #[test]
    fn a_mark_is_recognised_only_by_its_own_instance() {
        let (one, two) = (instance("h1"), instance("h1.b"));
        let id = EndpointId::from_bytes([7; 32]);
        for owner in [Owner::Host, Owner::Endpoint(id), Owner::Tunnel, Owner::Wireguard] {
            let mark = one.mark(&network("bridge"), owner);
            assert_eq!(one.owner(&mark), Some(owner));
            assert_eq!(two.owner(&mark), None);
            assert!(Instance::is_marked(&mark));
        }
        for foreign in ["", "uplink to rack 3", "vswitch:h1", "vswitch:h1:bridge", "vswitch:h1:bridge:x"] {
            assert_eq!(one.owner(foreign), None, "{foreign}");
        }
    }
}
