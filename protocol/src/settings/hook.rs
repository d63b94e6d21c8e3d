//! Back ends of the user's that are asked before something happens, and how.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Material, Right};
use crate::pattern::Pattern;

/// One back end, and what it is asked about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hook {
    pub on: Vec<Event>,
    /// Rooms that joins and sends are asked about.
    pub rooms: Pattern,
    pub server: Server,
    /// The value of `Host`.
    pub host: String,
    /// Path and query of the request.
    pub target: String,
    /// A question that is not answered after so long is decided by `fail`.
    pub timeout_ms: u64,
    /// Questions in one request at most.
    pub batch: usize,
    /// So long the first of them waits for others.
    pub wait_ms: u64,
    /// Requests of one worker at once.
    pub in_flight: usize,
    /// Questions of one worker that wait; those above are decided by `fail`.
    pub queue: usize,
    pub fail: Fail,
    /// More header fields, each with its line's end.
    pub fields: Material,
    /// What the body is signed with.
    pub secret: Option<Material>,
}

impl Default for Hook {
    fn default() -> Self {
        Hook {
            on: Vec::new(),
            rooms: Pattern::new("*"),
            server: Server::Tcp((Ipv4Addr::LOCALHOST, 80).into()),
            host: "localhost".to_owned(),
            target: "/".to_owned(),
            timeout_ms: 2_000,
            batch: 64,
            wait_ms: 0,
            in_flight: 4,
            queue: 1_024,
            fail: Fail::Closed,
            fields: Material::new(Vec::new()),
            secret: None,
        }
    }
}

/// For people: without the query, which may hold a secret.
impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.target.split('?').next().unwrap_or_default();
        match &self.server {
            Server::Tcp(_) => write!(f, "http://{}{path}", self.host),
            Server::Unix(socket) => write!(f, "unix:{}:{path}", socket.display()),
        }
    }
}

/// What a back end can be asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    Connect,
    Join,
    Send,
}

impl Event {
    pub const ALL: [Event; 3] = [Event::Connect, Event::Join, Event::Send];

    /// As the configuration and the back end's questions say it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Event::Connect => "connect",
            Event::Join => Right::Join.as_str(),
            Event::Send => Right::Send.as_str(),
        }
    }
}

/// Where it listens; names have been looked up by the master.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Server {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// What is done without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fail {
    /// It is allowed.
    Open,
    /// It is refused.
    Closed,
}
