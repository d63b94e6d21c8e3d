//! The configuration: one TOML file, every key with a default, checked as a whole, and the flags
//! of `start` on top.
//!
//! Read in this order: this file (what a checked configuration is, and where it comes from),
//! [`schema`] (every key, what is allowed, what contradicts what), [`reader`] (how a key is read
//! and an error is said), [`units`] (sizes and durations), [`address`] (of a listener), `listen`
//! (listeners), `auth` (keys), `hook` (back ends), `filter` (words), `api` (tokens of back ends).

pub mod address;
mod api;
mod auth;
mod filter;
mod hook;
mod identity;
mod listen;
mod reader;
mod schema;
pub mod units;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use nix::sys::resource::{Resource, getrlimit};
use protocol::cidr::Cidr;
use protocol::history::WORDS;
use protocol::ids::Role;
use protocol::memory::Segment;
use protocol::settings::{Anonymous, Settings};
use protocol::words::{self, HALF};
use serde::{Deserialize, Serialize};

use crate::history::Rule;
pub use address::{Address, Rights};
pub use identity::Identity;

/// Workers at most.
pub const MAX_WORKERS: u16 = 64;

/// Files that a worker has open besides connections, and those that it is just being given.
const OTHER_FILES: u64 = 256;

/// A checked configuration: nothing in it contradicts anything else. Defaults of what workers need
/// are in [`protocol::settings`], all others are here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// 1 to [`MAX_WORKERS`].
    pub workers: u16,
    pub policy: Policy,
    /// At least one is public.
    pub listen: Vec<Listen>,
    /// Whom workers run as; `None`: as the master, which is not root.
    pub identity: Option<Identity>,
    pub limits: Limits,
    pub timeouts: Timeouts,
    pub memory: Memory,
    pub log: Log,
    /// What rooms retain: the first that matches a name counts.
    pub rooms: Vec<Rule>,
    /// What workers are told: `[http]`, `[websocket]`, `[rooms]`, `[auth]`, `[[hook]]`, and those of the limits that
    /// workers keep.
    pub settings: Settings,
    /// The lists of words of all `[[filter]]`, until they are where workers find them.
    #[serde(skip)]
    pub words: Vec<u8>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            workers: cores(),
            policy: Policy::RoundRobin,
            listen: vec![
                Listen::new(SocketAddr::from(([127, 0, 0, 1], 8000)), Role::Public),
                Listen::new(SocketAddr::from(([127, 0, 0, 1], 8001)), Role::Admin),
            ],
            identity: None,
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            memory: Memory::default(),
            log: Log::default(),
            rooms: Vec::new(),
            settings: Settings::default(),
            words: Vec::new(),
        }
    }
}

/// The processors that this process may use, within the bounds of `workers`.
fn cores() -> u16 {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    u16::try_from(cores).map_or(MAX_WORKERS, |n| n.min(MAX_WORKERS))
}

/// How a worker is chosen for a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    RoundRobin,
    LeastConnections,
    TwoChoices,
    IpHash,
}

/// One listener.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Listen {
    pub address: Address,
    pub role: Role,
    /// Connections that the kernel holds for us; it bounds this by `net.core.somaxconn`.
    pub backlog: u32,
    /// An IPv6 listener takes IPv6 only. If false, `[::]` takes IPv4 as well.
    pub ipv6_only: bool,
    /// A PROXY header (v1 or v2) comes first on connections from `proxy_trusted`.
    pub proxy_protocol: bool,
    pub proxy_trusted: Vec<Cidr>,
    /// Of a unix socket.
    #[serde(default)]
    pub rights: Rights,
}

impl Listen {
    pub fn new(address: impl Into<Address>, role: Role) -> Self {
        Listen {
            address: address.into(),
            role,
            backlog: 4096,
            ipv6_only: true,
            proxy_protocol: false,
            proxy_trusted: Vec::new(),
            rights: Rights::default(),
        }
    }

    /// Only who is on this machine comes in here.
    #[must_use]
    pub fn is_local(&self) -> bool {
        let is_near = |address: SocketAddr| address.ip().is_loopback();
        self.address.tcp().is_none_or(is_near) && !self.proxy_protocol
    }
}

/// What the master bounds. (A worker's own bounds are in [`Settings`].)
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Connections in all.
    pub connections: u32,
    /// Connections of one client address; 0: any number.
    pub per_address: u32,
    /// Connections given to one worker that it has not acknowledged yet.
    pub window: u32,
    /// Connections above a limit that are being answered 503 at once; those above are closed.
    pub refused: u32,
    /// Rooms that exist at once.
    pub rooms: u32,
    /// Live connections that move in a second when more workers have come.
    pub rebalance: u32,
    /// Keys of messages that are remembered.
    pub keys: u32,
    /// Mutes and bans that are in force.
    pub sanctions: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 100_000,
            per_address: 1_000,
            window: 256,
            refused: 256,
            rooms: 100_000,
            rebalance: 5_000,
            keys: 65_536,
            sanctions: 10_000,
        }
    }
}

/// How long the master waits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Timeouts {
    /// For a new life of a worker to be ready; for a new master to answer, and to take over.
    pub ready_ms: u64,
    /// For any progress of a worker's loop; then it is hung, and killed.
    pub hung_ms: u64,
    /// For connections to end on a graceful stop; then what is left is killed.
    pub stop_ms: u64,
    /// For the connections of a worker that is replaced or scaled away to be moved.
    pub move_ms: u64,
    /// For connections that cannot be moved to end.
    pub retire_ms: u64,
    /// For a message's key to be remembered.
    pub key_ms: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            ready_ms: 10_000,
            hung_ms: 10_000,
            stop_ms: 10_000,
            move_ms: 10_000,
            retire_ms: Settings::default().retire_ms,
            key_ms: 120_000,
        }
    }
}

