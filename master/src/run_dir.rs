//! The run directory: where a running baton keeps what others look for.
//!
//! ```text
//! RUN/baton.pid          the pid of the master, locked while it lives
//! RUN/baton.sock         the control socket
//! RUN/moderation.json    who is muted and banned
//! RUN/logs/master.log
//! RUN/logs/worker-1.log …
//! ```

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use protocol::ids::Seat;
use serde::{Deserialize, Serialize};

/// An absolute path; [`create`](RunDir::create) makes what is not there yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunDir(PathBuf);

impl RunDir {
    /// `path`, made absolute: a daemon leaves the directory that it was started in.
    pub fn new(path: &Path) -> io::Result<Self> {
        Ok(RunDir(std::path::absolute(path)?))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn pid_file(&self) -> PathBuf {
        self.0.join("baton.pid")
    }

    pub fn socket(&self) -> PathBuf {
        self.0.join("baton.sock")
    }

    pub fn moderation(&self) -> PathBuf {
        self.0.join("moderation.json")
    }

    pub fn logs(&self) -> PathBuf {
        self.0.join("logs")
    }

    pub fn master_log(&self) -> PathBuf {
        self.logs().join("master.log")
    }

    pub fn worker_log(&self, worker: Seat) -> PathBuf {
        self.logs().join(format!("{worker}.log"))
    }

    /// Makes the directory and the one for logs. Others than the owner and its group have no
    /// business in it.
    pub fn create(&self) -> Result<(), String> {
        let logs = self.logs();
        DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(&logs)
            .map_err(|error| format!("cannot make {}: {error}", logs.display()))
    }
}

/// Opens a log to be appended to. Every log is opened by the master (workers may not have the right
/// to), when its process starts and again on USR1.
pub fn open_log(path: &Path) -> Result<File, String> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
        .map_err(|error| format!("cannot open {}: {error}", path.display()))
}
