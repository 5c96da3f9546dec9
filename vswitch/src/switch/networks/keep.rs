//! The host's side of networks and endpoints stays as it was made: other programs may flush
//! addresses and routes, switch devices off, or change settings. Differences are mended. A
//! difference that comes back again and again, or cannot be mended, is noted in `status`.
//!
//! Links, addresses and routes report their changes. Sysctls do not, so those are read every
//! second.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval, sleep};

use super::disputes::{Disputes, Turn};
use super::items::{Check, Item};
use super::{Networks, look};
use crate::kernel::netlink::{Link, Netlink, TouchEvents, Touched};
use crate::kernel::sysctl;
use crate::plan::HostStep;
use crate::plan::apply::{ApplyError, apply};
use crate::plan::drift::{DeviceNeeds, DeviceSeen, Drift};
use crate::switch::error::SwitchError;

/// The subject of the host's settings.
const SETTINGS: &str = "keep: settings";
/// The interval at which settings are read.
const TICK: Duration = Duration::from_secs(1);
/// The interval at which everything is compared, in case an event was missed.
const EVERYTHING: Duration = Duration::from_secs(60);
/// The time for which further changes are awaited: changes come in groups.
const SETTLED: Duration = Duration::from_millis(100);
/// The most steps in which a device is mended. A step may cause the next difference.
const STEPS: usize = 8;

/// The most times that an object is waited for which is being changed. The change makes the object
/// as it should be.
const ATTEMPTS: usize = 20;

/// The part of the host to compare.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Scope {
    pub(super) all: bool,
    /// The touched interface indexes.
    pub(super) links: BTreeSet<u32>,
}

impl Scope {
    const fn everything() -> Self {
        Self { all: true, links: BTreeSet::new() }
    }

    fn is_empty(&self) -> bool {
        !self.all && self.links.is_empty()
    }
}

/// The state of the links when a round began.
pub(super) struct Snapshot {
    pub(super) links: Vec<Link>,
    addresses: Vec<(u32, ipnet::IpNet)>,
    routes: Vec<crate::kernel::netlink::Route>,
}

impl Snapshot {
    async fn take(netlink: &Netlink) -> Result<Self, SwitchError> {
        let (links, addresses) = (netlink.links().await?, netlink.addresses(None).await?);
        Ok(Self { links, addresses, routes: netlink.routes().await? })
    }

    fn link(&self, device: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == device)
    }

    fn drift(&self, needs: &DeviceNeeds, link: &Link) -> Vec<Drift> {
        let settings = look::settings(needs);
        needs.drift(&DeviceSeen { link, addresses: &self.addresses, routes: &self.routes, settings })
    }
}

impl Networks {
    /// Keeps the host's side of networks and endpoints as it was made, for as long as the daemon
    /// lives.
    pub async fn keep(self: Arc<Self>) {
        let mut events = None;
        let mut scope = Scope::everything();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = Instant::now();
        loop {
            if events.is_none() {
                match TouchEvents::open() {
                    Ok(opened) => events = Some(opened),
                    Err(error) => tracing::error!("no events of links, everything is read every second: {error}"),
                }
                scope.all = true;
            }
            tokio::select! {
                touched = next(&mut events) => match touched {
                    Ok(Touched::Links(links)) => {
                        scope.links.extend(self.own_links(links));
                        if scope.is_empty() {
                            continue;
                        }
                        sleep(SETTLED).await;
                    }
                    Ok(Touched::Lost) => scope.all = true,
                    Err(error) => {
                        tracing::error!("cannot receive events of links: {error}");
                        events = None;
                        continue;
                    }
                },
                _ = ticks.tick() => {
                    if last.elapsed() >= EVERYTHING || self.disputes().is_open() {
                        scope.all = true;
                    }
                }
            }
            if scope.all {
                last = Instant::now();
            }
            match self.mend(std::mem::take(&mut scope)).await {
                Ok((_, postponed)) => scope = postponed,
                Err(SwitchError::ShuttingDown) => {}
                Err(error) => {
                    tracing::warn!("comparing the host's devices: {error}");
                    scope.all = true;
                }
            }
            if !scope.is_empty() {
                // Another change holds the lock of an object.
                sleep(SETTLED).await;
            }
        }
    }

    /// Compares everything, and mends it also if other programs undo it again and again. Returns
    /// what was mended.
    pub async fn mend_everything(&self) -> Result<Vec<String>, SwitchError> {
        self.disputes().clear();
        let mut all = Vec::new();
        let mut scope = Scope::everything();
        for _ in 0..ATTEMPTS {
            let (mended, postponed) = self.mend(scope).await?;
            all.extend(mended);
            if postponed.is_empty() {
                break;
            }
            sleep(SETTLED).await;
            scope = postponed;
        }
        Ok(all)
    }

