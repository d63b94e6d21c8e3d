//! `baton-worker`, as the master starts it: the guard of a worker's brains. See the library's page
//! for what a worker is.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::process::ExitCode;

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::unistd::{Gid, Uid};
use protocol::guard;
use protocol::privileges;
use protocol::roles::{self, WorkerArgs};
use worker::birth::{self, Birth};
use worker::state::State;

fn main() -> ExitCode {
    let Some(args) = WorkerArgs::from_args(std::env::args().skip(1)) else {
        eprintln!("baton-worker is started by baton-master, not by hand: see scripts/baton");
        return ExitCode::from(2);
    };
    match run(args) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("baton-worker cannot start: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: WorkerArgs) -> io::Result<ExitCode> {
    let _ = guard::name_process(c"baton-worker");
    // When memory runs out, a worker goes before the master does.
    let _ = privileges::set_oom_score_adj(200);
    if let Some((uid, gid)) = args.user
        && nix::unistd::getuid().is_root()
    {
        privileges::drop_to(Uid::from_raw(uid), Gid::from_raw(gid))?;
    }
    privileges::no_new_privileges()?;
    let state = open_state()?;
    let page = state.page();
    let birth = Birth { args, state, page };
    let outcome = guard::run(page, birth::borrowed(roles::GUARD_BELL), &birth, birth::run)?;
    Ok(ExitCode::from(outcome.code().clamp(0, 255) as u8))
}

/// The state that a guard before left at its number, or a new one.
fn open_state() -> io::Result<State> {
    // SAFETY: `fcntl(F_GETFD)` on a number that may be closed does no harm.
    let left = unsafe { libc::fcntl(roles::STATE, libc::F_GETFD) } != -1;
    if left {
        return State::adopt(birth::owned(roles::STATE));
    }
    let state = State::create()?;
    place(state.as_fd(), roles::STATE)?;
    let bell = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
    place(bell.as_fd(), roles::GUARD_BELL)?;
    // Both stay open for good, also where they were made at their numbers.
    std::mem::forget(bell);
    Ok(state)
}

/// The number of a fd's role, for good.
fn place(fd: BorrowedFd<'_>, number: i32) -> io::Result<()> {
    if fd.as_raw_fd() == number {
        return Ok(());
    }
    // SAFETY: the numbers of `roles` are nobody's yet.
    match unsafe { libc::dup3(fd.as_raw_fd(), number, libc::O_CLOEXEC) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
