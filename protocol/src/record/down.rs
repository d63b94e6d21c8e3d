//! What comes down: from the master to all workers, in its log.

use crate::api::Kind;
use crate::format::Data;
use crate::ids::Position;
use crate::moderation::{Act, Scope};
use crate::names::Names;
use crate::share::Share;

use super::fields::{Fields, MSGPACK, format_of, put, with_data};
use super::who::{Who, pack_counts, unpack_counts};
use super::{Asker, Refusal};

/// In the kind of a message: where its [`Share`] begins.
const SHARE: u32 = 36;
const WITHOUT_SHARE: u64 = (1 << SHARE) - 1;

/// How each record begins; a number that was given stays, as for what goes up.
mod kind {
    use super::MSGPACK;

    /// With the share above it.
    pub const MESSAGE: u64 = 1;
    pub const MESSAGE_MSGPACK: u64 = MESSAGE | MSGPACK;
    pub const OPENED: u64 = 2;
    pub const COUNT: u64 = 3;
    pub const PRESENCE: u64 = 4;
    pub const REFUSED: u64 = 5;
    pub const HELD: u64 = 6;
    pub const SENT: u64 = 7;
    pub const LISTED: u64 = 8;
    pub const LIST: u64 = 9;
    pub const CHANGES: u64 = 10;
    pub const MODERATED: u64 = 20;
    pub const WITHHELD: u64 = 21;
    pub const WITHHELD_MSGPACK: u64 = WITHHELD | MSGPACK;
    pub const TOLD: u64 = 30;
    pub const LOOK: u64 = 31;
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
    /// The answer to [`Up::Who`](super::Up::Who).
    Count { who: Who<'a>, asker: Asker<'a> },
    /// The answer to [`Up::Watch`](super::Up::Watch): who is in the room, from which on
    /// [`Down::Changes`] are told.
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
    /// The answer to [`Up::Ask`](super::Up::Ask), for who holds the connection, wherever it is by now.
    Told {
        asker: Asker<'a>,
        /// Of HTTP.
        status: u32,
        kind: Kind,
        body: &'a [u8],
    },
    /// The worker of this ring is to answer, by [`Up::Told`](super::Up::Told).
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
                    with_data(kind::MESSAGE, data.format) | u64::from(share.pack()) << SHARE,
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
                    Down::Held { .. } => kind::HELD,
                    _ => kind::OPENED,
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
                put(
                    into,
                    kind::COUNT,
                    &[a, b, counts, named],
                    &[asker.id, who.part()],
                );
            }
            Down::Listed { room, who, asker } => {
                let ([a, b], [counts, named]) = (asker.words(), who.words());
                let words = [a, b, room.into(), counts, named];
                put(into, kind::LISTED, &words, &[asker.id, who.part()]);
            }
            Down::List { room, who } => {
                let [counts, named] = who.words();
                put(
                    into,
                    kind::LIST,
                    &[room.into(), counts, named],
                    &[who.part()],
                );
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
                put(into, kind::CHANGES, &[room.into(), counts, named], &parts);
            }
            Down::Presence { room, total } => {
                put(into, kind::PRESENCE, &[room.into(), total.into()], &[])
            }
            Down::Sent {
                position: Position { epoch, offset },
                asker,
            } => {
                let [a, b] = asker.words();
                put(into, kind::SENT, &[a, b, epoch, offset], &[asker.id]);
            }
            Down::Told {
                asker,
                status,
                kind,
                body,
            } => {
                let [a, b] = asker.words();
                let words = [a, b, status.into(), kind as u64];
                put(into, kind::TOLD, &words, &[asker.id, body]);
            }
            Down::Look { asker, ring, what } => {
                let [a, b] = asker.words();
                put(into, kind::LOOK, &[a, b, ring.into()], &[asker.id, what]);
            }
            Down::Refused { reason, asker } => {
                let [a, b] = asker.words();
                put(into, kind::REFUSED, &[a, b, reason.pack()], &[asker.id]);
            }
            Down::Moderated { scope, asker, act } => {
                let ([a, b], [kind, x, y]) = (asker.words(), act.words());
                let words = [a, b, scope.pack(), kind, x, y];
                act.with_target(|target| put(into, kind::MODERATED, &words, &[asker.id, target]));
            }
            Down::Withheld {
                room,
                asker,
                from,
                data,
            } => {
                let [a, b] = asker.words();
                let kind = with_data(kind::WITHHELD, data.format);
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
            _ if matches!(kind & WITHOUT_SHARE, kind::MESSAGE | kind::MESSAGE_MSGPACK) => {
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
            kind::OPENED | kind::HELD => {
                let ([a, b, room, epoch, offset, total], [id, name]) = rest.take()?;
                let room = room.try_into().ok()?;
                let position = Position { epoch, offset };
                let total = total.try_into().ok()?;
                let asker = Asker::new(a, b, id);
                match kind {
                    kind::OPENED => Down::Opened {
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
            kind::COUNT => {
                let ([a, b, counts, named], [id, users]) = rest.take()?;
                Down::Count {
                    who: Who::read(counts, named, users)?,
                    asker: Asker::new(a, b, id),
                }
            }
            kind::LISTED => {
                let ([a, b, room, counts, named], [id, users]) = rest.take()?;
                Down::Listed {
                    room: room.try_into().ok()?,
                    who: Who::read(counts, named, users)?,
                    asker: Asker::new(a, b, id),
                }
            }
            kind::LIST => {
                let ([room, counts, named], [users]) = rest.take()?;
                Down::List {
                    room: room.try_into().ok()?,
                    who: Who::read(counts, named, users)?,
                }
            }
            kind::CHANGES => {
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
            kind::PRESENCE => {
                let ([room, total], []) = rest.take()?;
                Down::Presence {
                    room: room.try_into().ok()?,
                    total: total.try_into().ok()?,
                }
            }
            kind::SENT => {
                let ([a, b, epoch, offset], [id]) = rest.take()?;
                Down::Sent {
                    position: Position { epoch, offset },
                    asker: Asker::new(a, b, id),
                }
            }
            kind::MODERATED => {
                let ([a, b, scope, kind, x, y], [id, target]) = rest.take()?;
                Down::Moderated {
                    scope: Scope::unpack(scope)?,
                    asker: Asker::new(a, b, id),
                    act: Act::read([kind, x, y], target)?,
                }
            }
            kind::WITHHELD | kind::WITHHELD_MSGPACK => {
                let ([a, b, room], [id, from, bytes]) = rest.take()?;
                let format = format_of(kind);
                Down::Withheld {
                    room: room.try_into().ok()?,
                    asker: Asker::new(a, b, id),
                    from,
                    data: Data { format, bytes },
                }
            }
            kind::TOLD => {
                let ([a, b, status, kind], [id, body]) = rest.take()?;
                Down::Told {
                    asker: Asker::new(a, b, id),
                    status: status.try_into().ok()?,
                    kind: *Kind::ALL.get(usize::try_from(kind).ok()?)?,
                    body,
                }
            }
            kind::LOOK => {
                let ([a, b, ring], [id, what]) = rest.take()?;
                Down::Look {
                    asker: Asker::new(a, b, id),
                    ring: ring.try_into().ok()?,
                    what,
                }
            }
            kind::REFUSED => {
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
