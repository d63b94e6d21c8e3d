//! Another program takes the guard's place, under its pid, while the old brain stands by.
//!
//! The brain offers the place ([`Offer`]) and stands still from then on: it reads, writes and
//! accepts nothing. The guard execs the other program over itself. An exec copies the fd table, so
//! the old brain has all that it had, and there are two processes at every moment. The new guard
//! clones a brain, which takes the offer ([`take`]), ends the old one and goes on from the state;
//! it does nothing before that.
//!
//! If the exec fails, the guard dies or nobody takes the offer in time, the offer is withdrawn, and
//! the old brain goes on: under its guard, or, if that is dead, by becoming one. One word of the
//! page says how it stands ([`Takeover`]); it is changed by compare-and-swap, so that an offer is
//! either taken or withdrawn, whoever dies meanwhile. Whoever loses ends without touching anything.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::FdFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpid, getppid};

use super::page::Page;
use super::{Life, exit, program};
use crate::fault;

/// An old brain that is killed is waited for so long (ms). Only a disk that does not take its log
/// can hold it up.
const ENDING: u16 = 1_000;

/// How the last offer stands. Offers are numbered from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takeover {
    /// There has been none.
    None,
    /// The guard is to exec another program, whose brain is to take over.
    Offered { number: u32 },
    /// A brain of the other program has taken over.
    Taken { number: u32 },
    /// Those who were there go on. If not 0, the exec has failed with this error.
    Withdrawn { number: u32, errno: i32 },
}

/// The word: how the last offer stands, and which was taken last. By that a brain knows that the
/// one before it has taken the offer that their guard came by; and one that comes too late, that
/// nobody has, however many offers were made since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub stands: Takeover,
    pub taken: u32,
}

/// Numbers have so many bits.
const BITS: u32 = 24;
const MASK: u32 = (1 << BITS) - 1;

impl Word {
    // The last that was taken (24 bits) · number (24) · errno (12) · how it stands (4)

    pub fn unpack(word: u64) -> Word {
        let number = (word >> 16) as u32 & MASK;
        let stands = match word & 15 {
            1 => Takeover::Offered { number },
            2 => Takeover::Taken { number },
            3 => Takeover::Withdrawn {
                number,
                errno: (word as i32 >> 4) & 0xfff,
            },
            _ => Takeover::None,
        };
        Word {
            stands,
            taken: (word >> (16 + BITS)) as u32,
        }
    }

    pub fn pack(self) -> u64 {
        let (number, errno, kind) = match self.stands {
            Takeover::None => (0, 0, 0),
            Takeover::Offered { number } => (number, 0, 1),
            Takeover::Taken { number } => (number, 0, 2),
            Takeover::Withdrawn { number, errno } => (number, errno, 3),
        };
        u64::from(self.taken & MASK) << (16 + BITS)
            | u64::from(number & MASK) << 16
            | (errno as u64 & 0xfff) << 4
            | kind
    }

    /// The number of the next offer.
    pub fn next(self) -> u32 {
        match self.stands {
            Takeover::None => 1,
            Takeover::Offered { number }
            | Takeover::Taken { number }
            | Takeover::Withdrawn { number, .. } => ((number + 1) & MASK).max(1),
        }
    }

    /// An offer is made, taken or withdrawn.
    pub fn then(self, stands: Takeover) -> Word {
        let taken = match stands {
            Takeover::Taken { number } => number,
            Takeover::Offered { .. } | Takeover::Withdrawn { .. } | Takeover::None => self.taken,
        };
        Word { stands, taken }
    }
}

/// Why an offer has come to nothing.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The guard goes on as it was.
    #[error("the guard cannot run it: {0}")]
    Exec(io::Error),
    #[error("the guard died, or the program in its place")]
    GuardDied,
    /// The guard, or the program in its place, has been killed.
    #[error("it did not take over in time")]
    Late,
}

impl Refused {
    /// The brain has to become the guard.
    #[must_use]
    pub fn is_orphan(&self) -> bool {
        matches!(self, Refused::GuardDied | Refused::Late)
    }
}

/// The guard's place, offered to another program.
#[derive(Debug)]
pub struct Offer<'a> {
    /// [The next](Page::next_offer).
    pub number: u32,
    pub program: BorrowedFd<'a>,
    /// Of the fds above 2 the program gets only these, under their numbers.
    pub keep: &'a [BorrowedFd<'a>],
    /// For a brain of the program to take the offer.
    pub within: Duration,
}

