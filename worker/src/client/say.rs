//! How each of the things that a client hears is said, whatever the form: which fields, in which order.

use protocol::moderation::{Act, Whom};
use protocol::names::Names;
use protocol::record::Who;

use super::ToClient;
use super::form::Form;
use crate::history;

impl ToClient<'_> {
    pub(super) fn say(&self, to: &mut impl Form) {
        match *self {
            ToClient::Hello {
                cid,
                worker,
                ping_ms,
                max_data,
                max_rooms,
            } => {
                to.object(1);
                to.key("hello");
                to.object(4);
                to.key("cid");
                to.cid(cid);
                to.key("worker");
                to.number(worker.0.into());
                to.key("ping");
                to.number(ping_ms.div_ceil(1000));
                to.key("max");
                to.object(2);
                to.key("message");
                to.number(max_data as u64);
                to.key("rooms");
                to.number(max_rooms.into());
                to.end_object();
                to.end_object();
                to.end_object();
            }
            ToClient::Joined {
                id,
                position,
                count,
                recovered,
                may,
            } => {
                let more = usize::from(recovered.is_some()) + usize::from(may.is_some());
                ok(to, id, 2 + more, |to| {
                    to.key("pos");
                    to.position(position);
                    to.key("count");
                    to.number(count.into());
                    if let Some(recovered) = recovered {
                        to.key("recovered");
                        to.bool(recovered);
                    }
                    if let Some(may) = may {
                        to.key("may");
                        to.array(may.each().count());
                        for right in may.each() {
                            to.string(right.as_str().as_bytes());
                        }
                        to.end_array();
                    }
                })
            }
            ToClient::History {
                id,
                room,
                epoch,
                messages,
            } => ok(to, id, 1, |to| {
                to.key("messages");
                to.array(messages.iter().count());
                for message in messages.iter() {
                    history::kept(room, epoch, message).say(to);
                }
                to.end_array();
            }),
            ToClient::Left { id } => ok(to, id, 0, |_| {}),
            ToClient::Authorized { id, user } => ok(to, id, 1, |to| {
                to.key("user");
                to.string(user);
            }),
            ToClient::Expires { in_ms } => {
                to.object(1);
                to.key("auth");
                to.object(1);
                to.key("expires_in_ms");
                to.number(in_ms);
                to.end_object();
                to.end_object();
            }
            ToClient::Sent { id, position } => ok(to, id, 1, |to| {
                to.key("pos");
                to.position(position);
            }),
            ToClient::Present { id, who } => {
                let fields = fields_of(who) + usize::from(who.users.is_some());
                ok(to, id, fields, |to| {
                    put_who(to, who);
                    if who.users.is_some() {
                        to.key("whole");
                        to.bool(who.is_whole());
                    }
                });
            }
            ToClient::List { room, who } => {
                to.object(1 + fields_of(who));
                to.key("room");
                to.string(room);
                put_who(to, who);
                to.end_object();
            }
            ToClient::Changes {
                room,
                total,
                distinct,
                names,
            } => {
                let who = Who {
                    total,
                    distinct,
                    users: None,
                };
                to.object(1 + fields_of(who) + 2 * usize::from(names.is_some()));
                to.key("room");
                to.string(room);
                if let Some([came, gone]) = names {
                    to.key("in");
                    put_names(to, came);
                    to.key("out");
                    put_names(to, gone);
                }
                put_who(to, who);
                to.end_object();
            }
            ToClient::Pong {
                id,
                worker,
                pid,
                life,
            } => ok(to, id, 3, |to| {
                to.key("worker");
                to.number(worker.0.into());
                to.key("pid");
                to.number(pid.into());
                to.key("life");
                to.number(life.into());
            }),
            ToClient::Message {
                room,
                position,
                from,
                data,
            } => {
                to.object(4);
                to.key("room");
                to.string(room);
                to.key("pos");
                to.position(position);
                to.key("from");
                to.string(from);
                to.key("data");
                to.data(data);
                to.end_object();
            }
            ToClient::Gap {
                room,
                from,
                to: last,
                why,
            } => {
                to.object(2);
                to.key("room");
                to.string(room);
                to.key("gap");
                to.object(3);
                to.key("from");
                to.position(from);
                to.key("to");
                to.position(last);
                to.key("why");
                to.string(why.as_str().as_bytes());
                to.end_object();
                to.end_object();
            }
            ToClient::Done { id, act } => match act {
                Act::Mute { ms, .. } | Act::Ban { ms, .. } if ms != 0 => ok(to, id, 1, |to| {
                    to.key("until_ms");
                    to.number(ms);
                }),
                Act::Delete { position } | Act::Clear { position } => ok(to, id, 1, |to| {
                    to.key("pos");
                    to.position(position);
                }),
                _ => ok(to, id, 0, |_| {}),
            },
            ToClient::Decided { room, act } => decided(to, room, act),
            ToClient::Withheld { id } => ok(to, id, 1, |to| {
                to.key("held");
                to.bool(true);
            }),
            ToClient::Held {
                at,
                room,
                from,
                data,
            } => {
                to.object(2);
                to.key("room");
                to.string(room);
                to.key("held");
                to.object(3);
                to.key("key");
                to.string(format!("h{at}").as_bytes());
                to.key("from");
                to.string(from);
                to.key("data");
                to.data(data);
                to.end_object();
                to.end_object();
            }
            ToClient::Error {
                id,
                code,
                message,
                retry_after_ms,
            } => answer(
                to,
                id,
                "error",
                3 + usize::from(retry_after_ms.is_some()),
                |to| {
                    to.key("code");
                    to.string(code.as_str().as_bytes());
                    to.key("message");
                    to.string(message.as_bytes());
                    to.key("retry");
                    to.bool(code.retry());
                    if let Some(ms) = retry_after_ms {
                        to.key("retry_after_ms");
                        to.number(ms);
                    }
                },
            ),
            ToClient::Bye { retry_after_ms } => {
                to.object(1);
                to.key("bye");
                to.object(1);
                to.key("retry_after_ms");
                to.number(retry_after_ms);
                to.end_object();
                to.end_object();
            }
        }
    }
}

