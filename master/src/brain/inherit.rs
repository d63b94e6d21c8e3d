//! How a guard comes to be that finds everything there. What a guard hands to its brains is in the
//! state for this, and known fds stay open at their numbers over an exec:
//!
//! - The guard dies. Its brain execs the program that it runs over itself, and becomes the guard of
//!   the next brain, under its own pid ([`Brain::become_guard`]).
//! - An upgrade. The guard execs another program over itself, under its pid, while its brain stands
//!   by ([`protocol::guard::takeover`], [`super::upgrade`]).
//!
//! In both cases [`run_again`] is what the program begins with.

use std::cell::RefCell;
use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::time::Duration;

use nix::unistd::getpid;
use protocol::{guard, message};
use serde::{Deserialize, Serialize};

use super::Brain;
use super::birth::{self, Context};
use super::upgrade::History;
use crate::config::{Address, Config, Listen, Source};
use crate::listener::Listener;
use crate::pid_file::PidFile;
use crate::readiness::{Form, Readiness};
use crate::run_dir::RunDir;
use crate::spawn;
use crate::state::State;

/// A [`Context`] in words, with the numbers of its fds.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Heritage {
    pub config: Config,
    pub source: Source,
    run: RunDir,
    listeners: Vec<(Listen, Address, RawFd, bool)>,
    pid_file: RawFd,
    control: RawFd,
    readiness: RawFd,
    form: Form,
    doorbell: RawFd,
    program: PathBuf,
    pub history: History,
    /// The version of the messages that its workers are used to.
    messages: u32,
}

impl Heritage {
    /// What was kept last.
    pub fn read(state: &State) -> Result<Heritage, serde_json::Error> {
        serde_json::from_slice(&state.config())
    }
}

impl Context {
    /// To be kept in the state, with what serves now.
    pub(super) fn heritage(&self, config: &Config, source: &Source, history: &History) -> Heritage {
        let readiness = self.readiness.borrow();
        let listener = |l: &Listener| {
            let fd = l.fd.as_raw_fd();
            (l.listen.clone(), l.address.clone(), fd, l.is_shared)
        };
        Heritage {
            config: config.clone(),
            source: source.clone(),
            run: self.run.clone(),
            listeners: self.listeners.iter().map(listener).collect(),
            pid_file: self.pid_file.file().as_raw_fd(),
            control: self.control.as_raw_fd(),
            readiness: readiness.fd().as_raw_fd(),
            form: readiness.form().clone(),
            doorbell: self.doorbell.as_raw_fd(),
            program: self.program.clone(),
            history: history.clone(),
            messages: message::VERSION,
        }
    }

    pub(super) fn fds(&self) -> Vec<RawFd> {
        let mut fds: Vec<RawFd> = self.listeners.iter().map(|l| l.fd.as_raw_fd()).collect();
        fds.extend([
            self.control.as_raw_fd(),
            self.pid_file.file().as_raw_fd(),
            self.readiness.borrow().fd().as_raw_fd(),
            self.state.as_fd().as_raw_fd(),
            self.state.log().as_fd().as_raw_fd(),
            self.state.history().as_fd().as_raw_fd(),
            self.doorbell.as_raw_fd(),
        ]);
        fds
    }

    /// With which a program begins that is to go on with this; `takes_over`: from a guard that gives
    /// way to it.
    pub(super) fn arguments(&self, takes_over: bool) -> Vec<CString> {
        let state = self.state.as_fd().as_raw_fd();
        let log = self.state.log().as_fd().as_raw_fd();
        let history = self.state.history().as_fd().as_raw_fd();
        let mut args = vec![
            c"baton-master".to_owned(),
            c"guard".to_owned(),
            number(state),
            number(log),
            number(history),
        ];
        if takes_over {
            args.push(c"--takes-over".to_owned());
        }
        args
    }
}

fn number(fd: RawFd) -> CString {
    // Digits hold no zero byte.
    CString::new(fd.to_string()).unwrap_or_default()
}

impl Brain<'_> {
    /// Returns only if it cannot be done; then the brain serves on, and tries again.
    pub(super) fn become_guard(&mut self) {
        log::warn!("the guard is dead: becoming the guard");
        self.logging.flush(Duration::from_millis(100));
        // SAFETY: all of them are open, and nothing is closed before the exec.
        let keep = |fd: RawFd| unsafe { BorrowedFd::borrow_raw(fd) };
        let keep: Vec<BorrowedFd<'_>> = self.known_fds().into_iter().map(keep).collect();
        let args = self.context.arguments(false);
        let error = match File::open("/proc/self/exe") {
            Ok(program) => guard::exec_over_self(program.as_fd(), &args, &keep),
            Err(error) => error,
        };
        log::error!("cannot become the guard: {error}");
        self.next_tick = self.next_tick.min(self.now + super::TICK);
    }
}

/// By a program that is tried: could it go on from this?
pub fn look(state: RawFd, log: RawFd) -> Result<(), String> {
    let state = State::look(own(state), own(log)).map_err(|error| error.to_string())?;
    let heritage = Heritage::read(&state)
        .map_err(|error| format!("what the running master keeps is not understood: {error}"))?;
    let (theirs, ours) = (heritage.messages, message::VERSION);
    match theirs.abs_diff(ours) {
        0 | 1 => Ok(()),
        _ => Err(format!(
            "the workers that run say messages of version {theirs}, this program those of version \
             {ours}: it takes a restart"
        )),
    }
}

/// By the program that a brain or a guard has executed over itself: goes on as the guard.
pub fn run_again(state: RawFd, log: RawFd, history: RawFd, takes_over: bool) -> ! {
    let context = State::adopt(own(state), own(log), own(history)).and_then(|state| {
        let heritage = Heritage::read(&state)?;
        Ok((state, heritage))
    });
    let (state, heritage) = context.unwrap_or_else(|error| {
        eprintln!("baton-master: the state cannot be read: {error}");
        std::process::exit(1)
    });
    let _ = guard::name_process(c"baton-master");
    // Those that were only taken up have been closed by the exec.
    if let Err(error) = spawn::fill_low_numbers() {
        eprintln!("baton-master: {error}");
    }
    if let Err(error) = guard::become_subreaper() {
        eprintln!("baton-master: {error}");
    }
    let listener = |(listen, address, fd, is_shared)| Listener {
        fd: own(fd),
        listen,
        address,
        is_shared,
    };
    let path = heritage.run.pid_file();
    let mut pid_file = PidFile::adopt(path, File::from(own(heritage.pid_file)));
    // Who takes over has the pid that is there, and nothing to change before that is decided.
    if !takes_over && let Err(error) = pid_file.write(getpid().as_raw()) {
        eprintln!("baton-master: cannot write the pid: {error}");
    }
    let context = Context {
        config: heritage.config,
        source: heritage.source,
        run: heritage.run,
        pid_file,
        listeners: heritage.listeners.into_iter().map(listener).collect(),
        control: own(heritage.control),
        readiness: RefCell::new(Readiness::new(own(heritage.readiness), heritage.form)),
        state,
        doorbell: own(heritage.doorbell),
        program: heritage.program,
    };
    birth::guard(&context, takes_over)
}

/// A fd that was left to us.
fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: who has executed this program has left these numbers to it, each for one purpose, and
    // nothing else here knows of them.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
