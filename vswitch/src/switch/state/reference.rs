//! References to networks and endpoints, as users type them.
//!
//! A command that changes or removes an object takes its exact name, its whole id, or at least
//! [`SHORT_DIGITS`] digits of the id. A command that only looks takes any digits that belong to one
//! object.

use crate::model::SHORT_DIGITS;
use crate::switch::error::SwitchError;
use crate::switch::state::{EndpointEntry, NetworkEntry, State};

/// The most objects that an error about an ambiguous reference lists.
const MOST_LISTED: usize = 20;

/// An object that a reference names.
#[derive(Debug)]
pub enum Referred<'a> {
    /// An endpoint, in each of its networks.
    Endpoint(Vec<&'a EndpointEntry>),
    /// A network.
    Network(&'a NetworkEntry),
}

/// An object whose id begins with the reference.
enum Candidate<'a> {
    Endpoint(&'a EndpointEntry),
    Network(&'a NetworkEntry),
}

impl State {
    /// Returns the network with this name or id, to change it or something in it.
    ///
    /// # Errors
    /// [`SwitchError::NetworkNotFound`], also if the reference is only the start of an id.
    pub fn network(&self, reference: &str) -> Result<&NetworkEntry, SwitchError> {
        self.network_by(reference, SHORT_DIGITS)
    }

    /// Returns the network with this name, or with an id that starts with `reference`, to show it.
    ///
    /// # Errors
    /// [`SwitchError::NetworkNotFound`] or [`SwitchError::Ambiguous`].
    pub fn find_network(&self, reference: &str) -> Result<&NetworkEntry, SwitchError> {
        self.network_by(reference, 1)
    }

    /// Returns the endpoint with this name or id, to change it, in each of its networks: the
    /// network with the default route first.
    ///
    /// # Errors
    /// [`SwitchError::EndpointNotFound`], also if the reference is only the start of an id.
    pub fn endpoint(&self, reference: &str) -> Result<Vec<&EndpointEntry>, SwitchError> {
        self.endpoint_by(reference, SHORT_DIGITS)
    }

    /// Returns the endpoint with this name, or with an id that starts with `reference`, to show it,
    /// in each of its networks.
    ///
    /// # Errors
    /// [`SwitchError::EndpointNotFound`] or [`SwitchError::Ambiguous`].
    pub fn find_endpoint(&self, reference: &str) -> Result<Vec<&EndpointEntry>, SwitchError> {
        self.endpoint_by(reference, 1)
    }

    /// Returns the endpoint or network that a reference names, to show it. The name of an endpoint
    /// goes before the same name of a network.
    ///
    /// # Errors
    /// [`SwitchError::NothingFound`] or [`SwitchError::Ambiguous`].
    pub fn find(&self, reference: &str) -> Result<Referred<'_>, SwitchError> {
        let named = self.endpoints_named(reference)?;
        if !named.is_empty() {
            return Ok(Referred::Endpoint(named));
        }
        if let Some(entry) = self.network_named(reference) {
            return Ok(Referred::Network(entry));
        }
        let endpoints = self.endpoints_by_id(reference, 1);
        let candidates = endpoints.chain(self.networks_by_id(reference, 1));
        match self.only(reference, candidates)? {
            Some(Candidate::Endpoint(entry)) => Ok(Referred::Endpoint(self.connections(&entry.record))),
            Some(Candidate::Network(entry)) => Ok(Referred::Network(entry)),
            None => Err(SwitchError::NothingFound(reference.to_owned())),
        }
    }

    fn network_by(&self, reference: &str, digits: usize) -> Result<&NetworkEntry, SwitchError> {
        if let Some(entry) = self.network_named(reference) {
            return Ok(entry);
        }
        match self.only(reference, self.networks_by_id(reference, digits))? {
            Some(Candidate::Network(entry)) => Ok(entry),
            _ => Err(SwitchError::NetworkNotFound(reference.to_owned())),
        }
    }

    fn endpoint_by(&self, reference: &str, digits: usize) -> Result<Vec<&EndpointEntry>, SwitchError> {
        let named = self.endpoints_named(reference)?;
        if !named.is_empty() {
            return Ok(named);
        }
        match self.only(reference, self.endpoints_by_id(reference, digits))? {
            Some(Candidate::Endpoint(entry)) => Ok(self.connections(&entry.record)),
            _ => Err(SwitchError::EndpointNotFound(reference.to_owned())),
        }
    }

    /// Returns the endpoint with this name, or with this key of an engine, in each of its networks;
    /// none if there is none. One that was attached by hand goes before those of engines, whose
    /// names may repeat.
    ///
    /// # Errors
    /// [`SwitchError::Ambiguous`].
    pub fn endpoints_named(&self, reference: &str) -> Result<Vec<&EndpointEntry>, SwitchError> {
        if let Some(entry) = reference.parse().ok().and_then(|key| self.owned(&key)) {
            return Ok(vec![entry]);
        }
        let named = |entry: &&EndpointEntry| entry.record.name.as_str() == reference;
        let by_hand = self.endpoints.values().filter(named).find(|entry| entry.record.engine.is_none());
        if let Some(entry) = by_hand {
            return Ok(self.connections(&entry.record));
        }
        match self.only(reference, self.endpoints.values().filter(named).map(Candidate::Endpoint))? {
            Some(Candidate::Endpoint(entry)) => Ok(self.connections(&entry.record)),
            _ => Ok(Vec::new()),
        }
    }

    fn network_named(&self, name: &str) -> Option<&NetworkEntry> {
        self.networks.values().find(|entry| entry.ready && entry.record.name.as_str() == name)
    }

    /// Returns the networks whose ids begin with `reference`, if it has at least `digits` digits.
    fn networks_by_id(&self, reference: &str, digits: usize) -> impl Iterator<Item = Candidate<'_>> {
        let enough = reference.len() >= digits;
        let ready = self.networks.values().filter(move |entry| enough && entry.ready);
        ready.filter(move |entry| entry.record.id.to_string().starts_with(reference)).map(Candidate::Network)
    }

    /// Returns the endpoints whose ids begin with `reference`, if it has at least `digits` digits.
    fn endpoints_by_id(&self, reference: &str, digits: usize) -> impl Iterator<Item = Candidate<'_>> {
        let enough = reference.len() >= digits;
        let all = self.endpoints.values().filter(move |_| enough);
        all.filter(move |entry| entry.record.id.to_string().starts_with(reference)).map(Candidate::Endpoint)
    }

    /// Returns the only candidate. The ids of an endpoint in several networks are one candidate.
    fn only<'a>(
        &self,
        reference: &str,
        candidates: impl Iterator<Item = Candidate<'a>>,
    ) -> Result<Option<Candidate<'a>>, SwitchError> {
        let mut found: Vec<Candidate<'a>> = candidates.collect();
        found.dedup_by(|one, other| one.same_as(other));
        if found.len() < 2 {
            return Ok(found.pop());
        }
        let all_one = found.iter().all(|other| found[0].same_as(other));
        if all_one {
            return Ok(found.pop());
        }
        let mut listed: Vec<String> = found.iter().map(Candidate::to_string).collect();
        listed.sort();
        let more = listed.len().saturating_sub(MOST_LISTED);
        listed.truncate(MOST_LISTED);
        if more > 0 {
            listed.push(format!("{more} more"));
        }
        Err(SwitchError::Ambiguous { reference: reference.to_owned(), candidates: listed })
    }
}

impl Candidate<'_> {
    fn same_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Endpoint(one), Self::Endpoint(other)) => one.record.is_with(&other.record),
            _ => false,
        }
    }
}

impl std::fmt::Display for Candidate<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Endpoint(entry) => {
                let EndpointEntry { record, .. } = entry;
                let owner = if record.owner().is_empty() { String::new() } else { format!(", {}", record.owner()) };
                write!(f, "endpoint {} ({}{owner})", record.name, record.id.short())
            }
            Self::Network(entry) => write!(f, "network {} ({})", entry.record.name, entry.record.id.short()),
        }
    }
}
