//! When the master's guard dies, its brain execs the program over itself and becomes the guard of
//! the next brain, under its own pid. What a guard hands to its brains is in the state for this.

use std::cell::RefCell;
use std::ffi::CString;
use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::unistd::getpid;
use protocol::guard;
use serde::{Deserialize, Serialize};

use super::{Brain, Context};
use crate::config::{Config, Listen, Source};
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
    listeners: Vec<(Listen, SocketAddr, RawFd, bool)>,
    pid_file: RawFd,
    control: RawFd,
    readiness: RawFd,
    form: Form,
    doorbell: RawFd,
    log_bell: RawFd,
}

impl Heritage {
    /// What was kept last.
    pub fn read(state: &State) -> Option<Heritage> {
        serde_json::from_slice(&state.config()).ok()
    }
}

impl Context {
    /// To be kept in the state, with what serves now.
    pub(super) fn heritage(&self, config: &Config, source: &Source) -> Heritage {
        let readiness = self.readiness.borrow();
        let listener = |l: &Listener| {
            let fd = l.fd.as_raw_fd();
            (l.listen.clone(), l.address, fd, l.is_shared)
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
            log_bell: self.log_bell.as_raw_fd(),
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
            self.doorbell.as_raw_fd(),
            self.log_bell.as_raw_fd(),
        ]);
        fds
    }
}

impl Brain<'_> {
    /// Returns only if it cannot be done; then the brain serves on, and tries again.
    pub(super) fn become_guard(&mut self) {
        log::warn!("the guard is dead: becoming the guard");
        self.logging.flush(Duration::from_millis(100));
        let state = self.state.as_fd().as_raw_fd();
        let log = self.state.log().as_fd().as_raw_fd();
        let args = [
            "baton-master".to_owned(),
            "guard".to_owned(),
            state.to_string(),
            log.to_string(),
        ];
        let args: Result<Vec<CString>, _> = args.into_iter().map(CString::new).collect();
        // SAFETY: all of them are open, and nothing is closed before the exec.
        let keep = |fd: RawFd| unsafe { BorrowedFd::borrow_raw(fd) };
        let keep: Vec<BorrowedFd<'_>> = self.known_fds().into_iter().map(keep).collect();
        let error = match (args, File::open("/proc/self/exe")) {
            (Ok(args), Ok(program)) => guard::exec_over_self(program.as_fd(), &args, &keep),
            (Err(error), _) => error.into(),
            (_, Err(error)) => error,
        };
        log::error!("cannot become the guard: {error}");
        self.next_tick = self.next_tick.min(self.now + super::TICK);
    }
}

/// By the program that a brain has executed over itself: goes on as the guard.
pub fn run_again(state: RawFd, log: RawFd) -> ! {
    // SAFETY: the brain has left these fds to us, and nothing else here knows of them.
    let own = |fd: RawFd| unsafe { OwnedFd::from_raw_fd(fd) };
    let context = match State::adopt(own(state), own(log)) {
        Ok(state) => Heritage::read(&state).map(|heritage| (state, heritage)),
        Err(_) => None,
    };
    let Some((state, heritage)) = context else {
        eprintln!("baton-master: the state cannot be read");
        std::process::exit(1)
    };
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
    if let Err(error) = pid_file.write(getpid().as_raw()) {
        eprintln!("baton-master: cannot write the pid: {error}");
    }
    super::guard(&Context {
        config: heritage.config,
        source: heritage.source,
        run: heritage.run,
        pid_file,
        listeners: heritage.listeners.into_iter().map(listener).collect(),
        control: own(heritage.control),
        readiness: RefCell::new(Readiness::new(own(heritage.readiness), heritage.form)),
        state,
        doorbell: own(heritage.doorbell),
        log_bell: own(heritage.log_bell),
    })
}
