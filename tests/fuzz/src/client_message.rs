//! A client's message on `/rooms`, and what is said of it.

use std::borrow::Cow;

use protocol::format::{Data, Format};
use protocol::ids::Position;
use protocol::settings::Rooms;
use serde_json::Value;
use worker::client::deed::{Banned, Deed};
use worker::client::{Fault, Id, Request, ToClient, Verb, parse};
use worker::encoding::Encoding;

/// - Only what is no JSON is called so, and `data` keeps its bounds.
/// - `data` is a slice of the input, byte for byte.
/// - What is accepted, written again, is the same request.
/// - What is answered and broadcast is JSON that says the same.
pub fn client_message(input: &[u8]) {
    // Small, so that the bounds are met.
    let limits = Rooms {
        max_data: 300,
        max_depth: 4,
        ..Rooms::default()
    };
    let value = serde_json::from_slice::<Value>(input);
    let request = match parse(input, Format::Json, &limits) {
        Ok(request) => request,
        Err(bad) => {
            if let Ok(value) = value {
                assert_ne!(bad.fault, Fault::NotJson);
                assert_eq!(value.is_object(), bad.fault != Fault::NotObject);
                if bad.fault == Fault::DataTooDeep {
                    assert!(depth(&value["data"]) > limits.max_depth);
                }
            }
            let answer = json(&ToClient::from(&bad));
            assert_eq!(answer["error"]["code"], bad.fault.code().as_str());
            if let Some(id) = bad.id {
                assert_eq!(answer["id"], id_value(&id));
            }
            return;
        }
    };
    if let Verb::Send { room, data, .. } = &request.verb {
        let data = std::str::from_utf8(data.bytes).expect("data is a part of a text");
        assert!(data.len() <= limits.max_data);
        assert!(input.as_ptr_range().contains(&data.as_ptr()));
        if let Ok(value) = value {
            assert!(depth(&value["data"]) <= limits.max_depth);
            broadcast(room, data, &value["data"]);
        }
    }
    let text = written(&request);
    assert_eq!(
        parse(text.as_bytes(), Format::Json, &limits).as_ref(),
        Ok(&request),
        "{text}"
    );
}

fn written(request: &Request<'_>) -> String {
    let mut fields = Vec::new();
    if let Some(id) = &request.id {
        assert!(id.text().len() <= Id::MAX_TEXT);
        fields.push(format!("\"id\":{}", id_value(id)));
    }
    let quoted = |room: &Cow<'_, str>| Value::from(room.as_ref());
    fields.push(match &request.verb {
        Verb::Join { room, wants } => {
            let since = wants.since.map(|at| format!(",\"since\":\"{at}\""));
            let presence = wants.presence.map(|wants| format!(",\"presence\":{wants}"));
            let (room, since, last) = (quoted(room), since.unwrap_or_default(), wants.last);
            let presence = presence.unwrap_or_default();
            format!("\"join\":{room},\"last\":{last}{since}{presence}")
        }
        Verb::History {
            room,
            before,
            limit,
        } => {
            let before = before.map(|at| format!(",\"before\":\"{at}\""));
            let (room, before) = (quoted(room), before.unwrap_or_default());
            format!("\"history\":{room},\"limit\":{limit}{before}")
        }
        Verb::Leave { room } => format!("\"leave\":{}", quoted(room)),
        Verb::Who { room, limit } => format!("\"who\":{},\"limit\":{limit}", quoted(room)),
        Verb::Send {
            room,
            key,
            priority,
            author,
            data,
        } => {
            let author = author.as_ref().map(|who| format!(",\"as\":{}", quoted(who)));
            let author = author.unwrap_or_default();
            let key = key.as_ref().map(|key| format!(",\"key\":{}", quoted(key)));
            let (room, key) = (quoted(room), key.unwrap_or_default());
            let data = String::from_utf8_lossy(data.bytes);
            format!("\"data\":{data},\"send\":{room},\"priority\":{priority}{key}{author}")
        }
        Verb::Moderate { room, deed } => {
            let whom = |whom: &Banned<'_>| match whom {
                Banned::User(who) => quoted(who).to_string(),
                Banned::Address(range) => format!("true,\"address\":\"{range}\""),
            };
            let deed = match deed {
                Deed::Mute { who, for_ms } => {
                    format!("\"mute\":{},\"for_ms\":{for_ms}", quoted(who))
                }
                Deed::Unmute { who } => format!("\"unmute\":{}", quoted(who)),
                Deed::Ban { whom: who, for_ms } => {
                    format!("\"ban\":{},\"for_ms\":{for_ms}", whom(who))
                }
                Deed::Unban { whom: who } => format!("\"unban\":{}", whom(who)),
                Deed::Kick { who } => format!("\"kick\":{}", quoted(who)),
                Deed::Delete { position } => format!("\"delete\":\"{position}\""),
                Deed::Clear => {
                    let room = room.as_ref().map(quoted).unwrap_or_default();
                    return format!(
                        "{{{}}}",
                        [&fields[..], &[format!("\"clear\":{room}")]]
                            .concat()
                            .join(",")
                    );
                }
            };
            let room = room
                .as_ref()
                .map(|room| format!(",\"room\":{}", quoted(room)));
            deed + &room.unwrap_or_default()
        }
        Verb::Auth { token } => format!("\"auth\":{}", quoted(token)),
        Verb::Ping => "\"ping\":true".to_owned(),
    });
    format!("{{{}}}", fields.join(","))
}

fn broadcast(room: &str, data: &str, value: &Value) {
    let message = json(&ToClient::Message {
        room: room.as_bytes(),
        position: Position {
            epoch: 3,
            offset: 1051,
        },
        from: data.as_bytes(),
        data: Data::json(data.as_bytes()),
    });
    assert_eq!(message["room"], room);
    assert_eq!(message["pos"], "e3:1051");
    assert_eq!(message["from"], data);
    assert_eq!(&message["data"], value);
}

fn json(message: &ToClient<'_>) -> Value {
    let mut text = Vec::new();
    message
        .put(&mut text, Encoding::Json)
        .expect("a Vec is never full");
    assert_eq!(text.len(), message.len(Encoding::Json));
    serde_json::from_slice(&text).expect("JSON")
}

fn id_value(id: &Id<'_>) -> Value {
    serde_json::from_slice(id.text()).expect("an id is JSON")
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(items) => 1 + items.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}
