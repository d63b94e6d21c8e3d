//! How the master's guard comes to be, and each of its brains.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use mio::{Poll, Waker};
use nix::sys::eventfd::{EfdFlags, EventFd};
use protocol::clock::{monotonic_ms, unix_ms};
use protocol::guard::{self, Life, Outcome, Place};
use protocol::logging::{self, Logging};
use protocol::random::Random;
use protocol::sanctions::Sanction;
use protocol::scheduling;

use super::{Brain, Origin, accept, crew, operate, prepare, sweep, upgrade};
use crate::config::{Config, Format, Source};
use crate::connections::Connections;
use crate::control::server::Server;
use crate::kept::Keeper;
use crate::listener::Listener;
use crate::moves::Moves;
use crate::pasts::Pasts;
use crate::pid_file::PidFile;
use crate::poison;
use crate::program::worker_path;
use crate::readiness::Readiness;
use crate::reload::Orders;
use crate::run_dir::RunDir;
use crate::sanctions::Table;
use crate::sequencer::Sequencer;
use crate::serve::Start;
use crate::spawn;
use crate::state::{Head, LINES, LINES_SIZE, State};
use crate::supervise::Supervisor;

const RANDOM_SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// What a guard hands to each of its brains.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) config: Config,
    pub(super) source: Source,
    pub(super) run: RunDir,
    pub(super) pid_file: PidFile,
    pub(super) listeners: Vec<Listener>,
    pub(super) control: OwnedFd,
    /// A brain has its own copy of this memory, and alone changes it.
    pub(super) readiness: RefCell<Readiness>,
    pub(super) state: State,
    /// Rung by the guard.
    pub(super) doorbell: OwnedFd,
    /// The master's own, on disk.
    pub(super) program: PathBuf,
}

/// Serves, under a guard, until it is told to stop.
pub fn run(start: Start) -> ! {
    let Start {
        mut config,
        source,
        run,
        pid_file,
        listeners,
        control,
        mut readiness,
        program,
        nofile: _,
        sanctions,
    } = start;
    let made = make_state(&mut config, &program, &sanctions);
    let (state, doorbell) = match made {
        Ok(made) => made,
        Err(error) => {
            readiness.failed(&format!("cannot start: {error}"));
            listeners.iter().for_each(Listener::remove);
            let _ = pid_file.remove();
            std::process::exit(1)
        }
    };
    let context = Context {
        config,
        source,
        run,
        pid_file,
        listeners,
        control,
        readiness: RefCell::new(readiness),
        state,
        doorbell,
        program,
    };
    guard(&context, false)
}

/// Becomes the guard, and ends with the last brain. `takes_over`: another guard has given way.
pub(super) fn guard(context: &Context, takes_over: bool) -> ! {
    let place = Place {
        page: context.state.page(),
        doorbell: context.doorbell.as_fd(),
        successor: &context.arguments(true),
        takes_over,
    };
    let code = match guard::run_in(&place, context, brain) {
        // Others go on.
        Ok(Outcome::NotTaken) => std::process::exit(Outcome::NotTaken.code()),
        Ok(outcome) => outcome.code(),
        Err(error) => {
            eprintln!("baton-master: the guard cannot go on: {error}");
            1
        }
    };
    // Who waits has been told, unless every brain died before it could; then this does it.
    let reason = "the master died while it started; see its log";
    context.readiness.borrow_mut().failed(reason);
    context.listeners.iter().for_each(Listener::remove);
    let _ = std::fs::remove_file(context.run.socket());
    let _ = context.pid_file.remove();
    std::process::exit(code)
}

fn make_state(
    config: &mut Config,
    program: &Path,
    sanctions: &[Sanction],
) -> io::Result<(State, OwnedFd)> {
    let _ = guard::name_process(c"baton-master");
    spawn::fill_low_numbers()?;
    guard::become_subreaper()?;
    let now_ms = unix_ms();
    let state = State::create(config.memory.log as usize, now_ms)?;
    state.set(Head::StartedAt.word(), now_ms / 1_000);
    config.place_words(state.history(), 0);
    let mut table = Table::recover(&state, config.limits.sanctions);
    let in_force = |sanction: &&Sanction| !sanction.is_over(now_ms);
    let in_force = sanctions.iter().filter(in_force);
    in_force.for_each(|sanction| table.load(&state, sanction));
    let path = worker_path(program);
    let program = guard::held_program(&path)
        .map_err(|error| io::Error::other(format!("cannot read {}: {error}", path.display())))?;
    set_program(&state, program);
    Ok((state, eventfd()?))
}

