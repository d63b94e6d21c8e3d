//! How a starting master tells whoever started it that it serves, or why it does not.
//!
//! The master's side is an fd: a pipe whose other end `start` reads (one line of JSON), or the
//! terminal (a few lines for people). It must be told once, though a brain that tells it may die
//! and the next knows nothing of it: so the fd is not closed afterwards (its number would be
//! taken by another), it becomes `/dev/null`.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;

use nix::fcntl::OFlag;
use nix::unistd::dup3;
use protocol::ids::Role;
use serde::{Deserialize, Serialize};

use crate::config::Address;

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
    pub addr: Address,
}

/// The master's side.
#[derive(Debug)]
pub struct Readiness {
    to: OwnedFd,
    form: Form,
}

/// How it is said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Form {
    /// One line of JSON, for `start`.
    Json,
    /// Lines for people, in the foreground: what is served, and this.
    Text(String),
}

impl Readiness {
    pub fn new(to: OwnedFd, form: Form) -> Self {
        Readiness { to, form }
    }

    pub fn fd(&self) -> &OwnedFd {
        &self.to
    }

    pub fn form(&self) -> &Form {
        &self.form
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
        let line = match (&self.form, news) {
            (Form::Json, news) => serde_json::to_string(news).unwrap_or_default() + "\n",
            (Form::Text(more), News::Ready(served)) => format!("{served}{more}"),
            (Form::Text(_), News::Failed(reason)) => format!("baton: {reason}\n"),
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

impl fmt::Display for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by_role = |role| self.listen.iter().filter(move |one| one.role == role);
        let mut what = "baton serves:";
        for page in by_role(Role::Public) {
            writeln!(f, "{what} open {}", page.url())?;
            what = "             ";
        }
        for admin in by_role(Role::Admin) {
            writeln!(f, "  admin    {}", admin.url())?;
        }
        writeln!(f, "  workers  {} (master: pid {})", self.workers, self.pid)
    }
}

impl Listening {
    /// What to open in a browser. A listener on every address is reached at localhost, too.
    pub fn url(&self) -> String {
        match &self.addr {
            Address::Tcp(address) if address.ip().is_unspecified() => {
                format!("http://localhost:{}/", address.port())
            }
            Address::Tcp(address) => format!("http://{address}/"),
            unix @ Address::Unix(_) => unix.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::path::Path;

    use super::*;

    fn served() -> Served {
        let listening = |role, addr: &str| Listening {
            role,
            addr: Address::parse(addr, Path::new("")).unwrap(),
        };
        Served {
            pid: 42,
            workers: 2,
            listen: vec![
                listening(Role::Admin, "127.0.0.1:8001"),
                listening(Role::Admin, "unix:/run/baton/admin.sock"),
                listening(Role::Public, "0.0.0.0:80"),
                listening(Role::Public, "[::1]:8000"),
            ],
        }
    }

    #[test]
    fn is_told_once_however_often_it_is_said() {
        let (mut from, to) = io::pipe().unwrap();
        let mut readiness = Readiness::new(to.into(), Form::Json);
        readiness.ready(&served());
        readiness.failed("too late");
        let mut text = String::new();
        from.read_to_string(&mut text).unwrap();
        let news: News = serde_json::from_str(&text).unwrap();
        assert_eq!(news, News::Ready(served()));
    }

    #[test]
    fn people_see_what_to_open() {
        let (mut from, to) = io::pipe().unwrap();
        Readiness::new(to.into(), Form::Text("  more\n".to_owned())).ready(&served());
        let mut text = String::new();
        from.read_to_string(&mut text).unwrap();
        assert_eq!(
            text,
            "baton serves: open http://localhost:80/\n\
             \x20             open http://[::1]:8000/\n\
             \x20 admin    http://127.0.0.1:8001/\n\
             \x20 admin    unix:/run/baton/admin.sock\n\
             \x20 workers  2 (master: pid 42)\n\
             \x20 more\n"
        );
    }
}
