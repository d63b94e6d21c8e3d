//! Daemons of a program that aborts when it panics, as all but tests do: nothing is dropped then, and
//! they would go on for ever.

use std::collections::BTreeSet;
use std::panic;
use std::sync::{Mutex, Once, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::process;

/// What is in the environment of every process of each daemon.
static MARKS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Killed processes are gone within this.
const PATIENCE: Duration = Duration::from_secs(5);

/// From now on the processes with this mark do not outlive a panic.
pub fn watch(mark: &str) {
    static HOOK: Once = Once::new();
    if cfg!(panic = "abort") {
        HOOK.call_once(|| {
            let before = panic::take_hook();
            panic::set_hook(Box::new(move |why| {
                before(why);
                end_all();
            }));
        });
    }
    marks(|marks| _ = marks.insert(mark.to_owned()));
}

/// They are ended by who has started them.
pub fn forget(mark: &str) {
    marks(|marks| _ = marks.remove(mark));
}

fn end_all() {
    let end = Instant::now() + PATIENCE;
    for mark in marks(std::mem::take) {
        // While there is one of a daemon, it makes others.
        loop {
            let left = process::with_environment(&mark);
            if left.is_empty() || Instant::now() > end {
                break;
            }
            left.into_iter().for_each(process::kill);
            thread::sleep(Duration::from_millis(1));
        }
    }
}

fn marks<R>(with: impl FnOnce(&mut BTreeSet<String>) -> R) -> R {
    with(&mut MARKS.lock().unwrap_or_else(PoisonError::into_inner))
}