/// An answer that says `ok`, with so many fields in it.
fn ok<F: Form>(to: &mut F, id: &[u8], fields: usize, say: impl FnOnce(&mut F)) {
    answer(to, id, "ok", fields, say);
}

/// An answer, which says to which request, if that wants to know.
fn answer<F: Form>(
    to: &mut F,
    id: &[u8],
    what: &'static str,
    fields: usize,
    say: impl FnOnce(&mut F),
) {
    to.object(1 + usize::from(!id.is_empty()));
    if !id.is_empty() {
        to.key("id");
        to.id(id);
    }
    to.key(what);
    to.object(fields);
    say(to);
    to.end_object();
    to.end_object();
}

/// `{"room":"r","muted":"u7","until_ms":…}` and its like.
fn decided(to: &mut impl Form, room: Option<&[u8]>, act: Act<'_>) {
    let until_ms = match act {
        Act::Mute { ms, .. } | Act::Ban { ms, .. } if ms != 0 => Some(ms),
        _ => None,
    };
    to.object(1 + usize::from(room.is_some()) + usize::from(until_ms.is_some()));
    if let Some(room) = room {
        to.key("room");
        to.string(room);
    }
    match act {
        Act::Mute { who, .. } => put_word(to, "muted", who),
        Act::Unmute { who } => put_word(to, "unmuted", who),
        Act::Ban { whom, .. } => put_whom(to, "banned", whom),
        Act::Unban { whom } => put_whom(to, "unbanned", whom),
        Act::Kick { who } => put_word(to, "kicked", who),
        Act::Delete { position } => {
            to.key("deleted");
            to.position(position);
        }
        Act::Clear { position } => {
            to.key("cleared");
            to.position(position);
        }
    }
    if let Some(ms) = until_ms {
        to.key("until_ms");
        to.number(ms);
    }
    to.end_object();
}

fn put_word(to: &mut impl Form, key: &'static str, who: &[u8]) {
    to.key(key);
    to.string(who);
}

fn put_whom(to: &mut impl Form, key: &'static str, whom: Whom<'_>) {
    match whom {
        Whom::User(who) => put_word(to, key, who),
        Whom::Address(range) => put_word(to, key, range.to_string().as_bytes()),
    }
}

fn fields_of(who: Who<'_>) -> usize {
    1 + usize::from(who.distinct.is_some()) + usize::from(who.users.is_some())
}

/// The fields that say who is in a room.
fn put_who(to: &mut impl Form, who: Who<'_>) {
    to.key("count");
    to.number(who.total.into());
    if let Some(distinct) = who.distinct {
        to.key("distinct");
        to.number(distinct.into());
    }
    if let Some(users) = who.users {
        to.key("users");
        put_names(to, users);
    }
}

fn put_names(to: &mut impl Form, names: Names<'_>) {
    to.array(names.len());
    names.iter().for_each(|name| to.string(name));
    to.end_array();
}
