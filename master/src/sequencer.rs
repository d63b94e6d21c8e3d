//! From the workers' rings to the log: every message gets its place here, and all subscribers see
//! one order.
//!
//! A step reads one record of one ring and appends its answer to the log. The ring's read index,
//! the log's head and the room's words change in one record of the journal: killed at any point,
//! the step has happened, or has not and is done by the next brain. A ring is memory that another
//! process writes: nothing in it is trusted, and a bad one costs its worker only.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use protocol::api::{Ask, Kind, error};
use protocol::bucket::Buckets;
use protocol::clock::monotonic_us;
use protocol::fault;
use protocol::ids::Cid;
use protocol::journal::Record;
use protocol::memory::Segment;
use protocol::record::{Asker, Down, Refusal, Up};
use protocol::row;
use protocol::settings::{Options, Presence, Rates};
use protocol::stream::{self, Reader, Writer};

use crate::history::{History, Rule};
use crate::keys::Keys;
use crate::pace::Pace;
use crate::poison::{self, DEATHS, InHand, Verdict};
use crate::present::Present;
use crate::ring_set::RingSet;
use crate::rooms::{MAX_NAME, Rooms};
use crate::sanctions::Table;
use crate::state::{self, LOG_SEGMENT, State};

pub mod asked;
mod describe;
mod moderate;
mod own;
mod presence;
mod publish;
mod say;

use asked::Asked;
pub use asked::Asking;
use describe::describe;
use publish::Message;

/// Records, and bytes, of one ring in one turn; then it is the next one's turn.
const TURN_RECORDS: usize = 256;
const TURN_BYTES: usize = 1 << 20;

/// Bytes that are unread in a ring in which somebody may have found no room: in a small one, half of
/// it, which is the most that a record takes.
const MUCH: u64 = 64 << 10;

/// The room number by which a worker takes back all that it has counted.
const ALL_ROOMS: u32 = u32::MAX;

/// What all rooms together may take up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bounds {
    pub rooms: u32,
    /// Bytes that they retain.
    pub history: u64,
    /// The first that matches a room's name counts for it.
    pub rules: Vec<Rule>,
    /// Keys of messages that are remembered, and for how long.
    pub keys: u32,
    pub key_age_ms: u64,
    /// In which rooms users are listed, and the bytes that they take in all.
    pub presence: Presence,
    pub users: u64,
    /// What is special about some rooms.
    pub options: Options,
    /// Who can be muted or banned at once.
    pub sanctions: u32,
}

/// A worker's ring, to be read.
#[derive(Debug)]
pub struct Ring {
    number: u16,
    reader: Reader,
    /// So many unread bytes are [`MUCH`].
    much: u64,
}

impl Ring {
    #[must_use]
    pub fn new(number: u16, segment: Arc<Segment>) -> Ring {
        let size = (segment.size() - stream::HEADER) as u64;
        Ring {
            number,
            much: MUCH.min(size / 2),
            reader: Reader::new(segment),
        }
    }

    /// Behind the last record that is there now.
    #[must_use]
    pub fn head(&self) -> u64 {
        self.reader.head()
    }
}

/// What a worker says of its connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    Ack(Vec<Cid>),
    Closed(Vec<Cid>),
}

/// What a turn with a ring has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It is read to its end.
    Empty,
    /// What comes next is about connections, and is read, up to `next`, once it has been
    /// [heeded](Sequencer::heeded).
    Said { said: Said, next: u64 },
    /// What comes next is asked of the brain, and is read, up to `next`, once it has been
    /// [answered](Sequencer::finish_asked) or [heeded](Sequencer::heeded).
    Asked {
        asking: Asking,
        what: Ask,
        next: u64,
    },
    /// There is more.
    More,
    /// Its worker has broken the rules; what was read before that has been sequenced.
    Hostile,
}

/// What a step has come to.
enum Stepped {
    Good,
    /// It is not done, and goes on in the next turn.
    Again,
    Asked(Asking, Ask),
    /// The record is not one of ours.
    Bad,
}

/// The one place at which messages are put in order.
#[derive(Debug)]
pub struct Sequencer {
    log: Writer,
    rooms: Rooms,
    history: History,
    keys: Keys,
    present: Present,
    pace: Pace,
    sanctions: Table,
    record: Record,
    /// The ring of which a record is done with the next commit, and how far it has been read then.
    done: Option<(u16, u64)>,
    now_ms: u64,
    unix_ms: u64,
    bytes: Vec<u8>,
    answer: Vec<u8>,
    verdict: Verdict,
    /// For whom there is something new since the bells were rung.
    news: RingSet,
    /// Where the log was when all were woken.
    all_at: u64,
    /// When something was appended is known of the first message in a turn.
    is_stamped: bool,
    rates: Rates,
    /// What each user has sent of late, and what was sent to each room. They go with this brain.
    users: Buckets<Box<[u8]>>,
    to_rooms: Buckets<u32>,
}

