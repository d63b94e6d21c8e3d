//! Traffic of which every byte is verified, while baton's processes are killed at random instants,
//! reloaded, scaled and upgraded. Clients never reconnect: a connection that ends, a byte that is
//! wrong, a message that is lost, doubled or out of order is a failure.
//!
//! 1. [`echo`], [`post`], [`member`], [`back_end`]: what the clients say, and how they judge what they
//!    hear. [`ledger`]: what was published, and where in its room it is. [`court`]: what was decided about
//!    users and what they said; [`appeal`]: whether it still is so at the end. [`world`]: what they share.
//! 2. [`family`]: baton's processes as `/proc` shows them. [`monkey`]: who kills. [`operator`]: who
//!    commands. [`flat`]: whether anything grows.
//! 3. [`run`]: from start to verdict; [`crowd`]: who is there.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mio::Events;

pub mod appeal;
pub mod back_end;
pub mod court;
pub mod crowd;
pub mod echo;
pub mod family;
pub mod flat;
pub mod ledger;
pub mod member;
pub mod monkey;
pub mod operator;
pub mod post;
pub mod report;
pub mod world;

use crate::api::with_api_as;
use crate::faults::Faults;
use crate::load::{Fault, Kind, Load, Random};
use crate::{Baton, process, rooms};
use crowd::Crowd;
use flat::{Figures, Laps};
use ledger::Sort;
use monkey::{Aim, Deeds, Diary, HUNG, Shared};
use operator::{Commands, Done};
use report::Report;
use world::World;

/// Nobody may be left without an answer for so long.
const PATIENCE: Duration = Duration::from_secs(20);
/// What is on its way when all is well again arrives within this.
const CALM: Duration = Duration::from_secs(30);
/// Messages a second that each member is given of a room in which far more is said.
const BUDGET: u32 = 4;

#[derive(Clone, Debug)]
pub struct Options {
    pub time: Duration,
    pub seed: u64,
    /// On `/echo`; there is a member of rooms for every five of them.
    pub connections: usize,
    pub workers: u32,
    /// One death about so often; none: nobody is killed.
    pub kill_every: Option<Duration>,
    pub reload: bool,
    pub scale: bool,
    pub upgrade: bool,
    /// On average between two commands.
    pub command_every: Duration,
    /// Below these it was no test.
    pub min_kills: u64,
    pub min_reloads: u64,
    pub min_repairs: u64,
    /// Half of the deaths are at chosen steps, of programs that are built for it.
    pub aimed: bool,
    /// Those programs do one thing wrong, so that all is not well.
    pub naive: Option<Naive>,
    /// Instead of all that: does anything grow?
    pub flat: Option<Laps>,
    /// Where logs of a run that failed are kept.
    pub keep: PathBuf,
}

/// What is done wrong (`protocol::fault`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naive {
    /// The kernel's counters are ignored: streams break.
    Truth,
    /// What is published is not in the same record as the rest of its step: it is published twice.
    Publish,
}

impl Naive {
    #[must_use]
    pub fn parse(name: &str) -> Option<Naive> {
        [Naive::Truth, Naive::Publish]
            .into_iter()
            .find(|naive| naive.name() == name)
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Naive::Truth => "truth",
            Naive::Publish => "publish",
        }
    }

    /// Is this what comes of it?
    #[must_use]
    pub fn is_shown_by(self, kind: Kind) -> bool {
        match self {
            // A request of which bytes are lost, or come twice, may be no request.
            Naive::Truth => matches!(
                kind,
                Kind::Wrong
                    | Kind::Lost
                    | Kind::Doubled
                    | Kind::Disorder
                    | Kind::Closed
                    | Kind::Refused
            ),
            Naive::Publish => kind == Kind::Doubled,
        }
    }
}

