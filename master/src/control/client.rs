//! Asks a running master.

use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use super::{Answer, Request, Status, short};
use crate::pid_file;
use crate::run_dir::RunDir;

/// How long a master that is well may take to answer what it can answer at once. (Its brain may
/// have died, and the next one must come up.)
pub const AT_ONCE: Duration = Duration::from_secs(5);

/// Brains that are asked, each after the death of the one before: it may be what is asked that they
/// die of.
const TRIES: u32 = 5;
/// Between one and the next.
const AGAIN: Duration = Duration::from_millis(100);

/// There is no answer, or not the one that was hoped for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("baton is not running")]
    NotRunning,
    #[error("the master (pid {pid}) does not answer: {error}")]
    NoAnswer { pid: i32, error: io::Error },
    /// What was asked may have been done or not.
    #[error("the master ended before it answered; see its log")]
    Gone,
    #[error("the master's answer is not understood: {0}")]
    Misunderstood(serde_json::Error),
    /// The master says why not.
    #[error("{0}")]
    Refused(String),
    /// It is wrong.
    #[error("{0}")]
    Configuration(String),
    #[error(transparent)]
    PidFile(#[from] pid_file::Error),
}

/// Asks for one thing and waits for the answer. If the connection ends without one, the brain that
/// was asked is dead: the next one is asked the same. Whatever can be asked may be asked again: what
/// has been done by then takes no effect, or no harm.
pub fn ask(run: &RunDir, request: Request, within: Duration) -> Result<serde_json::Value, Error> {
    let deadline = Instant::now() + within;
    let mut last = Error::NotRunning;
    for _ in 0..TRIES {
        let Some(pid) = pid_file::running(&run.pid_file())? else {
            return Err(last);
        };
        let left = deadline.saturating_duration_since(Instant::now());
        match exchange(run, request, left.max(AGAIN)) {
            Ok(line) if !line.is_empty() => return understand(&line),
            Ok(_) => {}
            Err(error) if is_end(&error) => {}
            Err(error) => return Err(Error::NoAnswer { pid, error }),
        }
        last = Error::Gone;
        thread::sleep(AGAIN);
    }
    Err(last)
}

fn understand(line: &str) -> Result<serde_json::Value, Error> {
    match serde_json::from_str(line).map_err(Error::Misunderstood)? {
        Answer::Ok { ok } => Ok(ok),
        Answer::Error {
            error,
            configuration: true,
        } => Err(Error::Configuration(error)),
        Answer::Error { error, .. } => Err(Error::Refused(error)),
    }
}

/// Of the connection, because who had it has died.
fn is_end(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof
    )
}

/// What `status` shows.
pub fn status(run: &RunDir) -> Result<Status, Error> {
    let value = ask(run, Request::Status, AT_ONCE)?;
    serde_json::from_value(value).map_err(Error::Misunderstood)
}

fn exchange(run: &RunDir, request: Request, within: Duration) -> io::Result<String> {
    let socket = run.socket();
    let (_directory, path) = short(&socket)?;
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(within))?;
    stream.set_write_timeout(Some(AT_ONCE))?;
    let request = serde_json::to_string(&request)? + "\n";
    stream.write_all(request.as_bytes())?;
    let mut line = String::new();
    match BufReader::new(stream).read_line(&mut line) {
        Ok(_) => Ok(line),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Err(io::Error::new(
            ErrorKind::TimedOut,
            format!("nothing in {} s", within.as_secs()),
        )),
        Err(error) => Err(error),
    }
}
