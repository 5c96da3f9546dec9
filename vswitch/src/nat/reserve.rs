//! Reserves the published ports of the host: chooses each port, and keeps other processes from
//! taking it.
//!
//! Programs at bind(2) refuse the port to other processes (`table`), and the kernel does not choose
//! it by itself (`ephemeral`). Where the programs cannot be attached, and for SCTP, a port is held
//! by sockets that are bound and never used. In either case, packets to the port are forwarded to a
//! container before the kernel looks up a socket.

mod check;
mod ephemeral;
mod error;
mod holder;
mod socket;
mod table;
mod waiting;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::kernel::limits;
use crate::kernel::sysctl;
use crate::model::{HostPort, PortRange, Protocol, PublishSpec, Published};

use check::Refusal;
pub use ephemeral::EphemeralError;
pub use error::{HookError, ReserveError};
pub use holder::Holder;
pub use table::BindHook;
use table::Table;
use waiting::Waiting;

/// The ports that an instance holds. Without programs at bind(2), they become free when this value
/// is dropped or the process dies.
pub struct Reservations {
    state: Mutex<State>,
}

/// The number of open files that sockets of held ports leave to everything else.
const FILES_FOR_OTHERS: u64 = 256;

struct State {
    keeper: Keeper,
    held: BTreeMap<(Protocol, u16), Vec<Held>>,
    waiting: Waiting,
    /// The addresses of our own name servers.
    names: BTreeSet<IpAddr>,
    /// The file that records the ports that we excluded from the kernel's choice.
    record: Option<PathBuf>,
    /// What `status` shows about that.
    ephemeral_note: Option<String>,
    /// The number of sockets that hold ports.
    sockets: u64,
}

/// What keeps other processes off the ports.
enum Keeper {
    /// Programs at bind(2), which are attached when the first port is reserved.
    Unopened(Arc<dyn BindHook>),
    Hook(Table),
    /// Sockets, and the reason why there are no programs.
    Sockets(Option<String>),
}

struct Held {
    published: Published,
    sockets: Vec<OwnedFd>,
}

/// The ports of all endpoints with the names of the endpoints, by protocol and port.
type Taken<'a> = BTreeMap<(Protocol, u16), Vec<&'a (Published, String)>>;

impl Default for Reservations {
    fn default() -> Self {
        Self::with(Keeper::Sockets(None), None)
    }
}

impl fmt::Debug for Reservations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservations").finish_non_exhaustive()
    }
}

impl Reservations {
    /// Creates an instance's set of reserved ports, which is empty. Ports are held by sockets.
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates an instance's set of reserved ports, which are held by programs at bind(2) where the
    /// kernel has them. `record` is the file that lists the ports that were excluded from the
    /// kernel's own choice.
    pub fn with_hook(hook: Arc<dyn BindHook>, record: PathBuf) -> Self {
        Self::with(Keeper::Unopened(hook), Some(record))
    }

    fn with(keeper: Keeper, record: Option<PathBuf>) -> Self {
        let state = State {
            keeper,
            held: BTreeMap::new(),
            waiting: Waiting::default(),
            names: BTreeSet::new(),
            record,
            ephemeral_note: None,
            sockets: 0,
        };
        Self { state: Mutex::new(state) }
    }

    /// Chooses a host port for each port of the specs and holds it, in the network namespace of the
    /// calling thread. Reserves all ports or none. `taken` lists the ports of all endpoints with
    /// the names of the endpoints.
    ///
    /// # Errors
    /// Returns [`ReserveError`], with the holder of the port.
    pub fn reserve(
        &self,
        specs: &[PublishSpec],
        taken: &[(Published, String)],
    ) -> Result<Vec<Published>, ReserveError> {
        self.assign(specs, taken, true)
    }

    /// Chooses host ports that another process holds, or is about to hold.
    ///
    /// # Errors
    /// Returns [`ReserveError`] if an endpoint has one of them.
    pub fn choose(&self, specs: &[PublishSpec], taken: &[(Published, String)]) -> Result<Vec<Published>, ReserveError> {
        self.assign(specs, taken, false)
    }

    fn assign(
        &self,
        specs: &[PublishSpec],
        taken: &[(Published, String)],
        hold: bool,
    ) -> Result<Vec<Published>, ReserveError> {
        let mut index = Taken::new();
        for known in taken {
            index.entry((known.0.protocol, known.0.host_port)).or_default().push(known);
        }
        let mut state = self.state();
        if hold && !specs.is_empty() {
            state.open();
        }
        let mut reserved = Vec::new();
        for spec in specs {
            for (container_port, from) in spec.ports() {
                match state.choose(spec, container_port, from, &index, hold) {
                    Ok(published) => reserved.push(published),
                    Err(error) => {
                        reserved.iter().for_each(|published| state.release(published));
                        return Err(error);
                    }
                }
            }
        }
        state.exclude_from_choice();
        Ok(reserved)
    }

