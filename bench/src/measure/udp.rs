//! UDP in the smallest Ethernet frames (60 bytes, 64 with the FCS), sent as fast as possible and
//! counted by the receiver.

use std::{
    io::IoSlice,
    io::IoSliceMut,
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg, setsockopt, sockopt::RcvBufForce},
};

use crate::{
    command::stop_if_interrupted,
    cpus::{CLIENT_CPU, server_cpu},
    namespaces::join,
    topology::Pair,
};

/// 60 bytes minus the headers of Ethernet (14), IPv4 (20) and UDP (8).
const PAYLOAD: usize = 18;
const BATCH: usize = 64;
const RECEIVE_BUFFER: usize = 16 << 20;
/// Time before the measurement in which queues fill.
const WARM_UP: Duration = Duration::from_millis(200);

/// Returns the datagrams per second that reached the receiving program.
pub fn delivered_per_second(pair: &Pair, window: Duration) -> Result<f64> {
    let (received, done) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        // The scope waits for its threads, so this flag must be set on every way out of the
        // closure.
        let _finish = SetOnDrop(&done);
        let socket = join(pair.server.netns.spawn(scope, server_cpu(), || {
            let socket =
                UdpSocket::bind(SocketAddr::from((pair.server.ipv4, 0))).context("binding the UDP receiver")?;
            setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER)?;
            socket.set_read_timeout(Some(Duration::from_millis(100)))?;
            Ok(socket)
        }))?;
        let address = socket.local_addr()?;
        let (received, done) = (&received, &done);
        let receiver = pair.server.netns.spawn(scope, server_cpu(), move || receive(&socket, received, done));
        let sender = pair.client.netns.spawn(scope, CLIENT_CPU, move || send(address, done));

        std::thread::sleep(WARM_UP);
        let (start, before) = (Instant::now(), received.load(Ordering::Relaxed));
        while start.elapsed() < window && !sender.is_finished() && !receiver.is_finished() {
            stop_if_interrupted()?;
            std::thread::sleep(window.saturating_sub(start.elapsed()).min(Duration::from_millis(100)));
        }
        let (elapsed, after) = (start.elapsed(), received.load(Ordering::Relaxed));
        done.store(true, Ordering::Relaxed);
        join(sender)?;
        join(receiver)?;
        Ok((after - before) as f64 / elapsed.as_secs_f64())
    })
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn send(address: SocketAddr, done: &AtomicBool) -> Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0").context("binding the UDP sender")?;
    socket.connect(address)?;
    let payload = [0x5a; PAYLOAD];
    let messages = [[IoSlice::new(&payload)]; BATCH];
    let addresses: [Option<SockaddrStorage>; BATCH] = [None; BATCH];
    let mut headers = MultiHeaders::preallocate(BATCH, None);
    while !done.load(Ordering::Relaxed) {
        match sendmmsg(socket.as_raw_fd(), &mut headers, messages.iter(), addresses, [], MsgFlags::empty()) {
            // A full queue is expected in this measurement. A refused port means that the receiver
            // has ended.
            Ok(_) | Err(Errno::ENOBUFS | Errno::EAGAIN | Errno::EINTR | Errno::ECONNREFUSED) => {}
            Err(error) => return Err(error).context("sending UDP"),
        }
    }
    Ok(())
}

fn receive(socket: &UdpSocket, received: &AtomicU64, done: &AtomicBool) -> Result<()> {
    let mut buffers = [[0; PAYLOAD]; BATCH];
    let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, None);
    while !done.load(Ordering::Relaxed) {
        let mut messages: Vec<_> = buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
        match recvmmsg(socket.as_raw_fd(), &mut headers, messages.iter_mut(), MsgFlags::MSG_WAITFORONE, None) {
            Ok(batch) => {
                received.fetch_add(batch.count() as u64, Ordering::Relaxed);
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(error) => return Err(error).context("receiving UDP"),
        };
    }
    Ok(())
}
