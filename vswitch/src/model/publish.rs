//! Published ports as given with `-p`: Docker's syntax and error messages.

mod parse;
mod range;

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use parse::InvalidPublish;
pub use range::{InvalidPortRange, PortRange};

/// Transport protocol of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP, the default.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// A `-p` value: container ports and the host ports that lead to them. Either as many host ports as
/// container ports, or a range to choose from for a single container port, or none, so that vswitch
/// chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublishSpec {
    host_ip: Option<IpAddr>,
    host: Option<PortRange>,
    container: PortRange,
    protocol: Protocol,
}

/// Choice of the host port for one container port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostPort {
    /// Any free port.
    Automatic,
    /// This port.
    Exactly(u16),
    /// Any free port of this range.
    OneOf(PortRange),
}

/// One published port, with its final host port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Published {
    /// Protocol.
    pub protocol: Protocol,
    /// Host address: `None` for all addresses, IPv4 and IPv6. An unspecified address stands for all
    /// addresses of its family.
    #[schema(value_type = Option<String>)]
    pub host_ip: Option<IpAddr>,
    /// Host port.
    pub host_port: u16,
    /// Container port.
    pub container_port: u16,
}

impl Protocol {
    /// All protocols.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// Returns the name in lower case.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    /// Returns the protocol number in the IP header.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl PublishSpec {
    /// Creates a value from its parts.
    ///
    /// # Errors
    /// [`InvalidPublish::Ranges`] for several container ports and a different number of host ports,
    /// [`InvalidPublish::Loopback`] or [`InvalidPublish::LinkLocal`] for an IPv6 address at which
    /// nothing reaches a port.
    pub fn new(
        host_ip: Option<IpAddr>,
        host: Option<PortRange>,
        container: PortRange,
        protocol: Protocol,
    ) -> Result<Self, InvalidPublish> {
        // An IPv4-mapped IPv6 address means the IPv4 address.
        let host_ip = host_ip.map(|address| address.to_canonical());
        match host_ip {
            Some(IpAddr::V6(Ipv6Addr::LOCALHOST)) => return Err(InvalidPublish::Loopback),
            Some(IpAddr::V6(address)) if address.is_unicast_link_local() => {
                return Err(InvalidPublish::LinkLocal(address));
            }
            _ => {}
        }
        match host {
            Some(host) if container.count() > 1 && container.count() != host.count() => {
                Err(InvalidPublish::Ranges { container, host })
            }
            _ => Ok(Self { host_ip, host, container, protocol }),
        }
    }

    /// Returns the value with this host address if it has none.
    #[must_use]
    pub fn with_default_host_ip(self, host_ip: Option<IpAddr>) -> Self {
        Self { host_ip: self.host_ip.or(host_ip), ..self }
    }

    /// Returns the host address; `None` for all addresses.
    pub const fn host_ip(&self) -> Option<IpAddr> {
        self.host_ip
    }

    /// Returns the host ports; `None` if vswitch chooses.
    pub const fn host(&self) -> Option<PortRange> {
        self.host
    }

    /// Returns the container ports.
    pub const fn container(&self) -> PortRange {
        self.container
    }

    /// Returns the protocol.
    pub const fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Iterates over the container ports, each with the choice of its host port.
    pub fn ports(&self) -> impl Iterator<Item = (u16, HostPort)> + use<> {
        let (host, container) = (self.host, self.container);
        container.ports().map(move |port| {
            let choice = match host {
                None => HostPort::Automatic,
                Some(host) if host.count() == container.count() => {
                    HostPort::Exactly(host.first() + (port - container.first()))
                }
                Some(host) => HostPort::OneOf(host),
            };
            (port, choice)
        })
    }
}

impl Published {
    /// Reports whether both match the same packets.
    pub fn collides(&self, other: &Self) -> bool {
        let covers_family = |one: IpAddr, other: IpAddr| one.is_unspecified() && one.is_ipv4() == other.is_ipv4();
        let same_address = match (self.host_ip, other.host_ip) {
            (None, _) | (_, None) => true,
            (Some(one), Some(other)) => one == other || covers_family(one, other) || covers_family(other, one),
        };
        same_address && (self.protocol, self.host_port) == (other.protocol, other.host_port)
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
        parse::parse_spec(text)
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

/// Formats the port as `docker port` and `docker ps` do: `0.0.0.0:8080->80/tcp`, without the
/// address if it is `None`.
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
    fn each_container_port_has_its_choice_of_host_port() {
        let ports = |text| spec(text).ports().collect::<Vec<_>>();
        assert_eq!(ports("80"), [(80, HostPort::Automatic)]);
        assert_eq!(ports("80-81"), [(80, HostPort::Automatic), (81, HostPort::Automatic)]);
        assert_eq!(ports("8080:80"), [(80, HostPort::Exactly(8080))]);
        assert_eq!(ports("8080-8081:80-81"), [(80, HostPort::Exactly(8080)), (81, HostPort::Exactly(8081))]);
        assert_eq!(ports("8080-8089:80"), [(80, HostPort::OneOf(range(8080, 8089)))]);
        assert_eq!(ports("65534-65535:65534-65535").len(), 2);
    }

    #[test]
    fn a_published_port_is_displayed_as_in_docker() {
        let published = |host_ip: Option<&str>| {
            let host_ip = host_ip.map(|address| address.parse().expect("an address"));
            Published { protocol: Protocol::Udp, host_ip, host_port: 53, container_port: 5353 }.to_string()
        };
        assert_eq!(published(None), "53->5353/udp");
        assert_eq!(published(Some("0.0.0.0")), "0.0.0.0:53->5353/udp");
        assert_eq!(published(Some("fd00::1")), "[fd00::1]:53->5353/udp");
    }

    #[test]
    fn json_has_the_text_of_the_option() {
        assert_eq!(serde_json::to_value(spec("[fd00::1]:8080:80/UDP")).unwrap(), "[fd00::1]:8080:80/udp");
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
        let reached = |address: &IpAddr| match address {
            IpAddr::V4(_) => true,
            IpAddr::V6(address) => !address.is_loopback() && !address.is_unicast_link_local(),
        };
        let address = prop::option::of(any::<IpAddr>().prop_filter("nothing reaches the address", reached));
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
        fn parsing_a_displayed_value_returns_the_value(spec in any_spec()) {
            prop_assert_eq!(spec.to_string().parse::<PublishSpec>(), Ok(spec));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC*") {
            let _any = text.parse::<PublishSpec>();
        }

        #[test]
        fn similar_texts_are_valid_or_refused_with_a_hint(text in "(\\[[:0-9a-f]{0,6}\\]:|[0-9.]{0,9}:)?[0-9-]{0,6}:?[0-9-]{0,6}(/[a-z]{0,4})?") {
            match text.parse::<PublishSpec>() {
                Ok(spec) => prop_assert!(spec.ports().all(|(port, _)| port > 0)),
                Err(error) => prop_assert!(error.to_string().ends_with(')'), "{}", error),
            }
        }

        #[test]
        fn host_ports_are_in_the_host_range(spec in any_spec()) {
            for (port, choice) in spec.ports().take(100) {
                prop_assert!(spec.container().contains(port));
                match (choice, spec.host()) {
                    (HostPort::Automatic, host) => prop_assert_eq!(host, None),
                    (HostPort::Exactly(host_port), Some(host)) => prop_assert!(host.contains(host_port)),
                    (HostPort::OneOf(choice), host) => prop_assert_eq!(Some(choice), host),
                    (HostPort::Exactly(_), None) => prop_assert!(false, "an exact host port without a host range"),
                }
            }
        }
    }
}
