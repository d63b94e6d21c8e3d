//! How fast a user may speak in a room (slow mode), and how much of what is said there its members are
//! given (a budget), as the [options](protocol::settings::RoomOptions) of the room say.
//!
//! When somebody spoke last is remembered as keys of messages are ([`crate::keys`]): by a hash, in a row
//! of places that are used in turn, and committed with the message. So it outlives this brain, and a
//! user waits exactly as long, whichever workers its connections are on. When more users than there are
//! places speak within the time that they should wait, the first of them may speak again sooner.
//!
//! What is left of a budget goes with this brain: the next one begins with a full one.

use std::sync::atomic::Ordering;

use protocol::bucket::Wait;
use protocol::journal::Record;
use protocol::record::Lane;
use protocol::settings::{Options, RoomOptions};
use protocol::share::{Budget, Share};
use rustc_hash::FxHashMap;

use crate::keys::{Hash, hash};
use crate::state::{self, Head, MAX_SPOKEN, State};

// Words of a place.
const HASH: usize = 0; // two
const AT: usize = 2;

/// Who spoke when, and what is left of each budget.
#[derive(Debug)]
pub struct Pace {
    options: Options,
    /// By the room's index, for rooms in which something was said.
    rooms: Vec<Room>,
    /// The number of the place of each user, in each room, who spoke last there.
    spoken: FxHashMap<Hash, u64>,
}

/// What this brain knows of a room.
#[derive(Clone, Copy, Debug, Default)]
struct Room {
    rule: Rule,
    budget: Option<Budget>,
}

#[derive(Clone, Copy, Debug, Default)]
enum Rule {
    #[default]
    Unknown,
    None,
    Number(u32),
}

/// What is to be remembered of a message, once it is sure to be said.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Said(Option<Hash>);

impl Pace {
    #[must_use]
    pub fn recover(state: &State, options: Options) -> Pace {
        let head = state.head(Head::Spoken);
        let numbers = oldest(head)..head;
        Pace {
            options,
            rooms: Vec::new(),
            spoken: numbers.map(|n| (hash_at(state, n), n)).collect(),
        }
    }

    /// From now on these count.
    pub fn configure(&mut self, options: Options) {
        if self.options != options {
            self.options = options;
            self.rooms.clear();
        }
    }

    /// There is no room of this index any more.
    pub fn drop_room(&mut self, room: u32) {
        if let Some(room) = self.rooms.get_mut(room as usize) {
            *room = Room::default();
        }
    }

    /// May this user say something in the room now?
    pub fn may_speak(
        &mut self,
        state: &State,
        room: u32,
        name: &[u8],
        from: &[u8],
        lane: Lane,
        now_ms: u64,
    ) -> Result<Said, Wait> {
        let Some((options, _)) = self.of(room, name) else {
            return Ok(Said(None));
        };
        let slow_ms = options.slow_ms;
        if slow_ms == 0 || lane.exempt {
            return Ok(Said(None));
        }
        let hash = hash(name, from, b"");
        if let Some(number) = self.spoken.get(&hash) {
            let passed = now_ms.saturating_sub(state.get(state::spoken(*number, AT)));
            if passed < slow_ms {
                return Err(Wait(slow_ms - passed));
            }
        }
        Ok(Said(Some(hash)))
    }

    /// It is said, once the record is committed.
    pub fn remember(&mut self, state: &State, record: &mut Record, said: Said, now_ms: u64) {
        let Said(Some(hash)) = said else {
            return;
        };
        let head = state.head(Head::Spoken);
        for (field, value) in [(HASH, hash[0]), (HASH + 1, hash[1]), (AT, now_ms)] {
            let word = state::spoken(head, field).index as usize;
            state.segment().word(word).store(value, Ordering::Release);
        }
        record.set(Head::Spoken.word(), head + 1);
        if let Some(last) = oldest(head + 1).checked_sub(1) {
            let forgotten = hash_at(state, last);
            if self.spoken.get(&forgotten) == Some(&last) {
                self.spoken.remove(&forgotten);
            }
        }
        self.spoken.insert(hash, head);
    }

    /// For whom a message is that is said in the room now.
    pub fn share(&mut self, room: u32, name: &[u8], lane: Lane, now_ms: u64) -> Share {
        match self.of(room, name) {
            Some((options, budget)) if options.budget > 0 => budget
                .get_or_insert_with(|| Budget::new(options.budget, now_ms))
                .take(options.budget, lane.first, now_ms),
            _ if lane.first => Share::First,
            _ => Share::All,
        }
    }

    /// `None`: nothing is special about the room.
    fn of(&mut self, room: u32, name: &[u8]) -> Option<(&RoomOptions, &mut Option<Budget>)> {
        if self.options.is_empty() {
            return None;
        }
        let index = room as usize;
        if self.rooms.len() <= index {
            self.rooms.resize(index + 1, Room::default());
        }
        let room = &mut self.rooms[index];
        if matches!(room.rule, Rule::Unknown) {
            let rule = self.options.0.iter().position(|o| o.rooms.matches(name));
            room.rule = rule.map_or(Rule::None, |rule| Rule::Number(rule as u32));
        }
        match room.rule {
            Rule::Number(rule) => Some((self.options.0.get(rule as usize)?, &mut room.budget)),
            Rule::Unknown | Rule::None => None,
        }
    }
}

/// Of the places that count. One is always free to be written in.
fn oldest(head: u64) -> u64 {
    head.saturating_sub(u64::from(MAX_SPOKEN) - 1)
}

