//! What is written into rings (worker → master) and the log (master → workers).
//!
//! A record is a fixed head of little-endian words and then its variable parts, one behind the
//! other: fast to write, fast to check, and nothing in it needs an allocation. `decode` trusts
//! nothing: a record that lies about its lengths is `None`.

use crate::api::Kind;
use crate::format::{Data, Format};
use crate::ids::{Cid, Position};
use crate::moderation::{Act, Scope};
use crate::names::Names;
use crate::share::Share;

/// The one that asked: an answer in the log is rendered by whoever holds connection `cid`; `ring`
/// and `slot` say where it was when it asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker<'a> {
    pub cid: Cid,
    pub ring: u16,
    pub slot: u32,
    /// The request's `id` as JSON text (`3`, `"a"`); empty: no reply is wanted.
    pub id: &'a [u8],
}

/// How a message goes its way, by the rights of who sends it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lane {
    /// It is for all members, at once.
    pub first: bool,
    /// Its sender need not wait between messages.
    pub exempt: bool,
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

/// Master → workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Down<'a> {
    /// A message at its place. Subscribers get it, and the asker its `ok` before it.
    Message {
        room: u32,
        position: Position,
        asker: Asker<'a>,
        from: &'a [u8],
        /// For which of the subscribers it is.
        share: Share,
        data: Data<'a>,
    },
    /// The worker that asked holds the room from here on: every message of it behind `position`
    /// comes behind this record.
    Opened {
        room: u32,
        position: Position,
        total: u32,
        asker: Asker<'a>,
        name: &'a [u8],
    },
    /// As [`Down::Opened`]; the one that asked goes on with what it wanted, and joins nothing by this.
    Held {
        room: u32,
        position: Position,
        total: u32,
        asker: Asker<'a>,
        name: &'a [u8],
    },
    /// The answer to [`Up::Who`].
    Count { who: Who<'a>, asker: Asker<'a> },
    /// The answer to [`Up::Watch`]: who is in the room, from which on [`Down::Changes`] are told.
    Listed {
        room: u32,
        who: Who<'a>,
        asker: Asker<'a>,
    },
    /// Who is in the room, for all who want to hear of it: what they have heard counts no more.
    List { room: u32, who: Who<'a> },
    /// Who has come into the room and who has gone, for all who want to hear of it. Without names: the
    /// room is too large for them.
    Changes {
        room: u32,
        total: u32,
        distinct: Option<u32>,
        names: Option<[Names<'a>; 2]>,
    },
    /// So many connections are in the room now, on all workers together.
    Presence { room: u32, total: u32 },
    /// The message was published before, at this place.
    Sent {
        position: Position,
        asker: Asker<'a>,
    },
    /// The answer to [`Up::Ask`], for who holds the connection, wherever it is by now.
    Told {
        asker: Asker<'a>,
        /// Of HTTP.
        status: u32,
        kind: Kind,
        body: &'a [u8],
    },
    /// The worker of this ring is to answer, by [`Up::Told`].
    Look {
        asker: Asker<'a>,
        ring: u16,
        what: &'a [u8],
    },
    /// The request cannot be granted.
    Refused { reason: Refusal, asker: Asker<'a> },
    /// This was decided, and counts from here on.
    Moderated {
        scope: Scope,
        asker: Asker<'a>,
        act: Act<'a>,
    },
    /// A message that has no place in its room: those who moderate there are told, and the asker.
    Withheld {
        room: u32,
        asker: Asker<'a>,
        from: &'a [u8],
        data: Data<'a>,
    },
}

/// Who is in a room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Who<'a> {
    /// Connections.
    pub total: u32,
    /// Users; `None`: they are not counted there.
    pub distinct: Option<u32>,
    /// All of them or some; `None`: their names are not told.
    pub users: Option<Names<'a>>,
}

impl<'a> Who<'a> {
    /// Are all of them named?
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let named = self.users.map(|users| users.len() as u64);
        named.is_some() && named == self.distinct.map(u64::from)
    }

    fn words(&self) -> [u64; 2] {
        [
            pack_counts(self.total, self.distinct),
            self.users.is_some().into(),
        ]
    }

    fn part(&self) -> &'a [u8] {
        self.users.unwrap_or_default().as_bytes()
    }

    fn read(counts: u64, named: u64, users: &'a [u8]) -> Option<Who<'a>> {
        let (total, distinct) = unpack_counts(counts);
        let users = Names::read(users)?;
        let users = match named {
            0 if users.is_empty() => None,
            1 => Some(users),
            _ => return None,
        };
        Some(Who {
            total,
            distinct,
            users,
        })
    }
}

