//! Starts a guard with what it needs at fixed fd numbers, and looks into its state.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use protocol::guard::{Page, Takeover, held_program};
use protocol::memory::Segment;

pub const STATE: RawFd = 3;
pub const BELL: RawFd = 4;
/// What the role works on: a connection, a file.
pub const WORK: RawFd = 5;
pub const PROGRAM: RawFd = 6;

/// The words of a role, behind the page.
pub const WORDS: usize = 512;
/// Each brain announces itself here: its life, and its guard's pid.
pub const LIFE: usize = 0;
pub const GUARD: usize = 1;
/// How often the guard's place was offered in vain.
pub const REFUSED: usize = 2;
/// For the role's own use.
pub const OWN: usize = 3;

pub struct Stage {
    pub page: Page,
    state: &'static Segment,
    guard: Pid,
}

impl Stage {
    pub fn start(role: &str, work: &impl AsFd) -> Stage {
        let bytes = (Page::WORDS + WORDS) * 8;
        let state: &'static Segment =
            Box::leak(Box::new(Segment::create(c"guard-test", bytes).unwrap()));
        let bell = EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)
            .unwrap();
        let fds = [
            (state.as_fd().as_raw_fd(), STATE),
            (bell.as_fd().as_raw_fd(), BELL),
            (work.as_fd().as_raw_fd(), WORK),
            (program().as_raw_fd(), PROGRAM),
        ];
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["role", role]).stdin(Stdio::null());
        // SAFETY: only system calls.
        unsafe { command.pre_exec(move || place(fds)) };
        #[expect(clippy::zombie_processes, reason = "waited for by pid")]
        let child = command.spawn().unwrap();
        Stage {
            page: Page::new(state.words(0, Page::WORDS)),
            state,
            guard: Pid::from_raw(child.id() as i32),
        }
    }

    pub fn word(&self, index: usize) -> u64 {
        word(self.state, index).load(Ordering::Acquire)
    }

    pub fn guard(&self) -> Pid {
        self.guard
    }

    pub fn brain(&self) -> Pid {
        Pid::from_raw(self.page.brain_pid())
    }

    /// Waits for a brain that lives after so many others.
    pub fn wait_for_life(&self, after: u64) -> u64 {
        wait_for("the next life", || self.word(LIFE) > after);
        self.word(LIFE)
    }

    /// Kills the brain that lives and waits for the next.
    pub fn kill_brain(&self) {
        let life = self.wait_for_life(0);
        kill(self.brain(), Signal::SIGKILL).unwrap();
        self.wait_for_life(life);
    }

    /// Kills the guard and waits for the brain to be one.
    pub fn kill_guard(&mut self) {
        let life = self.wait_for_life(0);
        let brain = self.brain();
        kill(self.guard, Signal::SIGKILL).unwrap();
        waitpid(self.guard, None).unwrap();
        self.guard = brain;
        self.wait_for_life(life);
        assert_eq!(self.word(GUARD), brain.as_raw() as u64);
    }

    /// A single guard with a single brain, which serves.
    pub fn wait_until_settled(&mut self) {
        wait_for("a guard and its brain", || {
            let guard = self.word(GUARD) as i32;
            let children = format!("/proc/{guard}/task/{guard}/children");
            let children = std::fs::read_to_string(children).unwrap_or_default();
            self.guard = Pid::from_raw(guard);
            children.trim() == self.brain().to_string()
                && !is_dead(self.brain())
                && self.word(LIFE) == self.page.lives()
                && !matches!(self.page.takeover(), Takeover::Offered { .. })
        });
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.guard, signal).unwrap();
    }

    /// How the guard ends; it must do so by itself, or be ended by the caller.
    pub fn end(&mut self) -> ExitStatus {
        let guard = self.guard;
        let mut status = None;
        wait_for("the guard's end", || {
            status = match waitpid(guard, Some(WaitPidFlag::WNOHANG)).unwrap() {
                WaitStatus::StillAlive => None,
                status => Some(status),
            };
            status.is_some()
        });
        // Not to be killed again: the pid may be another's by now.
        self.guard = Pid::from_raw(0);
        use std::os::unix::process::ExitStatusExt;
        match status {
            Some(WaitStatus::Exited(_, code)) => ExitStatus::from_raw(code << 8),
            Some(WaitStatus::Signaled(_, signal, _)) => ExitStatus::from_raw(signal as i32),
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.guard.as_raw() == 0 {
            return;
        }
        // The guard first, or it clones another brain; stopped first, or the brain execs.
        let guard = self.guard;
        let _ = kill(guard, Signal::SIGSTOP);
        let brain = self.brain();
        if brain.as_raw() > 0 {
            let _ = kill(brain, Signal::SIGKILL);
        }
        let _ = kill(guard, Signal::SIGKILL);
        let _ = waitpid(guard, None);
        if brain.as_raw() > 0 {
            let _ = waitpid(brain, None);
        }
    }
}

pub fn word(state: &Segment, index: usize) -> &AtomicU64 {
    assert!(index < WORDS);
    state.word(Page::WORDS + index)
}

pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_micros(50));
    }
}

/// Or reaped.
pub fn is_dead(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.map_or(true, |stat| stat.contains(") Z "))
}

pub fn nothing() -> File {
    File::open("/dev/null").unwrap()
}

/// This binary, held.
fn program() -> BorrowedFd<'static> {
    static PROGRAM: OnceLock<OwnedFd> = OnceLock::new();
    PROGRAM
        .get_or_init(|| held_program(&std::env::current_exe().unwrap()).unwrap())
        .as_fd()
}

/// Puts each fd at its number, whatever is there.
fn place(fds: [(RawFd, RawFd); 4]) -> std::io::Result<()> {
    const HIGH: RawFd = 700;
    for (from, to) in fds {
        // SAFETY: no memory is involved.
        if unsafe { libc::dup2(from, HIGH + to) } < 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    for (_, to) in fds {
        // SAFETY: as above.
        if unsafe { libc::dup2(HIGH + to, to) } < 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    Ok(())
}
