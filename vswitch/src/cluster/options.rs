//! Addresses of etcd and credentials of this host.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Scheme of the `--cluster` option.
const SCHEME: &str = "etcd://";
/// Default port of etcd for clients.
const DEFAULT_PORT: u16 = 2379;
/// Default prefix of all keys.
const DEFAULT_PREFIX: &str = "/vswitch";
/// Default lease in seconds: the time after which a silent host loses its claims.
const DEFAULT_LEASE: u64 = 15;
/// Shortest lease in seconds. etcd grants none that is much shorter, and three keep-alives must fit
/// into it.
const SHORTEST_LEASE: u64 = 2;
/// Longest lease in seconds.
const LONGEST_LEASE: u64 = 3600;

/// Invalid options for etcd.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOptions {
    /// The scheme is missing or is another one.
    #[error("invalid cluster `{0}` (as in etcd://10.0.0.1:2379,10.0.0.2:2379)")]
    Scheme(String),
    /// The address is not a host with an optional port.
    #[error("invalid address `{address}` of etcd in `{url}` (HOST, HOST:PORT or [IPV6]:PORT, separated by commas)")]
    Address {
        /// The invalid address.
        address: String,
        /// The URL that contains it.
        url: String,
    },
    /// The URL contains a user. Command lines are visible to all users of the machine, so a
    /// password must not stand there.
    #[error(
        "the URL of etcd contains a user, which the process list shows to all users (use --cluster-user, and give the password in a file with --cluster-password-file)"
    )]
    UserInfo,
    /// A certificate without its key, or a key without its certificate. Holds the missing one.
    #[error("a client certificate for etcd needs a certificate file and a key file: {0} is missing")]
    HalfIdentity(&'static str),
    /// The prefix is not a path.
    #[error("invalid key prefix `{0}` (as in /vswitch: begins with `/`, does not end with one, no blanks)")]
    Prefix(String),
    /// The lease is too short or too long.
    #[error("a lease of {0} s is out of range (from {SHORTEST_LEASE} to {LONGEST_LEASE} s)")]
    Lease(u64),
}

/// Address of one member of etcd.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EtcdAddress {
    /// A name, an IPv4 address, or an IPv6 address in brackets.
    host: String,
    port: u16,
}

impl FromStr for EtcdAddress {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (host, port) = match text.rfind(']') {
            Some(end) => text.split_at(end + 1),
            None => text.find(':').map_or((text, ""), |colon| text.split_at(colon)),
        };
        let port = match port.strip_prefix(':') {
            Some(digits) if digits.bytes().all(|digit| digit.is_ascii_digit()) => digits.parse().map_err(drop)?,
            None if port.is_empty() => DEFAULT_PORT,
            _ => return Err(()),
        };
        let is_valid = match host.strip_prefix('[') {
            Some(address) => address.strip_suffix(']').is_some_and(|address| address.parse::<Ipv6Addr>().is_ok()),
            None => {
                !host.is_empty() && host.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_'))
            }
        };
        if is_valid && port != 0 { Ok(Self { host: host.to_owned(), port }) } else { Err(()) }
    }
}

impl fmt::Display for EtcdAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Client certificate of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// PEM file with the certificate and its intermediate certificates.
    pub certificate: PathBuf,
    /// PEM file with the private key.
    pub key: PathBuf,
}

/// User of etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// User name.
    pub name: String,
    /// File with the password. Line ends after the password are ignored.
    pub password: PathBuf,
}

/// Addresses of etcd and credentials of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    addresses: Vec<EtcdAddress>,
    authority: Option<PathBuf>,
    identity: Option<Identity>,
    user: Option<User>,
    prefix: String,
    lease: Duration,
}

