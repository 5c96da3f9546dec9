//! Making devices into ports and back, and reading what they did.

use std::collections::{BTreeMap, HashMap};
use std::sync::MutexGuard;

use aya::maps::PerCpuValues;
use vswitch_common::tables::{
    FdbEntry, FdbKey, MAX_PORTS, NetworkNumber, Port, PortCounters, PortKind, PortNumber, VlanKey, tick,
    ticks_to_seconds,
};

use super::error::chain;
use super::hooks::{self, Hook, Hooks};
use super::load::{Datapath, Pins, State};
use super::tables::{Maps, removed, set};
use super::{DatapathError, Mode, PortSpec, Xdp};

/// What the daemon remembers of the port table, so as not to search it: all of it can be read back from the maps.
#[derive(Debug, Default)]
pub(super) struct PortTable {
    ports: BTreeMap<PortNumber, Port>,
    /// The ports of each network, in the order of its list: from `Network::first` along `Port::next`.
    members: HashMap<NetworkNumber, Vec<PortNumber>>,
    /// The number given last. Numbers go round, so that a stale FDB entry seldom meets a new port.
    last: u32,
    hooks: HashMap<PortNumber, String>,
}

impl PortTable {
    /// Reads the table back from the maps.
    pub(super) fn read(maps: &Maps) -> Result<Self, DatapathError> {
        let ports: BTreeMap<_, _> = maps.used_ports()?.into_iter().collect();
        let mut table = Self { last: ports.keys().next_back().map_or(0, |number| number.0), ..Self::default() };
        for port in ports.values() {
            if table.members.contains_key(&port.network) {
                continue;
            }
            let failed = |cause| DatapathError::Table { table: "NETWORKS", cause };
            let mut next = maps.networks.get(&port.network.0, 0).map_err(failed)?.first;
            let members = table.members.entry(port.network).or_default();
            while let Some(port) = ports.get(&next).filter(|_| !members.contains(&next)) {
                members.push(next);
                next = port.next;
            }
        }
        // A daemon that died half-way may have left a port that is on no list: it gets on it when it is added again.
        table.ports = ports;
        Ok(table)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (PortNumber, &Port)> {
        self.ports.iter().map(|(number, port)| (*number, port))
    }

    fn of_device(&self, ifindex: u32) -> Option<PortNumber> {
        self.iter().find(|(_, port)| port.ifindex == ifindex).map(|(number, _)| number)
    }

    fn free_number(&self) -> Option<PortNumber> {
        let after = self.last + 1..MAX_PORTS;
        after.chain(1..=self.last).map(PortNumber).find(|number| !self.ports.contains_key(number))
    }
}

impl Datapath {
    /// Makes a device a port: table entries first, then the programs, so that the first frame finds its way.
    /// A device that is a port already keeps its number and its counters, and is brought in line with `spec`.
    ///
    /// # Errors
    /// [`DatapathError::NoFreePort`], or what the kernel refused; then the device is no port.
    pub fn add_port(&self, spec: &PortSpec) -> Result<PortNumber, DatapathError> {
        let mut state = self.state();
        let known = state.ports.of_device(spec.ifindex);
        if let Some(number) = known
            && state.ports.ports[&number].network != spec.network
        {
            self.remove(&mut state, number)?;
            return self.add(&mut state, spec, None);
        }
        self.add(&mut state, spec, known)
    }

    fn add(&self, state: &mut State, spec: &PortSpec, known: Option<PortNumber>) -> Result<PortNumber, DatapathError> {
        let number =
            known.or_else(|| state.ports.free_number()).ok_or(DatapathError::NoFreePort { limit: MAX_PORTS - 1 })?;
        let added = state.enter(spec, number, known.is_none()).and_then(|()| self.attach(state, spec));
        match added {
            Ok(hooks) => {
                state.ports.hooks.insert(number, hooks);
                Ok(number)
            }
            Err(error) => {
                // What could not be added whole is taken back; that error, not this one's, is what the caller needs.
                let _ = self.remove(state, number);
                Err(error)
            }
        }
    }

