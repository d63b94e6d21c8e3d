//! Which live connections move from which worker to which: tables, ids and `now` in, orders out.
//!
//! A worker that is to go gives everything away; after more workers have come, those that have more
//! than their share give some. A giver is asked for a few at a time ([`Moves::next`]): between the
//! order and the taker's acknowledgement nobody serves a connection. What it gives finds its taker
//! in [`Moves::choose`], or is kept by who had it.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use protocol::ids::{Cid, Seat};
use protocol::message::MAX_BATCH;
use rustc_hash::FxHashSet;

use crate::config::Policy;
use crate::connections::Load;
use crate::schedule::{Candidate, ip_hash, least_connections};

/// Connections of one giver that are ordered or on their way.
pub const MOST_UNDECIDED: u32 = 256;
/// A connection that cannot be given for so long goes back to who had it.
pub const WAIT: u64 = 200;
/// So many messages of takers that refuse, and the move has failed.
const REFUSALS: u32 = 8;
/// A list of what is to go is not made anew before.
const LIST_AGAIN: u64 = 20;

/// What a giver gives, and to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aim {
    /// All of it, to the worker that takes its seat.
    Relief { to: u16 },
    /// All of it, to the others, as the policy says.
    Leave,
    /// What is beyond its share, to those that have less.
    Share,
}

/// A worker that stays, and can be given connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub ring: u16,
    pub seat: Seat,
    /// That it has or was given.
    pub connections: u32,
    /// So many can be given to it just now.
    pub room: u32,
    /// So many more it may have in all.
    pub spare: u32,
}

impl Place {
    /// One more is given to it.
    pub fn take_one(&mut self) {
        self.connections += 1;
        self.room = self.room.saturating_sub(1);
        self.spare = self.spare.saturating_sub(1);
    }
}

/// What a giver is to be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// These.
    Order(Vec<Cid>),
    /// Say what it has, with [`Moves::listed`].
    List,
    Nothing,
    /// All is given that was to be.
    Done,
    /// It cannot be done, and why.
    Failed(String),
}

/// Who gets a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    Give(u16),
    /// Somebody, in a moment.
    Wait,
    /// Nobody: the giver goes on with it.
    Keep,
}

#[derive(Debug)]
struct Job {
    aim: Aim,
    /// To be ordered.
    left: VecDeque<Cid>,
    list_at: u64,
    /// Ordered, and not given so far.
    ordered: FxHashSet<Cid>,
    refusals: u32,
    /// Nothing more of what it has is to go.
    is_through: bool,
}

/// How fast shares are evened out, and how long it is tried.
#[derive(Clone, Copy, Debug)]
struct Pace {
    since: u64,
    until: u64,
    per_second: u32,
    ordered: u64,
}

/// All that is on its way, or to go.
#[derive(Debug, Default)]
pub struct Moves {
    jobs: BTreeMap<u16, Job>,
    /// While shares are evened out.
    pace: Option<Pace>,
}

impl Job {
    fn new(aim: Aim) -> Job {
        Job {
            aim,
            left: VecDeque::new(),
            list_at: 0,
            ordered: FxHashSet::default(),
            refusals: 0,
            is_through: false,
        }
    }
}

