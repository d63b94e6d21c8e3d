//! A request for the API, understood: bytes in, what is to be done out. No socket, no clock.

use protocol::api::{Ask, Decision, MAX_PAGE, MAX_ROOMS, Whom, error};
use protocol::settings::{Api, Settings};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::client;
use crate::http::{self, Reply};

/// What is done with a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    Reply(Reply),
    /// The master is asked, with what is to be published; a reload, say, may take long.
    Ask {
        what: Ask,
        data: Vec<u8>,
        is_slow: bool,
    },
}

/// Whether who asks may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It has shown a token.
    All,
    /// It is on this machine, and has none; `by_token`: one would allow more.
    Read {
        by_token: bool,
    },
    Nothing,
}

const JSON: &str = "application/json";
const DOCUMENT: &[u8] = include_bytes!("openapi.json");
/// Bytes of a room's name, of an idempotency key.
const MAX_NAME: usize = 200;
const MAX_KEY: usize = 64;
const DEFAULT_PAGE: u32 = 100;
/// Messages of a page of history.
const MAX_MESSAGES: u32 = 100;

/// As who the API publishes, unless it says so.
const FROM: &str = "api";

/// The status with its words.
#[must_use]
pub fn status(code: u32) -> &'static str {
    match code {
        200 => "200 OK",
        204 => "204 No Content",
        400 => "400 Bad Request",
        401 => "401 Unauthorized",
        403 => "403 Forbidden",
        404 => "404 Not Found",
        405 => "405 Method Not Allowed",
        409 => "409 Conflict",
        413 => "413 Content Too Large",
        415 => "415 Unsupported Media Type",
        429 => "429 Too Many Requests",
        503 => "503 Service Unavailable",
        504 => "504 Gateway Timeout",
        _ => "500 Internal Server Error",
    }
}

/// An answer as JSON, which nobody keeps.
#[must_use]
pub fn json(code: u32, content: Vec<u8>) -> Reply {
    Reply {
        status: status(code),
        content_type: JSON,
        fields: "Cache-Control: no-store\r\n".to_owned(),
        content,
    }
}

fn fault(status: u32, code: &str, message: &str) -> Reply {
    json(status, error(code, message))
}

/// What is wrong with a request.
fn bad(message: &str) -> Reply {
    fault(400, "bad_request", message)
}

/// May who asks with this head do anything, or read?
#[must_use]
pub fn access(head: &[u8], api: &Api, is_remote: bool) -> Access {
    let shown = http::values(head, "authorization");
    let nobody = match is_remote {
        true => Access::Nothing,
        false => Access::Read {
            by_token: !api.tokens.is_empty(),
        },
    };
    match shown.as_slice() {
        [] => nobody,
        [one] if api.tokens.is_empty() && !one.is_empty() => nobody,
        [one] => {
            let token = one
                .split_once(' ')
                .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
            // What is compared are hashes: how much of them is equal says nothing of a token.
            let hash = token.map(|(_, token)| Sha256::digest(token.trim().as_bytes()));
            let is = |known: &[u8; 32]| hash.is_some_and(|hash| hash[..] == known[..]);
            match api.tokens.iter().any(is) {
                true => Access::All,
                false => Access::Nothing,
            }
        }
        _ => Access::Nothing,
    }
}

/// Which of the origins that may read answers has asked.
#[must_use]
pub fn origin(head: &[u8], api: &Api) -> Option<u8> {
    let [origin] = &http::values(head, "origin")[..] else {
        return None;
    };
    let at = api
        .origins
        .iter()
        .position(|one| one == "*" || one.eq_ignore_ascii_case(origin))?;
    u8::try_from(at).ok()
}

/// A request's line, taken apart.
struct Line {
    method: String,
    /// Between the slashes, decoded.
    path: Vec<String>,
    query: Vec<(String, String)>,
}

