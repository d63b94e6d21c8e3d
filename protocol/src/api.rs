//! What the HTTP API asks of the master, and of workers by way of it.
//!
//! A request goes up the ring of the worker that has it ([`Up::Ask`](crate::record::Up::Ask)) and its
//! answer comes down the log ([`Down::Told`](crate::record::Down::Told)), so that whoever holds the
//! connection by then gives it. What only a worker knows the master asks of it
//! ([`Down::Look`](crate::record::Down::Look)) and passes on.

use serde::{Deserialize, Serialize};

use crate::cidr::Cidr;

/// Rooms that one request may publish to.
pub const MAX_ROOMS: usize = 100;
/// Entries of one page.
pub const MAX_PAGE: u32 = 1_000;

/// A request, as JSON in its record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// In Prometheus' text format.
    Metrics,
    Cluster,
    /// The record's data, to these rooms.
    Publish {
        rooms: Vec<String>,
        from: String,
        key: Option<String>,
        priority: bool,
    },
    /// The record's data, to one room, by a user: as if it came from a connection of it. `held`: the word
    /// filter holds it back.
    Say {
        room: String,
        user: String,
        key: Option<String>,
        held: bool,
    },
    /// The record's data, to all rooms there are whose names match.
    Broadcast {
        pattern: String,
        from: String,
        key: Option<String>,
        priority: bool,
    },
    /// The largest first, from this place on.
    Rooms {
        from: u32,
        limit: u32,
    },
    Room {
        room: String,
    },
    /// Answered with the room's place in the history, which the worker then reads.
    History {
        room: String,
        before: Option<(u64, u64)>,
        limit: u32,
    },
    Members {
        room: String,
        limit: u32,
    },
    /// Of one worker (`at`, or the first), behind this number; `worker`: of no other.
    Connections {
        worker: Option<u16>,
        at: Option<u16>,
        after: u64,
        user: Option<String>,
        room: Option<String>,
        limit: u32,
    },
    Connection {
        cid: u64,
    },
    /// Who is muted and banned: in this room only, and only this user. From this place on.
    Sanctions {
        room: Option<String>,
        user: Option<String>,
        cursor: u32,
        limit: u32,
    },
    /// Without a room: everywhere.
    Decide {
        what: Decision,
        room: Option<String>,
    },
    Reload,
    Scale {
        workers: u16,
    },
}

/// What is decided about somebody or something ([`Act`](crate::moderation::Act)); `for_ms`: 0: for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    Mute { who: String, for_ms: u64 },
    Unmute { who: String },
    Ban { whom: Whom, for_ms: u64 },
    Unban { whom: Whom },
    Kick { who: String },
    Delete { position: (u64, u64) },
    Clear,
}

/// A user, or all who come from an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Whom {
    User(String),
    Address(Cidr),
}

/// What kind of answer it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The body is what the client gets.
    Json,
    /// The same, in Prometheus' text format.
    Metrics,
    /// The body is [`Found`], as JSON: the worker answers with what the room retains.
    History,
}

impl Kind {
    pub const ALL: [Kind; 3] = [Kind::Json, Kind::Metrics, Kind::History];
}

/// Where a room's history is, and which part of it is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    pub room: String,
    pub number: u32,
    pub epoch: u64,
    pub last: u64,
    pub before: Option<(u64, u64)>,
    pub limit: u32,
}

/// An answer that is an error: `{"error":{"code","message"}}`.
#[must_use]
pub fn error(code: &str, message: &str) -> Vec<u8> {
    #[derive(Serialize)]
    struct Body<'a> {
        error: Fault<'a>,
    }
    #[derive(Serialize)]
    struct Fault<'a> {
        code: &'a str,
        message: &'a str,
    }
    let error = Fault { code, message };
    // Texts, into memory: there is nothing that could fail.
    serde_json::to_vec(&Body { error }).unwrap_or_default()
}
