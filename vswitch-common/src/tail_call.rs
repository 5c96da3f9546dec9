//! The programs that others run by a tail call, and the entry of each in the program array.
//!
//! The kernel name of the array is `CARRIERS`. The entries are part of what a takeover relies on:
//! the programs of an earlier daemon call the entries of a later one until they are replaced
//! themselves.

/// Declares each program that is run by a tail call once: entry, program name, description.
macro_rules! tail_calls {
    ($($variant:ident = $entry:literal, $program:literal, $description:literal;)*) => {
        /// A program that is run by a tail call. The number is its entry in the program array.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum TailCall {
            $(#[doc = $description] $variant = $entry,)*
        }

        impl TailCall {
            /// All programs, in the order of the array.
            pub const ALL: [Self; [$($entry),*].len()] = [$(Self::$variant),*];

            /// Returns the name of the program in the eBPF object.
            pub const fn program(self) -> &'static str {
                match self {
                    $(Self::$variant => $program,)*
                }
            }
        }
    };
}

tail_calls! {
    Carry = 0, "carry", "Carries out floods, answers and rare changes of VLAN tags.";
    GroupFromContainer = 1, "group_from_container", "Broadcast and multicast from containers, after the guards.";
    GroupFromHost = 2, "group_from_host", "Broadcast and multicast from the host.";
    GroupFromUplink = 3, "group_from_uplink", "Broadcast and multicast from uplinks.";
    GuardedGroupFromContainer = 4, "guarded_group_from_container",
        "The guards of broadcast and multicast from containers.";
    GroupFromChild = 5, "group_from_child", "Broadcast and multicast from children, after the guards.";
    GuardedGroupFromChild = 6, "guarded_group_from_child", "The guards of broadcast and multicast from children.";
    GroupFromParent = 7, "group_from_parent", "Broadcast and multicast from parents.";
    GroupFromTunnel = 8, "group_from_tunnel", "Broadcast and multicast from tunnels.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_numbered_in_order() {
        for (entry, call) in TailCall::ALL.into_iter().enumerate() {
            assert_eq!(call as usize, entry, "{}", call.program());
        }
    }
}
