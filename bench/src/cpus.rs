//! The CPUs of the two ends of a measurement.

/// The CPU of the sender. The kernel's receive path of a veth runs on it too.
pub const CLIENT_CPU: usize = 0;

/// Returns the CPU of the receiver, which differs from the sender's if there are at least two.
pub fn server_cpu() -> usize {
    usize::from(std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() > 1))
}
