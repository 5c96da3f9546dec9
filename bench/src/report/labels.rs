//! The labels of rows.

use crate::results::{FigureKind, variant};

/// Returns the label of a row in tables and plots.
pub(super) fn label<'key>(figure: &FigureKind, row: &'key str) -> &'key str {
    match (figure.key, row) {
        ("frames" | "wire_frames", "direct") => "no switch",
        ("published1" | "published4" | "published_cps", "direct") => "no NAT, directly behind the uplink",
        ("attach", "bridge") => "Linux bridge, by five `ip` commands",
        ("start", "up") => "vswitch, `up` without state",
        ("start", "takeover") => "vswitch, `up` after kill -9, 10 endpoints",
        ("memory", "vswitch_empty") => "vswitch, no endpoint",
        ("memory", "vswitch_full") => "vswitch, 50 endpoints",
        ("scale", "create") => "vswitch, creating the networks",
        ("scale", "attach") => "vswitch, attaching all",
        ("scale", "remove") => "vswitch, removing all",
        ("scale", "total") => "vswitch, total",
        ("scale_attach", "first") => "vswitch, the first hundred",
        ("scale_attach", "last") => "vswitch, the last hundred",
        ("cluster_reach", "attach") => "vswitch, request to response",
        ("cluster_reach", "from_return") => "vswitch, response to first reply",
        ("cluster_reach", "from_start") => "vswitch, request to first reply",
        ("cluster_memory", "alone") => "vswitch, no other host",
        ("cluster_memory", "running") => "vswitch, 100,000 added while running",
        ("cluster_memory", "started") => "vswitch, 100,000 before the start",
        ("cluster_follow", "running") => "vswitch, last write to last entry",
        ("cluster_follow", "up") => "vswitch, `up`",
        ("cluster_follow", "told") => "vswitch, `up` to all received",
        ("cluster_follow", "started") => "vswitch, `up` to last entry",
        ("cluster_rate", "written") => "etcd, written",
        ("cluster_rate", "followed") => "vswitch, written and followed",
        ("cluster_rate", "moved") => "vswitch, written and moved in the tables",
        (_, "fdb10") => "vswitch, 10 stations",
        (_, "fdb10k") => "vswitch, 10,000 stations",
        (_, "fdb1m") => "vswitch, 1,000,000 stations",
        (_, "unwatched") => "vswitch, not monitored",
        (_, "for_others") => "vswitch, monitored for other frames",
        (_, "for_all") => "vswitch, monitored",
        ("guards_tcp1" | "guards_tcp4" | "guards_rr" | "guards_ns", "vswitch") => "vswitch, guards on",
        _ => match variant(row) {
            Some(variant) => variant.label(),
            None => row,
        },
    }
}
