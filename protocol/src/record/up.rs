//! What goes up: from a worker to the master, in its ring.

use crate::format::Data;
use crate::ids::Cid;
use crate::moderation::Act;
use crate::names::Names;

use super::Asker;
use super::fields::{Fields, MSGPACK, format_of, put, with_data};

/// How each record begins. Masters and workers of neighbouring versions read each other: a number that
/// was given stays.
mod kind {
    use super::MSGPACK;

    pub const PUBLISH: u64 = 1;
    pub const PUBLISH_MSGPACK: u64 = PUBLISH | MSGPACK;
    pub const OPEN: u64 = 2;
    pub const WHO: u64 = 3;
    pub const MEMBERS: u64 = 4;
    pub const ACK: u64 = 5;
    pub const CLOSED: u64 = 6;
    pub const HOLD: u64 = 7;
    pub const USERS: u64 = 8;
    pub const RECOUNTED: u64 = 9;
    pub const WATCH: u64 = 10;
    pub const LIST: u64 = 11;
    pub const MODERATE: u64 = 20;
    pub const WITHHOLD: u64 = 21;
    pub const WITHHOLD_MSGPACK: u64 = WITHHOLD | MSGPACK;
    pub const RELEASE: u64 = 22;
    pub const RELEASE_MSGPACK: u64 = RELEASE | MSGPACK;
    pub const ASK: u64 = 30;
    pub const TOLD: u64 = 31;
}

/// Worker → master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Up<'a> {
    /// A message for a room.
    Publish {
        asker: Asker<'a>,
        room: &'a [u8],
        from: &'a [u8],
        /// By which a retry is known; empty: it has none.
        key: &'a [u8],
        lane: Lane,
        data: Data<'a>,
    },
    /// A message for a room under the name of somebody else (`from`), by who moderates there.
    Release {
        asker: Asker<'a>,
        room: &'a [u8],
        by: &'a [u8],
        from: &'a [u8],
        /// As of a [`Publish`](Up::Publish); all who moderate share them.
        key: &'a [u8],
        lane: Lane,
        data: Data<'a>,
    },
    /// A connection wants to join a room that this worker does not hold yet; answered by
    /// [`Down::Opened`](super::Down::Opened). From here on the worker counts as holding it.
    Open { asker: Asker<'a>, room: &'a [u8] },
    /// A connection wants to look into what a room retains that this worker does not hold; answered by
    /// [`Down::Held`](super::Down::Held). From here on the worker counts as holding it.
    Hold { asker: Asker<'a>, room: &'a [u8] },
    /// Who is in the room, up to `limit` of them by name? Answered by [`Down::Count`](super::Down::Count).
    Who {
        asker: Asker<'a>,
        room: &'a [u8],
        limit: u32,
    },
    /// This worker has so many connections in the room (0: it holds it no more), of which some want
    /// to hear who comes and goes, or none.
    Members {
        room: u32,
        count: u32,
        watched: bool,
    },
    /// These users have a connection of this worker in the room now, these have none any more. Said
    /// twice it means the same.
    Users {
        room: u32,
        came: Names<'a>,
        gone: Names<'a>,
    },
    /// Who took back all that it had counted has counted it anew.
    Recounted,
    /// A connection in the room, which this worker holds, wants to hear who comes and goes there;
    /// answered by [`Down::Listed`](super::Down::Listed). From here on the worker counts as one where
    /// that is wanted.
    Watch { asker: Asker<'a>, room: &'a [u8] },
    /// Changes of who is in the room were missed here; answered by [`Down::List`](super::Down::List).
    List { room: u32 },
    /// Somebody with the right to it decides about others; answered by [`Down::Moderated`](super::Down::Moderated).
    Moderate {
        asker: Asker<'a>,
        /// Empty: everywhere.
        room: &'a [u8],
        /// Who decides.
        by: &'a [u8],
        act: Act<'a>,
    },
    /// A message that the word filter holds back; answered by [`Down::Withheld`](super::Down::Withheld).
    Withhold {
        asker: Asker<'a>,
        room: &'a [u8],
        from: &'a [u8],
        data: Data<'a>,
    },
    /// What the HTTP API asks of the master ([`api::Ask`](crate::api::Ask), as JSON), with what is to be
    /// published, as JSON too; answered by [`Down::Told`](super::Down::Told).
    Ask {
        asker: Asker<'a>,
        what: &'a [u8],
        data: &'a [u8],
    },
    /// The answer to [`Down::Look`](super::Down::Look), to be passed on. (The asker may be another worker's.)
    Told {
        asker: Asker<'a>,
        status: u32,
        body: &'a [u8],
    },
    /// These are in their slots, and their worker's from here on: the master closes its copies.
    Ack { cids: Cids<'a> },
    /// These are closed; they count no more.
    Closed { cids: Cids<'a> },
}

/// How a message goes its way, by the rights of who sends it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lane {
    /// It is for all members, at once.
    pub first: bool,
    /// Its sender need not wait between messages.
    pub exempt: bool,
}