/// Shared memory, in bytes. (What a worker holds for its connections is in [`Settings`].)
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// The log of messages, one for all workers. A power of two.
    pub log: u64,
    /// One worker's ring. A power of two.
    pub ring: u64,
    /// What all rooms retain.
    pub history: u64,
    /// The users who are known to be in rooms.
    pub presence: u64,
}

impl Default for Memory {
    fn default() -> Self {
        Memory {
            log: 64 << 20,
            ring: 4 << 20,
            history: 64 << 20,
            presence: 64 << 20,
        }
    }
}

/// The log files.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Log {
    pub level: log::LevelFilter,
    pub format: Format,
}

impl Default for Log {
    fn default() -> Self {
        Log {
            level: log::LevelFilter::Info,
            format: Format::Text,
        }
    }
}

/// How a line of a log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Text,
    Json,
}

/// What the flags of `start` say; it goes before the file, at every reload too. `scale` sets
/// `workers` here.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Overrides {
    /// In place of the file's public listeners.
    pub listen: Vec<SocketAddr>,
    /// In place of the file's admin listeners.
    pub admin: Vec<SocketAddr>,
    pub workers: Option<u16>,
}

/// Where the configuration comes from: read at start, and again at each reload.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Source {
    /// An absolute path; without a file, the defaults.
    pub file: Option<PathBuf>,
    pub overrides: Overrides,
}

/// All that is wrong with a configuration, one line each: `FILE:LINE: KEY: what is allowed`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errors(pub Vec<String>);

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Errors {}

impl Source {
    /// Reads the file, puts the flags on top and checks the whole. The hard limit of open files
    /// bounds what a worker takes.
    pub fn load(&self) -> Result<Config, Errors> {
        let mut config = match &self.file {
            None => schema::check("", "", &self.overrides),
            Some(file) => {
                let name = file.display().to_string();
                match std::fs::read_to_string(file) {
                    Ok(text) => schema::check(&name, &text, &self.overrides),
                    Err(error) => Err(Errors(vec![format!("{name}: {error}")])),
                }
            }
        }?;
        if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
            config.fit(hard);
        }
        Ok(config)
    }
}

impl Config {
    /// What is allowed, and that an operator had better know of.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let auth = &self.settings.auth;
        let is_open = |listen: &&Listen| listen.role == Role::Public && !listen.is_local();
        let open = self.listen.iter().filter(is_open);
        let warn = |listen: &Listen| {
            let address = &listen.address;
            match (auth.anonymous, auth.keys.is_empty()) {
                (Some(Anonymous::Full), _) => Some(format!(
                    "everybody who can reach {address} may join, read and write every room, \
                     without a token: auth.anonymous is \"full\""
                )),
                (Some(Anonymous::Read), _) => Some(format!(
                    "everybody who can reach {address} may join and read every room, \
                     without a token: auth.anonymous is \"read\""
                )),
                (_, true) => Some(format!(
                    "nobody may use /rooms at {address}: there is no [[auth.key]] for tokens, and \
                     auth.anonymous is not \"read\" or \"full\""
                )),
                (_, false) => None,
            }
        };
        open.filter_map(warn).collect()
    }

    /// In which half of the memory for words its lists are.
    #[must_use]
    pub fn half(&self) -> usize {
        let first = self.settings.filters.first();
        first.map_or(0, |filter| filter.words.at as usize / HALF)
    }

    /// Puts its lists into a half of that memory.
    pub fn place_words(&mut self, history: &Segment, half: usize) {
        words::write(history, WORDS, half, &self.words);
        for filter in &mut self.settings.filters {
            filter.words.at = (filter.words.at as usize % HALF + half * HALF) as u32;
        }
        self.words = Vec::new();
    }

    /// Lowers what needs more open files than a process may have.
    fn fit(&mut self, nofile: u64) {
        let others = OTHER_FILES + u64::from(self.limits.refused);
        let room = nofile.saturating_sub(others).max(1);
        let room = u32::try_from(room).unwrap_or(u32::MAX);
        let per_worker = &mut self.settings.max_connections;
        if *per_worker > room {
            log::warn!("limits.per_worker is {room}: {nofile} files may be open, no more");
            *per_worker = room;
            self.limits.window = self.limits.window.min(room);
        }
    }
}

/// May a running master go from `old` to `new`? If not: one line for each key that only a restart
/// can change.
pub fn changes(old: &Config, new: &Config) -> Result<(), Vec<String>> {
    let refused: Vec<String> = [
        ("listen", old.listen != new.listen),
        ("user or group", old.identity != new.identity),
        ("memory.log", old.memory.log != new.memory.log),
    ]
    .into_iter()
    .filter(|(_, changed)| *changed)
    .map(|(key, _)| format!("{key}: a reload cannot change this; use restart"))
    .collect();
    if refused.is_empty() {
        Ok(())
    } else {
        Err(refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_open_files_bounds_a_worker() {
        let mut config = Config::default();
        config.fit(1 << 20);
        assert_eq!(config, Config::default());
        config.fit(1024);
        assert_eq!(config.settings.max_connections, 512);
        assert_eq!(config.limits.window, 256);
        config.fit(600);
        assert_eq!(config.settings.max_connections, 88);
        assert_eq!(config.limits.window, 88);
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let source = Source {
            file: Some("/nowhere/b.toml".into()),
            ..Source::default()
        };
        assert_eq!(
            source.load().unwrap_err().to_string(),
            "/nowhere/b.toml: No such file or directory (os error 2)"
        );
    }
}
