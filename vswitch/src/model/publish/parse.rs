//! Parser of `[HOSTIP:][HOSTPORT[-END]:]PORT[-END][/PROTOCOL]`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::range::{self, InvalidPortRange};
use super::{PortRange, Protocol, PublishSpec};

/// A text that is not a valid `-p` value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPublish {
    /// No container port.
    #[error("no port specified: `{0}` (give at least the container port, as in 8080:80)")]
    NoPort(String),
    /// Wrong number of parts.
    #[error("invalid publish opts format: `{0}` (use [HOSTIP:][HOSTPORT:]PORT[/tcp|udp|sctp])")]
    Format(String),
    /// Not an IP address.
    #[error("invalid IP address: `{0}` (an address of this host, as in 127.0.0.1:8080:80 or [2001:db8::1]:8080:80)")]
    Address(String),
    /// An IPv6 address without brackets, whose end is ambiguous.
    #[error("invalid IP address: `{0}` (write an IPv6 address in brackets, as in [2001:db8::1]:8080:80)")]
    Brackets(String),
    /// The loopback address of IPv6.
    #[error(
        "no port can be published at ::1: the kernel does not translate this address (use 127.0.0.1, which localhost \
         stands for, too)"
    )]
    Loopback,
    /// A link-local address.
    #[error(
        "no port can be published at {0}: a link-local address is none of the host's without its interface (use a \
         global address, or none for all)"
    )]
    LinkLocal(Ipv6Addr),
    /// Not a container port.
    #[error("invalid containerPort: {0} (a port from 1 to 65535, or a range as in 8000-8010)")]
    ContainerPort(String),
    /// Not a host port.
    #[error("invalid hostPort: {0} (a port from 1 to 65535, a range as in 8000-8010, or none to have one chosen)")]
    HostPort(String),
    /// The last port is below the first.
    #[error("invalid port range: {0} (the first port must not be above the last)")]
    Backwards(String),
    /// The numbers of host ports and container ports differ.
    #[error(
        "invalid ranges specified for container and host Ports: {container} and {host} (give as many host ports as \
         container ports, or a single container port)"
    )]
    Ranges {
        /// Container ports.
        container: PortRange,
        /// Host ports.
        host: PortRange,
    },
    /// Not a protocol with ports.
    #[error("invalid proto: {0} (tcp, udp or sctp)")]
    Protocol(String),
}

/// Parses a `-p` value.
pub(super) fn parse_spec(text: &str) -> Result<PublishSpec, InvalidPublish> {
    let (ports, protocol) = match text.split_once('/') {
        // As in Docker, an empty protocol means the default.
        None | Some((_, "")) => (text.trim_end_matches('/'), Protocol::Tcp),
        Some((ports, protocol)) => (ports, protocol.parse()?),
    };
    let (host_ip, ports) = match ports.strip_prefix('[') {
        Some(rest) => {
            let invalid_format = || InvalidPublish::Format(text.to_owned());
            let (address, rest) = rest.split_once(']').ok_or_else(invalid_format)?;
            let invalid = |_| InvalidPublish::Address(address.to_owned());
            (
                Some(IpAddr::V6(address.parse::<Ipv6Addr>().map_err(invalid)?)),
                rest.strip_prefix(':').ok_or_else(invalid_format)?,
            )
        }
        None => (None, ports),
    };
    let parts: Vec<_> = ports.split(':').collect();
    let (host_ip, host, container) = match (host_ip, &parts[..]) {
        (None, [container]) => (None, "", *container),
        (Some(_), [host, container]) => (host_ip, *host, *container),
        (None, [host, container]) => (None, *host, *container),
        (None, ["", host, container]) => (None, *host, *container),
        (None, [address, host, container]) => (Some(IpAddr::V4(parse_ipv4(address)?)), *host, *container),
        (None, [address @ .., _, _]) if address.len() > 1 && address.contains(&"") => {
            return Err(InvalidPublish::Brackets(ports.to_owned()));
        }
        (None, parts) if parts.len() > 8 => return Err(InvalidPublish::Brackets(ports.to_owned())),
        _ => return Err(InvalidPublish::Format(text.to_owned())),
    };
    if container.is_empty() {
        return Err(InvalidPublish::NoPort(text.to_owned()));
    }
    let container = parse_range(container, InvalidPublish::ContainerPort)?;
    let host = match host {
        "" => None,
        // Port 0 means "any free port", as in bind(2).
        zero if range::parse_port(zero) == Some(0) => None,
        host => Some(parse_range(host, InvalidPublish::HostPort)?),
    };
    PublishSpec::new(host_ip, host, container, protocol)
}

fn parse_ipv4(text: &str) -> Result<Ipv4Addr, InvalidPublish> {
    text.parse().map_err(|_| InvalidPublish::Address(text.to_owned()))
}

