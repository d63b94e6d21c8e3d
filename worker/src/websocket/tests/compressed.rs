//! Messages that are compressed, where that was negotiated.

use super::*;

/// RSV1
const SHORT: u8 = 0x40;

/// "Hello" (RFC 7692, 7.2.3.1).
const HELLO: &[u8] = &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];

fn both() -> [Rules; 2] {
    [echo().deflating(true), messages().deflating(true)]
}

#[test]
fn they_are_handed_over_as_they_came() {
    let list: &[(u8, &[u8])] = &[
        (FIN | SHORT | TEXT, HELLO),
        (SHORT | BINARY, &HELLO[..3]),
        (FIN | PING, b"between"),
        (CONTINUE, b""),
        (FIN | PONG, b""),
        (FIN | CONTINUE, &HELLO[3..]),
        // Nothing at all, in two ways.
        (FIN | SHORT | TEXT, b"\0"),
        (SHORT | TEXT, b""),
        (FIN | CONTINUE, b""),
        // What is in it is not looked at, for now.
        (FIN | SHORT | TEXT, b"\xff\xff"),
    ];
    for rules in both() {
        let outcome = run_split(rules, &frames(list));
        let expected = [
            (Kind::Text, HELLO.to_vec()),
            (Kind::Binary, HELLO.to_vec()),
            (Kind::Text, vec![0]),
            (Kind::Text, vec![]),
            (Kind::Text, vec![0xff; 2]),
        ];
        assert_eq!(outcome.compressed, expected);
        assert_eq!(outcome.out, answer(FIN | PONG, b"between"));
        assert_eq!((outcome.messages.len(), outcome.end), (0, None));
    }
}

#[test]
fn long_ones_come_in_pieces() {
    let payload: Vec<u8> = (0..3 * PIECE + 7).map(|i| ((i * i) >> 7) as u8).collect();
    let input = frames(&[(SHORT | TEXT, &payload), (FIN | CONTINUE, &payload[..9])]);
    let whole = [&payload[..], &payload[..9]].concat();
    for rules in both() {
        let outcome = run_split(rules, &input);
        assert!(outcome.compressed == [(Kind::Text, whole.clone())]);
    }
}

#[test]
fn others_are_taken_as_ever() {
    let list: &[(u8, &[u8])] = &[
        (FIN | TEXT, "plain ä".as_bytes()),
        (FIN | SHORT | TEXT, HELLO),
        (TEXT, b"in "),
        (FIN | CONTINUE, b"two"),
    ];
    let [echo, messages] = both();
    let outcome = run_split(echo, &frames(list));
    let plain = [list[0], list[2], list[3]];
    let same: Vec<u8> = plain.iter().flat_map(|(f, p)| answer(*f, p)).collect();
    assert_eq!(outcome.out, same);
    let outcome = run_split(messages, &frames(list));
    assert_eq!(outcome.messages[1], (Kind::Text, b"in two".to_vec()));
    assert_eq!((outcome.messages.len(), outcome.compressed.len()), (2, 1));
    let bad = run_split(messages, &frames(&[(FIN | TEXT, b"\xff")]));
    assert_eq!(bad.end, Some(Next::Close(CloseReason::BadUtf8)));
}

#[test]
fn the_bit_belongs_to_the_first_frame_alone() {
    let faults: &[&[(u8, &[u8])]] = &[
        &[(FIN | SHORT | PING, b"")],
        &[(FIN | SHORT | PONG, b"")],
        &[(FIN | SHORT | CLOSE, b"")],
        &[(SHORT | TEXT, HELLO), (FIN | SHORT | CONTINUE, b"")],
        &[(TEXT, b"plain"), (FIN | SHORT | CONTINUE, b"")],
        &[(FIN | 0x20 | TEXT, b"")],
        &[(FIN | 0x10 | SHORT | TEXT, b"")],
    ];
    for rules in both() {
        for fault in faults {
            let outcome = run_split(rules, &frames(fault));
            let reason = CloseReason::ReservedBits;
            assert_eq!(outcome.end, Some(Next::Close(reason)), "{fault:x?}");
            assert!(outcome.out.ends_with(&close_frame(reason)));
        }
        let twice = run_split(rules, &frames(&[(SHORT | TEXT, b""), (SHORT | TEXT, b"")]));
        assert_eq!(twice.end, Some(Next::Close(CloseReason::BadFragment)));
    }
    for rules in [echo(), messages()] {
        let outcome = run_split(rules, &frames(&[(FIN | SHORT | TEXT, HELLO)]));
        assert_eq!(outcome.end, Some(Next::Close(CloseReason::ReservedBits)));
    }
}

