//! How a running master is spoken to: newline-delimited JSON over a unix socket in the run
//! directory. A request is `{"do":"reload"}`; its answer, once it is done, `{"ok":…}` or
//! `{"error":"…"}`, with `"configuration":true` if the error is in the configuration. Several
//! requests may follow each other on one connection.
//!
//! Here is what both sides share; [`client`] asks.

pub mod client;
pub mod server;

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};

use crate::readiness::Listening;

/// Bytes of a request's line at most.
pub const MAX_REQUEST: usize = 4096;

/// One line of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "lowercase")]
pub enum Request {
    /// Answered by [`Status`].
    Status,
    /// Answered at once, by [`Stopping`]; it is done when every process is gone.
    Stop {
        /// Without waiting for connections to end.
        #[serde(default)]
        fast: bool,
    },
    /// Answered after the reload, by `{}` or what was wrong.
    Reload,
    /// Answered when there are so many workers, by `{}`.
    Scale { workers: u16 },
    /// Answered after the upgrade, by the new brain with [`Upgraded`], or by what was wrong. (The
    /// connection ends with the old brain: who asks, asks again.)
    Upgrade {
        /// So many have been attempted: if there was another since, its result is the answer.
        #[serde(default)]
        after: Option<u64>,
    },
}

/// One line of the master.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Answer {
    Ok {
        ok: serde_json::Value,
    },
    Error {
        /// One line for each thing that is wrong.
        error: String,
        /// It is in the configuration.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        configuration: bool,
    },
}

impl Answer {
    /// Done, and nothing more to say.
    pub fn done() -> Self {
        Answer::Ok {
            ok: serde_json::json!({}),
        }
    }

    pub fn error(error: impl Into<String>) -> Self {
        Answer::Error {
            error: error.into(),
            configuration: false,
        }
    }

    pub fn with(value: &impl Serialize) -> Self {
        match serde_json::to_value(value) {
            Ok(ok) => Answer::Ok { ok },
            Err(error) => Answer::error(error.to_string()),
        }
    }

    /// The answer as it is sent.
    pub fn line(&self) -> String {
        serde_json::to_string(self).unwrap_or_default() + "\n"
    }
}

/// A stop has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopping {
    /// What is left after so long is killed.
    pub within_ms: u64,
}

/// The master runs another program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upgraded {
    pub from: String,
    pub to: String,
}

/// All that `status` shows. A master may be asked by a program of another version: what is added
/// here needs a default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Always true here; without a master, `status --json` says `{"running":false}`.
    pub running: bool,
    pub version: String,
    /// When the file of the master's program was written: tells builds of a version apart.
    #[serde(default)]
    pub built: String,
    /// Of the rooms' sequences, as in positions: `e3`.
    pub epoch: String,
    pub master: Master,
    pub listen: Vec<Listening>,
    pub workers: Vec<Worker>,
    /// Connections that have gone from one worker to another.
    #[serde(default)]
    pub moved: u64,
    pub reload: Reload,
    #[serde(default)]
    pub upgrade: Upgrade,
}

/// The two processes of the master.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Master {
    /// The guard's: every signal goes there.
    pub pid: i32,
    pub brain_pid: i32,
    pub uptime_s: u64,
}

/// One life of a seat. While one is replaced there are two of a seat.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Worker {
    pub worker: u16,
    /// The brain's; none while there is no process.
    pub pid: Option<i32>,
    pub guard_pid: Option<i32>,
    pub life: u32,
    pub state: State,
    pub connections: u32,
    pub rooms: u32,
}

/// What a worker is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    Starting,
    Ready,
    /// Its connections move to other workers; then it ends.
    Moving,
    Draining,
    /// It waits to be started again.
    Backoff,
    /// It is not started again.
    GivenUp,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Starting => "starting",
            State::Ready => "ready",
            State::Moving => "moving",
            State::Draining => "draining",
            State::Backoff => "backoff",
            State::GivenUp => "given-up",
        })
    }
}

/// Whether one is under way, and what the last one came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reload {
    pub running: bool,
    /// Of the last one: `"ok"` or what was wrong.
    pub last_result: Option<String>,
}

/// The same of upgrades, with how many there were.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Upgrade {
    pub running: bool,
    pub attempted: u64,
    pub done: u64,
    /// Of the last one: `"ok"` or what was wrong.
    pub last_result: Option<String>,
}

/// Makes the control socket. Only the master, which holds the pid file's lock, may: what is there
/// from before is removed.
pub fn listen(path: &Path) -> io::Result<OwnedFd> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let (_directory, bound) = short(path)?;
    let listener = UnixListener::bind(bound)?;
    // Whoever gets in between bind and here is turned away by `may_ask`.
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener.into())
}

/// A path for the same socket that is short enough for one: those have 108 bytes. It holds as long
/// as the file beside it.
fn short(path: &Path) -> io::Result<(Option<File>, PathBuf)> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok((None, path.to_owned()));
    };
    if path.as_os_str().len() < 108 {
        return Ok((None, path.to_owned()));
    }
    let directory = File::open(directory)?;
    let path = format!("/proc/self/fd/{}", directory.as_raw_fd());
    let path = Path::new(&path).join(name);
    Ok((Some(directory), path))
}

/// May whoever is at the other end ask for anything? The master's own user and root may.
pub fn may_ask(peer: &impl AsFd) -> bool {
    getsockopt(peer, sockopt::PeerCredentials)
        .is_ok_and(|peer| peer.uid() == 0 || peer.uid() == geteuid().as_raw())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn requests_and_answers_are_as_documented() {
        for (line, request) in [
            (r#"{"do":"status"}"#, Request::Status),
            (r#"{"do":"stop"}"#, Request::Stop { fast: false }),
            (r#"{"do":"stop","fast":true}"#, Request::Stop { fast: true }),
            (r#"{"do":"reload"}"#, Request::Reload),
            (
                r#"{"do":"scale","workers":3}"#,
                Request::Scale { workers: 3 },
            ),
            (r#"{"do":"upgrade"}"#, Request::Upgrade { after: None }),
            (
                r#"{"do":"upgrade","after":2}"#,
                Request::Upgrade { after: Some(2) },
            ),
        ] {
            assert_eq!(serde_json::from_str::<Request>(line).unwrap(), request);
        }
        assert!(serde_json::from_str::<Request>(r#"{"do":"dance"}"#).is_err());
        assert_eq!(Answer::done().line(), "{\"ok\":{}}\n");
        let error = Answer::error("no");
        assert_eq!(error.line(), "{\"error\":\"no\"}\n");
        let error = Answer::Error {
            error: "no".to_owned(),
            configuration: true,
        };
        let line = "{\"error\":\"no\",\"configuration\":true}\n";
        assert_eq!(error.line(), line);
        assert_eq!(serde_json::from_str::<Answer>(line).unwrap(), error);
    }

    #[test]
    fn a_socket_may_lie_deep() {
        let top = std::env::temp_dir().join(format!("baton-sock-{}", std::process::id()));
        let deep = top.join("d".repeat(120));
        fs::create_dir_all(&deep).unwrap();
        let path = deep.join("baton.sock");
        for _ in 0..2 {
            let _listener = listen(&path).unwrap();
            let (_directory, path) = short(&path).unwrap();
            let peer = UnixStream::connect(path).unwrap();
            assert!(may_ask(&peer));
        }
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        fs::remove_dir_all(&top).unwrap();
    }
}
