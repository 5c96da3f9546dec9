//! Reads `[HOSTIP:][HOSTPORT[-END]:]PORT[-END][/PROTOCOL]`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::range::{self, InvalidPortRange};
use super::{PortRange, Protocol, PublishSpec};

/// What is no `-p`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPublish {
    /// No container port.
    #[error("no port specified: `{0}` (name at least the container's port, as in 8080:80)")]
    NoPort(String),
    /// More parts than there can be.
    #[error("invalid publish opts format: `{0}` (it is [HOSTIP:][HOSTPORT:]PORT[/tcp|udp|sctp])")]
    Format(String),
    /// No address.
    #[error("invalid IP address: `{0}` (an address of this host, as in 127.0.0.1:8080:80 or [::1]:8080:80)")]
    Address(String),
    /// An IPv6 address whose end cannot be told.
    #[error("invalid IP address: `{0}` (write an IPv6 address in brackets, as in [::1]:8080:80)")]
    Brackets(String),
    /// No container port.
    #[error("invalid containerPort: {0} (a port from 1 to 65535, or a range as in 8000-8010)")]
    ContainerPort(String),
    /// No host port.
    #[error("invalid hostPort: {0} (a port from 1 to 65535, a range as in 8000-8010, or none to have one chosen)")]
    HostPort(String),
    /// A range that ends before it begins.
    #[error("invalid port range: {0} (the first port must not be above the last)")]
    Backwards(String),
    /// Another number of host ports than of container ports.
    #[error(
        "invalid ranges specified for container and host Ports: {container} and {host} (give as many host ports as \
         container ports, or a single container port)"
    )]
    Ranges {
        /// The container's.
        container: PortRange,
        /// The host's.
        host: PortRange,
    },
    /// No protocol that has ports.
    #[error("invalid proto: {0} (tcp, udp or sctp)")]
    Protocol(String),
}

