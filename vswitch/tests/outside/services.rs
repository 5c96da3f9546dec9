//! Servers that tell each client what address they see it at, and clients that ask.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use vswitch::model::Protocol;

use crate::harness::{Netns, PATIENCE};

/// Long enough to say that nothing comes.
const SILENCE: Duration = Duration::from_millis(400);

/// Serves a port on all addresses of a namespace, for as long as the tests run.
pub fn serve(netns: &Netns, protocol: Protocol, port: u16) {
    for address in ["0.0.0.0", "::"] {
        let at = SocketAddr::new(address.parse().expect("an address"), port);
        match protocol {
            Protocol::Udp => {
                let socket = netns.inside(|| bind(at, UdpSocket::bind)).expect("a free port");
                std::thread::spawn(move || serve_udp(&socket));
            }
            _ => {
                let listener = netns.inside(|| bind(at, TcpListener::bind)).expect("a free port");
                std::thread::spawn(move || serve_tcp(&listener));
            }
        }
    }
}

/// IPv6 alone where IPv6 is meant: by the namespace's own default.
fn bind<T>(at: SocketAddr, bind: impl FnOnce(SocketAddr) -> std::io::Result<T>) -> std::io::Result<T> {
    if at.is_ipv6() {
        std::fs::write("/proc/sys/net/ipv6/bindv6only", "1")?;
    }
    bind(at)
}

fn serve_tcp(listener: &TcpListener) {
    for mut client in listener.incoming().flatten() {
        if let Ok(address) = client.peer_addr() {
            let _gone = client.write_all(address.ip().to_string().as_bytes());
        }
    }
}

fn serve_udp(socket: &UdpSocket) {
    let mut buffer = [0; 16];
    while let Ok((_, client)) = socket.recv_from(&mut buffer) {
        let _gone = socket.send_to(client.ip().to_string().as_bytes(), client);
    }
}

/// Receives in spite of signals: the end of a program that another test has started is one.
pub fn uninterrupted<T>(mut receive: impl FnMut() -> std::io::Result<T>) -> std::io::Result<T> {
    loop {
        match receive() {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// What the server at this address says that the client's address is; none if nobody answers.
pub fn asked(from: &Netns, protocol: Protocol, to: &str, port: u16, patience: Duration) -> Option<IpAddr> {
    let to = SocketAddr::new(to.parse().expect("an address"), port);
    let mut buffer = [0; 64];
    let length = from.inside(|| match protocol {
        Protocol::Udp => {
            let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
            let socket = UdpSocket::bind((any, 0)).ok()?;
            socket.connect(to).ok()?;
            socket.set_read_timeout(Some(patience)).ok()?;
            socket.send(b"?").ok()?;
            uninterrupted(|| socket.recv(&mut buffer)).ok()
        }
        _ => {
            let mut stream = TcpStream::connect_timeout(&to, patience).ok()?;
            stream.set_read_timeout(Some(patience)).ok()?;
            uninterrupted(|| stream.read(&mut buffer)).ok()
        }
    })?;
    std::str::from_utf8(&buffer[..length]).ok()?.parse().ok()
}

/// Asserts that the server is reached, and sees the client at this address.
#[track_caller]
pub fn sees(from: &Netns, protocol: Protocol, to: &str, port: u16, client: &str) {
    let seen = asked(from, protocol, to, port, PATIENCE);
    assert_eq!(seen, client.parse().ok(), "{protocol} from {} to {to} port {port}", from.name());
}

/// Asserts that nobody answers.
#[track_caller]
pub fn unreached(from: &Netns, protocol: Protocol, to: &str, port: u16) {
    let seen = asked(from, protocol, to, port, SILENCE);
    assert_eq!(seen, None, "{protocol} from {} to {to} port {port}", from.name());
}
