//! The programs on the WireGuard device, which carries the packets of encrypted tunnels only.

use super::hooks::{self, Hook};
use super::load::Pins;
use super::{Datapath, DatapathError};

impl Datapath {
    /// Attaches the programs to the WireGuard device, given by index and name, or replaces the
    /// programs of an earlier daemon. Removes the links to another WireGuard device, which no
    /// longer exists. Until the programs are attached, no packet that comes out of the device is
    /// accepted as a tunnel packet.
    ///
    /// # Errors
    /// Returns the error of the kernel.
    pub fn set_wireguard(&self, device: Option<(u32, &str)>) -> Result<(), DatapathError> {
        let programs = &mut *self.programs();
        let pins = Pins(&self.options.directory);
        let both = [Hook::WireguardOut, Hook::Wireguard];
        hooks::forget(&both, device.map(|(ifindex, _)| ifindex), &pins)?;
        if let Some((ifindex, name)) = device {
            programs.ensure(&both)?;
            for hook in both {
                hooks::attach_tc(programs, self.tc, hook, name, ifindex, &pins)?;
            }
        }
        Ok(())
    }
}
