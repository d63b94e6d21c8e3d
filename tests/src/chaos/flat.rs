//! Does anything grow? Reload after reload, death after death, under load; and what baton holds when
//! all is quiet, before and after.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::Ordering;

use super::family::{self, Process, Role};
use super::monkey::Shared;
use crate::load::{Fault, Kind, Random};
use crate::{Baton, eventually, process};

/// So many times a reload, and behind each so many kills.
#[derive(Clone, Copy, Debug)]
pub struct Laps {
    pub laps: u32,
    pub kills: u32,
}

/// What a baton holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    pub processes: u64,
    /// Files that are open, each guard's with its brain's counted once.
    pub files: u64,
    /// Pieces of shared memory, each counted once.
    pub segments: u64,
    /// Bytes of memory, what is shared divided among those who share it.
    pub memory: u64,
}

impl Figures {
    #[must_use]
    pub fn of(baton: &Baton) -> Figures {
        let pids = baton.processes();
        let guards = family::look(baton.mark()).into_iter();
        let segments: BTreeSet<u64> = pids.iter().flat_map(|pid| segments(*pid)).collect();
        Figures {
            processes: pids.len() as u64,
            files: guards.map(|of| process::fds(of.guard) as u64).sum(),
            segments: segments.len() as u64,
            memory: pids.iter().map(|pid| process::proportional(*pid)).sum(),
        }
    }

    /// Nothing has grown; memory by no more than it does by itself.
    #[must_use]
    pub fn is_flat(self, before: Figures) -> bool {
        self.processes == before.processes
            && self.files <= before.files
            && self.segments <= before.segments
            && self.memory <= before.memory + before.memory / 10
    }
}

/// The inodes of the memory files that a process has open or mapped.
fn segments(pid: i32) -> Vec<u64> {
    let process = Path::new("/proc").join(pid.to_string());
    let is_memory = |target: &Path| target.to_string_lossy().starts_with("/memfd:");
    let open = fs::read_dir(process.join("fd"))
        .into_iter()
        .flatten()
        .flatten();
    let open =
        open.filter(|entry| fs::read_link(entry.path()).is_ok_and(|target| is_memory(&target)));
    let open = open.filter_map(|entry| Some(fs::metadata(entry.path()).ok()?.ino()));
    let maps = fs::read_to_string(process.join("maps")).unwrap_or_default();
    let mapped = maps.lines().filter_map(|line| {
        let mut fields = line.split_whitespace();
        let inode = fields.nth(4)?;
        fields
            .next()?
            .starts_with("/memfd:")
            .then(|| inode.parse().ok())?
    });
    open.chain(mapped).collect()
}

/// Reloads and kills, one after the other: none may fail.
pub fn run(baton: &Baton, shared: &Shared, mut random: Random, Laps { laps, kills }: Laps) {
    for lap in 1..=laps {
        let output = baton.run(&["reload"]);
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let fault = Fault::new(Kind::Command, format!("reload {lap}: {said}"));
            shared.faults.lock().expect("nobody panics").push(fault);
        }
        shared.reloads.fetch_add(1, Ordering::Relaxed);
        for _ in 0..kills {
            if shared.stop.load(Ordering::Relaxed) {
                return;
            }
            kill(shared, &mut random);
        }
        shared.diary.note(format!("lap {lap}"));
    }
}

/// Kills the guard or the brain of a worker, and waits until it is whole again.
fn kill(shared: &Shared, random: &mut Random) {
    let workers = || -> Vec<Process> {
        let all = family::look(&shared.mark).into_iter();
        all.filter(|process| process.role != Role::Master && process.brain.is_some())
            .collect()
    };
    let before = workers();
    let Some(victim) = before.get(random.below(before.len().max(1) as u64) as usize) else {
        return;
    };
    let pid = match (random.percent(50), victim.brain) {
        (true, Some(brain)) => brain,
        _ => victim.guard,
    };
    shared.diary.note(format!("kill {pid} of {victim:?}"));
    process::kill(pid);
    shared.kills.fetch_add(1, Ordering::Relaxed);
    eventually("the worker is whole again", || {
        let role = |process: &Process| process.role == victim.role && process != victim;
        workers().iter().any(role)
    });
}
