//! What a back end has decided: the body of its answer, understood as far as it can be.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use protocol::settings::{Rights, Rooms};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::auth::grant::{Grant, Rule};
use crate::auth::token::{MAX_TOKEN, is_user};
use crate::client::check_data;

/// Bytes of what a refused client is told.
const MAX_MESSAGE: usize = 512;

/// What it says to one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Allow {
        /// In place of what was sent: one JSON value.
        data: Option<Box<str>>,
        /// Who a connection is, and what it may do.
        grant: Option<Box<Grant>>,
    },
    Deny {
        message: Option<Box<str>>,
    },
}

impl Answer {
    /// As it was asked.
    pub const YES: Answer = Answer::Allow {
        data: None,
        grant: None,
    };

    /// Bytes that are held with it.
    #[must_use]
    pub fn size(&self) -> usize {
        match self {
            Answer::Allow { data, .. } => data.as_ref().map_or(0, |data| data.len()),
            Answer::Deny { message } => message.as_ref().map_or(0, |message| message.len()),
        }
    }
}

/// Why an answer is none. For people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misunderstood(String);

impl fmt::Display for Misunderstood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What answers are held against.
#[derive(Clone, Debug)]
pub struct Limits {
    pub rooms: Rooms,
    /// Of a user, if nothing is said of rooms.
    pub rights: Rights,
}

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    results: Vec<Entry<'a>>,
}

#[derive(Deserialize)]
struct Entry<'a> {
    n: usize,
    allow: bool,
    #[serde(borrow)]
    message: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    user: Option<Cow<'a, str>>,
    rooms: Option<BTreeMap<String, Vec<String>>>,
    /// Seconds since 1970, as in a token.
    exp: Option<f64>,
}

/// The answers to `count` questions, each at its place. `Err` within: it cannot be taken for one;
/// `None`: there is none.
pub type Answers = Vec<Option<Result<Answer, Misunderstood>>>;

/// Reads the body.
///
/// # Errors
/// It says nothing, or not clearly to which question it says what.
pub fn parse(body: &[u8], count: usize, limits: &Limits) -> Result<Answers, Misunderstood> {
    let body: Body<'_> = serde_json::from_slice(body)
        .map_err(|error| Misunderstood(format!("its answer is not understood: {error}")))?;
    let mut answers: Answers = Vec::new();
    answers.resize_with(count, || None);
    for entry in body.results {
        let n = entry.n;
        let place = answers
            .get_mut(n)
            .ok_or_else(|| Misunderstood(format!("it has answered {n}, which was not asked")))?;
        if place.replace(entry.answer(limits)).is_some() {
            return Err(Misunderstood(format!("it has answered {n} twice")));
        }
    }
    Ok(answers)
}

impl Entry<'_> {
    fn answer(self, limits: &Limits) -> Result<Answer, Misunderstood> {
        if !self.allow {
            let message = self.message.filter(|message| !message.is_empty());
            return Ok(Answer::Deny {
                message: message.map(|message| shorten(&message, MAX_MESSAGE).into()),
            });
        }
        let data = self.data.map(|data| {
            check_data(data.get(), &limits.rooms)
                .map(|()| Box::from(data.get()))
                .map_err(|fault| Misunderstood(format!("it has answered: {}", fault.message())))
        });
        Ok(Answer::Allow {
            data: data.transpose()?,
            grant: self.grant(limits)?.map(Box::new),
        })
    }

    fn grant(&self, limits: &Limits) -> Result<Option<Grant>, Misunderstood> {
        let wrong = |what: &str| Err(Misunderstood(format!("it has answered {what}")));
        let Some(user) = &self.user else {
            return match self.rooms.is_none() && self.exp.is_none() {
                true => Ok(None),
                false => wrong("with rooms or exp, and without user"),
            };
        };
        if !is_user(user) {
            return wrong("a user that cannot be one");
        }
        let rules = match &self.rooms {
            None => Some(vec![Rule::everywhere(limits.rights)]),
            Some(rooms) => rooms.iter().map(|(p, words)| Rule::new(p, words)).collect(),
        };
        let Some(rules) = rules else {
            return wrong("a pattern of rooms that cannot be one");
        };
        let grant = Grant {
            user: user.clone().into_owned(),
            // 0: for ever. What is negative has passed.
            expires_ms: self.exp.map_or(0, |exp| ((exp * 1000.0) as u64).max(1)),
            rules,
        };
        match grant.pack().len() <= MAX_TOKEN {
            true => Ok(Some(grant)),
            false => wrong("more rooms than can be kept"),
        }
    }
}

