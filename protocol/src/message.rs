//! What master and worker say over the channel: one MessagePack value a datagram (structs as
//! maps, so that a neighbouring version may add fields), with the fds that it names, in its order.
//!
//! What a worker says for each connection, that it has it and that it is closed, goes through its
//! ring ([`record`](crate::record)): that costs no system call and wakes nobody. The master reads the
//! ring before the channel.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::ids::{Cid, Role, Seat};
use crate::settings::Settings;

/// Raised when a message changes its meaning. Neighbouring versions work together.
pub const VERSION: u32 = 1;

/// Fds in one [`ToWorker::Give`] at most. One at a time costs some 4 µs a connection,
/// 8 to 64 at once less than 1 µs.
pub const MAX_BATCH: usize = 64;

/// From the master.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToWorker {
    /// The answer to a brain's `Hello`.
    Welcome {
        version: u32,
        worker: Seat,
        settings: Box<Settings>,
    },
    /// Take these connections; for each its fd, and behind it the file of [`Past::File`]. Each is
    /// answered by its number in [`Up::Ack`](crate::record::Up::Ack) or [`ToMaster::Refuse`]. One given twice (its
    /// cookie is known) is acknowledged again and its second fd closed.
    Give { connections: Vec<Given> },
    /// Give these connections away, with [`ToMaster::Give`]; one that has been given already is
    /// given once more. Numbers that the worker does not have are closed, and were said so.
    Part { cids: Vec<Cid> },
    /// What [`ToMaster::Give`] gave has been taken by another worker: it is to be forgotten.
    Took { cids: Vec<Cid> },
    /// Nobody could take these: the worker that gave them goes on with them.
    Keep { cids: Vec<Cid> },
    /// Reopen the log: one fd, the new file.
    Reopen,
    /// Take nothing more, say goodbye to every connection, end when all are gone or after
    /// `within_ms`.
    Retire { within_ms: u64 },
}

/// One connection that is given. What is as usual is not said: most that are given are fresh, and there
/// may be many.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Given {
    pub cid: Cid,
    #[serde(default, skip_serializing_if = "is_usual")]
    pub role: Role,
    /// The client's address, as accepted or, once known, as a PROXY header said.
    #[serde(with = "crate::address")]
    pub peer: SocketAddr,
    /// A PROXY header comes first: read it. With [`Proxy::ReadAndReturn`] the connection then goes
    /// back once, so that the master can choose by the address in it.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub proxy: Proxy,
    /// baton is at a limit: answer 503 with `Retry-After`, linger, close.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub refuse: bool,
    /// It came through a listener that not only this machine can reach.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub remote: bool,
    /// It came through a unix socket: the peer has no address, and the kernel keeps no count of what
    /// was read and written.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub unix: bool,
    #[serde(default, skip_serializing_if = "is_usual")]
    pub past: Past,
    /// When it was accepted ([`monotonic_us`](crate::clock::monotonic_us)), of one whose hand-off is
    /// measured; 0: it is not.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub accepted_us: u64,
    /// As [`cookie`](crate::channel::cookie) says; 0: not asked.
    #[serde(default)]
    pub cookie: u64,
}

fn is_usual<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What a connection that has lived brings along: the giver's snapshot of it, which the master
/// passes on and does not look into.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Past {
    /// It has none: not a byte has been read.
    #[default]
    None,
    Here(ByteBuf),
    /// In a file of its own, whose fd follows the connection's: the snapshot is its whole content.
    File,
    /// It has one that is lost. Only who has taken it before can acknowledge it.
    Lost,
}

/// A connection that a worker gives away.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Parted {
    pub cid: Cid,
    /// As the worker knows it: behind a proxy, what the header said.
    #[serde(with = "crate::address")]
    pub peer: SocketAddr,
    pub past: Past,
}

/// What is to be done about a PROXY header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Proxy {
    /// No header is expected, or it has been read.
    #[default]
    None,
    /// A header is expected; keep the connection.
    Read,
    /// A header is expected; give the connection back with what it says.
    ReadAndReturn,
}

/// From a worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToMaster {
    /// A brain has started (`life` counts the brains of this guard, from 1) and wants
    /// [`ToWorker::Welcome`]; what was given and not acknowledged must be given again.
    Hello {
        version: u32,
        guard_pid: i32,
        brain_pid: i32,
        life: u32,
        /// Brain after brain died: this one serves nobody, and gives what it has away.
        #[serde(default)]
        evacuates: bool,
    },
    /// It serves.
    Ready,
    /// These could not be taken (no slot, fd lost): the master gives them to another.
    Refuse { cids: Vec<Cid> },
    /// These are given away, as [`ToWorker::Part`] asked, or because their PROXY headers have been
    /// read ([`Proxy::ReadAndReturn`]); fds as in [`ToWorker::Give`]. The giver keeps everything and
    /// touches nothing of it until it hears [`ToWorker::Took`] or [`ToWorker::Keep`].
    Give { connections: Vec<Parted> },
    /// All connections are gone after [`ToWorker::Retire`]; the process ends now.
    Retired,
}
