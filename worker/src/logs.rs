//! This worker's log.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::time::Duration;

use protocol::logging::{self, Format, Logging, Options};
use protocol::roles::{self, WorkerArgs};

use crate::birth::borrowed;
use crate::state::{LINES, LINES_SIZE, State};

static LOGGING: OnceLock<Logging> = OnceLock::new();

/// How long a brain that ends waits for its last lines to be written.
const LAST_LINES: Duration = Duration::from_millis(500);

/// From here on the `log` macros write to the worker's file, through a ring in its state.
pub fn start(args: &WorkerArgs, state: &State) -> io::Result<()> {
    let options = Options {
        role: args.seat.to_string(),
        filter: args.log_filter.clone(),
        format: if args.log_json {
            Format::Json
        } else {
            Format::Text
        },
    };
    let words = state.words(LINES / 8, LINES_SIZE / 8);
    let logging =
        logging::init(words, borrowed(roles::LOG_FILE), &options).map_err(io::Error::other)?;
    LOGGING.get_or_init(|| logging);
    Ok(())
}

/// Another file from here on.
pub fn reopen(file: OwnedFd) {
    if let Some(logging) = LOGGING.get() {
        logging.reopen(file);
    }
}

/// Waits a moment for what has been logged to be written.
pub fn flush() {
    if let Some(logging) = LOGGING.get() {
        logging.flush(LAST_LINES);
    }
}
