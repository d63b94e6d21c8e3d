//! The channel between the master and one worker: a pair of `SOCK_SEQPACKET` sockets. A datagram
//! is one message of [`message`](crate::message) and the fds that it names. All fd passing of baton
//! is here.
//!
//! Sending is `sendfd`'s. It receives with flags 0, which would leave the fds open across an exec
//! and say nothing of lost ones, so receiving is done with `recvmsg` itself (unix(7), cmsg(3)).

use std::cell::Cell;
use std::io::{self, ErrorKind, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, recvmsg, socketpair};
use sendfd::SendWithFd;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::message::MAX_BATCH;

/// Bytes of a datagram at most; the kernel's default send buffer takes some 200 KiB.
const MAX_DATAGRAM: usize = 128 << 10;

/// One end. Non-blocking.
#[derive(Debug)]
pub struct Channel {
    // Any connected socket of the unix family serves in a `UnixDatagram`: it has `send`, and
    // `sendfd` works on it.
    socket: UnixDatagram,
    buffer: Vec<u8>,
    full: Cell<bool>,
    awaits_room: bool,
}

/// What [`Channel::receive`] found.
#[derive(Debug)]
pub enum Received<M> {
    /// `fds` are ours now, in the order in which the message names them. Fewer than it names: this
    /// process had no room for the rest (`MSG_CTRUNC`) and they are lost; the sender still has its
    /// copies.
    Message { message: M, fds: Vec<OwnedFd> },
    /// Nothing there now.
    Empty,
    /// The other end is wholly gone, and all that it said has been read.
    Closed,
}

/// What was received is not a message of ours.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("not a message: {0}")]
    Decode(#[from] rmp_serde::decode::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Channel {
    /// Two ends of a new channel, both `CLOEXEC`.
    pub fn pair() -> io::Result<(Channel, Channel)> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (a, b) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        Ok((Channel::from(a), Channel::from(b)))
    }

    /// Sends one message with its fds, which stay open here. `false`: the channel is full; nothing
    /// was sent.
    pub fn send<M: Serialize>(&self, message: &M, fds: &[BorrowedFd<'_>]) -> io::Result<bool> {
        let bytes = encode(message)?;
        if bytes.len() > MAX_DATAGRAM {
            return Err(io::Error::other(format!(
                "a message of {} bytes",
                bytes.len()
            )));
        }
        let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let sent = if raw.is_empty() {
            self.socket.send(&bytes)
        } else {
            self.socket.send_with_fd(&bytes, &raw)
        };
        match sent {
            Ok(_) => Ok(true),
            // ETOOMANYREFS: too many fds are in flight between processes of this user (unix(7));
            // it passes as they are received.
            Err(e) if is_full(&e) => {
                self.full.set(true);
                Ok(false)
            }
            Err(e) => Err(e),
        }
    }

    /// A message could not be sent, and there has been no event since.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.full.get()
    }

    /// There was an event: there may be room. What waits is to be sent now.
    pub fn has_room(&mut self) {
        self.full.set(false);
    }

    /// Whether it is to be watched for room from now on, if that changes. Not always: each message
    /// that the other end reads makes room, and would wake us.
    pub fn awaits_room(&mut self) -> Option<bool> {
        let full = self.full.get();
        (std::mem::replace(&mut self.awaits_room, full) != full).then_some(full)
    }

    /// Receives one message with its fds.
    pub fn receive<M: DeserializeOwned>(&mut self) -> Result<Received<M>, Error> {
        self.buffer.resize(MAX_DATAGRAM, 0);
        let mut control = nix::cmsg_space!([RawFd; MAX_BATCH]);
        let mut bytes = [IoSliceMut::new(&mut self.buffer)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let received = loop {
            match recvmsg::<()>(
                self.socket.as_raw_fd(),
                &mut bytes,
                Some(&mut control),
                flags,
            ) {
                Ok(received) => break received,
                // The other end is gone and left messages of ours unread; what it had said is
                // still there to be read.
                Err(nix::Error::ECONNRESET | nix::Error::EINTR) => {}
                Err(nix::Error::EAGAIN) => return Ok(Received::Empty),
                Err(e) => return Err(Error::Io(e.into())),
            }
        };
        let len = received.bytes;
        let fds = arrived(&control);
        if len == 0 {
            return Ok(Received::Closed);
        }
        let message = decode(&self.buffer[..len])?;
        Ok(Received::Message { message, fds })
    }

    /// Looks at the next message and leaves it there; without a control buffer no fd arrives. What
    /// is not a message is left for [`receive`](Channel::receive) to say.
    pub fn peek<M: DeserializeOwned>(&mut self) -> Option<M> {
        self.buffer.resize(MAX_DATAGRAM, 0);
        let len = recv(
            self.socket.as_raw_fd(),
            &mut self.buffer,
            MsgFlags::MSG_PEEK,
        )
        .ok()?;
        decode(&self.buffer[..len]).ok()
    }
}

