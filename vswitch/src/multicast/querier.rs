//! Who asks in a network, and when (RFC 3376, 6.6 and 8; RFC 3810, 7.6 and 9).

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::query::Asker;

/// How many messages in a row may get lost.
pub(super) const ROBUSTNESS: u32 = 2;
/// From one general query to the next.
pub(super) const INTERVAL: Duration = Duration::from_secs(125);
/// How long the answers to it may take.
pub(super) const RESPONSE: Duration = Duration::from_secs(10);
/// From the first general query to the second: a quarter of the others' interval.
pub(super) const STARTUP: Duration = Duration::from_secs(31);
/// How long the answers to a query about one group may take.
pub(super) const LAST_MEMBER: Duration = Duration::from_secs(1);
/// How long a querier may be silent: `ROBUSTNESS * INTERVAL + RESPONSE / 2`.
pub(super) const OTHER_QUERIER: Duration = Duration::from_secs(255);
/// How long a listener may be silent: `ROBUSTNESS * INTERVAL + RESPONSE`.
pub(super) const MEMBERSHIP: Duration = Duration::from_secs(260);

/// What holds for a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Whether we ask where nobody else does.
    pub querier: bool,
    /// In whose name.
    pub asker: Asker,
}

/// Who asks in one VLAN of a network by one of the protocols.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Querier {
    /// Since when queries are heard without a break, and the last one.
    heard: Option<(Instant, Instant)>,
    /// Ours, where we would ask.
    own: Option<Own>,
}

#[derive(Clone, Copy, Debug)]
struct Own {
    /// When to ask next.
    next: Instant,
    /// From the last time to the next.
    pace: Duration,
    /// Another asks, and we shall when it has been silent for long enough.
    defers: bool,
}

impl Querier {
    /// Whether we would ask here from now on.
    pub fn set_own(&mut self, now: Instant, wanted: bool) {
        match (wanted, self.own) {
            (true, None) => self.own = Some(Own { next: now, pace: STARTUP, defers: false }),
            (false, Some(_)) => self.own = None,
            _ => {}
        }
    }

    /// Somebody has asked: one to whom we defer, or another, or we ourselves.
    pub fn hear(&mut self, now: Instant, first: bool) {
        let since = self.since(now).unwrap_or(now);
        self.heard = Some((since, now));
        if let Some(own) = self.own.as_mut().filter(|_| first) {
            *own = Own { next: now + OTHER_QUERIER, pace: INTERVAL, defers: true };
        }
    }

    /// Since when listeners have been asked. `None` if nobody asks: then they do not have to answer, and nothing follows
    /// from their silence.
    pub fn since(&self, now: Instant) -> Option<Instant> {
        self.heard.filter(|(_, last)| now < *last + OTHER_QUERIER).map(|(since, _)| since)
    }

    /// Whether it is we who ask.
    pub fn is_ours(&self) -> bool {
        self.own.is_some_and(|own| !own.defers)
    }

    /// Whether to ask now. If so, the next time is set.
    pub fn is_due(&mut self, now: Instant) -> bool {
        let Some(own) = self.own.as_mut().filter(|own| own.next <= now) else { return false };
        *own = Own { next: now + own.pace, pace: INTERVAL, defers: false };
        self.hear(now, false);
        true
    }

    /// When to ask next.
    pub fn next(&self) -> Option<Instant> {
        self.own.map(|own| own.next)
    }
}

/// Whether one who asks is to be deferred to: of two queriers the one with the lower address asks (RFC 3376, 6.6.2). One
/// without an address is a switch that wants to know something, and no querier (RFC 4541, 2.1.1).
pub(super) fn comes_first(source: IpAddr, asker: &Asker) -> bool {
    let own = match source {
        IpAddr::V4(_) => IpAddr::from(asker.ipv4),
        IpAddr::V6(_) => asker.link_local.into(),
    };
    !source.is_unspecified() && (own.is_unspecified() || source < own)
}
