//! Other firewalls on the host. An accept verdict in our table does not override a drop elsewhere,
//! because every base chain on a hook is evaluated. If Docker or another user of iptables drops
//! packets, chains of ours in iptables accept those of our networks; no other rule there is changed.
//! firewalld gets a zone. If another nftables chain drops them, only its owner can know where an
//! accept rule belongs, so `status` names the chain and says what to do.

mod evaluate;
mod firewalld;
mod iptables;
mod native;
mod program;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model::Instance;

use super::{NatError, Wanted, nft};
use firewalld::Refusal;
use iptables::{Chain, Hook, Seen};
use program::{Family, Flavour};

/// What another firewall does to the packets of our networks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FirewallStatus {
    /// The firewall: a program, or the family, table and name of a chain of nftables.
    pub firewall: String,
    /// Whether it drops packets that networks need.
    pub drops: bool,
    /// What was found.
    pub found: String,
    /// What to do.
    pub advice: Option<String>,
}

/// The state of the other firewalls.
#[derive(Debug, Default)]
pub(super) struct Firewall {
    found: Vec<FirewallStatus>,
    /// The chain last written to each iptables, and its listing right after. Some versions of
    /// iptables print a rule differently from its input; the listing keeps such a chain from being
    /// rewritten each time.
    settled: Vec<(Family, Flavour, Chain, Vec<String>)>,
    /// The last listings of the legacy interface of iptables.
    legacy: Vec<(Family, String)>,
    /// The time at which firewalld did not answer.
    unanswered: Option<Instant>,
}

/// The time after which firewalld is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(3);

impl FirewallStatus {
    fn ok(firewall: &str, found: String) -> Self {
        Self { firewall: firewall.to_owned(), drops: false, found, advice: None }
    }

    fn bad(firewall: &str, found: String, advice: &str) -> Self {
        Self { firewall: firewall.to_owned(), drops: true, found, advice: Some(advice.to_owned()) }
    }

    /// Returns the note for `status`; `None` if there is nothing to say.
    pub(super) fn note(&self) -> Option<String> {
        match &self.advice {
            Some(advice) => Some(format!("{} ({advice})", self.found)),
            None if self.drops => Some(self.found.clone()),
            // The rules of programs are ours, and chains of nftables have several words.
            None => (!self.firewall.contains(' ')).then(|| format!("{} {}", self.firewall, self.found)),
        }
    }
}

impl Firewall {
    /// Returns what the firewalls do to our packets.
    pub(super) fn found(&self) -> &[FirewallStatus] {
        &self.found
    }

    /// Adds an iptables that refused a change, until the next [`Firewall::apply`].
    pub(super) fn refused(&mut self, program: &str, error: &NatError) {
        let found = format!("{error}; what goes in and out of networks may be dropped");
        self.found.push(FirewallStatus {
            firewall: program.trim_end_matches("-restore").to_owned(),
            drops: true,
            found,
            advice: None,
        });
    }

    /// Reports whether a firewall has changed that sends no notifications: the legacy interface of
    /// iptables, and firewalld while it starts.
    pub(super) async fn changed_silently(&self) -> bool {
        for family in Family::ALL.into_iter().filter(|family| Flavour::has_legacy_table(*family)) {
            let now = program::list(family, Flavour::Legacy).await.ok().flatten();
            let known = self.legacy.iter().find(|(of, _)| *of == family).map(|(_, listing)| listing);
            if now.map(|(_, listing)| listing).as_ref() != known {
                return true;
            }
        }
        self.unanswered.is_some_and(|at| at.elapsed() > ASK_AGAIN)
    }

    /// Reads all firewalls, and makes iptables and firewalld accept the packets of the wanted
    /// networks.
    pub(super) async fn apply(&mut self, instance: &Instance, wanted: &Wanted) -> Result<(), NatError> {
        self.found.clear();
        self.legacy.clear();
        let chains = nft::chains().await?;
        let ours = Hook::ALL.map(|hook| chain_name(instance, hook));
        // The tables that iptables refuses to read, because of rules that only nft can make.
        let mut unreadable = Vec::new();
        for family in Family::ALL {
            for flavour in Flavour::ALL {
                if flavour.is_used(family, &chains, &ours)
                    && let Err(error) = self.apply_to(family, flavour, instance, wanted).await
                {
                    match &error {
                        NatError::Iptables { complaint, .. } if complaint.contains("is incompatible") => {
                            unreadable.push(family);
                        }
                        _ => return Err(error),
                    }
                }
            }
        }
        self.apply_to_native(&chains, &unreadable, instance, wanted).await
    }

