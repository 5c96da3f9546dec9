//! An instance of vswitch: where its files are, what its devices are called, and the mark they bear.

use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::{EndpointId, InstanceName, NetworkId, NetworkName};

/// The instance that nobody has to name.
const DEFAULT: &str = "default";
/// The longest name of an interface.
const LONGEST_DEVICE: usize = 15;

/// An instance by its name. Everything that it puts on the machine is named here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    name: InstanceName,
}

/// Whose device it is, as the mark on it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The host's port in a network.
    Host,
    /// An endpoint's port.
    Endpoint(EndpointId),
    /// The device of the tunnels.
    Tunnel,
    /// The device of WireGuard.
    Wireguard,
}

impl Instance {
    /// The instance of this name.
    pub const fn new(name: InstanceName) -> Self {
        Self { name }
    }

    /// Its name.
    pub const fn name(&self) -> &InstanceName {
        &self.name
    }

    /// Whether it is the one that nobody has to name.
    pub fn is_default(&self) -> bool {
        self.name.as_str() == DEFAULT
    }

    /// How to call the command line for it.
    pub fn command(&self) -> String {
        if self.is_default() { "vswitch".to_owned() } else { format!("vswitch --instance {}", self.name) }
    }

    /// What is there while it is up.
    pub fn run_directory(&self) -> PathBuf {
        Path::new("/run/vswitch").join(self.name.as_str())
    }

    /// What outlives `down`.
    pub fn state_directory(&self) -> PathBuf {
        Path::new("/var/lib/vswitch").join(self.name.as_str())
    }

    /// The socket of its API.
    pub fn socket(&self) -> PathBuf {
        self.run_directory().join("api.sock")
    }

    /// Where its bpffs is mounted.
    pub fn bpf_directory(&self) -> PathBuf {
        self.run_directory().join("bpf")
    }

    /// Held locked by the daemon for as long as it lives.
    pub fn lock_file(&self) -> PathBuf {
        self.run_directory().join("lock")
    }

    /// What the daemon says.
    pub fn log_file(&self) -> PathBuf {
        self.run_directory().join("daemon.log")
    }

    /// Which network namespace it serves, for a `down` that comes after the daemon's death.
    pub fn netns_file(&self) -> PathBuf {
        self.run_directory().join("netns.json")
    }

    /// What it has recorded.
    pub fn store_file(&self) -> PathBuf {
        self.state_directory().join("state.redb")
    }

    /// This host's private key for WireGuard.
    pub fn key_file(&self) -> PathBuf {
        self.state_directory().join("wireguard.key")
    }

    /// The host's device in a network.
    pub fn host_device(&self, network: &NetworkName) -> String {
        let prefix = if self.is_default() { "vsw".to_owned() } else { format!("v{}", self.tag()) };
        let name = format!("{prefix}-{network}");
        let taken = [self.tunnel_device(), self.wireguard_device()];
        if name.len() <= LONGEST_DEVICE && !taken.contains(&name) && !self.receiver_devices().contains(&name) {
            return name;
        }
        // Cut, with a hash of all of it, so that networks with a common beginning stay apart.
        let tail = hex(&Sha256::digest(network.as_str()), 4);
        format!("{}.{tail}", &name[..name.len().min(LONGEST_DEVICE - 5)])
    }

    /// The device of the tunnels to other hosts.
    pub fn tunnel_device(&self) -> String {
        if self.is_default() { "vsw-vxlan".to_owned() } else { format!("v{}-vxlan", self.tag()) }
    }

    /// The device of WireGuard, by which the tunnels of encrypted networks go.
    pub fn wireguard_device(&self) -> String {
        if self.is_default() { "vsw-wg".to_owned() } else { format!("v{}-wg", self.tag()) }
    }

    /// The pair behind which TCP of tunnels is gathered: where it goes in, and where it comes out.
    pub fn receiver_devices(&self) -> [String; 2] {
        ["rx0", "rx1"]
            .map(|end| if self.is_default() { format!("vsw-{end}") } else { format!("v{}-{end}", self.tag()) })
    }

    /// The metric of the instance's own route that keeps what belongs into WireGuard from going elsewhere: it tells it from
    /// those of other instances in the same namespace.
    pub fn route_metric(&self) -> u32 {
        const BASE: u32 = 0x7600_0000;
        let [a, b, c, ..] = <[u8; 32]>::from(Sha256::digest(self.name.as_str()));
        BASE | u32::from_be_bytes([0, a, b, c])
    }

