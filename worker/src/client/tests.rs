use protocol::format::{Data, Format};
use protocol::ids::{Cid, Position, Seat};
use protocol::names::Names;
use protocol::output::{Full, Output};
use protocol::record::Who;
use protocol::settings::{Right, Rights, Rooms};
use serde::Deserialize;
use serde_json::{Value, json};

use super::request::MAX_ROOM;
use super::*;
use crate::encoding::Encoding;

fn ok(text: &str) -> Request<'_> {
    match parse(text.as_bytes(), Format::Json, &Rooms::default()) {
        Ok(request) => request,
        Err(bad) => panic!("{text}: {bad:?}"),
    }
}

fn join(room: &str) -> Verb<'_> {
    Verb::Join {
        room: room.into(),
        wants: Wants::default(),
    }
}

/// The fault, and the id as the answer carries it.
fn bad(text: impl AsRef<[u8]>) -> (Fault, String) {
    match parse(text.as_ref(), Format::Json, &Rooms::default()) {
        Ok(request) => panic!("{request:?}"),
        Err(bad) => {
            let id = bad.id.as_ref().map_or(&b""[..], Id::text);
            (bad.fault, String::from_utf8_lossy(id).into_owned())
        }
    }
}

fn id(text: &str) -> Option<String> {
    let request = ok(text);
    Some(String::from_utf8(request.id?.text().to_vec()).unwrap())
}

