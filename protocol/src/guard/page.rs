//! What guard and brain tell each other: a few words of the state, each with one writer. They
//! outlive both.

use std::fmt;
use std::os::fd::RawFd;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::takeover::{Takeover, Word};

/// The signals 1 to 31; real-time signals are not counted.
const SIGNALS: usize = 32;
const REAPED: usize = 128;

// Written by the guard.
const LIVES: usize = 0;
const BRAIN_PID: usize = 1;
const FRUITLESS: usize = 2;
const REAPED_HEAD: usize = 3;
const RAISED: usize = 16;
const REAPED_RING: usize = RAISED + 2 * SIGNALS;

// Changed by whoever is first.
const TAKEOVER: usize = 7;

// Written by the brain.
const PROGRESS: usize = 4;
const REAPED_TAIL: usize = 5;
const PATIENCE: usize = 6;
const HEIR: usize = REAPED_RING + REAPED;
const BOOT: usize = 8;
const BOOT_WORDS: usize = RAISED - BOOT;
const DEALT: usize = RAISED + SIGNALS;

/// A handle to those words. Zeroed words are a page that nobody has written yet.
#[derive(Clone, Copy)]
pub struct Page {
    words: &'static [AtomicU64],
}

/// A child that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reaped {
    pub pid: i32,
    pub status: ExitStatus,
}

impl fmt::Display for Reaped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.pid, self.status)
    }
}

impl Page {
    /// How many words a page is made of.
    pub const WORDS: usize = HEIR + 1;

    /// # Panics
    /// If there are fewer than [`Page::WORDS`] words: the caller lays out the state.
    pub fn new(words: &'static [AtomicU64]) -> Page {
        Page {
            words: &words[..Page::WORDS],
        }
    }

    /// The pid of the brain that lives, or lived last; 0 before the first.
    pub fn brain_pid(&self) -> i32 {
        self.get(BRAIN_PID) as i32
    }

    /// How many brains there have been, through all guards.
    pub fn lives(&self) -> u64 {
        self.get(LIVES)
    }

    /// How many brains in a row died without progress.
    pub fn fruitless(&self) -> u64 {
        self.get(FRUITLESS)
    }

    /// How often this signal has come and not been dealt with.
    pub fn pending(&self, signal: Signal) -> u64 {
        let signal = signal as usize;
        self.get(RAISED + signal)
            .wrapping_sub(self.get(DEALT + signal))
    }

    /// By the brain: so many of these are dealt with. A brain that dies between its deed and this
    /// is followed by one that does the deed again.
    pub fn dealt(&self, signal: Signal, count: u64) {
        let word = DEALT + signal as usize;
        self.set(word, self.get(word).wrapping_add(count));
    }

    /// The oldest child that the guard has reaped (the brains are not among them) and that has not
    /// been dealt with.
    pub fn next_reaped(&self) -> Option<Reaped> {
        let tail = self.get(REAPED_TAIL);
        if tail == self.get(REAPED_HEAD) {
            return None;
        }
        let word = self.get(reaped_word(tail));
        Some(Reaped {
            pid: (word >> 32) as i32,
            status: ExitStatus::from_raw(word as i32),
        })
    }

    /// By the brain: what [`next_reaped`](Page::next_reaped) said is dealt with.
    pub fn dealt_reaped(&self) {
        if self.get(REAPED_TAIL) != self.get(REAPED_HEAD) {
            self.set(REAPED_TAIL, self.get(REAPED_TAIL).wrapping_add(1));
        }
    }

    /// By the brain, once it is ready and with each turn of its loop: it is getting on. Brains
    /// that die before it are taken for failures, and the next has to wait.
    pub fn beat(&self) {
        self.set(PROGRESS, self.progress().wrapping_add(1));
    }

    /// Counts the beats, through all lives.
    pub fn progress(&self) -> u64 {
        self.get(PROGRESS)
    }

    /// By the brain: one that does not [`beat`](Page::beat) for so long is hung, and the guard
    /// kills it. Zero, as in a new page: never. It stays for the brains that follow.
    pub fn set_patience(&self, patience: Duration) {
        self.set(PATIENCE, patience.as_millis() as u64);
    }

