//! The thread that writes the ring to the file. It alone may block.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{Whence, lseek};

use super::{Logger, line, lock};

/// After an error (the disk is full, the reader is gone) it tries again in so long.
const RETRY: Duration = Duration::from_secs(1);
/// A line that comes again and again is counted, and the count written this often.
const REPEATS: Duration = Duration::from_secs(1);
/// How soon a new file is noticed while a pipe takes nothing.
const STALLED: u8 = 100;

pub fn run(logger: &Logger) {
    if let Some(position) = position(logger) {
        logger.ring.recover(position);
    }
    let mut lines = [0; line::MAX];
    let mut refused = None;
    let mut repeats_said = Instant::now();
    loop {
        if swap(logger) {
            refused = None;
        }
        if let Some(left) = refused.and_then(|at: Instant| RETRY.checked_sub(at.elapsed())) {
            // Every line wakes this thread; it must not try with every line.
            std::thread::park_timeout(left);
            continue;
        }
        let len = logger.ring.peek(&mut lines);
        if len == 0 {
            let due = repeats_said.elapsed() >= REPEATS;
            if due {
                repeats_said = Instant::now();
            }
            if !logger.nothing_left(due) {
                std::thread::park_timeout(REPEATS);
            }
            continue;
        }
        refused = match write(logger, &lines[..len]) {
            Ok(()) => None,
            Err(_) => Some(Instant::now()),
        };
    }
}

/// Writes some of it, unless the file takes nothing just now.
fn write(logger: &Logger, lines: &[u8]) -> io::Result<()> {
    let mut poll_file = [PollFd::new(logger.file.as_fd(), PollFlags::POLLOUT)];
    match poll(&mut poll_file, PollTimeout::from(STALLED)) {
        Ok(0) | Err(Errno::EINTR) => return Ok(()),
        Ok(_) => {}
        Err(e) => return Err(e.into()),
    }
    match position(logger) {
        Some(position) => logger.ring.write_begins_at(position),
        None => logger.ring.position_unknown(),
    }
    match nix::unistd::write(logger.file, lines) {
        Ok(0) => Err(io::ErrorKind::WriteZero.into()),
        Ok(n) => {
            logger.ring.take(n);
            Ok(())
        }
        Err(Errno::EINTR | Errno::EAGAIN) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Puts the new file, if there is one, in the place of the old.
fn swap(logger: &Logger) -> bool {
    let Some(file) = lock(&logger.next_file).take() else {
        return false;
    };
    logger.ring.position_unknown();
    // SAFETY: no memory is involved. The place stays open throughout.
    unsafe { libc::dup2(file.as_raw_fd(), logger.file.as_raw_fd()) };
    true
}

/// Where the file is; a pipe is nowhere.
pub fn position(logger: &Logger) -> Option<u64> {
    Some(lseek(logger.file, 0, Whence::SeekCur).ok()? as u64)
}
