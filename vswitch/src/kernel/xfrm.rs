//! Counts the IPsec policies of the kernel for outgoing packets.

use std::io;

use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_XFRM;

/// Message types `XFRM_MSG_NEWSPDINFO` and `XFRM_MSG_GETSPDINFO` (linux/xfrm.h).
const NEW_SPD_INFO: u16 = 0x24;
const GET_SPD_INFO: u16 = 0x25;
/// Attribute `XFRMA_SPD_INFO`: six 32-bit counts, of which the second is the number of output
/// policies.
const SPD_INFO: u16 = 1;
/// Message flag `NLM_F_REQUEST`.
const REQUEST: u16 = 1;
/// Lengths of struct nlmsghdr and of the flags word behind it, in bytes.
const HEADER: usize = 16;
const FLAGS: usize = 4;

/// Returns the number of IPsec policies for packets that leave the calling thread's namespace.
///
/// # Errors
/// The kernel refused the request or its answer holds no count.
pub fn policies_out() -> io::Result<u32> {
    let socket = match Socket::new(NETLINK_XFRM) {
        Ok(socket) => socket,
        // The kernel was built without xfrm.
        Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut request = ((HEADER + FLAGS) as u32).to_ne_bytes().to_vec();
    request.extend(GET_SPD_INFO.to_ne_bytes());
    request.extend(REQUEST.to_ne_bytes());
    request.resize(HEADER + FLAGS, 0);
    socket.send(&request, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    parse_count(&answer)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer has no count of IPsec policies"))
}

fn parse_count(answer: &[u8]) -> Option<u32> {
    let u16_at = |at: usize| Some(u16::from_ne_bytes(answer.get(at..at + 2)?.try_into().ok()?));
    if u16_at(4)? != NEW_SPD_INFO {
        return None;
    }
    let mut at = HEADER + FLAGS;
    loop {
        let (length, kind) = (usize::from(u16_at(at)?), u16_at(at + 2)?);
        if kind == SPD_INFO {
            return Some(u32::from_ne_bytes(answer.get(at + 8..at + 12)?.try_into().ok()?));
        }
        at += length.max(4).next_multiple_of(4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_count_is_the_number_of_output_policies() {
        let mut answer = vec![0; HEADER + FLAGS];
        answer[4..6].copy_from_slice(&NEW_SPD_INFO.to_ne_bytes());
        for attribute in [[8, 2, 9, 9], [28, u32::from(SPD_INFO), 3, 5]] {
            let [length, kind, first, second] = attribute;
            answer.extend((length as u16).to_ne_bytes());
            answer.extend((kind as u16).to_ne_bytes());
            answer.extend(first.to_ne_bytes());
            if length > 8 {
                answer.extend(second.to_ne_bytes());
                answer.resize(answer.len() + 16, 0);
            }
        }
        assert_eq!(parse_count(&answer), Some(5));
        assert_eq!(parse_count(&answer[..30]), None);
        assert_eq!(parse_count(&[0; 40]), None);
    }

    #[test]
    fn this_kernel_reports_the_number_of_policies() {
        if nix::unistd::geteuid().is_root() {
            policies_out().expect("a count");
        }
    }
}
