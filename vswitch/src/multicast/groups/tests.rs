use std::net::Ipv4Addr;

use proptest::prelude::*;
use vswitch_common::Mac;

use super::super::{QuerySource, Record};
use super::*;

const NETWORK: NetworkNumber = NetworkNumber(3);
const HOST: PortNumber = PortNumber(1);
const ROUTER: PortNumber = PortNumber(2);
const SINGLE: PortNumber = PortNumber(3);
const SHARED: PortNumber = PortNumber(4);
const OWN_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 9, 8, 7);

/// Snooping state with a manual clock.
struct Fixture {
    groups: Groups,
    now: Instant,
    vlan: VlanKey,
}

fn facts(port: PortNumber) -> PortFacts {
    PortFacts { router: port == ROUTER, host: port == HOST, single: port == HOST || port == SINGLE }
}

fn settings(querier: bool) -> QuerierSettings {
    let link_local = "fe80::7".parse().expect("an address");
    QuerierSettings { querier, source: QuerySource { mac: Mac([2, 0, 0, 0, 0, 1]), ipv4: OWN_ADDRESS, link_local } }
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

impl Fixture {
    fn new(querier: bool) -> Self {
        let mut fixture = Self { groups: Groups::default(), now: Instant::now(), vlan: VlanKey::NONE };
        assert_eq!(fixture.groups.set_networks(fixture.now, BTreeMap::from([(NETWORK, settings(querier))])), []);
        fixture
    }

    fn receive(&mut self, port: PortNumber, source: &str, message: Message) -> Vec<Action> {
        let received = SnoopedMessage { source: address(source), message };
        self.groups.process(self.now, (NETWORK, self.vlan, port), facts(port), &received)
    }

    fn report(&mut self, port: PortNumber, group: &str, change: Change) -> Vec<Action> {
        let source = if group.contains(':') { "fe80::99" } else { "10.9.8.99" };
        self.receive(port, source, Message::Report(vec![Record { group: address(group), change }]))
    }

    fn query(&mut self, port: PortNumber, source: &str, group: Option<&str>) {
        let group = group.map(address);
        let question = Question { group, response: Duration::from_secs(1), suppress: false, sources: false };
        assert_eq!(self.receive(port, source, Message::Query(question)), []);
    }

    fn listener(&self, port: PortNumber, group: &str) -> Listener {
        Listener { network: NETWORK, vlan: self.vlan, group: address(group), port }
    }

    /// Advances the clock from one due time to the next, as the daemon does. Returns the actions,
    /// each with its second.
    fn advance(&mut self, seconds: u64) -> Vec<(u64, Action)> {
        let start = self.now;
        let end = start + Duration::from_secs(seconds);
        let mut done = Vec::new();
        while let Some(next) = self.groups.next_poll().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            let actions = self.groups.poll(self.now);
            let second = (self.now - start).as_secs();
            done.extend(actions.into_iter().map(|action| (second, action)));
            assert!(self.groups.next_poll().is_none_or(|next| next > self.now), "the due time did not advance");
        }
        self.now = end;
        done
    }

    /// Advances the clock and returns the seconds at which general queries of one family are sent.
    fn general_queries(&mut self, seconds: u64, family: Family) -> Vec<u64> {
        let query = Action::SendQuery(NETWORK, Query::General(family));
        self.advance(seconds).into_iter().filter(|(_, action)| *action == query).map(|(second, _)| second).collect()
    }

    fn listeners_by_group(&self) -> Vec<(String, Vec<PortNumber>)> {
        self.groups.groups(self.now).into_iter().map(|group| (group.group.to_string(), group.ports)).collect()
    }
}

#[test]
fn general_queries_follow_the_startup_interval_and_then_the_query_interval() {
    for family in [Family::Ipv4, Family::Ipv6] {
        assert_eq!(Fixture::new(true).general_queries(300, family), [0, 31, 156, 281]);
        assert_eq!(Fixture::new(false).general_queries(300, family), [0; 0]);
    }
}

