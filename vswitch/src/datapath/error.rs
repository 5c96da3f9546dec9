//! What can go wrong with the datapath, with the object it went wrong with.

use std::path::PathBuf;

use vswitch_common::tables::PortNumber;

/// An error of the datapath.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// The object could not be loaded into the kernel.
    #[error("cannot load the eBPF programs: {0}")]
    Load(#[source] aya::EbpfError),
    /// The verifier or the kernel refused one program.
    #[error("the kernel refuses the eBPF program {program}: {source}")]
    Program {
        /// Its name.
        program: &'static str,
        /// What the kernel said.
        source: aya::programs::ProgramError,
    },
    /// A hook on a device was refused.
    #[error("cannot attach {program} to {device}: {source}")]
    Attach {
        /// Its name.
        program: &'static str,
        /// The device.
        device: String,
        /// What the kernel said.
        source: aya::programs::ProgramError,
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
    #[error("cannot access the table {table}: {source}")]
    Table {
        /// Its name.
        table: &'static str,
        /// What the kernel said.
        source: aya::maps::MapError,
    },
    /// No port number is free.
    #[error("the switch has no free port (it has room for {limit})")]
    NoFreePort {
        /// How many it can have.
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
