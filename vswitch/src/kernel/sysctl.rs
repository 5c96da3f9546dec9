//! Network settings under /proc/sys/net, in the namespace of the calling thread.
//!
//! The directory shows the namespace of whoever opens it, so these are called on the daemon's threads for its own
//! namespace and inside [`super::netns::Netns::enter`] for another.

use std::fs;
use std::io;
use std::path::PathBuf;

/// A setting could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} the setting {name}: {source}")]
pub struct SysctlError {
    action: &'static str,
    name: String,
    source: io::Error,
}

impl SysctlError {
    /// Whether the kernel has no such setting: no IPv6, for one.
    pub fn is_missing(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

/// A setting, by the parts of its path below /proc/sys. Parts, not one dotted name: device names may have dots.
fn path(parts: &[&str]) -> PathBuf {
    let mut path = PathBuf::from("/proc/sys");
    path.extend(parts);
    path
}

/// Reads a setting, such as `["net", "ipv4", "ip_forward"]`.
///
/// # Errors
/// What the kernel said, with the name.
pub fn read(parts: &[&str]) -> Result<String, SysctlError> {
    match fs::read_to_string(path(parts)) {
        Ok(value) => Ok(value.trim_end().to_owned()),
        Err(source) => Err(SysctlError { action: "read", name: parts.join("."), source }),
    }
}

/// Writes a setting if it has another value; returns the value it had.
///
/// # Errors
/// What the kernel said, with the name.
pub fn write(parts: &[&str], value: &str) -> Result<String, SysctlError> {
    let before = read(parts)?;
    if before != value {
        let failed = |source| SysctlError { action: "write", name: parts.join("."), source };
        fs::write(path(parts), value).map_err(failed)?;
    }
    Ok(before)
}
