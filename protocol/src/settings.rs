//! What a worker must know of the configuration. The master reads the file, checks it and sends
//! this over the channel; a worker never sees the file. The defaults here are the only ones.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::bucket::PerSecond;
use crate::cidr::Cidr;

pub use self::auth::{Algorithm, Anonymous, Auth, Key, Material, Right, Rights};
pub use self::filter::{Filter, Filtered, Words};
pub use self::hook::{Event, Fail, Hook, Server};
pub use self::options::{Options, RoomOptions};
pub use self::presence::{Listed, Presence};

mod auth;
mod filter;
mod hook;
mod options;
mod presence;

/// All that a worker is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    pub http: Http,
    pub websocket: WebSocket,
    pub rooms: Rooms,
    pub auth: Auth,
    pub rates: Rates,
    /// The first that matches is asked.
    pub hooks: Vec<Hook>,
    /// All that match a room's name are asked.
    pub filters: Vec<Filter>,
    pub presence: Presence,
    pub options: Options,
    pub api: Api,
    /// Connections that one worker takes at most.
    pub max_connections: u32,
    /// Bytes of buffers that one worker may hold at most, for all its connections together.
    pub memory: u64,
    /// On a goodbye, clients are told to come back at a moment spread evenly over this time.
    pub retry_spread_ms: u64,
    /// How long a worker whose master is gone goes on to say goodbye.
    pub retire_ms: u64,
    /// A brain whose loop stands still for so long hangs.
    pub hung_ms: u64,
    /// Brains are scheduled as [`batch`](crate::scheduling::batch) says.
    pub batch: bool,
    /// Of so many connections the ring may say something before the master is woken for it.
    pub unrung: u32,
    /// When so many brains of a worker in a row have died within a second, the next one gives its
    /// connections away.
    pub short_lives: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            http: Http::default(),
            websocket: WebSocket::default(),
            rooms: Rooms::default(),
            auth: Auth::default(),
            rates: Rates::default(),
            hooks: Vec::new(),
            filters: Vec::new(),
            presence: Presence::default(),
            options: Options::default(),
            api: Api::default(),
            max_connections: 16_000,
            memory: 256 << 20,
            retry_spread_ms: 5_000,
            retire_ms: 10_000,
            hung_ms: 10_000,
            batch: true,
            unrung: 32,
            short_lives: 10,
        }
    }
}

/// Who may use the HTTP API, on admin listeners.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Api {
    /// SHA-256 of the tokens that allow everything. None: the API only tells, and only on a loopback
    /// address.
    pub tokens: Vec<[u8; 32]>,
    /// Of the pages that may read its answers.
    pub origins: Vec<String>,
}

/// What a request may be, and how long it may take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Http {
    /// Bytes of the request line; above, 414.
    pub max_line: usize,
    /// Bytes of the request line and all header fields together; above, 431.
    pub max_head: usize,
    /// Header fields; above, 431.
    pub max_fields: usize,
    /// Bytes of a request's body; above, 413.
    pub max_body: usize,
    /// From the first byte of a head to its last; then 408.
    pub head_timeout_ms: u64,
    /// Without a byte of a body; then 408.
    pub body_timeout_ms: u64,
    /// Between requests (and before the first); then closed.
    pub idle_timeout_ms: u64,
    /// After the last answer, for the peer to read it and close; then closed.
    pub linger_ms: u64,
}

impl Default for Http {
    fn default() -> Self {
        Http {
            max_line: 8 << 10,
            max_head: 32 << 10,
            max_fields: 100,
            max_body: 1 << 20,
            head_timeout_ms: 10_000,
            body_timeout_ms: 30_000,
            idle_timeout_ms: 75_000,
            linger_ms: 2_000,
        }
    }
}