    /// Forgets the disputes about objects that are gone, with their notes.
    fn forget_gone(&self, items: &[Item]) {
        let is_there = |subject: &str| subject == SETTINGS || items.iter().any(|item| item.subject == subject);
        for subject in self.disputes().retain(is_there) {
            self.context.note(&subject, None);
        }
    }

    fn disputes(&self) -> MutexGuard<'_, Disputes> {
        self.disputes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Compares a part of the host with the plans, and mends what differs. Returns what was mended,
    /// and the part that could not be compared because another change is under way.
    async fn mend(&self, scope: Scope) -> Result<(Vec<String>, Scope), SwitchError> {
        let _change = self.context.begin_change().await?;
        let _turn = self.keeping.lock().await;
        let mut mended = self.mend_settings().await;
        let mut postponed = Scope::default();
        if scope.is_empty() {
            return Ok((mended, postponed));
        }
        let snapshot = Snapshot::take(&self.context.netlink).await?;
        let items = self.items(&scope, &snapshot);
        if scope.all {
            self.forget_gone(&items);
        }
        for item in items {
            if !self.differs(&item, &snapshot) && !self.disputes().knows(&item.subject) {
                continue;
            }
            let exclusive = item.exclusive.clone();
            let Ok(_exclusive) = exclusive.try_lock() else {
                postponed.links.extend(item.links);
                continue;
            };
            // The object may have been removed, or changed, since the plan was made.
            let Some(item) = self.renewed(&item) else { continue };
            mended.extend(self.mend_item(&item).await?);
        }
        Ok((mended, postponed))
    }

    fn differs(&self, item: &Item, snapshot: &Snapshot) -> bool {
        item.checks.iter().any(|check| match check {
            Check::Device(needs) => {
                snapshot.link(&needs.device).is_none_or(|link| !snapshot.drift(needs, link).is_empty())
            }
            Check::Step { .. } => look::is_missing(check, &snapshot.links, &snapshot.routes),
        })
    }

    async fn mend_item(&self, item: &Item) -> Result<Vec<String>, SwitchError> {
        let (mut mended, mut broken) = (Vec::new(), BTreeSet::new());
        for check in &item.checks {
            match check {
                Check::Device(needs) => self.mend_device(item, needs, &mut mended, &mut broken).await?,
                Check::Step { step, .. } => {
                    let (links, routes) = (self.context.netlink.links().await?, self.context.netlink.routes().await?);
                    if look::is_missing(check, &links, &routes) {
                        let mend = self.apply_again(step);
                        self.attempt(&item.subject, check.fact(), mend, &mut mended, &mut broken).await;
                    }
                }
            }
        }
        self.conclude(&item.subject, &broken);
        if let Some(network) = item.network.filter(|_| !mended.is_empty())
            && self.context.has_note(&super::host_port::names_note(network))
        {
            let record = self.context.state().networks.get(&network).map(|entry| entry.record.clone());
            if let Some(record) = record {
                self.serve_names(&record).await;
            }
        }
        Ok(mended)
    }

    async fn apply_again(&self, step: &HostStep) -> Result<(), SwitchError> {
        Ok(apply(std::slice::from_ref(step), self.context.scene()).await.map(drop)?)
    }

    /// Mends a device step by step, with a new look at it before each.
    async fn mend_device(
        &self,
        item: &Item,
        needs: &DeviceNeeds,
        mended: &mut Vec<String>,
        broken: &mut BTreeSet<String>,
    ) -> Result<(), SwitchError> {
        for _ in 0..STEPS {
            let netlink = &self.context.netlink;
            let Some(link) = netlink.link_by_name(&needs.device).await? else {
                let fact = format!("{} is there under its name", needs.device);
                if broken.contains(&fact) || !self.is_misplaced(item, needs).await? {
                    return Ok(());
                }
                self.attempt(&item.subject, fact, self.bring_back(item, needs), mended, broken).await;
                continue;
            };
            let addresses = netlink.addresses(Some(link.index)).await?;
            let routes = netlink.routes().await?;
            let seen =
                DeviceSeen { link: &link, addresses: &addresses, routes: &routes, settings: look::settings(needs) };
            let mut drift = needs.drift(&seen);
            drift.retain(|drift| !broken.contains(&drift.fact(&needs.device).to_string()));
            let Some(stage) = drift.first().map(Drift::stage) else { return Ok(()) };
            for drift in drift.into_iter().filter(|drift| drift.stage() == stage) {
                let fact = drift.fact(&needs.device).to_string();
                self.attempt(&item.subject, fact, self.resolve(&link, drift), mended, broken).await;
            }
        }
        Ok(())
    }