    /// Words for the brains' own use, 0 to 7: what must be known before the rest of the state can
    /// be trusted.
    pub fn boot(&self, index: usize) -> &'static AtomicU64 {
        assert!(index < BOOT_WORDS);
        &self.words[BOOT + index]
    }

    /// How the last offer of the guard's place stands.
    pub fn takeover(&self) -> Takeover {
        Word::unpack(self.get(TAKEOVER)).stands
    }

    /// The number of the next offer.
    pub fn next_offer(&self) -> u32 {
        Word::unpack(self.get(TAKEOVER)).next()
    }

    /// The number of the last offer that was taken; 0: none was.
    pub fn last_taken(&self) -> u32 {
        Word::unpack(self.get(TAKEOVER)).taken
    }

    /// By the brain, which stands by from now on.
    pub(super) fn offer(&self, number: u32, program: RawFd) {
        self.set(HEIR, program as u64);
        let word = Word::unpack(self.get(TAKEOVER)).then(Takeover::Offered { number });
        self.set(TAKEOVER, word.pack());
    }

    /// The program of the last offer.
    pub(super) fn heir(&self) -> RawFd {
        self.get(HEIR) as RawFd
    }

    /// The offer of this number is off. False: it was taken, or withdrawn before.
    pub(super) fn withdraw(&self, number: u32, errno: i32) -> bool {
        self.decide(number, Takeover::Withdrawn { number, errno })
    }

    /// The offer of this number is taken. False: it was taken before, or withdrawn.
    pub(super) fn take(&self, number: u32) -> bool {
        self.decide(number, Takeover::Taken { number })
    }

    fn decide(&self, number: u32, decision: Takeover) -> bool {
        let now = self.get(TAKEOVER);
        let word = Word::unpack(now);
        word.stands == Takeover::Offered { number }
            && self.words[TAKEOVER]
                .compare_exchange(
                    now,
                    word.then(decision).pack(),
                    Ordering::AcqRel,
                    Ordering::Acquire,
                )
                .is_ok()
    }

    pub(super) fn patience(&self) -> Option<Duration> {
        let millis = self.get(PATIENCE);
        (millis > 0).then(|| Duration::from_millis(millis))
    }

    pub(super) fn next_life(&self) -> u64 {
        self.set(LIVES, self.lives() + 1);
        self.lives()
    }

    pub(super) fn set_brain_pid(&self, pid: i32) {
        self.set(BRAIN_PID, pid as u64);
    }

    pub(super) fn set_fruitless(&self, count: u64) {
        self.set(FRUITLESS, count);
    }

    pub(super) fn raise(&self, signal: Signal) {
        let word = RAISED + signal as usize;
        self.set(word, self.get(word).wrapping_add(1));
    }

    pub(super) fn can_note_reaped(&self) -> bool {
        let noted = self.get(REAPED_HEAD).wrapping_sub(self.get(REAPED_TAIL));
        noted < REAPED as u64
    }

    /// To be called only when it [can](Page::can_note_reaped).
    pub(super) fn note_reaped(&self, reaped: Reaped) {
        let head = self.get(REAPED_HEAD);
        let word = (reaped.pid as u32 as u64) << 32 | reaped.status.into_raw() as u32 as u64;
        self.set(reaped_word(head), word);
        self.set(REAPED_HEAD, head.wrapping_add(1));
    }

    fn get(&self, index: usize) -> u64 {
        self.words[index].load(Ordering::Acquire)
    }

    fn set(&self, index: usize, value: u64) {
        self.words[index].store(value, Ordering::Release);
    }
}

fn reaped_word(count: u64) -> usize {
    REAPED_RING + (count % REAPED as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> Page {
        Page::new(Vec::leak(
            (0..Page::WORDS).map(|_| AtomicU64::new(0)).collect(),
        ))
    }

    #[test]
    fn a_signal_is_pending_until_it_is_dealt_with() {
        let page = page();
        page.raise(Signal::SIGHUP);
        page.raise(Signal::SIGHUP);
        page.raise(Signal::SIGSYS);
        assert_eq!(page.pending(Signal::SIGHUP), 2);
        page.dealt(Signal::SIGHUP, 1);
        assert_eq!(page.pending(Signal::SIGHUP), 1);
        assert_eq!(page.pending(Signal::SIGSYS), 1);
        assert_eq!(page.pending(Signal::SIGTERM), 0);
    }

    #[test]
    fn an_offer_is_decided_once() {
        let page = page();
        assert!(!page.take(0) && !page.withdraw(0, 0));
        for number in 1..4 {
            assert_eq!(page.next_offer(), number);
            page.offer(number, 5);
            assert!(!page.take(number - 1) && !page.withdraw(number + 1, 0));
            assert!(page.take(number));
            assert!(!page.take(number) && !page.withdraw(number, 0));
            assert_eq!(page.takeover(), Takeover::Taken { number });
        }
        let errno = libc::EACCES;
        page.offer(4, 5);
        assert!(page.withdraw(4, errno));
        assert!(!page.take(4) && !page.withdraw(4, 0));
        assert_eq!(page.takeover(), Takeover::Withdrawn { number: 4, errno });
    }

    #[test]
    fn whoever_comes_late_knows_whether_an_offer_was_taken() {
        let page = page();
        page.offer(1, 5);
        assert!(page.take(1));
        assert_eq!(page.last_taken(), 1);
        page.offer(2, 5);
        assert_eq!(page.last_taken(), 1);
        assert!(page.withdraw(2, 0));
        assert_eq!(page.last_taken(), 1);
        page.offer(3, 5);
        assert!(page.take(3));
        assert_eq!(page.last_taken(), 3, "and the second never was");
    }

    #[test]
    fn the_reaped_come_in_order_and_no_more_than_fit() {
        let page = page();
        let child = |pid, status| Reaped {
            pid,
            status: ExitStatus::from_raw(status),
        };
        for round in 0..3 {
            for pid in 0..REAPED as i32 {
                assert!(page.can_note_reaped());
                page.note_reaped(child(round + pid, 9));
            }
            assert!(!page.can_note_reaped());
            for pid in 0..REAPED as i32 {
                assert_eq!(page.next_reaped(), Some(child(round + pid, 9)));
                page.dealt_reaped();
            }
            assert_eq!(page.next_reaped(), None);
            page.dealt_reaped();
        }
    }
}