/// So many are there never.
fn pack_counts(total: u32, distinct: Option<u32>) -> u64 {
    let distinct = distinct.map_or(0, |distinct| u64::from(distinct) + 1);
    u64::from(total) | distinct << 32
}

fn unpack_counts(word: u64) -> (u32, Option<u32>) {
    (word as u32, ((word >> 32) as u32).checked_sub(1))
}

/// Why the master refused a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The room table is full.
    Limit,
    /// The record was not one that we write.
    Internal,
    /// More than may be sent in a second, to this room or by this user, or too soon after the last.
    Rate { after_ms: u32 },
    /// Who sends is muted, for so long (0: for good).
    Muted { after_ms: u32 },
    /// Who sends is banned, for so long (0: for good).
    Banned { after_ms: u32 },
    /// There is no such message, or no such room.
    Unknown,
    /// As many are muted and banned as there is room for.
    Full,
}

impl Refusal {
    /// As a number, which is not 0.
    #[must_use]
    pub fn pack(self) -> u64 {
        match self {
            Refusal::Limit => 1,
            Refusal::Internal => 2,
            Refusal::Rate { after_ms } => 3 | u64::from(after_ms) << 32,
            Refusal::Muted { after_ms } => 8 | u64::from(after_ms) << 32,
            Refusal::Banned { after_ms } => 9 | u64::from(after_ms) << 32,
            Refusal::Unknown => 10,
            Refusal::Full => 11,
        }
    }

    #[must_use]
    pub fn unpack(word: u64) -> Option<Refusal> {
        Some(match (word as u32, (word >> 32) as u32) {
            (1, 0) => Refusal::Limit,
            (2, 0) => Refusal::Internal,
            (3, after_ms) => Refusal::Rate { after_ms },
            (8, after_ms) => Refusal::Muted { after_ms },
            (9, after_ms) => Refusal::Banned { after_ms },
            (10, 0) => Refusal::Unknown,
            (11, 0) => Refusal::Full,
            _ => return None,
        })
    }
}

/// Bytes of an encoded record besides its parts, at most.
pub const OVERHEAD: usize = 128;

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