/// The program belongs to the state from now on.
pub(super) fn set_program(state: &State, program: OwnedFd) {
    use std::os::fd::IntoRawFd;
    state.set(Head::ProgramFd.word(), program.into_raw_fd() as u64 + 1);
}

fn eventfd() -> io::Result<OwnedFd> {
    let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
    EventFd::from_flags(flags)?.as_fd().try_clone_to_owned()
}

/// Runs in the guard's child and never returns.
fn brain(context: &Context, life: Life) -> ! {
    let started = start_logging(context).and_then(|logging| {
        Brain::start(context, life, logging).map_err(|error| error.to_string())
    });
    match started {
        Ok(mut brain) => brain.live(),
        Err(reason) => {
            log::error!("cannot start: {reason}");
            context.readiness.borrow_mut().failed(&reason);
            guard::exit(1)
        }
    }
}

fn start_logging(context: &Context) -> Result<Logging, String> {
    let words: &'static _ = Box::leak(Box::new(context.state.segment().clone()));
    let words = words.words(LINES / 8, LINES_SIZE / 8);
    // SAFETY: stderr stays open for good.
    let stderr = unsafe { BorrowedFd::borrow_raw(2) };
    let options = logging::Options {
        role: "master".to_owned(),
        filter: context.config.log.level.to_string(),
        format: log_format(&context.config),
    };
    logging::init(words, stderr, &options).map_err(|error| error.to_string())
}

/// Of all logs.
pub(super) fn log_format(config: &Config) -> logging::Format {
    match config.log.format {
        Format::Text => logging::Format::Text,
        Format::Json => logging::Format::Json,
    }
}

impl<'a> Brain<'a> {
    fn start(context: &'a Context, life: Life, logging: Logging) -> io::Result<Brain<'a>> {
        let state = &context.state;
        state.recover().map_err(io::Error::other)?;
        // What is open before this brain opens anything is what the last one left.
        let left = sweep::open_fds()?;
        let (config, source, history) = prepare::kept(context);
        state.page().set_patience(crew::patience_of_guard(&config));
        if config.settings.batch
            && let Err(error) = scheduling::batch()
        {
            log::warn!("cannot be scheduled in batches: {error}");
        }
        let verdict = poison::note_death(state);
        let poll = Poll::new()?;
        let mut brain = Brain {
            context,
            state,
            page: state.page(),
            life,
            logging,
            waker: Arc::new(Waker::new(poll.registry(), Origin::Waker.token())?),
            poll,
            born: Instant::now(),
            now: 1,
            supervisor: Supervisor::new(crew::patience(&config)),
            orders: Orders::new(state.head(Head::Seats) as u16),
            links: BTreeMap::new(),
            sequencer: Sequencer::recover(
                state,
                prepare::bounds(&config),
                verdict,
                monotonic_ms(),
                unix_ms(),
            ),
            verdict,
            connections: Connections::recover(state),
            moves: Moves::default(),
            pasts: Pasts::default(),
            gate: accept::Gate::new(context.listeners.len())?,
            server: Server::new(),
            callers: operate::Callers::default(),
            preparation: prepare::Preparation::default(),
            upgrades: upgrade::Upgrades::new(history),
            keeper: Keeper::start(state.history().clone(), context.run.moderation())?,
            last_seat: None,
            feed: super::feed::Feed::default(),
            sample: None,
            random: Random::new(RANDOM_SEED ^ u64::from(std::process::id())),
            again: Vec::new(),
            reaped: Vec::new(),
            next_tick: 0,
            next_presence: 0,
            busy: true,
            stopping: None,
            orphaned: false,
            config,
            source,
        };
        let rates = brain.config.settings.rates.clone();
        brain.sequencer.set_rates(&rates);
        brain.register()?;
        if life.number == 1 {
            brain.warn();
            brain.boot();
        } else {
            brain.take_over(left)?;
        }
        Ok(brain)
    }
}
