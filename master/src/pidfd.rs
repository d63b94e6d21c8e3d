//! Processes held by pidfds: the number of one that has ended may be another's by now, its pidfd
//! never is.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use nix::errno::Errno;
use nix::sys::signal::Signal;

/// Holds the process that has this pid now. The fd is closed on exec, and readable when the process
/// has ended.
pub fn open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: no memory is involved.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Sends a signal. To one that has ended, or is not ours, nothing happens.
pub fn send(process: &OwnedFd, signal: Signal) {
    let nothing = ptr::null::<libc::siginfo_t>();
    let (fd, signal) = (process.as_raw_fd(), signal as i32);
    // SAFETY: the fd is open; there is no siginfo: as `kill` does it.
    unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, nothing, 0) };
}
