//! Forwards the log of the eBPF programs to the daemon's log. The programs log only if the daemon
//! was started at level debug. Otherwise the verifier sees a constant level below that of their
//! messages and removes the code.

use aya::Ebpf;
use aya_log::EbpfLogger;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;

use super::Datapath;

type Logger = EbpfLogger<&'static dyn log::Log>;

/// Returns the level up to which the programs log, in the numbering of aya-log: 3 is info, 4 is
/// debug.
pub(super) fn level() -> &'static u8 {
    if is_on() { &4 } else { &3 }
}

/// Reports whether the programs log anything.
pub(super) fn is_on() -> bool {
    tracing::enabled!(tracing::Level::DEBUG)
}

/// The logs of the programs that this daemon loaded: one per load.
#[derive(Default)]
pub(super) struct Logs {
    /// Logs that are not followed yet.
    waiting: Vec<Logger>,
    /// The runtime in which new logs are followed at once.
    runtime: Option<Handle>,
}

impl Logs {
    /// Adds the log of programs that were just loaded, if they have one.
    pub(super) fn add(&mut self, ebpf: &mut Ebpf) {
        if !is_on() {
            return;
        }
        match EbpfLogger::init(ebpf) {
            Ok(logger) => self.waiting.push(logger),
            Err(error) => tracing::debug!("the programs' log: {error}"),
        }
        self.follow_waiting();
    }

    fn follow_waiting(&mut self) {
        let Some(runtime) = &self.runtime else { return };
        let _in_runtime = runtime.enter();
        for logger in self.waiting.drain(..) {
            follow(logger);
        }
    }
}

impl Datapath {
    /// Follows the logs of all programs until the runtime ends, including programs that are loaded
    /// later.
    pub fn follow_log(&self) {
        let mut programs = self.programs();
        programs.logs.runtime = Some(Handle::current());
        programs.logs.follow_waiting();
    }
}

fn follow(logger: Logger) {
    // SAFETY: the logger owns its descriptor and keeps the same descriptor as long as the logger
    // lives.
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
