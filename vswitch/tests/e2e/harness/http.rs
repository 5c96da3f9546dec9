//! HTTP of the smallest kind: a server that says who asks, and a client.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use super::{Netns, PATIENCE};

/// A server that answers every request with its name and the client's address. It ends when dropped.
pub struct Site {
    netns: std::fs::File,
    at: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// What a client was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The name of the server.
    pub site: String,
    /// The address that the server saw the client at.
    pub client: IpAddr,
}

impl Site {
    /// Serves at a port of all addresses, IPv4 and IPv6.
    #[track_caller]
    pub fn open(netns: &Netns, port: u16, name: &str) -> Self {
        let at = SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port));
        let listener =
            netns.inside(|| TcpListener::bind(at)).unwrap_or_else(|error| panic!("listening on {at}: {error}"));
        let (stop, name) = (Arc::new(AtomicBool::new(false)), name.to_owned());
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            while let Ok((stream, client)) = listener.accept() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                answer(stream, &name, client.ip().to_canonical());
            }
        });
        let netns = std::fs::File::open(netns.path()).expect("it is there");
        Self { netns, at, stop, thread: Some(thread) }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let target = SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, self.at.port()));
        thread::scope(|scope| {
            scope.spawn(|| {
                let entered = nix::sched::setns(&self.netns, nix::sched::CloneFlags::CLONE_NEWNET);
                let _wakes_it = entered.map(|()| TcpStream::connect(target));
            });
        });
        if let Some(thread) = self.thread.take() {
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

/// Asks for a page.
#[track_caller]
pub fn get(from: &Netns, server: impl Into<IpAddr>, port: u16) -> Page {
    let server = SocketAddr::new(server.into(), port);
    try_get(from, server, PATIENCE).unwrap_or_else(|error| panic!("http://{server}/ from {}: {error}", from.name()))
}

/// Asks for a page where perhaps nobody answers.
pub fn try_get(from: &Netns, server: SocketAddr, patience: std::time::Duration) -> Result<Page, std::io::Error> {
    let mut stream = from.inside(|| TcpStream::connect_timeout(&server, patience))?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(format!("GET / HTTP/1.0\r\nHost: {server}\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let body = answer.strip_prefix("HTTP/1.0 200 OK\r\n").and_then(|rest| rest.split_once("\r\n\r\n"));
    let (_, body) = body.ok_or_else(|| std::io::Error::other(format!("no page: {answer:?}")))?;
    let (site, client) = body.split_once(' ').ok_or_else(|| std::io::Error::other(format!("no page: {answer:?}")))?;
    Ok(Page { site: site.to_owned(), client: client.parse().map_err(std::io::Error::other)? })
}
