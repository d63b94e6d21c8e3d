//! A client's message in MessagePack, and what becomes of its data for others; and JSON that becomes
//! MessagePack.

use protocol::format::{Data, Format};
use protocol::ids::Position;
use protocol::settings::Rooms;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use worker::client::{Fault, Request, ToClient, Verb, parse};
use worker::encoding::Encoding;

/// How deep another's library goes, which is recursive.
const DEEP: usize = 200;

/// - What one library reads without complaint is not called no MessagePack, and the other way round.
/// - `data` is a slice of the input, and what it becomes as JSON is JSON, and not too large.
/// - Back from there it is, for another's library, the same value.
/// - JSON, whatever it is, becomes one MessagePack value, and from then on does not change.
pub fn msgpack(input: &[u8]) {
    // Small, so that the bounds are met.
    let limits = Rooms {
        max_data: 300,
        max_depth: 4,
        ..Rooms::default()
    };
    match parse(input, Format::Msgpack, &limits) {
        Ok(request) => accepted(input, &request, &limits),
        Err(bad) => {
            assert_ne!(bad.fault, Fault::NotJson);
            if bad.fault == Fault::NotMsgpack {
                assert_ne!(is_value(input), Some(true), "it is one");
            }
            let answer = ToClient::from(&bad);
            let read: Value = serde_json::from_slice(&said(&answer, Encoding::Json)).expect("JSON");
            assert_eq!(
                value(&said(&answer, Encoding::Msgpack)).as_ref(),
                Some(&read)
            );
        }
    }
    if serde_json::from_slice::<IgnoredAny>(input).is_ok() {
        let packed = converted(Data::json(input), Encoding::Msgpack);
        assert_ne!(is_value(&packed), Some(false), "{}", packed.escape_ascii());
        let text = converted(Data::msgpack(&packed), Encoding::Json);
        assert_eq!(converted(Data::json(&text), Encoding::Msgpack), packed);
    } else {
        // Nobody can have sent it: it does no harm.
        converted(Data::json(input), Encoding::Msgpack);
    }
    let text = converted(Data::msgpack(input), Encoding::Json);
    assert!(serde_json::from_slice::<IgnoredAny>(&text).is_ok());
}

fn accepted(input: &[u8], request: &Request<'_>, limits: &Rooms) {
    assert_ne!(is_value(input), Some(false));
    let Verb::Send { data, .. } = &request.verb else {
        return;
    };
    assert_eq!(data.format, Format::Msgpack);
    assert!(data.bytes.len() <= limits.max_data);
    assert!(input.as_ptr_range().contains(&data.bytes.as_ptr()));
    assert_eq!(converted(*data, Encoding::Msgpack), data.bytes);
    let text = converted(*data, Encoding::Json);
    assert!(text.len() <= 2 * limits.max_data);
    assert!(depth(&text) <= limits.max_depth);
    // `{"$bin":…}` may have been no bytes at first.
    if let Some(value) = value(data.bytes)
        && memchr::memmem::find(&text, b"$bin").is_none()
    {
        let back = converted(Data::json(&text), Encoding::Msgpack);
        assert_eq!(self::value(&back), Some(value));
    }
}

/// The data as members with this encoding get it.
fn converted(data: Data<'_>, encoding: Encoding) -> Vec<u8> {
    let position = Position {
        epoch: 1,
        offset: 1,
    };
    let message = |data| ToClient::Message {
        room: b"r",
        position,
        from: b"u",
        data,
    };
    let none = said(&message(Data::json(b"0")), encoding);
    let message = said(&message(data), encoding);
    // The zero is a byte, and in JSON there is a brace behind it.
    let (begin, end) = match encoding {
        Encoding::Msgpack => (none.len() - 1, message.len()),
        _ => (none.len() - 2, message.len() - 1),
    };
    assert_eq!(message[..begin], none[..begin]);
    message[begin..end].to_vec()
}

fn said(message: &ToClient<'_>, encoding: Encoding) -> Vec<u8> {
    let mut bytes = Vec::new();
    message
        .put(&mut bytes, encoding)
        .expect("a Vec is never full");
    assert_eq!(bytes.len(), message.len(encoding));
    bytes
}

/// Is it one value, for another's library? `None`: it is deeper than that goes.
fn is_value(bytes: &[u8]) -> Option<bool> {
    let mut rest = bytes;
    let mut reader = rmp_serde::Deserializer::new(&mut rest);
    reader.set_max_depth(DEEP);
    match IgnoredAny::deserialize(&mut reader) {
        Err(rmp_serde::decode::Error::DepthLimitExceeded) => None,
        read => Some(read.is_ok() && rest.is_empty()),
    }
}

/// The value that it is, if it has no `bin`.
fn value(bytes: &[u8]) -> Option<Value> {
    Value::deserialize(&mut rmp_serde::Deserializer::new(bytes)).ok()
}

fn depth(json: &[u8]) -> usize {
    let (mut depth, mut most, mut quoted, mut escaped) = (0, 0, false, false);
    for b in json {
        match b {
            _ if std::mem::take(&mut escaped) => {}
            b'\\' => escaped = true,
            b'"' => quoted = !quoted,
            b'[' | b'{' if !quoted => depth += 1,
            b']' | b'}' if !quoted => depth -= 1,
            _ => {}
        }
        most = most.max(depth);
    }
    most
}
