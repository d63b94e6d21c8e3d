//! A worker's process is started: its fds at their numbers, its program from a held file.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use protocol::guard::unblock_all_signals;
use protocol::roles::{self, WorkerArgs};

/// No fd that the master needs has a number below this, so that a worker's fds can be put there in
/// a child without covering one that is in use ([`fill_low_numbers`]).
pub const LOW: RawFd = 16;

/// What a worker is born with, besides its arguments.
#[derive(Debug)]
pub struct Birth<'a> {
    pub log_file: File,
    pub channel: OwnedFd,
    pub ring: BorrowedFd<'a>,
    /// Opened for reading only, and so is the history.
    pub log: OwnedFd,
    pub history: OwnedFd,
    pub ring_bell: BorrowedFd<'a>,
    pub log_bell: BorrowedFd<'a>,
    pub program: BorrowedFd<'a>,
}

/// Starts it; returns the pid of its guard.
pub fn spawn(args: &WorkerArgs, birth: &Birth<'_>) -> io::Result<i32> {
    let fds: [(RawFd, RawFd); 8] = [
        (birth.log_file.as_raw_fd(), roles::LOG_FILE),
        (birth.channel.as_raw_fd(), roles::CHANNEL),
        (birth.ring.as_raw_fd(), roles::RING),
        (birth.log.as_raw_fd(), roles::LOG),
        (birth.ring_bell.as_raw_fd(), roles::RING_BELL),
        (birth.log_bell.as_raw_fd(), roles::LOG_BELL),
        (birth.program.as_raw_fd(), roles::PROGRAM),
        (birth.history.as_raw_fd(), roles::HISTORY),
    ];
    let mut command = Command::new(format!("/proc/self/fd/{}", roles::PROGRAM));
    command
        .arg0("baton-worker")
        .args(args.to_args())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    // SAFETY: between fork and exec only dup2 and sigprocmask are called, which are
    // async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            for (from, to) in fds {
                // A new number without FD_CLOEXEC; sources are above all targets.
                Errno::result(libc::dup2(from, to))?;
            }
            unblock_all_signals()
        })
    };
    let child = command.spawn()?;
    Ok(child.id() as i32)
}

/// Every number below [`LOW`] is taken from here on, if only by `/dev/null`: what is opened later,
/// by us or by the standard library for a spawn, lies above the numbers of a worker's fds.
pub fn fill_low_numbers() -> io::Result<()> {
    loop {
        let filler = OwnedFd::from(File::open("/dev/null")?);
        if filler.as_raw_fd() >= LOW {
            return Ok(());
        }
        // It stays open for good: this is what it is for.
        std::mem::forget(filler);
    }
}

/// A fd of the same open file at [`LOW`] or above, for what was opened before the numbers were
/// filled.
pub fn above_low(fd: OwnedFd) -> io::Result<OwnedFd> {
    if fd.as_raw_fd() >= LOW {
        return Ok(fd);
    }
    let copy = nix::fcntl::fcntl(fd.as_fd(), nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(LOW))?;
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { std::os::fd::FromRawFd::from_raw_fd(copy) })
}
