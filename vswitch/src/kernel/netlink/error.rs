//! Errors of rtnetlink requests.

use std::fmt;
use std::io;

use nix::errno::Errno;

use crate::kernel::netns::NetnsError;

/// Error of an rtnetlink request, with the operation and its object.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The netlink socket cannot be opened.
    #[error("cannot open a netlink socket: {0}")]
    Socket(#[source] io::Error),
    /// The namespace cannot be entered.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The object already exists.
    #[error("cannot {operation} {object}: it already exists{hint}")]
    Exists {
        /// Operation that failed.
        operation: &'static str,
        /// Object of the operation.
        object: String,
        /// Explanation from the kernel.
        hint: Hint,
    },
    /// The object does not exist.
    #[error("cannot {operation} {object}: it does not exist{hint}")]
    NotFound {
        /// Operation that failed.
        operation: &'static str,
        /// Object of the operation.
        object: String,
        /// Explanation from the kernel.
        hint: Hint,
    },
    /// The process lacks the permission.
    #[error("cannot {operation} {object}: no permission{hint}")]
    Permission {
        /// Operation that failed.
        operation: &'static str,
        /// Object of the operation.
        object: String,
        /// Explanation from the kernel.
        hint: Hint,
    },
    /// Any other error of the kernel.
    #[error("cannot {operation} {object}: {}{hint}", errno.desc())]
    Kernel {
        /// Operation that failed.
        operation: &'static str,
        /// Object of the operation.
        object: String,
        /// Error number of the kernel.
        errno: Errno,
        /// Explanation from the kernel.
        hint: Hint,
    },
    /// The list changed during each attempt to read it.
    #[error("cannot {operation}: the list keeps changing during the read")]
    Changing {
        /// Operation that failed.
        operation: &'static str,
    },
    /// The kernel did not answer, or its answer cannot be parsed.
    #[error("cannot {operation} {object}: the kernel sent no readable answer")]
    NoAnswer {
        /// Operation that failed.
        operation: &'static str,
        /// Object of the operation.
        object: String,
    },
}

/// Text of the kernel's extended acknowledgement, which explains an error beyond its number.
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

/// Error answer of the kernel to one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) errno: Errno,
    pub(super) hint: Hint,
}

impl NetlinkError {
    /// Builds the error for the refusal of an operation on an object.
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
    fn errors_are_typed_and_contain_the_text_of_the_kernel() {
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
