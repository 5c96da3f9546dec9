//! The shares of the networks in the FDB. A network that learns without end leaves room for the
//! others.

use super::{MAX_PORTS, NetworkNumber};

/// How many stations each network may learn, and where the table of stations by network has what is
/// counted for it.
///
/// Half of the stations that can be learned is divided equally among the networks that learn:
/// each network is sure of its share. The rest is for the networks that come first. A single network
/// may learn all stations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// The number of stations that each network may learn in any case.
    pub sure: u64,
    /// The number of stations for which there is room as long as the other networks use their
    /// share.
    pub kept: u64,
}

impl Shares {
    /// Entries of the table: two for each network.
    pub const ENTRIES: u32 = 2 * MAX_PORTS;
    /// The index of [`Shares::sure`]. No network has the number 0.
    pub const SURE: u32 = 0;
    /// The index of [`Shares::kept`].
    pub const KEPT: u32 = MAX_PORTS;

    /// Returns the index of the number of stations ever learned in a network.
    #[inline(always)]
    pub const fn learned(network: NetworkNumber) -> u32 {
        network.0
    }

    /// Returns the index of the number of those that the daemon has removed since.
    #[inline(always)]
    pub const fn forgotten(network: NetworkNumber) -> u32 {
        MAX_PORTS + network.0
    }

    /// Returns the shares if `networks` networks learn.
    pub const fn of(learnable: u64, networks: u64) -> Self {
        if networks <= 1 {
            return Self { sure: learnable, kept: 0 };
        }
        let sure = learnable / (2 * networks);
        Self { sure, kept: sure * (networks - 1) }
    }

    /// Returns whether a network with `own` of all `learned` stations may learn no more of them.
    #[inline(always)]
    pub const fn are_used_up(&self, own: u64, learned: u64, learnable: u64) -> bool {
        own >= self.sure && learned + self.kept >= learnable
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    /// Learns at each of the networks in turn until no network can learn more.
    fn fill(learnable: u64, counts: &mut [u64], greedy: &[usize]) {
        let shares = Shares::of(learnable, counts.len() as u64);
        loop {
            let before = counts.to_vec();
            for network in greedy {
                let learned = counts.iter().sum();
                if learned < learnable && !shares.are_used_up(counts[*network], learned, learnable) {
                    counts[*network] += 1;
                }
            }
            if before == *counts {
                return;
            }
        }
    }

    #[test]
    fn a_single_network_may_learn_everything() {
        let mut counts = [0];
        fill(1000, &mut counts, &[0]);
        assert_eq!(counts, [1000]);
    }

    #[test]
    fn every_network_gets_its_share_whatever_the_others_learn() {
        for networks in 2..20_usize {
            for greedy in 1..networks {
                let mut counts = std::vec![0; networks];
                fill(1000, &mut counts, &(0..greedy).collect::<Vec<_>>());
                fill(1000, &mut counts, &(greedy..networks).collect::<Vec<_>>());
                let sure = Shares::of(1000, networks as u64).sure;
                assert!(counts.iter().all(|count| *count >= sure), "{networks} networks: {counts:?}");
                assert!(counts.iter().sum::<u64>() <= 1000);
            }
        }
    }
}
