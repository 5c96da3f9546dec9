use std::net::Ipv4Addr;

use proptest::prelude::*;
use vswitch_common::Mac;

use super::super::{Asker, Record};
use super::*;

const NETWORK: NetworkNumber = NetworkNumber(3);
const HOST: PortNumber = PortNumber(1);
const WIRE: PortNumber = PortNumber(2);
const ALONE: PortNumber = PortNumber(3);
const SHARED: PortNumber = PortNumber(4);
const OURS: Ipv4Addr = Ipv4Addr::new(10, 9, 8, 7);

/// Groups on a clock that stands until it is moved.
struct Scene {
    groups: Groups,
    now: Instant,
    vlan: VlanKey,
}

fn facts(port: PortNumber) -> PortFacts {
    PortFacts { router: port == WIRE, host: port == HOST, single: port == HOST || port == ALONE }
}

fn rules(querier: bool) -> Rules {
    let link_local = "fe80::7".parse().expect("an address");
    Rules { querier, asker: Asker { mac: Mac([2, 0, 0, 0, 0, 1]), ipv4: OURS, link_local } }
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

impl Scene {
    fn new(querier: bool) -> Self {
        let mut scene = Self { groups: Groups::default(), now: Instant::now(), vlan: VlanKey::NONE };
        assert_eq!(scene.groups.set_networks(scene.now, BTreeMap::from([(NETWORK, rules(querier))])), []);
        scene
    }

    fn hear(&mut self, port: PortNumber, source: &str, message: Message) -> Vec<Action> {
        let heard = Heard { source: address(source), message };
        self.groups.hear(self.now, (NETWORK, self.vlan, port), facts(port), &heard)
    }

    fn report(&mut self, port: PortNumber, group: &str, change: Change) -> Vec<Action> {
        let source = if group.contains(':') { "fe80::99" } else { "10.9.8.99" };
        self.hear(port, source, Message::Report(vec![Record { group: address(group), change }]))
    }

    fn query(&mut self, port: PortNumber, source: &str, group: Option<&str>) {
        let group = group.map(address);
        let question = Question { group, response: Duration::from_secs(1), suppress: false, sources: false };
        assert_eq!(self.hear(port, source, Message::Query(question)), []);
    }

    fn listener(&self, port: PortNumber, group: &str) -> Listener {
        Listener { network: NETWORK, vlan: self.vlan, group: address(group), port }
    }

    /// Lets time pass, as the daemon does: from one alarm to the next. What was done, with the second it was done in.
    fn pass(&mut self, seconds: u64) -> Vec<(u64, Action)> {
        let start = self.now;
        let end = start + Duration::from_secs(seconds);
        let mut done = Vec::new();
        while let Some(next) = self.groups.next().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            let actions = self.groups.poll(self.now);
            let second = (self.now - start).as_secs();
            done.extend(actions.into_iter().map(|action| (second, action)));
            assert!(self.groups.next().is_none_or(|next| next > self.now), "time stands still");
        }
        self.now = end;
        done
    }

    /// The seconds at which all are asked, of one family.
    fn general(&mut self, seconds: u64, family: Family) -> Vec<u64> {
        let wanted = Action::Ask(NETWORK, Query::General(family));
        self.pass(seconds).into_iter().filter(|(_, action)| *action == wanted).map(|(second, _)| second).collect()
    }

    fn listening(&self) -> Vec<(String, Vec<PortNumber>)> {
        self.groups.groups(self.now).into_iter().map(|group| (group.group.to_string(), group.ports)).collect()
    }
}

#[test]
fn all_are_asked_at_once_soon_again_and_then_at_the_interval() {
    for family in [Family::Ipv4, Family::Ipv6] {
        assert_eq!(Scene::new(true).general(300, family), [0, 31, 156, 281]);
        assert_eq!(Scene::new(false).general(300, family), [0; 0]);
    }
}

#[test]
fn who_answers_stays_and_who_is_silent_goes() {
    let mut scene = Scene::new(true);
    for group in ["239.1.2.3", "ff15::1234"] {
        assert_eq!(scene.report(ALONE, group, Change::Join), [Action::Listen(scene.listener(ALONE, group))]);
    }
    scene.pass(200);
    scene.report(ALONE, "239.1.2.3", Change::Join);
    let gone = (60, Action::Unlisten(scene.listener(ALONE, "ff15::1234")));
    assert_eq!(
        scene.pass(70).into_iter().filter(|(_, action)| !matches!(action, Action::Ask(..))).collect::<Vec<_>>(),
        [gone]
    );
    assert_eq!(scene.listening(), [("239.1.2.3".to_owned(), vec![ALONE])]);
    let group = &scene.groups.groups(scene.now)[0];
    assert_eq!(group.expires_in, Some(Duration::from_secs(190)));
}