impl Moves {
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.jobs.is_empty() && self.pace.is_none()
    }

    /// Rings of those that give.
    #[must_use]
    pub fn givers(&self) -> Vec<u16> {
        self.jobs.keys().copied().collect()
    }

    /// Those whose connections all go to this one.
    pub fn relieved_by(&self, taker: u16) -> impl Iterator<Item = u16> {
        let relieved = self
            .jobs
            .iter()
            .filter(move |(_, job)| job.aim == Aim::Relief { to: taker });
        relieved.map(|(ring, _)| *ring)
    }

    #[must_use]
    pub fn aim(&self, from: u16) -> Option<Aim> {
        self.jobs.get(&from).map(|job| job.aim)
    }

    /// These are to give everything, and nobody else is.
    pub fn set_leavers(&mut self, leavers: &[(u16, Aim)]) {
        let leaves = |ring: &u16| leavers.iter().any(|(leaver, _)| leaver == ring);
        self.jobs
            .retain(|ring, job| job.aim == Aim::Share || leaves(ring));
        for (ring, aim) in leavers {
            let job = self.jobs.entry(*ring).or_insert_with(|| Job::new(*aim));
            if job.aim == Aim::Share {
                job.left.clear();
                job.is_through = false;
            }
            job.aim = *aim;
        }
    }

    /// Begins to give everybody its share, so many connections a second, for `within` at most
    /// beyond the time that this takes.
    pub fn even_out(
        &mut self,
        now: u64,
        within: u64,
        per_second: u32,
        policy: Policy,
        table: &[Place],
    ) {
        let all: u64 = table.iter().map(|p| u64::from(p.connections)).sum();
        self.pace = Some(Pace {
            since: now,
            until: now + all * 1_000 / u64::from(per_second.max(1)) + within,
            per_second,
            ordered: 0,
        });
        let share = share(table, 0);
        for place in table {
            // Who is within a tenth of it has its share.
            let has_more = u64::from(place.connections) * 10 > u64::from(share) * 11;
            if has_more || policy == Policy::IpHash {
                let job = || Job::new(Aim::Share);
                self.jobs.entry(place.ring).or_insert_with(job);
            }
        }
    }

    /// Once, when shares have been evened out as far as could be.
    pub fn is_even(&mut self, now: u64) -> bool {
        if self.pace.is_some_and(|pace| pace.until <= now) {
            self.jobs.retain(|_, job| job.aim != Aim::Share);
        }
        let all_done = self.jobs.values().all(|job| job.aim != Aim::Share);
        self.pace.take_if(|_| all_done).is_some()
    }

    /// It has given what it was to give, or is gone, or stays as it is.
    pub fn end(&mut self, from: u16) {
        self.jobs.remove(&from);
    }

    /// All that was to be moved stays where it is.
    pub fn stop(&mut self) {
        *self = Moves::default();
    }

    /// What this giver is to be asked for now. `waiting`: connections that were given and have no
    /// taker yet, of all givers.
    pub fn next(
        &mut self,
        now: u64,
        from: u16,
        load: Load,
        waiting: u32,
        policy: Policy,
        table: &[Place],
    ) -> Next {
        let on_the_way: usize = self.jobs.values().map(|job| job.ordered.len()).sum();
        let on_the_way = on_the_way as u32 + waiting;
        let pace = self.pace;
        let Some(job) = self.jobs.get_mut(&from) else {
            return Next::Nothing;
        };
        let ordered = job.ordered.len() as u32;
        let most = match job.aim {
            Aim::Relief { .. } | Aim::Leave => {
                if load == Load::default() {
                    return Next::Done;
                }
                if let Some(why) = cannot(job, load, table) {
                    return Next::Failed(why);
                }
                u32::MAX
            }
            Aim::Share => {
                let excess = match policy {
                    // The list says it.
                    Policy::IpHash => u32::MAX,
                    _ => (load.held + load.given)
                        .saturating_sub(ordered)
                        .saturating_sub(share(table, waiting)),
                };
                let stays = table.iter().any(|place| place.ring == from);
                if !stays || excess == 0 || job.is_through || job.refusals >= REFUSALS {
                    return match ordered + load.leaving {
                        0 => Next::Done,
                        _ => Next::Nothing,
                    };
                }
                excess.min(pace.map_or(0, |pace| pace.allows(now)))
            }
        };
        let room: u32 = takers(job.aim, from, table).map(|place| place.room).sum();
        let many = most
            .min(MAX_BATCH as u32)
            .min(MOST_UNDECIDED.saturating_sub(ordered + load.leaving))
            .min(room.saturating_sub(on_the_way));
        if many == 0 {
            return Next::Nothing;
        }
        if job.left.is_empty() {
            // What it was given lately, and what came back to it.
            if now < job.list_at {
                return Next::Nothing;
            }
            job.list_at = now + LIST_AGAIN;
            return Next::List;
        }
        let many = job.left.len().min(many as usize);
        let order: Vec<Cid> = job.left.drain(..many).collect();
        job.ordered.extend(&order);
        if let (Aim::Share, Some(pace)) = (job.aim, &mut self.pace) {
            pace.ordered += order.len() as u64;
        }
        Next::Order(order)
    }

    /// All that this giver has, with the clients' addresses.
    pub fn listed(
        &mut self,
        from: u16,
        all: impl IntoIterator<Item = (Cid, IpAddr)>,
        policy: Policy,
        table: &[Place],
    ) {
        let Some(job) = self.jobs.get_mut(&from) else {
            return;
        };
        let goes = |address: IpAddr| match (job.aim, policy) {
            (Aim::Share, Policy::IpHash) => {
                by_address(table, address).is_some_and(|place| place.ring != from)
            }
            _ => true,
        };
        let all = all.into_iter();
        let left = all.filter(|(cid, address)| goes(*address) && !job.ordered.contains(cid));
        job.left = left.map(|(cid, _)| cid).collect();
        job.is_through = job.left.is_empty();
    }

    /// It was given, as ordered.
    pub fn given(&mut self, from: u16, cid: Cid) {
        if let Some(job) = self.jobs.get_mut(&from) {
            job.ordered.remove(&cid);
        }
    }

    /// Its worker has closed it.
    pub fn closed(&mut self, from: u16, cid: Cid) {
        self.given(from, cid);
    }

    /// A taker has refused some of what this giver gave.
    pub fn refused(&mut self, from: u16) {
        if let Some(job) = self.jobs.get_mut(&from) {
            job.refusals += 1;
        }
    }

    /// The giver's brain is another one, and may not have seen what was ordered.
    pub fn restarted(&mut self, from: u16) {
        if let Some(job) = self.jobs.get_mut(&from) {
            job.ordered.clear();
            job.left.clear();
        }
    }

    /// Who gets a connection that `from` gave (`None`: it is gone since) and that has waited for so
    /// long.
    #[must_use]
    pub fn choose(
        &self,
        from: Option<u16>,
        address: IpAddr,
        waited: u64,
        policy: Policy,
        table: &[Place],
    ) -> Choice {
        let aim = match from {
            None => Aim::Leave,
            Some(from) => match self.jobs.get(&from) {
                Some(job) => job.aim,
                None => return Choice::Keep,
            },
        };
        let giver = from.unwrap_or(u16::MAX);
        let others: Vec<Place> = takers(aim, giver, table).copied().collect();
        let chosen = match (aim, policy) {
            (Aim::Relief { .. }, _) => others.first(),
            (Aim::Leave, Policy::IpHash) => by_address(&others, address),
            (Aim::Share, Policy::IpHash) => {
                by_address(table, address).filter(|place| place.ring != giver)
            }
            (Aim::Leave, _) => least(&others),
            (Aim::Share, _) => {
                let share = share(table, 0);
                least(&others).filter(|place| place.connections < share)
            }
        };
        match chosen {
            Some(place) if place.room > 0 => Choice::Give(place.ring),
            None if from.is_none() => Choice::Wait,
            // The new holder of its seat is away for a moment.
            None if !matches!(aim, Aim::Relief { .. }) => Choice::Keep,
            _ if waited < WAIT || from.is_none() => Choice::Wait,
            _ => Choice::Keep,
        }
    }
}

