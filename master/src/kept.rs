//! `moderation.json` in the run directory: who is muted and banned, for the next start. Everything
//! else that happens to processes is outlived by the state; this is for when all of them are gone.
//!
//! A thread of the brain writes it, from the same memory that workers read: to another file first,
//! which is on the disk before it takes the name. What was decided is answered without waiting for
//! that, and is in the file a moment later (some 100 ms; a graceful stop waits for it).

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use protocol::history::SANCTIONS;
use protocol::memory::Segment;
use protocol::moderation::MAX_WHO;
use protocol::sanctions::{Kind, MAX, Sanction, Sanctions};
use serde::{Deserialize, Serialize};

/// Raised when a program of before could not read it.
const VERSION: u32 = 1;

/// Changes are drawn together for so long.
const PAUSE: Duration = Duration::from_millis(100);
/// After a failure, it is tried again.
const AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug, Serialize, Deserialize)]
struct Content {
    version: u32,
    sanctions: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    kind: Name,
    /// Without: everywhere.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    room: Box<str>,
    who: Box<str>,
    /// Without: for good.
    #[serde(default, skip_serializing_if = "is_zero")]
    until_ms: u64,
    #[serde(default)]
    at_ms: u64,
    #[serde(default)]
    by: Box<str>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Name {
    Mute,
    Ban,
    BanAddress,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl From<&Sanction> for Entry {
    fn from(sanction: &Sanction) -> Entry {
        let Sanction {
            kind,
            room,
            who,
            until_ms,
            at_ms,
            by,
        } = sanction.clone();
        Entry {
            kind: match kind {
                Kind::Mute => Name::Mute,
                Kind::Ban => Name::Ban,
                Kind::BanAddress => Name::BanAddress,
            },
            room,
            who,
            until_ms,
            at_ms,
            by,
        }
    }
}

impl TryFrom<Entry> for Sanction {
    type Error = String;

    fn try_from(entry: Entry) -> Result<Sanction, String> {
        let Entry {
            kind,
            room,
            who,
            until_ms,
            at_ms,
            by,
        } = entry;
        let texts = [&room, &who, &by];
        if who.is_empty() || texts.iter().any(|text| text.len() > MAX_WHO) {
            return Err(format!("{who:?} in room {room:?} is no user"));
        }
        if matches!(kind, Name::BanAddress) {
            who.parse::<protocol::cidr::Cidr>()?;
        }
        Ok(Sanction {
            kind: match kind {
                Name::Mute => Kind::Mute,
                Name::Ban => Kind::Ban,
                Name::BanAddress => Kind::BanAddress,
            },
            room,
            who,
            until_ms,
            at_ms,
            by,
        })
    }
}

/// What the last baton has left. There may be none; what is there and cannot be understood is left as
/// it is, and said.
pub fn load(path: &Path) -> Result<Vec<Sanction>, String> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(format!("cannot read {}: {error}", path.display())),
    };
    understand(&bytes).map_err(|why| {
        format!(
            "{} does not say who is muted and banned: {why}; mend it, or move it away (then nobody is)",
            path.display()
        )
    })
}

fn understand(bytes: &[u8]) -> Result<Vec<Sanction>, String> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let Versioned { version } = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if version != VERSION {
        return Err(format!(
            "it is of version {version}, this program knows {VERSION}"
        ));
    }
    let content: Content = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if content.sanctions.len() >= MAX as usize {
        return Err(format!("there are more than {}", MAX - 1));
    }
    let sanctions = content.sanctions.into_iter();
    sanctions.map(Sanction::try_from).collect()
}

/// What the file is called before it takes its name. For the time of an upgrade there are two who may
/// write.
fn temporary(path: &Path, pid: u32) -> PathBuf {
    path.with_extension(format!("{pid}.new"))
}

/// Takes away what brains have begun to write that died over it.
fn clean(path: &Path) {
    let is_alive = |pid: i32| kill(Pid::from_raw(pid), None) != Err(Errno::ESRCH);
    let directory = path
        .parent()
        .and_then(|parent| std::fs::read_dir(parent).ok());
    for file in directory.into_iter().flatten().flatten() {
        let name = file.file_name();
        let pid = name
            .to_str()
            .and_then(|name| name.split('.').nth_back(1)?.parse().ok());
        if let Some(pid) = pid.filter(|pid: &u32| file.path() == temporary(path, *pid))
            && !i32::try_from(pid).is_ok_and(is_alive)
        {
            let _ = std::fs::remove_file(file.path());
        }
    }
}

