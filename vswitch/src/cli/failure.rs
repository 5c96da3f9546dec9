//! A command that failed: what to say, and with which status to end.

use crate::api::{ClientError, ErrorBody};
use crate::daemon::DaemonError;

/// It failed.
const FAILED: u8 = 1;
/// The daemon is not running.
const NOT_RUNNING: u8 = 3;

/// Why a command failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What to say.
    pub error: ErrorBody,
    /// The exit status.
    pub exit: u8,
}

impl Failure {
    /// A failure with a code for programs and a message for people.
    pub fn new(code: &str, message: &str) -> Self {
        Self { error: ErrorBody::new(code, message), exit: FAILED }
    }

    /// An error that the daemon told.
    pub fn told(error: ErrorBody) -> Self {
        Self { error, exit: FAILED }
    }

    /// The same, with a path as it was typed.
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