/// What cannot be made shorter becomes a little longer.
#[test]
fn they_have_a_limit_as_they_come() {
    let settings = settings::WebSocket {
        echo_max_message: 1000,
        ..settings::WebSocket::default()
    };
    for rules in [Rules::echo(&settings), Rules::messages(&settings, 1000)] {
        let rules = rules.deflating(true);
        let payload = [0; 1190];
        let fits = run_split(
            rules,
            &frames(&[(SHORT | TEXT, &payload[..189]), (FIN, &payload[..1000])]),
        );
        assert_eq!((fits.compressed[0].1.len(), fits.end), (1189, None));
        let too_large = Some(Next::Close(CloseReason::MessageTooLarge));
        let one = run_split(rules, &frames(&[(FIN | SHORT | TEXT, &payload)]));
        let two = run_split(
            rules,
            &frames(&[(SHORT | TEXT, &payload[..190]), (FIN, &payload[..1000])]),
        );
        let plain = run_split(rules, &frames(&[(FIN | TEXT, &payload[..1001])]));
        assert_eq!([one.end, two.end, plain.end], [too_large; 3]);
    }
}

#[test]
fn what_is_whole_is_forgotten_by_our_close() {
    for rules in both() {
        for until in [Some(FIN), None] {
            let mut peer = Peer::new(rules);
            let first = until.unwrap_or_default() | SHORT | TEXT;
            let input = frame(first, HELLO);
            let (message, out) = (&mut peer.message, &mut peer.out);
            let taken = step(&mut peer.session, &input, message, out, &rules).unwrap();
            assert_eq!(taken.consumed, input.len());
            let words = peer.session.pack();
            assert_eq!(Session::holds_message(words), until.is_some());
            peer.session
                .close(&mut peer.out, CloseReason::GoingAway)
                .unwrap();
            assert!(!Session::holds_message(peer.session.pack()));
            peer.message.clear();
            // What follows is skipped, if it may follow.
            let rest = match until {
                Some(_) => frames(&[(FIN | SHORT | TEXT, HELLO), (FIN | CLOSE, b"")]),
                None => frames(&[(FIN | CONTINUE, HELLO), (FIN | CLOSE, b"")]),
            };
            let (last, first) = rest
                .split_last()
                .map(|(last, first)| ([*last], first))
                .unwrap();
            peer.receive(first);
            assert_eq!(peer.end, None, "{until:?}");
            peer.receive(&last);
            assert_eq!((peer.end, peer.compressed.len()), (Some(Next::Closed), 0));
        }
    }
}

#[test]
fn corrupted_words_do_no_harm() {
    let mut random = Seeded(11);
    let input = frames(&[(SHORT | TEXT, HELLO), (FIN | CONTINUE, HELLO)]);
    for rules in both() {
        let mut seen = vec![(Session::default(), Vec::new())];
        let (mut session, mut message) = seen[0].clone();
        let mut at = 0;
        for end in 0..=input.len() {
            let read = &input[at..end];
            let step = step(&mut session, read, &mut message, &mut Vec::new(), &rules).unwrap();
            at += step.consumed;
            seen.push((session, message.clone()));
        }
        for _ in 0..50_000 {
            let (session, message) = &seen[random.below(seen.len())];
            let mut words = session.pack();
            for _ in 0..=random.below(3) {
                words[random.below(3)] ^= 1 << random.below(64);
            }
            if let Some(mut session) = Session::unpack(words) {
                assert_eq!(session.pack(), words);
                let (mut message, out) = (message.clone(), &mut Vec::new());
                let step = step(&mut session, &input, &mut message, out, &rules).unwrap();
                assert!(step.consumed > 0 || !matches!(step.next, Next::Again));
                assert_eq!(Session::unpack(session.pack()), Some(session));
            }
        }
    }
}
