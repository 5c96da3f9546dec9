//! The underlay: the devices that lead to peers, and our addresses there.

use std::collections::BTreeSet;
use std::net::IpAddr;

use vswitch_common::packet::address::Address;

use super::hooks::{self, Hook};
use super::load::Pins;
use super::ports::mapped;
use super::tables::removed;
use super::{Datapath, DatapathError};

/// Where tunnels end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnderlaySpec {
    /// The devices that lead to peers, with their names.
    pub devices: Vec<(u32, String)>,
    /// The addresses of this host.
    pub addresses: BTreeSet<IpAddr>,
    /// The UDP port of the tunnels.
    pub port: u16,
}

impl Datapath {
    /// Brings the programs and the table of the underlay in line. Devices stay the host's own: what is no tunnel's packet
    /// passes as if nobody had looked.
    ///
    /// # Errors
    /// What the kernel refused; what was done so far stays.
    pub fn set_underlay(&self, spec: &UnderlaySpec) -> Result<(), DatapathError> {
        let mut state = self.state();
        let failed = |cause| DatapathError::Table { table: "UNDERLAY", cause };
        let wanted: BTreeSet<Address> = spec.addresses.iter().copied().map(mapped).collect();
        let there = state.maps.underlay.keys().collect::<Result<Vec<Address>, _>>().map_err(failed)?;
        for address in there.into_iter().filter(|address| !wanted.contains(address)) {
            removed(state.maps.underlay.remove(&address), "UNDERLAY")?;
        }
        for address in wanted {
            state.maps.underlay.insert(address, u32::from(spec.port), 0).map_err(failed)?;
        }
        let pins = Pins(&self.options.directory);
        let wanted: BTreeSet<u32> = spec.devices.iter().map(|(ifindex, _)| *ifindex).collect();
        let gone: Vec<u32> = state.underlay.difference(&wanted).copied().collect();
        for ifindex in gone {
            hooks::detach_underlay(ifindex, &pins)?;
            state.underlay.remove(&ifindex);
        }
        for (ifindex, device) in &spec.devices {
            if !state.underlay.contains(ifindex) {
                hooks::attach_tc(&mut state.programs, self.tc, Hook::Underlay, device, *ifindex, &pins)?;
                state.underlay.insert(*ifindex);
            }
        }
        Ok(())
    }
}
