//! What a reload reads: the configuration and the worker's program. A thread reads them (a slow
//! disk must not hold up the loop); what is kept of them is for the brains to come.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};

use protocol::guard::held_program;

use super::birth::{Context, set_program};
use super::inherit::Heritage;
use super::upgrade::History;
use super::{Brain, crew};
use crate::config::{Config, Source, changes};
use crate::program::{Build, worker_path};
use crate::sequencer::Bounds;
use crate::state::Head;

/// What was read, and is to serve if the new workers do.
#[derive(Debug)]
pub struct Next {
    pub config: Config,
    pub program: OwnedFd,
}

#[derive(Debug, Default)]
pub struct Preparation {
    /// The thread's result, when it comes.
    result: Option<Receiver<Result<Next, Unread>>>,
    /// Until it is adopted or the reload has failed.
    pub next: Option<Next>,
    /// The last configuration that was read is wrong, or cannot be changed to.
    pub is_refused: bool,
}

/// Why there is nothing to serve with.
enum Unread {
    /// One line each.
    Configuration(String),
    Failed(String),
}

/// What the sequencer is told of a configuration.
pub(super) fn bounds(config: &Config) -> Bounds {
    Bounds {
        rooms: config.limits.rooms,
        history: config.memory.history,
        rules: config.rooms.clone(),
        keys: config.limits.keys,
        key_age_ms: config.timeouts.key_ms,
        presence: config.settings.presence.clone(),
        users: config.memory.presence,
        options: config.settings.options.clone(),
        sanctions: config.limits.sanctions,
    }
}

/// The configuration that serves: what was kept last, else what the master started with.
pub(super) fn kept(context: &Context) -> (Config, Source, History) {
    match Heritage::read(&context.state) {
        Ok(kept) => (kept.config, kept.source, kept.history),
        Err(_) => {
            let (config, source) = (context.config.clone(), context.source.clone());
            (config, source, History::new(Build::own()))
        }
    }
}

impl Brain<'_> {
    /// What the operator had better know of the configuration that serves now.
    pub(super) fn warn(&self) {
        for warning in self.config.warnings() {
            log::warn!("{warning}");
        }
    }

    pub(super) fn keep_config(&self) {
        let history = &self.upgrades.history;
        let kept = self.context.heritage(&self.config, &self.source, history);
        let bytes = serde_json::to_vec(&kept).map_err(std::io::Error::other);
        if let Err(error) = bytes.and_then(|bytes| self.state.set_config(&bytes)) {
            log::error!("cannot keep the configuration: {error}");
        }
    }

    /// Begins to read; [`on_prepared`](Brain::on_prepared) follows.
    pub(super) fn prepare(&mut self) {
        let (sender, receiver) = channel();
        let (source, old) = (self.source.clone(), self.config.clone());
        let waker = self.waker.clone();
        let program = worker_path(&self.context.program);
        let read = move || {
            // Nobody waits any more if the receiver is gone.
            let _ = sender.send(read(&source, &old, &program));
            let _ = waker.wake();
        };
        self.preparation.result = Some(receiver);
        let thread = std::thread::Builder::new().name("reload".into());
        if let Err(error) = thread.spawn(read) {
            self.preparation.result = None;
            let why = format!("no thread to read the configuration: {error}");
            self.prepared(Err(Unread::Failed(why)));
        }
    }

    pub(super) fn on_prepared(&mut self) {
        let received = self.preparation.result.as_ref().map(Receiver::try_recv);
        if let Some(Ok(result)) = received {
            self.preparation.result = None;
            self.prepared(result);
        }
    }

    fn prepared(&mut self, result: Result<Next, Unread>) {
        self.preparation.is_refused = matches!(result, Err(Unread::Configuration(_)));
        let wanted = match result {
            Ok(mut next) => {
                // Workers that serve go on with what is in the other half.
                let half = 1 - self.config.half();
                next.config.place_words(self.state.history(), half);
                let wanted = next.config.workers;
                self.preparation.next = Some(next);
                Ok(wanted)
            }
            Err(Unread::Configuration(why) | Unread::Failed(why)) => Err(why),
        };
        let mut steps = Vec::new();
        self.orders.prepared(wanted, &mut steps);
        self.take_steps(steps);
    }

    /// The first new worker has taken over with what was read: it is what serves from now on.
    pub(super) fn adopt_next(&mut self) {
        let Some(Next { config, program }) = self.preparation.next.take() else {
            return;
        };
        let old = self.state.head(Head::ProgramFd) as RawFd - 1;
        set_program(self.state, program);
        // SAFETY: the state has just given it up.
        drop(unsafe { OwnedFd::from_raw_fd(old) });
        self.logging.set_filter(config.log.level.as_str());
        self.sequencer.configure(self.state, bounds(&config));
        self.sequencer.set_rates(&config.settings.rates);
        self.supervisor.set_patience(crew::patience(&config));
        self.page.set_patience(crew::patience_of_guard(&config));
        self.config = config;
        self.warn();
        self.keep_config();
    }
}

fn read(source: &Source, old: &Config, path: &Path) -> Result<Next, Unread> {
    let config = source
        .load()
        .map_err(|errors| Unread::Configuration(errors.to_string()))?;
    changes(old, &config).map_err(|refused| Unread::Configuration(refused.join("\n")))?;
    let program = held_program(path)
        .map_err(|error| Unread::Failed(format!("cannot read {}: {error}", path.display())))?;
    Ok(Next { config, program })
}
