//! A back end's answer, HTTP/1.1 or 1.0: bytes in, the body out. No socket, no clock.

use crate::close::CloseReason;
use crate::http::chunks::{Chunks, Limits};
use crate::http::turn::Stop;

/// Bytes of a head, and fields in it.
const MAX_HEAD: usize = 16 << 10;
const MAX_FIELDS: usize = 64;

/// What came whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    pub body: Vec<u8>,
    /// The connection can be used again.
    pub keep: bool,
}

/// Why no reply comes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// It is not HTTP.
    Malformed,
    TooLarge,
    /// It ended too early.
    Cut,
}

impl Broken {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Broken::Malformed => "its answer is not HTTP",
            Broken::TooLarge => "its answer is too large",
            Broken::Cut => "it closed the connection before it had answered",
        }
    }
}

/// An answer that comes in pieces.
#[derive(Clone, Debug)]
pub struct Response {
    state: State,
    max_body: usize,
}

#[derive(Clone, Debug)]
enum State {
    /// What came of it so far.
    Head(Vec<u8>),
    Body {
        reply: Reply,
        framing: Framing,
    },
}

#[derive(Clone, Copy, Debug)]
enum Framing {
    /// So much is still to come.
    Sized(usize),
    Chunked(Chunks),
    /// RFC 9112, 6.3, 8: "the message body length is determined by the number of octets received
    /// prior to the server closing the connection".
    ToEnd,
}

impl Response {
    #[must_use]
    pub fn new(max_body: usize) -> Response {
        Response {
            state: State::Head(Vec::new()),
            max_body,
        }
    }

    /// Nothing of it has come yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        matches!(&self.state, State::Head(bytes) if bytes.is_empty())
    }

    /// Takes what has come; `None`: there must be more. Afterwards it is ready for the next answer.
    pub fn read(&mut self, bytes: &[u8]) -> Result<Option<Reply>, Broken> {
        let mut rest = bytes;
        if let State::Head(head) = &mut self.state {
            let before = head.len();
            head.extend_from_slice(bytes);
            let Some((len, next)) = parse_head(head, self.max_body)? else {
                return match head.len() > MAX_HEAD {
                    true => Err(Broken::TooLarge),
                    false => Ok(None),
                };
            };
            let Some((reply, framing)) = next else {
                // RFC 9110, 15.2: "A client MUST be able to parse one or more 1xx responses
                // received prior to a final response".
                let behind = head[len..].to_vec();
                self.state = State::Head(Vec::new());
                return match behind.is_empty() {
                    true => Ok(None),
                    false => self.read(&behind),
                };
            };
            rest = &bytes[len - before..];
            self.state = State::Body { reply, framing };
        }
        self.body(rest)
    }

    fn body(&mut self, bytes: &[u8]) -> Result<Option<Reply>, Broken> {
        let State::Body { reply, framing } = &mut self.state else {
            return Err(Broken::Malformed);
        };
        let (taken, complete) = match framing {
            Framing::Sized(left) => {
                let taken = bytes.len().min(*left);
                reply.body.extend_from_slice(&bytes[..taken]);
                *left -= taken;
                (taken, *left == 0)
            }
            Framing::Chunked(chunks) => {
                let limits = Limits {
                    data: self.max_body as u64,
                    beside: MAX_HEAD,
                };
                let body = &mut reply.body;
                let advanced = chunks.advance(bytes, limits, |data| {
                    body.extend_from_slice(data);
                    Ok(())
                });
                advanced.map_err(|stop| match stop {
                    Stop::Close(CloseReason::BodyTooLarge | CloseReason::HeadTooLarge) => {
                        Broken::TooLarge
                    }
                    Stop::Close(_) | Stop::Full => Broken::Malformed,
                })?
            }
            Framing::ToEnd if reply.body.len() + bytes.len() > self.max_body => {
                return Err(Broken::TooLarge);
            }
            Framing::ToEnd => {
                reply.body.extend_from_slice(bytes);
                (bytes.len(), false)
            }
        };
        if !complete {
            return Ok(None);
        }
        // What nobody has asked for would be taken for the next answer.
        reply.keep &= taken == bytes.len();
        Ok(self.take())
    }

    fn take(&mut self) -> Option<Reply> {
        match std::mem::replace(&mut self.state, State::Head(Vec::new())) {
            State::Body { reply, .. } => Some(reply),
            State::Head(_) => None,
        }
    }

    /// The back end has ended its stream.
    pub fn end(&mut self) -> Result<Reply, Broken> {
        match &self.state {
            State::Body {
                framing: Framing::ToEnd,
                ..
            } => self.take().ok_or(Broken::Cut),
            _ => Err(Broken::Cut),
        }
    }
}

type Head = (usize, Option<(Reply, Framing)>);

