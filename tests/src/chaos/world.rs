//! What all clients share, and how what came is held against what should have come.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::back_end::BackEnd;
use super::court::Court;
use super::ledger::{Ledger, Sort};
use crate::load::{Fault, Kind};

pub struct World {
    pub to: SocketAddr,
    pub ledger: Ledger,
    /// What is decided about who says something.
    pub court: Court,
    /// Back ends without a connection.
    pub away: Vec<BackEnd>,
    pub counts: Counts,
    /// How many are in each room.
    pub members: Vec<u64>,
    /// Who these are: nobody has two connections.
    pub present: Vec<BTreeSet<String>>,
    /// Every room has somebody who hears what is published.
    pub publishing: bool,
    /// Nothing new is said.
    pub quiet: bool,
    /// Everybody closes in the orderly way.
    pub ending: bool,
    /// For a payload that is only looked at.
    pub scratch: Vec<u8>,
}

impl World {
    #[must_use]
    pub fn new(to: SocketAddr, seed: u64, sorts: &[(Sort, usize)]) -> World {
        let ledger = Ledger::new(seed, sorts);
        let rooms = ledger.rooms();
        World {
            to,
            ledger,
            court: Court::default(),
            away: Vec::new(),
            counts: Counts::default(),
            members: vec![0; rooms],
            present: vec![BTreeSet::new(); rooms],
            publishing: false,
            quiet: false,
            ending: false,
            scratch: Vec::new(),
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub opened: u64,
    /// WebSockets that we closed and that closed in turn.
    pub closed_in_order: u64,
    pub echoes: u64,
    pub posts: u64,
    /// Connections of one request.
    pub visits: u64,
    /// Of echoes, posts and messages in rooms.
    pub bytes_verified: u64,
    pub published: u64,
    pub delivered: u64,
    /// Of these, those that were sent in another format.
    pub converted: u64,
    pub joins: u64,
    pub leaves: u64,
    /// What members who watch a room were told of who comes and goes.
    pub changes: u64,
    /// Messages that came compressed.
    pub inflated: u64,
    /// What slow readers were told that they missed.
    pub gaps: u64,
    /// What was not for everybody, in rooms with a budget.
    pub sampled: u64,
    /// Through the API, and requests that were made again.
    pub posted: u64,
    pub retried: u64,
    /// By moderators.
    pub decided: u64,
    /// What users did that they may not.
    pub refused: u64,
    /// Pages of what a room retains.
    pub pages: u64,
}

/// Holds what came against what should have come.
pub fn same(name: &str, wanted: &[u8], got: &[u8]) -> Result<(), Fault> {
    if wanted == got {
        return Ok(());
    }
    let at = wanted
        .iter()
        .zip(got)
        .position(|(wanted, got)| wanted != got)
        .unwrap_or(wanted.len().min(got.len()));
    let around = |bytes: &[u8]| {
        let end = bytes.len().min(at + 16);
        bytes[at.saturating_sub(8).min(end)..end]
            .escape_ascii()
            .to_string()
    };
    let what = format!(
        "{name}: byte {at} of {} (got {}): wanted …{}…, got …{}…",
        wanted.len(),
        got.len(),
        around(wanted),
        around(got)
    );
    Err(Fault::new(Kind::Wrong, what))
}

/// A Close frame that nobody asked for.
pub fn closed(payload: &[u8]) -> Fault {
    let what = match payload.split_first_chunk() {
        Some((code, reason)) => format!(
            "closed {} {:?}",
            u16::from_be_bytes(*code),
            String::from_utf8_lossy(reason)
        ),
        None => "closed without a code".to_owned(),
    };
    Fault::new(Kind::Closed, what)
}
