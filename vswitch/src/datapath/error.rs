//! Errors of the datapath, each with the object that it concerns.

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
    /// The verifier or the kernel refused a program.
    #[error("the kernel refuses the eBPF program {program}: {}", chain(.cause))]
    Program {
        /// The name of the program.
        program: &'static str,
        /// The error of the kernel.
        cause: ProgramError,
    },
    /// The kernel refused to attach a program to a device.
    #[error("cannot attach {program} to {device}: {}", chain(.cause))]
    Attach {
        /// The name of the program.
        program: &'static str,
        /// The device.
        device: String,
        /// The error of the kernel.
        cause: Box<ProgramError>,
    },
    /// The kernel refused to attach a program to the root of the control groups.
    #[error("cannot attach {program} to the control group {path}: {}", chain(.cause))]
    AttachToCgroup {
        /// The name of the program.
        program: &'static str,
        /// The path of the control group.
        path: PathBuf,
        /// The error of the kernel.
        cause: Box<ProgramError>,
    },
    /// The root of the control groups cannot be opened.
    #[error("cannot open the control group {path}: {source}")]
    OpenCgroup {
        /// The path of the control group.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The kernel refused to replace a program on a device. The earlier program stays on the device.
    #[error("cannot replace the program of the link {pin} by {program}: {} (the earlier program stays)", chain(.cause))]
    Replace {
        /// The name of the program.
        program: &'static str,
        /// The pin of the link.
        pin: PathBuf,
        /// The error of the kernel.
        cause: Box<ProgramError>,
    },
    /// A pin in bpffs could not be created, opened or removed.
    #[error("cannot use the pin {path}: {message}")]
    Pin {
        /// The path in bpffs.
        path: PathBuf,
        /// The cause.
        message: String,
    },
    /// A table could not be read or written.
    #[error("cannot access the table {table}: {}", chain(.cause))]
    Table {
        /// The name of the table.
        table: &'static str,
        /// The error of the kernel.
        cause: MapError,
    },
    /// No port number is free.
    #[error("the switch has no free port (it has room for {limit})")]
    NoFreePort {
        /// The highest possible number of ports.
        limit: u32,
    },
    /// The table of subnets has no room for the subnets of another network.
    #[error("the switch has no room for the subnets of another network (it has room for {limit} in all)")]
    NoRoomForSubnets {
        /// The highest possible number of subnets and host addresses in all networks.
        limit: u32,
    },
    /// The number of a network is out of range.
    #[error("the switch has no network number {} (they go from 1 to {limit})", .number.0)]
    NoSuchNetwork {
        /// The network's number.
        number: NetworkNumber,
        /// The highest valid number.
        limit: u32,
    },
    /// No port has this number.
    #[error("the switch has no port {}", .0.0)]
    NoSuchPort(PortNumber),
    /// The kernel refuses a test run with this frame.
    #[error(
        "the kernel does not run {program} on a frame of {length} bytes: too short for what it says it is, or too long"
    )]
    TraceRefused {
        /// The name of the program.
        program: &'static str,
        /// The length of the frame in bytes.
        length: usize,
    },
    /// The kernel did not run the program, or the program returned no record.
    #[error("cannot run {program} on the frame: {message}")]
    Trace {
        /// The name of the program.
        program: &'static str,
        /// The error of the kernel.
        message: String,
    },
}

/// Formats an error with all its causes: an error of aya names the call, and the innermost cause is
/// the answer of the kernel.
pub(super) fn chain(error: &dyn Error) -> String {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    let mut parts: Vec<String> = Vec::new();
    for cause in causes.map(ToString::to_string) {
        // Some errors repeat their cause in their own text.
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
        let cause = Box::new(ProgramError::SyscallError(SyscallError { call: "bpf_link_create", io_error }));
        let error = DatapathError::Attach { program: "from_uplink_xdp", device: "eth1".to_owned(), cause };
        let text = error.to_string();
        assert!(text.contains("eth1") && text.contains("bpf_link_create") && text.contains("os error 16"), "{text}");
        assert_eq!(text.lines().count(), 1);
    }
}