    async fn apply_to_native(
        &mut self,
        chains: &[Value],
        unreadable: &[Family],
        instance: &Instance,
        wanted: &Wanted,
    ) -> Result<(), NatError> {
        self.unanswered = None;
        if wanted.needs_no_firewall() {
            firewalld::withdraw(instance).await;
            return Ok(());
        }
        let table = instance.nft_table();
        let mut found = native::check(chains, &table, unreadable, wanted).await?;
        let of_firewalld = |status: &FirewallStatus| status.firewall.split(' ').nth(1) == Some(native::FIREWALLD);
        if found.iter().any(|status| of_firewalld(status) && status.drops) {
            let admitted = firewalld::admit(instance, wanted.tunnels).await;
            found = native::check(&nft::chains().await?, &table, unreadable, wanted).await?;
            if let Err(refusal) = admitted {
                found.retain(|status| !of_firewalld(status));
                found.push(match refusal {
                    Refusal::NotRunning => {
                        self.unanswered = Some(Instant::now());
                        FirewallStatus::bad(
                            native::FIREWALLD,
                            "names and forwarding are dropped by firewalld, which does not answer".to_owned(),
                            "start it, or remove what it left with `nft delete table inet firewalld`",
                        )
                    }
                    Refusal::Because(reason, advice) => FirewallStatus::bad(
                        native::FIREWALLD,
                        format!("names and forwarding are dropped by firewalld: {reason}"),
                        &advice,
                    ),
                });
            }
        }
        self.found.extend(found);
        Ok(())
    }

    async fn apply_to(
        &mut self,
        family: Family,
        flavour: Flavour,
        instance: &Instance,
        wanted: &Wanted,
    ) -> Result<(), NatError> {
        let Some((program, mut listing)) = program::list(family, flavour).await? else {
            let name = family.program();
            let found =
                format!("{name} rules may drop what goes in and out of networks, and the program {name} is missing");
            self.found.push(FirewallStatus::bad(name, found, "install it"));
            return Ok(());
        };
        let mut changed = false;
        for hook in Hook::ALL {
            let seen = Seen::read(&listing, hook, &chain_name(instance, hook));
            let wanted = wanted_chain(instance, hook, family, &seen, wanted);
            let settled = |(of, kind, chain, looks): &(Family, Flavour, Chain, Vec<String>)| {
                (*of, *kind, chain, looks) == (family, flavour, &wanted, &seen.rules)
            };
            let as_written = self.settled.iter().any(settled);
            if let Some(script) = seen.changes(&wanted, as_written) {
                program.restore(&script).await?;
                changed = true;
                self.settled
                    .retain(|(of, kind, chain, _)| (*of, *kind, &chain.name) != (family, flavour, &wanted.name));
                listing = program.list().await?;
                let now = Seen::read(&listing, hook, &wanted.name);
                self.settled.push((family, flavour, wanted.clone(), now.rules));
                tracing::info!("{}: chain {} is written", program.name(), wanted.name);
            }
            if wanted.is_there() {
                let why = match (hook, seen.docker_user) {
                    (_, true) => "has Docker's chains",
                    (Hook::Forward, _) => "drops what is forwarded",
                    (Hook::Input, _) => "drops what the host gets",
                };
                let found = format!("{why}: our chain {} there lets networks pass", wanted.name);
                self.found.push(FirewallStatus::ok(program.name(), found));
            }
        }
        if flavour == Flavour::Legacy {
            if changed {
                listing = program.list().await?;
            }
            self.legacy.push((family, listing));
        }
        Ok(())
    }
}

/// Returns the name of our chain for a chain of iptables.
fn chain_name(instance: &Instance, hook: Hook) -> String {
    match hook {
        Hook::Forward => instance.iptables_chain(),
        Hook::Input => instance.iptables_input_chain(),
    }
}

/// Returns the wanted chain: empty if iptables drops no packets.
fn wanted_chain(instance: &Instance, hook: Hook, family: Family, seen: &Seen, wanted: &Wanted) -> Chain {
    let name = chain_name(instance, hook);
    let ipv4 = family == Family::V4;
    match hook {
        _ if !seen.drops() => Chain::none(name, hook),
        Hook::Forward => {
            let of_family = |subnet: &ipnet::IpNet| subnet.addr().is_ipv4() == ipv4;
            let open = wanted.open_networks().filter(|network| network.subnets.iter().any(of_family));
            let devices: BTreeSet<_> = open.map(|network| network.device.clone()).collect();
            Chain::forward(name, &devices)
        }
        Hook::Input => Chain::input(name, ipv4, wanted.networks.iter()),
    }
}
