//! A failed command: the error to print and the exit status.

use crate::api::{ClientError, ErrorBody};
use crate::daemon::DaemonError;

/// Exit status of a command that failed.
const FAILED: u8 = 1;
/// Exit status if the daemon is not running.
const NOT_RUNNING: u8 = 3;

/// Why a command failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The error to print.
    pub error: ErrorBody,
    /// The exit status.
    pub exit: u8,
}

impl Failure {
    /// Creates a failure with exit status 1, from an error code for programs and a message for
    /// people.
    pub fn new(code: &str, message: &str) -> Self {
        Self { error: ErrorBody::new(code, message), exit: FAILED }
    }

    /// Creates a failure with exit status 1, from an error that the daemon reported.
    pub fn reported(error: ErrorBody) -> Self {
        Self { error, exit: FAILED }
    }

    /// Replaces the path that was sent to the daemon by the path that the user typed in the
    /// message.
    pub fn with_path_as_typed(mut self, sent: &str, typed: &str) -> Self {
        if !sent.is_empty() {
            self.error.message = self.error.message.replace(sent, typed);
        }
        self
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let exit = if matches!(error, ClientError::NotRunning { .. }) { NOT_RUNNING } else { FAILED };
        Self { error: ErrorBody::new(error.code(), &error.to_string()), exit }
    }
}

impl From<DaemonError> for Failure {
    fn from(error: DaemonError) -> Self {
        Self::new(error.code(), &error.to_string())
    }
}