/// A message's bytes.
pub fn encode<M: Serialize>(message: &M) -> io::Result<Vec<u8>> {
    rmp_serde::to_vec_named(message).map_err(io::Error::other)
}

/// The message that these bytes are.
pub fn decode<M: DeserializeOwned>(bytes: &[u8]) -> Result<M, rmp_serde::decode::Error> {
    rmp_serde::from_slice(bytes)
}

/// `SO_COOKIE`: the kernel's own number of a socket, by which a connection is known whatever its fd
/// is called here (socket(7)). 0 if it cannot be asked.
#[must_use]
pub fn cookie(socket: &impl AsFd) -> u64 {
    let mut cookie = 0u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel writes at most `len` bytes to `cookie`, which both outlive the call.
    unsafe {
        libc::getsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        );
    }
    cookie
}

/// The fds in a control buffer that was zeros before the call. nix shows them only while
/// `MSG_CTRUNC` is not set; those that had room before the rest was lost must not stay open unseen.
fn arrived(control: &[u8]) -> Vec<OwnedFd> {
    // struct cmsghdr of cmsg(3): length with the header (size_t), level, type, data.
    const HEADER: usize = size_of::<libc::cmsghdr>();
    let Some((header, data)) = control.split_first_chunk::<HEADER>() else {
        return Vec::new();
    };
    let (length, rest) = header.split_at(size_of::<usize>());
    let rights = [
        libc::SOL_SOCKET.to_ne_bytes(),
        libc::SCM_RIGHTS.to_ne_bytes(),
    ]
    .concat();
    let length = length.try_into().map_or(0, usize::from_ne_bytes);
    if rest != rights || length < HEADER {
        return Vec::new();
    }
    data[..(length - HEADER).min(data.len())]
        .chunks_exact(size_of::<RawFd>())
        .filter_map(|raw| raw.try_into().ok().map(RawFd::from_ne_bytes))
        // SAFETY: the kernel has just put them into our table for us alone.
        .map(|raw| unsafe { OwnedFd::from_raw_fd(raw) })
        .collect()
}

fn is_full(error: &io::Error) -> bool {
    error.kind() == ErrorKind::WouldBlock
        || matches!(
            error.raw_os_error(),
            Some(libc::ETOOMANYREFS | libc::ENOBUFS)
        )
}

