//! The tables of held ports, which the programs at bind(2) read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use vswitch_common::held::{HeldKey, Place, flag};
use vswitch_common::packet::address::Address;

use super::error::HookError;
use crate::model::{Protocol, Published};

/// The port of DNS, which is not held at the addresses of our own name servers.
pub(super) const DNS: u16 = 53;

/// The programs at bind(2) and their tables, which outlive the daemon.
pub trait BindHook: fmt::Debug + Send + Sync {
    /// Reports whether the programs of an earlier daemon are attached.
    fn is_attached(&self) -> bool;
    /// Attaches the programs, or replaces those of an earlier daemon.
    ///
    /// # Errors
    /// The kernel has no such hook, or refuses the programs.
    fn attach(&self) -> Result<(), HookError>;
    /// Returns the words of the first table.
    ///
    /// # Errors
    /// The table cannot be read.
    fn words(&self) -> Result<Vec<u64>, HookError>;
    /// Returns the entries of the second table.
    ///
    /// # Errors
    /// The table cannot be read.
    fn entries(&self) -> Result<BTreeMap<HeldKey, u32>, HookError>;
    /// Writes a word of the first table.
    ///
    /// # Errors
    /// The kernel refuses the change.
    fn set_word(&self, index: u32, word: u64) -> Result<(), HookError>;
    /// Writes an entry of the second table, or removes it.
    ///
    /// # Errors
    /// The table is full.
    fn set_entry(&self, key: HeldKey, entry: Option<u32>) -> Result<(), HookError>;
}

/// The tables, with a copy of what they hold.
pub(super) struct Table {
    hook: Arc<dyn BindHook>,
    words: Vec<u64>,
    entries: BTreeMap<HeldKey, u32>,
    /// The addresses of each held port.
    ports: BTreeMap<Place, Vec<Published>>,
}

impl Table {
    /// Attaches the programs and reads what an earlier daemon held.
    pub(super) fn open(hook: Arc<dyn BindHook>) -> Result<Self, HookError> {
        hook.attach()?;
        let (words, entries) = (hook.words()?, hook.entries()?);
        Ok(Self { hook, words, entries, ports: BTreeMap::new() })
    }

    /// Reports whether ports of a protocol can be held.
    pub(super) fn takes(protocol: Protocol) -> bool {
        Place::of(protocol.number().into(), 0).is_some()
    }

    /// Keeps a port that an earlier daemon held. Returns false if it did not.
    pub(super) fn adopt(&mut self, published: &Published) -> bool {
        let Some(place) = place(published) else { return false };
        let needed = bits([published]);
        let is_held = self.bits(place) & needed == needed
            && key(published).is_none_or(|key| self.entry(&key) == Some(flag::HELD));
        if is_held {
            self.ports.entry(place).or_default().push(*published);
        }
        is_held
    }

    /// Holds a port.
    pub(super) fn hold(&mut self, published: &Published) -> Result<(), HookError> {
        let Some(place) = place(published) else { return Ok(()) };
        if let Some(key) = key(published) {
            self.set_entry(key, Some(flag::HELD))?;
        }
        self.ports.entry(place).or_default().push(*published);
        self.write_bits(place)
    }

    /// Releases a port.
    pub(super) fn release(&mut self, published: &Published) -> Result<(), HookError> {
        let Some(place) = place(published) else { return Ok(()) };
        if let Some(ports) = self.ports.get_mut(&place) {
            ports.retain(|port| port != published);
            if ports.is_empty() {
                self.ports.remove(&place);
            }
        }
        self.write_bits(place)?;
        key(published).map_or(Ok(()), |key| self.set_entry(key, None))
    }

    /// Releases the ports that an earlier daemon held and this one does not.
    pub(super) fn release_others(&mut self) -> Result<(), HookError> {
        for index in 0..u32::try_from(self.words.len()).unwrap_or(0) {
            let places = (0..u64::BITS).step_by(Place::BITS as usize).map(|shift| Place { word: index, shift });
            let wanted = places.fold(0, |word, place| word | self.wanted_bits(place) << place.shift);
            self.write_word(index, wanted)?;
        }
        let needed: BTreeSet<HeldKey> = self.ports.values().flatten().filter_map(key).collect();
        let others = self.entries.iter().filter(|(key, entry)| **entry == flag::HELD && !needed.contains(key));
        let others: Vec<HeldKey> = others.map(|(key, _)| *key).collect();
        others.into_iter().try_for_each(|key| self.set_entry(key, None))
    }

