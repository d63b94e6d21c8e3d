//! `logs`: the ends of the logs and, with `-f`, what comes after, as `tail -F` does it, but for
//! logs too that come later.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::{Error, Result};
use crate::cli;
use crate::run_dir::RunDir;

/// Between two looks: people read no faster.
const PAUSE: Duration = Duration::from_millis(200);

pub fn logs(run: &RunDir, args: &cli::Logs) -> Result {
    let wanted = wanted(args.which.as_deref())?;
    if !args.follow && find(run, &wanted)?.is_empty() {
        let path = wanted.map_or(run.logs(), |name| run.logs().join(name));
        return Err(Error::Failed(format!("no log at {}", path.display())));
    }
    let mut out = io::stdout().lock();
    match show(run, args, &wanted, &mut out) {
        // Whoever reads our output has had enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        shown => Ok(shown?),
    }
}

/// The name of one log, or `None` for all.
fn wanted(which: Option<&str>) -> Result<Option<String>> {
    match which {
        None => Ok(None),
        Some("master") => Ok(Some("master.log".to_owned())),
        Some(which) => {
            let number = which.strip_prefix("worker-").unwrap_or(which);
            let number: u16 = number.parse().map_err(|_| {
                Error::Failed(format!("{which:?} is neither a worker's number nor master"))
            })?;
            Ok(Some(format!("worker-{number}.log")))
        }
    }
}

fn show(
    run: &RunDir,
    args: &cli::Logs,
    wanted: &Option<String>,
    out: &mut impl Write,
) -> io::Result<()> {
    let mut open: BTreeMap<PathBuf, Followed> = BTreeMap::new();
    let several = wanted.is_none();
    for path in find(run, wanted)? {
        if several {
            writeln!(out, "==> {} <==", path.display())?;
        }
        let followed = Followed::at_end(&path, args.lines, out)?;
        open.insert(path, followed);
    }
    out.flush()?;
    if !args.follow {
        return Ok(());
    }
    loop {
        thread::sleep(PAUSE);
        for path in find(run, wanted)? {
            match open.get_mut(&path) {
                Some(followed) => followed.go_on(&path, out)?,
                None => {
                    let mut followed = Followed::new(File::open(&path)?);
                    followed.copy(out)?;
                    open.insert(path, followed);
                }
            }
        }
        out.flush()?;
    }
}

/// The logs that are wanted and there.
fn find(run: &RunDir, wanted: &Option<String>) -> io::Result<Vec<PathBuf>> {
    let logs = run.logs();
    if let Some(name) = wanted {
        let path = logs.join(name);
        return Ok(if path.exists() { vec![path] } else { vec![] });
    }
    let mut found: Vec<PathBuf> = match fs::read_dir(&logs) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => vec![],
        Err(error) => return Err(error),
    };
    found.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    found.sort();
    Ok(found)
}

/// A log that is being read.
struct Followed {
    file: File,
    /// Bytes behind the last line that is complete.
    partial: Vec<u8>,
}

impl Followed {
    fn new(file: File) -> Self {
        Followed {
            file,
            partial: Vec::new(),
        }
    }

    /// Prints the last lines and stays at the end.
    fn at_end(path: &Path, lines: usize, out: &mut impl Write) -> io::Result<Self> {
        let mut followed = Followed::new(File::open(path)?);
        let start = tail(&mut followed.file, lines)?;
        followed.file.seek(SeekFrom::Start(start))?;
        followed.copy(out)?;
        Ok(followed)
    }

