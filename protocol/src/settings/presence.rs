//! In which rooms users are told apart, and listed by name.

use serde::{Deserialize, Serialize};

use crate::pattern::Pattern;

/// Up to how many users are told apart, room by room.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Presence {
    /// Users of a room up to which all are listed; in larger rooms there are numbers and samples. 0:
    /// users are not told apart, only connections are counted.
    pub listed: u32,
    /// The first that matches a room's name counts for it instead.
    pub rules: Vec<Listed>,
}

/// The same for rooms of some names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Listed {
    pub rooms: Pattern,
    pub listed: u32,
}

impl Default for Presence {
    fn default() -> Self {
        Presence {
            listed: 1_000,
            rules: Vec::new(),
        }
    }
}

impl Presence {
    /// Users up to which all of this room are listed.
    #[must_use]
    pub fn of(&self, room: &[u8]) -> u32 {
        // Of a user's own room everybody knows who is in it.
        if room.starts_with(b"@") {
            return 0;
        }
        let rule = self.rules.iter().find(|rule| rule.rooms.matches(room));
        rule.map_or(self.listed, |rule| rule.listed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_matches_counts() {
        let rule = |rooms, listed| Listed {
            rooms: Pattern::new(rooms),
            listed,
        };
        let presence = Presence {
            listed: 7,
            rules: vec![rule("a*", 0), rule("ab", 9), rule("b", 8)],
        };
        let all = [("ab", 0), ("b", 8), ("c", 7), ("@c", 0)];
        assert!(
            all.iter()
                .all(|(room, listed)| presence.of(room.as_bytes()) == *listed)
        );
    }
}
