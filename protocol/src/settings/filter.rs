//! By which words messages are filtered, in which rooms.

use serde::{Deserialize, Serialize};

use crate::pattern::Pattern;

/// One list of words, and where it counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Filter {
    pub rooms: Pattern,
    /// What becomes of a message with one of the words in it.
    pub then: Filtered,
    /// A word counts only where no letter or digit is next to it.
    pub whole_words: bool,
    pub words: Words,
}

/// Where a list of words is, one a line, and a sum of it by which another is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Words {
    pub at: u32,
    pub len: u32,
    pub sum: u64,
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Filtered {
    /// It is not said, and its sender is told so.
    Reject,
    /// The words are replaced.
    Mask,
    /// It is shown to those only who moderate the room.
    Hold,
}
