//! A connection as it travels from one worker to another: everything that its slot says, what its
//! buffers hold, and its rooms by name and position.
//!
//! Neighbouring versions of baton read each other's snapshots: fields are written by name, unknown
//! ones are skipped, missing ones have a default. What changes its meaning raises [`VERSION`].
//! Each version that was released has a recorded snapshot in the tests below.

use protocol::ids::{Position, Role};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::slots::Phase;

/// Raised when what it says changes; the version before can be read.
pub const VERSION: u32 = 2;

/// Times are told as how long ago they were: each worker's clock has skipped other pauses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    pub version: u32,
    pub role: Role,
    pub phase: Phase,
    /// Why it is being closed ([`CloseReason::as_str`](crate::close::CloseReason::as_str)).
    #[serde(default)]
    pub reason: Option<String>,
    #[serde(default)]
    pub refuse: bool,
    #[serde(default)]
    pub pinged: bool,
    #[serde(default)]
    pub peer_ended: bool,
    #[serde(default)]
    pub we_ended: bool,
    #[serde(default)]
    pub leaving: bool,
    /// It waits for a room; the answer is in the log.
    #[serde(default)]
    pub opening: bool,
    /// Bytes that were read from its socket and written to it, since it was accepted.
    pub consumed: u64,
    pub written: u64,
    /// Read and not parsed.
    pub input: ByteBuf,
    /// A message, or a request's body, that is being put together.
    pub message: ByteBuf,
    /// Produced and not written.
    pub output: ByteBuf,
    /// The words of its phase's session, as they pack themselves.
    pub session: [u64; 3],
    /// The log position up to which it has what concerns it.
    pub cursor: u64,
    pub heard: u64,
    pub since: u64,
    #[serde(default)]
    pub stalled: Option<u64>,
    #[serde(default)]
    pub rooms: Vec<Membership>,
    /// It came through a listener that not only its machine can reach.
    #[serde(default)]
    pub remote: bool,
    /// It came through a unix socket.
    #[serde(default)]
    pub unix: bool,
    /// Messages that come together come in one frame.
    #[serde(default)]
    pub batch: bool,
    /// It speaks MessagePack.
    #[serde(default)]
    pub msgpack: bool,
    /// The window of compression, in bits, where that was negotiated.
    #[serde(default)]
    pub window: Option<u8>,
    #[serde(default)]
    pub pass: Option<Pass>,
}

/// Who the connection is, what it may do and has done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pass {
    /// As [`Grant::pack`](crate::auth::Grant::pack) makes them.
    pub grant: ByteBuf,
    /// Since 1970.
    pub expires_ms: u64,
    pub asked: bool,
    /// How far what is limited is ahead of now, in microseconds.
    pub spent: [u64; 4],
}

/// A room that the connection is in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Membership {
    /// Its number at the master.
    pub number: u32,
    pub name: ByteBuf,
    /// The offset at which the connection joined.
    pub after: u64,
    /// From which position of the log on it is told who comes and goes; 0: it is not.
    #[serde(default)]
    pub watch: u64,
    /// The room's last message before the log position `read`, and how many were in it then.
    pub position: Position,
    pub read: u64,
    pub total: u32,
}

/// It cannot be gone on with here.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    #[error("a snapshot of version {0}; this worker reads up to {last}", last = VERSION + 1)]
    TooNew(u32),
    #[error("not a snapshot: {0}")]
    Malformed(#[from] rmp_serde::decode::Error),
}

