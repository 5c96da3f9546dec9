//! Broadcast frames from one container to all others of its network, injected by BPF_PROG_RUN, their copies counted.

use std::{
    fs,
    net::Ipv4Addr,
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{
    CLIENT_CPU,
    frames::{frame, mac},
};
use crate::{bpf, command::stop_if_interrupted, topology::Segment};

/// Receivers, and the figure that they are measured for.
pub const FLOODS: [(usize, &str); 3] = [(FEWEST, "flood2"), (16, "flood16"), (128, "flood128")];

/// Receivers, where they are fewest.
pub const FEWEST: usize = 2;

/// Copies that are on their way at once: the kernel's queue between two veth ends holds 1,000 of each CPU
/// (net.core.netdev_max_backlog), and what does not fit is lost in all variants alike.
const AT_ONCE: usize = 512;
/// Copies of one system call.
const CHUNK: usize = 1 << 16;
const WARM_UP: u32 = 256;
/// What may be lost on the way. Others share the machine, and softirqs that are late find full queues.
const TOLERATED: f64 = 0.01;

/// Frames in, in thousands per second, of which every receiver got its copy.
pub fn flooded_kpps(segment: &Segment, window: Duration) -> Result<f64> {
    let pass = bpf::load_pass(&[])?;
    let sender = &segment.sender;
    let source = mac(&sender.netns.device(&sender.ifname)?.address)?;
    let [a, b, c, _] = sender.ipv4.octets();
    let frame = frame(source, [0xff; 6], sender.ipv4, Ipv4Addr::new(a, b, c, 255));
    let ports = segment.receivers.len();
    let batch = in_one_batch(ports);
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
    // What is still queued is on its way within a softirq.
    std::thread::sleep(Duration::from_millis(20));
    let copies = received(segment)? - before;
    let share = copies as f64 / (injected as f64 * ports as f64);
    // Containers say a word of their own now and then (neighbor discovery), hence a little more than all.
    if !(1.0 - TOLERATED..=1.0 + TOLERATED).contains(&share) {
        bail!("{injected} broadcasts to {ports} receivers made {copies} copies, {share:.3} of what they should");
    }
    Ok(copies as f64 / ports as f64 / elapsed.as_secs_f64() / 1e3)
}

/// Frames handed to the kernel at once.
fn in_one_batch(ports: usize) -> u32 {
    ((AT_ONCE / ports.max(1)) as u32).clamp(1, bpf::BATCH)
}

/// Frames that the receivers' devices have handed to the stack, all together.
fn received(segment: &Segment) -> Result<u64> {
    let mut sum = 0;
    for receiver in &segment.receivers {
        // Not /proc/net, which shows the namespace of the process's first thread.
        let table = receiver.netns.inside(CLIENT_CPU, || Ok(fs::read_to_string("/proc/thread-self/net/dev")?))?;
        sum += received_by(&table, &receiver.ifname)
            .with_context(|| format!("{} is not in /proc/net/dev of {}", receiver.ifname, receiver.netns))?;
    }
    Ok(sum)
}

/// Frames received by a device, from /proc/net/dev.
fn received_by(table: &str, ifname: &str) -> Option<u64> {
    let (_, numbers) = table.lines().filter_map(|line| line.split_once(':')).find(|(name, _)| name.trim() == ifname)?;
    numbers.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_of_a_batch_fit_into_the_queue() {
        assert_eq!([1, 2, 16, 128, 10_000].map(in_one_batch), [64, 64, 32, 4, 1]);
    }

    #[test]
    fn frames_are_the_second_column() {
        let table =
            "Inter-|   Receive\n face |bytes    packets errs\n    lo:       0       0    0\n  eth0:  600 10 1 0\n";
        assert_eq!(received_by(table, "eth0"), Some(10));
        assert_eq!(received_by(table, "eth1"), None);
    }
}