fn parse_range(text: &str, invalid: fn(String) -> InvalidPublish) -> Result<PortRange, InvalidPublish> {
    text.parse().map_err(|error| match error {
        InvalidPortRange::Syntax(text) => invalid(text),
        InvalidPortRange::Backwards { .. } => InvalidPublish::Backwards(text.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_parsed(text: &str, displayed: &str) {
        assert_eq!(parse_spec(text).map(|spec| spec.to_string()).as_deref(), Ok(displayed), "{text}");
    }

    #[track_caller]
    fn assert_error(text: &str, start: &str) {
        let error = parse_spec(text).expect_err(text).to_string();
        assert!(error.starts_with(start), "{text}: {error}");
        assert!(error.ends_with(')'), "the error must say what to do: {error}");
    }

    #[test]
    fn everything_that_docker_accepts_is_parsed() {
        assert_parsed("80", "80/tcp");
        assert_parsed("80/udp", "80/udp");
        assert_parsed("80/SCTP", "80/sctp");
        assert_parsed("80/", "80/tcp");
        assert_parsed(":80", "80/tcp");
        assert_parsed("0:80", "80/tcp");
        assert_parsed("8080:80", "8080:80/tcp");
        assert_parsed("::80", "80/tcp");
        assert_parsed("8080-8090:80", "8080-8090:80/tcp");
        assert_parsed("8080-8082:80-82/udp", "8080-8082:80-82/udp");
        assert_parsed("80-82", "80-82/tcp");
        assert_parsed("127.0.0.1:8080:80", "127.0.0.1:8080:80/tcp");
        assert_parsed("127.0.0.1::80", "127.0.0.1::80/tcp");
        assert_parsed("0.0.0.0:8080:80", "0.0.0.0:8080:80/tcp");
        assert_parsed("[fd00::1]:8080:80", "[fd00::1]:8080:80/tcp");
        assert_parsed("[fd00::1]::80/udp", "[fd00::1]::80/udp");
        assert_parsed("[::]:8080:80", "[::]:8080:80/tcp");
        assert_parsed("[::ffff:127.0.0.1]:8080:80", "127.0.0.1:8080:80/tcp");
        assert_parsed("[2001:db8::1]:8080-8081:80-81", "[2001:db8::1]:8080-8081:80-81/tcp");
        assert_parsed("[::ffff:10.0.0.1]:8080:80", "10.0.0.1:8080:80/tcp");
    }

    #[test]
    fn addresses_that_nothing_reaches_are_refused() {
        for text in ["[::1]:8085:80", "[::1]::80/udp", "[0:0::1]:8085-8086:80-81"] {
            assert_error(text, "no port can be published at ::1: ");
        }
        for text in ["[fe80::1]:8085:80", "[febf::1]::80"] {
            assert_error(text, "no port can be published at fe");
        }
    }

    #[test]
    fn errors_start_as_in_docker() {
        assert_error("", "no port specified: `` (");
        assert_error("8080:", "no port specified: `8080:` (");
        assert_error("/udp", "no port specified: `/udp` (");
        assert_error("a", "invalid containerPort: a (");
        assert_error("0", "invalid containerPort: 0 (");
        assert_error("80:0", "invalid containerPort: 0 (");
        assert_error("80:65536", "invalid containerPort: 65536 (");
        assert_error("80:+80", "invalid containerPort: +80 (");
        assert_error("80:80-", "invalid containerPort: 80- (");
        assert_error("x:80", "invalid hostPort: x (");
        assert_error("0-10:80", "invalid hostPort: 0-10 (");
        assert_error("65536:80", "invalid hostPort: 65536 (");
        assert_error("8082-8080:80", "invalid port range: 8082-8080 (");
        assert_error("82-80", "invalid port range: 82-80 (");
        assert_error("8080-8081:80-82", "invalid ranges specified for container and host Ports: 80-82 and 8080-8081 (");
        assert_error("8080:80-82", "invalid ranges specified for container and host Ports: 80-82 and 8080 (");
        assert_error("80/tcpx", "invalid proto: tcpx (");
        assert_error("80/tcp/udp", "invalid proto: tcp/udp (");
        assert_error("localhost:8080:80", "invalid IP address: `localhost` (");
        assert_error("127.0.0.300:8080:80", "invalid IP address: `127.0.0.300` (");
        assert_error("[::g]:8080:80", "invalid IP address: `::g` (");
        assert_error("[fe80::1%eth0]:8080:80", "invalid IP address: `fe80::1%eth0` (");
        assert_error("[127.0.0.1]:8080:80", "invalid IP address: `127.0.0.1` (");
        assert_error("::1:8080:80", "invalid IP address: `::1:8080:80` (write an IPv6 address in brackets");
        assert_error("1:2:3:4", "invalid publish opts format: `1:2:3:4` (");
        assert_error("[::1]:80", "invalid publish opts format: `[::1]:80` (");
        assert_error("[::1", "invalid publish opts format: `[::1` (");
        assert_error("[::1]8080:80", "invalid publish opts format: ");
    }
}