#[test]
fn a_listener_without_reports_expires() {
    let mut fixture = Fixture::new(true);
    for group in ["239.1.2.3", "ff15::1234"] {
        assert_eq!(fixture.report(SINGLE, group, Change::Join), [Action::Listen(fixture.listener(SINGLE, group))]);
    }
    fixture.advance(200);
    fixture.report(SINGLE, "239.1.2.3", Change::Join);
    let gone = (60, Action::Unlisten(fixture.listener(SINGLE, "ff15::1234")));
    assert_eq!(
        fixture
            .advance(70)
            .into_iter()
            .filter(|(_, action)| !matches!(action, Action::SendQuery(..)))
            .collect::<Vec<_>>(),
        [gone]
    );
    assert_eq!(fixture.listeners_by_group(), [("239.1.2.3".to_owned(), vec![SINGLE])]);
    let group = &fixture.groups.groups(fixture.now)[0];
    assert_eq!(group.expires_in, Some(Duration::from_secs(190)));
}

#[test]
fn a_single_host_behind_a_port_leaves_at_once() {
    let mut fixture = Fixture::new(true);
    fixture.advance(1);
    for port in [SINGLE, HOST] {
        fixture.report(port, "239.1.2.3", Change::Join);
        let left = fixture.report(port, "239.1.2.3", Change::Leave);
        assert_eq!(left, [Action::Unlisten(fixture.listener(port, "239.1.2.3"))]);
        assert_eq!(fixture.report(port, "239.1.2.3", Change::Leave), [], "a second leave has no effect");
    }
    // A report of fewer sources may mean that no source is left.
    fixture.report(SINGLE, "239.1.2.3", Change::Join);
    let query = Action::SendQuery(NETWORK, Query::Specific(address("239.1.2.3")));
    assert_eq!(fixture.report(SINGLE, "239.1.2.3", Change::Fewer), [query]);
    assert_eq!(fixture.advance(3), [(1, query), (2, Action::Unlisten(fixture.listener(SINGLE, "239.1.2.3")))]);
}

#[test]
fn a_leave_on_a_shared_port_is_followed_by_queries() {
    for group in ["239.1.2.3", "ff15::1234"] {
        let mut fixture = Fixture::new(true);
        fixture.advance(1);
        fixture.report(SHARED, group, Change::Join);
        let query = Action::SendQuery(NETWORK, Query::Specific(address(group)));
        assert_eq!(fixture.report(SHARED, group, Change::Leave), [query]);
        assert_eq!(fixture.report(SHARED, group, Change::Leave), [], "the query was already sent");
        // Another host still listens.
        assert_eq!(fixture.advance(1), [(1, query)]);
        fixture.report(SHARED, group, Change::Join);
        assert_eq!(fixture.advance(10), []);
        // No other host listens.
        fixture.report(SHARED, group, Change::Leave);
        assert_eq!(fixture.advance(10), [(1, query), (2, Action::Unlisten(fixture.listener(SHARED, group)))]);
    }
}

#[test]
fn group_specific_queries_are_rate_limited() {
    let mut fixture = Fixture::new(true);
    fixture.advance(1);
    let groups: Vec<String> = (0..200).map(|number| format!("239.1.2.{number}")).collect();
    let mut queries = 0;
    for group in &groups {
        fixture.report(SHARED, group, Change::Join);
        queries += fixture.report(SHARED, group, Change::Leave).len();
    }
    assert_eq!(queries, 32);
    fixture.advance(5);
    assert_eq!(fixture.listeners_by_group().len(), 168, "the other listeners stay until they expire");
}

#[test]
fn the_querier_defers_to_a_lower_address_until_it_is_silent() {
    let mut fixture = Fixture::new(true);
    fixture.advance(1);
    fixture.query(ROUTER, "10.9.8.1", None);
    fixture.report(SINGLE, "239.1.2.3", Change::Join);
    assert_eq!(fixture.general_queries(254, Family::Ipv4), [0; 0]);
    fixture.query(ROUTER, "10.9.8.1", None);
    fixture.report(SINGLE, "239.1.2.3", Change::Join);
    assert_eq!(fixture.general_queries(300, Family::Ipv4), [255]);
    // Without queries, listeners do not expire.
    assert_eq!(fixture.listeners_by_group().len(), 1);
    // The querier of one protocol does not affect the other protocol.
    assert_ne!(fixture.general_queries(130, Family::Ipv6), [0; 0]);
}