impl From<OwnedFd> for Channel {
    /// An end that was inherited or received.
    fn from(fd: OwnedFd) -> Channel {
        Channel {
            socket: UnixDatagram::from(fd),
            buffer: Vec::new(),
            full: Cell::new(false),
            awaits_room: false,
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Cid;
    use crate::message::{ToMaster, ToWorker};

    #[test]
    fn a_message_arrives_with_its_fds() {
        let (a, mut b) = Channel::pair().unwrap();
        let (x, y) = std::io::pipe().unwrap();
        assert!(a.send(&ToWorker::Reopen, &[x.as_fd(), y.as_fd()]).unwrap());
        assert_eq!(b.peek::<ToWorker>(), Some(ToWorker::Reopen));
        let Received::Message { message, fds } = b.receive::<ToWorker>().unwrap() else {
            panic!("nothing received")
        };
        assert_eq!((message, fds.len()), (ToWorker::Reopen, 2));
        let cloexec = nix::fcntl::fcntl(&fds[0], nix::fcntl::FcntlArg::F_GETFD).unwrap();
        assert_eq!(cloexec, libc::FD_CLOEXEC);
        assert!(matches!(b.receive::<ToWorker>().unwrap(), Received::Empty));
    }

    #[test]
    fn what_was_said_before_the_end_is_read_first() {
        let (a, mut b) = Channel::pair().unwrap();
        b.send(&ToWorker::Reopen, &[]).unwrap(); // unread by `a`: `b` sees ECONNRESET once
        a.send(&ToMaster::Ready, &[]).unwrap();
        a.send(&ToMaster::Refuse { cids: vec![Cid(1)] }, &[])
            .unwrap();
        drop(a);
        for expected in [ToMaster::Ready, ToMaster::Refuse { cids: vec![Cid(1)] }] {
            let Received::Message { message, .. } = b.receive::<ToMaster>().unwrap() else {
                panic!("lost {expected:?}")
            };
            assert_eq!(message, expected);
        }
        assert!(matches!(b.receive::<ToMaster>().unwrap(), Received::Closed));
    }

    #[test]
    fn a_full_channel_says_so_and_loses_nothing() {
        let (a, mut b) = Channel::pair().unwrap();
        let mut sent = 0;
        while a
            .send(
                &ToMaster::Refuse {
                    cids: vec![Cid(sent)],
                },
                &[],
            )
            .unwrap()
        {
            sent += 1;
        }
        for i in 0..sent {
            let Received::Message { message, .. } = b.receive::<ToMaster>().unwrap() else {
                panic!("lost {i}")
            };
            assert_eq!(message, ToMaster::Refuse { cids: vec![Cid(i)] });
        }
        assert!(matches!(b.receive::<ToMaster>().unwrap(), Received::Empty));
    }

    /// The receiver has room for two fds of four: those two arrive, in order, and no other.
    #[test]
    fn at_the_limit_of_open_files_the_first_fds_arrive() {
        use nix::sys::resource::{Resource, getrlimit, setrlimit};
        // A limit belongs to the process: the test runs by itself in a child.
        if std::env::var_os("BATON_FD_LIMIT").is_none() {
            let name = "channel::tests::at_the_limit_of_open_files_the_first_fds_arrive";
            let test = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", name, "--test-threads=1"])
                .env("BATON_FD_LIMIT", "1")
                .status();
            assert!(test.unwrap().success());
            return;
        }
        let (a, mut b) = Channel::pair().unwrap();
        let (x, y) = std::io::pipe().unwrap();
        let four = [x.as_fd(), y.as_fd(), x.as_fd(), y.as_fd()];
        assert!(a.send(&ToWorker::Reopen, &four).unwrap());
        let next = x.try_clone().unwrap();
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, next.as_raw_fd() as u64 + 2, hard).unwrap();
        drop(next);
        let Received::Message { fds, .. } = b.receive::<ToWorker>().unwrap() else {
            panic!()
        };
        let inode = |fd: BorrowedFd<'_>| nix::sys::stat::fstat(fd).unwrap().st_ino;
        let arrived: Vec<_> = fds.iter().map(|fd| inode(fd.as_fd())).collect();
        assert_eq!(arrived, [inode(x.as_fd()), inode(y.as_fd())]);
    }

    #[test]
    fn garbage_is_an_error_and_its_fds_are_closed() {
        let (a, mut b) = Channel::pair().unwrap();
        let (x, mut y) = std::io::pipe().unwrap();
        a.socket
            .send_with_fd(b"\xc1garbage", &[y.as_raw_fd()])
            .unwrap();
        assert!(matches!(b.receive::<ToWorker>(), Err(Error::Decode(_))));
        drop(x);
        // No copy of the reading end is left, so writing fails.
        assert!(std::io::Write::write(&mut y, b"x").is_err());
    }
}