impl Line {
    /// `None`: something in it is not percent-encoded UTF-8.
    fn read(head: &[u8]) -> Option<Line> {
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
    fn value(&self, name: &str) -> Result<Option<&str>, Reply> {
        let mut values = self.query.iter().filter(|(n, _)| n == name);
        match (values.next(), values.next()) {
            (value, None) => Ok(value.map(|(_, value)| value.as_str())),
            (_, Some(_)) => Err(bad(&format!("{name} is there more than once"))),
        }
    }

    fn number(&self, name: &str, least: u64, most: u64) -> Result<Option<u64>, Reply> {
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

    fn limit(&self, most: u32) -> Result<u32, Reply> {
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

/// Understands a request.
#[must_use]
pub fn read(head: &[u8], body: &[u8], settings: &Settings, access: Access) -> Outcome {
    let Some(line) = Line::read(head) else {
        return Outcome::Reply(bad("the target is not percent-encoded UTF-8"));
    };
    let mut request = Request {
        head,
        body,
        settings,
        line: &line,
        data: Vec::new(),
    };
    match request.route(access) {
        Ok(what) => Outcome::Ask {
            is_slow: matches!(what, Ask::Reload | Ask::Scale { .. }),
            what,
            data: request.data,
        },
        Err(reply) => Outcome::Reply(reply),
    }
}

struct Request<'a> {
    head: &'a [u8],
    body: &'a [u8],
    settings: &'a Settings,
    line: &'a Line,
    data: Vec<u8>,
}

#[derive(Deserialize)]
struct Publish<'a> {
    #[serde(default, deserialize_with = "there")]
    room: Option<String>,
    #[serde(default, deserialize_with = "there")]
    rooms: Option<Vec<String>>,
    #[serde(default, deserialize_with = "there")]
    from: Option<String>,
    #[serde(default)]
    priority: bool,
    #[serde(borrow)]
    data: &'a RawValue,
}

#[derive(Deserialize)]
struct Broadcast<'a> {
    #[serde(rename = "match", default, deserialize_with = "there")]
    pattern: Option<String>,
    #[serde(default, deserialize_with = "there")]
    from: Option<String>,
    #[serde(default)]
    priority: bool,
    #[serde(borrow)]
    data: &'a RawValue,
}

/// Somebody, and for how long.
#[derive(Deserialize)]
struct Somebody {
    #[serde(default, deserialize_with = "there")]
    user: Option<String>,
    #[serde(default, deserialize_with = "there")]
    address: Option<String>,
    #[serde(default, deserialize_with = "there")]
    room: Option<String>,
    #[serde(default, deserialize_with = "whole")]
    for_ms: u64,
}

/// Something that was said, or all of it.
#[derive(Deserialize)]
struct Something {
    room: String,
    #[serde(default, deserialize_with = "there")]
    pos: Option<String>,
}

#[derive(Deserialize)]
struct Scale {
    #[serde(deserialize_with = "whole")]
    workers: u64,
}

/// What may be missing is not null: a decision for all rooms must not come of an empty variable.
fn there<'de, D: Deserializer<'de>, T: Deserialize<'de>>(json: D) -> Result<Option<T>, D::Error> {
    T::deserialize(json).map(Some)
}

/// A whole number that every program can say; `1.0` is one, too.
fn whole<'de, D: Deserializer<'de>>(json: D) -> Result<u64, D::Error> {
    const MOST: u64 = (1 << 53) - 1;
    let number = serde_json::Number::deserialize(json)?;
    let is_whole = |n: &f64| n.fract() == 0.0 && (0.0..=MOST as f64).contains(n);
    let whole = || number.as_f64().filter(is_whole).map(|n| n as u64);
    let found = number.as_u64().or_else(whole).filter(|n| *n <= MOST);
    found.ok_or_else(|| D::Error::custom("a whole number from 0 to 2^53-1 is expected"))
}

