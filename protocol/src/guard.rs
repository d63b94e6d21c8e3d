//! The guard of a process: the parent of a few lines that keeps the fd table while its child, the
//! brain, does the work and may die.
//!
//! The two share one fd table (`CLONE_FILES`), so when the brain dies every socket stays open, with
//! all that is queued in it; the guard clones the next brain, which goes on from the [`Page`] and
//! the rest of the state. When the guard dies, its brain execs the guard program over itself
//! ([`exec_over_self`]) and becomes the guard of the next brain. And a guard can give way to another
//! program, under its pid, while its brain stands by ([`takeover`]).
//!
//! Rules for a program that is a guard:
//! - It starts by exec and has one thread. Between its start and [`run`] it touches no hash map
//!   and no random generator: every brain would inherit the same keys.
//! - A brain ends by abort, by a signal or by [`exit`] only. `_exit(0)` ends the guard too, any
//!   other exit status as well (a brain that cannot boot); every other death brings a new brain.
//! - All signals are blocked, in the guard (which takes them one by one and counts them in the
//!   page) and in its brains (which read the page). A program that a brain spawns must call
//!   [`unblock_all_signals`] before its exec.
//!
//! Read in this order: this file (the loop), [`page`] (what guard and brain tell each other),
//! [`signals`], [`program`] (exec over itself), [`takeover`].

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::process::ExitStatus;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use self::reap::{peek_dead, peek_status, wait_for};
use crate::{fault, scheduling};

pub mod page;
pub mod program;
mod reap;
pub mod signals;
pub mod takeover;

pub use page::{Page, Reaped};
pub use program::{exec_over_self, exec_program, held_program, name_process};
pub use signals::unblock_all_signals;
pub use takeover::{Takeover, parent};

/// What a brain is told when it starts.
#[derive(Clone, Copy, Debug)]
pub struct Life {
    /// Counts the brains of this state, from 1, through all guards.
    pub number: u64,
    /// The pid of the guard, which is the pid of the process to everybody else.
    pub guard_pid: i32,
    /// A pidfd: readable once the guard is dead. Then: [`exec_over_self`].
    pub guard: BorrowedFd<'static>,
    /// The brain before this one, under the same guard, and how it died.
    pub previous: Option<Reaped>,
    /// It was hung (see [`Page::set_patience`]), and the guard killed it.
    pub hung: bool,
}

/// How it ended. No brain is alive then, and [`run`] may be called again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The brain is done: it exited with 0.
    Done,
    /// The brain gave up with this exit status: it cannot boot, or wants to be replaced.
    Failed(i32),
    /// Brain after brain died without progress while a SIGTERM waited to be dealt with.
    Terminated,
    /// It was to take over, and the offer was withdrawn: others go on with the state, and nothing
    /// of it is to be touched.
    NotTaken,
}

impl Outcome {
    /// The exit status for the guard.
    pub fn code(self) -> i32 {
        match self {
            Outcome::Done => 0,
            Outcome::Failed(code) => code,
            Outcome::Terminated => 128 + Signal::SIGTERM as i32,
            Outcome::NotTaken => 1,
        }
    }
}

/// So many brains in a row may die without progress before a new one has to wait. Three, because
/// that many deaths at one place convict a poisoned input, and the next brain goes on without it.
const PATIENCE: u64 = 3;
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(30);
/// How often a guard looks whether its brain has set a patience.
const LOOK: Duration = Duration::from_secs(1);

/// How a guard begins, and how it may end in favour of another program.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    pub page: Page,
    /// A non-blocking eventfd, written when a signal is counted.
    pub doorbell: BorrowedFd<'a>,
    /// The arguments of a program to which this one gives way ([`takeover`]), beginning with its
    /// name; none: it gives way to nobody.
    pub successor: &'a [CString],
    /// Another guard has given way to this one: its offer is to be taken.
    pub takes_over: bool,
}

