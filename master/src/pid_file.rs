//! `RUN/baton.pid`: locked as long as any process of the master lives, so that there is one master
//! to a run directory and a stale file is no obstacle.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

/// From the lock to the pid it takes a master no longer than this.
const STARTING: Duration = Duration::from_secs(2);

/// The lock, held. It belongs to the open file, which guard and brains share.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    file: File,
}

/// Why it cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another master has it, with this pid if it has come to write it.
    #[error("baton is running already{}", .0.map_or(String::new(), |pid| format!(" (pid {pid})")))]
    Running(Option<i32>),
    #[error("cannot use {}: {error}", .path.display())]
    File { path: PathBuf, error: io::Error },
}

impl PidFile {
    /// Takes the lock; the pid comes later, when listeners are bound.
    pub fn lock(path: &Path) -> Result<Self, Error> {
        let failed = |error| Error::File {
            path: path.to_owned(),
            error,
        };
        loop {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o644)
                .open(path)
                .map_err(failed)?;
            if !try_lock(&file).map_err(failed)? {
                return Err(Error::Running(read_pid(&mut file)));
            }
            // A master that stops removes the file: what was opened just before is locked for
            // nobody to see.
            let same = std::fs::metadata(path)
                .is_ok_and(|now| file.metadata().is_ok_and(|ours| ours.ino() == now.ino()));
            if same {
                file.set_len(0).map_err(failed)?;
                return Ok(PidFile {
                    path: path.to_owned(),
                    file,
                });
            }
        }
    }

    /// The file of this path, open and locked already.
    pub fn adopt(path: PathBuf, file: File) -> Self {
        PidFile { path, file }
    }

    /// Writes `pid` in place of what is there.
    pub fn write(&mut self, pid: i32) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        writeln!(self.file, "{pid}")
    }

    /// The file that is locked, for those who must keep it open over an exec.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Removes it: the master ends. The lock ends with its last process.
    pub fn remove(&self) -> io::Result<()> {
        std::fs::remove_file(&self.path)
    }
}

/// The pid of the master that runs, as its file says, or `None` if none runs. One that is just
/// starting is waited for.
pub fn running(path: &Path) -> Result<Option<i32>, Error> {
    let deadline = Instant::now() + STARTING;
    loop {
        match look(path) {
            Err(Error::Running(None)) if Instant::now() < deadline => {
                thread::sleep(Duration::from_millis(10));
            }
            found => return found,
        }
    }
}

fn look(path: &Path) -> Result<Option<i32>, Error> {
    let failed = |error| Error::File {
        path: path.to_owned(),
        error,
    };
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    if !is_locked(&file).map_err(failed)? {
        return Ok(None);
    }
    match read_pid(&mut file) {
        Some(pid) => Ok(Some(pid)),
        None => Err(Error::Running(None)),
    }
}

/// False: another has it. (A lock of the open file, not of the process, which a child would lose.)
fn try_lock(file: &File) -> io::Result<bool> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(&whole())) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Has another the lock? To look takes nothing that a master that starts would miss.
fn is_locked(file: &File) -> io::Result<bool> {
    let mut lock = whole();
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut lock))?;
    Ok(i32::from(lock.l_type) != libc::F_UNLCK)
}

/// A write lock on the whole file.
fn whole() -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

fn read_pid(file: &mut File) -> Option<i32> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok().filter(|pid| *pid > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> PathBuf {
        let name = format!("baton-pid-{}-{name}", std::process::id());
        std::env::temp_dir().join(name)
    }

    #[test]
    fn one_holds_it() {
        let path = path("one");
        assert!(matches!(running(&path), Ok(None)));
        let mut held = PidFile::lock(&path).unwrap();
        assert!(matches!(look(&path), Err(Error::Running(None))));
        held.write(4242).unwrap();
        assert!(matches!(running(&path), Ok(Some(4242))));
        let error = PidFile::lock(&path).unwrap_err();
        assert_eq!(error.to_string(), "baton is running already (pid 4242)");
        held.remove().unwrap();
        assert!(matches!(running(&path), Ok(None)));
    }

    #[test]
    fn a_stale_one_is_no_obstacle() {
        let path = path("stale");
        std::fs::write(&path, "1\n").unwrap();
        assert!(matches!(running(&path), Ok(None)));
        let mut held = PidFile::lock(&path).unwrap();
        held.write(7).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "7\n");
        held.remove().unwrap();
    }

    #[test]
    fn says_what_it_cannot_use() {
        let error = PidFile::lock(Path::new("/nowhere/baton.pid")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot use /nowhere/baton.pid: No such file or directory (os error 2)"
        );
    }
}
