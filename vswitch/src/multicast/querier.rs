//! Querier election and query timers (RFC 3376 sections 6.6 and 8; RFC 3810 sections 7.6 and 9).

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::query::{INTERVAL, OTHER_QUERIER, QuerySource, STARTUP};

/// Querier settings of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuerierSettings {
    /// Whether the switch sends queries if no other querier has precedence.
    pub querier: bool,
    /// Sender addresses of the switch's queries.
    pub source: QuerySource,
}

/// Querier state of one VLAN of a network, for one protocol.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Querier {
    /// Times of the first and the last query of an uninterrupted series.
    queries: Option<(Instant, Instant)>,
    /// The switch's own querier, if it is enabled.
    own: Option<OwnQuerier>,
}

#[derive(Clone, Copy, Debug)]
struct OwnQuerier {
    /// Time of the next query.
    next_query: Instant,
    /// Interval between the next query and the one after it.
    interval: Duration,
    /// Whether another querier has precedence. The switch starts to send queries when the other one
    /// counts as gone.
    deferring: bool,
}

impl Querier {
    /// Enables or disables the switch's own querier.
    pub fn set_own(&mut self, now: Instant, enabled: bool) {
        match (enabled, self.own) {
            (true, None) => self.own = Some(OwnQuerier { next_query: now, interval: STARTUP, deferring: false }),
            (false, Some(_)) => self.own = None,
            _ => {}
        }
    }

    /// Records a general query at the time `now`. `precedes` says that its sender has precedence
    /// over the switch's own querier.
    pub fn record_query(&mut self, now: Instant, precedes: bool) {
        let since = self.active_since(now).unwrap_or(now);
        self.queries = Some((since, now));
        if let Some(own) = self.own.as_mut().filter(|_| precedes) {
            *own = OwnQuerier { next_query: now + OTHER_QUERIER, interval: INTERVAL, deferring: true };
        }
    }

    /// Returns the time since which queries have been sent without interruption. Returns `None`
    /// without an active querier: listeners then send no reports, so a missing report has no
    /// meaning.
    pub fn active_since(&self, now: Instant) -> Option<Instant> {
        self.queries.filter(|(_, last)| now < *last + OTHER_QUERIER).map(|(since, _)| since)
    }

    /// Reports whether the switch is the querier.
    pub fn is_active(&self) -> bool {
        self.own.is_some_and(|own| !own.deferring)
    }

    /// Reports whether a query is due. If it is, records the query and sets the time of the next
    /// one.
    pub fn is_due(&mut self, now: Instant) -> bool {
        let Some(own) = self.own.as_mut().filter(|own| own.next_query <= now) else { return false };
        *own = OwnQuerier { next_query: now + own.interval, interval: INTERVAL, deferring: false };
        self.record_query(now, false);
        true
    }

    /// Returns the time of the next query.
    pub fn next_query(&self) -> Option<Instant> {
        self.own.map(|own| own.next_query)
    }
}

/// Reports whether the sender of a query has precedence over the switch. The querier with the lower
/// address wins the election (RFC 3376 section 6.6.2). A query without a source address comes from
/// a snooping switch, which takes no part in the election (RFC 4541 section 2.1.1).
pub(super) fn has_precedence(sender: IpAddr, own: &QuerySource) -> bool {
    let own_address = match sender {
        IpAddr::V4(_) => IpAddr::from(own.ipv4),
        IpAddr::V6(_) => own.link_local.into(),
    };
    !sender.is_unspecified() && (own_address.is_unspecified() || sender < own_address)
}
