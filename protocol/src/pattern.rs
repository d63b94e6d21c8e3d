//! Which rooms are meant: a name in which `*` stands for any characters, also none.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The names that are meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pattern(String);

impl Pattern {
    /// Of no room, as no name is empty.
    pub const NONE: Pattern = Pattern(String::new());

    #[must_use]
    pub fn new(text: &str) -> Pattern {
        Pattern(text.to_owned())
    }

    /// Is this name one of them?
    #[must_use]
    pub fn matches(&self, name: &[u8]) -> bool {
        matches(self.0.as_bytes(), name)
    }
}

/// Is this name one that the pattern means? Costs at most the product of both lengths, whoever chose
/// them.
#[must_use]
pub fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    // The last `*`, and how much of the name it stands for so far.
    let mut star = None;
    while n < name.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, n));
            p += 1;
        } else if pattern.get(p) == Some(&name[n]) {
            (p, n) = (p + 1, n + 1);
        } else if let Some((at, stood_for)) = star {
            star = Some((at, stood_for + 1));
            (p, n) = (at + 1, stood_for + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, name, is) in [
            ("chat.*", "chat.", true),
            ("chat.*", "chat.lobby", true),
            ("chat.*", "chat", false),
            ("*", "", true),
            ("*", "弾幕", true),
            ("a", "a", true),
            ("a", "ab", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-b-b-d", false),
            ("*.ticks", "eur.usd.ticks", true),
            ("**x", "x", true),
            ("", "x", false),
        ] {
            let matches = Pattern::new(pattern).matches(name.as_bytes());
            assert_eq!(matches, is, "{pattern} {name}");
        }
    }
}
