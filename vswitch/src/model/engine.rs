//! Endpoints that a container engine manages: their identity, and the interface that the engine
//! moves.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{InterfaceName, NetworkName, PublishSpec};

/// Maximum length in bytes of an owner and of a key.
const MAX_OWNER: usize = 32;
const MAX_KEY: usize = 512;

/// An engine's name for an endpoint. The pair is unique in an instance.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EngineKey {
    /// Name of the engine, such as `docker`.
    owner: String,
    /// Name of the endpoint, as the engine chose it.
    key: String,
}

/// An owner or a key that is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEngineKey {
    /// The owner is no short lower-case word.
    #[error("owner `{0}` is no name of an engine (give 1 to 32 lower-case letters, digits or `-`, such as docker)")]
    Owner(String),
    /// The key is missing, too long, or has characters that no terminal shows.
    #[error("key `{0}` is no name of an endpoint (give 1 to 512 printable characters without spaces)")]
    Key(String),
}

impl EngineKey {
    /// Returns the key of an engine's endpoint.
    ///
    /// # Errors
    /// One of the parts is no name.
    pub fn new(owner: &str, key: &str) -> Result<Self, InvalidEngineKey> {
        check_owner(owner)?;
        let printable =
            |text: &str| text.chars().all(|character| !character.is_control() && !character.is_whitespace());
        if key.is_empty() || key.len() > MAX_KEY || !printable(key) {
            return Err(InvalidEngineKey::Key(key.chars().take(80).collect::<String>().escape_debug().to_string()));
        }
        Ok(Self { owner: owner.to_owned(), key: key.to_owned() })
    }

    /// Returns the name of the engine.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// Returns the engine's name for the endpoint.
    pub fn key(&self) -> &str {
        &self.key
    }
}

/// Checks the name of an engine.
///
/// # Errors
/// [`InvalidEngineKey::Owner`].
pub fn check_owner(owner: &str) -> Result<(), InvalidEngineKey> {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if owner.is_empty() || owner.len() > MAX_OWNER || !owner.bytes().all(is_word) {
        return Err(InvalidEngineKey::Owner(owner.chars().take(80).collect::<String>().escape_debug().to_string()));
    }
    Ok(())
}

/// `OWNER:KEY`, a reference to an endpoint.
impl fmt::Display for EngineKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.owner, self.key)
    }
}

impl FromStr for EngineKey {
    type Err = InvalidEngineKey;

    fn from_str(text: &str) -> Result<Self, InvalidEngineKey> {
        let (owner, key) = text.split_once(':').ok_or_else(|| InvalidEngineKey::Key(text.to_owned()))?;
        Self::new(owner, key)
    }
}

/// Identity of an endpoint that an engine manages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineEndpoint {
    /// The engine's name for it.
    #[serde(flatten)]
    pub id: EngineKey,
    /// Container. The endpoints of one owner and container are one container in several networks,
    /// as endpoints with one name are that were attached by hand.
    pub container: String,
    /// The interface, if the engine moves it into the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<LeftInterface>,
    /// The ports as the engine asked for them. Another connection of the container may publish
    /// them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub asked: Vec<PublishSpec>,
}

/// Identity of a network that an engine manages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineNetwork {
    /// Name of the engine.
    pub owner: String,
    /// The engine's name for the network, unique with the owner.
    pub external_id: String,
    /// The network is removed with its last endpoint: the engine does not say when it is gone.
    #[serde(default)]
    pub remove_when_empty: bool,
    /// The name that the network had before it got another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_name: Option<NetworkName>,
}

/// An interface that is made in the daemon's namespace, and that an engine moves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftInterface {
    /// Name in the daemon's namespace.
    pub name: InterfaceName,
    /// Path of the namespace that the engine moves it to; `None` while it is in the daemon's.
    #[serde(default)]
    pub sandbox: Option<PathBuf>,
    /// Time since which it is in the daemon's namespace, or was moved.
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_and_keys_are_names() {
        let key = EngineKey::new("docker", "5f:3e").expect("a key");
        assert_eq!(key.to_string(), "docker:5f:3e");
        assert_eq!("docker:5f:3e".parse(), Ok(key));
        for owner in ["", "Docker", "do cker", &"x".repeat(33)] {
            assert!(matches!(EngineKey::new(owner, "k"), Err(InvalidEngineKey::Owner(_))), "{owner}");
        }
        for key in ["", "a b", "a\nb", &"x".repeat(513)] {
            assert!(matches!(EngineKey::new("cni", key), Err(InvalidEngineKey::Key(_))), "{key}");
        }
        assert!("web".parse::<EngineKey>().is_err());
    }
}
