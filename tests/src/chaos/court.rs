//! What moderators have decided, and what follows from it: what a user may do from then on, and what
//! each member of the room must be told, and where.
//!
//! A decision that is asked for may count at any moment until it is answered. Behind the answer it counts,
//! until the contrary is asked for. Where in the room it is, is the same for all who are told.

use std::collections::{BTreeMap, BTreeSet};

use super::ledger::{Ledger, Message};
use crate::load::{Fault, Kind, Random};

#[derive(Debug, Default)]
pub struct Court {
    users: Vec<User>,
    /// By room.
    dockets: BTreeMap<usize, Docket>,
}

/// Somebody about whom is decided, in one room.
#[derive(Debug)]
pub struct User {
    pub name: String,
    pub room: usize,
    publisher: usize,
    /// Of each [`Measure`].
    standings: [Standing; 2],
    /// So many times something was asked for that concerns it, or answered.
    turns: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Measure {
    Mute,
    Ban,
}

pub const MEASURES: [Measure; 2] = [Measure::Mute, Measure::Ban];

impl Measure {
    /// What is asked for, and what the room is told.
    pub fn words(self, on: bool) -> (&'static str, &'static str) {
        match (self, on) {
            (Measure::Mute, true) => ("mute", "muted"),
            (Measure::Mute, false) => ("unmute", "unmuted"),
            (Measure::Ban, true) => ("ban", "banned"),
            (Measure::Ban, false) => ("unban", "unbanned"),
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Standing {
    on: bool,
    /// It is about to change.
    asked: bool,
    /// Which of the room's decisions was the last about it.
    number: u64,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Measure {
        user: usize,
        measure: Measure,
        on: bool,
    },
    Delete {
        offset: u64,
    },
    Clear,
}

/// What is decided in a room.
#[derive(Debug, Default)]
struct Docket {
    decisions: u64,
    /// So many times each was asked for, and at which offsets it was told.
    measures: BTreeMap<(usize, Measure, bool), (usize, BTreeSet<u64>)>,
    /// What is to be deleted, with which decision that was.
    deletions: BTreeMap<u64, u64>,
    /// What has been.
    deleted: BTreeSet<u64>,
    clears: usize,
    /// Up to there all is forgotten.
    cleared: u64,
}

/// What a user is about to do, as things stand.
#[derive(Clone, Copy, Debug)]
pub struct Word {
    user: usize,
    turns: u64,
    /// `None`: either may come of it.
    may: Option<bool>,
}

/// What a member has been told in a room.
#[derive(Debug, Default)]
pub struct Told {
    /// So many decisions had been asked for when it came.
    from: u64,
    standings: BTreeMap<(usize, Measure), bool>,
    deleted: BTreeSet<u64>,
}

impl Court {
    pub fn add(&mut self, name: &str, room: usize, publisher: usize) -> usize {
        self.users.push(User {
            name: name.to_owned(),
            room,
            publisher,
            standings: [Standing::default(); 2],
            turns: 0,
        });
        self.users.len() - 1
    }

    #[must_use]
    pub fn user(&self, user: usize) -> &User {
        &self.users[user]
    }

    pub fn users(&self) -> impl Iterator<Item = &User> {
        self.users.iter()
    }

    fn find(&self, room: usize, name: &str) -> Result<usize, Fault> {
        let is_it = |user: &User| user.room == room && user.name == name;
        let found = self.users.iter().position(is_it);
        found.ok_or_else(|| wrong(format!("{name:?} is nobody about whom is decided")))
    }

    /// Somebody is about to send, or to join.
    pub fn word(&self, user: usize, sends: bool) -> Word {
        let of = &self.users[user];
        let measures = if sends {
            &MEASURES[..]
        } else {
            &[Measure::Ban]
        };
        let counts = |measure: &&Measure| {
            let Standing { on, asked, .. } = of.standings[**measure as usize];
            on && !asked
        };
        let asked = |measure: &Measure| of.standings[*measure as usize].asked;
        let may = match measures.iter().any(asked) {
            _ if measures.iter().find(counts).is_some() => Some(false),
            true => None,
            false => Some(true),
        };
        Word {
            user,
            turns: of.turns,
            may,
        }
    }

    /// What came of it.
    pub fn heard(&self, word: Word, was_let: bool) -> Result<(), Fault> {
        let user = &self.users[word.user];
        match word.may {
            Some(may) if may != was_let && word.turns == user.turns => {
                let kind = if was_let { Kind::Wrong } else { Kind::Refused };
                let what = if was_let { "accepted" } else { "refused" };
                let what = format!("{what}, though it was decided otherwise: {user:?}");
                Err(Fault::new(kind, what))
            }
            _ => Ok(()),
        }
    }

    /// Something to be decided in a room.
    pub fn choose(&self, room: usize, ledger: &Ledger, random: &mut Random) -> Option<Decision> {
        match random.below(100) {
            0..65 => {
                let here = |(_, user): &(usize, &User)| user.room == room;
                let users: Vec<_> = self.users.iter().enumerate().filter(here).collect();
                let (user, of) = *users.get(random.below(users.len().max(1) as u64) as usize)?;
                let measure = MEASURES[random.below(2) as usize];
                let on = !of.standings[measure as usize].on;
                Some(Decision::Measure { user, measure, on })
            }
            65..88 => {
                // One of the last.
                let last = ledger.known(room);
                let offset = last.checked_sub(random.below(last.clamp(1, 40)))?;
                (offset > 0).then_some(Decision::Delete { offset })
            }
            _ => (ledger.known(room) > 0).then_some(Decision::Clear),
        }
    }

    /// It is asked for.
    pub fn ask(&mut self, room: usize, decision: Decision) {
        let docket = self.dockets.entry(room).or_default();
        docket.decisions += 1;
        match decision {
            Decision::Measure { user, measure, on } => {
                docket.measures.entry((user, measure, on)).or_default().0 += 1;
                let user = &mut self.users[user];
                user.turns += 1;
                let standing = &mut user.standings[measure as usize];
                (standing.asked, standing.number) = (true, docket.decisions);
            }
            Decision::Delete { offset } => _ = docket.deletions.insert(offset, docket.decisions),
            Decision::Clear => docket.clears += 1,
        }
    }

    /// It is answered. `offset`: that of the answer's position, if it has one.
    pub fn done(
        &mut self,
        room: usize,
        decision: Decision,
        position: Option<u64>,
    ) -> Result<(), Fault> {
        let docket = self.dockets.entry(room).or_default();
        match (decision, position) {
            (Decision::Measure { user, measure, on }, None) => {
                let user = &mut self.users[user];
                user.turns += 1;
                let standing = &mut user.standings[measure as usize];
                (standing.asked, standing.on) = (false, on);
            }
            (Decision::Delete { offset }, Some(at)) if at == offset => {
                docket.deleted.insert(offset);
            }
            (Decision::Clear, Some(at)) if at >= docket.cleared => docket.cleared = at,
            _ => return Err(wrong(format!("{decision:?} is answered with {position:?}"))),
        }
        Ok(())
    }

    /// A member comes.
    pub fn comes(&self, room: usize) -> Told {
        Told {
            from: self.dockets.get(&room).map_or(0, |docket| docket.decisions),
            ..Told::default()
        }
    }

    /// A member is told that a measure is taken, or is over. `next`: the offset that is to come to it, if
    /// it has been given everything before that.
    pub fn told_of(
        &mut self,
        room: usize,
        (name, measure, on): (&str, Measure, bool),
        told: &mut Told,
        next: Option<u64>,
    ) -> Result<(), Fault> {
        let user = self.find(room, name)?;
        let what = || format!("{name} is {} before offset {next:?}", measure.words(on).1);
        if told.standings.insert((user, measure), on) == Some(on) {
            return Err(Fault::new(Kind::Doubled, what()));
        }
        let docket = self.dockets.entry(room).or_default();
        let (asked, places) = docket.measures.entry((user, measure, on)).or_default();
        places.extend(next);
        match *asked == 0 || places.len() > *asked {
            true => {
                let what = format!("{}: asked for {asked} times, told at {places:?}", what());
                Err(Fault::new(Kind::Disorder, what))
            }
            false => Ok(()),
        }
    }

    /// A member is told that a message is deleted.
    pub fn told_deleted(&self, room: usize, offset: u64, told: &mut Told) -> Result<(), Fault> {
        told.deleted.insert(offset);
        let docket = self.dockets.get(&room);
        match docket.is_some_and(|docket| docket.deletions.contains_key(&offset)) {
            true => Ok(()),
            false => Err(wrong(format!("nobody has deleted {offset} in room {room}"))),
        }
    }

    /// A member is told that all up to there is cleared.
    pub fn told_cleared(&self, room: usize, offset: u64, next: Option<u64>) -> Result<(), Fault> {
        let is_asked = self.dockets.get(&room).is_some_and(|d| d.clears > 0);
        let is_there = next.is_none_or(|next| next == offset + 1);
        match is_asked && is_there {
            true => Ok(()),
            false => Err(wrong(format!("cleared up to {offset} before {next:?}"))),
        }
    }

    /// A member hears what somebody has said: nothing of who is muted or banned, as it was told.
    pub fn hears(&self, told: &Told, room: usize, message: Message) -> Result<(), Fault> {
        let said_it = |user: &User| user.room == room && user.publisher == message.publisher;
        let Some(user) = self.users.iter().position(said_it) else {
            return Ok(());
        };
        let is = |measure: &Measure| told.standings.get(&(user, *measure)) == Some(&true);
        match MEASURES.iter().find(|measure| is(measure)) {
            Some(measure) => {
                let what = format!("{message:?} comes behind its {measure:?}");
                Err(wrong(what))
            }
            None => Ok(()),
        }
    }

    /// A member is still to be told something.
    pub fn owes(&self, room: usize, told: &Told) -> bool {
        let Some(docket) = self.dockets.get(&room) else {
            return false;
        };
        let mut deletions = docket.deletions.iter();
        let is_missing = |user: usize, measure: Measure| {
            let Standing { on, number, .. } = self.users[user].standings[measure as usize];
            match told.standings.get(&(user, measure)) {
                Some(told) => *told != on,
                None => number > told.from,
            }
        };
        let here = (0..self.users.len()).filter(|user| self.users[*user].room == room);
        let mut here = here.flat_map(|user| MEASURES.map(|measure| (user, measure)));
        deletions.any(|(at, number)| *number > told.from && !told.deleted.contains(at))
            || here.any(|(user, measure)| is_missing(user, measure))
    }

    /// Is this what a room retains? `is_there`: the message, not that it was deleted. `known`: up to which
    /// offset messages were known to be there when it was asked.
    pub fn retained(&self, room: usize, page: &[(u64, bool)], known: u64) -> Result<(), Fault> {
        let none = Docket::default();
        let docket = self.dockets.get(&room).unwrap_or(&none);
        let is_row = page.windows(2).all(|two| two[1].0 == two[0].0 + 1);
        let is_right = |(offset, is_there): &(u64, bool)| {
            *offset > docket.cleared && *is_there != docket.deleted.contains(offset)
        };
        let is_whole = known <= docket.cleared || page.last().is_some_and(|last| last.0 >= known);
        match is_row && is_whole && page.iter().all(is_right) {
            true => Ok(()),
            false => Err(wrong(format!(
                "the history of room {room} is {page:?}; {known} was known, cleared {}, deleted {:?}",
                docket.cleared, docket.deleted
            ))),
        }
    }
}

impl User {
    #[must_use]
    pub fn is(&self, measure: Measure) -> bool {
        self.standings[measure as usize].on
    }
}

fn wrong(what: String) -> Fault {
    Fault::new(Kind::Wrong, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MUTE: Decision = Decision::Measure {
        user: 0,
        measure: Measure::Mute,
        on: true,
    };
    const UNMUTE: Decision = Decision::Measure {
        user: 0,
        measure: Measure::Mute,
        on: false,
    };
    const SAID: Message = Message {
        publisher: 5,
        number: 0,
    };

    fn court() -> Court {
        let mut court = Court::default();
        court.add("s0", 3, 5);
        court
    }

    fn kind<T>(result: Result<T, Fault>) -> Option<Kind> {
        result.err().map(|fault| fault.kind)
    }

    #[test]
    fn a_mute_counts_between_two_answers() {
        let mut court = court();
        let before = court.word(0, true);
        court.ask(3, MUTE);
        let between = court.word(0, true);
        court.done(3, MUTE, None).unwrap();
        for word in [before, between] {
            assert!(court.heard(word, true).is_ok() && court.heard(word, false).is_ok());
        }
        let behind = court.word(0, true);
        assert_eq!(kind(court.heard(behind, true)), Some(Kind::Wrong));
        assert!(court.heard(behind, false).is_ok());
        let join = court.word(0, false);
        assert_eq!(kind(court.heard(join, false)), Some(Kind::Refused));
        court.ask(3, UNMUTE);
        assert!(court.heard(behind, true).is_ok());
        court.done(3, UNMUTE, None).unwrap();
        let after = court.word(0, true);
        assert_eq!(kind(court.heard(after, false)), Some(Kind::Refused));
    }

    #[test]
    fn all_are_told_at_the_same_place() {
        let mut court = court();
        let (mut one, mut other) = (court.comes(3), court.comes(3));
        let muted = ("s0", Measure::Mute, true);
        assert!(court.told_of(3, muted, &mut one, Some(7)).is_err());
        let (mut court, mut told) = (self::court(), court.comes(3));
        court.ask(3, MUTE);
        court.told_of(3, muted, &mut told, Some(7)).unwrap();
        assert_eq!(kind(court.hears(&told, 3, SAID)), Some(Kind::Wrong));
        assert!(court.owes(3, &other));
        let elsewhere = court.told_of(3, muted, &mut other, Some(8));
        assert_eq!(kind(elsewhere), Some(Kind::Disorder));
        let again = court.told_of(3, muted, &mut told, Some(7));
        assert_eq!(kind(again), Some(Kind::Doubled));
        court.done(3, MUTE, None).unwrap();
        assert!(!court.owes(3, &told) && !court.owes(3, &court.comes(3)));
    }

    #[test]
    fn what_is_deleted_is_seen_to_be() {
        let mut court = court();
        let mut told = court.comes(3);
        assert!(court.told_deleted(3, 2, &mut told).is_err());
        let mut told = court.comes(3);
        court.ask(3, Decision::Delete { offset: 2 });
        assert!(court.owes(3, &told));
        court.told_deleted(3, 2, &mut told).unwrap();
        assert!(!court.owes(3, &told));
        let delete = Decision::Delete { offset: 2 };
        assert!(court.done(3, delete, Some(1)).is_err());
        court.done(3, delete, Some(2)).unwrap();
        let page = [(1, true), (2, false), (3, true)];
        assert!(court.retained(3, &page, 3).is_ok());
        assert!(court.retained(3, &page, 4).is_err());
        assert!(court.retained(3, &[(1, true), (3, true)], 3).is_err());
        assert!(court.retained(3, &[(1, true), (2, true)], 2).is_err());
        assert!(court.retained(3, &[(1, false), (2, false)], 2).is_err());
        court.ask(3, Decision::Clear);
        court.done(3, Decision::Clear, Some(2)).unwrap();
        assert!(court.retained(3, &page, 3).is_err());
        assert!(court.retained(3, &page[2..], 3).is_ok());
        assert!(court.retained(3, &[], 2).is_ok());
        assert!(court.told_cleared(3, 2, Some(3)).is_ok());
        assert!(court.told_cleared(3, 2, Some(4)).is_err());
    }
}
