//! Children that have died: looked at while they are still there, and reaped.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use nix::errno::Errno;

/// Reaps `pid` if it is dead.
pub(super) fn wait_for(pid: i32) -> io::Result<Option<ExitStatus>> {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    match unsafe { libc::waitpid(pid, &mut status, libc::WNOHANG) } {
        0 => Ok(None),
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(Some(ExitStatus::from_raw(status))),
    }
}

/// A child that is dead and not yet reaped.
pub(super) fn peek_dead() -> io::Result<Option<i32>> {
    match peek(libc::P_ALL, 0)? {
        // SAFETY: waitid has filled in the fields of SIGCHLD, or left it zeroed.
        Some(info) => Ok(Some(unsafe { info.si_pid() }).filter(|pid| *pid != 0)),
        None => Ok(None),
    }
}

/// The status of a dead child, which stays unreaped.
pub(super) fn peek_status(pid: i32) -> io::Result<Option<ExitStatus>> {
    let Some(info) = peek(libc::P_PID, pid as libc::id_t)? else {
        return Ok(None);
    };
    // SAFETY: as above.
    let status = unsafe { info.si_status() };
    Ok(Some(ExitStatus::from_raw(match info.si_code {
        libc::CLD_EXITED => (status & 0xff) << 8,
        libc::CLD_DUMPED => status | 0x80,
        _ => status,
    })))
}

fn peek(kind: libc::idtype_t, id: libc::id_t) -> io::Result<Option<libc::siginfo_t>> {
    // SAFETY: a siginfo_t of zeros is a valid one.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: `info` outlives the call.
    match Errno::result(unsafe { libc::waitid(kind, id, &mut info, options) }) {
        Ok(_) => Ok(Some(info)),
        Err(Errno::ECHILD) => Ok(None),
        Err(e) => Err(e.into()),
    }
}
