//! Processes, by their pid: signals to them, and what `/proc` says of them.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::signal;
use nix::unistd::Pid;

pub use nix::sys::signal::Signal;

use crate::{eventually, wait};

/// Sends a signal; a process that is gone already is no fault.
#[track_caller]
pub fn signal(pid: i32, signal: Signal) {
    assert!(pid > 1, "{pid} is no process of ours");
    match signal::kill(Pid::from_raw(pid), signal) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(error) => panic!("cannot send {signal} to {pid}: {error}"),
    }
}

#[track_caller]
pub fn kill(pid: i32) {
    signal(pid, Signal::SIGKILL);
}

/// Stops it, and returns when every thread of it has stopped.
#[track_caller]
pub fn stop(pid: i32) {
    signal(pid, Signal::SIGSTOP);
    eventually(&format!("{pid} is stopped"), || state(pid) == Some('T'));
}

/// Lets it die by a signal that it has blocked, as by a fault of its own: SIGSEGV, SIGABRT. Where
/// nobody may trace it, by SIGKILL.
pub fn crash(pid: i32, with: Signal) {
    let none: u64 = 0;
    let ptrace = |request, address: usize, data: *const u64| {
        // SAFETY: what `data` points to outlives the call; `pid` is no process of this program.
        let done = unsafe { libc::ptrace(request, pid, address, data) };
        Errno::result(done).is_ok()
    };
    let traced = ptrace(libc::PTRACE_SEIZE, 0, std::ptr::null())
        && ptrace(libc::PTRACE_INTERRUPT, 0, std::ptr::null())
        && {
            // SAFETY: no status is asked for.
            let waited = unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::__WALL) };
            waited == pid
        }
        && ptrace(PTRACE_SETSIGMASK, size_of_val(&none), &raw const none)
        && ptrace(libc::PTRACE_DETACH, 0, std::ptr::null());
    let with = if traced { with } else { Signal::SIGKILL };
    // The first SIGSEGV is taken by Rust's own handler, which looks for an overflow of the stack and
    // leaves the second, that of the same instruction in a real fault, to the kernel.
    eventually(&format!("{pid} dies of {with}"), || {
        signal(pid, with);
        !is_alive(pid)
    });
}

/// Of linux/ptrace.h; libc has no name for it.
const PTRACE_SETSIGMASK: libc::c_uint = 0x420b;

#[track_caller]
pub fn go_on(pid: i32) {
    signal(pid, Signal::SIGCONT);
}

/// Is there such a process, other than as a zombie?
pub fn is_alive(pid: i32) -> bool {
    state(pid).is_some_and(|state| state != 'Z' && state != 'X')
}

/// The letter of its state: R, S, D, T, Z …
pub fn state(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may hold anything.
    stat.rsplit_once(") ")?.1.chars().next()
}

/// The pid of its parent.
pub fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    fields.nth(1)?.parse().ok()
}

/// How it is scheduled, by the kernel's number (`SCHED_BATCH` is 3): field 41 of proc_pid_stat(5).
pub fn scheduling_policy(pid: i32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?
        .1
        .split(' ')
        .nth(41 - 3)?
        .parse()
        .ok()
}

/// Fds that it has open; 0 if it is gone.
pub fn fds(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// For how many fds its table has room now.
pub fn room_for_files(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let size = status.lines().find_map(|line| line.strip_prefix("FDSize:"));
    size.and_then(|size| size.trim().parse().ok()).unwrap_or(0)
}

/// How many files it may have open.
pub fn limit_of_open_files(pid: i32) -> u64 {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().next());
    soft.and_then(|soft| soft.parse().ok()).unwrap_or(0)
}

/// What its fds are (`socket:[1]`, `/memfd:log (deleted)`, …), sorted.
pub fn open_files(pid: i32) -> Vec<String> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return Vec::new();
    };
    let mut files: Vec<String> = entries
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .map(|target| target.to_string_lossy().into_owned())
        .collect();
    files.sort();
    files
}

