//! Reads and writes sysctls under /proc/sys/net, in the namespace of the calling thread.
//!
//! The directory shows the namespace of the thread that opens it. For the daemon's own namespace,
//! call the functions on the daemon's threads. For another namespace, call them inside
//! [`super::netns::Netns::enter`].

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::PathBuf;

/// Error of reading, writing or listing sysctls.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    /// The kernel has no such sysctl, or no such device.
    #[error("cannot {action} the sysctl {name}: it does not exist")]
    Missing {
        /// Action that failed.
        action: &'static str,
        /// Name of the sysctl, its parts joined by dots.
        name: String,
    },
    /// The process lacks the permission, or /proc/sys is mounted read-only.
    #[error("cannot {action} the sysctl {name}: no permission")]
    Permission {
        /// Action that failed.
        action: &'static str,
        /// Name of the sysctl.
        name: String,
    },
    /// Any other error, such as an invalid value.
    #[error("cannot {action} the sysctl {name}: {source}")]
    Io {
        /// Action that failed.
        action: &'static str,
        /// Name of the sysctl, with the value that was to be written.
        name: String,
        /// Error that the kernel returned.
        source: io::Error,
    },
}

impl SysctlError {
    /// Reports whether the sysctl does not exist, for example in a kernel without IPv6.
    pub const fn is_missing(&self) -> bool {
        matches!(self, Self::Missing { .. })
    }
}

/// Reads a sysctl, such as `["net", "ipv4", "ip_forward"]`.
///
/// # Errors
/// [`SysctlError`] with the name of the sysctl.
pub fn read(parts: &[&str]) -> Result<String, SysctlError> {
    let value = path(parts).and_then(fs::read_to_string);
    value.map(|value| value.trim_end().to_owned()).map_err(|source| error_from("read", parts.join("."), source))
}

/// Writes a sysctl if its value differs, and returns its previous value.
///
/// # Errors
/// [`SysctlError`] with the name of the sysctl.
pub fn write(parts: &[&str], value: &str) -> Result<String, SysctlError> {
    let previous = read(parts)?;
    if previous != value {
        let written = path(parts)
            // O_CREAT is not set: with it, the file of a device that was removed meanwhile would
            // give a permission error.
            .and_then(|path| File::options().write(true).open(path))
            .and_then(|mut file| file.write_all(value.as_bytes()));
        written.map_err(|source| error_from("write", format!("{}={value}", parts.join(".")), source))?;
    }
    Ok(previous)
}

/// The longest value of a sysctl: a list of ports, at worst every second one.
const LONGEST: usize = 256 << 10;

/// Reads a sysctl whose value may be long. The kernel gives a value to the first read alone, as much
/// of it as the buffer takes.
///
/// # Errors
/// [`SysctlError`] with the name of the sysctl.
pub fn read_long(parts: &[&str]) -> Result<String, SysctlError> {
    let read = path(parts).and_then(File::open).and_then(|mut file| {
        let mut buffer = vec![0; LONGEST];
        let length = file.read(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..length]).trim_end().to_owned())
    });
    read.map_err(|source| error_from("read", parts.join("."), source))
}

/// Writes a sysctl whose value may be long. The kernel takes the text in parts of a page and adds
/// what each says.
///
/// # Errors
/// [`SysctlError`] with the name of the sysctl.
pub fn write_long(parts: &[&str], value: &str) -> Result<(), SysctlError> {
    let written = path(parts)
        .and_then(|path| File::options().write(true).open(path))
        .and_then(|mut file| file.write_all(format!("{value}\n").as_bytes()));
    written.map_err(|source| error_from("write", parts.join("."), source))
}

/// Returns the sorted names in a directory of sysctls, such as the devices in
/// `["net", "ipv6", "conf"]`.
///
/// # Errors
/// [`SysctlError`] with the name of the directory.
pub fn entries(parts: &[&str]) -> Result<Vec<String>, SysctlError> {
    let listed = path(parts).and_then(fs::read_dir);
    let listed = listed.map_err(|source| error_from("list", parts.join("."), source))?;
    // Entries that vanish while the directory is read are left out.
    let mut names: Vec<_> = listed.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}

/// Returns the path of a sysctl. The name is given in parts because device names may contain dots.
/// Parts that would lead to another directory are refused with NotFound.
fn path(parts: &[&str]) -> io::Result<PathBuf> {
    if parts.iter().any(|part| matches!(*part, "" | "." | "..") || part.contains('/')) {
        return Err(io::ErrorKind::NotFound.into());
    }
    let mut path = PathBuf::from("/proc/sys");
    path.extend(parts);
    Ok(path)
}

fn error_from(action: &'static str, name: String, source: io::Error) -> SysctlError {
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
    fn a_part_with_dots_is_one_path_component() {
        let found = path(&["net", "ipv4", "conf", "eth0.30", "arp_notify"]).unwrap();
        assert_eq!(found, PathBuf::from("/proc/sys/net/ipv4/conf/eth0.30/arp_notify"));
    }

    #[test]
    fn parts_cannot_leave_their_directory() {
        for part in ["..", ".", "", "eth0/../../all"] {
            assert!(read(&["net", "ipv4", "conf", part, "forwarding"]).unwrap_err().is_missing(), "{part}");
        }
    }
}
