//! Lists of words are made ready in a thread: that takes a second for 100,000 of them, and only what is
//! sent to rooms with a [filter](crate::filter) waits for it, unread in its connection, and so in order and
//! bounded; all else goes on.

use std::sync::mpsc::{self, Receiver};
use std::thread;

use protocol::history;
use protocol::memory::Segment;
use protocol::roles;
use protocol::settings::{Filter, Words};
use protocol::words;
use rustc_hash::FxHashSet;

use crate::birth::borrowed;
use crate::brain::Brain;
use crate::filter::Filters;

/// Filters that are being made ready.
#[derive(Debug)]
pub struct Making {
    made: Receiver<Filters>,
    /// Connections with a message that cannot be judged yet.
    pub waiting: FxHashSet<u32>,
}

impl Making {
    /// Begins with it; the loop is woken when it is done.
    #[must_use]
    pub fn begin(filters: &[Filter], retained: &Segment) -> Making {
        let (done, made) = mpsc::sync_channel(1);
        // What is in the memory may be another list by the time it is looked at.
        let read = |f: &Filter| (f.words, words::read(retained, history::WORDS, f.words));
        let lists: Vec<(Words, Vec<u8>)> = filters.iter().map(read).collect();
        let filters = filters.to_vec();
        let make = move || {
            let list = |words| {
                let found = lists.iter().find(|(of, _)| *of == words);
                found.map(|(_, list)| list.clone()).unwrap_or_default()
            };
            let _ = done.send(Filters::new(&filters, list));
            let _ = nix::unistd::write(borrowed(roles::LOG_BELL), &1u64.to_ne_bytes());
        };
        let builder = thread::Builder::new().name("words".to_owned());
        if let Err(e) = builder.spawn(make.clone()) {
            log::warn!("words are made ready without a thread: {e}");
            make();
        }
        Making {
            made,
            waiting: FxHashSet::default(),
        }
    }
}

impl Brain {
    /// What is said is judged by other lists, once they are ready. Until then it is by those of before.
    pub(crate) fn make_filters(&mut self) {
        let waiting = self.making.take().map(|making| making.waiting);
        let making = Making::begin(&self.settings.filters, &self.retained);
        self.making = Some(Making {
            waiting: waiting.unwrap_or_default(),
            ..making
        });
    }

    /// Those who wait for them go on.
    pub(crate) fn take_filters(&mut self) {
        let Some(making) = &mut self.making else {
            return;
        };
        if let Ok(filters) = making.made.try_recv() {
            self.filters = filters;
            self.again.extend(making.waiting.drain());
            self.making = None;
        }
    }

    /// Its input is held back until they are.
    pub(crate) fn is_unready(&self, slot: u32) -> bool {
        let making = self.making.as_ref();
        making.is_some_and(|making| making.waiting.contains(&slot))
    }
}
