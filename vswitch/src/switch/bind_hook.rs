//! The programs at bind(2) that hold published ports, for [`crate::nat::Reservations`].

use std::collections::BTreeMap;
use std::sync::Arc;

use vswitch_common::held::HeldKey;

use crate::datapath::Datapath;
use crate::kernel::{cgroup, netns};
use crate::nat::{BindHook, HookError};

/// The programs of the datapath, in the namespace of the daemon.
#[derive(Debug)]
pub struct Hook(pub Arc<Datapath>);

impl BindHook for Hook {
    fn is_attached(&self) -> bool {
        self.0.holds_binds()
    }

    fn attach(&self) -> Result<(), HookError> {
        let Some(root) = cgroup::root() else {
            return Err(
                "no cgroup v2 is mounted (mount it, as in `mount -t cgroup2 none /sys/fs/cgroup/unified`, and \
                        restart the daemon)"
                    .into(),
            );
        };
        Ok(self.0.hold_binds(&root, netns::cookie()?)?)
    }

    fn words(&self) -> Result<Vec<u64>, HookError> {
        Ok(self.0.held_words()?)
    }

    fn entries(&self) -> Result<BTreeMap<HeldKey, u32>, HookError> {
        Ok(self.0.held_at()?)
    }

    fn set_word(&self, index: u32, word: u64) -> Result<(), HookError> {
        Ok(self.0.set_held_word(index, word)?)
    }

    fn set_entry(&self, key: HeldKey, entry: Option<u32>) -> Result<(), HookError> {
        Ok(self.0.set_held_at(key, entry)?)
    }
}