/// Bytes of memory that are resident.
pub fn resident(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kibibytes = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"))
        .and_then(|number| number.trim().parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}

/// Bytes of memory that are its share: what several have mapped is divided among them. Without the
/// pages of files on a disk, such as libraries: that share changes with whatever else runs.
pub fn proportional(pid: i32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let kibibytes = rollup.lines().filter_map(|line| {
        let share = (line.strip_prefix("Pss_Anon:")).or_else(|| line.strip_prefix("Pss_Shmem:"))?;
        share.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    });
    kibibytes.sum::<u64>() * 1024
}

/// Processor time that it has used, in seconds: user and system.
pub fn cpu_seconds(pid: i32) -> (f64, f64) {
    let [user, system, ..] = times(pid);
    (user, system)
}

/// Processor time of all its threads, as exactly as the kernel knows it.
pub fn cpu_time(pid: i32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    let nanos = |task: fs::DirEntry| -> Option<u64> {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse().ok()
    };
    let tasks = tasks.into_iter().flatten().flatten();
    match tasks.map(nanos).sum::<Option<u64>>() {
        Some(nanos) if nanos > 0 => Duration::from_nanos(nanos),
        // A kernel without schedstat.
        _ => {
            let (user, system) = cpu_seconds(pid);
            Duration::from_secs_f64(user + system)
        }
    }
}

/// Processor time of everything on this machine.
pub fn cpu_time_of_all() -> Duration {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().next().unwrap_or_default();
    // User, nice, system, idle, iowait and more of proc_stat(5), in ticks; guests are in user.
    let ticks = line.split_whitespace().skip(1).take(8).enumerate();
    let busy = ticks.filter(|(number, _)| !matches!(number, 3 | 4));
    let ticks: f64 = busy
        .filter_map(|(_, ticks)| ticks.parse::<f64>().ok())
        .sum();
    Duration::from_secs_f64(ticks / ticks_per_second())
}

/// Does something on one core: so do the threads and programs that are started by it.
pub fn on_core<T>(core: usize, what: impl FnOnce() -> T) -> T {
    let before = sched_getaffinity(THIS_THREAD).expect("the kernel knows us");
    let mut only = CpuSet::new();
    only.set(core).expect("a small number");
    sched_setaffinity(THIS_THREAD, &only).expect("there is such a core");
    let done = what();
    sched_setaffinity(THIS_THREAD, &before).expect("as it was before");
    done
}

const THIS_THREAD: Pid = Pid::from_raw(0);

/// This thread runs before all others on its core whenever it is ready to (sched(7), `SCHED_FIFO`). It
/// takes root.
pub fn go_first() -> io::Result<()> {
    let first = libc::sched_param { sched_priority: 1 };
    // SAFETY: 0 is this thread; the parameter lives over the call.
    Errno::result(unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const first) })?;
    Ok(())
}

/// Processor time of it and of all its descendants that have been waited for.
pub fn cpu_with_children(pid: i32) -> Duration {
    Duration::from_secs_f64(times(pid).iter().sum())
}

/// Seconds of processor time: user and system, its own and of those that were waited for.
fn times(pid: i32) -> [f64; 4] {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat
        .rsplit_once(") ")
        .map_or("", |(_, rest)| rest)
        .split(' ')
        .collect();
    let per_second = ticks_per_second();
    // Fields 14 to 17 of proc_pid_stat(5), in ticks; the first one here is number 3.
    std::array::from_fn(|number| {
        let field = fields.get(14 + number - 3);
        let ticks = field.and_then(|field| field.parse::<f64>().ok());
        ticks.unwrap_or(0.0) / per_second
    })
}

fn ticks_per_second() -> f64 {
    let ticks = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK);
    ticks.ok().flatten().unwrap_or(100) as f64
}

/// Processes, zombies left out, whose environment holds `NAME=VALUE` as it was at their exec.
pub fn with_environment(variable: &str) -> BTreeSet<i32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return BTreeSet::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment
                .split(|byte| *byte == 0)
                .any(|entry| entry == variable.as_bytes())
                && is_alive(*pid)
        })
        .collect()
}

/// The children of a process.
pub fn children(pid: i32) -> BTreeSet<i32> {
    let path = PathBuf::from(format!("/proc/{pid}/task/{pid}/children"));
    fs::read_to_string(path)
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|child| child.parse().ok())
        .collect()
}

/// The brain of a worker's guard, as soon as there is one; the master may not have heard of it yet.
#[track_caller]
pub fn brain_of(guard: i32) -> i32 {
    wait::until("there is a brain", wait::DEADLINE, || {
        children(guard).into_iter().find(|child| is_alive(*child))
    })
}

/// Sets the soft limit of open files of a process that runs; returns what it was.
#[track_caller]
pub fn limit_open_files(pid: i32, limit: u64) -> u64 {
    let mut old = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: prlimit(2) writes to `old`, which lives over the call.
    let got = unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, std::ptr::null(), &raw mut old) };
    let new = libc::rlimit {
        rlim_cur: limit,
        rlim_max: old.rlim_max,
    };
    // SAFETY: prlimit(2) reads `new`, which lives over the call.
    let set = unsafe {
        libc::prlimit(
            pid,
            libc::RLIMIT_NOFILE,
            &raw const new,
            std::ptr::null_mut(),
        )
    };
    assert!(
        got == 0 && set == 0,
        "prlimit of {pid}: {}",
        std::io::Error::last_os_error()
    );
    old.rlim_cur
}

/// Raises this process's own limit of open files to the hard one, and returns it.
pub fn raise_open_files() -> u64 {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("up to the hard limit is allowed");
    hard
}
