//! How a starting master tells whoever started it that it serves, or why it does not.
//!
//! The master's side is an fd: a pipe whose other end `start` reads (one line of JSON), or the
//! terminal (a few lines for people). It must be told once, though a brain that tells it may die
//! and the next knows nothing of it: so the fd is not closed afterwards (its number would be
//! taken by another), it becomes `/dev/null`.

use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use nix::fcntl::OFlag;
use nix::unistd::dup3;
use protocol::ids::Role;
use serde::{Deserialize, Serialize};

/// What is said over the pipe.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum News {
    /// Every worker is ready.
    Ready(Served),
    /// One line, for people.
    Failed(String),
}

/// What a master that came up serves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Served {
    /// The master's pid: its guard's.
    pub pid: i32,
    pub workers: u16,
    pub listen: Vec<Listening>,
}

/// A listener with its real port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Listening {
    pub role: Role,
    pub addr: SocketAddr,
}

/// The master's side.
#[derive(Debug)]
pub struct Readiness {
    to: OwnedFd,
    form: Form,
}

/// How it is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Form {
    /// One line of JSON, for `start`.
    Json,
    /// Lines for people, in the foreground.
    Text,
}

impl Readiness {
    pub fn new(to: OwnedFd, form: Form) -> Self {
        Readiness { to, form }
    }

    pub fn fd(&self) -> &OwnedFd {
        &self.to
    }

    pub fn form(&self) -> Form {
        self.form
    }

    /// Every worker is ready.
    pub fn ready(&mut self, served: &Served) {
        self.tell(&News::Ready(served.clone()));
    }

    /// It will not come up, because of `reason`.
    pub fn failed(&mut self, reason: &str) {
        self.tell(&News::Failed(reason.to_owned()));
    }

    /// Whoever asked may have gone away; then nobody needs to know.
    fn tell(&mut self, news: &News) {
        let line = match self.form {
            Form::Json => serde_json::to_string(news).unwrap_or_default() + "\n",
            Form::Text => news.to_string(),
        };
        let said = self.write(line.as_bytes());
        if let Err(error) = said {
            log::debug!("nobody waits for the news of the start: {error}");
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut to = File::from(self.to.try_clone()?);
        to.write_all(bytes)?;
        let null = File::options().write(true).open("/dev/null")?;
        dup3(null, &mut self.to, OFlag::O_CLOEXEC)?;
        Ok(())
    }
}

impl std::fmt::Display for News {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            News::Failed(reason) => writeln!(f, "baton: {reason}"),
            News::Ready(served) => {
                let workers = match served.workers {
                    1 => "1 worker".to_owned(),
                    n => format!("{n} workers"),
                };
                writeln!(f, "baton serves with {workers}; master: pid {}", served.pid)?;
                for listening in &served.listen {
                    writeln!(f, "  {:<7} {}", listening.role, listening.url())?;
                }
                Ok(())
            }
        }
    }
}

impl Listening {
    /// What to open in a browser. A listener on every address is reached at localhost, too.
    pub fn url(&self) -> String {
        let ip = self.addr.ip();
        if ip.is_unspecified() {
            format!("http://localhost:{}/", self.addr.port())
        } else {
            format!("http://{}/", self.addr)
        }
    }
}