impl Down<'_> {
    /// Appends the record's bytes.
    pub fn encode(&self, into: &mut Vec<u8>) {
        match *self {
            Down::Message {
                room,
                position: Position { epoch, offset },
                asker,
                from,
                share,
                data,
            } => {
                let [a, b] = asker.words();
                put(
                    into,
                    with_data(1, data.format) | u64::from(share.pack()) << SHARE,
                    &[a, b, room.into(), epoch, offset],
                    &[asker.id, from, data.bytes],
                );
            }
            Down::Opened {
                room,
                position: Position { epoch, offset },
                total,
                asker,
                name,
            }
            | Down::Held {
                room,
                position: Position { epoch, offset },
                total,
                asker,
                name,
            } => {
                let [a, b] = asker.words();
                let kind = match self {
                    Down::Held { .. } => 6,
                    _ => 2,
                };
                put(
                    into,
                    kind,
                    &[a, b, room.into(), epoch, offset, total.into()],
                    &[asker.id, name],
                );
            }
            Down::Count { who, asker } => {
                let ([a, b], [counts, named]) = (asker.words(), who.words());
                put(into, 3, &[a, b, counts, named], &[asker.id, who.part()]);
            }
            Down::Listed { room, who, asker } => {
                let ([a, b], [counts, named]) = (asker.words(), who.words());
                let words = [a, b, room.into(), counts, named];
                put(into, 8, &words, &[asker.id, who.part()]);
            }
            Down::List { room, who } => {
                let [counts, named] = who.words();
                put(into, 9, &[room.into(), counts, named], &[who.part()]);
            }
            Down::Changes {
                room,
                total,
                distinct,
                names,
            } => {
                let counts = pack_counts(total, distinct);
                let named = u64::from(names.is_some());
                let parts = names.unwrap_or_default().map(Names::as_bytes);
                put(into, 10, &[room.into(), counts, named], &parts);
            }
            Down::Presence { room, total } => put(into, 4, &[room.into(), total.into()], &[]),
            Down::Sent {
                position: Position { epoch, offset },
                asker,
            } => {
                let [a, b] = asker.words();
                put(into, 7, &[a, b, epoch, offset], &[asker.id]);
            }
            Down::Told {
                asker,
                status,
                kind,
                body,
            } => {
                let [a, b] = asker.words();
                let words = [a, b, status.into(), kind as u64];
                put(into, 30, &words, &[asker.id, body]);
            }
            Down::Look { asker, ring, what } => {
                let [a, b] = asker.words();
                put(into, 31, &[a, b, ring.into()], &[asker.id, what]);
            }
            Down::Refused { reason, asker } => {
                let [a, b] = asker.words();
                put(into, 5, &[a, b, reason.pack()], &[asker.id]);
            }
            Down::Moderated { scope, asker, act } => {
                let ([a, b], [kind, x, y]) = (asker.words(), act.words());
                let words = [a, b, scope.pack(), kind, x, y];
                act.with_target(|target| put(into, 20, &words, &[asker.id, target]));
            }
            Down::Withheld {
                room,
                asker,
                from,
                data,
            } => {
                let [a, b] = asker.words();
                let kind = with_data(21, data.format);
                let parts = [asker.id, from, data.bytes];
                put(into, kind, &[a, b, room.into()], &parts);
            }
        }
    }

    /// `None`: not one that [`encode`](Down::encode) writes.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Down<'_>> {
        let (kind, mut rest) = Fields::new(bytes)?;
        Some(match kind {
            kind if kind & WITHOUT_SHARE == 1 || kind & WITHOUT_SHARE == MSGPACK_1 => {
                let ([a, b, room, epoch, offset], [id, from, bytes]) = rest.take()?;
                let format = format_of(kind);
                let data = Data { format, bytes };
                Down::Message {
                    room: room.try_into().ok()?,
                    position: Position { epoch, offset },
                    asker: Asker::new(a, b, id),
                    from,
                    share: Share::unpack((kind >> SHARE) as u32)?,
                    data,
                }
            }
            2 | 6 => {
                let ([a, b, room, epoch, offset, total], [id, name]) = rest.take()?;
                let room = room.try_into().ok()?;
                let position = Position { epoch, offset };
                let total = total.try_into().ok()?;
                let asker = Asker::new(a, b, id);
                match kind {
                    2 => Down::Opened {
                        room,
                        position,
                        total,
                        asker,
                        name,
                    },
                    _ => Down::Held {
                        room,
                        position,
                        total,
                        asker,
                        name,
                    },
                }
            }
            3 => {
                let ([a, b, counts, named], [id, users]) = rest.take()?;
                Down::Count {
                    who: Who::read(counts, named, users)?,
                    asker: Asker::new(a, b, id),
                }
            }
            8 => {
                let ([a, b, room, counts, named], [id, users]) = rest.take()?;
                Down::Listed {
                    room: room.try_into().ok()?,
                    who: Who::read(counts, named, users)?,
                    asker: Asker::new(a, b, id),
                }
            }
            9 => {
                let ([room, counts, named], [users]) = rest.take()?;
                Down::List {
                    room: room.try_into().ok()?,
                    who: Who::read(counts, named, users)?,
                }
            }
            10 => {
                let ([room, counts, named], [came, gone]) = rest.take()?;
                let (total, distinct) = unpack_counts(counts);
                let names = [Names::read(came)?, Names::read(gone)?];
                Down::Changes {
                    room: room.try_into().ok()?,
                    total,
                    distinct,
                    names: match named {
                        0 if names == [Names::default(); 2] => None,
                        1 => Some(names),
                        _ => return None,
                    },
                }
            }
            4 => {
                let ([room, total], []) = rest.take()?;
                Down::Presence {
                    room: room.try_into().ok()?,
                    total: total.try_into().ok()?,
                }
            }
            7 => {
                let ([a, b, epoch, offset], [id]) = rest.take()?;
                Down::Sent {
                    position: Position { epoch, offset },
                    asker: Asker::new(a, b, id),
                }
            }
            20 => {
                let ([a, b, scope, kind, x, y], [id, target]) = rest.take()?;
                Down::Moderated {
                    scope: Scope::unpack(scope)?,
                    asker: Asker::new(a, b, id),
                    act: Act::read([kind, x, y], target)?,
                }
            }
            21 | MSGPACK_21 => {
                let ([a, b, room], [id, from, bytes]) = rest.take()?;
                let format = format_of(kind);
                Down::Withheld {
                    room: room.try_into().ok()?,
                    asker: Asker::new(a, b, id),
                    from,
                    data: Data { format, bytes },
                }
            }
            30 => {
                let ([a, b, status, kind], [id, body]) = rest.take()?;
                Down::Told {
                    asker: Asker::new(a, b, id),
                    status: status.try_into().ok()?,
                    kind: *Kind::ALL.get(usize::try_from(kind).ok()?)?,
                    body,
                }
            }
            31 => {
                let ([a, b, ring], [id, what]) = rest.take()?;
                Down::Look {
                    asker: Asker::new(a, b, id),
                    ring: ring.try_into().ok()?,
                    what,
                }
            }
            5 => {
                let ([a, b, reason], [id]) = rest.take()?;
                Down::Refused {
                    reason: Refusal::unpack(reason)?,
                    asker: Asker::new(a, b, id),
                }
            }
            _ => return None,
        })
    }
}

