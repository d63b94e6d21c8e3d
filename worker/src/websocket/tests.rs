//! Whole sessions: what comes in, in pieces of every size, against what goes out.

use std::io::{self, ErrorKind, Read, Write};

use protocol::output::{Full, Output};
use protocol::settings;
use tungstenite::protocol::{Role, WebSocketConfig};
use tungstenite::{Message, WebSocket};

use super::*;
use crate::close::CloseReason;

mod compressed;

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CONTINUE: u8 = 0;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
const FIN: u8 = 0x80;

/// A client's frame; `first` is its first byte.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Head::new((first & 0x0f).into(), true, payload.len())
        .as_bytes()
        .to_vec();
    bytes[0] = first;
    bytes[1] |= 0x80;
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    bytes.extend(mask);
    bytes.extend((0..).zip(payload).map(|(i, b)| b ^ mask[i % 4]));
    bytes
}

fn frames(list: &[(u8, &[u8])]) -> Vec<u8> {
    list.iter()
        .flat_map(|(first, p)| frame(*first, p))
        .collect()
}

/// A server's frame.
fn answer(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_frame(&mut bytes, (first & 0x0f).into(), payload).unwrap();
    bytes[0] = first;
    bytes
}

fn close_frame(reason: CloseReason) -> Vec<u8> {
    let code = reason.code().unwrap().to_be_bytes();
    answer(FIN | CLOSE, &[&code, reason.as_str().as_bytes()].concat())
}

fn echo() -> Rules {
    Rules::echo(&settings::WebSocket::default())
}

fn messages() -> Rules {
    Rules::messages(&settings::WebSocket::default(), 1 << 20)
}

/// A connection: its session and the buffers around it.
struct Peer {
    /// What is whole is echoed at once.
    runs: bool,
    session: Session,
    rules: Rules,
    input: Vec<u8>,
    message: Vec<u8>,
    out: Vec<u8>,
    messages: Vec<(Kind, Vec<u8>)>,
    compressed: Vec<(Kind, Vec<u8>)>,
    end: Option<Next>,
}

impl Peer {
    fn new(rules: Rules) -> Peer {
        Peer {
            runs: false,
            session: Session::default(),
            rules,
            input: Vec::new(),
            message: Vec::new(),
            out: Vec::new(),
            messages: Vec::new(),
            compressed: Vec::new(),
            end: None,
        }
    }

    /// Bytes arrive, and all steps are taken that they allow.
    fn receive(&mut self, bytes: &[u8]) {
        self.input.extend(bytes);
        loop {
            let run = self.runs.then(|| self.echo_run()).flatten();
            let step = run.unwrap_or_else(|| self.step());
            // What a slot keeps is enough to go on.
            self.session = Session::unpack(self.session.pack()).unwrap();
            self.input.drain(..step.consumed);
            match step.next {
                Next::Again => {}
                Next::NeedInput { total } => {
                    assert!(total > self.input.len() && total <= 64 << 10, "{total}");
                    return;
                }
                Next::Message(kind) => {
                    self.messages
                        .push((kind, std::mem::take(&mut self.message)));
                }
                Next::Compressed(kind) => {
                    assert_eq!(step.consumed, 0);
                    let payload = std::mem::take(&mut self.message);
                    self.compressed.push((kind, payload));
                }
                Next::Close(_) | Next::Closed => {
                    assert!(self.input.is_empty() && !self.session.is_open());
                    self.end.get_or_insert(step.next);
                    return;
                }
            }
        }
    }

    fn step(&mut self) -> Step {
        let (message, out) = (&mut self.message, &mut self.out);
        step(&mut self.session, &self.input, message, out, &self.rules).unwrap()
    }

    fn echo_run(&mut self) -> Option<Step> {
        let (before, said) = (self.session, self.out.len());
        let out = &mut self.out;
        let (run, messages) = echo_run(&mut self.session, &self.input, out, &self.rules, 3, 200)?;
        // As many steps, but for the last, would not have put more than that.
        let answered = self.out.split_off(said);
        let after = std::mem::replace(&mut self.session, before);
        let mut input = self.input.clone();
        for left in (0..messages).rev() {
            assert!(self.out.len() - said <= 200);
            let step = self.step();
            self.input.drain(..step.consumed);
            let next = if left == 0 { run.next } else { Next::Again };
            assert_eq!(step.next, next);
        }
        assert_eq!(self.session, after);
        assert_eq!(self.out.split_off(said), answered);
        self.out.extend(answered);
        std::mem::swap(&mut self.input, &mut input);
        assert_eq!(self.input.len() - input.len(), run.consumed);
        Some(run)
    }

