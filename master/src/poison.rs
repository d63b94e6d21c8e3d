//! What kills one brain of the master after another is found, named and given up, and that alone: a
//! record of a ring, or a word of a worker.
//!
//! A brain says what it is about to work on; the next one counts deaths at one place without progress.

use protocol::journal::Record;

use crate::state::{Head, State};

/// So many deaths at one place give it up.
pub const DEATHS: u64 = 3;
/// So many drop it without a word.
const HOPELESS: u64 = 2 * DEATHS;

/// What the brain works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InHand {
    /// A record, by its place in a ring.
    Record { ring: u16, at: u64 },
    /// What a worker has said, by something that tells it from the next.
    Word { ring: u16, mark: u64 },
}

const WORD: u64 = 1 << 32;

impl InHand {
    fn pack(self) -> [u64; 2] {
        match self {
            InHand::Record { ring, at } => [u64::from(ring) + 1, at],
            InHand::Word { ring, mark } => [WORD | (u64::from(ring) + 1), mark],
        }
    }

    fn unpack([place, at]: [u64; 2]) -> Option<InHand> {
        let ring = (place as u32).checked_sub(1)? as u16;
        Some(match place & WORD {
            0 => InHand::Record { ring, at },
            _ => InHand::Word { ring, mark: at },
        })
    }
}

/// Where the last brain died, and how many have in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    place: Option<InHand>,
    deaths: u64,
}

impl Verdict {
    /// It is to be given up.
    #[must_use]
    pub fn convicts(self, place: InHand) -> bool {
        self.place == Some(place) && self.deaths >= DEATHS
    }

    /// It is to be dropped without a word.
    #[must_use]
    pub fn damns(self, place: InHand) -> bool {
        self.place == Some(place) && self.deaths >= HOPELESS
    }
}

/// Says what is worked on, before it is.
pub fn take_in_hand(state: &State, place: InHand) {
    let [first, second] = place.pack();
    let mut record = Record::new();
    record.set(Head::InHandPlace.word(), first);
    record.set(Head::InHandAt.word(), second);
    state.commit(&mut record);
}

/// Nothing is in hand any more.
pub fn rest(state: &State) {
    if state.head(Head::InHandPlace) != 0 {
        state.set(Head::InHandPlace.word(), 0);
    }
}

/// For a new brain: what the last one died of.
#[must_use]
pub fn note_death(state: &State) -> Verdict {
    let now = [state.head(Head::InHandPlace), state.head(Head::InHandAt)];
    let before = [state.head(Head::DeathPlace), state.head(Head::DeathAt)];
    let place = InHand::unpack(now);
    let deaths = match place {
        None => 0,
        Some(_) if now == before => state.head(Head::Deaths) + 1,
        Some(_) => 1,
    };
    let mut record = Record::new();
    record.set(Head::DeathPlace.word(), now[0]);
    record.set(Head::DeathAt.word(), now[1]);
    record.set(Head::Deaths.word(), deaths);
    record.set(Head::InHandPlace.word(), 0);
    state.commit(&mut record);
    Verdict { place, deaths }
}
