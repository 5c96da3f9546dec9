//! Lookups of an endpoint's name by UDP, from a container at its network's gateway.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::CLIENT_CPU;
use crate::{
    command::stop_if_interrupted,
    instance::Instance,
    namespaces::{Netns, NetnsName},
    statistics::quantile,
};

/// The name that is asked for.
const NAME: &str = "web";
/// No lookup takes this long.
const PATIENCE: Duration = Duration::from_secs(2);
const WARM_UP: Duration = Duration::from_millis(100);
/// More than an answer of one address can have.
const MESSAGE: usize = 512;

/// A container, a name server, and a name that it knows.
pub struct Resolver {
    client: NetnsName,
    server: SocketAddr,
    address: Ipv4Addr,
    // Dropped in this order: the switch goes before the namespaces that it works on.
    _instance: Instance,
    _namespaces: Vec<Netns>,
}

/// What came out of one window.
#[derive(Clone, Copy, Debug)]
pub struct Lookups {
    /// Answered in a second.
    pub per_second: f64,
    /// All but one in a hundred were answered within so many microseconds.
    pub p99: f64,
}

impl Resolver {
    /// Two containers in a network of vswitch, of which one looks the other up.
    pub fn build(vswitch: &Path) -> Result<Self> {
        let (asking, asked) = (Netns::create("names-a")?, Netns::create("names-b")?);
        let host = Netns::create("names-host")?;
        let instance = Instance::up(vswitch, &host, &[])?;
        instance.run(&["network", "create", "names"])?;
        let attached = instance.attach(&asking, &["--network", "names"])?;
        let web = instance.attach(&asked, &["--network", "names", "--name", NAME])?.endpoint(&asked);
        Ok(Self {
            client: asking.name(),
            server: SocketAddr::from((attached.gateway()?, 53)),
            address: web.ipv4,
            _instance: instance,
            _namespaces: vec![asking, asked, host],
        })
    }
}

/// Looks the name up for as long as `window`, with so many queries on their way at any time. A query without an answer,
/// or with a wrong one, is an error.
pub fn lookups(resolver: &Resolver, outstanding: u16, window: Duration) -> Result<Lookups> {
    resolver.client.inside(CLIENT_CPU, || {
        let socket = UdpSocket::bind("0.0.0.0:0").context("binding the socket of the queries")?;
        socket.connect(resolver.server)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        ask(&socket, resolver.address, outstanding, WARM_UP)?;
        ask(&socket, resolver.address, outstanding, window)
    })
}

/// One query per id, asked again as soon as it is answered, until the window ends.
fn ask(socket: &UdpSocket, wanted: Ipv4Addr, outstanding: u16, window: Duration) -> Result<Lookups> {
    let queries: Vec<_> = (0..outstanding).map(|id| query(id, NAME)).collect();
    let (mut times, mut buffer) = (Vec::new(), [0; MESSAGE]);
    let start = Instant::now();
    let mut sent = Vec::with_capacity(queries.len());
    for query in &queries {
        sent.push(Instant::now());
        socket.send(query)?;
    }
    let mut waiting = queries.len();
    let mut last = start;
    while waiting > 0 {
        let length = socket.recv(&mut buffer).context("waiting for the answer to a lookup")?;
        last = Instant::now();
        let id = usize::from(answer(&buffer[..length], wanted)?);
        let (Some(query), Some(sent)) = (queries.get(id), sent.get_mut(id)) else {
            bail!("an answer to a query that nobody sent (id {id})");
        };
        times.push((last - *sent).as_nanos() as u64);
        if last - start < window {
            *sent = Instant::now();
            socket.send(query)?;
        } else {
            waiting -= 1;
        }
        if times.len().is_multiple_of(1_000) {
            stop_if_interrupted()?;
        }
    }
    let per_second = times.len() as f64 / (last - start).as_secs_f64();
    times.sort_unstable();
    let p99 = quantile(&times, 0.99).context("no lookup")? as f64 / 1e3;
    Ok(Lookups { per_second, p99 })
}

/// A query for the IPv4 addresses of a name of one label (RFC 1035 section 4).
fn query(id: u16, name: &str) -> Vec<u8> {
    let mut message = Vec::from(id.to_be_bytes());
    // Recursion desired, as every stub resolver says; one question, nothing else.
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    message.push(name.len() as u8);
    message.extend(name.as_bytes());
    message.push(0);
    // Type A, class IN.
    message.extend([0, 1, 0, 1]);
    message
}

/// The id of an answer whose last record holds `wanted`.
fn answer(message: &[u8], wanted: Ipv4Addr) -> Result<u16> {
    let Some((&[id0, id1, flags, code, _, _, answers0, answers1], _)) = message.split_first_chunk() else {
        bail!("an answer of {} bytes is none", message.len());
    };
    let (response, code, answers) = (flags >> 7, code & 0xf, u16::from_be_bytes([answers0, answers1]));
    if response != 1 || code != 0 || answers != 1 {
        bail!("the name server answered with code {code} and {answers} records");
    }
    // No additional section was asked for: the message ends with the record's data.
    if !message.ends_with(&wanted.octets()) {
        bail!("the name server did not answer {wanted}");
    }
    Ok(u16::from_be_bytes([id0, id1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

    #[test]
    fn a_query_has_one_question_for_an_address() {
        assert_eq!(query(0x1234, "web"), b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03web\0\0\x01\0\x01");
    }

    #[test]
    fn only_an_answer_with_the_wanted_address_counts() {
        let right =
            b"\0\x07\x85\x80\0\x01\0\x01\0\0\0\0\x03web\0\0\x01\0\x01\xc0\x0c\0\x01\0\x01\0\0\0\0\0\x04\x0a\0\0\x02";
        assert_eq!(answer(right, WEB).unwrap(), 7);
        assert!(answer(right, Ipv4Addr::new(10, 0, 0, 3)).is_err());
        let unknown = b"\0\x07\x85\x83\0\x01\0\0\0\0\0\0\x03web\0\0\x01\0\x01";
        assert!(answer(unknown, WEB).unwrap_err().to_string().contains("code 3"));
        assert!(answer(&right[..7], WEB).is_err());
        assert!(answer(&query(7, "web"), WEB).is_err());
    }
}