    fn result(self) -> Outcome {
        Outcome {
            out: self.out,
            messages: self.messages,
            compressed: self.compressed,
            end: self.end,
        }
    }
}

#[derive(Debug, PartialEq)]
struct Outcome {
    out: Vec<u8>,
    messages: Vec<(Kind, Vec<u8>)>,
    compressed: Vec<(Kind, Vec<u8>)>,
    end: Option<Next>,
}

/// What comes of `input` in parts of `size` bytes.
fn run(rules: Rules, input: &[u8], size: usize) -> Outcome {
    let mut peer = Peer::new(rules);
    for part in input.chunks(size) {
        peer.receive(part);
    }
    peer.result()
}

/// What comes of `input`, however it is cut.
fn run_split(rules: Rules, input: &[u8]) -> Outcome {
    let whole = run(rules, input, input.len().max(1));
    for size in [1, 2, 3, 5, 7, 64, 1000] {
        assert_eq!(run(rules, input, size), whole, "in parts of {size}");
    }
    if rules.mode == Mode::Echo {
        for size in [30, 300, input.len()] {
            let mut peer = Peer::new(rules);
            peer.runs = true;
            input.chunks(size).for_each(|part| peer.receive(part));
            assert_eq!(peer.result(), whole, "in runs, in parts of {size}");
        }
    }
    if input.len() < 200 {
        for at in 1..input.len() {
            let mut peer = Peer::new(rules);
            peer.receive(&input[..at]);
            peer.receive(&input[at..]);
            assert_eq!(peer.result(), whole, "cut at {at}");
        }
    }
    whole
}

#[test]
fn echoes_frame_by_frame() {
    let long = vec![b'x'; 70_000 - 16];
    let cases: &[&[(u8, &[u8])]] = &[
        &[(FIN | TEXT, b"")],
        &[(FIN | TEXT, b"hello"), (FIN | BINARY, b"\xff\x00\x80")],
        &[(TEXT, b"hel"), (CONTINUE, b""), (FIN | CONTINUE, b"lo")],
        &[(BINARY, b""), (FIN | CONTINUE, b""), (FIN | TEXT, b"x")],
        &[(FIN | TEXT, &long[..125]), (FIN | TEXT, &long[..126])],
        &[
            (FIN | BINARY, &long[..65_519]),
            (FIN | TEXT, &long[..PIECE]),
        ],
        // A character in two frames.
        &[(TEXT, b"\xe5\xbc"), (FIN | CONTINUE, b"\xbe")],
    ];
    for case in cases {
        let outcome = run_split(echo(), &frames(case));
        let same: Vec<u8> = case.iter().flat_map(|(f, p)| answer(*f, p)).collect();
        assert_eq!(outcome.out, same);
        assert_eq!(outcome.end, None);
    }
}

#[test]
fn echoes_a_long_frame_in_pieces() {
    let payload = "0123456789弾".repeat(20_000);
    let payload = payload.as_bytes();
    let input = frames(&[(TEXT, payload), (FIN | CONTINUE, payload)]);
    let mut expected = Vec::new();
    let mut first = TEXT;
    for piece in payload.chunks(PIECE) {
        expected.extend(answer(first, piece));
        first = CONTINUE;
    }
    for piece in payload.chunks(PIECE) {
        expected.extend(answer(CONTINUE, piece));
    }
    let last = expected.len() - payload.len() % PIECE - 4;
    expected[last] |= FIN;
    assert_eq!(run_split(echo(), &input).out, expected);
}

#[test]
fn puts_messages_together() {
    let long = "ä".repeat(100_000);
    let input = frames(&[
        (FIN | TEXT, b"one"),
        (BINARY, b"t"),
        (FIN | PING, b"p"),
        (CONTINUE, b"w"),
        (FIN | CONTINUE, b"o"),
        (FIN | TEXT, long.as_bytes()),
        (FIN | TEXT, b""),
    ]);
    let outcome = run_split(messages(), &input);
    assert_eq!(outcome.out, answer(FIN | PONG, b"p"));
    let expected = [
        (Kind::Text, b"one".to_vec()),
        (Kind::Binary, b"two".to_vec()),
        (Kind::Text, long.into_bytes()),
        (Kind::Text, Vec::new()),
    ];
    assert_eq!(outcome.messages, expected);
}

#[test]
fn answers_pings_between_fragments_and_ignores_pongs() {
    let full = [b'p'; 125];
    let input = frames(&[
        (FIN | PONG, b"unasked"),
        (TEXT, b"a"),
        (FIN | PING, b""),
        (FIN | PONG, b"again"),
        (FIN | CONTINUE, b"b"),
        (FIN | PING, &full),
    ]);
    let expected = [
        answer(TEXT, b"a"),
        answer(FIN | PONG, b""),
        answer(FIN | CONTINUE, b"b"),
        answer(FIN | PONG, &full),
    ];
    assert_eq!(run_split(echo(), &input).out, expected.concat());
}