    /// Holds the ports that an earlier daemon chose, by endpoint, and releases all others that it
    /// held. A port that cannot be held waits: [`Reservations::retry`] holds it as soon as it can.
    pub fn hold(&self, endpoints: &[(String, Vec<Published>)]) {
        let mut state = self.state();
        let attached = matches!(&state.keeper, Keeper::Unopened(hook) if hook.is_attached());
        if !attached && endpoints.iter().all(|(_, ports)| ports.is_empty()) {
            return;
        }
        state.open();
        for (name, ports) in endpoints {
            for published in ports {
                if state.holds(published) || state.adopt(published) {
                    continue;
                }
                if let Err(refusal) = state.hold(published, &Taken::new(), true) {
                    state.waiting.insert(name, *published, refusal);
                }
            }
        }
        if let Keeper::Hook(table) = &mut state.keeper
            && let Err(error) = table.release_others()
        {
            tracing::warn!("ports of an earlier daemon are still held: {error}");
        }
        state.exclude_from_choice();
    }

    /// Holds ports of an endpoint again that were released. A port that cannot be held waits.
    pub fn hold_more(&self, name: &str, ports: &[Published]) {
        let mut state = self.state();
        for published in ports {
            if state.holds(published) {
                continue;
            }
            if let Err(refusal) = state.hold(published, &Taken::new(), true) {
                state.waiting.insert(name, *published, refusal);
            }
        }
        state.exclude_from_choice();
    }

    /// Holds the ports that could not be held before, and looks for addresses that the host has
    /// lost.
    pub fn retry(&self) {
        let mut state = self.state();
        if state.held.is_empty() && state.waiting.is_empty() {
            return;
        }
        for (name, published) in state.waiting.ports() {
            match state.hold(&published, &Taken::new(), true) {
                Ok(()) => {
                    tracing::info!("endpoint {name}: port {published} is held now");
                    state.waiting.remove(&published);
                }
                Err(refusal) => state.waiting.refused_again(&published, refusal),
            }
        }
        let addresses: BTreeSet<IpAddr> =
            state.held.values().flatten().filter_map(|held| held.published.host_ip).collect();
        state.waiting.absent = addresses.into_iter().filter(|address| !check::has_address(*address)).collect();
        state.exclude_from_choice();
    }

    /// Releases ports. Ports that are not held are ignored.
    pub fn release(&self, published: &[Published]) {
        if published.is_empty() {
            return;
        }
        let mut state = self.state();
        published.iter().for_each(|gone| state.release(gone));
        state.exclude_from_choice();
    }

    /// Leaves the port of DNS at these addresses to our own name servers.
    pub fn leave_to_names(&self, addresses: BTreeSet<IpAddr>) {
        let mut state = self.state();
        state.names = addresses;
        state.leave_to_names();
    }

    /// Returns what `status` shows about ports.
    pub fn notes(&self) -> Vec<String> {
        let state = self.state();
        let mut notes = Vec::new();
        if let Keeper::Sockets(Some(why)) = &state.keeper
            && !state.held.is_empty()
        {
            notes.push(format!("published ports are held by a socket each: {why}"));
        }
        notes.extend(state.waiting.notes(state.held.values().flatten().map(|held| held.published)));
        notes.extend(state.ephemeral_note.clone());
        notes
    }

