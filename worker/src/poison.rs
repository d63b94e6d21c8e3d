//! What kills one brain after another is found, named and given up, and that alone.
//!
//! A brain says what it is about to work on ([`InHand`]); the next one counts deaths at one place.
//! Progress there ends the count, and so does a death elsewhere: a count of deaths alone would, under
//! many kills, convict whoever is busy. Three deaths give the place up: a connection is closed
//! (1011), a record of the log becomes a `gap` for the members of its room, a connection on its way
//! in is turned away. A place that kills even while it is given up is dropped without a word.

use protocol::address::Shown;
use protocol::ids::Cid;
use protocol::output::Buffer;
use protocol::record::Down;
use protocol::shown::shown;

use crate::brain::Brain;
use crate::buffers;
use crate::slots::{Field, Phase};
use crate::state::{self, GIVEN_UP, Head};
use crate::steps::SESSION;
use crate::websocket::{self, Session, deflate};

/// So many deaths at one place give it up.
const DEATHS: u64 = 3;
/// So many drop it without a word.
const HOPELESS: u64 = 2 * DEATHS;

/// What the brain works on, noted before the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InHand {
    /// By its slot.
    Connection(u32),
    /// A record, by its place in the log.
    Log(u64),
    /// A connection that the master gives.
    Taking(Cid),
}

impl InHand {
    fn pack(self) -> u64 {
        match self {
            InHand::Connection(slot) => 1 << 62 | u64::from(slot),
            InHand::Log(at) => 2 << 62 | at,
            InHand::Taking(Cid(cid)) => 3 << 62 | cid,
        }
    }

    fn unpack(word: u64) -> Option<InHand> {
        let rest = word & !(3 << 62);
        match word >> 62 {
            1 => Some(InHand::Connection(rest as u32)),
            2 => Some(InHand::Log(rest)),
            3 => Some(InHand::Taking(Cid(rest))),
            _ => None,
        }
    }
}

/// Where the last brain died, and how many have in a row.
#[derive(Clone, Copy, Debug, Default)]
pub struct Verdict {
    /// Packed; 0: nowhere.
    place: u64,
    deaths: u64,
}

impl Verdict {
    /// The last brain died there: go carefully.
    #[must_use]
    pub fn suspects(self, place: InHand) -> bool {
        self.place == place.pack()
    }

    /// It is to be given up.
    #[must_use]
    pub fn convicts(self, place: InHand) -> bool {
        self.suspects(place) && self.deaths >= DEATHS
    }

    /// The record of the log that is to be given up, if it is one.
    #[must_use]
    pub fn convicted_record(self) -> Option<u64> {
        match InHand::unpack(self.place) {
            Some(place @ InHand::Log(at)) if self.convicts(place) => Some(at),
            _ => None,
        }
    }

    /// It is to be dropped without a word.
    #[must_use]
    pub fn damns(self, place: InHand) -> bool {
        self.suspects(place) && self.deaths >= HOPELESS
    }
}

/// Bytes of a compressed message that are inflated to be shown; of these less is.
const INFLATED: usize = 16 << 10;

impl Brain {
    pub fn note_in_hand(&self, in_hand: InHand) {
        self.state.set(Head::InHand, in_hand.pack());
    }

    /// What is in hand; of a new brain, what the last one worked on when it died, until the next thing is noted.
    pub fn in_hand(&self) -> Option<InHand> {
        InHand::unpack(self.state.get(Head::InHand))
    }

    pub fn have_in_hand(&self, in_hand: Option<InHand>) {
        self.state
            .set(Head::InHand, in_hand.map_or(0, InHand::pack));
    }

    /// A brain that dies from here on dies of nothing that it works on.
    pub fn nothing_in_hand(&self) {
        self.state.set(Head::InHand, 0);
    }

    /// For a new brain: what the last one died of.
    pub fn count_death(&self) -> Verdict {
        let state = &self.state;
        let Some(place) = self.in_hand() else {
            state.set(Head::Deaths, 0);
            return Verdict::default();
        };
        let progress = self.progress(place);
        let again = state.get(Head::DeathPlace) == place.pack()
            && state.get(Head::DeathProgress) == progress;
        let deaths = if again {
            state.get(Head::Deaths) + 1
        } else {
            1
        };
        state.set(Head::DeathPlace, place.pack());
        state.set(Head::DeathProgress, progress);
        state.set(Head::Deaths, deaths);
        self.nothing_in_hand();
        if deaths >= DEATHS {
            // It was no fault of this worker's.
            state.set(Head::ShortLives, 1);
        }
        Verdict {
            place: place.pack(),
            deaths,
        }
    }