#[test]
fn answers_a_close_with_its_code() {
    for code in [
        1000_u16, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999,
        4000, 4999,
    ] {
        let code = code.to_be_bytes();
        let reason = [&code[..], "grüße".as_bytes()].concat();
        // What comes behind it does not matter.
        let input = frames(&[(FIN | CLOSE, &reason), (0x7f, b"")]);
        let outcome = run_split(echo(), &input);
        assert_eq!(outcome.out, answer(FIN | CLOSE, &code));
        assert_eq!(outcome.end, Some(Next::Close(CloseReason::PeerClose)));
    }
    let outcome = run_split(echo(), &frame(FIN | CLOSE, b""));
    assert_eq!(outcome.out, answer(FIN | CLOSE, b""));
    assert_eq!(outcome.end, Some(Next::Close(CloseReason::PeerClose)));
}

#[test]
fn every_fault_has_its_reason() {
    use CloseReason::*;
    let invalid_codes = [
        0_u16, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535,
    ];
    let mut cases: Vec<(Vec<u8>, CloseReason)> = vec![
        (frame(0xc1, b"x"), ReservedBits),
        (frame(0x83, b""), ReservedOpcode),
        (frame(0x8b, b""), ReservedOpcode),
        (frame(PING, b""), BadControlFrame),
        (frame(FIN | PING, &[0; 126]), BadControlFrame),
        (frame(FIN | CONTINUE, b""), BadFragment),
        (frames(&[(TEXT, b""), (FIN | TEXT, b"")]), BadFragment),
        (answer(FIN | TEXT, b"x"), UnmaskedFrame),
        (vec![0x82, 0xfe, 0, 1], BadLength),
        (frame(FIN | CLOSE, b"\x03"), BadCloseFrame),
        (frame(FIN | CLOSE, b"\x03\xe8\xff"), BadUtf8),
        (frame(FIN | TEXT, b"\xce\xba\xe1"), BadUtf8),
        (frame(FIN | TEXT, b"\xed\xa0\x80"), BadUtf8),
        (frames(&[(TEXT, b"\xce"), (FIN | CONTINUE, b"")]), BadUtf8),
        (frames(&[(TEXT, b"\xf4"), (CONTINUE, b"\x90")]), BadUtf8),
    ];
    for code in invalid_codes {
        cases.push((frame(FIN | CLOSE, &code.to_be_bytes()), BadCloseFrame));
    }
    for (bad, reason) in cases {
        for rules in [echo(), messages()] {
            let input = [
                frame(FIN | BINARY, b"fine"),
                bad.clone(),
                frame(FIN | PING, b""),
            ];
            let outcome = run_split(rules, &input.concat());
            assert_eq!(outcome.end, Some(Next::Close(reason)), "{bad:x?}");
            let close = close_frame(reason);
            assert!(outcome.out.ends_with(&close), "{:x?}", outcome.out);
            let behind = &outcome.out[..outcome.out.len() - close.len()];
            match rules.mode {
                Mode::Echo => assert!(behind.starts_with(&answer(FIN | BINARY, b"fine"))),
                Mode::Messages => assert!(behind.is_empty()),
            }
        }
    }
}

#[test]
fn a_text_is_refused_at_the_byte_that_shows_it() {
    // RFC 3629: 0xf4 0x90 begins no character. The frame would be longer than all that comes.
    let mut input = frame(TEXT, b"\xce\xba\xe1\xbd\xb9\xf4");
    input.extend(&frame(CONTINUE, &[b"\x90".as_slice(), &[b'x'; 100_000]].concat())[..14]);
    let mut peer = Peer::new(echo());
    peer.receive(&input);
    assert_eq!(peer.end, None);
    peer.receive(&[0x90 ^ 0x37]);
    assert_eq!(peer.end, Some(Next::Close(CloseReason::BadUtf8)));
}

#[test]
fn a_drip_is_checked_once() {
    let payload = "ab弾".repeat(5_000);
    let input = frame(FIN | TEXT, payload.as_bytes());
    let mut peer = Peer::new(echo());
    peer.receive(&input[..8]);
    for (checked, byte) in input[8..input.len() - 1].iter().enumerate() {
        assert_eq!(peer.session.checked as usize, checked);
        peer.receive(&[*byte]);
        assert!(peer.out.is_empty());
    }
    peer.receive(&input[input.len() - 1..]);
    assert_eq!(peer.out, answer(FIN | TEXT, payload.as_bytes()));
}

