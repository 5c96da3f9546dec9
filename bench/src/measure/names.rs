//! DNS lookups of an endpoint's name over UDP, from a container at the gateway of its network.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    command::stop_if_interrupted,
    cpus::CLIENT_CPU,
    instance::Instance,
    namespaces::{Netns, NetnsName},
    statistics::quantile,
};

/// The name in the queries.
const NAME: &str = "web";
/// Time limit for a lookup.
const TIME_LIMIT: Duration = Duration::from_secs(2);
const WARM_UP: Duration = Duration::from_millis(100);
/// Upper bound for the size of a reply with one address.
const MAX_REPLY: usize = 512;

/// A container, its name server, and a name to look up.
pub struct Resolver {
    client: NetnsName,
    server: SocketAddr,
    address: Ipv4Addr,
    // Dropped in this order: the switch before the namespaces that it works on.
    _instance: Instance,
    _namespaces: Vec<Netns>,
}

/// The results of one window.
#[derive(Clone, Copy, Debug)]
pub struct Lookups {
    /// Replies per second.
    pub per_second: f64,
    /// The 99th percentile of the lookup time in microseconds.
    pub p99: f64,
}

impl Resolver {
    /// Attaches two containers to a network of vswitch. One looks up the name of the other.
    pub fn build(vswitch: &Path) -> Result<Self> {
        let (client, target) = (Netns::create("names-a")?, Netns::create("names-b")?);
        let host = Netns::create("names-host")?;
        let instance = Instance::up(vswitch, &host, &[])?;
        instance.run(&["network", "create", "names"])?;
        let attached = instance.attach(&client, &["--network", "names"])?;
        let web = instance.attach(&target, &["--network", "names", "--name", NAME])?.endpoint(&target);
        Ok(Self {
            client: client.name(),
            server: SocketAddr::from((attached.gateway()?, 53)),
            address: web.ipv4,
            _instance: instance,
            _namespaces: vec![client, target, host],
        })
    }
}

/// Looks up the name during `window`, with `outstanding` queries in flight at any time. A missing
/// or wrong reply is an error.
pub fn measure_lookups(resolver: &Resolver, outstanding: u16, window: Duration) -> Result<Lookups> {
    resolver.client.inside(CLIENT_CPU, || {
        let socket = UdpSocket::bind("0.0.0.0:0").context("binding the socket of the queries")?;
        socket.connect(resolver.server)?;
        socket.set_read_timeout(Some(TIME_LIMIT))?;
        query_for(&socket, resolver.address, outstanding, WARM_UP)?;
        query_for(&socket, resolver.address, outstanding, window)
    })
}

/// Sends one query per id, and sends it again as soon as it is answered, until the window ends.
fn query_for(socket: &UdpSocket, expected: Ipv4Addr, outstanding: u16, window: Duration) -> Result<Lookups> {
    let queries: Vec<_> = (0..outstanding).map(|id| build_query(id, NAME)).collect();
    let (mut times, mut buffer) = (Vec::new(), [0; MAX_REPLY]);
    let start = Instant::now();
    let mut sent = Vec::with_capacity(queries.len());
    for query in &queries {
        sent.push(Instant::now());
        socket.send(query)?;
    }
    let mut waiting = queries.len();
    let mut last = start;
    while waiting > 0 {
        let length = socket.recv(&mut buffer).context("waiting for the reply to a lookup")?;
        last = Instant::now();
        let id = usize::from(parse_reply(&buffer[..length], expected)?);
        let (Some(query), Some(sent)) = (queries.get(id), sent.get_mut(id)) else {
            bail!("unexpected reply with id {id}");
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
    let p99 = quantile(&times, 0.99).context("no lookup was answered")? as f64 / 1e3;
    Ok(Lookups { per_second, p99 })
}

/// Builds a query for the IPv4 addresses of a name with one label (RFC 1035 section 4).
fn build_query(id: u16, name: &str) -> Vec<u8> {
    let mut message = Vec::from(id.to_be_bytes());
    // Recursion desired, as set by every stub resolver. One question and no other records.
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    message.push(name.len() as u8);
    message.extend(name.as_bytes());
    message.push(0);
    // Type A, class IN.
    message.extend([0, 1, 0, 1]);
    message
}

/// Returns the id of a reply whose last record contains `expected`.
fn parse_reply(message: &[u8], expected: Ipv4Addr) -> Result<u16> {
    let Some((&[id0, id1, flags, code, _, _, answers0, answers1], _)) = message.split_first_chunk() else {
        bail!("a reply of {} bytes is too short", message.len());
    };
    let (response, code, answers) = (flags >> 7, code & 0xf, u16::from_be_bytes([answers0, answers1]));
    if response != 1 || code != 0 || answers != 1 {
        bail!("the name server replied with code {code} and {answers} records");
    }
    // The query asks for no additional section, so the reply ends with the data of the record.
    if !message.ends_with(&expected.octets()) {
        bail!("the reply does not contain {expected}");
    }
    Ok(u16::from_be_bytes([id0, id1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

    #[test]
    fn query_has_one_question_of_type_a() {
        assert_eq!(build_query(0x1234, "web"), b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03web\0\0\x01\0\x01");
    }

    #[test]
    fn only_replies_with_the_expected_address_are_accepted() {
        let right =
            b"\0\x07\x85\x80\0\x01\0\x01\0\0\0\0\x03web\0\0\x01\0\x01\xc0\x0c\0\x01\0\x01\0\0\0\0\0\x04\x0a\0\0\x02";
        assert_eq!(parse_reply(right, WEB).unwrap(), 7);
        assert!(parse_reply(right, Ipv4Addr::new(10, 0, 0, 3)).is_err());
        let unknown = b"\0\x07\x85\x83\0\x01\0\0\0\0\0\0\x03web\0\0\x01\0\x01";
        assert!(parse_reply(unknown, WEB).unwrap_err().to_string().contains("code 3"));
        assert!(parse_reply(&right[..7], WEB).is_err());
        assert!(parse_reply(&build_query(7, "web"), WEB).is_err());
    }
}
