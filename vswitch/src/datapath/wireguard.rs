//! The device of WireGuard: what passes there is a tunnel's.

use super::hooks::{self, Hook};
use super::load::Pins;
use super::{Datapath, DatapathError};

impl Datapath {
    /// Puts the programs on the device of WireGuard, by its number and its name, or in the place of an earlier daemon's; and
    /// forgets those on another one that is gone. Until this is done, nothing that comes out of it is believed.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn set_wireguard(&self, device: Option<(u32, &str)>) -> Result<(), DatapathError> {
        let mut state = self.state();
        let pins = Pins(&self.options.directory);
        let programs = [Hook::WireguardOut, Hook::Wireguard];
        hooks::forget(&programs, device.map(|(ifindex, _)| ifindex), &pins)?;
        if let Some((ifindex, name)) = device {
            for hook in programs {
                hooks::attach_tc(&mut state.programs, self.tc, hook, name, ifindex, &pins)?;
            }
        }
        Ok(())
    }
}