/// Runs it. The report says whether all was well.
pub fn run(options: &Options, interrupted: &AtomicBool) -> Report {
    process::raise_open_files();
    // A small log, and small rings, are full before anything is weighed, and do not grow.
    let (log, ring) = match options.flat {
        Some(_) => (1024, 256),
        None => (64 << 10, 4 << 10),
    };
    // So many deaths are ours, not those of a worker that should be given up; and where processors
    // are few, a client of ours may take its time for a head. In some rooms what is said is held back,
    // to be given together.
    let config = format!(
        "[timeouts]\nhung = \"{}s\"\n[http]\nhead_timeout = \"60s\"\n[rooms]\nslow_bytes = \"128 KiB\"\n\
         [[room]]\nmatch = \"room *1\"\nmerge = \"20ms\"\n\
         [[room]]\nmatch = \"judged *1\"\nmerge = \"20ms\"\nhistory = 100\n\
         [[room]]\nmatch = \"judged *\"\nhistory = 100\n\
         [[room]]\nmatch = \"sampled *\"\nbudget = {BUDGET}\n\
         [limits]\nshort_lives = 1000\n[memory]\nlog = \"{log} KiB\"\nring = \"{ring} KiB\"\n{}",
        HUNG.as_secs(),
        appeal::key().section(appeal::KEY, appeal::KEY)
    );
    let aim = options.aimed.then(|| Aim {
        faults: Faults::new(),
        steps: match options.naive {
            Some(Naive::Truth) => &monkey::STEPS_OF_TRUTH,
            Some(Naive::Publish) => &monkey::STEPS_OF_PUBLISHING,
            None => &monkey::STEPS,
        },
    });
    let builder = aim
        .as_ref()
        .map_or_else(Baton::builder, |aim| aim.faults.builder());
    let mut baton = with_api_as(builder, &config)
        .file(appeal::KEY, &appeal::key().file())
        .environment("BATON_NAIVE", options.naive.map_or("", Naive::name))
        .workers(options.workers)
        .start();
    // The report tells of them.
    baton.expect_panics();
    let shared = Shared::new(baton.mark());
    // What grows is looked for where nothing is retained.
    let special = if options.flat.is_none() { 1 } else { 0 };
    let sorts = [
        (Sort::Plain, options.connections / 100 + 1),
        (Sort::Judged, 2 * special),
        (Sort::Sampled, special),
    ];
    let world = World::new(baton.public, options.seed, &sorts);
    let random = Random::of(options.seed, 1);
    let load = Load::new(baton.public, random, world).expect("an epoll");
    let mut run = Run {
        options,
        shared: &shared,
        baton: &baton,
        aim: aim.as_ref(),
        load,
        crowd: Crowd::new(options.seed, options.connections),
        events: Events::with_capacity(1024),
        checked: Instant::now(),
        interrupted,
    };
    let mut figures = None;
    let (deeds, done) = match options.flat {
        Some(laps) => {
            figures = run.laps(laps);
            Default::default()
        }
        None => run.storm(),
    };
    run.calm();
    let moved = match run.is_well() {
        true => baton.status().json["moved"].as_u64().unwrap_or(0),
        false => 0,
    };
    run.stop();
    let is_well = run.is_well();
    let mut load = run.load;
    if is_well {
        // What was decided is known to who starts anew.
        baton.start();
        appeal(&mut load, &baton, "after a restart");
        baton.run(&["stop"]);
    }
    let mut report = Report::new(options, &load, &shared, deeds, done);
    (report.figures, report.moved) = (figures, moved);
    report.read_logs(baton.log_lines());
    if !report.failures.is_empty() {
        report.kept = keep(&baton, &options.keep, &shared.diary, &report).ok();
    }
    report.diary = report
        .failures
        .first()
        .map_or(Vec::new(), |failure| shared.diary.before(failure.at, 12));
    report
}

/// What was decided is in force.
fn appeal(load: &mut Load<World>, baton: &Baton, when: &str) {
    let World { court, ledger, .. } = &load.world;
    for (who, fault) in appeal::appeal(baton.public, court, ledger, when) {
        load.fail(who, fault);
    }
}

struct Run<'a> {
    options: &'a Options,
    shared: &'a Shared,
    baton: &'a Baton,
    aim: Option<&'a Aim>,
    load: Load<World>,
    crowd: Crowd,
    events: Events,
    checked: Instant,
    interrupted: &'a AtomicBool,
}

