//! `stop`: ask, wait until every process is gone, and kill what is left after the bound.

use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::processes::Tree;
use super::{Error, Result};
use crate::config::Timeouts;
use crate::control::client::{self, AT_ONCE};
use crate::control::{Request, Stopping};
use crate::pid_file;
use crate::run_dir::RunDir;

/// The master kills what is left after the bound. If it has not after this, we do.
const MARGIN: Duration = Duration::from_secs(5);

pub fn stop(run: &RunDir, fast: bool) -> Result {
    let Some(pid) = pid_file::running(&run.pid_file())? else {
        return Err(Error::NotRunning);
    };
    let mut tree = Tree::of(pid);
    let within = match client::ask(run, Request::Stop { fast }, AT_ONCE) {
        Ok(answer) => serde_json::from_value(answer)
            .map(|Stopping { within_ms }| Duration::from_millis(within_ms))
            .map_err(client::Error::Misunderstood)?,
        Err(client::Error::NotRunning) => Duration::ZERO,
        // It has stopped, and could not say so.
        Err(client::Error::Gone) if pid_file::running(&run.pid_file())?.is_none() => Duration::ZERO,
        // Its brain is away, or hangs; a signal waits in the guard for the next.
        Err(_) if fast => {
            tree.signal_master(Signal::SIGINT);
            Duration::ZERO
        }
        Err(_) => {
            tree.signal_master(Signal::SIGTERM);
            Duration::from_millis(Timeouts::default().stop_ms)
        }
    };
    // A worker may have been started between the first look and the request.
    tree.look(pid);
    let deadline = Instant::now() + within + MARGIN;
    if !(tree.wait(deadline)? && is_free(run, deadline)?) {
        eprintln!("baton does not stop by itself and is killed");
        tree.kill();
        let deadline = Instant::now() + MARGIN;
        if !(tree.wait(deadline)? && is_free(run, deadline)?) {
            return Err(Error::Failed("some processes do not end".to_owned()));
        }
    }
    println!("stopped");
    Ok(())
}

/// Waits until no process of a master holds the pid file: one whose guard has just died has more
/// than the tree of that pid.
fn is_free(run: &RunDir, deadline: Instant) -> Result<bool> {
    while pid_file::running(&run.pid_file())?.is_some() {
        if Instant::now() > deadline {
            return Ok(false);
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(true)
}
