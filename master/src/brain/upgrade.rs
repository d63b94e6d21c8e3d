//! An upgrade: another program takes the master's place, guard and brain, under the guard's pid.
//!
//! A thread tries the program on disk ([`crate::trial`]). Then the upgrade waits for its turn among
//! the orders, and at the end of a turn of the loop, when nothing is in hand, the brain offers the
//! guard's place to it and stands by ([`protocol::guard::takeover`]). What becomes of it is in the
//! state: the brain that tells who asked is another than the one that was asked.

use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use protocol::fault;
use protocol::guard::takeover::Offer;
use serde::{Deserialize, Serialize};

use super::Brain;
use crate::control::{self, Answer, Upgraded};
use crate::figures::What;
use crate::link::Link;
use crate::program::Build;
use crate::trial::{self, Tried};

/// What was upgraded so far; kept for the brains to come.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct History {
    /// What runs.
    pub build: Build,
    attempted: u64,
    done: u64,
    /// An attempt is under way.
    current: Option<Attempt>,
    /// What the last one came to.
    last: Option<Result<Upgraded, String>>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Attempt {
    /// The program is tried, or waits for its turn.
    Trying,
    /// It has been offered the guard's place.
    Offered { number: u32, build: Build },
}

impl History {
    pub fn new(build: Build) -> History {
        History {
            build,
            attempted: 0,
            done: 0,
            current: None,
            last: None,
        }
    }

    pub fn status(&self) -> control::Upgrade {
        let last = self.last.as_ref();
        let said = |last: &Result<Upgraded, String>| match last {
            Ok(_) => "ok".to_owned(),
            Err(why) => why.clone(),
        };
        control::Upgrade {
            running: self.current.is_some(),
            attempted: self.attempted,
            done: self.done,
            last_result: last.map(said),
        }
    }

    fn begin(&mut self) {
        self.attempted += 1;
        self.current = Some(Attempt::Trying);
    }

    fn end(&mut self, result: Result<Build, String>) {
        self.current = None;
        self.last = Some(result.map(|build| {
            self.done += 1;
            let old = std::mem::replace(&mut self.build, build);
            Upgraded {
                from: old.to_string(),
                to: self.build.to_string(),
            }
        }));
    }
}

#[derive(Debug)]
pub struct Upgrades {
    pub history: History,
    stage: Stage,
    /// Clients of the control socket that wait for its end.
    waiting: Vec<usize>,
}

#[derive(Debug)]
enum Stage {
    Idle,
    /// The thread's result is to come until then.
    Trying {
        result: Receiver<Result<Tried, String>>,
        by: u64,
    },
    /// Other orders come first.
    Queued(Tried),
    /// Words that wait to be said come first; until then.
    Due {
        tried: Tried,
        by: u64,
    },
}

impl Upgrades {
    pub fn new(history: History) -> Upgrades {
        Upgrades {
            history,
            stage: Stage::Idle,
            waiting: Vec::new(),
        }
    }

    /// When it has taken too long.
    pub fn due(&self) -> Option<u64> {
        match self.stage {
            Stage::Trying { by, .. } | Stage::Due { by, .. } => Some(by),
            Stage::Idle | Stage::Queued(_) => None,
        }
    }
}