/// Its first bytes, and no half character.
fn shorten(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use protocol::settings::Right;

    use super::*;

    fn limits() -> Limits {
        Limits {
            rooms: Rooms {
                max_data: 100,
                max_depth: 2,
                ..Rooms::default()
            },
            rights: [Right::Join].into_iter().collect(),
        }
    }

    fn one(entry: &str) -> Result<Answer, Misunderstood> {
        let body = format!("{{\"results\":[{entry}]}}");
        let mut answers = parse(body.as_bytes(), 1, &limits()).unwrap();
        answers.remove(0).unwrap()
    }

    #[test]
    fn what_can_be_said() {
        assert_eq!(
            one(r#"{"n":0,"allow":true,"unknown":[1]}"#),
            Ok(Answer::YES)
        );
        let deny = |message: Option<&str>| Answer::Deny {
            message: message.map(Box::from),
        };
        assert_eq!(one(r#"{"n":0,"allow":false}"#), Ok(deny(None)));
        assert_eq!(
            one(r#"{"n":0,"allow":false,"message":"no \"x\""}"#),
            Ok(deny(Some("no \"x\"")))
        );
        let Ok(Answer::Deny { message }) = one(&format!(
            r#"{{"n":0,"allow":false,"message":"x{}"}}"#,
            "é".repeat(400)
        )) else {
            panic!();
        };
        assert_eq!(message.unwrap().len(), 511);
        let Ok(Answer::Allow { data, grant }) = one(r#"{"n":0,"allow":true,"data":{"a": [1.0]}}"#)
        else {
            panic!();
        };
        assert_eq!((data.as_deref(), grant), (Some(r#"{"a": [1.0]}"#), None));
        assert!(one(r#"{"n":0,"allow":true,"data":[[[1]]]}"#).is_err());
        let long = format!(r#"{{"n":0,"allow":true,"data":"{}"}}"#, "x".repeat(100));
        assert!(one(&long).is_err());
    }

    #[test]
    fn who_a_connection_is() {
        let Ok(Answer::Allow {
            grant: Some(grant), ..
        }) = one(r#"{"n":0,"allow":true,"user":"u7","rooms":{"a.*":["send"]},"exp":5.5}"#)
        else {
            panic!();
        };
        assert_eq!((grant.user.as_str(), grant.expires_ms), ("u7", 5_500));
        let Ok(Answer::Allow {
            grant: Some(grant), ..
        }) = one(r#"{"n":0,"allow":true,"user":"u7"}"#)
        else {
            panic!();
        };
        let rules = vec![Rule::everywhere(limits().rights)];
        assert_eq!((grant.rules, grant.expires_ms), (rules, 0));
        for wrong in [
            r#"{"n":0,"allow":true,"user":"c7"}"#,
            r#"{"n":0,"allow":true,"user":""}"#,
            r#"{"n":0,"allow":true,"rooms":{"a":["send"]}}"#,
            r#"{"n":0,"allow":true,"exp":5}"#,
            r#"{"n":0,"allow":true,"user":"u","rooms":{"":["send"]}}"#,
        ] {
            assert!(one(wrong).is_err(), "{wrong}");
        }
        let many: Vec<_> = (0..100)
            .map(|n| format!(r#""{n:0100}":["send"]"#))
            .collect();
        let many = format!(
            r#"{{"n":0,"allow":true,"user":"u","rooms":{{{}}}}}"#,
            many.join(",")
        );
        assert!(one(&many).is_err());
    }

    #[test]
    fn which_question_it_is_for() {
        let body = br#"{"results":[{"n":2,"allow":true},{"n":0,"allow":false}]}"#;
        let answers = parse(body, 4, &limits()).unwrap();
        let allowed: Vec<_> = (answers.iter())
            .map(|answer| answer.as_ref().map(|a| *a == Ok(Answer::YES)))
            .collect();
        assert_eq!(allowed, [Some(false), None, Some(true), None]);
        for wrong in [
            r#"{"results":[{"n":4,"allow":true}]}"#,
            r#"{"results":[{"n":-1,"allow":true}]}"#,
            r#"{"results":[{"n":0,"allow":true},{"n":0,"allow":true}]}"#,
            r#"{"results":[{"allow":true}]}"#,
            r#"{"results":[{"n":0}]}"#,
            r#"{"results":[{"n":0,"allow":"yes"}]}"#,
            r#"{"results":{}}"#,
            r#"{}"#,
            r#"[]"#,
            "",
            "<html>",
            r#"{"results":[]}x"#,
            "{\"results\":[{\"n\":0,\"allow\":true,\"user\":\"\u{fffd}",
        ] {
            assert!(parse(wrong.as_bytes(), 4, &limits()).is_err(), "{wrong}");
        }
        assert!(
            parse(
                b"{\"results\":[{\"n\":0,\"allow\":true,\"message\":\"\xff\"}]}",
                1,
                &limits()
            )
            .is_err()
        );
    }
}
