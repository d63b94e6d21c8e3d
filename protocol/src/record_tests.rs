use super::*;
use crate::api::Kind;
use crate::format::Data;
use crate::ids::Position;
use crate::moderation::{Act, Scope, Whom};
use crate::names::Names;
use crate::share::{Fraction, Share};

const ASKER: Asker<'_> = Asker {
    cid: Cid(7),
    ring: 3,
    slot: 99,
    id: b"\"x\"",
};

fn names(bytes: &[u8]) -> Names<'_> {
    Names::read(bytes).unwrap()
}

fn acts() -> Vec<Act<'static>> {
    let position = Position {
        epoch: 5,
        offset: 6,
    };
    let address = Whom::Address("10.0.0.0/8".parse().unwrap());
    let user = Whom::User(b"u7");
    vec![
        Act::Mute {
            who: b"c7",
            ms: 1000,
        },
        Act::Unmute { who: b"u7" },
        Act::Ban { whom: user, ms: 0 },
        Act::Ban {
            whom: address,
            ms: u64::MAX,
        },
        Act::Unban { whom: user },
        Act::Unban { whom: address },
        Act::Kick { who: b"u7" },
        Act::Delete { position },
        Act::Clear { position },
    ]
}

fn ups() -> Vec<Up<'static>> {
    let moderate = acts().into_iter().map(|act| Up::Moderate {
        asker: ASKER,
        room: b"r",
        by: b"m1",
        act,
    });
    let mut ups = plain_ups();
    ups.extend(moderate);
    ups.extend(
        [Data::json(b"1"), Data::msgpack(b"\x01")].map(|data| Up::Withhold {
            asker: ASKER,
            room: b"r",
            from: b"u7",
            data,
        }),
    );
    ups
}

fn downs() -> Vec<Down<'static>> {
    let mut downs = plain_downs();
    for scope in [Scope::Everywhere, Scope::Nowhere, Scope::Room(7)] {
        downs.extend(acts().into_iter().map(|act| Down::Moderated {
            scope,
            asker: ASKER,
            act,
        }));
    }
    let reasons = [
        Refusal::Muted { after_ms: 0 },
        Refusal::Banned { after_ms: 7 },
        Refusal::Unknown,
        Refusal::Full,
    ];
    downs.extend(reasons.map(|reason| Down::Refused {
        reason,
        asker: ASKER,
    }));
    downs.extend(
        [Data::json(b"1"), Data::msgpack(b"\x01")].map(|data| Down::Withheld {
            room: 3,
            asker: ASKER,
            from: b"u7",
            data,
        }),
    );
    downs
}

fn plain_ups() -> Vec<Up<'static>> {
    vec![
        Up::Publish {
            asker: ASKER,
            room: b"r",
            from: b"c7",
            key: b"k",
            lane: Lane::default(),
            data: Data::json(b"{}"),
        },
        Up::Publish {
            asker: ASKER,
            room: b"r",
            from: b"c7",
            key: b"k",
            lane: Lane {
                first: true,
                exempt: false,
            },
            data: Data::msgpack(b"\x80"),
        },
        Up::Publish {
            asker: ASKER,
            room: b"r",
            from: b"c7",
            key: b"",
            lane: Lane {
                first: false,
                exempt: true,
            },
            data: Data::json(b"1"),
        },
        Up::Open {
            asker: ASKER,
            room: b"r",
        },
        Up::Release {
            asker: ASKER,
            room: b"r",
            by: b"m1",
            from: b"u7",
            key: b"h9",
            lane: Lane {
                first: true,
                exempt: true,
            },
            data: Data::json(b"1"),
        },
        Up::Release {
            asker: ASKER,
            room: b"",
            by: b"",
            from: b"",
            key: b"",
            lane: Lane::default(),
            data: Data {
                format: crate::format::Format::Msgpack,
                bytes: b"\x01",
            },
        },
        Up::Hold {
            asker: ASKER,
            room: b"r",
        },
        Up::Who {
            asker: ASKER,
            room: b"",
            limit: 9,
        },
        Up::Members {
            room: 4,
            count: 0,
            watched: false,
        },
        Up::Members {
            room: 4,
            count: u32::MAX,
            watched: true,
        },
        Up::Users {
            room: 4,
            came: names(b"\x02u7\x02c1"),
            gone: names(b""),
        },
        Up::Recounted,
        Up::Watch {
            asker: ASKER,
            room: b"r",
        },
        Up::List { room: 5 },
        Up::Ask {
            asker: ASKER,
            what: b"\"metrics\"",
            data: b"1",
        },
        Up::Told {
            asker: ASKER,
            status: 404,
            body: b"{}",
        },
        Up::Ack {
            cids: Cids::new(&[[1, 0, 0, 0, 0, 0, 0, 0], [255; 8]]),
        },
        Up::Closed {
            cids: Cids::new(&[]),
        },
    ]
}