impl Snapshot {
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // Numbers, words and bytes, into memory: there is nothing that could fail.
        rmp_serde::to_vec_named(self).unwrap_or_default()
    }

    /// It has shown a token, and is not yet in the room of its user.
    #[must_use]
    pub fn lacks_own_room(&self) -> bool {
        let has_token = self
            .pass
            .as_ref()
            .is_some_and(|pass| !pass.grant.is_empty());
        has_token && !self.rooms.iter().any(|room| room.name.starts_with(b"@"))
    }

    pub fn decode(bytes: &[u8]) -> Result<Snapshot, Unreadable> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let Versioned { version } = rmp_serde::from_slice(bytes)?;
        if version > VERSION + 1 {
            return Err(Unreadable::TooNew(version));
        }
        Ok(rmp_serde::from_slice(bytes)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the first version said it.
    fn sample_1() -> Snapshot {
        Snapshot {
            version: 1,
            remote: false,
            pass: None,
            ..sample_2()
        }
    }

    /// As the second did, at first.
    fn sample_2() -> Snapshot {
        Snapshot {
            msgpack: false,
            ..sample()
        }
    }

    fn sample() -> Snapshot {
        Snapshot {
            version: 2,
            role: Role::Public,
            phase: Phase::Rooms,
            reason: Some("done".to_owned()),
            refuse: false,
            pinged: true,
            peer_ended: false,
            we_ended: false,
            leaving: true,
            opening: false,
            consumed: 1 << 40,
            written: 77,
            input: ByteBuf::from(*b"\x81\x85"),
            message: ByteBuf::from(*b"{\"id\":1"),
            output: ByteBuf::from(*b"\x81\x02ok"),
            session: [1, 2, u64::MAX],
            cursor: 4096,
            heard: 12,
            since: 3,
            stalled: Some(5),
            rooms: vec![Membership {
                number: 7,
                name: ByteBuf::from(*b"lobby"),
                after: 41,
                watch: 0,
                position: Position {
                    epoch: 3,
                    offset: 1050,
                },
                read: 4000,
                total: 812,
            }],
            remote: true,
            unix: false,
            batch: false,
            msgpack: true,
            window: None,
            pass: Some(Pass {
                grant: ByteBuf::from(*b"\x02u7\x03\x01*"),
                expires_ms: 1_700_000_000_000,
                asked: true,
                spent: [1, 0, 2_000_000, 3],
            }),
        }
    }

    /// As workers of these versions wrote it. It must be read for as long as its version is a
    /// neighbour; it is never written anew.
    const RECORDED_1: &[u8] = include_bytes!("snapshot-1.msgpack");
    const RECORDED_2: &[u8] = include_bytes!("snapshot-2.msgpack");

    #[test]
    fn a_recorded_snapshot_of_each_version_is_read() {
        assert_eq!(Snapshot::decode(RECORDED_1).unwrap(), sample_1());
        assert_eq!(Snapshot::decode(RECORDED_2).unwrap(), sample_2());
    }

    #[test]
    fn comes_back() {
        let bytes = sample().encode();
        assert_eq!(Snapshot::decode(&bytes).unwrap(), sample());
    }

    /// What the next version may do: add fields. What the version before may have done: not know
    /// some of ours.
    #[test]
    fn neighbours_are_read() {
        #[derive(Serialize)]
        struct Next {
            #[serde(flatten)]
            known: Snapshot,
            compressed: bool,
        }
        let mut known = sample();
        known.version = VERSION + 1;
        let next = Next {
            known: known.clone(),
            compressed: true,
        };
        let bytes = rmp_serde::to_vec_named(&next).unwrap();
        assert_eq!(Snapshot::decode(&bytes).unwrap(), known);

        #[derive(Serialize)]
        struct Before {
            version: u32,
            role: Role,
            phase: Phase,
            consumed: u64,
            written: u64,
            input: ByteBuf,
            message: ByteBuf,
            output: ByteBuf,
            session: [u64; 3],
            cursor: u64,
            heard: u64,
            since: u64,
        }
        let before = Before {
            version: VERSION - 1,
            role: Role::Admin,
            phase: Phase::Http,
            consumed: 0,
            written: 0,
            input: ByteBuf::new(),
            message: ByteBuf::new(),
            output: ByteBuf::new(),
            session: [0; 3],
            cursor: 0,
            heard: 0,
            since: 0,
        };
        let bytes = rmp_serde::to_vec_named(&before).unwrap();
        let read = Snapshot::decode(&bytes).unwrap();
        assert_eq!((read.phase, read.rooms.len()), (Phase::Http, 0));
    }

    #[test]
    fn what_is_too_new_or_nonsense_is_refused() {
        let mut snapshot = sample();
        snapshot.version = VERSION + 2;
        let refused = Snapshot::decode(&snapshot.encode());
        assert!(matches!(refused, Err(Unreadable::TooNew(_))));
        assert!(matches!(
            Snapshot::decode(b"\xc1"),
            Err(Unreadable::Malformed(_))
        ));
        let whole = sample().encode();
        for len in 0..whole.len() {
            assert!(Snapshot::decode(&whole[..len]).is_err());
        }
    }
}