impl Offer<'_> {
    /// By the brain, between two turns of its loop. If the offer is taken, this does not return.
    /// Otherwise all is as before, but that the doorbell may have been read: look into the page.
    pub fn make(&self, page: Page, life: &Life, doorbell: BorrowedFd<'_>) -> Refused {
        // The table is the guard's as well.
        if let Err(error) = program::close_on_exec(self.keep, FdFlag::empty()) {
            let _ = program::close_on_exec(self.keep, FdFlag::FD_CLOEXEC);
            return Refused::Exec(error);
        }
        page.offer(self.number, self.program.as_raw_fd());
        fault::shared_point("takeover-offered");
        // This one is not counted: it only wakes the guard.
        signal(life.guard, Signal::SIGCHLD);
        let refused = self.stand_by(page, life, doorbell);
        let _ = program::close_on_exec(self.keep, FdFlag::FD_CLOEXEC);
        refused
    }

    /// Waits for the end of it, and does nothing else.
    fn stand_by(&self, page: Page, life: &Life, doorbell: BorrowedFd<'_>) -> Refused {
        let guard = life.guard;
        let end = Instant::now() + self.within;
        loop {
            match page.takeover() {
                Takeover::Offered { number } if number == self.number => {}
                Takeover::Withdrawn { number, errno } if number == self.number => {
                    return Refused::Exec(io::Error::from_raw_os_error(errno));
                }
                // It is taken; perhaps another has been made since.
                _ => exit(0),
            }
            let left = end.saturating_duration_since(Instant::now());
            let mut fds = [guard, doorbell].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            let _ = poll(
                &mut fds,
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX),
            );
            let [is_dead, rings] = fds.map(|fd| fd.any().unwrap_or(true));
            if rings {
                // For a signal, or because the exec has failed.
                let _ = nix::unistd::read(doorbell, &mut [0; 8]);
            }
            // If it cannot be withdrawn, somebody was faster.
            if is_dead && page.withdraw(self.number, 0) {
                fault::shared_point("takeover-withdrawn");
                return Refused::GuardDied;
            }
            if left.is_zero() && page.withdraw(self.number, 0) {
                fault::shared_point("takeover-withdrawn");
                // A brain that it has made may hang as well, before it could see that it is late.
                let brain = page.brain_pid();
                if brain != getpid().as_raw() && parent(brain) == Some(life.guard_pid) {
                    let _ = kill(Pid::from_raw(brain), Signal::SIGKILL);
                }
                signal(guard, Signal::SIGKILL);
                wait_for_end(guard, PollTimeout::NONE);
                return Refused::Late;
            }
        }
    }
}

/// By a brain that is new, before anything else: takes the offer, if it is there for one, and ends
/// the old brain, if that has not been reaped. False: the offer is withdrawn.
pub(super) fn take(page: Page, offer: Option<u32>, old_brain: Option<i32>) -> bool {
    if let Some(number) = offer {
        fault::shared_point("takeover-takes");
        page.take(number);
        fault::shared_point("takeover-taken");
        if page.last_taken() != number {
            return false;
        }
    }
    if let Some(pid) = old_brain {
        end_sibling(pid);
    }
    true
}

/// Kills a process that is a child of our guard, and waits for its end: what it still holds open
/// and what it still writes is ours alone from then on.
fn end_sibling(pid: i32) {
    // SAFETY: no memory is involved.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) });
    let Ok(fd) = fd else { return };
    // SAFETY: the fd is new and ours.
    let process = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
    // If the guard has just reaped it, the number may be another's, but no child of the guard's.
    if parent(pid) != Some(getppid().as_raw()) {
        return;
    }
    signal(process.as_fd(), Signal::SIGKILL);
    wait_for_end(process.as_fd(), ENDING.into());
}

fn wait_for_end(process: BorrowedFd<'_>, within: PollTimeout) {
    let _ = poll(&mut [PollFd::new(process, PollFlags::POLLIN)], within);
}

/// The parent of a process.
pub fn parent(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    let rest = stat.rsplit_once(") ")?.1;
    rest.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// To one that has ended nothing happens.
fn signal(process: BorrowedFd<'_>, signal: Signal) {
    let nothing = std::ptr::null::<libc::siginfo_t>();
    let (fd, signal) = (process.as_raw_fd(), signal as i32);
    // SAFETY: the fd is open; there is no siginfo: as `kill` does it.
    unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, nothing, 0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_says_all_of_it() {
        for stands in [
            Takeover::None,
            Takeover::Offered { number: 1 },
            Takeover::Taken { number: MASK },
            Takeover::Withdrawn {
                number: 7,
                errno: libc::ENOEXEC,
            },
        ] {
            for taken in [0, 5, MASK] {
                let word = Word { stands, taken };
                assert_eq!(Word::unpack(word.pack()), word);
            }
        }
    }
}