#[test]
fn a_host_alone_behind_its_port_leaves_at_once() {
    let mut scene = Scene::new(true);
    scene.pass(1);
    for port in [ALONE, HOST] {
        scene.report(port, "239.1.2.3", Change::Join);
        let left = scene.report(port, "239.1.2.3", Change::Leave);
        assert_eq!(left, [Action::Unlisten(scene.listener(port, "239.1.2.3"))]);
        assert_eq!(scene.report(port, "239.1.2.3", Change::Leave), [], "twice");
    }
    // Fewer sources are perhaps none.
    scene.report(ALONE, "239.1.2.3", Change::Join);
    let asked = Action::Ask(NETWORK, Query::Specific(address("239.1.2.3")));
    assert_eq!(scene.report(ALONE, "239.1.2.3", Change::Fewer), [asked]);
    assert_eq!(scene.pass(3), [(1, asked), (2, Action::Unlisten(scene.listener(ALONE, "239.1.2.3")))]);
}

#[test]
fn behind_a_shared_port_the_others_are_asked_first() {
    for group in ["239.1.2.3", "ff15::1234"] {
        let mut scene = Scene::new(true);
        scene.pass(1);
        scene.report(SHARED, group, Change::Join);
        let asked = Action::Ask(NETWORK, Query::Specific(address(group)));
        assert_eq!(scene.report(SHARED, group, Change::Leave), [asked]);
        assert_eq!(scene.report(SHARED, group, Change::Leave), [], "asked already");
        // Somebody is left.
        assert_eq!(scene.pass(1), [(1, asked)]);
        scene.report(SHARED, group, Change::Join);
        assert_eq!(scene.pass(10), []);
        // Nobody is.
        scene.report(SHARED, group, Change::Leave);
        assert_eq!(scene.pass(10), [(1, asked), (2, Action::Unlisten(scene.listener(SHARED, group)))]);
    }
}

#[test]
fn whoever_leaves_groups_without_end_makes_us_ask_so_often_and_no_more() {
    let mut scene = Scene::new(true);
    scene.pass(1);
    let groups: Vec<String> = (0..200).map(|number| format!("239.1.2.{number}")).collect();
    let mut asked = 0;
    for group in &groups {
        scene.report(SHARED, group, Change::Join);
        asked += scene.report(SHARED, group, Change::Leave).len();
    }
    assert_eq!(asked, 32);
    scene.pass(5);
    assert_eq!(scene.listening().len(), 168, "the others stay until they fall silent");
}

#[test]
fn we_are_silent_where_a_router_with_a_lower_address_asks_and_ask_again_when_it_is_silent() {
    let mut scene = Scene::new(true);
    scene.pass(1);
    scene.query(WIRE, "10.9.8.1", None);
    scene.report(ALONE, "239.1.2.3", Change::Join);
    assert_eq!(scene.general(254, Family::Ipv4), [0; 0]);
    scene.query(WIRE, "10.9.8.1", None);
    scene.report(ALONE, "239.1.2.3", Change::Join);
    assert_eq!(scene.general(300, Family::Ipv4), [255]);
    // Its listeners have not had to answer meanwhile.
    assert_eq!(scene.listening().len(), 1);
    // The other protocol is none of its business.
    assert_ne!(scene.general(130, Family::Ipv6), [0; 0]);
}

#[test]
fn only_a_router_with_a_lower_address_silences_us() {
    for (port, source) in [(WIRE, "10.9.8.77"), (WIRE, "0.0.0.0"), (ALONE, "10.9.8.1"), (HOST, "10.9.8.7")] {
        let mut scene = Scene::new(true);
        scene.pass(1);
        scene.query(port, source, None);
        assert_eq!(scene.general(200, Family::Ipv4), [30, 155], "{source}");
    }
    let mut scene = Scene::new(true);
    scene.pass(1);
    scene.query(WIRE, "fe80::1", None);
    assert_eq!(scene.general(200, Family::Ipv6), [0; 0]);
}

#[test]
fn where_nobody_asks_nobody_is_forgotten() {
    let mut scene = Scene::new(true);
    scene.vlan = VlanKey(30);
    scene.report(ALONE, "239.1.2.3", Change::Join);
    scene.report(SHARED, "239.1.2.3", Change::Join);
    scene.pass(10_000);
    let both = [("239.1.2.3".to_owned(), vec![ALONE, SHARED])];
    assert_eq!(scene.listening(), both);
    assert_eq!(scene.groups.groups(scene.now)[0].expires_in, None);
    // Nothing of ours gets there, so nobody could say that they still listen.
    assert_eq!(scene.report(SHARED, "239.1.2.3", Change::Leave), []);
    scene.pass(10);
    assert_eq!(scene.listening(), both);
    // Now somebody asks.
    scene.query(WIRE, "10.9.8.1", None);
    scene.pass(130);
    scene.query(WIRE, "10.9.8.1", None);
    scene.report(ALONE, "239.1.2.3", Change::Join);
    scene.pass(135);
    assert_eq!(scene.listening(), [("239.1.2.3".to_owned(), vec![ALONE])]);
}

