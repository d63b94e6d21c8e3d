//! Deaths at a chosen place, for tests: only a build with the feature `faults` has them. In any
//! other build all of this is empty and costs nothing.
//!
//! `BATON_FAULTS` names a directory, into which a test puts files while baton runs:
//!
//! - A file with the name of a [`point`] holds a number and, if it is not to be `kill`, the kind of
//!   death: `3 abort`. The process that passes the point for so many times since then renames the
//!   file to `NAME.reached` and dies there. Whoever succeeds in renaming dies, and nobody else does.
//! - A file with the name of a [`poison`] holds a marker: whoever has bytes in hand that contain it
//!   leaves a file `NAME.reached` and dies, each time.
//!
//! `BATON_NAIVE` names what is to be done wrong on purpose ([`Naive`]), to show that a test notices.

/// What can be left out, to show what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naive {
    /// Recovery trusts a slot's words and not the kernel's counters.
    Truth,
    /// A publish gets into its ring by itself, not with the input that it came from.
    Publish,
}

#[cfg(feature = "faults")]
pub use armed::{naive, point, poison, shared_point};

/// A place to die at.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub fn point(_name: &str) {}

/// A place in code that master and worker share: `NAME` is `master:NAME` or `worker:NAME`.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub fn shared_point(_name: &str) {}

/// A place where certain bytes kill.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub fn poison(_name: &str, _bytes: &[u8]) {}

/// Is this to be done wrong?
#[cfg(not(feature = "faults"))]
#[inline(always)]
#[must_use]
pub fn naive(_what: Naive) -> bool {
    false
}

#[cfg(feature = "faults")]
mod armed {
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::sync::{LazyLock, Mutex, PoisonError};

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::getpid;

    use super::Naive;

    static DIRECTORY: LazyLock<Option<PathBuf>> =
        LazyLock::new(|| std::env::var_os("BATON_FAULTS").map(PathBuf::from));

    /// How often this process has passed the points that are armed.
    static PASSED: Mutex<Vec<(String, u64)>> = Mutex::new(Vec::new());

    /// A place to die at.
    pub fn point(name: &str) {
        let Some(directory) = &*DIRECTORY else { return };
        let file = directory.join(name);
        let Ok(text) = fs::read_to_string(&file) else {
            return forget(name);
        };
        let mut words = text.split_whitespace();
        // What is not a number yet is still being written.
        let Some(wanted) = words.next().and_then(|count| count.parse().ok()) else {
            return;
        };
        if passed(name) >= wanted && fs::rename(&file, reached(directory, name)).is_ok() {
            forget(name);
            die(words.next().unwrap_or("kill"));
        }
    }

    /// A place in code that master and worker share.
    pub fn shared_point(name: &str) {
        static PROCESS: LazyLock<String> = LazyLock::new(|| {
            let name = fs::read_to_string("/proc/self/comm").unwrap_or_default();
            name.trim().trim_start_matches("baton-").to_owned()
        });
        if DIRECTORY.is_some() {
            point(&format!("{}:{name}", *PROCESS));
        }
    }

    /// A place where certain bytes kill.
    pub fn poison(name: &str, bytes: &[u8]) {
        let Some(directory) = &*DIRECTORY else { return };
        let Ok(marker) = fs::read(directory.join(name)) else {
            return;
        };
        if !marker.is_empty() && bytes.windows(marker.len()).any(|part| part == marker) {
            let _ = fs::write(reached(directory, name), "");
            die("kill");
        }
    }

    /// Is this to be done wrong?
    #[must_use]
    pub fn naive(what: Naive) -> bool {
        static SAID: LazyLock<String> =
            LazyLock::new(|| std::env::var("BATON_NAIVE").unwrap_or_default());
        let name = match what {
            Naive::Truth => "truth",
            Naive::Publish => "publish",
        };
        SAID.split(',').any(|said| said == name)
    }

    fn reached(directory: &Path, name: &str) -> PathBuf {
        directory.join(format!("{name}.reached"))
    }

    fn passed(name: &str) -> u64 {
        let mut all = PASSED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, count)) = all.iter_mut().find(|(of, _)| of == name) {
            *count += 1;
            return *count;
        }
        all.push((name.to_owned(), 1));
        1
    }

    fn forget(name: &str) {
        let mut all = PASSED.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(of, _)| of != name);
    }

    fn die(how: &str) {
        match how {
            "abort" => std::process::abort(),
            // SAFETY: none; that this address is nobody's is the point.
            "segv" => unsafe { std::ptr::without_provenance_mut::<u8>(8).write_volatile(0) },
            // Whoever is stopped may be told to go on, and does.
            "stop" => drop(kill(getpid(), Signal::SIGSTOP)),
            _ => drop(kill(getpid(), Signal::SIGKILL)),
        }
    }
}
