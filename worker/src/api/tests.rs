use protocol::api::Ask;
use protocol::settings::Settings;
use sha2::{Digest, Sha256};

use super::access::{Access, access, origin};
use super::request::{Outcome, read};
use super::*;

fn waiting(offset: u64, manner: u8, is_slow: bool, origin: Option<u8>) -> Waiting {
    Waiting {
        offset,
        manner: Manner::unpack(manner).unwrap(),
        is_slow,
        origin,
    }
}

#[test]
fn what_is_waited_for_comes_back() {
    for offset in [0, 1, (1 << 40) - 1] {
        for manner in 0..6 {
            for (is_slow, origin) in [(false, None), (true, Some(0)), (false, Some(255))] {
                let one = waiting(offset, manner, is_slow, origin);
                assert_eq!(Waiting::unpack(one.pack()), Some(one));
                assert_eq!(Waiting::of(&one.pack().to_le_bytes()), Some(one));
            }
        }
    }
    assert_eq!(Waiting::unpack(0), None, "nothing is waited for");
    assert_eq!(Waiting::unpack(u64::MAX), None);
    assert_eq!(Waiting::of(b"3"), None, "a client's own id");
    assert_eq!(Waiting::of(b"\"123456\""), None);
}

fn settings() -> Settings {
    let mut settings = Settings::default();
    settings.api.tokens = vec![Sha256::digest(b"secret").into()];
    settings.api.origins = vec!["https://a.example".to_owned()];
    settings
}

fn head(line: &str, fields: &str) -> Vec<u8> {
    format!("{line} HTTP/1.1\r\nHost: a\r\n{fields}\r\n").into_bytes()
}

fn asked(line: &str, fields: &str, body: &str) -> Outcome {
    read(
        &head(line, fields),
        body.as_bytes(),
        &settings(),
        Access::All,
    )
}

#[track_caller]
fn status(outcome: Outcome) -> String {
    match outcome {
        Outcome::Reply(reply) => reply.status.to_owned(),
        asked => panic!("it is asked: {asked:?}"),
    }
}

#[test]
fn tokens() {
    let api = settings().api;
    let none = protocol::settings::Api::default();
    let with = |value: &str| head("GET /metrics", &format!("Authorization: {value}\r\n"));
    let plain = head("GET /metrics", "");
    assert_eq!(access(&with("Bearer secret"), &api, true), Access::All);
    assert_eq!(access(&with("bearer  secret"), &api, false), Access::All);
    for wrong in ["Bearer other", "Bearer", "Basic secret", "secret"] {
        assert_eq!(
            access(&with(wrong), &api, false),
            Access::Nothing,
            "{wrong}"
        );
    }
    let twice = head(
        "GET /",
        "Authorization: Bearer secret\r\nAuthorization: x\r\n",
    );
    assert_eq!(access(&twice, &api, false), Access::Nothing);
    assert_eq!(access(&plain, &api, true), Access::Nothing);
    assert_eq!(access(&plain, &api, false), Access::Read { by_token: true });
    assert_eq!(
        access(&plain, &none, false),
        Access::Read { by_token: false }
    );
    assert_eq!(access(&plain, &none, true), Access::Nothing);
    assert_eq!(access(&with("Bearer x"), &none, true), Access::Nothing);
}

#[test]
fn origins() {
    let api = settings().api;
    let of = |value: &str| origin(&head("GET /", &format!("Origin: {value}\r\n")), &api);
    assert_eq!(of("https://a.example"), Some(0));
    assert_eq!(of("https://b.example"), None);
    assert_eq!(of("null"), None);
}

#[test]
fn targets() {
    let room = |line: &str| match asked(line, "", "") {
        Outcome::Ask {
            what: Ask::Room { room },
            ..
        } => room,
        other => panic!("{line}: {other:?}"),
    };
    assert_eq!(room("GET /api/v1/rooms/a%2Fb%20c"), "a/b c");
    assert_eq!(room("GET http://host:1/api/v1/rooms/a+b"), "a+b");
    let listed = |line: &str| match asked(line, "", "") {
        Outcome::Ask {
            what: Ask::Connections { user, room, .. },
            ..
        } => (user, room),
        other => panic!("{line}: {other:?}"),
    };
    let (user, room) = listed("GET /api/v1/connections?user=a+b&room=%40u");
    assert_eq!(
        (user.unwrap(), room.unwrap()),
        ("a b".to_owned(), "@u".to_owned())
    );
    for line in [
        "GET /api/v1/rooms/%",
        "GET /api/v1/rooms/%ff",
        "GET /api/v1/rooms/",
        "GET /api/v1/rooms?limit=%+1",
    ] {
        assert_eq!(status(asked(line, "", "")), "400 Bad Request", "{line}");
    }
    assert_eq!(status(asked("GET /api/", "", "")), "404 Not Found");
}

#[test]
fn data_is_passed_on_as_it_came() {
    let json = "Content-Type: application/json; charset=utf-8\r\nIdempotency-Key: k\r\n";
    let body = r#"{"room":"r","data":{"n": 1.50, "s":"\u00e9"}}"#;
    let Outcome::Ask {
        what,
        data,
        is_slow,
    } = asked("POST /api/v1/publish", json, body)
    else {
        panic!("it is good");
    };
    assert_eq!(data, br#"{"n": 1.50, "s":"\u00e9"}"#);
    assert!(!is_slow);
    let Ask::Publish {
        rooms,
        from,
        key,
        priority,
    } = what
    else {
        panic!("{what:?}");
    };
    assert_eq!(
        (rooms, from, priority),
        (vec!["r".to_owned()], "api".to_owned(), false)
    );
    assert_eq!(key.as_deref(), Some("k"));
}
