//! What waits in the kernel behind a listening socket.
//!
//! The kernel counts it at the socket, which is kept for good: so it goes on over brains and upgrades.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;

/// Of getsockopt's `SO_MEMINFO` (include/uapi/linux/sock_diag.h): what was dropped, and how many words
/// there are.
const DROPS: usize = 8;
const WORDS: usize = 9;

/// Behind one listening socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Connections that wait to be accepted.
    pub waiting: u32,
    /// More of them do not fit (one more does, before the kernel calls it full).
    pub limit: u32,
    /// How many attempts to connect the kernel did not answer, because it was full. Whoever made
    /// one tries again, after a second, then after two more (tcp(7), `tcp_syn_retries`).
    pub dropped: u32,
}

/// Of a TCP socket that listens; of others the kernel does not say it.
pub(super) fn of(fd: &OwnedFd) -> nix::Result<Backlog> {
    let mut info = [0_u32; size_of::<libc::tcp_info>() / 4];
    ask(fd, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info)?;
    let mut memory = [0_u32; WORDS];
    ask(fd, libc::SOL_SOCKET, libc::SO_MEMINFO, &mut memory)?;
    let at = |offset: usize| info[offset / 4];
    Ok(Backlog {
        // Of a listening socket these two are not what their names say (tcp_get_info).
        waiting: at(std::mem::offset_of!(libc::tcp_info, tcpi_unacked)),
        limit: at(std::mem::offset_of!(libc::tcp_info, tcpi_sacked)),
        dropped: memory[DROPS],
    })
}

fn ask(fd: &OwnedFd, level: i32, option: i32, words: &mut [u32]) -> nix::Result<()> {
    let mut len = size_of_val(words) as libc::socklen_t;
    let to = words.as_mut_ptr().cast();
    // SAFETY: the kernel writes at most `len` bytes, and any bits are words.
    Errno::result(unsafe { libc::getsockopt(fd.as_raw_fd(), level, option, to, &mut len) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpStream};
    use std::time::Duration;

    use protocol::ids::Role;

    use super::*;
    use crate::config::Listen;
    use crate::listener::Listener;

    #[test]
    fn what_does_not_fit_is_dropped() {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let listen = Listen {
            backlog: 2,
            ..Listen::new(any, Role::Public)
        };
        let listener = Listener::bind(&listen).unwrap();
        let seen = || listener.backlog().unwrap();
        let empty = Backlog {
            limit: 2,
            ..Backlog::default()
        };
        assert_eq!(seen(), empty);
        let to = listener.address.tcp().unwrap();
        let in_time: Vec<_> = (0..3).map(|_| TcpStream::connect(to).unwrap()).collect();
        let waiting = in_time.len() as u32;
        assert_eq!(seen(), Backlog { waiting, ..empty });
        while seen().dropped == 0 {
            let late = TcpStream::connect_timeout(&to, Duration::from_millis(1));
            assert!(late.is_err());
        }
        assert_eq!(seen().waiting, waiting);
    }
}
