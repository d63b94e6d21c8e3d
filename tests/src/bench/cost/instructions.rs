//! Instructions outside of the kernel that one of everything takes: counted, not timed, so that a
//! change of a few can be seen on any machine, however busy.
//!
//! Many machines have no counter that a guest could ask. So the processes of the server are taken
//! one instruction after the other (`ptrace(2)`, `PTRACE_SINGLESTEP`) for a while, and each is
//! counted. That is a thousand times slower than they run by themselves: clients wait for what they
//! asked, so they ask less, and what is served comes in smaller turns than under a full load.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::mem::offset_of;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc::user_regs_struct;
use nix::sys::ptrace::{self, AddressType, Options as Ptrace};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::clients::Clients;
use super::loads::{LOADS, Load};
use super::servers::{Kind, PEERS};
use super::{WARM_UP, missing, start};
use crate::bench::gauge::median;
use crate::bench::{Cell, Options, Subject, Table};
use crate::process;

pub const SUBJECT: Subject = Subject {
    name: "instructions",
    about: "instructions outside of the kernel that one of everything of `cost` takes",
    peers: &PEERS,
    run,
};

/// Programs that are neither compiled while they run nor share their threads with too much else.
const KINDS: [Kind; 5] = [
    Kind::Baton,
    Kind::Bare,
    Kind::Nginx,
    Kind::Tungstenite,
    Kind::FastWebSockets,
];

const SETTLING: Duration = Duration::from_millis(200);

/// A signal that is there already is delivered at once.
const SIGTRAP_WITHIN: Duration = Duration::from_millis(20);

const COLUMNS: [&str; 5] = ["load", "server", "instructions", "min..max", "counted"];

fn run(options: &Options) -> Result<Vec<Table>, String> {
    process::raise_open_files();
    let title = format!(
        "instructions: outside of the kernel, of all processes, for one; median of {} rounds of {} s",
        options.rounds, options.seconds
    );
    let mut table = Table::new(title, &COLUMNS);
    for load in LOADS.iter().filter(|load| options.wants_load(load.name)) {
        for kind in KINDS {
            let wanted = kind == Kind::Baton || options.wants(kind.name());
            if !wanted || !load.is_for(kind) {
                continue;
            }
            missing(kind)?;
            let mut figures = Vec::new();
            let mut counted = 0;
            for _ in 0..options.rounds {
                let (steps, done) = measure(load, kind, options.seconds)
                    .map_err(|reason| format!("{}: {}: {reason}", load.name, kind.name()))?;
                if done == 0 {
                    return Err(format!("{}: {}: nothing was done", load.name, kind.name()));
                }
                figures.push(steps as f64 / done as f64);
                counted += done;
            }
            let (least, most) = super::extremes(&figures);
            table.push(vec![
                Cell::text(load.name),
                Cell::text(kind.name()),
                Cell::number(median(&figures), 0),
                Cell::text(format!("{least:.0}..{most:.0}")),
                Cell::count(counted),
            ]);
        }
    }
    Ok(vec![table])
}

/// Instructions, and how much they did.
fn measure(load: &Load, kind: Kind, seconds: u64) -> Result<(u64, u64), String> {
    let Some(server) = start(load, kind) else {
        return Err("it is absent".to_owned());
    };
    let clients = load.clients(&server)?;
    let times = |pids: &[i32]| pids.iter().map(|pid| process::cpu_time(*pid)).collect();
    let before: Vec<Duration> = times(&server.pids);
    thread::sleep(WARM_UP);
    let after: Vec<Duration> = times(&server.pids);
    // Who does nothing under this load is let alone.
    let busy = before.iter().zip(&after).zip(&server.pids);
    let busy = busy.filter(|((before, after), _)| **after > **before + WARM_UP / 100);
    let busy: Vec<i32> = busy.map(|(_, pid)| *pid).collect();
    let counted = count(&busy, &clients, Duration::from_secs(seconds));
    let counted = counted.map_err(|error| format!("ptrace: {error}"))?;
    clients.end()?;
    Ok(counted)
}

fn count(pids: &[i32], clients: &Clients, time: Duration) -> Result<(u64, u64), Errno> {
    let mut traced = Traced::attach(pids)?;
    // What was under way when they were stopped was counted by nobody.
    traced.step(SETTLING)?;
    let before = (traced.steps, clients.done());
    traced.step(time)?;
    let after = (traced.steps, clients.done());
    traced.detach()?;
    Ok((after.0 - before.0, after.1 - before.1))
}

/// All threads of a server, which run under our eyes.
struct Traced {
    threads: HashSet<Pid>,
    steps: u64,
    /// Where a thread was last: an instruction that repeats itself counts once.
    at: HashMap<Pid, i64>,
}

impl Traced {
    fn attach(pids: &[i32]) -> Result<Traced, Errno> {
        let mut traced = Traced {
            threads: HashSet::new(),
            steps: 0,
            at: HashMap::new(),
        };
        for pid in pids {
            let tasks = fs::read_dir(format!("/proc/{pid}/task"));
            let tasks = tasks.into_iter().flatten().flatten();
            let tasks = tasks.filter_map(|task| task.file_name().to_str()?.parse().ok());
            for thread in tasks.map(Pid::from_raw) {
                ptrace::seize(thread, Ptrace::empty())?;
                ptrace::interrupt(thread)?;
                traced.threads.insert(thread);
            }
        }
        Ok(traced)
    }

    /// Lets all go on for so long, an instruction at a time.
    fn step(&mut self, time: Duration) -> Result<(), Errno> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            // Under a load somebody always has something to do.
            match waitpid(None, Some(WaitPidFlag::__WALL))? {
                WaitStatus::PtraceEvent(thread, ..) => ptrace::step(thread, None)?,
                WaitStatus::Stopped(thread, Signal::SIGTRAP) => {
                    let at = ptrace::read_user(
                        thread,
                        offset_of!(user_regs_struct, rip) as AddressType,
                    )?;
                    if self.at.insert(thread, at) != Some(at) {
                        self.steps += 1;
                    }
                    ptrace::step(thread, None)?;
                }
                WaitStatus::Stopped(thread, signal) => ptrace::step(thread, signal)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// From here on they run by themselves.
    fn detach(mut self) -> Result<(), Errno> {
        for thread in std::mem::take(&mut self.threads) {
            match detach(thread) {
                // It has ended.
                Err(Errno::ESRCH | Errno::ECHILD) => {}
                done => done?,
            }
        }
        Ok(())
    }
}

/// A step may have left a SIGTRAP behind, which would kill the thread once nobody looks.
fn detach(thread: Pid) -> Result<(), Errno> {
    ptrace::interrupt(thread)?;
    if let WaitStatus::PtraceEvent(..) = waitpid(thread, Some(WaitPidFlag::__WALL))? {
        ptrace::cont(thread, None)?;
        let until = Instant::now() + SIGTRAP_WITHIN;
        let flags = WaitPidFlag::__WALL | WaitPidFlag::WNOHANG;
        while waitpid(thread, Some(flags))? == WaitStatus::StillAlive {
            if Instant::now() > until {
                ptrace::interrupt(thread)?;
                waitpid(thread, Some(WaitPidFlag::__WALL))?;
                break;
            }
            thread::yield_now();
        }
    }
    ptrace::detach(thread, None)
}
