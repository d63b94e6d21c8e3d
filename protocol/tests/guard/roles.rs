//! What a guard of these tests does, and its brains.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid};
use protocol::guard::takeover::Offer;
use protocol::guard::{self, Life, Page, Place};
use protocol::memory::{Access, Segment};
use protocol::{logging, privileges};

use super::echo;
use super::stage::{BELL, GUARD, LIFE, OWN, PROGRAM, REFUSED, STATE, WORDS, WORK, word};

pub const NOBODY: u32 = 65534;

/// All that a brain has.
pub struct Part {
    pub role: String,
    pub page: Page,
    pub state: &'static Segment,
}

/// Is a guard until it ends.
pub fn play(role: &str, takes_over: bool) -> ! {
    match role {
        "an heir that dies" => guard::exit(3),
        "an heir that hangs" => loop {
            std::thread::park();
        },
        _ => {}
    }
    guard::name_process(c"guard-test").unwrap();
    // SAFETY: set by who started us.
    let state = unsafe { OwnedFd::from_raw_fd(STATE) };
    let state: &'static Segment =
        Box::leak(Box::new(Segment::map(state, Access::ReadWrite).unwrap()));
    let part = Part {
        role: role.to_owned(),
        page: Page::new(state.words(0, Page::WORDS)),
        state,
    };
    if role.ends_with("orphans") {
        guard::become_subreaper().unwrap();
    }
    if role == "unprivileged" && nix::unistd::getuid().is_root() {
        privileges::set_oom_score_adj(100).unwrap();
        privileges::drop_to(Uid::from_raw(NOBODY), Gid::from_raw(NOBODY)).unwrap();
    }
    let heir: &[&str] = match role {
        "heir dies" => &["guard-test", "role", "an heir that dies"],
        "heir hangs" => &["guard-test", "role", "an heir that hangs"],
        _ => &["guard-test", "role", role, "takes over"],
    };
    let heir: Vec<CString> = heir.iter().map(|arg| CString::new(*arg).unwrap()).collect();
    let place = Place {
        page: part.page,
        doorbell: fd(BELL),
        successor: &heir,
        takes_over,
    };
    let outcome = guard::run_in(&place, &part, brain).unwrap();
    guard::exit(outcome.code());
}

pub fn fd(number: i32) -> BorrowedFd<'static> {
    // SAFETY: set by who started us, and never closed.
    unsafe { BorrowedFd::borrow_raw(number) }
}

impl Part {
    pub fn word(&self, index: usize) -> &'static AtomicU64 {
        word(self.state, index)
    }

    pub fn set(&self, index: usize, value: u64) {
        self.word(index).store(value, Ordering::Release);
    }

    pub fn get(&self, index: usize) -> u64 {
        self.word(index).load(Ordering::Acquire)
    }

    /// Becomes the guard of the next brain.
    pub fn succeed(&self) -> ! {
        let args = ["guard-test", "role", &self.role].map(|arg| CString::new(arg).unwrap());
        let keep = [fd(STATE), fd(BELL), fd(WORK), fd(PROGRAM)];
        let e = guard::exec_over_self(fd(PROGRAM), &args, &keep);
        eprintln!("exec: {e}");
        guard::exit(99)
    }

    /// Offers the guard's place for every SIGUSR2.
    pub fn offer(&self, life: Life) {
        if self.page.pending(Signal::SIGUSR2) == 0 {
            return;
        }
        self.page.dealt(Signal::SIGUSR2, 1);
        let no_program = self.role == "no heir";
        let offer = Offer {
            number: self.page.next_offer(),
            program: fd(if no_program { BELL } else { PROGRAM }),
            keep: &[fd(STATE), fd(BELL), fd(WORK), fd(PROGRAM)],
            within: Duration::from_millis(if self.role == "heir hangs" {
                200
            } else {
                10_000
            }),
        };
        let refused = offer.make(self.page, &life, fd(BELL));
        self.set(REFUSED, self.get(REFUSED) + 1);
        if refused.is_orphan() {
            self.succeed();
        }
    }

    /// Waits for the doorbell, or becomes the guard.
    fn wait(&self, life: Life) {
        let mut fds = [fd(BELL), life.guard].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        poll(&mut fds, PollTimeout::NONE).unwrap();
        let [bell, guard] = fds.map(|fd| fd.any().unwrap_or(true));
        if guard {
            self.succeed();
        }
        if bell {
            nix::unistd::read(fd(BELL), &mut [0; 8]).unwrap();
        }
    }
}

