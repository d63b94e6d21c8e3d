//! A client's bytes behind the handshake, whole and in pieces. The first byte chooses what is done
//! with messages, their limit and whether we close first, the second how the bytes are cut.
//!
//! The oracle is tungstenite: the messages are those that it reads from the same bytes, and what is
//! answered is what a client of it accepts.

use std::io::{self, Cursor, Read, Write};

use protocol::settings;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};
use tungstenite::protocol::{Role, WebSocketConfig};
use tungstenite::{Message, WebSocket};
use worker::close::CloseReason;
use worker::websocket::{Kind, Next, PIECE, Rules, Session, echo_run, step};

/// What a client's bytes lead to must depend on nothing but them.
pub fn websocket(data: &[u8]) {
    let [choice, seed, stream @ ..] = data else {
        return;
    };
    let limit = if choice & 2 == 0 { 1024 } else { 1 << 20 };
    let settings = settings::WebSocket {
        echo_max_message: limit,
        max_fragments: 10,
        max_pings: 10,
        ..settings::WebSocket::default()
    };
    let rules = if choice & 1 == 0 {
        Rules::echo(&settings)
    } else {
        Rules::messages(&settings, limit)
    };
    let rules = rules.deflating(choice & 8 != 0);
    let we_close = choice & 4 != 0;

    let whole = play(stream, &rules, we_close, 0, |_| usize::MAX);
    let bytes = play(stream, &rules, we_close, 0, |_| 1);
    assert!(bytes == whole, "byte by byte");
    let seed = usize::from(*seed);
    let size = |n| (seed + 1) * (n + 7) % 37 + 1;
    let pieces = play(stream, &rules, we_close, 0, size);
    assert!(pieces == whole, "in pieces");
    if choice & 1 == 0 {
        let most = seed % 5 + 1;
        assert!(
            play(stream, &rules, we_close, most, |_| usize::MAX) == whole
                && play(stream, &rules, we_close, most, size) == whole,
            "in runs"
        );
    }

    let mut ours = answers(&whole);
    if choice & 1 == 1 {
        assert!(ours.is_empty(), "nothing is echoed");
        ours.clone_from(&whole.messages);
    }
    // tungstenite stops at what is compressed.
    if !we_close && whole.compressed.is_empty() {
        let theirs = tungstenite_reads(stream, limit);
        // Where we stop early, for a limit or a fault, it has read more at most.
        assert!(theirs.starts_with(&ours), "{ours:?} of {theirs:?}");
        if whole.end.is_none() {
            assert_eq!(theirs.len(), ours.len());
        }
    }
}

type Messages = Vec<(Kind, Vec<u8>)>;

#[derive(PartialEq)]
struct Outcome {
    out: Vec<u8>,
    messages: Messages,
    compressed: Messages,
    end: Option<Next>,
}

