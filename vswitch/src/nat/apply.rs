//! Applies the rules to the host, and restores them.

use std::sync::PoisonError;

use nftables::schema::Nftables;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use vswitch_common::tables::MARK_PUBLISHED;

use crate::kernel::sysctl::SysctlError;
use crate::model::Instance;

use super::firewall::{Firewall, FirewallStatus};
use super::forwarding::{self, ForwardingStatus};
use super::nft::{Census, Listing};
use super::{NatError, Wanted, nft, ruleset};

/// The rules of an instance. Everything runs in the namespace of the calling threads.
#[derive(Debug)]
pub struct Nat {
    instance: Instance,
    /// The bit that marks connections to published ports.
    mark: u32,
    state: Mutex<State>,
    /// A lock of its own, so that reading the status never waits for a change.
    status: std::sync::Mutex<Shown>,
}

/// The state of the rules, for `vswitch status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NatStatus {
    /// The nftables table, if one is needed.
    pub table: Option<String>,
    /// The forwarding settings that networks need, and their former values.
    pub forwarding: Vec<ForwardingStatus>,
    /// Notes on other firewalls.
    pub notes: Vec<String>,
    /// What other firewalls do to the packets of networks.
    pub firewalls: Vec<FirewallStatus>,
}

#[derive(Debug, Default)]
struct State {
    wanted: Wanted,
    /// The commands for the table, and the listing right after them; `None` before the first
    /// change.
    applied: Option<(Option<Nftables<'static>>, Option<Listing>)>,
    firewall: Firewall,
}

#[derive(Clone, Debug, Default)]
struct Shown {
    wanted: Wanted,
    /// The settings that are on while the rules apply.
    needed: Vec<Vec<String>>,
    table: Option<String>,
    changes: Vec<ForwardingStatus>,
    firewalls: Vec<FirewallStatus>,
}

/// Removes the rules of an instance from the host's firewalls, also after the death of a daemon.
/// Missing rules, or a missing `nft`, are no error. Settings stay, see [the module](super).
///
/// # Errors
/// [`NatError`], if nft or iptables refuse a change.
pub async fn remove(instance: &Instance) -> Result<(), NatError> {
    match nft::list(&instance.nft_table()).await {
        // Without nft, no rules were made.
        Err(NatError::NftMissing) | Ok(None) => {}
        Ok(Some(_)) => nft::carry_out(&ruleset::deletion(&instance.nft_table()), "delete our table").await?,
        Err(error) => return Err(error),
    }
    let mut firewall = Firewall::default();
    match firewall.apply(instance, &Wanted::default()).await {
        Err(NatError::NftMissing) => Ok(()),
        result => result,
    }
}

impl Nat {
    /// Returns the owner of an instance's rules. Changes nothing.
    pub fn new(instance: &Instance) -> Self {
        let instance = instance.clone();
        Self { instance, mark: MARK_PUBLISHED, state: Mutex::default(), status: std::sync::Mutex::default() }
    }

    /// Sets the bit that marks connections to published ports.
    #[must_use]
    pub fn with_mark(self, mark: u32) -> Self {
        Self { mark, ..self }
    }

    /// Applies the wanted rules. The devices must exist. The table is replaced as a whole, unless
    /// it is correct already.
    ///
    /// # Errors
    /// [`NatError`]. The table is then unchanged; a setting or iptables may have been changed.
    pub async fn apply(&self, wanted: Wanted) -> Result<(), NatError> {
        let commands = ruleset::plan(&self.instance.nft_table(), &wanted, self.mark)?;
        let mut state = self.state.lock().await;
        let changes = forwarding::enable(&self.instance, &wanted)?;
        self.replace_table(&mut state, commands).await?;
        state.wanted = wanted;
        let done = state.apply_firewall(&self.instance).await;
        self.show(&state, changes);
        done
    }

    /// Returns the state of the rules.
    pub fn status(&self) -> NatStatus {
        let Shown { wanted, table, changes, firewalls, .. } =
            self.status.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut notes: Vec<_> = firewalls.iter().filter_map(FirewallStatus::note).collect();
        notes.dedup();
        NatStatus { table, forwarding: forwarding::status(&wanted, &changes), notes, firewalls }
    }

    /// Returns the settings that the rules need and that another program switched off.
    pub fn lost_settings(&self) -> Vec<Vec<String>> {
        let needed = self.status.lock().unwrap_or_else(PoisonError::into_inner).needed.clone();
        needed.into_iter().filter(|setting| forwarding::is_off(setting)).collect()
    }

