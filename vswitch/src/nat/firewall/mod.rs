//! Other firewalls on the host. An accept verdict in our table does not override a drop elsewhere,
//! because every base chain on a hook is evaluated. If Docker or another user of iptables drops
//! forwarded packets, a chain of ours in iptables accepts the packets of our networks; no other
//! rule there is changed. If an nftables chain drops them, only its owner can know where an accept
//! rule belongs, so a note for `status` says what to do.

mod iptables;
mod native;
mod program;

use std::collections::BTreeSet;

use crate::model::Instance;

use super::{NatError, Wanted, nft};
use iptables::{Chain, Seen};
use program::{Family, Flavour};

/// The state of the other firewalls.
#[derive(Debug, Default)]
pub(super) struct Firewall {
    notes: Vec<String>,
    /// The chain last written to each iptables, and its listing right after. Some versions of
    /// iptables print a rule differently from its input; the listing keeps such a chain from being
    /// rewritten each time.
    settled: Vec<(Family, Flavour, Chain, Vec<String>)>,
}

/// Returns the note about an iptables that refused a change.
pub(super) fn refused(error: &NatError) -> String {
    format!("{error}; what goes in and out of networks may be dropped")
}

/// Reports whether a firewall exists that sends no notifications of its changes: the legacy
/// interface of iptables.
pub(super) fn is_silent() -> bool {
    Family::ALL.into_iter().any(Flavour::has_legacy_table)
}

impl Firewall {
    /// Returns the notes for `status`.
    pub(super) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Adds a note, which stays until the next [`Firewall::apply`].
    pub(super) fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    /// Reads all firewalls, and makes iptables accept the packets of the wanted networks.
    pub(super) async fn apply(&mut self, instance: &Instance, wanted: &Wanted) -> Result<(), NatError> {
        self.notes.clear();
        let chains = nft::chains().await?;
        if !wanted.is_nothing() {
            self.notes.extend(native::dropped_by(&chains, &instance.nft_table(), wanted));
        }
        for family in Family::ALL {
            for flavour in Flavour::ALL {
                if flavour.is_used(family, &chains, &instance.iptables_chain()) {
                    self.apply_to(family, flavour, instance, wanted).await?;
                }
            }
        }
        Ok(())
    }

    async fn apply_to(
        &mut self,
        family: Family,
        flavour: Flavour,
        instance: &Instance,
        wanted: &Wanted,
    ) -> Result<(), NatError> {
        let Some((program, listing)) = program::list(family, flavour).await? else {
            let name = family.program();
            self.notes.push(format!(
                "{name} rules may drop what goes in and out of networks, and the program {name} is missing (install it)"
            ));
            return Ok(());
        };
        let name = instance.iptables_chain();
        let seen = Seen::read(&listing, &name);
        let wanted = wanted_chain(name, family, &seen, wanted);
        let settled = |(of, kind, chain, looks): &(Family, Flavour, Chain, Vec<String>)| {
            (*of, *kind, chain, looks) == (family, flavour, &wanted, &seen.rules)
        };
        let as_written = self.settled.iter().any(settled);
        if let Some(script) = seen.changes(&wanted, as_written) {
            program.restore(&script).await?;
            self.settled.retain(|(of, kind, ..)| (*of, *kind) != (family, flavour));
            let now = Seen::read(&program.list().await?, &wanted.name);
            self.settled.push((family, flavour, wanted.clone(), now.rules));
            tracing::info!("{}: chain {} is written", program.name(), wanted.name);
        }
        if wanted.is_there() {
            let why = if seen.docker_user { "has Docker's chains" } else { "drops what is forwarded" };
            self.notes.push(format!("{} {why}: our chain {} there lets networks pass", program.name(), wanted.name));
        }
        Ok(())
    }
}

/// Returns the wanted chain: empty if iptables drops no forwarded packets.
fn wanted_chain(name: String, family: Family, seen: &Seen, wanted: &Wanted) -> Chain {
    let of_family = |subnet: &ipnet::IpNet| subnet.addr().is_ipv4() == (family == Family::V4);
    let open = wanted.open_networks().filter(|network| network.subnets.iter().any(of_family));
    let devices: BTreeSet<_> = open.map(|network| network.device.clone()).collect();
    let devices = if seen.drops() { devices } else { BTreeSet::new() };
    Chain { name, devices }
}