impl<'a> Request<'a> {
    /// What the master is asked, or the answer.
    fn route(&mut self, access: Access) -> Result<Ask, Reply> {
        let path: Vec<&str> = self.line.path.iter().map(String::as_str).collect();
        let (methods, is_known): (&[&str], bool) = match path[..] {
            ["metrics"]
            | [
                "api",
                "v1",
                "openapi.json" | "rooms" | "connections" | "cluster",
            ]
            | ["api", "v1", "rooms" | "connections", _]
            | ["api", "v1", "rooms", _, "history" | "members"] => (&["GET", "HEAD"], true),
            [
                "api",
                "v1",
                "publish" | "broadcast" | "reload" | "scale" | "mute" | "unmute" | "ban" | "unban"
                | "kick" | "delete" | "clear",
            ] => (&["POST"], true),
            _ => (&[], false),
        };
        if !is_known {
            return Err(fault(404, "not_found", "there is nothing here"));
        }
        let method = self.line.method.as_str();
        if method == "OPTIONS" {
            return Err(self.preflight(methods));
        }
        if !methods.contains(&method) {
            let mut reply = fault(405, "method_not_allowed", "this is not a method for it");
            reply.fields += &format!("Allow: {}, OPTIONS\r\n", methods.join(", "));
            return Err(reply);
        }
        let writes = methods == ["POST"];
        match access {
            Access::Nothing => return Err(unauthorized("a token is needed, and a good one")),
            Access::Read { by_token: true } if writes => {
                return Err(unauthorized("a token is needed for this"));
            }
            Access::Read { by_token: false } if writes => {
                let message = "no token is configured (api.tokens): the API only tells";
                return Err(fault(403, "forbidden", message));
            }
            Access::Read { .. } | Access::All => {}
        }
        self.ask(&path)
    }

    fn ask(&mut self, path: &[&str]) -> Result<Ask, Reply> {
        let line = self.line;
        Ok(match *path {
            ["metrics"] => Ask::Metrics,
            [_, _, "openapi.json"] => return Err(json(200, DOCUMENT.to_vec())),
            [_, _, "cluster"] => Ask::Cluster,
            [_, _, "rooms"] => Ask::Rooms {
                from: line.number("from", 0, 10_000)?.unwrap_or(0) as u32,
                limit: line.limit(MAX_PAGE)?,
            },
            [_, _, "rooms", name] => Ask::Room {
                room: room(name, Reserved::All)?,
            },
            [_, _, "rooms", name, "history"] => Ask::History {
                room: room(name, Reserved::All)?,
                before: line.value("before")?.map(position).transpose()?,
                limit: line.limit(MAX_MESSAGES)?,
            },
            [_, _, "rooms", name, "members"] => Ask::Members {
                room: room(name, Reserved::All)?,
                limit: line.limit(MAX_PAGE)?,
            },
            [_, _, "connections"] => self.connections()?,
            [_, _, "connections", cid] => Ask::Connection {
                cid: cid
                    .strip_prefix('c')
                    .filter(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
                    .and_then(|n| n.parse().ok())
                    .ok_or_else(|| fault(404, "not_found", "there is no such connection"))?,
            },
            [_, _, "publish"] => self.publish()?,
            [_, _, "broadcast"] => self.broadcast()?,
            [_, _, "reload"] => {
                self.empty()?;
                Ask::Reload
            }
            [_, _, verb @ ("mute" | "unmute" | "ban" | "unban" | "kick")] => self.somebody(verb)?,
            [_, _, verb @ ("delete" | "clear")] => self.something(verb)?,
            _ => {
                let Scale { workers } = self.parsed()?;
                if !(1..=64).contains(&workers) {
                    return Err(bad("workers must be a number from 1 to 64"));
                }
                Ask::Scale {
                    workers: workers as u16,
                }
            }
        })
    }

    fn preflight(&self, methods: &[&str]) -> Reply {
        let methods = methods.join(", ");
        let mut reply = json(204, Vec::new());
        reply.content_type = "";
        reply.fields += &format!("Allow: {methods}, OPTIONS\r\n");
        if !self.settings.api.origins.is_empty() {
            reply.fields += &format!(
                "Access-Control-Allow-Methods: {methods}\r\nAccess-Control-Allow-Headers: \
                 Authorization, Content-Type, Idempotency-Key\r\nAccess-Control-Max-Age: 600\r\n"
            );
        }
        reply
    }

    fn connections(&self) -> Result<Ask, Reply> {
        let line = self.line;
        let cursor = line.value("cursor")?;
        // As an answer before has named it: `worker:cid`.
        let place = cursor.map(|text| {
            let (worker, after) = text.split_once(':')?;
            let after = after.strip_prefix('c')?;
            Some((worker.parse::<u16>().ok()?, after.parse::<u64>().ok()?))
        });
        let (at, after) = match place {
            None => (None, 0),
            Some(Some((at, after))) => (Some(at), after),
            Some(None) => return Err(bad("cursor is none that was given")),
        };
        let user = line.value("user")?.map(str::to_owned);
        if user
            .as_ref()
            .is_some_and(|user| user.len() > MAX_NAME || !client::is_name(user))
        {
            return Err(bad("user is no name"));
        }
        Ok(Ask::Connections {
            worker: line.number("worker", 1, 64)?.map(|worker| worker as u16),
            at,
            after,
            user,
            room: line
                .value("room")?
                .map(|name| room(name, Reserved::All))
                .transpose()?,
            limit: line.limit(MAX_PAGE)?,
        })
    }

    /// The body, as JSON of this form.
    fn parsed<T: Deserialize<'a>>(&self) -> Result<T, Reply> {
        let types = http::values(self.head, "content-type");
        let is_json = |value: &String| {
            let kind = value.split(';').next().unwrap_or_default();
            kind.trim().eq_ignore_ascii_case(JSON)
        };
        if !types.iter().all(is_json) || types.is_empty() {
            let message = "the body must be application/json";
            return Err(fault(415, "unsupported_media_type", message));
        }
        serde_json::from_slice(self.body).map_err(|error| bad(&format!("the body: {error}")))
    }