/// Takes the place of the file, whole, or leaves it.
fn write(path: &Path, sanctions: &Sanctions) -> io::Result<()> {
    let entries = sanctions.each().map(|(_, sanction)| Entry::from(sanction));
    let content = Content {
        version: VERSION,
        sanctions: entries.collect(),
    };
    let mut bytes = serde_json::to_vec_pretty(&content)?;
    bytes.push(b'\n');
    let temporary = temporary(path, std::process::id());
    let written = write_to(&temporary, &bytes).and_then(|()| std::fs::rename(&temporary, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written?;
    match path.parent() {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

fn write_to(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o640)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Sees to it that the file says what is in force.
#[derive(Debug)]
pub struct Keeper {
    wanted: SyncSender<()>,
    /// The generation that the file is of.
    written: Arc<AtomicU64>,
    /// And the one of which the thread has been told.
    told: u64,
}

impl Keeper {
    pub fn start(history: Arc<Segment>, path: PathBuf) -> io::Result<Keeper> {
        let (wanted, receiver) = sync_channel(1);
        let written = Arc::new(AtomicU64::new(0));
        let shown = written.clone();
        let keep = move || keep(&receiver, history, &path, &shown);
        std::thread::Builder::new()
            .name("moderation".into())
            .spawn(keep)?;
        Ok(Keeper {
            wanted,
            written,
            told: 0,
        })
    }

    /// It is this generation now.
    pub fn note(&mut self, generation: u64) {
        if generation != self.told {
            self.told = generation;
            // If there is a word that it has not heard yet, that will do.
            let _ = self.wanted.try_send(());
        }
    }

    /// Waits for it to be written, not for long.
    pub fn finish(&mut self, generation: u64, within: Duration) {
        self.note(generation);
        let by = Instant::now() + within;
        while self.written.load(Ordering::Acquire) != generation && Instant::now() < by {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn keep(wanted: &Receiver<()>, history: Arc<Segment>, path: &Path, written: &AtomicU64) {
    clean(path);
    let mut sanctions = Sanctions::new(history, SANCTIONS);
    let mut is_said = false;
    let mut tried = wanted.recv().map_err(|_| RecvTimeoutError::Disconnected);
    loop {
        match tried {
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) | Ok(()) => {}
        }
        sanctions.refresh();
        tried = match write(path, &sanctions) {
            Ok(()) => {
                written.store(sanctions.generation(), Ordering::Release);
                is_said = false;
                std::thread::sleep(PAUSE);
                wanted.recv().map_err(|_| RecvTimeoutError::Disconnected)
            }
            Err(error) => {
                if !std::mem::replace(&mut is_said, true) {
                    log::error!("cannot write {}: {error}", path.display());
                }
                wanted.recv_timeout(AGAIN)
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sanctions::Table;
    use crate::state::State;

    fn sanction(kind: Kind, room: &str, who: &str, until_ms: u64) -> Sanction {
        Sanction {
            kind,
            room: room.into(),
            who: who.into(),
            until_ms,
            at_ms: 7,
            by: "m\"1".into(),
        }
    }

    fn directory(name: &str) -> PathBuf {
        let pid = std::process::id();
        let path = std::env::temp_dir().join(format!("baton-kept-{name}-{pid}"));
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn the_next_start_finds_what_was_in_force() {
        let directory = directory("found");
        let path = directory.join("moderation.json");
        let state = State::create(4096, 100).unwrap();
        let mut table = Table::recover(&state, 10);
        let mut keeper = Keeper::start(state.history().clone(), path.clone()).unwrap();
        assert_eq!(load(&path).unwrap(), []);
        let all = [
            sanction(Kind::Mute, "r", "u7", 0),
            sanction(Kind::Ban, "", "弾幕", 99),
            sanction(Kind::BanAddress, "", "10.0.0.0/8", 0),
        ];
        for sanction in &all {
            table.load(&state, sanction);
            let generation = table.sanctions().generation();
            keeper.finish(generation, Duration::from_secs(10));
        }
        assert_eq!(load(&path).unwrap(), all);
        let files = std::fs::read_dir(&directory).unwrap().count();
        assert_eq!(files, 1, "nothing temporary is left");
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn what_dead_brains_have_begun_to_write_is_taken_away() {
        let directory = directory("begun");
        let path = directory.join("moderation.json");
        let mut dead = std::process::Command::new("true").spawn().unwrap();
        dead.wait().unwrap();
        let others = [
            temporary(&path, std::process::id()),
            directory.join("moderation.new"),
            directory.join("other.1.new"),
            directory.join(format!("moderation.{}.old", dead.id())),
        ];
        let mut all = others.to_vec();
        all.extend([temporary(&path, dead.id()), temporary(&path, u32::MAX)]);
        for file in &all {
            std::fs::write(file, "{").unwrap();
        }
        clean(&path);
        let left: Vec<bool> = all.iter().map(|file| file.exists()).collect();
        assert_eq!(left, [true, true, true, true, false, false]);
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn what_cannot_be_understood_is_said() {
        for (content, why) in [
            ("", "EOF"),
            (
                "{\"version\":1,\"sanctions\":[{\"kind\":\"mute\",\"who\":\"u",
                "EOF",
            ),
            ("{\"version\":2,\"sanctions\":{}}", "version 2"),
            ("{\"version\":1}", "sanctions"),
            (
                "{\"version\":1,\"sanctions\":[{\"kind\":\"hug\",\"who\":\"u\"}]}",
                "hug",
            ),
            (
                "{\"version\":1,\"sanctions\":[{\"kind\":\"mute\",\"who\":\"\"}]}",
                "no user",
            ),
            (
                "{\"version\":1,\"sanctions\":[{\"kind\":\"ban_address\",\"who\":\"x\"}]}",
                "address range",
            ),
        ] {
            let error = understand(content.as_bytes()).unwrap_err();
            assert!(error.contains(why), "{content}: {error}");
        }
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_tried_again() {
        let directory = directory("again");
        let path = directory.join("later").join("moderation.json");
        let state = State::create(4096, 100).unwrap();
        let mut table = Table::recover(&state, 10);
        table.load(&state, &sanction(Kind::Mute, "r", "u7", 0));
        let generation = table.sanctions().generation();
        let mut keeper = Keeper::start(state.history().clone(), path.clone()).unwrap();
        keeper.finish(generation, Duration::from_millis(50));
        assert!(!path.exists());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        keeper.finish(generation, Duration::from_secs(10));
        assert_eq!(load(&path).unwrap().len(), 1);
        std::fs::remove_dir_all(directory).unwrap();
    }
}
