//! What a token allows, and how that is kept: as bytes that many brains can read.

use protocol::pattern;
use protocol::settings::{Right, Rights};

use crate::api::body::FROM;
use crate::client::request::MAX_ROOM;

/// What a connection may do that has shown a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The token's `sub`: who it is for everybody else.
    pub user: String,
    /// Since 1970.
    pub expires_ms: u64,
    pub rules: Vec<Rule>,
}

/// Rights in the rooms of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pattern: String,
    rights: Rights,
}

impl Rule {
    /// `None`: no room's name is like that. Words that we do not know give no right.
    #[must_use]
    pub fn new(pattern: &str, words: &[String]) -> Option<Rule> {
        (!pattern.is_empty() && pattern.len() <= MAX_ROOM).then(|| Rule {
            pattern: pattern.to_owned(),
            rights: words.iter().filter_map(|word| Right::named(word)).collect(),
        })
    }

    #[must_use]
    pub fn everywhere(rights: Rights) -> Rule {
        Rule {
            pattern: "*".to_owned(),
            rights,
        }
    }
}

impl Grant {
    /// Of who has shown a token of the API: it is called as what the API publishes is.
    #[must_use]
    pub fn of_api() -> Grant {
        let all: Rights = Right::ALL.into_iter().collect();
        Grant {
            user: FROM.to_owned(),
            expires_ms: 0,
            rules: vec![Rule::everywhere(all)],
        }
    }

    /// All but the time: the user's name and the rules, each behind its length.
    #[must_use]
    pub fn pack(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64);
        bytes.push(self.user.len() as u8);
        bytes.extend_from_slice(self.user.as_bytes());
        for rule in &self.rules {
            bytes.extend_from_slice(&[rule.rights.bits(), rule.pattern.len() as u8]);
            bytes.extend_from_slice(rule.pattern.as_bytes());
        }
        bytes
    }
}

/// What [`Grant::pack`] has made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed<'a> {
    pub user: &'a str,
    rules: &'a [u8],
}

impl<'a> Packed<'a> {
    /// `None`: it is not that.
    #[must_use]
    pub fn read(bytes: &'a [u8]) -> Option<Packed<'a>> {
        let (len, rest) = bytes.split_first()?;
        let (user, rules) = rest.split_at_checked(usize::from(*len))?;
        let packed = Packed {
            user: std::str::from_utf8(user)
                .ok()
                .filter(|user| !user.is_empty())?,
            rules,
        };
        let lengths = packed.each().map(|(_, pattern)| 2 + pattern.len());
        (lengths.sum::<usize>() == rules.len()).then_some(packed)
    }

    /// What it allows in this room.
    #[must_use]
    pub fn rights(self, room: &[u8]) -> Rights {
        self.each()
            .filter(|(_, pattern)| matches(pattern, room))
            .fold(Rights::default(), |all, (rights, _)| all.with(rights))
    }

    fn each(self) -> impl Iterator<Item = (Rights, &'a [u8])> {
        let mut rest = self.rules;
        std::iter::from_fn(move || {
            let [bits, len, tail @ ..] = rest else {
                return None;
            };
            let pattern;
            (pattern, rest) = tail.split_at_checked(usize::from(*len))?;
            Some((Rights::from_bits(*bits), pattern))
        })
    }
}

/// Rooms of users are only meant by what begins with `@` itself: who may write to every room need not be
/// one who may write to every user.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let is_users = name.first() == Some(&b'@');
    (!is_users || pattern.first() == Some(&b'@')) && pattern::matches(pattern, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let cases = [
            ("lobby", "lobby", true),
            ("lobby", "lobby2", false),
            ("lobby", "lobb", false),
            ("*", "anything/at all", true),
            ("chat/*", "chat/", true),
            ("chat/*", "chat/7/x", true),
            ("chat/*", "chat", false),
            ("*/public", "a/b/public", true),
            ("*/public", "a/public/x", false),
            ("a*b*c", "abc", true),
            ("a*b*c", "aXbXbYc", true),
            ("a*b*c", "acb", false),
            ("**", "x", true),
            ("é*", "éa", true),
            // A room may have it in its name, a pattern cannot mean only that.
            ("a*", "a*", true),
            ("*", "@u7", false),
            ("?u7", "@u7", false),
            ("@*", "@u7", true),
            ("@u7", "@u7", true),
            ("@u7", "@u77", false),
            ("@*", "u7", false),
        ];
        for (pattern, name, expected) in cases {
            let is = matches(pattern.as_bytes(), name.as_bytes());
            assert_eq!(is, expected, "{pattern} {name}");
        }
    }

    /// Whatever a token says, a look at it takes no longer than its length and the name's allow.
    #[test]
    fn no_pattern_takes_long() {
        let pattern = "*a".repeat(100);
        assert!(!matches(pattern.as_bytes(), "a".repeat(99).as_bytes()));
        assert!(!matches(
            pattern.as_bytes(),
            ("a".repeat(150) + "b").as_bytes()
        ));
    }

    #[test]
    fn comes_back_and_nothing_else_does() {
        let words = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        let grant = Grant {
            user: "ü7".to_owned(),
            expires_ms: 5,
            rules: vec![
                Rule::new("a/*", &words(&["join", "dance"])).unwrap(),
                Rule::new("a/b", &words(&["send"])).unwrap(),
            ],
        };
        let bytes = grant.pack();
        let packed = Packed::read(&bytes).unwrap();
        assert_eq!(packed.user, "ü7");
        let has = |room: &str| {
            let rights = packed.rights(room.as_bytes());
            (rights.has(Right::Join), rights.has(Right::Send))
        };
        assert_eq!(has("a/b"), (true, true));
        assert_eq!(has("a/c"), (true, false));
        assert_eq!(has("b"), (false, false));
        let ends = [0, 4, 4 + 5, bytes.len()];
        for len in 0..bytes.len() {
            // Fewer rules are rules, too; but half a one is none.
            assert_eq!(
                Packed::read(&bytes[..len]).is_some(),
                ends[1..].contains(&len),
                "{len}"
            );
        }
        assert!(Rule::new("", &[]).is_none());
        assert!(Rule::new(&"r".repeat(MAX_ROOM + 1), &[]).is_none());
    }
}
