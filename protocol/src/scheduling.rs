//! When a brain that has been woken runs.

use std::io;

use nix::errno::Errno;

/// From now on this process, when it is woken, lets the one that runs finish its time slice
/// (`SCHED_BATCH`, sched(7)). On a processor that is idle nothing changes. On one that is busy, with
/// clients, a proxy or our own processes, more has gathered when a brain runs: it is woken less often
/// and does more at once, which costs less and so, under load, takes less time. What is forked is
/// scheduled as usual.
///
/// # Errors
/// The system does not allow it.
pub fn batch() -> io::Result<()> {
    let policy = libc::SCHED_BATCH | libc::SCHED_RESET_ON_FORK;
    // SAFETY: plain numbers; a zeroed one is valid, and the priority of this policy.
    let param: libc::sched_param = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel reads `param`, which outlives the call.
    Errno::result(unsafe { libc::sched_setscheduler(0, policy, &param) })?;
    Ok(())
}