#[test]
fn each_verb() {
    let room = || "r".into();
    assert_eq!(ok(r#"{"join":"r"}"#).verb, join("r"));
    let since = Some(Position {
        epoch: 3,
        offset: 1041,
    });
    let recovers = Verb::Join {
        room: room(),
        wants: Wants {
            since,
            last: true,
            presence: None,
        },
    };
    for (text, presence) in [
        (r#"{"join":"r","presence":true}"#, true),
        (r#"{"presence":false,"join":"r"}"#, false),
    ] {
        let wants = Wants {
            presence: Some(presence),
            ..Wants::default()
        };
        let room = room();
        assert_eq!(ok(text).verb, Verb::Join { room, wants });
    }
    let text = r#"{"since":"e3:1041","join":"r","last":true}"#;
    assert_eq!(ok(text).verb, recovers);
    let page = |before, limit| Verb::History {
        room: room(),
        before,
        limit,
    };
    assert_eq!(ok(r#"{"history":"r"}"#).verb, page(None, 50));
    let text = r#"{"history":"r","before":"e3:1041","limit":7}"#;
    assert_eq!(ok(text).verb, page(since, 7));
    assert_eq!(ok(r#"{"history":"r","limit":5000}"#).verb, page(None, 100));
    assert_eq!(ok(r#"{"leave":"r"}"#).verb, Verb::Leave { room: room() });
    for (text, limit) in [
        (r#"{"who":"r"}"#, 100),
        (r#"{"limit":3,"who":"r"}"#, 3),
        (r#"{"limit":3000,"who":"r"}"#, 1_000),
    ] {
        let room = room();
        assert_eq!(ok(text).verb, Verb::Who { room, limit });
    }
    assert_eq!(ok(r#"{"ping":true}"#).verb, Verb::Ping);
    let data = r#"{"a": [1]}"#;
    let sent = Verb::Send {
        room: room(),
        key: None,
        priority: false,
        author: None,
        data: Data::json(data.as_bytes()),
    };
    assert_eq!(ok(r#"{"send":"r","data":{"a": [1]}}"#).verb, sent);
    for priority in [false, true] {
        let text = format!(r#"{{"send":"r","priority":{priority},"data":1}}"#);
        let said = |verb: &Verb<'_>| matches!(verb, Verb::Send { priority: said, .. } if *said == priority);
        assert!(said(&ok(&text).verb), "{text}");
    }
    let wrong = r#"{"id":1,"send":"r","priority":1,"data":1}"#;
    assert_eq!(bad(wrong), (Fault::BadPriority, "1".into()));
    let Verb::Send { author, .. } = ok(r#"{"send":"r","as":"u\u0037","data":1}"#).verb else {
        panic!();
    };
    assert_eq!(author.as_deref(), Some("u7"));
    for wrong in [r#"7"#, r#""""#, r#""\u0001""#] {
        let text = format!(r#"{{"id":1,"send":"r","as":{wrong},"data":1}}"#);
        assert_eq!(bad(&text), (Fault::BadWho, "1".into()));
    }
    // Wherever `data` stands, and with all whitespace that JSON has.
    let spread = "\t{ \"data\" :\n {\"a\": [1]} ,\r\n\"id\":1, \"send\" : \"r\" }\n";
    assert_eq!(ok(spread).verb, sent);
    assert_eq!(ok(r#"{"\u0073end":"\u0072","data":{"a": [1]}}"#).verb, sent);
}

#[test]
fn data_is_not_touched() {
    for data in [
        "null",
        "0",
        "-0",
        "-0.0",
        "1e999",
        "123456789012345678901234567890.10",
        "1E+2",
        r#""""#,
        r#""\u00e4ä\/\ud83d\ude00""#,
        r#""\ud800""#,
        "[ 1,\n2 ]",
        r#"{"a":1,"a":2}"#,
    ] {
        let text = format!(r#"{{"send":"r","data": {data} }}"#);
        let Verb::Send { data: got, .. } = ok(&text).verb else {
            panic!();
        };
        assert_eq!(got, Data::json(data.as_bytes()));
    }
}

#[test]
fn ids() {
    assert_eq!(id(r#"{"ping":true}"#), None);
    for kept in [
        "0",
        "9007199254740991",
        r#""""#,
        r#""a""#,
        r#""弾幕""#,
        &format!("\"{}\"", "x".repeat(64)),
    ] {
        let text = format!(r#"{{"ping":true,"id":{kept}}}"#);
        assert_eq!(id(&text).as_deref(), Some(kept));
    }
    // One way to write each.
    let escaped = r#"{"id":"\u0061\/\n\"\ud83d\ude00","ping":true}"#;
    assert_eq!(id(escaped).as_deref(), Some(r#""a/\n\"😀""#));
    let longest = format!(r#"{{"id":"{}","ping":true}}"#, r"\u0001".repeat(64));
    assert_eq!(id(&longest).unwrap().len(), Id::MAX_TEXT);

    for wrong in [
        "-1",
        "-0",
        "1.0",
        "1e3",
        "9007199254740992",
        "99999999999999999999999",
        "null",
        "true",
        "[1]",
        "{}",
        r#""\udc00""#,
        &format!("\"{}\"", "x".repeat(65)),
        &format!("\"{}\"", r"\u0001".repeat(65)),
        &format!("\"{}\"", r"\u0001".repeat(6500)),
    ] {
        let text = format!(r#"{{"ping":true,"id":{wrong}}}"#);
        assert_eq!(bad(&text), (Fault::BadId, String::new()), "{text}");
    }
}

#[test]
fn names_of_rooms() {
    let longest = "弾".repeat(MAX_ROOM / 3) + "xx";
    assert_eq!(longest.len(), MAX_ROOM);
    for good in [" ", "a b", "a$", "a@b", "\u{a0}", "日本", &longest] {
        let text = format!(r#"{{"join":"{good}"}}"#);
        assert_eq!(ok(&text).verb, join(good));
    }
    assert_eq!(ok(r#"{"join":"\"\\"}"#).verb, join("\"\\"));
    let too_long = format!("\"{longest}x\"");
    for wrong in [
        r#""""#,
        r#""\u0000""#,
        r#""a\nb""#,
        r#""\u007f""#,
        "\"\u{7f}\"",
        "\"\u{85}\"",
        r#""\ud800""#,
        "1",
        "null",
        "[]",
        "true",
        &too_long,
    ] {
        for verb in ["join", "leave", "who", "send"] {
            let text = format!(r#"{{"id":"x","data":1,"{verb}":{wrong}}}"#);
            assert_eq!(bad(&text), (Fault::BadRoom, r#""x""#.into()), "{text}");
        }
    }
    for reserved in ["$sys", "$"] {
        let text = format!(r#"{{"id":1,"send":"{reserved}","data":1}}"#);
        assert_eq!(bad(&text), (Fault::ReservedRoom, "1".into()));
    }
    // To users one can only send.
    for verb in ["join", "leave", "who"] {
        let text = format!(r#"{{"id":1,"{verb}":"@u7"}}"#);
        assert_eq!(bad(&text), (Fault::ReservedRoom, "1".into()));
    }
    let room = "@u7".into();
    let send = ok(r#"{"send":"@u7","data":1}"#).verb;
    assert_eq!(
        send,
        Verb::Send {
            room,
            key: None,
            priority: false,
            author: None,
            data: Data::json(b"1"),
        }
    );
    let text = r#"{"send":"@","data":1}"#;
    assert_eq!(bad(text), (Fault::BadRoom, String::new()));
}

#[test]
fn tokens_are_strings() {
    let token = "e.y.J".into();
    assert_eq!(ok(r#"{"auth":"e.y.J"}"#).verb, Verb::Auth { token });
    for wrong in ["1", "null", "true", "[]", "{}", r#""\ud800""#] {
        let text = format!(r#"{{"id":1,"auth":{wrong}}}"#);
        assert_eq!(bad(&text), (Fault::BadToken, "1".into()), "{text}");
    }
}

#[test]
fn not_json_is_told_from_json_that_is_no_request() {
    for text in [
        "",
        " ",
        "hello",
        "{",
        "{}}",
        "{} {}",
        r#"{"id":1,"ping":true"#,
        r#"{"id":1,"ping":true,}"#,
        r#"{"id":1,"ping":tru}"#,
        r#"{'ping':true}"#,
        r#"{"id":01,"ping":true}"#,
        "{\"join\":\"a\nb\"}",
        r#"{"join":"\x"}"#,
        "\u{feff}{\"ping\":true}",
        "\u{c}{\"ping\":true}",
        "[1",
        "GET / HTTP/1.1",
    ] {
        assert_eq!(bad(text), (Fault::NotJson, String::new()), "{text:?}");
    }
    assert_eq!(bad(b"{\"ping\":true,\"\xff\":1}").0, Fault::NotJson);
    for text in ["[]", " [{\"ping\":true}]", "1", "null", "\"ping\"", "true"] {
        assert_eq!(bad(text), (Fault::NotObject, String::new()), "{text:?}");
    }
}

#[test]
fn one_verb_and_no_key_twice() {
    let with_id = |fault| (fault, "1".to_owned());
    for (text, fault) in [
        (r#"{"id":1}"#, Fault::NoVerb),
        (r#"{"id":1,"data":1}"#, Fault::NoVerb),
        (r#"{"id":1,"JOIN":"r"}"#, Fault::NoVerb),
        (r#"{"id":1,"send":"r","key":"","data":1}"#, Fault::BadKey),
        (r#"{"id":1,"send":"r","key":7,"data":1}"#, Fault::BadKey),
        (r#"{"id":1,"join":"r","since":7}"#, Fault::BadPosition),
        (r#"{"id":1,"join":"r","since":"e3"}"#, Fault::BadPosition),
        (r#"{"id":1,"join":"r","since":"e+3:1"}"#, Fault::BadPosition),
        (r#"{"id":1,"join":"r","last":1}"#, Fault::BadLast),
        (r#"{"id":1,"join":"r","presence":1}"#, Fault::BadPresence),
        (r#"{"id":1,"who":"r","limit":0}"#, Fault::BadLimit),
        (r#"{"id":1,"history":"r","before":""}"#, Fault::BadPosition),
        (r#"{"id":1,"history":"r","limit":0}"#, Fault::BadLimit),
        (r#"{"id":1,"history":"r","limit":1.5}"#, Fault::BadLimit),
        (r#"{"join":"r","id":1,"leave":"r"}"#, Fault::TwoVerbs),
        (r#"{"id":1,"ping":true,"who":"r"}"#, Fault::TwoVerbs),
        (r#"{"join":"r","id":1,"join":"r"}"#, Fault::DuplicateKey),
        (
            r#"{"join":"r","id":1,"\u006aoin":"r"}"#,
            Fault::DuplicateKey,
        ),
        (r#"{"id":2,"id":1,"ping":true}"#, Fault::DuplicateKey),
        (
            r#"{"id":1,"send":"r","data":1,"data":1}"#,
            Fault::DuplicateKey,
        ),
        (
            r#"{"x":1,"id":1,"y":2,"ping":true,"x":3}"#,
            Fault::DuplicateKey,
        ),
        (r#"{"id":1,"ping":false}"#, Fault::BadPing),
        (r#"{"id":1,"ping":1}"#, Fault::BadPing),
        (r#"{"id":1,"send":"r"}"#, Fault::NoData),
    ] {
        assert_eq!(bad(text), with_id(fault), "{text}");
    }
    // Unknown fields, and those of other verbs, are ignored.
    ok(r#"{"id":1,"join":"r","data":[[]],"since":"e3:1","x":{"y":{}},"z":"\ud800"}"#);
}

fn nested(depth: usize) -> String {
    let (open, close) = ("[".repeat(depth), "]".repeat(depth));
    format!(r#"{{"id":1,"send":"r","data":{open}{close}}}"#)
}

#[test]
fn bounds_of_data() {
    ok(&nested(32));
    assert_eq!(bad(nested(33)), (Fault::DataTooDeep, "1".into()));
    // Deeper than any stack, as data and elsewhere.
    assert_eq!(bad(nested(30_000)).0, Fault::DataTooDeep);
    assert_eq!(bad(nested(200_000)).0, Fault::DataTooLarge);
    assert_eq!(bad("[".repeat(200_000)).0, Fault::NotJson);
    let ignored = nested(200_000).replace("data", "else");
    assert_eq!(bad(ignored), (Fault::NoData, "1".into()));
    // Brackets beside each other or in strings are not depth.
    let flat = format!(
        r#"{{"send":"r","data":["{}\"",[]{}]}}"#,
        "[".repeat(99),
        ",{\"a\":[]}".repeat(99)
    );
    ok(&flat);

    let of_size = |n: usize| format!(r#"{{"send":"r","data":"{}"}}"#, "x".repeat(n - 2));
    let max = Rooms::default().max_data;
    ok(&of_size(max));
    assert_eq!(bad(of_size(max + 1)).0, Fault::DataTooLarge);
}

#[test]
fn many_fields_cost_little() {
    let fields: String = (0..50_000).map(|i| format!("\"{i}\":0,")).collect();
    ok(&format!(r#"{{{fields}"ping":true}}"#));
    assert_eq!(
        bad(format!(r#"{{{fields}"ping":true,"7":1}}"#)).0,
        Fault::DuplicateKey
    );
}

#[test]
fn no_cut_of_a_request_is_one() {
    let text = r#"{"id":"é\n","send":"日本","data":{"a":["x",1.5e3,true,null]}}"#;
    for cut in 0..text.len() {
        assert_eq!(bad(&text.as_bytes()[..cut]).0, Fault::NotJson);
    }
}

const AT: Position = Position {
    epoch: 3,
    offset: 1051,
};

fn names(bytes: &[u8]) -> Names<'_> {
    Names::read(bytes).unwrap()
}

/// Each kind of message, and what it looks like.
fn messages() -> Vec<(ToClient<'static>, &'static str)> {
    vec![
        (
            ToClient::Hello {
                cid: Cid(7),
                worker: Seat(2),
                ping_ms: 25_000,
                max_data: 65_536,
                max_rooms: 100,
            },
            r#"{"hello":{"cid":"c7","worker":2,"ping":25,"max":{"message":65536,"rooms":100}}}"#,
        ),
        (
            ToClient::Joined {
                id: b"2",
                position: AT,
                count: 812,
                recovered: Some(false),
                may: None,
            },
            r#"{"id":2,"ok":{"pos":"e3:1051","count":812,"recovered":false}}"#,
        ),
        (
            ToClient::Joined {
                id: b"2",
                position: AT,
                count: 1,
                recovered: None,
                may: Some([Right::Moderate, Right::Send].into_iter().collect()),
            },
            r#"{"id":2,"ok":{"pos":"e3:1051","count":1,"may":["send","moderate"]}}"#,
        ),
        (
            ToClient::Joined {
                id: b"2",
                position: AT,
                count: 1,
                recovered: Some(true),
                may: Some(Rights::default()),
            },
            r#"{"id":2,"ok":{"pos":"e3:1051","count":1,"recovered":true,"may":[]}}"#,
        ),
        (ToClient::Left { id: b"\"a\"" }, r#"{"id":"a","ok":{}}"#),
        (
            ToClient::Sent {
                id: b"3",
                position: AT,
            },
            r#"{"id":3,"ok":{"pos":"e3:1051"}}"#,
        ),
        (
            ToClient::Present {
                id: b"5",
                who: Who::default(),
            },
            r#"{"id":5,"ok":{"count":0}}"#,
        ),
        (
            ToClient::Present {
                id: b"5",
                who: Who {
                    total: 812,
                    distinct: Some(640),
                    users: Some(names(b"\x02u7\x03a\"b")),
                },
            },
            r#"{"id":5,"ok":{"count":812,"distinct":640,"users":["u7","a\"b"],"whole":false}}"#,
        ),
        (
            ToClient::List {
                room: b"r",
                who: Who {
                    total: 3,
                    distinct: Some(1),
                    users: Some(names(b"\x02u7")),
                },
            },
            r#"{"room":"r","count":3,"distinct":1,"users":["u7"]}"#,
        ),
        (
            ToClient::Changes {
                room: b"r",
                total: 812,
                distinct: Some(2),
                names: Some([names(b"\x02u9"), names(b"")]),
            },
            r#"{"room":"r","in":["u9"],"out":[],"count":812,"distinct":2}"#,
        ),
        (
            ToClient::Changes {
                room: b"r",
                total: 812,
                distinct: None,
                names: None,
            },
            r#"{"room":"r","count":812}"#,
        ),
        (
            ToClient::Pong {
                id: b"7",
                worker: Seat(2),
                pid: 4242,
                life: 3,
            },
            r#"{"id":7,"ok":{"worker":2,"pid":4242,"life":3}}"#,
        ),
        (
            ToClient::Message {
                room: "a\"弾".as_bytes(),
                position: AT,
                from: b"u\n7",
                data: Data::json(b"{\"x\": 1.50}"),
            },
            r#"{"room":"a\"弾","pos":"e3:1051","from":"u\n7","data":{"x": 1.50}}"#,
        ),
        (
            ToClient::Gap {
                room: b"r",
                from: AT,
                to: Position {
                    epoch: 3,
                    offset: 1060,
                },
                why: Lost::Slow,
            },
            r#"{"room":"r","gap":{"from":"e3:1051","to":"e3:1060","why":"slow"}}"#,
        ),
        (
            ToClient::Error {
                id: b"3",
                code: Code::Forbidden,
                message: "no \"way\"",
                retry_after_ms: None,
            },
            r#"{"id":3,"error":{"code":"forbidden","message":"no \"way\"","retry":false}}"#,
        ),
        (
            ToClient::Error {
                id: b"",
                code: Code::Rate,
                message: "slower",
                retry_after_ms: Some(100),
            },
            r#"{"error":{"code":"rate","message":"slower","retry":true,"retry_after_ms":100}}"#,
        ),
        (
            ToClient::Bye {
                retry_after_ms: 3200,
            },
            r#"{"bye":{"retry_after_ms":3200}}"#,
        ),
    ]
}

#[test]
fn messages_look_as_promised() {
    for (message, text) in messages() {
        let mut out = Vec::new();
        message.put(&mut out, Encoding::Json).unwrap();
        assert_eq!(String::from_utf8_lossy(&out), text);
        assert_eq!(message.len(Encoding::Json), text.len());
        serde_json::from_str::<Value>(text).unwrap();
        let (mut frame, mut expected) = (Vec::new(), Vec::new());
        message.put_frame(&mut frame, Encoding::Json).unwrap();
        crate::websocket::text(&mut expected, text.as_bytes()).unwrap();
        assert_eq!(frame, expected);
    }
}

#[test]
fn messagepack_says_the_same() {
    for (message, text) in messages() {
        let mut out = Vec::new();
        message.put(&mut out, Encoding::Msgpack).unwrap();
        assert_eq!(message.len(Encoding::Msgpack), out.len());
        let mut rest = out.as_slice();
        let said = Value::deserialize(&mut rmp_serde::Deserializer::new(&mut rest));
        assert_eq!(said.unwrap(), serde_json::from_str::<Value>(text).unwrap());
        assert!(rest.is_empty(), "{text}");
        let (mut frame, mut expected) = (Vec::new(), Vec::new());
        message.put_frame(&mut frame, Encoding::Msgpack).unwrap();
        crate::websocket::binary(&mut expected, &out).unwrap();
        assert_eq!(frame, expected);
    }
}

/// Has room for so many bytes.
struct Little(Vec<u8>, usize);

impl Output for Little {
    fn space(&mut self, n: usize) -> Result<&mut [u8], Full> {
        if self.0.len() + n > self.1 {
            return Err(Full);
        }
        self.0.space(n)
    }
}

#[test]
fn without_room_nothing_is_put() {
    for (message, text) in messages() {
        let mut out = Little(Vec::new(), text.len());
        assert_eq!(message.put_frame(&mut out, Encoding::Json), Err(Full));
        assert!(out.0.is_empty());
        assert_eq!(message.put(&mut out, Encoding::Json), Ok(()));
        assert_eq!(message.put(&mut out, Encoding::Json), Err(Full));
        assert_eq!(out.0.len(), text.len());
    }
}

#[test]
fn a_fault_is_told() {
    let bad = parse(br#"{"id":9,"join":"$x"}"#, Format::Json, &Rooms::default()).unwrap_err();
    let mut out = Vec::new();
    ToClient::from(&bad).put(&mut out, Encoding::Json).unwrap();
    let told: Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(told["id"], json!(9));
    assert_eq!(told["error"]["code"], json!("forbidden"));
    assert_eq!(told["error"]["retry"], json!(false));
}