fn hash_at(state: &State, number: u64) -> Hash {
    [HASH, HASH + 1].map(|field| state.get(state::spoken(number, field)))
}

#[cfg(test)]
mod tests {
    use protocol::pattern::Pattern;

    use super::*;

    const ANYBODY: Lane = Lane {
        first: false,
        exempt: false,
    };

    fn options(slow_ms: u64, budget: u32) -> Options {
        Options(vec![RoomOptions {
            rooms: Pattern::new("slow"),
            slow_ms,
            budget,
            ..RoomOptions::default()
        }])
    }

    /// Speaks, if it may.
    fn speak(pace: &mut Pace, state: &State, room: u32, from: &str, now: u64) -> Result<(), Wait> {
        let name = if room == 1 { "slow" } else { "other" };
        let (name, from) = (name.as_bytes(), from.as_bytes());
        let said = pace.may_speak(state, room, name, from, ANYBODY, now)?;
        let mut record = Record::new();
        pace.remember(state, &mut record, said, now);
        state.commit(&mut record);
        Ok(())
    }

    #[test]
    fn each_user_waits_to_the_millisecond_whichever_brain_it_meets() {
        let state = State::create(4096, 1).unwrap();
        let mut pace = Pace::recover(&state, options(30_000, 0));
        assert_eq!(speak(&mut pace, &state, 1, "u1", 1_000), Ok(()));
        assert_eq!(speak(&mut pace, &state, 1, "u2", 2_000), Ok(()));
        for _ in 0..2 {
            assert_eq!(
                speak(&mut pace, &state, 1, "u1", 30_999),
                Err(Wait(1)),
                "to be refused moves nothing"
            );
            assert_eq!(speak(&mut pace, &state, 1, "u2", 2_000), Err(Wait(30_000)));
            assert_eq!(speak(&mut pace, &state, 2, "u2", 2_000), Ok(()));
            pace = Pace::recover(&state, options(30_000, 0));
        }
        assert_eq!(speak(&mut pace, &state, 1, "u1", 31_000), Ok(()));
        assert_eq!(speak(&mut pace, &state, 1, "u1", 31_001), Err(Wait(29_999)));
        pace.configure(options(10_000, 0));
        assert_eq!(speak(&mut pace, &state, 1, "u1", 31_001), Err(Wait(9_999)));
        pace.configure(Options::default());
        assert_eq!(speak(&mut pace, &state, 1, "u1", 31_001), Ok(()));
    }

    #[test]
    fn moderators_do_not_wait() {
        let state = State::create(4096, 1).unwrap();
        let mut pace = Pace::recover(&state, options(30_000, 0));
        assert_eq!(speak(&mut pace, &state, 1, "u1", 1_000), Ok(()));
        let exempt = Lane {
            exempt: true,
            ..ANYBODY
        };
        let may = pace.may_speak(&state, 1, b"slow", b"u1", exempt, 1_001);
        assert!(may.is_ok());
    }

    /// One that is staged and not committed takes nothing away, and the oldest are forgotten.
    #[test]
    fn it_is_bounded_and_a_brain_that_dies_before_the_commit_has_said_nothing() {
        let state = State::create(4096, 1).unwrap();
        let mut pace = Pace::recover(&state, options(1 << 40, 0));
        let all = u64::from(MAX_SPOKEN) + 10;
        for n in 0..all {
            assert_eq!(speak(&mut pace, &state, 1, &format!("u{n}"), 1), Ok(()));
        }
        let said = pace.may_speak(&state, 1, b"slow", b"new", ANYBODY, 1);
        pace.remember(&state, &mut Record::new(), said.unwrap(), 1);
        let mut pace = Pace::recover(&state, options(1 << 40, 0));
        assert_eq!(pace.spoken.len() as u64, u64::from(MAX_SPOKEN) - 1);
        let last_forgotten = all - u64::from(MAX_SPOKEN);
        for (user, waits) in [
            ("new".to_owned(), false),
            (format!("u{last_forgotten}"), false),
            (format!("u{}", last_forgotten + 1), true),
            (format!("u{}", all - 1), true),
        ] {
            let may = pace.may_speak(&state, 1, b"slow", user.as_bytes(), ANYBODY, 1);
            assert_eq!(may.is_err(), waits, "{user}");
        }
    }

    #[test]
    fn rooms_have_budgets_of_their_own_and_others_have_none() {
        let state = State::create(4096, 1).unwrap();
        let mut pace = Pace::recover(&state, options(0, 2));
        let first = Lane {
            first: true,
            ..ANYBODY
        };
        let mut shares = |room, name: &[u8], lane| {
            let shares = (0..100).map(|_| pace.share(room, name, lane, 1_000));
            shares.collect::<Vec<_>>()
        };
        assert!(shares(1, b"slow", ANYBODY)[10..].iter().all(is_part));
        assert_eq!(shares(1, b"slow", first), [Share::First; 100]);
        assert_eq!(shares(2, b"other", ANYBODY), [Share::All; 100]);
        assert_eq!(shares(2, b"other", first), [Share::First; 100]);
        assert!(!is_part(&shares(3, b"slow", ANYBODY)[0]));
        pace.drop_room(1);
        assert_eq!(pace.share(1, b"other", ANYBODY, 1_000), Share::All);
    }

    fn is_part(share: &Share) -> bool {
        matches!(share, Share::Part(_))
    }
}
