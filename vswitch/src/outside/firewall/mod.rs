//! Firewalls beside us. An accept of ours does not outlive somebody else's drop: each base chain on a hook has its say.
//! So where Docker, or whoever uses iptables, drops what is forwarded, a chain of ours in iptables lets ours pass, and
//! nothing else there is touched. Where nftables does, only its owner can know where to accept: that is noted for
//! `status`, with what to do.

mod iptables;
mod native;
mod program;

use std::collections::BTreeSet;

use crate::model::Instance;

use super::{OutsideError, Wanted, nft};
use iptables::{Chain, Seen};
use program::{Family, Flavour};

/// What is known about the firewalls beside us.
#[derive(Debug, Default)]
pub(super) struct Firewall {
    notes: Vec<String>,
    /// What we wrote last into each iptables, and how that looked there right after. Where a version of it prints a rule
    /// in another way than we write it, it is not written again each time.
    settled: Vec<(Family, Flavour, Chain, Vec<String>)>,
}

/// The note about an iptables that refused.
pub(super) fn refused(error: &OutsideError) -> String {
    format!("{error}; what goes in and out of networks may be dropped")
}

/// Whether there is a firewall of whose changes nobody tells.
pub(super) fn is_silent() -> bool {
    Family::ALL.into_iter().any(Flavour::has_legacy_table)
}

impl Firewall {
    /// What `status` should say.
    pub(super) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Adds to that, until the next look.
    pub(super) fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    /// Looks at all of them, and has iptables let pass what is wanted.
    pub(super) async fn apply(&mut self, instance: &Instance, wanted: &Wanted) -> Result<(), OutsideError> {
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
    ) -> Result<(), OutsideError> {
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

/// The chain as it should be: empty where there is nobody to drop anything.
fn wanted_chain(name: String, family: Family, seen: &Seen, wanted: &Wanted) -> Chain {
    let of_family = |subnet: &ipnet::IpNet| subnet.addr().is_ipv4() == (family == Family::V4);
    let open = wanted.open_networks().filter(|network| network.subnets.iter().any(of_family));
    let devices: BTreeSet<_> = open.map(|network| network.device.clone()).collect();
    let devices = if seen.drops() { devices } else { BTreeSet::new() };
    Chain { name, devices }
}