impl<'a> Asker<'a> {
    fn new(cid: u64, place: u64, id: &'a [u8]) -> Asker<'a> {
        Asker {
            cid: Cid(cid),
            ring: (place >> 32) as u16,
            slot: place as u32,
            id,
        }
    }

    fn words(&self) -> [u64; 2] {
        [
            self.cid.0,
            u64::from(self.ring) << 32 | u64::from(self.slot),
        ]
    }
}

/// In a kind: the record's data is MessagePack. (Without it, it is what it was before there was any.)
const MSGPACK: u64 = 1 << 32;
const MSGPACK_1: u64 = 1 | MSGPACK;
const MSGPACK_21: u64 = 21 | MSGPACK;

/// In the kind of a message: where its [`Share`] begins.
const SHARE: u32 = 36;
const WITHOUT_SHARE: u64 = (1 << SHARE) - 1;

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

fn with_data(kind: u64, format: Format) -> u64 {
    match format {
        Format::Json => kind,
        Format::Msgpack => kind | MSGPACK,
    }
}

fn format_of(kind: u64) -> Format {
    match kind & MSGPACK {
        0 => Format::Json,
        _ => Format::Msgpack,
    }
}

/// kind · words · length of each part · the parts
fn put(into: &mut Vec<u8>, kind: u64, words: &[u64], parts: &[&[u8]]) {
    into.extend_from_slice(&kind.to_le_bytes());
    for word in words {
        into.extend_from_slice(&word.to_le_bytes());
    }
    for part in parts {
        into.extend_from_slice(&(part.len() as u64).to_le_bytes());
    }
    for part in parts {
        into.extend_from_slice(part);
    }
}

struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn new(bytes: &'a [u8]) -> Option<(u64, Fields<'a>)> {
        let mut fields = Fields(bytes);
        let kind = fields.word()?;
        Some((kind, fields))
    }

    fn word(&mut self) -> Option<u64> {
        let (word, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*word))
    }

    /// `W` words and `P` parts, and nothing behind them.
    fn take<const W: usize, const P: usize>(&mut self) -> Option<([u64; W], [&'a [u8]; P])> {
        let mut words = [0; W];
        for word in &mut words {
            *word = self.word()?;
        }
        let mut lengths = [0; P];
        for length in &mut lengths {
            *length = usize::try_from(self.word()?).ok()?;
        }
        let mut parts: [&[u8]; P] = [&[]; P];
        for (part, length) in parts.iter_mut().zip(lengths) {
            (*part, self.0) = self.0.split_at_checked(length)?;
        }
        self.0.is_empty().then_some((words, parts))
    }
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