/// Reads one.
pub(super) fn spec(text: &str) -> Result<PublishSpec, InvalidPublish> {
    let (ports, protocol) = match text.split_once('/') {
        // As Docker reads it: nothing behind the slash is nothing said.
        None | Some((_, "")) => (text.trim_end_matches('/'), Protocol::Tcp),
        Some((ports, protocol)) => (ports, protocol.parse()?),
    };
    let (host_ip, ports) = match ports.strip_prefix('[') {
        Some(rest) => {
            let format = || InvalidPublish::Format(text.to_owned());
            let (address, rest) = rest.split_once(']').ok_or_else(format)?;
            let invalid = |_| InvalidPublish::Address(address.to_owned());
            (
                Some(IpAddr::V6(address.parse::<Ipv6Addr>().map_err(invalid)?)),
                rest.strip_prefix(':').ok_or_else(format)?,
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
        (None, [address, host, container]) => (Some(IpAddr::V4(ipv4(address)?)), *host, *container),
        (None, [address @ .., _, _]) if address.len() > 1 && address.contains(&"") => {
            return Err(InvalidPublish::Brackets(ports.to_owned()));
        }
        (None, parts) if parts.len() > 8 => return Err(InvalidPublish::Brackets(ports.to_owned())),
        _ => return Err(InvalidPublish::Format(text.to_owned())),
    };
    if container.is_empty() {
        return Err(InvalidPublish::NoPort(text.to_owned()));
    }
    let container = ports_of(container, InvalidPublish::ContainerPort)?;
    let host = match host {
        "" => None,
        // The kernel's way of saying it.
        zero if range::port(zero) == Some(0) => None,
        host => Some(ports_of(host, InvalidPublish::HostPort)?),
    };
    PublishSpec::new(host_ip, host, container, protocol)
}

fn ipv4(text: &str) -> Result<Ipv4Addr, InvalidPublish> {
    text.parse().map_err(|_| InvalidPublish::Address(text.to_owned()))
}

fn ports_of(text: &str, invalid: fn(String) -> InvalidPublish) -> Result<PortRange, InvalidPublish> {
    text.parse().map_err(|error| match error {
        InvalidPortRange::Syntax(text) => invalid(text),
        InvalidPortRange::Backwards { .. } => InvalidPublish::Backwards(text.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn reads(text: &str, as_text: &str) {
        assert_eq!(spec(text).map(|spec| spec.to_string()).as_deref(), Ok(as_text), "{text}");
    }

    #[track_caller]
    fn says(text: &str, words: &str) {
        let error = spec(text).expect_err(text).to_string();
        assert!(error.starts_with(words), "{text}: {error}");
        assert!(error.ends_with(')'), "it does not say what to do: {error}");
    }

    #[test]
    fn everything_that_docker_takes_is_read() {
        reads("80", "80/tcp");
        reads("80/udp", "80/udp");
        reads("80/SCTP", "80/sctp");
        reads("80/", "80/tcp");
        reads(":80", "80/tcp");
        reads("0:80", "80/tcp");
        reads("8080:80", "8080:80/tcp");
        reads("::80", "80/tcp");
        reads("8080-8090:80", "8080-8090:80/tcp");
        reads("8080-8082:80-82/udp", "8080-8082:80-82/udp");
        reads("80-82", "80-82/tcp");
        reads("127.0.0.1:8080:80", "127.0.0.1:8080:80/tcp");
        reads("127.0.0.1::80", "127.0.0.1::80/tcp");
        reads("0.0.0.0:8080:80", "0.0.0.0:8080:80/tcp");
        reads("[::1]:8080:80", "[::1]:8080:80/tcp");
        reads("[::1]::80/udp", "[::1]::80/udp");
        reads("[2001:db8::1]:8080-8081:80-81", "[2001:db8::1]:8080-8081:80-81/tcp");
        reads("[::ffff:10.0.0.1]:8080:80", "10.0.0.1:8080:80/tcp");
    }

    #[test]
    fn errors_are_in_dockers_words() {
        says("", "no port specified: `` (");
        says("8080:", "no port specified: `8080:` (");
        says("/udp", "no port specified: `/udp` (");
        says("a", "invalid containerPort: a (");
        says("0", "invalid containerPort: 0 (");
        says("80:0", "invalid containerPort: 0 (");
        says("80:65536", "invalid containerPort: 65536 (");
        says("80:+80", "invalid containerPort: +80 (");
        says("80:80-", "invalid containerPort: 80- (");
        says("x:80", "invalid hostPort: x (");
        says("0-10:80", "invalid hostPort: 0-10 (");
        says("65536:80", "invalid hostPort: 65536 (");
        says("8082-8080:80", "invalid port range: 8082-8080 (");
        says("82-80", "invalid port range: 82-80 (");
        says("8080-8081:80-82", "invalid ranges specified for container and host Ports: 80-82 and 8080-8081 (");
        says("8080:80-82", "invalid ranges specified for container and host Ports: 80-82 and 8080 (");
        says("80/tcpx", "invalid proto: tcpx (");
        says("80/tcp/udp", "invalid proto: tcp/udp (");
        says("localhost:8080:80", "invalid IP address: `localhost` (");
        says("127.0.0.300:8080:80", "invalid IP address: `127.0.0.300` (");
        says("[::g]:8080:80", "invalid IP address: `::g` (");
        says("[fe80::1%eth0]:8080:80", "invalid IP address: `fe80::1%eth0` (");
        says("[127.0.0.1]:8080:80", "invalid IP address: `127.0.0.1` (");
        says("::1:8080:80", "invalid IP address: `::1:8080:80` (write an IPv6 address in brackets");
        says("1:2:3:4", "invalid publish opts format: `1:2:3:4` (");
        says("[::1]:80", "invalid publish opts format: `[::1]:80` (");
        says("[::1", "invalid publish opts format: `[::1` (");
        says("[::1]8080:80", "invalid publish opts format: ");
    }
}