#[test]
fn a_router_that_asks_about_one_group_makes_the_silent_leave_it() {
    let mut scene = Scene::new(true);
    scene.query(WIRE, "10.9.8.1", None);
    for port in [ALONE, SHARED] {
        scene.report(port, "239.1.2.3", Change::Join);
        scene.report(port, "239.1.2.4", Change::Join);
    }
    assert_eq!(scene.report(SHARED, "239.1.2.3", Change::Leave), [], "the router will ask");
    scene.query(ALONE, "10.9.8.1", Some("239.1.2.4"));
    scene.query(WIRE, "10.9.8.1", Some("239.1.2.3"));
    scene.pass(1);
    scene.report(ALONE, "239.1.2.3", Change::Join);
    scene.pass(5);
    assert_eq!(
        scene.listening(),
        [("239.1.2.3".to_owned(), vec![ALONE]), ("239.1.2.4".to_owned(), vec![ALONE, SHARED])]
    );
}

#[test]
fn a_port_has_so_many_groups_and_no_more() {
    let mut scene = Scene::new(true);
    let group = |number: usize| format!("239.1.{}.{}", number / 256, number % 256);
    for number in 0..MAX_GROUPS {
        assert_eq!(scene.report(ALONE, &group(number), Change::Join).len(), 1);
    }
    assert_eq!(scene.report(ALONE, "239.9.9.9", Change::Join), [Action::Full(ALONE)]);
    assert_eq!(scene.report(ALONE, "239.9.9.8", Change::Join), [], "said once");
    assert_eq!(scene.report(ALONE, &group(7), Change::Join).len(), 1, "one that it has");
    assert_eq!(scene.report(SHARED, "239.9.9.9", Change::Join).len(), 1, "another port");
    scene.report(ALONE, &group(7), Change::Leave);
    assert_eq!(scene.report(ALONE, "239.9.9.9", Change::Join).len(), 1, "room again");
    let (listeners, refused) = scene.groups.forget_port(ALONE);
    assert_eq!((listeners.len(), refused), (MAX_GROUPS, 2));
    assert_eq!(scene.listening(), [("239.9.9.9".to_owned(), vec![SHARED])]);
}

#[test]
fn nothing_is_kept_of_what_is_flooded_and_of_ports_that_get_all() {
    let mut scene = Scene::new(true);
    for (port, group) in [(ALONE, "224.0.0.251"), (ALONE, "ff02::1:ff00:7"), (WIRE, "239.1.2.3")] {
        assert_eq!(scene.report(port, group, Change::Join), []);
    }
    assert!(scene.listening().is_empty());
}

#[test]
fn what_an_earlier_daemon_knew_gets_its_time() {
    let mut scene = Scene::new(true);
    let known = scene.listener(ALONE, "239.1.2.3");
    let elsewhere = Listener { network: NetworkNumber(9), ..known };
    assert_eq!(scene.groups.take_over(scene.now, [known, elsewhere]), [Action::Unlisten(elsewhere)]);
    scene.pass(259);
    assert_eq!(scene.listening().len(), 1);
    assert!(scene.pass(1).contains(&(1, Action::Unlisten(known))));
}

#[test]
fn a_network_that_is_not_snooped_any_more_is_forgotten() {
    let mut scene = Scene::new(true);
    scene.report(ALONE, "239.1.2.3", Change::Join);
    let gone = Action::Unlisten(scene.listener(ALONE, "239.1.2.3"));
    assert_eq!(scene.groups.set_networks(scene.now, BTreeMap::new()), [gone]);
    assert_eq!(scene.pass(1000), []);
    assert_eq!(scene.report(ALONE, "239.1.2.3", Change::Join), []);
    // Another that gets its number is asked from the start.
    scene.groups.set_networks(scene.now, BTreeMap::from([(NETWORK, rules(true))]));
    assert_eq!(scene.general(100, Family::Ipv4), [0, 31]);
    let mut other = rules(true);
    other.asker.mac = Mac([2, 0, 0, 0, 0, 2]);
    scene.groups.set_networks(scene.now, BTreeMap::from([(NETWORK, other)]));
    assert_eq!(scene.general(100, Family::Ipv4), [0, 31]);
}

proptest! {
    /// Whatever is said, the counts are those of the groups, and the table is what the actions made of it.
    #[test]
    fn the_table_is_what_is_known(
        steps in proptest::collection::vec((0_u8..5, 1_u32..5, 0_u8..4, 0_u64..300), 1..100),
    ) {
        let mut scene = Scene::new(true);
        let mut table = BTreeSet::new();
        for (step, port, group, seconds) in steps {
            let (port, group) = (PortNumber(port), format!("239.1.2.{group}"));
            let actions = match step {
                0 | 1 => scene.report(port, &group, Change::Join),
                2 => scene.report(port, &group, Change::Leave),
                3 => scene.report(port, &group, Change::Fewer),
                _ => scene.pass(seconds).into_iter().map(|(_, action)| action).collect(),
            };
            for action in actions {
                match action {
                    Action::Listen(listener) => { table.insert(listener); }
                    Action::Unlisten(listener) => prop_assert!(table.remove(&listener)),
                    Action::Ask(..) | Action::Full(_) => {}
                }
            }
            prop_assert!(scene.groups.listeners.keys().eq(&table));
            for (port, load) in &scene.groups.ports {
                prop_assert_eq!(load.groups, table.iter().filter(|listener| listener.port == *port).count());
            }
        }
    }
}
