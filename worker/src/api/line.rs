//! A request's line, and what can stand in it.

use super::reply::bad;
use crate::client;
use crate::http::Reply;

/// Bytes of the name of a room, or of somebody.
pub const MAX_NAME: usize = 200;
/// What a page holds, unless it is said.
const DEFAULT_PAGE: u32 = 100;

/// A request's line, taken apart.
pub struct Line {
    pub method: String,
    /// Between the slashes, decoded.
    pub path: Vec<String>,
    pub query: Vec<(String, String)>,
}

impl Line {
    /// `None`: something in it is not percent-encoded UTF-8.
    pub fn read(head: &[u8]) -> Option<Line> {
        let line = head.split(|byte| *byte == b'\r').next()?;
        let line = std::str::from_utf8(line).ok()?;
        let mut words = line.trim_start().split(' ');
        let (method, target) = (words.next()?, words.next()?);
        // The absolute form names a server before it.
        let target = match target.split_once("://") {
            Some((_, rest)) if !target.starts_with('/') => &rest[rest.find('/')?..],
            _ => target,
        };
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decoded(name, true)?, decoded(value, true)?))
        };
        Some(Line {
            method: method.to_owned(),
            path: path
                .split('/')
                .skip(1)
                .map(|part| decoded(part, false))
                .collect::<Option<_>>()?,
            query: pairs.map(pair).collect::<Option<_>>()?,
        })
    }

    /// The value of a parameter, which may be there once.
    pub fn value(&self, name: &str) -> Result<Option<&str>, Reply> {
        let mut values = self.query.iter().filter(|(n, _)| n == name);
        match (values.next(), values.next()) {
            (value, None) => Ok(value.map(|(_, value)| value.as_str())),
            (_, Some(_)) => Err(bad(&format!("{name} is there more than once"))),
        }
    }

    pub fn number(&self, name: &str, least: u64, most: u64) -> Result<Option<u64>, Reply> {
        let Some(text) = self.value(name)? else {
            return Ok(None);
        };
        let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let number = is_number.then(|| text.parse::<u64>().ok()).flatten();
        match number.filter(|n| (least..=most).contains(n)) {
            Some(number) => Ok(Some(number)),
            None => Err(bad(&format!(
                "{name} must be a number from {least} to {most}"
            ))),
        }
    }

    pub fn limit(&self, most: u32) -> Result<u32, Reply> {
        let limit = self.number("limit", 1, most.into())?;
        Ok(limit.map_or(DEFAULT_PAGE.min(most), |limit| limit as u32))
    }
}

/// Percent-encoded text; in a query `+` is a space.
fn decoded(text: &str, is_query: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        bytes.push(match first {
            b'%' => {
                let (digits, tail) = rest.split_at_checked(2)?;
                rest = tail;
                let digits = std::str::from_utf8(digits).ok()?;
                let is_hex = digits.bytes().all(|b| b.is_ascii_hexdigit());
                u8::from_str_radix(digits, 16).ok().filter(|_| is_hex)?
            }
            b'+' if is_query => b' ',
            other => *other,
        });
    }
    String::from_utf8(bytes).ok()
}

/// Names that begin with `$` or `@`.
pub enum Reserved {
    All,
    ButUsers,
}

pub fn room(name: &str, allowed: Reserved) -> Result<String, Reply> {
    if name.len() > MAX_NAME || !client::is_name(name) || name == "@" {
        return Err(bad(
            "a room's name has 1 to 200 bytes and no control characters",
        ));
    }
    if matches!(allowed, Reserved::ButUsers) && name.starts_with('$') {
        return Err(bad("names that begin with $ are reserved"));
    }
    Ok(name.to_owned())
}

/// `e3:1041`
pub fn position(text: &str) -> Result<(u64, u64), Reply> {
    let parsed = text.strip_prefix('e').and_then(|rest| {
        let (epoch, offset) = rest.split_once(':')?;
        let is_number = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
        (is_number(epoch) && is_number(offset)).then_some(())?;
        Some((epoch.parse().ok()?, offset.parse().ok()?))
    });
    parsed.ok_or_else(|| bad("a position is such as e3:1041"))
}