    /// Leaves the port of DNS free at these addresses, and at no others.
    pub(super) fn leave_to_names(&mut self, addresses: &BTreeSet<IpAddr>) -> Result<(), HookError> {
        let key = |address: &IpAddr, protocol: Protocol| key_of(*address, DNS, protocol);
        let wanted: BTreeSet<HeldKey> = addresses
            .iter()
            .flat_map(|address| [Protocol::Tcp, Protocol::Udp].map(|protocol| key(address, protocol)))
            .collect();
        let others = self.entries.iter().filter(|(key, entry)| **entry == flag::FREE && !wanted.contains(key));
        let others: Vec<HeldKey> = others.map(|(key, _)| *key).collect();
        others.into_iter().try_for_each(|key| self.set_entry(key, None))?;
        // A port that is published at the address of a name server that cannot serve stays held.
        let wanted: Vec<HeldKey> = wanted.into_iter().filter(|key| self.entry(key) != Some(flag::HELD)).collect();
        wanted.into_iter().try_for_each(|key| self.set_entry(key, Some(flag::FREE)))
    }

    fn bits(&self, place: Place) -> u64 {
        self.words.get(place.word as usize).map_or(0, |word| word >> place.shift & Place::MASK)
    }

    fn wanted_bits(&self, place: Place) -> u64 {
        self.ports.get(&place).map_or(0, bits)
    }

    fn write_bits(&mut self, place: Place) -> Result<(), HookError> {
        let word = self.words.get(place.word as usize).copied().unwrap_or_default();
        self.write_word(place.word, word & !(Place::MASK << place.shift) | self.wanted_bits(place) << place.shift)
    }

    fn write_word(&mut self, index: u32, wanted: u64) -> Result<(), HookError> {
        if let Some(word) = self.words.get_mut(index as usize).filter(|word| **word != wanted) {
            self.hook.set_word(index, wanted)?;
            *word = wanted;
        }
        Ok(())
    }

    fn entry(&self, key: &HeldKey) -> Option<u32> {
        self.entries.get(key).copied()
    }

    fn set_entry(&mut self, key: HeldKey, entry: Option<u32>) -> Result<(), HookError> {
        if self.entry(&key) == entry {
            return Ok(());
        }
        self.hook.set_entry(key, entry)?;
        match entry {
            Some(entry) => self.entries.insert(key, entry),
            None => self.entries.remove(&key),
        };
        Ok(())
    }
}

fn place(published: &Published) -> Option<Place> {
    Place::of(published.protocol.number().into(), published.host_port.into())
}

/// Returns the key of a port that is held at one address.
fn key(published: &Published) -> Option<HeldKey> {
    let address = published.host_ip.filter(|address| !address.is_unspecified())?;
    Some(key_of(address, published.host_port, published.protocol))
}

fn key_of(address: IpAddr, port: u16, protocol: Protocol) -> HeldKey {
    let address = match address {
        IpAddr::V4(address) => Address::mapped(address.octets()),
        IpAddr::V6(address) => Address::new(address.octets()),
    };
    HeldKey { address, port: port.into(), protocol: protocol.number().into() }
}

/// Returns the bits of a port that is published in these ways.
fn bits<'a>(ports: impl IntoIterator<Item = &'a Published>) -> u64 {
    ports.into_iter().fold(0, |bits, port| {
        bits | match port.host_ip {
            None => flag::ALL_IPV4 | flag::ALL_IPV6,
            Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED)) => flag::ALL_IPV4,
            Some(IpAddr::V4(_)) => flag::SOME_IPV4,
            Some(address) if address.is_unspecified() => flag::ALL_IPV6,
            Some(_) => flag::SOME_IPV6,
        }
    })
}