/// Becomes the guard: clones a brain, which runs `brain(context, …)`, and another whenever one dies, until one
/// exits. Signals are counted in `page`, and `doorbell` (a non-blocking eventfd) is written then; a
/// brain looks into the page when the doorbell has rung and once when it starts.
///
/// To be called in a single-threaded process. All fds above 2 become close-on-exec: an exec over
/// itself has cleared the flag.
///
/// # Errors
/// Signals cannot be blocked, or there is no pidfd to be had: before the first clone. Behind it
/// only if the kernel denies a process its own child.
pub fn run<C>(
    page: Page,
    doorbell: BorrowedFd<'_>,
    context: &C,
    brain: fn(&C, Life) -> !,
) -> io::Result<Outcome> {
    let place = Place {
        page,
        doorbell,
        successor: &[],
        takes_over: false,
    };
    run_in(&place, context, brain)
}

/// As [`run`], in a place that others have had before, or are to have afterwards.
///
/// # Errors
/// As there.
pub fn run_in<C>(place: &Place<'_>, context: &C, brain: fn(&C, Life) -> !) -> io::Result<Outcome> {
    let offer = match (place.takes_over, place.page.takeover()) {
        (false, _) => None,
        (true, Takeover::Offered { number }) => Some(number),
        (true, _) => return Ok(Outcome::NotTaken),
    };
    let outcome = guard(place, offer, context, brain);
    match offer {
        // Whatever has become of us: others go on, or will when we are gone.
        Some(offer) if place.page.last_taken() != offer => Ok(Outcome::NotTaken),
        _ => outcome,
    }
}

fn guard<C>(
    place: &Place<'_>,
    offer: Option<u32>,
    context: &C,
    brain: fn(&C, Life) -> !,
) -> io::Result<Outcome> {
    let page = place.page;
    if offer.is_some() {
        fault::shared_point("takeover-begun");
    }
    signals::block_all()?;
    // As good as before, if it cannot be.
    let _ = scheduling::normal();
    make_room_for_fds(place.doorbell);
    let guard_pid = nix::unistd::getpid().as_raw();
    let guard = pidfd_of_itself()?;
    let thread_id = thread_id_cache();
    let mut watch = Watch {
        place: *place,
        offer,
        brain: None,
        old_brain: offer.map(|_| page.brain_pid()),
    };
    // A brain that made us its guard got so far, whatever has become of those before it.
    page.set_fruitless(0);
    let mut previous = None;
    let mut hung = false;
    loop {
        // A brain that died while it offered our place has cleared the flag.
        program::close_all_on_exec()?;
        watch.withdraw();
        let delay = delay_after(page.fruitless());
        if !delay.is_zero() {
            watch.wait_out(delay)?;
        }
        let progress = page.progress();
        let number = page.next_life();
        fault::shared_point("guard");
        let status = match clone_brain(thread_id) {
            Ok(0) => {
                let _bomb = AbortOnUnwind;
                if !takeover::take(page, offer, watch.old_brain) {
                    exit(0)
                }
                page.set_brain_pid(nix::unistd::getpid().as_raw());
                let life = Life {
                    number,
                    guard_pid,
                    guard,
                    previous,
                    hung,
                };
                brain(context, life)
            }
            Ok(pid) => {
                page.set_brain_pid(pid);
                watch.brain = Some(pid);
                let status;
                (status, hung) = watch.wait_for_death(pid)?;
                watch.brain = None;
                previous = Some(Reaped { pid, status });
                Some(status)
            }
            // No process to be had just now. That is no progress either: try again later.
            Err(_) => None,
        };
        match status.and_then(|status| status.code()) {
            Some(0) => return Ok(Outcome::Done),
            Some(code) => return Ok(Outcome::Failed(code)),
            None => {}
        }
        let fruitless = match page.progress() == progress {
            true => page.fruitless() + 1,
            false => 0,
        };
        page.set_fruitless(fruitless);
        if fruitless >= PATIENCE && page.pending(Signal::SIGTERM) > 0 {
            return Ok(Outcome::Terminated);
        }
    }
}

/// Ends a brain, and with `code` 0 its guard: nothing is dropped and nothing runs, so no fd of the
/// shared table is closed.
pub fn exit(code: i32) -> ! {
    // SAFETY: ends the process; nothing that follows could be broken by it.
    unsafe { libc::_exit(code) }
}

/// Orphans of this process's descendants become its children. Only for the master's guard: when
/// its brain dies, it inherits the workers' guards, and notes it in the page when one ends.
pub fn become_subreaper() -> io::Result<()> {
    Ok(nix::sys::prctl::set_child_subreaper(true)?)
}