    /// Changes whenever something is done there.
    fn progress(&self, place: InHand) -> u64 {
        match place {
            InHand::Connection(slot) => {
                let counts = [
                    Field::Consumed,
                    Field::Parsed,
                    Field::Produced,
                    Field::Written,
                    Field::Cursor,
                ];
                // Another connection in the same slot is another place.
                let cid = self.slots.cid(slot).0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                counts.into_iter().fold(cid, |sum, field| {
                    sum.wrapping_add(self.slots.get(slot, field))
                })
            }
            InHand::Log(at) => at,
            InHand::Taking(cid) => cid.0,
        }
    }

    /// The connection is convicted: says so, and what it last sent.
    pub fn name_poison(&self, slot: u32) {
        let (cid, peer) = (self.slots.cid(slot), Shown(self.slots.peer(slot)));
        log::error!(
            "{cid} from {peer} has killed {} brains: closed; it last sent {}",
            self.verdict.deaths,
            self.last_words(slot)
        );
    }

    /// What a connection has sent and was not dealt with, for people: as far as it is short, and
    /// without its mask.
    fn last_words(&self, slot: u32) -> String {
        let Some(meta) = self.slots.meta(slot) else {
            return "nothing".to_owned();
        };
        let message = buffers::message(&self.arena, &self.slots, slot, usize::MAX);
        let unread = buffers::unread(&self.arena, &self.slots, slot);
        let mut words = message.bytes().to_vec();
        match meta.phase {
            Phase::Echo | Phase::Rooms => {
                words.extend(websocket::shown(unread));
                let begun = Session::unpack(SESSION.map(|field| self.slots.get(slot, field)));
                let is_compressed = begun.is_some_and(|session| session.is_compressed())
                    || meta.window.is_some() && websocket::begins_compressed(unread);
                if is_compressed {
                    words = deflate::beginning(&words, INFLATED);
                }
            }
            _ => words.extend_from_slice(unread),
        }
        shown(&words)
    }

    /// The last brains died of this record: members of its room get a `gap` instead, or, when that
    /// was tried, nothing.
    pub fn give_up_record(&mut self, at: u64) {
        let mut bytes = Vec::new();
        let Ok(Some(next)) = self.log.next(at, &mut bytes) else {
            return;
        };
        let deaths = self.verdict.deaths;
        if self.verdict.damns(InHand::Log(at)) {
            log::error!("the record at {at} of the log has killed {deaths} brains: dropped");
            self.state
                .set(Head::LogRead, next.max(self.state.get(Head::LogRead)));
            return;
        }
        let what = Down::decode(&bytes).map_or("no record".to_owned(), |down| self.describe(&down));
        log::error!("the record at {at} of the log has killed {deaths} brains: given up: {what}");
        if !self.is_given_up(at) {
            let count = self.state.get(Head::GivenUp);
            let word = GIVEN_UP + count as usize % state::MAX_GIVEN_UP;
            let segment = self.state.segment();
            segment
                .word(word)
                .store(at + 1, std::sync::atomic::Ordering::Release);
            self.state.set(Head::GivenUp, count + 1);
        }
    }

    fn describe(&self, down: &Down<'_>) -> String {
        match down {
            Down::Message {
                room,
                position,
                asker,
                data,
                ..
            } => {
                let name = self.rooms.numbered(*room).map(|room| self.rooms.name(room));
                format!(
                    "message {position} of room \"{}\" by {}: {}",
                    name.unwrap_or_default().escape_ascii(),
                    asker.cid,
                    shown(data.bytes)
                )
            }
            Down::Opened { name, asker, .. } | Down::Held { name, asker, .. } => {
                format!("room \"{}\" opened for {}", name.escape_ascii(), asker.cid)
            }
            Down::Count { asker, .. } => format!("a count for {}", asker.cid),
            Down::Sent { asker, .. } => format!("the answer to a retry by {}", asker.cid),
            Down::Listed { asker, .. } => format!("a list for {}", asker.cid),
            Down::List { room, .. } | Down::Changes { room, .. } => {
                let name = self.rooms.numbered(*room).map(|room| self.rooms.name(room));
                let name = name.unwrap_or_default();
                format!("who is in room \"{}\"", name.escape_ascii())
            }
            Down::Told { asker, .. } | Down::Look { asker, .. } => {
                format!("what the API says to {}", asker.cid)
            }
            Down::Presence { room, .. } => format!("the presence of room {room}"),
            Down::Refused { asker, .. } => format!("a refusal for {}", asker.cid),
            Down::Moderated { asker, .. } => format!("a decision by {}", asker.cid),
            Down::Withheld { asker, data, .. } => {
                format!(
                    "a message by {}, held back: {}",
                    asker.cid,
                    shown(data.bytes)
                )
            }
        }
    }

    /// Whoever still has to be given this record gets a word of its loss instead.
    #[must_use]
    pub fn is_given_up(&self, at: u64) -> bool {
        // In nearly every worker there is none.
        self.state.get(Head::GivenUp) > 0
            && self
                .state
                .segment()
                .words(GIVEN_UP, state::MAX_GIVEN_UP)
                .iter()
                .any(|word| word.load(std::sync::atomic::Ordering::Relaxed) == at + 1)
    }
}
