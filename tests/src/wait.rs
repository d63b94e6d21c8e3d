//! Waiting for conditions.

use std::thread;
use std::time::{Duration, Instant};

/// For whatever happens at once when nothing is wrong. Generous: two cores run many tests.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Asks again and again until `condition` gives a value. Panics at the deadline with `what`.
#[track_caller]
pub fn until<T>(what: &str, deadline: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(
            start.elapsed() < deadline,
            "not within {deadline:?}: {what}"
        );
        // The pause between two questions, not a guess of how long the answer takes.
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// [`until`] for what is true or not, with the usual deadline.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    until(what, DEADLINE, || condition().then_some(()));
}
