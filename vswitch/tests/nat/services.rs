//! Servers that send each client the address from which they see it, and clients that request it.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use vswitch::model::Protocol;

use crate::harness::{Netns, PATIENCE};

/// The time after which nothing is expected any more.
const SILENCE: Duration = Duration::from_millis(400);

/// Serves a port on all addresses of a namespace until the test process ends.
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

/// Makes IPv6 sockets accept only IPv6, by the default of the namespace.
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

/// Receives, and repeats the call after signals. The end of a program that another test started is
/// such a signal.
pub fn retry_interrupted<T>(mut receive: impl FnMut() -> std::io::Result<T>) -> std::io::Result<T> {
    loop {
        match receive() {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Returns the client address that the server reports, or `None` if no server answers.
pub fn request(from: &Netns, protocol: Protocol, to: &str, port: u16, patience: Duration) -> Option<IpAddr> {
    let to = SocketAddr::new(to.parse().expect("an address"), port);
    let mut buffer = [0; 64];
    let length = from.inside(|| match protocol {
        Protocol::Udp => {
            let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
            let socket = UdpSocket::bind((any, 0)).ok()?;
            socket.connect(to).ok()?;
            socket.set_read_timeout(Some(patience)).ok()?;
            socket.send(b"?").ok()?;
            retry_interrupted(|| socket.recv(&mut buffer)).ok()
        }
        _ => {
            let mut stream = TcpStream::connect_timeout(&to, patience).ok()?;
            stream.set_read_timeout(Some(patience)).ok()?;
            retry_interrupted(|| stream.read(&mut buffer)).ok()
        }
    })?;
    std::str::from_utf8(&buffer[..length]).ok()?.parse().ok()
}

/// Asserts that the server is reached, and that it sees the client at this address.
#[track_caller]
pub fn assert_client_address(from: &Netns, protocol: Protocol, to: &str, port: u16, client: &str) {
    let seen = request(from, protocol, to, port, PATIENCE);
    assert_eq!(seen, client.parse().ok(), "{protocol} from {} to {to} port {port}", from.name());
}

/// Asserts that no server answers.
#[track_caller]
pub fn assert_unreached(from: &Netns, protocol: Protocol, to: &str, port: u16) {
    let seen = request(from, protocol, to, port, SILENCE);
    assert_eq!(seen, None, "{protocol} from {} to {to} port {port}", from.name());
}
