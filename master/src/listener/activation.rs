//! Sockets that systemd has opened for us (`sd_listen_fds(3)`): they are taken for the listeners of
//! the same address, so that a baton without any privilege can have port 80 and no connection is
//! refused while it restarts.

use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{SockaddrStorage, getsockname, getsockopt, setsockopt, sockopt};

use crate::config::Address;

/// In the environment of the master that `start` runs: how many fds it was passed. (`LISTEN_PID`
/// names `start` itself.)
pub const PASSED: &str = "BATON_LISTEN_FDS";

/// The first of them, by the protocol.
pub const FIRST: i32 = 3;

/// Sockets of systemd that no listener has taken yet.
#[derive(Debug, Default)]
pub struct Activated(Vec<(Address, OwnedFd)>);

/// How many fds systemd has passed to this very process.
pub fn passed() -> Option<i32> {
    let number = |name| std::env::var(name).ok()?.parse::<i32>().ok();
    let for_us = number("LISTEN_PID").is_some_and(|pid| pid == std::process::id().cast_signed());
    if for_us {
        number("LISTEN_FDS")
    } else {
        number(PASSED)
    }
}

impl Activated {
    /// Takes them. To be called once: they are this process's from here on.
    pub fn from_env() -> io::Result<Self> {
        let mut activated = Activated::default();
        for fd in FIRST..FIRST + passed().unwrap_or(0) {
            let wrong = |error| io::Error::other(format!("fd {fd} of systemd: {error}"));
            if !is_open(fd) {
                return Err(wrong(io::Error::other("is not open")));
            }
            // SAFETY: it is open, and was passed to this process to own.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            let ours = adopt(fd).map_err(wrong)?;
            activated.0.push(ours);
        }
        Ok(activated)
    }

    /// The socket that listens on `address`.
    pub fn take(&mut self, address: &Address) -> Option<OwnedFd> {
        let at = self.0.iter().position(|(own, _)| own == address)?;
        Some(self.0.swap_remove(at).1)
    }

    /// One that is left over.
    pub fn left(&self) -> Option<&Address> {
        self.0.first().map(|(address, _)| address)
    }
}

fn is_open(fd: i32) -> bool {
    // SAFETY: the call only looks at the number.
    unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
}

/// Gives it what a socket of our own has. Connections that came before this go without.
fn adopt(fd: OwnedFd) -> io::Result<(Address, OwnedFd)> {
    if !getsockopt(&fd, sockopt::AcceptConn)? {
        return Err(io::Error::other("is not a listening socket"));
    }
    fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    let name = getsockname::<SockaddrStorage>(fd.as_raw_fd())?;
    if let Some(path) = name.as_unix_addr().and_then(|name| name.path()) {
        let path = path.to_owned();
        let listener = UnixListener::from(fd);
        listener.set_nonblocking(true)?;
        return Ok((Address::Unix(path), listener.into()));
    }
    setsockopt(&fd, sockopt::OobInline, &true)?;
    setsockopt(&fd, sockopt::TcpNoDelay, &true)?;
    let listener = TcpListener::from(fd);
    listener.set_nonblocking(true)?;
    Ok((listener.local_addr()?.into(), listener.into()))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn a_listening_socket_is_adopted() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::from(socket.local_addr().unwrap());
        let mut activated = Activated(vec![adopt(socket.into()).unwrap()]);
        assert_eq!(activated.left(), Some(&address));
        let other = "127.0.0.1:1".parse().map(Address::Tcp).unwrap();
        assert!(activated.take(&other).is_none());
        let fd = activated.take(&address).unwrap();
        assert!(getsockopt(&fd, sockopt::OobInline).unwrap());
        assert_eq!(activated.left(), None);
    }

    #[test]
    fn so_is_one_that_is_a_file() {
        let path = std::env::temp_dir().join(format!("baton-sd-{}", std::process::id()));
        let socket = UnixListener::bind(&path).unwrap();
        let mut activated = Activated(vec![adopt(socket.into()).unwrap()]);
        assert!(activated.take(&Address::Unix(path.clone())).is_some());
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn others_are_not() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let error = adopt(socket.into()).unwrap_err();
        assert_eq!(error.to_string(), "is not a listening socket");
    }
}
