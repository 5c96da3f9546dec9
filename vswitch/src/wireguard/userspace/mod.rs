//! WireGuard in the daemon: boringtun between a tun device and UDP sockets, for kernels that have none.

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
use sockets::{Opened, Receiver, Sockets};
use tun::Tun;

/// The longest packet of IP, and more than the longest message.
const LONGEST: usize = 65_536;
/// How often timers are looked at; boringtun's own device does it as often.
const TICK: Duration = Duration::from_millis(250);
/// Bytes of the longest message that is not data.
const CONTROL: usize = 148;

/// A tun device that the daemon serves. With the daemon its traffic stops, and the device goes: nothing of the peers
/// outlives it. Dropping it does the same, a little later.
pub(super) struct Userspace {
    work: Arc<Work>,
    tasks: JoinSet<()>,
}

/// What its tasks share.
struct Work {
    engine: Engine,
    sockets: Sockets,
    tun: Tun,
}

impl Userspace {
    /// Makes the device and the sockets, and begins. Has to be called on a runtime.
    pub(super) fn open(name: &str, key: &PrivateKey, port: u16, netns: Option<&Netns>) -> Result<Self, WireguardError> {
        let open = || {
            let sockets = Opened::on(port).map_err(|source| WireguardError::Port { port, source })?;
            let tun = tun::open(name).map_err(|error| failed(name, error))?;
            Ok::<_, WireguardError>((sockets, tun))
        };
        let (sockets, tun) = match netns {
            Some(netns) => netns.enter(open)??,
            None => open()?,
        };
        let work = Arc::new(Work {
            engine: Engine::new(key),
            sockets: Sockets::new(sockets).map_err(|source| WireguardError::Port { port, source })?,
            tun: Tun::new(tun).map_err(|error| failed(name, error))?,
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(from_host(work.clone()));
        tasks.spawn(from_network(work.clone(), |work| &work.sockets.v4));
        tasks.spawn(from_network(work.clone(), |work| &work.sockets.v6));
        tasks.spawn(timers(work.clone()));
        Ok(Self { work, tasks })
    }

    /// Adds a peer, or moves one; its sessions go on.
    pub(super) fn set_peer(&self, key: PublicKey, endpoint: SocketAddr) {
        self.work.engine.set_peer(key, endpoint, &mut [0; CONTROL], &mut self.work.output());
    }

    /// Removes a peer, whose packets are refused from now on.
    pub(super) fn remove_peer(&self, key: &PublicKey) {
        self.work.engine.remove_peer(key);
    }

    pub(super) fn peers(&self) -> Vec<PeerStatus> {
        self.work.engine.statuses()
    }

    pub(super) fn drops(&self) -> Drops {
        self.work.engine.drops()
    }

    /// Ends all of it: when this returns, the device and the port are gone.
    pub(super) async fn close(self) {
        let Self { work, mut tasks } = self;
        tasks.shutdown().await;
        // Nobody else has it: with it the last descriptors are closed.
        drop(work);
    }
}

fn failed(name: &str, error: io::Error) -> WireguardError {
    let name = name.to_owned();
    match error.raw_os_error() {
        Some(libc::EBUSY) => WireguardError::Taken { name },
        _ => WireguardError::Tun { name, source: error },
    }
}

impl Work {
    const fn output(&self) -> Direct<'_> {
        Direct(self)
    }
}

/// Sends at once, and counts what cannot be sent.
struct Direct<'a>(&'a Work);

impl Output for Direct<'_> {
    fn to_peer(&mut self, datagram: &[u8], endpoint: SocketAddr) {
        if let Err(error) = self.0.sockets.try_send(datagram, endpoint) {
            tracing::debug!("WireGuard cannot send to {endpoint}: {error}");
            self.0.engine.count(Reason::Unsent);
        }
    }

    fn to_host(&mut self, packet: &[u8]) {
        // While the device is down, for one.
        if let Err(error) = self.0.tun.write(packet) {
            tracing::debug!("this host does not take a packet from WireGuard: {error}");
        }
    }
}

/// Encrypts what this host sends: as many packets as are there, then they go in as few calls as possible.
async fn from_host(work: Arc<Work>) {
    let mut packet = vec![0; LONGEST].into_boxed_slice();
    let mut batch = batch::Batch::new();
    loop {
        let mut read = work.tun.read(&mut packet).await;
        while let Ok(length) = read {
            let made = work.engine.send(packet.get(..length).unwrap_or_default(), batch.room());
            if let Some((length, endpoint)) = made
                && !batch.add(length, endpoint)
            {
                flush(&work, &batch).await;
                batch.restart(length, endpoint);
            }
            // Packets that go nowhere are no reason to keep others from running.
            tokio::task::consume_budget().await;
            read = work.tun.try_read(&mut packet);
        }
        flush(&work, &batch).await;
        batch.clear();
        match read {
            // Down, for now.
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => pause("the tun device", &error).await,
            _ => tokio::task::consume_budget().await,
        }
    }
}

async fn flush(work: &Work, batch: &batch::Batch) {
    for _ in 0..work.sockets.send(batch).await {
        work.engine.count(Reason::Unsent);
    }
}

/// Decrypts what comes in by one socket.
async fn from_network(work: Arc<Work>, socket: fn(&Work) -> &UdpSocket) {
    let mut datagrams = vec![0; LONGEST].into_boxed_slice();
    let mut packet = vec![0; LONGEST].into_boxed_slice();
    let mut receiver = Receiver::new();
    loop {
        match receiver.receive(socket(&work), &mut datagrams).await {
            Ok(received) => {
                let bytes = datagrams.get(..received.length).unwrap_or_default();
                for datagram in bytes.chunks(received.segment) {
                    work.engine.receive(datagram, received.from, &mut packet, &mut work.output());
                }
            }
            // What a router says of something that was sent before.
            Err(error) => pause("the socket", &error).await,
        }
        tokio::task::consume_budget().await;
    }
}

/// Whatever is wrong, it does not become better by trying again at once.
async fn pause(with: &str, error: &io::Error) {
    tracing::debug!("WireGuard cannot receive by {with}: {error}");
    tokio::time::sleep(Duration::from_millis(10)).await;
}

async fn timers(work: Arc<Work>) {
    let mut buffer = [0; CONTROL];
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        work.engine.tick(&mut buffer, &mut work.output());
    }
}