    /// Attaches the programs; says which, in the words of `status`.
    fn attach(&self, state: &mut State, spec: &PortSpec) -> Result<String, DatapathError> {
        let pins = Pins(&self.options.directory);
        hooks::attach_tc(&mut state.ebpf, self.tc, Hook::tc(spec.kind), &spec.device, spec.ifindex, &pins)?;
        let tc = self.tc.name();
        let Some(hook) = Hook::xdp(spec.kind).filter(|_| spec.xdp != Xdp::Off && self.options.mode != Mode::Tc) else {
            if let Some(hook) = Hook::xdp(spec.kind) {
                super::load::remove_pin(&pins.link(spec.ifindex, hook))?;
            }
            return Ok(tc.to_owned());
        };
        match hooks::attach_xdp(&mut state.ebpf, hook, &spec.device, spec.ifindex, &pins) {
            Ok(()) => Ok(format!("xdp+{tc}")),
            Err(DatapathError::Attach { cause, .. }) if spec.xdp == Xdp::Auto => {
                Ok(format!("{tc} (no XDP: {})", chain(&cause)))
            }
            Err(error) => Err(error),
        }
    }

    /// Makes a port a plain device again: programs, FDB entries and table entry go. Nothing happens if it is gone.
    ///
    /// # Errors
    /// What the kernel refused; the rest is removed all the same.
    pub fn remove_port(&self, number: PortNumber) -> Result<(), DatapathError> {
        let mut state = self.state();
        if state.ports.ports.contains_key(&number) { self.remove(&mut state, number) } else { Ok(()) }
    }

    fn remove(&self, state: &mut State, number: PortNumber) -> Result<(), DatapathError> {
        let Some(port) = state.ports.ports.get(&number).copied() else { return Ok(()) };
        let detached = match port.kind() {
            Some(kind) => hooks::detach(self.tc, kind, port.ifindex, &Pins(&self.options.directory)),
            None => Ok(()),
        };
        state.leave(number, &port).and(detached)
    }

    /// The ports, by number.
    pub fn ports(&self) -> Result<Vec<(PortNumber, Port)>, DatapathError> {
        Ok(self.state().ports.iter().map(|(number, port)| (number, *port)).collect())
    }

    /// What went through a port, summed over the CPUs. Port number 0 has what came from devices that are no ports.
    ///
    /// # Errors
    /// [`DatapathError::NoSuchPort`] above the table's end.
    pub fn counters(&self, number: PortNumber) -> Result<PortCounters, DatapathError> {
        let state = self.state();
        let per_cpu = state.maps.counters.get(&number.0, 0).map_err(|_| DatapathError::NoSuchPort(number))?;
        Ok(per_cpu.iter().fold(PortCounters::default(), |sum, cpu| sum.plus(cpu)))
    }

    /// Every station in the FDB.
    pub fn fdb(&self) -> Result<Vec<(FdbKey, FdbEntry)>, DatapathError> {
        self.state().maps.stations()
    }

    /// Writes a static entry, in place of a learned one if there is one.
    pub fn fdb_add_static(&self, key: FdbKey, port: PortNumber) -> Result<(), DatapathError> {
        self.state().fix(key, port)
    }

    /// Removes an entry, static or learned; false if there is none.
    pub fn fdb_remove(&self, key: &FdbKey) -> Result<bool, DatapathError> {
        removed(self.state().maps.fdb.remove(key), "FDB")
    }

    /// Removes learned entries not heard for `ageing` seconds, and those of ports that are gone; returns how many.
    pub fn age(&self, ageing: u32) -> Result<usize, DatapathError> {
        let mut state = self.state();
        let State { maps, ports, .. } = &mut *state;
        maps.forget(|_, entry| {
            let stale = Self::age_of(entry) >= u64::from(ageing) || !ports.ports.contains_key(&entry.port);
            !entry.is_static() && stale
        })
    }

    /// The time on the clock of [`FdbEntry::seen`].
    fn now() -> u32 {
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
        now.map_or(0, |now| tick(now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64))
    }

    /// How long ago a learned station was last heard, in seconds.
    pub fn age_of(entry: &FdbEntry) -> u64 {
        ticks_to_seconds(Self::now().saturating_sub(entry.seen))
    }

    /// Which hooks serve each kind of port.
    pub fn hooks(&self) -> Hooks {
        Hooks::of(self.options.mode, self.tc)
    }

