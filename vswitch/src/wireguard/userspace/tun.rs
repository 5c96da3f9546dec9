//! A tun device (linux/Documentation/networking/tuntap.rst): what the host sends by it is read here, what is written here
//! the host receives.
//!
//! Without IFF_VNET_HDR: what goes through is mostly VXLAN, and packets that the kernel has left whole in there (GSO)
//! are cut into pieces before they come to a tun device all the same, unless it is one of Linux 6.17.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

mod ioctl {
    //! `TUNSETIFF`, `_IOW('T', 202, int)` (linux/if_tun.h), which takes a struct ifreq all the same.
    nix::ioctl_write_ptr_bad!(
        set_interface,
        nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()),
        libc::ifreq
    );
}

/// Makes a tun device in the namespace of the calling thread. It goes when the descriptor is closed.
///
/// # Errors
/// `EBUSY` where there is a device of this name; what else the kernel says.
pub(super) fn open(name: &str) -> io::Result<OwnedFd> {
    let flags = libc::O_NONBLOCK | libc::O_CLOEXEC;
    let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open("/dev/net/tun")?;
    // SAFETY: zeros are a value of it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // One less, for the zero at its end.
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    // Exclusively: without it, a device that somebody left behind would be taken over as it is.
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_TUN_EXCL) as libc::c_short;
    // SAFETY: the request is a whole struct ifreq, which outlives the call.
    unsafe { ioctl::set_interface(file.as_raw_fd(), &raw const request) }?;
    Ok(file.into())
}

/// An open tun device on the runtime.
pub(super) struct Tun(AsyncFd<File>);

impl Tun {
    /// Has to be called on a runtime.
    pub(super) fn new(descriptor: OwnedFd) -> io::Result<Self> {
        // SAFETY: the descriptor is the file's own, and stays open and the same for as long as this has the file.
        let registered = unsafe { AsyncFd::register_with_interest(descriptor.into(), Interest::READABLE) };
        Ok(Self(registered?))
    }

    /// Waits for the next packet that the host sends; its length. What is longer than the buffer is cut off.
    pub(super) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.async_io(Interest::READABLE, |mut file| file.read(buffer)).await
    }

    /// The next one, if it is there; else `WouldBlock`.
    pub(super) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_io(Interest::READABLE, |mut file| file.read(buffer))
    }

    /// Has the host receive a packet. It never waits: the host's own queue takes it or drops it.
    pub(super) fn write(&self, packet: &[u8]) -> io::Result<()> {
        let mut file = self.0.get_ref();
        file.write(packet).map(drop)
    }
}