impl Brain<'_> {
    /// By an operator: by a signal, or as a client that is to be told what came of it.
    pub(super) fn upgrade(&mut self, client: Option<usize>) {
        self.upgrades.waiting.extend(client);
        if self.stopping.is_some() {
            return self.end_upgrade(Err("baton stops".to_owned()));
        }
        if self.upgrades.history.current.is_some() {
            return log::info!("an upgrade is under way");
        }
        self.upgrades.history.begin();
        self.keep_config();
        log::info!("upgrade: trying {}", self.context.program.display());
        if let Err(why) = self.try_program() {
            self.end_upgrade(Err(why));
        }
    }

    /// A client asks for an upgrade, or what became of the one behind so many others.
    pub(super) fn on_upgrade_request(&mut self, client: usize, after: Option<u64>) {
        let history = &self.upgrades.history;
        if history.current.is_none() && after.is_some_and(|after| history.attempted > after) {
            self.tell_upgrade(client);
        } else {
            self.upgrade(Some(client));
        }
    }

    fn try_program(&mut self) -> Result<(), String> {
        let within = Duration::from_millis(self.config.timeouts.ready_ms);
        let state = self.state.segment().open_read_only();
        let log = self.state.log().open_read_only();
        let (state, log) = state
            .and_then(|state| Ok((state, log?)))
            .map_err(|error| error.to_string())?;
        let (sender, result) = channel();
        let (path, waker) = (self.context.program.clone(), self.waker.clone());
        let work = move || {
            // Nobody waits any more if the receiver is gone.
            let _ = sender.send(trial::run(&path, &state, &log, within));
            let _ = waker.wake();
        };
        let thread = std::thread::Builder::new().name("upgrade".into());
        thread
            .spawn(work)
            .map_err(|error| format!("no thread to try the program: {error}"))?;
        // The thread keeps the time, unless a disk holds it up.
        let by = self.now + 2 * self.config.timeouts.ready_ms;
        self.upgrades.stage = Stage::Trying { result, by };
        Ok(())
    }

    /// A thread has ended.
    pub(super) fn on_tried(&mut self) {
        let Stage::Trying { result, .. } = &self.upgrades.stage else {
            return;
        };
        match result.try_recv() {
            Err(_) => {}
            Ok(Err(why)) => self.end_upgrade(Err(why)),
            Ok(Ok(tried)) => {
                self.upgrades.stage = Stage::Queued(tried);
                self.orders.upgrade();
            }
        }
    }

    /// Its turn has come.
    pub(super) fn on_upgrade_turn(&mut self) {
        self.upgrades.stage = match std::mem::replace(&mut self.upgrades.stage, Stage::Idle) {
            Stage::Queued(tried) => Stage::Due {
                tried,
                by: self.now + self.config.timeouts.ready_ms,
            },
            other => other,
        };
    }

    pub(super) fn on_upgrade_due(&mut self) {
        let why = match self.upgrades.stage {
            Stage::Idle | Stage::Queued(_) => return,
            Stage::Trying { .. } => "the program could not be read in time",
            Stage::Due { .. } => "a worker does not take what is to be said to it",
        };
        self.fail_upgrade(why.to_owned());
    }

    /// Between two turns of the loop. If the place is taken, this brain ends here.
    pub(super) fn give_way(&mut self) {
        let quiet = self.links.values().all(Link::has_said_all);
        if !(quiet && matches!(self.upgrades.stage, Stage::Due { .. })) || self.orphaned {
            return;
        }
        let Stage::Due { tried, .. } = std::mem::replace(&mut self.upgrades.stage, Stage::Idle)
        else {
            return;
        };
        log::info!("upgrade: giving way to baton {}", tried.build);
        let number = self.page.next_offer();
        let build = tried.build;
        self.upgrades.history.current = Some(Attempt::Offered { number, build });
        self.keep_config();
        self.logging.flush(Duration::from_millis(100));
        // SAFETY: all of them are open, and nothing is closed before the exec.
        let keep = |fd: RawFd| unsafe { BorrowedFd::borrow_raw(fd) };
        let keep: Vec<BorrowedFd<'_>> = self.known_fds().into_iter().map(keep).collect();
        let offer = Offer {
            number,
            program: tried.program.as_fd(),
            keep: &keep,
            within: Duration::from_millis(self.config.timeouts.ready_ms),
        };
        let doorbell = self.context.doorbell.as_fd();
        let refused = offer.make(self.page, &self.life, doorbell);
        self.orphaned |= refused.is_orphan();
        self.fail_upgrade(refused.to_string());
        // It may have rung.
        self.on_doorbell();
    }

    /// For a new brain: what became of an upgrade that another has begun. True: this is the program
    /// that was to take over.
    pub(super) fn settle_upgrade(&mut self) -> bool {
        let result = match self.upgrades.history.current.take() {
            None => return false,
            Some(Attempt::Offered { number, build }) if self.page.last_taken() == number => {
                Ok(build)
            }
            Some(Attempt::Offered { .. }) => Err("the old brain died while it gave way"),
            Some(Attempt::Trying) => Err("the brain died that had begun it"),
        };
        let is_taken = result.is_ok();
        fault::point("master:upgrade-settle");
        self.end_upgrade(result.map_err(str::to_owned));
        is_taken
    }

    /// It has come to nothing, in whatever stage.
    pub(super) fn fail_upgrade(&mut self, why: String) {
        self.upgrades.stage = Stage::Idle;
        if self.upgrades.history.current.is_some() {
            self.end_upgrade(Err(why));
        }
        self.orders.stayed();
    }

    fn end_upgrade(&mut self, result: Result<Build, String>) {
        self.upgrades.history.end(result);
        self.keep_config();
        match &self.upgrades.history.last {
            Some(Ok(Upgraded { from, to })) => {
                self.happens(What::Upgrade, None);
                log::info!("upgrade: baton {to} in place of {from}");
            }
            Some(Err(why)) => log::error!("upgrade: failed: {why}; baton goes on as it was"),
            None => {}
        }
        for client in std::mem::take(&mut self.upgrades.waiting) {
            self.tell_upgrade(client);
        }
    }

    fn tell_upgrade(&mut self, client: usize) {
        let answer = match &self.upgrades.history.last {
            Some(Ok(upgraded)) => Answer::with(upgraded),
            Some(Err(why)) => Answer::error(format!("not upgraded: {why}")),
            None => Answer::error("there was no upgrade"),
        };
        self.server.answer(client, &answer);
        // Its next request may be there already.
        self.on_client(client);
    }
}
