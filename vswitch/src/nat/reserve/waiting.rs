//! Ports that are not held although an endpoint publishes them, and what `status` says about them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

use super::check::Refusal;
use super::{Holder, ReserveError};
use crate::model::Published;

/// The ports that wait to be held.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    ports: BTreeMap<Published, Refused>,
    /// The addresses of held ports that the host does not have.
    pub(super) absent: BTreeSet<IpAddr>,
}

#[derive(Debug)]
struct Refused {
    endpoint: String,
    reason: String,
    /// The process that has the port.
    process: Option<u32>,
}

impl Waiting {
    pub(super) fn is_empty(&self) -> bool {
        self.ports.is_empty()
    }

    /// Adds a port of an endpoint.
    pub(super) fn insert(&mut self, endpoint: &str, published: Published, refusal: Refusal) {
        // One search of /proc for each endpoint is enough.
        let known = self.ports.values().find(|refused| refused.endpoint == endpoint);
        let (reason, process) = match known {
            Some(refused) => (refused.reason.clone(), refused.process),
            None => {
                let found = reason(refusal);
                tracing::warn!("endpoint {endpoint}: port {published} is not held: {}", found.0);
                found
            }
        };
        self.ports.insert(published, Refused { endpoint: endpoint.to_owned(), reason, process });
    }

    /// Notes that a port could not be held again. The reason is looked up only if the process that
    /// had the port is gone: the search reads all of /proc.
    pub(super) fn refused_again(&mut self, published: &Published, refusal: Refusal) {
        let Some(refused) = self.ports.get_mut(published) else { return };
        if refused.process.is_some_and(|process| !Path::new(&format!("/proc/{process}")).exists()) {
            (refused.reason, refused.process) = reason(refusal);
        }
    }

    /// Removes a port.
    pub(super) fn remove(&mut self, published: &Published) {
        self.ports.remove(published);
    }

    /// Returns all ports with the names of their endpoints.
    pub(super) fn ports(&self) -> Vec<(String, Published)> {
        self.ports.iter().map(|(published, refused)| (refused.endpoint.clone(), *published)).collect()
    }

    /// Returns what `status` shows, given the ports that are held.
    pub(super) fn notes(&self, held: impl Iterator<Item = Published>) -> Vec<String> {
        let mut notes = Vec::new();
        let mut endpoints: BTreeMap<&str, Vec<(&Published, &Refused)>> = BTreeMap::new();
        for (published, refused) in &self.ports {
            endpoints.entry(&refused.endpoint).or_default().push((published, refused));
        }
        for (endpoint, ports) in endpoints {
            let Some((published, refused)) = ports.first() else { continue };
            let others = match ports.len() - 1 {
                0 => String::new(),
                others => format!(", and {others} more"),
            };
            notes.push(format!(
                "endpoint {endpoint}: port {published}{others}, is not held against other programs: {}",
                refused.reason
            ));
        }
        let mut unreachable: BTreeMap<IpAddr, Vec<Published>> = BTreeMap::new();
        for published in held {
            if let Some(address) = published.host_ip.filter(|address| self.is_unreachable(*address)) {
                unreachable.entry(address).or_default().push(published);
            }
        }
        for (address, ports) in unreachable {
            let [published, others @ ..] = &ports[..] else { continue };
            let others = if others.is_empty() { String::new() } else { format!(" and {} more", others.len()) };
            let why = match address == Ipv6Addr::LOCALHOST {
                true => "the kernel does not translate ::1 (detach, and publish at 127.0.0.1)".to_owned(),
                false => {
                    format!("{address} is none of this host's addresses (add it with `ip address add`, or detach)")
                }
            };
            notes.push(format!("nothing reaches port {published}{others}: {why}"));
        }
        notes
    }

    fn is_unreachable(&self, address: IpAddr) -> bool {
        address == Ipv6Addr::LOCALHOST || self.absent.contains(&address)
    }
}

fn reason(refusal: Refusal) -> (String, Option<u32>) {
    match refusal.into_error() {
        ReserveError::Allocated { holder, .. } => {
            let process = match &holder {
                Holder::Process { pid, .. } => Some(*pid),
                _ => None,
            };
            (format!("{holder} (end it; the port is held as soon as it is free)"), process)
        }
        error => (error.to_string(), None),
    }
}
