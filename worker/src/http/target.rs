//! Request targets and hosts (RFC 9112, 3.2; RFC 3986, 3.2.2).

use std::net::Ipv6Addr;
use std::str::FromStr;

use super::head::Method;
use crate::close::CloseReason;

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target<'a> {
    /// Of the absolute form: it takes the place of `Host`.
    pub authority: Option<&'a str>,
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
            return Err(match Host::parse(text) {
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
        if Host::parse(authority).is_none() {
            return Err(CloseReason::BadTarget);
        }
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
    &text[..place(text, b'?').unwrap_or(text.len())]
}

/// Where an ASCII character is: in texts this short, sooner found than a search has begun.
fn place(text: &str, byte: u8) -> Option<usize> {
    text.bytes().position(|b| b == byte)
}

/// `uri-host [ ":" port ]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Host<'a> {
    pub name: &'a str,
    pub port: Option<u16>,
}

impl<'a> Host<'a> {
    pub fn parse(text: &'a str) -> Option<Host<'a>> {
        let end = if text.starts_with('[') {
            let end = text.find(']')?;
            Ipv6Addr::from_str(&text[1..end]).ok()?;
            end + 1
        } else {
            let end = place(text, b':').unwrap_or(text.len());
            if !is_name(&text.as_bytes()[..end]) {
                return None;
            }
            end
        };
        let (name, rest) = text.split_at(end);
        let port = match rest.strip_prefix(':') {
            None if rest.is_empty() => None,
            None => return None,
            Some("") => None,
            Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => Some(port.parse().ok()?),
            Some(_) => return None,
        };
        Some(Host { name, port })
    }
}

/// `reg-name` and IPv4, but not empty (RFC 9110, 4.2.1).
fn is_name(name: &[u8]) -> bool {
    let mut rest = name;
    while let [first, tail @ ..] = rest {
        rest = match first {
            b'%' => match tail {
                [a, b, tail @ ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => tail,
                _ => return false,
            },
            b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+'
            | b',' | b';' | b'=' => tail,
            _ if first.is_ascii_alphanumeric() => tail,
            _ => return false,
        };
    }
    !name.is_empty()
}
