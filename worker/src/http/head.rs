//! What a complete head says. `httparse` splits it; what it lets pass and RFC 9112 does not is
//! refused here.

use std::mem::MaybeUninit;

use httparse::Header;

use super::state::{Manner, Persist};
use super::target::{Host, Target};
use crate::close::CloseReason;

/// A request, without its body.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'a> {
    pub method: Method,
    pub path: &'a str,
    /// The authority that it is for; none in HTTP/1.0 without `Host`.
    pub host: Option<Host<'a>>,
    pub manner: Manner,
    pub length: Length,
    /// The body comes when we say so.
    pub expects_continue: bool,
    pub content_type: &'a [u8],
    /// What the connection shall become.
    pub upgrade: Upgrade,
    /// All of it, for what only some requests need.
    pub fields: &'a [Header<'a>],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Get,
    Head,
    Post,
    Options,
    Connect,
    /// One that exists, and that nothing here answers to.
    Other,
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    /// 0 without a body.
    Sized(u64),
    Chunked,
}

/// Which parts of a wish to speak WebSocket are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Upgrade {
    /// `Upgrade` lists `websocket`.
    pub websocket: bool,
    /// `Connection` lists `upgrade`.
    pub connection: bool,
}

/// A byte of a method or of a field's name.
pub(super) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// A byte of a field's value.
pub(super) fn is_field_text(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~' | 0x80..)
}

/// The elements of a comma-separated list; empty ones do not count (RFC 9110, 5.6.1).
pub(super) fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    (value.split(|&b| b == b','))
        .map(|element| element.trim_ascii())
        .filter(|element| !element.is_empty())
}

/// Checks a request line that has come before the rest of its head.
pub(super) fn check_line(input: &[u8]) -> Result<(), CloseReason> {
    let mut parsed = httparse::Request::new(&mut []);
    // An error behind the line is none yet.
    let _ = parsed.parse(input);
    Line::of(&parsed, input).map(|_| ())
}

/// The parts of a request line.
struct Line<'a> {
    method: Method,
    target: Target<'a>,
    minor: u8,
}

impl<'a> Line<'a> {
    /// Of what `httparse` has found in `input`, at whose start the line is.
    fn of(parsed: &httparse::Request<'_, 'a>, input: &[u8]) -> Result<Line<'a>, CloseReason> {
        let method = parsed.method.ok_or(CloseReason::BadRequestLine)?;
        let target = parsed.path.ok_or(CloseReason::BadRequestLine)?;
        let from = method.len() + target.len() + 2;
        let version = input.get(from..from + 8);
        if input.get(from + 8..from + 10) != Some(b"\r\n") {
            return Err(CloseReason::BadRequestLine);
        }
        let minor = match version {
            Some(b"HTTP/1.1") => 1,
            Some(b"HTTP/1.0") => 0,
            // A higher minor version should be read as 1.1 (RFC 9110, 2.5), but there is none.
            Some([b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9']) => {
                return Err(CloseReason::BadHttpVersion);
            }
            _ => return Err(CloseReason::BadRequestLine),
        };
        let method = match method {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            "POST" => Method::Post,
            "OPTIONS" => Method::Options,
            "CONNECT" => Method::Connect,
            "PUT" | "DELETE" | "PATCH" | "TRACE" => Method::Other,
            _ => Method::Unknown,
        };
        Ok(Line {
            method,
            target: Target::parse(method, target)?,
            minor,
        })
    }
}

impl<'a> Request<'a> {
    /// Parses a complete head. `fields` is only room for them.
    pub fn parse(
        head: &'a [u8],
        fields: &'a mut [MaybeUninit<Header<'a>>],
    ) -> Result<Request<'a>, CloseReason> {
        let mut parsed = httparse::Request::new(&mut []);
        let outcome = parsed.parse_with_uninit_headers(head, fields);
        let line = Line::of(&parsed, head)?;
        match outcome {
            Ok(httparse::Status::Complete(len)) if len == head.len() => {}
            Err(httparse::Error::TooManyHeaders) => return Err(CloseReason::HeadTooLarge),
            _ => return Err(CloseReason::BadField),
        }
        Request::of(line, parsed.headers)
    }

    fn of(line: Line<'a>, fields: &'a [Header<'a>]) -> Result<Request<'a>, CloseReason> {
        let mut known = Known::default();
        for field in fields {
            known.take(field)?;
        }
        let length = known.length(line.minor)?;
        let host = known.host(&line)?;
        // RFC 9110, 10.1.1 and 7.8: HTTP/1.0 has neither; both are ignored.
        if line.minor == 0 {
            known.expect = None;
            known.upgrade = Upgrade::default();
        }
        let expects_continue = match known.expect {
            None => false,
            Some(value) if value.eq_ignore_ascii_case(b"100-continue") => true,
            Some(_) => return Err(CloseReason::BadExpectation),
        };
        let persist = match (line.minor, known.close, known.keep_alive) {
            (_, true, _) | (0, false, false) => Persist::Close,
            (0, false, true) => Persist::KeepAlive,
            (_, false, _) => Persist::Keep,
        };
        Ok(Request {
            method: line.method,
            path: line.target.path,
            host,
            manner: Manner {
                head_only: line.method == Method::Head,
                persist,
            },
            length,
            expects_continue,
            content_type: known.content_type,
            upgrade: known.upgrade,
            fields,
        })
    }
}

/// Stores what may be there once only.
fn once<'a>(
    known: &mut Option<&'a [u8]>,
    value: &'a [u8],
    twice: CloseReason,
) -> Result<(), CloseReason> {
    match known.replace(value) {
        None => Ok(()),
        Some(_) => Err(twice),
    }
}