/// Plays a connection whose `n`th read brings `size(n)` bytes, and that echoes up to `run` messages at
/// once.
fn play(
    stream: &[u8],
    rules: &Rules,
    we_close: bool,
    run: usize,
    size: impl Fn(usize) -> usize,
) -> Outcome {
    let mut session = Session::default();
    let (mut message, mut out, mut messages) = (Vec::new(), Vec::new(), Messages::new());
    let mut compressed = Messages::new();
    if we_close {
        let closed = session.close(&mut out, CloseReason::GoingAway);
        closed.expect("a Vec has room");
    }
    let (mut at, mut seen, mut reads) = (0, 0, 0);
    let end = 'session: loop {
        seen = stream.len().min(size(reads).saturating_add(seen));
        reads += 1;
        loop {
            let run = echo_run(&mut session, &stream[at..seen], &mut out, rules, run, 300);
            if let Some((step, messages)) = run {
                assert!(messages > 0 && step.consumed > 0);
                at += step.consumed;
            }
            let input = &stream[at..seen];
            let before = (session, message.clone(), out.len());
            let done = step(&mut session, input, &mut message, &mut out, rules);
            let done = done.expect("a Vec has room");
            assert!(done.consumed <= input.len());
            assert!(out.len() - before.2 <= 64 << 10);
            assert_eq!(Session::unpack(session.pack()), Some(session));

            // The step again, as the brain after a crash makes it.
            let (mut again, mut message_again, said) = before;
            let mut out_again = out[..said].to_vec();
            let repeated = step(&mut again, input, &mut message_again, &mut out_again, rules);
            assert_eq!(repeated, Ok(done));
            assert!(again == session && message_again == message && out_again == out);

            at += done.consumed;
            match done.next {
                Next::NeedInput { total } => {
                    assert!(total > seen - at && total <= PIECE + 16);
                    break;
                }
                Next::Again => assert!(done.consumed > 0),
                Next::Compressed(kind) => {
                    assert_eq!(done.consumed, 0);
                    compressed.push((kind, std::mem::take(&mut message)));
                }
                Next::Message(kind) => messages.push((kind, std::mem::take(&mut message))),
                Next::Close(_) | Next::Closed => {
                    assert_eq!(at, seen);
                    assert_eq!(done.next == Next::Closed, we_close);
                    break 'session Some(done.next);
                }
            }
        }
        if seen == stream.len() {
            break None;
        }
    };
    Outcome {
        out,
        messages,
        compressed,
        end,
    }
}

/// The complete messages in what was answered, whose frames must be a server's.
fn answers(outcome: &Outcome) -> Messages {
    let mut messages = Messages::new();
    let mut partial: Option<(Kind, Vec<u8>)> = None;
    let mut closed = false;
    let mut cursor = Cursor::new(&outcome.out[..]);
    while (cursor.position() as usize) < outcome.out.len() {
        assert!(!closed, "the Close frame is the last");
        let (header, length) = FrameHeader::parse(&mut cursor)
            .expect("a sound header")
            .expect("a whole header");
        let start = cursor.position() as usize;
        let payload = &outcome.out[start..start + length as usize];
        cursor.set_position((start + payload.len()) as u64);
        assert!(header.mask.is_none() && !header.rsv1 && !header.rsv2 && !header.rsv3);
        match header.opcode {
            OpCode::Control(control) => {
                assert!(header.is_final && payload.len() <= 125);
                assert!(matches!(control, Control::Close | Control::Pong));
                closed = control == Control::Close;
                continue;
            }
            OpCode::Data(Data::Continue) => {
                let (_, begun) = partial.as_mut().expect("a message has begun");
                begun.extend(payload);
            }
            OpCode::Data(data) => {
                let kind = match data {
                    Data::Text => Kind::Text,
                    _ => Kind::Binary,
                };
                let before = partial.replace((kind, payload.to_vec()));
                assert_eq!(before, None, "a message at a time");
            }
        }
        if header.is_final {
            messages.extend(partial.take());
        }
    }
    let must_close = matches!(outcome.end, Some(Next::Close(_) | Next::Closed));
    assert!(closed || !must_close, "an end is said");
    for (kind, payload) in messages.iter().chain(&outcome.messages) {
        assert!(*kind == Kind::Binary || std::str::from_utf8(payload).is_ok());
    }
    messages
}

/// A socket that brings these bytes and then its end, and takes whatever is written.
struct Stream<'a>(&'a [u8]);

impl Read for Stream<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.0.read(to)
    }
}

impl Write for Stream<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The messages that tungstenite reads.
fn tungstenite_reads(stream: &[u8], limit: usize) -> Messages {
    let config = WebSocketConfig::default()
        .max_message_size(Some(limit))
        .max_frame_size(Some(limit));
    let mut socket = WebSocket::from_raw_socket(Stream(stream), Role::Server, Some(config));
    let mut messages = Messages::new();
    loop {
        match socket.read() {
            Ok(Message::Text(text)) => messages.push((Kind::Text, text.as_bytes().to_vec())),
            Ok(Message::Binary(bytes)) => messages.push((Kind::Binary, bytes.to_vec())),
            Ok(Message::Close(_)) => return messages,
            Ok(_) => {}
            Err(_) => return messages,
        }
    }
}
