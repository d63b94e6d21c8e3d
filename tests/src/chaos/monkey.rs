//! Who kills, and who commands, at moments that nobody expects.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::family::{self, Process, Role};
use crate::eventually;
use crate::faults::Faults;
use crate::load::{Fault, Random};
use crate::process::{self, Signal};

/// Without progress for so long, a process of this baton is hung.
pub const HUNG: Duration = Duration::from_secs(3);

/// What the threads of a run tell each other.
pub struct Shared {
    /// In the environment of all processes of the baton.
    pub mark: String,
    pub stop: AtomicBool,
    /// Nobody is to be killed for now.
    pub rest: AtomicBool,
    /// So far.
    pub kills: AtomicU64,
    pub reloads: AtomicU64,
    /// So many connections are to act at once.
    pub wave: AtomicU64,
    pub diary: Diary,
    pub faults: Mutex<Vec<Fault>>,
}

impl Shared {
    #[must_use]
    pub fn new(mark: &str) -> Shared {
        Shared {
            mark: mark.to_owned(),
            stop: AtomicBool::new(false),
            rest: AtomicBool::new(false),
            kills: AtomicU64::new(0),
            reloads: AtomicU64::new(0),
            wave: AtomicU64::new(0),
            diary: Diary::new(),
            faults: Mutex::default(),
        }
    }
}

/// What was done when.
pub struct Diary {
    start: Instant,
    lines: Mutex<Vec<(Instant, String)>>,
}

impl Diary {
    #[allow(clippy::new_without_default)]
    #[must_use]
    pub fn new() -> Diary {
        Diary {
            start: Instant::now(),
            lines: Mutex::default(),
        }
    }

    pub fn note(&self, what: impl Into<String>) {
        let line = (Instant::now(), what.into());

        self.lines.lock().expect("nobody panics").push(line);
    }

    /// The lines up to then, at most so many of the last.
    pub fn before(&self, at: Instant, most: usize) -> Vec<String> {
        let lines = self.lines.lock().expect("nobody panics");
        let until = lines.iter().take_while(|(when, _)| *when <= at).count();
        lines[until.saturating_sub(most)..until]
            .iter()
            .map(|(when, what)| format!("{} {what}", self.time(*when)))
            .collect()
    }

    /// Since the start.
    #[must_use]
    pub fn time(&self, at: Instant) -> String {
        format!(
            "{:9.4}",
            at.saturating_duration_since(self.start).as_secs_f64()
        )
    }
}

/// A process of baton is a guard and a brain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Half {
    Guard,
    Brain,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Kill,
    Segfault,
    Abort,
    /// Stopped for a while.
    Stop(Duration),
    /// Stopped until somebody shoots it.
    Hang,
}

/// How many times what was done to whom.
#[derive(Clone, Debug, Default)]
pub struct Deeds {
    deeds: BTreeMap<String, u64>,
}

impl Deeds {
    #[must_use]
    pub fn report(&self) -> String {
        let all: Vec<String> = self
            .deeds
            .iter()
            .map(|(deed, times)| format!("{deed} {times}"))
            .collect();
        all.join(", ")
    }
}

/// Where brains are killed that are aimed at.
#[derive(Debug)]
pub struct Aim {
    pub faults: Faults,
    pub steps: &'static [&'static str],
}

/// Between two steps that must count as one.
pub const STEPS: [&str; 14] = [
    "worker:read",
    "worker:step",
    "worker:publish",
    "worker:commit",
    "worker:write",
    "worker:written",
    "worker:fan-out",
    "worker:journal-valid",
    "master:note",
    "master:append",
    "master:appended",
    "master:presence",
    "master:presence-told",
    "master:journal-valid",
];
/// Where it shows that a worker ignores the kernel's counters.
pub const STEPS_OF_TRUTH: [&str; 2] = ["worker:read", "worker:write"];
/// Where it shows that a worker publishes outside of the journal's record.
pub const STEPS_OF_PUBLISHING: [&str; 1] = ["worker:publish"];

/// Kills until it is told to stop: about so often; half of the time where it aims, if it does.
pub fn run(shared: &Shared, random: Random, every: Duration, aim: Option<&Aim>) -> Deeds {
    let mut monkey = Monkey {
        shared,
        aim,
        random,
        deeds: Deeds::default(),
        stopped: Vec::new(),
    };
    while !shared.stop.load(Ordering::Relaxed) {
        // Now and then at once after the last, while what it broke is being repaired.
        let pause = match monkey.random.below(4) {
            0 => monkey.random.below(5_000),
            _ => monkey.random.below(2 * every.as_micros() as u64 * 4 / 3),
        };
        thread::sleep(Duration::from_micros(pause));
        monkey.go_on();
        match monkey.aim {
            _ if shared.rest.load(Ordering::Relaxed) => {}
            Some(aim) if monkey.random.percent(50) => monkey.snipe(aim),
            _ => monkey.strike(),
        }
    }
    for (_, pid) in std::mem::take(&mut monkey.stopped) {
        process::go_on(pid);
    }
    monkey.deeds
}

struct Monkey<'a> {
    shared: &'a Shared,
    aim: Option<&'a Aim>,
    random: Random,
    deeds: Deeds,
    /// Brains that are stopped, and until when.
    stopped: Vec<(Instant, i32)>,
}

