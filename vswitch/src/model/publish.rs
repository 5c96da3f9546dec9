//! Published ports, as `-p` asks for them: Docker's syntax, Docker's words where it is wrong.

mod parse;
mod range;

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use parse::InvalidPublish;
pub use range::{InvalidPortRange, PortRange};

/// What a port is a port of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP, what is meant where nothing is said.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// A `-p`: which ports of an endpoint are to be reached by which of the host's. As many host ports as there are
/// container ports, or a choice of them for a single one, or none: then the switch chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublishSpec {
    host_ip: Option<IpAddr>,
    host: Option<PortRange>,
    container: PortRange,
    protocol: Protocol,
}

/// How the host's port of one container port is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostPort {
    /// Any that is free.
    Automatic,
    /// This one.
    Exactly(u16),
    /// One of these that is free.
    OneOf(PortRange),
}

/// One published port. Its host port is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Published {
    /// Of which protocol.
    pub protocol: Protocol,
    /// At which of the host's addresses: all of them, IPv4 and IPv6, where none is named; all of one family where it is
    /// that family's unspecified address.
    #[schema(value_type = Option<String>)]
    pub host_ip: Option<IpAddr>,
    /// The host's port.
    pub host_port: u16,
    /// The endpoint's port.
    pub container_port: u16,
}

impl Protocol {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// Its name, in lower case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    /// Its number in the IP header.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl PublishSpec {
    /// Of its parts.
    ///
    /// # Errors
    /// [`InvalidPublish::Ranges`] if there are several container ports and another number of host ports.
    pub fn new(
        host_ip: Option<IpAddr>,
        host: Option<PortRange>,
        container: PortRange,
        protocol: Protocol,
    ) -> Result<Self, InvalidPublish> {
        // An address in IPv6's clothes is the IPv4 address for all that follows.
        let host_ip = host_ip.map(|address| address.to_canonical());
        match host {
            Some(host) if container.count() > 1 && container.count() != host.count() => {
                Err(InvalidPublish::Ranges { container, host })
            }
            _ => Ok(Self { host_ip, host, container, protocol }),
        }
    }

    /// The same at this host address, if it names none.
    #[must_use]
    pub fn or_at(self, host_ip: Option<IpAddr>) -> Self {
        Self { host_ip: self.host_ip.or(host_ip), ..self }
    }

    /// The host's address; all if there is none.
    pub const fn host_ip(&self) -> Option<IpAddr> {
        self.host_ip
    }

    /// The host's ports; the switch chooses if there are none.
    pub const fn host(&self) -> Option<PortRange> {
        self.host
    }

    /// The endpoint's ports.
    pub const fn container(&self) -> PortRange {
        self.container
    }

    /// The protocol.
    pub const fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Each container port with where its host port comes from.
    pub fn ports(&self) -> impl Iterator<Item = (u16, HostPort)> + use<> {
        let (host, container) = (self.host, self.container);
        container.ports().map(move |port| {
            let from = match host {
                None => HostPort::Automatic,
                Some(host) if host.count() == container.count() => {
                    HostPort::Exactly(host.first() + (port - container.first()))
                }
                Some(host) => HostPort::OneOf(host),
            };
            (port, from)
        })
    }
}

impl Published {
    /// Whether both would be for the same packets.
    pub fn collides(&self, other: &Self) -> bool {
        let all_of_family = |one: IpAddr, other: IpAddr| one.is_unspecified() && one.is_ipv4() == other.is_ipv4();
        let addresses = match (self.host_ip, other.host_ip) {
            (None, _) | (_, None) => true,
            (Some(one), Some(other)) => one == other || all_of_family(one, other) || all_of_family(other, one),
        };
        addresses && (self.protocol, self.host_port) == (other.protocol, other.host_port)
    }
}

impl FromStr for Protocol {
    type Err = InvalidPublish;

    fn from_str(text: &str) -> Result<Self, InvalidPublish> {
        let found = Self::ALL.into_iter().find(|protocol| protocol.name().eq_ignore_ascii_case(text));
        found.ok_or_else(|| InvalidPublish::Protocol(text.to_owned()))
    }
}

impl FromStr for PublishSpec {
    type Err = InvalidPublish;

    fn from_str(text: &str) -> Result<Self, InvalidPublish> {
        parse::spec(text)
    }
}

impl TryFrom<String> for PublishSpec {
    type Error = InvalidPublish;

    fn try_from(text: String) -> Result<Self, InvalidPublish> {
        text.parse()
    }
}

impl From<PublishSpec> for String {
    fn from(spec: PublishSpec) -> Self {
        spec.to_string()
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for PublishSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host_ip, host, container, protocol } = self;
        write_address(f, *host_ip)?;
        match host {
            Some(host) => write!(f, "{host}:")?,
            None if host_ip.is_some() => f.write_str(":")?,
            None => {}
        }
        write!(f, "{container}/{protocol}")
    }
}

