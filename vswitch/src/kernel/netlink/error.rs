//! What rtnetlink refuses, and about what, in the kernel's own words.

use std::fmt;
use std::io;

use nix::errno::Errno;

use crate::kernel::netns::NetnsError;

/// What rtnetlink refused, and about what.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No socket.
    #[error("cannot open a netlink socket: {0}")]
    Socket(#[source] io::Error),
    /// The namespace could not be entered.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// It is there already.
    #[error("cannot {operation} {object}: it exists already{hint}")]
    Exists {
        /// What was to be done.
        operation: &'static str,
        /// To what.
        object: String,
        /// What the kernel added.
        hint: Hint,
    },
    /// It is not there.
    #[error("cannot {operation} {object}: there is none{hint}")]
    NotFound {
        /// What was to be done.
        operation: &'static str,
        /// To what.
        object: String,
        /// What the kernel added.
        hint: Hint,
    },
    /// Not allowed.
    #[error("cannot {operation} {object}: no permission{hint}")]
    Permission {
        /// What was to be done.
        operation: &'static str,
        /// To what.
        object: String,
        /// What the kernel added.
        hint: Hint,
    },
    /// Anything else.
    #[error("cannot {operation} {object}: {}{hint}", errno.desc())]
    Kernel {
        /// What was to be done.
        operation: &'static str,
        /// To what.
        object: String,
        /// The kernel's error number.
        errno: Errno,
        /// What the kernel added.
        hint: Hint,
    },
    /// A list that was another each time it was read.
    #[error("cannot {operation}: it keeps changing while it is read")]
    Unsteady {
        /// What was to be done.
        operation: &'static str,
    },
    /// The kernel did not answer, or what it answered cannot be read.
    #[error("cannot {operation} {object}: no answer of the kernel that could be read")]
    NoAnswer {
        /// What was to be done.
        operation: &'static str,
        /// To what.
        object: String,
    },
}

/// What the kernel says about an error beside its number (its extended acknowledgement), if anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hint(pub Option<Box<str>>);

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(text) => write!(f, " ({text})"),
            None => Ok(()),
        }
    }
}

/// The kernel's refusal of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) errno: Errno,
    pub(super) hint: Hint,
}

impl NetlinkError {
    /// Names what was refused.
    pub(super) fn refused(operation: &'static str, object: &str, refusal: Refusal) -> Self {
        let (object, Refusal { errno, hint }) = (object.to_owned(), refusal);
        match errno {
            Errno::EEXIST => Self::Exists { operation, object, hint },
            Errno::ENODEV | Errno::ENXIO => Self::NotFound { operation, object, hint },
            Errno::EPERM | Errno::EACCES => Self::Permission { operation, object, hint },
            errno => Self::Kernel { operation, object, errno, hint },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_typed_and_say_what_the_kernel_said() {
        let refused = |errno, hint: Option<&str>| {
            let refusal = Refusal { errno, hint: Hint(hint.map(Box::from)) };
            NetlinkError::refused("set the MTU of", "link 7", refusal)
        };
        assert!(matches!(refused(Errno::EEXIST, None), NetlinkError::Exists { .. }));
        assert!(matches!(refused(Errno::ENODEV, None), NetlinkError::NotFound { .. }));
        assert!(matches!(refused(Errno::EPERM, None), NetlinkError::Permission { .. }));
        let too_large = refused(Errno::EINVAL, Some("mtu greater than device maximum"));
        assert_eq!(
            too_large.to_string(),
            "cannot set the MTU of link 7: Invalid argument (mtu greater than device maximum)"
        );
    }
}