impl Sequencer {
    /// For a brain that starts. It goes by what the last one died of. What is asked first may be sequenced
    /// before the first turn: what time it is must be known.
    #[must_use]
    pub fn recover(
        state: &State,
        bounds: Bounds,
        verdict: Verdict,
        now_ms: u64,
        unix_ms: u64,
    ) -> Sequencer {
        let rooms = Rooms::recover(state, bounds.rooms);
        let watchers = |room| rooms.watchers(state, room);
        Sequencer {
            log: Writer::new(state.log().clone()),
            present: Present::recover(state, bounds.presence, bounds.users, now_ms, watchers),
            rooms,
            history: History::recover(state, bounds.rules, bounds.history, now_ms),
            keys: Keys::recover(state, bounds.keys, bounds.key_age_ms),
            pace: Pace::recover(state, bounds.options),
            sanctions: Table::recover(state, bounds.sanctions),
            record: Record::new(),
            done: None,
            now_ms,
            unix_ms,
            bytes: Vec::new(),
            answer: Vec::new(),
            verdict,
            // The last brain may have died before it rang.
            news: RingSet::ALL,
            all_at: 0,
            is_stamped: false,
            rates: Rates::default(),
            users: Buckets::default(),
            to_rooms: Buckets::default(),
        }
    }

    /// From now on so much may be sent.
    pub fn set_rates(&mut self, rates: &Rates) {
        self.rates = rates.clone();
    }

    /// Where the log ends.
    #[must_use]
    pub fn log_head(&self) -> u64 {
        self.log.head()
    }

    #[must_use]
    pub fn rooms(&self) -> &Rooms {
        &self.rooms
    }

    #[must_use]
    pub fn history(&self) -> &History {
        &self.history
    }

    /// From now on these count.
    pub fn configure(&mut self, state: &State, bounds: Bounds) {
        self.rooms.set_capacity(bounds.rooms);
        self.history.configure(state, bounds.rules, bounds.history);
        self.keys.configure(state, bounds.keys, bounds.key_age_ms);
        self.present.configure(state, bounds.presence, bounds.users);
        self.pace.configure(bounds.options);
        self.sanctions.set_capacity(bounds.sanctions);
    }

    /// What is sequenced from now on is said at this time, by the monotonic clock, whose count goes
    /// on from one brain to the next.
    pub fn set_now(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        self.history.set_now(now_ms);
        self.present.set_now(now_ms);
    }

    /// Gives up what has been retained for long enough. True: there is more.
    pub fn expire(&mut self, state: &State) -> bool {
        self.history.expire(state)
    }

    /// Whose bell is to be rung: those who hold a room in which something was said, who have asked,
    /// and whose ring has room again. The others read on when they are awake, and are woken before the
    /// log is far ahead of them.
    pub fn take_news(&mut self) -> RingSet {
        let far = self.log.size() / 8;
        if self.log.head() - self.all_at >= far {
            self.news = RingSet::ALL;
        }
        if self.news == RingSet::ALL {
            self.all_at = self.log.head();
        }
        self.is_stamped = false;
        std::mem::take(&mut self.news)
    }

    /// What is appended next is appended now: workers know by it how long its delivery takes.
    fn stamp(&mut self, state: &State) {
        if !std::mem::replace(&mut self.is_stamped, true) {
            let [place, when] = [0, 1].map(|i| state.log().word(row::STAMP + i));
            // A worker that reads the one and then the other finds that they do not belong together.
            place.store(0, Ordering::Release);
            when.store(monotonic_us(), Ordering::Release);
            place.store(self.log.head(), Ordering::Release);
        }
    }

    /// Is there something about who is where that is not told yet?
    #[must_use]
    pub fn presence_has_changed(&self) -> bool {
        self.rooms.has_changed() || self.present.has_changed()
    }

    /// The worker of this ring is gone.
    pub fn drop_row(&mut self, state: &State, ring: u16) {
        self.rooms.drop_row(state, ring, false);
        self.present.drop_row(state, ring, false);
    }