impl Options {
    /// Parses the value of `--cluster`: `etcd://HOST[:PORT][,HOST[:PORT]]...`. All other options
    /// have their defaults.
    ///
    /// # Errors
    /// [`InvalidOptions::Scheme`], [`InvalidOptions::UserInfo`] or [`InvalidOptions::Address`].
    pub fn parse(url: &str) -> Result<Self, InvalidOptions> {
        let list = url.strip_prefix(SCHEME).ok_or_else(|| InvalidOptions::Scheme(url.to_owned()))?;
        if list.contains('@') {
            return Err(InvalidOptions::UserInfo);
        }
        let mut addresses = Vec::new();
        for text in list.split(',') {
            let invalid = |()| InvalidOptions::Address { address: text.to_owned(), url: url.to_owned() };
            let address = text.parse().map_err(invalid)?;
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        Ok(Self {
            addresses,
            authority: None,
            identity: None,
            user: None,
            prefix: DEFAULT_PREFIX.to_owned(),
            lease: Duration::from_secs(DEFAULT_LEASE),
        })
    }

    /// Sets the files for TLS. TLS is used if any is given. `authority` holds the CA certificates
    /// for etcd's certificates; without it, those of the system are used. `certificate` and `key`
    /// identify this host.
    ///
    /// # Errors
    /// [`InvalidOptions::HalfIdentity`].
    pub fn with_tls(
        mut self,
        authority: Option<PathBuf>,
        certificate: Option<PathBuf>,
        key: Option<PathBuf>,
    ) -> Result<Self, InvalidOptions> {
        self.authority = authority;
        self.identity = match (certificate, key) {
            (Some(certificate), Some(key)) => Some(Identity { certificate, key }),
            (None, None) => None,
            (Some(_), None) => return Err(InvalidOptions::HalfIdentity("the key")),
            (None, Some(_)) => return Err(InvalidOptions::HalfIdentity("the certificate")),
        };
        Ok(self)
    }

    /// Sets the user of etcd and the file with its password.
    #[must_use]
    pub fn with_user(mut self, name: String, password: PathBuf) -> Self {
        self.user = Some(User { name, password });
        self
    }

    /// Sets the prefix of all keys instead of `/vswitch`, so that several clusters can share one
    /// etcd.
    ///
    /// # Errors
    /// [`InvalidOptions::Prefix`].
    pub fn with_prefix(mut self, prefix: &str) -> Result<Self, InvalidOptions> {
        let is_part = |part: &str| !part.is_empty() && part.bytes().all(|c| c.is_ascii_graphic());
        if !prefix.strip_prefix('/').is_some_and(|path| path.split('/').all(is_part)) {
            return Err(InvalidOptions::Prefix(prefix.to_owned()));
        }
        self.prefix = prefix.to_owned();
        Ok(self)
    }

    /// Sets the lease instead of 15 s: the time after which a silent host loses its endpoints and
    /// addresses.
    ///
    /// # Errors
    /// [`InvalidOptions::Lease`].
    pub fn with_lease(mut self, seconds: u64) -> Result<Self, InvalidOptions> {
        if !(SHORTEST_LEASE..=LONGEST_LEASE).contains(&seconds) {
            return Err(InvalidOptions::Lease(seconds));
        }
        self.lease = Duration::from_secs(seconds);
        Ok(self)
    }

    /// Returns the URLs of etcd's members.
    pub fn urls(&self) -> Vec<String> {
        let scheme = if self.uses_tls() { "https" } else { "http" };
        self.addresses.iter().map(|address| format!("{scheme}://{address}")).collect()
    }

    /// Reports whether the connection uses TLS.
    pub fn uses_tls(&self) -> bool {
        self.authority.is_some() || self.identity.is_some()
    }

    /// Returns the file with the CA certificates for etcd.
    pub fn authority(&self) -> Option<&PathBuf> {
        self.authority.as_ref()
    }

    /// Returns the client certificate of this host.
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// Returns the user of etcd.
    pub fn user(&self) -> Option<&User> {
        self.user.as_ref()
    }

    /// Returns the prefix of all keys.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Returns the time after which a silent host loses its claims.
    pub fn lease(&self) -> Duration {
        self.lease
    }
}

/// The addresses, as error messages show them.
impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses: Vec<_> = self.addresses.iter().map(EtcdAddress::to_string).collect();
        f.write_str(&addresses.join(","))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_without_a_port_get_the_default_port() {
        let options =
            Options::parse("etcd://10.0.0.1,etcd-2.example:4001,[::1]:2380,[fd00::2],10.0.0.1:2379").expect("valid");
        assert_eq!(options.to_string(), "10.0.0.1:2379,etcd-2.example:4001,[::1]:2380,[fd00::2]:2379");
        assert_eq!(options.urls()[2], "http://[::1]:2380");
        let tls = options.with_tls(Some("ca.pem".into()), None, None).expect("valid");
        assert_eq!(tls.urls()[0], "https://10.0.0.1:2379");
    }

    #[test]
    fn the_invalid_address_is_in_the_error() {
        for bad in [
            "", ",a", "a,", "a:", "a:0", "a:65536", "a:+1", "a:x", "::1", "[::1", "[::1]x", "[a]:1", "a b", "a/b",
            "[]:1",
        ] {
            let url = format!("etcd://{bad}");
            let Err(InvalidOptions::Address { address, .. }) = Options::parse(&url) else { panic!("{bad}") };
            assert!(bad.contains(&address), "{bad}: {address}");
        }
        assert_eq!(Options::parse("http://a:1"), Err(InvalidOptions::Scheme("http://a:1".to_owned())));
        assert_eq!(Options::parse("etcd://root:secret@a:1"), Err(InvalidOptions::UserInfo));
    }

    #[test]
    fn invalid_options_are_refused() {
        let options = Options::parse("etcd://a").expect("valid");
        let half = options.clone().with_tls(None, Some("cert.pem".into()), None);
        assert_eq!(half, Err(InvalidOptions::HalfIdentity("the key")));
        let half = options.clone().with_tls(None, None, Some("key.pem".into()));
        assert_eq!(half, Err(InvalidOptions::HalfIdentity("the certificate")));
        for bad in ["", "/", "vswitch", "/vswitch/", "//a", "/a b", "/ä"] {
            assert_eq!(options.clone().with_prefix(bad), Err(InvalidOptions::Prefix(bad.to_owned())));
        }
        for bad in [0, 1, 3601] {
            assert_eq!(options.clone().with_lease(bad), Err(InvalidOptions::Lease(bad)));
        }
        assert_eq!(options.lease(), Duration::from_secs(15));
        assert_eq!(options.prefix(), "/vswitch");
    }

    proptest! {
        #[test]
        fn parsed_options_are_displayed_as_valid_options(text in "(etcd://)?[a-z0-9:,.\\[\\]@/ -]{0,40}") {
            if let Ok(options) = Options::parse(&text) {
                prop_assert_eq!(Options::parse(&format!("etcd://{options}")), Ok(options));
            }
        }
    }
}
