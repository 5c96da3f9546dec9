//! WireGuard in the daemon, for kernels without it: boringtun between a tun device and UDP sockets.

mod batch;
mod drops;
mod engine;
mod peers;
mod sockets;
mod tun;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::task::JoinSet;

use super::keys::{PrivateKey, PublicKey};
use super::{PeerStatus, WireguardError};
use crate::kernel::netns::Netns;
pub use drops::Drops;
use drops::Reason;
use engine::{Engine, Output};
use sockets::{Receiver, Sockets, UnregisteredSockets};
use tun::Tun;

/// Buffer size in bytes: more than the longest IP packet and the longest message.
const BUFFER_SIZE: usize = 65_536;
/// Interval of timer checks, the same as in boringtun's own device.
const TICK: Duration = Duration::from_millis(250);
/// Length in bytes of the longest message other than data.
const HANDSHAKE_LENGTH: usize = 148;

/// A tun device that the daemon serves. When the daemon stops, traffic stops, and the device
/// disappears with its peers. Dropping it has the same effect, a little later.
pub(super) struct Userspace {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

/// State shared by the tasks.
struct Shared {
    engine: Engine,
    sockets: Sockets,
    tun: Tun,
}

impl Userspace {
    /// Creates the device and the sockets, and starts the tasks. Must be called on a tokio runtime.
    pub(super) fn open(name: &str, key: &PrivateKey, port: u16, netns: Option<&Netns>) -> Result<Self, WireguardError> {
        let open = || {
            let sockets = UnregisteredSockets::on(port).map_err(|source| WireguardError::Port { port, source })?;
            let tun = tun::open(name).map_err(|error| tun_error(name, error))?;
            Ok::<_, WireguardError>((sockets, tun))
        };
        let (sockets, tun) = match netns {
            Some(netns) => netns.enter(open)??,
            None => open()?,
        };
        let shared = Arc::new(Shared {
            engine: Engine::new(key),
            sockets: Sockets::new(sockets).map_err(|source| WireguardError::Port { port, source })?,
            tun: Tun::new(tun).map_err(|error| tun_error(name, error))?,
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(from_host(shared.clone()));
        tasks.spawn(from_network(shared.clone(), |shared| &shared.sockets.v4));
        tasks.spawn(from_network(shared.clone(), |shared| &shared.sockets.v6));
        tasks.spawn(timers(shared.clone()));
        Ok(Self { shared, tasks })
    }

    /// Adds a peer, or changes its endpoint. Its sessions continue.
    pub(super) fn set_peer(&self, key: PublicKey, endpoint: SocketAddr) {
        self.shared.engine.set_peer(key, endpoint, &mut [0; HANDSHAKE_LENGTH], &mut self.shared.output());
    }

    /// Removes a peer. Its packets are dropped from then on.
    pub(super) fn remove_peer(&self, key: &PublicKey) {
        self.shared.engine.remove_peer(key);
    }

    pub(super) fn peers(&self) -> Vec<PeerStatus> {
        self.shared.engine.statuses()
    }

    pub(super) fn drops(&self) -> Drops {
        self.shared.engine.drops()
    }

    /// Stops the tasks. The device and the port are free when this returns.
    pub(super) async fn close(self) {
        let Self { shared, mut tasks } = self;
        tasks.shutdown().await;
        // The tasks are done, so this is the last reference. Dropping it closes the descriptors.
        drop(shared);
    }
}

fn tun_error(name: &str, error: io::Error) -> WireguardError {
    let name = name.to_owned();
    match error.raw_os_error() {
        Some(libc::EBUSY) => WireguardError::Taken { name },
        _ => WireguardError::Tun { name, source: error },
    }
}

impl Shared {
    const fn output(&self) -> DirectOutput<'_> {
        DirectOutput(self)
    }
}

/// Output that is sent at once. Failures are counted.
struct DirectOutput<'a>(&'a Shared);

impl Output for DirectOutput<'_> {
    fn to_peer(&mut self, datagram: &[u8], endpoint: SocketAddr) {
        if let Err(error) = self.0.sockets.try_send(datagram, endpoint) {
            tracing::debug!("WireGuard cannot send to {endpoint}: {error}");
            self.0.engine.count(Reason::Unsent);
        }
    }

    fn to_host(&mut self, packet: &[u8]) {
        // Fails while the device is down, for example.
        if let Err(error) = self.0.tun.write(packet) {
            tracing::debug!("cannot deliver a packet from WireGuard to this host: {error}");
        }
    }
}

/// Encrypts the packets of this host. Reads all that are queued, then sends them in as few calls as
/// possible.
async fn from_host(shared: Arc<Shared>) {
    let mut packet = vec![0; BUFFER_SIZE].into_boxed_slice();
    let mut batch = batch::Batch::new();
    loop {
        let mut read = shared.tun.read(&mut packet).await;
        while let Ok(length) = read {
            let encrypted = shared.engine.send(packet.get(..length).unwrap_or_default(), batch.room());
            if let Some((length, endpoint)) = encrypted
                && !batch.add(length, endpoint)
            {
                send_batch(&shared, &batch).await;
                batch.restart(length, endpoint);
            }
            // Dropped packets reach no other await point, so let other tasks run here.
            tokio::task::consume_budget().await;
            read = shared.tun.try_read(&mut packet);
        }
        send_batch(&shared, &batch).await;
        batch.clear();
        match read {
            // The device is down at present.
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => pause("the tun device", &error).await,
            _ => tokio::task::consume_budget().await,
        }
    }
}

async fn send_batch(shared: &Shared, batch: &batch::Batch) {
    for _ in 0..shared.sockets.send(batch).await {
        shared.engine.count(Reason::Unsent);
    }
}

/// Decrypts the datagrams of one socket.
async fn from_network(shared: Arc<Shared>, socket: fn(&Shared) -> &UdpSocket) {
    let mut datagrams = vec![0; BUFFER_SIZE].into_boxed_slice();
    let mut packet = vec![0; BUFFER_SIZE].into_boxed_slice();
    let mut receiver = Receiver::new();
    loop {
        match receiver.receive(socket(&shared), &mut datagrams).await {
            Ok(received) => {
                let bytes = datagrams.get(..received.length).unwrap_or_default();
                for datagram in bytes.chunks(received.segment) {
                    shared.engine.receive(datagram, received.from, &mut packet, &mut shared.output());
                }
            }
            // An ICMP error about an earlier datagram.
            Err(error) => pause("the socket", &error).await,
        }
        tokio::task::consume_budget().await;
    }
}

/// Waits before the next attempt: an immediate one would fail again.
async fn pause(source: &str, error: &io::Error) {
    tracing::debug!("WireGuard cannot receive from {source}: {error}");
    tokio::time::sleep(Duration::from_millis(10)).await;
}

async fn timers(shared: Arc<Shared>) {
    let mut buffer = [0; HANDSHAKE_LENGTH];
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        shared.engine.tick(&mut buffer, &mut shared.output());
    }
}
