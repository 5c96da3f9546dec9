//! Making devices into ports and back, and reading what they did.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::MutexGuard;

use aya::maps::PerCpuValues;
use vswitch_common::Mac;
use vswitch_common::packet::address::Address;
use vswitch_common::tables::{
    FdbKey, MAX_PORTS, Neighbor, NeighborKey, NetworkNumber, OwnKey, Port, PortCounters, PortKind, PortNumber, VlanKey,
    Way, trunk_key,
};

use super::entry::{fixed, flags, mapped, neighbors, own, per_tick};
use super::error::chain;
use super::hooks::{self, Hook, Hooks};
use super::load::{Datapath, Pins, State};
use super::stations::station;
use super::tables::{Maps, removed, set};
use super::tunnels::is_tunnel;
use super::{DatapathError, Mode, PortSpec, Trunk, Xdp};

/// What the daemon remembers of the port table, so as not to search it: all of it can be read back from the maps.
#[derive(Debug, Default)]
pub(super) struct PortTable {
    pub(super) ports: BTreeMap<PortNumber, Port>,
    /// The ports of each network, in the order of its list: from `Network::first` along `Port::next`.
    members: HashMap<NetworkNumber, Vec<PortNumber>>,
    /// The number given last. Numbers go round, so that a stale FDB entry seldom meets a new port.
    last: u32,
    hooks: HashMap<PortNumber, String>,
    pub(super) neighbors: HashMap<PortNumber, BTreeSet<NeighborKey>>,
    /// Of tunnels: the endpoints of the other host.
    pub(super) remotes: HashMap<PortNumber, BTreeSet<FdbKey>>,
    /// The stations behind each that somebody has written: they go with it.
    pub(super) by_hand: HashMap<PortNumber, BTreeSet<FdbKey>>,
    owned: HashMap<PortNumber, BTreeSet<OwnKey>>,
    trunks: HashMap<PortNumber, BTreeSet<u16>>,
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
        let failed = |table| move |cause| DatapathError::Table { table, cause };
        for entry in maps.neighbors.iter() {
            let (key, neighbor) = entry.map_err(failed("NEIGHBORS"))?;
            table.neighbors.entry(neighbor.port).or_default().insert(key);
        }
        for key in maps.owned.keys() {
            let key = key.map_err(failed("OWNED"))?;
            table.owned.entry(key.port).or_default().insert(key);
        }
        for key in maps.trunks.keys() {
            let key = key.map_err(failed("TRUNKS"))?;
            table.trunks.entry(PortNumber(key >> 16)).or_default().insert(key as u16);
        }
        // A daemon that died half-way may have left a port that is on no list: it gets on it when it is added again.
        table.ports = ports;
        Ok(table)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (PortNumber, &Port)> {
        self.ports.iter().map(|(number, port)| (*number, port))
    }

    fn of_device(&self, ifindex: u32) -> Option<PortNumber> {
        let of_device = |(_, port): &(PortNumber, &Port)| port.ifindex == ifindex && !is_tunnel(port);
        self.iter().find(of_device).map(|(number, _)| number)
    }

    /// The port of a peer in a network.
    fn of_peer(&self, network: NetworkNumber, remote: Address) -> Option<PortNumber> {
        let members = self.members.get(&network)?;
        members
            .iter()
            .copied()
            .find(|number| self.ports.get(number).is_some_and(|port| is_tunnel(port) && port.ipv6 == remote))
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
        let known = match (spec.kind, spec.addresses.first()) {
            (PortKind::Tunnel, Some(remote)) => state.ports.of_peer(spec.network, mapped(*remote)),
            _ => state.ports.of_device(spec.ifindex),
        };
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
        if spec.kind == PortKind::Tunnel {
            // All tunnels are on one device, which has it already.
            return Ok(self.tc.name().to_owned());
        }
        let pins = Pins(&self.options.directory);
        hooks::attach_tc(&mut state.programs, self.tc, Hook::tc(spec.kind), &spec.device, spec.ifindex, &pins)?;
        let tc = self.tc.name();
        if spec.kind == PortKind::Parent {
            if spec.rules.place.host_access {
                let out = Hook::ParentOut;
                hooks::attach_tc(&mut state.programs, self.tc, out, &spec.device, spec.ifindex, &pins)?;
            } else {
                hooks::detach_out(self.tc, &spec.device, spec.ifindex, &pins)?;
            }
        }
        let Some(hook) = Hook::xdp(spec.kind).filter(|_| spec.xdp != Xdp::Off && self.options.mode != Mode::Tc) else {
            if let Some(hook) = Hook::xdp(spec.kind) {
                super::load::remove_pin(&pins.link(spec.ifindex, hook))?;
            }
            return Ok(tc.to_owned());
        };
        match hooks::attach_xdp(&mut state.programs, hook, &spec.device, spec.ifindex, &pins) {
            Ok(()) => Ok(format!("xdp+{tc}")),
            Err(DatapathError::Attach { cause, .. }) if spec.xdp == Xdp::Auto => {
                Ok(format!("{tc} (no XDP: {})", chain(&cause)))
            }
            Err(error) => Err(error),
        }
    }

