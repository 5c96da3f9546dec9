//! What the eBPF programs log, into the daemon's log. They log only if the daemon was started at level debug: else the
//! verifier finds the level below theirs, and takes the code out.

use aya::Ebpf;
use aya_log::EbpfLogger;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::Datapath;

/// Reads the programs' log.
pub(super) type Logger = EbpfLogger<&'static dyn log::Log>;

/// The level up to which the programs log, as aya-log counts: 3 is info, 4 debug.
pub(super) fn level() -> &'static u8 {
    if tracing::enabled!(tracing::Level::DEBUG) { &4 } else { &3 }
}

/// The log of programs just loaded, if they have one.
pub(super) fn of(ebpf: &mut Ebpf) -> Option<Logger> {
    EbpfLogger::init(ebpf).inspect_err(|error| tracing::debug!("the programs' log: {error}")).ok()
}

impl Datapath {
    /// Follows the programs' log until the runtime ends; once only. There is nothing to follow at higher levels than debug.
    pub fn follow_log(&self) {
        // The programs have no log at other levels.
        let Some(logger) = self.state().logger.take() else { return };
        // SAFETY: the logger owns its descriptor and keeps the same one as long as it lives.
        let registered = unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) };
        let mut logger = match registered {
            Ok(logger) => logger,
            Err(error) => return tracing::warn!("cannot follow the programs' log: {error}"),
        };
        tokio::spawn(async move {
            while let Ok(mut ready) = logger.readable_mut().await {
                ready.get_inner_mut().flush();
                ready.clear_ready();
            }
        });
    }
}
