//! Broadcast frames from one container to all others of its network, injected by BPF_PROG_RUN. The
//! copies are counted.

use std::{
    fs,
    net::Ipv4Addr,
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::frames::{frame, mac};
use crate::{bpf, command::stop_if_interrupted, cpus::CLIENT_CPU, topology::Segment};

/// Number of receivers, with the key of the figure.
pub const FLOODS: [(usize, &str); 3] = [(FEWEST, "flood2"), (16, "flood16"), (128, "flood128")];

/// The smallest number of receivers.
pub const FEWEST: usize = 2;

/// Copies in flight at once. The kernel's queue between two veth ends holds 1,000 frames per CPU
/// (net.core.netdev_max_backlog), and all variants lose frames beyond that.
const IN_FLIGHT: usize = 512;
/// Copies per system call.
const CHUNK: usize = 1 << 16;
const WARM_UP: u32 = 256;
/// Tolerated loss. The machine is shared, and a late softirq finds full queues.
const TOLERATED_LOSS: f64 = 0.01;

/// Returns the injected frames of which every receiver got its copy, in thousands per second.
pub fn flooded_kpps(segment: &Segment, window: Duration) -> Result<f64> {
    let pass = bpf::load_pass(&[])?;
    let sender = &segment.sender;
    let source = mac(&sender.netns.device(&sender.ifname)?.address)?;
    let [a, b, c, _] = sender.ipv4.octets();
    let frame = frame(source, [0xff; 6], sender.ipv4, Ipv4Addr::new(a, b, c, 255));
    let ports = segment.receivers.len();
    let batch = batch_size(ports);
    let chunk = (CHUNK / ports.max(1)) as u32;
    let inject = |frames| bpf::run_live_in_batches(pass.as_fd(), &frame, segment.port, frames, batch);
    segment.host.inside(CLIENT_CPU, || inject(WARM_UP))?;

    let before = received(segment)?;
    let (injected, elapsed) = segment.host.inside(CLIENT_CPU, || {
        let (start, mut injected) = (Instant::now(), 0_u64);
        while start.elapsed() < window {
            inject(chunk)?;
            injected += u64::from(chunk);
            stop_if_interrupted()?;
        }
        Ok((injected, start.elapsed()))
    })?;
    // Queued frames are delivered within a softirq.
    std::thread::sleep(Duration::from_millis(20));
    let copies = received(segment)? - before;
    let share = copies as f64 / (injected as f64 * ports as f64);
    // Containers send a few frames of their own (neighbor discovery), so the share may exceed 1.
    if !(1.0 - TOLERATED_LOSS..=1.0 + TOLERATED_LOSS).contains(&share) {
        bail!(
            "{injected} broadcasts to {ports} receivers made {copies} copies, which is {share:.3} of the expected number"
        );
    }
    Ok(copies as f64 / ports as f64 / elapsed.as_secs_f64() / 1e3)
}

/// Returns the number of frames per batch.
fn batch_size(ports: usize) -> u32 {
    ((IN_FLIGHT / ports.max(1)) as u32).clamp(1, bpf::BATCH)
}

/// Returns the frames that all receivers' devices have passed to the stack.
fn received(segment: &Segment) -> Result<u64> {
    let mut sum = 0;
    for receiver in &segment.receivers {
        // /proc/net shows the namespace of the process's first thread, so it is not used.
        let table = receiver.netns.inside(CLIENT_CPU, || Ok(fs::read_to_string("/proc/thread-self/net/dev")?))?;
        sum += received_by(&table, &receiver.ifname)
            .with_context(|| format!("{} is not in /proc/net/dev of {}", receiver.ifname, receiver.netns))?;
    }
    Ok(sum)
}

/// Returns the frames that a device received, from the text of /proc/net/dev.
fn received_by(table: &str, ifname: &str) -> Option<u64> {
    let (_, numbers) = table.lines().filter_map(|line| line.split_once(':')).find(|(name, _)| name.trim() == ifname)?;
    numbers.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batch_size_limits_the_copies_in_flight() {
        assert_eq!([1, 2, 16, 128, 10_000].map(batch_size), [64, 64, 32, 4, 1]);
    }

    #[test]
    fn received_frames_are_the_second_column() {
        let table =
            "Inter-|   Receive\n face |bytes    packets errs\n    lo:       0       0    0\n  eth0:  600 10 1 0\n";
        assert_eq!(received_by(table, "eth0"), Some(10));
        assert_eq!(received_by(table, "eth1"), None);
    }
}
