//! The master's process comes up: single-threaded, nothing served yet. It takes the pid file, opens
//! the log, binds, writes its pid, and becomes a guard whose brain serves.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, getpid};
use protocol::sanctions::Sanction;

use crate::brain;
use crate::config::{Config, Listen, Source};
use crate::control;
use crate::kept;
use crate::listener::Listener;
use crate::listener::activation::Activated;
use crate::pid_file::PidFile;
use crate::program;
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
    /// The master's program on disk, of which an upgrade takes what is there then.
    pub program: PathBuf,
    /// Files that this process, and each worker, may have open: the hard limit.
    pub nofile: u64,
    /// Who was muted and banned when the last baton ended.
    pub sanctions: Vec<Sanction>,
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
    program: PathBuf,
    nofile: u64,
    sanctions: Vec<Sanction>,
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
            program: self.program,
            nofile: self.nofile,
            sanctions: self.sanctions,
        }
    }
}

fn prepare(config: Config, source: Source, run: RunDir) -> Result<Prepared, String> {
    let activated = Activated::from_env().map_err(|error| error.to_string())?;
    let program = program::own_path().map_err(|error| error.to_string())?;
    run.create()?;
    let mut pid_file = PidFile::lock(&run.pid_file()).map_err(|error| error.to_string())?;
    let opened = open(&config, &run, &mut pid_file, activated);
    if opened.is_err() {
        // That it cannot be removed is not what has to be told.
        let _ = pid_file.remove();
    }
    let (listeners, control, nofile, sanctions) = opened?;
    Ok(Prepared {
        config,
        source,
        run,
        pid_file,
        listeners,
        control,
        program,
        nofile,
        sanctions,
    })
}

/// All that a master needs of the system, and last its pid for all to see.
fn open(
    config: &Config,
    run: &RunDir,
    pid_file: &mut PidFile,
    activated: Activated,
) -> Result<(Vec<Listener>, OwnedFd, u64, Vec<Sanction>), String> {
    let sanctions = kept::load(&run.moderation())?;
    let listeners = listeners(&config.listen, activated)?;
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
    Ok((listeners, control, nofile, sanctions))
}

/// Those that systemd has opened, and the others by ourselves.
fn listeners(wanted: &[Listen], mut activated: Activated) -> Result<Vec<Listener>, String> {
    let mut make = |listen: &Listen| match activated.take(&listen.address) {
        Some(fd) => Listener::adopt(listen, fd),
        None => Listener::bind(listen),
    };
    let mut made: Vec<Listener> = Vec::new();
    let failed = wanted.iter().find_map(|listen| match make(listen) {
        Ok(listener) => {
            made.push(listener);
            None
        }
        Err(error) => Some(error.to_string()),
    });
    let left = activated
        .left()
        .map(|address| format!("systemd listens on {address}, but no listener has this address"));
    match failed.or(left) {
        Some(reason) => {
            made.iter().for_each(Listener::remove);
            Err(reason)
        }
        None => Ok(made),
    }
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
