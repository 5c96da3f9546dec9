//! Makes the host as it is wanted, and keeps it so.

use std::sync::{Arc, PoisonError};

use nftables::schema::Nftables;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::model::Instance;

use super::firewall::{self, Firewall};
use super::forwarding::{self, ForwardingStatus};
use super::nft::{Census, Listing};
use super::{OutsideError, Wanted, follow, nft, ruleset};

/// An instance's side of the host. Everything runs in the namespace of the threads that call it.
#[derive(Debug)]
pub struct Outside {
    instance: Instance,
    state: Mutex<State>,
    /// Apart, so that asking never waits for a change.
    status: std::sync::Mutex<Shown>,
}

/// What `vswitch status` says about it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutsideStatus {
    /// The nftables table, if there is need of one.
    pub table: Option<String>,
    /// The settings that networks need, and what was changed.
    pub forwarding: Vec<ForwardingStatus>,
    /// What else was done about firewalls, or has to be.
    pub notes: Vec<String>,
}

#[derive(Debug, Default)]
struct State {
    wanted: Wanted,
    /// The commands for the table, and what the kernel showed right after them. None until the first time.
    applied: Option<(Option<Nftables<'static>>, Option<Listing>)>,
    firewall: Firewall,
}

#[derive(Clone, Debug, Default)]
struct Shown {
    wanted: Wanted,
    table: Option<String>,
    changes: Vec<ForwardingStatus>,
    notes: Vec<String>,
}

/// Removes what an instance has put into the host's firewalls, also after a daemon that died. It is fine if there is
/// nothing, nor even an `nft`. The settings stay, see [the module](super).
///
/// # Errors
/// [`OutsideError`], if nft or iptables refuse.
pub async fn remove(instance: &Instance) -> Result<(), OutsideError> {
    match nft::list(&instance.nft_table()).await {
        // Without the program, we have made nothing with it.
        Err(OutsideError::NftMissing) | Ok(None) => {}
        Ok(Some(_)) => nft::carry_out(&ruleset::deletion(&instance.nft_table()), "delete our table").await?,
        Err(error) => return Err(error),
    }
    let mut firewall = Firewall::default();
    match firewall.apply(instance, &Wanted::default()).await {
        Err(OutsideError::NftMissing) => Ok(()),
        result => result,
    }
}

impl Outside {
    /// Of an instance; nothing is done yet.
    pub fn new(instance: &Instance) -> Self {
        Self { instance: instance.clone(), state: Mutex::default(), status: std::sync::Mutex::default() }
    }

    /// Makes the host as it is wanted. The devices have to be there. The table is replaced as a whole, or left if it is
    /// as it should be.
    ///
    /// # Errors
    /// [`OutsideError`]. The table is then as it was; a setting, or iptables, may have been changed.
    pub async fn apply(&self, wanted: Wanted) -> Result<(), OutsideError> {
        let commands = ruleset::plan(&self.instance.nft_table(), &wanted)?;
        let mut state = self.state.lock().await;
        let changes = forwarding::enable(&self.instance, &wanted)?;
        self.replace_table(&mut state, commands).await?;
        state.wanted = wanted;
        let done = state.apply_firewall(&self.instance).await;
        self.show(&state, changes);
        done
    }

    /// Restores what somebody else flushes or changes, for as long as it is polled.
    pub async fn follow(self: Arc<Self>) {
        follow::run(&self).await;
    }

    /// How it is.
    pub fn status(&self) -> OutsideStatus {
        let Shown { wanted, table, changes, notes } =
            self.status.lock().unwrap_or_else(PoisonError::into_inner).clone();
        OutsideStatus { table, forwarding: forwarding::status(&wanted, &changes), notes }
    }

    pub(super) fn table(&self) -> String {
        self.instance.nft_table()
    }

    /// Looks whether the table is as it was left, and makes it anew if not. Returns whether it did.
    pub(super) async fn restore_table(&self) -> Result<bool, OutsideError> {
        let mut state = self.state.lock().await;
        let Some((Some(commands), _)) = state.applied.clone() else { return Ok(false) };
        self.replace_table(&mut state, Some(commands)).await
    }

    /// The same for what firewalls beside us need.
    pub(super) async fn restore_firewall(&self) -> Result<(), OutsideError> {
        let mut state = self.state.lock().await;
        if state.applied.is_none() {
            return Ok(());
        }
        let done = state.apply_firewall(&self.instance).await;
        self.show(&state, Vec::new());
        done
    }

    async fn replace_table(
        &self,
        state: &mut State,
        commands: Option<Nftables<'static>>,
    ) -> Result<bool, OutsideError> {
        let table = self.instance.nft_table();
        let found = match (nft::list(&table).await, &commands) {
            (Err(OutsideError::NftMissing), None) => None,
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
        status.table = state.applied.as_ref().is_some_and(|(commands, _)| commands.is_some()).then(|| self.table());
        for change in changes {
            // What it had before the first of our changes is what somebody may want back.
            if !status.changes.iter().any(|known| known.name == change.name) {
                status.changes.push(change);
            }
        }
        status.notes = state.firewall.notes().to_vec();
    }
}

/// How often a table is made that somebody changes in the same moment.
const ATTEMPTS: usize = 3;

/// Makes the table, and returns how the kernel shows it.
async fn make(table: &str, commands: &Nftables<'static>) -> Result<Option<Listing>, OutsideError> {
    let expected = Census::of(commands)?;
    let mut seen = None;
    for _ in 0..ATTEMPTS {
        nft::carry_out(commands, "replace our table").await?;
        seen = nft::list(table).await?;
        // Somebody may have been at it between the two. That must not pass for how it should be.
        if seen.as_ref().is_some_and(|seen| seen.census() == expected) {
            return Ok(seen);
        }
    }
    tracing::warn!("the table {table} is not as it was made: does somebody change it all the time?");
    Ok(seen)
}

impl State {
    /// A firewall beside us that cannot be dealt with is no reason to have no network.
    async fn apply_firewall(&mut self, instance: &Instance) -> Result<(), OutsideError> {
        let wanted = std::mem::take(&mut self.wanted);
        let result = self.firewall.apply(instance, &wanted).await;
        self.wanted = wanted;
        match result {
            Err(OutsideError::NftMissing) if self.wanted.is_nothing() => Ok(()),
            Err(error @ OutsideError::Iptables { .. }) => {
                tracing::warn!("{error}");
                self.firewall.note(firewall::refused(&error));
                Ok(())
            }
            result => result,
        }
    }
}
