//! Answers as bytes.

use protocol::ids::Seat;
use protocol::output::{Full, Output};

use super::Context;
use super::routes::{Answer, Route};
use super::state::{Manner, Pending, Persist};
use crate::close::CloseReason;
use crate::page::{self, Kind};

const TEXT: &[u8] = b"text/plain; charset=utf-8";
const NO_STORE: &[u8] = b"Cache-Control: no-store\r\n";

/// The pages need scripts and styles from here, and their WebSocket; nothing else, and in no frame.
const PAGE: &[u8] = b"Content-Security-Policy: default-src 'none'; script-src 'self'; \
    style-src 'self'; img-src 'self' data:; connect-src 'self' ws: wss:; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n\
    Referrer-Policy: no-referrer\r\n";

/// An answer without its content.
struct Response<'a> {
    status: &'a str,
    content_type: &'a [u8],
    /// Whole lines.
    fields: &'a [u8],
    manner: Manner,
}

/// Adds all parts, first those of the `head` and then of the `content`, at once.
pub(super) fn gather(out: &mut impl Output, head: &[&[u8]], content: &[&[u8]]) -> Result<(), Full> {
    let parts = || head.iter().chain(content);
    let mut space = out.space(parts().map(|part| part.len()).sum())?;
    for part in parts() {
        let (here, rest) = space.split_at_mut(part.len());
        here.copy_from_slice(part);
        space = rest;
    }
    Ok(())
}

/// `number` in ASCII, in `room`.
fn decimal(mut number: u64, room: &mut [u8; 20]) -> &[u8] {
    let mut start = room.len();
    loop {
        start -= 1;
        room[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &room[start..];
        }
    }
}

impl Response<'_> {
    fn write(&self, out: &mut impl Output, cx: &Context, content: &[&[u8]]) -> Result<(), Full> {
        let length: usize = content.iter().map(|part| part.len()).sum();
        let connection: &[u8] = match self.manner.persist {
            Persist::Keep => b"",
            Persist::KeepAlive => b"Connection: keep-alive\r\n",
            Persist::Close => b"Connection: close\r\n",
        };
        let kind: &[u8] = match self.content_type {
            b"" => b"",
            _ => b"\r\nX-Content-Type-Options: nosniff\r\nContent-Type: ",
        };
        gather(
            out,
            &[
                b"HTTP/1.1 ",
                self.status.as_bytes(),
                b"\r\nDate: ",
                cx.date.as_bytes(),
                kind,
                self.content_type,
                b"\r\nContent-Length: ",
                decimal(length as u64, &mut [0; 20]),
                b"\r\n",
                self.fields,
                connection,
                b"\r\n",
            ],
            match self.manner.head_only {
                true => &[],
                false => content,
            },
        )
    }
}

/// What a worker's brain answers to `/whoami`.
#[must_use]
pub fn whoami(worker: Seat, pid: i32) -> String {
    format!("handled by worker {} (pid {pid})\n", worker.0)
}

/// Gives the answer to a complete request. `kind` and `body` are the request's own.
pub(super) fn give(
    out: &mut impl Output,
    cx: &Context,
    pending: Pending,
    kind: &[u8],
    body: &[u8],
) -> Result<(), Full> {
    let mut response = Response {
        status: "200 OK",
        content_type: TEXT,
        fields: NO_STORE,
        manner: pending.manner,
    };
    match pending.answer {
        Answer::File(number) => file(out, cx, response, number),
        Answer::Unchanged(number) => {
            response.status = "304 Not Modified";
            // Its fields are those that the file would have.
            response.manner.head_only = true;
            file(out, cx, response, number)
        }
        Answer::Serve(Route::Whoami) => response.write(out, cx, &[cx.whoami.as_bytes()]),
        Answer::Serve(Route::Health) => response.write(out, cx, &[b"ok\n"]),
        Answer::Serve(Route::Echo) => {
            response.content_type = match kind {
                b"" => b"application/octet-stream",
                _ => kind,
            };
            response.write(out, cx, &[body])
        }
        Answer::Methods(route) => {
            response.content_type = b"";
            response.fields = route.allow();
            response.write(out, cx, &[])
        }
        Answer::NotAllowed(route) => {
            response.status = "405 Method Not Allowed";
            response.fields = route.allow();
            response.write(out, cx, &[b"This is not a method for it.\n"])
        }
        Answer::UpgradeRequired | Answer::Serve(Route::Rooms | Route::Server) => {
            response.status = "426 Upgrade Required";
            response.fields = b"Upgrade: websocket\r\nConnection: Upgrade\r\n";
            response.write(out, cx, &[b"Speak WebSocket here.\n"])
        }
        Answer::NotFound | Answer::Serve(Route::Page) => {
            response.status = "404 Not Found";
            response.write(out, cx, &[b"There is nothing here.\n"])
        }
        // It has been asked.
        Answer::Api => Ok(()),
        Answer::NotImplemented => {
            response.status = "501 Not Implemented";
            response.write(out, cx, &[b"Nobody knows this method.\n"])
        }
    }
}

/// A file of the pages. It may be kept, and is to be asked for again each time, which a tag makes cheap.
fn file(
    out: &mut impl Output,
    cx: &Context,
    mut response: Response,
    number: u8,
) -> Result<(), Full> {
    let Some(file) = page::FILES.get(usize::from(number)) else {
        response.status = "404 Not Found";
        return response.write(out, cx, &[]);
    };
    let (content_type, fields): (&[u8], &[u8]) = match file.kind {
        Kind::Page => (b"text/html; charset=utf-8", PAGE),
        Kind::Style => (b"text/css; charset=utf-8", b""),
        Kind::Script => (b"text/javascript; charset=utf-8", b""),
        Kind::Library => (
            b"text/javascript; charset=utf-8",
            b"Access-Control-Allow-Origin: *\r\n",
        ),
    };
    let tag = page::tag(number).as_bytes();
    let fields = [b"Cache-Control: no-cache\r\nETag: ", tag, b"\r\n", fields].concat();
    let response = Response {
        content_type,
        fields: &fields,
        ..response
    };
    response.write(out, cx, &[file.content])
}

