//! What serves.

use crate::serve::Start;

/// Serves, under a guard, until it is told to stop.
pub fn run(mut start: Start) -> ! {
    start.readiness.failed("there is nothing yet that serves");
    std::process::exit(1)
}
