//! A minimal HTTP server that reports the client's address, the same over UDP, and clients for
//! both.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use super::{Netns, PATIENCE};

/// A server that answers every request with its name and the client's address, over TCP and UDP. It
/// ends when dropped.
pub struct Site {
    netns: std::fs::File,
    at: SocketAddr,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// The parsed response of a [`Site`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The name of the server.
    pub site: String,
    /// The source address that the server saw.
    pub client: IpAddr,
}

impl Site {
    /// Serves a port on all addresses, IPv4 and IPv6.
    #[track_caller]
    pub fn open(netns: &Netns, port: u16, name: &str) -> Self {
        let at = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let listener =
            netns.inside(|| TcpListener::bind(at)).unwrap_or_else(|error| panic!("listening on {at}: {error}"));
        let socket = netns.inside(|| UdpSocket::bind(at)).unwrap_or_else(|error| panic!("binding {at}: {error}"));
        // The thread checks `stop` after this time.
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a time limit");
        let (stop, name) = (Arc::new(AtomicBool::new(false)), name.to_owned());
        let (stopped, by_udp) = (stop.clone(), name.clone());
        let datagrams = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((_, client)) = socket.recv_from(&mut [0; 64]) {
                    let page = format!("{by_udp} {}", client.ip().to_canonical());
                    let _sent = socket.send_to(page.as_bytes(), client);
                }
            }
        });
        let stopped = stop.clone();
        let connections = thread::spawn(move || {
            while let Ok((stream, client)) = listener.accept() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                answer(stream, &name, client.ip().to_canonical());
            }
        });
        let netns = std::fs::File::open(netns.path()).expect("the namespace exists");
        Self { netns, at, stop, threads: vec![datagrams, connections] }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let target = SocketAddr::from((Ipv6Addr::LOCALHOST, self.at.port()));
        thread::scope(|scope| {
            scope.spawn(|| {
                let entered = nix::sched::setns(&self.netns, nix::sched::CloneFlags::CLONE_NEWNET);
                let _wakes_the_listener = entered.map(|()| TcpStream::connect(target));
            });
        });
        for thread in self.threads.drain(..) {
            let _ended = thread.join();
        }
    }
}

fn answer(mut stream: TcpStream, name: &str, client: IpAddr) {
    let _limit = stream.set_read_timeout(Some(PATIENCE));
    let mut request = Vec::new();
    let mut buffer = [0; 1024];
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read(&mut buffer) {
            Ok(length @ 1..) => request.extend(&buffer[..length]),
            _ => return,
        }
    }
    let body = format!("{name} {client}");
    let answer = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let _sent = stream.write_all(answer.as_bytes());
}

/// Requests a page over TCP. Panics if the server does not answer.
#[track_caller]
pub fn get(from: &Netns, server: impl Into<IpAddr>, port: u16) -> Page {
    let server = SocketAddr::new(server.into(), port);
    try_get(from, server, PATIENCE).unwrap_or_else(|error| panic!("http://{server}/ from {}: {error}", from.name()))
}

/// Requests a page over TCP from a server that may not answer.
pub fn try_get(from: &Netns, server: SocketAddr, patience: Duration) -> Result<Page, std::io::Error> {
    page(&fetch(from, server, patience)?)
}

/// Returns the body of the page that any HTTP server has at `/`.
pub fn fetch(from: &Netns, server: SocketAddr, patience: Duration) -> Result<String, std::io::Error> {
    let mut stream = from.inside(|| TcpStream::connect_timeout(&server, patience))?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(format!("GET / HTTP/1.0\r\nHost: {server}\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let body = answer.strip_prefix("HTTP/1.").and_then(|rest| {
        let (head, body) = rest.split_once("\r\n\r\n")?;
        head[1..].starts_with(" 200 OK").then_some(body)
    });
    body.map(str::to_owned).ok_or_else(|| std::io::Error::other(format!("no page: {answer:?}")))
}

/// A UDP client that sends all its requests from one port.
pub struct Caller(UdpSocket);

impl Caller {
    /// Creates a client that is connected to one server and receives only from it.
    #[track_caller]
    pub fn new(from: &Netns, server: impl Into<IpAddr>, port: u16) -> Self {
        let server = SocketAddr::new(server.into(), port);
        let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = from.inside(|| {
            let socket = UdpSocket::bind((any, 0)).expect("a socket");
            socket.connect(server).map(|()| socket)
        });
        Self(socket.unwrap_or_else(|error| panic!("{server} from {}: {error}", from.name())))
    }

    /// Sends a request over UDP. Panics if the server does not answer.
    #[track_caller]
    pub fn call(&self) -> Page {
        self.try_call(PATIENCE).unwrap_or_else(|error| panic!("{:?} does not answer: {error}", self.0.peer_addr()))
    }

    /// Sends a request over UDP to a server that may not answer.
    pub fn try_call(&self, patience: Duration) -> Result<Page, std::io::Error> {
        self.0.set_read_timeout(Some(patience))?;
        self.0.send(b"?")?;
        let mut buffer = [0; 256];
        let length = self.0.recv(&mut buffer)?;
        page(&String::from_utf8_lossy(&buffer[..length]))
    }
}

fn page(text: &str) -> Result<Page, std::io::Error> {
    let (site, client) = text.split_once(' ').ok_or_else(|| std::io::Error::other(format!("no page: {text:?}")))?;
    Ok(Page { site: site.to_owned(), client: client.parse().map_err(std::io::Error::other)? })
}