#[test]
fn only_a_router_with_a_lower_address_wins_the_election() {
    for (port, source) in [(ROUTER, "10.9.8.77"), (ROUTER, "0.0.0.0"), (SINGLE, "10.9.8.1"), (HOST, "10.9.8.7")] {
        let mut fixture = Fixture::new(true);
        fixture.advance(1);
        fixture.query(port, source, None);
        assert_eq!(fixture.general_queries(200, Family::Ipv4), [30, 155], "{source}");
    }
    let mut fixture = Fixture::new(true);
    fixture.advance(1);
    fixture.query(ROUTER, "fe80::1", None);
    assert_eq!(fixture.general_queries(200, Family::Ipv6), [0; 0]);
}

#[test]
fn without_a_querier_no_listener_expires() {
    let mut fixture = Fixture::new(true);
    fixture.vlan = VlanKey(30);
    fixture.report(SINGLE, "239.1.2.3", Change::Join);
    fixture.report(SHARED, "239.1.2.3", Change::Join);
    fixture.advance(10_000);
    let both = [("239.1.2.3".to_owned(), vec![SINGLE, SHARED])];
    assert_eq!(fixture.listeners_by_group(), both);
    assert_eq!(fixture.groups.groups(fixture.now)[0].expires_in, None);
    // Queries of the switch do not reach this VLAN, so remaining listeners could not report.
    assert_eq!(fixture.report(SHARED, "239.1.2.3", Change::Leave), []);
    fixture.advance(10);
    assert_eq!(fixture.listeners_by_group(), both);
    // A router starts to send queries.
    fixture.query(ROUTER, "10.9.8.1", None);
    fixture.advance(130);
    fixture.query(ROUTER, "10.9.8.1", None);
    fixture.report(SINGLE, "239.1.2.3", Change::Join);
    fixture.advance(135);
    assert_eq!(fixture.listeners_by_group(), [("239.1.2.3".to_owned(), vec![SINGLE])]);
}

#[test]
fn a_group_specific_query_of_a_router_expires_silent_listeners() {
    let mut fixture = Fixture::new(true);
    fixture.query(ROUTER, "10.9.8.1", None);
    for port in [SINGLE, SHARED] {
        fixture.report(port, "239.1.2.3", Change::Join);
        fixture.report(port, "239.1.2.4", Change::Join);
    }
    assert_eq!(fixture.report(SHARED, "239.1.2.3", Change::Leave), [], "the router sends the query");
    fixture.query(SINGLE, "10.9.8.1", Some("239.1.2.4"));
    fixture.query(ROUTER, "10.9.8.1", Some("239.1.2.3"));
    fixture.advance(1);
    fixture.report(SINGLE, "239.1.2.3", Change::Join);
    fixture.advance(5);
    assert_eq!(
        fixture.listeners_by_group(),
        [("239.1.2.3".to_owned(), vec![SINGLE]), ("239.1.2.4".to_owned(), vec![SINGLE, SHARED])]
    );
}

#[test]
fn the_number_of_groups_per_port_is_limited() {
    let mut fixture = Fixture::new(true);
    let group = |number: usize| format!("239.1.{}.{}", number / 256, number % 256);
    for number in 0..MAX_GROUPS {
        assert_eq!(fixture.report(SINGLE, &group(number), Change::Join).len(), 1);
    }
    assert_eq!(fixture.report(SINGLE, "239.9.9.9", Change::Join), [Action::LimitReached(SINGLE)]);
    assert_eq!(fixture.report(SINGLE, "239.9.9.8", Change::Join), [], "reported only once");
    assert_eq!(fixture.report(SINGLE, &group(7), Change::Join).len(), 1, "a known group");
    assert_eq!(fixture.report(SHARED, "239.9.9.9", Change::Join).len(), 1, "another port");
    fixture.report(SINGLE, &group(7), Change::Leave);
    assert_eq!(fixture.report(SINGLE, "239.9.9.9", Change::Join).len(), 1, "a group was left");
    let (listeners, refused) = fixture.groups.forget_port(SINGLE);
    assert_eq!((listeners.len(), refused), (MAX_GROUPS, 2));
    assert_eq!(fixture.listeners_by_group(), [("239.9.9.9".to_owned(), vec![SHARED])]);
}

