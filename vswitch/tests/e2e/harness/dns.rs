//! DNS: the clients `dig` and `getent`, a client of our own that shows every detail, and a resolver
//! that stands for the upstream resolvers of the machine.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use hickory_proto::{
    op::{Message, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::A},
};

use super::{Netns, PATIENCE, run};

/// The response of a DNS server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The response code: `NoError`, `NXDomain` and so on.
    pub code: ResponseCode,
    /// The data of the answer records in the order of the message: addresses, or names for PTR.
    pub data: Vec<String>,
}

impl Answer {
    /// Returns a NOERROR response with these data.
    pub fn of(data: &[&dyn ToString]) -> Self {
        Self { code: ResponseCode::NoError, data: data.iter().map(|data| data.to_string()).collect() }
    }

    /// Returns the response NXDOMAIN.
    pub fn no_such_name() -> Self {
        Self { code: ResponseCode::NXDomain, data: Vec::new() }
    }

    /// Returns the same response with its records sorted.
    pub fn sorted(mut self) -> Self {
        self.data.sort();
        self
    }
}

/// Queries a server over UDP. `kind` is written as for dig: A, AAAA, PTR (`name` is then an
/// address), ANY.
#[track_caller]
pub fn ask(from: &Netns, server: impl Into<IpAddr>, name: &str, kind: &str) -> Answer {
    let server = server.into();
    let answer = try_ask(from, server, name, kind, PATIENCE);
    answer.unwrap_or_else(|error| panic!("no answer from {server} to {} for {name} {kind}: {error}", from.name()))
}

/// Queries a server over UDP that may not answer.
pub fn try_ask(
    from: &Netns,
    server: IpAddr,
    name: &str,
    kind: &str,
    patience: Duration,
) -> Result<Answer, std::io::Error> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = from.inside(|| UdpSocket::bind((any, 0)))?;
    socket.set_read_timeout(Some(patience))?;
    socket.connect((server, 53))?;
    let query = query(name, kind);
    socket.send(&query.to_vec().expect("a message"))?;
    let mut buffer = vec![0; 1 << 16];
    let length = socket.recv(&mut buffer)?;
    Ok(answer(&query, &buffer[..length]))
}

/// Queries a server over TCP.
#[track_caller]
pub fn ask_tcp(from: &Netns, server: impl Into<IpAddr>, name: &str, kind: &str) -> Answer {
    let server = SocketAddr::new(server.into(), 53);
    let connected = from.inside(|| TcpStream::connect_timeout(&server, PATIENCE));
    let mut stream = connected.unwrap_or_else(|error| panic!("{server} over TCP from {}: {error}", from.name()));
    stream.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    let query = query(name, kind);
    let bytes = query.to_vec().expect("a message");
    let length = u16::try_from(bytes.len()).expect("a short message").to_be_bytes();
    stream.write_all(&[&length, &bytes[..]].concat()).expect("querying over TCP");
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap_or_else(|error| panic!("no answer from {server} for {name} {kind}: {error}"));
    let mut bytes = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut bytes).expect("the rest of the answer");
    answer(&query, &bytes)
}

fn query(name: &str, kind: &str) -> Message {
    let mut name = match name.parse::<IpAddr>() {
        Ok(address) if kind == "PTR" => Name::from(address),
        _ => Name::from_ascii(name).expect("a name"),
    };
    name.set_fqdn(true);
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name, kind.parse::<RecordType>().expect("a type")));
    message
}

#[track_caller]
fn answer(query: &Message, bytes: &[u8]) -> Answer {
    let answer = Message::from_vec(bytes).expect("a message");
    assert_eq!(
        (answer.metadata.id, &answer.queries),
        (query.metadata.id, &query.queries),
        "the answer belongs to another query"
    );
    let text = |record: &Record| record.data.to_string();
    Answer { code: answer.metadata.response_code, data: answer.answers.iter().map(text).collect() }
}

/// Returns the lines that `dig +short` prints. Prints a notice and returns `None` if dig is not
/// installed.
#[track_caller]
pub fn dig(from: &Netns, server: impl Into<IpAddr>, arguments: &[&str]) -> Option<Vec<String>> {
    if std::process::Command::new("dig").arg("-v").output().is_err() {
        eprintln!("dig is not installed on this machine: names are resolved by other clients only");
        return None;
    }
    let server = format!("@{}", server.into());
    let outcome = run(from.command("dig").args([&server, "+short", "+tries=1", "+timeout=30"]).args(arguments));
    assert_eq!(outcome.code, Some(0), "dig {server} {arguments:?}: {outcome:#?}");
    Some(outcome.stdout.lines().map(str::to_owned).collect())
}

/// Resolves a name with the C library, with the files that `ip netns exec` mounts: returns the
/// addresses that `getent DATABASE NAME` prints, or the names if `key` is an address. Empty if
/// nothing is found.
#[track_caller]
pub fn getent(netns: &Netns, database: &str, key: &str) -> Vec<String> {
    let words = ["netns", "exec", netns.name(), "getent", database, key];
    let outcome = run(std::process::Command::new("ip").args(words));
    assert!(matches!(outcome.code, Some(0 | 2)), "getent {database} {key}: {outcome:#?}");
    let field = usize::from(key.parse::<IpAddr>().is_ok());
    let mut found: Vec<String> =
        outcome.stdout.lines().filter_map(|line| line.split_whitespace().nth(field)).map(str::to_owned).collect();
    found.dedup();
    found
}

/// A resolver that knows a few names and records the names of all queries. It ends when dropped.
pub struct Resolver {
    asked: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Resolver {
    /// Starts the resolver on port 53 of an address.
    #[track_caller]
    pub fn start(netns: &Netns, address: impl Into<IpAddr>, names: &[(&str, Ipv4Addr)]) -> Self {
        let address = address.into();
        let socket = netns.inside(|| UdpSocket::bind((address, 53)));
        let socket = socket.unwrap_or_else(|error| panic!("a resolver at {address}: {error}"));
        // The thread checks `stop` after this time.
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a time limit");
        let names: BTreeMap<String, Ipv4Addr> = names.iter().map(|(name, at)| ((*name).to_owned(), *at)).collect();
        let (asked, stop) = (Arc::new(Mutex::default()), Arc::new(AtomicBool::new(false)));
        let (recorded, stopped): (Arc<Mutex<Vec<String>>>, _) = (Arc::clone(&asked), stop.clone());
        let thread = thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while !stopped.load(Ordering::Relaxed) {
                let Ok((length, client)) = socket.recv_from(&mut buffer) else { continue };
                let mut message = Message::from_vec(&buffer[..length]).expect("a query").into_response();
                let query = message.queries[0].clone();
                let name = query.name().to_ascii().trim_end_matches('.').to_ascii_lowercase();
                match names.get(&name) {
                    Some(address) if query.query_type() == RecordType::A => {
                        message.add_answer(Record::from_rdata(query.name().clone(), 60, RData::A(A(*address))));
                    }
                    Some(_) => {}
                    None => message.metadata.response_code = ResponseCode::NXDomain,
                }
                lock(&recorded).push(name);
                let _sent = socket.send_to(&message.to_vec().expect("a message"), client);
            }
        });
        Self { asked, stop, thread: Some(thread) }
    }

    /// Returns the names of all queries so far, in order.
    pub fn asked(&self) -> Vec<String> {
        lock(&self.asked).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}