    /// Sequences what is in the ring, up to a turn's share.
    pub fn turn(&mut self, state: &State, ring: &Ring) -> Turn {
        let mut bytes = 0;
        // Who found no room in it is woken.
        let unread = ring
            .head()
            .wrapping_sub(state.get(state::read_index(ring.number)));
        if unread >= ring.much {
            self.news.insert(ring.number);
        }
        for _ in 0..TURN_RECORDS {
            self.bytes.clear();
            let at = state.get(state::read_index(ring.number));
            let next = match ring.reader.next(at, &mut self.bytes) {
                Ok(Some(next)) => next,
                Ok(None) => return Turn::Empty,
                Err(_) => return Turn::Hostile,
            };
            bytes += self.bytes.len();
            let place = InHand::Record {
                ring: ring.number,
                at,
            };
            poison::take_in_hand(state, place);
            if self.verdict.convicts(place) {
                self.give_up(state, place, ring.number, next);
            } else if let Some(said) = said(&self.bytes) {
                fault::poison("master:poison", &self.bytes);
                return Turn::Said { said, next };
            } else {
                match self.step(state, ring.number, at, next) {
                    Stepped::Good => {}
                    Stepped::Again => return Turn::More,
                    Stepped::Asked(asking, what) => {
                        return Turn::Asked { asking, what, next };
                    }
                    Stepped::Bad => return Turn::Hostile,
                }
            }
            if bytes >= TURN_BYTES {
                break;
            }
        }
        Turn::More
    }

    /// What the ring said of connections has been done.
    pub fn heeded(&self, state: &State, ring: u16, next: u64) {
        state.set(state::read_index(ring), next);
    }

    /// A record that has killed one brain after another: whoever asked is told, unless that killed
    /// as well.
    fn give_up(&mut self, state: &State, place: InHand, ring: u16, next: u64) {
        let up = Up::decode(&self.bytes).filter(|_| !self.verdict.damns(place));
        let what = up.as_ref().map_or_else(|| "dropped".to_owned(), describe);
        log::error!(
            "a record of ring {ring} has killed {DEATHS} brains and more: given up: {what}"
        );
        if let Some(Up::Ask { asker, .. }) = up {
            let body = error("internal", "this is our fault");
            let told = Down::Told {
                asker,
                status: 500,
                kind: Kind::Json,
                body: &body,
            };
            let _ = append(&mut self.log, &mut self.answer, &told);
        } else if let Some(asker) = up.as_ref().and_then(Up::asker) {
            let refused = Down::Refused {
                reason: Refusal::Internal,
                asker,
            };
            let _ = append(&mut self.log, &mut self.answer, &refused);
        }
        self.news.insert(ring);
        self.done = Some((ring, next));
        self.commit(state);
    }

    /// One record.
    fn step(&mut self, state: &State, ring: u16, at: u64, next: u64) -> Stepped {
        let bytes = std::mem::take(&mut self.bytes);
        fault::poison("master:poison", &bytes);
        let up = Up::decode(&bytes);
        let is_its_own = |up: &Up<'_>| up.asker().is_none_or(|asker| asker.ring == ring);
        let good = up.as_ref().is_some_and(is_its_own);
        let mut stepped = if good { Stepped::Good } else { Stepped::Bad };
        if let (Some(Up::Ask { asker, what, data }), true) = (up, good) {
            stepped = match (
                self.ask(state, asker, (at, next), what, data),
                Asking::of(asker),
            ) {
                (Asked::Done, _) => Stepped::Good,
                (Asked::Again, _) => Stepped::Again,
                (Asked::Other(what), Some(asking)) => Stepped::Asked(asking, what),
                (Asked::Other(_), None) => Stepped::Bad,
            };
        } else if let (Some(up), true) = (up, good) {
            if let Err((reason, asker)) = self.sequence(state, ring, &up) {
                let refused = Down::Refused { reason, asker };
                let _ = append(&mut self.log, &mut self.answer, &refused);
                self.news.insert(ring);
            }
            self.done = Some((ring, next));
            fault::point("master:append");
            self.commit(state);
            fault::point("master:appended");
        }
        self.bytes = bytes;
        stepped
    }

    fn commit(&mut self, state: &State) {
        self.log.commit_into(&mut self.record, LOG_SEGMENT);
        // Last: whoever sees that a ring has been read so far finds the answers in the log.
        if let Some((ring, next)) = self.done.take() {
            self.record.set(state::read_index(ring), next);
        }
        state.commit(&mut self.record);
        self.history.settle();
        self.sanctions.settle();
        self.log.committed();
    }