    /// The priority of the first of the two rules that keep what belongs into WireGuard from going elsewhere: before any that
    /// VPNs and operators make, as a rule, and seldom that of another instance of this namespace.
    pub fn rule_priority(&self) -> u32 {
        const BASE: u32 = 100;
        BASE + (self.route_metric() & 0xfff) * 2
    }

    /// The switch's end of the host's device.
    pub fn host_port_device(&self, network: &NetworkId) -> String {
        format!("vh{}{}", self.tag(), network.digits(8))
    }

    /// The switch's end of an endpoint's veth.
    pub fn port_device(&self, endpoint: &EndpointId) -> String {
        format!("vp{}{}", self.tag(), endpoint.digits(8))
    }

    /// Its table in nftables. Every character of a name may be in an identifier there.
    pub fn nft_table(&self) -> String {
        format!("vswitch-{}", self.name)
    }

    /// Its chain in iptables, where somebody's rules there would drop what is ours.
    pub fn iptables_chain(&self) -> String {
        format!("VSWITCH-{}", self.tag())
    }

    /// Whether a device has a name that only this instance gives to a port of its switch.
    pub fn is_port_device(&self, device: &str) -> bool {
        let tag = self.tag();
        ["vp", "vh"].iter().any(|kind| device.strip_prefix(kind).is_some_and(|rest| rest.starts_with(&tag)))
    }

    /// The mark of a device, its alias.
    pub fn mark(&self, network: &NetworkName, owner: Owner) -> String {
        match owner {
            Owner::Host => format!("vswitch:{}:{network}:host", self.name),
            Owner::Endpoint(id) => format!("vswitch:{}:{network}:{id}", self.name),
            Owner::Tunnel => self.tunnel_mark(),
            Owner::Wireguard => self.wireguard_mark(),
        }
    }

    /// The mark of the device of the tunnels, which is all networks'.
    pub fn tunnel_mark(&self) -> String {
        format!("vswitch:{}::tunnel", self.name)
    }

    /// The mark of the device of WireGuard, which is all encrypted networks'.
    pub fn wireguard_mark(&self) -> String {
        format!("vswitch:{}::wireguard", self.name)
    }

    /// Whose device it is, if the alias is this instance's mark.
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

    /// Whether the alias is the mark of any instance.
    pub fn is_marked(alias: &str) -> bool {
        alias.starts_with("vswitch:")
    }

    /// Four digits that keep the device names of instances in one namespace apart.
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
    fn device_names_fit_and_stay_apart() {
        let (default, other) = (instance("default"), instance("h1"));
        assert_eq!(default.host_device(&network("bridge")), "vsw-bridge");
        assert_ne!(default.host_device(&network("bridge")), other.host_device(&network("bridge")));
        let (one, two) = (network("a-long-name-one"), network("a-long-name-two"));
        for instance in [&default, &other] {
            assert_ne!(instance.host_device(&one), instance.host_device(&two));
            for name in [&one, &two, &network("bridge")] {
                assert!(instance.host_device(name).len() <= LONGEST_DEVICE, "{}", instance.host_device(name));
            }
        }
        // A network may be called like the tunnels' device, or WireGuard's.
        for instance in [&default, &other] {
            let [rx0, rx1] = instance.receiver_devices();
            let devices = [instance.tunnel_device(), instance.wireguard_device(), rx0, rx1];
            for (name, device) in ["vxlan", "wg", "rx0", "rx1"].into_iter().zip(devices) {
                assert!(device.len() <= LONGEST_DEVICE);
                assert_ne!(instance.host_device(&network(name)), device);
                assert!(instance.host_device(&network(name)).len() <= LONGEST_DEVICE);
            }
        }
        assert_ne!(default.route_metric(), other.route_metric());
        let id = EndpointId::from_bytes([0xab; 32]);
        assert_eq!(default.port_device(&id).len(), 14);
        assert!(default.is_port_device(&default.port_device(&id)) && !other.is_port_device(&default.port_device(&id)));
        assert_ne!(default.port_device(&id), other.port_device(&id));
    }

    #[test]
    fn a_mark_is_read_by_its_own_instance_alone() {
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
