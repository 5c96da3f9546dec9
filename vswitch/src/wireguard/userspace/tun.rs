//! Tun device (linux/Documentation/networking/tuntap.rst). Packets that the host sends through it
//! are read here, and packets that are written here are received by the host.
//!
//! IFF_VNET_HDR is not used. Most of the traffic is VXLAN, and tun devices accept GSO packets in
//! VXLAN only since Linux 6.17. Older ones receive them segmented in any case.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

mod ioctl {
    //! `TUNSETIFF`: defined as `_IOW('T', 202, int)` (linux/if_tun.h), although it takes a struct
    //! ifreq.
    nix::ioctl_write_ptr_bad!(
        set_interface,
        nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()),
        libc::ifreq
    );
}

/// Creates a tun device in the namespace of the calling thread. It disappears when the descriptor
/// is closed.
///
/// # Errors
/// `EBUSY` if a device with this name exists, or another error of the kernel.
pub(super) fn open(name: &str) -> io::Result<OwnedFd> {
    let flags = libc::O_NONBLOCK | libc::O_CLOEXEC;
    let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open("/dev/net/tun")?;
    // SAFETY: all zeros are a valid struct ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte is for the terminating zero.
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    // Without IFF_TUN_EXCL, a persistent device of another process would be taken over with its
    // settings.
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_TUN_EXCL) as libc::c_short;
    // SAFETY: the request is a complete struct ifreq, which outlives the call.
    unsafe { ioctl::set_interface(file.as_raw_fd(), &raw const request) }?;
    Ok(file.into())
}

/// An open tun device, registered with the runtime.
pub(super) struct Tun(AsyncFd<File>);

impl Tun {
    /// Must be called on a tokio runtime.
    pub(super) fn new(descriptor: OwnedFd) -> io::Result<Self> {
        // SAFETY: the descriptor belongs to the file, and stays open and unchanged as long as the
        // file exists.
        let registered = unsafe { AsyncFd::register_with_interest(descriptor.into(), Interest::READABLE) };
        Ok(Self(registered?))
    }

    /// Waits for the next packet from the host and returns its length. A packet that is longer than
    /// the buffer is cut off.
    pub(super) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.async_io(Interest::READABLE, |mut file| file.read(buffer)).await
    }

    /// Returns the next packet if one is queued, or else `WouldBlock`.
    pub(super) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_io(Interest::READABLE, |mut file| file.read(buffer))
    }

    /// Delivers a packet to the host. Never waits: the host queues or drops the packet.
    pub(super) fn write(&self, packet: &[u8]) -> io::Result<()> {
        let mut file = self.0.get_ref();
        file.write(packet).map(drop)
    }
}
