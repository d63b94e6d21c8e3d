//! Rooms in the order of their size, as it was told last: whoever wants the largest looks at no other.
//!
//! It changes when a room's number is told, which is a few times a second at most, and not with
//! everybody who comes and goes.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::{NAME, TOLD, exists, used};
use crate::state::{self, State};

/// Those of a size in the order of their indexes.
#[derive(Debug, Default)]
pub struct Ranking(BTreeSet<(Reverse<u32>, u32)>);

impl Ranking {
    pub fn recover(state: &State) -> Ranking {
        let rooms = (0..used(state)).filter(|room| exists(state, *room));
        let ranked = rooms.filter_map(|room| Some((Reverse(rank(state, room)?), room)));
        Ranking(ranked.collect())
    }

    /// To be called before the state says what is told of the room from now on.
    pub fn change(&mut self, state: &State, room: u32, members: u32) {
        if let Some(before) = rank(state, room) {
            self.0.remove(&(Reverse(before), room));
        }
        if members > 0 && is_listed(state, room) {
            self.0.insert((Reverse(members), room));
        }
    }

    /// Those behind the first `from`, with how many connections are in each.
    pub fn largest(&self, from: usize) -> impl Iterator<Item = (u32, u32)> {
        let all = self.0.iter().skip(from);
        all.map(|(Reverse(members), room)| (*room, *members))
    }
}

/// How many connections a room that has a place has.
fn rank(state: &State, room: u32) -> Option<u32> {
    let members = state.get(state::room(room, TOLD)) as u32;
    (members > 0 && is_listed(state, room)).then_some(members)
}

/// The rooms of users, and of baton itself, are not.
fn is_listed(state: &State, room: u32) -> bool {
    let first = state.get(state::room(room, NAME)) as u8;
    first != b'$' && first != b'@'
}
