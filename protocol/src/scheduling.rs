//! When a process that has been woken runs (sched(7)). What an operator has chosen, a real-time policy
//! for example, stays.

use std::io;

use nix::errno::Errno;

/// From now on this process, when it is woken, lets the one that runs finish its time slice
/// (`SCHED_BATCH`). On a processor that is idle nothing changes. On one that is busy, with clients, a
/// proxy or our own processes, more has gathered when a brain runs: it is woken less often and does
/// more at once, which costs less and so, under load, takes less time. Children inherit it.
///
/// # Errors
/// The system does not allow it.
pub fn batch() -> io::Result<()> {
    change(libc::SCHED_OTHER, libc::SCHED_BATCH)
}

/// For a guard, which a brain has started: it runs as soon as it is woken.
///
/// # Errors
/// The system does not allow it.
pub fn normal() -> io::Result<()> {
    change(libc::SCHED_BATCH, libc::SCHED_OTHER)
}

fn change(from: i32, to: i32) -> io::Result<()> {
    // SAFETY: no memory is involved.
    if Errno::result(unsafe { libc::sched_getscheduler(0) })? == from {
        // SAFETY: a zeroed one is valid, and the priority of these policies.
        let param: libc::sched_param = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel reads `param`, which outlives the call.
        Errno::result(unsafe { libc::sched_setscheduler(0, to, &param) })?;
    }
    Ok(())
}
