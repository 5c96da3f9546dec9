//! IPsec: whether the kernel is told to protect what leaves.

use std::io;

use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_XFRM;

/// `XFRM_MSG_NEWSPDINFO` and `XFRM_MSG_GETSPDINFO` (linux/xfrm.h).
const ANSWER: u16 = 0x24;
const QUESTION: u16 = 0x25;
/// `XFRMA_SPD_INFO`: six counts, the second that of the policies for what leaves.
const COUNTS: u16 = 1;
/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;
/// struct nlmsghdr, and the word of flags behind it.
const HEADER: usize = 16;
const FLAGS: usize = 4;

/// How many policies there are for packets that leave the calling thread's namespace.
///
/// # Errors
/// The kernel does not tell.
pub fn policies_out() -> io::Result<u32> {
    let socket = match Socket::new(NETLINK_XFRM) {
        Ok(socket) => socket,
        // A kernel without it.
        Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut question = ((HEADER + FLAGS) as u32).to_ne_bytes().to_vec();
    question.extend(QUESTION.to_ne_bytes());
    question.extend(REQUEST.to_ne_bytes());
    question.resize(HEADER + FLAGS, 0);
    socket.send(&question, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    count(&answer).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no count of IPsec policies"))
}

fn count(answer: &[u8]) -> Option<u32> {
    let half = |at: usize| Some(u16::from_ne_bytes(answer.get(at..at + 2)?.try_into().ok()?));
    if half(4)? != ANSWER {
        return None;
    }
    let mut at = HEADER + FLAGS;
    loop {
        let (length, kind) = (usize::from(half(at)?), half(at + 2)?);
        if kind == COUNTS {
            return Some(u32::from_ne_bytes(answer.get(at + 8..at + 12)?.try_into().ok()?));
        }
        at += length.max(4).next_multiple_of(4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_count_is_that_of_what_leaves() {
        let mut answer = vec![0; HEADER + FLAGS];
        answer[4..6].copy_from_slice(&ANSWER.to_ne_bytes());
        for attribute in [[8, 2, 9, 9], [28, u32::from(COUNTS), 3, 5]] {
            let [length, kind, first, second] = attribute;
            answer.extend((length as u16).to_ne_bytes());
            answer.extend((kind as u16).to_ne_bytes());
            answer.extend(first.to_ne_bytes());
            if length > 8 {
                answer.extend(second.to_ne_bytes());
                answer.resize(answer.len() + 16, 0);
            }
        }
        assert_eq!(count(&answer), Some(5));
        assert_eq!(count(&answer[..30]), None);
        assert_eq!(count(&[0; 40]), None);
    }

    #[test]
    fn this_kernel_tells() {
        if nix::unistd::geteuid().is_root() {
            policies_out().expect("a count");
        }
    }
}
