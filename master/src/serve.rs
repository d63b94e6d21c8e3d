//! The master's process comes up: single-threaded, nothing served yet. It takes the pid file, opens
//! the log, binds, writes its pid, and becomes a guard whose brain serves.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, getpid};

use crate::brain;
use crate::config::{Config, Source};
use crate::control;
use crate::listener::Listener;
use crate::pid_file::PidFile;
use crate::readiness::Readiness;
use crate::run_dir::{RunDir, open_log};

/// What a master begins with. All fds are closed on exec.
///
/// The brain that a guard makes has a copy of this; a guard that comes up by exec over a brain has
/// not, and finds what it needs in the state.
#[derive(Debug)]
pub struct Start {
    /// The configuration as it is now ...
    pub config: Config,
    /// ... and where a reload reads it again.
    pub source: Source,
    pub run: RunDir,
    /// Locked, with our pid in it.
    pub pid_file: PidFile,
    pub listeners: Vec<Listener>,
    /// The listening control socket, non-blocking.
    pub control: OwnedFd,
    /// To be told once: either that every worker is ready, or why not.
    pub readiness: Readiness,
    /// Files that this process, and each worker, may have open: the hard limit.
    pub nofile: u64,
}

/// Comes up and serves. What fails on the way is told to `readiness`; the exit status is then 1.
pub fn serve(config: Config, source: Source, run: RunDir, mut readiness: Readiness) -> ! {
    match prepare(config, source, run) {
        Ok(prepared) => brain::run(prepared.start(readiness)),
        Err(reason) => {
            readiness.failed(&reason);
            std::process::exit(1)
        }
    }
}

/// All of [`Start`] but the readiness, which must be there to tell why this is not.
struct Prepared {
    config: Config,
    source: Source,
    run: RunDir,
    pid_file: PidFile,
    listeners: Vec<Listener>,
    control: OwnedFd,
    nofile: u64,
}

impl Prepared {
    fn start(self, readiness: Readiness) -> Start {
        Start {
            config: self.config,
            source: self.source,
            run: self.run,
            pid_file: self.pid_file,
            listeners: self.listeners,
            control: self.control,
            readiness,
            nofile: self.nofile,
        }
    }
}

fn prepare(config: Config, source: Source, run: RunDir) -> Result<Prepared, String> {
    run.create()?;
    let mut pid_file = PidFile::lock(&run.pid_file()).map_err(|error| error.to_string())?;
    let listeners = config
        .listen
        .iter()
        .map(Listener::bind)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| error.to_string())?;
    let control = control::listen(&run.socket())
        .map_err(|error| format!("cannot make {}: {error}", run.socket().display()))?;
    let nofile =
        raise_nofile().map_err(|error| format!("cannot raise the limit of open files: {error}"))?;
    // From here on, what is written to stderr is in the log.
    let log = open_log(&run.master_log())?;
    redirect(log).map_err(|error| format!("cannot redirect to the log: {error}"))?;
    pid_file
        .write(getpid().as_raw())
        .map_err(|error| format!("cannot write {}: {error}", run.pid_file().display()))?;
    Ok(Prepared {
        config,
        source,
        run,
        pid_file,
        listeners,
        control,
        nofile,
    })
}

/// Raises the soft limit of open files to the hard one, which is returned.
fn raise_nofile() -> io::Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard)
}

/// 0 becomes `/dev/null`, 1 and 2 the log.
fn redirect(log: File) -> io::Result<()> {
    dup2_stdin(File::open("/dev/null")?)?;
    dup2_stdout(&log)?;
    dup2_stderr(&log)?;
    Ok(())
}
