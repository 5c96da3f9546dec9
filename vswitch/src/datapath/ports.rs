//! Turns devices into ports and back, and reads the counters of ports.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::MutexGuard;

use aya::maps::PerCpuValues;
use vswitch_common::Mac;
use vswitch_common::packet::address::Address;
use vswitch_common::tables::{
    DirectRoute, FdbKey, MAX_PORTS, Neighbor, NeighborKey, NetworkNumber, OwnKey, Port, PortCounters, PortKind,
    PortNumber, VlanKey, trunk_key,
};

use super::entry::{first_addresses, fixed, flags, mapped, neighbors, per_tick};
use super::error::chain;
use super::hooks::{self, Hook, Hooks};
use super::load::{Datapath, Pins, State};
use super::programs::Programs;
use super::stations::station;
use super::tables::{Maps, removed, set};
use super::tunnels::is_tunnel;
use super::{DatapathError, Mode, PortSpec, Trunk, Xdp};

/// The daemon's cache of the port tables, which saves searching the maps. All of it can be read
/// back from the maps.
#[derive(Debug, Default)]
pub(super) struct PortTable {
    pub(super) ports: BTreeMap<PortNumber, Port>,
    /// The ports of each network, in the order of the linked list from `Network::first` along
    /// `Port::next`.
    members: HashMap<NetworkNumber, Vec<PortNumber>>,
    /// The port number assigned last. Numbers are assigned in a cycle, so that a stale FDB entry
    /// seldom refers to a new port.
    last: u32,
    hooks: HashMap<PortNumber, String>,
    pub(super) neighbors: HashMap<PortNumber, BTreeSet<NeighborKey>>,
    /// For tunnels: the stations of the endpoints on the other host.
    pub(super) remotes: HashMap<PortNumber, BTreeSet<FdbKey>>,
    /// The stations that were written by an operator behind each port. They are removed with the
    /// port.
    pub(super) by_hand: HashMap<PortNumber, BTreeSet<FdbKey>>,
    owned: HashMap<PortNumber, BTreeSet<OwnKey>>,
    trunks: HashMap<PortNumber, BTreeSet<u16>>,
}

impl PortTable {
    /// Reads the table from the maps.
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
        // A daemon that died half-way may have left a port that is on no list. `add` puts such a
        // port back on its list.
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

    /// Returns the tunnel port to a peer in a network.
    fn of_peer(&self, network: NetworkNumber, remote: Address) -> Option<PortNumber> {
        let members = self.members.get(&network)?;
        members
            .iter()
            .copied()
            .find(|number| self.ports.get(number).is_some_and(|port| is_tunnel(port) && port.peer() == remote))
    }

    /// Returns the flag of an uplink with further stations of the host.
    fn host_stations(&self, uplink: PortNumber) -> u32 {
        if self.owned.contains_key(&uplink) { Port::HOST_STATIONS } else { 0 }
    }

    fn free_number(&self) -> Option<PortNumber> {
        let after = self.last + 1..MAX_PORTS;
        after.chain(1..=self.last).map(PortNumber).find(|number| !self.ports.contains_key(number))
    }
}

impl Datapath {
    /// Makes a device a port. The table entries are written before the programs are attached, so
    /// that the first frame is forwarded. A device that already is a port keeps its number and its
    /// counters, and its entries are updated to match `spec`.
    ///
    /// # Errors
    /// Returns [`DatapathError::NoFreePort`] or the error of the kernel; the device is then no
    /// port.
    pub fn add_port(&self, spec: &PortSpec) -> Result<PortNumber, DatapathError> {
        // The programs are locked before the state: the state is then never locked
        // during a load.
        let mut programs = self.programs();
        self.load_for(&mut programs, spec)?;
        let mut state = self.state();
        let known = match (spec.kind, spec.addresses.first()) {
            (PortKind::Tunnel, Some(remote)) => state.ports.of_peer(spec.network, mapped(*remote)),
            _ => state.ports.of_device(spec.ifindex),
        };
        let added = match known.map(|number| (number, state.ports.ports[&number])) {
            Some((number, port)) if port.network != spec.network => {
                // The programs stay on the device until they are replaced. Meanwhile they know no port.
                state.delete_port(number, &port)?;
                let added = self.add(&mut state, &mut programs, spec)?;
                if port.kind().is_some_and(|kind| kind != spec.kind) {
                    hooks::detach_others(port.kind(), spec.kind, spec.ifindex, &Pins(&self.options.directory))?;
                }
                Ok(added)
            }
            Some((number, _)) => self.update(&mut state, &mut programs, spec, number),
            None => self.add(&mut state, &mut programs, spec),
        };
        state.share(self.options.fdb_size)?;
        added
    }