    /// Switches a setting on again.
    ///
    /// # Errors
    /// The setting cannot be written.
    pub fn restore_setting(&self, setting: &[String]) -> Result<(), SysctlError> {
        let wanted = self.status.lock().unwrap_or_else(PoisonError::into_inner).wanted.clone();
        forwarding::switch_on(&self.instance, &wanted, setting)
    }

    pub(super) fn table(&self) -> String {
        self.instance.nft_table()
    }

    /// Restores the table if it was changed. Returns whether it was.
    pub(super) async fn restore_table(&self) -> Result<bool, NatError> {
        let mut state = self.state.lock().await;
        let Some((Some(commands), _)) = state.applied.clone() else { return Ok(false) };
        self.replace_table(&mut state, Some(commands)).await
    }

    /// Restores the rules in other firewalls.
    pub(super) async fn restore_firewall(&self) -> Result<(), NatError> {
        let mut state = self.state.lock().await;
        if state.applied.is_none() {
            return Ok(());
        }
        let done = state.apply_firewall(&self.instance).await;
        self.show(&state, Vec::new());
        done
    }

    /// Reports whether a firewall has changed that sends no notifications.
    pub(super) async fn firewall_changed_silently(&self) -> bool {
        let state = self.state.lock().await;
        state.applied.is_some() && state.firewall.changed_silently().await
    }

    async fn replace_table(&self, state: &mut State, commands: Option<Nftables<'static>>) -> Result<bool, NatError> {
        let table = self.instance.nft_table();
        let found = match (nft::list(&table).await, &commands) {
            (Err(NatError::NftMissing), None) => None,
            (found, _) => found?,
        };
        let Some(commands) = commands else {
            if found.is_some() {
                nft::carry_out(&ruleset::deletion(&table), "delete our table").await?;
            }
            state.applied = Some((None, None));
            return Ok(found.is_some());
        };
        let as_left = |(applied, seen): &(Option<Nftables<'static>>, Option<Listing>)| {
            applied.as_ref() == Some(&commands) && found.is_some() && *seen == found
        };
        if state.applied.as_ref().is_some_and(as_left) {
            return Ok(false);
        }
        let seen = make(&table, &commands).await?;
        state.applied = Some((Some(commands), seen));
        Ok(true)
    }

    fn show(&self, state: &State, changes: Vec<ForwardingStatus>) {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.wanted = state.wanted.clone();
        status.needed = forwarding::needed(&state.wanted);
        status.table = state.applied.as_ref().is_some_and(|(commands, _)| commands.is_some()).then(|| self.table());
        for change in changes {
            // Operators want the value before the first change.
            if !status.changes.iter().any(|known| known.name == change.name) {
                status.changes.push(change);
            }
        }
        status.firewalls = state.firewall.found().to_vec();
    }
}

/// The most attempts to write a table that another program changes at the same time.
const ATTEMPTS: usize = 3;

/// Writes the table, and returns its listing.
async fn make(table: &str, commands: &Nftables<'static>) -> Result<Option<Listing>, NatError> {
    let expected = Census::of(commands)?;
    let mut seen = None;
    for _ in 0..ATTEMPTS {
        nft::carry_out(commands, "replace our table").await?;
        seen = nft::list(table).await?;
        // Another program may have changed the table before the listing, which then must not count
        // as correct.
        if seen.as_ref().is_some_and(|seen| seen.census() == expected) {
            return Ok(seen);
        }
    }
    tracing::warn!(
        "the table {table} differs from the rules just written (does another program change it all the time?)"
    );
    Ok(seen)
}

impl State {
    /// A failure with another firewall is noted, because networks work without it.
    async fn apply_firewall(&mut self, instance: &Instance) -> Result<(), NatError> {
        let wanted = std::mem::take(&mut self.wanted);
        let result = self.firewall.apply(instance, &wanted).await;
        self.wanted = wanted;
        match result {
            Err(NatError::NftMissing) if self.wanted.is_nothing() => Ok(()),
            Err(error) => match &error {
                NatError::Iptables { program, .. } => {
                    tracing::warn!("{error}");
                    self.firewall.refused(program, &error);
                    Ok(())
                }
                _ => Err(error),
            },
            result => result,
        }
    }
}
