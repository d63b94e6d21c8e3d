use protocol::format::{Data, Format};
use protocol::ids::Position;
use protocol::settings::Rooms;
use serde_json::{Value, json};

use super::*;

/// As any client's library writes it.
fn packed(value: &Value) -> Vec<u8> {
    rmp_serde::to_vec(value).unwrap()
}

fn read(message: &[u8]) -> Result<Request<'_>, BadRequest<'_>> {
    parse(message, Format::Msgpack, &Rooms::default())
}

/// The fault, and the id as the answer carries it.
fn bad(message: impl AsRef<[u8]>) -> (Fault, String) {
    let bad = read(message.as_ref()).unwrap_err();
    let id = bad.id.as_ref().map_or(&b""[..], Id::text);
    (bad.fault, String::from_utf8_lossy(id).into_owned())
}

/// `{"id":1,"send":"r","data":…}`
fn sending(data: &[u8]) -> Vec<u8> {
    [b"\x83\xa2id\x01\xa4send\xa1r\xa4data", data].concat()
}

#[test]
fn whatever_can_be_asked_as_json_can_be_asked() {
    let string = "x".repeat(64);
    for value in [
        json!({"join":"r"}),
        json!({"id":1,"join":"r","since":"e3:1041","last":true}),
        json!({"id":"a\"\n弾","history":"r","before":"e3:1041","limit":7}),
        json!({"history":"r","limit":5_000_000_000_u64}),
        json!({"id":9_007_199_254_740_991_u64,"leave":"r"}),
        json!({"id":string,"who":"弾幕"}),
        json!({"ping":true,"else":[1,[2,{"a":null}]],"other":-1.5}),
        json!({"auth":"a.b.c","id":0}),
        // And what is wrong with it.
        json!({"id":1}),
        json!({"id":-1,"ping":true}),
        json!({"id":9_007_199_254_740_992_u64,"ping":true}),
        json!({"id":1.0,"ping":true}),
        json!({"id":format!("{string}x"),"ping":true}),
        json!({"id":[1],"ping":true}),
        json!({"id":1,"ping":1}),
        json!({"id":1,"join":"r","leave":"r"}),
        json!({"id":1,"join":7}),
        json!({"id":1,"join":"$r"}),
        json!({"id":1,"join":"x".repeat(201)}),
        json!({"id":1,"join":"r","since":"x"}),
        json!({"id":1,"join":"r","last":0}),
        json!({"id":1,"history":"r","limit":0}),
        json!({"id":1,"history":"r","limit":1.5}),
        json!({"id":1,"send":"r"}),
        json!({"id":1,"send":"r","data":1,"key":""}),
        json!({"id":1,"auth":7}),
        json!([1]),
        json!("ping"),
    ] {
        let text = value.to_string();
        let as_json = parse(text.as_bytes(), Format::Json, &Rooms::default());
        assert_eq!(read(&packed(&value)), as_json, "{text}");
    }
}

#[test]
fn data_stays_as_it_came() {
    for data in [
        &b"\xc0"[..],
        b"\x01",
        // The same in other words.
        b"\xcc\x01",
        b"\xd3\0\0\0\0\0\0\0\x01",
        b"\xcb\x3f\xf0\0\0\0\0\0\0",
        b"\xca\x3f\x80\0\0",
        b"\xd9\x01a",
        b"\xc4\x02\xff\xfe",
        b"\xc6\0\0\0\0",
        b"\xdd\0\0\0\x01\x80",
        b"\xdf\0\0\0\x02\xa1a\x01\xa1a\x02",
    ] {
        let message = sending(data);
        let request = read(&message).unwrap();
        let Verb::Send { data: got, .. } = &request.verb else {
            panic!("{request:?}");
        };
        assert_eq!(*got, Data::msgpack(data));
        assert!(message.as_ptr_range().contains(&got.bytes.as_ptr()));
    }
    let at = Position {
        epoch: 3,
        offset: 1041,
    };
    let message = packed(&json!({"since":at.to_string(),"join":"r"}));
    let Verb::Join { wants, .. } = read(&message).unwrap().verb else {
        panic!();
    };
    assert_eq!(wants.since, Some(at));
}

#[test]
fn what_json_cannot_say_is_refused_and_answered() {
    let with_id = |fault| (fault, "1".to_owned());
    for (data, fault) in [
        (&b"\xd4\x05a"[..], Fault::Extension),
        // A timestamp.
        (b"\xd6\xff\0\0\0\0", Fault::Extension),
        (b"\x91\xc7\x03\x05abc", Fault::Extension),
        (b"\xca\x7f\xc0\0\0", Fault::NotFinite),
        (b"\xcb\x7f\xf0\0\0\0\0\0\0", Fault::NotFinite),
        (b"\x81\xa1a\xcb\xff\xf0\0\0\0\0\0\0", Fault::NotFinite),
        (b"\x81\x01\x02", Fault::KeyNotString),
        (b"\x81\xc0\x02", Fault::KeyNotString),
        (b"\x81\x90\x02", Fault::KeyNotString),
        (b"\x81\xc4\x01a\x02", Fault::KeyNotString),
        (b"\x81\xd4\x05a\x02", Fault::KeyNotString),
        (b"\xa1\xff", Fault::NotUtf8),
        (b"\x81\xa1\xff\x01", Fault::NotUtf8),
    ] {
        assert_eq!(bad(sending(data)), with_id(fault), "{data:x?}");
    }
    // In the message's own fields, wherever the id stands.
    assert_eq!(
        bad(b"\x83\x01\x02\xa4ping\xc3\xa2id\x01"),
        with_id(Fault::KeyNotString)
    );
    assert_eq!(
        bad(b"\x83\xa1x\xd4\x05a\xa4ping\xc3\xa2id\x01"),
        with_id(Fault::Extension)
    );
    assert_eq!(
        bad(b"\x83\xa4ping\xc3\xa2id\x01\xa4ping\xc3"),
        with_id(Fault::DuplicateKey)
    );
    let twice = b"\x84\xa1x\x01\xa2id\x01\xa4ping\xc3\xa1x\x01";
    assert_eq!(bad(twice), with_id(Fault::DuplicateKey));
    assert_eq!(bad(b"\x82\xa2id\xa1\xff\xa4ping\xc3").0, Fault::BadId);
}

