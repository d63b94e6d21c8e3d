//! The WebSocket handshake (RFC 6455, 4.2), as a server.

use std::str;

use protocol::output::Output;
use tungstenite::handshake::derive_accept_key;

use super::Context;
use super::answer::gather;
use super::extensions;
use super::head::{Request, is_token, list};
use super::target::Host;
use super::turn::Stop;
use crate::close::CloseReason;
use crate::websocket::Window;

/// What a connection has become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upgrade {
    pub endpoint: Endpoint,
    pub subprotocol: Subprotocol,
    /// Messages may be compressed, and how.
    pub window: Option<Window>,
}

/// Where a WebSocket leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `/echo`: every message comes back.
    Echo,
    /// `/rooms`
    Rooms,
}

/// What is spoken inside of the WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subprotocol {
    /// Nothing that has a name: on `/echo`.
    None,
    /// `rooms.v1.json`: on `/rooms`, also where a client has offered none.
    RoomsJson,
    /// `rooms.v1.msgpack`
    RoomsMsgpack,
}

/// The subprotocols of `/rooms`, by name.
const ROOMS: [(&str, Subprotocol); 2] = [
    ("rooms.v1.json", Subprotocol::RoomsJson),
    ("rooms.v1.msgpack", Subprotocol::RoomsMsgpack),
];

/// Checks the handshake of `request`, which asks for a WebSocket, and answers it by a 101.
pub(super) fn open(
    request: &Request,
    endpoint: Endpoint,
    cx: &Context,
    out: &mut impl Output,
) -> Result<Upgrade, Stop> {
    match single(request, "sec-websocket-version")? {
        Some(b"13") => {}
        Some(_) => return Err(CloseReason::BadWebSocketVersion.into()),
        None => return Err(CloseReason::BadUpgrade.into()),
    }
    let key = single(request, "sec-websocket-key")?
        .filter(|key| is_key(key))
        .ok_or(CloseReason::BadUpgrade)?;
    check_origin(request, &cx.settings.websocket.origins)?;
    let (name, subprotocol) = match endpoint {
        Endpoint::Echo => (None, Subprotocol::None),
        Endpoint::Rooms => choose(request, cx.settings.rooms.msgpack)?,
    };
    let (field, name, end): (&[u8], &[u8], &[u8]) = match name {
        Some(name) => (b"Sec-WebSocket-Protocol: ", name.as_bytes(), b"\r\n"),
        None => (b"", b"", b""),
    };
    let offered = extensions::choose(values(request, "sec-websocket-extensions"))?;
    let window = offered.filter(|_| cx.settings.websocket.compression);
    let extension = window.map(extensions::answer).unwrap_or_default();
    let accept = derive_accept_key(key);
    gather(
        out,
        &[
            b"HTTP/1.1 101 Switching Protocols\r\nDate: ",
            cx.date.as_bytes(),
            b"\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ",
            accept.as_bytes(),
            b"\r\n",
            field,
            name,
            end,
            extension.as_bytes(),
            b"\r\n",
        ],
        &[],
    )?;
    Ok(Upgrade {
        endpoint,
        subprotocol,
        window,
    })
}

fn values<'a>(request: &Request<'a>, name: &str) -> impl Iterator<Item = &'a [u8]> {
    (request.fields.iter())
        .filter(move |field| field.name.eq_ignore_ascii_case(name))
        .map(|field| field.value)
}

/// The value of a field that may be there once.
fn single<'a>(request: &Request<'a>, name: &str) -> Result<Option<&'a [u8]>, CloseReason> {
    let mut values = values(request, name);
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        (_, Some(_)) => Err(CloseReason::BadUpgrade),
    }
}

/// Base64 of 16 bytes.
fn is_key(key: &[u8]) -> bool {
    match key.strip_suffix(b"==") {
        Some(digits) => {
            digits.len() == 22
                && (digits.iter()).all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/'))
        }
        None => false,
    }
}

/// The first of the client's subprotocols that we speak, and its name for the answer.
///
/// `msgpack`: the master can carry it.
fn choose(
    request: &Request,
    msgpack: bool,
) -> Result<(Option<&'static str>, Subprotocol), CloseReason> {
    let mut offered = false;
    for value in values(request, "sec-websocket-protocol") {
        for element in list(value) {
            if !element.iter().all(|&b| is_token(b)) {
                return Err(CloseReason::BadUpgrade);
            }
            offered = true;
            let known = ROOMS.iter().find(|(name, _)| name.as_bytes() == element);
            if let Some(&(name, known)) = known
                && (msgpack || known != Subprotocol::RoomsMsgpack)
            {
                return Ok((Some(name), known));
            }
        }
    }
    match offered {
        true => Err(CloseReason::NoSubprotocol),
        false => Ok((None, Subprotocol::RoomsJson)),
    }
}

/// A browser names the site that wants the WebSocket; other clients need not.
fn check_origin(request: &Request, allowed: &[String]) -> Result<(), CloseReason> {
    let Some(origin) = single(request, "origin")? else {
        return Ok(());
    };
    let origin = str::from_utf8(origin).map_err(|_| CloseReason::BadOrigin)?;
    let good = match allowed {
        [] => request.host.is_some_and(|host| is_same_host(origin, host)),
        _ => (allowed.iter()).any(|one| one == "*" || one.eq_ignore_ascii_case(origin)),
    };
    match good {
        true => Ok(()),
        false => Err(CloseReason::BadOrigin),
    }
}

/// Whether `origin` is a site of `host`. TLS may end in front of us, so the scheme is not ours to
/// compare, but it says which port is meant where none is named.
fn is_same_host(origin: &str, host: Host) -> bool {
    let Some((scheme, authority)) = origin.split_once("://") else {
        return false;
    };
    let default = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return false,
    };
    Host::parse(authority.as_bytes()).is_some_and(|origin| {
        origin.name.eq_ignore_ascii_case(host.name)
            && origin.port.unwrap_or(default) == host.port.unwrap_or(default)
    })
}