/// The fields that every request is asked for.
#[derive(Default)]
struct Known<'a> {
    host: Option<&'a [u8]>,
    content_length: Option<&'a [u8]>,
    content_type: &'a [u8],
    expect: Option<&'a [u8]>,
    close: bool,
    keep_alive: bool,
    upgrade: Upgrade,
    coding: Coding,
}

/// The transfer codings of a body, taken together.
#[derive(Clone, Copy, Default)]
enum Coding {
    #[default]
    Absent,
    /// One that we do not have, or an empty list.
    Unknown,
    Chunked,
    /// `chunked`, and below it one that we do not have.
    ChunkedUnknown,
    /// `chunked` is there, and not as the last one.
    NotLast,
}

impl Coding {
    fn then(self, coding: &[u8]) -> Coding {
        match (self, coding.eq_ignore_ascii_case(b"chunked")) {
            (Coding::Absent, true) => Coding::Chunked,
            (Coding::Unknown, true) => Coding::ChunkedUnknown,
            (Coding::Absent | Coding::Unknown, false) => Coding::Unknown,
            (Coding::Chunked | Coding::ChunkedUnknown | Coding::NotLast, _) => Coding::NotLast,
        }
    }
}

impl<'a> Known<'a> {
    fn take(&mut self, field: &Header<'a>) -> Result<(), CloseReason> {
        let Header { name, value } = *field;
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        // By length first: most fields are none of these.
        match name.len() {
            4 if is("host") => {
                once(&mut self.host, value, CloseReason::BadHost)?;
            }
            6 if is("expect") => {
                // A second one makes a list, which no expectation that we know is.
                once(&mut self.expect, value, CloseReason::BadExpectation)?;
            }
            7 if is("upgrade") => {
                self.upgrade.websocket |=
                    list(value).any(|element| element.eq_ignore_ascii_case(b"websocket"));
            }
            10 if is("connection") => {
                for option in list(value) {
                    self.close |= option.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                    self.upgrade.connection |= option.eq_ignore_ascii_case(b"upgrade");
                }
            }
            12 if is("content-type") => self.content_type = value,
            14 if is("content-length") => {
                once(
                    &mut self.content_length,
                    value,
                    CloseReason::BadContentLength,
                )?;
            }
            17 if is("transfer-encoding") => {
                self.coding = list(value).fold(self.coding, Coding::then);
                if let Coding::Absent = self.coding {
                    self.coding = Coding::Unknown;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// RFC 9112, 6.3. What could be read in two ways is refused, never repaired.
    fn length(&self, minor: u8) -> Result<Length, CloseReason> {
        match self.coding {
            Coding::Absent => {}
            _ if self.content_length.is_some() || minor == 0 => {
                return Err(CloseReason::AmbiguousLength);
            }
            Coding::Chunked => return Ok(Length::Chunked),
            // 6.1: "SHOULD respond with 501".
            Coding::ChunkedUnknown => return Err(CloseReason::UnknownTransferCoding),
            // "If the Transfer-Encoding header field is present in a request and the chunked
            // transfer coding is not the final encoding, the message body length cannot be
            // determined reliably; the server MUST respond with the 400".
            Coding::Unknown | Coding::NotLast => return Err(CloseReason::BadTransferCoding),
        }
        let Some(digits) = self.content_length else {
            return Ok(Length::Sized(0));
        };
        if digits.is_empty() {
            return Err(CloseReason::BadContentLength);
        }
        let mut length = 0u64;
        for &digit in digits {
            if !digit.is_ascii_digit() {
                return Err(CloseReason::BadContentLength);
            }
            // One that does not fit is above every limit.
            length = length
                .saturating_mul(10)
                .saturating_add(u64::from(digit - b'0'));
        }
        Ok(Length::Sized(length))
    }

    /// RFC 9112, 3.2: exactly one `Host`, and a sound one, even where the target replaces it.
    fn host(&self, line: &Line<'a>) -> Result<Option<Host<'a>>, CloseReason> {
        let host = match self.host {
            None if line.minor == 0 => None,
            None => return Err(CloseReason::BadHost),
            Some(value) => Some(Host::parse(value).ok_or(CloseReason::BadHost)?),
        };
        Ok(line.target.authority.or(host))
    }
}