/// How long the next brain has to wait when so many before it died without progress.
fn delay_after(fruitless: u64) -> Duration {
    if fruitless < PATIENCE {
        return Duration::ZERO;
    }
    let mut delay = FIRST_DELAY;
    for _ in PATIENCE..fruitless {
        delay = delay * 3 / 2;
        if delay >= LONGEST_DELAY {
            return LONGEST_DELAY;
        }
    }
    delay
}

/// The part of a guard that waits.
struct Watch<'a> {
    place: Place<'a>,
    /// The offer that a brain of ours takes or has taken.
    offer: Option<u32>,
    brain: Option<i32>,
    /// The brain that made the offer, until it is reaped.
    old_brain: Option<i32>,
}

impl Watch<'_> {
    /// Withdraws what a brain of ours has offered: it is dead.
    fn withdraw(&self) {
        if let Takeover::Offered { number } = self.place.page.takeover()
            && self.offer != Some(number)
        {
            self.place.page.withdraw(number, 0);
        }
    }

    /// Becomes another program, if the brain has offered our place to one and stands by.
    fn give_way(&self) {
        let Takeover::Offered { number } = self.place.page.takeover() else {
            return;
        };
        if self.offer == Some(number) || self.place.successor.is_empty() {
            return;
        }
        fault::shared_point("takeover-exec");
        // SAFETY: the brain keeps it open as long as it offers.
        let program = unsafe { BorrowedFd::borrow_raw(self.place.page.heir()) };
        let error = exec_program(program, self.place.successor, &[]);
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        self.place.page.withdraw(number, errno);
        self.ring();
    }

    /// Counts signals and reaps until the brain is dead, and kills it when it is hung; says
    /// whether it did.
    fn wait_for_death(&mut self, brain: i32) -> io::Result<(ExitStatus, bool)> {
        let mut hung = false;
        let (mut progress, mut since) = (self.place.page.progress(), Instant::now());
        let mut looked = since;
        loop {
            if let Some(status) = self.reap()? {
                return Ok((status, hung));
            }
            self.give_way();
            let patience = self.place.page.patience();
            let tick = patience.map_or(LOOK, |patience| patience / 4);
            self.next_signal(Some(tick))?;
            let now = Instant::now();
            // If this guard did not run either, the whole machine may have been asleep.
            let asleep = now - looked > 2 * tick;
            if asleep || self.place.page.progress() != progress {
                (progress, since) = (self.place.page.progress(), now);
            }
            looked = now;
            if patience.is_some_and(|patience| now - since >= patience) {
                hung = true;
                // It is not reaped yet, so the pid is its own still.
                let _ = kill(Pid::from_raw(brain), Signal::SIGKILL);
            }
        }
    }

    /// Counts signals and reaps for so long, or until somebody wants an end.
    fn wait_out(&mut self, delay: Duration) -> io::Result<()> {
        let end = Instant::now() + delay;
        loop {
            self.reap()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || self.place.page.pending(Signal::SIGTERM) > 0 {
                return Ok(());
            }
            self.next_signal(Some(left))?;
        }
    }

    /// Waits for one signal and counts it.
    fn next_signal(&self, timeout: Option<Duration>) -> io::Result<()> {
        // While the page has no room the dead stay zombies, and nothing tells when it has some.
        let timeout = match self.place.page.can_note_reaped() {
            true => timeout,
            false => Some(timeout.map_or(FIRST_DELAY, |t| t.min(FIRST_DELAY))),
        };
        match signals::wait(timeout)? {
            Some(signal) if signal != Signal::SIGCHLD => {
                self.place.page.raise(signal);
                self.ring();
            }
            _ => {}
        }
        Ok(())
    }

    /// Reaps whoever is dead; the brain's status is returned, the others' are noted.
    fn reap(&mut self) -> io::Result<Option<ExitStatus>> {
        if let Some(brain) = self.brain
            && let Some(status) = wait_for(brain)?
        {
            return Ok(Some(status));
        }
        let mut noted = false;
        while self.place.page.can_note_reaped() {
            // Noted first and reaped then: a guard that is killed in between loses nothing.
            let Some(pid) = peek_dead()? else { break };
            if self.brain == Some(pid) {
                return wait_for(pid);
            }
            if self.old_brain == Some(pid) {
                self.old_brain = None;
                wait_for(pid)?;
                continue;
            }
            let Some(status) = peek_status(pid)? else {
                break;
            };
            self.place.page.note_reaped(Reaped { pid, status });
            wait_for(pid)?;
            noted = true;
        }
        if noted {
            self.ring();
        }
        Ok(None)
    }

    fn ring(&self) {
        // It cannot block, and a counter that is full has rung already.
        let _ = nix::unistd::write(self.place.doorbell, &1u64.to_ne_bytes());
    }
}