fn plain_downs() -> Vec<Down<'static>> {
    let whole = Who {
        total: 9,
        distinct: Some(2),
        users: Some(names(b"\x02u7\x02c1")),
    };
    let position = Position {
        epoch: 5,
        offset: 6,
    };
    vec![
        Down::Told {
            asker: ASKER,
            status: 200,
            kind: Kind::History,
            body: b"{}",
        },
        Down::Look {
            asker: ASKER,
            ring: 127,
            what: b"x",
        },
        Down::Message {
            room: 1,
            position,
            asker: ASKER,
            from: b"u",
            share: Share::All,
            data: Data::json(b"1"),
        },
        Down::Message {
            room: 1,
            position,
            asker: ASKER,
            from: b"u",
            share: Share::First,
            data: Data::msgpack(b"\x01"),
        },
        Down::Message {
            room: 1,
            position,
            asker: ASKER,
            from: b"u",
            share: Share::Part(Fraction::new(u32::MAX)),
            data: Data::msgpack(b"\x01"),
        },
        Down::Opened {
            room: 1,
            position,
            total: 8,
            asker: ASKER,
            name: b"r",
        },
        Down::Held {
            room: 1,
            position,
            total: 8,
            asker: ASKER,
            name: b"r",
        },
        Down::Count {
            who: whole,
            asker: ASKER,
        },
        Down::Listed {
            room: 7,
            who: Who::default(),
            asker: ASKER,
        },
        Down::List {
            room: 7,
            who: whole,
        },
        Down::List {
            room: 7,
            who: Who {
                distinct: Some(0),
                users: Some(names(b"")),
                ..whole
            },
        },
        Down::Changes {
            room: 7,
            total: 3,
            distinct: Some(2),
            names: Some([names(b"\x01a"), names(b"")]),
        },
        Down::Changes {
            room: 7,
            total: 3,
            distinct: None,
            names: None,
        },
        Down::Presence { room: 1, total: 2 },
        Down::Sent {
            position,
            asker: ASKER,
        },
        Down::Refused {
            reason: Refusal::Limit,
            asker: ASKER,
        },
        Down::Refused {
            reason: Refusal::Rate { after_ms: u32::MAX },
            asker: ASKER,
        },
    ]
}

#[test]
fn what_is_encoded_is_decoded_and_nothing_shorter_or_longer() {
    let mut bytes = Vec::new();
    for up in ups() {
        bytes.clear();
        up.encode(&mut bytes);
        assert_eq!(Up::decode(&bytes), Some(up));
        assert!((0..bytes.len()).all(|n| Up::decode(&bytes[..n]).is_none()));
        bytes.push(0);
        assert_eq!(Up::decode(&bytes), None);
    }
    for down in downs() {
        bytes.clear();
        down.encode(&mut bytes);
        assert_eq!(Down::decode(&bytes), Some(down));
        assert!((0..bytes.len()).all(|n| Down::decode(&bytes[..n]).is_none()));
    }
}

#[test]
fn lying_lengths_are_refused() {
    let mut bytes = Vec::new();
    ups()[1].encode(&mut bytes);
    bytes[24..32].copy_from_slice(&u64::MAX.to_le_bytes());
    assert_eq!(Up::decode(&bytes), None);
}