/// A head's length and what it says; nothing of it, if it is one that only goes before another.
fn parse_head(bytes: &[u8], max_body: usize) -> Result<Option<Head>, Broken> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut fields);
    let len = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Broken::TooLarge),
        Err(_) => return Err(Broken::Malformed),
    };
    let (Some(status), Some(minor)) = (parsed.code, parsed.version) else {
        return Err(Broken::Malformed);
    };
    match status {
        // To what it belongs that follows a 101, nobody has asked for.
        101 => return Err(Broken::Malformed),
        100..=199 => return Ok(Some((len, None))),
        _ => {}
    }
    let mut length = None;
    let mut chunked = false;
    let mut keep = minor == 1;
    for field in parsed.headers.iter() {
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        let text = std::str::from_utf8(field.value).unwrap_or_default().trim();
        if is("content-length") {
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            let n: usize = match digits {
                true => text.parse().map_err(|_| Broken::TooLarge)?,
                false => return Err(Broken::Malformed),
            };
            if length.replace(n).is_some_and(|before| before != n) {
                return Err(Broken::Malformed);
            }
        } else if is("transfer-encoding") {
            if chunked || !text.eq_ignore_ascii_case("chunked") {
                return Err(Broken::Malformed);
            }
            chunked = true;
        } else if is("connection") {
            for option in text.split(',').map(str::trim) {
                if option.eq_ignore_ascii_case("close") {
                    keep = false;
                } else if option.eq_ignore_ascii_case("keep-alive") {
                    keep |= minor == 0;
                }
            }
        }
    }
    let framing = match (status, chunked, length) {
        (204 | 304, _, _) => Framing::Sized(0),
        (_, true, None) => Framing::Chunked(Chunks::default()),
        // Two ways to say where it ends are one too many.
        (_, true, Some(_)) => return Err(Broken::Malformed),
        (_, false, Some(n)) if n > max_body => return Err(Broken::TooLarge),
        (_, false, Some(n)) => Framing::Sized(n),
        (_, false, None) => Framing::ToEnd,
    };
    let reply = Reply {
        status,
        body: Vec::new(),
        keep: keep && !matches!(framing, Framing::ToEnd),
    };
    Ok(Some((len, Some((reply, framing)))))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 1_000;

    /// What comes of these bytes, in pieces of `size`, and the end behind them.
    fn read(bytes: &[u8], size: usize) -> Result<Reply, Broken> {
        let mut response = Response::new(MAX);
        for piece in bytes.chunks(size) {
            if let Some(reply) = response.read(piece)? {
                return Ok(reply);
            }
        }
        response.end()
    }

    #[test]
    fn however_it_is_cut() {
        let reply = |body: &str, keep| {
            Ok(Reply {
                status: 200,
                body: body.as_bytes().to_vec(),
                keep,
            })
        };
        let cases = [
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
                reply("hello", true),
            ),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
                reply("", true),
            ),
            (
                "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
                reply("hello", false),
            ),
            (
                "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi",
                reply("hi", true),
            ),
            (
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi",
                reply("hi", false),
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\
                 T: x\r\n\r\n",
                reply("hello", true),
            ),
            (
                "HTTP/1.0 200 OK\r\n\r\nto the end",
                reply("to the end", false),
            ),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\n\
                 HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
                reply("hi", true),
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello",
                Err(Broken::Cut),
            ),
            ("HTTP/1.1 200 OK\r\nContent-Len", Err(Broken::Cut)),
            ("", Err(Broken::Cut)),
            ("SSH-2.0-OpenSSH\r\n", Err(Broken::Malformed)),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
                Err(Broken::Malformed),
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n1",
                Err(Broken::Malformed),
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nhi",
                Err(Broken::Malformed),
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
                Err(Broken::Malformed),
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
                Err(Broken::Malformed),
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
                Err(Broken::Malformed),
            ),
            ("HTTP/1.1 101 Switching\r\n\r\n", Err(Broken::Malformed)),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n",
                Err(Broken::TooLarge),
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n",
                Err(Broken::TooLarge),
            ),
        ];
        for (text, expected) in cases {
            for size in 1..=text.len().max(1) {
                assert_eq!(read(text.as_bytes(), size), expected, "{size}: {text}");
            }
        }
    }

    #[test]
    fn nothing_is_held_without_bound() {
        let head = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(20 << 10));
        assert_eq!(read(head.as_bytes(), 100), Err(Broken::TooLarge));
        let endless = format!("HTTP/1.0 200 OK\r\n\r\n{}", "x".repeat(MAX + 1));
        assert_eq!(read(endless.as_bytes(), 100), Err(Broken::TooLarge));
        let chunk = format!("3e8\r\n{}\r\n1\r\n", "x".repeat(MAX));
        let chunked = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}");
        assert_eq!(read(chunked.as_bytes(), 100), Err(Broken::TooLarge));
        let fields = "x: y\r\n".repeat(MAX_FIELDS + 1);
        let many = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
        assert_eq!(read(many.as_bytes(), 100), Err(Broken::TooLarge));
    }

    /// Seen elsewhere: an answer that nobody has asked for is taken for the next one.
    #[test]
    fn what_comes_behind_an_answer_ends_the_connection() {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1";
        let reply = Response::new(MAX).read(text.as_bytes()).unwrap().unwrap();
        assert!(!reply.keep && reply.body == b"hi");
    }

    #[test]
    fn one_after_the_other() {
        let mut response = Response::new(MAX);
        for _ in 0..3 {
            assert!(response.is_empty());
            let text = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
            assert!(response.read(text).unwrap().unwrap().keep);
        }
    }
}