    /// Stages the answer and puts what changes with it into the record, or neither.
    fn sequence<'a>(
        &mut self,
        state: &State,
        ring: u16,
        up: &Up<'a>,
    ) -> Result<(), (Refusal, Asker<'a>)> {
        match *up {
            Up::Publish { .. } | Up::Release { .. } => {
                if let Some(said) = Message::of(up) {
                    self.publish(state, ring, &said)?;
                }
            }
            Up::Open { asker, room } => self.hold(state, ring, asker, room, true)?,
            Up::Hold { asker, room } => self.hold(state, ring, asker, room, false)?,
            Up::Moderate {
                asker,
                room,
                by,
                act,
            } => self.moderate(state, asker, room, by, act)?,
            Up::Withhold {
                asker,
                room,
                from,
                data,
            } => self.withhold(state, ring, asker, room, from, data)?,
            Up::Who { asker, room, limit } => self.who(state, asker, room, limit),
            Up::Watch { asker, room } => self.watch(state, asker, room)?,
            Up::List { room } => self.list_anew(state, room),
            Up::Members {
                room: ALL_ROOMS, ..
            } => {
                self.rooms.forget_row(state, ring);
                self.present.forget_row(state, ring);
            }
            // What it did not count again, it does not hold any more.
            Up::Recounted => {
                self.rooms.drop_row(state, ring, true);
                self.present.drop_row(state, ring, true);
            }
            Up::Members {
                room,
                count,
                watched,
            } => self.count_members(state, ring, room, count, watched),
            Up::Users { room, came, gone } => {
                if self.rooms.holders(room).contains(ring) {
                    self.present.users(state, ring, room, came, gone);
                }
            }
            // Who asked may be held by any worker.
            Up::Told {
                asker,
                status,
                body,
            } => {
                let told = Down::Told {
                    asker,
                    status,
                    kind: Kind::Json,
                    body,
                };
                let _ = append(&mut self.log, &mut self.answer, &told);
                self.news = RingSet::ALL;
            }
            // It has been dealt with.
            Up::Ask { .. } => {}
            // Not for the log.
            Up::Ack { .. } | Up::Closed { .. } => {}
        }
        Ok(())
    }

    /// The worker of this ring holds the room from now on. `joins`: a connection of it comes into it.
    fn hold<'a>(
        &mut self,
        state: &State,
        ring: u16,
        asker: Asker<'a>,
        name: &[u8],
        joins: bool,
    ) -> Result<(), (Refusal, Asker<'a>)> {
        let room = self.open(state, name, asker)?;
        let position = self.rooms.position(state, &self.record, room);
        let total = self.rooms.total(state, room);
        let held = match joins {
            true => Down::Opened {
                room,
                position,
                total,
                asker,
                name,
            },
            false => Down::Held {
                room,
                position,
                total,
                asker,
                name,
            },
        };
        if !append(&mut self.log, &mut self.answer, &held) {
            return Err((Refusal::Internal, asker));
        }
        self.rooms.hold(state, &mut self.record, ring, room);
        self.news.insert(ring);
        Ok(())
    }

    /// The room of this name, new if there was none.
    fn open<'a>(
        &mut self,
        state: &State,
        name: &[u8],
        asker: Asker<'a>,
    ) -> Result<u32, (Refusal, Asker<'a>)> {
        if name.is_empty() || name.len() > MAX_NAME {
            return Err((Refusal::Internal, asker));
        }
        let opened = self.rooms.open(state, &mut self.record, name);
        for evicted in self.rooms.take_evicted() {
            self.history.drop_room(state, evicted);
            self.present.drop_room(state, evicted);
            self.pace.drop_room(evicted);
        }
        opened.map_err(|_| (Refusal::Limit, asker))
    }
}

/// What a record says of connections, if it is such a one.
fn said(bytes: &[u8]) -> Option<Said> {
    Some(match Up::decode(bytes)? {
        Up::Ack { cids } => Said::Ack(cids.iter().collect()),
        Up::Closed { cids } => Said::Closed(cids.iter().collect()),
        _ => return None,
    })
}

/// False: it does not fit into a log of this size.
fn append(log: &mut Writer, bytes: &mut Vec<u8>, down: &Down<'_>) -> bool {
    bytes.clear();
    down.encode(bytes);
    // The log waits for no reader: all but what is being written may go.
    log.stage(log.head(), bytes)
}

#[cfg(test)]
#[path = "sequencer_tests.rs"]
mod tests;
