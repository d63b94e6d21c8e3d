//! The programs on disk, from which a reload and an upgrade take new ones.

use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use protocol::logging::Time;
use serde::{Deserialize, Serialize};

/// The master's program, as it was called: not where a link in the path led to then. A deployment
/// may change the link.
pub fn own_path() -> io::Result<PathBuf> {
    let exe = std::env::current_exe()?;
    let called = std::env::args_os().next().map(PathBuf::from);
    // A name without a directory was looked up in PATH.
    let called = called.filter(|path| path.components().count() > 1);
    match called.map(std::path::absolute).transpose()? {
        Some(path) if is_same_file(&path, Path::new("/proc/self/exe")) => Ok(path),
        _ => Ok(exe),
    }
}

/// The worker's program lies beside the master's.
#[must_use]
pub fn worker_path(own: &Path) -> PathBuf {
    own.with_file_name("baton-worker")
}

fn is_same_file(a: &Path, b: &Path) -> bool {
    let file = |path: &Path| std::fs::metadata(path).map(|file| (file.dev(), file.ino()));
    matches!((file(a), file(b)), (Ok(a), Ok(b)) if a == b)
}

/// A program as operators know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    pub version: String,
    /// When its file was last written, in milliseconds since 1970: tells builds of one version apart.
    written: u64,
}

impl Build {
    /// Of the program in this file.
    pub fn new(version: &str, path: &Path) -> io::Result<Build> {
        let written = std::fs::metadata(path)?.modified()?;
        let written = written.duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Build {
            version: version.to_owned(),
            written: u64::try_from(written.as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// Of the program that runs here, from a file.
    #[must_use]
    pub fn own() -> Build {
        let version = env!("CARGO_PKG_VERSION");
        Build::new(version, Path::new("/proc/self/exe")).unwrap_or(Build {
            version: version.to_owned(),
            written: 0,
        })
    }

    /// As in the lines of a log.
    #[must_use]
    pub fn written(&self) -> String {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(self.written);
        Time(time).to_string()
    }
}

impl fmt::Display for Build {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.version, self.written())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_is_known_by_version_and_time() {
        let file = std::env::temp_dir().join(format!("baton-build-{}", std::process::id()));
        std::fs::write(&file, "").unwrap();
        let time = UNIX_EPOCH + Duration::from_millis(1_795_239_202_123);
        let open = std::fs::File::options().write(true).open(&file).unwrap();
        open.set_modified(time).unwrap();
        let build = Build::new("0.1.0", &file).unwrap();
        assert_eq!(build.to_string(), "0.1.0 of 2026-11-21T05:33:22.123Z");
        std::fs::remove_file(&file).unwrap();
    }

    #[test]
    fn the_own_path_is_absolute_and_leads_here() {
        let path = own_path().unwrap();
        assert!(path.is_absolute());
        assert!(is_same_file(&path, &std::env::current_exe().unwrap()));
        let worker = worker_path(Path::new("/a/b/baton-master"));
        assert_eq!(worker, Path::new("/a/b/baton-worker"));
    }
}
