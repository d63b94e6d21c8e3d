//! What goes up: from a worker to the master, in its ring.

use crate::format::Data;
use crate::ids::Cid;
use crate::moderation::Act;
use crate::names::Names;

use super::Asker;
use super::fields::{Fields, MSGPACK_1, MSGPACK_21, MSGPACK_22, format_of, put, with_data};

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
    /// [`Down::Opened`]. From here on the worker counts as holding it.
    Open { asker: Asker<'a>, room: &'a [u8] },
    /// A connection wants to look into what a room retains that this worker does not hold; answered by
    /// [`Down::Held`]. From here on the worker counts as holding it.
    Hold { asker: Asker<'a>, room: &'a [u8] },
    /// Who is in the room, up to `limit` of them by name? Answered by [`Down::Count`].
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
    /// answered by [`Down::Listed`]. From here on the worker counts as one where that is wanted.
    Watch { asker: Asker<'a>, room: &'a [u8] },
    /// Changes of who is in the room were missed here; answered by [`Down::List`].
    List { room: u32 },
    /// Somebody with the right to it decides about others; answered by [`Down::Moderated`].
    Moderate {
        asker: Asker<'a>,
        /// Empty: everywhere.
        room: &'a [u8],
        /// Who decides.
        by: &'a [u8],
        act: Act<'a>,
    },
    /// A message that the word filter holds back; answered by [`Down::Withheld`].
    Withhold {
        asker: Asker<'a>,
        room: &'a [u8],
        from: &'a [u8],
        data: Data<'a>,
    },
    /// What the HTTP API asks of the master ([`api::Ask`](crate::api::Ask), as JSON), with what is to be
    /// published, as JSON too; answered by [`Down::Told`].
    Ask {
        asker: Asker<'a>,
        what: &'a [u8],
        data: &'a [u8],
    },
    /// The answer to [`Down::Look`], to be passed on. (The asker may be another worker's.)
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
                let kind = with_data(1, data.format) | lane.bits();
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
                let kind = with_data(22, data.format) | lane.bits();
                put(into, kind, &asker.words(), &parts);
            }
            Up::Open { asker, room } => put(into, 2, &asker.words(), &[asker.id, room]),
            Up::Who { asker, room, limit } => {
                let [a, b] = asker.words();
                put(into, 3, &[a, b, limit.into()], &[asker.id, room]);
            }
            Up::Members {
                room,
                count,
                watched,
            } => {
                let count = u64::from(count) | u64::from(watched) << 32;
                put(into, 4, &[room.into(), count], &[]);
            }
            Up::Users { room, came, gone } => {
                put(into, 8, &[room.into()], &[came.as_bytes(), gone.as_bytes()]);
            }
            Up::Recounted => put(into, 9, &[], &[]),
            Up::Watch { asker, room } => put(into, 10, &asker.words(), &[asker.id, room]),
            Up::List { room } => put(into, 11, &[room.into()], &[]),
            Up::Ask { asker, what, data } => {
                put(into, 30, &asker.words(), &[asker.id, what, data]);
            }
            Up::Told {
                asker,
                status,
                body,
            } => {
                let [a, b] = asker.words();
                put(into, 31, &[a, b, status.into()], &[asker.id, body]);
            }
            Up::Ack { cids } => put(into, 5, &[], &[cids.0.as_flattened()]),
            Up::Closed { cids } => put(into, 6, &[], &[cids.0.as_flattened()]),
            Up::Hold { asker, room } => put(into, 7, &asker.words(), &[asker.id, room]),
            Up::Moderate {
                asker,
                room,
                by,
                act,
            } => {
                let ([a, b], [kind, x, y]) = (asker.words(), act.words());
                act.with_target(|target| {
                    put(into, 20, &[a, b, kind, x, y], &[asker.id, room, by, target]);
                });
            }
            Up::Withhold {
                asker,
                room,
                from,
                data,
            } => {
                let parts = [asker.id, room, from, data.bytes];
                put(into, with_data(21, data.format), &asker.words(), &parts);
            }
        }
    }

    /// `None`: not one that [`encode`](Up::encode) writes.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Up<'_>> {
        let (kind, mut rest) = Fields::new(bytes)?;
        Some(match kind {
            kind if kind & !Lane::ALL == 1 || kind & !Lane::ALL == MSGPACK_1 => {
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
            kind if kind & !Lane::ALL == 22 || kind & !Lane::ALL == MSGPACK_22 => {
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
            2 | 7 | 10 => {
                let ([a, b], [id, room]) = rest.take()?;
                let asker = Asker::new(a, b, id);
                match kind {
                    2 => Up::Open { asker, room },
                    7 => Up::Hold { asker, room },
                    _ => Up::Watch { asker, room },
                }
            }
            3 => {
                let ([a, b, limit], [id, room]) = rest.take()?;
                Up::Who {
                    asker: Asker::new(a, b, id),
                    room,
                    limit: limit.try_into().ok()?,
                }
            }
            4 => {
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
            8 => {
                let ([room], [came, gone]) = rest.take()?;
                Up::Users {
                    room: room.try_into().ok()?,
                    came: Names::read(came)?,
                    gone: Names::read(gone)?,
                }
            }
            9 => {
                let ([], []) = rest.take()?;
                Up::Recounted
            }
            11 => {
                let ([room], []) = rest.take()?;
                Up::List {
                    room: room.try_into().ok()?,
                }
            }
            20 => {
                let ([a, b, kind, x, y], [id, room, by, target]) = rest.take()?;
                Up::Moderate {
                    asker: Asker::new(a, b, id),
                    room,
                    by,
                    act: Act::read([kind, x, y], target)?,
                }
            }
            21 | MSGPACK_21 => {
                let ([a, b], [id, room, from, bytes]) = rest.take()?;
                let format = format_of(kind);
                Up::Withhold {
                    asker: Asker::new(a, b, id),
                    room,
                    from,
                    data: Data { format, bytes },
                }
            }
            30 => {
                let ([a, b], [id, what, data]) = rest.take()?;
                Up::Ask {
                    asker: Asker::new(a, b, id),
                    what,
                    data,
                }
            }
            31 => {
                let ([a, b, status], [id, body]) = rest.take()?;
                Up::Told {
                    asker: Asker::new(a, b, id),
                    status: status.try_into().ok()?,
                    body,
                }
            }
            5 | 6 => {
                let ([], [cids]) = rest.take()?;
                let (cids, []) = cids.as_chunks() else {
                    return None;
                };
                let cids = Cids(cids);
                match kind {
                    5 => Up::Ack { cids },
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
