//! Signals for the command. They are blocked and read from a descriptor, so none arrives at a bad
//! moment.
//!
//! A signal from the terminal goes to the whole process group and reaches the command directly. A
//! signal from a process is forwarded.

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

/// Signals that are forwarded to the command.
const FORWARDED: [Signal; 8] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
    Signal::SIGCONT,
];

/// A received signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// A child exited, stopped or continued.
    Child,
    /// A process sent the signal.
    Sent {
        /// The signal.
        signal: Signal,
        /// The sender.
        sender: Pid,
    },
    /// The terminal sent the signal to the whole process group.
    FromTerminal,
}

/// Blocks the signals in this process and its later children. Returns a descriptor that reads them
/// and the previous mask.
pub fn block() -> Result<(SignalFd, SigSet), Errno> {
    // SAFETY: the default action runs no handler. It is set because some parents pass on an ignored
    // SIGCHLD, with which no child could be waited for.
    unsafe { sigaction(Signal::SIGCHLD, &SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty())) }?;
    let mut mask: SigSet = FORWARDED.into_iter().collect();
    mask.add(Signal::SIGCHLD);
    let before = mask.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    Ok((SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC)?, before))
}

/// Blocks the signals by which a terminal stops its process group, because the guard must not stop.
pub fn block_stop_signals() -> Result<(), Errno> {
    [Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU].into_iter().collect::<SigSet>().thread_block()
}

/// Waits for the next signal. Returns `None` if the wait was interrupted.
pub fn next(signals: &SignalFd) -> Result<Option<Received>, Errno> {
    let received = match signals.read_signal() {
        Ok(Some(received)) => received,
        Ok(None) | Err(Errno::EINTR) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    let signal = Signal::try_from(received.ssi_signo.cast_signed())?;
    Ok(Some(classify(signal, received.ssi_code, Pid::from_raw(received.ssi_pid.cast_signed()))))
}

fn classify(signal: Signal, code: i32, sender: Pid) -> Received {
    match signal {
        Signal::SIGCHLD => Received::Child,
        // On a hang-up the terminal signals only the session leader, which may be this process.
        Signal::SIGHUP => Received::Sent { signal, sender },
        // The kernel sends SI_KERNEL or other positive codes. Processes send SI_USER, which is
        // zero, or less (sigaction(2)).
        _ if code > 0 => Received::FromTerminal,
        _ => Received::Sent { signal, sender },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_signals_are_not_forwarded_except_a_hang_up() {
        let (kernel, process) = (Pid::from_raw(0), Pid::from_raw(7));
        assert_eq!(classify(Signal::SIGINT, libc::SI_KERNEL, kernel), Received::FromTerminal);
        for code in [libc::SI_USER, libc::SI_QUEUE, libc::SI_TKILL] {
            let sent = Received::Sent { signal: Signal::SIGINT, sender: process };
            assert_eq!(classify(Signal::SIGINT, code, process), sent);
        }
        let hung_up = Received::Sent { signal: Signal::SIGHUP, sender: kernel };
        assert_eq!(classify(Signal::SIGHUP, libc::SI_KERNEL, kernel), hung_up);
        assert_eq!(classify(Signal::SIGCHLD, libc::CLD_EXITED, process), Received::Child);
    }
}
