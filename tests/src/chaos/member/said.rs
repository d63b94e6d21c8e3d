//! What a server says, as a client reads it.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::chaos::court::{MEASURES, Measure};

/// Everything, in one.
#[derive(Debug, Deserialize)]
pub struct Said<'a> {
    pub id: Option<u64>,
    #[serde(borrow)]
    pub ok: Option<&'a RawValue>,
    #[serde(borrow)]
    pub error: Option<Refusal<'a>>,
    pub room: Option<&'a str>,
    pub pos: Option<&'a str>,
    pub from: Option<&'a str>,
    #[serde(borrow)]
    pub data: Option<&'a RawValue>,
    #[serde(borrow)]
    pub gap: Option<Gap<'a>>,
    #[serde(borrow)]
    pub hello: Option<Hello<'a>>,
    pub count: Option<u64>,
    muted: Option<&'a str>,
    unmuted: Option<&'a str>,
    banned: Option<&'a str>,
    unbanned: Option<&'a str>,
    pub deleted: Option<&'a str>,
    pub cleared: Option<&'a str>,
}

impl<'a> Said<'a> {
    /// About whom something is decided, and what.
    pub fn measure(&self) -> Option<(&'a str, Measure, bool)> {
        let all = [self.muted, self.unmuted, self.banned, self.unbanned];
        let measures = MEASURES
            .into_iter()
            .flat_map(|of| [(of, true), (of, false)]);
        let mut said = all.into_iter().zip(measures);
        said.find_map(|(who, (measure, on))| Some((who?, measure, on)))
    }
}

#[derive(Debug, Deserialize)]
pub struct Ok_<'a> {
    pub pos: Option<&'a str>,
    pub user: Option<&'a str>,
    pub until_ms: Option<u64>,
    #[serde(borrow, default)]
    pub messages: Vec<Kept<'a>>,
}

/// Of a room's history.
#[derive(Debug, Deserialize)]
pub struct Kept<'a> {
    pub pos: Option<&'a str>,
    pub from: Option<&'a str>,
    #[serde(borrow)]
    pub data: Option<&'a RawValue>,
    pub deleted: Option<&'a str>,
}

#[derive(Debug, Deserialize)]
pub struct Refusal<'a> {
    pub code: &'a str,
}

#[derive(Debug, Deserialize)]
pub struct Gap<'a> {
    pub from: &'a str,
    pub to: &'a str,
    pub why: &'a str,
}

#[derive(Debug, Deserialize)]
pub struct Hello<'a> {
    pub cid: &'a str,
}