    /// Brings a port in line with `spec`. If that fails, the port keeps its programs, old or new, and
    /// its entries.
    fn update(
        &self,
        state: &mut State,
        programs: &mut Programs,
        spec: &PortSpec,
        number: PortNumber,
    ) -> Result<PortNumber, DatapathError> {
        let hooks = self.attach(programs, spec)?;
        state.insert_port(spec, number, false)?;
        state.ports.hooks.insert(number, hooks);
        Ok(number)
    }

    fn add(&self, state: &mut State, programs: &mut Programs, spec: &PortSpec) -> Result<PortNumber, DatapathError> {
        let number = state.ports.free_number().ok_or(DatapathError::NoFreePort { limit: MAX_PORTS - 1 })?;
        let added = state.insert_port(spec, number, true).and_then(|()| self.attach(programs, spec));
        match added {
            Ok(hooks) => {
                state.ports.hooks.insert(number, hooks);
                Ok(number)
            }
            Err(error) => {
                // A partly added port is removed. An error of the removal is ignored, because the
                // caller needs the first error.
                let _ = self.remove(state, number);
                Err(error)
            }
        }
    }

    /// Loads the programs that a port needs. Verification may take long, so it runs before the
    /// state is locked.
    fn load_for(&self, programs: &mut Programs, spec: &PortSpec) -> Result<(), DatapathError> {
        let mut hooks = vec![Hook::tc(spec.kind)];
        if spec.kind == PortKind::Parent && spec.rules.parent.host_access {
            hooks.push(Hook::ParentOut);
        }
        programs.ensure(&hooks)?;
        match self.xdp_hook(spec).map(|hook| programs.ensure(&[hook])) {
            // The port works without XDP, and `attach` reports why.
            Some(Err(_)) if spec.xdp == Xdp::Auto => Ok(()),
            Some(loaded) => loaded,
            None => Ok(()),
        }
    }

    /// Returns the XDP hook that a port should have.
    fn xdp_hook(&self, spec: &PortSpec) -> Option<Hook> {
        Hook::xdp(spec.kind).filter(|_| spec.xdp != Xdp::Off && self.options.mode != Mode::Tc)
    }

    /// Attaches the programs of a port. Returns the hooks in use, in the wording of `status`.
    fn attach(&self, programs: &mut Programs, spec: &PortSpec) -> Result<String, DatapathError> {
        if spec.kind == PortKind::Tunnel {
            // All tunnels share one device, whose program is attached already.
            return Ok(self.tc.name().to_owned());
        }
        let pins = Pins(&self.options.directory);
        hooks::attach_tc(programs, self.tc, Hook::tc(spec.kind), &spec.device, spec.ifindex, &pins)?;
        let tc = self.tc.name();
        if spec.kind == PortKind::Parent {
            if spec.rules.parent.host_access {
                hooks::attach_tc(programs, self.tc, Hook::ParentOut, &spec.device, spec.ifindex, &pins)?;
            } else {
                hooks::detach_out(self.tc, &spec.device, spec.ifindex, &pins)?;
            }
        }
        let Some(hook) = self.xdp_hook(spec) else {
            if let Some(hook) = Hook::xdp(spec.kind) {
                super::load::remove_pin(&pins.link(spec.ifindex, hook))?;
            }
            return Ok(tc.to_owned());
        };
        match hooks::attach_xdp(programs, hook, &spec.device, spec.ifindex, &pins) {
            Ok(()) => Ok(format!("xdp+{tc}")),
            Err(DatapathError::Attach { cause, .. }) if spec.xdp == Xdp::Auto => {
                Ok(format!("{tc} (no XDP: {})", chain(&cause)))
            }
            Err(DatapathError::Program { cause, .. }) if spec.xdp == Xdp::Auto => {
                Ok(format!("{tc} (no XDP: {})", chain(&cause)))
            }
            Err(error) => Err(error),
        }
    }

    /// Sets the addresses that a port's station has in other networks, and from which the station
    /// may also send. Does nothing if the port no longer exists.
    ///
    /// # Errors
    /// Returns the error of the kernel.
    pub fn set_addresses_elsewhere(&self, number: PortNumber, addresses: &[IpAddr]) -> Result<(), DatapathError> {
        let mut state = self.state();
        if !state.ports.ports.contains_key(&number) {
            return Ok(());
        }
        let key = |address: &IpAddr| OwnKey { address: mapped(*address), port: number, reserved: 0 };
        state.set_owned(number, addresses.iter().map(key).collect())
    }

