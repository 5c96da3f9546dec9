//! What can go wrong with the datapath, with the object it went wrong with.

use std::error::Error;
use std::path::PathBuf;

use aya::maps::MapError;
use aya::programs::ProgramError;
use vswitch_common::tables::{NetworkNumber, PortNumber};

/// An error of the datapath.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// The object could not be loaded into the kernel.
    #[error("cannot load the eBPF programs: {}", chain(.0))]
    Load(aya::EbpfError),
    /// The verifier or the kernel refused one program.
    #[error("the kernel refuses the eBPF program {program}: {}", chain(.cause))]
    Program {
        /// Its name.
        program: &'static str,
        /// What the kernel said.
        cause: ProgramError,
    },
    /// A hook on a device was refused.
    #[error("cannot attach {program} to {device}: {}", chain(.cause))]
    Attach {
        /// Its name.
        program: &'static str,
        /// The device.
        device: String,
        /// What the kernel said.
        cause: ProgramError,
    },
    /// A pin in bpffs could not be made, opened or removed.
    #[error("cannot use the pin {path}: {message}")]
    Pin {
        /// The path in bpffs.
        path: PathBuf,
        /// What went wrong.
        message: String,
    },
    /// A table could not be read or written.
    #[error("cannot access the table {table}: {}", chain(.cause))]
    Table {
        /// Its name.
        table: &'static str,
        /// What the kernel said.
        cause: MapError,
    },
    /// No port number is free.
    #[error("the switch has no free port (it has room for {limit})")]
    NoFreePort {
        /// How many it can have.
        limit: u32,
    },
    /// The table of subnets has no room for a network's.
    #[error("the switch has no room for the subnets of another network (it has room for {limit} in all)")]
    NoRoomForSubnets {
        /// How many subnets and addresses of the host it can have.
        limit: u32,
    },
    /// A network has a number that the switch does not have.
    #[error("the switch has no network number {} (they go from 1 to {limit})", .number.0)]
    NoSuchNetwork {
        /// The number.
        number: NetworkNumber,
        /// The highest.
        limit: u32,
    },
    /// No such port.
    #[error("the switch has no port {}", .0.0)]
    NoSuchPort(PortNumber),
    /// The kernel does not take such a frame for a test run.
    #[error(
        "the kernel does not run {program} on a frame of {length} bytes: too short for what it says it is, or too long"
    )]
    TraceRefused {
        /// The program.
        program: &'static str,
        /// The frame's length.
        length: usize,
    },
    /// A traced run did not happen.
    #[error("cannot run {program} on the frame: {message}")]
    Trace {
        /// The program.
        program: &'static str,
        /// What the kernel said.
        message: String,
    },
}

/// An error with all its causes: aya's name the call, and what the kernel answered is the innermost.
pub(super) fn chain(error: &dyn Error) -> String {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    let mut parts: Vec<String> = Vec::new();
    for cause in causes.map(ToString::to_string) {
        // Some repeat their cause in their own words.
        if !parts.last().is_some_and(|last| last.ends_with(&cause)) {
            parts.push(cause);
        }
    }
    parts.join(": ")
}

#[cfg(test)]
mod tests {
    use aya::sys::SyscallError;
    use nix::errno::Errno;

    use super::*;

    #[test]
    fn a_refused_hook_says_what_the_kernel_answered() {
        let io_error = Errno::EBUSY.into();
        let cause = ProgramError::SyscallError(SyscallError { call: "bpf_link_create", io_error });
        let error = DatapathError::Attach { program: "from_uplink_xdp", device: "eth1".to_owned(), cause };
        let text = error.to_string();
        assert!(text.contains("eth1") && text.contains("bpf_link_create") && text.contains("os error 16"), "{text}");
        assert_eq!(text.lines().count(), 1);
    }
}