    /// Which hooks serve this very port, with the reason where XDP was wanted and is not to be had.
    pub fn port_hooks(&self, number: PortNumber) -> Option<String> {
        self.state().ports.hooks.get(&number).cloned()
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // Every step leaves maps and memory usable, so a panic in another thread is no reason to stop.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl State {
    /// Writes the table entries of a port. A new one comes to the head of its network's list.
    fn enter(&mut self, spec: &PortSpec, number: PortNumber, new: bool) -> Result<(), DatapathError> {
        let members = self.ports.members.entry(spec.network).or_default();
        let listed = members.contains(&number);
        let next = match self.ports.ports.get(&number) {
            Some(port) if listed => port.next,
            _ => members.first().copied().unwrap_or(PortNumber::NONE),
        };
        let port = Port {
            ifindex: spec.ifindex,
            egress_ifindex: spec.egress_ifindex,
            network: spec.network,
            next,
            mac: spec.mac,
            kind: spec.kind as u8,
            flags: flags(spec),
        };
        let before = self.ports.ports.insert(number, port);
        if !listed {
            members.insert(0, number);
        }
        self.ports.last = number.0;
        if new {
            self.clear_counters(number)?;
        }
        set(&mut self.maps.ports, "PORTS", number.0, port)?;
        if let Some(before) = before.filter(|before| before.mac != port.mac) {
            removed(self.maps.fdb.remove(&station(before.network, before.mac)), "FDB")?;
        }
        self.fix(station(spec.network, spec.mac), number)?;
        self.maps.set_device(spec.ifindex, number)?;
        let first = self.ports.members[&spec.network][0];
        self.maps.change_network(spec.network, |network| network.first = first)
    }

    /// Removes the table entries of a port, and the stations behind it.
    fn leave(&mut self, number: PortNumber, port: &Port) -> Result<(), DatapathError> {
        self.ports.ports.remove(&number);
        self.ports.hooks.remove(&number);
        let device = self.maps.set_device(port.ifindex, PortNumber::NONE);
        let unlisted = self.unlist(number, port);
        removed(self.maps.fdb.remove(&station(port.network, port.mac)), "FDB")?;
        let learned = self.maps.counters.get(&number.0, 0).is_ok_and(|cpus| cpus.iter().any(|cpu| cpu.learned > 0));
        let forgotten = if learned { self.maps.forget(|_, entry| entry.port == number) } else { Ok(0) };
        set(&mut self.maps.ports, "PORTS", number.0, Port::default())?;
        device.and(forgotten.map(drop)).and(unlisted)
    }

    /// Takes a port off its network's list: the one before it is made to point at the one behind it.
    fn unlist(&mut self, number: PortNumber, port: &Port) -> Result<(), DatapathError> {
        let Some(members) = self.ports.members.get_mut(&port.network) else { return Ok(()) };
        let Some(place) = members.iter().position(|member| *member == number) else { return Ok(()) };
        members.remove(place);
        match place.checked_sub(1).map(|before| members[before]) {
            None => {
                if members.is_empty() {
                    self.ports.members.remove(&port.network);
                }
                self.maps.change_network(port.network, |network| network.first = port.next)
            }
            Some(before) => match self.ports.ports.get_mut(&before) {
                Some(entry) => {
                    entry.next = port.next;
                    set(&mut self.maps.ports, "PORTS", before.0, *entry)
                }
                None => Ok(()),
            },
        }
    }

    /// Writes a static FDB entry.
    fn fix(&mut self, key: FdbKey, port: PortNumber) -> Result<(), DatapathError> {
        let entry = FdbEntry { port, flags: FdbEntry::STATIC, ..FdbEntry::default() };
        let failed = |cause| DatapathError::Table { table: "FDB", cause };
        // A program that has just looked at a learned entry may write it back once more; then ours is written again.
        loop {
            self.maps.fdb.insert(key, entry, 0).map_err(failed)?;
            if self.maps.fdb.get(&key, 0).map_err(failed)? == entry {
                return Ok(());
            }
        }
    }

    fn clear_counters(&mut self, number: PortNumber) -> Result<(), DatapathError> {
        let failed = |cause| DatapathError::Table { table: "COUNTERS", cause };
        let cpus = self.maps.counters.get(&number.0, 0).map_err(failed)?.len();
        let zeros = PerCpuValues::try_from(vec![PortCounters::default(); cpus]);
        let zeros = zeros.map_err(|error| failed(aya::maps::MapError::IoError(error)))?;
        self.maps.counters.set(number.0, zeros, 0).map_err(failed)
    }
}

fn flags(spec: &PortSpec) -> u8 {
    let isolated = spec.isolated && spec.kind == PortKind::Container;
    (if spec.xdp_egress { Port::XDP_EGRESS } else { 0 }) | (if isolated { Port::ISOLATED } else { 0 })
}

fn station(network: NetworkNumber, mac: vswitch_common::Mac) -> FdbKey {
    FdbKey { network, vlan: VlanKey::NONE, mac }
}
