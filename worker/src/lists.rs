//! Lists of words are made ready in a thread: that takes a second for 100,000 of them, and only what is
//! sent to rooms with a [filter](crate::filter) waits for it. It waits where what finds no room in the
//! ring does, so in order and in the connections' own bounds; all else goes on.

use std::sync::mpsc::{self, Receiver};
use std::thread;

use protocol::history;
use protocol::memory::Segment;
use protocol::roles;
use protocol::settings::{Filter, Words};
use protocol::words;

use crate::birth::borrowed;
use crate::brain::Brain;
use crate::filter::Filters;

/// Filters that are being made ready.
pub struct Making(Receiver<Filters>);

impl Making {
    /// Begins with it; the loop is woken when it is done.
    #[must_use]
    pub fn begin(filters: &[Filter], retained: &Segment) -> Making {
        let (done, making) = mpsc::sync_channel(1);
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
        Making(making)
    }
}

impl Brain {
    /// What is said is judged by other lists, once they are ready.
    pub(crate) fn make_filters(&mut self) {
        self.making = Some(Making::begin(&self.settings.filters, &self.retained));
    }

    /// Those who wait for them go on.
    pub(crate) fn take_filters(&mut self) {
        let made = self
            .making
            .as_ref()
            .and_then(|making| making.0.try_recv().ok());
        if let Some(filters) = made {
            self.filters = filters;
            self.making = None;
            self.again.append(&mut self.ring_waiters);
        }
    }
}
