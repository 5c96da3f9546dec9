//! The network `none`: loopback alone.

use crate::plan::{Device, Step};

/// What an endpoint needs.
pub(super) fn endpoint() -> Vec<Step> {
    vec![Step::SetUp { device: Device::container("lo") }]
}
