//! Hosts on one bridge, each with a WireGuard device.

use std::future::Future;
use std::io::{self, ErrorKind, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use tokio::runtime::Runtime;
use vswitch::kernel::netns;
use vswitch::wireguard::{Backend, Device, DeviceSpec, Drops, PrivateKey, PublicKey, WireguardError};

use crate::harness::{Netns, PATIENCE, RawPort, eventually};

pub const DEVICE: &str = "vsw-wg";
pub const PORT: u16 = 51820;
pub const MTU: u32 = 1420;
/// Waiting time for a packet that must not arrive.
pub const SILENCE: Duration = Duration::from_millis(300);

/// A host with its namespace, key and device.
pub struct Host {
    pub netns: Netns,
    pub key: PrivateKey,
    pub device: Option<Device>,
    pub number: usize,
}

impl Host {
    pub fn public(&self) -> PublicKey {
        self.key.public()
    }

    pub fn inner(&self) -> Ipv6Addr {
        self.public().inner_address()
    }

    /// Returns its address on the bridge.
    pub fn outer(&self, ipv6: bool) -> IpAddr {
        let text = if ipv6 { format!("2001:db8::{}", self.number + 1) } else { format!("192.0.2.{}", self.number + 1) };
        text.parse().expect("an address")
    }

    pub fn device(&self) -> &Device {
        self.device.as_ref().expect("an open device")
    }

    pub fn drops(&self) -> Option<Drops> {
        self.device().drops()
    }

    /// Returns a socket on its inner address.
    pub fn socket(&self) -> UdpSocket {
        let socket = self.netns.inside(|| UdpSocket::bind((self.inner(), 0))).expect("the inner address");
        socket.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        socket
    }
}

/// Hosts on a bridge, and the runtime that serves their devices.
pub struct Scene {
    // Drop order: devices need the runtime and the namespaces.
    pub hosts: Vec<Host>,
    pub bridge: Netns,
    pub runtime: Runtime,
    pub backend: Backend,
}

impl Scene {
    /// Creates hosts with devices of this backend and without peers.
    pub fn new(backend: Backend, count: usize) -> Self {
        let mut scene = Self::without_devices(backend, count);
        for number in 0..count {
            scene.open(number);
        }
        scene
    }

    /// Creates hosts that are all peers of each other.
    pub fn with_peers(backend: Backend, count: usize, ipv6: bool) -> Self {
        let scene = Self::new(backend, count);
        for from in 0..count {
            for to in (0..count).filter(|to| *to != from) {
                scene.add_peer(from, to, ipv6);
            }
        }
        scene
    }

    pub fn without_devices(backend: Backend, count: usize) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let bridge = Netns::new("wire");
        bridge.ip("link add br0 type bridge");
        bridge.ip("link set br0 up");
        let host = |number| {
            let netns = Netns::new(&format!("host{number}"));
            bridge.wire(&port(number), &netns, "eth0");
            bridge.ip(&format!("link set {} master br0", port(number)));
            netns.ip(&format!("address add 192.0.2.{}/24 dev eth0", number + 1));
            netns.ip(&format!("-6 address add 2001:db8::{}/64 dev eth0 nodad", number + 1));
            Host { netns, key: PrivateKey::generate(), device: None, number }
        };
        let hosts = (0..count).map(host).collect();
        Self { hosts, bridge, runtime: runtime.expect("a runtime"), backend }
    }

    pub fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    pub fn try_open(&self, number: usize, backend: Option<Backend>) -> Result<Device, WireguardError> {
        let host = &self.hosts[number];
        let netns = netns::Netns::open(&host.netns.path()).expect("the namespace");
        let netns = Some(&netns);
        self.run(Device::open(&DeviceSpec { name: DEVICE, key: &host.key, port: PORT, mtu: MTU, netns, backend }))
    }

    #[track_caller]
    pub fn open(&mut self, number: usize) {
        let device = self.try_open(number, Some(self.backend)).expect("a device");
        assert_eq!(device.backend(), self.backend);
        // Write to stderr directly: the test harness captures `eprintln!` and shows it only for
        // failed tests.
        writeln!(io::stderr(), "backend: {:?}", device.backend()).expect("standard error");
        self.hosts[number].device = Some(device);
    }

    #[track_caller]
    pub fn close(&mut self, number: usize) {
        let device = self.hosts[number].device.take().expect("an open device");
        self.run(device.close()).expect("the device closes");
    }

    /// Adds host `peer` as a peer to host `to`.
    #[track_caller]
    pub fn add_peer(&self, to: usize, peer: usize, ipv6: bool) {
        let peer = &self.hosts[peer];
        let endpoint = SocketAddr::new(peer.outer(ipv6), PORT);
        self.run(self.hosts[to].device().set_peer(peer.public(), endpoint)).expect("a peer");
    }

    /// Opens a raw socket on the bridge port of a host.
    pub fn tap(&self, number: usize) -> RawPort {
        RawPort::open(&self.bridge, &port(number))
    }

    /// Waits until a datagram from one host arrives at another by its inner address.
    #[track_caller]
    pub fn reaches(&self, from: usize, to: usize) {
        let (from, to) = (&self.hosts[from], &self.hosts[to]);
        let (sender, receiver) = (from.socket(), to.socket());
        let target = receiver.local_addr().expect("a bound socket");
        eventually("a datagram arrives", || {
            sender.send_to(b"are you there?", target).ok();
            receives_datagram(&receiver).then_some(())
        });
    }

    /// Asserts that no datagram from one host arrives at another.
    #[track_caller]
    pub fn does_not_reach(&self, from: usize, to: usize) {
        let (sender, receiver) = (self.hosts[from].socket(), self.hosts[to].socket());
        let target = receiver.local_addr().expect("a bound socket");
        for _ in 0..3 {
            sender.send_to(b"are you there?", target).ok();
        }
        assert!(!receives_datagram(&receiver), "a datagram arrived");
    }
}

/// Reports whether a datagram arrives within [`SILENCE`].
#[track_caller]
pub fn receives_datagram(receiver: &UdpSocket) -> bool {
    receiver.set_read_timeout(Some(SILENCE)).expect("a time limit");
    match receiver.recv(&mut [0; 2048]) {
        Ok(_) => true,
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => false,
        Err(error) => panic!("cannot receive: {error}"),
    }
}

pub fn port(number: usize) -> String {
    format!("port{number}")
}

/// Returns the backends that work on this machine.
pub fn backends() -> Vec<Backend> {
    let scene = Scene::without_devices(Backend::Kernel, 1);
    match scene.try_open(0, Some(Backend::Kernel)) {
        Ok(device) => {
            scene.run(device.close()).expect("the device closes");
            vec![Backend::Kernel, Backend::Userspace]
        }
        Err(WireguardError::NoKernel) => vec![Backend::Userspace],
        Err(error) => panic!("{error}"),
    }
}