    /// Sets the stations of the host on an uplink's interface besides the interface itself. Frames
    /// from the wire for them pass to the host. Does nothing if the port no longer exists.
    ///
    /// # Errors
    /// Returns the error of the kernel.
    pub fn set_host_stations(&self, number: PortNumber, stations: &BTreeSet<Mac>) -> Result<(), DatapathError> {
        let mut state = self.state();
        let Some(port) = state.ports.ports.get(&number).copied() else { return Ok(()) };
        let key = |mac: &Mac| OwnKey { address: Address::link_local(*mac), port: number, reserved: 0 };
        state.set_owned(number, stations.iter().map(key).collect())?;
        let flags = port.flags & !Port::HOST_STATIONS | state.ports.host_stations(number);
        if flags != port.flags {
            let changed = Port { flags, ..port };
            set(&mut state.maps.ports, "PORTS", number.0, changed)?;
            state.ports.ports.insert(number, changed);
        }
        Ok(())
    }

    /// Turns a port back into a plain device: removes its programs, its FDB entries and its table
    /// entry. Does nothing if the port no longer exists.
    ///
    /// # Errors
    /// Returns the first error of the kernel; everything else is removed nevertheless.
    pub fn remove_port(&self, number: PortNumber) -> Result<(), DatapathError> {
        let mut state = self.state();
        if !state.ports.ports.contains_key(&number) {
            return Ok(());
        }
        let removed = self.remove(&mut state, number);
        removed.and(state.share(self.options.fdb_size))
    }

    fn remove(&self, state: &mut State, number: PortNumber) -> Result<(), DatapathError> {
        let Some(port) = state.ports.ports.get(&number).copied() else { return Ok(()) };
        let detached = match port.kind() {
            // The tunnel device keeps its program, which serves the other tunnels and drops frames
            // of unknown peers.
            Some(PortKind::Tunnel) => Ok(()),
            Some(kind) => hooks::detach(self.tc, kind, port.ifindex, &Pins(&self.options.directory)),
            None => Ok(()),
        };
        // The direct route is cleared, so that a later tunnel with this port number does not
        // inherit it.
        let forgotten = match port.kind() {
            Some(PortKind::Tunnel) => set(&mut state.maps.ways, "WAYS", number.0, DirectRoute::default()),
            _ => Ok(()),
        };
        state.delete_port(number, &port).and(detached).and(forgotten)
    }

    /// Returns all ports, ordered by number.
    pub fn ports(&self) -> Result<Vec<(PortNumber, Port)>, DatapathError> {
        Ok(self.state().ports.iter().map(|(number, port)| (number, *port)).collect())
    }

    /// Returns whether a device is a port.
    pub fn is_port(&self, ifindex: u32) -> bool {
        self.state().ports.of_device(ifindex).is_some()
    }

    /// Returns the port of this number, or `None` if the number is not in use.
    pub fn port(&self, number: PortNumber) -> Option<Port> {
        self.state().ports.ports.get(&number).copied()
    }

    /// Returns the counters of a port, summed over the CPUs. Port number 0 counts the frames of
    /// devices that are no ports.
    ///
    /// # Errors
    /// Returns [`DatapathError::NoSuchPort`] if the number is beyond the end of the table.
    pub fn counters(&self, number: PortNumber) -> Result<PortCounters, DatapathError> {
        let state = self.state();
        let per_cpu = state.maps.counters.get(&number.0, 0).map_err(|_| DatapathError::NoSuchPort(number))?;
        Ok(per_cpu.iter().fold(PortCounters::default(), |sum, cpu| sum.plus(cpu)))
    }

    /// Returns the hooks that serve each kind of port.
    pub fn hooks(&self) -> Hooks {
        Hooks::of(self.options.mode, self.tc)
    }

    /// Returns the hooks that serve one port, with the reason if XDP was requested but is not
    /// available.
    pub fn port_hooks(&self, number: PortNumber) -> Option<String> {
        self.state().ports.hooks.get(&number).cloned()
    }

