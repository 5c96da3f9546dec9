//! Finds out which namespaces reach each other. Nothing here fails if a namespace is not reached.

use std::{
    fmt,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use super::{Netns, PATIENCE, Pinger};

/// How long to wait for traffic that must not arrive. On a slow machine the wait may be too short
/// to notice such traffic, but it never fails a test wrongly.
const SILENCE: Duration = Duration::from_secs(1);

/// The protocols with which a request and its reply got through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    ping: bool,
    tcp: bool,
    udp: bool,
}

impl fmt::Display for Reach {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { ping: true, tcp: true, udp: true } => formatter.pad("yes"),
            Self { ping: false, tcp: false, udp: false } => formatter.pad("no"),
            Self { ping, tcp, udp } => {
                let kinds = [(*ping, "ping"), (*tcp, "tcp"), (*udp, "udp")];
                let through = kinds.iter().filter(|(through, _)| *through).map(|(_, kind)| *kind);
                formatter.pad(&through.collect::<Vec<_>>().join("+"))
            }
        }
    }
}

/// Tries to reach an address of another namespace with ping, TCP and UDP. Waits for [`PATIENCE`] if
/// success is expected, else for [`SILENCE`].
pub fn reaches(from: &Netns, to: &Netns, address: IpAddr, expected: bool) -> Reach {
    let patience = if expected { PATIENCE } else { SILENCE };
    thread::scope(|scope| {
        let ping = scope.spawn(|| ping(from, address, patience));
        let tcp = scope.spawn(|| tcp(from, to, address, patience));
        let udp = scope.spawn(|| udp(from, to, address, patience));
        let through = |thread: thread::ScopedJoinHandle<'_, bool>| thread.join().expect("the thread ends");
        Reach { ping: through(ping), tcp: through(tcp), udp: through(udp) }
    })
}

/// Reports whether a broadcast datagram from an address of one namespace arrives in another.
pub fn broadcast_reaches(from: &Netns, address: Ipv4Addr, to: &Netns, expected: bool) -> bool {
    let server = bind(to, Ipv4Addr::UNSPECIFIED.into());
    let client = bind(from, address.into());
    client.set_broadcast(true).expect("SO_BROADCAST");
    let port = server.local_addr().expect("it is bound").port();
    until(if expected { PATIENCE } else { SILENCE }, || {
        let _unreachable = client.send_to(b"broadcast", (Ipv4Addr::BROADCAST, port));
        server.recv_from(&mut [0; 64]).is_ok_and(|(_, source)| source.ip() == address)
    })
}

fn ping(from: &Netns, address: IpAddr, patience: Duration) -> bool {
    let mut pinger = Pinger::new(from, address);
    until(patience, || {
        let _unreachable = pinger.try_send(56);
        until(Duration::from_millis(200), || {
            thread::sleep(Duration::from_millis(5));
            pinger.answered()
        })
    })
}

fn tcp(from: &Netns, to: &Netns, address: IpAddr, patience: Duration) -> bool {
    let Ok(listener) = to.inside(|| TcpListener::bind((address, 0))) else { panic!("listening on {address}") };
    listener.set_nonblocking(true).expect("a socket");
    let target = listener.local_addr().expect("it is bound");
    until(patience, || {
        let Ok(mut stream) = from.inside(|| TcpStream::connect_timeout(&target, patience)) else {
            thread::sleep(Duration::from_millis(20));
            return false;
        };
        stream.set_read_timeout(Some(patience)).expect("a time limit");
        let mut accepted = None;
        // The last segment of the handshake may still be in flight.
        until(patience, || {
            accepted = listener.accept().ok();
            accepted.is_some()
        });
        let Some((mut other, _)) = accepted else { return false };
        let mut answer = [0];
        other.write_all(b"!").is_ok() && stream.read_exact(&mut answer).is_ok()
    })
}

fn udp(from: &Netns, to: &Netns, address: IpAddr, patience: Duration) -> bool {
    let unspecified: IpAddr =
        if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let [server, client] = [bind(to, address), bind(from, unspecified)];
    let target = server.local_addr().expect("it is bound");
    until(patience, || {
        let _unreachable = client.send_to(b"question", target);
        if let Ok((_, sender)) = server.recv_from(&mut [0; 64]) {
            let _unreachable = server.send_to(b"answer", sender);
        }
        client.recv_from(&mut [0; 64]).is_ok_and(|(_, source)| source == target)
    })
}

/// Opens a UDP socket with a short receive timeout.
fn bind(netns: &Netns, address: IpAddr) -> UdpSocket {
    let socket = netns.inside(|| UdpSocket::bind(SocketAddr::from((address, 0))));
    let socket = socket.unwrap_or_else(|error| panic!("binding {address} in {}: {error}", netns.name()));
    socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a time limit");
    socket
}

/// Calls `condition` until it returns true or the time is over. Reports which.
fn until(patience: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + patience;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
    }
}
