//! Request targets and hosts (RFC 9112, 3.2; RFC 3986, 3.2.2).

use std::net::Ipv6Addr;
use std::str::{self, FromStr};

use super::head::Method;
use crate::close::CloseReason;

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target<'a> {
    /// Of the absolute form: it takes the place of `Host`.
    pub authority: Option<Host<'a>>,
    /// Without the query. `*` is the server as a whole.
    pub path: &'a str,
}

impl<'a> Target<'a> {
    pub fn parse(method: Method, text: &'a str) -> Result<Target<'a>, CloseReason> {
        // A fragment is never sent (RFC 9112, 3.2), and a URI is ASCII.
        if !text.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
            return Err(CloseReason::BadTarget);
        }
        if method == Method::Connect {
            // The authority form; the port is required (RFC 9110, 9.3.6).
            return Err(match Host::parse(text.as_bytes()) {
                Some(host) if host.port.is_some() => CloseReason::NoTunnel,
                _ => CloseReason::BadTarget,
            });
        }
        if text.starts_with('/') {
            return Ok(Target {
                authority: None,
                path: without_query(text),
            });
        }
        if text == "*" && method == Method::Options {
            return Ok(Target {
                authority: None,
                path: "*",
            });
        }
        // TLS may end in front of us, so `https` is a name for us, too.
        let (scheme, rest) = text.split_once("://").ok_or(CloseReason::BadTarget)?;
        if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
            return Err(CloseReason::BadTarget);
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        let authority = Host::parse(authority.as_bytes()).ok_or(CloseReason::BadTarget)?;
        Ok(Target {
            authority: Some(authority),
            path: match without_query(rest) {
                // RFC 9112, 3.2.4: how a proxy says `OPTIONS *`.
                "" if method == Method::Options && rest.is_empty() => "*",
                "" => "/",
                path => path,
            },
        })
    }
}

fn without_query(text: &str) -> &str {
    &text[..place(text.as_bytes(), b'?').unwrap_or(text.len())]
}

/// Where an ASCII character is: in texts this short, sooner found than a search has begun.
fn place(text: &[u8], byte: u8) -> Option<usize> {
    text.iter().position(|b| *b == byte)
}

/// `uri-host [ ":" port ]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Host<'a> {
    pub name: &'a [u8],
    pub port: Option<u16>,
}

impl<'a> Host<'a> {
    pub fn parse(text: &'a [u8]) -> Option<Host<'a>> {
        let end = if text.first() == Some(&b'[') {
            let end = place(text, b']')?;
            Ipv6Addr::from_str(str::from_utf8(&text[1..end]).ok()?).ok()?;
            end + 1
        } else {
            // Not empty (RFC 9110, 4.2.1).
            name_len(text).filter(|len| *len > 0)?
        };
        let (name, rest) = text.split_at(end);
        let port = match rest {
            [] | [b':'] => None,
            [b':', digits @ ..] => Some(port(digits)?),
            _ => return None,
        };
        Some(Host { name, port })
    }
}

fn port(digits: &[u8]) -> Option<u16> {
    digits.iter().try_fold(0u16, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| digit - b'0')?;
        number.checked_mul(10)?.checked_add(digit.into())
    })
}

/// Bytes of the `reg-name` or IPv4 address at the start of `text`; `None`: what is there is none.
fn name_len(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let plain = text[at..].iter().take_while(|b| NAME[usize::from(**b)]);
        at += plain.count();
        match text[at..] {
            [b'%', a, b, ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => at += 3,
            [b'%', ..] => return None,
            _ => return Some(at),
        }
    }
}

/// The bytes of a `reg-name` that stand for themselves.
const NAME: [bool; 256] = {
    let mut name = [false; 256];
    let mut byte = 0;
    while byte < name.len() {
        name[byte] = match byte as u8 {
            b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+'
            | b',' | b';' | b'=' => true,
            other => other.is_ascii_alphanumeric(),
        };
        byte += 1;
    }
    name
};
