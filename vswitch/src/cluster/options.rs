//! Where etcd is, and how this host makes itself known there.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// What an address of etcd begins with.
const SCHEME: &str = "etcd://";
/// The port of etcd's clients.
const DEFAULT_PORT: u16 = 2379;
/// What all keys begin with.
const DEFAULT_PREFIX: &str = "/vswitch";
/// How long a host that is silent keeps what it has, in seconds.
const DEFAULT_LEASE: u64 = 15;
/// The shortest lease, in seconds: etcd gives none much shorter, and three signs of life have to fit in.
const SHORTEST_LEASE: u64 = 2;
/// The longest lease, in seconds.
const LONGEST_LEASE: u64 = 3600;

/// Options that no cluster can be reached with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOptions {
    /// Another scheme, or none.
    #[error("invalid cluster `{0}` (as in etcd://10.0.0.1:2379,10.0.0.2:2379)")]
    Scheme(String),
    /// Not a host with a port.
    #[error("invalid address `{address}` of etcd in `{url}` (HOST, HOST:PORT or [IPV6]:PORT, separated by commas)")]
    Address {
        /// The address.
        address: String,
        /// What it is part of.
        url: String,
    },
    /// A password where everybody sees it.
    #[error(
        "the addresses of etcd hold a user, which everybody sees in the list of processes (give the user apart, and the password in a file)"
    )]
    UserInfo,
    /// A certificate without its key, or a key without its certificate.
    #[error("a client certificate for etcd needs both its file and that of its key, and {0} is missing")]
    HalfIdentity(&'static str),
    /// A prefix that is no path.
    #[error("invalid key prefix `{0}` (as in /vswitch: begins with `/`, does not end with one, no blanks)")]
    Prefix(String),
    /// A lease that is too short or too long.
    #[error("a lease of {0} s is out of range (from {SHORTEST_LEASE} to {LONGEST_LEASE} s)")]
    Lease(u64),
}

/// One member of the etcd cluster.
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

/// The certificate that this host shows to etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The file with the certificate, and those between it and the authority; PEM.
    pub certificate: PathBuf,
    /// The file with its private key; PEM.
    pub key: PathBuf,
}

/// Who this host is to etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The name.
    pub name: String,
    /// The file with the password; a line end after it is not part of it.
    pub password: PathBuf,
}

/// Where etcd is, and how this host makes itself known there.
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
    /// The options that `--cluster` gives, `etcd://HOST[:PORT][,HOST[:PORT]]...`; all else as it is by default.
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

    /// With TLS, where either is given: `authority` is the file with the certificates that etcd's are signed by (the
    /// system's if it is left out), `certificate` and `key` are those of this host.
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

    /// As a user of etcd's.
    #[must_use]
    pub fn with_user(mut self, name: String, password: PathBuf) -> Self {
        self.user = Some(User { name, password });
        self
    }

    /// With another key prefix than `/vswitch`: several clusters can share an etcd.
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

    /// With another lease than 15 s: how long a host that is silent keeps its endpoints and addresses.
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

    /// Where etcd's members are, as URLs.
    pub fn urls(&self) -> Vec<String> {
        let scheme = if self.uses_tls() { "https" } else { "http" };
        self.addresses.iter().map(|address| format!("{scheme}://{address}")).collect()
    }

    /// Whether TLS is spoken.
    pub fn uses_tls(&self) -> bool {
        self.authority.is_some() || self.identity.is_some()
    }

    /// The file with the certificates that etcd's are signed by.
    pub fn authority(&self) -> Option<&PathBuf> {
        self.authority.as_ref()
    }

    /// The certificate of this host.
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// The user that this host is.
    pub fn user(&self) -> Option<&User> {
        self.user.as_ref()
    }

    /// What all keys begin with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// How long a host that is silent keeps what it has.
    pub fn lease(&self) -> Duration {
        self.lease
    }
}

/// The addresses, as errors name them.
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
    fn addresses_have_the_default_port_unless_they_have_one() {
        let options =
            Options::parse("etcd://10.0.0.1,etcd-2.example:4001,[::1]:2380,[fd00::2],10.0.0.1:2379").expect("valid");
        assert_eq!(options.to_string(), "10.0.0.1:2379,etcd-2.example:4001,[::1]:2380,[fd00::2]:2379");
        assert_eq!(options.urls()[2], "http://[::1]:2380");
        let tls = options.with_tls(Some("ca.pem".into()), None, None).expect("valid");
        assert_eq!(tls.urls()[0], "https://10.0.0.1:2379");
    }

    #[test]
    fn what_is_no_address_is_named() {
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
    fn options_that_cannot_be_are_refused() {
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
        fn anything_is_parsed_or_refused(text in "(etcd://)?[a-z0-9:,.\\[\\]@/ -]{0,40}") {
            if let Ok(options) = Options::parse(&text) {
                prop_assert_eq!(Options::parse(&format!("etcd://{options}")), Ok(options));
            }
        }
    }
}