#[test]
fn flooded_groups_and_router_ports_are_not_tracked() {
    let mut fixture = Fixture::new(true);
    for (port, group) in [(SINGLE, "224.0.0.251"), (SINGLE, "ff02::1:ff00:7"), (ROUTER, "239.1.2.3")] {
        assert_eq!(fixture.report(port, group, Change::Join), []);
    }
    assert!(fixture.listeners_by_group().is_empty());
}

#[test]
fn listeners_of_an_earlier_daemon_are_taken_over() {
    let mut fixture = Fixture::new(true);
    let known = fixture.listener(SINGLE, "239.1.2.3");
    let other_network = Listener { network: NetworkNumber(9), ..known };
    assert_eq!(fixture.groups.take_over(fixture.now, [known, other_network]), [Action::Unlisten(other_network)]);
    fixture.advance(259);
    assert_eq!(fixture.listeners_by_group().len(), 1);
    assert!(fixture.advance(1).contains(&(1, Action::Unlisten(known))));
}

#[test]
fn a_network_without_snooping_has_no_state() {
    let mut fixture = Fixture::new(true);
    fixture.report(SINGLE, "239.1.2.3", Change::Join);
    let gone = Action::Unlisten(fixture.listener(SINGLE, "239.1.2.3"));
    assert_eq!(fixture.groups.set_networks(fixture.now, BTreeMap::new()), [gone]);
    assert_eq!(fixture.advance(1000), []);
    assert_eq!(fixture.report(SINGLE, "239.1.2.3", Change::Join), []);
    // A new network with the same number starts with the startup queries.
    fixture.groups.set_networks(fixture.now, BTreeMap::from([(NETWORK, settings(true))]));
    assert_eq!(fixture.general_queries(100, Family::Ipv4), [0, 31]);
    let mut other = settings(true);
    other.source.mac = Mac([2, 0, 0, 0, 0, 2]);
    fixture.groups.set_networks(fixture.now, BTreeMap::from([(NETWORK, other)]));
    assert_eq!(fixture.general_queries(100, Family::Ipv4), [0, 31]);
}

proptest! {
    /// For any sequence of messages, the counters agree with the listeners, and the table that
    /// results from the actions agrees with the state.
    #[test]
    fn the_actions_keep_the_table_equal_to_the_state(
        steps in proptest::collection::vec((0_u8..5, 1_u32..5, 0_u8..4, 0_u64..300), 1..100),
    ) {
        let mut fixture = Fixture::new(true);
        let mut table = BTreeSet::new();
        for (step, port, group, seconds) in steps {
            let (port, group) = (PortNumber(port), format!("239.1.2.{group}"));
            let actions = match step {
                0 | 1 => fixture.report(port, &group, Change::Join),
                2 => fixture.report(port, &group, Change::Leave),
                3 => fixture.report(port, &group, Change::Fewer),
                _ => fixture.advance(seconds).into_iter().map(|(_, action)| action).collect(),
            };
            for action in actions {
                match action {
                    Action::Listen(listener) => { table.insert(listener); }
                    Action::Unlisten(listener) => prop_assert!(table.remove(&listener)),
                    Action::SendQuery(..) | Action::LimitReached(_) => {}
                }
            }
            prop_assert!(fixture.groups.listeners.keys().eq(&table));
            for (port, load) in &fixture.groups.ports {
                prop_assert_eq!(load.groups, table.iter().filter(|listener| listener.port == *port).count());
            }
        }
    }
}