impl Monkey<'_> {
    /// Lets those go on whose time has come, and forgets those who have been shot.
    fn go_on(&mut self) {
        let now = Instant::now();
        let shared = self.shared;
        self.stopped.retain(|(until, pid)| {
            if *until <= now {
                shared.diary.note(format!("{pid} goes on"));
                process::go_on(*pid);
            }
            *until > now && process::is_alive(*pid)
        });
    }

    /// Somebody whose other half is well: the two of a process are never both down.
    fn choose(&mut self) -> Option<(Process, Half, i32)> {
        let is_stopped = |brain: i32| self.stopped.iter().any(|(_, pid)| *pid == brain);
        let whole: Vec<(Process, i32)> = family::look(&self.shared.mark)
            .into_iter()
            .filter_map(|process| process.brain.map(|brain| (process, brain)))
            .filter(|(_, brain)| !is_stopped(*brain))
            .collect();
        let (process, brain) = match whole.first()? {
            // There is one master, and there are many workers.
            first if first.0.role == Role::Master && self.random.percent(30) => first,
            _ => &whole[self.random.below(whole.len() as u64) as usize],
        };
        let (half, pid) = match self.random.percent(40) {
            true => (Half::Guard, process.guard),
            false => (Half::Brain, *brain),
        };
        Some((process.clone(), half, pid))
    }

    fn strike(&mut self) {
        let Some((process, half, pid)) = self.choose() else {
            return;
        };
        let how = match (half, self.random.below(100)) {
            (Half::Brain, 0..10) => How::Segfault,
            (Half::Brain, 10..20) => How::Abort,
            (Half::Brain, 20..24) => How::Stop(Duration::from_millis(self.random.below(1500))),
            (Half::Brain, 24) => How::Hang,
            _ => How::Kill,
        };
        // Mostly while it has much to do.
        if self.random.percent(80) {
            self.wave(process.brain.unwrap_or(pid));
        }
        let diary = &self.shared.diary;
        diary.note(format!("{how:?} {half:?} {pid} of {process:?}"));
        match how {
            How::Kill => process::kill(pid),
            How::Segfault => process::crash(pid, Signal::SIGSEGV),
            How::Abort => process::crash(pid, Signal::SIGABRT),
            How::Stop(time) => self.stop(pid, time),
            How::Hang => self.stop(pid, 3 * HUNG),
        }
        self.count(how, half, process.role);
        if matches!(how, How::Kill | How::Segfault | How::Abort) {
            // It must not be taken for one that lives.
            eventually(&format!("{pid} dies"), || !process::is_alive(pid));
        }
    }

    /// The brain that passes a step next dies there, if one does soon and all are well.
    fn snipe(&mut self, Aim { faults, steps }: &Aim) {
        let all = family::look(&self.shared.mark);
        if !self.stopped.is_empty() || all.iter().any(|process| process.brain.is_none()) {
            return;
        }
        let step = steps[self.random.below(steps.len() as u64) as usize];
        self.shared.wave.store(300, Ordering::Relaxed);
        // Some steps come by a thousand times a second, some ten.
        let passes = match self.random.percent(70) {
            true => 1,
            false => self.random.between(2, 20),
        };
        faults.arm(step, passes as u64);
        let begin = Instant::now();
        while !faults.is_reached(step) && begin.elapsed() < Duration::from_millis(200) {
            thread::yield_now();
        }
        faults.disarm(step);
        if faults.is_reached(step) {
            self.shared.diary.note(format!("died at {step}"));
            self.shared.kills.fetch_add(1, Ordering::Relaxed);
            *self.deeds.deeds.entry(step.to_owned()).or_default() += 1;
            // Nobody is to be struck before it is whole again: not both halves at once.
            let brains = |all: &[Process]| all.iter().map(|p| p.brain).collect::<Vec<_>>();
            let before = brains(&all);
            eventually("the brain is replaced", || {
                let now = family::look(&self.shared.mark);
                brains(&now) != before && now.iter().all(|process| process.brain.is_some())
            });
        }
    }

    /// Lets many speak at once, and waits until this brain is at work on it.
    fn wave(&mut self, brain: i32) {
        let wave = &self.shared.wave;
        wave.store(300, Ordering::Relaxed);
        let begin = Instant::now();
        let is_at_work = || wave.load(Ordering::Relaxed) == 0 && process::state(brain) == Some('R');
        while !is_at_work() && begin.elapsed() < Duration::from_millis(20) {
            thread::yield_now();
        }
        let more = Duration::from_micros(self.random.below(2_000));
        let begin = Instant::now();
        // A sleep would be longer than that.
        while begin.elapsed() < more {
            thread::yield_now();
        }
    }

    fn stop(&mut self, pid: i32, time: Duration) {
        process::signal(pid, Signal::SIGSTOP);
        self.stopped.push((Instant::now() + time, pid));
    }

    fn count(&mut self, how: How, half: Half, role: Role) {
        let victim = match (role, half) {
            (Role::Master, Half::Guard) => "master's guard",
            (Role::Master, Half::Brain) => "master's brain",
            (Role::Worker { .. }, Half::Guard) => "worker's guard",
            (Role::Worker { .. }, Half::Brain) => "worker's brain",
        };
        let (how, kills) = match how {
            How::Kill => ("SIGKILL", 1),
            How::Segfault => ("SIGSEGV", 1),
            How::Abort => ("SIGABRT", 1),
            How::Hang => ("hung", 1),
            How::Stop(_) => ("stopped", 0),
        };
        self.shared.kills.fetch_add(kills, Ordering::Relaxed);
        *self
            .deeds
            .deeds
            .entry(format!("{victim} {how}"))
            .or_default() += 1;
    }
}