/// A pidfd of this process, for good: it is in the table that all brains share.
fn pidfd_of_itself() -> io::Result<BorrowedFd<'static>> {
    static ITSELF: OnceLock<OwnedFd> = OnceLock::new();
    if let Some(fd) = ITSELF.get() {
        return Ok(fd.as_fd());
    }
    // SAFETY: no memory is involved.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, libc::getpid(), 0) })?;
    // SAFETY: the fd is new and ours.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    Ok(ITSELF.get_or_init(|| fd).as_fd())
}

/// Where libc keeps this thread's id for itself, if that can be learned. A raw clone leaves the
/// parent's id there; what compares it (recursive and error-checking mutexes, `pthread_kill`, the
/// pthread form of `sched_setaffinity`) would go wrong in the brain.
fn thread_id_cache() -> *mut libc::pid_t {
    let mut address: *mut libc::pid_t = std::ptr::null_mut();
    // SAFETY: the kernel writes one pointer into `address`.
    let got = unsafe { libc::prctl(libc::PR_GET_TID_ADDRESS, &mut address, 0, 0, 0) };
    // SAFETY: the address was registered by libc for this thread, which is alive.
    if got == 0 && !address.is_null() && unsafe { *address } == nix::unistd::gettid().as_raw() {
        address
    } else {
        std::ptr::null_mut()
    }
}

/// So many fds have room in the table from the start (half a MiB of the kernel's memory).
const ROOM: RawFd = 1 << 16;

/// The fd table grows while nobody shares it. Later each time that it doubles takes a grace period
/// of RCU, some 10 to 20 ms in which a brain that accepts or takes over connections stands still
/// (`expand_fdtable` in Linux's fs/file.c). It never shrinks.
fn make_room_for_fds(any: BorrowedFd<'_>) {
    let Ok((soft, _)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return;
    };
    let last = soft.min(ROOM as u64).saturating_sub(1) as RawFd;
    // Without, it grows later.
    if let Ok(fd) = fcntl(any, FcntlArg::F_DUPFD_CLOEXEC(last)) {
        let _ = nix::unistd::close(fd);
    }
}

/// Like fork, but for the fd table, which both then share. Returns 0 in the child.
fn clone_brain(thread_id: *mut libc::pid_t) -> io::Result<i32> {
    let mut flags = libc::CLONE_FILES | libc::SIGCHLD;
    if !thread_id.is_null() {
        // As glibc's own fork does.
        flags |= libc::CLONE_CHILD_SETTID | libc::CLONE_CHILD_CLEARTID;
    }
    // SAFETY: without CLONE_VM the child has its own copy of this thread's memory and goes on
    // here with the same stack; there are no other threads whose locks could be held. The child's
    // id goes where libc expects it: the fourth argument or the fifth, by architecture (the other
    // is the TLS pointer, which is ignored without CLONE_SETTLS).
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, thread_id, thread_id) };
    Ok(Errno::result(pid)? as i32)
}

/// Were a brain's stack unwound into the guard's frames, a second guard would go on in the child.
struct AbortOnUnwind;

impl Drop for AbortOnUnwind {
    fn drop(&mut self) {
        std::process::abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_grows_to_its_bound_and_stays_there() {
        let millis = |fruitless| delay_after(fruitless).as_millis();
        assert_eq!([0, 1, 2, 3, 4, 5].map(millis), [0, 0, 0, 100, 150, 225]);
        assert!(millis(17) < 30_000);
        assert_eq!([18, 100, u64::MAX].map(millis), [30_000; 3]);
    }
}