/// What a message may be, and how long a silence may last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct WebSocket {
    /// A connection that said nothing for so long is pinged.
    pub ping_interval_ms: u64,
    /// One that then still says nothing for so long is dead.
    pub pong_timeout_ms: u64,
    /// From our Close frame to the peer's.
    pub close_timeout_ms: u64,
    /// A peer that takes none of the bytes that wait for it for so long is closed.
    pub write_timeout_ms: u64,
    /// Bytes of one message on `/echo`; above, 1009.
    pub echo_max_message: usize,
    /// Frames of one message, not counting the last, on `/echo` and `/rooms`; above, 1008.
    pub max_fragments: u32,
    /// Pings that may come in one ping interval without a data frame between them; above, 1008.
    pub max_pings: u32,
    /// Messages may be compressed (RFC 7692), where the client can.
    pub compression: bool,
    /// Bytes of a message from which on it is sent compressed.
    pub compress_from: usize,
    /// How hard it is tried: 1 (fast) to 9 (small).
    pub compress_level: u32,
    /// Allowed values of `Origin` on an upgrade. Empty: the request's own host. `*`: any.
    pub origins: Vec<String>,
}

impl Default for WebSocket {
    fn default() -> Self {
        WebSocket {
            ping_interval_ms: 25_000,
            pong_timeout_ms: 20_000,
            close_timeout_ms: 5_000,
            write_timeout_ms: 30_000,
            echo_max_message: 16 << 20,
            max_fragments: 65_536,
            max_pings: 1_000,
            compression: true,
            compress_from: 256,
            compress_level: 3,
            origins: Vec::new(),
        }
    }
}

/// What clients may do, whatever the room.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rooms {
    /// Bytes of a message's `data`, as it comes; above, `too_large`.
    pub max_data: usize,
    /// How deep `data` may be nested.
    pub max_depth: usize,
    /// Rooms that one connection may be in; above, `limit`.
    pub max_rooms: u32,
    /// Bytes that may wait for a subscriber that reads slowly.
    pub slow_bytes: usize,
    /// What happens to it above that.
    pub slow: Slow,
    /// The master carries data that is MessagePack. One that does not know this word does not.
    #[serde(default)]
    pub msgpack: bool,
    /// The master knows what is [decided](crate::moderation) about users. One that does not know this
    /// word does not.
    #[serde(default)]
    pub moderation: bool,
    /// The master takes what who moderates [says for others](crate::record::Up::Release). One that does
    /// not know this word does not.
    #[serde(default)]
    pub releases: bool,
}

impl Default for Rooms {
    fn default() -> Self {
        Rooms {
            max_data: 64 << 10,
            max_depth: 32,
            max_rooms: 100,
            slow_bytes: 1 << 20,
            slow: Slow::Gap,
            msgpack: true,
            moderation: true,
            releases: true,
        }
    }
}

/// What may be done in a second, and at once; 0: any number of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rates {
    /// Of one connection: whatever it asks is a message.
    pub connection: PerSecond,
    /// Joins of one connection.
    pub joins: u64,
    /// Of all connections that a worker has of one address.
    pub address: PerSecond,
    /// New connections of one address.
    pub connects: u64,
    /// What is sent by all connections of one user.
    pub user: PerSecond,
    /// What is sent to one room.
    pub room: PerSecond,
    /// What was not done in this time may be done at once.
    pub burst_ms: u64,
    /// A connection that is refused so often in ten seconds is closed.
    pub refusals: u64,
    /// Connections of one user at once.
    pub per_user: u32,
    /// Connections in one room at once.
    pub per_room: u32,
    /// Client addresses that no limit per address is for.
    pub exempt: Vec<Cidr>,
}

impl Default for Rates {
    fn default() -> Self {
        Rates {
            connection: PerSecond::default(),
            joins: 0,
            address: PerSecond::default(),
            connects: 0,
            user: PerSecond::default(),
            room: PerSecond::default(),
            burst_ms: 2_000,
            refusals: 100,
            per_user: 0,
            per_room: 0,
            // Proxies and load generators connect from there.
            exempt: ["127.0.0.0/8", "::1"]
                .into_iter()
                .filter_map(|range| range.parse().ok())
                .collect(),
        }
    }
}

impl Rates {
    /// Connections at `/rooms` are limited in something.
    #[must_use]
    pub fn is_any(&self) -> bool {
        let per_second = [self.connection, self.address, self.user, self.room];
        self.joins != 0 || per_second.into_iter().any(PerSecond::is_any)
    }

    /// Are limits per address for this one?
    #[must_use]
    pub fn counts(&self, address: IpAddr) -> bool {
        !self.exempt.iter().any(|range| range.contains(address))
    }
}

/// What happens to a subscriber that reads too slowly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Slow {
    /// The oldest messages are dropped and the loss is said with `gap`.
    Gap,
    /// It is closed, 4101.
    Close,
}