/// Connections' numbers as they lie in a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cids<'a>(&'a [[u8; 8]]);

/// A connection's number as it lies in a record.
#[must_use]
pub fn cid_bytes(cid: Cid) -> [u8; 8] {
    cid.0.to_le_bytes()
}

impl<'a> Cids<'a> {
    /// Each as [`cid_bytes`] makes it.
    #[must_use]
    pub fn new(bytes: &'a [[u8; 8]]) -> Cids<'a> {
        Cids(bytes)
    }

    pub fn iter(self) -> impl Iterator<Item = Cid> + use<'a> {
        self.0.iter().map(|bytes| Cid(u64::from_le_bytes(*bytes)))
    }
}

impl<'a> Up<'a> {
    /// Who wants an answer to it.
    #[must_use]
    pub fn asker(&self) -> Option<Asker<'a>> {
        match *self {
            Up::Publish { asker, .. }
            | Up::Release { asker, .. }
            | Up::Open { asker, .. }
            | Up::Hold { asker, .. }
            | Up::Watch { asker, .. }
            | Up::Moderate { asker, .. }
            | Up::Withhold { asker, .. }
            | Up::Ask { asker, .. }
            | Up::Who { asker, .. } => Some(asker),
            Up::Members { .. }
            | Up::Users { .. }
            | Up::Recounted
            | Up::List { .. }
            | Up::Told { .. }
            | Up::Ack { .. }
            | Up::Closed { .. } => None,
        }
    }
}