impl Pace {
    fn allows(&self, now: u64) -> u32 {
        let so_far = (now - self.since) * u64::from(self.per_second) / 1_000;
        // The first ones go at once.
        let allowed = so_far + MAX_BATCH as u64;
        u32::try_from(allowed.saturating_sub(self.ordered)).unwrap_or(u32::MAX)
    }
}

/// Why a worker cannot give everything away.
fn cannot(job: &Job, load: Load, table: &[Place]) -> Option<String> {
    if job.refusals >= REFUSALS {
        return Some("its connections are refused".to_owned());
    }
    if job.aim != Aim::Leave {
        return None;
    }
    let spare: u64 = table.iter().map(|place| u64::from(place.spare)).sum();
    let needed = load.held + load.given;
    (spare < needed.into())
        .then(|| format!("the other workers have no room for its {needed} connections"))
}

/// Who may be given what `from` gives.
fn takers(aim: Aim, from: u16, table: &[Place]) -> impl Iterator<Item = &Place> {
    table.iter().filter(move |place| match aim {
        Aim::Relief { to } => place.ring == to,
        Aim::Leave | Aim::Share => place.ring != from,
    })
}

/// What each would have if all had the same, rounded up.
fn share(table: &[Place], waiting: u32) -> u32 {
    let all: u64 = table.iter().map(|p| u64::from(p.connections)).sum();
    let all = all + u64::from(waiting);
    all.div_ceil(table.len().max(1) as u64) as u32
}

fn candidates(places: &[Place], open: impl Fn(&Place) -> bool) -> Vec<Candidate> {
    let candidate = |place: &Place| Candidate {
        seat: place.seat,
        open: open(place),
        connections: place.connections,
    };
    places.iter().map(candidate).collect()
}

fn by_address(places: &[Place], address: IpAddr) -> Option<&Place> {
    let candidates = candidates(places, |place| place.spare > 0);
    ip_hash(&candidates, address).map(|index| &places[index])
}

/// Who gets a connection whose PROXY header has named this address: that may be who gave it.
#[must_use]
pub fn by_header(from: Option<u16>, address: IpAddr, waited: u64, table: &[Place]) -> Choice {
    match by_address(table, address) {
        Some(place) if from == Some(place.ring) => Choice::Keep,
        Some(place) if place.room > 0 => Choice::Give(place.ring),
        // It is less even then, that is all.
        _ if from.is_some() && waited >= WAIT => Choice::Keep,
        _ => Choice::Wait,
    }
}

/// The one with the fewest that can be given one now, or in a moment.
fn least(places: &[Place]) -> Option<&Place> {
    let now = candidates(places, |place| place.spare > 0 && place.room > 0);
    let later = candidates(places, |place| place.spare > 0);
    let index = least_connections(&now).or_else(|| least_connections(&later));
    index.map(|index| &places[index])
}

#[cfg(test)]
#[path = "moves_tests.rs"]
mod tests;
