//! Remembers which resolvers do not answer, for each transport: some never answer over TCP.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::error::Transport;

/// Time after which a resolver that did not answer is checked again.
const CHECK_AFTER: Duration = Duration::from_secs(30);

/// The resolvers that did not answer, with the time of the last attempt.
#[derive(Debug, Default)]
pub(super) struct Health {
    silent: Mutex<HashMap<(SocketAddr, Transport), Instant>>,
}

impl Health {
    /// Records whether a resolver answered.
    pub(super) fn record(&self, resolver: SocketAddr, transport: Transport, answered: bool) {
        let mut silent = self.silent();
        if answered {
            silent.remove(&(resolver, transport));
        } else {
            silent.insert((resolver, transport), Instant::now());
        }
    }

    /// Returns the resolvers in their order, with those that did not answer at the end.
    pub(super) fn in_order(&self, resolvers: &[SocketAddr], transport: Transport) -> Vec<SocketAddr> {
        let silent = self.silent();
        let (last, mut first): (Vec<_>, Vec<_>) =
            resolvers.iter().partition(|resolver| silent.contains_key(&(**resolver, transport)));
        first.extend(last);
        first
    }

    /// Returns the resolvers that did not answer some time ago. Each is returned once in that time.
    /// A resolver that is not checked because all of the list are silent is asked anyway.
    pub(super) fn to_check(&self, resolvers: &[SocketAddr], transport: Transport) -> Vec<SocketAddr> {
        let mut silent = self.silent();
        if resolvers.iter().all(|resolver| silent.contains_key(&(*resolver, transport))) {
            return Vec::new();
        }
        let now = Instant::now();
        let mut due = Vec::new();
        for resolver in resolvers {
            if let Some(since) = silent.get_mut(&(*resolver, transport))
                && now.duration_since(*since) >= CHECK_AFTER
            {
                *since = now;
                due.push(*resolver);
            }
        }
        due
    }

    /// Reports whether a resolver did not answer when it was last asked, a short time ago.
    pub(super) fn is_silent(&self, resolver: SocketAddr, transport: Transport) -> bool {
        self.silent().get(&(resolver, transport)).is_some_and(|since| since.elapsed() < CHECK_AFTER)
    }

    fn silent(&self) -> MutexGuard<'_, HashMap<(SocketAddr, Transport), Instant>> {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes all recorded attempts older.
    #[cfg(test)]
    pub(super) fn age(&self) {
        self.silent().values_mut().for_each(|since| *since -= CHECK_AFTER);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_resolver_is_last_until_it_answers_a_check() {
        let resolvers: [SocketAddr; 3] =
            ["192.0.2.1:53", "192.0.2.2:53", "192.0.2.3:53"].map(|text| text.parse().expect("an address"));
        let [first, second, third] = resolvers;
        let health = Health::default();
        assert_eq!(health.in_order(&resolvers, Transport::Udp), resolvers);
        health.record(first, Transport::Udp, false);
        assert_eq!(health.in_order(&resolvers, Transport::Udp), [second, third, first]);
        assert_eq!(health.in_order(&resolvers, Transport::Tcp), resolvers);
        assert_eq!(health.to_check(&resolvers, Transport::Udp), []);
        health.age();
        assert!(!health.is_silent(first, Transport::Udp));
        assert_eq!(health.to_check(&resolvers, Transport::Udp), [first]);
        assert_eq!(health.to_check(&resolvers, Transport::Udp), [], "it is being checked");
        assert_eq!(health.in_order(&resolvers, Transport::Udp), [second, third, first]);
        health.record(first, Transport::Udp, true);
        assert_eq!(health.in_order(&resolvers, Transport::Udp), resolvers);
        for resolver in resolvers {
            health.record(resolver, Transport::Udp, false);
        }
        health.age();
        assert_eq!(health.in_order(&resolvers, Transport::Udp), resolvers);
        assert_eq!(health.to_check(&resolvers, Transport::Udp), [], "all are asked");
    }
}
