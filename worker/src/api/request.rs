//! A request for the API, understood: bytes in, what is to be done out. No socket, no clock.

use protocol::api::{Ask, MAX_PAGE};
use protocol::sanctions;
use protocol::settings::Settings;

use super::access::Access;
use super::body::Scale;
use super::line::{Line, MAX_NAME, Reserved, position, room};
use super::reply::{bad, fault, json, unauthorized};
use crate::client;
use crate::http::Reply;

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

const DOCUMENT: &[u8] = include_bytes!("openapi.json");

/// Messages of a page of history.
const MAX_MESSAGES: u32 = 100;

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

/// A request, whole.
pub struct Request<'a> {
    pub head: &'a [u8],
    pub body: &'a [u8],
    pub settings: &'a Settings,
    line: &'a Line,
    pub data: Vec<u8>,
}

impl Request<'_> {
    /// What the master is asked, or the answer.
    fn route(&mut self, access: Access) -> Result<Ask, Reply> {
        let path: Vec<&str> = self.line.path.iter().map(String::as_str).collect();
        let (methods, is_known): (&[&str], bool) = match path[..] {
            ["metrics"]
            | [
                "api",
                "v1",
                "openapi.json" | "rooms" | "connections" | "sanctions" | "cluster",
            ]
            | ["api", "v1", "rooms" | "connections", _]
            | ["api", "v1", "rooms", _, "history" | "members"] => (&["GET", "HEAD"], true),
            [
                "api",
                "v1",
                "publish" | "say" | "broadcast" | "reload" | "scale" | "mute" | "unmute" | "ban"
                | "unban" | "kick" | "delete" | "clear",
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
            [_, _, "sanctions"] => Ask::Sanctions {
                room: self.asked_room()?,
                user: self.asked_user()?,
                cursor: line
                    .number("cursor", 0, sanctions::MAX.into())?
                    .unwrap_or(0) as u32,
                limit: line.limit(MAX_PAGE)?,
            },
            [_, _, "publish"] => self.publish()?,
            [_, _, "say"] => self.say()?,
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

    /// Of whom it is asked.
    fn asked_user(&self) -> Result<Option<String>, Reply> {
        match self.line.value("user")? {
            Some(user) if user.len() > MAX_NAME || !client::is_name(user) => {
                Err(bad("user is no name"))
            }
            user => Ok(user.map(str::to_owned)),
        }
    }

    fn asked_room(&self) -> Result<Option<String>, Reply> {
        let name = self.line.value("room")?;
        name.map(|name| room(name, Reserved::All)).transpose()
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
        Ok(Ask::Connections {
            worker: line.number("worker", 1, 64)?.map(|worker| worker as u16),
            at,
            after,
            user: self.asked_user()?,
            room: self.asked_room()?,
            limit: line.limit(MAX_PAGE)?,
        })
    }
}
