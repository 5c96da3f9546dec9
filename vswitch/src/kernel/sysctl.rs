//! Network settings under /proc/sys/net, in the namespace of the calling thread.
//!
//! The directory shows the namespace of whoever opens it, so these are called on the daemon's threads for its own
//! namespace and inside [`super::netns::Netns::enter`] for another.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::PathBuf;

/// A setting could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    /// The kernel has no such setting, or no such device.
    #[error("cannot {action} the setting {name}: the kernel has none of that name")]
    Missing {
        /// What was tried.
        action: &'static str,
        /// Its name, its parts joined by dots.
        name: String,
    },
    /// Not allowed, or /proc/sys can only be read.
    #[error("cannot {action} the setting {name}: no permission")]
    Permission {
        /// What was tried.
        action: &'static str,
        /// Its name.
        name: String,
    },
    /// Anything else, such as a value that it does not take.
    #[error("cannot {action} the setting {name}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Its name, with the value that was to be written.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
}

impl SysctlError {
    /// Whether the kernel has no such setting: no IPv6, for one.
    pub const fn is_missing(&self) -> bool {
        matches!(self, Self::Missing { .. })
    }
}

/// Reads a setting, such as `["net", "ipv4", "ip_forward"]`.
///
/// # Errors
/// What the kernel said, with the name.
pub fn read(parts: &[&str]) -> Result<String, SysctlError> {
    let value = path(parts).and_then(fs::read_to_string);
    value.map(|value| value.trim_end().to_owned()).map_err(|source| error("read", parts.join("."), source))
}

/// Writes a setting if it has another value; returns the value it had.
///
/// # Errors
/// What the kernel said, with the name.
pub fn write(parts: &[&str], value: &str) -> Result<String, SysctlError> {
    let before = read(parts)?;
    if before != value {
        let written = path(parts)
            // Without O_CREAT: a device that has gone since is then missing, and not forbidden.
            .and_then(|path| File::options().write(true).open(path))
            .and_then(|mut file| file.write_all(value.as_bytes()));
        written.map_err(|source| error("write", format!("{}={value}", parts.join(".")), source))?;
    }
    Ok(before)
}

/// What a directory of settings holds, such as the devices in `["net", "ipv6", "conf"]`.
///
/// # Errors
/// What the kernel said, with the name.
pub fn entries(parts: &[&str]) -> Result<Vec<String>, SysctlError> {
    let listed = path(parts).and_then(fs::read_dir);
    let listed = listed.map_err(|source| error("list", parts.join("."), source))?;
    // One that goes while the directory is read is left out.
    let mut names: Vec<_> = listed.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}

/// A setting's path, by its parts. Not by one dotted name: device names may have dots. They cannot lead elsewhere.
fn path(parts: &[&str]) -> io::Result<PathBuf> {
    if parts.iter().any(|part| matches!(*part, "" | "." | "..") || part.contains('/')) {
        return Err(io::ErrorKind::NotFound.into());
    }
    let mut path = PathBuf::from("/proc/sys");
    path.extend(parts);
    Ok(path)
}

fn error(action: &'static str, name: String, source: io::Error) -> SysctlError {
    match source.kind() {
        io::ErrorKind::NotFound => SysctlError::Missing { action, name },
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => SysctlError::Permission { action, name },
        _ => SysctlError::Io { action, name, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_with_dots_are_one_part() {
        let found = path(&["net", "ipv4", "conf", "eth0.30", "arp_notify"]).unwrap();
        assert_eq!(found, PathBuf::from("/proc/sys/net/ipv4/conf/eth0.30/arp_notify"));
    }

    #[test]
    fn parts_do_not_lead_elsewhere() {
        for part in ["..", ".", "", "eth0/../../all"] {
            assert!(read(&["net", "ipv4", "conf", part, "forwarding"]).unwrap_err().is_missing(), "{part}");
        }
    }
}