    /// Mends a fact, unless other programs undo it again and again.
    async fn attempt(
        &self,
        subject: &str,
        fact: String,
        mend: impl Future<Output = Result<(), SwitchError>>,
        mended: &mut Vec<String>,
        broken: &mut BTreeSet<String>,
    ) {
        let turn = self.disputes().turn(subject, &fact, Instant::now());
        if turn == Turn::Never {
            broken.insert(fact);
            return;
        }
        let failure = mend.await.err().map(|error| error.to_string());
        let is_new = self.disputes().record(subject, &fact, failure.clone(), Instant::now());
        match failure {
            None => {
                if turn == Turn::First {
                    tracing::warn!("another program changed the host, and it is mended: {fact}");
                }
                mended.push(fact);
            }
            Some(failure) => {
                if is_new {
                    tracing::warn!("it is not so that {fact}: {failure}");
                }
                broken.insert(fact);
            }
        }
    }

    /// Updates the note on a subject.
    fn conclude(&self, subject: &str, broken: &BTreeSet<String>) {
        let note = {
            let mut disputes = self.disputes();
            disputes.settle(subject, broken, Instant::now());
            disputes.note(subject, &self.context.instance.command())
        };
        if let Some(note) = &note
            && !self.context.has_note(subject)
        {
            tracing::warn!("{note}");
        }
        self.context.note(subject, note);
    }

    async fn resolve(&self, link: &Link, drift: Drift) -> Result<(), SwitchError> {
        let netlink = &self.context.netlink;
        match drift {
            Drift::Mark(mark) => netlink.set_alias(link.index, &mark).await?,
            Drift::Enslaved => netlink.leave_master(link.index).await?,
            Drift::Mac(mac) => netlink.set_mac(link.index, mac).await?,
            Drift::Mtu(mtu) => netlink.set_mtu(link.index, mtu).await?,
            Drift::Setting(path, value) => write_setting(path, value).await?,
            Drift::Down => netlink.set_up(link.index).await?,
            Drift::Address(address) => netlink.add_address(link.index, address).await?,
            Drift::Route(address) => netlink.add_subnet_route(link.index, address).await?,
        }
        Ok(())
    }

    /// Switches the host's settings on that the networks need.
    async fn mend_settings(&self) -> Vec<String> {
        let (mut mended, mut broken) = (Vec::new(), BTreeSet::new());
        let lost = self.nat.lost_settings();
        if lost.is_empty() && !self.disputes().knows(SETTINGS) {
            return mended;
        }
        for setting in lost {
            let fact = format!("{} is 1", setting.join("."));
            let nat = self.nat.clone();
            let mend = async move {
                let restored = tokio::task::spawn_blocking(move || nat.restore_setting(&setting)).await;
                Ok(restored.map_err(ApplyError::from)?.map_err(ApplyError::from)?)
            };
            self.attempt(SETTINGS, fact, mend, &mut mended, &mut broken).await;
        }
        self.conclude(SETTINGS, &broken);
        mended
    }

    /// Returns those of the touched links that the switch uses.
    fn own_links(&self, touched: BTreeMap<u32, Option<String>>) -> Vec<u32> {
        let ours: BTreeSet<u32> = {
            let state = self.context.state();
            let networks = state.networks.values();
            let hosts = networks.clone().filter_map(|entry| entry.host_port).map(|port| port.ifindex);
            let uplinks = networks.filter_map(|entry| entry.uplink.as_ref()).map(|uplink| uplink.port.ifindex);
            let endpoints = state.endpoints.values().filter_map(|entry| entry.port).map(|port| port.ifindex);
            hosts.chain(uplinks).chain(endpoints).collect()
        };
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let is_ours = |index: &u32, name: &Option<String>| {
            let by_name = name.as_ref().is_some_and(|name| self.context.instance.is_own_device(name));
            by_name || ours.contains(index) || known.contains(index)
        };
        touched.into_iter().filter(|(index, name)| is_ours(index, name)).map(|(index, _)| index).collect()
    }
}

/// Waits for the next event; forever without a subscription.
async fn next(events: &mut Option<TouchEvents>) -> std::io::Result<Touched> {
    match events {
        Some(events) => events.next().await,
        None => std::future::pending().await,
    }
}

async fn write_setting(path: Vec<String>, value: String) -> Result<(), SwitchError> {
    let write = move || {
        let parts: Vec<&str> = path.iter().map(String::as_str).collect();
        sysctl::write(&parts, &value)
    };
    match tokio::task::spawn_blocking(write).await.map_err(ApplyError::from)? {
        // The device is gone.
        Err(error) if error.is_missing() => Ok(()),
        result => Ok(result.map(drop).map_err(ApplyError::from)?),
    }
}
