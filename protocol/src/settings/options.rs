//! What is special about rooms of some names: how what is said there is given to their members.

use serde::{Deserialize, Serialize};

use crate::pattern::Pattern;

/// The first that matches a room's name counts for it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Options(pub Vec<RoomOptions>);

/// What is special about rooms of these names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RoomOptions {
    pub rooms: Pattern,
    /// What is said within it is given to each member together; 0: at once.
    pub merge_ms: u64,
    /// Messages a second that each member is given; what is more is sampled. 0: any number.
    pub budget: u32,
    /// From one message of a user to the next; 0: none.
    pub slow_ms: u64,
    /// Bytes of a message's `data`, where that is less than in other rooms.
    pub max_data: Option<usize>,
}

/// Of a room that no rule is for.
static NONE: RoomOptions = RoomOptions {
    rooms: Pattern::NONE,
    merge_ms: 0,
    budget: 0,
    slow_ms: 0,
    max_data: None,
};

impl Default for RoomOptions {
    fn default() -> Self {
        NONE.clone()
    }
}

impl RoomOptions {
    /// Does it say anything that is not so anyway?
    #[must_use]
    pub fn is_any(&self) -> bool {
        *self
            != RoomOptions {
                rooms: self.rooms.clone(),
                ..NONE.clone()
            }
    }
}

impl Options {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[must_use]
    pub fn of(&self, room: &[u8]) -> &RoomOptions {
        let rule = self.0.iter().find(|rule| rule.rooms.matches(room));
        rule.unwrap_or(&NONE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_matches_counts() {
        let rule = |rooms, merge_ms| RoomOptions {
            rooms: Pattern::new(rooms),
            merge_ms,
            ..RoomOptions::default()
        };
        let options = Options(vec![rule("a*", 0), rule("ab", 9), rule("b", 8)]);
        for (room, merge_ms) in [("ab", 0), ("b", 8), ("c", 0), ("", 0)] {
            assert_eq!(options.of(room.as_bytes()).merge_ms, merge_ms, "{room}");
        }
        assert!(!options.0[0].is_any() && options.0[1].is_any());
    }
}
