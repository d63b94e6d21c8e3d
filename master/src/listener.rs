//! Listening sockets: made by the master's process before it serves (or by systemd, see
//! [`activation`]), and kept for good. Those that are files are [`unix`]'s.

pub mod activation;
pub mod backlog;
pub mod unix;

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    self, AddressFamily, SockFlag, SockType, SockaddrStorage, setsockopt, sockopt,
};

use crate::config::{Address, Listen};
use crate::readiness::Listening;

/// A bound and listening socket: non-blocking, closed on exec.
#[derive(Debug)]
pub struct Listener {
    pub fd: OwnedFd,
    pub listen: Listen,
    /// With the real port.
    pub address: Address,
    /// systemd has it, too, and keeps it when we end: what shuts it down would shut it for the next
    /// master.
    pub is_shared: bool,
}

/// It cannot be listened there.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {why}")]
pub struct Error {
    pub address: Address,
    pub why: String,
}

fn explain(error: Errno) -> String {
    match error {
        Errno::EADDRINUSE => "the port is in use by another program".to_owned(),
        Errno::EADDRNOTAVAIL => "this machine does not have the address".to_owned(),
        Errno::EACCES => "no permission (ports below 1024 need root)".to_owned(),
        error => error.desc().to_owned(),
    }
}

impl Listener {
    /// Makes the socket, binds it and listens.
    pub fn bind(listen: &Listen) -> Result<Self, Error> {
        let fd = match &listen.address {
            Address::Tcp(address) => open(listen, *address).map_err(explain),
            Address::Unix(path) => unix::open(listen, path),
        };
        let fd = fd.map_err(|why| Error {
            address: listen.address.clone(),
            why,
        })?;
        Listener::new(listen, fd, false)
    }

    /// Takes a socket that systemd has made.
    pub fn adopt(listen: &Listen, fd: OwnedFd) -> Result<Self, Error> {
        Listener::new(listen, fd, true)
    }

    fn new(listen: &Listen, fd: OwnedFd, is_shared: bool) -> Result<Self, Error> {
        let (fd, address) = match &listen.address {
            Address::Unix(_) => (fd, listen.address.clone()),
            Address::Tcp(_) => {
                let listener = TcpListener::from(fd);
                let address = listener.local_addr().map_err(|error| Error {
                    address: listen.address.clone(),
                    why: error.to_string(),
                })?;
                (listener.into(), address.into())
            }
        };
        Ok(Listener {
            fd,
            listen: listen.clone(),
            address,
            is_shared,
        })
    }

    /// Nobody listens here any more: a file that is ours goes.
    pub fn remove(&self) {
        if let Some(path) = self.address.path()
            && !self.is_shared
        {
            let _ = std::fs::remove_file(path);
        }
    }

    /// What waits there in the kernel; `None`: it does not say that, of a unix socket.
    #[must_use]
    pub fn backlog(&self) -> Option<backlog::Backlog> {
        backlog::of(&self.fd).ok()
    }

    pub fn listening(&self) -> Listening {
        Listening {
            role: self.listen.role,
            addr: self.address.clone(),
        }
    }
}

fn open(listen: &Listen, address: SocketAddr) -> nix::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket::socket(family, SockType::Stream, flags, None)?;
    // Connections of the master before may linger in TIME_WAIT.
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    if family == AddressFamily::Inet6 {
        // Never the system's default: "0.0.0.0:8000" and "[::]:8000" go together or not by what
        // the configuration says.
        setsockopt(&fd, sockopt::Ipv6V6Only, &listen.ipv6_only)?;
    }
    // Accepted sockets inherit both. An urgent byte that is not in line would shift the kernel's
    // count of what has been read, on which recovery after a crash relies.
    setsockopt(&fd, sockopt::OobInline, &true)?;
    setsockopt(&fd, sockopt::TcpNoDelay, &true)?;
    socket::bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
    socket::listen(&fd, room(listen))?;
    Ok(fd)
}

/// How many may wait there.
fn room(listen: &Listen) -> socket::Backlog {
    let backlog = i32::try_from(listen.backlog).unwrap_or(i32::MAX);
    socket::Backlog::new(backlog).unwrap_or(socket::Backlog::MAXCONN)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::net::TcpStream;

    use nix::sys::socket::getsockopt;
    use protocol::ids::Role;

    use super::*;

    fn listen(address: &str) -> Listen {
        let address: SocketAddr = address.parse().unwrap();
        Listen::new(address, Role::Public)
    }

    fn at(listener: &Listener) -> SocketAddr {
        listener.address.tcp().unwrap()
    }

    #[test]
    fn accepted_sockets_have_what_they_need() {
        let listener = Listener::bind(&listen("127.0.0.1:0")).unwrap();
        assert_ne!(at(&listener).port(), 0);
        let _client = TcpStream::connect(at(&listener)).unwrap();
        let listener = TcpListener::from(listener.fd);
        let accepted = loop {
            match listener.accept() {
                Ok((accepted, _)) => break accepted,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        };
        assert!(getsockopt(&accepted, sockopt::TcpNoDelay).unwrap());
        assert!(getsockopt(&accepted, sockopt::OobInline).unwrap());
    }

    #[test]
    fn a_port_in_use_is_named() {
        let first = Listener::bind(&listen("127.0.0.1:0")).unwrap();
        let error = Listener::bind(&listen(&first.address.to_string())).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "cannot listen on {}: the port is in use by another program",
                first.address
            )
        );
    }

    #[test]
    fn both_families_share_a_port_if_ipv6_keeps_to_itself() {
        let v6 = match Listener::bind(&listen("[::]:0")) {
            Ok(v6) => v6,
            // A machine without IPv6.
            Err(error) if error.why == Errno::EAFNOSUPPORT.desc() => return,
            Err(error) => panic!("{error}"),
        };
        let v4 = listen(&format!("0.0.0.0:{}", at(&v6).port()));
        Listener::bind(&v4).unwrap();

        let both = Listen {
            ipv6_only: false,
            ..listen("[::]:0")
        };
        let both = Listener::bind(&both).unwrap();
        TcpStream::connect(("127.0.0.1", at(&both).port())).unwrap();
        TcpStream::connect(("::1", at(&both).port())).unwrap();
    }
}
