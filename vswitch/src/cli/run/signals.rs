//! Signals on their way to the command. They are held and read, so none comes at a bad moment.
//!
//! What the terminal sends goes to the whole process group, and the command has it already; what somebody sent to a
//! process is passed on.

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

/// Signals that are meant for the command.
const PASSED_ON: [Signal; 8] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
    Signal::SIGCONT,
];

/// A signal that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// A child has ended, stopped or gone on.
    Child,
    /// Somebody sent it.
    Sent {
        /// Which.
        signal: Signal,
        /// Who.
        by: Pid,
    },
    /// The kernel sent it to the whole process group.
    ByTerminal,
}

/// Holds the signals from here on, also in children that are forked; the descriptor reads them. Returns also what was
/// held before.
pub fn hold() -> Result<(SignalFd, SigSet), Errno> {
    // SAFETY: the default action is no handler that could do anything. Where children's ends are ignored, as some
    // parents pass on, none could be waited for.
    unsafe { sigaction(Signal::SIGCHLD, &SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty())) }?;
    let mut mask: SigSet = PASSED_ON.into_iter().collect();
    mask.add(Signal::SIGCHLD);
    let before = mask.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    Ok((SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC)?, before))
}

/// Holds the signals by which a terminal stops its process group: the guard does not stop.
pub fn hold_stops() -> Result<(), Errno> {
    [Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU].into_iter().collect::<SigSet>().thread_block()
}

/// Waits for the next signal; `None` if the waiting was interrupted.
pub fn next(signals: &SignalFd) -> Result<Option<Received>, Errno> {
    let received = match signals.read_signal() {
        Ok(Some(received)) => received,
        Ok(None) | Err(Errno::EINTR) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    let signal = Signal::try_from(received.ssi_signo.cast_signed())?;
    Ok(Some(classify(signal, received.ssi_code, Pid::from_raw(received.ssi_pid.cast_signed()))))
}

fn classify(signal: Signal, code: i32, by: Pid) -> Received {
    match signal {
        Signal::SIGCHLD => Received::Child,
        // A terminal that hangs up tells the leader of the session alone, which may be we.
        Signal::SIGHUP => Received::Sent { signal, by },
        // SI_KERNEL and above; what processes send is SI_USER, zero, or below (sigaction(2)).
        _ if code > 0 => Received::ByTerminal,
        _ => Received::Sent { signal, by },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_terminal_sends_is_not_passed_on_but_for_its_end() {
        let (kernel, process) = (Pid::from_raw(0), Pid::from_raw(7));
        assert_eq!(classify(Signal::SIGINT, libc::SI_KERNEL, kernel), Received::ByTerminal);
        for code in [libc::SI_USER, libc::SI_QUEUE, libc::SI_TKILL] {
            let sent = Received::Sent { signal: Signal::SIGINT, by: process };
            assert_eq!(classify(Signal::SIGINT, code, process), sent);
        }
        let hung_up = Received::Sent { signal: Signal::SIGHUP, by: kernel };
        assert_eq!(classify(Signal::SIGHUP, libc::SI_KERNEL, kernel), hung_up);
        assert_eq!(classify(Signal::SIGCHLD, libc::CLD_EXITED, process), Received::Child);
    }
}