#[test]
fn a_message_has_a_limit() {
    let rules = Rules {
        max_message: 200_000,
        ..echo()
    };
    let most = vec![b'm'; 200_000];
    assert_eq!(run(rules, &frame(FIN | TEXT, &most), 10_000).end, None);
    // Known with the header, before any of the payload.
    let input = frame(FIN | TEXT, &vec![b'm'; 200_001]);
    let outcome = run_split(rules, &input[..14]);
    assert_eq!(outcome.end, Some(Next::Close(CloseReason::MessageTooLarge)));
    assert_eq!(outcome.out, close_frame(CloseReason::MessageTooLarge));
    let input = frames(&[(TEXT, &most), (CONTINUE, b""), (FIN | CONTINUE, b"x")]);
    let outcome = run(rules, &input, 10_000);
    assert_eq!(outcome.end, Some(Next::Close(CloseReason::MessageTooLarge)));
    // 2^63 - 1 bytes.
    let mut input = frame(FIN | BINARY, &most)[..14].to_vec();
    input[2..10].copy_from_slice(&(u64::MAX >> 1).to_be_bytes());
    let outcome = run_split(echo(), &input);
    assert_eq!(outcome.end, Some(Next::Close(CloseReason::MessageTooLarge)));
}

#[test]
fn fragments_have_a_limit() {
    let rules = Rules {
        max_fragments: 10,
        ..messages()
    };
    let mut input = frame(TEXT, b"");
    for _ in 1..10 {
        input.extend(frame(CONTINUE, b""));
    }
    let complete = [input.clone(), frame(FIN | CONTINUE, b"")].concat();
    let outcome = run_split(rules, &complete.repeat(2));
    assert_eq!(outcome.end, None);
    assert_eq!(outcome.messages.len(), 2);
    input.extend(frame(CONTINUE, b""));
    let outcome = run_split(rules, &input);
    assert_eq!(
        outcome.end,
        Some(Next::Close(CloseReason::TooManyFragments))
    );
}

#[test]
fn pings_have_a_limit() {
    let rules = Rules {
        max_pings: 10,
        ..echo()
    };
    let ten = frame(FIN | PING, b"").repeat(10);
    let input = [&ten[..], &frame(FIN | TEXT, b""), &ten].concat();
    assert_eq!(run_split(rules, &input).end, None);
    let outcome = run_split(rules, &[&ten[..], &frame(FIN | PING, b"")].concat());
    assert_eq!(outcome.end, Some(Next::Close(CloseReason::TooManyPings)));
    let mut peer = Peer::new(rules);
    for _ in 0..3 {
        peer.receive(&ten);
        peer.session.forgive_pings();
    }
    assert_eq!(peer.end, None);
}

#[test]
fn our_close_waits_for_theirs() {
    let behind = frames(&[
        (CONTINUE, b"more"),
        (FIN | PING, b"discarded"),
        (FIN | CONTINUE, &[0xff; 100_000]),
        (FIN | TEXT, b"\xff"),
        (BINARY, b""),
        (FIN | CLOSE, b"\x03\xe9"),
        (FIN | TEXT, b"ignored"),
    ]);
    for (size, cut) in [(1, 0), (1000, 3), (behind.len(), 70_000)] {
        // One of the cuts is inside of a character.
        let begun = frame(TEXT, "弾".repeat(40_000).as_bytes());
        let mut peer = Peer::new(echo());
        peer.receive(&begun[..cut]);
        peer.out.clear();
        let (session, out) = (&mut peer.session, &mut peer.out);
        session.close(out, CloseReason::GoingAway).unwrap();
        session.close(out, CloseReason::Internal).unwrap();
        for part in begun[cut..].chunks(size).chain(behind.chunks(size)) {
            peer.receive(part);
        }
        assert_eq!(peer.out, close_frame(CloseReason::GoingAway));
        assert_eq!(peer.end, Some(Next::Closed));
    }
}

#[test]
fn who_breaks_the_rules_after_our_close_is_not_waited_for() {
    let mut huge = frame(FIN | BINARY, &[0; 70_000])[..14].to_vec();
    huge[2..10].copy_from_slice(&(1_u64 << 40).to_be_bytes());
    for bad in [frame(0xf1, b""), huge, answer(FIN | TEXT, b"")] {
        let mut peer = Peer::new(messages());
        let (session, out) = (&mut peer.session, &mut peer.out);
        session.close(out, CloseReason::Kicked).unwrap();
        peer.receive(&bad);
        assert_eq!(peer.end, Some(Next::Closed));
        assert_eq!(peer.out, close_frame(CloseReason::Kicked));
    }
}