fn brain(part: &Part, life: Life) -> ! {
    part.set(GUARD, life.guard_pid as u64);
    if !matches!(part.role.as_str(), "crash") {
        part.page.beat();
    }
    part.set(LIFE, life.number);
    match part.role.as_str() {
        "echo" | "unprivileged" | "no heir" | "heir dies" | "heir hangs" => {
            echo::brain(part, life, false)
        }
        "naive" => echo::brain(part, life, true),
        "done" => guard::exit(0),
        "cannot boot" => guard::exit(7),
        "idle" => loop {
            part.offer(life);
            part.wait(life);
            if part.page.pending(Signal::SIGTERM) > 0 {
                guard::exit(0);
            }
        },
        "crash" | "beat and crash" => std::process::abort(),
        "sane" => sane(part, life),
        "orphans" => orphans(part, life),
        "many orphans" => many_orphans(part, life),
        "hang" => hang(part, life),
        "numbers" => numbers(part, life),
        "panics" => panics(part, life),
        other => panic!("no role {other}"),
    }
}

/// Does what a process might do; then aborts, and its successor looks what is left.
fn sane(part: &Part, life: Life) -> ! {
    if let Some(previous) = life.previous {
        // An abort is one, whatever libc believes to be this thread's id.
        assert_eq!(previous.status.signal(), Some(libc::SIGABRT));
        // The fd that the dead one opened is open still.
        let left = part.get(OWN) as i32;
        assert!(left > 2, "the first brain failed before its end");
        assert!(nix::fcntl::fcntl(fd(left), nix::fcntl::FcntlArg::F_GETFD).is_ok());
        guard::exit(0);
    }
    assert_eq!(nix::unistd::getppid().as_raw(), life.guard_pid);
    assert_eq!(part.page.brain_pid(), nix::unistd::getpid().as_raw());
    // Threads, memory, locks.
    let threads = (0..8).map(|n| {
        std::thread::spawn(move || {
            (0..1000)
                .map(|m| vec![n; m])
                .map(|v| v.len())
                .sum::<usize>()
        })
    });
    let sums: Vec<usize> = threads.map(|thread| thread.join().unwrap()).collect();
    assert_eq!(sums, [499_500; 8]);
    recursive_mutex();
    affinity();
    // A program that it spawns has a mask of its own, and none of our fds.
    let mut command = Command::new("cat");
    command.args(["/proc/self/status"]);
    // SAFETY: only a system call.
    unsafe { command.pre_exec(guard::unblock_all_signals) };
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("SigBlk:\t0000000000000000"), "{text}");
    let listing = Command::new("ls").arg("/proc/self/fd").output().unwrap();
    assert_eq!(listing.stdout, b"0\n1\n2\n3\n", "3 is ls's own");
    // Left open.
    let file = std::fs::File::open("/dev/null").unwrap();
    part.set(OWN, file.as_fd().as_raw_fd() as u64);
    std::process::abort()
}

/// An error-checking mutex compares the owner with this thread's id.
fn recursive_mutex() {
    // SAFETY: plain pthread calls on locals.
    unsafe {
        let mut attributes: libc::pthread_mutexattr_t = std::mem::zeroed();
        libc::pthread_mutexattr_init(&mut attributes);
        libc::pthread_mutexattr_settype(&mut attributes, libc::PTHREAD_MUTEX_RECURSIVE);
        let mut mutex: libc::pthread_mutex_t = std::mem::zeroed();
        libc::pthread_mutex_init(&mut mutex, &attributes);
        assert_eq!(libc::pthread_mutex_lock(&mut mutex), 0);
        assert_eq!(libc::pthread_mutex_lock(&mut mutex), 0);
        assert_eq!(mutex_owner(&mutex), libc::gettid());
        assert_eq!(libc::pthread_mutex_unlock(&mut mutex), 0);
        assert_eq!(libc::pthread_mutex_unlock(&mut mutex), 0);
    }
}