#[test]
fn what_is_no_messagepack_is_called_so() {
    let message = sending(b"\x92\xa3abc\x81\xa1k\xcb\x3f\xf0\0\0\0\0\0\0");
    assert!(read(&message).is_ok());
    for cut in 0..message.len() {
        assert_eq!(bad(&message[..cut]).0, Fault::NotMsgpack, "{cut}");
    }
    let more = [message.as_slice(), b"\xc0"].concat();
    for bytes in [
        &b"\xc1"[..],
        b"\x81\xa1x\xc1",
        b"{\"ping\":true}",
        b"\xc0\xc0",
        &more,
    ] {
        assert_eq!(bad(bytes).0, Fault::NotMsgpack, "{bytes:x?}");
    }
    for bytes in [&b"\xc0"[..], b"\x91\x01", b"\x01", b"\xd4\x05a"] {
        assert_eq!(bad(bytes).0, Fault::NotObject, "{bytes:x?}");
    }
}

/// Lengths that are not there: nothing is allocated for them, and no time is spent.
#[test]
fn claims_cost_nothing() {
    for claim in [
        &b"\xdd\xff\xff\xff\xff"[..],
        b"\xdf\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x05",
    ] {
        assert_eq!(bad(sending(claim)).0, Fault::NotMsgpack);
        assert_eq!(bad(claim).0, Fault::NotMsgpack);
    }
    // As many arrays of 4 Gi values as there is room for.
    assert_eq!(
        bad(sending(&b"\xdd\xff\xff\xff\xff".repeat(13_000))).0,
        Fault::NotMsgpack
    );
}

#[test]
fn bounds_of_data() {
    let nested = |depth: usize| sending(&[vec![0x91; depth - 1], vec![0x90]].concat());
    assert!(read(&nested(32)).is_ok());
    let too_deep = (Fault::DataTooDeep, "1".to_owned());
    assert_eq!(bad(nested(33)), too_deep);
    // Deeper than any stack.
    assert_eq!(bad(nested(60_000)), too_deep);
    assert_eq!(bad(vec![0x91; 60_000]).0, Fault::NotMsgpack);
    let maps = [b"\x81\xa0".repeat(32), vec![0x01]].concat();
    assert!(read(&sending(&maps)).is_ok());
    // As JSON, `bin` is an object.
    assert!(read(&sending(&[vec![0x91; 31], b"\xc4\0".to_vec()].concat())).is_ok());
    assert_eq!(
        bad(sending(&[vec![0x91; 32], b"\xc4\0".to_vec()].concat())),
        too_deep
    );
    // Not data: it is not looked into.
    let ignored = [
        &b"\x83\xa2id\x01\xa4ping\xc3\xa1x"[..],
        &[0x91; 50_000],
        b"\xc0",
    ]
    .concat();
    assert!(read(&ignored).is_ok());

    let max = Rooms::default().max_data;
    let bin = |len: usize| [&b"\xc5"[..], &(len as u16).to_be_bytes(), &vec![0; len]].concat();
    assert!(read(&sending(&bin(max - 3))).is_ok());
    assert_eq!(
        bad(sending(&bin(max - 2))),
        (Fault::DataTooLarge, "1".to_owned())
    );
}

/// What others would be given as JSON is bounded, too.
#[test]
fn bounds_of_data_as_json() {
    let max = Rooms::default().max_data;
    let controls = |len: usize| [&b"\xda"[..], &(len as u16).to_be_bytes(), &vec![1; len]].concat();
    // Two quotes, and six bytes for each.
    let fits = (2 * max - 2) / 6;
    assert!(read(&sending(&controls(fits))).is_ok());
    let too_large = (Fault::JsonTooLarge, "1".to_owned());
    assert_eq!(bad(sending(&controls(fits + 1))), too_large);
    let nothings = [&b"\xdc\x7d\x00"[..], &[0xc0; 32_000]].concat();
    assert_eq!(bad(sending(&nothings)), too_large);
}

#[test]
fn many_fields_cost_little() {
    let fields: Vec<u8> = (0..9_000u16)
        .flat_map(|i| [0xa2, i.to_be_bytes()[0], i.to_be_bytes()[1] & 0x7f, 0])
        .collect();
    let message = [&b"\xde\x23\x29"[..], &fields, b"\xa4ping\xc3"].concat();
    // Some of them are the same, or no UTF-8.
    assert!(matches!(
        bad(message).0,
        Fault::DuplicateKey | Fault::NotUtf8
    ));
}