    /// Nothing is to be said in the body.
    fn empty(&self) -> Result<(), Reply> {
        match self.body {
            [] => Ok(()),
            _ => self
                .parsed::<serde_json::Map<String, serde_json::Value>>()
                .map(drop),
        }
    }

    fn key(&self) -> Result<Option<String>, Reply> {
        match &http::values(self.head, "idempotency-key")[..] {
            [] => Ok(None),
            [key]
                if (1..=MAX_KEY).contains(&key.len())
                    && key.bytes().all(|b| b.is_ascii_graphic()) =>
            {
                Ok(Some(key.clone()))
            }
            _ => Err(bad(
                "Idempotency-Key must be one text of 1 to 64 visible characters of ASCII",
            )),
        }
    }

    fn publish(&mut self) -> Result<Ask, Reply> {
        let said: Publish<'_> = self.parsed()?;
        let rooms = match (said.room, said.rooms) {
            (Some(room), None) => vec![room],
            (None, Some(rooms)) if (1..=MAX_ROOMS).contains(&rooms.len()) => rooms,
            (None, Some(_)) => {
                return Err(bad(&format!("rooms must name 1 to {MAX_ROOMS} rooms")));
            }
            _ => return Err(bad("either room or rooms must be there")),
        };
        let mut seen = std::collections::HashSet::new();
        for name in &rooms {
            room(name, Reserved::ButUsers)?;
            self.check_data(said.data, Some(name))?;
            if !seen.insert(name) {
                return Err(bad("a room is named twice"));
            }
        }
        self.data = said.data.get().as_bytes().to_vec();
        Ok(Ask::Publish {
            rooms,
            from: from(said.from)?,
            key: self.key()?,
            priority: said.priority,
        })
    }