    /// Removes what the instance has changed in the host's settings for held ports, also after the
    /// death of the daemon.
    ///
    /// # Errors
    /// The setting cannot be changed.
    pub fn restore_settings(record: &Path) -> Result<(), EphemeralError> {
        ephemeral::exclude(&BTreeSet::new(), record)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Attaches the programs at bind(2), unless that was tried already.
    fn open(&mut self) {
        let Keeper::Unopened(hook) = &self.keeper else { return };
        match Table::open(hook.clone()) {
            Ok(table) => {
                self.keeper = Keeper::Hook(table);
                self.leave_to_names();
            }
            Err(error) => {
                tracing::warn!("published ports are held by a socket each: {error}");
                self.keeper = Keeper::Sockets(Some(error.to_string()));
            }
        }
    }

    fn leave_to_names(&mut self) {
        if let Keeper::Hook(table) = &mut self.keeper
            && let Err(error) = table.leave_to_names(&self.names)
        {
            tracing::warn!("the port of DNS may be refused to our own name servers: {error}");
        }
    }

    fn holds(&self, published: &Published) -> bool {
        let held = self.held.get(&(published.protocol, published.host_port));
        held.is_some_and(|held| held.iter().any(|held| held.published == *published))
    }

    /// Chooses and holds the host port of one container port.
    fn choose(
        &mut self,
        spec: &PublishSpec,
        container_port: u16,
        from: HostPort,
        taken: &Taken<'_>,
        held: bool,
    ) -> Result<Published, ReserveError> {
        let (protocol, host_ip) = (spec.protocol(), spec.host_ip());
        let mut hold = |host_port| {
            let wanted = Published { protocol, host_ip, host_port, container_port };
            let done = if held { self.hold(&wanted, taken, false) } else { self.check_taken(&wanted, taken) };
            done.map(|()| wanted)
        };
        match from {
            HostPort::Exactly(port) => patiently(|| hold(port)),
            HostPort::OneOf(range) => first_free(range, protocol, range.ports(), hold),
            HostPort::Automatic => {
                let range = local_port_range()?;
                // The search starts at a random port, so that late packets for the last user of a
                // port seldom reach the next one.
                let start = random_below(range.count());
                let (before, from_there) = (range.ports().take(start as usize), range.ports().skip(start as usize));
                first_free(range, protocol, from_there.chain(before), hold)
            }
        }
    }

    /// Holds a port.
    fn hold(&mut self, wanted: &Published, taken: &Taken<'_>, absent: bool) -> Result<(), Refusal> {
        let place = (wanted.protocol, wanted.host_port);
        self.check_taken(wanted, taken)?;
        let mut sockets = check::bind(wanted, &self.names, absent)?;
        match &mut self.keeper {
            Keeper::Hook(table) if Table::takes(wanted.protocol) => {
                table
                    .hold(wanted)
                    .map_err(|source| Refusal::Other(ReserveError::Hook { address: check::shown(wanted), source }))?;
                sockets.clear();
            }
            _ => self.leave_files(wanted)?,
        }
        self.sockets += sockets.len() as u64;
        self.held.entry(place).or_default().push(Held { published: *wanted, sockets });
        Ok(())
    }

    /// Refuses a port that is an endpoint's.
    fn check_taken(&self, wanted: &Published, taken: &Taken<'_>) -> Result<(), Refusal> {
        let place = (wanted.protocol, wanted.host_port);
        let endpoint = taken.get(&place).into_iter().flatten().find(|(known, _)| known.collides(wanted));
        if let Some((_, name)) = endpoint {
            return Err(Refusal::allocated(wanted, Holder::Endpoint(name.clone())));
        }
        if self.held.get(&place).into_iter().flatten().any(|held| held.published.collides(wanted)) {
            return Err(Refusal::allocated(wanted, Holder::Ourselves));
        }
        Ok(())
    }

    /// Refuses a port whose socket would take one of the last open files.
    fn leave_files(&self, wanted: &Published) -> Result<(), Refusal> {
        let open = self.sockets;
        let limit = limits::open_files().unwrap_or(u64::MAX);
        if open + 2 + FILES_FOR_OTHERS.min(limit / 2) > limit {
            return Err(Refusal::Other(ReserveError::TooMany { address: check::shown(wanted), open, limit }));
        }
        Ok(())
    }

    /// Keeps a port that the programs of an earlier daemon hold.
    fn adopt(&mut self, published: &Published) -> bool {
        let Keeper::Hook(table) = &mut self.keeper else { return false };
        let adopted = table.adopt(published);
        if adopted {
            let held = Held { published: *published, sockets: Vec::new() };
            self.held.entry((published.protocol, published.host_port)).or_default().push(held);
        }
        adopted
    }

    fn release(&mut self, gone: &Published) {
        self.waiting.remove(gone);
        let place = (gone.protocol, gone.host_port);
        let Some(held) = self.held.get_mut(&place) else { return };
        let Some(index) = held.iter().position(|held| held.published == *gone) else { return };
        self.sockets -= held.swap_remove(index).sockets.len() as u64;
        if held.is_empty() {
            self.held.remove(&place);
        }
        if let Keeper::Hook(table) = &mut self.keeper {
            if let Err(error) = table.release(gone) {
                tracing::warn!("port {gone} is still held: {error}");
            }
            if gone.host_port == table::DNS {
                self.leave_to_names();
            }
        }
    }

    /// Excludes the held ports from those that the kernel chooses by itself. A bound socket does
    /// that, too.
    fn exclude_from_choice(&mut self) {
        let (Keeper::Hook(_), Some(record)) = (&self.keeper, &self.record) else { return };
        let held = self.held.keys().filter(|(protocol, _)| Table::takes(*protocol)).map(|(_, port)| *port);
        let excluded = local_port_range().and_then(|range| {
            let ports = held.filter(|port| range.contains(*port)).collect();
            ephemeral::exclude(&ports, record).map_err(ReserveError::from)
        });
        let note =
            excluded.err().map(|error| format!("a program that asks for any port may get a published one: {error}"));
        if let Some(note) = note.as_ref().filter(|note| self.ephemeral_note.as_ref() != Some(note)) {
            tracing::warn!("{note}");
        }
        self.ephemeral_note = note;
    }
}

/// The number of attempts for a port that no process should hold any more, and the pause between
/// them.
const ATTEMPTS: usize = 20;
const PAUSE: Duration = Duration::from_millis(5);

/// Holds a port that may have been released just now. Retries, because a program that another
/// thread is starting has all our sockets for a moment.
fn patiently<T>(mut hold: impl FnMut() -> Result<T, Refusal>) -> Result<T, ReserveError> {
    for _ in 1..ATTEMPTS {
        match hold().map_err(Refusal::into_error) {
            Err(ReserveError::Allocated { holder, .. }) if holder.is_passing() => std::thread::sleep(PAUSE),
            result => return result,
        }
    }
    hold().map_err(Refusal::into_error)
}

/// Holds the first free port of `ports`.
fn first_free<T>(
    range: PortRange,
    protocol: Protocol,
    mut ports: impl Iterator<Item = u16>,
    mut hold: impl FnMut(u16) -> Result<T, Refusal>,
) -> Result<T, ReserveError> {
    let free = ports.find_map(|port| match hold(port) {
        Err(Refusal::Allocated { .. }) => None,
        Err(Refusal::Other(error)) => Some(Err(error)),
        Ok(held) => Some(Ok(held)),
    });
    free.unwrap_or(Err(ReserveError::AllAllocated { range, protocol }))
}

/// Reads the range from which the kernel takes the ports of clients. No service relies on a
/// particular port of this range.
fn local_port_range() -> Result<PortRange, ReserveError> {
    let text = sysctl::read(&["net", "ipv4", "ip_local_port_range"])?;
    let mut ports = text.split_whitespace().map(str::parse);
    match (ports.next(), ports.next()) {
        (Some(Ok(first)), Some(Ok(last))) => {
            PortRange::new(first, last).map_err(|_| ReserveError::LocalPortRange(text))
        }
        _ => Err(ReserveError::LocalPortRange(text)),
    }
}

/// Returns a number below `limit`. It only spreads the ports, so its quality is unimportant.
fn random_below(limit: u32) -> u32 {
    use std::hash::{BuildHasher as _, RandomState};
    let random = RandomState::new().hash_one(());
    u32::try_from(random % u64::from(limit.max(1))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published(host_ip: Option<&str>, host_port: u16) -> Published {
        let host_ip = host_ip.map(|address| address.parse().expect("an address"));
        Published { protocol: Protocol::Tcp, host_ip, host_port, container_port: 80 }
    }

    #[test]
    fn addresses_collide_where_one_contains_the_other() {
        let collide = |one, other| {
            let (one, other) = (published(one, 80), published(other, 80));
            assert_eq!(one.collides(&other), other.collides(&one));
            one.collides(&other)
        };
        for address in [None, Some("0.0.0.0"), Some("127.0.0.1"), Some("::"), Some("::1")] {
            assert!(collide(None, address) && collide(address, address), "{address:?}");
        }
        assert!(collide(Some("0.0.0.0"), Some("10.0.0.1")));
        assert!(collide(Some("::"), Some("fd00::1")));
        assert!(!collide(Some("0.0.0.0"), Some("::")));
        assert!(!collide(Some("10.0.0.1"), Some("10.0.0.2")));
        assert!(!published(None, 80).collides(&published(None, 81)));
        assert!(!published(None, 80).collides(&Published { protocol: Protocol::Udp, ..published(None, 80) }));
    }

    #[test]
    fn an_endpoint_that_has_the_port_is_named() {
        let taken = [(published(None, 8080), "web".to_owned())];
        let spec = "10.0.0.1:8080:80".parse().expect("a spec");
        let error = Reservations::new().reserve(&[spec], &taken).expect_err("it is taken");
        assert_eq!(
            error.to_string(),
            "Bind for 10.0.0.1:8080 failed: port is already allocated (endpoint web has it; publish another, or let \
             the switch choose)"
        );
    }

    #[test]
    fn random_numbers_stay_below() {
        assert!((0..100).all(|_| random_below(3) < 3));
        assert_eq!(random_below(1), 0);
    }
}