    /// Prints what has come, and what is in the file that has taken its place.
    fn go_on(&mut self, path: &Path, out: &mut impl Write) -> io::Result<()> {
        let length = self.file.metadata()?.len();
        if length < self.file.stream_position()? {
            // Truncated in place.
            self.file.seek(SeekFrom::Start(0))?;
        }
        self.copy(out)?;
        let now = match fs::metadata(path) {
            Ok(now) => now,
            // Moved away, and the new one is not there yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let ours = self.file.metadata()?;
        if (now.dev(), now.ino()) != (ours.dev(), ours.ino()) {
            // The writer may have had the old one open a little longer.
            self.copy(out)?;
            self.file = File::open(path)?;
            self.copy(out)?;
        }
        Ok(())
    }

    /// Prints complete lines up to the end of the file.
    fn copy(&mut self, out: &mut impl Write) -> io::Result<()> {
        let mut reader = BufReader::new(&self.file);
        loop {
            if reader.read_until(b'\n', &mut self.partial)? == 0 {
                return Ok(());
            }
            if self.partial.ends_with(b"\n") {
                out.write_all(&self.partial)?;
                self.partial.clear();
            }
        }
    }
}

/// Where the last so many lines begin.
fn tail(file: &mut File, lines: usize) -> io::Result<u64> {
    const CHUNK: u64 = 64 << 10;
    let length = file.metadata()?.len();
    let (mut from, mut found) = (length, 0);
    let mut bytes = Vec::new();
    while from > 0 {
        let chunk = from.min(CHUNK);
        from -= chunk;
        file.seek(SeekFrom::Start(from))?;
        bytes.clear();
        file.take(chunk).read_to_end(&mut bytes)?;
        for (i, _) in bytes.iter().enumerate().rev().filter(|(_, b)| **b == b'\n') {
            let behind = from + i as u64 + 1;
            if behind == length {
                continue;
            }
            found += 1;
            if found == lines {
                return Ok(behind);
            }
        }
    }
    Ok(if lines == 0 { length } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Dir {
            let name = format!("baton-logs-{}-{name}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::create_dir_all(&path).unwrap();
            Dir(path)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn append(path: &Path, text: &str) {
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(path)
            .unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn printed(path: &Path, lines: usize) -> String {
        let mut out = Vec::new();
        Followed::at_end(path, lines, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn prints_the_last_lines() {
        let dir = Dir::new("last");
        let path = dir.0.join("a.log");
        append(&path, "");
        assert_eq!(printed(&path, 2), "");
        append(&path, "1\n2\n3\n");
        assert_eq!(printed(&path, 0), "");
        assert_eq!(printed(&path, 2), "2\n3\n");
        assert_eq!(printed(&path, 3), "1\n2\n3\n");
        assert_eq!(printed(&path, 9), "1\n2\n3\n");
        let long = "x".repeat(100_000) + "\n";
        append(&path, &long);
        append(&path, &long);
        assert_eq!(printed(&path, 1), long);
        assert_eq!(printed(&path, 3), format!("3\n{long}{long}"));
    }

    #[test]
    fn follows_over_reopening_and_truncation() {
        let dir = Dir::new("follow");
        let path = dir.0.join("a.log");
        append(&path, "1\n");
        let mut out = Vec::new();
        let mut followed = Followed::at_end(&path, 9, &mut out).unwrap();
        let mut expect = |expected: &str| {
            followed.go_on(&path, &mut out).unwrap();
            assert_eq!(String::from_utf8_lossy(&out), expected);
            out.clear();
        };
        append(&path, "2\nhalf");
        expect("1\n2\n");
        append(&path, " and half\n");
        expect("half and half\n");

        let moved = dir.0.join("a.log.1");
        fs::rename(&path, &moved).unwrap();
        append(&moved, "3\n");
        expect("3\n");
        append(&moved, "4\n");
        append(&path, "5\n");
        expect("4\n5\n");

        File::create(&path).unwrap();
        expect("");
        append(&path, "6\n");
        expect("6\n");
    }

    #[test]
    fn a_log_is_named_by_its_worker() {
        assert_eq!(wanted(None).unwrap(), None);
        for (which, name) in [
            ("2", "worker-2.log"),
            ("worker-2", "worker-2.log"),
            ("master", "master.log"),
        ] {
            assert_eq!(wanted(Some(which)).unwrap().unwrap(), name);
        }
        assert!(wanted(Some("../x")).is_err());
    }
}