/// An output with little room.
struct Small {
    bytes: Vec<u8>,
    room: usize,
}

impl Output for Small {
    fn space(&mut self, n: usize) -> Result<&mut [u8], Full> {
        if self.bytes.len() + n > self.room {
            return Err(Full);
        }
        self.bytes.space(n)
    }
}

#[test]
fn without_room_nothing_has_happened() {
    let inputs = [
        frames(&[(TEXT, "schön".as_bytes()), (FIN | CONTINUE, b"er")]),
        frame(FIN | PING, b"ping"),
        frame(FIN | CLOSE, b"\x03\xe8"),
        frame(0xff, b""),
    ];
    for input in inputs {
        let whole = run(echo(), &input, input.len()).out;
        let mut out = Small {
            bytes: Vec::new(),
            room: 0,
        };
        let mut session = Session::default();
        let mut input = &input[..];
        while !input.is_empty() {
            let before = (session, out.bytes.len());
            match step(&mut session, input, &mut Vec::new(), &mut out, &echo()) {
                Ok(step) => input = &input[step.consumed..],
                Err(Full) => {
                    assert_eq!((session, out.bytes.len()), before);
                    out.room += 1;
                }
            }
        }
        assert_eq!(out.bytes, whole);
        let mut full = Small {
            bytes: Vec::new(),
            room: 3,
        };
        let mut session = Session::default();
        assert_eq!(session.close(&mut full, CloseReason::Done), Err(Full));
        assert!(session.is_open() && full.bytes.is_empty());
    }
}

/// A seeded sequence (xorshift64*).
struct Seeded(u64);

impl Seeded {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 32) as usize % n
    }
}

#[test]
fn corrupted_words_do_no_harm() {
    let mut random = Seeded(7);
    let input = frames(&[(TEXT, "täxt".as_bytes()), (FIN | CONTINUE, b"x")]);
    let mut sessions = vec![Session::default()];
    let mut peer = Peer::new(echo());
    for byte in &input {
        peer.receive(&[*byte]);
        sessions.push(peer.session);
    }
    for _ in 0..50_000 {
        let mut words = sessions[random.below(sessions.len())].pack();
        for _ in 0..=random.below(3) {
            words[random.below(3)] ^= 1 << random.below(64);
        }
        if let Some(mut session) = Session::unpack(words) {
            assert_eq!(session.pack(), words);
            for rules in [echo(), messages()] {
                let (message, out) = (&mut Vec::new(), &mut Vec::new());
                step(&mut session, &input, message, out, &rules).unwrap();
            }
        }
    }
}

/// The socket of a tungstenite client: what it writes goes to the session in parts of odd sizes,
/// what it reads is what the session has put.
struct Wire {
    peer: Peer,
    random: Seeded,
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = 1 + self.random.below(bytes.len());
        self.peer.receive(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Wire {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if self.peer.out.is_empty() {
            return Err(match self.peer.end {
                Some(_) => return Ok(0),
                None => ErrorKind::WouldBlock.into(),
            });
        }
        let n = to.len().min(self.peer.out.len());
        to[..n].copy_from_slice(&self.peer.out[..n]);
        self.peer.out.drain(..n);
        Ok(n)
    }
}

#[test]
fn a_tungstenite_client_is_echoed() {
    let wire = Wire {
        peer: Peer::new(echo()),
        random: Seeded(1),
    };
    let config = WebSocketConfig::default().max_frame_size(None);
    let mut client = WebSocket::from_raw_socket(wire, Role::Client, Some(config));
    let mut random = Seeded(2);
    for round in 0..300 {
        let order = random.below(19);
        let len = random.below(1 << order);
        let sent = match random.below(3) {
            0 => Message::text("コメント a ".repeat(len / 10)),
            1 => Message::binary((0..len).map(|_| random.next() as u8).collect::<Vec<u8>>()),
            _ => Message::Ping(vec![round as u8; len.min(125)].into()),
        };
        client.send(sent.clone()).unwrap();
        let expected = match sent {
            Message::Ping(payload) => Message::Pong(payload),
            sent => sent,
        };
        assert!(client.read().unwrap() == expected, "round {round}");
    }
    client.close(None).unwrap();
    assert_eq!(client.read().unwrap(), Message::Close(None));
    assert!(matches!(
        client.read(),
        Err(tungstenite::Error::ConnectionClosed)
    ));
    let end = client.get_ref().peer.end;
    assert_eq!(end, Some(Next::Close(CloseReason::PeerClose)));
}
