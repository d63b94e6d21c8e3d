//! What really happened on a connection's socket, as the kernel says: how many bytes were read
//! from it and written to it since it was accepted. A brain that died between a system call and
//! its bookkeeping leaves a slot that is behind; the next one corrects it by this.
//!
//! By `tcp(7)` and `net/ipv4/tcp.c`:
//! - `tcpi_bytes_received` counts what arrived in order, `SIOCINQ` what of it is unread: the
//!   difference was read. The peer's FIN takes a place in the sequence and is counted among the
//!   received, but never among the unread.
//! - `tcpi_bytes_acked` counts what the peer has acknowledged, `SIOCOUTQ` what it has not (be it
//!   sent or not): together they are what was written. Our own FIN takes a place from the moment
//!   of `shutdown`, and is first among the unacknowledged, then among the acknowledged.
//! - Which FINs there are is told by the state.
//! - An urgent byte is skipped by a plain read and counted all the same: the listener must have
//!   `SO_OOBINLINE`, which makes it a byte like others.
//!
//! Only for accepted sockets: one that has connected counts its SYN as acknowledged.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// The two streams of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truth {
    /// Bytes that were read from the socket.
    pub consumed: u64,
    /// Bytes that the socket took for sending.
    pub written: u64,
    /// The peer has sent its FIN: when all that is unread has been read, read returns 0.
    pub peer_ended: bool,
    /// We have shut down writing.
    pub we_ended: bool,
}

// The kernel's numbers for the states (`include/net/tcp_states.h`).
const FIN_WAIT1: u8 = 4;
const FIN_WAIT2: u8 = 5;
const CLOSE: u8 = 7;
const CLOSE_WAIT: u8 = 8;
const LAST_ACK: u8 = 9;
const CLOSING: u8 = 11;

/// What was consumed and written. `None`: the connection is closed both ways, by FINs or by a
/// reset, which look alike. What of it was read cannot be told any more, so close it and parse
/// nothing more.
///
/// Nobody may read from or write to the socket meanwhile. The peer and the network may go on: the
/// figures cannot be had at one instant, so they are read until nothing moved between them. (That
/// ends: unread bytes fill the receive window, and unsent ones run out.) A socket whose figures
/// contradict each other counts as closed too.
///
/// # Errors
/// The fd is not a TCP socket's.
pub fn truth(fd: BorrowedFd<'_>) -> io::Result<Option<Truth>> {
    let mut before = Info::of(fd)?;
    loop {
        let unread = queued(fd, libc::FIONREAD)?;
        let unacked = queued(fd, libc::TIOCOUTQ)?;
        let after = Info::of(fd)?;
        if after == before {
            return Ok(after.truth(unread, unacked));
        }
        before = after;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Info {
    state: u8,
    received: u64,
    acked: u64,
}

impl Info {
    fn of(fd: BorrowedFd<'_>) -> io::Result<Info> {
        let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
        let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
        // SAFETY: the kernel writes at most `len` bytes into `info`.
        Errno::result(unsafe {
            libc::getsockopt(
                fd.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                info.as_mut_ptr().cast(),
                &mut len,
            )
        })?;
        // SAFETY: plain numbers, all of them set by the kernel or zero.
        let info = unsafe { info.assume_init() };
        Ok(Info {
            state: info.tcpi_state,
            received: info.tcpi_bytes_received,
            acked: info.tcpi_bytes_acked,
        })
    }

    fn truth(self, unread: u64, unacked: u64) -> Option<Truth> {
        if self.state == CLOSE {
            return None;
        }
        let peer_ended = matches!(self.state, CLOSE_WAIT | LAST_ACK | CLOSING);
        let we_ended = matches!(self.state, FIN_WAIT1 | FIN_WAIT2 | LAST_ACK | CLOSING);
        Some(Truth {
            consumed: self.received.checked_sub(unread + u64::from(peer_ended))?,
            written: (self.acked + unacked).checked_sub(u64::from(we_ended))?,
            peer_ended,
            we_ended,
        })
    }
}

/// `FIONREAD` is `SIOCINQ` and `TIOCOUTQ` is `SIOCOUTQ`, by number.
fn queued(fd: BorrowedFd<'_>, which: libc::Ioctl) -> io::Result<u64> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: both write one int.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), which, &mut bytes) })?;
    Ok(bytes as u64)
}
