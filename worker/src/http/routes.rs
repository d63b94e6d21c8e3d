//! What is answered to whom.

use protocol::ids::Role;

use super::head::{Length, Method, Request, list};
use super::upgrade::Endpoint;
use crate::close::CloseReason;
use crate::page;

/// Something that has an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Route {
    /// A file of the pages: only what may be done with it; [`Answer::File`] says which.
    Page = 0,
    // 1 was one of an earlier version: what is in a slot keeps its meaning.
    Whoami = 2,
    Health,
    Echo,
    Rooms,
    /// `*`
    Server,
}

const ROUTES: [Route; 6] = [
    Route::Page,
    Route::Whoami,
    Route::Health,
    Route::Echo,
    Route::Rooms,
    Route::Server,
];

/// What is answered, once the request is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Serve(Route),
    /// A file of the pages, by its number.
    File(u8),
    /// 304: who asks has this file as it is.
    Unchanged(u8),
    /// To OPTIONS.
    Methods(Route),
    /// 405
    NotAllowed(Route),
    /// 426: it is spoken to by WebSocket only.
    UpgradeRequired,
    /// 404
    NotFound,
    /// 501: a method that nobody knows.
    NotImplemented,
    /// What the API says to it.
    Api,
}

/// What is done with a request.
pub(super) enum Plan {
    Answer(Answer),
    /// It becomes a WebSocket, if the handshake is sound.
    Open(Endpoint),
}

impl Route {
    fn find(path: &str, role: Role) -> Option<Route> {
        Some(match (path, role) {
            ("/whoami", _) => Route::Whoami,
            ("/healthz", _) => Route::Health,
            ("/echo", Role::Public) => Route::Echo,
            ("/rooms", _) => Route::Rooms,
            ("*", _) => Route::Server,
            _ => return page::find(path, role).map(|_| Route::Page),
        })
    }

    /// As an `Allow` field.
    pub fn allow(self) -> &'static [u8] {
        match self {
            Route::Page | Route::Whoami | Route::Health | Route::Rooms => {
                b"Allow: GET, HEAD, OPTIONS\r\n"
            }
            Route::Echo | Route::Server => b"Allow: GET, HEAD, POST, OPTIONS\r\n",
        }
    }
}

impl Answer {
    /// Whether it needs the request's body, which is else read and dropped.
    pub fn wants_body(self) -> bool {
        matches!(self, Answer::Serve(Route::Echo) | Answer::Api)
    }

    pub fn pack(self) -> u8 {
        let (kind, route) = match self {
            Answer::Serve(route) => (0, route as u8),
            Answer::Methods(route) => (1, route as u8),
            Answer::NotAllowed(route) => (2, route as u8),
            Answer::UpgradeRequired => (3, 0),
            Answer::NotFound => (4, 0),
            Answer::NotImplemented => (5, 0),
            Answer::File(number) => (6, number),
            Answer::Unchanged(number) => (7, number),
            Answer::Api => (8, 0),
        };
        kind << 4 | route
    }

    pub fn unpack(byte: u8) -> Option<Answer> {
        let number = byte & 15;
        let route = ROUTES.into_iter().find(|route| *route as u8 == number);
        let file = (usize::from(number) < page::FILES.len()).then_some(number);
        Some(match byte >> 4 {
            0 => Answer::Serve(route?),
            1 => Answer::Methods(route?),
            2 => Answer::NotAllowed(route?),
            3 => Answer::UpgradeRequired,
            4 => Answer::NotFound,
            5 => Answer::NotImplemented,
            6 => Answer::File(file?),
            7 => Answer::Unchanged(file?),
            8 => Answer::Api,
            _ => return None,
        })
    }
}

/// Whatever is asked for there, the API answers.
fn is_api(path: &str) -> bool {
    path == "/metrics" || path.starts_with("/api/")
}

/// The same of a request that may be malformed.
pub(super) fn names_api(input: &[u8]) -> bool {
    let target = input.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    let path = target
        .split(|byte| *byte == b'?')
        .next()
        .unwrap_or_default();
    str::from_utf8(path).is_ok_and(is_api)
}

/// Decides what to do with `request`.
pub(super) fn plan(request: &Request, role: Role) -> Result<Plan, CloseReason> {
    if role == Role::Admin && is_api(request.path) {
        return Ok(Plan::Answer(Answer::Api));
    }
    if request.method == Method::Unknown {
        return Ok(Plan::Answer(Answer::NotImplemented));
    }
    let Some(route) = Route::find(request.path, role) else {
        return Ok(Plan::Answer(Answer::NotFound));
    };
    let endpoint = match route {
        Route::Echo => Some(Endpoint::Echo),
        Route::Rooms => Some(Endpoint::Rooms),
        _ => None,
    };
    if let Some(endpoint) = endpoint
        && request.method == Method::Get
        && request.upgrade.websocket
    {
        // What would follow, the body or WebSocket?
        let sound = request.upgrade.connection && request.length == Length::Sized(0);
        return match sound {
            true => Ok(Plan::Open(endpoint)),
            false => Err(CloseReason::BadUpgrade),
        };
    }
    Ok(Plan::Answer(match (request.method, route) {
        (Method::Options, _) => Answer::Methods(route),
        (Method::Post, Route::Echo) => Answer::Serve(route),
        (Method::Get | Method::Head, Route::Echo | Route::Rooms) => Answer::UpgradeRequired,
        (Method::Get | Method::Head, Route::Page) => file(request, role),
        (Method::Get | Method::Head, _) => Answer::Serve(route),
        _ => Answer::NotAllowed(route),
    }))
}

/// A file, unless who asks for it has it as it is.
fn file(request: &Request, role: Role) -> Answer {
    let Some(number) = page::find(request.path, role) else {
        return Answer::NotFound;
    };
    let tag = page::tag(number).as_bytes();
    // RFC 9110, 13.1.2: a weak comparison, and `*` is any.
    let same =
        |element: &[u8]| element == b"*" || element.strip_prefix(b"W/").unwrap_or(element) == tag;
    let known = (request.fields.iter())
        .filter(|field| field.name.eq_ignore_ascii_case("if-none-match"))
        .any(|field| list(field.value).any(same));
    match known {
        true => Answer::Unchanged(number),
        false => Answer::File(number),
    }
}