/// An answer that another has made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// With its words: `200 OK`.
    pub status: &'static str,
    pub content_type: &'static str,
    /// Whole lines.
    pub fields: String,
    pub content: Vec<u8>,
}

/// Gives it, to a request that is to be answered in this manner.
pub fn reply(
    out: &mut impl Output,
    cx: &Context,
    manner: Manner,
    reply: &Reply,
) -> Result<(), Full> {
    let response = Response {
        status: reply.status,
        content_type: reply.content_type.as_bytes(),
        fields: reply.fields.as_bytes(),
        manner,
    };
    response.write(out, cx, &[&reply.content])
}

/// The same as [`refuse`], as the API says it.
pub(super) fn refuse_as_json(
    out: &mut impl Output,
    cx: &Context,
    reason: CloseReason,
    head_only: bool,
) -> Result<(), Full> {
    let (status, text) = words(reason);
    let code = match reason {
        CloseReason::BodyTooLarge => "too_large",
        CloseReason::Refused => "unavailable",
        _ => "bad_request",
    };
    let manner = Manner {
        head_only,
        persist: Persist::Close,
    };
    let json = Reply {
        status,
        content_type: "application/json",
        fields: "Cache-Control: no-store\r\n".to_owned(),
        content: protocol::api::error(code, text),
    };
    reply(out, cx, manner, &json)
}

/// Answers what ends the connection for `reason`.
pub(super) fn refuse(
    out: &mut impl Output,
    cx: &Context,
    reason: CloseReason,
    head_only: bool,
) -> Result<(), Full> {
    let (status, text) = words(reason);
    let mut room = [0; 20];
    let fields: [&[u8]; 3] = match reason {
        CloseReason::Refused => {
            let seconds = cx.settings.retry_spread_ms.div_ceil(1000).max(1);
            [b"Retry-After: ", decimal(seconds, &mut room), b"\r\n"]
        }
        CloseReason::BadWebSocketVersion => [
            b"Sec-WebSocket-Version: 13\r\n",
            b"Upgrade: websocket\r\n",
            b"Connection: Upgrade\r\n",
        ],
        _ => [b""; 3],
    };
    let response = Response {
        status,
        content_type: TEXT,
        fields: &fields.concat(),
        manner: Manner {
            head_only,
            persist: Persist::Close,
        },
    };
    response.write(out, cx, &[text.as_bytes(), b"\n"])
}

/// The status and what a person is told.
fn words(reason: CloseReason) -> (&'static str, &'static str) {
    const BAD: &str = "400 Bad Request";
    match reason {
        CloseReason::BadRequestLine => (BAD, "The request line is not one of HTTP/1.1."),
        CloseReason::BadTarget => (BAD, "The request target is malformed."),
        CloseReason::BareLineFeed => (BAD, "A line must end with CR and LF."),
        CloseReason::BadField => (BAD, "A field is malformed."),
        CloseReason::BadHost => (BAD, "There must be one Host, and a sound one."),
        CloseReason::BadContentLength => (BAD, "Content-Length must be one number, once."),
        CloseReason::AmbiguousLength => (BAD, "The length of the body is ambiguous."),
        CloseReason::BadTransferCoding => (BAD, "The last transfer coding must be chunked."),
        CloseReason::BadChunk => (BAD, "A chunk is malformed."),
        CloseReason::BadUpgrade => (BAD, "The WebSocket handshake is malformed."),
        CloseReason::NoSubprotocol => (
            BAD,
            "The subprotocols spoken here: rooms.v1.json, rooms.v1.msgpack",
        ),
        CloseReason::BadOrigin => (
            "403 Forbidden",
            "This origin may not open a WebSocket here.",
        ),
        CloseReason::Banned => ("403 Forbidden", "Who comes from this address is banned."),
        CloseReason::HeadTimeout => (
            "408 Request Timeout",
            "The head of the request took too long.",
        ),
        CloseReason::BodyTimeout => ("408 Request Timeout", "The body stopped coming."),
        CloseReason::BodyTooLarge => ("413 Content Too Large", "The body is too large."),
        CloseReason::LineTooLong => ("414 URI Too Long", "The request line is too long."),
        CloseReason::BadExpectation => (
            "417 Expectation Failed",
            "The only expectation met here is 100-continue.",
        ),
        CloseReason::BadWebSocketVersion => {
            ("426 Upgrade Required", "The version spoken here is 13.")
        }
        CloseReason::HeadTooLarge => (
            "431 Request Header Fields Too Large",
            "The header fields are too large, or too many.",
        ),
        CloseReason::UnknownTransferCoding => (
            "501 Not Implemented",
            "The only transfer coding known here is chunked.",
        ),
        CloseReason::NoTunnel => ("501 Not Implemented", "This is no proxy."),
        CloseReason::Refused => (
            "503 Service Unavailable",
            "There are too many connections. Come back later.",
        ),
        CloseReason::BadHttpVersion => (
            "505 HTTP Version Not Supported",
            "The versions spoken here are 1.0 and 1.1.",
        ),
        // No other reason ends a request.
        _ => ("500 Internal Server Error", "This is our fault."),
    }
}
