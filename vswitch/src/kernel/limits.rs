//! The limit of open files of this process.

use std::io;

/// Raises the limit of open files as far as the process may, and returns it. Each socket that waits
/// for a resolver or holds a port is an open file.
///
/// # Errors
/// The kernel refused the change.
pub fn raise_open_files() -> io::Result<u64> {
    let mut limit = read()?;
    if limit.rlim_cur < limit.rlim_max {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: `limit` outlives the call.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(limit.rlim_cur)
}

/// Returns how many files the process may have open.
///
/// # Errors
/// The kernel refused the call.
pub fn open_files() -> io::Result<u64> {
    Ok(read()?.rlim_cur)
}

fn read() -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` outlives the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_to_the_highest_allowed_value() {
        let raised = raise_open_files().expect("raised");
        assert_eq!(open_files().expect("read"), raised);
        assert_eq!(raised, read().expect("read").rlim_max);
    }
}
