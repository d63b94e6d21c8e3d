//! Logs that never block a loop: a line goes into a bounded ring in the state, and a thread writes
//! it out. A full disk or a stalled pipe holds up that thread only; what then finds no room is
//! counted, and the count is a line once there is room. A brain that dies leaves its lines in the
//! ring, and the next one writes them.
//!
//! Read in this order: this file (the logger), [`line`] (what a line looks like), [`ring`] (where
//! it waits), [`writer`] (the thread).

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicU64;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::thread::Thread;
use std::time::{Duration, Instant, SystemTime};

use log::{Level, Log, Metadata, Record};

mod line;
mod ring;
mod writer;

pub use line::{Format, Time};
use ring::Ring;

/// What the operator has chosen, and whose lines they are.
#[derive(Clone, Debug)]
pub struct Options {
    /// Named in every line: `master`, `worker-2`.
    pub role: String,
    /// Which lines: `info`, or `worker=debug,info` (as env_logger has it).
    pub filter: String,
    pub format: Format,
}

/// Why nothing can be logged.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("a logger is there already")]
    Twice(#[from] log::SetLoggerError),
    #[error("no thread for the log: {0}")]
    Thread(#[from] io::Error),
}

/// The logger of this brain, for good.
#[derive(Clone, Copy, Debug)]
pub struct Logging(&'static Logger);

/// Makes the `log` macros write into a ring in `words` (of the state; zeroed when new) and starts
/// the thread that writes what is in it, a predecessor's lines first, to `file`. Panics go there
/// too, before the brain aborts.
///
/// `file` is a place in the fd table (stderr, say): [`Logging::reopen`] puts another file there,
/// and the next brain finds it there. Whoever else writes to it writes between lines.
pub fn init(
    words: &'static [AtomicU64],
    file: BorrowedFd<'static>,
    options: &Options,
) -> Result<Logging, Error> {
    let logger = Logger::leak(words, file, options)?;
    log::set_logger(logger)?;
    log::set_max_level(filter(&options.filter).filter());
    std::panic::set_hook(Box::new(|info| {
        logger.last_words(&info.to_string());
    }));
    logger.start_writer()?;
    Ok(Logging(logger))
}

impl Logging {
    /// Puts `file` in the place of the log file, soon: lines that wait go to the new one.
    pub fn reopen(&self, file: OwnedFd) {
        *lock(&self.0.next_file) = Some(file);
        self.0.wake_writer();
    }

    /// Other lines from here on.
    pub fn set_filter(&self, directives: &str) {
        let filter = filter(directives);
        log::set_max_level(filter.filter());
        *self
            .0
            .filter
            .write()
            .unwrap_or_else(PoisonError::into_inner) = filter;
    }

    /// Waits until all is written, at most so long; before the end of a brain. `false`: not all.
    pub fn flush(&self, within: Duration) -> bool {
        self.0.flush(within)
    }
}

/// A brain that panics waits so long for its last words to be written; if they are not, the next
/// brain writes them.
const LAST_WORDS: Duration = Duration::from_millis(100);

#[derive(Debug)]
struct Logger {
    ring: Ring,
    /// The place of the log file.
    file: BorrowedFd<'static>,
    /// What is to be put there.
    next_file: Mutex<Option<OwnedFd>>,
    role: String,
    format: Format,
    /// Only asked what is to be written: env_logger's own writing would hold a lock while a disk
    /// is slow.
    filter: RwLock<env_logger::Logger>,
    /// Held for the time of one line. It lives in the brain's own memory: a lock in the state
    /// would stay held when a brain dies.
    entrance: Mutex<Entrance>,
    all_written: Condvar,
    writer: OnceLock<Thread>,
}

/// Who appends to the ring has this.
#[derive(Debug)]
struct Entrance {
    /// The last line without its time, to know it again.
    last: Vec<u8>,
    last_level: Level,
    /// How often it came again and was not written.
    repeats: u64,
}

impl Logger {
    fn leak(
        words: &'static [AtomicU64],
        file: BorrowedFd<'static>,
        options: &Options,
    ) -> Result<&'static Logger, Error> {
        Ok(Box::leak(Box::new(Logger {
            ring: Ring::new(words),
            file,
            next_file: Mutex::new(None),
            role: options.role.clone(),
            format: options.format,
            filter: RwLock::new(filter(&options.filter)),
            entrance: Mutex::new(Entrance {
                last: Vec::with_capacity(line::MAX),
                last_level: Level::Info,
                repeats: 0,
            }),
            all_written: Condvar::new(),
            writer: OnceLock::new(),
        })))
    }

    fn start_writer(&'static self) -> io::Result<()> {
        let thread = std::thread::Builder::new()
            .name("log".into())
            .stack_size(128 << 10)
            .spawn(|| writer::run(self))?;
        self.writer.get_or_init(|| thread.thread().clone());
        Ok(())
    }

    fn wake_writer(&self) {
        if let Some(writer) = self.writer.get() {
            writer.unpark();
        }
    }

    /// Puts the line into the ring, unless it says what the last one said.
    fn enter(&self, line: &[u8], level: Level) {
        let said = &line[self.format.time_len()..];
        let mut entrance = lock(&self.entrance);
        if said == entrance.last {
            entrance.repeats += 1;
            return;
        }
        self.say_repeats(&mut entrance);
        entrance.last.clear();
        entrance.last.extend_from_slice(said);
        entrance.last_level = level;
        self.append(line);
    }

    /// Says that the last line came again, if it did.
    fn say_repeats(&self, entrance: &mut Entrance) {
        let repeats = std::mem::take(&mut entrance.repeats);
        if repeats > 0 {
            let times = if repeats == 1 { "time" } else { "times" };
            let what = format_args!("the last line again, {repeats} {times}");
            self.append(&self.own_line(entrance.last_level, what));
        }
    }

    /// Says how many lines found no room, if any did and there is room to say it. `before` is the
    /// line that wants in next.
    fn say_lost(&self, before: &[u8]) {
        let lost = self.ring.lost();
        if lost > 0 {
            let what = format_args!("{lost} lines were lost here: the log could not be written");
            let line = self.own_line(Level::Warn, what);
            if self.ring.room() >= line.len() + before.len() && self.ring.push(&line) {
                self.ring.forget_lost(lost);
            }
        }
    }

    fn append(&self, line: &[u8]) {
        self.say_lost(line);
        // While a loss has not been said, nothing goes in behind it.
        if self.ring.lost() > 0 || !self.ring.push(line) {
            self.ring.count_lost();
        }
        self.wake_writer();
    }

    fn own_line(&self, level: Level, what: std::fmt::Arguments<'_>) -> Vec<u8> {
        let mut line = Vec::with_capacity(256);
        let record = Record::builder().level(level).args(what).build();
        self.format
            .write(&mut line, SystemTime::now(), &self.role, &record);
        line
    }

    /// By the writer, when all in the ring is written: a loss goes in, and repeats if they are due.
    /// Says whether something did.
    fn nothing_left(&self, repeats_due: bool) -> bool {
        let mut entrance = lock(&self.entrance);
        self.say_lost(&[]);
        if repeats_due {
            self.say_repeats(&mut entrance);
        }
        let written = self.ring.is_empty();
        if written {
            self.all_written.notify_all();
        }
        !written
    }

    fn flush(&self, within: Duration) -> bool {
        let end = Instant::now() + within;
        let mut entrance = lock(&self.entrance);
        self.say_repeats(&mut entrance);
        loop {
            if self.ring.is_empty() && self.ring.lost() == 0 {
                return true;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            self.wake_writer();
            entrance = self
                .all_written
                .wait_timeout(entrance, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// A brain is about to abort. (Where it panicked the lock is not held: under it nothing is
    /// formatted.)
    fn last_words(&self, what: &str) {
        let line = self.own_line(Level::Error, format_args!("{what}"));
        self.enter(&line, Level::Error);
        self.flush(LAST_WORDS);
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let filter = self.filter.read().unwrap_or_else(PoisonError::into_inner);
        filter.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        let filter = self.filter.read().unwrap_or_else(PoisonError::into_inner);
        if !filter.matches(record) {
            return;
        }
        let mut line = Vec::with_capacity(256);
        let now = SystemTime::now();
        self.format.write(&mut line, now, &self.role, record);
        self.enter(&line, record.level());
    }

    fn flush(&self) {}
}

/// What env_logger makes of the directives; it passes over what is none, and says so on stderr.
fn filter(directives: &str) -> env_logger::Logger {
    env_logger::Builder::new().parse_filters(directives).build()
}

/// What is behind these locks is whole at every moment, whoever panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