impl Up<'_> {
    /// Appends the record's bytes.
    pub fn encode(&self, into: &mut Vec<u8>) {
        match *self {
            Up::Publish {
                asker,
                room,
                from,
                key,
                lane,
                data,
            } => {
                let parts = [asker.id, room, from, key, data.bytes];
                let kind = with_data(kind::PUBLISH, data.format) | lane.bits();
                put(into, kind, &asker.words(), &parts);
            }
            Up::Release {
                asker,
                room,
                by,
                from,
                key,
                lane,
                data,
            } => {
                let parts = [asker.id, room, by, from, key, data.bytes];
                let kind = with_data(kind::RELEASE, data.format) | lane.bits();
                put(into, kind, &asker.words(), &parts);
            }
            Up::Open { asker, room } => put(into, kind::OPEN, &asker.words(), &[asker.id, room]),
            Up::Who { asker, room, limit } => {
                let [a, b] = asker.words();
                put(into, kind::WHO, &[a, b, limit.into()], &[asker.id, room]);
            }
            Up::Members {
                room,
                count,
                watched,
            } => {
                let count = u64::from(count) | u64::from(watched) << 32;
                put(into, kind::MEMBERS, &[room.into(), count], &[]);
            }
            Up::Users { room, came, gone } => {
                put(
                    into,
                    kind::USERS,
                    &[room.into()],
                    &[came.as_bytes(), gone.as_bytes()],
                );
            }
            Up::Recounted => put(into, kind::RECOUNTED, &[], &[]),
            Up::Watch { asker, room } => put(into, kind::WATCH, &asker.words(), &[asker.id, room]),
            Up::List { room } => put(into, kind::LIST, &[room.into()], &[]),
            Up::Ask { asker, what, data } => {
                put(into, kind::ASK, &asker.words(), &[asker.id, what, data]);
            }
            Up::Told {
                asker,
                status,
                body,
            } => {
                let [a, b] = asker.words();
                put(into, kind::TOLD, &[a, b, status.into()], &[asker.id, body]);
            }
            Up::Ack { cids } => put(into, kind::ACK, &[], &[cids.0.as_flattened()]),
            Up::Closed { cids } => put(into, kind::CLOSED, &[], &[cids.0.as_flattened()]),
            Up::Hold { asker, room } => put(into, kind::HOLD, &asker.words(), &[asker.id, room]),
            Up::Moderate {
                asker,
                room,
                by,
                act,
            } => {
                let ([a, b], [kind, x, y]) = (asker.words(), act.words());
                act.with_target(|target| {
                    put(
                        into,
                        kind::MODERATE,
                        &[a, b, kind, x, y],
                        &[asker.id, room, by, target],
                    );
                });
            }
            Up::Withhold {
                asker,
                room,
                from,
                data,
            } => {
                let parts = [asker.id, room, from, data.bytes];
                put(
                    into,
                    with_data(kind::WITHHOLD, data.format),
                    &asker.words(),
                    &parts,
                );
            }
        }
    }

    /// `None`: not one that [`encode`](Up::encode) writes.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Up<'_>> {
        let (kind, mut rest) = Fields::new(bytes)?;
        Some(match kind {
            _ if matches!(kind & !Lane::ALL, kind::PUBLISH | kind::PUBLISH_MSGPACK) => {
                let ([a, b], [id, room, from, key, bytes]) = rest.take()?;
                let format = format_of(kind);
                let data = Data { format, bytes };
                Up::Publish {
                    asker: Asker::new(a, b, id),
                    room,
                    from,
                    key,
                    lane: Lane::of(kind),
                    data,
                }
            }
            _ if matches!(kind & !Lane::ALL, kind::RELEASE | kind::RELEASE_MSGPACK) => {
                let ([a, b], [id, room, by, from, key, bytes]) = rest.take()?;
                let format = format_of(kind);
                Up::Release {
                    asker: Asker::new(a, b, id),
                    room,
                    by,
                    from,
                    key,
                    lane: Lane::of(kind),
                    data: Data { format, bytes },
                }
            }
            kind::OPEN | kind::HOLD | kind::WATCH => {
                let ([a, b], [id, room]) = rest.take()?;
                let asker = Asker::new(a, b, id);
                match kind {
                    kind::OPEN => Up::Open { asker, room },
                    kind::HOLD => Up::Hold { asker, room },
                    _ => Up::Watch { asker, room },
                }
            }
            kind::WHO => {
                let ([a, b, limit], [id, room]) = rest.take()?;
                Up::Who {
                    asker: Asker::new(a, b, id),
                    room,
                    limit: limit.try_into().ok()?,
                }
            }
            kind::MEMBERS => {
                let ([room, count], []) = rest.take()?;
                Up::Members {
                    room: room.try_into().ok()?,
                    count: count as u32,
                    watched: match count >> 32 {
                        0 => false,
                        1 => true,
                        _ => return None,
                    },
                }
            }
            kind::USERS => {
                let ([room], [came, gone]) = rest.take()?;
                Up::Users {
                    room: room.try_into().ok()?,
                    came: Names::read(came)?,
                    gone: Names::read(gone)?,
                }
            }
            kind::RECOUNTED => {
                let ([], []) = rest.take()?;
                Up::Recounted
            }
            kind::LIST => {
                let ([room], []) = rest.take()?;
                Up::List {
                    room: room.try_into().ok()?,
                }
            }
            kind::MODERATE => {
                let ([a, b, kind, x, y], [id, room, by, target]) = rest.take()?;
                Up::Moderate {
                    asker: Asker::new(a, b, id),
                    room,
                    by,
                    act: Act::read([kind, x, y], target)?,
                }
            }
            kind::WITHHOLD | kind::WITHHOLD_MSGPACK => {
                let ([a, b], [id, room, from, bytes]) = rest.take()?;
                let format = format_of(kind);
                Up::Withhold {
                    asker: Asker::new(a, b, id),
                    room,
                    from,
                    data: Data { format, bytes },
                }
            }
            kind::ASK => {
                let ([a, b], [id, what, data]) = rest.take()?;
                Up::Ask {
                    asker: Asker::new(a, b, id),
                    what,
                    data,
                }
            }
            kind::TOLD => {
                let ([a, b, status], [id, body]) = rest.take()?;
                Up::Told {
                    asker: Asker::new(a, b, id),
                    status: status.try_into().ok()?,
                    body,
                }
            }
            kind::ACK | kind::CLOSED => {
                let ([], [cids]) = rest.take()?;
                let (cids, []) = cids.as_chunks() else {
                    return None;
                };
                let cids = Cids(cids);
                match kind {
                    kind::ACK => Up::Ack { cids },
                    _ => Up::Closed { cids },
                }
            }
            _ => return None,
        })
    }
}

impl Lane {
    const FIRST: u64 = 1 << 33;
    const EXEMPT: u64 = 1 << 34;
    const ALL: u64 = Lane::FIRST | Lane::EXEMPT;

    /// In the kind of a message.
    fn bits(self) -> u64 {
        let first = if self.first { Lane::FIRST } else { 0 };
        let exempt = if self.exempt { Lane::EXEMPT } else { 0 };
        first | exempt
    }

    fn of(kind: u64) -> Lane {
        Lane {
            first: kind & Lane::FIRST != 0,
            exempt: kind & Lane::EXEMPT != 0,
        }
    }
}