/// As `docker port` and `docker ps` write it: `0.0.0.0:8080->80/tcp`, without the address where it is all.
impl fmt::Display for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_address(f, self.host_ip)?;
        write!(f, "{}->{}/{}", self.host_port, self.container_port, self.protocol)
    }
}

fn write_address(f: &mut fmt::Formatter<'_>, address: Option<IpAddr>) -> fmt::Result {
    match address {
        Some(IpAddr::V4(address)) => write!(f, "{address}:"),
        Some(IpAddr::V6(address)) => write!(f, "[{address}]:"),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    fn spec(text: &str) -> PublishSpec {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn range(first: u16, last: u16) -> PortRange {
        PortRange::new(first, last).expect("a range")
    }

    #[test]
    fn host_ports_belong_to_container_ports() {
        let ports = |text| spec(text).ports().collect::<Vec<_>>();
        assert_eq!(ports("80"), [(80, HostPort::Automatic)]);
        assert_eq!(ports("80-81"), [(80, HostPort::Automatic), (81, HostPort::Automatic)]);
        assert_eq!(ports("8080:80"), [(80, HostPort::Exactly(8080))]);
        assert_eq!(ports("8080-8081:80-81"), [(80, HostPort::Exactly(8080)), (81, HostPort::Exactly(8081))]);
        assert_eq!(ports("8080-8089:80"), [(80, HostPort::OneOf(range(8080, 8089)))]);
        assert_eq!(ports("65534-65535:65534-65535").len(), 2);
    }

    #[test]
    fn a_published_port_reads_as_in_docker() {
        let published = |host_ip: Option<&str>| {
            let host_ip = host_ip.map(|address| address.parse().expect("an address"));
            Published { protocol: Protocol::Udp, host_ip, host_port: 53, container_port: 5353 }.to_string()
        };
        assert_eq!(published(None), "53->5353/udp");
        assert_eq!(published(Some("0.0.0.0")), "0.0.0.0:53->5353/udp");
        assert_eq!(published(Some("fd00::1")), "[fd00::1]:53->5353/udp");
    }

    #[test]
    fn json_is_what_people_write() {
        assert_eq!(serde_json::to_value(spec("[::1]:8080:80/UDP")).unwrap(), "[::1]:8080:80/udp");
        assert!(serde_json::from_str::<PublishSpec>("\"80:81:82:83\"").is_err());
        let published = Published { protocol: Protocol::Tcp, host_ip: None, host_port: 1, container_port: 2 };
        let json = serde_json::json!({"protocol": "tcp", "host_ip": null, "host_port": 1, "container_port": 2});
        assert_eq!(serde_json::to_value(published).unwrap(), json);
        assert_eq!(serde_json::from_value::<Published>(json).unwrap(), published);
    }

    fn any_range() -> impl Strategy<Value = PortRange> {
        (1..=u16::MAX, 1..=u16::MAX).prop_map(|(one, other)| range(one.min(other), one.max(other)))
    }

    fn any_spec() -> impl Strategy<Value = PublishSpec> {
        let protocol = prop::sample::select(&Protocol::ALL[..]);
        let address = prop::option::of(any::<IpAddr>());
        (address, prop::option::of(any_range()), any_range(), protocol).prop_map(
            |(address, host, container, protocol)| {
                PublishSpec::new(address, host, container, protocol).unwrap_or_else(|_| {
                    let single = range(container.first(), container.first());
                    PublishSpec::new(address, host, single, protocol).expect("a single port goes with any range")
                })
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_again(spec in any_spec()) {
            prop_assert_eq!(spec.to_string().parse::<PublishSpec>(), Ok(spec));
        }

        #[test]
        fn nothing_that_is_typed_breaks_it(text in "\\PC*") {
            let _any = text.parse::<PublishSpec>();
        }

        #[test]
        fn what_looks_right_is_right_or_says_why(text in "(\\[[:0-9a-f]{0,6}\\]:|[0-9.]{0,9}:)?[0-9-]{0,6}:?[0-9-]{0,6}(/[a-z]{0,4})?") {
            match text.parse::<PublishSpec>() {
                Ok(spec) => prop_assert!(spec.ports().all(|(port, _)| port > 0)),
                Err(error) => prop_assert!(error.to_string().ends_with(')'), "{}", error),
            }
        }

        #[test]
        fn every_container_port_gets_a_host_port_of_its_range(spec in any_spec()) {
            for (port, from) in spec.ports().take(100) {
                prop_assert!(spec.container().contains(port));
                match (from, spec.host()) {
                    (HostPort::Automatic, host) => prop_assert_eq!(host, None),
                    (HostPort::Exactly(host_port), Some(host)) => prop_assert!(host.contains(host_port)),
                    (HostPort::OneOf(choice), host) => prop_assert_eq!(Some(choice), host),
                    (HostPort::Exactly(_), None) => prop_assert!(false, "a host port of nowhere"),
                }
            }
        }
    }
}