    fn somebody(&self, verb: &str) -> Result<Ask, Reply> {
        let said: Somebody = self.parsed()?;
        let is_ban = matches!(verb, "ban" | "unban");
        let is_name = |who: &String| who.len() <= MAX_NAME && client::is_name(who);
        let whom = match (said.user, said.address) {
            (Some(user), None) if is_name(&user) => Whom::User(user),
            (None, Some(address)) if is_ban && said.room.is_none() => match address.parse() {
                Ok(range) => Whom::Address(range),
                Err(_) => return Err(bad("address must be such as 10.0.0.1 or 10.0.0.0/8")),
            },
            (None, Some(_)) if is_ban => return Err(bad("an address is banned everywhere")),
            _ => return Err(bad("user must name who, in 1 to 200 bytes")),
        };
        let for_ms = said.for_ms;
        let what = match (verb, whom) {
            ("ban", whom) => Decision::Ban { whom, for_ms },
            ("unban", whom) => Decision::Unban { whom },
            ("mute", Whom::User(who)) => Decision::Mute { who, for_ms },
            ("unmute", Whom::User(who)) => Decision::Unmute { who },
            (_, Whom::User(who)) => Decision::Kick { who },
            (_, Whom::Address(_)) => return Err(bad("user must name who")),
        };
        let name = said.room.map(|name| room(&name, Reserved::ButUsers));
        Ok(Ask::Decide {
            what,
            room: name.transpose()?,
        })
    }

    fn something(&self, verb: &str) -> Result<Ask, Reply> {
        let said: Something = self.parsed()?;
        let what = match (verb, said.pos) {
            ("delete", Some(place)) => Decision::Delete {
                position: position(&place)?,
            },
            ("delete", None) => return Err(bad("pos must name the message")),
            _ => Decision::Clear,
        };
        Ok(Ask::Decide {
            what,
            room: Some(room(&said.room, Reserved::ButUsers)?),
        })
    }

    fn broadcast(&mut self) -> Result<Ask, Reply> {
        let said: Broadcast<'_> = self.parsed()?;
        let pattern = said.pattern.unwrap_or_else(|| "*".to_owned());
        if pattern.is_empty() || pattern.len() > MAX_NAME {
            return Err(bad("match must have 1 to 200 bytes"));
        }
        self.check_data(said.data, None)?;
        self.data = said.data.get().as_bytes().to_vec();
        Ok(Ask::Broadcast {
            pattern,
            from: from(said.from)?,
            key: self.key()?,
            priority: said.priority,
        })
    }

    fn check_data(&self, data: &RawValue, room: Option<&String>) -> Result<(), Reply> {
        let mut limits = self.settings.rooms.clone();
        let of = room.and_then(|room| self.settings.options.of(room.as_bytes()).max_data);
        limits.max_data = limits.max_data.min(of.unwrap_or(usize::MAX));
        client::check_data(data.get(), &limits).map_err(|fault_| match fault_.code() {
            client::Code::TooLarge => fault(413, "too_large", fault_.message()),
            _ => bad(fault_.message()),
        })
    }
}

fn unauthorized(message: &str) -> Reply {
    let mut reply = fault(401, "unauthorized", message);
    reply.fields += "WWW-Authenticate: Bearer\r\n";
    reply
}

/// As who it is said.
fn from(said: Option<String>) -> Result<String, Reply> {
    let from = said.unwrap_or_else(|| FROM.to_owned());
    match from.len() < MAX_NAME && client::is_name(&from) {
        true => Ok(from),
        false => Err(bad(
            "from must have 1 to 199 bytes and no control characters",
        )),
    }
}

/// Names that begin with `$` or `@`.
enum Reserved {
    All,
    ButUsers,
}

fn room(name: &str, allowed: Reserved) -> Result<String, Reply> {
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
fn position(text: &str) -> Result<(u64, u64), Reply> {
    let parsed = text.strip_prefix('e').and_then(|rest| {
        let (epoch, offset) = rest.split_once(':')?;
        let is_number = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
        (is_number(epoch) && is_number(offset)).then_some(())?;
        Some((epoch.parse().ok()?, offset.parse().ok()?))
    });
    parsed.ok_or_else(|| bad("a position is such as e3:1041"))
}