impl Run<'_> {
    /// All that is done to baton, under load.
    fn storm(&mut self) -> (Deeds, Done) {
        let Run {
            options,
            shared,
            baton,
            aim,
            ..
        } = *self;
        self.fill();
        thread::scope(|scope| {
            let monkey = options.kill_every.map(|every| {
                let random = Random::of(options.seed, 2);
                scope.spawn(move || monkey::run(shared, random, every, aim))
            });
            let commands = Commands {
                reload: options.reload,
                scale: options.scale,
                upgrade: options.upgrade,
                may_fail: options.kill_every.is_some(),
            };
            let operator = scope.spawn(move || {
                let random = Random::of(options.seed, 3);
                operator::run(baton, shared, random, commands, options.command_every)
            });
            let end = Instant::now() + options.time;
            // Longer, if too little has happened by then.
            let latest = end + 2 * options.time;
            let is_enough = || {
                shared.kills.load(Ordering::Relaxed) >= options.min_kills
                    && shared.reloads.load(Ordering::Relaxed) >= options.min_reloads
            };
            while (Instant::now() < end || !is_enough() && Instant::now() < latest)
                && self.is_well()
            {
                // Where all takes long, no command is carried out as long as somebody dies all the time.
                let is_late = Instant::now() > end;
                let killed = shared.kills.load(Ordering::Relaxed) >= options.min_kills;
                shared.rest.store(is_late && killed, Ordering::Relaxed);
                self.turn();
            }
            shared.stop.store(true, Ordering::Relaxed);
            // The load goes on while the last command is carried out.
            let is_running =
                || !operator.is_finished() || monkey.as_ref().is_some_and(|m| !m.is_finished());
            while is_running() {
                self.turn();
            }
            let deeds = monkey.map(|monkey| monkey.join().expect("nobody panics"));
            (
                deeds.unwrap_or_default(),
                operator.join().expect("nobody panics"),
            )
        })
    }

    /// Reloads and kills, lap after lap: what baton holds after the first laps, and after all.
    fn laps(&mut self, laps: Laps) -> Option<(Figures, Figures)> {
        self.fill();
        self.some_laps(Laps { laps: 5, ..laps });
        let before = self.weigh()?;
        self.some_laps(laps);
        Some((before, self.weigh()?))
    }

    fn some_laps(&mut self, laps: Laps) {
        let Run {
            shared,
            baton,
            options,
            ..
        } = *self;
        let random = Random::of(options.seed, 4);
        thread::scope(|scope| {
            let driver = scope.spawn(move || flat::run(baton, shared, random, laps));
            while !driver.is_finished() {
                self.turn();
                if !self.is_well() {
                    shared.stop.store(true, Ordering::Relaxed);
                }
            }
        });
    }

    /// What baton holds when nobody says anything.
    fn weigh(&mut self) -> Option<Figures> {
        self.load.world.quiet = true;
        self.load.hurry(true);
        let is_quiet = self.wait("all is quiet", |run| run.load.waiting().next().is_none());
        let figures = is_quiet.then(|| Figures::of(self.baton));
        self.load.hurry(false);
        self.load.world.quiet = false;
        figures
    }

    /// Everybody comes.
    fn fill(&mut self) {
        while self.crowd.come(&mut self.load, 50) && self.is_well() {
            self.turn();
        }
        self.crowd.open_court(&mut self.load, self.baton.admin);
        let heard = |run: &Self| run.load.world.members.iter().all(|members| *members > 0);
        self.wait("every room has a member", heard);
        self.load.world.publishing = true;
        self.shared.diary.note("all are there");
    }

    /// Nothing new is said; all that was said must arrive, and everybody go in good order.
    fn calm(&mut self) {
        self.shared.diary.note("calm");
        self.load.world.quiet = true;
        self.load.hurry(true);
        if self.wait("all that was said arrives", |run| {
            run.load.waiting().next().is_none() && run.load.world.away.is_empty()
        }) {
            self.take_census();
            let missing: Vec<String> = self
                .load
                .world
                .ledger
                .missing()
                .map(|message| format!("{message:?}"))
                .collect();
            if !missing.is_empty() {
                let fault = Fault::new(
                    Kind::Lost,
                    format!("nobody heard of {}", missing.join(", ")),
                );
                self.load.fail("the ledger".to_owned(), fault);
            }
            self.load.world.ending = true;
            if self.wait("all connections are closed", |run| run.load.is_empty()) {
                appeal(&mut self.load, self.baton, "at the end");
            }
        }
    }

    /// Nothing is left of it.
    fn stop(&mut self) {
        self.shared.diary.note("stop");
        let stopped = self.baton.run(&["stop"]);
        if !stopped.status.success() {
            let said = String::from_utf8_lossy(&stopped.stderr).into_owned();
            self.load
                .fail("stop".to_owned(), Fault::new(Kind::Command, said));
        }
        let left = self.baton.processes();
        if !left.is_empty() {
            let what = format!("processes are left: {left:?}");
            self.load
                .fail("stop".to_owned(), Fault::new(Kind::Command, what));
        }
        for line in self.baton.log_lines() {
            if line.contains("panicked at") {
                self.load.fail(line, Fault::new(Kind::Panic, "see its log"));
            }
        }
    }

    /// False: it did not come true, and everybody who waits has failed.
    fn wait(&mut self, what: &str, is_true: impl Fn(&Self) -> bool) -> bool {
        let end = Instant::now() + CALM;
        while self.is_well() && !is_true(self) {
            if Instant::now() > end {
                let waiting: Vec<String> = self.load.waiting().map(|talk| talk.name()).collect();
                for who in waiting {
                    let fault = Fault::new(Kind::Lost, format!("not within {CALM:?}: {what}"));
                    self.load.fail(who, fault);
                }
                return false;
            }
            self.turn();
        }
        self.is_well()
    }

    /// Rooms count who is in them, whatever has happened.
    fn take_census(&mut self) {
        let mut client = rooms::Client::connect(self.baton.public);
        for (room, members) in self.load.world.members.clone().into_iter().enumerate() {
            let name = self.load.world.ledger.name(room).to_owned();
            let end = Instant::now() + CALM;
            loop {
                let ok = client.ok(serde_json::json!({ "who": name }));
                if ok["count"] == members {
                    break;
                }
                if Instant::now() > end {
                    let what = format!("{} are in it, {members} should be", ok["count"]);
                    self.load.fail(name, Fault::new(Kind::Wrong, what));
                    break;
                }
                self.turn();
            }
        }
    }

    fn turn(&mut self) {
        let until = Instant::now() + Duration::from_millis(5);
        if let Err(error) = self.load.turn(until, &mut self.events) {
            let fault = Fault::new(Kind::Broken, format!("epoll: {error}"));
            self.load.fail("the load".to_owned(), fault);
        }
        let wave = self.shared.wave.swap(0, Ordering::Relaxed);
        self.load.wave(wave as usize);
        self.crowd.call_again(&mut self.load);
        if !self.load.world.quiet {
            self.crowd.renew(&mut self.load);
        }
        if self.checked.elapsed() > Duration::from_secs(1) {
            self.checked = Instant::now();
            self.load.check(PATIENCE);
        }
        let faults = std::mem::take(&mut *self.shared.faults.lock().expect("nobody panics"));
        for fault in faults {
            self.load.fail("the operator".to_owned(), fault);
        }
    }

    fn is_well(&self) -> bool {
        self.load.failures.is_empty() && !self.interrupted.load(Ordering::Relaxed)
    }
}

/// Copies the logs of a run that failed, with what was done and what went wrong.
fn keep(baton: &Baton, into: &Path, diary: &Diary, report: &Report) -> std::io::Result<PathBuf> {
    let into = into.join(format!("seed-{}-{}", report.seed, std::process::id()));
    fs::create_dir_all(&into)?;
    for entry in fs::read_dir(baton.run_dir().join("logs"))? {
        let entry = entry?;
        fs::copy(entry.path(), into.join(entry.file_name()))?;
    }
    fs::write(
        into.join("diary"),
        diary.before(Instant::now(), usize::MAX).join("\n"),
    )?;
    let failures: Vec<String> = report
        .failures
        .iter()
        .map(|failure| format!("{} {failure}", diary.time(failure.at)))
        .collect();
    fs::write(into.join("failures"), failures.join("\n"))?;
    Ok(into)
}