    /// Locks the programs. Lock order: the programs first, then the state.
    pub(super) fn programs(&self) -> MutexGuard<'_, Programs> {
        // A load that panicked has pinned only complete programs.
        self.programs.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // Every step leaves maps and memory usable, so a panic in another thread does not prevent
        // further use.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl State {
    /// Writes the table entries of a port. A new port becomes the head of its network's list.
    fn insert_port(&mut self, spec: &PortSpec, number: PortNumber, new: bool) -> Result<(), DatapathError> {
        let stations = if spec.kind == PortKind::Uplink { self.ports.host_stations(number) } else { 0 };
        let members = self.ports.members.entry(spec.network).or_default();
        let listed = members.contains(&number);
        let next = match self.ports.ports.get(&number) {
            Some(port) if listed => port.next,
            _ => members.first().copied().unwrap_or(PortNumber::NONE),
        };
        let (ipv4, ipv6) = match (spec.kind, spec.addresses.first()) {
            (PortKind::Tunnel, Some(remote)) => (0, mapped(*remote)),
            _ => first_addresses(&spec.addresses),
        };
        let port = Port {
            ifindex: spec.ifindex,
            egress_ifindex: spec.egress_ifindex,
            network: spec.network,
            next,
            mac: spec.mac,
            kind: spec.kind as u8,
            // Whether a tunnel asks for the mark depends on the underlay.
            flags: flags(spec) | stations | self.ports.ports.get(&number).map_or(0, |port| port.flags & Port::UNDERLAY),
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
            self.write_static(station(&port), number)?;
        }
        if spec.kind == PortKind::Tunnel {
            // The known stations and neighbors behind the tunnel are kept.
            let key = self.tunnel_key(&port)?;
            self.maps
                .tunnels
                .insert(key, number, 0)
                .map_err(|cause| DatapathError::Table { table: "TUNNELS", cause })?;
        } else {
            self.set_neighbors(number, spec.mac, neighbors(spec))?;
            self.maps.set_device(spec.ifindex, number)?;
        }
        if spec.kind == PortKind::Parent {
            self.maps.change_network(spec.network, |entry| entry.parent = number)?;
        }
        if spec.kind == PortKind::Child && spec.rules.parent.passthru {
            self.maps.change_network(spec.network, |entry| entry.only = number)?;
        }
        self.update_list_head(spec.network)
    }

    /// Writes the first port of a network's list into the network's entry.
    fn update_list_head(&mut self, network: NetworkNumber) -> Result<(), DatapathError> {
        let members = self.ports.members.get(&network);
        let first = members.and_then(|members| members.first()).copied().unwrap_or(PortNumber::NONE);
        self.maps.change_network(network, |entry| entry.first = first)
    }

    /// Updates the TRUNKS entries of a port to match `trunk`.
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

    /// Updates the NEIGHBORS entries of a port's station to match `wanted`.
    fn set_neighbors(
        &mut self,
        number: PortNumber,
        mac: Mac,
        wanted: BTreeSet<NeighborKey>,
    ) -> Result<(), DatapathError> {
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

    /// Removes a neighbor entry if it belongs to this port.
    pub(super) fn forget_neighbor(&mut self, number: PortNumber, key: &NeighborKey) -> Result<(), DatapathError> {
        if self.maps.neighbors.get(key, 0).is_ok_and(|owner| owner.port == number) {
            removed(self.maps.neighbors.remove(key), "NEIGHBORS")?;
        }
        Ok(())
    }

    /// Updates the OWNED entries of a port to match `wanted`: the addresses of its station in other
    /// networks.
    fn set_owned(&mut self, number: PortNumber, wanted: BTreeSet<OwnKey>) -> Result<(), DatapathError> {
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

    /// Removes the table entries of a port and the stations behind it.
    fn delete_port(&mut self, number: PortNumber, port: &Port) -> Result<(), DatapathError> {
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
        // LEARNED does not count the entries written by an operator.
        let forgotten = forgotten.and(self.forget_by_hand(number));
        let unknown = self.set_neighbors(number, Mac::ZERO, BTreeSet::new()).and(self.forget_remotes(number));
        let vlans = self.list_vlans(number, &Trunk::None).and(self.set_owned(number, BTreeSet::new()));
        let deaf = self.stop_listening(number);
        set(&mut self.maps.ports, "PORTS", number.0, Port::default())?;
        set(&mut self.maps.learned, "LEARNED", number.0, 0)?;
        set(&mut self.maps.forgotten, "FORGOTTEN", number.0, 0)?;
        device.and(forgotten).and(unlisted).and(unknown).and(vlans).and(deaf)
    }

    /// Clears the references of a network to this port, as its parent and as its only child.
    fn unlink(&mut self, number: PortNumber, network: NetworkNumber) -> Result<(), DatapathError> {
        self.maps.change_network(network, |entry| {
            for place in [&mut entry.parent, &mut entry.only] {
                if *place == number {
                    *place = PortNumber::NONE;
                }
            }
        })
    }

    /// Removes a port from its network's list: the port before it is linked to the port behind it.
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
        self.update_list_head(port.network)
    }

    fn clear_counters(&mut self, number: PortNumber) -> Result<(), DatapathError> {
        let failed = |cause| DatapathError::Table { table: "COUNTERS", cause };
        let cpus = self.maps.counters.get(&number.0, 0).map_err(failed)?.len();
        let zeros = PerCpuValues::try_from(vec![PortCounters::default(); cpus]);
        let zeros = zeros.map_err(|error| failed(aya::maps::MapError::IoError(error)))?;
        self.maps.counters.set(number.0, zeros, 0).map_err(failed)
    }
}