/// glibc: lock, count, owner.
fn mutex_owner(mutex: &libc::pthread_mutex_t) -> i32 {
    // SAFETY: the mutex is larger than three ints.
    unsafe { *std::ptr::from_ref(mutex).cast::<i32>().add(2) }
}

fn affinity() {
    let itself = nix::unistd::Pid::from_raw(0);
    let set = nix::sched::sched_getaffinity(itself).unwrap();
    nix::sched::sched_setaffinity(itself, &set).unwrap();
}

/// The first brain leaves a child that ends when the other end of the work's connection does.
fn orphans(part: &Part, life: Life) -> ! {
    if life.number == 1 {
        part.set(OWN, u64::from(spawn_one_that_waits()));
        std::process::abort();
    }
    loop {
        if let Some(reaped) = part.page.next_reaped() {
            assert_eq!(reaped.pid as u64, part.get(OWN));
            assert_eq!(reaped.status.code(), Some(5));
            part.page.dealt_reaped();
            assert_eq!(part.page.next_reaped(), None);
            guard::exit(0);
        }
        part.wait(life);
    }
}

/// More of them than the page has room for.
fn many_orphans(part: &Part, life: Life) -> ! {
    const MANY: u64 = 150;
    if life.number == 1 {
        for _ in 0..MANY {
            spawn_one_that_waits();
        }
        std::process::abort();
    }
    loop {
        part.wait(life);
        while part.page.next_reaped().is_some() {
            part.page.dealt_reaped();
            part.set(OWN, part.get(OWN) + 1);
        }
        if part.get(OWN) == MANY {
            guard::exit(0);
        }
    }
}

/// Ends with 5 when the work's connection does.
fn spawn_one_that_waits() -> u32 {
    let mut command = Command::new("sh");
    command.args(["-c", "read line; exit 5"]);
    command.stdin(fd(WORK).try_clone_to_owned().unwrap());
    // SAFETY: only a system call.
    unsafe { command.pre_exec(guard::unblock_all_signals) };
    command.spawn().unwrap().id()
}

/// Beats for a while, and then does not.
fn hang(part: &Part, life: Life) -> ! {
    if life.number > 1 {
        let signal = life.previous.and_then(|previous| previous.status.signal());
        guard::exit(if life.hung && signal == Some(libc::SIGKILL) {
            0
        } else {
            96
        });
    }
    let patience = Duration::from_millis(200);
    part.page.set_patience(patience);
    let end = Instant::now() + 2 * patience;
    while Instant::now() < end {
        part.page.beat();
        std::thread::yield_now();
    }
    loop {
        std::thread::park();
    }
}

/// Logs into a ring behind its own words.
fn log(part: &Part) -> logging::Logging {
    let words = part.state.words(Page::WORDS + 64, WORDS - 64);
    let options = logging::Options {
        role: "worker-1".into(),
        filter: "info".into(),
        format: logging::Format::Text,
    };
    logging::init(words, fd(WORK), &options).unwrap()
}

fn panics(part: &Part, life: Life) -> ! {
    let logging = log(part);
    match life.number {
        1 => {
            log::info!("the first");
            panic!("no value");
        }
        2 => {
            log::info!(life = life.number; "the second");
            std::thread::spawn(|| panic!("in a thread")).join().ok();
            // Where a panic unwinds (under cargo test), a thread's ends that thread alone.
            std::process::abort();
        }
        _ => {
            log::info!("the third");
            assert!(logging.flush(Duration::from_secs(20)));
            guard::exit(0);
        }
    }
}

/// Logs numbers, each once, as fast as they are written.
fn numbers(part: &Part, _life: Life) -> ! {
    let logging = log(part);
    loop {
        for _ in 0..10 {
            let number = part.get(OWN);
            part.set(OWN, number + 1);
            log::info!("{number}");
        }
        assert!(logging.flush(Duration::from_secs(20)));
        part.page.beat();
        if part.page.pending(Signal::SIGTERM) > 0 {
            guard::exit(0);
        }
    }
}