    /// Says which addresses a port's station has in other networks: it may speak from them, too. Nothing happens if the port
    /// is gone.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn set_addresses_elsewhere(&self, number: PortNumber, addresses: &[IpAddr]) -> Result<(), DatapathError> {
        let mut state = self.state();
        if !state.ports.ports.contains_key(&number) {
            return Ok(());
        }
        let key = |address: &IpAddr| OwnKey { address: mapped(*address), port: number, reserved: 0 };
        state.own(number, addresses.iter().map(key).collect())
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
            // Its device keeps the program, for the other tunnels and against strangers.
            Some(PortKind::Tunnel) => Ok(()),
            Some(kind) => hooks::detach(self.tc, kind, port.ifindex, &Pins(&self.options.directory)),
            None => Ok(()),
        };
        // The next tunnel of this number does not leave by the way of this one.
        let forgotten = match port.kind() {
            Some(PortKind::Tunnel) => set(&mut state.maps.ways, "WAYS", number.0, Way::default()),
            _ => Ok(()),
        };
        state.leave(number, &port).and(detached).and(forgotten)
    }

    /// The ports, by number.
    pub fn ports(&self) -> Result<Vec<(PortNumber, Port)>, DatapathError> {
        Ok(self.state().ports.iter().map(|(number, port)| (number, *port)).collect())
    }

    /// One port, if there is one of that number.
    pub fn port(&self, number: PortNumber) -> Option<Port> {
        self.state().ports.ports.get(&number).copied()
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
        let (ipv4, ipv6) = match (spec.kind, spec.addresses.first()) {
            (PortKind::Tunnel, Some(remote)) => (0, mapped(*remote)),
            _ => own(&spec.addresses),
        };
        let port = Port {
            ifindex: spec.ifindex,
            egress_ifindex: spec.egress_ifindex,
            network: spec.network,
            next,
            mac: spec.mac,
            kind: spec.kind as u8,
            flags: flags(spec),
            vlan: VlanKey(spec.rules.vlan),
            mtu: spec.mtu,
            ipv4,
            storm: per_tick(spec.rules.storm_pps),
            ipv6,
            fdb_limit: spec.rules.fdb_limit,
            group_fwd_mask: spec.rules.group_fwd_mask,
            ..Port::default()
        };
        let before = self.ports.ports.insert(number, port);
        if !listed {
            members.insert(0, number);
        }
        self.ports.last = number.0;
        if new {
            self.clear_counters(number)?;
        }
        self.list_vlans(number, &spec.rules.trunk)?;
        set(&mut self.maps.ports, "PORTS", number.0, port)?;
        if let Some(before) =
            before.filter(|before| fixed(before) && (station(before) != station(&port) || !fixed(&port)))
        {
            removed(self.maps.fdb.remove(&station(&before)), "FDB")?;
        }
        if fixed(&port) {
            self.fix(station(&port), number)?;
        }
        if spec.kind == PortKind::Tunnel {
            // Who is known to be behind it stays so.
            let key = self.tunnel_key(&port)?;
            self.maps
                .tunnels
                .insert(key, number, 0)
                .map_err(|cause| DatapathError::Table { table: "TUNNELS", cause })?;
        } else {
            self.make_known(number, spec.mac, neighbors(spec))?;
            self.maps.set_device(spec.ifindex, number)?;
        }
        if spec.kind == PortKind::Parent {
            self.maps.change_network(spec.network, |entry| entry.parent = number)?;
        }
        if spec.kind == PortKind::Child && spec.rules.place.passthru {
            self.maps.change_network(spec.network, |entry| entry.only = number)?;
        }
        self.head(spec.network)
    }

    /// Writes where the list of a network's ports begins.
    fn head(&mut self, network: NetworkNumber) -> Result<(), DatapathError> {
        let members = self.ports.members.get(&network);
        let first = members.and_then(|members| members.first()).copied().unwrap_or(PortNumber::NONE);
        self.maps.change_network(network, |entry| entry.first = first)
    }

    /// Brings the list of a trunk's VLANs in line.
    fn list_vlans(&mut self, number: PortNumber, trunk: &Trunk) -> Result<(), DatapathError> {
        let none = BTreeSet::new();
        let wanted = if let Trunk::Vlans(vlans) = trunk { vlans } else { &none };
        let failed = |cause| DatapathError::Table { table: "TRUNKS", cause };
        let listed = self.ports.trunks.entry(number).or_default();
        for vlan in listed.difference(wanted) {
            removed(self.maps.trunks.remove(&trunk_key(number, VlanKey(*vlan))), "TRUNKS")?;
        }
        for vlan in wanted.difference(listed) {
            self.maps.trunks.insert(trunk_key(number, VlanKey(*vlan)), 1, 0).map_err(failed)?;
        }
        listed.clone_from(wanted);
        if wanted.is_empty() {
            self.ports.trunks.remove(&number);
        }
        Ok(())
    }

    /// Brings what is known of the addresses of a port's station in line.
    fn make_known(&mut self, number: PortNumber, mac: Mac, wanted: BTreeSet<NeighborKey>) -> Result<(), DatapathError> {
        let failed = |cause| DatapathError::Table { table: "NEIGHBORS", cause };
        let known = self.ports.neighbors.remove(&number).unwrap_or_default();
        for key in known.difference(&wanted) {
            self.forget_neighbor(number, key)?;
        }
        for key in wanted.difference(&known) {
            self.maps.neighbors.insert(key, Neighbor { port: number, mac, reserved: 0 }, 0).map_err(failed)?;
        }
        if !wanted.is_empty() {
            self.ports.neighbors.insert(number, wanted);
        }
        Ok(())
    }

    /// Forgets whose an address is, if it is that of this port.
    pub(super) fn forget_neighbor(&mut self, number: PortNumber, key: &NeighborKey) -> Result<(), DatapathError> {
        if self.maps.neighbors.get(key, 0).is_ok_and(|owner| owner.port == number) {
            removed(self.maps.neighbors.remove(key), "NEIGHBORS")?;
        }
        Ok(())
    }

    /// Brings the addresses that a port's station has elsewhere in line.
    fn own(&mut self, number: PortNumber, wanted: BTreeSet<OwnKey>) -> Result<(), DatapathError> {
        let failed = |cause| DatapathError::Table { table: "OWNED", cause };
        let owned = self.ports.owned.remove(&number).unwrap_or_default();
        for key in owned.difference(&wanted) {
            removed(self.maps.owned.remove(key), "OWNED")?;
        }
        for key in wanted.difference(&owned) {
            self.maps.owned.insert(key, 1, 0).map_err(failed)?;
        }
        if !wanted.is_empty() {
            self.ports.owned.insert(number, wanted);
        }
        Ok(())
    }

    /// Removes the table entries of a port, and the stations behind it.
    fn leave(&mut self, number: PortNumber, port: &Port) -> Result<(), DatapathError> {
        self.ports.ports.remove(&number);
        self.ports.hooks.remove(&number);
        let device = if is_tunnel(port) {
            let key = self.tunnel_key(port)?;
            removed(self.maps.tunnels.remove(&key), "TUNNELS").map(drop)
        } else {
            self.maps.set_device(port.ifindex, PortNumber::NONE)
        };
        let unlisted = self.unlist(number, port).and(self.unlink(number, port.network));
        if fixed(port) {
            removed(self.maps.fdb.remove(&station(port)), "FDB")?;
        }
        let learned = self.maps.learned.get(&number.0, 0).is_ok_and(|learned| learned > 0);
        let forgotten = if learned { self.forget(|_, entry| entry.port == number) } else { Ok(0) };
        // What is written is not counted there.
        let forgotten = forgotten.and(self.forget_by_hand(number));
        let unknown = self.make_known(number, Mac::ZERO, BTreeSet::new()).and(self.forget_remotes(number));
        let vlans = self.list_vlans(number, &Trunk::None).and(self.own(number, BTreeSet::new()));
        let deaf = self.stop_listening(number);
        set(&mut self.maps.ports, "PORTS", number.0, Port::default())?;
        set(&mut self.maps.learned, "LEARNED", number.0, 0)?;
        set(&mut self.maps.forgotten, "FORGOTTEN", number.0, 0)?;
        device.and(forgotten).and(unlisted).and(unknown).and(vlans).and(deaf)
    }

    /// A parent that goes leaves its children without one.
    fn unlink(&mut self, number: PortNumber, network: NetworkNumber) -> Result<(), DatapathError> {
        self.maps.change_network(network, |entry| {
            for place in [&mut entry.parent, &mut entry.only] {
                if *place == number {
                    *place = PortNumber::NONE;
                }
            }
        })
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
            }
            Some(before) => {
                if let Some(entry) = self.ports.ports.get_mut(&before) {
                    entry.next = port.next;
                    set(&mut self.maps.ports, "PORTS", before.0, *entry)?;
                }
            }
        }
        self.head(port.network)
    }

    fn clear_counters(&mut self, number: PortNumber) -> Result<(), DatapathError> {
        let failed = |cause| DatapathError::Table { table: "COUNTERS", cause };
        let cpus = self.maps.counters.get(&number.0, 0).map_err(failed)?.len();
        let zeros = PerCpuValues::try_from(vec![PortCounters::default(); cpus]);
        let zeros = zeros.map_err(|error| failed(aya::maps::MapError::IoError(error)))?;
        self.maps.counters.set(number.0, zeros, 0).map_err(failed)
    }
}
