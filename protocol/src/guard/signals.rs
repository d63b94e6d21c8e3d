//! Signals of a guard and its brains: all blocked, taken one by one by the guard.

use std::io;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask};

/// Blocks every signal that can be blocked, also for the brains and across exec.
pub(super) fn block_all() -> io::Result<()> {
    // Whoever started us may ignore it; then no child could be waited for.
    // SAFETY: sets no handler.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl)? };
    Ok(sigprocmask(
        SigmaskHow::SIG_SETMASK,
        Some(&SigSet::all()),
        None,
    )?)
}

/// Takes all signals again: between fork and exec of a program that a brain spawns (a mask
/// survives exec). Async-signal-safe.
pub fn unblock_all_signals() -> io::Result<()> {
    Ok(sigprocmask(
        SigmaskHow::SIG_SETMASK,
        Some(&SigSet::empty()),
        None,
    )?)
}

/// The next signal, or none for so long. Signals that have no name here (real-time ones) are
/// taken and not told.
pub(super) fn wait(timeout: Option<Duration>) -> io::Result<Option<Signal>> {
    let timeout = timeout.map(|t| libc::timespec {
        tv_sec: t.as_secs() as libc::time_t,
        tv_nsec: t.subsec_nanos() as libc::c_long,
    });
    let timeout = timeout
        .as_ref()
        .map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: set and timeout outlive the call; without a timeout it waits for good, and no
    // siginfo is asked for.
    let got = unsafe { libc::sigtimedwait(SigSet::all().as_ref(), std::ptr::null_mut(), timeout) };
    match Errno::result(got) {
        Ok(number) => Ok(Signal::try_from(number).ok()),
        Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Forgets the signals that wait for this process. A brain has all of them blocked, so what was
/// sent to it (a terminal's interrupt goes to the whole group, and its guard has counted it) would
/// come back to life when it becomes a guard: pending signals survive exec.
pub(super) fn drain() -> io::Result<()> {
    while wait(Some(Duration::ZERO))?.is_some() {}
    Ok(())
}
