//! Words, and a message in which they are masked.

use protocol::format::Data;
use protocol::pattern::Pattern;
use protocol::settings::{Filter, Filtered, Words};
use serde_json::Value;
use worker::filter::{Filters, Verdict};

/// What stands before the first 0 is a list of words, what is behind it the message. Whatever it is,
/// nothing panics. If it is JSON:
///
/// - What comes out is JSON, and the same value, but for characters of strings that are stars now.
/// - As MessagePack, the same is masked.
/// - Nothing is left to be masked, unless a word has stars in it.
pub fn filter(input: &[u8]) {
    let mut parts = input.splitn(2, |byte| *byte == 0);
    let (Some(list), Some(message)) = (parts.next(), parts.next()) else {
        return;
    };
    let filter = Filter {
        rooms: Pattern::new("*"),
        then: Filtered::Mask,
        whole_words: list.first().is_some_and(u8::is_ascii_digit),
        words: Words::default(),
    };
    let filters = Filters::new(&[filter], |_| list.to_vec());
    let _ = filters.judge("r", Data::msgpack(message), false);
    let json = masked(&filters, Data::json(message));
    let Ok(before) = serde_json::from_slice::<Value>(message) else {
        return;
    };
    let after: Value = serde_json::from_slice(&json).expect("still JSON");
    same(&before, &after);
    if has_bin(&before) {
        // In MessagePack it would not be a string.
        return;
    }
    let packed = rmp_serde::to_vec(&before).expect("whatever is JSON can be packed");
    let packed = masked(&filters, Data::msgpack(&packed));
    let unpacked: Value = rmp_serde::from_slice(&packed).expect("still MessagePack");
    same(&before, &unpacked);
    if !has_numbers(message) {
        assert_eq!(after, unpacked);
    }
    if !list.contains(&b'*') {
        assert_eq!(masked(&filters, Data::json(&json)), json);
    }
}

fn masked(filters: &Filters, data: Data<'_>) -> Vec<u8> {
    match filters.judge("r", data, false) {
        Verdict::Clean => data.bytes.to_vec(),
        Verdict::Masked(bytes) => bytes,
        other => panic!("{other:?}"),
    }
}

fn same(before: &Value, after: &Value) {
    match (before, after) {
        (Value::String(a), Value::String(b)) => {
            assert_eq!(a.chars().count(), b.chars().count());
            assert!(a.chars().zip(b.chars()).all(|(a, b)| a == b || b == '*'));
        }
        (Value::Array(a), Value::Array(b)) => {
            assert_eq!(a.len(), b.len());
            a.iter().zip(b).for_each(|(a, b)| same(a, b));
        }
        (Value::Object(a), Value::Object(b)) => {
            assert!(a.keys().eq(b.keys()));
            a.values().zip(b.values()).for_each(|(a, b)| same(a, b));
        }
        (Value::Number(_), Value::Number(_)) => {}
        (a, b) => assert_eq!(a, b),
    }
}

fn has_bin(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().any(has_bin),
        Value::Object(fields) => fields.contains_key("$bin") || fields.values().any(has_bin),
        _ => false,
    }
}

/// What has numbers in it may be another value in the other format: nobody looks at these here.
fn has_numbers(message: &[u8]) -> bool {
    message.iter().any(u8::is_ascii_digit)
}
